"""A run's folder as a stranger would hand it over: every field of every file forged, one at a time.

What reads the file is run in a process that is watched. No code of the stranger may run, nothing outside may
be read, written or fetched, and it ends in less than `MOST_SECONDS` and `MOST_MEMORY`, well or with one line.
"""

import argparse
import os
import resource
import shutil
import socket
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
from faults.bench import Bench
from faults.forging import DECOY, files_of, forge
from images import SMALL
from processes import Forked, pml_slade_command

MOST_SECONDS = 10
MOST_MEMORY = 1 << 30
ROWS = ("rows=[teacher, slade]", "model.train=head", "data.image_size=24", "model.feature_views=1")
EVIL = """import os
from pathlib import Path
Path(__file__).with_name("made").mkdir()
"""
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
FORBIDDEN = (
    "socket.connect",
    "socket.getaddrinfo",
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
)
CHANGES = (
    "os.mkdir",
    "os.rename",
    "os.remove",
    "os.rmdir",
    "os.symlink",
    "os.link",
    "os.chmod",
    "shutil.rmtree",
)
BELOW = ("os.mkdir", "os.remove", "os.rmdir")
"""Of these, the last argument of the audit is the folder's descriptor."""
REPORTED = ("config.yaml", "results.json", "environment.json")
OF_LIBRARIES = tuple(Path(tempfile.gettempdir(), name) for name in ("torch", "pymp-"))
"""Beginnings of what torch and multiprocessing, which talks to processes that read images, make there."""
NAMES_IMAGES = ("labeled", "unlabeled", "validation", "test", "gallery", "root")
"""Settings of data that name images: a report opens these, and says so."""


class Watch:
    """Notes what a process must not do, as `before` of `Forked`.

    Args:
        notes: file to write to.
        here: the current folder, with a module of the stranger's.
        decoy: folder that nothing may read.
        own: folders that may be written to.
        images: whether the decoy may hold the run's images.
    """

    def __init__(self, notes, here, decoy, own, images):
        self.notes, self.here, self.decoy = notes, here, str(decoy)
        self.own, self.images = [str(each) for each in own], images

    def __call__(self):
        os.chdir(self.here)  # where a module of the stranger's lies
        self.handle = os.open(self.notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        sys.addaudithook(self._heard)

    def _heard(self, event, arguments):
        if event == "open":
            path, mode, flags = arguments
            if isinstance(path, str | bytes | os.PathLike):
                writes = flags & WRITES or (isinstance(mode, str) and set(mode) & set("wax+"))
                self._look(event, os.fsdecode(path), writes)
        elif event in CHANGES:
            path, folder = os.fsdecode(arguments[0]), arguments[-1]
            if event in BELOW and folder > 2:
                path = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), path)
            self._look(event, path, True)
        elif event == "socket.connect" and arguments[0].family == socket.AF_UNIX:
            return  # loader processes talk to each other
        elif event in FORBIDDEN:
            self._note(f"{event} {arguments!r:.200}")

    def _look(self, event, path, writes):
        path = os.path.abspath(path)
        if writes and not path.startswith((*self.own, "/dev/", "/proc/")):
            self._note(f"{event}, to write, {path}")
        elif path.startswith(self.decoy) and not self.images:
            self._note(f"{event} {path}")

    def _note(self, text):
        os.write(self.handle, f"{text}\n".encode("utf-8", "replace"))


def measured(notes, *arguments):
    """A command, and what it used."""
    try:
        pml_slade_command(*arguments)
    finally:
        used = resource.getrusage(resource.RUSAGE_SELF)
        Path(notes).write_text(f"{used.ru_utime + used.ru_stime} {used.ru_maxrss << 10}")


