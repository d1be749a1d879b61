"""Many files' records joined: what a name means across a repo, and what a rename must change. Pure.

A *candidate* is one thing of that name: a module's global (with all modules that import it under
this name), a member of a family of classes, or a function's local. `Project.pick` chooses one,
`Project.refs` tells for each file which refs denote it, `Project.objections` why it cannot have
the new name. A change that could not be made whole is refused, not made by halves.
"""

from __future__ import annotations

import builtins
import io
import keyword
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from loomd.gateway.offline.modules import Modules, stem
from loomd.gateway.offline.rename import chosen, collisions
from loomd.gateway.offline.symbols import EMPTY, Record

COMMON = frozenset(
    name
    for kind in (
        *(value for value in vars(builtins).values() if isinstance(value, type)),
        io.TextIOWrapper,
        io.BytesIO,
    )
    for name in dir(kind)
)
"""Attributes that objects of built-in types have: `.append` may be anybody's."""

ClassId = tuple[str, str]  # path, qualified name


class Conflict(Exception):
    """kind: conflict (it cannot be done as asked) | not_found."""

    def __init__(self, text: str, kind: str = "conflict") -> None:
        super().__init__(text)
        self.text = text
        self.kind = kind


@dataclass(frozen=True)
class Candidate:
    """kind: module member local. `label`: how to ask for it. `where`: path:line of definitions."""

    kind: str
    label: str
    where: tuple[str, ...]
    paths: frozenset[str] = frozenset()
    classes: frozenset[ClassId] = frozenset()
    local: tuple[str, str] = ("", "")
    binds: frozenset[str] = frozenset()


