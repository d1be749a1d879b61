"""What a name means across files: which places are it, which are not, and what cannot be."""

from __future__ import annotations

import pytest

from loomd.gateway.offline.project import Conflict, Project
from loomd.gateway.offline.rename import rename
from loomd.gateway.offline.symbols import describe


def project(files: dict[str, str], old: str = "old", new: str = "new") -> Project:
    return Project({p: describe(p, t, old, new) for p, t in files.items()}, files, old, new)


def renamed(files, qualifier="", kind="", old="old", new="new") -> dict[str, str]:
    """The files that change. Raises Conflict also for objections."""
    made = project(files, old, new)
    plan = made.plan(made.pick(qualifier, kind))
    if said := made.objections(plan):
        raise Conflict("; ".join(said))
    return {p: rename(files[p], old, new, refs).source for p, refs in plan.refs.items()}


# Files with `old`; what is to change is written `new!`.
LINKED = {
    "through packages and aliases": {
        "pkg/__init__.py": "from .core import new!\n__all__ = ['new!']\n",
        "pkg/core.py": "def new!(): ...\n",
        "a.py": "from pkg import new!\nnew!()\n",
        "b.py": "import pkg\npkg.new!, pkg.core.new!, pkg.x.old\n",
        "c.py": "import pkg.core as old_core\nold_core.new!\n",
        "d.py": "from pkg import core\ncore.new!()\n",
        "e.py": "from pkg import new! as other\nother()\n",
        "pkg/f.py": "from . import core, new!\nfrom .core import new! as z\nnew!(core.new!)\n",
        "pkg/sub/g.py": "from ..core import new!\nfrom .. import core as c\nc.new!\n",
    },
    "of two modules with a name of their own only the one": {
        "a.py": "def new!(): ...\nnew!()\n",
        "use.py": "import a, b\na.new!() + b.old()\n",
        "b.py": "old = 1\nprint(old)\n",
    },
    "through star imports": {
        "pkg/__init__.py": "from .core import *\n",
        "pkg/core.py": "def new!(): ...\n",
        "use.py": "from pkg import *\nnew!()\ndef f(old): ...\n",
        "use2.py": "import pkg\npkg.new!()\n",
    },
    "a star import brings what __all__ lists": {
        "core.py": "__all__ = ['new!', '_x']\ndef new!(): ...\n",
        "use.py": "from core import *\nnew!\n",
    },
    "what __all__ leaves out does not come": {
        "core.py": "__all__ = ['x']\ndef new!(): ...\n",
        "use.py": "from core import *\nold\n",
    },
    "imports inside of functions": {
        "core.py": "def new!(): ...\n",
        "use.py": "def f():\n    from core import new!\n    return new!()\nold = 2\n",
    },
    "a source folder and tests beside it": {
        "src/pkg/__init__.py": "",
        "src/pkg/core.py": "class new!: ...\n",
        "tests/test_core.py": "import pkg.core\nfrom pkg.core import new!\nnew!(pkg.core.new!)\n",
    },
    "the nearest of two modules of one name": {
        "one/util.py": "def new!(): ...\n",
        "one/main.py": "from util import new!\n",
        "two/util.py": "x = 1\n",
        "two/main.py": "from util import old\n",
    },
    "a stub beside its source": {
        "m.py": "def new!(): ...\n",
        "m.pyi": "def new!() -> None: ...\n",
    },
    "one that an external module may give too": {
        "m.py": "try:\n    from fast import old as new!\nexcept E:\n    def new!(): ...\n",
        "use.py": "from m import new!\n",
    },
    "external names stay": {
        "m.py": "def new!(): ...\n",
        "x.py": "import json\nfrom ext import old\njson.old, old\n",
    },
    "another's module attribute stays": {
        "m.py": "new! = 1\n",
        "x.py": "import m, other\nm.new! = other.old\nm.x.old = 2\n",
    },
    "a method, where it is the only one": {
        "m.py": "class C:\n    def new!(self): return self.new!\n",
        "n.py": "from m import C\nclass D(C):\n    def f(self): super().new!(); C.new!; f(old=1)\n",
        "u.py": "import m, json\ndef f(x, y: m.C): x.new!, y.new!, m.C().new!, json.old\n",
    },
    "overrides go along": {
        "m.py": "class C:\n    def new!(self): ...\n",
        "n.py": "import m\nclass D(m.C):\n    def new!(self): ...\nclass E(D): x = D.new!\n",
    },
    "a base that uses what its heirs define": {
        "m.py": "class C:\n    def f(self): return self.new!\nclass D(C):\n    new! = 1\n",
    },
    "an attribute set in methods": {
        "m.py": "class C:\n    def __init__(self, old): self.new! = old\nx.new!\n",
    },
    "a field and its keyword": {
        "m.py": "class C:\n    new!: int = 0\n    def f(self, old): return C(new!=self.new!)\n",
        "u.py": "from m import C\nmatch C(new!=1):\n    case C(new!=2): f(old=3)\n",
    },
    "a local where nothing else has the name": {
        "m.py": "def f():\n    new! = 1\n    return [new! for x in y]\n",
        "u.py": "'old'\n",
    },
}  # fmt: skip


@pytest.mark.parametrize("marked", LINKED.values(), ids=LINKED.keys())
def test_what_is_linked_changes_and_nothing_else(marked):
    before = {p: text.replace("new!", "old") for p, text in marked.items()}
    # A name that comes from outside keeps its own name there.
    after = {p: text.replace("new!", "new") for p, text in marked.items()}
    assert {**before, **renamed(before)} == after


