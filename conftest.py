"""What is tested: powerful-benchmarker's where it is installed, and there what another PML can change."""

import signal
from importlib.util import find_spec
from pathlib import Path

import pytest
from generations import reaches_pml

from pml_slade.compat import LEGACY, PML_VERSION

ROOT = Path(__file__).parent
HAS_BENCHMARKER = find_spec("powerful_benchmarker") is not None
ONLY_PML_DIFFERS = LEGACY and HAS_BENCHMARKER
"""Whether this is powerful-benchmarker's environment, not that of the lowest versions of everything."""
collect_ignore_glob = [] if HAS_BENCHMARKER else ["pml_slade/benchmarker/*"]

# A shell lets what is in its background ignore Ctrl-C, and nohup the end of a terminal.
for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, usual)


def runs_here(file):
    """Powerful-benchmarker's environment runs what another PML can change, the others all that they can."""
    return not ONLY_PML_DIFFERS or reaches_pml(file, ROOT)


def pytest_ignore_collect(collection_path):
    """Leave out files that run under today's PML alone. A file that is asked for by its name runs."""
    if collection_path.suffix == ".py" and not runs_here(collection_path):
        return True
    return None  # the others decide


def pytest_collection_modifyitems(items):
    """In powerful-benchmarker's environment, leave out the tests that run once."""
    if ONLY_PML_DIFFERS:
        for item in items:
            if mark := item.get_closest_marker("once"):
                item.add_marker(pytest.mark.skip(reason=f"once: {mark.args[0]}" if mark.args else "once"))


def pytest_terminal_summary(terminalreporter):
    """Say what was left out."""
    files = [*ROOT.glob("tests/**/test_*.py"), *ROOT.glob("pml_slade/**/*.py")]
    left_out = sorted(str(file.relative_to(ROOT)) for file in files if not runs_here(file))
    if left_out:
        terminalreporter.write_line(
            f"{len(left_out)} of {len(files)} files cannot reach pytorch-metric-learning, so that another "
            f"version ({PML_VERSION}) does not change them; left out unless named: {', '.join(left_out)}"
        )
