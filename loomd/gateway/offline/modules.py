"""Which file of the repo an import means. Pure: paths in, paths out."""

from __future__ import annotations

from collections.abc import Iterable

SUFFIXES = (".py", ".pyi")


def is_python(path: str) -> bool:
    return path.endswith(SUFFIXES)


def stem(path: str) -> str:
    """`a/b.py` -> `a/b`, `a/__init__.py` -> `a`."""
    plain = path.rsplit(".", 1)[0]
    if plain == "__init__":
        return ""
    return plain.removesuffix("/__init__")


def folder(path: str) -> str:
    return path.rpartition("/")[0]


class Modules:
    """The Python files of a repo. A folder without `__init__.py` may be on the import path, so a
    file has one dotted name for each such folder above it: `src.pkg.m` and `pkg.m`."""

    def __init__(self, paths: Iterable[str]) -> None:
        self.paths = {path for path in paths if is_python(path)}
        self._by_stem: dict[str, list[str]] = {}
        for path in sorted(self.paths):
            self._by_stem.setdefault(stem(path), []).append(path)
        self._by_name: dict[str, list[str]] = {}
        for path in sorted(self.paths):
            for name in self.names(path):
                self._by_name.setdefault(name, []).append(path)

    def names(self, path: str) -> list[str]:
        """The dotted names of a file, the shortest last."""
        parts = stem(path).split("/") if stem(path) else []
        found = []
        for i in range(len(parts)):
            above = "/".join(parts[:i])
            if above and any(f"{above}/__init__{s}" in self.paths for s in SUFFIXES):
                continue
            found.append(".".join(parts[i:]))
        return found

    def name(self, path: str) -> str:
        """What people would call it."""
        names = self.names(path)
        return names[-1] if names else path

    def twins(self, path: str) -> list[str]:
        """The same module's other files (a stub beside its source)."""
        return [other for other in self._by_stem.get(stem(path), ()) if other != path]

    def resolve(self, dotted: str, importer: str) -> str | None:
        """The file that `dotted` (with leading dots: relative) means in `importer`; None: none of
        the repo's. Of several with this name the one nearest to the importer."""
        if dotted.startswith("."):
            rest = dotted.lstrip(".")
            base = folder(importer)
            for _ in range(len(dotted) - len(rest) - 1):
                if not base:
                    return None
                base = folder(base)
            parts = [part for part in (base, rest.replace(".", "/")) if part]
            return self._first(self._by_stem.get("/".join(parts), ()))
        found = self._by_name.get(dotted, [])
        if not found:
            return None
        best = max(_common(path, importer) for path in found)
        return self._first([path for path in found if _common(path, importer) == best])

    def _first(self, found: Iterable[str]) -> str | None:
        return min(found, key=lambda path: (not path.endswith(".py"), len(path)), default=None)


def _common(a: str, b: str) -> int:
    count = 0
    for one, other in zip(folder(a).split("/"), folder(b).split("/"), strict=False):
        if one != other:
            break
        count += 1
    return count
