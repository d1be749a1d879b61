"""`loomctl undo` on a real daemon: sessions that are over, what others have changed since, and what
commands changed themselves."""

from __future__ import annotations

import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.openai_server import KEYS, Answer, OpenAIServer
from tests.support import Daemon, eventually
from tests.system.mainjob import RENAMED, SOURCES, Job, contents, make_repo, opener_env
from tests.system.test_main_job import loomctl
from tests.system.test_real_model import said

pytestmark = pytest.mark.timeout(300)  # the import of litellm alone takes 20 s of a busy machine


def status(repo: Path) -> str:
    return subprocess.run(
        ["git", "status", "--porcelain"], cwd=repo, check=True, capture_output=True, text=True
    ).stdout


def test_a_session_that_is_over_is_undone_and_redone_and_what_others_did_stays(
    daemon: Daemon, tmp_path: Path
) -> None:
    repo = make_repo(tmp_path / "repo")
    at = daemon.instance
    with daemon.client() as client:
        job = Job(daemon, client, repo).open()
        job.follow()
        job.check_done()
    session = job.session

    one = loomctl(at, "undo", session)
    (path,) = one["files_changed"]
    assert one["undone"] == ["e-4"] and f"+++ b/{path}" in one["diff"]
    assert (repo / path).read_text() == SOURCES[path]
    states = {edit["id"]: edit["state"] for edit in loomctl(at, "edits", session)}
    assert states["e-4"] == "undone" and states[one["edit"]] == "applied"
    assert path not in loomctl(at, "diff", session)["files_changed"]

    # A person's own lines in another file stay, whoever takes back what.
    mine = "# mine\n"
    parser = repo / "conf/parser.py"
    name = "test_conf.py" if path == "conf/use.py" else "conf/use.py"
    other = repo / name
    other.write_text(other.read_text().replace("\n\n\n", f"\n\n{mine}\n"))
    rest = loomctl(at, "undo", session, "--all")
    assert len(rest["undone"]) == 3
    assert other.read_text() == SOURCES[name].replace("\n\n\n", f"\n\n{mine}\n")
    assert status(repo) == f" M {name}\n"
    assert loomctl(at, "diff", session)["files_changed"] == []
    nothing = loomctl(at, "undo", session, code=2)
    assert nothing["error"]["code"] == "bad_state"

    loomctl(at, "undo", session, "--edit", rest["edit"])
    loomctl(at, "undo", session, "--edit", one["edit"])
    other.write_text(other.read_text().replace(mine, ""))
    assert contents(repo, RENAMED) == RENAMED

    # Lines that somebody has changed since are in conflict: all of it, or nothing.
    parser.write_text(parser.read_text().replace("def parse_config", "def zonk"))
    before = contents(repo, RENAMED)
    task = loomctl(at, "edits", session)[0]["task"]
    whole = loomctl(at, "undo", session, "--task", "t-1", code=1)
    assert task != "t-1", "the edits are those of its parts"
    assert whole["error"]["code"] == "conflict" and whole["files_changed"] == []
    (conflict,) = whole["conflicts"]
    assert conflict["path"] == "conf/parser.py" and conflict["lines"] == [[1, 1]]
    for line in ("+<<<<<<< now", " def zonk(text):", "+def parse_cfg(text):", "+>>>>>>> before"):
        assert line in whole["diff"]
    assert contents(repo, RENAMED) == before
    shown = subprocess.run(
        [sys.executable, "-m", "loomctl", "undo", session, "--all"],
        env=at.environment(**opener_env()),
        capture_output=True,
        text=True,
    )
    assert shown.returncode == 1 and "+<<<<<<< now" in shown.stdout
    assert "conf/parser.py:1" in shown.stderr and "nothing was taken back" in shown.stderr

    for args in (["--edit", "e-99"], ["--task", "t-99"], ["--edit", "e-1", "--all"]):
        loomctl(at, "undo", session, *args, code=2)
    loomctl(at, "undo", "s-nobody", code=2)
    loomctl(at, "rm", session)
    assert loomctl(at, "undo", session, code=2)["error"]["code"] == "no_such_session"


