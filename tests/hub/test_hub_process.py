"""A real hub process: what it promises to hosts, clients and the root."""

from __future__ import annotations

import contextlib
import os
import time
from typing import Any

import pytest

from loomd.store import migrate
from loomd.store.env import Store
from loomd.store.schema import VERSION, number_key, text_key
from loomd.wire import bodies, codec, sockets, topics
from loomd.wire import messages as m
from tests.hub.stand import FakeRoot, Host, hub, out, token
from tests.support import (
    BOUND_S,
    Client,
    RequestFailed,
    Subscriber,
    TestInstance,
    eventually,
)

COMMIT = "c0ffee".ljust(40, "0")


def spawn(client: Client, *names: str) -> None:
    for name in names:
        spec = {"name": name, "kind": "echo", "session": name.split("/")[0]}
        client.request("spawn", spec=spec)


def gone(root: FakeRoot, host: Host, **more: Any) -> None:
    """The root says that this incarnation is dead."""
    root.tell(
        op="exited",
        name=host.name,
        incarnation=host.incarnation,
        **{
            "status": -1,
            "signal": 9,
            "reason": "killed by SIGKILL",
            "blame": None,
            "final": False,
            **more,
        },
    )


def raw_peer(address: str, identity: str = "stranger") -> sockets.Socket:
    return sockets.make_dealer(address, identity)


# --- the straight path ---------------------------------------------------------------------------


def test_a_mail_is_delivered_once_and_gone_after_the_commit_that_consumes_it(
    instance: TestInstance,
) -> None:
    with hub(instance) as root, root.client() as client:
        spawn(client, "s-t/a", "s-t/b")
        assert root.ensured("s-t/a")["group"] == "agents"
        with Host(root, "s-t/a", 1) as a, Host(root, "s-t/b", 2) as b:
            assert a.hello().step == 0
            b.hello()
            a.commit(outbox=(out("s-t/b", bodies.Note(data="hi")),))
            mail = b.take()
            assert (mail.id, mail.sender, mail.seq) == ("s-t/a/1.0", "s-t/a", 1)
            assert codec.body(mail.body) == bodies.Note(data="hi")
            b.consume(mail, outbox=(out("s-t/a"),), state=codec.pack({"n": 1}))
            a.consume(a.take())
            state = client.request("fetch_state", name="s-t/b")
            assert (state["state"], state["mailbox"]) == ({"n": 1}, 0)
        assert root.stop() == 0
        assert instance.sockets() == []


def test_a_successor_gets_what_its_predecessor_did_not_consume(instance: TestInstance) -> None:
    with hub(instance) as root, root.client() as client:
        spawn(client, "s-t/a")
        for n in range(3):
            client.request("post", to="s-t/a", body={"t": "note", "data": n})
        with Host(root, "s-t/a", 1) as first:
            first.hello()
            first.consume(first.take())
            first.take()
        with Host(root, "s-t/a", 2) as second:
            assert second.hello().step == 1
            assert [second.take().seq for _ in range(2)] == [2, 3]


def test_a_backlog_beyond_the_window_arrives_whole_and_in_order(instance: TestInstance) -> None:
    with hub(instance) as root, root.client() as client:
        spawn(client, "s-t/a", "s-t/b")
        with Host(root, "s-t/a", 1) as a, Host(root, "s-t/b", 2) as b:
            a.hello()
            a.commit(outbox=tuple(out("s-t/b") for _ in range(150)))
            b.hello()
            a.commit(outbox=tuple(out("s-t/b") for _ in range(50)))
            for seq in range(1, 201):
                mail = b.take()
                assert mail.seq == seq
                b.consume(mail)
            assert client.request("fetch_state", name="s-t/b")["mailbox"] == 0


