"""Saved files put in force: a process of its own that watches, and a client of the hub like others.

`plan`      what is watched, what a change means, and when it is old enough to be acted on (pure)
`tree`      the watches of inotify over folders that come, go, move and are links
`process`   the loop: events of the kernel in, `reload` to the hub out

Nothing is read here and nothing is judged: whether a file is any good its readers say. A watch that
dies is started again and asks for one reload of everything, which costs nothing if nothing changed.

Files count when they are whole: at the close of who wrote them, or when they are renamed into
place. That is why this is inotify itself and not one of the libraries that tell of every write.
"""
