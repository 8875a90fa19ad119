"""The scripts in benchmarks/: as modules, as commands, and as commands that need not start a process."""

import contextlib
import importlib.util
import io
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def load_script(name):
    """Import a script, with its neighbours at hand as python has them for a script."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(BENCHMARKS))
    return module


def run_script(name, *arguments):
    """What a script prints, started as a user starts it."""
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_script_here(name, *arguments):
    """The same without new processes, whose start takes longer than what the tests let them train."""
    script, printed = load_script(name), io.StringIO()
    assert Path(script.__file__).read_text().endswith('\nif __name__ == "__main__":\n    main()\n')
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setattr(sys, "argv", [script.__file__, *map(str, arguments)])
        patch.setattr(script, "in_parallel", lambda jobs, job, tasks: list(map(job, tasks)))
        script.main()
    return printed.getvalue()
