"""Decides about model calls; performs none. One deterministic actor, `models`.

`process`     the behaviour: what comes in, and the order of one step
`launch`      which waiting request is ordered now, which is given up, when to look again
`attempt`     the end of one attempt: its cost, what it says of model and provider, what follows
`ending`      what is said and kept of a request that has ended; the next model of its chain
`queue`       requests not yet settled, in order; sessions in turn, those with a person first
`limiter`     a lane per provider key: calls at once, a shared cool-down, and its gauges
`gauge`       one limit per minute, ours and the one that the provider's headers tell
`breaker`     a model that keeps failing is left alone for a while
`retries`     whether a failed attempt is made again on the same model, and when
`escalation`  a task that its model fails twice goes on with the next one, then back
`budget`      day / session / task / agent: reserve the worst case before, settle the cost after
`pool`        the gateways, and which of them gets a call
`ledger`      one row per attempt, the lost ones too
`state`       the rules from the settings, and all that the actor knows, with its invariants
`saved`       what is kept beside the rows, and the state of a new incarnation from both

agent or keeper -> models `ModelRequest`; models -> gateway `Perform`, one mail per attempt, in the
same commit that marks the request as running; gateway -> models `Performed`. A success has been
mailed to the asker by the gateway already; only a final failure is mailed from here. Before a
model's first call under a budget its price is asked for (`AskPrice`, `Priced`). Only `process`,
`launch`, `attempt` and `ending` know of mails; none knows a clock: `now` comes in with each step.

Paid once, by construction: a request leaves `waiting` only in the commit that mails its `Perform`,
comes back to it only through a `Performed` of exactly that attempt, and its id is remembered when
it is settled. Mails arrive exactly once. What remains is a killed gateway, which counts as `lost`.
"""
