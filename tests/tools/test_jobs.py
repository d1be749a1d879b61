"""Commands in the background, on real processes: begun, polled, typed to, ended."""

import asyncio
import os
import re
import signal

import pytest

from loomd.store.blobs import get_blob
from loomd.tools import background
from loomd.wire import codec
from loomd.wire.bodies import (
    CancelCall,
    Changed,
    Decision,
    Note,
    Propose,
    Reload,
    ToolCall,
    ToolResult,
)
from loomd.wire.errors import LoomError
from tests.support import eventually, processes_naming
from tests.tools.stand import Table, git_repo, hosting


@pytest.fixture
def repo(instance):
    return git_repo(instance.base / "repo", {"a.txt": "one\n"})


def drive(instance, repo, script, **args):
    """Runs the coroutine function `script(host)` on a host of its own; no review unless asked."""

    async def main():
        async with hosting(instance.places, repo, **{"review": False, **args}) as host:
            await host.ready()
            return await script(host)

    return asyncio.run(main())


async def begin(host, command, **args):
    result = await host.result("shell", command=command, background=True, **args)
    assert result.ok, result
    return result.data["job"]


async def ended(host, id):
    """(the poll that tells its end, the texts of all polls until then)."""
    said = ""
    while True:
        result = await host.call("job", id=id, wait_s=10)
        text = result.note if isinstance(result, Propose) else result.text
        if f"[{id} has ended" in text:
            return result, said + text
        said += "" if "nothing new" in text else f"{text.rpartition(chr(10))[0]}\n"


def row(host, id):
    return next(v for (t, _), v in host.table.rows_.items() if t == "jobs" and v["id"] == id)


def test_a_job_begins_at_once_is_polled_and_ends(instance, repo):
    async def script(host):
        id = await begin(
            host, "echo one; while ! test -e go; do sleep 0.01; done; echo two; exit 3"
        )
        first = await host.result("job", id=id, wait_s=10)
        again = await host.result("job", id=id, wait_s=0)
        listed = await host.result("job", action="list")
        (repo / "go").touch()
        last, said = await ended(host, id)
        after = await host.result("job", id=id)
        return id, first, again, listed, last, said, after, row(host, id), host.events

    id, first, again, listed, last, said, after, kept, events = drive(instance, repo, script)
    assert id == "j-1"
    assert re.fullmatch(r"one\n\[j-1 runs, [\d.]+ s, 4 bytes so far\]", first.text), first
    assert again.text.startswith("[j-1 runs") and "nothing new" in again.text
    assert re.match(r"j-1 \[running, \d+ s\] coder-1: echo one;", listed.text)
    assert re.match(r"two\n\[j-1 has ended\]\n\[exit code 3, [\d.]+ s\]", said), said
    assert last.ok and last.data == {"job": "j-1", "state": "failed"}
    assert after.text.startswith("[j-1 has ended]\n[exit code 3")
    assert (kept["state"], kept["exit"], kept["ended"] > kept["started"]) == ("failed", 3, True)
    assert [e.type for e in events if e.type.startswith("job_")] == ["job_started", "job_ended"]


def test_what_is_typed_reaches_it_and_the_end_of_its_input_too(instance, repo):
    async def script(host):
        id = await begin(host, "while read line; do echo got $line; done; echo over")
        one = await host.result("job", id=id, action="input", text="first\n", wait_s=10)
        two = await host.result("job", id=id, action="input", text="second\nthird", wait_s=10)
        last = await host.call("job", id=id, action="input", text="\n", eof=True, wait_s=0)
        _, end = await ended(host, id)
        late = await host.result("job", id=id, action="input", text="x")
        return one, two, last, end, late

    one, two, last, end, late = drive(instance, repo, script)
    assert one.text.startswith("got first\n[") and two.text.startswith("got second\n[")
    assert (last.text + end).count("got third") == 1 and "over\n" in last.text + end
    assert not late.ok and "has ended" in late.text


def test_input_that_nobody_reads_is_bounded_and_told(instance, repo):
    async def script(host):
        id = await begin(host, "while ! test -e go; do sleep 0.01; done; wc -c")
        half = "x" * (60 << 10)
        first = await host.result("job", id=id, action="input", text=half, wait_s=0)
        # The pipe takes 64 KiB: with 120 more not all of it can have gone.
        results = [
            await host.result("job", id=id, action="input", text=half, wait_s=0) for _ in range(3)
        ]
        nothing = await host.result("job", id=id, action="input", wait_s=0)
        (repo / "go").touch()
        last = await host.call("job", id=id, action="input", eof=True, wait_s=0)
        return first, results, nothing, last.text + (await ended(host, id))[1]

    first, results, nothing, end = drive(instance, repo, script)
    assert first.ok and any(one.error == "too_large" for one in results), results
    assert nothing.error == "bad_args"
    taken = 1 + sum(one.ok for one in results)
    assert f"{taken * (60 << 10)}\n" in end, end


