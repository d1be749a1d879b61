"""Where the zoo of provider shapes ends. Pure: plain dicts in, typed outcomes out.

`Assembly`  the pieces of a streamed answer put together, then its outcome and usage
`failure`   an exception of the client library, described by plain values -> Failed
`number`    our own ids for a reply's calls

Beyond this file no code looks at a provider's dict, and what leaves it can be stored: characters
that are none (half of a pair), numbers beyond 64 bits and bottomless nesting end here.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any

import msgspec

from loomd.wire.bodies import Call, Failed, FinalAnswer, Outcome, ToolCalls, Usage

ANSWER_LIMIT = 384 << 10
"""Bytes of one answer. It is mailed twice in one commit, whose frame holds 1 MiB."""

DETAIL_LIMIT = 2000

NESTING = 64
"""Levels of a call's arguments."""

INTEGERS = (-(1 << 63), (1 << 64) - 1)
"""The smallest and the largest that a message holds."""


# --- an answer ---------------------------------------------------------------------------------


@dataclass
class _Piece:
    """A tool call as it grows. `arguments`: JSON text, or the dict that some servers send."""

    id: str = ""
    name: str = ""
    arguments: str = ""
    ready: dict[str, Any] | None = None


@dataclass
class Assembly:
    """The pieces of one answer. `feed` returns the new text of a piece, for those who watch."""

    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    refusal: list[str] = field(default_factory=list)
    calls: dict[int, _Piece] = field(default_factory=dict)
    finish: str = ""
    usage: dict[str, Any] = field(default_factory=dict)
    chunks: int = 0
    error: Mapping[str, Any] | str | None = None

    def feed(self, chunk: Mapping[str, Any]) -> tuple[str, str]:
        """One chunk (or one whole answer) -> (text, reasoning) that it added."""
        self.chunks += 1
        if chunk.get("error"):
            self.error = chunk["error"]
        if isinstance(chunk.get("usage"), Mapping):
            self.usage = dict(chunk["usage"])
        added, thought = "", ""
        for choice in (chunk.get("choices") or [])[:1]:
            if not isinstance(choice, Mapping):
                continue
            message = choice.get("delta") or choice.get("message") or {}
            piece, inside = _split_content(message.get("content"))
            inside += _string(message.get("reasoning_content") or message.get("reasoning"))
            added, thought = added + piece, thought + inside
            self.refusal.append(_string(message.get("refusal")))
            for position, call in enumerate(message.get("tool_calls") or ()):
                self._call(position, call)
            if message.get("function_call"):
                self._call(0, {"index": 0, "function": message["function_call"]})
            if choice.get("finish_reason"):
                self.finish = str(choice["finish_reason"])
        if added:
            self.text.append(added)
        if thought:
            self.reasoning.append(thought)
        return characters(added), characters(thought)

    def _call(self, position: int, call: Any) -> None:
        if not isinstance(call, Mapping):
            return
        index = call.get("index")
        if not isinstance(index, int):
            # Without an index a new id starts a new call, and no id continues the last one.
            index = position if position in self.calls or not self.calls else max(self.calls)
            if call.get("id") and any(
                p.id and p.id != call["id"] for p in [self.calls.get(index)] if p
            ):
                index = max(self.calls) + 1
        piece = self.calls.setdefault(index, _Piece())
        function = call.get("function")
        function = function if isinstance(function, Mapping) else {}
        piece.id = piece.id or _string(call.get("id"))
        name = _string(function.get("name"))
        if name and piece.name != name:
            piece.name += name
        arguments = function.get("arguments")
        if isinstance(arguments, Mapping):
            piece.ready = dict(arguments)
        else:
            piece.arguments += _string(arguments)

    def outcome(self) -> Outcome:
        """What the whole answer is. To be asked once, after the last piece."""
        if self.error is not None:
            message = self.error.get("message") if isinstance(self.error, Mapping) else self.error
            code = self.error.get("code") if isinstance(self.error, Mapping) else None
            status = code if isinstance(code, int) else None
            return failure(("APIError",), status, str(message or self.error))
        text, reasoning = characters("".join(self.text)), characters("".join(self.reasoning))
        text, inside = _think_tags(text)
        reasoning += inside
        if self._size(text, reasoning) > ANSWER_LIMIT:
            return Failed(kind="malformed", detail=f"the answer is over {ANSWER_LIMIT} bytes")
        if self.finish == "content_filter":
            return Failed(kind="filtered", detail="the provider's filter stopped the answer")
        if refusal := characters("".join(self.refusal)).strip():
            return Failed(kind="refused", detail=refusal[:DETAIL_LIMIT])
        if not self.finish:
            if not (text or reasoning or self.calls):
                return Failed(
                    kind="malformed",
                    detail="what the server sent is no answer of a chat model",
                    hint="does providers.NAME.api_base point at an API (often .../v1)?",
                )
            return Failed(
                kind="network", detail="the stream ended before its answer did", retryable=True
            )
        cut = self.finish in ("length", "max_tokens")
        if self.calls:
            calls = tuple(_typed(self.calls[i], cut) for i in sorted(self.calls))
            if not any(call.name for call in calls):
                return Failed(kind="malformed", detail="tool calls without a name", retryable=True)
            return ToolCalls(calls=calls, text=text, reasoning=reasoning)
        if cut:
            return Failed(
                kind="malformed",
                detail="the answer was cut off at the limit of output tokens: " + text[-200:],
                hint="the model needs more output tokens",
            )
        if not text.strip():
            return Failed(kind="empty", detail="the model answered nothing", retryable=True)
        return FinalAnswer(text=text, reasoning=reasoning)

    def _size(self, text: str, reasoning: str) -> int:
        calls = sum(len(p.arguments.encode("utf-8", "replace")) for p in self.calls.values())
        return len(text.encode()) + len(reasoning.encode()) + calls

    def tokens(self) -> Usage | None:
        """As the provider counted them; None if it did not say. The cost is set elsewhere, unless
        the provider reported one."""
        if not self.usage:
            return None
        details = self.usage.get("prompt_tokens_details") or {}
        cached = details.get("cached_tokens") if isinstance(details, Mapping) else 0
        cached = cached or self.usage.get("cache_read_input_tokens") or 0
        written = self.usage.get("cache_creation_input_tokens")
        if written is None and isinstance(details, Mapping):
            written = details.get("cache_creation_tokens")
        thought = self.usage.get("completion_tokens_details") or {}
        reasoning = thought.get("reasoning_tokens") if isinstance(thought, Mapping) else 0
        cost = self.usage.get("cost")
        return Usage(
            input_tokens=_count(self.usage.get("prompt_tokens")),
            output_tokens=_count(self.usage.get("completion_tokens")),
            cached_tokens=_count(cached),
            cache_write_tokens=_count(written),
            reasoning_tokens=_count(reasoning),
            cost_usd=_money(cost),
            calls=1,
        )


