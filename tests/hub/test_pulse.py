"""What the root hears of the hub."""

from __future__ import annotations

from tests.hub.stand import Host, hub
from tests.support import TestInstance


def test_the_root_is_told_how_much_goes_on_when_it_changes(instance: TestInstance) -> None:
    with hub(instance) as root, root.client() as client:
        first = root.wait(lambda note: note["op"] == "status")
        assert first == {"op": "status", "sessions": 0, "actors": 0, "blocked": 0}
        client.request("spawn", spec={"name": "s-t/a", "kind": "echo", "session": "s-t"})
        root.ensured("s-t/a")
        with Host(root, "s-t/a", 1) as a:
            a.hello()
            root.wait(lambda note: note["op"] == "status" and note["actors"] == 1)
        client.request("status")
        assert root.stop() == 0
