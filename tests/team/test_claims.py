"""Claims: regions, who overlaps, who waits, how lines move."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loomd.team import claims as cl
from loomd.team.claims import BadRegion, Claim, Claims
from loomd.wire.bodies import FileChange, Hunk

count = iter(range(1, 1 << 30))


def claim(agent: str, path: str = "a.py", region: str = "") -> Claim:
    lines, symbol = cl.parse_region(region)
    return Claim(
        id=f"c-{next(count)}",
        path=path,
        region=region,
        agent=agent,
        lines=lines,
        symbol=symbol,
        call="x",
    )


def nobody(agent: str, other: str) -> bool:
    return False


@pytest.mark.parametrize(
    ("text", "lines", "symbol"),
    [
        ("", [], ""),
        ("*", [], ""),
        ("12-40", [12, 40], ""),
        ("7", [7, 7], ""),
        (" 3 - 5 ", [3, 5], ""),
        ("parse_cfg", [], "parse_cfg"),
        ("Config.load", [], "Config.load"),
    ],
)
def test_a_region_is_a_file_lines_or_a_symbol(text: str, lines: list[int], symbol: str) -> None:
    assert cl.parse_region(text) == (lines, symbol)


@pytest.mark.parametrize("text", ["0-3", "9-3", "a b", "f()", "1-", "x" * 300, "a..b"])
def test_a_region_that_cannot_be_meant_is_refused(text: str) -> None:
    with pytest.raises(BadRegion):
        cl.parse_region(text)


def test_a_path_has_one_spelling_and_stays_in_the_checkout() -> None:
    assert cl.clean_path("./a//b/../c.py") == "a/c.py"
    assert cl.clean_path("/repo/x.py", "/repo") == "x.py"
    for bad in ("../x", "a/../../x", "/etc/passwd", "/repository/x", "", "a\0b"):
        with pytest.raises(BadRegion):
            cl.clean_path(bad, "/repo")


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        ("", "5-9", True),
        ("1-4", "5-9", False),
        ("1-5", "5-9", True),
        ("f", "g", False),
        ("f", "f", True),
        ("C", "C.m", True),
        ("C.m", "C.n", False),
        ("C", "Cm", False),
        ("f", "5-9", True),
    ],
)
def test_what_could_be_one_place_overlaps(one: str, other: str, both: bool) -> None:
    a, b = claim("x", region=one), claim("y", region=other)
    assert cl.overlap(a, b) == cl.overlap(b, a) == both
    assert not cl.overlap(claim("x", "a.py"), claim("y", "b.py"))
    assert cl.overlap(claim("x", "pkg"), claim("y", "pkg/b.py"))
    assert not cl.overlap(claim("x", "pkg"), claim("y", "pkgs/b.py"))


def test_a_claim_waits_for_every_overlapping_one_before_it() -> None:
    claims = Claims()
    first, whole, last = claim("a", region="1-5"), claim("b"), claim("c", region="20-30")
    assert claims.request(first, nobody).state == "held"
    assert claims.request(whole, nobody) == cl.Asked("queued", first)
    assert claims.request(last, nobody) == cl.Asked("queued", whole), "nobody is overtaken"
    claims.release("a")
    assert claims.grant(nobody) == [whole]
    claims.release("b")
    assert claims.grant(nobody) == [last] and last.state == "held"


def test_waiting_in_a_circle_is_refused_and_names_the_holder() -> None:
    claims = Claims()
    mine, yours = claim("a", "a.py"), claim("b", "b.py")
    claims.request(mine, nobody)
    claims.request(yours, nobody)
    assert claims.request(claim("a", "b.py"), nobody).state == "queued"
    assert claims.request(claim("b", "a.py"), nobody) == cl.Asked("conflict", mine)


def test_waiting_for_one_who_waits_for_my_report_is_a_circle_too() -> None:
    claims = Claims()
    held = claim("lead")
    claims.request(held, nobody)
    asked = claims.request(claim("coder"), nobody, {"lead": ["coder"]})
    assert asked == cl.Asked("conflict", held)


def test_who_was_spawned_works_inside_the_claims_of_who_waits_for_it() -> None:
    claims = Claims()
    claims.request(claim("lead"), nobody)
    child = lambda a, b: (a, b) == ("coder", "lead")  # noqa: E731
    assert claims.request(claim("coder"), child).state == "held"
    assert claims.request(claim("other"), child).state == "queued"


def test_an_own_overlapping_claim_is_granted() -> None:
    claims = Claims()
    assert claims.request(claim("a"), nobody).state == "held"
    assert claims.request(claim("a", region="3-4"), nobody).state == "held"
    assert len(claims.release("a")) == 2 and not claims.items


# --- edits and claims --------------------------------------------------------------------------


def edit(*hunks: Hunk, path: str = "a.py") -> FileChange:
    return FileChange(path=path, base="b", after="a", hunks=hunks)


def guard(claims: Claims, author: str, change: FileChange) -> Claim | None:
    return claims.guarding(author, change, cl.spans_of(change), nobody)


def test_an_edit_inside_anothers_lines_is_seen_and_one_beside_them_is_not() -> None:
    claims = Claims()
    held = claim("a", region="10-20")
    claims.request(held, nobody)
    assert guard(claims, "b", edit(Hunk(start=20, old=("x",), new=()))) is held
    assert guard(claims, "b", edit(Hunk(start=8, old=("x", "y", "z"), new=()))) is held
    assert guard(claims, "b", edit(Hunk(start=15, old=(), new=("x",)))) is held
    assert guard(claims, "b", edit(Hunk(start=10, old=(), new=("x",)))) is None
    assert guard(claims, "b", edit(Hunk(start=21, old=("x",), new=()))) is None
    assert guard(claims, "b", edit(Hunk(start=15, old=("x",), new=()), path="b.py")) is None
    assert guard(claims, "a", edit(Hunk(start=15, old=("x",), new=()))) is None
    gone = FileChange(path="a.py", base="b", after="")
    assert guard(claims, "b", gone) is held, "a file that goes takes its lines with it"


def test_a_symbols_place_is_unknown_so_only_a_claim_of_ones_own_opens_the_file() -> None:
    claims = Claims()
    held = claim("a", region="parse")
    claims.request(held, nobody)
    inside = edit(Hunk(start=3, old=("    x = 1",), new=("    x = 2",)))
    assert guard(claims, "b", inside) is held
    claims.request(claim("b", region="dump"), nobody)
    assert guard(claims, "b", inside) is None
    defining = edit(Hunk(start=3, old=("def parse(text):",), new=("def parse(text, x):",)))
    assert guard(claims, "b", defining) is held


@pytest.mark.parametrize(
    ("spans", "own", "there"),
    [
        ([(1, 0, 3)], False, [13, 23]),  # three lines come above
        ([(1, 5, 0)], False, [5, 15]),  # five go
        ([(12, 2, 5)], False, [10, 23]),  # inside it grows
        ([(21, 1, 9)], False, [10, 20]),  # below nothing moves
        ([(21, 0, 9)], False, [10, 20]),  # also right below
        ([(10, 0, 2)], False, [12, 22]),  # right above: not its own
        ([(10, 0, 2)], True, [10, 22]),  # ... but of the holder
        ([(8, 4, 1)], False, [8, 17]),  # what reaches in belongs to it whole
        ([(19, 4, 1)], False, [10, 19]),
        ([(5, 30, 2)], False, [5, 6]),
        ([(10, 11, 0)], False, [10, 10]),  # all gone: a place stays
        ([(1, 1, 3), (12, 1, 1), (15, 2, 0), (30, 1, 5)], False, [12, 20]),
    ],
)
def test_claimed_lines_move_with_an_edit(spans: list[cl.Span], own: bool, there: list[int]) -> None:
    assert cl.shift([10, 20], spans, own) == there


@st.composite
def edits(draw: st.DrawFn) -> tuple[int, list[cl.Span]]:
    """A file's length, and hunks in it that do not touch each other."""
    length = draw(st.integers(1, 40))
    spans, at = [], 1
    while at <= length and draw(st.booleans()):
        start = draw(st.integers(at, length))
        old = draw(st.integers(0, length - start + 1))
        spans.append((start, old, draw(st.integers(0 if old else 1, 5))))
        at = start + old + 1
    return length, spans


