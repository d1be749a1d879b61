"""The generic half of every actor.

`behaviour`  the protocol: `init`, `step`, `upgrade`, and the values that go in and come out (pure)
`ladder`     what the successor of an actor that fails again and again runs with (pure)
`newer`      settings that have changed since the root has read them
`commit`     the changes of one step -> its commit, and what waits for the acknowledgement (pure)
`pump`       one incarnation: Hello, resend, order, effects, asks, exit statuses; has no loop
`host`       the process: `run`, and the bare poll of actors that only think
`ahead`      what a process has behind it before it knows which actor it will be
`perform`    the asyncio loop of actors with a performer, and what the host lends one
`echo`       actors without a meaning, for the bench and the tests

A behaviour never imports the pump's sockets; the pump never knows a kind of actor. Kinds (agent,
keeper, team, models, gateway, tools) import this package and each other never.
"""
