"""The sandbox in a real daemon: its sockets answer no tool, and no process has a provider's key."""

import socket

import pytest

from tests.support import Daemon, eventually
from tests.tools.stand import git_repo

KEYS = {"OPENAI_API_KEY": "sk-loom-by-name", "PLAIN_NAME": "sk-loom-by-setting"}

CONFIG = """
[providers.own]
api_base = "http://127.0.0.1:9/v1"
api_key_env = "PLAIN_NAME"
[permissions]
"""

TOOLS = '''
import os, socket, subprocess
from pathlib import Path
from loomd.tools import Context, ToolError, tool

@tool(access="execute")
def knock(files: list[str], abstract: list[str]) -> str:
    """Says which socket was open to it."""
    opened = []
    for address in [*files, *("\\0" + name for name in abstract)]:
        try:
            with socket.socket(socket.AF_UNIX) as one:
                one.connect(address)
                opened.append(address)
        except OSError:
            pass
    raise ToolError(f"opened {opened}")

@tool(access="execute")
def keys(names: list[str], ctx: Context) -> str:
    """Says where it has found a key."""
    places = {"own": "\\n".join(os.environ.values()), "context": "\\n".join(ctx.env.values())}
    places["command"] = subprocess.run(["env"], capture_output=True, text=True).stdout
    read = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            places[str(folder)] = (folder / "environ").read_text(errors="replace")
            read += 1
        except OSError:
            continue
    found = [place for place, text in places.items() if any(name in text for name in names)]
    raise ToolError(f"found {found} in {'some' if read else 'no'} processes")
'''


def answer(daemon: Daemon, client, session: str, tool: str, **args) -> str:
    """What the tool's error says."""
    name = f"{session}/caller-{tool}"
    client.request("spawn", spec={"name": name, "kind": "echo", "session": session})
    data = {"op": "call", "to": f"{session}/tools", "name": tool, "args": args, "n": 1}
    client.request("post", to=name, body={"t": "note", "data": data})

    def done() -> list[str]:
        return (client.request("fetch_state", name=name)["state"] or {}).get("done", [])

    told = eventually(done, timeout=30, what=daemon.tail)[-1]
    client.request("unspawn", name=name)
    return told


@pytest.mark.parametrize(
    ("settings", "shut"),
    [("", True), ('sandbox_backend = "landlock"', True), ('sandbox = "full"', False)],
)
def test_no_tool_opens_a_socket_of_the_daemon_or_finds_a_key(instance, settings, shut):
    instance.config.write_text(f"{CONFIG}{settings}\n")
    (instance.config.parent / "tools").mkdir()
    (instance.config.parent / "tools" / "spy.py").write_text(TOOLS)
    repo = git_repo(instance.base / "repo", {"a.txt": "one\n"})
    with (
        socket.socket(socket.AF_UNIX) as abstract,
        Daemon(instance, env=KEYS) as daemon,
        daemon.client() as client,
    ):
        abstract.bind("")
        abstract.listen()
        name = abstract.getsockname()[1:].decode()
        files = [str(path) for path in instance.sockets()]
        assert len(files) >= 3
        opened = client.request("open_session", repo=str(repo), goal="", yes=True, env=KEYS)
        session = opened["session"]
        told = answer(daemon, client, session, "knock", files=files, abstract=[name])
        assert ("opened []" in told) is shut, told
        if not shut:
            assert all(path in told for path in (*files, name)), told
        told = answer(daemon, client, session, "keys", names=list(KEYS.values()))
        assert "found [] in some processes" in told, told
        client.request("control", session=session, op="stop")
