"""The rule that an answer saves matches the same call again, and nothing that does more."""

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from loomd import rules
from loomd.tools.permissions import Call, Policy, decide
from loomd.tools.protected import Ground

GROUND = Ground(repo="/home/ann/repo", home="/home/ann")
PIECES = st.sampled_from(
    ["pytest", "make", "ls", "rm", "echo", "cd src", "-x", "a b", "'a b'", '"q $X"', "$X", "$(id)",
     "`id`", "*.py", "a?", "[ab]", "~", "~/x", "&&", "||", "|", ";", "\n", "&", "(", ")", "{", "}",
     "> out", "2>&1", "< in", "> /opt/x", ">> $F", "X=1", "PATH=/x", "CI=1", "timeout 5", "env A=b",
     "sudo", "xargs", "sh -c 'make x'", "bash -lc", "nohup", "find . -exec", "{} +", "\\;", "<<E",
     "E", "'it'\\''s'", "\\", '"', "'", "#", "--", "-", "git push", "git -C x", "\t", "é", "$'x'",
     "if", "then", "fi", "for f in", "do", "done", "case", "esac", "!", "time", "./tool", "/bin/ls"]
)  # fmt: skip
LINES = st.lists(PIECES, min_size=1, max_size=8).map(" ".join)
MODES = st.sampled_from(["on-request", "always"])


def saved(texts, source):
    return tuple(rules.parse("allow", text, source) for text in texts)


@settings(max_examples=300)
@given(LINES, MODES)
def test_an_answer_to_a_command_is_an_answer_to_the_same_command(line, mode):
    call = Call("shell", {"command": line})
    found = decide(call, Policy((mode,)), GROUND)
    assume(found.verdict == "ask")
    if not found.suggest:
        assert found.scopes == ("once",)
        return
    assert found.scopes == ("once", "session", "always")
    for source in ("session", "saved"):
        again = decide(call, Policy((mode,), saved(found.suggest, source)), GROUND)
        assert (again.verdict, again.source) == ("allow", source), (found, again)


@settings(max_examples=150)
@given(LINES, PIECES)
def test_an_answer_to_a_command_is_none_to_one_that_does_more(line, more):
    found = decide(Call("shell", {"command": line}), Policy(), GROUND)
    # What stands behind is a comment, or its first character is escaped.
    assume(found.suggest and "#" not in line and not line.endswith("\\"))
    known = Policy(rules=saved(found.suggest, "saved"))
    for other in (f"{line}; evil {more}", f"evil {line}", f"{line}\nevil", f"(evil) | {line}"):
        assert decide(Call("shell", {"command": other}), known, GROUND).verdict != "allow", other


@given(st.text(max_size=200))
def test_any_text_has_a_verdict(text):
    assert decide(Call("shell", {"command": text}), Policy(), GROUND).verdict in ("ask", "deny")


TEXT = st.text(min_size=1, max_size=20)


@given(TEXT, st.sampled_from(["edit", "write", "read"]))
def test_an_answer_to_an_edit_is_an_answer_to_the_same_edit(path, tool):
    call = Call(tool, {"path": path}, "write")
    found = decide(call, Policy(("always",)), GROUND)
    assume(found.suggest)
    again = decide(call, Policy(("always",), saved(found.suggest, "saved")), GROUND)
    assert again.verdict == "allow"


@given(st.one_of(TEXT, st.integers(), st.none()), TEXT)
def test_an_answer_to_any_tool_is_an_answer_to_the_same_call(value, other):
    call = Call("mine", {"what": value}, "execute", "what")
    found = decide(call, Policy(), GROUND)
    assume(found.suggest)
    known = Policy(rules=saved(found.suggest, "saved"))
    assert decide(call, known, GROUND).verdict == "allow"
    if isinstance(value, str) and value != other:
        assert (
            decide(Call("mine", {"what": other}, "execute", "what"), known, GROUND).verdict == "ask"
        )


def test_an_answer_to_a_fetch_is_one_to_its_host():
    call = Call("web_fetch", {"url": "https://docs.x.org/a?b"}, "network")
    found = decide(call, Policy(), GROUND)
    assert found.suggest == ("web_fetch(docs.x.org)",)
    known = Policy(rules=saved(found.suggest, "saved"))
    assert decide(Call("web_fetch", {"url": "https://docs.x.org/c"}, "network"), known, GROUND)
    other = Call("web_fetch", {"url": "https://x.org/"}, "network")
    assert decide(other, known, GROUND).verdict == "ask"
