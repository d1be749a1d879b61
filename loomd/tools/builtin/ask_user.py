"""ask_user(question, options): its shape; the team answers it."""

from __future__ import annotations

from loomd.tools.contract import ToolError, tool


@tool
def ask_user(question: str, options: list[str] = []) -> str:  # noqa: B006 - never called
    """Asks the user and waits for the answer. Ask only what you cannot find out yourself.

    Args:
        question: one question, with what the user must know to answer it
        options: the answers to choose from, if there are some; any other may still be given
    """
    raise ToolError("ask_user is answered by the team, not by the tool host", "no_such_tool")
