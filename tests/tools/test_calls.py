"""Real nurseries, real generations, and calls that misbehave."""

import asyncio
import contextlib
import os
import signal
import textwrap

import psutil
import pytest

from loomd.tools.calls import STARTS
from loomd.wire.bodies import CancelCall, ToolResult
from tests.support import eventually, patiently, processes_naming
from tests.tools.stand import Table, git_repo, hosting

BAD = """
import ctypes, os, signal, subprocess, sys, time
from pathlib import Path
from loomd.tools import Context, Result, tool

@tool
def hang(mark: str) -> str:
    "Never ends."
    print("began", flush=True)
    Path(os.environ["TMPDIR"], "x").write_text(mark)
    while True:
        signal.pause()

@tool
def segfault() -> str:
    "Dies of SIGSEGV."
    ctypes.string_at(0)
    return ""

@tool
def leave(code: int) -> str:
    "Ends its process."
    os._exit(code)

@tool
def hog() -> str:
    "Eats memory, one process."
    kept = []
    while True:
        kept.append(bytearray(16 << 20))

@tool
def escape(mark: str) -> str:
    "Leaves a process in a session of its own, which holds all its descriptors."
    read, write = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            os.execv(sys.executable, [sys.executable, "-c",
                f"import os, signal; os.write({write}, b'x'); mark={mark!r}\\n"
                "while True: signal.pause()"])
        os._exit(0)
    os.set_inheritable(write, True)
    return "left"

@tool
def bomb(mark: str) -> str:
    "Forks without end."
    while True:
        if os.fork() == 0 and os.fork() == 0:
            signal.pause()

@tool
def loud() -> str:
    "Prints."
    print("hello")
    print("error", file=sys.stderr)
    return "result"

@tool
def raises(deep: bool = False) -> str:
    "Raises."
    raise ValueError("the reason")

@tool
def count(ctx: Context, until: str = "") -> str:
    "Counts its calls."
    n = ctx.state.get("n", 0)
    ctx.state["n"] = n + 1
    if until:
        raise RuntimeError(until)
    return str(n + 1)

@tool(exclusive=True)
def alone(ctx: Context) -> str:
    "Runs alone."
    return str(time.monotonic_ns())

@tool
def plain() -> dict:
    "Returns data."
    return {"a": [1, 2]}

@tool
def huge(size: int) -> str:
    "A long text."
    return "x" * size

@tool
def unstorable(ctx: Context) -> str:
    "State that cannot be kept."
    ctx.state["x"] = object()
    return ""

@tool
def environment() -> str:
    "Its variables."
    return "\\n".join(f"{k}={v}" for k, v in sorted(os.environ.items()))

@tool
def nice() -> int:
    "Its niceness and limits."
    return os.getpriority(os.PRIO_PROCESS, 0)
"""


@pytest.fixture
def repo(instance):
    return git_repo(instance.base / "repo", {"a.txt": "one\ntwo\n"})


@pytest.fixture
def tools(instance):
    folder = instance.config.parent / "tools"
    folder.mkdir()
    (folder / "bad.py").write_text(BAD)
    return folder


def drive(instance, repo, script, **args):
    """Runs the coroutine function `script(host)` on a host of its own."""

    async def main():
        async with hosting(instance.places, repo, **args) as host:
            await host.ready()
            return await script(host)

    return asyncio.run(main())


def ends(instance, repo, name, limits=None, **args):
    async def script(host):
        return await host.result(name, **args)

    return drive(instance, repo, script, limits=limits or {})


def test_a_call_that_hangs_is_killed_at_its_time_out(instance, repo, tools):
    seconds, result = patiently(
        lambda seconds: (seconds, ends(instance, repo, "hang", {"call_s": seconds}, mark="m")),
        lambda found: "began" in found[1].text,
    )
    assert result.error == "timeout", result
    assert f"had not ended after {seconds:g} s" in result.text
    assert "began" in result.text


def test_a_call_that_segfaults_says_so(instance, repo, tools):
    result = ends(instance, repo, "segfault")
    assert result.error == "crashed" and "SIGSEGV" in result.text


def test_a_call_that_ends_its_own_process_says_so(instance, repo, tools):
    result = ends(instance, repo, "leave", code=3)
    assert result.error == "crashed" and "exit code 3" in result.text


