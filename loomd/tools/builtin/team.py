"""The shapes of the tools that the team actor answers: only their schemas are used."""

from __future__ import annotations

from typing import Literal, NoReturn

from loomd.tools.contract import ToolError, tool


def _not_here(name: str) -> NoReturn:
    raise ToolError(f"{name} is answered by the team, not by the tool host", "no_such_tool")


@tool
def spawn(role: str, task: str) -> str:
    """Starts another agent of the team on a task and answers with its report when it is done.
    Several calls in one turn run side by side.

    Args:
        role: researcher, coder, tester, or a role of the project
        task: all that the agent must know
    """
    _not_here("spawn")


@tool
def send(to: str, text: str) -> str:
    """Sends a message to another agent of the team.

    Args:
        to: its name, for example coder-1, or `all`
        text: the message
    """
    _not_here("send")


@tool
def ask(question: str, to: str = "user") -> str:
    """Asks the user, or an agent, and waits for the answer.

    Args:
        question: one question that can be answered shortly
        to: user, or the name of an agent
    """
    _not_here("ask")


@tool
def share(text: str) -> str:
    """Tells the whole team something that it should know.

    Args:
        text: one finding
    """
    _not_here("share")


@tool
def claim(path: str, region: str = "") -> str:
    """Claims a file or a part of it, so that nobody else edits it meanwhile; waits if another
    agent has it.

    Args:
        path: relative to the checkout
        region: empty for the whole file, lines such as 12-40, or the name of a symbol
    """
    _not_here("claim")


@tool
def decide(
    title: str,
    kind: str = "decision",
    text: str = "",
    options: list[str] = [],  # noqa: B006 - never called
    chosen: str = "",
    because: str = "",
) -> str:
    """Records a decision in the project's decision graph.

    Args:
        title: in one line
        kind: decision, option, action, outcome, observation or revisit
        text: more about it
        options: what was to choose from
        chosen: the option that was taken
        because: the reason
    """
    _not_here("decide")


@tool
def recall(query: str) -> str:
    """Searches everything that has left anybody's view, and answers with the entries found.

    Args:
        query: words to search for, or exact entries such as keeper-1:5-9
    """
    _not_here("recall")


@tool
def review(edit: str, verdict: Literal["approve", "revise", "refuse"], reason: str = "") -> str:
    """Gives the verdict on an edit that was put before you for review.

    Args:
        edit: its id
        verdict: approve, revise (the author may try again) or refuse
        reason: what is wrong, or why it is right
    """
    _not_here("review")
