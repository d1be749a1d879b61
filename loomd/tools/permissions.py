"""May this call be made: allow, ask or deny. Pure.

    protected places, catastrophes            deny
    deny rules                                deny
    what destroys work                        ask, each time
    ask rules, deny rules that may apply      ask
    allow rules, saved and session's answers  allow
    the mode                                  allow, ask or deny

Deny always holds, with --yes too. A shell line is judged by its parts (`command_facts`): one denied
part denies it, and it is allowed by rules only if every part is. What cannot be analysed is never
allowed by a rule. `--yes` answers every question with allow, as a person would.

The other axis, what a call can reach at all, is the sandbox's and no matter of this module.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from loomd.rules import Rule
from loomd.tools import command_facts
from loomd.tools.catastrophes import Finding
from loomd.tools.facts import READS, WRITES, Call, Facts, mode_of, other_facts, path_facts, paths
from loomd.tools.protected import Ground

Verdict = Literal["allow", "ask", "deny"]
Scope = Literal["once", "session", "always"]


@dataclass(frozen=True)
class Policy:
    """modes: the user's, and the project's if it has one: the stricter holds for each access.
    rules: the session's own first."""

    modes: tuple[str, ...] = ("on-request",)
    rules: tuple[Rule, ...] = ()
    yes: bool = False


@dataclass(frozen=True)
class Decided:
    """rule: what decided it, "" for the mode; source: who set that rule: built-in, config, project,
    saved, session, mode, yes. scopes: for how long a person may allow it; suggest: the rules that
    this would save. parts: of a command, [{part, verdict, rule}]."""

    verdict: Verdict
    reason: str
    rule: str = ""
    source: str = "mode"
    scopes: tuple[Scope, ...] = ()
    suggest: tuple[str, ...] = ()
    parts: tuple[dict[str, str], ...] = ()


def decide(call: Call, policy: Policy, ground: Ground) -> Decided:
    """What holds for a call. An unknown mode is taken as the strictest."""
    facts = facts_of(call, policy, ground)
    parts = tuple(facts.parts)
    hard = next((one for one in facts.floor if one.verdict == "deny"), None)
    if hard is not None:
        return Decided("deny", hard.reason, f"[{hard.rule}]", "built-in", parts=parts)
    if facts.denied is not None:
        rule = facts.denied
        reason = f"a deny rule of {_owner(rule)} forbids it: {rule.text}"
        return Decided("deny", reason, rule.text, rule.source, parts=parts)
    mode = mode_of(call, policy.modes)
    silent = "never" in policy.modes
    if facts.floor:
        soft = facts.floor[0]
        found = Decided("ask", soft.reason, f"[{soft.rule}]", "built-in", ("once",), parts=parts)
        return _answered(found, policy, silent)
    doubt = facts.asked or facts.maybe
    if doubt is not None:
        # Only what a person has said in this session to this very question stands above it.
        session = tuple(rule for rule in policy.rules if rule.source == "session")
        facts = facts_of(call, replace(policy, rules=session), ground)
        if facts.allowed is None:
            said = "asks for it" if doubt.verdict == "ask" else "may forbid it"
            reason = f"the rule {doubt.text} of {_owner(doubt)} {said}"
            suggest = facts.suggest or ()
            scopes: tuple[Scope, ...] = ("once", "session") if suggest else ("once",)
            found = Decided("ask", reason, doubt.text, doubt.source, scopes, suggest, parts)
            return _answered(found, policy, silent)
    if facts.allowed is not None:
        rule = facts.allowed
        reason = f"the rule {rule.text} of {_owner(rule)} allows it"
        return Decided("allow", reason, rule.text, rule.source, parts=parts)
    if mode == "allow":
        reason = f"{_verb(call.access)} needs no permission in mode {policy.modes[0]}"
        return Decided("allow", reason, parts=parts)
    scopes = ("once", "session", "always") if facts.suggest else ("once",)
    reason = f"{call.tool} wants to {_verb(call.access)}"
    if facts.unclear:
        reason += f", and no rule can allow it: {facts.unclear[0]}"
    found = Decided("ask", reason, "", "mode", scopes, facts.suggest or (), parts)
    return _answered(found, policy, silent)


def _answered(asked: Decided, policy: Policy, silent: bool) -> Decided:
    """A question, as --yes or the mode answers it."""
    if policy.yes:
        reason = "the session was opened with --yes"
        return Decided("allow", reason, asked.rule, "yes", parts=asked.parts)
    return _asked(asked, silent)


def _asked(asked: Decided, silent: bool) -> Decided:
    if not silent:
        return asked
    reason = f"{asked.reason}; permissions.mode is `never`: nobody is asked"
    return Decided("deny", reason, asked.rule, asked.source, parts=asked.parts)


def facts_of(call: Call, policy: Policy, ground: Ground) -> Facts:
    """What the rules say of a call, before any mode is asked."""
    bare = [rule for rule in policy.rules if rule.pattern is None and rule.names(call.tool)]
    command = command_facts.command_of(call, ground)
    if command is not None:
        facts = command_facts.of(call, command, policy.rules, policy.modes, ground, bare)
    elif call.tool in READS or call.tool in WRITES:
        facts = path_facts(call, policy.rules, ground, bare)
    else:
        facts = other_facts(call, policy.rules, bare)
    if call.asks and not facts.floor:
        facts.floor.append(Finding("ask", "destroys", f"this {call.asks}"))
    facts.denied = facts.denied or next((r for r in bare if r.verdict == "deny"), None)
    facts.asked = facts.asked or next((r for r in bare if r.verdict == "ask"), None)
    return facts


def paths_of(call: Call, ground: Ground) -> tuple[str, ...]:
    """The absolute paths by which a call is judged: those of which links are to be followed."""
    command = command_facts.command_of(call, ground)
    if command is not None:
        return command_facts.paths(command, ground)
    return tuple(dict.fromkeys(filter(None, (ground.absolute(path) for path in paths(call)))))


def _owner(rule: Rule) -> str:
    return {
        "config": "your configuration",
        "project": "the project",
        "saved": "an earlier answer",
        "session": "an answer in this session",
    }.get(rule.source, rule.source)


def _verb(access: str) -> str:
    return {
        "read": "read files",
        "write": "change files",
        "execute": "execute a command",
        "network": "use the network",
    }.get(access, access)
