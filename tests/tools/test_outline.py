"""Symbols and their lines, language by language, and the tool."""

import pytest

from loomd.tools import Context, ToolError
from loomd.tools.builtin.outline import outline
from loomd.tools.symbols import language_of, symbols
from tests.tools.stand import git_repo

SOURCES = {
    "a.py": (
        "import os\n\nLIMIT: int = 3\n\n\n@decorated\nclass A(Base):\n"
        "    def f(self, x: int = 1) -> str:\n"
        "        def inner():\n            pass\n        return ''\n\n"
        "    async def g(self): ...\n\n\n"
        "if True:\n    def late(): pass\n",
        [("variable", "LIMIT", 3, 3, 0), ("class", "A", 6, 13, 0), ("def", "f", 8, 11, 1),
         ("def", "inner", 9, 10, 2), ("def", "g", 13, 13, 1), ("def", "late", 17, 17, 0)],
    ),
    "a.ts": (
        "export default class A extends B {\n  private x = 1;\n"
        "  async f(a: string): Promise<void> {\n"
        "    if (a) {\n      g('}');\n    }\n  }\n}\n\nexport function g(x) {\n  return x;\n}\n"
        "// function no() {}\nexport const h = async (x: number) => {\n  return 1;\n};\n"
        "interface I {\n  a: number;\n}\ntype T = string;\n",
        [("class", "A", 1, 8, 0), ("method", "f", 3, 7, 1), ("function", "g", 10, 12, 0),
         ("function", "h", 14, 16, 0), ("class", "I", 17, 19, 0), ("type", "T", 20, 20, 0)],
    ),
    "a.go": (
        "package a\n\ntype T struct {\n\tx int\n}\n\nfunc (t *T) F(a int) error {\n"
        "\treturn nil\n}\n\n"
        "func G() {\n}\n",
        [("type", "T", 3, 5, 0), ("func", "F", 7, 9, 0), ("func", "G", 11, 12, 0)],
    ),
    "a.rs": (
        "pub struct S {\n    x: u8,\n}\n\nimpl<T> Tr for S {\n    pub async fn f(&self) -> u8 {\n"
        "        '{' as u8\n    }\n}\n\npub(crate) fn g() {}\nconst N: u8 = 1;\n",
        [("type", "S", 1, 3, 0), ("impl", "Tr for S", 5, 9, 0), ("fn", "f", 6, 8, 1),
         ("fn", "g", 11, 11, 0), ("constant", "N", 12, 12, 0)],
    ),
    "a.c": (
        "#include <x.h>\n#define MAX 3\n\nstruct point {\n  int x;\n};\n\nstatic int add(int a,\n"
        "               int b)\n{\n  return add(a, b);\n}\n\nint declared(void);\n",
        [("macro", "MAX", 2, 2, 0), ("class", "point", 4, 6, 0), ("function", "add", 8, 12, 0)],
    ),
    "A.java": (
        "package a;\n\npublic class A {\n    private int x;\n\n    public int get(String a) {\n"
        "        return x;\n    }\n}\n",
        [("class", "A", 3, 9, 0), ("method", "get", 6, 8, 1)],
    ),
    "a.rb": (
        "module M\n  class A\n    def f(x)\n      if x\n        1\n      end\n    end\n  end\n"
        "end\n",
        [("class", "M", 1, 9, 0), ("class", "A", 2, 8, 1), ("def", "f", 3, 7, 2)],
    ),
    "a.sh": ("f() {\n  echo 1\n}\nfunction g {\n  :\n}\n",
             [("function", "f", 1, 3, 0), ("function", "g", 4, 6, 0)]),
    "a.md": ("# One\ntext\n## Two\n```\n# no\n```\n# Three\n",
             [("heading", "One", 1, 6, 0), ("heading", "Two", 3, 6, 1),
              ("heading", "Three", 7, 7, 0)]),
    "a.toml": ("x = 1\n[a]\ny = 2\n\n[[b.c]]\nz = 3\n",
               [("section", "a", 2, 3, 0), ("section", "b.c", 5, 6, 0)]),
    "Makefile": ("all: x\n\techo\n\nX := 1\nx:\n\ttouch x\n",
                 [("target", "all", 1, 4, 0), ("target", "x", 5, 6, 0)]),
}  # fmt: skip


def test_symbols_and_their_lines():
    found = {
        name: [(s.kind, s.name, s.first, s.last, s.depth) for s in symbols(name, text) or ()]
        for name, (text, _) in SOURCES.items()
    }
    assert found == {name: expected for name, (_, expected) in SOURCES.items()}
    assert symbols("a.unknown", "x") is None
    for name, (text, _) in SOURCES.items():  # line ends do not matter
        assert len(symbols(name, text.replace("\n", "\r\n")) or ()) == len(SOURCES[name][1])


def test_languages():
    assert language_of("x/y.TSX") == "javascript" and language_of("run", "#!/bin/sh\n") == "shell"
    assert language_of("run", "#!/usr/bin/env python3\n") == "python" and language_of("x") == ""


@pytest.fixture
def ctx(tmp_path):
    files = {name: text for name, (text, _) in SOURCES.items()}
    return Context(repo=git_repo(tmp_path / "repo", {**files, "bad.py": "def f(:\n", "x": "x\n"}))


def test_the_outline_of_a_file(ctx):
    assert outline("a.py", ctx) == (
        "3-3: LIMIT: int = 3\n6-13: class A(Base)\n  8-11: def f(self, x: int=1) -> str\n"
        "    9-10: def inner()\n  13-13: async def g(self)\n17-17: def late()"
    )
    for path, code, said in (("bad.py", "failed", "line 1"), ("x", "failed", "no language"),
                             ("zz.py", "not_found", "does not exist"),
                             ("../x", "denied", "outside")):  # fmt: skip
        with pytest.raises(ToolError) as caught:
            outline(path, ctx)
        assert caught.value.code == code and said in caught.value.text


def test_the_outline_of_a_folder(ctx):
    said = outline(".", ctx)
    assert "a.go\n  3-5: type T struct\n  7-9: func (t *T) F(a int) error" in said
    assert "bad.py\n  [no valid Python: line 1: " in said and "a.toml" not in said
    (ctx.repo / "only").mkdir()
    with pytest.raises(ToolError, match="no file in only"):
        outline("only", ctx)
