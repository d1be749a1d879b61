"""New code in force without dropping anything."""

import asyncio
import json
import os

import pytest

from loomd.tools.generations import WATCH_S
from loomd.wire.bodies import Decision, Reload
from tests.tools.stand import Table, git_repo, hosting

TOOL = '''
from loomd.tools import Context, tool

@tool
def version(ctx: Context) -> str:
    """Tells its version."""
    ctx.state["calls"] = ctx.state.get("calls", 0) + 1
    return "{version} " + str(ctx.state["calls"])

@tool
def slow(ctx: Context) -> str:
    """Waits for a file."""
    import time
    (ctx.scratch / "began").touch()
    while not (ctx.repo / "go").exists():
        time.sleep(0.005)
    return "{version}"
'''


@pytest.fixture
def repo(instance):
    return git_repo(instance.base / "repo", {"a.txt": "one\n"})


@pytest.fixture
def tools(instance):
    folder = instance.config.parent / "tools"
    folder.mkdir()
    save(folder, "one")
    return folder


def save(folder, version):
    """Of equal size and within a second: the default bytecode cache would not notice."""
    path = folder / "mine.py"
    path.write_text(TOOL.replace("{version}", version))
    os.utime(path, (1_000_000_000, 1_000_000_000))


def drive(instance, repo, script, **args):
    async def main():
        async with hosting(instance.places, repo, **args) as host:
            await host.ready()
            return await script(host)

    return asyncio.run(main())


def reload(host):
    return host.performer.ask(Reload())


def names(host):
    row = host.table.row("toolsets", b"s-test00\0")
    return row["generation"], {tool["name"] for tool in row["tools"]}


def test_a_users_tool_is_in_the_toolset_with_its_source(instance, repo, tools):
    async def script(host):
        row = host.table.row("toolsets", b"s-test00\0")
        found = {tool["name"]: tool for tool in row["tools"]}
        assert found["version"]["source"] == "tools/mine.py"
        assert found["version"]["parameters"]["properties"] == {}
        assert (await host.result("version")).text == "one 1"

    drive(instance, repo, script)


def test_new_code_is_in_force_after_a_reload_and_state_survives(instance, repo, tools):
    async def script(host):
        assert (await host.result("version")).text == "one 1"
        save(tools, "two")
        assert (await host.result("version")).text == "one 2"
        said = await reload(host)
        assert (said.generation, said.changed, said.errors) == (2, ("mine.py",), ())
        assert (await host.result("version")).text == "two 3"
        assert names(host)[0] == 2

    drive(instance, repo, script)


def test_a_call_under_way_finishes_on_the_old_code(instance, repo, tools):
    async def script(host):
        id = host.begin("slow")
        scratch = host.performer.places.scratch
        await host.until(lambda: list(scratch.glob("*/began")))
        old = host.performer.generations.current
        save(tools, "two")
        await reload(host)
        assert host.performer.generations.current is not old and old.retired
        assert (await host.result("version")).text == "two 1"
        (repo / "go").touch()
        assert (await host.until(lambda: host.answer(id))).text == "one"
        assert (await host.result("slow")).text == "two"
        await host.until(lambda: not os.path.exists(f"/proc/{old.pid}"))

    drive(instance, repo, script)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("def f(:", "SyntaxError"),
        ("import nothing_of_this_name", "ModuleNotFoundError"),
        ("raise SystemExit(3)", "SystemExit"),
        ("import threading as t; t.Thread(target=t.Event().wait, daemon=True).start()", "thread"),
        ("from loomd.tools import tool\n@tool\ndef f(x): 'doc'", "no annotation"),
        ("from loomd.tools import tool\n@tool\ndef read(x: str): 'doc'", "built-in"),
        ("from loomd.tools import tool\n@tool\ndef spawn(x: str): 'doc'", "built-in"),
        ("import os; os._exit(1)", "died"),
        ("import resource as r; r.setrlimit(r.RLIMIT_NOFILE, (8, 8))", "no process can be made"),
        ("import os; os.fork = lambda: 1 / 0", "no process can be made"),
        (
            "from loomd.tools import tool\n@tool\ndef f() -> str: 'd'\n@tool(name='f')\n"
            "def g() -> str: 'd'",
            "two tools have the name 'f'",
        ),
    ],
)
def test_a_broken_file_changes_nothing_and_is_told(instance, repo, tools, source, said):
    async def script(host):
        before = names(host)
        (tools / "broken.py").write_text(source)
        save(tools, "two")
        answer = await reload(host)
        assert answer.generation == 1
        assert said in answer.errors[0]["error"], answer
        assert "generations/" not in answer.errors[0]["error"]  # the author's file, not our copy
        assert names(host) == before
        assert (await host.result("version")).text == "one 1"
        (tools / "broken.py").unlink()
        assert (await reload(host)).generation == 2
        assert (await host.result("version")).text == "two 2"

    drive(instance, repo, script)


