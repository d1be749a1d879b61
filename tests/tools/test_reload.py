"""New code in force without dropping anything."""

import asyncio
import os

import pytest

from loomd.wire.bodies import Reload
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
        ("import threading; threading.Thread(target=input, daemon=True).start()", "thread"),
        ("from loomd.tools import tool\n@tool\ndef f(x): 'doc'", "no annotation"),
        ("from loomd.tools import tool\n@tool\ndef read(x: str): 'doc'", "built-in"),
        ("from loomd.tools import tool\n@tool\ndef spawn(x: str): 'doc'", "built-in"),
        ("import os; os._exit(1)", "died"),
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
