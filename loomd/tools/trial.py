"""`python -m loomd.tools.trial`: what the rules would say of a call that nobody makes.

Reads one JSON object {tool, text, repo, policy: {modes, rules, yes}, config, state, runtime} from
its standard input and writes {verdict, rule, source, reason, scopes, suggest, parts, unclear}.
`text` is the tool's first argument. Judging is that of a tool host, on the disk as it is.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

from loomd import rules
from loomd.tools import generation, links
from loomd.tools.command_facts import command_of
from loomd.tools.facts import Call
from loomd.tools.permissions import Policy, decide
from loomd.wire.bodies import ToolCall
from loomd.wire.endpoints import Instance

ARGUMENT: Final = {"web_fetch": "url", "apply_patch": "patch"}
"""The argument that decides, where it is not the first."""


def judged(asked: dict[str, Any]) -> dict[str, Any]:
    """RuleError: a rule of the policy is none."""
    tool, text = asked["tool"], asked["text"]
    rows = {spec.name: spec for _, spec in generation.builtins()}
    spec = rows.get(tool)
    first = spec.parameters[0].name if spec is not None and spec.parameters else "text"
    name = ARGUMENT.get(tool) or {"git": "args", "shell": "command"}.get(tool, first)
    call = Call(tool, {name: text}, spec.access if spec is not None else "execute", name)
    known = [
        rules.parse(one["verdict"], one["rule"], one["source"], one.get("id", ""))
        for one in asked["policy"]["rules"]
    ]
    known.sort(key=lambda rule: rule.source != "session")
    policy = Policy(tuple(asked["policy"]["modes"]), tuple(known), bool(asked["policy"]["yes"]))
    at = Instance(*(Path(asked[key]) for key in ("config", "state", "runtime")))
    where = links.ground(at, os.path.realpath(asked["repo"]))
    where = replace(
        where, links=links.found(ToolCall(id="", agent="", name=tool, args=dict(call.args)), where)
    )
    found = asdict(decide(call, policy, where))
    command = command_of(call, where)
    return {
        "tool": tool,
        "text": text,
        **found,
        "unclear": list(command.unclear if command else ()),
    }


def main() -> int:
    asked = json.load(sys.stdin)
    json.dump(judged(asked), sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
