"""What went wrong with a call, from whatever says so -> `Failed`. Pure.

`failure`    an exception of the client library, described by plain values
`reported`   an error object inside an answer or a stream
`timed_out`  one of our own clocks

Kinds: rate_limited overloaded timeout context_overflow auth quota refused filtered malformed empty
network server budget cancelled unknown_model (loomd.wire.bodies.Failed). Nearest knowledge first:
a code that the provider names, then the exception's class, its text, its status.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any, assert_never

from loomd.gateway.storable import characters
from loomd.wire.bodies import Failed, Phase

DETAIL_LIMIT = 2000

BY_CODE: dict[str, str] = {
    # `code` or `type` of an error object
    "insufficient_quota": "quota",
    "billing_error": "quota",
    "billing_hard_limit_reached": "quota",
    "rate_limit_exceeded": "rate_limited",
    "rate_limit_error": "rate_limited",
    "tokens": "rate_limited",
    "requests": "rate_limited",
    "overloaded_error": "overloaded",
    "overloaded": "overloaded",
    "engine_overloaded": "overloaded",
    "service_unavailable": "overloaded",
    "context_length_exceeded": "context_overflow",
    "exceed_context_size_error": "context_overflow",
    "request_too_large": "context_overflow",
    "invalid_api_key": "auth",
    "authentication_error": "auth",
    "permission_error": "auth",
    "model_not_found": "unknown_model",
    "not_found_error": "unknown_model",
    "content_filter": "filtered",
    "content_policy_violation": "filtered",
    "responsibleaipolicyviolation": "filtered",
    "resource_exhausted": "rate_limited",
    "unavailable": "overloaded",
    "permission_denied": "auth",
    "unauthenticated": "auth",
    "tool_use_failed": "malformed",
    "deadline_exceeded": "timeout",
    "timeout_error": "timeout",
    "timeout": "timeout",
}

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
    (r"context.{0,20}(length|window)|maximum context|too many tokens|prompt is too long"
     r"|exceeds?.{0,20} context", "context_overflow"),
    (r"insufficient_quota|insufficient.{0,10}(quota|balance|credit|funds)|exceeded your current qu"
     r"ota|billing", "quota"),
    (r"content.{0,10}(filter|policy|management)|safety", "filtered"),
    (r"llm provider not provided|model.{0,60}(not found|does not exist|not exist)|unknown model"
     r"|unmapped llm provider", "unknown_model"),
    (r"invalid.{0,10}api.?key|incorrect api key|unauthorized|missing credentials"
     r"|api_key client option must be set",
     "auth"),
    (r"overloaded|at capacity|temporarily unavailable|loading model", "overloaded"),
    (r"rate.?limit", "rate_limited"),
)  # fmt: skip

NO_CREDIT = r"\b(used all|insufficient|no|not enough)\b.{0,20}\b(credits?|balance|funds)\b"

BAD_CALL = "tool_use_failed"
"""Code of a server that could not read the call which its model has written: another try may do."""

CONNECTION = (
    "MidStreamFallbackError",
    "APIConnectionError",
    "ConnectError",
    "ConnectionError",
    "OSError",
    "TransportError",
)

RETRYABLE = frozenset({"rate_limited", "overloaded", "timeout", "network", "server", "empty"})

NO_API = "does providers.NAME.api_base point at an API (often .../v1)?"

HINTS: dict[str, str] = {
    "auth": "set api_key_env or api_key_file of this provider in config.toml",
    "quota": "the provider's account has no credit left",
    "unknown_model": "check the name (PROVIDER/MODEL) in config.toml; of a server of your own, "
    "whether it has this model, and providers.NAME.api_base points at its API (often .../v1)",
    "context_overflow": "lower limits.view_tokens, or use a model with a larger window",
    "network": "is the server at providers.NAME.api_base running?",
}


LATE: dict[Phase, str] = {
    "connect": HINTS["network"],
    "first_byte": "a server that loads its model first needs a longer providers.NAME.first_byte_s",
    "stalled": "a server that pauses needs a longer providers.NAME.between_s",
    "total": "long answers need a longer providers.NAME.total_s",
    "": "",
}


def failure(
    names: tuple[str, ...],
    status: int | None,
    message: str,
    headers: Mapping[str, str] | None = None,
    now: float = 0.0,
    codes: tuple[str, ...] = (),
) -> Failed:
    """`names`: the exception's class and its bases, nearest first, then those of its causes.
    `headers` of the provider's response; `now` for a Retry-After that is a date; `codes`: `code`
    and `type` of the provider's error object."""
    if "ImportError" in names:
        # The installation lacks something: no other try finds it.
        return Failed(kind="server", detail=readable(message)[:DETAIL_LIMIT])
    kind = _kind(names, status, message, codes)
    after = _retry_after(headers or {}, now, message) if kind in RETRYABLE else None
    return Failed(
        kind=kind,
        detail=readable(message)[:DETAIL_LIMIT],
        retryable=kind in RETRYABLE or BAD_CALL in codes,
        retry_after=after,
        hint=NO_API if kind == "malformed" and is_html(message) else HINTS.get(kind, ""),
        phase=_phase(names, status) if kind == "timeout" else "",
    )


