"""The tests mirror loomd/ and loomctl/: `tests/supervise/test_policy.py` covers `policy`.

`support`   what tests share: polling, instances, a real daemon, a client that speaks the wire
`conftest`  fixtures: every test fails on what it leaves behind
`system/`   a real daemon and real SIGKILLs
`bench/`    the figures as code; never assertions on time

Only this folder is a package; the others hold plain files with names of their own.
"""
