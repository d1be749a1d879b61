"""Calls of tools: what one costs, under each back end of the sandbox."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator
from typing import Any, Final

from loomd.bench import floors
from loomd.bench.instance import Bench, running
from loomd.bench.report import Figure
from loomd.wire.errors import LoomError

MS: Final = 1000.0
CALLS: Final = 200

TOOL: Final = '''
from loomd.tools import tool

@tool(access="read")
def nothing() -> str:
    """Does nothing."""
    return ""
'''

WAYS: Final = {
    "full": ('sandbox = "full"', 6.0, "sandbox off"),
    "landlock": ('sandbox_backend = "landlock"', 12.0, "Landlock, namespaces, seccomp"),
    "bubblewrap": ('sandbox_backend = "bubblewrap"', 45.0, "bubblewrap, Landlock, seccomp"),
}


def samples(bench: Bench, tool: str, args: dict[str, Any]) -> list[float]:
    """Milliseconds from the step that opens a call to the one with its result, of a real session's
    host: a process per call, and one durable commit between the two steps."""
    repo = bench.places.state.parent / "repo"
    repo.mkdir(exist_ok=True)
    (repo / "a.txt").write_text("one\n")
    opened = bench.client.request(
        "open_session", repo=str(repo), goal="", yes=True, env={"PATH": os.environ["PATH"]}
    )
    session = opened["session"]
    host = f"{session}/tools"
    name = bench.spawn(session, "caller")
    # The first call waits until the generation is formed.
    for n in (1, CALLS):
        bench.tell(name, op="call", to=host, name=tool, args=args, n=n)
        while len(done := bench.saved(name).get("done", ())) < (1 if n == 1 else 2):
            time.sleep(0.01)
        if done[-1] != "call":
            raise LoomError("failed", done[-1])
    times = bench.times(host)[-2 * CALLS :]
    found = [
        (after - before) * MS
        for (kind, before), (then, after) in itertools.pairwise(times)
        if (kind, then) == ("mail", "effect")
    ]
    bench.clear()
    bench.client.request("control", session=session, op="stop")
    return found


def sandboxes(bench: Bench, agents: int) -> Iterator[Figure]:
    """A call of a user's tool, which is code that does not ship with loomd, confined in each way; a
    daemon for each."""
    for way, (config, goal, note) in WAYS.items():
        with running(f"[permissions]\n{config}\n") as one:
            folder = one.places.config.parent / "tools"
            folder.mkdir()
            (folder / "nothing.py").write_text(TOOL)
            yield Figure(
                f"tool_call_{way}",
                "ms",
                samples(one, "nothing", {}),
                goal,
                floor=floors.fork() + floors.durable_write(),
                note=f"{note}; one durable commit; floor: bare fork, LMDB commit",
            )
