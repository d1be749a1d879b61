"""What the rules say of a command, part by part. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from loomd import rules
from loomd.rules import MANY, RESERVED, SOME, STAR, Rule
from loomd.tools import catastrophes
from loomd.tools.facts import Call, Facts, is_at, mode_of, path_facts
from loomd.tools.git_commands import git_verb
from loomd.tools.needs import words_of
from loomd.tools.protected import Ground, below, secret, unwritable
from loomd.tools.shell_parts import Part, Parts, parts_of, parts_of_words

MAX_PATHS: Final = 200
"""Paths of one command of which links are followed."""

NEUTRAL: Final = frozenset(
    {"cd", "pwd", "true", "false", ":", "echo", "printf", "exit", "wait", "sleep", "set", "trap"}
)
"""Parts that need no rule beside others that have one: they change nothing but the line itself."""


def command_of(call: Call, ground: Ground) -> Parts | None:
    """The parts of a tool call that is a command; None if it is none."""
    if call.tool == "shell":
        text = call.args.get("command")
        return parts_of(text if isinstance(text, str) else "", ground.cwd)
    if call.tool == "git":
        given = call.args.get("args")
        if isinstance(given, str):  # no shell reads it: these are the words that git gets
            try:
                words = words_of(given)
            except ValueError:
                return Parts((), ("it cannot be split into words",))
        else:
            words = [str(one) for one in given] if isinstance(given, list | tuple) else []
        if any(RESERVED.search(word) for word in words):
            return Parts((), ("it has characters that no command has",))
        return parts_of_words(("git", *words), ground.cwd)
    return None


def paths(command: Parts, ground: Ground) -> tuple[str, ...]:
    """The absolute paths that a command may mean."""
    found = []
    for part in command.parts:
        words = [*catastrophes.written(part), *catastrophes.read(part), *part.words[1:]]
        words += [word.rpartition("/")[0] or "." for word in words if STAR in word]
        for word in words:
            if len(word) <= rules.PATH_MAX and not word.startswith("-"):
                found += [ground.absolute(word, cwd) for cwd in part.cwds]
        found += [ground.absolute(cwd) for cwd in part.cwds]
    return tuple(dict.fromkeys(filter(None, found)))[:MAX_PATHS]


def of(
    call: Call,
    command: Parts,
    known: Sequence[Rule],
    modes: Sequence[str],
    ground: Ground,
    bare: Sequence[Rule],
) -> Facts:
    """The facts of a command. `bare`: the rules for every call of its tool."""
    facts = Facts(unclear=command.unclear)
    text = call.args.get("command")
    facts.floor += catastrophes.in_text(text if isinstance(text, str) else "")
    allows = [rule for rule in bare if rule.verdict == "allow"]
    by: list[Rule] = []
    missing: list[str | None] = []
    passes = True
    for part in command.parts:
        found = list(catastrophes.findings(part, ground))
        facts.floor += found
        denied, maybe = _applying("deny", part, known, ground)
        asked, _ = _applying("ask", part, known, ground)
        facts.denied = facts.denied or denied
        facts.maybe = facts.maybe or maybe
        facts.asked = facts.asked or asked
        allowed = _allowing(part, known, allows)
        files, used = _files(part, known, modes, ground)
        by += used if allowed is None else [allowed, *used]
        neutral = _neutral(part, ground)
        if files or not (allowed or neutral):
            passes = False
            missing += files
            missing += [] if allowed or neutral else [suggested(part)]
        facts.parts.append(
            {
                "part": shown(part),
                "verdict": (
                    "deny" if denied or any(f.verdict == "deny" for f in found)
                    else "ask" if found or maybe or asked
                    else "allow" if (allowed or neutral) and not files else ""
                ),
                "rule": (
                    denied.text if denied else f"[{found[0].rule}]" if found
                    else maybe.text if maybe else asked.text if asked
                    else "" if files else allowed.text if allowed
                    else "[neutral]" if neutral else ""
                ),
            }
        )  # fmt: skip
    facts.floor.sort(key=lambda one: one.verdict != "deny")
    if by and passes and not facts.unclear:
        facts.allowed = by[0]
    if not by and passes:  # neutral parts only
        missing = [suggested(part) for part in command.parts if part.words]
    wanted = [text for text in missing if text is not None]
    whole = len(wanted) == len(missing) and not facts.unclear
    facts.suggest = tuple(dict.fromkeys(wanted)) if whole else None
    return facts


# --- rules that deny or ask ----------------------------------------------------------------------


def _applying(
    verdict: str, part: Part, known: Sequence[Rule], ground: Ground
) -> tuple[Rule | None, Rule | None]:
    """(a rule that applies to a part, one that may)."""
    sure: Rule | None = None
    maybe: Rule | None = None
    lines = tuple(_lines(part))
    for rule in known:
        if rule.verdict != verdict or rule.pattern is None:
            continue
        if rule.tool in ("read", "edit", "write"):
            paths = catastrophes.read(part) if rule.tool == "read" else catastrophes.written(part)
            for path in paths:
                for cwd in part.cwds:
                    places = ground.places(path, cwd)
                    if any(is_at(rule, place, ground) for place in places):
                        sure = sure or rule
                    elif not places or any(_may_be(rule, place, ground) for place in places):
                        maybe = maybe or rule
            continue
        for tool, line in lines:
            if not rule.names(tool):
                continue
            if rules.covers(rule.pattern, line):
                sure = sure or rule
            elif rules.touches(rule.pattern, line):
                maybe = maybe or rule
    return sure, maybe


def _may_be(rule: Rule, place: str, ground: Ground) -> bool:
    return rules.path_touches(rule.pattern or "", place, ground.repo, ground.home)


def _lines(part: Part) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(tool, words) for every way to write a part: with its wrappers or without, with its variables
    or without, by the name of its program or by its path."""
    for words in dict.fromkeys((part.words, part.whole, *(form.words for form in part.forms))):
        if not words:
            continue
        yield "shell", words
        name = words[0].rpartition("/")[2]
        if name != words[0]:
            yield "shell", (name, *words[1:])
        if name == "git":
            yield "git", words[1:]
            verb, args, _ = git_verb(words)
            yield "shell", ("git", verb, *args)  # `git -C x push` is a push
            yield "git", (verb, *args)


