"""The ledger, and the dead letters."""

from __future__ import annotations

import click

from loomctl.context import Context, pass_context
from loomd.wire.errors import LoomError


@click.command()
@click.argument("session", required=False, default="")
@click.option(
    "--by", type=click.Choice(["session", "agent", "model", "purpose", "day"]), default="session"
)
@click.option("--attempts", is_flag=True, help="The rows themselves, one for each attempt.")
@pass_context
def usage(context: Context, session: str, by: str, attempts: bool) -> None:
    """Calls, tokens and money, a row for each session, agent, model, purpose or day (UTC); of all,
    or of one SESSION.

    A cost that is not known is empty, never zero: known_usd is what is known of it, unknown how
    many calls are not in it, lost those of a gateway that was killed. cached_share is what of the
    known input came from a provider's cache; empty: none is known."""
    if attempts:
        with context.client() as client:
            rows = client.request("attempts", session=session)
        context.rows(
            rows,
            (
                *("ts", "agent", "task", "purpose", "model", "outcome", "input_tokens"),
                *("output_tokens", "cached_tokens", "cost_usd", "cost_known", "duration_s"),
            ),
            "no model was called",
            session,
        )
        return
    with context.client() as client:
        rows = client.request("usage", by=by, session=session)
    context.rows(
        rows,
        (
            *("key", "calls", "input_tokens", "output_tokens", "cached_tokens", "cached_share"),
            *("reasoning_tokens", "cost_usd", "known_usd", "unknown", "lost"),
        ),
        "no model was called",
    )


@click.command()
@click.argument("action", type=click.Choice(["list", "retry", "drop"]), default="list")
@click.argument("id", required=False, default="")
@pass_context
def dead(context: Context, action: str, id: str) -> None:
    """Dead letters: mails that killed their reader again and again."""
    if action != "list" and not id:
        raise LoomError("usage", f"dead {action} needs an ID", "see: loomctl dead list")
    with context.client() as client:
        result = client.request("dead", action=action, id=id)
    if action == "list":
        context.rows(result, ("id", "actor", "crashes", "error", "message"), "no dead letters")
    else:
        context.show(result, f"{id}: {action}")
