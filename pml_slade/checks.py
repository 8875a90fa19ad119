"""What several rooms ask of their arguments."""

from __future__ import annotations

from numbers import Integral
from typing import Any

from .exceptions import ConfigError, DataError


def check_int(name: str, value: Any, at_least: int) -> None:
    """Refuse what is not an integer, or too small.

    Raises:
        ConfigError: names the argument and what came.

    Examples:
        >>> check_int("batch_size", 0, at_least=1)
        Traceback (most recent call last):
        pml_slade.exceptions.ConfigError: batch_size must be an integer of at least 1, got 0.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < at_least:
        raise ConfigError(f"{name} must be an integer of at least {at_least}, got {value!r}.")


def check_batch_size(value: Any) -> None:
    """Refuse what is neither an integer of at least 1 nor None, which stands for what suits the device."""
    if value is not None:
        check_int("batch_size", value, at_least=1)


def check_map_style(name: str, dataset: Any) -> None:
    """Refuse a data set that cannot be read by index, such as an iterable one, even where it has a length.

    Raises:
        DataError: names the argument and the type that came.

    Examples:
        >>> check_map_style("dataset", [1, 2, 3])
        >>> check_map_style("dataset", iter([1, 2, 3]))
        Traceback (most recent call last):
        pml_slade.exceptions.DataError: dataset must be a map-style dataset, with a length and items by index,
        got list_iterator.
    """
    from torch.utils.data import IterableDataset  # here, so that checking a number loads no torch

    # An IterableDataset inherits a __getitem__, which raises.
    indexed = hasattr(dataset, "__getitem__") and not isinstance(dataset, IterableDataset)
    if not indexed or not hasattr(dataset, "__len__"):
        raise DataError(
            f"{name} must be a map-style dataset, with a length and items by index, got "
            f"{type(dataset).__name__}."
        )
