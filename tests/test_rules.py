"""What rules look like, and what their patterns match."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loomd import rules
from loomd.rules import HOME, MANY, MARK, SOME, STAR, RuleError


@pytest.mark.parametrize(
    ("text", "tool", "pattern"),
    [
        ("shell", "shell", None),
        ("shell(pytest *)", "shell", "pytest *"),
        (" read(**/.env) ", "read", "**/.env"),
        ("mcp_*", "mcp_*", None),
        ("shell(echo '(a)')", "shell", "echo '(a)'"),
    ],
)
def test_a_rule_is_a_tool_or_a_tool_and_a_pattern(text, tool, pattern):
    rule = rules.parse("allow", text)
    assert (rule.tool, rule.pattern, rule.text) == (tool, pattern, text.strip())


@pytest.mark.parametrize(
    "text", ["", "sh ell", "shell(", "shell()", "shell( )", "(x)", "shell('a)", "a\0"]
)
def test_what_is_no_rule_says_what_one_is(text):
    with pytest.raises(RuleError, match=r"such as|between|closed"):
        rules.parse("allow", text)


COMMANDS = [
    # pattern, words, covers, touches
    ("pytest *", ["pytest"], True, True),
    ("pytest *", ["pytest", "-x", "a b"], True, True),
    ("pytest *", ["pytestx"], False, False),
    ("pytest", ["pytest", "-x"], False, False),
    ("pytest *", ["pytest", MANY], True, True),
    ("pytest -x", ["pytest", MANY], False, True),
    ("pytest -x", ["pytest", SOME], False, True),
    ("pytest -x", ["pytest", "-x", MANY], False, True),
    ("pytest -x", ["make", MANY], False, False),
    ("npm run test*", ["npm", "run", "test:unit", "--", "x"], True, True),
    ("npm run test*", ["npm", "run", "build"], False, False),
    ("git * main", ["git", "push", "-u", "origin", "main"], True, True),
    ("git * main", ["git", "main"], True, True),
    ("a?c", ["abc"], True, True),
    ("a?c", ["ac"], False, False),
    ("'a*'", ["a*"], True, True),
    ("'a*'", ["ab"], False, False),
    ("ls [*].py", ["ls", f"{STAR}.py"], True, True),
    ("ls [*].py", ["ls", "a.py"], False, False),
    ("ls a.py", ["ls", f"{STAR}.py"], False, True),
    ("ls *.py", ["ls", f"{STAR}.py"], True, True),
    ("ls a?", ["ls", f"a{MARK}"], False, True),
    ("ls ~/x", ["ls", f"{HOME}/x"], True, True),
    ("rm -rf *", ["rm", f"-{SOME}", "x"], False, True),
    ('a "b c"', ["a", "b c"], True, True),
    ("a b\\ c", ["a", "b c"], True, True),
]  # fmt: skip


def test_patterns_of_commands():
    for pattern, words, covers, touches in COMMANDS:
        assert rules.covers(pattern, words) is covers, (pattern, words)
        assert rules.touches(pattern, words) is touches, (pattern, words)


PATHS = [
    ("**/.env", "/r/.env", True),
    ("**/.env", "/r/a/b/.env", True),
    ("**/.env", "/r/a.env", False),
    ("**/.env", "/other/.env", False),
    ("src/**", "/r/src", True),
    ("src/**", "/r/src/a/b", True),
    ("src/**", "/r/srcx", False),
    ("src/*", "/r/src/a/b", False),
    ("src/*.py", "/r/src/a.py", True),
    ("a/**/b", "/r/a/b", True),
    ("a/**/b", "/r/a/x/y/b", True),
    ("**", "/r", True),
    ("~/.ssh/**", "/h/.ssh/id", True),
    ("~", "/h", True),
    ("/etc/*", "/etc/passwd", True),
    ("/**", "/anything/at/all", True),
    ("\\*", "/r/*", True),
    ("\\*", "/r/x", False),
    ("**/" * 30 + "x", "/r/" + "a/" * 200 + "y", False),
]


def test_patterns_of_paths():
    for pattern, path, matches in PATHS:
        assert rules.path_matches(pattern, path, "/r", "/h") is matches, (pattern, path)


def test_a_wildcard_of_a_shell_takes_no_hidden_file():
    def touches(pattern, path):
        return rules.path_touches(pattern, path, "/r", "/h")

    assert touches("**/.env", f"/r/.e{STAR}") and not touches("**/.env", f"/r/{STAR}")
    assert touches("src/*.py", f"/r/src/{STAR}") and not touches("src/*.py", f"/r/{STAR}")


def test_no_pattern_takes_forever():
    assert not rules.text_matches("*a" * 40 + "b", "a" * 20_000)
    assert not rules.covers("x " + "*a" * 40 + "b", ["x", "a" * 20_000])


TEXT = st.text(max_size=20).filter(lambda text: not rules.RESERVED.search(text))
WORD = st.one_of(
    TEXT,
    st.lists(st.sampled_from([STAR, MARK, "a", "*", "?", "'", '"', "\\", " ", "[", "]", "~", "$"]))
    .map("".join),
)  # fmt: skip


@given(st.lists(WORD, min_size=1), st.lists(WORD, min_size=1))
def test_quoted_words_match_themselves_and_nothing_else(words, others):
    pattern = rules.quoted(words)
    assert rules.covers(pattern, words)
    assert rules.fixed(pattern) == len(words)
    if others != words:
        assert not rules.covers(pattern, others)


@given(TEXT, TEXT)
def test_a_quoted_text_matches_itself_and_nothing_else(text, other):
    assert rules.text_matches(rules.text_quoted(text), text)
    assert text == other or not rules.text_matches(rules.text_quoted(text), other)


@given(st.lists(TEXT.filter(lambda t: t not in ("", ".", "..") and "/" not in t), min_size=1))
def test_a_quoted_path_matches_itself(parts):
    path = "/".join(parts)
    assert rules.path_matches(rules.path_quoted(path), f"/r/{path}", "/r", "/h")