def test_a_killed_job_may_clean_up_and_one_that_ignores_term_is_killed(instance, repo, monkeypatch):
    mark = f"mark-{os.getpid()}-job"

    async def script(host):
        clean = await begin(
            host, "trap 'echo cleaned; exit 0' TERM; echo up; while :; do sleep 0.05; done"
        )
        stubborn = await begin(
            host,
            f"trap '' TERM; (setsid sleep 1000 &); : {mark}; echo up; while :; do sleep 1; done",
        )
        for id in (clean, stubborn):
            await host.result("job", id=id, wait_s=10)
        killed = []
        for id, grace_s in ((clean, 30.0), (stubborn, 0.5)):
            monkeypatch.setattr("loomd.tools.jobs.GRACE_S", grace_s)
            killed.append(await host.result("job", id=id, action="kill"))
        return killed + [row(host, id)["state"] for id in (clean, stubborn)]

    clean, stubborn, *states = drive(instance, repo, script)
    assert "cleaned\n[j-1 has ended]\n[ended as you wished (exit code 0)" in clean.text, clean.text
    assert "killed by SIGKILL" in stubborn.text
    assert states == ["killed", "killed"]
    assert processes_naming(mark) == []


MINE = """
from loomd.tools import tool

@tool
def mine() -> str:
    "Mine."
    return "{n}"
"""


def test_a_job_goes_on_through_a_reload_and_the_death_of_every_generation(instance, repo):
    tools = instance.config.parent / "tools"
    tools.mkdir()

    async def script(host):
        id = await begin(host, "i=0; while read l; do i=$((i+1)); echo $l-$i; done")
        for n in range(3):
            (tools / "mine.py").write_text(MINE.format(n=n))
            old = host.performer.generations.current
            await host.performer.ask(Reload())
            assert (await host.result("mine")).text == str(n)
            # The generation that forked it has left, and is not held back by it.
            await asyncio.to_thread(
                eventually, lambda pid=old.pid: not os.path.exists(f"/proc/{pid}")
            )
        current = host.performer.generations.current
        os.kill(current.pid, signal.SIGKILL)
        assert (await host.result("mine")).text == "2"
        return await host.result("job", id=id, action="input", text="still\n", wait_s=10)

    assert drive(instance, repo, script).text.startswith("still-1\n[j-1 runs")


def test_a_job_dies_with_the_host_and_the_next_one_says_so(instance, repo):
    table = Table(instance.places.blobs)
    mark = f"mark-{os.getpid()}-host"

    async def first(host):
        await begin(host, f"setsid sleep 1000 & echo up; : {mark}; while :; do sleep 1; done")
        await asyncio.to_thread(eventually, lambda: processes_naming(mark))

    async def second(host):
        assert processes_naming(mark) == []
        await host.until(lambda: row(host, "j-1")["state"] == "lost")
        poll = await host.result("job", id="j-1")
        late = await host.result("job", id="j-1", action="input", text="x")
        next_ = await begin(host, "true")
        return poll, late, next_, await host.result("job", id="j-9")

    drive(instance, repo, first, table=table)
    assert row_of(table, "j-1")["state"] == "running"
    poll, late, next_, unknown = drive(instance, repo, second, table=table)
    assert "[j-1 has ended: lost]" in poll.text and "died with the tool host" in poll.text
    assert "died with the tool host" in late.text and next_ == "j-2"
    assert unknown.error == "not_found" and "j-1 [lost]" in unknown.text


def test_what_a_job_changes_in_the_checkout_is_journaled(instance, repo):
    """At its end; of one that died with its host, by the next one."""
    table = Table(instance.places.blobs)

    def journaled(host):
        return [body for _, body in host.sent if isinstance(body, Changed)]

    async def first(host):
        id = await begin(host, "echo 1 > made; while ! test -e go; do sleep 0.01; done; rm a.txt")
        await asyncio.to_thread(eventually, (repo / "made").exists)
        (repo / "go").touch()
        await ended(host, id)
        [changed] = await host.until(lambda: journaled(host))
        await begin(host, "echo 2 > half; sleep 1000")
        await asyncio.to_thread(eventually, lambda: (repo / "half").is_file())
        return changed

    async def second(host):
        await host.until(lambda: row(host, "j-2")["state"] == "lost")
        return journaled(host)

    changed = drive(instance, repo, first, table=table)
    assert {file.path: bool(file.after) for file in changed.files} == {
        "a.txt": False, "made": True, "go": True,
    }  # fmt: skip
    assert (changed.call, changed.tool, changed.interrupted) == ("j-1", "shell", False)
    assert get_blob(instance.places.blobs, changed.files[0].base) == b"one\n"
    [lost] = drive(instance, repo, second, table=table)
    assert [file.path for file in lost.files] == ["half"] and lost.interrupted


