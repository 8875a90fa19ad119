"""Which files are tested: powerful-benchmarker's where it is installed, and there those that reach PML."""

from importlib.util import find_spec
from pathlib import Path

from generations import reaches_pml

from pml_slade.compat import LEGACY, PML_VERSION

ROOT = Path(__file__).parent
collect_ignore_glob = [] if find_spec("powerful_benchmarker") else ["pml_slade/benchmarker/*"]


def runs_here(file):
    """Today's environment runs everything that it can; that of an old PML, what another PML can change."""
    return not LEGACY or reaches_pml(file, ROOT)


def pytest_ignore_collect(collection_path):
    """Leave out files that run under today's PML alone. A file that is asked for by its name runs."""
    if collection_path.suffix == ".py" and not runs_here(collection_path):
        return True
    return None  # the others decide


def pytest_report_header():
    """Say what is left out."""
    files = [*ROOT.glob("tests/**/test_*.py"), *ROOT.glob("pml_slade/**/*.py")]
    left_out = sorted(str(file.relative_to(ROOT)) for file in files if not runs_here(file))
    named = f", {len(left_out)} left out, which it cannot change: {', '.join(left_out)}" if left_out else ""
    return f"pytorch-metric-learning {PML_VERSION}: {len(files) - len(left_out)} files{named}"
