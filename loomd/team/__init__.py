"""The team: one deterministic actor per session decides what agents could race for.

`state`      what is remembered, what of it is saved, and the invariants (`validate`)
`tasks`      the task board                    `roster`     who is there, names, specs
`claims`     regions of files, who waits       `edits`      proposals and their fate
`review`     who reviews, what a verdict is    `questions`  what a person or an agent is asked
`decisions`  the graph of the project          `calls`      arguments of the team's tools
`votes`      ballots, quorum, close            `plan`       tasks in an order, in versions
`memory`     keepers, and recalls under way

Above these nouns, each a function of one turn and the state:

`turn`       one step: its state, its changes, small helpers that everything else uses
`gate`       proposal -> claims -> review -> one apply at a time -> answer
`undo`       which edits are taken back -> merged by the tool host -> an edit of its own
`board`      the calls spawn, send, share, claim, decide; where all others go
`council`    the calls ask, answer, vote
`planning`   the calls assign, revise_plan
`session`    what a person says, reports, ends, pause and stop, the end of the session
`process`    inputs to handlers; the behaviour and the entry point

agents -> team `TeamCall`, `Report`, `Offload`; tools -> team `Propose`, `Applied`, `Changed`,
`UndoPlan`; team -> agents `Assign`, `Say`, `Inquiry`, `ReviewRequest`, `Control`, `ToolResult`;
team -> tools `Apply`, `PlanUndo`, `CancelCall`. Nothing here reads a clock, a file or the network;
an id that nobody knows is an event `team_ignored`, never an error.
"""
