"""What actors say to each other: the tagged union `Body`, and `Entry`, one entry of a log.

Bodies travel inside mails, asks and effects; the hub never looks inside. Who says what to whom:

user -> team        Say, Control, Undo, Decision (an answer to a question row)
team -> agent       Assign, Say, Inquiry, ReviewRequest, Control, KeeperReady,
                    ToolResult (for TEAM_TOOLS and for edits)
agent -> team       TeamCall, Report, Offload
agent -> models     ModelRequest, CancelModel          models -> agent    ModelOutcome
models -> gateway   Perform, CancelModel, AskPrice,    gateway -> models  Performed, Priced
                    Expect
agent -> tools      ToolCall, CallEnded, CancelCall    tools -> agent     ToolResult
tools -> team       Propose, Applied, Changed, UndoPlan
team -> tools       Apply, Discard, PlanUndo, ToolCall (mechanical checks), CancelCall
team -> keeper      Recall (also as an ask)            keeper -> anyone   Recalled
hub -> anyone       Undelivered, Ended                 hub -> agent       Restarted, Recover
hub -> tools        Reload (as an ask), answered Reloaded; Permits
hub -> agent        RoleChanged, Configured; hub -> models: Configured

Hashes are blob names (loomd.store.blobs): hex SHA-256 of the content.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

TEAM_TOOLS = frozenset(
    {
        *("spawn", "assign", "send", "ask", "ask_user", "answer", "share", "claim", "decide"),
        *("vote", "revise_plan", "recall", "review", "offload"),
    }
)
"""Tools that the team actor answers (`offload`: the agent itself, once a keeper has taken over);
every other name goes to the session's tool host."""


class Part(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="t"):
    """Base of everything inside a body."""


# --- the conversation --------------------------------------------------------------------------


class Call(Part, frozen=True, kw_only=True):
    """One tool call of a model. `id` is unique in the session, `provider_id` is the model's own."""

    id: str
    name: str
    args: dict[str, Any] = {}
    provider_id: str = ""
    error: str = ""  # it cannot be executed: said to the model instead
    fault: str = ""  # of an error: bad_args ("") | no_such_tool; without one: "" | not_offered


class Entry(Part, frozen=True, kw_only=True):
    """One entry of an agent's append-only log.

    role: `user` (task, message, review request), `assistant` (text and calls), `tool` (the result
    of `call`), `note` (ours: restart, offload). `text` is whole, or in the blob `blob`.
    """

    role: Literal["user", "assistant", "tool", "note"]
    text: str = ""
    sender: str = ""
    calls: tuple[Call, ...] = ()
    call: str = ""  # tool: Call.id
    name: str = ""  # tool: the tool's name
    ok: bool = True
    error: str = ""  # tool: ToolResult.error
    blob: str = ""
    reasoning: str = ""
    model: str = ""
    ts: float = 0.0


class Span(Part, frozen=True, kw_only=True):
    """Entries first..last (inclusive) of the log of actor `log`."""

    log: str
    first: int
    last: int


class View(Part, frozen=True, kw_only=True):
    """What the model sees: pinned blocks, then the referenced entries in this order. `shared`: how
    many of the first pinned blocks others of this role see too."""

    pinned: tuple[str, ...] = ()
    spans: tuple[Span, ...] = ()
    shared: int = 0


class Usage(Part, frozen=True, kw_only=True):
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0  # of the input, read from the provider's cache
    cache_write_tokens: int = 0  # of the input, written to it
    reasoning_tokens: int = 0  # of the output
    cost_usd: float | None = 0.0  # None: unknown, never taken for zero
    calls: int = 0


# --- models ------------------------------------------------------------------------------------


class Repair(Part, frozen=True, kw_only=True):
    """What was mended in an answer, without guessing, before anybody acted on it. `kind`: one of
    loomd.gateway.repairs; `call`: the place of the call in the turn, from 1; 0: the answer."""

    kind: str
    call: int = 0
    detail: str = ""


