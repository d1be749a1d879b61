"""Calls written into the text, and answers that quote one."""

from __future__ import annotations

from tests.gateway.zoo.server import Case, delta, events

A = {"path": "a.py"}


def said(text: str, finish: str = "stop") -> tuple[bytes, ...]:
    """A stream of this text, in pieces of seven characters."""
    pieces = [text[i : i + 7] for i in range(0, len(text), 7)]
    return events(delta(role="assistant"), *(delta(content=p) for p in pieces), delta(finish))


def call(name: str, text: str, form: str = "read", args: object = A, rest: str = "") -> Case:
    return Case(
        name,
        said(text),
        calls=[(form, args)],
        text=rest,
        repairs=[("written", 1)],
    )


def answer(name: str, text: str, **more: object) -> Case:
    return Case(name, said(text), text=text, **more)  # type: ignore[arg-type]


def back(name: str, text: str, told: str = "may be a call of read") -> Case:
    return Case(name, said(text), calls=[("read", told)], text=text)


TAGGED = '<tool_call>\n{"name": "read", "arguments": {"path": "a.py"}}\n</tool_call>'
FENCED = '```json\n{"name": "read", "arguments": {"path": "a.py"}}\n```'

CASES = (
    call("<tool_call>", TAGGED),
    call("<tool_call> behind words", f"I look at it.\n{TAGGED}", rest="I look at it."),
    call("<tool_call> without its end", TAGGED.removesuffix("</tool_call>")),
    call("<tool_call> and a word of the template", f"{TAGGED}<|im_end|>"),
    call(
        "<tool_call> with parameters in tags",
        "<tool_call>\n<function=read>\n<parameter=path>\na.py\n</parameter>\n<parameter=offset>\n12"
        "\n</parameter>\n</function>\n</tool_call>",
        args={"path": "a.py", "offset": 12},
    ),
    call(
        "<tool_call> with keys and values in tags",
        "<tool_call>read\n<arg_key>path</arg_key>\n<arg_value>a.py</arg_value>\n</tool_call>",
    ),
    Case(
        "two <tool_call>",
        said(f"{TAGGED}\n{TAGGED.replace('a.py', 'b.py')}"),
        calls=[("read", A), ("read", {"path": "b.py"})],
        text="",
        repairs=[("written", 1), ("written", 2)],
    ),
    call("<function=...> with an object", '<function=read>{"path": "a.py"}</function>'),
    call("<function=...> without its end", '<function=read>{"path": "a.py"}<|eom_id|>'),
    call(
        "<function=...> with parameters",
        "<function=read>\n<parameter=path>a.py</parameter>\n</function>",
    ),
    call(
        "[TOOL_CALLS] with a list", '[TOOL_CALLS][{"name": "read", "arguments": {"path": "a.py"}}]'
    ),
    call("[TOOL_CALLS] with a name", '[TOOL_CALLS]read{"path": "a.py"}'),
    call("[TOOL_CALLS] with a name and [ARGS]", '[TOOL_CALLS]read[ARGS]{"path": "a.py"}</s>'),
    call(
        "<|python_tag|>", '<|python_tag|>{"name": "read", "parameters": {"path": "a.py"}}<|eom_id|>'
    ),
    call("fenced JSON and nothing else", FENCED),
    call("bare JSON and nothing else", '{"name": "read", "parameters": {"path": "a.py"}}'),
    call(
        "bare JSON with arguments as a text",
        '{"name": "read", "arguments": "{\\"path\\": \\"a.py\\"}"}',
    ),
    Case(
        "a list of two in a fence",
        said(
            '```json\n[{"name": "read", "arguments": {"path": "a.py"}}, '
            '{"name": "grep", "arguments": {"pattern": "x"}}]\n```'
        ),
        calls=[("read", A), ("grep", {"pattern": "x"})],
        text="",
        repairs=[("written", 1), ("written", 2)],
    ),
    Case(
        "a written call behind thoughts",
        said(f"<think>\nI need the file.\n</think>\n\n{TAGGED}"),
        calls=[("read", A)],
        text="",
        reasoning="I need the file.",
        repairs=[("written", 1)],
    ),
    Case(
        "a written call of a tool in the wrong case",
        said(TAGGED.replace("read", "Read")),
        calls=[("read", A)],
        repairs=[("written", 1), ("case", 1)],
    ),
    Case(
        "a written call of no tool",
        said(TAGGED.replace("read", "browse")),
        calls=[("browse", A)],
        repairs=[("written", 1)],
    ),
    Case(
        "written arguments that are mended",
        said("<function=read>{'path': 'a.py',}</function>"),
        calls=[("read", A)],
        repairs=[("written", 1), ("quotes", 1), ("commas", 1)],
    ),
    # answers
    answer("words about <tool_call>", "Write `<tool_call>{...}</tool_call>` around it."),
    answer(
        "a fenced <tool_call> with words behind it", f"Like this:\n```\n{TAGGED}\n```\nThat is all."
    ),
    answer("fenced JSON with words behind it", f"This is a call:\n{FENCED}\nIt reads a file."),
    answer("JSON with the name of no tool", '{"name": "Bob", "arguments": {"age": 7}}'),
    answer("JSON that does not fit the tool", '{"name": "read", "arguments": {"file": "a.py"}}'),
    answer("JSON that is no call", '{"name": "read", "version": 2}'),
    answer("a fence of another language", "```python\nread(path='a.py')\n```"),
    answer("a tag in words", "The <tool_call> tag marks a call; I read of it in the manual."),
    Case("a written call though no tools were offered", said(TAGGED), text=TAGGED, tools=()),
    # back to the model
    back("<tool_call> with words behind it", f"{TAGGED}\nThat would read it."),
    back("fenced JSON behind words", f"I read the file.\n{FENCED}"),
    back(
        "<tool_call> that cannot be read",
        '<tool_call>\n{"name": "read", "arguments": {"path": "a.py"}\n</tool_call>',
        "a call was written into the text (<tool_call>) and cannot be read: the text ends before",
    ),
    back(
        "[TOOL_CALLS] with nothing to call",
        "[TOOL_CALLS] read a.py please",
        "neither a list of calls nor a name with its arguments follows",
    ),
)