@dataclass
class Plan:
    """`refs`: per path what denotes the candidate there."""

    candidate: Candidate
    refs: dict[str, set[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)


class Project:
    def __init__(
        self, records: Mapping[str, Record], paths: Iterable[str], old: str, new: str = ""
    ) -> None:
        self.records = {p: {**EMPTY, **r} for p, r in records.items() if "error" not in r}
        self.broken = {p: r for p, r in records.items() if "error" in r}
        self.modules = Modules([*paths, *records])
        self.old = old
        self.new = new
        self._exports: dict[str, bool] = {}

    # -- modules' globals

    def exports(self, path: str, trail: tuple[str, ...] = ()) -> bool:
        """Has this module a global of that name, of its own or through a star import?"""
        if path in trail or path not in self.records:
            return False
        record = self.records[path]
        if record["binds"]:
            return True
        return any(self._starred(path, module, trail) for module in record["stars"])

    def _starred(self, path: str, module: str, trail: tuple[str, ...] = ()) -> str | None:
        """The file from which `from module import *` in `path` brings the name."""
        there = self.modules.resolve(module, path)
        if there is None or not self.exports(there, (*trail, path)):
            return None
        listed = self.records[there]["listed"]
        public = not self.old.startswith("_") if listed is None else listed
        return there if public else None

    def groups(self) -> list[set[str]]:
        """Modules linked by imports of this name under this name."""
        parent: dict[str, str] = {p: p for p in sorted(self.records) if self.exports(p)}

        def root(path: str) -> str:
            while parent[path] != path:
                path = parent[path]
            return path

        for path in list(parent):
            record = self.records[path]
            linked = [
                self.modules.resolve(kind[5:], path)
                for kind in record["binds"]
                if kind.startswith("from:")
            ]
            linked += [self._starred(path, module) for module in record["stars"]]
            linked += self.modules.twins(path)
            for other in linked:
                if other in parent:
                    parent[root(path)] = root(other)
        found: dict[str, set[str]] = {}
        for path in parent:
            found.setdefault(root(path), set()).add(path)
        return list(found.values())

    def _own(self, paths: Iterable[str]) -> set[str]:
        kinds = {kind for path in paths for kind in self.records[path]["binds"]}
        return {kind for kind in kinds if not kind.startswith("from:")}

    def _group_candidate(self, paths: set[str]) -> Candidate:
        homes = [p for p in sorted(paths) if self._own([p])]
        homes.sort(key=lambda p: not self._own([p]) & {"def", "class"})
        home = (homes or sorted(paths))[0]
        return Candidate(
            "module",
            f"{self.modules.name(home)}:{self.old}",
            tuple(f"{p}:{self.records[p]['line']}" for p in homes),
            paths=frozenset(paths),
            binds=frozenset(self._own(paths)),
        )

    # -- members of classes

    def class_of(self, ref: str, path: str) -> ClassId | None:
        """The class that `cls:Q`, `dot:D` or `obj:D` in `path` names, if it has been read."""
        tag, _, rest = ref.partition(":")
        if tag == "cls":
            return (path, rest) if rest in self._classes(path) else None
        if tag not in ("dot", "obj"):
            return None
        parts = rest.split(".")
        for i in range(len(parts) - 1, 0, -1):
            module = ".".join(parts[:i]) or "."
            if not module.strip("."):
                module += "."  # `.m` split at the dot: the package itself
            there = self.modules.resolve(module, path)
            if there is None:
                continue
            qual = ".".join(parts[i:])
            if qual in self._classes(there):
                return there, qual
            # Given on by a package: the only class of that name will be it.
            named = [(p, q) for p in self.records for q in self._classes(p) if q == qual]
            return named[0] if len(named) == 1 else None
        return None

    def _classes(self, path: str) -> Record:
        record = self.records.get(path)
        found: Record = record["classes"] if record is not None else {}
        return found

    def ancestors(self, of: ClassId) -> tuple[set[ClassId], set[str]]:
        """(those read, the others by name)."""
        found: set[ClassId] = set()
        strange: set[str] = set()
        waiting = [of]
        while waiting:
            path, qual = waiting.pop()
            for base in self._classes(path)[qual]["bases"]:
                known = self.class_of(base, path)
                if known is None:
                    strange.add(base)
                elif known not in found and known != of:
                    found.add(known)
                    waiting.append(known)
        return found, strange

    def families(self) -> list[set[ClassId]]:
        """Classes that define the name, joined where one inherits from another."""
        owners = [
            (p, q) for p in sorted(self.records) for q, c in self._classes(p).items() if c["own"]
        ]
        families: list[set[ClassId]] = []
        for owner in owners:
            kin = {owner} | (self.ancestors(owner)[0] & set(owners))
            joined = [family for family in families if family & kin]
            for family in joined:
                kin |= family
                families.remove(family)
            families.append(kin)
        return families

    def _family_candidate(self, family: set[ClassId]) -> Candidate:
        roots = [c for c in sorted(family) if not self.ancestors(c)[0] & family] or sorted(family)
        path, qual = roots[0]
        binds = {kind for p, q in family for kind in self._classes(p)[q]["own"]}
        return Candidate(
            "member",
            f"{self.modules.name(path)}:{qual}.{self.old}",
            tuple(f"{p}:{self._member_line(p, q)}" for p, q in sorted(family)),
            classes=frozenset(family),
            binds=frozenset(binds),
        )

    def _member_line(self, path: str, qual: str) -> int:
        for place in self.records[path]["places"]:
            if place[3] in ("def", "name") and place[4] == [f"cls:{qual}"]:
                return int(place[0])
        found = self._classes(path)[qual]
        return int(found.get("at", found["line"]))

    # -- which one is meant

    def candidates(self) -> list[Candidate]:
        found = [self._group_candidate(g) for g in self.groups() if self._own(g)]
        found = [c for c in found if c.binds != {"module"}]
        found += [self._family_candidate(f) for f in self.families()]
        for path, record in sorted(self.records.items()):
            for ref, kinds in sorted(record["locals"].items()):
                if self._only_imported(path, ref):
                    continue
                found.append(
                    Candidate(
                        "local",
                        f"{self.modules.name(path)}:{ref[2:]}.{self.old}",
                        (f"{path}:{self._first_line(path, ref)}",),
                        local=(path, ref),
                        binds=frozenset(kinds),
                    )
                )
        return found

    def _first_line(self, path: str, ref: str) -> int:
        places = self.records[path]["places"]
        return min((int(p[0]) for p in places if ref in p[4]), default=1)

    def _only_imported(self, path: str, ref: str) -> bool:
        kinds = self.records[path]["locals"][ref]
        return all(kind in ("from", "import") for kind in kinds)

    def pick(self, qualifier: str = "", kind: str = "") -> Candidate:
        """Raises Conflict: none, or more than one."""
        every = self.candidates()
        if qualifier:
            fitting = self._qualified(every, qualifier)
            if not fitting:
                raise Conflict(
                    f"no `{self.old}` is defined in `{qualifier}`{self._known(every)}", "not_found"
                )
        else:
            fitting = self._ranked(every, kind)
        if not fitting:
            raise self._absent()
        if len(fitting) > 1:
            known = "; ".join(f"`{c.label}` ({', '.join(c.where[:3])})" for c in fitting[:8])
            known += f" and {len(fitting) - 8} more" if len(fitting) > 8 else ""
            raise Conflict(
                f"`{self.old}` is defined more than once: {known}. Say which one is meant, as "
                f"`rename {fitting[0].label} to {self.new or 'NEW'}`"
            )
        if fitting[0].kind == "module" and "module" in fitting[0].binds:
            raise Conflict(f"`{self.old}` is also the name of an imported module: not done by this")
        return fitting[0]

    def _known(self, every: list[Candidate]) -> str:
        return f"; known: {', '.join(f'`{c.label}`' for c in every[:12])}" if every else ""

    def _ranked(self, every: list[Candidate], kind: str) -> list[Candidate]:
        wanted = {"function": {"def"}, "method": {"def"}, "class": {"class"}}.get(kind)
        if wanted is not None:
            every = [c for c in every if c.binds & wanted]
        if kind in ("method", "attribute"):
            every = [c for c in every if c.kind == "member"]
        tiers = (
            [c for c in every if c.kind == "module" and c.binds & {"def", "class"}],
            [c for c in every if c.kind == "module" and c.binds - {"as"}],
            [c for c in every if c.kind == "member"],
            [c for c in every if c.kind == "module"],
            [c for c in every if c.kind == "local"],
        )
        return next((tier for tier in tiers if tier), [])

    def _qualified(self, every: list[Candidate], qualifier: str) -> list[Candidate]:
        module, _, inner = qualifier.partition(":")
        found = []
        for candidate in every:
            match candidate.kind:
                case "module":
                    fits = not inner and any(self._called(p, module) for p in candidate.paths)
                case "member":
                    fits = any(self._inside(p, q, module, inner) for p, q in candidate.classes)
                case _:
                    path, ref = candidate.local
                    fits = self._inside(path, ref[2:], module, inner)
            if fits:
                found.append(candidate)
        exact = [c for c in found if c.label == f"{qualifier}:{self.old}"]
        return exact or found

    def _called(self, path: str, name: str) -> bool:
        plain = name.replace("\\", "/").removeprefix("./")
        if plain in (path, stem(path)) or name in self.modules.names(path):
            return True
        return "/" in plain and path.endswith("/" + plain)

    def _inside(self, path: str, qual: str, module: str, inner: str) -> bool:
        if inner:
            return qual == inner and self._called(path, module)
        if qual == module or qual.endswith("." + module):
            return True
        return any(f"{name}.{qual}" == module for name in self.modules.names(path))

    def _absent(self) -> Conflict:
        old = self.old
        files = [p for p in sorted(self.modules.paths) if stem(p).rpartition("/")[2] == old]
        if files:
            return Conflict(f"`{old}` is a module ({files[0]}): files are not renamed by this job")
        outside = sorted(
            {
                kind[5:]
                for record in self.records.values()
                for kind in record["binds"]
                if kind.startswith("from:")
            }
        )
        if outside:
            where = ", ".join(f"`{name}`" for name in outside)
            return Conflict(f"`{old}` is defined outside of this repo, in {where}")
        if any(record["places"] for record in self.records.values()):
            return Conflict(
                f"no definition of `{old}` was found, only uses of something of that name",
                "not_found",
            )
        if self.broken:
            path, record = next(iter(sorted(self.broken.items())))
            return Conflict(f"`{old}` is only in {path}, which {record['error']}", "not_found")
        return Conflict(f"`{old}` was not found in any Python file", "not_found")

    # -- what denotes it, file by file

    def plan(self, candidate: Candidate) -> Plan:
        plan = Plan(candidate)
        match candidate.kind:
            case "module":
                self._plan_module(plan)
            case "member":
                self._plan_member(plan)
            case _:
                path, ref = candidate.local
                plan.refs[path] = {ref}
        for path in list(plan.refs):
            places = self.records[path]["places"]
            if not any(chosen(place, plan.refs[path]) for place in places):
                del plan.refs[path]
        for path, record in sorted(self.broken.items()):
            plan.notes.append(f"{path} mentions `{self.old}` but {record['error']}: left alone")
        return plan

    def _plan_module(self, plan: Plan) -> None:
        group = plan.candidate.paths
        for path, record in self.records.items():
            refs: set[str] = set()
            if path in group:
                refs |= {"m", "all"} if record["binds"] else {"free", "all"}
            for place in record["places"]:
                if place[3] == "from" and self.modules.resolve(place[5], path) in group:
                    refs.add(f"from:{place[5]}")
                    refs |= {ref for ref in place[4] if ref.startswith("l:")}
                for ref in place[4]:
                    if ref[:4] == "dot:" and self.modules.resolve(ref[4:], path) in group:
                        refs.add(ref)
            for place in record["places"]:
                if len(place[4]) > 1 and 0 < len(refs & set(place[4])) < len(place[4]):
                    plan.doubts.append(
                        f"{path}:{place[0]}: what `{self.old}` belongs to here cannot be told"
                    )
            if refs:
                plan.refs[path] = refs
        for path in sorted(group):
            if not self.records[path]["binds"] and self.records[path]["bound_new"]:
                plan.doubts.append(
                    f"{path} has a `{self.new}` of its own and takes `{self.old}` by a star import"
                )

    def _plan_member(self, plan: Plan) -> None:
        family = plan.candidate.classes
        kin = self._kin(family)
        fields = any(self._classes(p)[q]["fields"] for p, q in family)
        alone = len(self.families()) == 1 and not any(r["binds"] for r in self.records.values())
        anybody = alone and self.old not in COMMON
        strangers = 0
        for path, record in self.records.items():
            refs: set[str] = set()
            for place in record["places"]:
                for ref in place[4]:
                    keyword_of = ref.startswith("kw:")
                    plain = ref[3:] if keyword_of else ref
                    known = self.class_of(plain, path)
                    if known is not None:
                        if known in kin and (fields or not keyword_of):
                            refs.add(ref)
                    elif place[3] == "attribute" and self._unknown(ref, path):
                        strangers += 1
                        if anybody:
                            refs.add(ref)
            if refs:
                plan.refs[path] = refs
        if anybody and strangers:
            plan.notes.append(
                f"`.{self.old}` on objects whose class cannot be told was taken for it, as no "
                f"other class, module or built-in type here has that name"
            )
        elif strangers:
            why = "built-in types have it too" if alone else "others define it too"
            plan.notes.append(
                f"`.{self.old}` on {strangers} object(s) whose class cannot be told was left: {why}"
            )
        for owner in sorted(family):
            for base in sorted(self.ancestors(owner)[1]):
                if base.startswith("builtin:"):
                    kind = getattr(builtins, base[8:], None)
                    if hasattr(kind, self.old):
                        plan.doubts.append(f"`{owner[1]}.{self.old}` overrides that of {base[8:]}")
                    if self.new and hasattr(kind, self.new):
                        plan.doubts.append(f"{base[8:]} already has `{self.new}`")
                else:
                    name = base[4:] if base.startswith("dot:") else "a base that cannot be told"
                    plan.notes.append(
                        f"`{owner[1]}` inherits from {name}, which was not read: if that has "
                        f"`{self.old}` too, the override is lost"
                    )

    def _kin(self, family: frozenset[ClassId]) -> set[ClassId]:
        """The family, those who inherit from it, and those it inherits from."""
        kin = set(family)
        for member in family:
            kin |= self.ancestors(member)[0]
        for path in self.records:
            for qual in self._classes(path):
                if self.ancestors((path, qual))[0] & family:
                    kin.add((path, qual))
        return kin

    def _unknown(self, ref: str, path: str) -> bool:
        """An object that nothing is known of; not one that comes from outside of the repo."""
        if ref == "attr":
            return True
        tag, _, dotted = ref.partition(":")
        if tag not in ("dot", "obj") or self.modules.resolve(dotted, path) is not None:
            return False
        parts = dotted.split(".")
        return any(
            self.modules.resolve(".".join(parts[:i]) or ".", path) is not None
            for i in range(1, len(parts))
        )

    # -- why not

    def objections(self, plan: Plan) -> list[str]:
        """What stands against giving the candidate the new name; empty: nothing."""
        said = list(plan.doubts)
        for path, refs in sorted(plan.refs.items()):
            record = self.records[path]
            said += [f"{path}: {text}" for text in collisions(record, refs)]
            said += [f"{path}: {text}" for text in record["problems"]]
            if record["foreign"]:
                said.append(f"{path} is not in UTF-8, and cannot be edited")
            said += self._mangling(path, record, refs, plan.candidate)
        if plan.candidate.kind == "member":
            for path, qual in sorted(self._kin(plan.candidate.classes)):
                if self._classes(path)[qual]["new"]:
                    said.append(f"{path}: `{qual}` already has `{self.new}`")
        if plan.candidate.kind == "local" and "param" in plan.candidate.binds:
            for path, record in sorted(self.records.items()):
                lines = [p[0] for p in record["places"] if p[3] == "keyword"]
                if lines:
                    said.append(
                        f"{path}:{lines[0]}: `{self.old}=` is passed by keyword, perhaps to this"
                    )
        return sorted(set(said))

    def _mangling(
        self, path: str, record: Record, refs: set[str], candidate: Candidate
    ) -> list[str]:
        was, will = _private(self.old), _private(self.new)
        own = candidate.kind == "member" and len(candidate.classes) == 1
        if not (was or will) or (own and was):
            return []
        lines = [p[0] for p in record["places"] if p[0] in record["mangled"] and chosen(p, refs)]
        if not lines:
            return []
        return [
            f"{path}:{lines[0]}: in a class, names with two leading underscores are mangled: "
            f"not done by this job"
        ]


def _private(name: str) -> bool:
    return name.startswith("__") and not name.endswith("__")


def bad_name(name: str) -> str:
    """Why this cannot be a name in Python, or ""."""
    if keyword.iskeyword(name):
        return f"`{name}` is a keyword of Python"
    if not name.isidentifier():
        return f"`{name}` is not an identifier"
    if name.startswith("__") and name.endswith("__") and len(name) > 4:
        return f"`{name}` is a special name of Python"
    return ""
