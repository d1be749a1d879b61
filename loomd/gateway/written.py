"""Calls that local models write into their text, and answers that only quote one. Pure.

Asked only where the request offered tools, the answer has no call of its own and was not cut off.
What decides is what was offered, and where the call stands:

                                   nothing else     words before      words behind it
    marked (<tool_call>, ...)      a call           a call            back to the model
    JSON (fenced, or bare)         a call           back to the model an answer that quotes

Marks in code are quotes. JSON counts only with the name of an offered tool and arguments that fit
it: an answer may well be an object with a `name`. Marks with another name are a call of a tool that
does not exist. "Back to the model" is a call with an error that says what it must do: a quotation
acted upon may do harm, and a call taken for an answer ends the work in silence.
"""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from loomd.gateway.arguments import arguments
from loomd.gateway.assembly import Piece
from loomd.gateway.lenient import Unreadable, read
from loomd.gateway.offered import Offered
from loomd.gateway.thoughts import code, within

DOUBT = (
    "your text contains what may be a call of {name} or a quotation of one. If it is a call, make "
    "it as a tool call and write nothing behind it; if it is a quotation, say so in words around a "
    "code fence, with words behind it"
)
UNREADABLE = "a call was written into the text ({mark}) and cannot be read: {why}"

_ENDS = re.compile(
    r"(?:\s|<\|[\w▁|]*\|>|<\uff5c[\w▁]*\uff5c>|</s>|</(?:minimax:)?tool_calls?>|</function_calls>)*"
)
"""What models write behind a call: words of their template."""

_MARK = re.compile(
    r"<tool_call>|<function=(?P<name>[\w.:/-]+)>|\[TOOL_CALLS\]|<\|python_tag\|>"
    r"|<\|tool_call\|>|<function_call>"
    r"|(?:<\|tool_calls_section_begin\|>\s*)?<\|tool_call_begin\|>"
    r"|(?:<\uff5ctool▁calls▁begin\uff5c>\s*)?<\uff5ctool▁call▁begin\uff5c>"
    r"|<\|channel\|>commentary to=(?:functions\.)?(?P<to>[\w.-]+)[^<]*(?:<\|constrain\|>\w+)?\s*"
    r"<\|message\|>"
    r"|(?:<(?:minimax:tool_call|function_calls)>\s*)?<invoke name=\"(?P<invoked>[\w.:/-]+)\">"
)
_FENCE = re.compile(
    r"```(?:json|tool_call|tool_code|xml|python)?[ \t]*\n(.*?)\n?[ \t]*```", re.DOTALL
)
_PARAMETER = re.compile(
    r"<parameter=(?P<name>[\w.-]+)>(?P<value>.*?)(?:</parameter>|(?=<parameter=)|\Z)", re.DOTALL
)
_PAIR = re.compile(
    r"<arg_key>(?P<name>.*?)</arg_key>\s*<arg_value>(?P<value>.*?)</arg_value>", re.DOTALL
)
_MISTRAL = re.compile(
    r"\s*(?P<name>[A-Za-z_][\w.-]*)\s*(?:\[CALL_ID\]\w+)?\s*(?:\[ARGS\])?\s*(?=\{)"
)
_NAMED = re.compile(
    r"\s*(?:function<\uff5ctool▁sep\uff5c>)?(?P<name>[\w.:/-]+?)(?::\d+)?\s*"
    r"(?:<\|tool_call_argument_begin\|>|<\uff5ctool▁sep\uff5c>|\s)\s*(?:```json\s*)?(?=\{)"
)
"""A name, and then its arguments, in the words of some templates."""

_GIVEN = re.compile(r"<parameter name=\"(?P<name>[\w.-]+)\">(?P<value>.*?)</parameter>", re.DOTALL)
_FIRST = re.compile(r"\s*(?:(?P<open>[{\[<])|(?P<word>[\w-]+))")
"""What stands behind a mark if a call begins there."""

_FUNCTION = re.compile(r"\s*<function=(?P<name>[\w.:/-]+)>")


@dataclass(frozen=True)
class Written:
    """`calls` found in the text, and what of it is left. `doubt`: why the one call that may be
    meant is not made, for the model."""

    calls: tuple[Piece, ...] = ()
    text: str = ""
    form: str = ""
    doubt: str = ""


def written(text: str, offered: Offered) -> Written | None:
    """None: the text is an answer."""
    if not offered:
        return None
    quoted = code(text)
    marks = [match for match in _MARK.finditer(text) if not within(match.start(), quoted)]
    if marks:
        return _marked(text, marks[0].start(), offered)
    return _json(text.strip(), offered)


# --- marked ------------------------------------------------------------------------------------


