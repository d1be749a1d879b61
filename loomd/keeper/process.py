"""The keeper's behaviour and its process.

Three kinds of question. `exact`: the bytes of entries as they lie in the log. `search`: ranked
hits. `ask`: by mail a cheap model answers from the best hits, citing entries; as a plain ask, which
must be answered at once, the best hits are quoted instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec

from loomd.actor import behaviour as act
from loomd.keeper.memory import ANSWER_BYTES, ONE_ENTRY, Memory
from loomd.wire import codec
from loomd.wire.bodies import (
    Body,
    Entry,
    FinalAnswer,
    Hit,
    KeeperReady,
    ModelOutcome,
    ModelRequest,
    Note,
    Recall,
    Recalled,
    Span,
    ToolCalls,
    Undelivered,
    View,
)
from loomd.wire.errors import LoomError

if TYPE_CHECKING:
    from loomd.supervise.link import ProcessBirth

ASK_HITS: Final = 8
MAX_OPEN: Final = 16
QUERY: Final = 500
INDEXED: Final = 1 << 20
PROMPT: Final = (
    "You answer questions about an earlier part of a conversation, from the entries that follow "
    "and from nothing else. Cite the entries you rely on as [entry N]. If they do not tell, say so."
)


class OpenAsk(msgspec.Struct, omit_defaults=True):
    """A question that a model is answering."""

    asker: str
    recall: str
    query: str
    entries: list[int]
    scores: list[float]


class Saved(msgspec.Struct, omit_defaults=True):
    turn: int = 0
    asks: dict[str, OpenAsk] = msgspec.field(default_factory=dict)  # by request id


@dataclass
class Keeper:
    """A keeper in memory: what is saved, and the index that is built at each birth."""

    saved: Saved
    spec: act.Spec
    memory: Memory
    reader: act.Reader


class KeeperBehaviour:
    """spec.args: {log, first, last, title}."""

    version = 1

    def init(self, birth: act.Birth) -> Keeper:
        args = birth.spec.args
        span = Span(log=str(args["log"]), first=int(args["first"]), last=int(args["last"]))
        entries = [
            (n, _whole(birth.reader, entry))
            for n, entry in birth.reader.entries(span.log, span.first, span.last)
        ]
        memory = Memory(birth.spec.name, span, str(args.get("title") or ""), entries)
        saved = Saved() if birth.saved is None else msgspec.convert(birth.saved, Saved)
        return Keeper(saved, birth.spec, memory, birth.reader)

    def step(self, state: Keeper, input: act.Input, now: float) -> tuple[Keeper, list[act.Change]]:
        match input:
            case act.Init():
                return state, _ready(state)
            case act.Mailed(body=Recall() as recall, sender=sender):
                return state, _asked(state, recall, sender)
            case act.Mailed(body=ModelOutcome() as outcome):
                return state, _answered(state, outcome)
            case act.Mailed(body=Undelivered() as refused):
                return state, _undelivered(state, refused)
            case _:
                return state, []

    def save(self, state: Keeper) -> Saved:
        return state.saved

    def upgrade(self, saved: Any, version: int) -> Any:
        raise LoomError("bad_state", f"keeper state of version {version} is not known")

    def answer(self, state: Keeper, question: Body, reader: act.Reader) -> Body:
        """A `Recall` gets `Recalled`, at once and without a model; a `Note` what is held."""
        match question:
            case Recall():
                return recalled(state.memory, question, reader)
            case Note():
                memory = state.memory
                held = {"entries": len(memory.numbers), "line": memory.line()}
                return Note(data={**msgspec.to_builtins(memory.span), **held})
            case _:
                raise LoomError(
                    "bad_request", f"a keeper has no answer to {type(question).__name__}"
                )


def recalled(memory: Memory, recall: Recall, reader: act.Reader) -> Recalled:
    """The answer to any recall, without a model."""
    if recall.mode == "exact":
        return _exact(memory, recall, reader)
    hits, truncated = memory.search(recall.query, max(1, min(recall.limit, 100)))
    answer = memory.extract(recall.query, hits) if recall.mode == "ask" else ""
    return Recalled(id=recall.id, hits=tuple(hits), answer=answer, truncated=truncated)


def _exact(memory: Memory, recall: Recall, reader: act.Reader) -> Recalled:
    asked = memory.overlap(recall.first, recall.last)
    span = memory.span
    if not asked:
        held = f"entries {span.first}-{span.last} of {span.log}"
        return Recalled(id=recall.id, error=f"not_found: {memory.keeper} holds {held}")
    hits: list[Hit] = []
    size = 0
    for n in asked:
        raw = reader.entry_bytes(span.log, n)
        if raw is None:
            continue
        text = memory.texts.get(n, "")
        both = len(raw) + len(text.encode())
        if size + both > ANSWER_BYTES:
            if hits or len(raw) > ONE_ENTRY:
                return Recalled(id=recall.id, hits=tuple(hits), truncated=True)
            # Alone, and with as much of the text as a frame holds beside the bytes.
            room = max(0, ANSWER_BYTES - len(raw)) // 4
            whole = Hit(keeper=memory.keeper, log=span.log, entry=n, text=text[:room], raw=raw)
            return Recalled(id=recall.id, hits=(whole,), truncated=True)
        size += both
        hits.append(Hit(keeper=memory.keeper, log=span.log, entry=n, text=text, raw=raw))
    return Recalled(id=recall.id, hits=tuple(hits))


def _ready(state: Keeper) -> list[act.Change]:
    memory = state.memory
    log, numbers = memory.span.log, memory.numbers
    ready = KeeperReady(
        keeper=memory.keeper,
        span=memory.span,
        line=memory.line(),
        entries=len(numbers),
        bytes=sum(len(state.reader.entry_bytes(log, n) or b"") for n in numbers),
    )
    return [act.Send(f"{state.spec.session}/team", ready), act.Show("idle")]


def _asked(state: Keeper, recall: Recall, sender: str) -> list[act.Change]:
    plain = recalled(state.memory, recall, state.reader)
    saved = state.saved
    if recall.mode != "ask" or not plain.hits or len(saved.asks) >= MAX_OPEN:
        return [act.Send(sender, plain)]
    saved.turn += 1
    request = f"{state.spec.name}:{saved.turn}"
    best = sorted(plain.hits[:ASK_HITS], key=lambda hit: hit.entry)
    saved.asks[request] = OpenAsk(
        asker=sender,
        recall=recall.id,
        query=recall.query[:QUERY],
        entries=[hit.entry for hit in best],
        scores=[hit.score for hit in best],
    )
    log = state.memory.span.log
    numbers = ", ".join(str(hit.entry) for hit in best)
    asked = ModelRequest(
        id=request,
        session=state.spec.session,
        agent=state.spec.name,
        role="keeper",
        purpose="ask",
        view=View(
            pinned=(
                PROMPT,
                f"The entries, in this order, are numbered {numbers} in {log}.",
                f"Question: {recall.query[: 8 * QUERY]}",
            ),
            spans=tuple(Span(log=log, first=hit.entry, last=hit.entry) for hit in best),
        ),
        tools=(),
    )
    return [act.Send("models", asked), act.Show("thinking", "models")]


def _answered(state: Keeper, outcome: ModelOutcome) -> list[act.Change]:
    ask = state.saved.asks.pop(outcome.request, None)
    if ask is None:
        return []
    hits = [
        Hit(
            keeper=state.memory.keeper,
            log=state.memory.span.log,
            entry=n,
            score=score,
            text=state.memory.texts.get(n, ""),
        )
        for n, score in zip(ask.entries, ask.scores, strict=True)
    ]
    hits.sort(key=lambda hit: -hit.score)
    text = ""
    if isinstance(outcome.outcome, FinalAnswer | ToolCalls):
        text = outcome.outcome.text
    if not text:  # no model could say: the places themselves are the answer
        text = state.memory.extract(ask.query, hits)
    found = Recalled(id=ask.recall, hits=_fitting(hits), answer=text)
    shown = act.Show("thinking", "models") if state.saved.asks else act.Show("idle")
    return [act.Send(ask.asker, found), shown]


def _fitting(hits: list[Hit]) -> tuple[Hit, ...]:
    kept, size = [], 0
    for hit in hits:
        size += len(hit.text.encode())
        if size > ANSWER_BYTES:
            break
        kept.append(hit)
    return tuple(kept)


def _undelivered(state: Keeper, refused: Undelivered) -> list[act.Change]:
    """A question that `models` could not take is answered without it."""
    try:
        body: Body = codec.body(refused.body)
    except LoomError:
        return []
    if not isinstance(body, ModelRequest):
        return []
    return _answered(state, ModelOutcome(request=body.id, outcome=FinalAnswer(text="")))


def _whole(reader: act.Reader, entry: Entry) -> Entry:
    """An entry with its text read from its blob, for the index: of a huge one the beginning."""
    if not entry.blob:
        return entry
    text = reader.blob(entry.blob)[:INDEXED].decode("utf-8", "replace")
    return msgspec.structs.replace(entry, text=text, blob="")


def main(birth: ProcessBirth) -> None:
    """Entry point."""
    from loomd.actor.host import run

    run(birth, KeeperBehaviour(), None)