def test_nothing_new_is_no_new_generation(instance, repo, tools):
    async def script(host):
        said = await reload(host)
        assert (said.generation, said.loaded, said.changed) == (1, ("mine.py",), ())

    drive(instance, repo, script)


def test_two_reloads_at_once(instance, repo, tools):
    async def script(host):
        save(tools, "two")
        one, other = await asyncio.gather(reload(host), reload(host))
        assert (one.generation, other.generation) == (2, 2)

    drive(instance, repo, script)


def test_a_broken_file_at_the_start_leaves_only_itself_out(instance, repo, tools):
    (tools / "broken.py").write_text("def f(:")

    async def script(host):
        assert [e.type for e in host.events] == ["tools_broken"]
        assert "version" in names(host)[1]
        (tools / "broken.py").write_text("x = 1")
        assert (await reload(host)).generation == 2

    drive(instance, repo, script)


def test_a_new_incarnation_forms_what_was_recorded_not_what_lies_there(instance, repo, tools):
    table = Table(instance.places.blobs)

    async def first(host):
        return (await host.result("version")).text

    assert drive(instance, repo, first, table=table) == "one 1"
    save(tools, "two")
    (tools / "broken.py").write_text("def f(:")
    assert drive(instance, repo, first, table=table) == "one 2"


def test_a_module_beside_the_tools_can_be_imported(instance, repo, tools):
    (tools / "_helper.py").write_text("VALUE = 'helped'")
    (tools / "other.py").write_text(
        "from _helper import VALUE\nfrom loomd.tools import tool\n"
        "@tool\ndef helped() -> str:\n    'Doc.'\n    return VALUE\n"
    )

    async def script(host):
        assert (await host.result("helped")).text == "helped"

    drive(instance, repo, script)


def events(host, type="tools_broken"):
    return [event.data for event in host.events if event.type == type]


def test_a_broken_file_is_told_to_every_client_once_until_it_is_mended(instance, repo, tools):
    async def script(host):
        (tools / "broken.py").write_text("import math\n\n\ndef f(:\n")
        assert (await reload(host)).errors == (await reload(host)).errors
        (told,) = events(host)
        assert told["generation"] == 1 and told["errors"][0]["module"] == "broken.py"
        (tools / "broken.py").unlink()
        assert (await reload(host)).errors == ()
        assert len(events(host)) == len(events(host, "tools_mended")) == 1
        assert (await host.result("version")).text == "one 1"

    drive(instance, repo, script)


def test_the_traceback_begins_at_the_authors_file(instance, repo, tools):
    (tools / "_deep.py").write_text("def fall():\n    raise ValueError('deep')\n")

    async def script(host):
        (tools / "broken.py").write_text("import _deep\n_deep.fall()\n")
        error = (await reload(host)).errors[0]["error"]
        lines = error.splitlines()
        assert lines[0] == "Traceback (most recent call last):" and "ValueError: deep" in lines[-1]
        assert lines[1].startswith('  File "tools/broken.py", line 2')
        assert 'File "tools/_deep.py", line 2' in error and "importlib" not in error

    drive(instance, repo, script)


# So long may one import take where another is to hang: on a busy machine a good one must get by.
IMPORT_S = 3.0
LOOP = "import time\nwhile True:\n    time.sleep(0.01)\n"
DEAF = """
import signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
while True:
    pass
"""


def test_a_file_that_hangs_at_its_import_is_interrupted_and_shown_where(instance, repo, tools):
    async def script(host):
        (tools / "hangs.py").write_text(LOOP)
        said = await reload(host)
        (error,) = said.errors
        assert error["module"] == "hangs.py" and "longer than 3 s" in error["error"]
        assert 'File "tools/hangs.py", line' in error["error"]
        assert "generation.py" not in error["error"]
        assert (await host.result("version")).text == "one 1"

    drive(instance, repo, script, settings={"limits": {"import_s": IMPORT_S}})


