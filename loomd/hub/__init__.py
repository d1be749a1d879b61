"""The hub: mail, journal, publications and clients; the only process that writes the state.

`rules`      what is committed, in memory, and the names that all rules speak of (pure)
`mail`       exactly-once mail: a batch of jobs in, rows and consequences out (pure)
`commits`    what an actor's commit may say, and what it changes (pure)
`supervision` sessions whose supervisor gives up, their resumption, a restarted daemon (pure)
`poison`     what ends its reader again and again is set aside, and put back (pure)
`recovery`   failures of actors that have a recovery ladder: climbing it, leaving it (pure)
`requests`   the rules of clients' state-changing requests, journaled by (client, id) (pure)
`reconcile`  what is wanted against what the root has: ensure and stop (pure)
`writer`     the thread that applies all waiting jobs in one durable transaction
`aside`      what takes too long for the loop, in a thread beside it
`process`    the loop: two ROUTERs, the XPUB, actors and their asks; `main(birth)`
`opening`    how a hub begins: the state, a new epoch, the daemon's own actors
`rootline`   orders to the root and its notes; `timers`: which are due, and who was told (pure)
`intake`     frames to messages, garbage to a typed error: the same at both ROUTERs
`peers`      who is connected, and which mails each has on the wire
`children`   the supervisor's calls, and another configuration of services
`roles`      roles of the user and of repos: read anew, and told to their agents
`configured` what models are asked with, put in force while all runs; `toolsets`: tools in force
`gateways`   who they are, and the orders of one that will not perform them
`calls`      of models under way: their phases for `ps`, and what is asked of gateways
`checks`     configured models asked for a word, through the actor `models`
`clients`    their ROUTER and the list of what they may ask: `queries`, `orders`, `requests`
`queries`    what is read from the state; `boards`: its rows as CONTRACT shows them,
             `accounts`: sums of the ledger, kept as rows (pure)
`orders`     what the root, an actor or the hub does for a client
`checkouts`  what is looked up in a repo before a session is opened there
`publish`    what goes to subscribers; `pulse`: what the root sees and hears of the hub

A frame comes in at `process`, becomes a job for `writer`, which applies it by the rules of `mail`
and commits; only then does `process` send what follows from it. Nothing becomes visible before it
is durable. The loop reads the state in short transactions and never writes it.
"""
