"""Where an instance lives. Standard library only: the root process and the client both read it.

An instance is one state directory. `LOOM_CONFIG`, `LOOM_STATE_DIR` and `LOOM_RUNTIME_DIR` override
the XDG defaults.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from loomd.wire.errors import LoomError

SOCKET_PATH_BYTES = 107
"""What Linux takes as the path of a Unix socket."""


@dataclass(frozen=True)
class Instance:
    """The three places of an instance, and the names inside them."""

    config: Path  # the file config.toml; its folder holds tools/ and roles/
    state: Path
    runtime: Path

    def check(self) -> None:
        """Raises LoomError(config) if the sockets cannot have the paths that they would get."""
        longest = len(os.fsencode(self.runtime)) + len("/clients")
        if longest > SOCKET_PATH_BYTES:
            raise LoomError(
                "config",
                f"the runtime directory {self.runtime} is too long: the path of a socket in it "
                f"would have {longest} bytes, and Linux takes {SOCKET_PATH_BYTES}",
                "set LOOM_RUNTIME_DIR to a shorter one, for example /tmp/loom",
            )

    @property
    def actors(self) -> str:
        return f"ipc://{self.runtime}/actors"

    @property
    def clients(self) -> str:
        return f"ipc://{self.runtime}/clients"

    @property
    def events(self) -> str:
        return f"ipc://{self.runtime}/events"

    @property
    def token_file(self) -> Path:
        """0600; what a client says in its Hello."""
        return self.runtime / "token"

    @property
    def pid_file(self) -> Path:
        """Text: the pid of the root that holds the lock. Information, not a lock."""
        return self.state / "pid"

    @property
    def log_file(self) -> Path:
        return self.state / "log"

    @property
    def lmdb(self) -> Path:
        return self.state / "lmdb"

    @property
    def blobs(self) -> Path:
        return self.state / "blobs"

    @property
    def generation_file(self) -> Path:
        """Text: the number of the code generation that was last in force."""
        return self.state / "generation"

    @property
    def generations(self) -> Path:
        return self.state / "generations"

    @property
    def scratch(self) -> Path:
        """Private copies of checkouts, one folder per session."""
        return self.state / "scratch"

    @property
    def snapshots(self) -> Path:
        """What stood in checkouts before commands that write them, one folder per session."""
        return self.state / "snapshots"

    @property
    def output(self) -> Path:
        """stdout and stderr of children, a file per actor."""
        return self.state / "output"


def instance(env: Mapping[str, str] | None = None) -> Instance:
    """The instance that the environment names."""
    env = os.environ if env is None else env
    home = Path(env.get("HOME") or "/")
    config = env.get("LOOM_CONFIG") or str(
        Path(env.get("XDG_CONFIG_HOME") or home / ".config") / "loom" / "config.toml"
    )
    state = env.get("LOOM_STATE_DIR") or str(
        Path(env.get("XDG_STATE_HOME") or home / ".local" / "state") / "loom"
    )
    runtime = env.get("LOOM_RUNTIME_DIR") or (
        str(Path(env["XDG_RUNTIME_DIR"]) / "loom")
        if env.get("XDG_RUNTIME_DIR")
        else f"/tmp/loom-{os.getuid()}"
    )
    return Instance(Path(config).absolute(), Path(state).absolute(), Path(runtime).absolute())