def test_one_that_cannot_be_interrupted_is_killed_and_named(instance, repo, tools, monkeypatch):
    monkeypatch.setattr("loomd.tools.generations.GRACE_S", 0.1)

    async def script(host):
        (tools / "deaf.py").write_text(DEAF)
        (error,) = (await reload(host)).errors
        assert error["module"] == "deaf.py" and "killed" in error["error"]
        assert (await host.result("version")).text == "one 1"
        (tools / "deaf.py").write_text("import os; os._exit(1)")
        (error,) = (await reload(host)).errors
        assert error["module"] == "deaf.py" and "died" in error["error"]

    drive(instance, repo, script, settings={"limits": {"import_s": IMPORT_S}})


def test_one_that_eats_memory_at_its_import_is_killed_and_named(instance, repo, tools):
    settings = {"limits": {"memory_mb": 200}}

    async def script(host):
        (tools / "eats.py").write_text(
            "found = []\nwhile True:\n    found.append(b'x' * 1_000_000)"
        )
        answer = await reload(host)
        assert answer.generation == 1
        [error] = answer.errors
        assert error["module"] == "eats.py" and "200 MB" in error["error"]
        assert (await host.result("version")).text == "one 1"

    drive(instance, repo, script, settings=settings)


def test_what_it_shares_with_whom_it_was_forked_from_is_not_a_modules_memory(instance, repo, tools):
    held = bytearray(b"x") * (250 << 20)
    (tools / "slow.py").write_text(f"import time\ntime.sleep({3 * WATCH_S})\n")

    async def script(host):
        assert (await host.result("version")).text == "one 1"
        assert (await reload(host)).errors == ()

    drive(instance, repo, script, settings={"limits": {"memory_mb": 200}})
    del held


def test_a_newer_save_does_not_wait_for_one_that_hangs(instance, repo, tools):
    async def script(host):
        (tools / "hangs.py").write_text(DEAF)
        first = asyncio.create_task(reload(host))
        forming = await host.until(lambda: children(host.nursery) - {generation_pid(host)})
        (tools / "hangs.py").unlink()
        save(tools, "two")
        second = await reload(host)
        assert (second.generation, second.errors) == (2, ())
        assert (await first) == second
        assert (await host.result("version")).text == "two 1"
        await host.until(lambda: not [p for p in forming if os.path.exists(f"/proc/{p}")])

    drive(instance, repo, script)


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return {int(one) for one in file.read().split()}


def generation_pid(host):
    return host.performer.generations.current.pid


def test_a_call_that_was_accepted_before_a_reload_runs_on_the_code_that_took_it(
    instance, repo, tools
):
    """One that waits its turn has been checked against the old schema."""
    one = '''
from loomd.tools import Context, tool

@tool(exclusive=True)
def turn(old: str, ctx: Context) -> str:
    """Waits for a file."""
    import time
    while not (ctx.repo / old).exists():
        time.sleep(0.005)
    return old
'''

    async def script(host):
        (tools / "turn.py").write_text(one)
        await reload(host)
        first, second = host.begin("turn", old="first"), host.begin("turn", old="second")
        await host.until(lambda: host.performer.calls.under_way and host.state.waiting)
        (tools / "turn.py").write_text(one.replace("old", "new"))
        held = await reload(host)
        assert held.generation == 2 and "`old` would be unknown" in held.errors[0]["error"]
        (repo / "first").touch()
        (repo / "second").touch()
        assert (await host.until(lambda: host.answer(first))).text == "first"
        assert (await host.until(lambda: host.answer(second))).text == "second"
        await host.until(lambda: host.state.generation == 3)
        assert (await host.result("turn", new="first")).text == "first"
        assert (await host.result("turn", old="first")).error == "bad_args"

    drive(instance, repo, script)


def test_what_a_person_is_asked_about_is_what_runs(instance, repo, tools):
    one = '''
from loomd.tools import tool

@tool(access="execute")
def risky(a: str) -> str:
    """Asks."""
    return "old " + a
'''

    async def script(host):
        (tools / "risky.py").write_text(one)
        await reload(host)
        id = host.begin("risky", a="x")
        (asked,) = events(host, "permission_asked")
        (tools / "risky.py").write_text(one.replace("a: str", "b: str").replace("+ a", "+ b"))
        said = await reload(host)
        assert said.generation == 2 and "`a` would be unknown" in said.errors[0]["error"]
        assert said.errors[0]["module"] == "risky.py" and len(events(host)) == 1
        host.mail(Decision(question=asked["id"], allow=True, by="me"), "hub")
        assert (await host.until(lambda: host.answer(id))).text == "old x"
        await host.until(lambda: names(host)[0] == 3)
        host.begin("risky", b="x")
        assert len(events(host, "permission_asked")) == 2

    drive(instance, repo, script, yes=False, settings={"review": {"required": False}})


