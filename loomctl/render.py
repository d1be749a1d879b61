"""What people see: events as lines, tables, the report of a finished session. Pure but for rich.

Nothing here decides anything; each function turns JSON-able values into something to print. rich
is imported by the functions that need it: it costs 60 ms, and scripts that ask for JSON need none.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from loomctl import spending

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text
    from rich.tree import Tree

COLOURS = {
    "done": "green",
    "applied": "green",
    "running": "cyan",
    "thinking": "cyan",
    "acting": "cyan",
    "waiting": "yellow",
    "paused": "yellow",
    "failed": "red",
    "refused": "red",
    "conflict": "red",
    "stopped": "magenta",
    "undone": "magenta",
}

CONTROLS = {
    code: chr(0x2400 + code) if code < 32 else "\N{REPLACEMENT CHARACTER}"
    for code in (*range(32), *range(127, 160))
    if chr(code) not in "\n\t"
}
"""Control characters -> what is shown for them."""

LEFT = 14  # width of the actor's column in a stream of events


def plain(text: Any) -> str:
    """A text that only prints. What models, tools and repos say may hold escape sequences, which
    would clear the screen, or paint a question over with another one.
    """
    return str(text).replace("\r\n", "\n").translate(CONTROLS)


def short(text: Any, limit: int = 100) -> str:
    """One line of at most `limit` characters."""
    line = plain(" ".join(str(text).split()))
    return line if len(line) <= limit else line[: limit - 1] + "…"


def counted(number: int, thing: str, several: str = "") -> str:
    """1 agent, 2 agents; `several` where an s does not do."""
    return f"{number} {thing if number == 1 else several or thing + 's'}"


def _call(data: Mapping[str, Any]) -> str:
    args = data.get("args") or {}
    inside = ", ".join(f"{key}={short(value, 40)!r}" for key, value in args.items())
    return f"{data.get('name')}({short(inside, 110)})"


def _repairs(repairs: Sequence[Mapping[str, Any]]) -> str:
    """What was mended in an answer of a model, and in which of its calls."""
    places: dict[str, list[str]] = {one["kind"]: [] for one in repairs}
    for one in repairs:
        places[one["kind"]] += [str(one["call"])] if one.get("call") else []
    return "; ".join(
        kind + (f" (call {', '.join(calls)})" if calls else "") for kind, calls in places.items()
    )


def event_line(event: Mapping[str, Any]) -> Text | None:
    """One line for one event; None for what only programs care about."""
    from rich.text import Text

    data = event.get("data") or {}
    who = str(data.get("agent") or data.get("author") or data.get("name") or event.get("actor"))
    who = who.rpartition("/")[2]
    style, text = "", ""
    match event["type"]:
        case "session_opened":
            style, text = "dim", f"session opened in {data.get('repo', '')}"
        case "said":
            who, style, text = "you", "bold", short(data.get("text", ""))
        case "task_created":
            style, text = (
                "dim",
                f"task {data.get('id') or data.get('task', '')}: {short(data.get('title', ''))}",
            )
        case "agent_started":
            style, text = (
                "cyan",
                f"started as {data.get('role')}"
                + (f" for {short(data['task'], 80)}" if data.get("task") else ""),
            )
        case "tool_call":
            style, text = "", "→ " + _call(data)
        case "tool_result":
            good = bool(data.get("ok", True))
            style = "dim" if good else "red"
            said = short(data.get("text", ""), 110) or "nothing"
            text = ("← " if good else "← failed: ") + said
        case "model_outcome" if data.get("kind") not in (None, "", "tool_calls", "final"):
            style = "red"
            text = f"model: {data.get('kind')}: {short(data.get('text') or data.get('detail', ''))}"
        case "model_outcome" if data.get("note"):
            style, text = "yellow", f"replay: {short(data['note'], 160)}"
        case "model_outcome" if data.get("repairs"):
            style, text = "dim", f"mended: {short(_repairs(data['repairs']))}"
        case type if type in spending.TYPES:
            style, text = "yellow", short(spending.line(type, data), 160)
        case "decision":
            style, text = "blue", f"◆ {data.get('type')}: {short(data.get('title', ''))}"
        case "claim_granted" | "claim_queued":
            verb = event["type"].partition("_")[2]
            region = data.get("region") or "whole file"
            style, text = "dim", f"claim {verb}: {data.get('path')} ({region})"
        case "edit_proposed":
            paths = ", ".join(_paths(data))
            style, text = "yellow", f"proposes {data.get('edit')}: {short(paths)}"
        case "edit_approved" if not data.get("reviewer"):
            style, text = "dim", f"{data.get('edit')} needs no review"
        case "edit_approved":
            who = str(data.get("reviewer") or data.get("by") or who).rpartition("/")[2]
            style, text = "green", f"approves {data.get('edit')}"
        case "edit_revise" | "edit_conflict" | "edit_refused":
            style = "red"
            text = f"{event['type'].replace('_', ' ')} {data.get('edit')}: " + short(
                data.get("reason") or data.get("detail", "")
            )
        case "edit_applied":
            style, text = "green", f"applied {data.get('edit')}: {short(', '.join(_paths(data)))}"
        case "undo_asked":
            which = data.get("edit") or data.get("task") or ("all" if data.get("all") else "last")
            who, style, text = "you", "bold", f"undo: {which}"
        case "undone":
            which = short(", ".join(map(str, data.get("edits") or ())))
            style, text = "green", f"took back {which} as {data.get('edit')}"
        case "undo_refused":
            style, text = "red", f"not undone: {short(data.get('reason', ''), 200)}"
        case "permission_asked":
            style = "bold yellow"
            text = f"loomctl approve {data.get('id')} ?  {short(data.get('text', ''))}"
        case "question_asked" if data.get("to"):
            to = str(data["to"]).rpartition("/")[2]
            style, text = "blue", f"asks {to}: {short(data.get('text', ''))}"
        case "question_answered" if "/" in str(data.get("by")):
            who = str(data["by"]).rpartition("/")[2]
            style, text = "blue", f"answers {data.get('id')}: {short(data.get('text', ''))}"
        case "task_assigned":
            to = str(data.get("owner") or f"a new {data.get('role')}").rpartition("/")[2]
            who = str(data.get("by")).rpartition("/")[2]
            style, text = (
                "dim",
                f"assigns {data.get('task')} to {to}: {short(data.get('title', ''))}",
            )
        case "plan_revised":
            who = str(data.get("by")).rpartition("/")[2]
            count = len(data.get("steps") or ())
            text = f"plan, version {data.get('version')}, {count} steps: "
            style, text = "blue", text + short(data.get("reason", ""))
        case "vote_opened":
            options = short(" | ".join(data.get("options") or ()))
            style, text = (
                "blue",
                f"vote {data.get('vote')}: {short(data.get('title', ''))} {options}",
            )
        case "vote_closed":
            won = f": {data.get('winner')}" if data.get("winner") else ""
            style, text = "blue", f"vote {data.get('vote')} is {data.get('state')}{won}"
        case "call_queued":
            style, text = "dim", f"{data.get('tool')} waits: {data.get('behind')}"
        case "lead_waits":
            style, text = "dim", f"waits for {', '.join(data.get('tasks') or ())}"
        case "question_asked":
            style = "bold yellow"
            text = f"loomctl answer {data.get('id')} TEXT ?  {short(data.get('text', ''))}"
        case "permission_judged" if data.get("verdict") == "deny":
            style = "red"
            text = (
                f"denied: {short(data.get('what', ''), 80)}: {short(data.get('reason', ''), 200)}"
            )
        case "permission_decided":
            verdict = "allowed" if data.get("decision") == "allow" else "denied"
            style, text = "yellow", f"{verdict} {data.get('id', '')} by {data.get('by', '')}"
            if data.get("scope") in ("session", "always"):
                text += f", {data['scope']}: {short(', '.join(data.get('rules') or ()), 120)}"
        case "permission_closed":
            style, text = "dim", f"{data.get('id', '')} needs no answer: {data.get('reason', '')}"
        case "project_untrusted":
            ignored = ", ".join(data.get("ignored") or ())
            style, text = "yellow", f"ignored in .loom/config.toml: {ignored}; {data.get('hint')}"
        case "actor_restarted":
            style, text = "magenta", f"restarted after {data.get('reason', 'an exit')}"
        case "recovery" if data.get("cause") == "steady":
            style, text = "green", f"goes on with {data.get('rung')}: {short(data.get('reason'))}"
        case "recovery":
            style = "bold magenta"
            text = f"recovery: {data.get('rung')}, because of {short(data.get('reason'))}"
        case "actor_upgraded":
            style, text = "dim", f"runs on code generation {data.get('generation', '?')}"
        case "poison":
            style = "bold red"
            crashes = counted(data.get("crashes") or 0, "crash", "crashes")
            text = f"set aside after {crashes} ({data.get('error')}): "
            text += f"{data.get('message')}; loomctl dead retry {data.get('id')}"
        case "keeper_started":
            style = "dim"
            log = str(data.get("log")).rpartition("/")[2]
            text = f"keeps entries {data.get('first')}-{data.get('last')} of {log}"
        case "job_started":
            style, text = "cyan", f"job {data.get('id')}: {short(data.get('command', ''))}"
        case "job_ended":
            good = data.get("state") == "done"
            code = "" if data.get("exit") is None else f", exit code {data['exit']}"
            style = "dim" if good else "red"
            text = f"job {data.get('id')} {data.get('state')}{code}"
        case "shared":
            style, text = "blue", short(data.get("text", ""))
        case "tools_broken":
            kept = f"; generation {data['generation']} stays" if data.get("generation") else ""
            faults = [
                f"{one.get('module')}: {one.get('error')}" for one in data.get("errors") or ()
            ]
            who, style, text = "tools", "red", "\n".join(["tools are broken" + kept, *faults])
        case "tools_mended":
            who, style, text = "tools", "green", "tools: the faulty file is as it was"
        case "tools_reloaded" | "roles_reloaded" | "config_reloaded":
            what = str(event["type"]).partition("_")[0]
            who, style = what, "cyan"
            changed = ", ".join(map(str, data.get("changed") or ())) or "nothing else"
            text = f"generation {data.get('generation')} in force: {changed}"
        case "role_broken":
            who, style = "roles", "red"
            text = f"role {data.get('role')} is not in force as written: {data.get('error', '')}"
        case "config_broken":
            who, style = "config", "red"
            text = f"the configuration stays as it was: {data.get('error', '')}"
        case "reply":
            style, text = "yellow", short(data.get("text", ""), 400)
        case "daemon_restarted":
            style = "magenta"
            text = f"the daemon was restarted: {len(data.get('actors') or ())} actors go on"
        case "session_resumed":
            who, style, text = "you", "bold", f"session {data.get('state')} again"
        case "session_ended" if data.get("kind") == "supervision" and data.get("hint"):
            style, text = "bold red", f"session failed: {data.get('answer')}; {data['hint']}"
        case "session_ended":
            style, text = "bold", f"session {data.get('state')}"
        case _:
            return None
    line = Text(no_wrap=False)
    line.append(time.strftime("%H:%M:%S ", time.localtime(event.get("ts") or 0)), "dim")
    line.append(f"{plain(who):<{LEFT}.{LEFT}} ", "bold")
    line.append(plain(text), style)
    return line


class Outputs:
    """What calls print while they run, put together to lines: the pieces come as they fall.
    `answers`: what models say too."""

    def __init__(self, *, answers: bool = False) -> None:
        self._rest: dict[str, tuple[int, str, str]] = {}
        self._answers = answers
        self._said: dict[str, tuple[str, str, str]] = {}  # stream -> agent, who, an unfinished line

    def add(self, data: Mapping[str, Any]) -> list[tuple[str, str]]:
        """(who, line) for each line that this piece completes; [] for what is no output."""
        if self._answers and data.get("kind") in ("text", "reasoning"):
            return self._spoken(data)
        if data.get("kind") != "output":
            return []
        call, text = str(data.get("call")), str(data.get("text", ""))
        who = str(data.get("agent", "")).rpartition("/")[2]
        offset = int(data.get("offset") or 0)
        awaited, rest, _ = self._rest.get(call, (0, "", ""))
        lines = []
        if offset > awaited:
            lines = [rest] if rest else []
            lines.append(f"[... {offset - awaited} bytes ...]")
            rest = ""
        *whole, rest = (rest + text).split("\n")
        lines += whole
        if len(rest) > 1000:
            lines.append(rest)
            rest = ""
        self._rest[call] = offset + len(text.encode()), rest, who
        return [(who, line.rpartition("\r")[2] or line.strip("\r")) for line in lines]

    def _spoken(self, data: Mapping[str, Any]) -> list[tuple[str, str]]:
        stream, agent = str(data.get("stream")), str(data.get("agent"))
        who = agent.rpartition("/")[2]
        if data["kind"] == "reasoning":
            who += " ~"
        _, _, rest = self._said.get(stream, ("", "", ""))
        *whole, rest = (rest + str(data.get("text", ""))).split("\n")
        self._said[stream] = agent, who, rest
        return [(who, line) for line in whole]

    def of(self, event: Mapping[str, Any]) -> list[tuple[str, str]]:
        """(who, line) that has been begun by a call, or an answer, that has ended with this
        event."""
        if event["type"] == "model_outcome":
            ended = [key for key, (agent, _, _) in self._said.items() if agent == event["actor"]]
            spoken = [self._said.pop(key) for key in ended]
            return [(who, rest) for _, who, rest in spoken if rest]
        if event["type"] not in ("tool_result", "job_ended"):
            return []
        data = event.get("data") or {}
        _, rest, who = self._rest.pop(str(data.get("call")), (0, "", ""))
        return [(who, rest)] if rest else []


def output_line(who: str, text: str) -> Text:
    """One line that a call has printed."""
    from rich.text import Text

    line = Text(no_wrap=False)
    line.append(" " * 9)
    line.append(f"{plain(who):<{LEFT}.{LEFT}} ", "dim")
    line.append(f"│ {plain(text)}", "dim")
    return line


def numbered(event: Mapping[str, Any], line: Text | None) -> Text:
    """A line of `events`: with its sequence, and every event has one."""
    from rich.text import Text

    whole = Text(f"{event['seq']:>6} ", "dim")
    if line is None:
        return whole.append(f"{event['type']} {short(event['data'])}", "dim")
    return whole.append_text(line)


def _paths(data: Mapping[str, Any]) -> list[str]:
    return [
        str(item.get("path")) if isinstance(item, Mapping) else str(item)
        for item in data.get("files") or ()
    ]


def coloured(state: Any) -> Text:
    """A state in its colour."""
    from rich.text import Text

    return Text(str(state), COLOURS.get(str(state), ""))


HEADS = {
    "waiting_for": "waits for",
    "mailbox": "mail",
    "uptime_s": "up",
    "rss_kb": "rss",
    "pss_kb": "pss",
    "cost_usd": "usd",
    "input_tokens": "in",
    "output_tokens": "out",
    "cached_tokens": "cached",
    "cached_share": "share",
    "reasoning_tokens": "thought",
    "known_usd": "known",
    "cost_known": "how",
    "duration_s": "s",
}
"""Heads that are shorter than the keys they stand for."""

WIDE = frozenset({"title", "text", "goal", "command", "repo", "reason", "error", "message", "note"})
"""Columns that give way, cut with an ellipsis, where a terminal is too narrow."""


def table(
    rows: Sequence[Mapping[str, Any]], columns: Iterable[str], empty: str, session: str = ""
) -> RenderableType:
    """Rows as a table, one line each; a person sees `empty` rather than nothing.

    With `session`, actors of that session are shown by their short names.
    """
    from rich.table import Table
    from rich.text import Text

    if not rows:
        return Text(empty, "dim")
    out = Table(box=None, pad_edge=False, header_style="bold")
    names = list(columns)
    for name in names:
        out.add_column(HEADS.get(name, name), overflow="ellipsis", no_wrap=name not in WIDE)
    for row in rows:
        cells: list[Text] = []
        for name in names:
            cell = _cell(name, row, session)
            cell.no_wrap, cell.overflow = True, "ellipsis"
            cells.append(cell)
        out.add_row(*cells)
    return out


def _cell(name: str, row: Mapping[str, Any], session: str) -> Text:
    from rich.text import Text

    value = row.get(name)
    if value is None or (name in ("uptime_s", "rss_kb", "pss_kb") and row.get("pid", 0) is None):
        return Text("")  # what has no process has no age and no size
    if name == "state":
        return coloured(value)
    if name in ("created", "ended", "ts") and isinstance(value, int | float):
        return Text(_moment(value) if value else "")
    if name == "uptime_s" and isinstance(value, int | float):
        return Text(_span(value))
    if name in ("rss_kb", "pss_kb") and isinstance(value, int | float):
        return Text(f"{value / 1024:.0f} MB")
    if isinstance(value, float):
        return Text(f"{value:.4f}".rstrip("0").rstrip("."))
    if isinstance(value, list | tuple):
        return Text(short(", ".join(map(str, value)), 60))
    text = short(value, 80)
    return Text(text.removeprefix(f"{session}/") if session else text)


def _moment(ts: float) -> str:
    """The time of day, with the date if it is not today's."""
    then = time.localtime(ts)
    today = then[:3] == time.localtime()[:3]
    return time.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M", then)


