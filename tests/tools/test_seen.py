"""What an agent has read: the rules, and through a tool host, over a restart."""

import asyncio

from loomd.tools.propose import name_of
from loomd.tools.seen import OWN, after_proposal, after_read, known, learned, row_of
from loomd.wire.bodies import FileChange, Propose, ToolCall, ToolResult
from tests.tools.stand import AGENT, Table, git_repo, hosting


def test_what_is_known():
    assert known(None) is None and known({}) is None
    row = after_read(None, "a")
    assert known(row) == ["a"]
    row = after_proposal(row, "b")
    assert known(row) == ["a", "b"]  # it may or may not have reached the disk
    assert known(after_read(row, "b")) == ["b"]
    assert known(after_read(after_proposal(row, "c"), "b")) == ["b", "c"]
    for n in range(20):
        row = after_proposal(row, f"{n}")
    assert len(row["own"]) == OWN and row["hash"] == "a"


def test_what_is_learned_from_a_call():
    read = ToolCall(id="1", agent=AGENT, name="read")
    result = ToolResult(id="1", data={"path": "a.py", "hash": "h"})
    assert list(learned({}, read, result)) == [(row_of(AGENT, "a.py"), {"hash": "h", "own": []})]
    assert list(learned({}, read, ToolResult(id="1", ok=False, error="failed"))) == []
    assert list(learned({}, ToolCall(id="1", agent=AGENT, name="mine"), result)) == []
    change = FileChange(path="a.py", base="h", after="i")
    made = Propose(call="1", agent=AGENT, tool="edit", reason="", files=(change,))
    [(key, row)] = learned({}, ToolCall(id="1", agent=AGENT, name="edit"), made)
    assert (key, known(row)) == (row_of(AGENT, "a.py"), ["i"])
    # A command changes files that nobody has read.
    assert list(learned({}, ToolCall(id="1", agent=AGENT, name="shell"), made)) == []
    assert row_of(AGENT, "a.py") != row_of("s/coder-2", "a.py")


def test_a_file_that_another_has_changed_is_not_overwritten(instance):
    repo = git_repo(instance.base / "repo", {"a.py": "one\ntwo\n", "b.py": "b\n"})
    table = Table(instance.places.blobs)

    async def before():
        async with hosting(instance.places, repo, table) as host:
            await host.ready()
            assert (await host.result("read", path="./a.py")).ok
            made = await host.call("edit", path="a.py", old="one", new="1")
            assert isinstance(made, Propose)

    async def after():
        """Another incarnation: what was read is durable."""
        async with hosting(instance.places, repo, table) as host:
            await host.ready()
            (repo / "a.py").write_text("1\ntwo\n")  # its own edit has been applied
            assert isinstance(await host.call("write", path="a.py", content="x\n"), Propose)
            (repo / "a.py").write_text("another's\ntwo\ntwo\n")
            refused = await host.result("write", path="a.py", content="x\n")
            assert (refused.ok, refused.error) == (False, "conflict"), refused
            made = await host.call("edit", path="a.py", old="another", new="A")
            assert isinstance(made, Propose)
            refused = await host.result("edit", path="a.py", old="one", new="1")
            assert refused.error == "conflict" and "read it again" in refused.text
            assert isinstance(await host.call("write", path="b.py", content="x\n"), Propose)
            assert (await host.result("read", path="a.py")).data["hash"] == name_of(
                b"another's\ntwo\ntwo\n"
            )
            assert isinstance(await host.call("write", path="a.py", content="x\n"), Propose)

    asyncio.run(before())
    asyncio.run(after())
