"""A root with the tree that the test gives: `python rooted.py CONFIG.json`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from loomd.supervise.cgroup import Cgroups
from loomd.supervise.root import Config, Root
from loomd.supervise.spec import parse_supervisor
from loomd.supervise.sweep import note_cgroup


def main(path: str) -> int:
    with open(path) as file:
        given = json.load(file)
    keys_fd = -1
    if "keys" in given:
        keys_fd = os.memfd_create("keys")
        os.write(keys_fd, json.dumps(given.pop("keys")).encode())
    if given.pop("cgroups", False):
        made = given["cgroups"] = Cgroups.create()
        note_cgroup(Path(path).parent, made.base)
    tree = parse_supervisor(given.pop("tree"))
    return Root(Config(tree=tree, keys_fd=keys_fd, **given)).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
