"""The confinement, seen from inside."""

import asyncio
import os
import socket

import pytest

from loomd.tools import sandbox
from tests.tools.stand import git_repo, hosting

PROBE = '''
import os, socket
from pathlib import Path
from loomd.tools import Context, tool

def attempt(what):
    try:
        return f"yes {what()}"
    except OSError as error:
        return f"no {type(error).__name__}"

@tool
def look(path: str) -> str:
    """Reads a file or folder."""
    p = Path(path)
    return attempt(lambda: sorted(os.listdir(p)) if p.is_dir() else p.read_text())

@tool
def put(path: str) -> str:
    """Writes a file."""
    return attempt(lambda: Path(path).write_text("x"))

@tool
def connect(path: str) -> str:
    """Connects to a Unix socket."""
    with socket.socket(socket.AF_UNIX) as s:
        return attempt(lambda: s.connect(path))

@tool
def dial(port: int) -> str:
    """Connects to a TCP port."""
    with socket.socket() as s:
        return attempt(lambda: s.connect(("127.0.0.1", port)))

@tool(access="network")
def dial_out(port: int) -> str:
    """Connects to a TCP port."""
    with socket.socket() as s:
        return attempt(lambda: s.connect(("127.0.0.1", port)))

@tool
def signal_to(pid: int) -> str:
    """Sends signal 0."""
    return attempt(lambda: os.kill(pid, 0))

@tool(access="execute")
def run_it(path: str) -> str:
    """Writes a file."""
    return attempt(lambda: Path(path).write_text("x"))
'''


@pytest.fixture
def repo(instance):
    return git_repo(instance.base / "repo", {"a.txt": "one\n"})


@pytest.fixture
def inside(instance, repo):
    folder = instance.config.parent / "tools"
    folder.mkdir()
    (folder / "probe.py").write_text(PROBE)
    instance.places.runtime.mkdir()

    def call(name, settings=None, **args):
        async def main():
            async with hosting(instance.places, repo, **(settings or {})) as host:
                await host.ready()
                return await host.result(name, **args)

        return asyncio.run(main()).text

    return call


def test_the_checkout_can_be_read_and_not_written(inside, repo):
    assert inside("look", path=str(repo / "a.txt")) == "yes one\n"
    assert inside("put", path=str(repo / "a.txt")) == "no PermissionError"
    assert inside("put", path=str(repo / "new")) == "no PermissionError"
    assert (repo / "a.txt").read_text() == "one\n"


def test_home_state_and_config_cannot_be_read(inside, instance, tmp_path):
    instance.places.state.mkdir(exist_ok=True)
    (instance.places.state / "secret").write_text("x")
    instance.config.write_text("[models]\n")
    for path in (
        os.path.expanduser("~"),
        instance.places.state,
        instance.places.state / "secret",
        instance.config,
        tmp_path,
        "/tmp",
    ):
        assert inside("look", path=str(path)) == "no PermissionError"


def test_nothing_is_written_anywhere_else(inside, tmp_path):
    for path in (tmp_path / "x", "/etc/loom-x", "/usr/loom-x", "/var/tmp/loom-x"):
        assert inside("put", path=str(path)) == "no PermissionError"


def test_the_runtime_directory_is_hidden_with_its_sockets(inside, instance):
    (instance.places.runtime / "token").write_text("secret")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(instance.places.runtime / "actors"))
        listener.listen()
        assert inside("look", path=str(instance.places.runtime)) == "no PermissionError"
        token = inside("look", path=str(instance.places.runtime / "token"))
        assert token in ("no PermissionError", "no FileNotFoundError")
        assert inside("connect", path=str(instance.places.runtime / "actors")).startswith("no ")
    (instance.places.runtime / "actors").unlink()


def test_other_processes_secrets_cannot_be_read(inside):
    assert inside("look", path=f"/proc/{os.getpid()}/environ") == "no PermissionError"


@pytest.mark.skipif(sandbox.abi() < 6, reason="this kernel's Landlock does not scope signals")
def test_other_processes_cannot_be_signalled(inside):
    assert inside("signal_to", pid=os.getpid()) == "no PermissionError"


@pytest.mark.skipif(sandbox.abi() < 4, reason="this kernel's Landlock knows no network")
def test_the_network_is_there_only_for_tools_that_ask_for_it(inside):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        assert inside("dial", port=port) == "no PermissionError"
        assert inside("dial_out", port=port).startswith("yes")


def test_a_tool_that_executes_works_on_the_copy_while_review_is_required(inside, repo):
    assert inside("run_it", path=str(repo / "a.txt")) == "no PermissionError"


def test_a_tool_that_executes_writes_the_checkout_when_it_is_not(inside, repo):
    assert inside("run_it", {"review": False}, path=str(repo / "a.txt")) == "yes 1"
    assert (repo / "a.txt").read_text() == "x"


def test_without_landlock_no_call_is_made(inside, repo, monkeypatch):
    monkeypatch.setattr(sandbox, "abi", lambda: 0)
    said = inside("look", path=str(repo / "a.txt"))
    assert "cannot confine" in said and "lsm=" in said


@pytest.mark.parametrize(
    ("folders", "never", "kept"),
    [
        (["/usr", "/home/u/.local/bin"], ["/home/u"], ("/usr", "/home/u/.local/bin")),
        (["/home", "/home/u", "/"], ["/home/u"], ()),
        (["/home/user2"], ["/home/u"], ("/home/user2",)),
    ],
)
def test_a_folder_that_contains_what_is_hidden_is_never_allowed(folders, never, kept):
    assert sandbox.without(folders, never) == kept
