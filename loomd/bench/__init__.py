"""The figures of this machine: `python -m loomd.bench [NAME..] [--agents N] [--json]`.

`instance`  a daemon of its own in temporary folders, and a small client
`bound`     that daemon ends with the bench, however the bench ends
`figures`   one function per figure: drives echo actors, yields samples
`calls`     calls of tools: what one costs, confined in each way
`turns`     those of whole turns of an agent, on a daemon of their own with ...
`model`     ... a model that says what the bench wants
`thoughts`  calls of models, on daemons of their own with ...
`provider`  ... a provider in a process of its own
`endurance` those that take minutes, and run only when named: crashes, growth, an idle root
`search`    the tool `grep` beside ripgrep, on a tree of 10,000 files
`floors`    what the bare mechanism costs here, measured in the same run
`report`    samples -> {name, unit, n, p50, p95, p99, max, goal, missed, floor, note}

A figure that misses its goal is reported as missed. Nothing here is an assertion.
"""