# --- a hub that dies -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "point", ["hub.before_commit", "hub.after_commit", "hub.before_ack", "hub.before_publish"]
)
def test_a_commit_is_applied_once_wherever_the_hub_is_killed(
    instance: TestInstance, point: str
) -> None:
    folder = instance.base / "crashes"
    folder.mkdir()
    root = FakeRoot(instance)
    with root:
        root.start()
        with root.client() as client:
            spawn(client, "s-t/a", "s-t/b")
        root.stop()
        at = {"hub.before_ack": ":1", "hub.before_publish": ":3"}.get(point, ":3")
        root.env = {"LOOM_CRASH_AT": point + at, "LOOM_CRASH_DIR": str(folder)}
        root.start()
        with Host(root, "s-t/a", 1) as a, Host(root, "s-t/b", 2) as b:
            a.hello()
            b.hello()
            frame = a.frame(outbox=(out("s-t/b"),), events=(m.EventOut(type="x"),))
            a.send(frame)
            assert root.process is not None and root.link is not None
            assert root.process.wait(BOUND_S) == -9
            root.link.close()
            root.seen.clear()
            root.start()
            a.got.clear()
            b.got.clear()
            b.hello()
            if a.hello().step == 0:
                a.send(frame)
                a.wait(m.Committed)
            assert b.take().id == "s-t/a/1.0"
            with root.client() as client:
                events = client.request("events", session="s-t", after=0, limit=500)
                seqs = [event["seq"] for event in events["events"]]
                assert seqs == list(range(1, len(seqs) + 1))
                assert [e["type"] for e in events["events"]].count("x") == 1
                assert client.request("fetch_state", name="s-t/b")["mailbox"] == 1


def test_a_request_resent_to_the_next_hub_gets_the_same_reply(instance: TestInstance) -> None:
    with hub(instance) as root:
        request = m.Request(id="r-1", op="open_session", args={"repo": str(instance.base)})
        replies = []
        for _ in range(2):
            with root.client("one") as client:
                client._send(request)
                reply = client._receive(BOUND_S)
                assert isinstance(reply, m.Reply)
                replies.append(reply.value)
            root.kill()
            root.start()
        assert replies[0] == replies[1]
        with root.client() as client:
            assert len(client.request("sessions")) == 1
            assert client.welcome is not None and client.welcome.epoch == 3


def test_a_new_hub_tells_its_epoch_and_reconciles(instance: TestInstance) -> None:
    with hub(instance) as root, root.client() as client:
        spawn(client, "s-t/a", "s-t/b")
        root.kill()
        root.children = [
            ["s-t/a", 5, os.getpid(), "running", 0, time.time()],
            ["s-t/x", 6, os.getpid(), "running", 0, time.time()],
        ]
        root.start()
        assert root.wait(lambda note: note["op"] == "epoch")["epoch"] == 2
        assert root.wait(lambda note: note["op"] == "stop")["name"] == "s-t/x"
        root.ensured("s-t/b")
        assert not [note for note in root.seen if note.get("name") == "s-t/a"]


def test_a_hub_whose_root_dies_ends_at_once(instance: TestInstance) -> None:
    with hub(instance) as root:
        assert root.link is not None and root.process is not None
        root.link.close()
        root.process.wait(BOUND_S)


# --- asks ----------------------------------------------------------------------------------------


def test_a_plain_ask_goes_there_and_back(instance: TestInstance) -> None:
    with hub(instance) as root, root.client() as client:
        spawn(client, "s-t/a", "s-t/b")
        with Host(root, "s-t/a", 1) as a, Host(root, "s-t/b", 2) as b:
            a.hello()
            b.hello()
            a.send(m.Ask(id="q1", to="s-t/b", body=codec.encode(bodies.Note(data=1))))
            asked = b.wait(m.Asked)
            b.send(m.Answer(route=asked.route, id=asked.id, body=asked.body))
            assert codec.body(a.wait(m.Answered).body) == bodies.Note(data=1)


def test_an_ask_dies_with_its_callee(instance: TestInstance) -> None:
    with hub(instance) as root, root.client() as client:
        spawn(client, "s-t/a", "s-t/b")
        with Host(root, "s-t/a", 1) as a, Host(root, "s-t/b", 2) as b:
            a.hello()
            b.hello()
            a.send(m.Ask(id="q1", to="s-t/b", body=codec.encode(bodies.Note())))
            b.wait(m.Asked)
            gone(root, b)
            assert a.wait(m.Answered).error == "actor_died"


