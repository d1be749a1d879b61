"""What crosses a process border, and nothing else.

`messages`   the frames of the two ROUTER sockets and the XPUB: one tagged union per direction
`bodies`     what actors say to each other inside a mail, an ask or an effect: one tagged union
`codec`      bytes <-> messages, with the size limits
`endpoints`  where an instance lives: directories, socket addresses, tokens on disk
`topics`     names of the XPUB topics
`models`     names of models, and those that ship with loomd
`errors`     the errors that cross a border, each with its wire code and its exit code
`sockets`    the only file that imports zmq

`loomctl` imports this package and no other of loomd. Importing `loomd.wire` itself loads nothing:
the root process reads `endpoints` and must never load zmq.
"""
