"""What the rules say of one call: of paths, hosts and arguments. Pure.

Of commands: `command_facts`. What follows from the facts: `permissions`.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from loomd import rules
from loomd.rules import RESERVED, Rule
from loomd.tools import patch
from loomd.tools.catastrophes import Finding
from loomd.tools.git_commands import git_verb
from loomd.tools.protected import Ground, run_later, secret, unwritable

ASKS: Final[Mapping[str, frozenset[str]]] = {
    "never": frozenset({"execute", "network"}),
    "on-request": frozenset({"execute", "network"}),
    "always": frozenset({"write", "execute", "network"}),
}
"""mode -> the accesses for which a person's word is needed; `never` denies what it may not ask."""

READS: Final = frozenset({"read", "list", "glob", "grep", "tree", "outline"})
"""Tools to which a rule `read(PATH)` applies, and what a command is seen to read."""
WRITES: Final = frozenset({"write", "edit", "apply_patch"})
"""Tools to which `edit(PATH)` and `write(PATH)` apply, and what a command is seen to write."""


@dataclass(frozen=True)
class Call:
    """`first`: the name of the tool's first parameter, for rules of tools that we do not know;
    `asks`: what of it destroys work, said by the tool, "" for nothing."""

    tool: str
    args: Mapping[str, Any]
    access: str = "execute"
    first: str = ""
    asks: str = ""


@dataclass
class Facts:
    """What is known of a call before any mode is asked."""

    floor: list[Finding] = field(default_factory=list)
    denied: Rule | None = None
    asked: Rule | None = None
    maybe: Rule | None = None  # a deny rule that may apply
    unclear: tuple[str, ...] = ()
    allowed: Rule | None = None
    suggest: tuple[str, ...] | None = ()
    parts: list[dict[str, str]] = field(default_factory=list)


def mode_of(call: Call, modes: Sequence[str]) -> Literal["allow", "ask"]:
    """What the modes say of a call: the strictest of them. An unknown one is as strict as any."""
    access = call.access
    if call.tool == "git" and access == "execute" and _only_reads(call):
        access = "read"
    asks = any(access in ASKS.get(mode, ASKS["always"]) for mode in modes)
    return "ask" if asks else "allow"


def _only_reads(call: Call) -> bool:
    """Whether a call of the tool `git` changes nothing."""
    given = call.args.get("args")
    words = ("git", *given.split()) if isinstance(given, str) else ("git", *map(str, given or ()))
    if isinstance(given, str) and re.search(r"[^\w\s./:@^~=,-]", given):
        return False
    verb, args, folder = git_verb(words)
    if folder or words[1:2] != (verb,):
        return False
    if any(
        arg.startswith(("--output", "--ext-diff", "--textconv", "--open", "-O")) for arg in args
    ):
        return False
    if verb == "branch":
        return all(arg in ("-a", "-r", "-v", "-vv", "--list", "--show-current") for arg in args)
    return verb in ("status", "diff", "log", "show", "blame", "rev-parse", "ls-files", "shortlog")


# --- paths, hosts, and the rest ------------------------------------------------------------------


def paths(call: Call) -> list[str]:
    """The paths of a call that reads or changes files."""
    if call.tool == "apply_patch":
        text = call.args.get("patch")
        named = patch.named(text if isinstance(text, str) else "")
        return [path if not RESERVED.search(path) else "" for path in named]
    path = call.args.get("path", "." if call.tool in READS else "")
    found = [path] if isinstance(path, str) and path else []
    if call.tool == "glob" and isinstance(pattern := call.args.get("pattern"), str):
        fixed = re.split(r"[*?\[]", pattern, maxsplit=1)[0]
        found.append(posixpath.join(found[0] if found else ".", fixed or "."))
    if isinstance(more := call.args.get("paths"), list | tuple):
        found += [one for one in more if isinstance(one, str)]
    return [path if not RESERVED.search(path) else "" for path in found]