class ToolCalls(Part, frozen=True, kw_only=True, tag="tool_calls"):
    """`note`: what people are told of where the answer is from; "": from whom was asked."""

    calls: tuple[Call, ...]
    text: str = ""
    reasoning: str = ""
    repairs: tuple[Repair, ...] = ()
    note: str = ""


class FinalAnswer(Part, frozen=True, kw_only=True, tag="final"):
    """`note`: as of ToolCalls."""

    text: str
    reasoning: str = ""
    repairs: tuple[Repair, ...] = ()
    note: str = ""


Phase = Literal["", "connect", "first_byte", "stalled", "total"]


class Failed(Part, frozen=True, kw_only=True, tag="failed"):
    """kind: rate_limited overloaded timeout context_overflow auth quota refused filtered malformed
    empty network server budget cancelled unknown_model unknown_goal interrupted. `phase`: of a
    timeout, which clock ran out. `retry_after`: seconds, as the provider asked. `note`: as of
    ToolCalls."""

    kind: str
    detail: str = ""
    retryable: bool = False
    retry_after: float | None = None
    hint: str = ""
    phase: Phase = ""
    note: str = ""


Outcome = ToolCalls | FinalAnswer | Failed


class ModelRequest(Part, frozen=True, kw_only=True, tag="model_request"):
    """`id` is unique for ever (`agent:turn`); a request is performed and paid for once."""

    id: str
    session: str
    agent: str
    role: str = ""
    purpose: str = "turn"  # turn | ask | title | review | judge | check
    model: str = ""  # "": by role, else the default
    view: View = View()
    tools: tuple[str, ...] | None = None  # names; None: all of the session's toolset; (): none
    max_tokens: int | None = None
    temperature: float | None = None
    task: str = ""
    budget_usd: float | None = None  # the session's own budget; None: the configured one
    interactive: bool = False  # a person waits for what comes of it


class CancelModel(Part, frozen=True, kw_only=True, tag="cancel_model"):
    """One request, or with `agent` all of an agent that has ended."""

    request: str = ""
    agent: str = ""


class UseGateway(Part, frozen=True, kw_only=True, tag="use_gateway"):
    """hub -> models: calls go to `gateway` from now on, and to `more`, which sleep until they are
    called; `others` finish what they have and end. `fresh`: the daemon begins, and nothing that was
    known of them holds any more."""

    gateway: str
    others: tuple[str, ...] = ()
    more: tuple[str, ...] = ()
    fresh: bool = False


class GatewaySeen(Part, frozen=True, kw_only=True, tag="gateway_seen"):
    """hub -> models: one of several gateways has died, or (`up`) its successor is there."""

    gateway: str
    up: bool


class Expect(Part, frozen=True, kw_only=True, tag="expect"):
    """models -> gateway: there will be calls. It wakes who sleeps, and asks for nothing."""


class ModelOutcome(Part, frozen=True, kw_only=True, tag="model_outcome"):
    request: str
    outcome: Outcome
    usage: Usage = Usage()
    model: str = ""


class Perform(Part, frozen=True, kw_only=True, tag="perform"):
    """models -> gateway: one attempt on one concrete model."""

    request: ModelRequest
    model: str
    attempt: int = 1
    lost: int = 0  # starts of it by gateways that have died, beside those of this one


class RateLimit(Part, frozen=True, kw_only=True):
    """What a provider's headers said of one of its limits as this answer began: `remaining` of
    `limit`, and all of it again in `reset_s` seconds (None: not said)."""

    what: Literal["requests", "tokens", "input_tokens", "output_tokens"]
    limit: float
    remaining: float
    reset_s: float | None = None


class Performed(Part, frozen=True, kw_only=True, tag="performed"):
    """gateway -> models. `lost`: attempts of a killed gateway that may have been paid for."""

    request: str
    agent: str
    model: str
    attempt: int
    outcome: Outcome
    usage: Usage = Usage()
    lost: int = 0
    started: float = 0.0
    ended: float = 0.0
    cost_known: str = "unknown"  # reported | computed | unknown
    price: tuple[float, float] | None = None  # USD per input and per output token, if known
    price_version: str = ""  # of the price map that the cost is computed from
    limits: tuple[RateLimit, ...] = ()


