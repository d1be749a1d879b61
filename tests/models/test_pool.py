"""Several gateways: which gets a call, and what becomes of the calls of one that is dead."""

from __future__ import annotations

from typing import Any

from loomd.actor import behaviour as act
from loomd.models.pool import TAKE_BACK_S, TRY_AGAIN_S, Pool
from loomd.wire import bodies as b
from loomd.wire import codec
from tests.models.counter import MODEL, Counter, orders, told

ALL = ("gateway-1", "gateway-2", "gateway-3")


def several(**settings: Any) -> Counter:
    models = Counter({"models": {"default": MODEL}, **settings})
    models.mail(b.UseGateway(gateway=ALL[0], more=ALL[1:]), sender="hub")
    return models


def sent(changes: list[act.Change], kind: type[b.Body]) -> list[str]:
    return [str(c.to) for c in changes if isinstance(c, act.Send) and isinstance(c.body, kind)]


def seen(models: Counter, name: str, up: bool) -> list[act.Change]:
    return models.mail(b.GatewaySeen(gateway=name, up=up), sender="hub")


def given_back(order: b.Perform, gateway: str, attempts: int) -> b.Undelivered:
    raw = codec.encode(order)
    id = f"{gateway}/effect.x"
    return b.Undelivered(id=id, to=gateway, reason="given_back", body=raw, attempts=attempts)


def test_the_one_with_the_fewest_calls_gets_the_next() -> None:
    pool = Pool("a", ("b", "c"))
    got = []
    for _ in range(5):
        got.append(pool.pick(False, 0.0))
        pool.begin(got[-1])
    assert got == ["a", "b", "c", "a", "b"]
    pool.end("b")
    pool.end("b")
    assert pool.pick(False, 0.0) == "b"
    assert pool.pick(True, 0.0) == "a"  # what is free


def test_a_slow_one_is_passed_by_and_a_dead_one_gets_none() -> None:
    pool = Pool("a", ("b",))
    pool.begin(pool.pick(False, 0.0))  # a, which hangs from now on
    for _ in range(3):
        assert pool.pick(False, 0.0) == "b"
        pool.begin("b")
        pool.end("b")
    pool.seen("b", up=False, now=1.0)
    assert pool.pick(False, 1.0) == "a"
    pool.seen("b", up=True, now=2.0)
    assert pool.pick(False, 2.0) == "b"


def test_one_is_left_if_all_are_dead_and_nobody_unknown_is_noted() -> None:
    pool = Pool("a", ("b",))
    for name in ("a", "b", "of older code"):
        pool.seen(name, up=False, now=1.0)
    assert pool.pick(False, 1.0) == "a" and set(pool.down) == {"a", "b"}
    assert pool.lost(1.0) == []
    assert pool.lost(1.0 + TAKE_BACK_S) == ["b"]
    assert pool.lost(1.0 + TAKE_BACK_S) == ["a"]  # b may be called again before


def test_the_first_call_of_a_real_model_has_the_others_started_and_calls_spread() -> None:
    models = several()
    first = models.ask("r1")
    assert sent(first, b.Perform) == ["gateway-1"]
    assert sent(first, b.Expect) == ["gateway-2", "gateway-3"]
    more = [models.ask(f"r{n}", session=f"s-{n}") for n in (2, 3, 4)]
    assert [sent(one, b.Perform) for one in more] == [["gateway-2"], ["gateway-3"], ["gateway-1"]]
    assert not any(sent(one, b.Expect) for one in more)
    [second] = orders(more[0])
    models.end(second)
    assert sent(models.ask("r5"), b.Perform) == ["gateway-2"]


def test_what_costs_nothing_starts_nobody() -> None:
    models = several(models={"default": "offline/rules"})
    for n in range(3):
        changes = models.ask(f"r{n}")
        assert (sent(changes, b.Perform), sent(changes, b.Expect)) == (["gateway-1"], [])


def test_calls_of_a_gateway_that_does_not_come_back_are_made_by_another_once() -> None:
    models = several()
    models.ask("r1")
    [order] = orders(models.ask("r2"))
    assert seen(models, "gateway-2", up=False)
    assert sent(models.ask("r3"), b.Perform) == ["gateway-3"]
    models.restart()
    changes = models.wait()
    assert changes[0] == act.Stop("gateway-2", asleep=True, reason="dead")
    changes = models.mail(given_back(order, "gateway-2", 1), sender="hub")
    [again] = orders(changes)
    assert sent(changes, b.Perform) == ["gateway-1"]
    assert (again.request.id, again.attempt, again.lost) == ("r2", 2, 1)
    [row] = models.ledger()
    assert (row["outcome"], row["lost"], row["cost_usd"]) == ("lost", True, None)
    [event] = [one for one in models.events if one.type == "model_taken_back"]
    assert (event.data["gateway"], event.data["lost"]) == ("gateway-2", 1)
    # That gateway dies of it too: it may have been paid for twice by now.
    changes = models.mail(given_back(again, "gateway-1", 1), sender="hub")
    assert not orders(changes)
    [(_, outcome)] = told(changes)
    assert isinstance(outcome.outcome, b.Failed) and outcome.outcome.kind == "interrupted"
    assert [row["outcome"] for row in models.ledger()] == ["lost", "lost"]


def test_an_order_that_was_not_begun_is_given_on_without_a_trace() -> None:
    models = several()
    models.ask("r1")
    [order] = orders(models.ask("r2"))
    seen(models, "gateway-2", up=False)
    models.wait()
    [again] = orders(models.mail(given_back(order, "gateway-2", 0), sender="hub"))
    assert (again.attempt, again.lost) == (2, 0) and not models.ledger()


def test_a_cancelled_call_that_is_given_back_is_not_made_again() -> None:
    models = several()
    models.ask("r1")
    [order] = orders(models.ask("r2"))
    models.mail(b.CancelModel(request="r2"))
    changes = models.mail(given_back(order, "gateway-2", 1), sender="hub")
    assert not orders(changes)
    [(_, outcome)] = told(changes)
    assert isinstance(outcome.outcome, b.Failed) and outcome.outcome.kind == "cancelled"


def test_a_gateway_that_comes_back_keeps_its_calls() -> None:
    models = several()
    models.ask("r1")
    models.ask("r2")
    seen(models, "gateway-2", up=False)
    seen(models, "gateway-2", up=True)
    assert models.timer is None
    assert sent(models.ask("r3"), b.Perform) == ["gateway-3"]
    assert sent(models.ask("r4"), b.Perform) == ["gateway-1"]


def test_a_new_daemon_knows_nothing_of_deaths_a_new_hub_does() -> None:
    pool = Pool("a", ("b",), called=True)
    pool.seen("b", up=False, now=1.0)
    pool.use(b.UseGateway(gateway="a", more=("b",)))
    assert (pool.down, pool.called) == ({"b": 1.0}, False)
    pool.use(b.UseGateway(gateway="a", more=("b",), fresh=True))
    assert pool == Pool("a", ("b",))


def test_one_that_was_put_to_sleep_is_called_again_later() -> None:
    models = several()
    models.ask("r1")
    seen(models, "gateway-2", up=False)
    seen(models, "gateway-3", up=False)
    models.wait()
    assert sent(models.ask("r2"), b.Perform) == ["gateway-1"]
    models.now += TRY_AGAIN_S
    assert sent(models.ask("r3"), b.Perform) == ["gateway-2"]
