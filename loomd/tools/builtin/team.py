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
def assign(task: str, to: str) -> str:
    """Puts a task on the board for an agent and goes on without waiting: the report comes as a
    message. The session does not end before it. To wait for the report use spawn.

    Args:
        task: all that the agent must know, or the id of a planned task, for example t-5
        to: an agent at work (it comes after its present task), or a role: a new agent
    """
    _not_here("assign")


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
    """Asks the user, or an agent, and waits for the answer. An agent that waits for you cannot be
    asked.

    Args:
        question: one question that can be answered shortly
        to: user, or the name of an agent
    """
    _not_here("ask")


@tool
def answer(text: str, question: str = "") -> str:
    """Answers a question that another agent has asked you.

    Args:
        text: the answer
        question: its id, as it stands in the question; may be left out if there is only one
    """
    _not_here("answer")


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
def vote(
    title: str = "",
    options: list[str] = [],  # noqa: B006 - never called
    choice: str = "",
    vote: str = "",
    quorum: int = 0,
    close_s: float = 300.0,
) -> str:
    """Opens a vote of the whole team (title, options), or casts your ballot (vote, choice). It
    closes when all have voted or at its time; everybody is told the result, which is recorded in
    the decision graph. A ballot may be changed until then.

    Args:
        title: what is voted on, in one line; only to open one
        options: two to ten; only to open one
        choice: your ballot, an option's text or number
        vote: the id of an open vote, for example v-1; only to cast
        quorum: how many ballots are needed; 0 for more than half of the team
        close_s: seconds until it closes
    """
    _not_here("vote")


@tool
def revise_plan(steps: list[str], reason: str, version: int = 0) -> str:
    """Makes a new version of the team's plan and tells it to all. New steps become planned tasks
    of the board; `assign` or `spawn` gives one to an agent by its id. Planned tasks that are left
    out are dropped; what has begun goes on.

    Args:
        steps: in order, each a new task or the id of one on the board, for example t-5
        reason: why it changes
        version: the version that you have seen; 0 to replace whatever it is
    """
    _not_here("revise_plan")


@tool
def offload(title: str = "", keep: int = 6) -> str:
    """Moves the oldest part of what you see to a keeper, so that there is room. Nothing is lost:
    one line stays, and recall finds all of it.

    Args:
        title: what the part is about
        keep: how many of the latest messages and turns stay
    """
    _not_here("offload")


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
