"""The limit of the daemon crosses sessions: it is seen, and freed by whatever ends its holder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.openai_server import KEYS, Answer, OpenAIServer
from tests.support import Client, Daemon, eventually
from tests.system.mainjob import JOB_S, Job, make_repo

pytestmark = pytest.mark.timeout(300)

CONFIG = """
[limits]
daemon_calls = 1
"""


def brain(request: dict[str, Any]) -> Answer:
    """One session holds the slot for as long as it may, the other reads."""
    if any(message["role"] == "tool" for message in request["messages"]):
        return Answer(text="read it")
    if "hold" in str(request["messages"]):
        return Answer(calls=[("shell", {"command": "sleep 1000"})])
    return Answer(calls=[("read", {"path": "a.py"}), ("list", {"path": "."})])


def waits(client: Client, session: str, after: int = 0) -> int:
    """The incarnation of the session's host, later than `after`, both calls of which wait, and say
    for what; 0 if there is none."""
    rows = {row["name"]: row for row in client.request("ps", session=session)}
    host = rows.get(f"{session}/tools", {})
    waiting = host.get("waiting_for") == "2 queued: limits.daemon_calls"
    return int(host["incarnation"]) if waiting and host["incarnation"] > after else 0


@pytest.mark.parametrize("how", ["kill", "cancel"])
def test_a_session_waits_for_the_slot_of_another_until_that_ones_call_ends(
    how: str, daemons: Callable[..., Daemon], tmp_path: Path
) -> None:
    repos = [make_repo(tmp_path / name, {"a.py": "x = 1\n"}) for name in ("one", "two")]
    with OpenAIServer(brain) as server:
        daemon = daemons(server.config(CONFIG), **KEYS)
        client = daemon.client()
        try:
            holder, other = (Job(daemon, client, repo) for repo in repos)
            holder.open("hold it")
            holder.follow(until=lambda event: event["type"] == "tool_call")
            eventually(lambda: acting(client, holder.session), JOB_S, what=holder.story)
            other.open("look at it")
            first = eventually(lambda: waits(client, other.session), JOB_S, what=other.story)
            # The one that waits is killed: it waits on.
            assert other.kill(f"{other.session}/tools")
            eventually(lambda: waits(client, other.session, first), JOB_S, what=other.story)
            if how == "kill":
                assert holder.kill(f"{holder.session}/tools")
                # Its successor begins the call again, behind who was in line, but before that one's
                # second call: sessions take turns.
                other.follow(until=lambda event: event["type"] == "call_started")
            client.request("control", session=holder.session, op="cancel")
            other.follow()
            assert other.row()["state"] == "done", other.story()
            types = [event["type"] for event in other.events]
            assert types.count("call_queued") >= 2 and types.count("call_started") == 2
            holder.follow()
        finally:
            client.close()


def acting(client: Client, session: str) -> bool:
    rows = {row["name"]: row for row in client.request("ps", session=session)}
    return rows.get(f"{session}/tools", {}).get("state") == "acting"