def test_an_ask_waits_for_a_callee_that_is_being_born(instance: TestInstance) -> None:
    with hub(instance) as root, root.client() as client:
        spawn(client, "s-t/a", "s-t/b")
        with Host(root, "s-t/a", 1) as a, Host(root, "s-t/b", 2) as b:
            a.hello()
            a.send(m.Ask(id="q1", to="s-t/b", body=codec.encode(bodies.Note())))
            b.hello()
            asked = b.wait(m.Asked)
            b.send(m.Answer(route=asked.route, id=asked.id, error="bad_request"))
            assert a.wait(m.Answered).error == "bad_request"


def test_an_ask_wakes_a_sleeper_and_one_for_nobody_is_answered(instance: TestInstance) -> None:
    with hub(instance) as root, root.client() as client:
        spawn(client, "s-t/a", "s-t/b")
        root.ensured("s-t/b")
        with Host(root, "s-t/a", 1) as a, Host(root, "s-t/b", 2) as b:
            a.hello()
            b.hello()
            b.commit(children=(m.ChildChange(name="s-t/b", wanted="asleep"),))
            root.wait(lambda note: note["op"] == "stop")
            gone(root, b, status=0, final=True)
            eventually(lambda: "actor.exited" in root.log(), what="b known to be gone")
            a.send(m.Ask(id="q1", to="s-t/b", body=codec.encode(bodies.Note())))
            root.ensured("s-t/b")
            a.send(m.Ask(id="q2", to="s-t/nobody", body=b""))
            assert a.wait(m.Answered).error == "no_such_actor"


def test_a_client_asks_an_actor(instance: TestInstance) -> None:
    with hub(instance) as root, root.client() as client:
        spawn(client, "s-t/a")
        with Host(root, "s-t/a", 1) as a:
            a.hello()
            body = {"t": "recall", "mode": "search", "query": "x"}
            client._send(m.Request(id="q", op="ask", args={"actor": "s-t/a", "body": body}))
            asked = a.wait(m.Asked)
            assert codec.body(asked.body) == bodies.Recall(query="x")
            answer = codec.encode(bodies.Recalled(answer="yes"))
            a.send(m.Answer(route=asked.route, id=asked.id, body=answer))
            reply = client._receive(BOUND_S)
            assert isinstance(reply, m.Reply)
            assert (reply.value["t"], reply.value["answer"]) == ("recalled", "yes")
            with pytest.raises(RequestFailed, match="no_such_actor"):
                client.request("ask", actor="s-t/x", body=body)
            with pytest.raises(RequestFailed, match="unknown_message"):
                client.request("ask", actor="s-t/a", body={"t": "what"})


# --- timers --------------------------------------------------------------------------------------


def test_a_timer_fires_and_fires_again_for_a_successor_until_it_is_consumed(
    instance: TestInstance,
) -> None:
    with hub(instance) as root, root.client() as client:
        spawn(client, "s-t/a")
        with Host(root, "s-t/a", 1) as first:
            first.hello()
            first.commit(timers=(m.TimerSet(key="t", due=time.time() + 0.01, body=b"b"),))
            assert first.wait(m.TimerFired).body == b"b"
        with Host(root, "s-t/a", 2) as second:
            second.hello()
            fired = second.wait(m.TimerFired)
            assert fired.key == "t"
            second.commit(m.InputRef(kind="timer", key="t"))
        root.kill()
        root.start()
        with Host(root, "s-t/a", 3) as third:
            third.hello()
            third.commit()
            assert third.got == []


def test_a_timer_wakes_a_sleeper(instance: TestInstance) -> None:
    with hub(instance) as root, root.client() as client:
        spawn(client, "s-t/a")
        root.ensured("s-t/a")
        with Host(root, "s-t/a", 1) as a:
            a.hello()
            a.commit(
                timers=(m.TimerSet(key="t", due=time.time() + 0.05),),
                children=(m.ChildChange(name="s-t/a", wanted="asleep"),),
            )
        root.tell(
            op="exited",
            name="s-t/a",
            incarnation=1,
            status=0,
            signal=0,
            reason="normal",
            blame=None,
            final=True,
        )
        root.ensured("s-t/a")


# --- deaths and publications ---------------------------------------------------------------------


