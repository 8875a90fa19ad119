"""The rows of a comparison, one method a file.

Every row but the teacher starts from the teacher, takes the same number of steps, and sees the same number
of images in them. Eq. 3 classifies labeled images and needs no pool: all rows have it, so that a row shows
what the pool adds; ``teacher.classifier=false`` leaves it to rows with a whole basis, as in the paper's
ablation.
"""

from __future__ import annotations

import difflib
import importlib

from .basis import Basis
from .control import Control
from .iterated import Iterated
from .mean_teacher import MeanTeacher
from .memory import CrossBatchMemory
from .method import Job, Method
from .neighbours import Neighbours
from .oracle import Oracle
from .pool import PoolMethod, TwoViewsMethod
from .pseudo import Pseudo
from .self_supervised import SelfSupervised
from .self_taught import SelfTaught
from .slade import Slade
from .start import Start
from .supervised import Supervised
from .teacher import Teacher

__all__ = ["METHODS", "Job", "Method", "PoolMethod", "Supervised", "TwoViewsMethod", "find_method"]

METHODS: dict[str, Method] = {
    method.key: method
    for method in (
        Start(),
        Teacher(),
        Control(),
        CrossBatchMemory(),
        MeanTeacher(),
        SelfSupervised(),
        SelfTaught(),
        Pseudo(),
        Iterated(),
        Neighbours(),
        Basis(),
        Slade(),
        Oracle(),
    )
}
"""Those that come with the package, by key."""


def find_method(row: str) -> Method:
    """Return the method of a row.

    Args:
        row: a key of METHODS, or the dotted path of a class of your own, `my_package.MyMethod`.

    Raises:
        ValueError: there is none; the message says what came and what to give.

    Examples:
        >>> find_method("slade").title
        'SLADE'
        >>> find_method("pml_slade.methods.control.Control").key
        'control'
    """
    if row in METHODS:
        return METHODS[row]
    if "." not in row:
        near = difflib.get_close_matches(row, METHODS, n=1, cutoff=0.0)
        raise ValueError(
            f"rows: no row {row!r}; did you mean {near[0]}? There are {', '.join(METHODS)}, and methods of "
            "your own by their dotted path, such as my_package.MyMethod"
        )
    module, _, name = row.rpartition(".")
    try:
        kind = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"rows: {row} cannot be imported: {error}") from None
    if not (isinstance(kind, type) and issubclass(kind, Method)):
        raise ValueError(f"rows: {row} is no subclass of pml_slade.methods.Method")
    if lacking := sorted(getattr(kind, "__abstractmethods__", ())):
        raise ValueError(f"rows: {row} lacks {', '.join(lacking)}; see the page on methods of your own")
    return kind()