def row_of(table, id):
    return next(v for (t, _), v in table.rows_.items() if t == "jobs" and v["id"] == id)


def test_under_review_a_job_has_its_own_copy_and_the_poll_after_its_end_proposes_it(instance, repo):
    table = Table(instance.places.blobs)

    async def first(host):
        id = await begin(host, "echo new > b.txt; echo printed")
        bad = await begin(host, "echo new > c.txt; exit 1")
        proposed, said = await ended(host, id)
        again, _ = await ended(host, id)
        failed, _ = await ended(host, bad)
        unasked = await begin(host, "echo later > d.txt")
        await host.until(lambda: row(host, unasked)["state"] == "done")
        return proposed, said, again, failed

    async def second(host):
        """The host was replaced between its end and the poll."""
        return (await ended(host, "j-3"))[0], (await ended(host, "j-3"))[0]

    proposed, said, again, failed = drive(instance, repo, first, review=True, table=table)
    assert isinstance(proposed, Propose) and [file.path for file in proposed.files] == ["b.txt"]
    assert said.startswith("printed\n[j-1 has ended]\n[exit code 0")
    assert isinstance(again, ToolResult) and again.data["state"] == "done"
    assert isinstance(failed, ToolResult) and "was not kept: c.txt" in failed.text
    assert not (repo / "b.txt").exists()
    proposed, again = drive(instance, repo, second, review=True, table=table)
    assert isinstance(proposed, Propose) and [file.path for file in proposed.files] == ["d.txt"]
    assert isinstance(again, ToolResult) and row_of(table, "j-3")["proposal"] == ""


def test_time_outs_of_a_job_hold_only_if_they_are_given(instance, repo):
    async def script(host):
        late = await begin(host, "echo x; sleep 1000", timeout_s=0.3)
        idle = await begin(host, "echo y; sleep 1000", idle_s=0.3)
        texts = [(await ended(host, id))[1] for id in (late, idle)]
        return texts, row(host, late)["state"], row(host, idle)["state"]

    (late, idle), *states = drive(instance, repo, script)
    assert "killed after 0.3 s" in late and "printed nothing for 0.3 s" in idle
    assert states == ["timeout", "idle"]


def test_so_many_jobs_at_once_and_no_more(instance, repo):
    async def script(host):
        ids = [await begin(host, "sleep 1000") for _ in range(2)]
        over = await host.result("shell", command="sleep 1000", background=True)
        assert over.error == "failed" and "end one of j-1, j-2" in over.text
        await host.result("job", id=ids[0], action="kill")
        return await begin(host, "true")

    assert drive(instance, repo, script, limits={"jobs": 2}) == "j-3"


TYPED = """
import sys
print(f"a terminal: {sys.stdin.isatty() and sys.stdout.isatty()}")  # each in one piece
print(f"\\033[1m{eval(input())}\\033[0m\\n42")
try:
    print("for ever")
    while True: pass
except KeyboardInterrupt:
    print("KeyboardInterrupt")
sys.exit(len(sys.stdin.read()))
"""


def test_a_job_has_a_terminal_if_it_wants_one_and_can_be_interrupted(instance, repo):
    async def script(host):
        id = await begin(host, f"exec python3 -u -c '{TYPED}'", pty=True)
        await host.until(lambda: host.said("a terminal: True"))
        shown = await host.result("job", id=id, action="input", text="6 * 7\n", wait_s=10)
        while "\n42\n" not in shown.text:
            shown = await host.result("job", id=id, wait_s=10)
        await host.until(lambda: host.said("for ever"))
        await host.call("job", id=id, action="input", text="\x03", wait_s=0)
        await host.until(lambda: host.said("KeyboardInterrupt"))
        await host.call("job", id=id, action="input", eof=True, wait_s=0)
        return (await ended(host, id))[1]

    end = drive(instance, repo, script)
    assert "[exit code 0" in end and "\x1b" not in end


def test_much_output_is_polled_in_parts_and_what_was_dropped_is_counted(instance, repo):
    async def script(host):
        id = await begin(host, "seq 1000000; read x")
        first = await host.result("job", id=id, wait_s=10)
        await host.call("job", id=id, action="input", eof=True)
        _, end = await ended(host, id)
        return first, end, host.table.blob(row(host, id)["output"])

    first, end, blob = drive(instance, repo, script)
    assert first.text.startswith("1\n2\n3\n") and len(first.text) < 40_000
    assert len(blob) == 6_888_896
    assert "for your commands: " in end


