"""Faults that are planted among many images, and whether `pml-slade check --decode` finds each of them."""

import argparse
import re
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from processes import Forked, pml_slade_command

CLASSES = 50
LINE = re.compile(r"^ *(unreadable|tiny|odd|duplicate): (.*?)(?:: | = )(.*)$")


def write(root, number, rng):
    """Write JPEG files that look like blurred photographs, in folders of classes."""
    for i in range(number):
        rough = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        folder = root / f"class {i % CLASSES:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        rough.resize((96, 72), Image.Resampling.BICUBIC).save(folder / f"{i:05d}.jpg", quality=80)


def link(root, source, number):
    """Link to the first image files below another folder, under the names of their folders."""
    files = sorted(file for file in source.rglob("*") if file.suffix.lower() in (".jpg", ".jpeg"))[:number]
    for i, file in enumerate(files):
        (root / file.parent.name).mkdir(parents=True, exist_ok=True)
        (root / file.parent.name / f"{i:05d}.jpg").symlink_to(file.resolve())
    return len(files)


def _empty(file, _):
    file.write_bytes(b"")


def _cut(file, _):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def _tiny(file, _):
    Image.open(file).resize((8, 8)).save(file)


def _long(file, _):
    Image.open(file).resize((960, 96)).save(file)


def _blank(file, _):
    Image.new("RGB", (96, 72), "grey").save(file)


def _misnamed(file, _):
    Image.open(file).save(file, "png")


def _repeated(file, other):
    shutil.copy(other, file)


PLANTED = (
    *[("unreadable", _empty)] * 4,
    *[("unreadable", _cut)] * 4,
    *[("tiny", _tiny)] * 3,
    *[("odd", _long)] * 3,
    *[("odd", _blank)],
    *[("odd", _misnamed)] * 2,
    *[("duplicate", _repeated)] * 3,
)
"""Kind of fault, as `check` calls it, and what makes a file one."""


def plant(root, rng):
    """Make 20 files faulty; return the kind and the file, or both files, of each."""
    files = sorted(root.rglob("*.jpg"))
    chosen = [files[i] for i in rng.choice(len(files), 2 * len(PLANTED), replace=False)]
    planted = set()
    for (kind, spoil), file, other in zip(PLANTED, chosen, chosen[len(PLANTED) :]):
        content = file.read_bytes()
        file.unlink()  # it may be a link
        file.write_bytes(content)
        spoil(file, other)
        planted.add((kind, frozenset(map(str, [file, other] if kind == "duplicate" else [file]))))
    return planted


def look(root):
    """What `check` finds: kind and file, or both files, of each fault."""
    running = Forked(pml_slade_command, "check", root, "--decode", "-q")
    code, lines = running.end(timeout=3600)
    assert code in (0, 1), lines
    found = [LINE.match(line) for line in running.out.splitlines()]
    return {
        (m[1], frozenset([m[2], m[3]] if m[1] == "duplicate" else [m[2]])) for m in found if m is not None
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", type=Path, nargs="?", help="photographs; default: images are drawn")
    parser.add_argument("--number", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        root, number = Path(folder).resolve() / "images", args.number
        if args.images is None:
            write(root, number, rng)
            before = set()
        else:
            number = link(root, args.images, number)
            before = look(root)  # photographs have faults of their own
        planted = plant(root, rng)
        begun = time.monotonic()
        found = look(root)
        seconds = time.monotonic() - begun
    missed, more = planted - found, found - planted - before
    print(
        f"{number:,} images, {len(planted)} planted faults: {len(planted & found)} found, "
        f"{len(missed)} missed, {len(more)} more than before and planted, in {seconds:.0f} s"
    )
    raise SystemExit(bool(missed or more))


if __name__ == "__main__":
    main()