def test_a_repos_tools_count_once_it_is_trusted(instance, repo, tools):
    its = repo / ".loom" / "tools"
    its.mkdir(parents=True)
    (its / "its.py").write_text(
        "from loomd.tools import tool\n@tool\ndef its() -> str:\n    'Doc.'\n    return 'its 1'\n"
    )

    async def script(host):
        assert (await host.result("its")).error == "no_such_tool"
        (instance.config.parent / "trusted").write_text(f"{repo}\n")
        said = await reload(host)
        assert said.changed == (".loom/tools/its.py",)
        row = host.table.row("toolsets", b"s-test00\0")
        found = {tool["name"]: tool["source"] for tool in row["tools"]}
        assert found["its"] == ".loom/tools/its.py" and found["version"] == "tools/mine.py"
        assert (await host.result("its")).text == "its 1"
        (its / "its.py").write_text("1 / 0\n")
        (error,) = (await reload(host)).errors
        assert error["module"] == ".loom/tools/its.py"
        assert 'File ".loom/tools/its.py", line 1' in error["error"]
        assert (await host.result("its")).text == "its 1"
        (instance.config.parent / "trusted").write_text("")
        assert (await reload(host)).changed == (".loom/tools/its.py",)
        assert (await host.result("its")).error == "no_such_tool"

    drive(instance, repo, script)


def folders(instance):
    return {path.name for path in instance.places.generations.iterdir()}


def test_old_generations_leave_the_disk_when_their_last_call_has_ended(instance, repo, tools):
    async def script(host):
        id = host.begin("slow")
        scratch = host.performer.places.scratch
        await host.until(lambda: list(scratch.glob("*/began")))
        hashes = [host.state.hash]
        for version in ("two", "thr"):
            save(tools, version)
            await reload(host)
            hashes.append(host.state.hash)
        await host.until(lambda: folders(instance) == {hashes[0], hashes[2]})
        (repo / "go").touch()
        assert (await host.until(lambda: host.answer(id))).text == "one"
        await host.until(lambda: folders(instance) == {host.state.hash})

    drive(instance, repo, script)


def test_what_was_saved_while_no_host_ran_is_in_force_soon_after(instance, repo, tools):
    table = Table(instance.places.blobs)

    async def first(host):
        return names(host)[0]

    assert drive(instance, repo, first, table=table) == 1
    save(tools, "two")

    async def second(host):
        await host.until(lambda: names(host)[0] == 2)
        return (await host.result("version")).text

    assert drive(instance, repo, second, table=table) == "two 1"


COUNTER = '''
from loomd.tools import Context, tool

VERSION = {n}

@tool
def count(ctx: Context) -> dict[str, int]:
    """Counts its calls."""
    before = VERSION
    ctx.state["calls"] = ctx.state.get("calls", 0) + 1
    return {"first": before, "last": VERSION, "docs": helper()}

def helper() -> int:
    return {n}
'''


def test_each_edit_under_four_callers_comes_into_force_and_loses_no_call(instance, repo, tools):
    """As tests/system/test_hot.py does with agents; here no edit is overtaken by the next."""

    def save_count(n):
        new = tools / ".count.new"
        new.write_text(COUNTER.replace("{n}", str(n)))
        new.rename(tools / "count.py")

    save_count(0)
    edits, done = 50, asyncio.Event()

    async def caller(host, seen):
        while not done.is_set() or not seen:
            result = await host.result("count")
            assert result.ok, result
            said = json.loads(result.text)
            assert len(set(said.values())) == 1, said  # one version, whole
            seen.append(said["first"])

    async def script(host):
        seen = [[] for _ in range(4)]
        callers = [asyncio.create_task(caller(host, one)) for one in seen]
        for n in range(1, edits + 1):
            save_count(n)
            before = sum(map(len, seen))
            answer = await reload(host)
            assert answer.errors == () and answer.generation == n + 1
            # They meet, however slow the machine is.
            await host.until(lambda before=before: sum(map(len, seen)) > before)
        done.set()
        await asyncio.gather(*callers)
        assert all(one == sorted(one) for one in seen), "a caller went back to older code"
        assert json.loads((await host.result("count")).text)["first"] == edits
        calls = sum(map(len, seen)) + 1
        assert host.table.row("tool_state", b"s-test00\0count") == {"calls": calls}
        assert len({n for one in seen for n in one}) > 10, "they hardly met"
        await host.until(lambda: folders(instance) == {host.state.hash})

    drive(instance, repo, script)