def test_events_and_obituaries_are_published(instance: TestInstance) -> None:
    with hub(instance) as root, root.client() as client:
        spawn(client, "s-t/a")
        places = instance.places
        with (
            Subscriber(places, topics.events("s-t"), topics.OBITUARIES) as subscriber,
            Host(root, "s-t/a", 1) as a,
        ):
            a.hello()
            seen: list[Any] = []

            def published() -> bool:
                a.commit(events=(m.EventOut(type="x"),))  # until the subscription has arrived
                got = subscriber.receive(0.05)
                if got is not None:
                    seen.append(got)
                return bool(seen)

            eventually(published)
            assert isinstance(seen[0], m.Event)
            gone(root, a)
            while not isinstance(said := subscriber.receive(), m.Delta):
                assert said is not None
            assert said.data["name"] == "s-t/a"
            assert said.data["reason"] == "killed by SIGKILL"


def test_an_actor_publishes_deltas_of_its_own_session_only(instance: TestInstance) -> None:
    with hub(instance) as root, root.client() as client:
        spawn(client, "s-t/a")
        with (
            Subscriber(instance.places, "d/") as subscriber,
            Host(root, "s-t/a", 1) as a,
        ):
            a.hello()
            said: list[Any] = []

            def published() -> bool:
                a.send(m.Publish(topic=topics.deltas("s-t"), data={"n": 1}))
                said.append(subscriber.receive(0.05))
                return said[-1] is not None

            eventually(published)
            assert (said[-1].actor, said[-1].data) == ("s-t/a", {"n": 1})
            a.send(m.Publish(topic=topics.deltas("s-x"), data={}))
            assert a.wait(m.Refused).code == "bad_request"


def test_a_poisonous_mail_is_listed_and_can_be_dropped(instance: TestInstance) -> None:
    with hub(instance) as root, root.client() as client:
        spawn(client, "s-t/a")
        client.request("post", to="s-t/a", body={"t": "note", "data": "bad"})
        for incarnation in (1, 2, 3):
            with Host(root, "s-t/a", incarnation) as a:
                a.hello()
                mail = a.take()
                assert mail.attempt == incarnation
                gone(root, a, blame={"kind": "mail", "lane": mail.lane, "seq": mail.seq})
        (row,) = eventually(lambda: client.request("dead", action="list"))
        assert (row["actor"], row["crashes"]) == ("s-t/a", 3)
        assert row["message"].startswith("note ")
        client.request("dead", action="drop", id=row["id"])
        assert client.request("dead", action="list") == []


# --- bad input -----------------------------------------------------------------------------------

GARBAGE = [b"", b"\xc1garbage", b"\x81\xa1t\xa4what", codec.encode({"t": "commit"}), b"\x91" * 5000]


@pytest.mark.parametrize("frame", GARBAGE, ids=range(len(GARBAGE)))
def test_garbage_is_answered_with_a_typed_error_and_counted(
    instance: TestInstance, frame: bytes
) -> None:
    with hub(instance) as root, root.client() as client:
        actor, stranger = raw_peer(instance.places.actors), raw_peer(instance.places.clients)
        actor.send(frame)
        refused = codec.to_actor(actor.receive(BOUND_S))
        assert isinstance(refused, m.Refused) and refused.code == "unknown_message"
        stranger.send(frame)
        failure = codec.to_client(stranger.receive(BOUND_S))
        assert isinstance(failure, m.Failure) and failure.code == "unknown_message"
        assert client.request("status")["counters"]["unknown_message"] == 2
        actor.close()
        stranger.close()


def test_several_frames_for_one_are_refused(instance: TestInstance) -> None:
    with hub(instance) as root, root.client():
        for address, decode in (
            (instance.places.actors, codec.to_actor),
            (instance.places.clients, codec.to_client),
        ):
            peer = raw_peer(address)
            peer.send_multipart([b"a", b"b", b"c"])
            assert decode(peer.receive(BOUND_S)).code == "unknown_message"
            peer.close()


def test_a_frame_over_the_soft_limit_is_told_and_one_over_the_hard_limit_only_cut_off(
    instance: TestInstance,
) -> None:
    with hub(instance) as root, root.client() as client:
        for address, decode in (
            (instance.places.actors, codec.to_actor),
            (instance.places.clients, codec.to_client),
        ):
            peer = raw_peer(address)
            peer.send(b"x" * (codec.SOFT_LIMIT + 1))
            assert decode(peer.receive(BOUND_S)).code == "too_large"
            peer.send(b"x" * (codec.HARD_LIMIT + 1))
            peer.close()
        sub = raw_peer(instance.places.events)
        with contextlib.suppress(sockets.Again):  # it may have been shown the door already
            sub.send(b"x" * 5000, sockets.NOBLOCK)
        sub.close()
        assert client.request("status")["counters"]["too_large"] == 2