def test_what_is_typed_needs_the_permission_of_a_command(instance, repo):
    async def script(host):
        host.mail(ToolCall(id="c", agent="s/a", name="shell",
                           args={"command": "cat", "background": True}))  # fmt: skip
        asked = [e.data["id"] for e in host.events if e.type == "permission_asked"]
        assert host.answer("c") is None and len(asked) == 1
        host.mail(Decision(question=asked[0]))
        assert (await host.until(lambda: host.answer("c"))).ok
        assert (await host.result("job", id="j-1", wait_s=0)).ok
        typed = host.begin("job", id="j-1", action="input", text="x\n", wait_s=10)
        asked = [e.data["id"] for e in host.events if e.type == "permission_asked"]
        assert host.answer(typed) is None and len(asked) == 2
        host.mail(Decision(question=asked[1], allow=False))
        return await host.until(lambda: host.answer(typed))

    assert drive(instance, repo, script, yes=False).error == "denied"


def test_a_command_that_cannot_begin_is_told_by_the_call_that_wanted_it(instance, repo):
    async def script(host):
        empty = await host.result("shell", command=" ", background=True)
        await host.until(lambda: row(host, "j-1")["state"] == "failed")
        return empty, await host.result("job", action="list")

    empty, listed = drive(instance, repo, script)
    assert empty.error == "bad_args" and "is empty" in empty.text
    assert listed.text.startswith("j-1 [failed]")


def test_a_job_is_judged_by_where_the_links_in_its_paths_lead(instance, repo):
    (repo / "real").mkdir()
    (repo / "link").symlink_to("real")
    (repo / "hooks").symlink_to(".git/hooks")

    async def script(host):
        id = await begin(host, f"ls {repo}/link")
        await ended(host, id)
        denied = await host.result("shell", command=f"touch {repo}/hooks/x", background=True)
        return id, denied, host.table.rows_, host.events

    id, denied, rows, events = drive(instance, repo, script)
    assert denied.error == "denied" and "hooks" in denied.text
    assert [r["id"] for (table, _), r in rows.items() if table == "jobs"] == [id]
    assert next(e.data["state"] for e in events if e.type == "job_ended") == "not begun"


def test_a_poll_that_waits_can_be_cancelled(instance, repo):
    async def script(host):
        id = await begin(host, "sleep 1000")
        waiting = host.begin("job", id=id, wait_s=600)
        await host.until(lambda: host.performer.calls.under_way)
        host.mail(CancelCall(id=waiting))
        return await host.until(lambda: host.answer(waiting))

    assert drive(instance, repo, script).text.startswith("[j-1 runs")


def test_people_see_jobs_and_end_them(instance, repo):
    async def script(host):
        id = await begin(host, "echo hello; sleep 1000")
        await host.until(lambda: host.said("hello"))

        async def ask(**data):
            return (await host.performer.ask(Note(data=data))).data

        seen = await ask(job=id)
        done = await ask(job=id, action="kill")
        after = await ask(job=id)
        with pytest.raises(LoomError, match="no job"):
            await ask(job="j-7")
        return seen, done, after

    seen, done, after = drive(instance, repo, script)
    assert seen == {"id": "j-1", "state": "running", "text": "hello"}
    assert done["state"] == after["state"] == "killed"
    assert after["text"].startswith("hello\n[ended as you wished (killed by SIGTERM)")


ROW = {"id": "j-1", "command": "x", "agent": "a", "call": "c", "state": "running", "exit": None}


@pytest.mark.parametrize(
    ("body", "state", "code"),
    [
        (ToolResult(id="j-1", data={"exit": 0, "output": "b"}), "done", 0),
        (ToolResult(id="j-1", ok=False, error="failed", data={"exit": 2}), "failed", 2),
        (ToolResult(id="j-1", ok=False, error="cancelled", data={"exit": -15}), "killed", -15),
        (ToolResult(id="j-1", ok=False, error="timeout"), "timeout", None),
        (ToolResult(id="j-1", ok=False, error="idle"), "idle", None),
        (ToolResult(id="j-1", ok=False, error="crashed"), "crashed", None),
        (background.lost("j-1"), "lost", None),
        (Propose(call="j-1", agent="a", tool="shell", reason="", files=()), "done", 0),
        (Note(), "crashed", None),
    ],
)
def test_every_end_of_a_job_has_its_name(body, state, code):
    said = codec.unpack(codec.pack(background.note(body, "how", "o", "p")))
    made = background.ended(ROW, said, 7.0)
    assert (made["state"], made["exit"], made["ended"]) == (state, code, 7.0)
    assert (made["text"], made["output"], made["proposal"]) == ("how", "o", "p")
    assert made["state"] == background.state_of(body)
