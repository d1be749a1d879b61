"""Search over documents: identifiers by their words, rare before common."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from loomd.keeper.index import Index, tokens


def best(index: Index, query: str) -> list[int]:
    return [doc for doc, _ in index.search(query, 10)]


def test_identifiers_are_found_whole_and_by_their_words():
    assert list(tokens("parseConfigFile")) == ["parseconfigfile", "parse", "config", "file"]
    assert list(tokens("parse_cfg(x)")) == ["parse_cfg", "parse", "cfg", "x"]
    assert list(tokens("HTTPServer2 __init__")) == ["httpserver2", "http", "server", "2", "init"]
    assert list(tokens("straße, naïve")) == ["straße", "stra", "ß", "e", "naïve", "na", "ï", "ve"]


def test_the_whole_identifier_ranks_before_its_words():
    index = Index(["parse the cfg here", "call parse_cfg now", "nothing"])
    assert best(index, "parse_cfg") == [1, 0]
    assert best(index, "cfg parse")[0] in (0, 1)
    assert best(index, "parseCfg") != []


def test_a_rare_word_weighs_more_than_a_common_one():
    index = Index(["file " * 5, "file zebra", "file", "file"])
    assert best(index, "file zebra")[0] == 1


def test_nothing_is_found_in_nothing_and_for_nothing():
    assert Index([]).search("x", 5) == []
    assert Index(["", "..."]).search("x", 5) == []
    assert Index(["x"]).search("", 5) == []
    assert Index(["x"]).search("x", 0) == []
    assert Index([]).terms(5) == []


def test_a_long_run_of_letters_is_one_bounded_term():
    index = Index(["f" * 100_000])
    assert best(index, "f" * 100_000) == [0]


def test_the_index_line_names_what_a_stretch_is_about():
    index = Index(["rename parse_cfg in parse_cfg.py", "the parse_cfg tests", "other things"])
    assert index.terms(3)[0] == "parse_cfg"


@settings(deadline=None)
@given(st.lists(st.text(max_size=60), max_size=20), st.text(max_size=20))
def test_every_hit_has_a_term_of_the_query_and_scores_fall(texts, query):
    index = Index(texts)
    hits = index.search(query, 10)
    wanted = set(tokens(query))
    assert all(wanted & set(tokens(texts[doc])) for doc, _ in hits)
    scores = [score for _, score in hits]
    assert scores == sorted(scores, reverse=True) and all(score > 0 for score in scores)
