"""A hub that is handed what nobody should hand it: it goes on, and says what was wrong."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from loomd.actor.echo import EchoBehaviour
from loomd.actor.pump import Pump
from loomd.hub.checkouts import head
from loomd.hub.commits import MAX_BODY
from loomd.hub.intake import LOGGED
from loomd.supervise.link import ChildLink, ProcessBirth
from loomd.supervise.slots import Slot
from loomd.wire import bodies, codec, sockets
from loomd.wire import messages as m
from tests.hub.stand import Host, hub, token
from tests.support import BOUND_S, RequestFailed, TestInstance, eventually

ECHO = "s-1/echo"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_a_repo_whose_git_file_leads_in_a_circle_ends_nothing(instance: TestInstance) -> None:
    repo = instance.base / "repo"
    repo.mkdir()
    (repo / "loop").symlink_to("loop")
    (repo / ".git").write_text("gitdir: loop\n")
    with hub(instance) as root, root.client() as client:
        opened = client.request("open_session", repo=str(repo))
        assert client.request("session", session=opened["session"])["base"] == ""
        assert root.process is not None and root.process.poll() is None


def git_folder(path: Path, **files: str) -> Path:
    for name, text in {"HEAD": "ref: refs/heads/main\n", **files}.items():
        file = path / ".git" / name.replace("__", "/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return path


def test_head_is_the_commit_that_git_names(tmp_path: Path) -> None:
    assert head(git_folder(tmp_path / "loose", refs__heads__main=f"{COMMIT}\n")) == COMMIT
    packed = git_folder(tmp_path / "packed")
    (packed / ".git" / "packed-refs").write_text(f"# pack-refs\n{COMMIT} refs/heads/main\n")
    assert head(packed) == COMMIT
    assert head(git_folder(tmp_path / "detached", HEAD=f"{COMMIT}\n")) == COMMIT
    tree = tmp_path / "tree"
    tree.mkdir()
    main = git_folder(tmp_path / "main", refs__heads__topic=COMMIT) / ".git"
    (main / "worktrees" / "tree").mkdir(parents=True)
    (main / "worktrees" / "tree" / "HEAD").write_text("ref: refs/heads/topic\n")
    (main / "worktrees" / "tree" / "commondir").write_text("../..\n")
    (tree / ".git").write_text(f"gitdir: {main}/worktrees/tree\n")
    assert head(tree) == COMMIT


@pytest.mark.parametrize(
    "said", ["ref: /etc/passwd", "ref: refs/../../secret", "ref: ../secret", "a secret", "\0", ""]
)
def test_head_tells_nothing_but_commits(tmp_path: Path, said: str) -> None:
    repo = git_folder(tmp_path / "repo", HEAD=said)
    (tmp_path / "repo" / "secret").write_text("hunter2")
    assert head(repo) == ""


def test_head_waits_for_no_pipe(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    os.mkfifo(tmp_path / ".git" / "HEAD")
    assert head(tmp_path) == ""
    assert head(tmp_path / "nowhere") == ""


def test_an_answer_that_is_none_is_an_error_of_its_asker(instance: TestInstance) -> None:
    with hub(instance) as root, root.client() as client:
        client.request("spawn", spec={"name": ECHO, "kind": "echo", "session": "s-1"})
        with Host(root, ECHO, 5) as host:
            host.hello()
            for body, code in ((b"", "internal"), (b"\xc1", "internal"), (b"x" * (MAX_BODY + 1),
                               "too_large")):  # fmt: skip
                client._count += 1
                id = f"r{client._count}"
                args = {"actor": ECHO, "body": {"t": "note", "data": 1}}
                client._send(m.Request(id=id, op="ask", args=args))
                asked = host.wait(m.Asked)
                host.send(m.Answer(route=asked.route, id=asked.id, body=body))
                answer = client._receive(15.0)
                assert isinstance(answer, m.Failure) and answer.code == code, answer
            assert root.process is not None and root.process.poll() is None


def test_a_question_that_would_not_fit_its_frame_is_refused(instance: TestInstance) -> None:
    with hub(instance) as root, root.client() as client:
        client.request("spawn", spec={"name": ECHO, "kind": "echo", "session": "s-1"})
        with Host(root, ECHO, 5) as host:
            host.hello()
            body = {"t": "note", "data": "x" * MAX_BODY}
            with pytest.raises(RequestFailed, match="too_large"):
                client.request("ask", actor=ECHO, body=body)
            host.send(m.Ask(id="q", to=ECHO, body=codec.encode(bodies.Note(data="x" * MAX_BODY))))
            assert host.wait(m.Answered).error == "too_large"


def test_a_flood_of_garbage_that_reads_no_answer_costs_little(instance: TestInstance) -> None:
    with hub(instance) as root, root.client() as client:
        flood = sockets.make_dealer(instance.places.actors, "flood")
        sent = 30_000
        for _ in range(sent):
            flood.send(b"\xc1")

        def refused() -> int:
            counted = client.request("status")["counters"]
            return int(counted.get("unknown_message", 0))

        eventually(lambda: refused() >= sent, what="all of it counted")
        assert root.log().count("frame.refused") <= 2 * LOGGED
        flood.close()


def test_nobody_can_take_an_identity_before_its_host(instance: TestInstance) -> None:
    name, incarnation = "s-1/echo", 5
    with hub(instance) as root, root.client() as client:
        client.request("spawn", spec={"name": name, "kind": "echo", "session": "s-1"})
        squatter = sockets.make_dealer(instance.places.actors, f"{name}#{incarnation}")
        squatter.send(b"\xc1")
        assert squatter.receive(BOUND_S) is not None
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        birth = ProcessBirth(
            name=name,
            incarnation=incarnation,
            token=token(name, incarnation),
            link=ChildLink(theirs),
            slot=Slot.private(),
            args={
                "config": str(instance.config),
                "state_dir": str(instance.state),
                "runtime_dir": str(instance.runtime),
            },
        )
        with ours, theirs:
            pump = Pump(birth, EchoBehaviour())
            pump.hello()
            eventually(lambda: (pump.turn(), pump.step)[1] == 1, what="its first commit")
            pump.close()
        squatter.close()