# --- rules that allow ----------------------------------------------------------------------------


def _allowing(part: Part, known: Sequence[Rule], bare: Sequence[Rule]) -> Rule | None:
    """The rule that allows what a part runs."""
    if bare:
        return bare[0]
    if not part.words:
        return None
    for rule in known:
        if rule.verdict != "allow" or rule.pattern is None:
            continue
        own = not part.other
        if rule.tool == "git":
            if own and part.whole[0] == "git" and rules.covers(rule.pattern, part.words[1:]):
                return rule
        elif rule.tool == "shell" and (
            (own and rules.covers(rule.pattern, part.whole)) or _by_form(rule.pattern, part)
        ):
            return rule
    return None


def _by_form(pattern: str, part: Part) -> bool:
    """A wrapper is looked through: a rule for it must name what it runs."""
    return not part.settings and any(
        form.at > 0 and rules.fixed(pattern) > form.at and rules.covers(pattern, form.words)
        for form in part.forms
    )


def _neutral(part: Part, ground: Ground) -> bool:
    """Whether what a part runs needs no rule of its own."""
    if not part.words:
        return not part.settings
    name, args = part.words[0], part.words[1:]
    if name not in NEUTRAL or part.settings or part.other:
        return False
    if name == "cd":
        folders = [ground.absolute(args[0] if args else "", cwd) for cwd in part.cwds]
        return all(f and ground.inside(f) and not unwritable(ground, f) for f in folders)
    if name == "set":
        return bool(args) and all(re.fullmatch(r"[-+][eux]+o?|pipefail", arg) for arg in args)
    return not (name == "printf" and args[:1] == ("-v",))


_STREAMS: Final = frozenset(
    {"/dev/null", "/dev/stdin", "/dev/stdout", "/dev/stderr", "/dev/tty", "/dev/zero"}
)


def _files(
    part: Part, known: Sequence[Rule], modes: Sequence[str], ground: Ground
) -> tuple[list[str | None], list[Rule]]:
    """What `<` reads and `>` writes, judged as a read and a write of these paths: for each that
    does not pass the rule with which it would (None if there is none), and the rules by which the
    others pass."""
    missing: list[str | None] = []
    used: list[Rule] = []
    named = [(one.target, one.kind == "read") for one in part.redirects]
    for target, reads in (*named, *((path, False) for path in part.writes)):
        if target in _STREAMS:
            continue
        for cwd in part.cwds:
            path = ground.absolute(target, cwd)
            if not path or any(mark in path for mark in rules.MARKS):
                missing.append(None)
                continue
            access = "read" if reads else "write"
            call = Call(access, {"path": path}, access)
            facts = path_facts(call, known, ground, ())
            if facts.floor or facts.denied:
                missing.append(None)
            elif facts.asked is not None or (
                facts.allowed is None and not _passes(call, path, reads, modes, ground)
            ):
                missing += facts.suggest or (None,)
            elif facts.allowed is not None:
                used.append(facts.allowed)
    return missing, used


def _passes(call: Call, path: str, reads: bool, modes: Sequence[str], ground: Ground) -> bool:
    """Whether a file may be read or written without any rule."""
    if reads:
        return not secret(ground, path)
    if ground.inside(path):
        return mode_of(call, modes) == "allow"
    return below(path, "/tmp")


def suggested(part: Part) -> str | None:
    """The rule that matches just this part; None if none would match the same thing again."""
    words = part.whole
    if part.other:
        outer = [form for form in part.forms if form.at > 0]
        if not outer or part.settings:
            return None
        words = outer[-1].words
    if not part.words or any(mark in word for word in words for mark in (SOME, MANY)):
        return None
    return f"shell({rules.quoted(words)})"


def shown(part: Part) -> str:
    """A part for people."""
    marks = {rules.STAR: "*", rules.MARK: "?", rules.HOME: "~"}
    words = part.whole or tuple(f"> {one.target}" for one in part.redirects)
    text = " ".join(words)
    return "".join(marks.get(char, "…" if char in rules.MARKS else char) for char in text)[:300]
