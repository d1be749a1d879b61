"""Tools that lie to the tool host, and what no tool can help: names that are no UTF-8."""

import asyncio
import os
from pathlib import Path

import pytest

from loomd.store import blobs
from loomd.tools import results
from loomd.tools.copy import changes, make
from loomd.tools.propose import MAX_HUNKS, capped, change, weight
from loomd.wire import codec
from loomd.wire.bodies import Propose, ToolResult
from tests.tools.stand import git_repo, hosting

FORGER = """
import os, socket, struct, sys
import msgpack
from loomd.tools import tool

LIES = {
    "files": {"files": [{"path": 3}], "blobs": [], "note": "", "output": b"", "reason": ""},
    "keys": {"x": 1},
    "types": {"ok": True, "text": 7, "error": 3, "data": [], "output": "str"},
    "state": {"ok": True, "text": "", "error": "", "data": {}, "output": b"", "state": [1]},
    "big_state": {"ok": True, "text": "", "error": "", "data": {}, "output": b"",
                  "state": {"a": "x" * 900000}},
    "big": {"files": [{"path": "a" * 500000, "base": "", "after": ""}], "blobs": [], "note": "",
            "output": b"", "reason": ""},
}

@tool
def forge(kind: str) -> str:
    "Sends a result of its own making."
    frame = sys._getframe()
    while frame is not None:
        for held in frame.f_locals.values():
            if isinstance(held, socket.socket) and held.fileno() > 2:
                raw = msgpack.packb({"result": LIES[kind]})
                held.sendall(struct.pack(">I", len(raw)) + raw)
                os._exit(0)
        frame = frame.f_back
    return "no socket"
"""


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("files", "crashed"),
        ("keys", "crashed"),
        ("types", "crashed"),
        ("state", "failed"),
        ("big_state", "failed"),
        ("big", "too_large"),
    ],
)
def test_a_tool_that_forges_its_result_fails_alone(instance, kind, error):
    folder = instance.config.parent / "tools"
    folder.mkdir()
    (folder / "forger.py").write_text(FORGER)
    repo = git_repo(instance.base / "repo", {"a.py": "x = 1\n"})

    async def main():
        async with hosting(instance.places, repo) as host:
            await host.ready()
            result = await host.result("forge", kind=kind)
            assert (result.ok, result.error) == (False, error), result
            assert not any(table == "tool_state" for table, _ in host.table.rows_)
            assert (await host.result("read", path="a.py")).ok

    asyncio.run(main())


ODD = """
import socket, time
from loomd.tools import Context, Result, tool

socket.setdefaulttimeout(0.05)

@tool
def large(size: int) -> str:
    "More than one result may be."
    return "x" * size

@tool
def untold() -> Result:
    "Holds what no frame can."
    return Result("", data={"kinds": {1, 2}})

@tool
def hold(ctx: Context) -> str:
    "Holds the state for longer than a socket may take."
    ctx.state["n"] = ctx.state.get("n", 0) + 1
    time.sleep(0.2)
    return f"{ctx.state['n']} {socket.getdefaulttimeout()}"

@tool
def end() -> str:
    "Ends by a signal that has no name."
    import os
    os.kill(os.getpid(), 40)
    return ""
"""


def test_odd_results_and_odd_settings_are_the_tools_own(instance):
    folder = instance.config.parent / "tools"
    folder.mkdir()
    (folder / "odd.py").write_text(ODD)
    repo = git_repo(instance.base / "repo", {"a.py": "x = 1\n"})

    async def main():
        async with hosting(instance.places, repo) as host:
            await host.ready()
            held = [host.begin("hold") for _ in range(4)]
            said = {(await host.until(lambda id=id: host.answer(id))).text for id in held}
            assert said == {f"{n} 0.05" for n in range(1, 5)}
            large = await host.result("large", size=65 << 20)
            assert (large.error, "Traceback" in large.text) == ("too_large", False), large
            untold = await host.result("untold")
            assert untold.error == "failed" and untold.text.startswith("the tool returned what")
            ended = await host.result("end")
            assert ended.error == "crashed" and "signal 40" in ended.text

    asyncio.run(main())


def test_a_full_disk_fails_the_call_and_not_the_host(instance, monkeypatch):
    repo = git_repo(instance.base / "repo", {"a.py": "x = 1\n"})

    def full(folder: Path, content: bytes) -> str:
        raise OSError(28, "No space left on device")

    async def main():
        async with hosting(instance.places, repo) as host:
            await host.ready()
            monkeypatch.setattr(results, "put_blob", full)
            result = await host.result("write", path="b.py", content="y = 1\n")
            assert not result.ok and "No space left" in result.text
            monkeypatch.setattr(results, "put_blob", blobs.put_blob)
            assert isinstance(await host.call("write", path="b.py", content="y = 1\n"), Propose)

    asyncio.run(main())


def test_names_that_are_no_utf8_are_shown(instance):
    repo = git_repo(instance.base / "repo", {"a.py": "x = 1\n"})
    (repo / os.fsdecode(b"caf\xe9.txt")).write_text("x here\n")

    async def main():
        async with hosting(instance.places, repo) as host:
            await host.ready()
            for name, args in (
                ("list", {"path": "."}),
                ("glob", {"pattern": "*"}),
                ("grep", {"pattern": "x"}),
            ):
                result = await host.result(name, **args)
                assert result.ok and "caf\\xe9.txt" in result.text and "a.py" in result.text
            command = "touch \"$(printf 'n\\351w')\"; echo z > b.py"
            made = await host.call("shell", command=command)
            assert isinstance(made, Propose) and [file.path for file in made.files] == ["b.py"]
            assert "n\\xe9w: its name is no UTF-8" in made.note
            only = await host.result("shell", command=command.partition(";")[0])
            assert isinstance(only, ToolResult) and "n\\xe9w" in only.text

    asyncio.run(main())


def test_a_copy_tells_apart_what_can_be_proposed(tmp_path):
    repo = tmp_path / "repo"
    repo.mkdir()
    copy = make(repo, tmp_path / "copy")
    (copy.root / os.fsdecode(b"\xff")).write_text("x")
    (copy.root / "é").write_text("x")
    made, left = changes(copy)
    assert [file.path for file in made] == ["é"]
    assert len(left) == 1


def test_the_largest_proposal_fits_its_commit_twice_in_any_alphabet():
    lines = [f"{'語' * 30} {i}\n" for i in range(MAX_HUNKS // 200)]
    after = "".join(line.replace("語", "話") for line in lines)
    file = change("a.txt", "".join(lines).encode(), after.encode())
    assert weight((file,)) <= MAX_HUNKS
    sent = Propose(
        call="c",
        agent="a",
        tool="shell",
        reason="r" * 2000,
        files=capped((file,)),
        note="n" * 48_000,
    )
    assert len(codec.encode(sent)) <= results.MAX_RESULT
