"""Marks for a provider's cache: who gets them, and where they stand; the order that they need."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from loomd.gateway import caching, view
from loomd.gateway.types import Resolved, ToolSchema
from loomd.wire.bodies import Call, Entry
from tests.gateway.zoo.dialects import CLAUDE, TEXT, block, end, messages
from tests.gateway.zoo.server import Case

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*ReadOnly.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:Accessing the 'model_:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Pydantic serializer warnings:UserWarning"),
]


@pytest.mark.parametrize(
    ("model", "configured", "purpose", "marks"),
    [
        ("anthropic/claude-sonnet-4-5", {}, "turn", True),
        ("anthropic/claude-sonnet-4-5", {}, "review", True),
        ("anthropic/claude-sonnet-4-5", {"cache": None}, "turn", True),
        ("anthropic/claude-sonnet-4-5", {"cache": False}, "turn", False),
        ("anthropic/claude-sonnet-4-5", {}, "ask", False),  # asked once: it would only cost
        ("anthropic/claude-sonnet-4-5", {}, "title", False),
        ("bedrock/eu.anthropic.claude-sonnet-4-5-20250929-v1:0", {}, "turn", True),
        ("bedrock/meta.llama3-70b-instruct-v1:0", {}, "turn", False),
        ("vertex_ai/claude-sonnet-4-5", {}, "turn", True),
        ("vertex_ai/gemini-2.5-pro", {}, "turn", False),
        ("openrouter/anthropic/claude-sonnet-4.5", {}, "turn", True),
        ("openrouter/openai/gpt-5", {}, "turn", False),
        ("openai/gpt-5-mini", {}, "turn", False),  # these keep by themselves
        ("gemini/gemini-2.5-flash", {}, "turn", False),  # a mark would rent a place of its own
        ("deepseek/deepseek-chat", {}, "turn", False),
        ("mine/qwen3", {}, "turn", False),
        ("mine/claude", {"cache": True}, "turn", True),
        ("mine/claude", {"cache": True}, "check", False),
    ],
)
def test_marks_are_for_who_takes_them(
    model: str, configured: dict[str, Any], purpose: str, marks: bool
) -> None:
    assert caching.wanted(model, configured, purpose) is marks


def turns(n: int) -> tuple[Entry, ...]:
    """A conversation of a user's word and `n` turns with two calls each."""
    made = [Entry(role="user", text="go")]
    for i in range(n):
        calls = tuple(
            Call(id=f"a:{i}.{k}", name="read", args={"path": f"{i}{k}"}, provider_id=f"p{i}{k}")
            for k in range(2)
        )
        made.append(Entry(role="assistant", text="", calls=calls))
        made += [Entry(role="tool", text=f"of {call.id}", call=call.id) for call in calls]
    return tuple(made)


TOOLS = (ToolSchema("read", "reads", {"type": "object", "properties": {}}),)
PINNED = ("You code.", "Rules.", "Agent: a", "Task t-1: do")


def resolved(n: int, model: str = CLAUDE, **more: Any) -> Resolved:
    fields: dict[str, Any] = {"pinned": PINNED, "shared": 2, "tools": TOOLS} | more
    return Resolved(role="coder", entries=turns(n), model=model, **fields)


def marks(value: Any) -> int:
    """How many there are in it, at any depth."""
    if isinstance(value, dict):
        return ("cache_control" in value) + sum(marks(one) for one in value.values())
    return sum(marks(one) for one in value) if isinstance(value, list) else 0


def plain(value: Any) -> Any:
    """The same without marks, and a content of one text as that text."""
    if isinstance(value, dict):
        kept = {key: plain(one) for key, one in value.items() if key != "cache_control"}
        content = kept.get("content")
        if isinstance(content, list) and all(one.get("type") == "text" for one in content):
            kept["content"] = "".join(one["text"] for one in content)
        return kept
    return [plain(one) for one in value] if isinstance(value, list) else value


def marked(what: Resolved) -> list[dict[str, Any]]:
    return caching.marked(view.chat(what), what.pinned, what.shared)