def _span(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f}s"
    if seconds < 3600:
        return f"{seconds // 60:.0f}m{seconds % 60:02.0f}s"
    return f"{seconds // 3600:.0f}h{seconds % 3600 // 60:02.0f}m"


def supervision(node: Mapping[str, Any]) -> Tree:
    """The supervision tree."""
    from rich.text import Text
    from rich.tree import Tree

    def label(one: Mapping[str, Any]) -> Text:
        text = Text(str(one.get("id")), "bold" if one.get("kind") == "supervisor" else "")
        if one.get("kind") == "supervisor":
            text.append(
                f"  {one.get('strategy')}, {one.get('intensity')} in {one.get('period_s')} s", "dim"
            )
        else:
            text.append(f"  pid {one.get('pid') or '-'}", "dim")
            text.append(f"  {one.get('restart')}", "dim")
        if one.get("restarts"):
            text.append("  " + counted(one["restarts"], "restart"), "yellow")
        text.append("  ")
        text.append_text(coloured(one.get("state", "")))
        if one.get("reason") and one.get("state") != "up":
            wanted = one["reason"] in ("normal", "terminated")
            text.append(f"  {short(one['reason'], 80)}", "dim" if wanted else "red")
        return text

    def grow(tree: Tree, one: Mapping[str, Any]) -> None:
        for child in one.get("children") or ():
            grow(tree.add(label(child)), child)

    tree = Tree(label(node))
    grow(tree, node)
    return tree


