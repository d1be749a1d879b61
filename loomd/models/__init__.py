"""Decides about model calls; performs none. One deterministic actor, `models`.

`queue`    requests not yet settled, in order, sessions in turn
`limiter`  calls under way and pauses asked for, per provider
`breaker`  a model that keeps failing is left alone for a while
`budget`   reserve the worst case before, settle what it cost after, per session
`ledger`   one row per attempt, the lost ones too
`state`    the rules from the settings, and all that the actor knows, with its invariants
`process`  the behaviour that puts them together

agent or keeper -> models `ModelRequest`; models -> gateway `Perform`, one mail per attempt, in the
same commit that marks the request as running; gateway -> models `Performed`. A success has been
mailed to the asker by the gateway already; only a final failure is mailed from here. All modules
but `process` know nothing of mails; none knows a clock: `now` comes in with each step.

Paid once, by construction: a request leaves `waiting` only in the commit that mails its `Perform`,
comes back to it only through a `Performed` of exactly that attempt, and its id is remembered when
it is settled. Mails arrive exactly once. What remains is a killed gateway, which counts as `lost`.
"""
