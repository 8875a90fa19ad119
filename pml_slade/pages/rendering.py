"""Templates to HTML."""

from __future__ import annotations

import re
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from .thumbnails import Thumbnail, Thumbnails

TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, title: str, thumbnails: Thumbnails, **values: Any) -> str:
    """Return a page, with all that it shows inside.

    Args:
        template: its file in `templates`.
        title: of the page.
        thumbnails: what `thumbnail` in the template cuts from.
        values: what the template names.
    """
    return _environment().get_template(template).render(
        title=title, thumbnails=thumbnails, version=version("pml-slade"), **values
    )  # fmt: skip


@cache
def _environment() -> Environment:
    found = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.globals["thumbnail"] = _cut_out
    found.filters["in_parts"] = _in_parts
    return found


def _cut_out(picture: Thumbnail, label: str = "") -> Markup:
    """An element that shows a thumbnail."""
    return Markup('<span class="pic" role="img" aria-label="{}" style="--x:{};--y:{}"></span>').format(
        label or picture.name, picture.x, picture.y
    )


def _in_parts(name: str) -> Markup:
    """A name of a file, class or setting: a narrow window breaks it between its parts, not inside a word."""
    return Markup(re.sub(r"([_./\\-])", r"\1<wbr>", str(escape(name))))