def reported(error: Any) -> Failed:
    """An error object (or its text) that came where an answer should be: in a 200, in a stream."""
    match error:
        case {"error": {} as inner} if inner:
            return reported({**error, **inner, "error": None})
        case {"error": str(message)} if message:
            return reported({**error, "message": message, "error": None})
        case {"message": {} as inner} if inner:
            return reported({**error, "message": str(inner.get("detail") or dict(inner))})
        case {"error": list(several)} if several:
            return reported(several[0])
        case Mapping():
            message = next(
                (
                    said
                    for key in ("message", "detail", "msg", "error_message", "reason")
                    if isinstance(said := error.get(key), str) and said
                ),
                "",
            )
            numbers = (_status(error.get(key)) for key in ("status", "code", "status_code"))
            status = next((one for one in numbers if one is not None), None)
            codes = tuple(str(error[key]) for key in ("code", "type", "status") if error.get(key))
            return failure(("APIError",), status, message or str(dict(error)), codes=codes)
        case _:
            return failure(("APIError",), None, str(error))


def timed_out(phase: Phase, seconds: float) -> Failed:
    """One of our clocks has run out; `seconds`: its length."""
    match phase:
        case "connect":
            said = f"no connection within {seconds:g} s"
        case "first_byte":
            said = f"no first byte within {seconds:g} s"
        case "stalled":
            said = f"nothing for {seconds:g} s in the middle of an answer"
        case "total":
            said = f"not finished within {seconds:g} s"
        case "":
            said = "no answer in time"
        case _:
            assert_never(phase)
    return Failed(kind="timeout", detail=said, retryable=True, phase=phase, hint=LATE[phase])


def _status(value: Any) -> int | None:
    """A status of HTTP, also as a text."""
    if isinstance(value, str) and value.isdecimal():
        value = int(value[:4])
    return value if isinstance(value, int) and 400 <= value < 600 else None


def _phase(names: tuple[str, ...], status: int | None) -> Phase:
    """Of a time-out that the client library or the server tells of."""
    if "ConnectTimeout" in names or "PoolTimeout" in names:
        return "connect"
    if "ReadTimeout" in names or "WriteTimeout" in names:
        return "stalled"
    return "first_byte" if status in (408, 504) else ""


def _kind(names: tuple[str, ...], status: int | None, message: str, codes: tuple[str, ...]) -> str:
    coded = (BY_CODE.get(code.lower()) for code in codes)
    if kind := next((kind for kind in coded if kind is not None), None):
        return kind
    if is_html(message) and (status is None or status < 400 or status == 404):
        return "malformed"  # of something that is no API
    lowered = message.lower()
    if status == 429 and "resource_exhausted" in lowered:
        return "rate_limited"  # Google calls what is left of a minute a quota
    if status == 403 and re.search(NO_CREDIT, lowered):
        return "quota"
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
    if any(name in names for name in CONNECTION):
        return "network"
    if status in BY_STATUS:
        return BY_STATUS[status]
    if status is not None and status >= 500:
        return "server"
    if status is not None and status >= 400:
        return "malformed"
    return "server" if "APIError" in names else "malformed"


def is_html(message: str) -> bool:
    return bool(re.search(r"<!doctype html|<html", message, re.IGNORECASE))


def readable(message: str) -> str:
    """A page of HTML says nothing that its text does not; a traceback is not for people."""
    message = characters(message).split("Traceback (most recent call last)")[0]
    message = message.split(" Original exception: ")[0]
    message = re.sub(r"\A(?:(?:litellm\.)?\w+(?:Error|Exception|Timeout)(?:: | - ))+", "", message)
    if is_html(message):
        message = "an HTML page: " + re.sub(r"<[^>]*>", " ", message)
    return re.sub(r"\s+", " ", message).strip()


def _retry_after(headers: Mapping[str, str], now: float, message: str) -> float | None:
    """Seconds; from `retry-after-ms` or `retry-after` (seconds or a date), else as Google says it
    in the body."""
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
    except (ValueError, OverflowError):  # a year that is none
        said = re.search(r'"retryDelay": *"(\d{1,6}(?:\.\d+)?)s"', message)
        return float(said[1]) if said else None
