"""`ctx.state` survives whoever dies, and a call that died has changed nothing in it."""

import asyncio
import contextlib
import os
import signal

import psutil
import pytest

from loomd.wire.bodies import Reload
from tests.tools.stand import Table, git_repo, hosting

KEY = ("tool_state", b"s-test00\0count")

COUNT = '''
import time
from loomd.tools import Context, tool

@tool
def count(ctx: Context, wait: bool = False) -> str:
    """Counts; may wait for a file while it holds the state."""
    ctx.state["n"] = ctx.state.get("n", 0) + 1
    if wait:
        (ctx.scratch / "began").touch()
        while not (ctx.repo / "go").exists():
            time.sleep(0.005)
    return str(ctx.state["n"])
'''


@pytest.fixture
def repo(instance):
    return git_repo(instance.base / "repo", {"a.txt": "one\n"})


@pytest.fixture(autouse=True)
def tools(instance):
    folder = instance.config.parent / "tools"
    folder.mkdir()
    (folder / "count.py").write_text(COUNT)
    return folder


def drive(instance, repo, script, table):
    async def main():
        async with hosting(instance.places, repo, table) as host:
            await host.ready()
            return await script(host)

    return asyncio.run(main())


async def waiting(host):
    """Begins a call that waits with the state in its hands: (its id, worker, guard). The pids are
    found by their parents: the sandbox may have given the call other numbers."""
    generation = psutil.Process(host.performer.generations.current.pid)
    # The guard that takes the next call, once that of the last one is gone.
    (spare,) = await host.until(lambda: len(found := generation.children()) == 1 and found)
    id = host.begin("count", wait=True)
    await host.until(lambda: list(host.performer.places.scratch.glob("*/began")))
    (worker,) = spare.children()
    return id, worker.pid, spare.pid


@pytest.mark.parametrize("victim", ["worker", "guard"])
def test_a_call_whose_process_dies_changes_nothing(instance, repo, victim):
    table = Table(instance.places.blobs)

    async def script(host):
        assert (await host.result("count")).text == "1"
        id, worker, guard = await waiting(host)
        os.kill(worker if victim == "worker" else guard, signal.SIGKILL)
        assert (await host.until(lambda: host.answer(id))).error == "crashed"
        assert table.rows_[KEY] == {"n": 1}
        assert (await host.result("count")).text == "2"

    drive(instance, repo, script, table)
    assert table.rows_[KEY] == {"n": 2}


def test_the_death_of_the_generation_ends_no_call_and_loses_no_update(instance, repo):
    table = Table(instance.places.blobs)

    async def script(host):
        assert (await host.result("count")).text == "1"
        id, _, _ = await waiting(host)
        old = host.performer.generations.current
        os.kill(old.pid, signal.SIGKILL)
        await host.until(lambda: host.performer.generations.current not in (old, None))
        (repo / "go").touch()
        assert (await host.until(lambda: host.answer(id))).text == "2"
        assert (await host.result("count")).text == "3"

    drive(instance, repo, script, table)


def test_the_death_of_the_nursery_is_that_of_the_host_and_its_successor_has_the_state(
    instance, repo, tools
):
    table = Table(instance.places.blobs)

    async def dies(host):
        assert (await host.result("count")).text == "1"
        id, worker, _ = await waiting(host)
        left = psutil.Process(worker)
        os.kill(host.nursery, signal.SIGKILL)
        with contextlib.suppress(AssertionError):
            await host.until(lambda: host.failed)
        assert host.failed and table.rows_[KEY] == {"n": 1}
        return id, left

    id, left = drive(instance, repo, dies, table)
    with contextlib.suppress(psutil.NoSuchProcess):
        left.kill()  # what the root's sweep would find
    (tools / "count.py").write_text("def f(:")  # what was recorded counts, not what lies there
    (repo / "go").touch()

    async def successor(host):
        # A tool that only reads is called again: on the state that its first attempt left alone.
        again = await host.until(lambda: host.answer(id))
        return again.text, (await host.result("count")).text

    assert drive(instance, repo, successor, table) == ("2", "3")


def test_parallel_calls_and_reloads_lose_no_update(instance, repo, tools):
    table = Table(instance.places.blobs)

    async def script(host):
        for n in range(5):
            ids = [host.begin("count") for _ in range(8)]
            (tools / "count.py").write_text(COUNT + f"# {n}\n")
            assert (await host.performer.ask(Reload())).errors == ()
            for id in ids:
                assert (await host.until(lambda id=id: host.answer(id))).ok

    drive(instance, repo, script, table)
    assert table.rows_[KEY] == {"n": 40}
