"""kill -9 at each instant of an undo, and of its undo: it has happened or not, never half, and was
told once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.support import Daemon, TestInstance
from tests.system.mainjob import QUICK, RENAMED, SOURCES, Job, contents, make_repo
from tests.system.test_kill_matrix_main import LENIENT, waiting
from tests.system.test_undo import status

POINTS = [
    *(f"apply.before_rename@tools:{n}" for n in range(1, 9)),
    *(f"apply.after_rename@tools:{n}" for n in range(1, 9)),
    *(f"host.{point}@/tools:{n}" for point in ("before_effect", "after_effect") for n in (2, 4, 5)),
    *(
        f"host.{point}@/{name}:{n}"
        for point in ("before_step", "after_step", "after_commit")
        for name in ("team", "tools")
        for n in (1, 3, 5, 6)
    ),
    *(
        f"hub.{point}:{n}"
        for point in ("before_commit", "after_commit", "before_ack", "before_publish")
        for n in (3, 6, 11, 15)
    ),
    *(f"child.before_ready@/{name}:2" for name in ("team", "tools")),
]

ROUNDS = 16
"""Undos, at most, until every point has fired."""


@pytest.mark.timeout(300)  # one after the other
def test_an_undo_has_happened_or_not_wherever_it_is_killed(
    instance: TestInstance, tmp_path: Path
) -> None:
    instance.config.write_text(LENIENT)
    daemon = Daemon(instance)
    folder = instance.base / "crashes"
    folder.mkdir()
    try:
        daemon.start()
        with daemon.client() as client:
            job = Job(daemon, client, make_repo(tmp_path / "repo", QUICK)).open()
            job.follow()
            job.check_done()
        daemon.stop()
        daemon.env = {"LOOM_CRASH_AT": ",".join(POINTS), "LOOM_CRASH_DIR": str(folder)}
        daemon.start()
        with daemon.client() as client:
            job.client = client
            which = {"all": True}
            for n in range(ROUNDS):
                ends = undo(job, which)
                assert ends["type"] == "undone", job.story()
                wanted = SOURCES if n % 2 == 0 else RENAMED
                assert contents(job.repo, wanted) == wanted, job.story()
                changed = "".join(f" M {path}\n" for path in sorted(RENAMED))
                assert status(job.repo) == ("" if n % 2 == 0 else changed), "no rubbish either"
                which = {"edit": ends["data"]["edit"]}
                if n % 2 and not waiting(folder, POINTS):
                    break
        assert not waiting(folder, POINTS)
        told = Counter(e["data"]["undo"] for e in job.events if e["type"] == "undone")
        assert set(told.values()) == {1}
        applied = Counter(e["data"]["edit"] for e in job.events if e["type"] == "edit_applied")
        assert set(applied.values()) == {1}
        daemon.stop()
    finally:
        daemon.kill()


def undo(job: Job, which: dict) -> dict:
    asked = job.client.request("undo", session=job.session, **which)
    return job.follow(
        until=lambda event: (
            event["type"] in ("undone", "undo_refused") and event["data"]["undo"] == asked["undo"]
        )
    )