def _marked(text: str, begin: int, offered: Offered) -> Written | None:
    """Blocks from `begin` on, words between them left out."""
    said, at = [text[:begin]], begin
    calls: list[Piece] = []
    mark = ""
    quoted = code(text)
    while match := _MARK.search(text, at):
        if within(match.start(), quoted):
            break
        said.append(text[at : match.start()])
        mark = mark or match.group()
        try:
            made, at = _block(text, match, offered)
        except Unreadable as error:
            if not (name := _begun(text, match, offered)):
                return None  # words about calls
            doubt = UNREADABLE.format(mark=match.group(), why=error)
            return _doubtful(name, text, match.group(), doubt)
        calls += made
        at = _end(text, at)
    if text[at:].strip():
        name = offered.meant(calls[0].name)[0]
        return _doubtful(name, text, mark) if name else None
    return Written(tuple(calls), "".join(said).strip(), mark)


def _begun(text: str, mark: re.Match[str], offered: Offered) -> str:
    """The tool whose call seems to begin at this mark; "" if it is followed by plain words."""
    first = _FIRST.match(text, mark.end())
    named = [
        name
        for name in offered.names()
        if re.search(rf"\b{re.escape(name)}\b", text[mark.start() :])
    ]
    if first is None or not named or not (first["open"] or first["word"] in offered):
        return ""
    return first["word"] if first["word"] in offered else max(named, key=len)


def _doubtful(name: str, text: str, form: str, doubt: str = "") -> Written:
    return Written((Piece(name=name),), text, form, doubt or DOUBT.format(name=name))


def _end(text: str, at: int) -> int:
    match = _ENDS.match(text, at)
    return match.end() if match else at


def _block(text: str, match: re.Match[str], offered: Offered) -> tuple[list[Piece], int]:
    """(calls, where the block ends). Raises Unreadable."""
    begin = match.end()
    match match.group():
        case "[TOOL_CALLS]":
            return _mistral(text, begin)
        case "<tool_call>":
            return _closed(text, begin, "</tool_call>", offered)
        case "<|tool_call|>":
            return _closed(text, begin, "<|/tool_call|>", offered)
        case "<function_call>":
            return _closed(text, begin, "</function_call>", offered)
        case "<|python_tag|>":
            body = re.split(r"<\|e\w+_id\|>", text[begin:], maxsplit=1)[0]
            return _objects(body), begin + len(body)
        case mark if mark.endswith("begin|>") or mark.endswith("begin\uff5c>"):
            return _named(text, begin)
        case mark if match["to"]:
            body, at = _value(text, begin)
            read(body)
            return [Piece(name=match["to"], arguments=[body])], at
        case mark if match["invoked"]:
            end = text.find("</invoke>", begin)
            body = text[begin:] if end < 0 else text[begin:end]
            at = len(text) if end < 0 else end + len("</invoke>")
            return [_typed(match["invoked"], list(_GIVEN.finditer(body)), offered)], at
        case _:
            return _function(text, match.group("name"), begin, offered)


def _closed(text: str, begin: int, close: str, offered: Offered) -> tuple[list[Piece], int]:
    """A block up to its closing tag, which models leave out at the end of an answer."""
    end = text.find(close, begin)
    body, at = (text[begin:], len(text)) if end < 0 else (text[begin:end], end + len(close))
    if inner := _FUNCTION.match(body):
        made, _ = _function(body, inner.group("name"), inner.end(), offered)
        return made, at
    if pairs := list(_PAIR.finditer(body)):
        name = body[: pairs[0].start()].strip()
        return [_typed(name, pairs, offered)], at
    return _objects(body), at


def _function(text: str, name: str, begin: int, offered: Offered) -> tuple[list[Piece], int]:
    """`<function=NAME>`: parameters in tags, or an object of arguments."""
    end = text.find("</function>", begin)
    body, at = (text[begin:], len(text)) if end < 0 else (text[begin:end], end + len("</function>"))
    body = _TEMPLATE.sub("", body).strip()
    if found := list(_PARAMETER.finditer(body)):
        return [_typed(name, found, offered)], at
    if not body:
        return [Piece(name=name)], at
    read(body)
    return [Piece(name=name, arguments=[body])], at


_TEMPLATE = re.compile(r"(?:<\|e\w+_id\|>|</tool_call>|</s>|<\|im_end\|>)\s*\Z")


def _typed(name: str, found: list[re.Match[str]], offered: Offered) -> Piece:
    """Values in tags are texts; the schema says which of them are something else."""
    meant = offered.meant(name)[0]
    args: dict[str, Any] = {}
    for match in found:
        key, value = match.group("name").strip(), match.group("value")
        value = value.removeprefix("\n").removesuffix("\n")
        kind = offered.type_of(meant, key) if meant else ""
        args[key] = value
        if kind not in ("", "string"):
            # What cannot be read is said by the tool, which knows what it wants there.
            with contextlib.suppress(Unreadable):
                args[key] = read(value.strip())[0]
    return Piece(name=name, ready=args)


