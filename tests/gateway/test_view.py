"""A view read from the state, and the same as chat messages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loomd.gateway import view
from loomd.gateway.types import Resolved, ToolSchema
from loomd.wire.bodies import Call, Entry, ModelRequest, Span, View
from loomd.wire.errors import LoomError

READ = {"name": "read", "description": "reads", "parameters": {"type": "object", "properties": {}}}
ROW = {"generation": 1, "tools": [READ, {"name": "spawn", "description": "a task"}]}


class Log:
    """A reader over one log, one blob and one toolset."""

    def __init__(self, *entries: Entry, tools: Any = ROW) -> None:
        self.log = entries
        self.tools = tools

    def row(self, table: str, key: bytes) -> Any | None:
        return None

    def rows(self, table: str, prefix: bytes) -> Iterator[tuple[bytes, Any]]:
        if table == "toolsets" and prefix == b"s-1\0" and self.tools is not None:
            yield prefix, self.tools

    def entries(self, log: str, first: int, last: int) -> Iterator[tuple[int, Entry]]:
        for n, entry in enumerate(self.log, 1):
            if first <= n <= last:
                yield n, entry

    def entry_bytes(self, log: str, n: int) -> bytes | None:
        return None

    def blob(self, name: str) -> bytes:
        return b"the whole \xff text of " + name.encode()


def request(*spans: tuple[int, int], tools: tuple[str, ...] | None = None) -> ModelRequest:
    return ModelRequest(
        id="r",
        session="s-1",
        agent="s-1/lead",
        view=View(pinned=("P",), spans=tuple(Span(log="l", first=a, last=b) for a, b in spans)),
        tools=tools,
    )


def test_a_view_is_read_in_its_order_with_blobs_in_place() -> None:
    log = Log(Entry(role="user", text="one"), Entry(role="user", blob="b7"), Entry(role="note"))
    resolved = view.resolve(log, request((2, 2), (1, 1)), "m/x")
    assert [entry.text for entry in resolved.entries] == ["the whole � text of b7", "one"]
    assert resolved.pinned == ("P",) and resolved.model == "m/x" and resolved.request == "r"


def test_a_view_of_what_is_not_there_is_an_error() -> None:
    with pytest.raises(LoomError, match="1-3"):
        view.resolve(Log(Entry(role="user")), request((1, 3)), "m/x")


def test_tools_are_the_current_ones_that_were_asked_for() -> None:
    def names(tools: tuple[str, ...] | None, row: Any = ROW) -> list[str]:
        resolved = view.resolve(Log(tools=row), request(tools=tools), "m/x")
        return [tool.name for tool in resolved.tools]

    assert names(None) == ["read", "spawn"]
    assert names(("spawn", "gone")) == ["spawn"]
    assert names(()) == []
    assert names(("spawn",), None) == ["spawn"]  # no toolset yet
    [read, _] = view.resolve(Log(), request(), "m/x").tools
    assert read == ToolSchema("read", "reads", {"type": "object", "properties": {}})


def chat(*entries: Entry, pinned: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    return view.chat(Resolved(role="lead", pinned=pinned, entries=entries, tools=(), model="m/x"))


def asking(*calls: Call, text: str = "") -> Entry:
    return Entry(role="assistant", text=text, calls=calls)


def answering(call: str, text: str = "", *, ok: bool = True) -> Entry:
    return Entry(role="tool", call=call, name="read", text=text, ok=ok)


def test_a_conversation_in_chat_form() -> None:
    assert chat(
        Entry(role="user", text="do it", sender="user"),
        asking(Call(id="1", name="read", args={"path": "ä"}, provider_id="p1"), text="I look"),
        answering("1", "content"),
        Entry(role="note", text="restarted"),
        Entry(role="user", text="hello", sender="s-1/coder-1"),
        pinned=("A", "B"),
    ) == [
        {"role": "system", "content": "A\n\nB"},
        {"role": "user", "content": "do it"},
        {
            "role": "assistant",
            "content": "I look",
            "tool_calls": [
                {
                    "id": "p1",
                    "type": "function",
                    "function": {"name": "read", "arguments": '{"path": "ä"}'},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "p1", "name": "read", "content": "content"},
        {"role": "user", "content": "[note] restarted"},
        {"role": "user", "content": "[from s-1/coder-1] hello"},
    ]


def test_results_follow_their_calls_in_call_order_whatever_the_log_has() -> None:
    messages = chat(
        Entry(role="user", text="go"),
        asking(Call(id="1", name="a"), Call(id="2", name="b"), Call(id="3", name="c", error="bad")),
        answering("2", "two", ok=False),
        answering("1", "one"),
        answering("1", "again"),
    )
    results = [(m["tool_call_id"], m["content"]) for m in messages if m["role"] == "tool"]
    assert results == [
        ("call_000001", "one"),
        ("call_000002", "error: two"),
        ("call_000003", "bad"),
    ]


def test_a_result_whose_call_left_the_view_is_a_users_line() -> None:
    messages = chat(answering("gone", "content"))
    assert messages == [{"role": "user", "content": "[result of an earlier call of read] content"}]


def test_a_conversation_never_ends_with_the_assistant_nor_without_a_user() -> None:
    assert chat()[-1] == {"role": "user", "content": view.GO_ON}
    assert chat(Entry(role="user", text="hi"), Entry(role="assistant", text="ho"))[-1] == {
        "role": "user",
        "content": view.GO_ON,
    }


ENTRY = st.one_of(
    st.builds(Entry, role=st.sampled_from(["user", "note"]), text=st.just("t")),
    st.builds(
        lambda ids, p: asking(*(Call(id=i, name="f", provider_id=p) for i in dict.fromkeys(ids))),
        st.lists(st.sampled_from("abcdef"), max_size=3),
        st.sampled_from(["", "call_0", "call_000001"]),
    ),
    st.builds(answering, st.sampled_from("abcdefgh"), st.just("r")),
)


@given(st.lists(ENTRY, max_size=12))
def test_calls_and_results_are_strictly_paired(entries: list[Entry]) -> None:
    seen: set[str] = set()
    unique = []
    for entry in entries:  # a call's id is unique in a session
        if not any(call.id in seen for call in entry.calls):
            seen |= {call.id for call in entry.calls}
            unique.append(entry)
    messages = chat(*unique)
    ids: set[str] = set()
    waiting: list[str] = []
    for message in messages:
        if message["role"] == "tool":
            assert waiting.pop(0) == message["tool_call_id"]
            continue
        assert waiting == []
        waiting = [call["id"] for call in message.get("tool_calls", ())]
        assert len(set(waiting)) == len(waiting) and not ids & set(waiting)
        ids |= set(waiting)
    assert waiting == [] and any(message["role"] == "user" for message in messages)