@given(edits(), st.data())
def test_untouched_lines_keep_their_text_under_their_claim(
    made: tuple[int, list[cl.Span]], data: st.DataObject
) -> None:
    length, spans = made
    first = data.draw(st.integers(1, length))
    last = data.draw(st.integers(first, length))
    before = [f"line {n}" for n in range(1, length + 1)]
    after = list(before)
    for start, old, new in reversed(spans):
        after[start - 1 : start - 1 + old] = [f"new {start}.{n}" for n in range(new)]
    low, high = cl.shift([first, last], spans)
    kept = [line for line in before[first - 1 : last] if line in after]
    assert all(line in after[low - 1 : high] for line in kept)
    if not any(cl.touches([first, last], span) for span in spans):
        assert after[low - 1 : high] == before[first - 1 : last]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 9), st.integers(0, 5)), max_size=40))
def test_no_order_of_claims_and_ends_makes_two_hold_one_place_or_all_wait(
    asked: list[tuple[int, int, int]],
) -> None:
    claims = Claims()
    for who, first, more in asked:
        if more == 5:
            claims.release(f"agent-{who}")
            claims.grant(nobody)
        else:
            claims.request(claim(f"agent-{who}", region=f"{first}-{first + more}"), nobody)
        held = [one for one in claims.items.values() if one.state == "held"]
        for one in held:
            assert not any(cl.overlap(one, other) for other in held if other.agent != one.agent)
        edges = claims.waits(nobody)
        assert not any(cl.waits_for_itself(edges, name) for name in edges)
    for who in range(4):
        claims.release(f"agent-{who}")
        claims.grant(nobody)
    assert not claims.items


def test_a_row_is_the_claim() -> None:
    one = claim("a", region="3-4")
    assert cl.from_row(cl.row(one)) == one
