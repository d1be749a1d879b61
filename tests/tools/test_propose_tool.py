"""propose(changes, reason): several files, one verdict."""

import asyncio

from loomd.wire.bodies import Propose, ToolResult
from tests.tools.stand import git_repo, hosting

FILES = {"a.py": "x = 1\ny = 2\n", "b.py": "b\n", "c.py": "c\n"}


def proposed(instance, *calls):
    """What came of each call, without a review policy."""
    repo = git_repo(instance.base / "repo", FILES)
    settings = {"permissions": {"mode": "on-request"}, "review": {"required": False}}

    async def main():
        async with hosting(instance.places, repo, settings=settings) as host:
            await host.ready()
            return [await host.call("propose", **args) for args in calls]

    found = asyncio.run(main())
    assert {name: (repo / name).read_text() for name in FILES} == FILES, "nothing is written"
    return found


def test_a_proposal_has_all_its_files_its_reason_and_asks_for_review(instance):
    changes = [
        {"path": "a.py", "old": "x = 1", "new": "x = 3"},
        {"path": "new/d.py", "content": "d\n"},
        {"path": "b.py", "content": None},
        {"path": "c.py", "content": "c\n"},
    ]
    (found,) = proposed(instance, {"changes": changes, "reason": "because"})
    assert isinstance(found, Propose), found
    assert found.review and (found.reason, found.tool) == ("because", "propose")
    shape = [(file.path, bool(file.base), bool(file.after)) for file in found.files]
    assert shape == [("a.py", True, True), ("new/d.py", False, True), ("b.py", True, False)]
    assert found.files[0].hunks[0].new == ("x = 3\n",)


def test_what_cannot_be_proposed_is_told_which_change_and_why(instance):
    one = {"path": "a.py", "old": "x = 1", "new": "x = 3"}
    wrong = [
        ([], "r", "bad_args", "empty"),
        ([one], " ", "bad_args", "reason"),
        ([one, {"path": "a.py", "content": "z"}], "r", "bad_args", "change 2: a.py stands"),
        ([{"path": "a.py"}], "r", "bad_args", "this one has a path"),
        ([{"content": "x"}], "r", "bad_args", "change 1: it names no `path`"),
        ([{"path": "a.py", "old": "nowhere", "new": "x"}], "r", "failed", "change 1"),
        ([{"path": "zzz.py", "content": None}], "r", "not_found", "zzz.py does not exist"),
        ([{"path": ".git/config", "content": None}], "r", "denied", ".git"),
        ([{"path": "../a", "content": "x"}], "r", "denied", "outside"),
        ([{"path": "c.py", "content": "c\n"}], "r", "failed", "nothing to propose"),
    ]
    found = proposed(instance, *({"changes": c, "reason": r} for c, r, _, _ in wrong))
    for result, (_, _, error, said) in zip(found, wrong, strict=True):
        assert isinstance(result, ToolResult) and result.error == error, result
        assert said in result.text, result