class AskPrice(Part, frozen=True, kw_only=True, tag="ask_price"):
    """models -> gateway: what does a call of `model` cost? Asked once, before its first call that
    a budget bounds; answered by `Priced`."""

    model: str


class Priced(Part, frozen=True, kw_only=True, tag="priced"):
    """`price`: USD per input and per output token; None: no price map has this model.
    `max_output`: tokens that it can write in one answer; None: not known."""

    model: str
    price: tuple[float, float] | None = None
    version: str = ""
    max_output: int | None = None


# --- tools -------------------------------------------------------------------------------------


class ToolCall(Part, frozen=True, kw_only=True, tag="tool_call"):
    """`reply_to` gets the ToolResult ("": the sender). `after`: calls of the same turn that write
    the same file; this one begins when a CallEnded has come for each of them. links: paths of it
    in which links are, and where they lead, as it was judged. cwd: of a command, the folder in
    which it begins, likewise (as loomd.tools.shellenv keeps it)."""

    id: str
    agent: str
    name: str
    args: dict[str, Any] = {}
    task: str = ""
    reply_to: str = ""
    after: tuple[str, ...] = ()
    links: dict[str, str] = {}
    cwd: str = ""


class Permits(Part, frozen=True, kw_only=True, tag="permits"):
    """hub -> tools: the permission rules that are saved for this project now, id -> rule."""

    rules: dict[str, str] = {}


class CallEnded(Part, frozen=True, kw_only=True, tag="call_ended"):
    """agent -> tools: this call has its result; those that come after it may begin."""

    id: str


class CancelCall(Part, frozen=True, kw_only=True, tag="cancel_call"):
    """One call, or with `agent` all calls of an agent that has ended."""

    id: str = ""
    reason: str = ""
    agent: str = ""


class ToolResult(Part, frozen=True, kw_only=True, tag="tool_result"):
    """error: "" | bad_args no_such_tool denied timeout idle crashed interrupted conflict refused
    revise cancelled too_large not_found failed. Text over 64 KiB is in the blob `blob`."""

    id: str
    ok: bool = True
    text: str = ""
    error: str = ""
    blob: str = ""
    data: dict[str, Any] = {}


class Hunk(Part, frozen=True, kw_only=True):
    """Lines `old` at `start` (1-based, in the base) become `new`."""

    start: int
    old: tuple[str, ...]
    new: tuple[str, ...]


class FileChange(Part, frozen=True, kw_only=True):
    """One file of a proposal. `base` / `after`: blob of the whole content, "" = no file.
    `mode`: the permission bits of what comes, `was`: of what goes; 0: not known."""

    path: str  # relative to the checkout
    base: str
    after: str
    mode: int = 0o644
    was: int = 0
    hunks: tuple[Hunk, ...] = ()
    diff: str = ""  # unified, capped


class Propose(Part, frozen=True, kw_only=True, tag="propose"):
    """tools -> team: an edit that waits for the gate. `call` is answered when it has ended."""

    call: str
    agent: str
    tool: str
    reason: str
    files: tuple[FileChange, ...]
    task: str = ""
    note: str = ""  # shell: the command's own output, to be told with the result
    review: bool = False  # asked for, also where the policy needs none


class Apply(Part, frozen=True, kw_only=True, tag="apply"):
    """`exact`: an undo. The files get the very modes that are named, not only their executable
    bits, and folders that are empty then go."""

    edit: str
    files: tuple[FileChange, ...]
    exact: bool = False


class Discard(Part, frozen=True, kw_only=True, tag="discard"):
    edit: str


class Applied(Part, frozen=True, kw_only=True, tag="applied"):
    """state: applied | conflict (nothing written; `detail` says what is there instead) | failed."""

    edit: str
    state: Literal["applied", "conflict", "failed"]
    detail: str = ""


class Changed(Part, frozen=True, kw_only=True, tag="changed"):
    """tools -> team: what a call has changed in the checkout itself, where no review is required.
    It stands already: an applied edit. `left`: what of it is not covered, `path: why`;
    `interrupted`: the tool host was killed while the call was under way."""

    call: str
    agent: str
    tool: str
    reason: str
    files: tuple[FileChange, ...]
    task: str = ""
    left: tuple[str, ...] = ()
    interrupted: bool = False


