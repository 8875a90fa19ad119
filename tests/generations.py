"""Which Python files may behave differently with another pytorch-metric-learning, read from their source.

The environment of powerful-benchmarker has another PML than today's, and what came with it; the rest is the
same. So a test whose code cannot reach these packages has one outcome in both environments, and one run is
enough. What cannot be told from the source counts as reaching them.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

DIFFERENT = ("pytorch_metric_learning", "powerful_benchmarker", "record_keeper")
"""The packages that differ between the environments."""
PACKAGE = "pml_slade"
# A test that uses one of these may run any code.
UNSEEN = {"eval", "exec", "importlib", "multiprocessing", "runpy", "subprocess"}
NAMED = re.compile(rf"from +({PACKAGE}[\w.]*) +import +(\w+)|\b({PACKAGE}(?:\.\w+)+)")

Part = tuple[Path, "str | None"]
"""A file, or the statements of it that a name needs."""


def reaches_pml(file: Path, root: Path) -> bool:
    """Whether a test of this file may have another outcome with another PML.

    Args:
        file: a test file, or a module of the package, for its doctests.
        root: of the repository.
    """
    todo, seen = [(file, None), *_fixtures(file, root)], set()
    while todo:
        part = todo.pop()
        if part not in seen:
            seen.add(part)
            links = _links(part, root)
            if links is None:
                return True
            todo += links
    return False


@cache
def _links(part: Part, root: Path) -> tuple[Part, ...] | None:
    """The parts of this repository that a part uses, or None if it uses PML or cannot be read."""
    file, name = part
    found = _statements(file, name)
    text = file.read_text(encoding="utf-8")
    if name is not None:
        text = "\n".join(ast.get_source_segment(text, statement) or "" for statement in found)
    if any(package in text for package in DIFFERENT) or (name is not None and not found):
        return None
    links = []
    for module, used in _imports(file, name, found, root):
        if module.split(".")[0] in UNSEEN or used in UNSEEN:
            if not file.is_relative_to(root / PACKAGE):
                return None
        elif module == PACKAGE and used is None:
            return None
        else:
            links += _resolve(module, used, root)
    return tuple(links)


@cache
def _parse(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


@cache
def _statements(file: Path, name: str | None) -> tuple[ast.stmt, ...]:
    """Statements of the top level: all, or those that bind a name, and what they need in turn."""
    body = _parse(file).body
    if name is None:
        return tuple(body)
    found: list[ast.stmt] = []
    todo, seen = [name], {name}
    while todo:
        wanted = todo.pop()
        for statement in body:
            if wanted in _bound(statement) and statement not in found:
                found.append(statement)
                used = {n.id for n in ast.walk(statement) if isinstance(n, ast.Name)}
                used |= {n.arg for n in ast.walk(statement) if isinstance(n, ast.arg)}  # fixtures
                todo += used - seen
                seen |= used
    return tuple(found)


def _bound(statement: ast.stmt) -> set[str]:
    """Names that a statement of the top level gives a value."""
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return {statement.name}
    nodes = list(ast.walk(statement))
    imported = [alias for n in nodes if isinstance(n, (ast.Import, ast.ImportFrom)) for alias in n.names]
    stored = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    return stored | {_alias(alias) for alias in imported}


def _alias(alias: ast.alias) -> str:
    return alias.asname or alias.name.split(".")[0]


def _imports(
    file: Path, name: str | None, statements: tuple[ast.stmt, ...], root: Path
) -> Iterator[tuple[str, str | None]]:
    """Modules, each with the name that is taken from it, of all imports and of strings that name modules."""
    used = {n.id for s in statements for n in ast.walk(s) if isinstance(n, ast.Name)} | {name}
    for node in (n for statement in statements for n in ast.walk(statement)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = file.relative_to(root).parts[: -node.level]
                base = ".".join([*above, *([node.module] if node.module else [])])
            # Of a statement that a part shares with others, only what the part needs.
            top = name is not None and node in statements
            yield from ((base, a.name) for a in node.names if not top or _alias(a) in used)
        elif isinstance(node, ast.Name) and node.id in UNSEEN:
            yield node.id, None
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            for module, taken, alone in NAMED.findall(node.value):
                yield (module, taken) if module else (alone, None)


def _resolve(module: str, name: str | None, root: Path) -> list[Part]:
    """Where a name of a module is defined; nothing for what is outside of the repository."""
    file = name and _file(f"{module}.{name}", root)
    if file:
        return [(file, None)]
    while not (file := _file(module, root)):
        module, _, name = module.rpartition(".")  # a string may go on into a class or an object
        if not module:
            return []
    whole = file.name != "__init__.py" or name in (None, "*")
    return [(file, None if whole else name)]


@cache
def _file(module: str, root: Path) -> Path | None:
    """Our file of a module, if there is one."""
    above = root if module.split(".")[0] == PACKAGE else root / "tests"
    base = above.joinpath(*module.split("."))
    return next((f for f in (base.with_suffix(".py"), base / "__init__.py") if f.is_file()), None)


def _fixtures(file: Path, root: Path) -> list[Part]:
    """What a test file asks for by name of the conftest.py that it can see."""
    asked = {node.arg for node in ast.walk(_parse(file)) if isinstance(node, ast.arg)}
    seen = [folder / "conftest.py" for folder in file.parents if folder.is_relative_to(root / "tests")]
    return [
        (conftest, name)
        for conftest in seen
        if conftest.is_file() and conftest != file
        for name in sorted(asked & {name for s in _parse(conftest).body for name in _bound(s)})
    ]
