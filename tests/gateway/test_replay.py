"""Recordings: a request finds its answer again, with the names of today."""

from __future__ import annotations

from dataclasses import replace

import pytest

from loomd.gateway import replay
from loomd.gateway.types import Resolved
from loomd.wire import bodies as b
from loomd.wire.errors import LoomError

FREE = b.Usage(cost_usd=0.25, input_tokens=7, calls=1)


def asked(
    *said: str,
    session: str = "s-aaaaaa",
    agent: str = "coder-1",
    role: str = "coder",
    turn: int = 1,
    repo: str = "/home/x/one",
) -> Resolved:
    return Resolved(
        role=role,
        pinned=(f"You are {agent} of {session}.\nRepo: {repo}",),
        entries=tuple(b.Entry(role="user", text=text) for text in said),
        tools=(),
        model="replay/x",
        agent=f"{session}/{agent}",
        session=session,
        request=f"{session}/{agent}:{turn}",
        repo=repo,
    )


def recording(*pairs: tuple[Resolved, b.Outcome]) -> replay.Recording:
    lines = [replay.head("s-aaaaaa")]
    for resolved, outcome in pairs:
        lines.append(replay.line(replay.place(resolved), "openai/x", outcome, FREE))
    return replay.parse("\n".join(lines))


def answer(made: replay.Recording, resolved: Resolved) -> b.Outcome:
    outcome, usage = made.answer(made.place(resolved), resolved.session)
    assert usage.cost_usd == 0.0
    return outcome


def test_the_same_words_get_the_same_answer_in_another_session() -> None:
    call = b.Call(id="s-aaaaaa/coder-1:1.1", name="send", args={"to": ["s-aaaaaa/lead", "t-3"]})
    made = recording((asked("do t-3"), b.ToolCalls(calls=(call,))))
    outcome = answer(made, asked("do t-3", session="s-bbbbbb"))
    assert isinstance(outcome, b.ToolCalls)
    assert outcome.calls[0].args == {"to": ["s-bbbbbb/lead", "t-3"]}


def test_what_was_numbered_otherwise_is_found_and_answered_with_todays_numbers() -> None:
    made = recording(
        (asked("review e-1 of a.py"), b.FinalAnswer(text="e-1 is good")),
        (asked("review e-2 of b.py", turn=2), b.FinalAnswer(text="e-2 is bad")),
    )
    assert answer(made, asked("review e-2 of a.py", turn=2)) == b.FinalAnswer(text="e-2 is good")
    other = asked("review e-1 of b.py", agent="coder-7")
    assert answer(made, other) == b.FinalAnswer(text="e-1 is bad")


def test_in_another_checkout_the_same_is_asked_and_answered_with_the_paths_of_today() -> None:
    call = b.Call(id="x.1", name="shell", args={"command": "ls /home/x/one/a /home/x/one-b"})
    made = recording((asked("look into /home/x/one"), b.ToolCalls(calls=(call,))))
    outcome = answer(made, asked("look into /srv/two", repo="/srv/two"))
    assert isinstance(outcome, b.ToolCalls) and outcome.note == ""
    assert outcome.calls[0].args == {"command": "ls /srv/two/a /home/x/one-b"}
    assert answer(made, asked("look into /home/x/one", repo="/srv/two")).note != ""


@pytest.mark.parametrize(
    ("repo", "said", "now"),
    [
        ("/app", "cat src/app/x.py ../app/y /app/z", "cat src/app/x.py ../app/y /srv/new-1/z"),
        ("/app", "open /app. /app.py /app-2 /app~", "open /srv/new-1. /app.py /app-2 /app~"),
        ("/app", "--repo=/app '/app' x:/app", "--repo=/srv/new-1 '/srv/new-1' x:/srv/new-1"),
        ("/app", "https://x.org/app/y $HOME/app", "https://x.org/app/y $HOME/app"),
        ("/w/coder-1", "ls /w/coder-1 coder-1", "ls /srv/new-1 coder-7"),  # a path is no name
        ("/", "a / b https://x.org/y", "a / b https://x.org/y"),
    ],
)
def test_only_what_is_the_path_of_the_checkout_is_moved(repo: str, said: str, now: str) -> None:
    made = recording((asked("look", repo=repo), b.FinalAnswer(text=said)))
    found = answer(made, asked("look", agent="coder-7", repo="/srv/new-1"))
    if repo != "/":  # which has its path in its words
        assert found == b.FinalAnswer(text=now)
    assert answer(made, asked("look", repo=repo)) == b.FinalAnswer(text=said)


