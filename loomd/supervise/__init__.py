"""Owns processes, and nothing else. Standard library only; imports nothing else of loomd.

`spec`      what a child is: values, checked one field at a time; the reserved exit statuses
`tree`      its nouns: nodes, events in, actions out, and how a tree is read. Pure
`policy`    what to do: (tree, event, now) -> actions. Pure; OTP's supervisor is its specification
`freeze`    a policy as plain data, and back. Pure
`generations` which code a process is born from. Pure
`process`   one incarnation of a worker, as the root sees it
`root`      the process that does it: one thread, one loop over pidfds, links, signals and timers
`births`    the part of it that starts them: by execution, by an order to a template
`ends`      the part of it that ends, reaps and blames them, and tells of it
`services`  the part of it that runs programs of the user: no link, output captured, readiness seen
`monitor`   a process beside each of those: copies its output to capped files
`readiness` how a monitor sees that a service is ready: a notification, a port, a line
`upgrade`   the course of an upgrade: new code for every process, between two inputs
`handover`  how the root executes its own successor and hands on what it knows
`hubline`   what the hub may ask of the root, and what the root tells it
`notes`     what the hub must hear of even if it is dead: kept until one has booked it. Pure
`template`  a fresh interpreter with the actor code imported once; forks every actor on an order
`link`      the socket between the root and one child, and what a new process is born with
`cgroup`    a cgroup of its own for each incarnation, where the instance may have some
`orphans`   what has come to the root from below its children, and its end
`brood`     ends every process below some others, whatever these do against it
`sweep`     ends, at a start, what a killed predecessor has left behind
`hangs`     who has been busy for too long. Pure
`memory`    whose memory is to be looked at. Pure
`slots`     one shared page of memory: what each child has in hand, and since when
`kernel`    the system calls that Python lacks, and the steps that every child takes
`notify`    tells systemd how the root is; `activation`: the socket that systemd passes
`log`       one line per start, exit, restart and escalation; can never block
`crash`     named instants at which the kill tests end a process

The root calls `policy`, sends orders to a `template`, reads `slots` when a child dies or hangs. A
child sees `link` and `slots` only. Nothing here may open ZeroMQ or LMDB, start a thread, or wait
for anything but the root's one selector. Processes are signalled through pidfds, never by number.
"""
