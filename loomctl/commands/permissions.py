"""`permissions`: what may be done without asking, what a call would be told, and the record.

The judging is loomd's; here it is only run and shown. A rule that an answer has saved belongs to
its checkout; all others stand in configurations.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

from loomctl import render
from loomctl.client import Client
from loomctl.commands.jobs import checkout
from loomctl.context import Context, pass_context
from loomd.wire.errors import LoomError

JUDGED = ("permission_judged", "permission_asked", "permission_decided", "permission_closed")


@click.group()
def permissions() -> None:
    """The rules in force, what they say of a call, and what was decided."""


def _policy(context: Context, client: Client, repo: Path, session: str) -> dict[str, Any]:
    """{repo, modes, yes, rules, ...} of a session, or of one that would be opened in `repo`."""
    if not session:
        return {**client.request("permissions", repo=str(checkout(repo))), "yes": False}
    row = client.request("session", session=session)
    try:
        said = client.request("ask", actor=f"{session}/tools", body={"t": "note"})
    except LoomError as error:
        if error.code not in ("actor_died", "not_running", "no_such_actor"):
            raise
        hint = f"what holds in its checkout: --repo {row['repo']}"
        raise LoomError("bad_state", f"{session} does not run", hint) from None
    return {"repo": row["repo"], **said["data"]["permissions"]}


@permissions.command("list")
@click.option("--repo", type=click.Path(path_type=Path), default=Path(), help="The checkout.")
@click.option("--session", default="", help="As they are in a running session.")
@click.option("--all", "every", is_flag=True, help="Saved rules of every checkout.")
@pass_context
def list_(context: Context, repo: Path, session: str, every: bool) -> None:
    """The rules in force, with who set them. Built-in ones are not listed: they always hold."""
    with context.client() as client:
        policy: dict[str, Any] = (
            client.request("permissions") if every else _policy(context, client, repo, session)
        )

    def human() -> None:
        context.out.print(f"mode {', '.join(policy['modes'])}", style="bold")
        columns = ("verdict", "rule", "source", "id", *(("repo",) if every else ()))
        context.out.print(render.table(policy["rules"], columns, "no rules"))
        if policy.get("ignored"):
            ignored = ", ".join(policy["ignored"])
            context.out.print(f"ignored until `loomctl trust`: {ignored}", style="yellow")

    context.show(policy, human)


@permissions.command()
@click.argument("call", metavar="CMD")
@click.option("--tool", default="shell", show_default=True, help="The tool; CMD is its argument.")
@click.option("--repo", type=click.Path(path_type=Path), default=Path(), help="The checkout.")
@click.option("--session", default="", help="By the rules of a running session.")
@click.option("--yes", is_flag=True, help="As in a session opened with --yes.")
@pass_context
def test(context: Context, call: str, tool: str, repo: Path, session: str, yes: bool) -> None:
    """What the rules say of CMD, and which of them decides. Nothing is run."""
    with context.client() as client:
        policy = _policy(context, client, repo, session)
    policy["yes"] = policy["yes"] or yes
    asked = {
        "tool": tool,
        "text": call,
        "repo": policy["repo"],
        "policy": policy,
        "config": str(context.instance.config),
        "state": str(context.instance.state),
        "runtime": str(context.instance.runtime),
    }
    done = subprocess.run(
        [sys.executable, "-m", "loomd.tools.trial"],
        input=json.dumps(asked),
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise LoomError("internal", "it could not be judged", "its errors are above")
    found = json.loads(done.stdout)

    def human() -> None:
        verdict = found["verdict"]
        colour = {"allow": "green", "deny": "red"}.get(verdict, "yellow")
        context.out.print(verdict, style=f"bold {colour}")
        rule = f"{found['rule']} ({found['source']})" if found["rule"] else found["source"]
        context.out.print(f"by     {rule}")
        context.out.print(f"for    {found['reason']}")
        for why in found["unclear"]:
            context.out.print(f"unclear  {why}")
        if found["suggest"]:
            context.out.print(f"always {', '.join(found['suggest'])}")
        if len(found["parts"]) > 1:
            context.out.print(render.table(found["parts"], ("verdict", "part", "rule"), ""))

    context.show(found, human)


@permissions.command()
@click.argument("id")
@pass_context
def remove(context: Context, id: str) -> None:
    """Take back a rule that an answer has saved."""
    with context.client() as client:
        result = client.request("forget_permit", id=id)
    context.show(result, f"removed {result['rule']}")


@permissions.command()
@click.argument("session")
@click.option("--all", "every", is_flag=True, help="With what was allowed without asking.")
@pass_context
def log(context: Context, session: str, every: bool) -> None:
    """Who was allowed what in a session: by which rule, by whose answer."""
    with context.client() as client:
        client.request("session", session=session)
        rows = record(client.events(session, 0))
    if not every and not context.json:
        rows = [row for row in rows if row["verdict"] != "allow" or row["answer"]]
    columns = ("seq", "ts", "agent", "what", "verdict", "rule", "source", "answer", "by")
    context.rows(rows, columns, "nothing was asked or denied", session)


def record(events: Any) -> list[dict[str, Any]]:
    """One row per decision of the rules, with the answer if a person was asked."""
    rows: list[dict[str, Any]] = []
    asked: dict[str, dict[str, Any]] = {}
    for event in events:
        data = event["data"]
        if event["type"] == "permission_judged":
            rows.append(
                {"seq": event["seq"], "ts": event["ts"]}
                | {key: data.get(key, "") for key in
                   ("call", "agent", "tool", "what", "verdict", "rule", "source", "reason")}
                | {"id": "", "answer": "", "by": "", "scope": "", "saved": []}
            )  # fmt: skip
        elif event["type"] == "permission_asked":
            mine = [row for row in rows if row["call"] == data.get("call")]
            if mine:
                asked[data["id"]] = mine[-1]
                mine[-1]["id"] = data["id"]
        elif event["type"] in ("permission_decided", "permission_closed"):
            row = asked.pop(data["id"], None)
            if row is not None:
                closed = event["type"] == "permission_closed"
                row["answer"] = data["reason"] if closed else data["decision"]
                row |= {"by": data.get("by", ""), "scope": data.get("scope", "")}
                row["saved"] = data.get("rules") or []
    return rows