def test_a_hello_with_a_wrong_token_or_name_is_refused(instance: TestInstance) -> None:
    with hub(instance) as root, root.client() as client:
        spawn(client, "s-t/a")
        peer = raw_peer(instance.places.actors, "s-t/a#1")
        for hello in (
            m.Hello(actor="s-t/a", incarnation=1, token="guess"),
            m.Hello(actor="s-t/a", incarnation=2, token=token("s-t/a", 2)),
            m.Hello(actor="s-t/a", incarnation=1, token=token("s-t/a", 1), protocol=99),
        ):
            peer.send(codec.encode(hello))
            assert isinstance(codec.to_actor(peer.receive(BOUND_S)), m.Refused)
        peer.close()
        assert client.request("fetch_state", name="s-t/a")["incarnation"] == 0


def test_an_actor_cannot_speak_for_another_or_before_its_hello(instance: TestInstance) -> None:
    with hub(instance) as root, root.client() as client:
        spawn(client, "s-t/a", "s-t/b")
        with Host(root, "s-t/a", 1) as a, Host(root, "s-t/b", 2) as b:
            b.send(b.frame())
            a.hello()
            a.send(m.Commit(**{**_fields(a.frame()), "actor": "s-t/b", "incarnation": 2}))
            assert a.wait(m.Refused).code == "auth"
        assert client.request("fetch_state", name="s-t/b")["step"] == 0
        assert client.request("status")["counters"]["unwelcomed"] == 1


def test_clients_need_a_token_and_known_operations(instance: TestInstance) -> None:
    with hub(instance) as root, root.client() as client:
        assert instance.places.token_file.stat().st_mode & 0o777 == 0o600
        peer = raw_peer(instance.places.clients)
        peer.send(codec.encode(m.Request(id="1", op="status")))
        assert codec.to_client(peer.receive(BOUND_S)).code == "auth"
        peer.send(codec.encode(m.ClientHello(token="guess", client="x")))
        assert codec.to_client(peer.receive(BOUND_S)).code == "auth"
        peer.close()
        for op, args, code in (
            ("dance", {}, "unknown_op"),
            ("say", {"session": 5, "text": "x"}, "bad_request"),
            ("say", {}, "bad_request"),
            ("open_session", {"repo": "/nowhere"}, "usage"),
            ("open_session", {"repo": "relative"}, "usage"),
            ("events", {"session": "s-none"}, "no_such_session"),
            ("board", {"session": "s-none", "table": "tasks"}, "no_such_session"),
            ("usage", {"by": "moon"}, "usage"),
            ("kill", {"name": "x", "signal": 99}, "usage"),
            ("reload", {"what": "moon"}, "usage"),
        ):
            with pytest.raises(RequestFailed) as failed:
                client.request(op, **args)
            assert failed.value.code == code, op
        assert client.request("usage", by="day", later_option=1) == []


def test_notes_of_the_root_that_make_no_sense_end_nothing(instance: TestInstance) -> None:
    with hub(instance) as root, root.client() as client:
        for note in (
            {"op": "exited"},
            {"op": "exited", "name": "x", "incarnation": "y"},
            {"op": "born", "name": "x"},
            {"op": "dance"},
            {"op": "result", "id": 99},
            {"op": "gave_up", "supervisor": "nobody"},
            {"op": "which", "id": None, "children": [[]], "last": True},
        ):
            root.tell(**note)
        assert client.request("status")["protocol"] == m.PROTOCOL


# --- what it refuses to start on -----------------------------------------------------------------


def test_a_newer_schema_is_refused_with_its_reason(instance: TestInstance) -> None:
    store = Store.writer(instance.places)
    with store.writing() as txn:
        txn.put("meta", migrate.SCHEMA_KEY, codec.pack(VERSION + 1))
    store.close()
    with FakeRoot(instance) as root:
        root.start(ready=False)
        assert "schema" in root.wait(lambda note: note["op"] == "crash")["traceback"]
        assert root.process is not None
        assert root.process.wait(BOUND_S) == 74


