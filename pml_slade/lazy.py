"""Packages whose names are imported when they are first used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def names_of(package: str, homes: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return a package's `__getattr__` and `__dir__` (PEP 562).

    Args:
        package: its `__name__`.
        homes: the module in it that each name comes from.

    Examples:
        >>> get, names = names_of("pml_slade", {"SladeError": "exceptions"})
        >>> get("SladeError").__name__, names()
        ('SladeError', ['SladeError'])
        >>> get("SladeEror")
        Traceback (most recent call last):
        AttributeError: module 'pml_slade' has no attribute 'SladeEror'
    """

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f".{homes[name]}", package), name)

    return get, lambda: sorted(homes)