class Undo(Part, frozen=True, kw_only=True, tag="undo"):
    """user -> team: take back `edit`; or the edits of `task` and of its parts; or all of them; or,
    with none of these, the last one in effect. Ends with one event `undone` or `undo_refused` that
    names `id`."""

    id: str
    edit: str = ""
    task: str = ""
    all: bool = False


class Taken(Part, frozen=True, kw_only=True):
    """An edit that is to be taken back: its files as they were applied, without hunks."""

    edit: str
    files: tuple[FileChange, ...]


class PlanUndo(Part, frozen=True, kw_only=True, tag="plan_undo"):
    """team -> tools: what the checkout would be without these edits, newest first."""

    undo: str
    edits: tuple[Taken, ...]


class Clash(Part, frozen=True, kw_only=True):
    """Why a file cannot be taken back. `lines`: [first, last] of what stands there now; of an
    insertion in between, last is first - 1; [] where it is the whole file. `diff`: from what stands
    there to the merge, with conflict markers."""

    path: str
    edits: tuple[str, ...]
    reason: str
    lines: tuple[tuple[int, int], ...] = ()
    diff: str = ""


class UndoPlan(Part, frozen=True, kw_only=True, tag="undo_plan"):
    """tools -> team. With clashes or an `error` (a wire code; `detail`) there are no files: all of
    an undo, or nothing of it."""

    undo: str
    files: tuple[FileChange, ...] = ()
    clashes: tuple[Clash, ...] = ()
    error: str = ""
    detail: str = ""


class Reload(Part, frozen=True, kw_only=True, tag="reload"):
    what: str = "tools"


class Reloaded(Part, frozen=True, kw_only=True, tag="reloaded"):
    generation: int
    loaded: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    errors: tuple[dict[str, str], ...] = ()  # {module, error}


class RoleChanged(Part, frozen=True, kw_only=True, tag="role_changed"):
    """From the hub to an agent of this role: what is written of it now; `text` "": nothing, it is
    what ships. For its next turn. `file`: its name without `.md`."""

    role: str
    file: str = ""
    text: str = ""


class Configured(Part, frozen=True, kw_only=True, tag="configured"):
    """From the hub: tables of the configuration that have changed, whole."""

    settings: dict[str, Any]


# --- team --------------------------------------------------------------------------------------


class Say(Part, frozen=True, kw_only=True, tag="say"):
    """Something said by a person or a peer. `to` "": the lead."""

    text: str
    sender: str = ""
    to: str = ""


class Inquiry(Part, frozen=True, kw_only=True, tag="inquiry"):
    """Something that an agent is asked and is to answer: it wakes one at rest, and one that ends
    without `answer` is reminded. `optional` (a vote): it may also say nothing."""

    id: str
    text: str
    sender: str = ""
    optional: bool = False


class Assign(Part, frozen=True, kw_only=True, tag="assign"):
    """A task for an agent; answered by one `Report`."""

    task: str
    text: str
    sender: str = ""


class Report(Part, frozen=True, kw_only=True, tag="report"):
    """The end of a task. `entries`: how many the agent's log has, for the keeper over it."""

    task: str
    state: Literal["done", "failed"]
    text: str = ""
    kind: str = ""
    hint: str = ""
    usage: Usage = Usage()
    entries: int = 0


class TeamCall(Part, frozen=True, kw_only=True, tag="team_call"):
    """A call of one of TEAM_TOOLS; answered by ToolResult with the same id."""

    id: str
    name: str
    args: dict[str, Any] = {}
    task: str = ""


class ReviewRequest(Part, frozen=True, kw_only=True, tag="review_request"):
    """team -> reviewer; answered through the tool `review(edit, verdict, reason)`."""

    edit: str
    author: str
    reason: str
    diff: str
    paths: tuple[str, ...] = ()
    files: tuple[FileChange, ...] = ()
    checks: str = ""


