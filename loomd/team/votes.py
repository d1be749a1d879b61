"""Votes: a question with options, ballots of agents, a quorum and a close. Pure.

    open -> decided (one option has more ballots than any other) | tied | no_quorum

A vote closes when everybody who may vote has, or at its due time. A ballot may be changed until
then. Who ends before that is no voter any more; a ballot that was cast counts.
"""

from __future__ import annotations

from collections import Counter
from typing import Final, Literal

import msgspec

OPEN_AT_ONCE: Final = 3
TITLE_LIMIT: Final = 200
OPTION_LIMIT: Final = 100
OPTIONS: Final = (2, 10)
CLOSE_S: Final = (1.0, 86_400.0)
"""Characters; how many, at least and at most; seconds."""

VoteState = Literal["decided", "tied", "no_quorum"]


class Vote(msgspec.Struct, kw_only=True, omit_defaults=True):
    """`voters`: who may vote; `quorum`: ballots without which nothing is decided; `due`: when it
    closes, epoch seconds; `ballots`: agent -> index of its option."""

    id: str
    title: str
    options: list[str]
    by: str
    voters: list[str]
    quorum: int
    due: float
    ballots: dict[str, int] = msgspec.field(default_factory=dict)


def wrong(title: str, options: list[str], close_s: float) -> str:
    """Why no such vote can be opened; "" if it can."""
    least, most = OPTIONS
    if not title.strip():
        return "title is empty: what is voted on?"
    if len(title) > TITLE_LIMIT or any(len(option) > OPTION_LIMIT for option in options):
        return f"title has at most {TITLE_LIMIT} characters, an option {OPTION_LIMIT}"
    if not least <= len(set(options)) == len(options) <= most or not all(options):
        return f"options: {least} to {most} different texts"
    if not CLOSE_S[0] <= close_s <= CLOSE_S[1]:
        return f"close_s: {CLOSE_S[0]:g} to {CLOSE_S[1]:g} seconds"
    return ""


def majority(voters: int) -> int:
    """More than half."""
    return voters // 2 + 1


def choice(vote: Vote, said: str) -> int | None:
    """The option that is meant: its text, or its number counted from 1."""
    plain = said.strip().lower()
    for i, option in enumerate(vote.options):
        if option.strip().lower() == plain:
            return i
    if plain.isdecimal() and 1 <= int(plain) <= len(vote.options):
        return int(plain) - 1
    return None


def complete(vote: Vote) -> bool:
    """Has everybody voted who may?"""
    return all(name in vote.ballots for name in vote.voters)


def outcome(vote: Vote) -> tuple[VoteState, str]:
    """How it ends if it closes now: state, and the option that has won ("" if none)."""
    if len(vote.ballots) < vote.quorum:
        return "no_quorum", ""
    first, *others = Counter(vote.ballots.values()).most_common(2)
    if others and others[0][1] == first[1]:
        return "tied", ""
    return "decided", vote.options[first[0]]


def counted(vote: Vote) -> dict[str, int]:
    """Option -> ballots, in the order of the options."""
    votes = Counter(vote.ballots.values())
    return {option: votes[i] for i, option in enumerate(vote.options)}


def announced(vote: Vote, by: str, seconds: float) -> str:
    """What voters are told when it opens."""
    listed = "\n".join(f"{i}. {option}" for i, option in enumerate(vote.options, 1))
    return (
        f"Vote {vote.id}, opened by {by}: {vote.title}\n{listed}\n"
        f"It closes in {seconds:g} s; {vote.quorum} of {len(vote.voters)} ballots are needed. "
        f'Cast yours with vote(vote="{vote.id}", choice=...), a number or the text.'
    )


def told(vote: Vote, state: str, winner: str) -> str:
    """What everybody is told when it has closed."""
    votes = ", ".join(f"{option}: {n}" for option, n in counted(vote).items())
    short = f"{len(vote.ballots)} of the {vote.quorum} ballots needed"
    said = {
        "decided": f"decided for {winner!r}",
        "tied": "tied, so nothing is decided",
        "no_quorum": f"{short}, so nothing is decided",
        "withdrawn": "withdrawn",
    }[state]
    return f"Vote {vote.id} ({vote.title}) is closed: {said} ({votes})"