QUALIFIED = [
    ("a", {"a.py"}),
    ("a.py", {"a.py"}),
    ("pkg.b", {"pkg/b.py"}),
    ("pkg/b.py", {"pkg/b.py"}),
    ("C", {"c.py"}),
    ("c:C", {"c.py"}),
    ("c.C", {"c.py"}),
    ("a:f", {"a.py"}),
]


@pytest.mark.parametrize(("qualifier", "changed"), QUALIFIED)
def test_a_qualifier_chooses(qualifier, changed):
    files = {
        "a.py": "def old(): ...\ndef f(): old = 1\n",
        "pkg/__init__.py": "",
        "pkg/b.py": "def old(): ...\n",
        "c.py": "class C:\n    def old(self): ...\nclass D:\n    def old(self): ...\nx.old\n",
    }
    assert set(renamed(files, qualifier)) == changed


def test_a_qualified_method_leaves_objects_of_unknown_class():
    files = {"c.py": "class C:\n    old = 1\nclass D:\n    old = 1\nC.old, D.old, x.old\n"}
    assert renamed(files, "C") == {
        "c.py": "class C:\n    new = 1\nclass D:\n    old = 1\nC.new, D.old, x.old\n"
    }


def test_attributes_that_built_in_types_have_stay_unless_the_class_is_known():
    files = {
        "m.py": "class C:\n    def append(self): self.append\ndef f(c: C, x): c.append, x.append\n"
    }
    made = project(files, "append", "add")
    plan = made.plan(made.pick())
    after = rename(files["m.py"], "append", "add", plan.refs["m.py"]).source
    assert after == "class C:\n    def add(self): self.add\ndef f(c: C, x): c.add, x.append\n"
    assert "built-in types" in plan.notes[0]


REFUSED = {
    "no definition": ({"a.py": "old()\n"}, "no definition"),
    "not there at all": ({"a.py": "x\n"}, "not found"),
    "two definitions": ({"a.py": "def old(): ...\n", "b.py": "def old(): ...\n"}, "a:old"),
    "two classes": ({"a.py": "class A:\n    old = 1\nclass B:\n    old = 1\n"}, "a:A.old"),
    "defined outside": ({"a.py": "from json import old\nold()\n"}, "outside of this repo"),
    "a module": ({"pkg/old.py": "", "a.py": "import pkg.old\n"}, "is a module"),
    "taken in the module": ({"a.py": "def old(): ...\ndef new(): ...\n"}, "already bound"),
    "taken where it is imported": (
        {"a.py": "def old(): ...\n", "b.py": "from a import old\nnew = 1\n"},
        "b.py: line 2",
    ),
    "taken by a local": (
        {"a.py": "def old(): ...\n", "b.py": "from a import old\ndef f(new): old()\n"},
        "b.py: line 2",
    ),
    "taken behind a star import": (
        {"a.py": "def old(): ...\n", "b.py": "from a import *\nnew = 1\n"},
        "star import",
    ),
    "taken by a builtin that is used": ({"a.py": "def old(): return new\n"}, "something else"),
    "taken in an heir": (
        {
            "a.py": "class A:\n    old = 1\n",
            "b.py": "from a import A\nclass B(A):\n    new = old = 1\n",
        },
        "already has",
    ),
    "an override of a built-in": (
        {"a.py": "class A(Exception):\n    old = 1\n    x = 1\n"},
        None,
    ),
    "a parameter passed by keyword": ({"a.py": "def f(old): ...\nf(old=1)\n"}, "by keyword"),
    "half of it outside": (
        {
            "a.py": "def old(): ...\n",
            "b.py": "try:\n    import a as m\nexcept E:\n    import ext as m\nm.old\n",
        },
        "cannot be told",
    ),
    "a file that cannot be read": ({"a.py": "def old(:\n"}, "a.py"),
}  # fmt: skip


@pytest.mark.parametrize(("files", "word"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_whole_is_refused(files, word):
    if word is None:
        renamed(files)
        return
    with pytest.raises(Conflict, match=word):
        renamed(files)


def test_an_override_of_a_built_in_method_is_refused():
    with pytest.raises(Conflict, match="overrides"):
        renamed({"a.py": "class A(dict):\n    def keys(self): ...\n"}, old="keys")


def test_mangled_names_are_refused_where_they_would_change_meaning():
    with pytest.raises(Conflict, match="mangled"):
        renamed({"a.py": "class A:\n    def old(self): return self.old\n"}, new="__new")
    assert renamed({"a.py": "class A:\n    __old = 1\n    x = __old\n"}, old="__old", new="__new")


def test_a_kind_chooses_among_things_of_one_name():
    files = {"a.py": "def old(): ...\nclass C:\n    def old(self): ...\n"}
    assert renamed(files)["a.py"].startswith("def new")
    assert renamed(files, kind="function")["a.py"].startswith("def new")
    assert renamed(files, kind="method")["a.py"].endswith("    def new(self): ...\n")
    with pytest.raises(Conflict):
        renamed(files, kind="class")


def test_a_broken_file_that_mentions_it_is_said():
    made = project({"a.py": "def old(): ...\n", "b.py": "old(\n"})
    assert "b.py" in made.plan(made.pick()).notes[0]
