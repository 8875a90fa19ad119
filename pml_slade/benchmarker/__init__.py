"""powerful-benchmarker, the reality check's own tool, with everything of ours in its YAML.

Needs the extra: ``pip install "pml-slade[benchmarker]"``.
"""

from ..exceptions import ConfigError

try:
    import powerful_benchmarker  # noqa: F401
except ImportError as _error:
    raise ConfigError(
        f"powerful-benchmarker is not installed here ({_error}). It pins an old pytorch-metric-learning, so "
        'give it an environment of its own: pip install "pml-slade[benchmarker]".'
    ) from _error

from .. import compat  # noqa: F401  (numpy's old names, before anything of theirs runs)
from .registry import register_all
from .runner import check_same_settings, main, run

__all__ = ["check_same_settings", "main", "register_all", "run"]
