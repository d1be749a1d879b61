"""The state of an instance: one LMDB environment, and content-addressed files beside it.

`schema`   the tables, their keys and their owners (pure)
`tables`   the shape of the hub's own rows, and `Transaction`, what the rules see of the state, with
           its in-memory twin (pure)
`days`     the day of an instant (pure)
`journal`  pages of the event log and of other growing tables, over a transaction (pure)
`standing` which applied edits are in effect, and which have been taken back (pure)
`env`      the only file that imports lmdb: `Store`, read-only for everyone, writable for the hub
`blobs`    values over 64 KiB: files named by their SHA-256
`migrate`  an older state on disk becomes today's; a newer one is refused

Exactly one process writes: the hub. Everyone else opens `Store.read_only` after it was forked and
reads in short transactions, copying out. Nothing here decides anything about mail or sessions.
"""