@pytest.mark.parametrize("limits", [{"address_mb": 600}, {"memory_mb": 300}])
def test_a_call_that_eats_memory_says_so(instance, repo, tools, limits):
    result = ends(instance, repo, "hog", limits)
    assert result.error == "crashed" and "out of memory" in result.text


def test_a_fork_bomb_is_killed_to_the_last(instance, repo, tools):
    mark = f"mark-{os.getpid()}-bomb"
    result = ends(instance, repo, "bomb", {"processes": 40}, mark=mark)
    assert result.error == "crashed" and "more than 40 processes" in result.text


def test_what_escapes_into_a_session_of_its_own_is_killed_too(instance, repo, tools):
    mark = f"mark-{os.getpid()}-escape"
    result = ends(instance, repo, "escape", mark=mark)
    assert result.ok and result.text == "left"
    assert processes_naming(mark) == []


def test_a_call_returns_when_its_process_ends_not_when_its_pipes_close(instance, repo):
    result = ends(instance, repo, "shell", command="echo one; sleep 1000 & setsid sleep 1000 &")
    assert result.ok and result.text.startswith("one\n[exit code 0")


def test_what_is_printed_comes_with_the_result(instance, repo, tools):
    assert ends(instance, repo, "loud").text == "result\n[printed:]\nhello\nerror"


def test_an_error_shows_the_authors_frames_only(instance, repo, tools):
    result = ends(instance, repo, "raises")
    assert not result.ok and result.error == "failed"
    assert "ValueError: the reason" in result.text and "bad.py" in result.text
    assert "loomd/tools/worker.py" not in result.text


def test_plain_data_is_shown_as_json(instance, repo, tools):
    assert ends(instance, repo, "plain").text == '{"a":[1,2]}'


def test_arguments_are_checked_against_the_signature(instance, repo, tools):
    result = ends(instance, repo, "leave", code="x")
    assert result.error == "bad_args" and "`code` must be integer, not 'x'" in result.text


def test_a_long_result_is_whole_in_a_blob(instance, repo, tools):
    async def script(host):
        result = await host.result("huge", size=100_000)
        assert len(result.text) < 20_000
        assert host.table.blob(result.blob) == b"x" * 100_000

    drive(instance, repo, script)


def test_the_environment_is_the_sessions_without_keys_and_ours(instance, repo, tools):
    env = {"PATH": "/usr/bin", "LANG": "C", "LOOM_STATE_DIR": "/x", "OPENAI_API_KEY": "secret"}

    async def script(host):
        return await host.result("environment")

    result = drive(instance, repo, script, env=env)
    names = {line.partition("=")[0] for line in result.text.splitlines()}
    assert "LOOM_STATE_DIR" not in names and "OPENAI_API_KEY" not in names
    assert {"PATH", "LANG", "HOME", "TMPDIR"} <= names
    assert "secret" not in result.text


def test_nothing_is_imported_from_the_checkout(instance, repo, tools):
    (repo / "fractions.py").write_text("raise SystemExit('from the checkout')")
    (tools / "late.py").write_text(
        "from loomd.tools import tool\n@tool\ndef late() -> str:\n    'Doc.'\n"
        "    import fractions\n    return str(fractions.Fraction(1, 2))\n"
    )
    assert ends(instance, repo, "late").text == "1/2"


def test_calls_are_nice(instance, repo, tools):
    assert int(ends(instance, repo, "nice").text) >= 10


def test_a_call_can_be_cancelled(instance, repo, tools):
    async def script(host):
        id = host.begin("hang", mark="m")
        await host.until(lambda: any(r.writer for r in host.performer.calls.under_way.values()))
        host.mail(CancelCall(id=id))
        return await host.until(lambda: host.answer(id))

    assert drive(instance, repo, script).error == "cancelled"


def test_calls_run_side_by_side(instance, repo, tools):
    """Eight calls that can end only together."""

    async def script(host):
        waits = [host.begin("shell", command=f"echo {n}") for n in range(8)]
        for n, id in enumerate(waits):
            result = await host.until(lambda id=id: host.answer(id))
            assert result.text.startswith(str(n))

    drive(instance, repo, script)


# --- state ---------------------------------------------------------------------------------------


def test_state_is_kept_per_tool_and_only_of_calls_that_succeed(instance, repo, tools):
    async def script(host):
        assert (await host.result("count")).text == "1"
        assert not (await host.result("count", until="no")).ok
        assert (await host.result("count")).text == "2"
        assert not (await host.result("unstorable")).ok

    drive(instance, repo, script)


