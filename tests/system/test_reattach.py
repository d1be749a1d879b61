"""A client that is attached when the root is killed, where systemd starts it again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support import eventually
from tests.system.upgrading import SESSION, Upgrading, upgrading


class Systemctl:
    """A program of that name that answers every question with one word, and notes them."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._word, self._asked = folder / "word", folder / "asked"
        self._asked.touch()
        self.program = folder / "systemctl"
        self.program.write_text(
            f"#!/bin/sh\necho \"$@\" >> '{self._asked}'\nexec cat '{self._word}'\n"
        )
        self.program.chmod(0o755)
        self.say("activating")

    def say(self, word: str) -> None:
        self._word.write_text(f"{word}\n")

    @property
    def asked(self) -> int:
        """How often it was asked for the state of a unit."""
        return self._asked.read_text().count("ActiveState")


def test_a_follower_waits_for_the_daemon_that_systemd_starts_again(tmp_path: Path):
    systemctl = Systemctl(tmp_path / "bin")
    path = f"{systemctl.program.parent}:{os.environ['PATH']}"
    with upgrading(HOME=str(tmp_path), XDG_CONFIG_HOME=str(tmp_path), PATH=path) as up:
        assert up.loomctl("daemon", "install", "--unit", "mine")["enabled"] is False
        up.spawn("a")
        heard = tmp_path / "heard"
        with heard.open("w") as out:
            follower = subprocess.Popen(
                [sys.executable, "-m", "loomctl", "--json", "events", SESSION, "--follow"],
                env=up.instance.environment(**up.daemon.env),
                stdout=out,
            )

        def said() -> list[dict[str, Any]]:
            whole = heard.read_text().rpartition("\n")[0]  # it may be writing the last one
            return [json.loads(line) for line in whole.splitlines()]

        try:
            eventually(said)
            _kill_root(up)
            eventually(lambda: systemctl.asked > 1)
            up.client.close()
            up.start()
            eventually(
                lambda: any(event.get("type") == "actor_restarted" for event in said()),
                what=lambda: f"{follower.poll()} {heard.read_text()} {systemctl.asked}",
            )
            numbers = [event["seq"] for event in said()]  # read once: more may come
            assert numbers == list(range(1, len(numbers) + 1))
            systemctl.say("failed")  # it has given up
            _kill_root(up)
            assert follower.wait(30) == 3
            assert said()[-1]["error"]["code"] == "no_daemon"
        finally:
            follower.kill()
            follower.wait()


def _kill_root(up: Upgrading) -> None:
    root, up.daemon.process = up.daemon.process, None
    assert root is not None
    up.instance.killed = True
    os.kill(root.pid, signal.SIGKILL)
    root.wait()
