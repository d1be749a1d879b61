"""Every place of one name in one file, and what it means there. Pure.

`describe(path, source, old, new)` makes a file's *record*, plain JSON-able data: it crosses turns
of a conversation and, in part, goes from one agent to another. `project` joins the records of
many files, `rename` changes one file.

A place has *refs*, what the name there denotes, as far as one file can tell:

m            this module's own global        free      bound nowhere here (builtin, star import)
l:SCOPE      a local of that function        cls:CLASS a member of that class of this module
dot:A.B      attribute of what A.B names     obj:A.B   attribute of an object of class A.B
from:MODULE  a name imported from there      kw:REF    keyword argument of a call of that class
all          listed in __all__               path      part of a module's dotted name
attr         attribute of an unknown object  keyword   keyword argument of an unknown callee
"""

from __future__ import annotations

import ast
import builtins
import re
import tokenize
from typing import Any

from loomd.gateway.offline.scopes import Bind, Reading, Scope, Use, read, resolve
from loomd.gateway.offline.text import (
    FSTRINGS_ARE_TOKENS,
    CannotRead,
    is_fstring,
    literal_text,
    split_lines,
)

Record = dict[str, Any]
Value = tuple[str, str]
"""("ns", ref): the thing that the ref names itself; ("inst", ref): an object of that class."""

DEPTH = 8
CODE = 160


EMPTY: Record = {
    "places": [],
    "binds": [],
    "line": 0,
    "stars": [],
    "listed": None,
    "bound_new": False,
    "classes": {},
    "locals": {},
    "collisions": {},
    "strings": [],
    "problems": [],
    "printed": [],
    "mangled": [],
    "foreign": False,
    "code": {},
}
"""What a record has where it has nothing."""


def compact(record: Record) -> Record:
    """A record without what is empty, and without classes that can play no part."""
    named = {ref for place in record.get("places", ()) for ref in place[4]}
    small = {key: value for key, value in record.items() if EMPTY.get(key, ...) != value}
    small["classes"] = {
        qual: entry
        for qual, entry in record.get("classes", {}).items()
        if entry["own"]
        or entry["new"]
        or f"cls:{qual}" in named
        or f"kw:cls:{qual}" in named
        or any(base.startswith(("cls:", "dot:")) for base in entry["bases"])
    }
    return small


def describe(path: str, source: str, old: str, new: str) -> Record:
    """The record of a file. With `error` if it cannot be analysed."""
    lines = [line.rstrip("\r\n") for line in split_lines(source)]
    record: Record = {"path": path, "lines": len(lines), "chars": len(source)}
    record["foreign"] = foreign(source)
    try:
        reading = read(source, old, (new,) if new else ())
        record.update(_Description(reading, old, new).record())
    except CannotRead as error:
        record["error"] = str(error)
        record["mentions"] = [
            [n, line.strip()[:CODE]]
            for n, line in enumerate(lines, 1)
            if re.search(rf"\b{re.escape(old)}\b", line)
        ]
        return record
    wanted = {place[0] for place in record["places"]} | {s[0] for s in record["strings"]}
    record["code"] = {str(n): lines[n - 1].strip()[:CODE] for n in wanted if n <= len(lines)}
    return record


_COOKIE = re.compile(r"\A(?:[^\n]*\n)?[ \t\f]*#.*?coding[:=][ \t]*([-\w.]+)")


def foreign(source: str) -> bool:
    """Is it in another encoding than UTF-8, so that its text as shown is not its text?"""
    cookie = _COOKIE.match(source)
    other = cookie is not None and not cookie.group(1).lower().replace("_", "-").startswith("utf-8")
    return other and "\ufffd" in source


def scope_ref(scope: Scope | None) -> str:
    if scope is None:
        return "free"
    if scope.parent is None:
        return "m"
    return f"cls:{scope.qual}" if scope.kind == "class" else f"l:{scope.qual}"