def test_parallel_calls_of_a_tool_take_turns_at_its_state(instance, repo, tools):
    async def script(host):
        ids = [host.begin("count") for _ in range(6)]
        await host.until(lambda: all(host.answer(id) for id in ids))
        return sorted(int(host.answer(id).text) for id in ids)

    assert drive(instance, repo, script) == [1, 2, 3, 4, 5, 6]


def test_state_survives_a_new_incarnation(instance, repo, tools):
    table = Table(instance.places.blobs)

    async def script(host):
        return (await host.result("count")).text

    assert drive(instance, repo, script, table=table) == "1"
    assert drive(instance, repo, script, table=table) == "2"


# --- deaths --------------------------------------------------------------------------------------


def below(pid):
    return psutil.Process(pid).children(recursive=True)


def test_a_new_incarnation_repeats_reads_and_calls_the_rest_interrupted(instance, repo, tools):
    (tools / "slow.py").write_text(
        textwrap.dedent("""
        from loomd.tools import Context, tool
        @tool
        def once(ctx: Context) -> str:
            "Waits only for the first incarnation."
            import os, signal
            while not (ctx.repo / "go").exists():
                signal.pause()
            return "read"
        @tool(access="network")
        def effect(ctx: Context) -> str:
            "Has an effect."
            import signal
            signal.pause()
            return ""
        """)
    )
    table = Table(instance.places.blobs)

    async def begin(host):
        ids = host.begin("once"), host.begin("effect")
        await host.until(
            lambda: sum(bool(r.writer) for r in host.performer.calls.under_way.values()) == 2
        )
        return ids

    async def go_on(host):
        return [await host.until(lambda id=id: host.answer(id)) for id in ids]

    ids = drive(instance, repo, begin, table=table)
    assert set(table.effects) == {"generation-1", *(f"call-{id}" for id in ids)}
    (repo / "go").touch()
    read, effect = drive(instance, repo, go_on, table=table)
    assert (read.id, read.ok, read.text) == (ids[0], True, "read")
    assert effect.error == "interrupted" and not effect.ok


def test_a_read_outlives_several_deaths_of_the_host_but_not_any_number(instance, repo, tools):
    (tools / "slow.py").write_text(
        textwrap.dedent("""
        from loomd.tools import Context, tool
        @tool
        def slow(ctx: Context) -> str:
            "Never ends."
            import signal
            signal.pause()
            return ""
        """)
    )
    table = Table(instance.places.blobs)

    async def begin(host):
        host.begin("slow")
        await under_way(host)

    async def under_way(host):
        await host.until(lambda: any(r.writer for r in host.performer.calls.under_way.values()))

    async def end(host):
        return await host.until(
            lambda: next((b for _, b in host.sent if isinstance(b, ToolResult)), None)
        )

    drive(instance, repo, begin, table=table)
    for _ in range(STARTS - 1):
        drive(instance, repo, under_way, table=table)
    assert drive(instance, repo, end, table=table).error == "interrupted"


@pytest.mark.parametrize("tool", ["read", "shell"])
def test_a_read_whose_process_was_killed_from_outside_runs_again(instance, repo, tool):
    """What may have had an effect does not: its result says what happened."""
    args = {"read": {"path": "a.txt"}, "shell": {"command": "echo hi"}}[tool]

    async def script(host):
        converse = host.performer.calls._converse
        runs = []

        async def killed_at_first(current, order, call, running, ending, held):
            runs.append(call)
            if len(runs) == 1:
                ending.born = True  # and then its guard is gone
            else:
                await converse(current, order, call, running, ending, held)

        host.performer.calls._converse = killed_at_first
        return await host.result(tool, **args), runs

    result, runs = drive(instance, repo, script)
    if tool == "read":
        assert result.ok and result.text == "     1\tone\n     2\ttwo\n" and len(runs) == 2
    else:
        assert result.error == "crashed" and len(runs) == 1


