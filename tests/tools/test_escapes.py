"""Ways out of the sandbox, each tried from inside on every back end.

Every attempt is a few lines of Python in a user's tool; it answers `yes` with what it got, or `no`
with the error. The same attempts are made with `sandbox = "full"`, where they must work: so that
none passes for the wrong reason.
"""

import asyncio
import os
import pwd
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import pytest

from loomd.tools import landlock, namespaces, sandbox
from loomd.wire.endpoints import Instance
from tests.support import TestInstance, remove_instance
from tests.tools.stand import git_repo, hosting

PROBE = '''
import ctypes, os, socket, struct, subprocess
from pathlib import Path
from loomd.tools import Context, tool

libc = ctypes.CDLL(None, use_errno=True)

def done(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result

@tool(access="execute")
def attempt(code: str, given: dict[str, Any], ctx: Context) -> str:
    """Tries it."""
    names = {**globals(), "ctx": ctx, **given}
    try:
        exec(code, names)
    except OSError as error:
        return f"no {type(error).__name__} {error}"
    return f"yes {names.get('got', '')}"
'''.replace("from pathlib", "from typing import Any\nfrom pathlib")

FILES = {
    "reads a key below the home": "got = Path(home, '.ssh/id_ed25519').read_text()",
    "reads a file of credentials": "got = Path(home, '.netrc').read_text()",
    "lists a folder of credentials": """
got = os.listdir(f'{home}/.aws')
if not got: raise OSError('empty')""",
    "reads the state directory": "got = Path(state, 'secret').read_text()",
    "reads another session's scratch": "got = Path(state, 'scratch/s-other/x').read_text()",
    "reads the configuration": "got = Path(config).read_text()",
    "reads the token of clients": "got = Path(runtime, 'token').read_text()",
    "reads through a link of its own": """
os.symlink(f'{home}/.ssh/id_ed25519', ctx.scratch / 'link')
got = (ctx.scratch / 'link').read_text()""",
    "reads through ..": "got = Path(str(ctx.scratch) + '/../../../secret').read_text()",
    "reads through /proc/self/root": "got = Path(f'/proc/self/root{state}/secret').read_text()",
    "reads through another's /proc/PID/root": """
got = Path(f'/proc/{victim}/root{state}/secret').read_text()""",
    "reads through another's /proc/PID/cwd": "got = Path(f'/proc/{victim}/cwd/secret').read_text()",
    "reads through another's descriptor": "got = Path(f'/proc/{victim}/fd/0').read_text()",
    "reads another's environment": """
got = Path(f'/proc/{victim}/environ').read_text()
if 'VICTIM' not in got: raise OSError('not in there')""",
    "makes a hard link of a secret": """
os.link(f'{state}/secret', ctx.scratch / 'hard')
got = (ctx.scratch / 'hard').read_text()""",
    "writes the checkout through a hard link": """
os.link(f'{repo}/a.txt', ctx.scratch / 'hard')
(ctx.scratch / 'hard').write_text('escaped')""",
    "writes the checkout": "Path(repo, 'a.txt').write_text('escaped')",
    "writes a hook": "Path(repo, '.git/hooks/pre-commit').write_text('escaped')",
    "writes the home": "Path(home, 'new').write_text('escaped')",
    "cuts a file elsewhere": "os.truncate(f'{home}/plain', 0)",
    "moves a file elsewhere": "os.rename(f'{home}/movable', f'{home}/moved')",
    "runs a program from memory that reads a secret": """
fd = os.memfd_create('x')
os.write(fd, Path('/bin/cat').read_bytes())
done = subprocess.run([f'/proc/self/fd/{fd}', f'{state}/secret'], pass_fds=[fd],
                      capture_output=True, text=True)
if done.returncode: raise OSError(done.stderr)
got = done.stdout""",
}

