"""Runs that are killed at random moments, and runs that are started at once: `make stress` does it at length.

A run with SwAV, a frozen trunk and a student is killed again and again, in the middle of whatever it does,
and repeated, until it ends. Its files are compared with those of a run that nobody disturbed. Then a new
folder is begun, until there were as many kills as were asked for.
"""

import argparse
import csv
import json
import re
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from images import BEST, SMALL, write_images
from processes import Forked, pml_slade_command, script

SETTINGS = (
    *SMALL,
    *BEST,
    "rows=[teacher, control, slade]",
    "epoch_steps=2",
    "data.image_size=24",
    "pretraining.steps=6",
    "pretraining.batch_size=8",
    "model.train=head",
    "model.feature_views=2",
    "teacher.steps=6",
    "student.steps=6",
)
TWO_ROWS = (*SMALL, "rows=[teacher]", "teacher.steps=4", "epoch_steps=2", "data.check_duplicates=false")
RESUMES = "stopped; repeat the command to resume from the last checkpoint"


def train(folders, run, *settings):
    """A run that is on its way."""
    paths = [word for part, folder in folders.items() for word in (f"--{part}", folder)]
    features = f"model.features={run}/features"
    return Forked(pml_slade_command, "train", *paths, "-o", run, *settings, features, "-q")


def outcome(folder):
    """All that a run came to, file by file, in a form that can be compared exactly.

    Left out are what a killed write leaves under a hidden name, the pictures of TensorBoard and SQLite, which
    hold times, and checkpoints, of which a kill may leave one more.
    """
    found = {}
    for file in sorted(folder.rglob("*")):
        name = str(file.relative_to(folder))
        if file.is_dir() or file.suffix == ".tmp" or file.parent.name == "checkpoints" or "tfevents" in name:
            continue
        if file.suffix == ".db":
            found[name] = None
        elif file.suffix == ".json":
            found[name] = json.loads(file.read_text())
        elif file.suffix == ".csv":
            found[name] = list(csv.reader(file.read_text().splitlines()))
        else:
            found[name] = file.read_bytes()
    return found


def differences(found, expected):
    """Names of the files that are not the same."""
    return [name for name in {**found, **expected} if found.get(name) != expected.get(name)]


def kill(folder, kills, terms, seed=0, say=print):
    """Kill runs at random moments.

    Args:
        folder: where runs and images go.
        kills: how many, those before the end of a run alone counted.
        terms: how many of them are SIGTERM; the others are SIGKILL.
        seed: of the moments.
        say: is given a line for each run that ended.

    Returns:
        How often each signal came, and where the runs stood: the last folder that had been begun.

    Raises:
        AssertionError: a run came to other files, or ended otherwise.
    """
    folders, rng = write_images(folder / "images"), np.random.default_rng(seed)
    Forked(script, "").end()  # the first one imports the package
    begun = time.monotonic()
    # the same folder by name: a run's config names where its features are
    code, lines = train(folders, folder / "run", *SETTINGS).end()
    assert (code, lines) == (0, []), lines
    duration, expected = time.monotonic() - begun, outcome(folder / "run")
    signals = rng.permutation([signal.SIGTERM] * terms + [signal.SIGKILL] * (kills - terms)).tolist()
    stood, number = Counter(), 0
    while signals:
        (folder / "run").rename(folder / f"run-{number}")
        number += 1
        while True:
            running = train(folders, folder / "run", *SETTINGS)
            time.sleep(rng.uniform(0, 0.5 * duration))
            wanted = signals[-1] if signals else 0
            was_running = running.signal(wanted).runs() if wanted else True
            code, lines = running.end()
            if code == 0:
                assert lines == [], lines
                break
            assert was_running, (code, lines)
            asked = wanted == signal.SIGTERM
            assert code in ((-wanted, 128 + wanted) if asked else (-wanted,)), (code, lines)
            assert all(line.startswith(RESUMES) for line in lines), lines
            signals.pop()
            stood[(signal.Signals(wanted).name, place(folder / "run"))] += 1
        other = differences(outcome(folder / "run"), expected)
        assert not other, f"other files: {other}"
        say(f"run {number}: killed {stood.total()} times in all, ended with the same {len(expected)} files")
    return stood


def place(run):
    """How far a run got."""
    begun = [
        name for name in ("pretraining", "features", "teacher", "control", "slade") if (run / name).exists()
    ]
    return begun[-1] if begun else "nothing yet"


def two_at_once(folder, tries, seed=0, say=print):
    """Start two runs in one folder, the second after a random while.

    Returns:
        How often the second was told who holds the folder, that the first one was over, and the like.

    Raises:
        AssertionError: both trained, none did, or the one that did not said nothing.
    """
    folders, rng = write_images(folder / "images"), np.random.default_rng(seed)
    Forked(script, "").end()
    begun = time.monotonic()
    assert train(folders, folder / "alone", *TWO_ROWS, "seed=0").end() == (0, [])
    duration, said = time.monotonic() - begun, Counter()
    for number in range(tries):
        run, delay = folder / f"run-{number}", rng.uniform(0, duration)
        both = [train(folders, run, *TWO_ROWS, "seed=0")]
        time.sleep(delay)
        both.append(train(folders, run, *TWO_ROWS, "seed=1"))
        ends = [running.end() for running in both]
        assert sorted(code for code, _ in ends) == [0, 2], ends
        winner = [code for code, _ in ends].index(0)
        [line] = [line for _, lines in ends for line in lines if line.startswith("error: ")]
        holder = re.search(r"is in use by process (\d+) ", line)
        if holder:
            assert int(holder[1]) == both[winner].pid, (line, both[winner].pid)
        else:
            assert "was begun with other settings" in line, line
            assert "seed: " in " ".join(ends[1 - winner][1]), ends
        assert f"seed: {winner}\n" in (run / "config.yaml").read_text()
        assert json.loads((run / "teacher/inputs.json").read_text())["settings"]["seed"] == winner
        said["was told who holds it" if holder else "was told that it holds a run with another seed"] += 1
        say(f"try {number + 1}, after {delay:.2f} s: seed {winner} won, the other {list(said)[-1]}")
    return said


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--terms", type=int, default=20, help="of the kills, SIGTERM; the others are SIGKILL")
    parser.add_argument("--tries", type=int, default=20, help="of two runs at once")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if args.kills:
            stood = kill(Path(folder, "kills"), args.kills, args.terms, args.seed)
            for (name, where), count in sorted(stood.items()):
                print(f"{name} in or after {where}: {count}")
        if args.tries:
            for words, count in two_at_once(Path(folder, "two"), args.tries, args.seed).items():
                print(f"{count} of {args.tries}: one won, the other {words}")


if __name__ == "__main__":
    main()
