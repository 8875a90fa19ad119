"""Settings that come with the package: a YAML file for each set of data and for the paper's method."""

from importlib import resources

PAPER, BEST = "paper", "best"
"""Presets of the method: a file, and what a run has by default of the settings in that file."""


def preset_names() -> list[str]:
    """Names of the settings that come with the package.

    Examples:
        >>> "glyphs" in preset_names()
        True
    """
    names = [
        p.name.removesuffix(".yaml") for p in resources.files(__name__).iterdir() if p.name.endswith(".yaml")
    ]
    return sorted([*names, BEST])


def preset_text(name: str) -> str:
    """The YAML of one of them."""
    return (resources.files(__name__) / f"{name}.yaml").read_text(encoding="utf-8")