KERNEL = {
    "mounts": """
done(libc.mount(b'none', bytes(ctx.scratch / 'tmp'), b'tmpfs', 0, None))""",
    "takes a cover away": """
done(libc.umount2(runtime.encode(), 2))
got = Path(runtime, 'token').read_text()""",
    "makes a namespace of users": "done(libc.unshare(0x10000000))",
    "enters another's mounts": """
fd = os.open(f'/proc/{victim}/ns/mnt', os.O_RDONLY)
done(libc.setns(fd, 0))""",
    "enters another's mounts by its pidfd": "done(libc.setns(os.pidfd_open(victim), 0x20000))",
    "traces another": "done(libc.ptrace(0x4206, victim, 0, 0))",
    "reads another's memory": "got = os.open(f'/proc/{victim}/mem', os.O_RDONLY)",
    "signals another": "os.kill(victim, 0)",
    "stops another": "os.kill(victim, 19)",
    "opens a file by its handle": """
handle = ctypes.create_string_buffer(struct.pack('=Ii', 128, 0) + bytes(128))
mount = ctypes.c_int()
done(libc.name_to_handle_at(-100, f'{repo}/a.txt'.encode(), handle, ctypes.byref(mount), 0))
fd = os.open(repo, os.O_RDONLY)
got = done(libc.open_by_handle_at(fd, handle, os.O_RDWR))
os.write(got, b'escaped')""",
    "makes a device of the disk": """
os.mknod(ctx.scratch / 'disk', 0o060600, os.stat(repo).st_dev)
got = os.open(ctx.scratch / 'disk', os.O_RDONLY)""",
    "opens the kernel's log": "got = os.open('/dev/kmsg', os.O_RDONLY)",
    "writes a setting of the kernel": """
value = Path('/proc/sys/kernel/printk').read_text()
Path('/proc/sys/kernel/printk').write_text(value)""",
    "writes to a terminal of others": "got = os.open(terminal, os.O_RDWR | os.O_NOCTTY)",
    "has privileges": """
status = Path('/proc/self/status').read_text()
effective = int(status.split('CapEff:')[1].split()[0], 16)
if not effective & ~0xdb: raise OSError('only those of files')""",
    "gets them from a set-uid program": """
if 'NoNewPrivs:\\t1' in Path('/proc/self/status').read_text(): raise OSError('it cannot')""",
    "uses io_uring": "got = done(libc.syscall(425, 1, ctypes.create_string_buffer(120)))",
}

SOCKETS = {
    "connects to a socket of the daemon": """
s = socket.socket(socket.AF_UNIX); s.connect(f'{runtime}/actors')""",
    "connects to a socket in a folder of temporary files": """
s = socket.socket(socket.AF_UNIX); s.connect(other)""",
    "connects to a socket elsewhere on the disk": """
s = socket.socket(socket.AF_UNIX); s.connect(engine)""",
    "connects to an abstract socket": """
s = socket.socket(socket.AF_UNIX); s.connect(b'\\0' + abstract.encode())""",
    "connects to a port": "s = socket.create_connection(('127.0.0.1', tcp), 2)",
    "is heard over UDP": """
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.connect(('127.0.0.1', udp)); s.send(b'x')
s.send(b'x')  # where nobody listens the answer to the first has come""",
}

ATTEMPTS = {**FILES, **KERNEL, **SOCKETS}

ONLY_INSIDE = {"takes a cover away", "mounts"}
"""What is not tried in `full`: there are no covers there, and a mount would stay."""

OF_ROOT = {
    "enters another's mounts", "enters another's mounts by its pidfd", "traces another",
    "opens a file by its handle", "makes a device of the disk", "opens the kernel's log",
    "writes a setting of the kernel", "has privileges", "reads another's memory",
}  # fmt: skip
"""What a user may not do outside of the sandbox either."""

MAY_BE_FORBIDDEN = {
    "uses io_uring", "makes a namespace of users", "makes a device of the disk"
}  # fmt: skip
"""By the machine itself."""

WAYS = {
    "bubblewrap": "bubblewrap",
    "bubblewrap without Landlock": "bubblewrap",
    "Landlock": "landlock",
    "Landlock without namespaces": "landlock",
}
FACTS = sandbox.probe()


@pytest.fixture
def instance():
    """Not below /tmp, which is another folder inside of the sandbox: nothing would be tried."""
    place = next(p for p in ("/srv", pwd.getpwuid(os.getuid()).pw_dir) if os.access(p, os.W_OK))
    base = Path(tempfile.mkdtemp(prefix="loom-", dir=place))
    made = TestInstance(base, Instance(base / "config.toml", base / "state", base / "run"))
    made.config.write_text("secret = 1")
    yield made
    remove_instance(made)