class Fuzz:
    """Forges a run.

    Args:
        folder: empty.
        seed: of the forgeries.
    """

    def __init__(self, folder, seed=0):
        self.bench, self.rng = Bench(folder), np.random.default_rng(seed)
        self.decoy, self.run = folder / DECOY, folder / "whole"
        self.decoy.mkdir()
        (self.decoy / "notes").write_text("nobody reads this")
        self.here = folder / "here"
        self.here.mkdir()
        (self.here / "evil.py").write_text(EVIL)
        self.others = self.bench.copied_images()  # lists of images are read where these have changed
        for images in self.others.values():
            next(images.rglob("*.png")).unlink()
        self.bench.done(self.bench.command(*self._train(self.run)))
        index = ("index", self.run, self.bench.images["test"], "-o", self.run / "index", "-q", "--workers", 0)
        self.bench.done(self.bench.command(*index))
        shutil.rmtree(self.run / "teacher/records/tensorboard")  # nothing reads these
        shutil.rmtree(self.run / "slade/records/tensorboard")
        self.files = [file.relative_to(self.run) for file in files_of(self.run)]

    def _train(self, run, images=None):
        folders = images or self.bench.images
        paths = [word for part, folder in folders.items() for word in (f"--{part}", folder)]
        return ("train", *paths, "-o", run, *SMALL, *ROWS, f"model.features={run}/features", "-q")

    def _reader(self, copy, name):
        """The command that reads a file, after what must be gone so that it does."""
        embed = ("embed", copy, self.bench.images["test"], "-o", copy / "e.npz", "-q", "--workers", 0)
        of_a_report = name.name in REPORTED or name.suffix in (".csv", ".npy")
        if of_a_report and name.parts[0] != "features":
            return ("report", copy, "-q", "--workers", 0)
        if name.parts[0] == "index":
            query = next(self.bench.images["test"].rglob("*.png"))
            return ("search", copy, query, "--index", copy / "index", "-o", copy / "found.json", "-q")
        if name.suffix == ".safetensors" and len(name.parts) == 1:
            return embed
        if name.suffix == ".gz":
            return self._train(copy, self.others)
        if name.suffix == ".pt" or name.parts[0] == "features":
            row = name.parts[0] if name.suffix == ".pt" else "slade"
            for other in ("result.json", "model.safetensors"):
                (copy / row / other).unlink()
        if name.suffix == ".pt":
            for other in (copy / name).parent.glob("*.pt"):
                if other.name != name.name:
                    other.unlink()
        return self._train(copy)

    def forge(self, name=None):
        """Forge a field of a file and have it read; return the forgery, and what its reader did wrong."""
        name = self.files[self.rng.integers(len(self.files))] if name is None else name
        copy = self.bench.copy(self.run)
        forgery = forge(copy, copy / name, self.decoy, self.rng)
        command = self._reader(copy, name)
        notes, used = self.bench.new("notes"), self.bench.new("used")
        images = name.name == "config.yaml" and any(word in forgery.field for word in NAMES_IMAGES)
        own = (copy, used, *OF_LIBRARIES, Path.home() / ".cache")
        watch = Watch(notes, self.here, self.decoy, own, images)
        code, lines = Forked(measured, used, *command, before=watch).end()
        wrong = notes.read_text().splitlines()
        errors = [line for line in lines if not line.startswith("WARNING: ")]
        if not (
            (code == 0 and not errors) or (code == 2 and len(errors) == 1 and errors[0].startswith("error: "))
        ):
            wrong.append(f"it ended with {code}: {' / '.join(errors)[-600:]}")
        for made in (self.decoy / "made", self.here / "made"):
            if made.exists():
                wrong.append("code of the stranger ran")
                made.rmdir()
        seconds, memory = map(float, used.read_text().split()) if used.exists() else (0, 0)
        if seconds > MOST_SECONDS or memory > MOST_MEMORY:
            wrong.append(f"it took {seconds:.0f} s of processor time and {memory / 2**20:.0f} MiB")
        shutil.rmtree(copy)
        self.seconds, self.memory, self.refused = seconds, memory, code != 0
        return forgery, wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--forgeries", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    said, slowest, largest, files = Counter(), 0.0, 0.0, set()
    with tempfile.TemporaryDirectory() as folder:
        fuzz = Fuzz(Path(folder).resolve(), args.seed)
        for number in range(args.forgeries):
            forgery, wrong = fuzz.forge()
            files.add(forgery.file)
            said["wrong" if wrong else "refused" if fuzz.refused else "harmless"] += 1
            slowest, largest = max(slowest, fuzz.seconds), max(largest, fuzz.memory)
            if wrong:
                print(f"forgery {number}: {forgery}: {'; '.join(wrong)}", flush=True)
        whole = len(fuzz.files)
    print(
        f"{args.forgeries} forgeries in {len(files)} of {whole} files: {said['refused']} refused, "
        f"{said['harmless']} harmless, {said['wrong']} wrong; at most {slowest:.1f} s and "
        f"{largest / 2**20:.0f} MiB"
    )
    raise SystemExit(bool(said["wrong"]))


if __name__ == "__main__":
    main()