class _Description:
    def __init__(self, reading: Reading, old: str, new: str) -> None:
        self.reading = reading
        self.old = old
        self.new = new
        self.members: dict[tuple[str, str], list[tuple[ast.expr | None, ast.expr | None, Scope]]]
        self.members = {}
        for target, value, note, scope in reading.given:
            for kind, ref in self.values(target.value, scope):
                if kind in ("self", "ns") and ref.startswith("cls:"):
                    self.members.setdefault((ref, target.attr), []).append((value, note, scope))

    # -- what an expression denotes

    def values(self, node: ast.expr | None, scope: Scope, depth: int = 0) -> set[Value]:
        if node is None or depth > DEPTH:
            return set()
        match node:
            case ast.Name():
                return self._name_values(node.id, scope, depth)
            case ast.Attribute():
                return self._attribute_values(node, scope, depth)
            case ast.Call(func=ast.Name(id="super"), args=[]):
                owner = self._owner(scope)
                return {("inst", f"cls:{owner.qual}")} if owner else set()
            case ast.Call():
                return self._call_values(node, scope, depth)
            case ast.NamedExpr() | ast.Await():
                return self.values(node.value, scope, depth + 1)
            case ast.IfExp():
                body = self.values(node.body, scope, depth + 1)
                return body | self.values(node.orelse, scope, depth + 1)
        return set()

    def _owner(self, scope: Scope) -> Scope | None:
        return next((s.method_of for s in scope.chain() if s.method_of is not None), None)

    def _name_values(self, name: str, scope: Scope, depth: int) -> set[Value]:
        home = resolve(scope, name)
        if home is None:
            return set()
        found: set[Value] = set()
        for bind in home.bindings[name]:
            found |= self._bind_values(bind, name, home, depth)
        return found

    def _bind_values(self, bind: Bind, name: str, home: Scope, depth: int) -> set[Value]:
        if bind.dotted:
            return {("ns", f"dot:{bind.dotted}")}
        if bind.kind == "class":
            return {("ns", f"cls:{bind.qual}")}
        if bind.kind == "param" and home.method_of is not None and name == home.first:
            return {("self", f"cls:{home.method_of.qual}")}
        if bind.kind == "param":
            return self._noted(bind.note, home.parent or home, depth)
        if bind.kind == "assign" and bind.note is not None:
            return self._noted(bind.note, home, depth)
        if bind.kind == "assign" and bind.value is not None:
            return self.values(bind.value, home, depth + 1)
        return set()

    def _noted(self, note: ast.expr | None, scope: Scope, depth: int) -> set[Value]:
        """What an annotation says of an object."""
        match note:
            case ast.BinOp(op=ast.BitOr()):
                left = self._noted(note.left, scope, depth + 1)
                return left | self._noted(note.right, scope, depth + 1)
            case ast.Subscript(value=ast.Name(id="Optional")):
                return self._noted(note.slice, scope, depth + 1)
            case ast.Constant(value=str() as text):
                try:
                    return self._noted(ast.parse(text, mode="eval").body, scope, depth + 1)
                except (SyntaxError, ValueError):
                    return set()
            case ast.Name() | ast.Attribute():
                found = self.values(note, scope, depth + 1)
                return {("inst", ref) for kind, ref in found if kind == "ns"}
        return set()

    def _attribute_values(self, node: ast.Attribute, scope: Scope, depth: int) -> set[Value]:
        found: set[Value] = set()
        for kind, ref in self.values(node.value, scope, depth + 1):
            if kind == "ns" and ref.startswith("dot:"):
                join = "" if ref.endswith(".") else "."
                found.add(("ns", f"{ref}{join}{node.attr}"))
            elif ref.startswith("cls:"):
                nested = f"{ref[4:]}.{node.attr}"
                if kind != "inst" and any(
                    s.kind == "class" and s.qual == nested for s in self.reading.scopes
                ):
                    found.add(("ns", f"cls:{nested}"))
                for value, note, at in self.members.get((ref, node.attr), ()):
                    found |= self._noted(note, at, depth + 1)
                    found |= self.values(value, at, depth + 1) if note is None else set()
        return found

    def _call_values(self, node: ast.Call, scope: Scope, depth: int) -> set[Value]:
        found = {
            ("inst", ref)
            for kind, ref in self.values(node.func, scope, depth + 1)
            if kind in ("ns", "self")
        }
        if isinstance(node.func, ast.Name):
            home = resolve(scope, node.func.id)
            for bind in home.bindings[node.func.id] if home is not None else ():
                if bind.kind == "def" and bind.note is not None and home is not None:
                    found |= self._noted(bind.note, home, depth + 1)
        return found

    # -- places

    def refs(self, use: Use) -> list[str]:
        match use.kind:
            case "from" if not use.plain:
                return [f"from:{use.module}"]
            case "module" if not use.plain:
                return ["path"]
            case "attribute":
                return self._attribute_refs(use.base, use.scope) or ["attr"]
            case "keyword" | "pattern":
                found = self.values(use.base, use.scope)
                return sorted(f"kw:{ref}" for kind, ref in found if kind == "ns") or ["keyword"]
            case "all":
                return ["all"]
            case "slots":
                return [f"cls:{use.scope.qual}"]
        return [scope_ref(resolve(use.scope, use.name, use.unbound_here))]

    def _attribute_refs(self, base: ast.expr | None, scope: Scope) -> list[str]:
        refs = set()
        for kind, ref in self.values(base, scope):
            if ref.startswith("dot:") and kind == "inst":
                refs.add("obj:" + ref[4:])
            else:
                refs.add(ref)
        return sorted(refs)

    def record(self) -> Record:
        reading, old = self.reading, self.old
        uses = sorted((u for u in reading.uses if u.name == old), key=lambda u: u.token)
        places = []
        for use in uses:
            place: list[Any] = [*use.token, use.width, use.kind, self.refs(use)]
            if use.kind == "from":
                place.append(use.module)
            places.append(place)
        binds = reading.scope.bindings.get(old, [])
        record: Record = {
            "places": places,
            "binds": [_kind(bind) for bind in binds],
            "line": binds[0].line if binds else 0,
            "stars": sorted({module for module, _ in reading.stars}),
            "listed": None if reading.exported is None else old in reading.exported,
            "bound_new": bool(self.new) and self.new in reading.scope.bindings,
            "classes": self._classes(),
            "locals": {
                scope_ref(s): sorted({b.kind for b in s.bindings[old]})
                for s in reading.scopes
                if s.parent is not None and s.kind != "class" and old in s.bindings
            },
            "collisions": self._collisions() if self.new else {},
            "strings": self._strings(),
            "problems": reading.problems,
            "printed": reading.debug,
            "mangled": sorted({u.token[0] for u in uses if self._in_class(u)})
            if self.old.startswith("__") or self.new.startswith("__")
            else [],
        }
        return record

    def _in_class(self, use: Use) -> bool:
        return any(scope.kind == "class" for scope in use.scope.chain())

    def _classes(self) -> Record:
        """Classes with their bases, and how each defines the name."""
        classes: Record = {}
        for scope in self.reading.scopes:
            if scope.kind != "class":
                continue
            bases = []
            for base in scope.bases:
                base = base.value if isinstance(base, ast.Subscript) else base
                found = self.values(base, scope.parent or scope)
                refs = [ref for kind, ref in found if kind == "ns"]
                if not refs and isinstance(base, ast.Name) and hasattr(builtins, base.id):
                    refs = [f"builtin:{base.id}"]
                bases += refs or ["?"]
            classes[scope.qual] = {
                "bases": bases,
                "line": scope.line,
                "own": sorted({_kind(b) for b in scope.bindings.get(self.old, ())}),
                "new": self.new in scope.bindings if self.new else False,
                "fields": any(b.note is not None for b in scope.bindings.get(self.old, ())),
            }
        for use in self.reading.uses:
            if use.kind == "attribute" and use.store:
                for ref in self._attribute_refs(use.base, use.scope):
                    entry = classes.get(ref[4:]) if ref.startswith("cls:") else None
                    if entry is not None and use.name == self.old and not entry["own"]:
                        entry["own"] = ["self"]
                        entry["at"] = use.token[0]
                    if entry is not None and use.name == self.new:
                        entry["new"] = True
        return classes

    # -- what the new name would run into

    def _collisions(self) -> dict[str, list[str]]:
        reading, old = self.reading, self.old
        found: dict[str, list[str]] = {}
        homes = [s for s in reading.scopes if old in s.bindings]
        if reading.scope not in homes:
            homes.append(reading.scope)  # a star import would bind it there
        for home in homes:
            said = self._collisions_in(home)
            if said:
                found[scope_ref(home)] = sorted(set(said))
        return found

    def _collisions_in(self, home: Scope) -> list[str]:
        new, said = self.new, []
        where = "the module" if home.parent is None else f"`{home.qual}`"
        for bind in home.bindings.get(new, ())[:1]:
            said.append(f"line {bind.line}: `{new}` is already bound in {where}")
        for use in self.reading.uses:
            if use.kind not in ("name", "global"):
                continue
            meant = resolve(use.scope, use.name, use.unbound_here)
            if use.name == new and new not in home.bindings:
                direct = home.kind != "class" or use.scope is home
                outside = meant is None or (meant is not home and home.inside(meant))
                if direct and outside and use.scope.inside(home):
                    said.append(
                        f"line {use.token[0]}: `{new}` means something else here, "
                        f"and would mean what is now `{self.old}`"
                    )
            elif use.name == self.old and (meant is home or (meant is None and not home.parent)):
                for scope in use.scope.chain():
                    if scope is home:
                        break
                    seen = scope.kind != "class" or scope is use.scope
                    if seen and new in scope.bindings:
                        said.append(
                            f"line {use.token[0]}: in `{scope.qual}` the name `{new}` is taken "
                            f"by a local"
                        )
        return said

    # -- what is not code

    def _strings(self) -> list[list[Any]]:
        """[line, kind, text] where the word stands in one: string comment docstring annotation."""
        word = re.compile(rf"\b{re.escape(self.old)}\b")
        named = {u.token for u in self.reading.uses if u.kind in ("all", "slots")}
        docs = _docstrings(self.reading)
        found: list[list[Any]] = []
        kinds = {tokenize.COMMENT: "comment", tokenize.STRING: "string"}
        if FSTRINGS_ARE_TOKENS:
            kinds[tokenize.FSTRING_MIDDLE] = "string"  # type: ignore[attr-defined]
        for token in self.reading.text.tokens:
            kind = kinds.get(token.type)
            if kind is None:
                continue
            text = literal_text(token) if is_fstring(token) else token.text
            if token.start in docs:
                kind = "docstring"
            elif token.start in self.reading.notes:
                kind = "annotation"
            for n, line in enumerate(text.split("\n")):
                if not word.search(line):
                    continue
                at = token.start[0] + n
                if any(line_ == at and token.start <= (line_, col) <= token.end
                       for line_, col in named):  # fmt: skip
                    continue
                found.append([at, kind, line.strip()[:CODE]])
        return found


def _kind(bind: Bind) -> str:
    """How a name is bound: def class assign ... | from:MODULE (under its own name) | as (under
    another) | module."""
    if bind.kind == "from":
        return f"from:{bind.module}" if bind.plain else "as"
    if bind.kind == "import":
        return "module" if bind.plain else "as"
    return bind.kind


def _docstrings(reading: Reading) -> set[tuple[int, int]]:
    found = set()
    for node in ast.walk(reading.text.tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                found.add(reading.text.start(first.value))
    return found