@pytest.fixture
def world(instance, monkeypatch):
    """What there is to be reached: secrets, sockets, a process, a terminal."""
    home = instance.base / "home"
    for name in (".ssh/id_ed25519", ".netrc", ".aws/credentials", "plain", "movable"):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text("secret")
    monkeypatch.setenv("HOME", str(home))
    state, runtime = instance.places.state, instance.places.runtime
    (state / "scratch" / "s-other").mkdir(parents=True)
    runtime.mkdir()
    for path in (state / "secret", state / "scratch/s-other/x", runtime / "token"):
        path.write_text("secret")
    folder = instance.config.parent / "tools"
    folder.mkdir()
    (folder / "probe.py").write_text(PROBE)
    repo = git_repo(instance.base / "repo", {"a.txt": "one\n", ".envrc": "one\n"})
    with ExitStack() as held:
        listeners = [held.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(4)]
        engine = instance.base / "engine.sock"
        listeners[3].bind(str(engine))
        held.callback(engine.unlink)
        listeners[0].bind(str(runtime / "actors"))
        other = f"/tmp/{instance.base.name}-other"
        listeners[1].bind(other)
        held.callback(os.unlink, other)
        listeners[2].bind("")
        tcp = held.enter_context(socket.create_server(("127.0.0.1", 0)))
        udp = held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        udp.bind(("127.0.0.1", 0))
        for listener in listeners:
            listener.listen()
        master, slave = os.openpty()
        held.callback(os.close, master)
        held.callback(os.close, slave)
        with open(state / "secret") as secret:
            victim = held.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", "import signal; signal.pause()"],
                    stdin=secret,
                    cwd=state,
                    env={"VICTIM": "secret"},
                )
            )
        held.callback(victim.kill)
        yield {
            "home": str(home),
            "state": str(state),
            "runtime": str(runtime),
            "config": str(instance.config),
            "other": other,
            "engine": str(engine),
            "repo": str(repo),
            "abstract": listeners[2].getsockname()[1:].decode(),
            "tcp": tcp.getsockname()[1],
            "udp": udp.getsockname()[1],
            "terminal": os.ttyname(slave),
            "victim": victim.pid,
        }
        udp.setblocking(False)
        assert victim.poll() is None
        os.kill(victim.pid, signal.SIGCONT)
        (runtime / "actors").unlink()


@pytest.fixture
def way(request, monkeypatch):
    """Settings under which one way of confining calls is in force."""
    name = request.param
    backend = WAYS[name]
    if backend == "bubblewrap" and (not FACTS.bwrap or FACTS.bwrap_error):
        pytest.skip(f"bubblewrap cannot work here: {FACTS.bwrap_error or 'it is not installed'}")
    if "without Landlock" not in name and FACTS.landlock < 6:
        pytest.skip("this kernel's Landlock knows no scopes")
    # The calls are forks of this process.
    if name == "bubblewrap without Landlock":
        monkeypatch.setattr(landlock, "abi", lambda: 0)
    if name == "Landlock without namespaces":
        monkeypatch.setattr(namespaces, "enter", lambda mounts, network: False)
    return {"sandbox_backend": backend}


def attempts(instance, world, attempts, permissions, **args):
    """What each of them answers, all in one session."""
    settings = {"permissions": {"mode": "on-request", **permissions}}

    async def main():
        place, repo = instance.places, instance.base / "repo"
        async with hosting(place, repo, settings=settings, **args) as host:
            await host.ready()
            ids = {
                name: host.begin("attempt", code=code, given=world)
                for name, code in attempts.items()
            }
            await host.until(lambda: all(host.answer(id) for id in ids.values()))
            return {name: said(host.answer(id)) for name, id in ids.items()}

    return asyncio.run(main())


def said(answer):
    return getattr(answer, "text", None) or answer.note


@pytest.mark.parametrize("way", WAYS, indirect=True)
def test_no_way_leads_out(instance, world, way):
    answers = attempts(instance, world, ATTEMPTS, way)
    out = {name: text for name, text in answers.items() if not text.startswith("no ")}
    assert out == {}
    assert (instance.base / "repo/a.txt").read_text() == "one\n"
    assert (instance.base / "home/plain").read_text() == "secret"


def test_without_the_sandbox_every_one_of_them_does(instance, world):
    wanted = {name: code for name, code in ATTEMPTS.items() if name not in ONLY_INSIDE}
    if os.geteuid() != 0:
        wanted = {name: code for name, code in wanted.items() if name not in OF_ROOT}
    for name in MAY_BE_FORBIDDEN:
        wanted.pop(name, None)
    answers = attempts(instance, world, wanted, {"sandbox": "full"}, review=False)
    kept = {name: text for name, text in answers.items() if not text.startswith("yes")}
    assert kept == {}
