"""A module's classes, functions, signatures and first lines of docstrings. Pure."""

from __future__ import annotations

import ast

from loomd.gateway.offline.text import CannotRead, read_module


def outline(path: str, source: str) -> str:
    """Lines of `LINE  what`; members are indented below their class."""
    try:
        tree = read_module(source).tree
    except CannotRead as error:
        return f"{path} {error}"
    assert isinstance(tree, ast.Module)
    lines = [f"{path}{_doc(tree)}"]
    _block(tree.body, 0, lines)
    if len(lines) == 1:
        lines.append("(no classes, functions or constants)")
    return "\n".join(lines)


def _block(body: list[ast.stmt], depth: int, lines: list[str]) -> None:
    for node in body:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                word = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
                returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
                said = f"{word} {node.name}({ast.unparse(node.args)}){returns}"
                _line(node, depth, said + _doc(node), lines, node.decorator_list)
            case ast.ClassDef():
                bases = [*map(ast.unparse, node.bases), *map(_keyword, node.keywords)]
                said = f"class {node.name}" + (f"({', '.join(bases)})" if bases else "")
                _line(node, depth, said + _doc(node), lines, node.decorator_list)
                _block(node.body, depth + 1, lines)
            case ast.AnnAssign(target=ast.Name(id=name)):
                _line(node, depth, f"{name}: {ast.unparse(node.annotation)}", lines, [])
            case ast.Assign(targets=[ast.Name(id=name)]) if name.isupper() or depth == 0:
                _line(node, depth, name, lines, [])
            case ast.If() | ast.Try():
                _block(node.body, depth, lines)
                for handler in getattr(node, "handlers", []):
                    _block(handler.body, depth, lines)
                _block(node.orelse, depth, lines)


def _keyword(node: ast.keyword) -> str:
    return f"{node.arg}={ast.unparse(node.value)}" if node.arg else f"**{ast.unparse(node.value)}"


def _line(
    node: ast.stmt, depth: int, text: str, lines: list[str], decorators: list[ast.expr]
) -> None:
    marks = "".join(f"@{ast.unparse(d)} " for d in decorators)
    lines.append(f"{node.lineno:>5}  {'    ' * depth}{marks}{text}")


def _doc(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    text = ast.get_docstring(node)
    first = text.strip().split("\n")[0] if text and text.strip() else ""
    return f"  # {first}" if first else ""
