"""The pieces of one answer put together: what a server sent, in whatever form -> `Answer`. Pure.

`Assembly.feed` takes one chunk of a stream, or one whole answer; `answer` says, after the last one,
what has come, in terms that no provider knows: texts, calls, one of the `Finish`, an error. What it
means is decided in loomd.gateway.classify.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from loomd.gateway import counts
from loomd.gateway.arguments import Extent
from loomd.gateway.events import Events
from loomd.gateway.failure import reported
from loomd.gateway.repairs import Repairs
from loomd.gateway.storable import characters, joined
from loomd.gateway.types import CallPiece
from loomd.wire.bodies import Failed, Usage

Finish = Literal[
    "none", "stop", "calls", "length", "filter", "refusal", "malformed", "error", "overloaded"
]
"""Why an answer ended. none: nobody said. malformed: the server could not read the model's call."""

FINISHES: dict[str, Finish] = {
    "stop": "stop",
    "stop_sequence": "stop",
    "end_turn": "stop",
    "eos": "stop",
    "eos_token": "stop",
    "complete": "stop",
    "tool_calls": "calls",
    "tool_use": "calls",
    "tool_call": "calls",
    "function_call": "calls",
    "length": "length",
    "max_tokens": "length",
    "max_output_tokens": "length",
    "model_length": "length",
    "model_context_window_exceeded": "length",
    "content_filter": "filter",
    "content_filtered": "filter",
    "safety": "filter",
    "recitation": "filter",
    "blocklist": "filter",
    "prohibited_content": "filter",
    "spii": "filter",
    "sensitive": "filter",
    "guardrail_intervened": "filter",
    "refusal": "refusal",
    "malformed_function_call": "malformed",
    "malformed_response": "malformed",
    "unexpected_tool_call": "malformed",
    "error": "error",
    "insufficient_system_resource": "overloaded",
    "network_error": "error",
}
"""Words of providers, in small letters. Any other is a stop: the answer is there."""

MOST_CALLS = 1000
"""Of one answer; more are no answer."""

ERRORS = ("error", "detail", "message", "msg", "error_message")
"""Keys of an object that is an error, where it has no choices."""


@dataclass
class Piece:
    """A tool call as it grows. `arguments`: JSON text; `ready`: what some servers send instead."""

    id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list)
    ready: Any = None
    index: int | None = None
    place: int = 0  # among the calls, in the order in which they began
    written: bool = False  # into the text
    _extent: Extent = field(default_factory=Extent)
    _looked: int = 0

    def sent(self) -> Any:
        return self.ready if self.ready is not None else "".join(self.arguments)

    def full(self) -> bool:
        """Whether nothing can be added any more."""
        for piece in self.arguments[self._looked :]:
            self._extent.feed(piece)
        self._looked = len(self.arguments)
        return self.ready is not None or self._extent.ended


@dataclass(frozen=True)
class Answer:
    """What came. `text` and `reasoning` are storable, the calls are as they were sent. `garbage`:
    what is no object; `broken`: a piece is missing; `endless`: there was too much of it."""

    text: str = ""
    reasoning: str = ""
    refusal: str = ""
    calls: tuple[Piece, ...] = ()
    finish: Finish = "none"
    error: Failed | None = None
    chunks: int = 0
    garbage: str = ""
    broken: bool = False
    endless: bool = False
    repairs: Repairs = field(default_factory=Repairs)


class Added(NamedTuple):
    """What a chunk adds, for those who watch; what a turn calls is decided when all is there."""

    text: str = ""
    reasoning: str = ""
    calls: tuple[CallPiece, ...] = ()