def test_a_recording_that_names_no_checkout_is_found_by_its_words_in_the_same_one() -> None:
    """As they were written before the checkout was."""
    old = replace(asked("look into /home/x/one"), repo="")
    made = recording((old, b.FinalAnswer(text="done")))
    assert answer(made, asked("look into /home/x/one")) == b.FinalAnswer(text="done")


def test_a_turn_is_answered_though_a_command_printed_something_else() -> None:
    made = recording(
        (asked("do it", "1 passed in 0.3s", turn=2), b.FinalAnswer(text="done s-aaaaaa"))
    )
    again = asked("do it", "1 passed in 0.9s", session="s-bbbbbb", turn=2)
    found = answer(made, again)
    assert found == b.FinalAnswer(text="done s-bbbbbb", note=found.note)
    assert "turn 2 of coder-1" in found.note and "what was said since is not" in found.note
    assert answer(made, asked("do it", "1 passed in 0.3s", turn=2)).note == ""
    other = answer(made, asked("do that", turn=2))
    assert "the task 'do it', and this is 'do that'" in other.note
    line = replay.line(replay.place(again), "replay/x", found, FREE)
    assert found.note not in line, "a recording of a replay tells it anew"


def test_the_lead_is_not_answered_for_another_goal_and_others_only_for_a_known_turn() -> None:
    lead = {"agent": "lead", "role": "lead"}
    made = recording((asked("rename a", **lead), b.FinalAnswer(text="x")))  # type: ignore[arg-type]
    outcome = answer(made, asked("delete b", **lead))  # type: ignore[arg-type]
    assert isinstance(outcome, b.Failed) and outcome.kind == "malformed"
    assert "turn 1 of lead" in outcome.detail and not outcome.retryable
    assert "another goal, 'rename a', and this is 'delete b'" in outcome.detail
    outcome = answer(made, asked("rename a", "and more", turn=9, **lead))  # type: ignore[arg-type]
    assert isinstance(outcome, b.Failed)
    assert "it has 1 of its turns, the last is turn 1" in outcome.detail
    outcome = answer(made, asked("delete b", turn=7, **lead))  # type: ignore[arg-type]
    assert isinstance(outcome, b.Failed) and "another goal" in outcome.detail
    outcome = answer(made, asked("x"))
    assert isinstance(outcome, b.Failed) and "no coder-1 in it, only lead" in outcome.detail


def test_of_the_same_words_the_same_agents_and_turns_come_first() -> None:
    made = recording(
        (asked("go on", turn=1), b.FinalAnswer(text="one")),
        (asked("go on", turn=2), b.FinalAnswer(text="two")),
    )
    assert answer(made, asked("go on", turn=2)) == b.FinalAnswer(text="two")
    assert answer(made, asked("go on", turn=1)) == b.FinalAnswer(text="one")


def test_a_failure_is_played_once() -> None:
    failed = b.Failed(kind="server", detail="oops", retryable=True, retry_after=3.0)
    outcome = answer(recording((asked("x"), failed)), asked("x"))
    assert outcome == replay.msgspec.structs.replace(failed, retryable=False, retry_after=None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "line 1: no recording"),
        ('{"x": 1}', "line 1: no recording"),
        ("[]", "line 1: not an object"),
        ("nonsense", "line 1: not JSON"),
        (replay.head("s-aaaaaa") + "\n\n{}", "line 3: Object missing"),
        (
            replay.head("s-aaaaaa") + '\n{"agent": "\\ud800"}',
            "line 2: it holds half of a character",
        ),
        (replay.head("s-aaaaaa") + "\n" + "[" * 100_000, "line 2: not JSON"),
    ],
)
def test_a_file_that_is_none_names_its_line(text: str, said: str) -> None:
    with pytest.raises(LoomError) as error:
        replay.parse(text)
    assert said in error.value.message


def test_turns_are_counted_by_requests() -> None:
    assert [replay.turn_of(id) for id in ("s-1/lead:12", "s-1/keeper-3:4", "x")] == [12, 4, 1]
    assert replay.place(replace(asked("x"), request="x")).turn == 1
