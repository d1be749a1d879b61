"""Asks configured models for one word, for `loomctl models --check`.

Each is asked through `models`, as every call is: within its provider's limits and the day's budget,
with a row in the ledger. The request's id follows from the client's, so that what a client sends
again to the next hub is not asked, and paid, a second time.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from loomd.hub import calls
from loomd.hub.mail import Batch
from loomd.hub.rules import HUB, MODELS, Result
from loomd.wire import codec
from loomd.wire.bodies import Failed, ModelOutcome, ModelRequest
from loomd.wire.errors import LoomError
from loomd.wire.messages import WORK
from loomd.wire.models import ships

if TYPE_CHECKING:
    from loomd.hub.process import Hub

Done = Callable[[Any], None]

MAX_TOKENS: Final = 64


@dataclass
class Checks:
    """Request id -> (when it was asked, whom to tell)."""

    open: dict[str, tuple[float, Done]] = field(default_factory=dict)

    def told(self, raw: bytes) -> None:
        """A mail to the hub: the end of a check."""
        body = codec.body(raw)
        if isinstance(body, ModelOutcome) and body.request in self.open:
            asked, then = self.open.pop(body.request)
            then(said(body, time.monotonic() - asked))


def models(hub: Hub, done: Done, key: str) -> None:
    """The rows of `models`, each with its `check`."""

    def listed(rows: Any) -> None:
        if isinstance(rows, LoomError):
            done(rows)
            return
        left = len(rows)

        def checked(row: dict[str, Any]) -> Done:
            def then(check: dict[str, Any]) -> None:
                nonlocal left
                row["check"] = check
                left -= 1
                if left == 0:
                    done(rows)

            return then

        if not rows:
            done(rows)
        for row in rows:
            _ask(hub, str(row["model"]), key, checked(row))

    calls.ask(hub, listed, {"models": True})


def _ask(hub: Hub, model: str, key: str, then: Done) -> None:
    digest = hashlib.blake2b(f"{key} {model}".encode(), digest_size=16).hexdigest()
    request = ModelRequest(
        id=f"check-{digest}",
        session="",
        agent=HUB,
        role="check",
        purpose="check",
        model=model,
        tools=(),
        max_tokens=MAX_TOKENS,
        interactive=True,
    )
    hub.checks.open[request.id] = time.monotonic(), then
    body = codec.encode(request)

    def apply(batch: Batch) -> Result:
        result = batch.begin()
        result.value = batch.deliver(MODELS, WORK, f"{HUB}/{request.id}", HUB, body)
        return result

    def applied(result: Result) -> None:
        hub.follow(result)
        if result.value:
            refused(result.value, f"{MODELS}: {result.value}")

    def refused(code: str, detail: str) -> None:
        failed = Failed(kind="overloaded", detail=detail or code)
        outcome = ModelOutcome(request=request.id, outcome=failed, model=model)
        hub.checks.told(codec.encode(outcome))

    hub.submit(apply, applied, "check", refused)


def said(body: ModelOutcome, seconds: float) -> dict[str, Any]:
    """{ok, kind, detail, hint, ms, cost_usd}. One that was cut short or has only thought about it
    answers all the same."""
    outcome, usage = body.outcome, body.usage
    failed: Failed | None = None
    if isinstance(outcome, Failed):
        if ships(body.model):  # one that has nothing to say to this is there all the same
            ok = outcome.kind != "unknown_model"
        else:
            ok = outcome.kind == "empty" or usage.output_tokens > 0
        failed = None if ok else outcome
    return {
        "ok": failed is None,
        "kind": failed.kind if failed else "",
        "detail": failed.detail if failed else "",
        "hint": failed.hint if failed else "",
        "ms": round(seconds * 1000),
        "cost_usd": usage.cost_usd,
    }
