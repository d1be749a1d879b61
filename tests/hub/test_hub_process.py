"""A real hub process: what it promises to hosts, clients and the root."""

from __future__ import annotations

from loomd.wire import bodies, codec
from loomd.wire import messages as m
from tests.hub.stand import Host, hub, out
from tests.support import TestInstance


def spawn(client, name):
    client.request("spawn", spec={"name": name, "kind": "echo", "session": name.split("/")[0]})


def test_a_mail_is_delivered_once_and_gone_after_the_commit_that_consumes_it(
    instance: TestInstance,
) -> None:
    with hub(instance) as root, root.client() as client:
        for name in ("s-t/a", "s-t/b"):
            spawn(client, name)
            assert root.ensured(name)["group"] == "agents"
        with Host(root, "s-t/a", 1) as a, Host(root, "s-t/b", 2) as b:
            assert a.hello().step == 0
            b.hello()
            a.commit(outbox=(out("s-t/b", bodies.Note(data="hi")),))
            mail = b.take()
            assert (mail.id, mail.sender, mail.seq) == ("s-t/a/1.0", "s-t/a", 1)
            assert codec.body(mail.body) == bodies.Note(data="hi")
            b.consume(mail, outbox=(out("s-t/a"),), state=codec.pack({"n": 1}))
            a.consume(a.take())
            assert client.request("fetch_state", name="s-t/b")["state"] == {"n": 1}
            assert client.request("fetch_state", name="s-t/b")["mailbox"] == 0
        assert root.stop() == 0
        assert instance.sockets() == []


def test_a_plain_ask_goes_there_and_back(instance: TestInstance) -> None:
    with hub(instance) as root, root.client() as client:
        for name in ("s-t/a", "s-t/b"):
            spawn(client, name)
        with Host(root, "s-t/a", 1) as a, Host(root, "s-t/b", 2) as b:
            a.hello()
            b.hello()
            a.send(m.Ask(id="q1", to="s-t/b", body=codec.encode(bodies.Note(data=1))))
            asked = b.wait(m.Asked)
            b.send(m.Answer(route=asked.route, id=asked.id, body=asked.body))
            assert codec.body(a.wait(m.Answered).body) == bodies.Note(data=1)
