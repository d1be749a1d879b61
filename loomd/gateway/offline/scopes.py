"""Who binds which name where: Python's scopes, and every place where one name stands. Pure.

`read(source, name, also)` walks a module once and returns `Reading`: its scopes with their bindings
and the raw uses of `name` (and of the names in `also`). `symbols` makes places of them.

The walk goes in the order of evaluation, because in a class body it matters: in
`x = wrap(x)` the right x is the module's, the left one the class's.
"""

from __future__ import annotations

import ast
import tokenize
from collections.abc import Iterable
from dataclasses import dataclass, field

from loomd.gateway.offline.text import (
    FSTRINGS_ARE_TOKENS,
    CannotRead,
    Text,
    Token,
    expression_of,
    normal,
    pieces,
    read_module,
)

COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


@dataclass(frozen=True)
class Bind:
    """kind: def class assign param import from except match del for. `dotted`: what an import
    names (`from .m import N`: `.m.N`). `value`: of a plain assignment; `note`: its annotation."""

    kind: str
    line: int
    dotted: str = ""
    module: str = ""
    plain: bool = False  # an import without `as`
    value: ast.expr | None = None
    note: ast.expr | None = None
    qual: str = ""  # class: its scope's name


@dataclass(eq=False)
class Scope:
    """kind: module function class lambda comprehension types."""

    kind: str
    qual: str
    parent: Scope | None
    bindings: dict[str, list[Bind]] = field(default_factory=dict)
    globals: set[str] = field(default_factory=set)
    nonlocals: set[str] = field(default_factory=set)
    method_of: Scope | None = None  # function: the class in whose body it stands
    bases: list[ast.expr] = field(default_factory=list)
    first: str = ""  # function: its first parameter
    static: bool = False
    decorated: bool = False
    line: int = 0

    @property
    def module(self) -> Scope:
        scope = self
        while scope.parent is not None:
            scope = scope.parent
        return scope

    def chain(self) -> Iterable[Scope]:
        scope: Scope | None = self
        while scope is not None:
            yield scope
            scope = scope.parent

    def inside(self, other: Scope) -> bool:
        return any(scope is other for scope in self.chain())


def resolve(scope: Scope, name: str, unbound_here: bool = False) -> Scope | None:
    """The scope whose `name` a use in `scope` means; None: nobody binds it (a builtin, a star)."""
    start = scope
    for at in scope.chain():
        if at.parent is None:
            return at if name in at.bindings else None
        if at.kind == "class" and at is not start:
            continue
        if name in at.globals:
            return at.module if name in at.module.bindings else None
        if name in at.nonlocals or (at is start and unbound_here):
            continue
        if name in at.bindings:
            return at
    return None


@dataclass(frozen=True)
class Use:
    """One place where the name stands. kind:

    name def param except match for global (the name itself, of `scope`) · from (imported name of
    `module`; `plain` without `as`) · as (a local name given by an import) · module (part of a
    dotted module) · attribute keyword pattern (`base`: the object, callee, class) · all slots.
    """

    name: str
    kind: str
    token: tuple[int, int]
    width: int
    scope: Scope
    unbound_here: bool = False
    store: bool = False
    module: str = ""
    plain: bool = False
    base: ast.expr | None = None


@dataclass
class Reading:
    text: Text
    scope: Scope
    scopes: list[Scope]
    uses: list[Use]
    stars: list[tuple[str, int]]
    exported: list[str] | None  # __all__, as far as it is literal
    problems: list[str]
    debug: list[int]  # lines with {name=}: what is printed changes with the name
    notes: set[tuple[int, int]]  # where strings stand that are annotations
    given: list[tuple[ast.Attribute, ast.expr | None, ast.expr | None, Scope]]
    """What is assigned to attributes: target, value, annotation, where."""


def read(source: str, name: str, also: Iterable[str] = ()) -> Reading:
    """Raises CannotRead."""
    text = read_module(source)
    walk = _Walk(text, {name, *also}, name)
    try:
        walk.run()
    except RecursionError as error:
        raise CannotRead("is nested too deeply to be analysed") from error
    return walk.reading