def path_facts(call: Call, known: Sequence[Rule], ground: Ground, bare: Sequence[Rule]) -> Facts:
    """Of a tool that reads or changes files. A path is what it says and where its links lead: both
    must be allowed, and either may be denied."""
    facts = Facts()
    writes = call.tool in WRITES
    family = ("edit", "write") if writes else ("read",)
    mine = [
        rule
        for rule in known
        if rule.pattern is not None and (rule.tool in family or rule.names(call.tool))
    ]
    allows = [rule for rule in (*mine, *bare) if rule.verdict == "allow"]
    by: list[Rule] = []
    suggest: list[str] = []
    mentioned = paths(call)
    for path in mentioned:
        places = ground.places(path)
        if not places:
            facts.unclear = (f"{path!r} is no path",)
        for place in places:
            reason = unwritable(ground, place) if writes else secret(ground, place)
            if reason:
                facts.floor.append(Finding("deny", "protected", f"{path}: {reason}"))
            elif writes and (reason := run_later(ground, place)):
                facts.floor.append(Finding("ask", "protected", f"{path}: {reason}"))
            for rule in mine:
                if rule.verdict != "allow" and is_at(rule, place, ground):
                    facts.denied = facts.denied or (rule if rule.verdict == "deny" else None)
                    facts.asked = facts.asked or (rule if rule.verdict == "ask" else None)
            allowed = next(
                (r for r in allows if r.pattern is None or is_at(r, place, ground)), None
            )
            if allowed is not None:
                by.append(allowed)
            else:
                inside = ground.inside(place)
                shown = posixpath.relpath(place, ground.repo) if inside else place
                # The checkout itself is all that is in it.
                pattern = "**" if shown == "." else rules.path_quoted(shown)
                suggest.append(f"{family[0]}({pattern})")
    if by and not suggest and not facts.unclear:
        facts.allowed = by[0]
    facts.floor.sort(key=lambda one: one.verdict != "deny")
    facts.suggest = tuple(dict.fromkeys(suggest)) if mentioned and not facts.unclear else None
    return facts


def host_of(url: Any) -> str:
    """The host of an address; "" if two readers might not agree on it."""
    if not isinstance(url, str) or re.search(r"[\s\\\x00-\x1f\x7f]", url) or not url.isascii():
        return ""
    try:
        parts = urlsplit(url if "://" in url else f"https://{url}")
        host = parts.hostname or ""
    except ValueError:
        return ""
    if parts.scheme not in ("http", "https") or "@" in parts.netloc:
        return ""
    return host if re.fullmatch(r"[a-z0-9.-]+|[0-9a-f:]+", host) else ""


def other_facts(call: Call, known: Sequence[Rule], bare: Sequence[Rule]) -> Facts:
    """web_fetch by its host; other tools by their first argument."""
    facts = Facts()
    if call.tool == "web_fetch":
        text: str | None = host_of(call.args.get("url")) or None
    else:
        value = call.args.get(call.first) if call.first else None
        text = value if isinstance(value, str) else None if value is None else repr(value)
    for rule in known:
        if rule.pattern is None or not rule.names(call.tool):
            continue
        if text is None:
            facts.maybe = facts.maybe or (rule if rule.verdict == "deny" else None)
            facts.asked = facts.asked or (rule if rule.verdict == "ask" else None)
        elif rules.text_matches(rule.pattern.lower() if call.tool == "web_fetch" else rule.pattern,
                                text):  # fmt: skip
            if rule.verdict == "deny":
                facts.denied = facts.denied or rule
            elif rule.verdict == "ask":
                facts.asked = facts.asked or rule
            else:
                facts.allowed = facts.allowed or rule
    facts.allowed = facts.allowed or next((r for r in bare if r.verdict == "allow"), None)
    if text is None:
        facts.suggest = (call.tool,) if call.tool != "web_fetch" else None
    elif RESERVED.search(text) or len(text) > 2000:
        facts.suggest = None
    elif text:
        facts.suggest = (f"{call.tool}({rules.text_quoted(text)})",)
    else:
        facts.suggest = (call.tool,)
    return facts


def is_at(rule: Rule, place: str, ground: Ground) -> bool:
    """Whether a rule for paths speaks of a place."""
    return rules.path_matches(rule.pattern or "", place, ground.repo, ground.home)
