"""The gateway's behaviour as scripts, and its performer on a loop, offline."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from loomd.actor import behaviour as act
from loomd.gateway import offline, process
from loomd.gateway.process import GatewayBehaviour, GatewayPerformer
from loomd.wire import bodies as b
from loomd.wire import codec
from loomd.wire.endpoints import instance
from loomd.wire.errors import LoomError
from tests.gateway.test_view import Log, request

ORDER = b.Perform(request=request(), model="openai/x", attempt=1)


def born(*effects: act.OpenEffect) -> tuple[GatewayBehaviour, process.State]:
    behaviour = GatewayBehaviour()
    spec = act.Spec(name="gateway-1", kind="gateway")
    birth = act.Birth(spec=spec, saved=None, effects=effects, reader=Log(), settings={})
    return behaviour, behaviour.init(birth)


def mailed(body: b.Body, sender: str = "models") -> act.Mailed:
    return act.Mailed(step=1, id="models/1.0", sender=sender, body=body)


def ended(outcome: b.Outcome) -> act.EffectEnded:
    done = b.Performed(request="r", agent="s-1/lead", model="openai/x", attempt=1, outcome=outcome)
    return act.EffectEnded(step=2, effect="r#1", request=ORDER, result=done)


def sends(changes: list[act.Change]) -> list[tuple[Any, b.Body]]:
    return [(c.to, c.body) for c in changes if isinstance(c, act.Send)]


def test_an_order_opens_one_effect_and_is_not_opened_twice() -> None:
    behaviour, state = born()
    state, changes = behaviour.step(state, mailed(ORDER), 1.0)
    assert [c for c in changes if isinstance(c, act.Open)] == [act.Open("r#1", ORDER)]
    assert behaviour.step(state, mailed(ORDER), 1.0)[1] == []


def test_a_success_goes_to_models_and_to_the_asker_in_one_commit() -> None:
    behaviour, state = born(act.OpenEffect("r#1", ORDER, 1))
    _, changes = behaviour.step(state, ended(b.FinalAnswer(text="x")), 1.0)
    [(first, performed), (second, outcome)] = sends(changes)
    assert (first, second) == ("models", "s-1/lead")
    assert isinstance(performed, b.Performed) and isinstance(outcome, b.ModelOutcome)
    assert outcome.outcome == b.FinalAnswer(text="x")


def test_a_failure_goes_to_models_alone_which_decides() -> None:
    behaviour, state = born(act.OpenEffect("r#1", ORDER, 1))
    _, changes = behaviour.step(state, ended(b.Failed(kind="server")), 1.0)
    assert [to for to, _ in sends(changes)] == ["models"]


def test_a_cancel_reaches_every_open_attempt_of_the_request() -> None:
    behaviour, state = born(act.OpenEffect("r#2", ORDER, 1), act.OpenEffect("q#1", ORDER, 1))
    state.open["q#1"] = "q"
    _, changes = behaviour.step(state, mailed(b.CancelModel(request="r")), 1.0)
    assert [c for c in changes if isinstance(c, act.Cancel)] == [act.Cancel("r#2")]


def test_models_hears_of_a_call_that_was_set_aside_but_not_of_a_reader_that_is_gone() -> None:
    behaviour, state = born()
    lost = b.Undelivered(
        id="gateway-1/effect.r#1", to="gateway-1", reason="poison", body=codec.encode(ORDER)
    )
    [(to, told)] = sends(behaviour.step(state, mailed(lost, sender="hub"), 1.0)[1])
    assert (to, told.attempt, told.outcome.kind) == ("models", 1, "interrupted")  # type: ignore[union-attr]
    assert behaviour.step(state, mailed(lost, sender="s-1/lead"), 1.0)[1] == []
    other = b.Undelivered(id="gateway-1/4.0", to="models", reason="poison", body=b"")
    assert behaviour.step(state, mailed(other, sender="hub"), 1.0)[1] == []


def test_a_question_about_a_price_is_an_effect_too_and_is_answered_once() -> None:
    ask, id = b.AskPrice(model="openai/x"), "price:openai/x"
    behaviour, state = born()
    state, changes = behaviour.step(state, mailed(ask), 1.0)
    assert [c for c in changes if isinstance(c, act.Open)] == [act.Open(id, ask)]
    assert behaviour.step(state, mailed(ask), 1.0)[1] == []
    behaviour, state = born(act.OpenEffect(id, ask, 2))  # after its death
    assert state.open == {id: id}
    priced = b.Priced(model="openai/x", price=(1e-6, 2e-6))
    ended_ = act.EffectEnded(step=2, effect=id, request=ask, result=priced)
    state, changes = behaviour.step(state, ended_, 1.0)
    assert sends(changes) == [("models", priced)] and state.open == {}


def test_of_a_question_that_was_set_aside_models_hears_that_there_is_no_price() -> None:
    ask, id = b.AskPrice(model="openai/x"), "price:openai/x"
    behaviour, state = born(act.OpenEffect(id, ask, 1))
    lost = b.Undelivered(
        id="gateway-1/effect.1", to="gateway-1", reason="poison", body=codec.encode(ask)
    )
    state, changes = behaviour.step(state, mailed(lost, "hub"), 1.0)
    assert sends(changes) == [("models", b.Priced(model="openai/x"))] and state.open == {}


def test_only_models_gives_orders() -> None:
    behaviour, state = born()
    assert behaviour.step(state, mailed(ORDER, sender="s-1/coder-1"), 1.0)[1] == []


def test_it_tells_what_is_open_and_nothing_else() -> None:
    behaviour, state = born(act.OpenEffect("r#1", ORDER, 1))
    assert behaviour.answer(state, b.Note(), Log()) == b.Note(data={"open": ["r#1"]})
    with pytest.raises(LoomError):
        behaviour.answer(state, b.Say(text="x"), Log())


# --- the performer -----------------------------------------------------------------------------


class FakeStage:
    """What the host lends."""

    def __init__(self, reader: Any, settings: dict[str, Any] | None = None) -> None:
        self.reader = reader
        self.settings = settings or {}
        self.spec = act.Spec(name="gateway-1", kind="gateway")
        self.directories = instance({})
        self.keys_fd = -1
        self.published: list[tuple[str, dict[str, Any]]] = []
        self.first: asyncio.Future[list[tuple[str, dict[str, Any]]]] | None = None

    def publish(self, topic: str, data: dict[str, Any]) -> None:
        self.published.append((topic, data))
        if self.first is not None:
            self.first.set_result(self.published)


class Bench:
    """A performer, and the reports of its effects."""

    def __init__(self, stage: FakeStage) -> None:
        self.stage = stage
        self.performer = GatewayPerformer()
        self.reports: dict[str, asyncio.Future[b.Body]] = {}

    async def __aenter__(self) -> Bench:
        await self.performer.open(self.stage)
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.performer.close()

    def start(self, order: b.Perform, attempt: int = 1) -> str:
        id = f"{order.request.id}#{order.attempt}"
        self.reports[id] = asyncio.get_running_loop().create_future()
        effect = act.OpenEffect(id, order, attempt)
        self.performer.start(effect, self.reports[id].set_result)
        return id

    async def result(self, id: str) -> b.Performed:
        done = await asyncio.wait_for(self.reports[id], 15)
        assert isinstance(done, b.Performed)
        return done


OFFLINE = b.Perform(request=request((1, 1)), model="offline/rules")
LOG = Log(b.Entry(role="user", text="rename a to b"))


async def one(order: b.Perform, attempt: int = 1, stage: FakeStage | None = None) -> b.Performed:
    async with Bench(stage or FakeStage(LOG)) as bench:
        return await bench.result(bench.start(order, attempt))


def test_offline_answers_at_no_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = b.ToolCalls(calls=(b.Call(id="", name="read"),))
    monkeypatch.setattr(offline, "complete", lambda resolved: answer)
    done = asyncio.run(one(OFFLINE))
    assert isinstance(done.outcome, b.ToolCalls) and done.outcome.calls[0].id == "r.1"
    assert done.usage.cost_usd == 0.0 and done.cost_known == "computed" and done.lost == 0
    assert done.started <= done.ended


def test_an_error_in_the_rules_is_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(resolved: object) -> b.Outcome:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(offline, "complete", broken)
    done = asyncio.run(one(OFFLINE))
    assert isinstance(done.outcome, b.Failed) and "ZeroDivisionError" in done.outcome.detail


def test_another_offline_model_is_unknown() -> None:
    done = asyncio.run(one(b.Perform(request=request(), model="offline/other")))
    assert isinstance(done.outcome, b.Failed) and done.outcome.kind == "unknown_model"


def test_a_view_of_what_is_not_there_is_a_failure_of_the_request() -> None:
    done = asyncio.run(one(b.Perform(request=request((1, 9)), model="offline/rules")))
    assert isinstance(done.outcome, b.Failed) and done.outcome.kind == "malformed"


def test_after_its_second_death_in_one_paid_call_the_gateway_gives_it_up() -> None:
    done = asyncio.run(one(ORDER, attempt=3))
    assert isinstance(done.outcome, b.Failed) and done.outcome.kind == "interrupted"
    assert done.lost == 2 and done.usage.cost_usd is None


def test_offline_is_asked_again_after_any_death(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offline, "complete", lambda resolved: b.FinalAnswer(text="x"))
    done = asyncio.run(one(OFFLINE, attempt=4))
    assert done.outcome == b.FinalAnswer(text="x") and done.lost == 3


def test_the_first_request_waits_until_the_tool_host_has_told_its_tools(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(
        offline, "complete", lambda resolved: seen.append(resolved) or b.FinalAnswer(text="x")
    )

    async def run() -> None:
        log = Log(b.Entry(role="user"), tools=None)
        async with Bench(FakeStage(log)) as bench:
            id = bench.start(OFFLINE)
            await asyncio.sleep(0)
            assert seen == []
            log.tools = {"tools": [{"name": "read"}]}
            await bench.result(id)

    asyncio.run(run())
    assert [tool.name for tool in seen[0].tools] == ["read"]


def test_a_cancel_before_the_first_step_is_reported_too() -> None:
    async def run() -> b.Performed:
        async with Bench(FakeStage(LOG)) as bench:
            id = bench.start(OFFLINE)
            bench.performer.cancel(id)
            bench.performer.cancel("never heard of")
            return await bench.result(id)

    done = asyncio.run(run())
    assert isinstance(done.outcome, b.Failed) and done.outcome.kind == "cancelled"
    assert (done.usage.cost_usd, done.cost_known) == (0.0, "computed")  # nobody was asked


def test_an_orderly_stop_reports_nothing() -> None:
    async def run() -> bool:
        async with Bench(FakeStage(Log(tools=None))) as bench:
            id = bench.start(OFFLINE)
            await asyncio.sleep(0)
        return bench.reports[id].done()

    assert asyncio.run(run()) is False


@pytest.mark.parametrize(("path", "passes"), [("/x/litellm/logging.py", False), ("/x/us.py", True)])
def test_a_task_that_litellm_drops_does_not_end_the_gateway(path: str, passes: bool) -> None:
    scope: dict[str, Any] = {}
    exec(compile("async def fail(): raise ValueError('dropped')", path, "exec"), scope)

    async def run() -> list[dict[str, Any]]:
        seen: list[dict[str, Any]] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: seen.append(context))
        async with Bench(FakeStage(LOG)):
            task = loop.create_task(scope["fail"]())
            await asyncio.wait([task])
            del task
            gc.collect()
        return seen

    seen = asyncio.run(run())
    assert bool(seen) is passes, seen
