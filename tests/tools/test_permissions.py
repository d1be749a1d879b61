import pytest

from loomd.tools.permissions import decide


@pytest.mark.parametrize(
    ("mode", "access", "verdict", "with_yes"),
    [
        ("never", "read", "allow", "allow"),
        ("never", "write", "allow", "allow"),
        ("never", "execute", "deny", "allow"),
        ("never", "network", "deny", "allow"),
        ("on-request", "read", "allow", "allow"),
        ("on-request", "write", "allow", "allow"),
        ("on-request", "execute", "ask", "allow"),
        ("on-request", "network", "ask", "allow"),
        ("always", "read", "allow", "allow"),
        ("always", "write", "ask", "allow"),
        ("always", "execute", "ask", "allow"),
        ("always", "network", "ask", "allow"),
    ],
)
def test_the_table(mode, access, verdict, with_yes):
    assert decide(mode, access, tool="t").verdict == verdict
    assert decide(mode, access, yes=True, tool="t").verdict == with_yes


def test_what_was_allowed_for_the_session_is_not_asked_again():
    assert decide("always", "execute", granted=["shell"], tool="shell").verdict == "allow"
    assert decide("always", "execute", granted=["shell"], tool="other").verdict == "ask"


def test_an_unknown_mode_is_the_strictest():
    assert decide("whatever", "write").verdict == "ask"


def test_a_denial_says_why():
    assert "nobody is asked" in decide("never", "execute", tool="shell").reason
