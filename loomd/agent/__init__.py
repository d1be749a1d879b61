"""One agent: a conversation with a model, as a pure state machine.

`loop`     the machine: idle -> thinking -> acting -> thinking ... -> done | failed
`state`    what is saved of it; small, because everything that is said lies in the log
`order`    which calls of a turn wait for which, because they write the same file
`view`     which entries of the log the model sees, in which order, and what leaves for a keeper
`prompt`   roles, and the pinned blocks that stand before the conversation
`recovery` what it runs with on a rung of its recovery ladder
`limits`   iterations, tokens, wall time, repeated calls
`process`  reads the roles from disk and hands the behaviour to the generic host

An agent talks to `models` (requests, outcomes), to its session's tool host and team (calls,
results, its report), and hears from the team (tasks, messages, review requests, keepers). It never
imports a provider, never reads a clock, never touches the disk: all modules but `process` are pure.
"""