def test_a_killed_generation_is_formed_again_and_its_calls_go_on(instance, repo, tools):
    async def script(host):
        command = "touch $HOME/up; while ! test -e $HOME/go; do sleep 0.01; done; echo on"
        id = host.begin("shell", command=command)
        scratch = host.performer.places.scratch
        home = (await host.until(lambda: next(iter(scratch.glob("*/home/up")), None))).parent
        first = host.performer.generations.current
        os.kill(first.pid, signal.SIGKILL)
        assert (await host.result("read", path="a.txt")).text.endswith("2\ttwo\n")
        assert host.performer.generations.current is not first
        (home / "go").touch()
        return await host.until(lambda: host.answer(id))

    result = drive(instance, repo, script)
    assert result.ok and result.text.startswith("on\n")


def test_a_killed_guard_ends_its_call_and_leaves_nothing(instance, repo, tools):
    mark = f"mark-{os.getpid()}-guard"

    async def script(host):
        id = host.begin("shell", command=f"sleep 1000; echo {mark}")
        await asyncio.to_thread(eventually, lambda: processes_naming(mark))
        generation = psutil.Process(host.performer.generations.current.pid)
        [guard] = [g for g in generation.children() if len(g.children(recursive=True)) > 1]
        guard.kill()
        result = await host.until(lambda: host.answer(id))
        await asyncio.to_thread(eventually, lambda: not processes_naming(mark))
        return result

    result = drive(instance, repo, script)
    assert result.error == "crashed" and "from outside" in result.text


def guards(host):
    generation = psutil.Process(host.performer.generations.current.pid)
    found = {}
    for one in generation.children():
        with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended
            found[one.pid] = len(one.children())
    return found


def test_guards_guard_one_call_after_the_other(instance, repo, tools):
    async def script(host):
        seen = set()
        for _ in range(12):
            assert (await host.result("read", path="a.txt")).ok
            seen |= guards(host).keys()
            # Between two calls each has a worker again, and nothing else below it.
            await host.until(lambda: set(guards(host).values()) == {1})
        assert len(seen) <= 3, seen
        for pid in guards(host):
            os.kill(pid, signal.SIGKILL)
        assert (await host.result("read", path="a.txt")).ok

    drive(instance, repo, script)


def test_a_worker_that_is_killed_while_it_waits_is_replaced(instance, repo, tools):
    async def script(host):
        await host.result("read", path="a.txt")
        await host.until(lambda: set(guards(host).values()) == {1})
        for pid in guards(host):
            [worker] = psutil.Process(pid).children()
            worker.kill()
            await host.until(lambda w=worker: w.status() == psutil.STATUS_ZOMBIE)
        assert [(await host.result("read", path="a.txt")).ok for _ in range(3)] == [True] * 3

    drive(instance, repo, script)


def test_a_child_that_a_module_left_at_its_import_ends_no_generation(instance, repo, tools):
    (tools / "left.py").write_text(
        "import subprocess\nCHILD = subprocess.Popen(['sleep', '1000'])\n"
    )

    async def script(host):
        assert (await host.result("read", path="a.txt")).ok
        generation = psutil.Process(host.performer.generations.current.pid)
        [child] = [one for one in generation.children() if one.name() == "sleep"]
        child.kill()
        await host.until(lambda: not child.is_running())  # reaped
        assert (await host.result("read", path="a.txt")).ok
        assert host.performer.generations.current.pid == generation.pid

    drive(instance, repo, script)


def test_guards_beyond_the_one_that_is_always_free_end(instance, repo, tools, monkeypatch):
    monkeypatch.setattr("loomd.tools.generation.KEPT_MS", 50)

    async def script(host):
        ids = [host.begin("shell", command="true") for _ in range(6)]
        for id in ids:
            await host.until(lambda i=id: host.answer(i))
        await host.until(lambda: len(guards(host)) == 1)
        assert (await host.result("read", path="a.txt")).ok

    drive(instance, repo, script)


def test_a_killed_nursery_ends_the_actor(instance, repo):
    async def script(host):
        os.kill(host.nursery, signal.SIGKILL)
        with pytest.raises(AssertionError, match="nursery is gone"):
            await host.until(lambda: False)

    drive(instance, repo, script)


def test_nothing_outlives_the_host(instance, repo, tools):
    async def script(host):
        mark = f"mark-{os.getpid()}-host"
        host.begin("shell", command=f"setsid sleep 1000 & sleep 1000; echo {mark}")
        await asyncio.to_thread(eventually, lambda: processes_naming(mark))
        return [p.pid for p in below(host.nursery)]

    pids = drive(instance, repo, script)
    assert len(pids) >= 4
    eventually(lambda: not any(psutil.pid_exists(pid) for pid in pids))