def _string(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _count(value: Any) -> int:
    return min(value, INTEGERS[1] >> 1) if isinstance(value, int) and value > 0 else 0


def _money(value: Any) -> float | None:
    """US dollars; None for what is no sum of money."""
    if not isinstance(value, int | float):
        return None
    try:
        amount = float(value)
    except OverflowError:
        return None
    return amount if math.isfinite(amount) and amount >= 0 else None


def characters(text: str) -> str:
    """The text without halves of surrogate pairs: two that belong together are one character (a
    stream may cut between them), a single one is U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _split_content(content: Any) -> tuple[str, str]:
    """(text, reasoning) of a content that is a string or a list of typed parts."""
    if isinstance(content, str):
        return content, ""
    text, thought = "", ""
    for part in content if isinstance(content, list) else ():
        if isinstance(part, str):
            text += part
        elif isinstance(part, Mapping) and part.get("type") in ("thinking", "reasoning"):
            thought += _string(part.get("thinking") or part.get("text"))
        elif isinstance(part, Mapping):
            text += _string(part.get("text"))
    return text, thought


_THINK = re.compile(r"\A\s*<think(?:ing)?>(.*?)</think(?:ing)?>\s*", re.DOTALL)


def _think_tags(text: str) -> tuple[str, str]:
    """Open models put their thoughts before the answer, in tags."""
    match = _THINK.match(text)
    return (text[match.end() :], match.group(1).strip()) if match else (text, "")


def _typed(piece: _Piece, cut: bool) -> Call:
    id, name = characters(piece.id), characters(piece.name)
    args, error = (piece.ready, "") if piece.ready is not None else _arguments(piece.arguments)
    if error and cut:
        error = "the arguments were cut off at the limit of output tokens"
    elif said := _odd(args):
        args, error = {}, f"the arguments hold {said}"
    return Call(id=id, name=name, args=args, provider_id=id, error=error)


def _odd(value: Any, depth: int = 0) -> str:
    """What in a call's arguments no message can hold, for the model; "" if there is nothing. Not
    mended as texts are: a file would be written with what nobody meant."""
    match value:
        case str():
            half = value != characters(value)
            return "half of a character (a single \\ud800 to \\udfff)" if half else ""
        case float() if not math.isfinite(value):
            return f"{value}, which is no number of JSON"
        case int() if not INTEGERS[0] <= value <= INTEGERS[1]:
            return "an integer of more than 64 bits"
        case dict() | list() if depth >= NESTING:
            return f"more than {NESTING} levels of nesting"
        case dict():
            inner = [*value.keys(), *value.values()]
        case list():
            inner = value
        case _:
            return ""
    return next((said for one in inner if (said := _odd(one, depth + 1))), "")


def _arguments(text: str) -> tuple[dict[str, Any], str]:
    """(arguments, error). No argument at all is an empty object; JSON wrapped in a code fence or
    in a string once too often is unwrapped; anything else is said to the model."""
    text = characters(text).strip()
    if not text:
        return {}, ""
    if text.startswith("```"):
        text = text.strip("`").removeprefix("json").strip()
    try:
        value = json.loads(text, strict=False)
        if isinstance(value, str):
            value = json.loads(value, strict=False)
    except (ValueError, RecursionError) as error:
        return {}, f"the arguments are not JSON ({error}): {text[:300]}"
    if value is None:
        return {}, ""
    if not isinstance(value, dict):
        return {}, f"the arguments are not an object: {text[:300]}"
    return value, ""


def number(outcome: Outcome, request: str) -> Outcome:
    """`outcome` with calls numbered by us, `REQUEST.1`, `REQUEST.2`: unique in the session."""
    if not isinstance(outcome, ToolCalls):
        return outcome
    calls = tuple(
        msgspec.structs.replace(call, id=f"{request}.{n}")
        for n, call in enumerate(outcome.calls, 1)
    )
    return msgspec.structs.replace(outcome, calls=calls)


# --- a failure ---------------------------------------------------------------------------------

BY_NAME: tuple[tuple[str, str], ...] = (
    # class names of the client library and of those below it; first match wins
    ("ContextWindowExceededError", "context_overflow"),
    ("ContentPolicyViolationError", "filtered"),
    ("RejectedRequestError", "refused"),
    ("PaymentRequiredError", "quota"),
    ("BudgetExceededError", "quota"),
    ("LiteLLMUnknownProvider", "unknown_model"),
    ("JSONSchemaValidationError", "malformed"),
    ("APIResponseValidationError", "malformed"),
    ("JSONDecodeError", "malformed"),
    ("RateLimitError", "rate_limited"),
    ("AuthenticationError", "auth"),
    ("PermissionDeniedError", "auth"),
    ("NotFoundError", "unknown_model"),
    ("Timeout", "timeout"),
    ("APITimeoutError", "timeout"),
    ("TimeoutException", "timeout"),
    ("TimeoutError", "timeout"),
)

BY_STATUS: dict[int, str] = {
    400: "malformed",
    401: "auth",
    402: "quota",
    403: "auth",
    404: "unknown_model",
    408: "timeout",
    413: "context_overflow",
    422: "malformed",
    429: "rate_limited",
    500: "server",
    502: "overloaded",
    503: "overloaded",
    504: "timeout",
    529: "overloaded",
}

BY_TEXT: tuple[tuple[str, str], ...] = (
    # asked only where name and status leave it open: in bad requests, 429 and 5xx
    (r"context.{0,20}(length|window)|maximum context|too many tokens|prompt is too long",
     "context_overflow"),
    (r"insufficient_quota|insufficient.{0,10}(quota|balance|credit|funds)|exceeded your current qu"
     r"ota|billing", "quota"),
    (r"content.{0,10}(filter|policy|management)|safety", "filtered"),
    (r"llm provider not provided|model.{0,60}(not found|does not exist|not exist)|unknown model"
     r"|unmapped llm provider", "unknown_model"),
    (r"invalid.{0,10}api.?key|incorrect api key|unauthorized|missing credentials"
     r"|api_key client option must be set",
     "auth"),
    (r"overloaded", "overloaded"),
    (r"rate.?limit", "rate_limited"),
)  # fmt: skip

CONNECTION = (
    "MidStreamFallbackError",
    "APIConnectionError",
    "ConnectError",
    "ConnectionError",
    "OSError",
    "TransportError",
)

RETRYABLE = frozenset({"rate_limited", "overloaded", "timeout", "network", "server", "empty"})

HINTS: dict[str, str] = {
    "auth": "set api_key_env or api_key_file of this provider in config.toml",
    "quota": "the provider's account has no credit left",
    "unknown_model": "check models.default in config.toml; a name is PROVIDER/MODEL",
    "context_overflow": "lower limits.view_tokens, or use a model with a larger window",
    "network": "is the server at providers.NAME.api_base running?",
}


def failure(
    names: tuple[str, ...],
    status: int | None,
    message: str,
    headers: Mapping[str, str] | None = None,
    now: float = 0.0,
) -> Failed:
    """`names`: the exception's class and its bases, nearest first, then those of its causes.
    `headers` of the provider's response; `now` for a Retry-After that is a date."""
    kind = _kind(names, status, message)
    if "ImportError" in names:
        # The installation lacks something: no other try finds it.
        return Failed(kind="server", detail=_readable(message)[:DETAIL_LIMIT])
    after = _retry_after(headers or {}, now) if kind in RETRYABLE else None
    return Failed(
        kind=kind,
        detail=_readable(message)[:DETAIL_LIMIT],
        retryable=kind in RETRYABLE,
        retry_after=after,
        hint=HINTS.get(kind, ""),
    )


def _kind(names: tuple[str, ...], status: int | None, message: str) -> str:
    lowered = message.lower()
    named = next((kind for name, kind in BY_NAME if name in names), None)
    # The library maps many a 400 and 429 to one class; the text knows more.
    open_names = (None, "rate_limited", "unknown_model", "malformed")
    if named in open_names and (status is None or status in (400, 404, 422, 429) or status >= 500):
        for pattern, kind in BY_TEXT:
            if re.search(pattern, lowered):
                if named in ("rate_limited",) and kind not in ("quota",):
                    continue
                return kind
    if named is not None:
        return named
    if _is_html(message) and (status is None or status < 500):
        return "malformed"
    if any(name in names for name in CONNECTION):
        return "network"
    if status in BY_STATUS:
        return BY_STATUS[status]
    if status is not None and status >= 500:
        return "server"
    if status is not None and status >= 400:
        return "malformed"
    return "server" if "APIError" in names else "malformed"


def _is_html(message: str) -> bool:
    return bool(re.search(r"<!doctype html|<html", message, re.IGNORECASE))


def _readable(message: str) -> str:
    """A page of HTML says nothing that its text does not; a traceback is not for people."""
    message = characters(message).split("Traceback (most recent call last)")[0]
    message = message.split(" Original exception: ")[0]
    message = re.sub(r"\A(?:(?:litellm\.)?\w+(?:Error|Exception|Timeout)(?:: | - ))+", "", message)
    if _is_html(message):
        message = "an HTML page: " + re.sub(r"<[^>]*>", " ", message)
    return re.sub(r"\s+", " ", message).strip()


def _retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds; from `retry-after-ms` or `retry-after` (seconds or a date)."""
    lowered = {name.lower(): value for name, value in headers.items()}
    try:
        if "retry-after-ms" in lowered:
            return max(0.0, float(lowered["retry-after-ms"]) / 1000)
    except ValueError:
        pass
    value = lowered.get("retry-after", "")
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - now)
    except ValueError:
        return None