@dataclass
class Assembly:
    """The pieces of one answer."""

    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    refusal: list[str] = field(default_factory=list)
    calls: list[Piece] = field(default_factory=list)
    finish: Finish = "none"
    usage: dict[str, Any] = field(default_factory=dict)
    chunks: int = 0
    error: Failed | None = None
    came: Events = field(default_factory=Events)
    repairs: Repairs = field(default_factory=Repairs)
    _last: Mapping[str, Any] | None = None  # the choice that told of the end
    _grown: list[CallPiece] = field(default_factory=list)

    def feed(self, chunk: Mapping[str, Any]) -> Added:
        """One chunk, or one whole answer."""
        self.chunks += 1
        choices = chunk.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else None
        self._count(chunk)
        if chunk.get("error") or (choices is None and any(chunk.get(key) for key in ERRORS)):
            self.error = self.error or reported(chunk)
        if not isinstance(choice, Mapping):
            return Added()
        if choice.get("error"):
            self.error = self.error or reported(choice["error"])
        if choice == self._last:
            self.repairs.note("repeated", detail="the last chunk came twice")
            return Added()
        whole = isinstance(choice.get("message"), Mapping)
        message = choice["message"] if whole else choice.get("delta")
        message = message if isinstance(message, Mapping) else {}
        added, thought = self._said(message)
        if not message and isinstance(choice.get("text"), str):
            added = choice["text"]  # of a server that completes texts
        self._calls(message, whole)
        if isinstance(reason := choice.get("finish_reason"), str) and reason:
            self._last = choice
            self.finish = FINISHES.get(reason.lower(), "stop")
            if reason.lower() not in FINISHES:
                self.repairs.note("finish", detail=f"{reason!r} is no reason that is known")
        if added:
            self.text.append(added)
        if thought:
            self.reasoning.append(thought)
        grown, self._grown = tuple(self._grown), []
        return Added(characters(added), characters(thought), grown)

    def received(self, events: Events) -> None:
        """What is known of the bytes that the chunks came in."""
        self.came = events

    def answer(self) -> Answer:
        """What has come. To be asked once, after the last piece."""
        if all(piece.index is not None for piece in self.calls):
            self.calls.sort(key=lambda piece: piece.index or 0)
        for number, piece in enumerate(self.calls, 1):
            if not piece.id or any(piece.id == one.id for one in self.calls[: number - 1]):
                self.repairs.note("id", number)
        return Answer(
            text=self._joined(self.text),
            reasoning=self._joined(self.reasoning),
            refusal=self._joined(self.refusal).strip(),
            calls=tuple(self.calls),
            finish=self.finish,
            error=self.error,
            chunks=self.chunks,
            garbage=characters(self.came.garbage),
            broken=self.came.broken,
            endless=self.came.over,
            repairs=self.repairs,
        )

    def tokens(self) -> Usage | None:
        """As the provider counted them; None if it did not say."""
        return counts.tokens(self.usage)[0]

    def written(self) -> str:
        """All that the model has written so far, for whoever must count it."""
        calls = [f"{piece.name}{piece.sent()}" for piece in self.calls]
        return characters("".join([*self.text, *self.reasoning, *calls]))

    # --- texts ---------------------------------------------------------------------------------

    def _joined(self, pieces: list[str]) -> str:
        whole = joined("".join(pieces))
        made = characters(whole)
        if made != whole:
            self.repairs.note("characters")
        return made

    def _said(self, message: Mapping[str, Any]) -> tuple[str, str]:
        added, thought = split_content(message.get("content"))
        for key in ("reasoning_content", "reasoning", "thinking"):
            if message.get(key):  # some servers send one text under two names
                thought += split_content(message[key])[0]
                break
        self.refusal.append(_string(message.get("refusal")))
        return added, thought

    # --- calls ---------------------------------------------------------------------------------

    def _calls(self, message: Mapping[str, Any], whole: bool) -> None:
        calls = message.get("tool_calls")
        if isinstance(calls, Mapping):
            calls = [calls]
        several = isinstance(calls, list) and len(calls) > 1
        for position, call in enumerate(calls if isinstance(calls, list) else ()):
            if isinstance(call, Mapping):
                if whole:  # each is a call, whatever it says of its place
                    self.calls.append(Piece(index=len(self.calls), place=len(self.calls)))
                    call = {**call, "index": len(self.calls) - 1}
                self._fragment(call, position if several else None)
        if isinstance(legacy := message.get("function_call"), Mapping):
            self._fragment({"index": 0, "function": legacy}, None)
            self.repairs.note("legacy", 1)

    def _fragment(self, call: Mapping[str, Any], position: int | None) -> None:
        function = call.get("function")
        function = function if isinstance(function, Mapping) else call
        id, name = _string(call.get("id")), _string(function.get("name"))
        sent = function.get("arguments")
        index = call.get("index")
        index = index if isinstance(index, int) and not isinstance(index, bool) else None
        if len(self.calls) > MOST_CALLS:
            self.error = Failed(kind="malformed", detail=f"more than {MOST_CALLS} calls")
            return
        piece = self._place(index, position, id, name, sent)
        if piece is None:
            return
        piece.id = piece.id or id
        if name and piece.name != name:
            piece.name += name
        if isinstance(sent, str):
            piece.arguments.append(sent)
        elif sent is not None:
            piece.ready = sent
        text = characters(sent) if isinstance(sent, str) else ""
        self._grown.append(CallPiece(piece.place, characters(name), text))

    def _place(
        self, index: int | None, position: int | None, id: str, name: str, sent: Any
    ) -> Piece | None:
        """The call that a fragment belongs to, a new one, or None if it has come before."""
        if index is not None:
            known = next((one for one in reversed(self.calls) if one.index == index), None)
        elif id and (same := [one for one in self.calls if one.id == id]):
            known = same[-1]
        elif name and position is not None:
            known = None  # several in one delta, each with its name, are several calls
        elif position is not None and position < len(self.calls):
            known = self.calls[position]
        else:
            known = self.calls[-1] if self.calls else None
        if known is None:
            return self._new(index)
        if not name or (not known.name and not known.arguments):
            return known  # without a name it goes on, whatever id it brings
        anew = bool(id and known.id and id != known.id)
        if known.full():
            if not anew and known.name == name and sent in (known.sent(), "", None):
                self.repairs.note("repeated", self.calls.index(known) + 1)
                return None
            return self._new(index, taken=True)
        if known.name == name and any(known.arguments):
            return known  # a server that says id and name again with every fragment
        if anew or (index is None and known.name != name):
            return self._new(index, taken=True)
        return known

    def _new(self, index: int | None, taken: bool = False) -> Piece:
        piece = Piece(index=index, place=len(self.calls))
        self.calls.append(piece)
        if index is None or taken:
            self.repairs.note("index", len(self.calls))
        return piece

    # --- tokens --------------------------------------------------------------------------------

    def _count(self, chunk: Mapping[str, Any]) -> None:
        """Counts come in any chunk, in part, or again and again: the last of each is in force."""
        for place in (chunk, chunk.get("x_groq")):
            told = place.get("usage") if isinstance(place, Mapping) else None
            if isinstance(told, Mapping):
                self.usage |= {key: value for key, value in told.items() if value is not None}


def split_content(content: Any) -> tuple[str, str]:
    """(text, reasoning) of a content that is a string or a list of typed parts."""
    if isinstance(content, str):
        return content, ""
    text, thought = "", ""
    parts = [content] if isinstance(content, Mapping) else content
    for part in parts if isinstance(parts, list) else ():
        match part:
            case str():
                text += part
            case {"type": "thinking" | "reasoning" | "reasoning_content"}:
                inner = part.get("thinking") or part.get("text") or part.get("reasoning")
                thought += split_content(inner)[0]
            case {"text": {"value": str(inner)}}:
                text += inner
            case {"text": str(inner)}:
                text += inner
            case _:
                pass  # pictures and the like: nobody asked for them
    return text, thought


def _string(value: Any) -> str:
    return value if isinstance(value, str) else ""