@pytest.mark.parametrize("n", range(5))
@pytest.mark.parametrize("shared", range(5))
@pytest.mark.parametrize("pinned", [(), ("", ""), PINNED])
def test_marks_change_nothing_else_and_are_four_at_most(
    n: int, shared: int, pinned: tuple[str, ...]
) -> None:
    what = resolved(n, pinned=pinned, shared=min(shared, len(pinned)))
    before = view.chat(what)
    again = json.loads(json.dumps(before))
    made = marked(what)
    assert plain(made) == before == again, "and the messages given are as they were"
    assert 1 <= marks(made) <= 4
    assert marks(made[-1]) == 1
    for one in made:
        for part in one["content"] if isinstance(one["content"], list) else ():
            assert part["text"], "a mark on an empty text is refused"


def test_what_was_written_at_the_end_of_a_turn_is_read_in_the_next() -> None:
    for n in range(4):
        last, then = marked(resolved(n)), marked(resolved(n + 1))
        assert plain(then[: len(last)]) == plain(last)
        assert then[len(last) - 1] == last[-1], "marked now and then, at the same place"
        assert marks(then[len(last) - 1]) == 1


async def _requests(whats: list[Resolved], plainly: dict[str, Any]) -> list[dict[str, Any]]:
    """What a server of the messages API was sent, and the replies' usage beside it."""
    from loomd.gateway.keys import Keys
    from loomd.gateway.litellm_backend import Backend
    from tests.gateway.looking import Looking
    from tests.gateway.zoo import server as zoo

    said = messages(
        {
            "type": "message_start",
            "message": {
                "id": "m",
                "type": "message",
                "role": "assistant",
                "content": [],
                "usage": {
                    "input_tokens": 50,
                    "cache_read_input_tokens": 900,
                    "cache_creation_input_tokens": 50,
                    "output_tokens": 1,
                },
            },
        },
        *block(0, TEXT, {"type": "text_delta", "text": "Hi"}),
        *end("end_turn"),
    )
    asked: list[list[dict[str, Any]]] = [[]]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await zoo._serve([Case("", said)], asked, reader, writer)

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        base = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
        backend = Backend({"providers": {"anthropic": {"api_base": base, **plainly}}}, Keys({}))
        try:
            for what in whats:
                reply = await backend.complete(what, Looking())
                usage = reply.usage
                assert (usage.input_tokens, usage.cached_tokens) == (1000, 900)
                assert usage.cache_write_tokens == 50 and reply.cost_known == "computed"
                assert usage.cost_usd is not None and 0 < usage.cost_usd < 1000 * 3e-6
        finally:
            await backend.close()
    return asked[0]


def test_the_server_sees_the_marks_and_what_it_read_of_its_cache_is_told() -> None:
    first, second, never = asyncio.run(
        _requests([resolved(1), resolved(2), resolved(2, purpose="ask")], {})
    )
    assert (marks(first), marks(second), marks(never)) == (4, 4, 0)
    assert [marks(part) for part in second["system"]] == [1, 1]
    assert "".join(part["text"] for part in second["system"]) == "\n\n".join(PINNED)
    assert second["tools"] == first["tools"]
    assert plain(second["system"]) == plain(first["system"])
    sent = first["messages"]
    assert plain(second["messages"][: len(sent)]) == plain(sent)
    # On the last block of the last message then, and of the same message now.
    assert marks(sent[-1]["content"][-1]) == 1
    assert marks(second["messages"][len(sent) - 1]["content"][-1]) == 1
    [off] = asyncio.run(_requests([resolved(2)], {"cache": False}))
    assert marks(off) == 0


def test_tools_are_offered_in_an_order_that_stays() -> None:
    rows = [{"name": name, "description": name} for name in ("write", "read", "grep")]
    for order in (rows, rows[::-1]):
        offered = view.schemas({"tools": order}, None)
        assert [tool.name for tool in offered] == ["grep", "read", "write"]
