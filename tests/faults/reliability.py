"""Everything on the fault bench, tried now, as the page docs/reliability.md: `make reliability`."""

import re
import sys
import tempfile
from pathlib import Path

import faults.badly
import faults.pool
import faults.strangers
import faults.wrong  # noqa: F401  importing them makes their cases known
from faults.bench import CASES, TABLES, Bench

PAGE = Path(__file__).parents[2] / "docs/reliability.md"
INTRODUCTION = """# Reliability

What was tried to make a run go wrong, and what happens now. `make reliability` tries all of it and writes
this page. The tests try it, too. Each line is a process of its own, or several. Faults of the machine
come from the system: small file systems, read-only mounts, limits, signals, other users, locales. A message
stands here as it was printed. Only folders are shortened to DIR.
"""
AFTERWARDS = """
## At length

`make stress` kills a run again and again at random moments, starts two runs at once in one folder, forges
every field of every file of a run's folder, and plants faults among images. SECURITY.md says what is promised
about such files. What its commands printed last, under Python 3.11 with today's versions:

- `python -m faults.stress` (20 of its 100 kills are SIGTERM): run 19: killed 100 times in all, ended with the
  same 45 files; 13 of 20: one won, the other was told who holds it; 7 of 20: one won, the other was told that
  it holds a run with another seed
- `python -m faults.fuzz --forgeries 500 --seed 0`: 500 forgeries in 41 of 41 files: 333 refused, 167
  harmless, 0 wrong; at most 0.9 s and 802 MiB
- `python -m faults.look BIRDS`: 5,000 images, 20 planted faults: 20 found, 0 missed, 0 more than before and
  planted
"""
NOT_HERE = "not tried on this system"


def shown(said, folder):
    """A message as it stands on the page: without what is another each time."""
    text = said.replace(str(folder), "DIR")
    text = re.sub(r"process \d+ on \S+, since [-\d]+ [:\d]+", "process N on HOST, since TIME", text)
    return text.replace("|", "\\|").replace("<", "&lt;").replace("[", "\\[")


def page(said):
    """The page.

    Args:
        said: what each case came to, in their order.
    """
    lines = [INTRODUCTION]
    for table in TABLES:
        lines += [f"## {table}\n", "| kind | tried | what happens now |", "| :-- | :-- | :-- |"]
        lines += [
            f"| {c.kind} | {c.tried} | {text} |" for c, text in zip(CASES.values(), said) if c.table == table
        ]
        lines.append("")
    return "\n".join(lines) + AFTERWARDS


def main():
    said = []
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder).resolve())
        for case in CASES.values():
            print(f"{case.kind}: {case.tried}", file=sys.stderr, flush=True)
            said.append(shown(case.run(bench) or NOT_HERE, bench.folder))
    PAGE.write_text(page(said), encoding="utf-8")
    kinds = {(case.table, case.kind) for case in CASES.values()}
    print(f"{PAGE}: {len(CASES)} cases of {len(kinds)} kinds, each as it should be")


if __name__ == "__main__":
    main()
