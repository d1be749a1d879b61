"""A Debian with a systemd of its own, booted in a container, with the project installed for a user.

The tree is made once by debootstrap and kept in the cache folder; it is booted under an overlay, so
nothing of a run stays in it. The interpreter of this test run is bound into it, the packages beside
it too; of the project a copy is made, so that a test may put new code in. No network.

`booted` raises Unavailable, with the reason, where that cannot be: the tests are then skipped and
say so. On a host whose own control groups are of version 1, the container sees a tree of version 2
without controllers: enough for delegation and `cgroup.kill`, not for memory limits.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.support import eventually

REPO = Path(__file__).parents[2]
SUITE = "bookworm"
PACKAGES = "systemd,systemd-sysv,dbus,libpam-systemd,git,python3,procps"
USER, UID = "dev", 4711
HOME = f"/home/{USER}"
PREFIX = "/opt/loomd"
LANDLOCK = "landlock_create_ruleset landlock_add_rule landlock_restrict_self"
ENVIRONMENT = ("PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8")
MAKE_S = 600.0
BOOT_S = 60.0


TOOLS = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
"""Where the tools of the administrator are, also for a user without them on the path."""


class Unavailable(Exception):
    """No container can be had here; says why."""


def _root() -> list[str]:
    """What makes a command run as root."""
    if os.getuid() == 0:
        return []
    with contextlib.suppress(FileNotFoundError):
        if not subprocess.run(["sudo", "-n", "true"], capture_output=True, check=False).returncode:
            return ["sudo", "-n"]
    raise Unavailable("it needs root, or sudo without a password")


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path(os.environ.get("HOME") or "/root") / ".cache"
    return Path(base) / "loomd-tests"


def make_tree() -> Path:
    """The Debian tree, made unless it is there. Two runs at once make one."""
    root = _root()
    for tool in ("debootstrap", "systemd-nspawn", "nsenter"):
        if shutil.which(tool, path=TOOLS) is None:
            raise Unavailable(f"there is no {tool} (apt-get install debootstrap systemd-container)")
    tree = _cache() / f"{SUITE}-{PACKAGES.replace(',', '-')}"
    tree.parent.mkdir(parents=True, exist_ok=True)
    with open(tree.parent / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if tree.exists():
            return tree
        new = tree.with_name("new")
        subprocess.run([*root, "rm", "-rf", "--one-file-system", str(new)], check=True)
        argv = [
            *root,
            "env",
            f"PATH={TOOLS}",
            "debootstrap",
            "--variant=minbase",
            f"--include={PACKAGES}",
            SUITE,
            str(new),
        ]
        try:
            made = subprocess.run(argv, capture_output=True, text=True, timeout=MAKE_S, check=False)
        except subprocess.TimeoutExpired:
            raise Unavailable(f"debootstrap took over {MAKE_S:.0f} s") from None
        if made.returncode:
            raise Unavailable(f"debootstrap failed: {made.stdout.strip().splitlines()[-1:]}")
        subprocess.run([*root, "mv", str(new), str(tree)], check=True)
    return tree


def _own_group(name: str) -> tuple[str, list[Path]]:
    """A shell line that moves its shell into a control group of its own, and the groups' folders.

    Without one the container's systemd would take the whole tree of this machine for its own.
    """
    groups = []
    for line in Path("/proc/mounts").read_text().splitlines():
        _, point, kind, options, *_ = line.split()
        if kind == "cgroup2" or (kind == "cgroup" and "name=systemd" in options.split(",")):
            groups.append(Path(point) / name)
    moves = " && ".join(f"mkdir -p {group} && echo $$ > {group}/cgroup.procs" for group in groups)
    return moves or "true", groups


@dataclass
class Container:
    """A booted one. Use `booted`."""

    root: list[str]
    process: subprocess.Popen[bytes]
    leader: int
    console: Path
    groups: list[Path]

    # --- commands inside

    def run(
        self, *argv: str, check: bool = True, input: str = "", timeout: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        """As root."""
        enter = ["nsenter", "-t", str(self.leader), "-m", "-u", "-i", "-n", "-p", "-C"]
        done = subprocess.run(
            [*self.root, *enter, "env", "-i", *ENVIRONMENT, *argv],
            input=input,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if check:
            said = f"{shlex.join(argv)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
            assert done.returncode == 0, said
        return done

    def user(
        self, *argv: str, check: bool = True, input: str = "", cwd: str = HOME, **env: str
    ) -> subprocess.CompletedProcess[str]:
        """As the user, as in a login."""
        given = {
            "HOME": HOME,
            "USER": USER,
            "PATH": f"{PREFIX}/bin:/usr/bin:/bin",
            "XDG_RUNTIME_DIR": f"/run/user/{UID}",
            "LANG": "C.UTF-8",
            **env,
        }
        become = ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--init-groups"]
        words = [f"{key}={value}" for key, value in given.items()]
        return self.run(
            *become, "env", "-i", "-C", cwd, *words, *argv, check=check, input=input, timeout=150.0
        )

    def systemctl(self, *args: str, check: bool = True) -> str:
        """`systemctl --user` of the user; what it says."""
        return self.user("systemctl", "--user", *args, check=check).stdout.strip()

    def shown(self, unit: str, key: str) -> str:
        return self.systemctl("show", "-p", key, "--value", unit)

    def write(self, path: str, text: str, mode: str = "644") -> None:
        """A file of the user's."""
        self.user("mkdir", "-p", os.path.dirname(path))
        self.user("sh", "-c", f"cat > {shlex.quote(path)}", input=text)
        self.user("chmod", mode, path)

    def new_code(self, text: str) -> None:
        """Puts other source of the agents' process there: the usual with `text` at its end."""
        name = "loomd/agent/process.py"
        version = f"{sys.version_info[0]}.{sys.version_info[1]}"
        path = f"{PREFIX}/lib/python{version}/site-packages/{name}"
        self.run("tee", path, input=(REPO / name).read_text() + text)

    # --- birth and end

    def furnish(self) -> None:
        """The user with a manager of systemd that stays, and the project installed."""
        eventually(
            lambda: (
                self.run("systemctl", "is-system-running", check=False).stdout.strip()
                in ("running", "degraded")
            ),
            timeout=BOOT_S,
            what=lambda: f"a booted system\n{self.console.read_text(errors='replace')[-3000:]}",
        )
        version = f"{sys.version_info[0]}.{sys.version_info[1]}"
        python = Path(sys.base_prefix) / "bin" / f"python{version}"
        for folder in list(python.parents)[:-1]:
            self.run("chmod", "a+x", str(folder), check=False)  # read-only ones are open already
        said = self.run(str(python), "-m", "venv", "--without-pip", PREFIX, check=False)
        if said.returncode:
            self._lives()
            raise Unavailable(f"{python} does not run in {SUITE}: {said.stderr.strip()[-300:]}")
        site = f"{PREFIX}/lib/python{version}/site-packages"
        self.run("sh", "-c", f"echo /opt/site > {site}/packages.pth")
        for name in ("loomd", "loomctl"):
            self.run("cp", "-r", f"/opt/source/{name}", site)
            module = "loomd.boot" if name == "loomd" else "loomctl.cli"
            script = f"#!{PREFIX}/bin/python\nimport sys\nfrom {module} import main\n"
            self.run("tee", f"{PREFIX}/bin/{name}", input=f"{script}sys.exit(main())\n")
            self.run("chmod", "755", f"{PREFIX}/bin/{name}")
        self.run("chmod", "-R", "a+rX", PREFIX)
        said = self.run(f"{PREFIX}/bin/python", "-c", "import zmq, lmdb, msgspec", check=False)
        if said.returncode:
            self._lives()
            raise Unavailable(f"the packages do not load in {SUITE}: {said.stderr.strip()[-300:]}")
        self.run("useradd", "-m", "-s", "/bin/bash", "-u", str(UID), USER)
        self.run("loginctl", "enable-linger", USER)
        eventually(
            lambda: self.systemctl("is-system-running", check=False) in ("running", "degraded"),
            timeout=BOOT_S,
            what="a user manager",
        )

    def _lives(self) -> None:
        """A container that has ended meanwhile is a failure, and nothing to skip."""
        said = self.console.read_text(errors="replace")[-2000:]
        assert psutil.pid_exists(self.leader), f"the container has ended:\n{said}"

    def halt(self) -> None:
        """Ends it, and what it has of this machine. AssertionError if something stays."""
        with contextlib.suppress(psutil.NoSuchProcess):
            subprocess.run(
                [*self.root, "kill", "-s", "TERM", str(_nspawn(self.process.pid).pid)], check=True
            )
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            for process in psutil.Process(self.process.pid).children(recursive=True):
                subprocess.run([*self.root, "kill", "-9", str(process.pid)], check=False)
            self.process.wait(30)
            raise AssertionError("the container did not stop by itself") from None
        finally:
            clear = ["-depth", "-type", "d", "-exec", "rmdir", "{}", ";"]
            for group in self.groups:
                argv = [*self.root, "find", str(group), *clear]
                subprocess.run(argv, capture_output=True, check=False)
            self.console.unlink()
        assert not [group for group in self.groups if group.exists()], "control groups left"
        assert str(_cache()) not in Path("/proc/mounts").read_text(), "mounts left"


