"""The generic half of every actor.

`behaviour`  the protocol: `init`, `step`, `upgrade`, and the values that go in and come out (pure)
`host`       the process: sockets, loop, commit, resend, restart of the hub, exit statuses
`perform`    the impure half of an actor that touches the world, on the host's asyncio loop

A behaviour never imports the host's sockets; the host never knows a kind of actor. Kinds (agent,
keeper, team, models, gateway, tools) import this package and each other never.
"""