class Control(Part, frozen=True, kw_only=True, tag="control"):
    """`agent`: to the team, of `cancel`: what this one does, and nobody else."""

    op: Literal["pause", "resume", "cancel", "stop", "step"]
    reason: str = ""
    agent: str = ""


class Decision(Part, frozen=True, kw_only=True, tag="decision"):
    """The answer to a row of `questions`; the first one wins."""

    question: str
    allow: bool = True
    scope: Literal["once", "session", "always"] = "once"
    text: str = ""
    by: str = ""


# --- keepers -----------------------------------------------------------------------------------


class Offload(Part, frozen=True, kw_only=True, tag="offload"):
    """agent -> team: entries first..last of my log leave my view; give them to a keeper."""

    first: int
    last: int
    title: str = ""


class KeeperReady(Part, frozen=True, kw_only=True, tag="keeper_ready"):
    keeper: str
    span: Span
    line: str  # the index line that stays in the view
    entries: int = 0
    bytes: int = 0  # of the entries as they are stored


class Recall(Part, frozen=True, kw_only=True, tag="recall"):
    """mode: exact (first..last of the keeper's log), search (query), ask (query)."""

    id: str = ""
    mode: Literal["exact", "search", "ask"] = "search"
    query: str = ""
    first: int = 0
    last: int = 0
    limit: int = 10


class Hit(Part, frozen=True, kw_only=True):
    """`text`: the entry, byte for byte (encoded Entry in `raw` for mode exact)."""

    keeper: str
    log: str
    entry: int
    score: float = 0.0
    text: str = ""
    raw: bytes = b""


class Recalled(Part, frozen=True, kw_only=True, tag="recalled"):
    id: str = ""
    hits: tuple[Hit, ...] = ()
    answer: str = ""
    error: str = ""
    truncated: bool = False


# --- from the hub, and for anyone --------------------------------------------------------------


class Undelivered(Part, frozen=True, kw_only=True, tag="undelivered"):
    """The mail `id` to `to` was not accepted: mailbox full, no such actor, or dead letter.

    With `to` oneself: a timer or an effect of one's own (its body) that was set aside, because it
    ended its actor again and again. An order of `models` is `given_back` by a gateway that does not
    come back; `attempts`: how often it was started there.
    """

    id: str
    to: str
    reason: Literal["full", "no_such_actor", "poison", "given_back"]
    body: bytes = b""
    attempts: int = 0


class Ended(Part, frozen=True, kw_only=True, tag="ended"):
    """An actor of the session has ended for good: done, stopped, removed, given up."""

    name: str
    reason: str


class Restarted(Part, frozen=True, kw_only=True, tag="restarted"):
    """The whole daemon was restarted while this agent ran. `at`: epoch seconds; `when`: the same
    for people. A restart of one actor is told to nobody but people."""

    at: float
    when: str


class Recover(Part, frozen=True, kw_only=True, tag="recover"):
    """An actor that failed again and again stands on another rung of its ladder from here on (see
    loomd.actor.ladder). `do`: restart (as usual) | parameters | conversation."""

    rung: int
    do: str
    reason: str = ""


class Note(Part, frozen=True, kw_only=True, tag="note"):
    """A plain value: echo actors, status queries, progress."""

    data: Any = None


Body = (
    ModelRequest
    | CancelModel
    | UseGateway
    | GatewaySeen
    | Expect
    | ModelOutcome
    | Perform
    | Performed
    | AskPrice
    | Priced
    | ToolCall
    | CallEnded
    | Permits
    | CancelCall
    | ToolResult
    | Propose
    | Apply
    | Discard
    | Applied
    | Changed
    | Undo
    | PlanUndo
    | UndoPlan
    | Reload
    | Reloaded
    | RoleChanged
    | Configured
    | Say
    | Inquiry
    | Assign
    | Report
    | TeamCall
    | ReviewRequest
    | Control
    | Decision
    | Offload
    | KeeperReady
    | Recall
    | Recalled
    | Undelivered
    | Ended
    | Restarted
    | Recover
    | Note
)