def _nspawn(pid: int) -> psutil.Process:
    """systemd-nspawn itself, behind sudo and the shell."""
    first = psutil.Process(pid)
    for process in [first, *first.children(recursive=True)]:
        if process.name() == "systemd-nspawn":
            return process
    raise psutil.NoSuchProcess(pid)


def _boot(root: list[str], tree: Path) -> Container:
    name = f"loomd-test-{os.getpid()}"
    console = Path(f"/tmp/{name}.log")
    binds = [f"{REPO}:/opt/source", f"{sysconfig.get_paths()['purelib']}:/opt/site"]
    if sys.base_prefix != "/usr":
        binds.append(sys.base_prefix)
    argv = [
        "systemd-nspawn",
        f"--directory={tree}",
        f"--machine={name}",
        "--register=no",
        "--keep-unit",
        "--volatile=overlay",
        "--private-network",
        f"--system-call-filter={LANDLOCK}",  # denied otherwise
        *(f"--bind-ro={bind}" for bind in binds),
        "--boot",
    ]
    if Path("/run/systemd/system").is_dir():  # this machine's own systemd deals out the groups
        line, groups = shlex.join(["systemd-run", "--scope", "-q", "-p", "Delegate=yes", *argv]), []
    else:
        moves, groups = _own_group(name)
        line = f"{moves} && exec {shlex.join(argv)}"
    with open(console, "wb") as log:
        process = subprocess.Popen(
            [*root, "env", "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1", "sh", "-c", line],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    container = Container(root, process, 0, console, groups)

    def leader() -> int:
        if process.poll() is not None:
            return -1
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in _nspawn(process.pid).children():
                if child.name() == "systemd":
                    return child.pid
        return 0

    container.leader = eventually(leader, timeout=BOOT_S, what="the container's first process")
    if container.leader < 0:
        said = console.read_text(errors="replace").strip()[-300:]
        with contextlib.suppress(AssertionError):
            container.halt()
        raise Unavailable(f"systemd-nspawn could not start: {said}")
    return container


@contextlib.contextmanager
def booted() -> Iterator[Container]:
    """A furnished container, gone afterwards. Raises Unavailable."""
    tree = make_tree()
    container = _boot(_root(), tree)
    try:
        container.furnish()
        yield container
    finally:
        container.halt()


if __name__ == "__main__":
    # Ahead of the tests, so that none of them has to wait for it.
    try:
        print(make_tree())
    except Unavailable as reason:
        print(f"NOT TESTED: there will be no tests under systemd: {reason}", file=sys.stderr)