# --- commands without review ---------------------------------------------------------------------

FILES = {
    "a.py": "".join(f"line {n}\n" for n in range(9)),
    "gone.py": "g = 1\n",
    "old.py": "".join(f"old {n}\n" for n in range(9)),
    "run.sh": "#!/bin/sh\n",
    "binary": "\0x",
    ".gitignore": "ignored\n",
}

COMMAND = (
    "sed -i 's/line 4/line four/' a.py; rm gone.py; mkdir -p deep/er; mv old.py deep/er/new.py; "
    "chmod +x run.sh; printf '\\000y' > binary; echo hi > fresh; echo no > ignored"
)

HANGS = "sed -i 's/line 7/line seven/' a.py; echo half > half; touch ignored; sleep 1000"


def test_what_a_command_changed_itself_is_undone(
    server: OpenAIServer, daemons: Any, tmp_path: Path
) -> None:
    """In the background too; and what it had changed when the tool host was killed under it."""

    def brain(request: dict[str, Any]) -> Answer:
        calls: list[tuple[str, dict[str, Any]]] = []
        for how, line in re.findall(r"(run|job): (.*)", "\n".join(said(request, "user"))):
            calls.append(("shell", {"command": line, "timeout_s": 3000}))
            if how == "job":
                calls[-1][1]["background"] = True
                calls.append(("job", {"id": "j-1", "wait_s": 300}))
        done = len(said(request, "tool"))
        if done < len(calls):
            return Answer(calls=[calls[done]])
        return Answer(text=f"it said: {said(request, 'tool')[-1][:200]}")

    server.brain = brain
    config = server.config("[review]\nrequired = false\n")
    daemon = daemons(config, **KEYS)
    at = daemon.instance
    repo = make_repo(tmp_path / "repo", FILES)
    with daemon.client() as client:
        job = Job(daemon, client, repo).open(f"run: {COMMAND}")
        job.follow()
        assert job.row()["state"] == "done", job.story()
        (edit,) = loomctl(at, "edits", job.session)
        assert (edit["state"], edit["tool"]) == ("applied", "shell")
        assert {file["path"] for file in edit["files"]} == {
            "a.py", "gone.py", "old.py", "deep/er/new.py", "run.sh", "binary", "fresh",
        }  # fmt: skip
        assert not (repo / "gone.py").exists()
        # What a person does to the moved file meanwhile moves back with it.
        moved = repo / "deep/er/new.py"
        moved.write_text(moved.read_text() + "mine\n")
        undone = loomctl(at, "undo", job.session)
        assert undone["undone"] == [edit["id"]]
        assert status(repo) == " M old.py\n"
        assert (repo / "old.py").read_text() == FILES["old.py"] + "mine\n"
        assert not stat.S_IMODE((repo / "run.sh").stat().st_mode) & 0o111
        assert not (repo / "deep").exists() and (repo / "ignored").exists()
        (repo / "old.py").write_text(FILES["old.py"])
        (repo / "ignored").unlink()

        loomctl(at, "send", job.session, f"job: {COMMAND}")
        job.follow()
        (_, edit) = [e for e in loomctl(at, "edits", job.session) if e["tool"] == "shell"]
        assert (edit["state"], len(edit["files"])) == ("applied", 7), job.story()
        assert not (repo / "gone.py").exists()
        loomctl(at, "undo", job.session, "--edit", edit["id"])
        assert status(repo) == "" and (repo / "gone.py").exists()
        (repo / "ignored").unlink()

        loomctl(at, "send", job.session, f"run: {HANGS}")
        eventually(lambda: (repo / "ignored").exists(), what=job.story)
        assert job.kill(f"{job.session}/tools")
        job.follow()
        edit = loomctl(at, "edits", job.session)[-1]
        assert (edit["state"], edit["detail"]) == ("applied", "interrupted"), job.story()
        assert {file["path"] for file in edit["files"]} == {"a.py", "half"}
        assert "line seven" in loomctl(at, "diff", job.session, "--edit", edit["id"])["diff"]
        loomctl(at, "undo", job.session)
        assert status(repo) == ""