def test_a_ledger_of_a_version_without_sums_is_taken_in_once(instance: TestInstance) -> None:
    store = Store.writer(instance.places)
    with store.writing() as txn:
        for n in (1, 2):
            line = {"session": "s-t", "model": "m", "cost_usd": 0.5}
            txn.put("ledger", number_key("ledger", n), codec.pack(line))
    store.close()
    for _ in range(2):
        with hub(instance) as root, root.client() as client:
            [row] = client.request("usage", by="model")
            assert (row["key"], row["calls"], row["cost_usd"]) == ("m", 2, 1.0)


def test_a_full_disk_makes_commits_wait_and_reads_go_on(instance: TestInstance) -> None:
    with hub(instance, store={"map_size": 768 << 10}) as root, root.client() as client:
        spawn(client, "s-t/a", "s-t/b")
        with Host(root, "s-t/a", 1) as a:
            a.hello()
            big = tuple(m.LogEntry(n=n, value=b"x" * 90_000) for n in range(1, 11))
            frame = a.frame(log=big)
            for _ in range(2):
                a.send(frame)
                retry = a.wait(m.Retry)
                assert (retry.step, retry.reason) == (1, "disk_full")
            assert client.request("fetch_state", name="s-t/a")["step"] == 0
            assert client.request("status")["counters"]["disk_full"]
            shown = client.request("session", session="s-t")
            assert (shown["state"], shown["waiting_for"]) == ("waiting", "disk_full")
            [listed] = client.request("sessions")
            assert (listed["state"], listed["waiting_for"]) == ("waiting", "disk_full")
            a.commit(events=(m.EventOut(type="small"),))
            page = client.request("events", session="s-t")
            assert page["events"][-1]["type"] == "small"
            [listed] = client.request("sessions")
            assert (listed["state"], listed["waiting_for"]) == ("running", "")


# --- sessions ------------------------------------------------------------------------------------


def test_a_session_from_its_opening_to_its_end(instance: TestInstance) -> None:
    with hub(instance) as root, root.client() as client:
        repo = instance.base / "repo"
        git = repo / ".git"
        (git / "refs" / "heads").mkdir(parents=True)
        (git / "HEAD").write_text("ref: refs/heads/main\n")
        (git / "refs" / "heads" / "main").write_text(f"{COMMIT}\n")
        opened = client.request("open_session", repo=str(repo), goal="g", team=3, yes=True)
        name = opened["session"]
        assert root.ensured(f"{name}/team")["group"] == ""
        root.ensured(f"{name}/tools")
        with Host(root, f"{name}/team", 1) as team:
            team.hello()
            say = team.take()
            assert codec.body(say.body) == bodies.Say(text="g", sender="user")
            lead = f"{name}/lead"
            team.consume(
                say,
                session=m.SessionChange(state="running"),
                children=(
                    m.ChildChange(
                        name=lead,
                        wanted="running",
                        spec={"name": lead, "kind": "agent", "session": name, "role": "lead"},
                    ),
                ),
                rows=(
                    m.Row(
                        table="tasks",
                        key=text_key(name, "t-1"),
                        value=codec.pack({"id": "t-1", "title": "g", "state": "open"}),
                    ),
                ),
            )
            assert root.ensured(lead)["spec"]["start"]["entry"] == "x:main"
            shown = client.request("session", session=name)
            assert (shown["state"], shown["base"]) == ("running", COMMIT)
            assert [agent["name"] for agent in shown["agents"]] == [lead]
            assert client.request("board", session=name, table="tasks")[0]["title"] == "g"
            assert client.request("status")["sessions"] == 1
            client._send(m.Request(id="c", op="control", args={"session": name, "op": "pause"}))
            reply = client._receive(BOUND_S)
            assert isinstance(reply, m.Reply)
            assert reply.value == {"session": name, "state": "paused"}
            team.consume(team.take())
            team.commit(session=m.SessionChange(state="done", answer="it is done"))
            root.wait(lambda note: note["op"] == "end_session" and note["session"] == name)
        (row,) = client.request("sessions")
        assert (row["session"], row["state"], row["agents"]) == (name, "done", 1)
        said = client.request("say", session=name, text="one more thing")
        assert said["seq"] > 0
        root.ensured(f"{name}/team")
        with pytest.raises(RequestFailed, match="bad_state"):
            client.request("remove", session=name)


