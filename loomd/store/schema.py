"""The tables, their keys and their owners. Pure.

Every key is `name NUL` fixed-width parts, big-endian, so that each query is one range scan.
A table's owner is the kind of actor whose commits may put and delete its rows; the hub checks it,
and for tables keyed by session also that the key's session is the sender's. Tables owned by `hub`
change only as the consequence of a commit or a client's request.
"""

from __future__ import annotations

import hashlib
from typing import Final

VERSION: Final = 1
"""Of the schema. A newer one on disk is refused; an older one is migrated (loomd.store.migrate)."""

TABLES: Final[dict[str, frozenset[str]]] = {
    "meta": frozenset({"hub"}),  # name -> value: schema, epoch, generation, ...
    "sessions": frozenset({"hub"}),  # session -> row
    "actors": frozenset({"hub"}),  # name -> spec, wanted, step, fence, state, counters
    "mail": frozenset({"hub"}),  # name, lane, seq -> mail
    "bodies": frozenset({"hub"}),  # mail id -> body stored once for many recipients
    "inputs": frozenset({"hub"}),  # name, step -> what the step consumed: replay runs on it
    "log": frozenset({"hub"}),  # name, n -> Entry
    "events": frozenset({"hub"}),  # session, seq -> event
    "effects": frozenset({"hub"}),  # name, effect id -> body, attempt
    "timers": frozenset({"hub"}),  # name, timer key -> due, body
    "requests": frozenset({"hub"}),  # client, request id -> reply
    "dead": frozenset({"hub"}),  # id -> dead letter
    "config": frozenset({"hub"}),  # roles of a place (loomd.actor.roles); settings in force
    "permits": frozenset({"hub"}),  # project, id -> a permission rule that an answer has saved
    "questions": frozenset({"team", "tools"}),  # session, id -> what a person is asked
    "toolsets": frozenset({"tools"}),  # session -> {generation, hash, tools: [{name, ...}]}
    "tool_state": frozenset({"tools"}),  # session, tool -> value
    "calls": frozenset({"tools"}),  # session, call id -> tool call under way
    "jobs": frozenset({"tools"}),  # session, job id -> a command in the background
    "edits": frozenset({"team"}),  # session, id -> proposal and its fate
    "tasks": frozenset({"team"}),
    "claims": frozenset({"team"}),
    "decisions": frozenset({"team"}),  # project, id -> node or edge of the decision graph
    "keepers": frozenset({"team"}),
    "ledger": frozenset({"models"}),  # seq -> one attempt
    "sums": frozenset({"hub"}),  # of the ledger: everything or one session, by what, which one
    "queue": frozenset({"models"}),  # request id -> a model request not yet settled; sums of money
}


def name_key(name: str) -> bytes:
    """Prefix of all rows of `name` (an actor, a session, a project)."""
    return name.encode() + b"\0"


def text_key(name: str, part: str) -> bytes:
    """Row `part` of `name`: tasks, claims, questions, effects, timers, requests, ..."""
    return name_key(name) + part.encode()


def project_of(repo: str) -> str:
    """The name of a checkout in keys: its path may be longer than a key."""
    return hashlib.sha256(repo.encode("utf-8", "surrogateescape")).hexdigest()[:32]


def number_key(name: str, n: int) -> bytes:
    """Row `n` of `name`: log, events, inputs; ascending."""
    return name_key(name) + n.to_bytes(8, "big")


def mail_key(name: str, lane: int, seq: int) -> bytes:
    return name_key(name) + bytes((lane,)) + seq.to_bytes(8, "big")


def mark_of(part: str) -> int:
    """64 bits for a timer's key or an effect's id, where only a number fits: in a slot."""
    return int.from_bytes(hashlib.blake2b(part.encode(), digest_size=8).digest(), "big")


def last_number(key: bytes) -> int:
    """The number at the end of a `number_key` or `mail_key`."""
    return int.from_bytes(key[-8:], "big")


def session_of(name: str) -> str:
    """The session of an actor's name; "" for the daemon's own actors."""
    return name.partition("/")[0] if "/" in name else ""