class _Walk:
    def __init__(self, text: Text, wanted: set[str], name: str) -> None:
        self.text = text
        self.wanted = wanted
        self.name = name
        top = Scope("module", "", None)
        self.reading = Reading(text, top, [top], [], [], None, [], [], set(), [])
        self.quals: dict[str, int] = {}

    def run(self) -> None:
        tree = self.text.tree
        assert isinstance(tree, ast.Module)
        self.block(tree.body, self.reading.scope)

    # -- recording

    def bind(self, scope: Scope, name: str, bind: Bind) -> None:
        name = normal(name)
        if name in scope.globals:
            scope = scope.module
        elif name in scope.nonlocals:
            return
        scope.bindings.setdefault(name, []).append(bind)

    def use(self, kind: str, name: str, token: Token | None, scope: Scope, **more: object) -> None:
        name = normal(name)
        if name not in self.wanted:
            return
        if token is None or normal(token.text) != name:
            raise CannotRead(f"a place of `{name}` in it could not be located")
        self.reading.uses.append(
            Use(name, kind, token.start, len(token.text), scope, **more)  # type: ignore[arg-type]
        )

    def scope(self, kind: str, name: str, parent: Scope, line: int) -> Scope:
        qual = f"{parent.qual}.{name}" if parent.qual else name
        self.quals[qual] = self.quals.get(qual, 0) + 1
        if self.quals[qual] > 1:
            qual = f"{qual}#{self.quals[qual]}"
        made = Scope(kind, qual, parent, line=line)
        self.reading.scopes.append(made)
        return made

    # -- walking

    def block(self, body: Iterable[ast.AST], scope: Scope) -> None:
        for node in body:
            self.visit(node, scope)

    def visit(self, node: ast.AST | None, scope: Scope) -> None:
        if node is None:
            return
        method = getattr(self, f"visit_{type(node).__name__}", None)
        if method is not None:
            method(node, scope)
            return
        for child in ast.iter_child_nodes(node):
            self.visit(child, scope)

    def visit_Name(self, node: ast.Name, scope: Scope) -> None:
        store = not isinstance(node.ctx, ast.Load)
        if store:
            kind = "del" if isinstance(node.ctx, ast.Del) else "assign"
            self.bind(scope, node.id, Bind(kind, node.lineno))
        unbound = scope.kind == "class" and normal(node.id) not in scope.bindings
        token = self.text.name_at(self.text.start(node)) if normal(node.id) in self.wanted else None
        self.use("name", node.id, token, scope, unbound_here=unbound, store=store)

    def visit_Attribute(self, node: ast.Attribute, scope: Scope) -> None:
        self.visit(node.value, scope)
        if normal(node.attr) not in self.wanted:
            return
        token = self.text.name_before(self.text.end(node))
        store = not isinstance(node.ctx, ast.Load)
        self.use("attribute", node.attr, token, scope, base=node.value, store=store)

    def visit_Call(self, node: ast.Call, scope: Scope) -> None:
        self.visit(node.func, scope)
        for arg in node.args:
            self.visit(arg, scope)
        for keyword in node.keywords:
            if keyword.arg is not None and normal(keyword.arg) in self.wanted:
                token = self.text.name_at(self.text.start(keyword))
                self.use("keyword", keyword.arg, token, scope, base=node.func)
            self.visit(keyword.value, scope)
        self._all_call(node, scope)

    def _assign(self, targets: list[ast.expr], value: ast.expr | None, scope: Scope) -> None:
        for target in targets:
            if isinstance(target, ast.Name):
                self.bind(scope, target.id, Bind("assign", target.lineno, value=value))
                self._literal_names(target.id, value, scope)
                token = None
                if normal(target.id) in self.wanted:
                    token = self.text.name_at(self.text.start(target))
                self.use("name", target.id, token, scope, store=True)
            else:
                if isinstance(target, ast.Attribute):
                    self.reading.given.append((target, value, None, scope))
                self.visit(target, scope)

    def visit_Assign(self, node: ast.Assign, scope: Scope) -> None:
        self.visit(node.value, scope)
        self._assign(node.targets, node.value, scope)

    def visit_AnnAssign(self, node: ast.AnnAssign, scope: Scope) -> None:
        self.visit(node.value, scope)
        self._annotation(node.annotation, scope)
        if isinstance(node.target, ast.Name):
            bind = Bind("assign", node.lineno, value=node.value, note=node.annotation)
            self.bind(scope, node.target.id, bind)
            self._literal_names(node.target.id, node.value, scope)
        elif isinstance(node.target, ast.Attribute):
            self.reading.given.append((node.target, node.value, node.annotation, scope))
        self.visit(node.target, scope)

    def visit_AugAssign(self, node: ast.AugAssign, scope: Scope) -> None:
        self.visit(node.value, scope)
        self.visit(node.target, scope)
        if isinstance(node.target, ast.Name):
            self._literal_names(node.target.id, node.value, scope)

    def visit_NamedExpr(self, node: ast.NamedExpr, scope: Scope) -> None:
        self.visit(node.value, scope)
        home = scope
        while home.kind == "comprehension" and home.parent is not None:
            home = home.parent
        self._assign([node.target], node.value, home)

    def visit_For(self, node: ast.For | ast.AsyncFor, scope: Scope) -> None:
        self.visit(node.iter, scope)
        self.visit(node.target, scope)
        self.block([*node.body, *node.orelse], scope)

    visit_AsyncFor = visit_For

    def visit_Import(self, node: ast.Import, scope: Scope) -> None:
        for alias in node.names:
            parts = alias.name.split(".")
            local = alias.asname or parts[0]
            dotted = alias.name if alias.asname else parts[0]
            bind = Bind("import", node.lineno, dotted=dotted, plain=alias.asname is None)
            self.bind(scope, local, bind)
            inside = self.text.names_between(self.text.start(alias), self.text.end(alias))
            for i, part in enumerate(parts):
                if normal(part) in self.wanted:
                    plain = i == 0 and alias.asname is None
                    self.use("module", part, inside[i], scope, plain=plain, module=alias.name)
            if alias.asname:
                self.use("as", alias.asname, inside[-1], scope, store=True)

    def visit_ImportFrom(self, node: ast.ImportFrom, scope: Scope) -> None:
        module = "." * node.level + (node.module or "")
        for part in (node.module or "").split("."):
            if normal(part) in self.wanted:
                inside = self.text.names_between(self.text.start(node), self.text.end(node))
                tokens = [t for t in inside[1:] if normal(t.text) == normal(part)]
                token = tokens[0] if tokens else None
                self.use("module", part, token, scope, module=module)
        for alias in node.names:
            if alias.name == "*":
                self.reading.stars.append((module, node.lineno))
                continue
            join = module if module.endswith(".") else module + "."
            bind = Bind(
                "from",
                node.lineno,
                dotted=join + normal(alias.name),
                module=module,
                plain=alias.asname in (None, alias.name),  # `X as X` gives X on like X
            )
            self.bind(scope, alias.asname or alias.name, bind)
            if normal(alias.name) in self.wanted:
                token = self.text.name_at(self.text.start(alias))
                plain = alias.asname is None
                self.use("from", alias.name, token, scope, module=module, plain=plain)
            if alias.asname and normal(alias.asname) in self.wanted:
                token = self.text.name_before(self.text.end(alias))
                self.use("as", alias.asname, token, scope, store=True)

    def visit_Global(self, node: ast.Global | ast.Nonlocal, scope: Scope) -> None:
        names = {normal(name) for name in node.names}
        (scope.globals if isinstance(node, ast.Global) else scope.nonlocals).update(names)
        for token in self.text.names_between(self.text.start(node), self.text.end(node))[1:]:
            self.use("global", token.text, token, scope)

    visit_Nonlocal = visit_Global

    def visit_ExceptHandler(self, node: ast.ExceptHandler, scope: Scope) -> None:
        self.visit(node.type, scope)
        if node.name:
            self.bind(scope, node.name, Bind("except", node.lineno))
            if normal(node.name) in self.wanted and node.type is not None:
                after = self.text.names_between(self.text.end(node.type), self.text.end(node))
                self.use("name", node.name, after[1], scope, store=True)  # as NAME
        self.block(node.body, scope)

    def visit_MatchAs(self, node: ast.MatchAs | ast.MatchStar, scope: Scope) -> None:
        self.visit(getattr(node, "pattern", None), scope)
        if node.name:
            self.bind(scope, node.name, Bind("match", node.lineno))
            token = self.text.name_before(self.text.end(node))
            if normal(node.name) in self.wanted:
                self.use("name", node.name, token, scope, store=True)

    visit_MatchStar = visit_MatchAs

    def visit_MatchMapping(self, node: ast.MatchMapping, scope: Scope) -> None:
        self.block([*node.keys, *node.patterns], scope)
        if node.rest:
            self.bind(scope, node.rest, Bind("match", node.lineno))
            if normal(node.rest) in self.wanted:
                token = self.text.last_name_before(self.text.end(node))
                self.use("name", node.rest, token, scope, store=True)

    def visit_MatchClass(self, node: ast.MatchClass, scope: Scope) -> None:
        self.visit(node.cls, scope)
        self.block(node.patterns, scope)
        for attr, pattern in zip(node.kwd_attrs, node.kwd_patterns, strict=True):
            if normal(attr) in self.wanted:
                token = self.text.last_name_before(self.text.start(pattern))
                self.use("pattern", attr, token, scope, base=node.cls)
            self.visit(pattern, scope)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef, scope: Scope) -> None:
        self.block(node.decorator_list, scope)
        args = node.args
        self.block([*args.defaults, *(d for d in args.kw_defaults if d is not None)], scope)
        outer = self._types(node, scope)
        self._annotations(args, node.returns, outer)
        self._define(node, scope, Bind("def", node.lineno, note=node.returns))
        made = self.scope("function", node.name, outer, node.lineno)
        if scope.kind == "class":
            made.method_of = scope
            names = [self._plain_name(d) for d in node.decorator_list]
            made.static = "staticmethod" in names
            first = [*args.posonlyargs, *args.args]
            made.first = normal(first[0].arg) if first and not made.static else ""
        self._params(args, made)
        self.block(node.body, made)

    visit_AsyncFunctionDef = visit_FunctionDef

    def _plain_name(self, node: ast.expr) -> str:
        return node.id if isinstance(node, ast.Name) else ""

    def visit_Lambda(self, node: ast.Lambda, scope: Scope) -> None:
        args = node.args
        self.block([*args.defaults, *(d for d in args.kw_defaults if d is not None)], scope)
        made = self.scope("lambda", "<lambda>", scope, node.lineno)
        self._params(args, made)
        self.visit(node.body, made)

    def _params(self, args: ast.arguments, scope: Scope) -> None:
        every = [*args.posonlyargs, *args.args, *args.kwonlyargs, args.vararg, args.kwarg]
        for arg in every:
            if arg is None:
                continue
            self.bind(scope, arg.arg, Bind("param", arg.lineno, note=arg.annotation))
            if normal(arg.arg) in self.wanted:
                token = self.text.name_at(self.text.start(arg))
                self.use("param", arg.arg, token, scope, store=True)

    def _annotations(self, args: ast.arguments, returns: ast.expr | None, scope: Scope) -> None:
        every = [*args.posonlyargs, *args.args, args.vararg, *args.kwonlyargs, args.kwarg]
        for note in [*(a.annotation for a in every if a is not None), returns]:
            self._annotation(note, scope)

    def _annotation(self, note: ast.expr | None, scope: Scope) -> None:
        for node in ast.walk(note) if note is not None else ():
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                self.reading.notes.add(self.text.start(node))
        self.visit(note, scope)

    def _types(self, node: ast.AST, scope: Scope) -> Scope:
        """Type parameters (3.12) live in a scope of their own around the definition."""
        parameters = getattr(node, "type_params", [])
        if not parameters:
            return scope
        made = self.scope("types", "<types>", scope, node.lineno)  # type: ignore[attr-defined]
        for parameter in parameters:
            self.bind(made, parameter.name, Bind("param", parameter.lineno))
            if normal(parameter.name) in self.wanted:
                tokens = self.text.names_between(
                    self.text.start(parameter), self.text.end(parameter)
                )
                self.use("param", parameter.name, tokens[0], made, store=True)
            for part in ("bound", "default_value"):
                self.visit(getattr(parameter, part, None), made)
        return made

    def visit_TypeAlias(self, node: ast.AST, scope: Scope) -> None:
        self.visit(node.name, scope)  # type: ignore[attr-defined]
        self.visit(node.value, self._types(node, scope))  # type: ignore[attr-defined]

    def _define(
        self,
        node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef,
        scope: Scope,
        bind: Bind,
    ) -> None:
        self.bind(scope, node.name, bind)
        if normal(node.name) not in self.wanted:
            return
        start, end = self.text.start(node), self.text.start(node.body[0])
        names = [t for t in self.text.names_between(start, end) if t.text not in _DEFINERS]
        self.use("def", node.name, names[0] if names else None, scope, store=True)

    def visit_ClassDef(self, node: ast.ClassDef, scope: Scope) -> None:
        self.block(node.decorator_list, scope)
        outer = self._types(node, scope)
        for base in node.bases:
            self.visit(base, outer)
        for keyword in node.keywords:
            if keyword.arg is not None and normal(keyword.arg) in self.wanted:
                token = self.text.name_at(self.text.start(keyword))
                self.use("keyword", keyword.arg, token, outer)
            self.visit(keyword.value, outer)
        made = self.scope("class", node.name, outer, node.lineno)
        made.bases = list(node.bases)
        made.decorated = bool(node.decorator_list)
        self.block(node.body, made)
        self._define(node, scope, Bind("class", node.lineno, qual=made.qual))

    def visit_comprehension_expression(self, node: ast.expr, scope: Scope) -> None:
        generators: list[ast.comprehension] = node.generators  # type: ignore[attr-defined]
        made = self.scope("comprehension", "<comprehension>", scope, node.lineno)
        for i, generator in enumerate(generators):
            self.visit(generator.iter, made if i else scope)
            self.visit(generator.target, made)
            self.block(generator.ifs, made)
        for part in ("elt", "key", "value"):
            self.visit(getattr(node, part, None), made)

    visit_ListComp = visit_comprehension_expression
    visit_SetComp = visit_comprehension_expression
    visit_DictComp = visit_comprehension_expression
    visit_GeneratorExp = visit_comprehension_expression

    def visit_JoinedStr(self, node: ast.JoinedStr, scope: Scope) -> None:
        if FSTRINGS_ARE_TOKENS:
            self.block(node.values, scope)
            return
        if not any(word in self.wanted for child in ast.walk(node) for word in _words(child)):
            # No place in it; but a walrus in it may still bind a name.
            for child in ast.walk(node):
                if isinstance(child, ast.NamedExpr):
                    self.bind(scope, child.target.id, Bind("assign", child.lineno))
            return
        outer = self.text
        for piece, debug in pieces(outer, node):
            self.text = piece
            try:
                mark = len(self.reading.uses)
                self.visit(expression_of(piece), scope)
                if debug and any(use.name == self.name for use in self.reading.uses[mark:]):
                    self.reading.debug.append(self.reading.uses[mark].token[0])
            finally:
                self.text = outer

    # -- names in strings that are names: __all__, __slots__, __match_args__

    def _all_call(self, node: ast.Call, scope: Scope) -> None:
        func = node.func
        if (
            scope.parent is None
            and isinstance(func, ast.Attribute)
            and func.attr in ("append", "extend", "remove")
            and isinstance(func.value, ast.Name)
            and func.value.id == "__all__"
        ):
            for arg in node.args:
                self._literal_names("__all__", arg, scope)

    def _literal_names(self, target: str, value: ast.expr | None, scope: Scope) -> None:
        if value is None:
            return
        if target == "__all__" and scope.parent is None:
            kind = "all"
        elif target in ("__slots__", "__match_args__") and scope.kind == "class":
            kind = "slots"
        else:
            return
        for node, name in _elements(value):
            if kind == "all":
                if self.reading.exported is None:
                    self.reading.exported = []
                self.reading.exported.append(name)
            if name in self.wanted:
                self._string_name(kind, node, name, scope)

    def _string_name(self, kind: str, node: ast.Constant, name: str, scope: Scope) -> None:
        start = self.text.start(node)
        token = next((t for t in self.text.tokens if t.start == start), None)
        end = self.text.end(node)
        if token is not None and token.type == tokenize.STRING and token.end == end:
            for prefix in ("", "r", "R", "u", "U"):
                for quote in ("'", '"', "'''", '"""'):
                    if token.text == f"{prefix}{quote}{name}{quote}":
                        at = (start[0], start[1] + len(prefix) + len(quote))
                        use = Use(name, kind, at, len(name), scope)
                        self.reading.uses.append(use)
                        return
        self.reading.problems.append(
            f"line {start[0]}: `{name}` is listed in a string of an unusual form"
        )


_DEFINERS = frozenset({"def", "class", "async"})


def _words(node: ast.AST) -> tuple[str, ...]:
    found = []
    for name in ("id", "attr", "arg"):
        value = getattr(node, name, None)
        if isinstance(value, str):
            found.append(normal(value))
    return tuple(found)


def _elements(value: ast.expr) -> Iterable[tuple[ast.Constant, str]]:
    """The string constants of a literal list, tuple, or sum of them."""
    if isinstance(value, ast.Constant) and isinstance(value.value, str):
        yield value, value.value
    elif isinstance(value, ast.List | ast.Tuple | ast.Set):
        for element in value.elts:
            yield from _elements(element)
    elif isinstance(value, ast.BinOp):
        yield from _elements(value.left)
        yield from _elements(value.right)
    elif isinstance(value, ast.Dict):  # __slots__ may be a dict with docstrings
        for key in value.keys:
            if key is not None:
                yield from _elements(key)
