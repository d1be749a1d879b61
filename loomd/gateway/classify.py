"""Where the zoo of provider shapes ends: an answer, as it came -> one of three outcomes. Pure.

`outcome`   ToolCalls | FinalAnswer | Failed, by what the answer holds and what the request offered
`number`    our own ids for a reply's calls

and, of the modules that this one stands on, `Assembly`, `failure` and `timed_out`. Beyond them no
code looks at a provider's dict. What can be mended without guessing is mended and noted
(loomd.gateway.repairs); a call that cannot be is left in its place with an `error` for the model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, assert_never

import msgspec

from loomd.gateway import thoughts
from loomd.gateway.arguments import arguments
from loomd.gateway.assembly import Answer, Assembly, Piece
from loomd.gateway.failure import (
    DETAIL_LIMIT,
    NO_API,
    RETRYABLE,
    failure,
    is_html,
    readable,
    timed_out,
)
from loomd.gateway.offered import Offered
from loomd.gateway.repairs import Repairs
from loomd.gateway.storable import characters
from loomd.gateway.types import ToolSchema
from loomd.gateway.written import written
from loomd.wire.bodies import Call, Failed, FinalAnswer, Outcome, ToolCalls

__all__ = [
    "ANSWER_LIMIT",
    "DETAIL_LIMIT",
    "RETRYABLE",
    "Assembly",
    "characters",
    "failure",
    "number",
    "outcome",
    "readable",
    "timed_out",
]

ANSWER_LIMIT = 384 << 10
"""Bytes of one answer. It is mailed twice in one commit, whose frame holds 1 MiB."""

NOT_OFFERED = "not_offered"

_NAME = re.compile(r"[A-Za-z_][\w-]{0,63}")
"""What may be the name of a tool."""

CUT = "the answer was cut off at the limit of output tokens"


def outcome(answer: Answer, tools: Iterable[ToolSchema]) -> Outcome:
    """What a whole answer is. `tools`: what its request offered."""
    if answer.error is not None:
        return answer.error
    if answer.endless:
        return Failed(kind="malformed", detail="the server sent more than any answer has")
    if _size(answer) > ANSWER_LIMIT:
        return Failed(kind="malformed", detail=f"the answer is over {ANSWER_LIMIT} bytes")
    if answer.broken and answer.chunks:
        came = readable(answer.garbage)[:300]
        detail = f"an event of the stream is no JSON: {came}"
        return Failed(kind="malformed", detail=detail, retryable=True)
    match answer.finish:
        case "filter":
            return Failed(kind="filtered", detail="the provider's filter stopped the answer")
        case "refusal":
            said = answer.refusal or answer.text or "the model refused"
            return Failed(kind="refused", detail=said[:DETAIL_LIMIT])
        case "error":
            return failure(("APIError",), None, "the server ended the answer with an error")
        case "overloaded":
            said = "the server had no room to finish the answer"
            return failure(("APIError",), 503, said)
        case "malformed":
            return Failed(
                kind="malformed",
                detail="the server could not read the call that the model wrote",
                retryable=True,
            )
        case "none":
            return _unfinished(answer)
        case "length" | "stop" | "calls":
            return _finished(answer, Offered(tools))
        case _:
            assert_never(answer.finish)


def _unfinished(answer: Answer) -> Failed:
    if not (answer.text or answer.reasoning or answer.calls or answer.refusal):
        came = readable(answer.garbage)[:300]
        page = f": {came}" if came else ""
        hint = NO_API if is_html(answer.garbage) or not came else ""
        return Failed(
            kind="malformed",
            detail=f"what the server sent is no answer of a chat model{page}",
            hint=hint,
        )
    return Failed(kind="network", detail="the stream ended before its answer did", retryable=True)


def _finished(answer: Answer, offered: Offered) -> Outcome:
    if answer.refusal and not answer.calls:
        return Failed(kind="refused", detail=answer.refusal[:DETAIL_LIMIT])
    repairs, cut = answer.repairs, answer.finish == "length"
    text, inside = thoughts.split(answer.text)
    reasoning = "\n\n".join(part for part in (answer.reasoning, inside) if part)
    pieces = answer.calls
    if not pieces and not cut and (found := written(text, offered)) is not None:
        if found.doubt:
            name = found.calls[0].name
            doubtful = Call(id="", name=name, error=found.doubt)
            return ToolCalls(calls=(doubtful,), text=found.text, reasoning=reasoning)
        text, pieces = found.text, found.calls
        for place, piece in enumerate(pieces, 1):
            piece.written = True
            repairs.note("written", place, found.form)
    elif (pieces and answer.finish == "stop") or (answer.finish == "calls" and not pieces):
        repairs.note("finish")
    if pieces:
        if not offered:
            names = ", ".join(characters(piece.name) for piece in pieces)[:200]
            return Failed(kind="malformed", detail=f"no tools were offered, but it called {names}")
        calls = tuple(_calls(pieces, offered, repairs, cut))
        return ToolCalls(calls=calls, text=text, reasoning=reasoning, repairs=repairs.all())
    if cut:
        return Failed(
            kind="malformed",
            detail=f"{CUT}: {text[-200:]}" if text else f"{CUT}, before it had begun",
            hint="the model needs more output tokens",
        )
    if not text.strip():
        only = " but thoughts" if reasoning else ""
        return Failed(kind="empty", detail=f"the model answered nothing{only}", retryable=True)
    return FinalAnswer(text=text, reasoning=reasoning, repairs=repairs.all())


def _size(answer: Answer) -> int:
    calls = sum(len(str(piece.sent()).encode("utf-8", "replace")) for piece in answer.calls)
    return len(answer.text.encode()) + len(answer.reasoning.encode()) + calls


# --- calls -------------------------------------------------------------------------------------


def _calls(pieces: Iterable[Piece], offered: Offered, repairs: Repairs, cut: bool) -> list[Call]:
    made: list[Call] = []
    for piece in pieces:
        place = len(made) + 1
        args, error, mended = arguments(piece.sent())
        if cut and error:
            error = f"{CUT}, in the middle of the arguments of this call"
        wrapped = _wrapped(piece.name, args, offered)
        for kind in mended:
            # In a written call an object is what is to be expected.
            if kind != "object" or not piece.written:
                repairs.note(kind, place)
        if wrapped:
            repairs.note("parallel", place)
            made += [
                _call(one, args, "", offered, repairs, n)
                for n, (one, args) in enumerate(wrapped, place)
            ]
        else:
            made.append(_call(piece, args, error, offered, repairs, place))
    return made


def _call(
    piece: Piece, args: dict[str, Any], error: str, offered: Offered, repairs: Repairs, place: int
) -> Call:
    id, name = characters(piece.id), characters(piece.name)
    meant, repair = offered.meant(name)
    if not meant and _NAME.fullmatch(name):
        # It may have come into force meanwhile: whoever answers the call knows.
        return Call(
            id=id,
            name=name,
            args=args,
            provider_id=id,
            error=error,
            fault="" if error else NOT_OFFERED,
        )
    if not meant:
        said = offered.unknown(name)
        return Call(id=id, name=name, args={}, provider_id=id, error=said, fault="no_such_tool")
    if repair:
        repairs.note(repair, place, name)
    return Call(id=id, name=meant, args=args, provider_id=id, error=error)


def _wrapped(
    name: str, args: dict[str, Any], offered: Offered
) -> list[tuple[Piece, dict[str, Any]]]:
    """The calls inside one of `multi_tool_use.parallel`, which nobody offers and some models make;
    none if it is anything else."""
    match args:
        case {"tool_uses": [*uses]} if name.endswith("parallel") and name not in offered:
            pass
        case _:
            return []
    made: list[tuple[Piece, dict[str, Any]]] = []
    for use in uses:
        match use:
            case {"recipient_name": str(recipient), "parameters": dict(parameters)}:
                made.append((Piece(name=recipient), parameters))
            case _:
                return []
    return made


def number(outcome: Outcome, request: str) -> Outcome:
    """`outcome` with calls numbered by us, `REQUEST.1`, `REQUEST.2`: unique in the session."""
    if not isinstance(outcome, ToolCalls):
        return outcome
    calls = tuple(
        msgspec.structs.replace(call, id=f"{request}.{n}")
        for n, call in enumerate(outcome.calls, 1)
    )
    return msgspec.structs.replace(outcome, calls=calls)