def test_what_was_changed_is_one_diff_from_the_first_base_to_the_last_after(
    instance: TestInstance,
) -> None:
    from loomd.store.blobs import put_blob

    with hub(instance) as root, root.client() as client:
        name = client.request("open_session", repo=str(instance.base))["session"]
        texts = [b"one\n", b"two\n", b"three\n"]
        blobs = [put_blob(instance.places.blobs, text) for text in texts]
        edits = [
            ("e-1", "applied", "a.py", blobs[0], blobs[1], 1.0),
            ("e-2", "applied", "a.py", blobs[1], blobs[2], 2.0),
            ("e-3", "refused", "b.py", blobs[0], blobs[1], 3.0),
            ("e-4", "applied", "new.py", "", blobs[0], 4.0),
            ("e-5", "applied", "same.py", blobs[0], blobs[0], 5.0),
        ]
        with Host(root, f"{name}/team", 1) as team:
            team.hello()
            team.commit(
                rows=tuple(
                    m.Row(
                        table="edits",
                        key=text_key(name, id),
                        value=codec.pack(
                            {
                                "id": id,
                                "state": state,
                                "ended": ended,
                                "files": [{"path": path, "base": base, "after": after}],
                            }
                        ),
                    )
                    for id, state, path, base, after, ended in edits
                )
            )
        changed = client.request("diff", session=name)
        assert changed["files_changed"] == ["a.py", "new.py"]
        assert "-one\n+three\n" in changed["diff"] and "two" not in changed["diff"]
        assert "--- /dev/null\n+++ b/new.py" in changed["diff"]


def test_processes_and_their_control_go_through_the_root(instance: TestInstance) -> None:
    with hub(instance) as root, root.client() as client:
        spawn(client, "s-t/a")
        root.children = [
            ["hub", 1, os.getpid(), "running", 2, time.time()],
            ["s-t/a", 5, os.getpid(), "running", 0, time.time()],
        ]
        client._send(m.Request(id="p", op="ps", args={"memory": True}))
        root.wait(lambda note: note["op"] == "which" and note["id"] != 1)
        reply = client._receive(BOUND_S)
        assert isinstance(reply, m.Reply)
        rows = {row["name"]: row for row in reply.value}
        assert rows["hub"]["kind"] == "hub" and rows["hub"]["restarts"] == 2
        assert rows["s-t/a"]["pid"] == os.getpid() and rows["s-t/a"]["pss_kb"] > 0
        kill = m.Request(id="k", op="kill", args={"name": "s-t/a", "signal": 9})
        client._send(kill)
        asked = root.wait(lambda note: note["op"] == "signal")
        client._send(kill)  # a resend does not kill twice
        root.tell(op="result", id=asked["id"], ok=True, error="", pid=7, incarnation=5)
        for _ in range(2):
            reply = client._receive(BOUND_S)
            assert isinstance(reply, m.Reply)
            assert reply.value == {"name": "s-t/a", "pid": 7, "incarnation": 5}
            client._send(kill)
        assert not [note for note in root.seen if note["op"] == "signal"]


def test_a_hub_that_was_asked_to_kill_itself_is_killed_once(instance: TestInstance) -> None:
    with hub(instance) as root:
        request = m.Request(id="k", op="kill", args={"name": "hub", "signal": 9})
        with root.client("one") as client:
            client._send(request)
            root.wait(lambda note: note["op"] == "signal")
        assert root.process is not None
        pid = root.process.pid
        root.kill()
        root.start()
        with root.client("one") as client:
            client._send(request)
            reply = client._receive(BOUND_S)
            assert isinstance(reply, m.Reply)
            assert reply.value == {"name": "hub", "pid": pid, "incarnation": 1}
        assert not [note for note in root.seen if note["op"] == "signal"]


def _fields(frame: m.Commit) -> dict[str, Any]:
    return {name: getattr(frame, name) for name in m.Commit.__struct_fields__}
