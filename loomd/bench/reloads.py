"""How long it takes from a save until the new code answers."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

from loomd.bench.instance import Bench
from loomd.bench.report import Figure
from loomd.wire.errors import LoomError

SAVES = 40
PAUSE_S = 0.005
"""Between two looks: whoever asks without pause takes a processor from those that are measured."""

TOOL = '''
from loomd.tools import tool

@tool
def version() -> str:
    """Tells its version."""
    return "{n}"
'''


def reload(bench: Bench, agents: int) -> Iterator[Figure]:
    """From the rename of a saved tool file until the tool host's step with the first result of the
    new code: seen, formed, recorded, called."""
    path = bench.places.config.parent / "tools" / "version.py"
    path.parent.mkdir(exist_ok=True)
    repo = bench.places.state.parent / "reloaded"
    repo.mkdir(exist_ok=True)
    opened = bench.client.request(
        "open_session", repo=str(repo), goal="", yes=True, env={"PATH": os.environ["PATH"]}
    )
    session = opened["session"]
    host = f"{session}/tools"

    def generation() -> int:
        return int(bench.client.request("tools", session=session)["generation"])

    while not generation():
        time.sleep(0.01)
    name = bench.spawn(session, "caller")
    samples = []
    for n in range(SAVES + 1):
        before = generation()
        new = path.with_name(".version.new")
        new.write_text(TOOL.replace("{n}", str(n)))
        began = time.time()
        os.rename(new, path)
        while generation() == before:
            time.sleep(PAUSE_S)
        bench.tell(name, op="call", to=host, name="version", args={}, n=1)
        while len(done := bench.saved(name).get("done", ())) < n + 1:
            time.sleep(PAUSE_S)
        if done[-1] != "call":
            raise LoomError("failed", done[-1])
        answered = [now for kind, now in bench.times(host) if kind == "effect"][-1]
        if n:  # with the first one everything is cold
            samples.append((answered - began) * 1000.0)
    bench.clear()
    bench.client.request("control", session=session, op="stop")
    yield Figure("reload", "ms", samples, 150.0, note="save to first result of the new code")