def diff(console: Console, text: str) -> None:
    """A unified diff, in colour on a terminal and byte for byte otherwise."""
    if not text:
        return
    if console.is_terminal:
        from rich.syntax import Syntax

        console.print(Syntax(plain(text), "diff", background_color="default", word_wrap=True))
    else:
        console.file.write(text if text.endswith("\n") else text + "\n")


def outcome(console: Console, result: Mapping[str, Any]) -> None:
    """The end of `run` and `demo` for a person."""
    from rich.text import Text

    diff(console, str(result.get("diff") or ""))
    state = result.get("state")
    head = Text("\n")
    head.append_text(coloured(state))
    if result.get("kind"):
        head.append(f" ({result['kind']})", "red")
    console.print(head)
    if result.get("answer"):
        console.print(Text(plain(result["answer"])))
    if result.get("hint"):
        console.print(Text(plain(f"hint: {result['hint']}"), "yellow"))
    usage = result.get("usage") or {}
    cost = usage.get("cost_usd")
    money = "cost unknown" if cost is None else f"${cost:.4f}"
    console.print(
        Text(
            f"{result.get('session')}: "
            f"{counted(len(result.get('files_changed') or ()), 'file')} changed, "
            f"{counted(len(result.get('agents') or ()), 'agent')}, "
            f"{counted(usage.get('calls', 0), 'model call')}, "
            f"{usage.get('input_tokens', 0)}+{usage.get('output_tokens', 0)} tokens, {money}, "
            f"{result.get('duration_s', 0):.1f} s",
            "dim",
        )
    )
