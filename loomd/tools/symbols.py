"""What a file defines: symbols with their lines. Python by its syntax tree, other languages by
patterns of their definitions and by braces or indentation. Pure."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Symbol:
    """first, last: lines from 1. depth: 0 at the top. head: its definition, shortened."""

    kind: str
    name: str
    first: int
    last: int
    depth: int
    head: str


def symbols(path: str, text: str) -> list[Symbol] | None:
    """In the order of the file; None for a language that is not known. SyntaxError of Python."""
    language = language_of(path, text)
    if language == "python":
        return list(_python(text))
    if language == "markdown":
        return _markdown(text)
    rules = _RULES.get(language)
    return None if rules is None else _by_pattern(text, rules, language)


_BY_NAME: Final[dict[str, str]] = {
    **dict.fromkeys(("py", "pyi"), "python"),
    **dict.fromkeys(("js", "jsx", "mjs", "cjs", "ts", "tsx", "mts", "cts", "vue"), "javascript"),
    **dict.fromkeys(("c", "h", "cc", "cpp", "cxx", "hh", "hpp", "hxx", "m", "mm"), "c"),
    **dict.fromkeys(("java", "kt", "kts", "cs", "scala", "swift", "dart", "groovy"), "java"),
    **dict.fromkeys(("sh", "bash", "zsh"), "shell"),
    **dict.fromkeys(("toml", "ini", "cfg"), "ini"),
    **dict.fromkeys(("ex", "exs", "rb"), "ruby"),
    "go": "go", "rs": "rust", "php": "php", "md": "markdown", "sql": "sql", "lua": "lua",
    "mk": "make",
}  # fmt: skip


def language_of(path: str, text: str = "") -> str:
    """By the name, else by the first line; "" if neither tells."""
    name = path.rpartition("/")[2]
    if name in ("Makefile", "makefile", "GNUmakefile"):
        return "make"
    _, dot, ending = name.rpartition(".")
    if dot and ending.lower() in _BY_NAME:
        return _BY_NAME[ending.lower()]
    if match := re.match(r"#!.*?\b(python|bash|sh|zsh|node|ruby|php|lua)", text):
        return {"bash": "shell", "sh": "shell", "zsh": "shell", "node": "javascript"}.get(
            match[1], match[1]
        )
    return ""


# --- Python --------------------------------------------------------------------------------------


def _python(text: str) -> Iterator[Symbol]:
    lines = text.split("\n")
    yield from _defined(ast.parse(text).body, lines, 0)


def _defined(body: Sequence[ast.stmt], lines: Sequence[str], depth: int) -> Iterator[Symbol]:
    for node in body:
        last = node.end_lineno or node.lineno
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            first = min([node.lineno, *(one.lineno for one in node.decorator_list)])
            kind = "class" if isinstance(node, ast.ClassDef) else "def"
            yield Symbol(kind, node.name, first, last, depth, _python_head(node))
            yield from _defined(node.body, lines, depth + 1)
        elif isinstance(node, ast.Assign | ast.AnnAssign) and depth == 0:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                if isinstance(target, ast.Name):
                    head = _cut(lines[node.lineno - 1].strip())
                    yield Symbol("variable", target.id, node.lineno, last, depth, head)
        else:
            yield from _defined(_inside(node), lines, depth)


def _inside(node: ast.stmt) -> list[ast.stmt]:
    """What stands in an `if`, `try` or `with` at the same level."""
    inner: list[ast.stmt] = []
    for name in ("body", "orelse", "finalbody"):
        inner += getattr(node, name, [])
    for handler in getattr(node, "handlers", []):
        inner += handler.body
    return [one for one in inner if isinstance(one, ast.stmt)]


def _python_head(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> str:
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(ast.unparse(one) for one in [*node.bases])
        return _cut(f"class {node.name}({bases})" if bases else f"class {node.name}")
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    start = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
    return _cut(f"{start} {node.name}({ast.unparse(node.args)}){returns}")


# --- Markdown ------------------------------------------------------------------------------------


def _markdown(text: str) -> list[Symbol]:
    lines = _lines(text)
    found: list[tuple[int, int, str]] = []
    fence = ""
    for number, line in enumerate(lines, 1):
        if match := re.match(r" {0,3}(`{3,}|~{3,})", line):
            if not fence:
                fence = match[1]
            elif match[1].startswith(fence):
                fence = ""
        elif not fence and (match := re.match(r" {0,3}(#{1,6})\s+(.+?)\s*#*\s*$", line)):
            found.append((number, len(match[1]), match[2]))
    made = []
    for at, (number, level, title) in enumerate(found):
        after = (n for n, other, _ in found[at + 1 :] if other <= level)
        last = next(after, len(lines) + 1) - 1
        made.append(
            Symbol("heading", title, number, last, level - 1, _cut(f"{'#' * level} {title}"))
        )
    return made


# --- patterns ------------------------------------------------------------------------------------

_MODIFIERS: Final = (
    r"(?:(?:public|private|protected|internal|static|final|abstract|override|virtual|async|sealed|"
    r"partial|open|data|inline|suspend|export|default|declare|readonly|synchronized|native|const|"
    r"fileprivate|mutating|lazy|case|implicit)\s+)*"
)

Rules = tuple[tuple[str, re.Pattern[str]], ...]


def _rules(*pairs: tuple[str, str]) -> Rules:
    return tuple((kind, re.compile(pattern)) for kind, pattern in pairs)


_RULES: Final[dict[str, Rules]] = {
    "javascript": _rules(
        ("class", rf"\s*{_MODIFIERS}(?:class|interface|enum|namespace)\s+([\w$]+)"),
        ("type", rf"\s*{_MODIFIERS}type\s+([\w$]+)\s*[=<]"),
        ("function", rf"\s*{_MODIFIERS}function\s*\*?\s*([\w$]+)\s*[(<]"),
        ("function", rf"\s*{_MODIFIERS}(?:let|var)?\s*([\w$]+)\s*(?::[^=]+)?=\s*(?:async\s*)?"
                     r"(?:function\b|\([^()]*\)\s*(?::[^=]+)?=>|[\w$]+\s*=>)"),
        ("method", rf"\s+{_MODIFIERS}(?:get\s+|set\s+|\*\s*)?(?!(?:if|for|while|switch|catch"
                   rf"|return|"
                   r"function|with|new|await|typeof|else|do)\b)(#?[\w$]+)\s*\([^;]*\)[^;=]*\{\s*"
                   r"(?:\}.*)?$"),
    ),
    "go": _rules(
        ("func", r"func\s+(?:\([^)]*\)\s*)?(\w+)\s*[\[(]"),
        ("type", r"type\s+(\w+)\b"),
        ("variable", r"(?:var|const)\s+(\w+)\b"),
    ),
    "rust": _rules(
        ("fn", r"\s*(?:pub(?:\([^)]*\))?\s+)?(?:(?:const|async|unsafe|extern"
               r"(?:\s+\"[^\"]*\")?)\s+)*"
               r"fn\s+(\w+)"),
        ("type", r"\s*(?:pub(?:\([^)]*\))?\s+)?(?:unsafe\s+)?(?:struct|enum|trait|union|type"
                 r"|mod)\s+(\w+)"),
        ("impl", r"\s*(?:unsafe\s+)?impl\b(?:<[^{]*?>)?\s*([^{]+?)\s*(?:\bwhere\b.*)?\{?$"),
        ("macro", r"\s*macro_rules!\s*(\w+)"),
        ("constant", r"\s*(?:pub(?:\([^)]*\))?\s+)?(?:const|static)\s+(?:mut\s+)?(\w+)\s*:"),
    ),
    "c": _rules(
        ("class", r"\s*(?:template\s*<[^{;]*>\s*)?(?:typedef\s+)?(?:class|struct|union|enum"
                  r"(?:\s+class)?|"
                  r"namespace)\s+([\w:]+)[^;()=]*\{?\s*$"),
        ("macro", r"\s*#\s*define\s+(\w+)"),
        ("function", r"(?!\s*(?:if|for|while|switch|return|else|do|case|typedef|using|delete"
                     r"|new)\b)"
                     r"\s*(?:[\w:<>,~*&\[\]]+[\s*&]+)+((?:[\w]+::)*~?\w+)\s*\([^;]*$"),
    ),
    "java": _rules(
        ("class", rf"\s*(?:@\w+(?:\([^)]*\))?\s+)*{_MODIFIERS}(?:class|interface|enum|record"
                  rf"|struct|object|"
                  r"trait|protocol|extension|namespace)\s+([\w.]+)"),
        ("function", rf"\s*{_MODIFIERS}(?:fun|func|def)\s+(?:<[^>]*>\s*)?([\w.]+)\s*[(<\[]?"),
        ("method", rf"\s*(?:@\w+(?:\([^)]*\))?\s+)*{_MODIFIERS}(?!(?:if|for|while|switch|catch"
                   rf"|return|new|"
                   r"else|throw|do|try|synchronized|using|lock|foreach|case)\b)"
                   r"(?:[\w<>\[\],.?]+\s+)+(\w+)"
                   r"\s*\([^;]*\)[^;=]*\{?\s*$"),
    ),
    "php": _rules(
        ("class", r"\s*(?:(?:abstract|final|readonly)\s+)*(?:class|interface|trait|enum"
                  r"|namespace)\s+([\w\\]+)"),
        ("function", r"\s*(?:(?:public|private|protected|static|abstract"
                     r"|final)\s+)*function\s+&?(\w+)\s*\("),
    ),
    "ruby": _rules(
        ("class", r"\s*(?:class|module|defmodule|defprotocol|defimpl)\s+([\w:.]+)"),
        ("def", r"\s*(?:def|defp|defmacro|defmacrop)\s+([\w.?!=]+)"),
    ),
    "shell": _rules(("function", r"\s*(?:function\s+)?([\w:.-]+)\s*\(\)\s*(?:\{|\(|$)"),
                    ("function", r"\s*function\s+([\w:.-]+)\s*\{?\s*$")),
    "lua": _rules(("function", r"\s*(?:local\s+)?function\s+([\w.:]+)\s*\("),
                  ("function", r"\s*(?:local\s+)?([\w.]+)\s*=\s*function\s*\(")),
    "ini": _rules(("section", r"\s*\[{1,2}([^\[\]]+)\]{1,2}\s*(?:[#;].*)?$")),
    "sql": _rules(("create", r"(?i)\s*create\s+(?:or\s+replace\s+)?(?:temp(?:orary)?\s+|unique\s+)*"
                             r"(?:table|view|function|procedure|index|trigger|type|schema)\s+"
                             r"(?:if\s+not\s+exists\s+)?([\w.\"`]+)")),
    "make": _rules(("target", r"([\w./%$(){}-]+(?:\s+[\w./%$(){}-]+)*)\s*::?(?!=)")),
}  # fmt: skip

_BRACED: Final = frozenset({"javascript", "go", "rust", "c", "java", "php", "shell"})

_COMMENT: Final = re.compile(r"\s*(?://|/\*|\*|#(?!\s*define\b)|--)")


def _by_pattern(text: str, rules: Rules, language: str) -> list[Symbol]:
    lines = _lines(text)
    found: list[tuple[str, str, int, int]] = []  # kind, name, line, indentation
    for number, line in enumerate(lines, 1):
        if len(line) > 1000 or _COMMENT.match(line):
            continue  # no line that somebody wrote
        for kind, rule in rules:
            if match := rule.match(line):
                indent = len(line) - len(line.lstrip())
                found.append((kind, match[1].strip(), number, indent))
                break
    ends = _braces(lines) if language in _BRACED else {}
    made: list[Symbol] = []
    open_: list[tuple[int, int]] = []  # last line, indentation
    for at, (kind, name, number, indent) in enumerate(found):
        last = _end(lines, ends, number, indent, found[at + 1 :], language)
        while open_ and (open_[-1][0] < number or open_[-1][1] >= indent):
            open_.pop()
        head = _cut(lines[number - 1].strip().rstrip("{").rstrip())
        made.append(Symbol(kind, name, number, last, len(open_), head))
        open_.append((last, indent))
    return made


def _end(
    lines: Sequence[str],
    ends: dict[int, int],
    first: int,
    indent: int,
    rest: Iterable[tuple[str, str, int, int]],
    language: str,
) -> int:
    """The last line of a symbol: of its braces if they open within three lines; else before what is
    indented as little."""
    if language in _BRACED:
        if lines[first - 1].lstrip().startswith("#"):  # a macro goes on behind each backslash
            return next(
                n
                for n in range(first, len(lines) + 1)
                if not lines[n - 1].endswith("\\") or n == len(lines)
            )
        for line in range(first, min(first + 3, len(lines)) + 1):
            if line in ends:
                return ends[line]
            if lines[line - 1].rstrip().endswith(";"):
                return line
        return first
    after = (number for _, _, number, other in rest if other <= indent)
    last = next(after, len(lines) + 1) - 1
    if language in ("ruby", "lua"):
        closing = re.compile(rf"\s{{{indent}}}end\b")
        last = next((n for n in range(first, last + 1) if closing.match(lines[n - 1])), last)
    while last > first and not lines[last - 1].strip():
        last -= 1
    return last


_TOKENS: Final = re.compile(
    r"""//.*|/\*.*?\*/|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])'|'(?:\\.|[^'\\]){2,}'|`[^`]*`|[{}]"""
)


def _braces(lines: Sequence[str]) -> dict[int, int]:
    """Line of an opening brace -> line of its closing one, of the outermost on each line."""
    ends: dict[int, int] = {}
    open_: list[int] = []
    for number, line in enumerate(lines, 1):
        if len(line) > 1000:
            continue
        for token in _TOKENS.findall(line):
            if token == "{":
                open_.append(number)
            elif token == "}" and open_:
                ends[open_.pop()] = number
    return ends


def _lines(text: str) -> list[str]:
    lines = text.replace("\r\n", "\n").split("\n")
    return lines[:-1] if lines and not lines[-1] else lines


def _cut(text: str, limit: int = 120) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 3] + "..."