def _named(text: str, begin: int) -> tuple[list[Piece], int]:
    match = _NAMED.match(text, begin)
    if match is None:
        raise Unreadable("no name with its arguments follows", begin, text)
    body, at = _value(text, match.end())
    read(body)
    closed = re.compile(r"\s*(?:```)?").match(text, at)
    return [Piece(name=match["name"], arguments=[body])], closed.end() if closed else at


def _mistral(text: str, begin: int) -> tuple[list[Piece], int]:
    """A list of objects, or NAME{...} again and again."""
    rest = text[begin:]
    if rest.lstrip()[:1] in ("[", "{"):
        body, at = _value(text, begin)
        return _objects(body), at
    made: list[Piece] = []
    at = begin
    while match := _MISTRAL.match(text, at):
        body, at = _value(text, match.end())
        read(body)
        made.append(Piece(name=match.group("name"), arguments=[body]))
    if not made:
        raise Unreadable(
            "neither a list of calls nor a name with its arguments follows", begin, text
        )
    return made, at


def _value(text: str, begin: int) -> tuple[str, int]:
    """The balanced brackets that begin here, and where they end."""
    depth, quote, at = 0, "", begin
    while at < len(text):
        char = text[at]
        at += 1
        if quote and char == "\\":
            at += 1
        elif quote:
            quote = "" if char == quote else quote
        elif char in "\"'" and depth:
            quote = char
        elif char in "[{":
            depth += 1
        elif char in "]}":
            depth -= 1
            if depth == 0:
                return text[begin:at], at
    raise Unreadable("its brackets are not closed", len(text), text)


def _objects(body: str) -> list[Piece]:
    """`{"name": ..., "arguments": {...}}`, a list of them, or several one after another."""
    try:
        value, _ = read(body.strip())
        values = value if isinstance(value, list) else [value]
    except Unreadable:
        values = list(_several(body))
        if not values:
            raise
    made = [piece for one in values if (piece := _piece(one)) is not None]
    if not made or len(made) != len(values):
        raise Unreadable("no object with a name and arguments", 0, body)
    return made


def _several(body: str) -> Iterator[Any]:
    """Objects with nothing but space, commas or semicolons between them; none if one is broken."""
    values, at = [], 0
    while body[at:].strip(" \t\r\n;,"):
        at += len(body[at:]) - len(body[at:].lstrip(" \t\r\n;,"))
        try:
            raw, at = _value(body, at)
            values.append(read(raw)[0])
        except Unreadable:
            return
    yield from values


def _piece(value: Any) -> Piece | None:
    match value:
        case {"function": {"name": str(name)} as inner} if set(value) <= _CALL_KEYS:
            return _piece({**inner, "id": value.get("id", "")})
        case {"name": str(name)} if name and set(value) <= _CALL_KEYS:
            keys = [key for key in ("arguments", "parameters", "args") if key in value]
            if len(keys) > 1:
                return None
            id = value.get("id")
            sent = value[keys[0]] if keys else {}
            id = id if isinstance(id, str) else ""
            if isinstance(sent, str):
                return Piece(id=id, name=name, arguments=[sent])
            return Piece(id=id, name=name, ready={} if sent is None else sent)
        case _:
            return None


_CALL_KEYS = frozenset({"name", "arguments", "parameters", "args", "id", "type", "function"})


# --- as JSON -----------------------------------------------------------------------------------


def _json(text: str, offered: Offered) -> Written | None:
    before, body, after = "", text, ""
    fences = list(_FENCE.finditer(text))
    if fences:
        last = fences[-1]
        before, body, after = text[: fences[0].start()], last.group(1), text[last.end() :]
        between = [text[a.end() : b.start()] for a, b in itertools.pairwise(fences)]
        if any(one.strip() for one in between):
            fences, before = fences[-1:], text[: last.start()]
    elif not text.startswith(("{", "[")):
        return None
    bodies = [fence.group(1) for fence in fences] or [body]
    if after.strip() or not (calls := _fitting(bodies, offered)):
        return None
    if before.strip():
        return _doubtful(offered.meant(calls[0].name)[0], text, "fence")
    return Written(tuple(calls), "", "fence" if fences else "JSON")


def _fitting(bodies: list[str], offered: Offered) -> list[Piece]:
    """The calls that these texts are, if every one of them is a call of an offered tool."""
    made: list[Piece] = []
    for body in bodies:
        try:
            inside = _MARK.match(body.strip())
            found = _block(body.strip(), inside, offered)[0] if inside else _objects(body)
        except Unreadable:
            return []
        for piece in found:
            args, error, _ = arguments(piece.sent())
            name = offered.meant(piece.name)[0]
            if not name or error or not offered.fits(name, args):
                return []
        made += found
    return made
