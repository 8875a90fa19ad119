"""Fourth table: what was said badly is one line with what to do."""

import contextlib
import ctypes
import os
import resource
import shutil
import signal
import time
from functools import partial

import numpy as np
import torch
from faults.bench import SHORT, STUDENT, case, weights
from images import SMALL
from PIL import Image
from processes import Fresh, Limit

from pml_slade.models import build_trunk

case = partial(case, 3)
LONG = ("rows=[teacher]", "teacher.steps=4000", "epoch_steps=4", "data.validation_fraction=0")
NEW_MOUNTS, NEW_USER = 0x00020000, 0x10000000
READ_ONLY, AGAIN = 1, 32


class Mount:
    """A file system of its own for one process, as `before` of `Forked`.

    Args:
        folder: where it lies.
        kib: its size; None: the folder itself, read-only.
        files: how many files it holds; 0: as many as fit.
    """

    def __init__(self, folder, kib=None, files=0):
        self.folder, self.kib, self.files = str(folder).encode(), kib, files

    def __call__(self):
        system = ctypes.CDLL(None, use_errno=True)
        if system.unshare(NEW_MOUNTS | (NEW_USER if os.getuid() else 0)):
            raise OSError(ctypes.get_errno(), "unshare")
        if system.mount(b"none", b"/", None, 1 << 18 | 1 << 14, None):  # nothing of it is seen outside
            raise OSError(ctypes.get_errno(), "mount")
        if self.kib is None:
            wrong = system.mount(self.folder, self.folder, None, 1 << 12, None) or system.mount(
                b"none", self.folder, None, 1 << 12 | READ_ONLY | AGAIN, None
            )
        else:
            size = f"size={self.kib}k,nr_inodes={self.files}".encode()
            wrong = system.mount(b"tmpfs", self.folder, b"tmpfs", 0, size)
        if wrong:
            raise OSError(ctypes.get_errno(), "mount")


def can_mount():
    """Whether a process may have file systems of its own here."""
    pid = os.fork()
    if not pid:
        try:
            Mount("/")()
        except (OSError, AttributeError):
            os._exit(1)
        os._exit(0)
    return os.waitpid(pid, 0)[1] == 0


@case("unreadable image", "three empty files among the labeled images")
def _(bench):
    folders = bench.copied_images()
    bad = sorted(folders["labeled"].rglob("*.jpg"))[:3]
    for file in bad:
        file.write_bytes(b"")
    run = bench.new()
    said = bench.refused(bench.train(folders, run, *SHORT), *map(str, bad), "data.unreadable=skip")
    assert not run.exists()
    running = bench.command("check", folders["labeled"], "-q")
    assert running.end() == (1, [])
    assert running.out.count("unreadable: ") == 3
    return said


@case("unreadable image", "a file whose end is missing, read by a loader process")
def _(bench):
    folders = bench.copied_images()
    bad = sorted(folders["labeled"].rglob("*.bmp"))
    for file in bad:
        file.write_bytes(file.read_bytes()[:-200])
    settings = ("data.workers=1", "data.validation_fraction=0", "data.check_duplicates=false")
    parts = {part: folders[part] for part in ("labeled", "unlabeled")}
    code, lines = bench.train(parts, bench.new(), *SHORT, *settings).end()
    assert (code, any(str(file) in lines[-1] for file in bad)) == (2, True), lines
    assert sum(line.startswith("error: ") for line in lines) == 1
    return lines[-1]


@case("unreadable image", "names with a line break and with a terminal's colours, among them a pipe's")
def _(bench):
    folders = bench.copied_images()
    for name in ("new\nline.png", "\x1b[31mred.png"):
        (folders["unlabeled"] / name).write_bytes(b"")
    os.mkfifo(folders["unlabeled"] / "pipe.png")
    code, lines = bench.train(folders, bench.new(), *SHORT).end()
    assert (code, len(lines)) == (2, 2), lines
    warning, said = lines
    assert warning.startswith("WARNING: "), lines
    assert "skipped 1 files that are no images (1 .png)" in warning
    bench._has(said, ["error: 2 of 194 images", "new\\nline.png", "\\x1b[31mred.png"])
    return said


@case("unreadable image", "Lab, CMYK, 16-bit, Exif that is damaged, and a hundred million pixels")
def _(bench):
    folders = bench.copied_images()
    pool = folders["unlabeled"]
    grey = np.random.default_rng(0).integers(0, 1 << 16, (24, 24)).astype(np.uint16)
    Image.new("LAB", (24, 24), (200, 100, 100)).save(pool / "lab.tiff")
    Image.new("CMYK", (24, 24), (9, 99, 9, 9)).save(pool / "cmyk.jpg")
    Image.fromarray(grey).save(pool / "deep.png")
    Image.new("RGB", (24, 24)).save(pool / "exif.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08" + b"\xff" * 50)
    Image.new("1", (10_000, 10_000)).save(pool / "large.png")
    running = bench.train(folders, bench.new(), *SHORT)
    bench.done(running)
    return "read, without a word"


def in_little_room(bench, settings, words, *room, **more):
    """Train on a file system of its own, see `Mount`."""
    run = bench.new()
    run.mkdir()
    if not can_mount():
        return None
    return bench.refused(bench.train(bench.images, run, *settings, before=Mount(run, *room, **more)), *words)


@case("faults of the machine", "a file system of 300 KiB that fills")
def _(bench):
    return in_little_room(bench, SHORT, ("checkpoints of ", "Free some"), 300)


@case("faults of the machine", "a file system that has room, but not for 20 files")
def _(bench):
    return in_little_room(bench, STUDENT, ("disk is full", "df -i"), 1 << 20, files=20)


@case("faults of the machine", "a limit on the size of files; then the same command without it")
def _(bench):
    run = bench.new()
    limit = Limit(resource.RLIMIT_FSIZE, 120_000)
    said = bench.refused(
        bench.train(bench.images, run, *SHORT, before=limit), "checkpoint-4.pt: File too large", "step 0 of 8"
    )
    bench.done(bench.train(bench.images, run, *SHORT))
    assert weights(run) == weights(bench.teacher)
    return said


@case("faults of the machine", "a folder on a disk that is mounted for reading")
def _(bench):
    place = bench.new()
    place.mkdir()
    if not can_mount():
        return None
    return bench.refused(bench.train(bench.images, place / "run", *SHORT, before=Mount(place)), "Read-only")


class Unprivileged:
    """No right of the system's own, which lets root write everywhere, as `before` of `Forked`."""

    def __call__(self):
        version, nothing = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
        if not os.getuid() and ctypes.CDLL(None).capset(version, nothing):
            raise OSError("capset")


@case("faults of the machine", "a folder of another user")
def _(bench):
    place = bench.new()
    place.mkdir(mode=0o555)
    if not os.getuid():
        os.chown(place, 65534, 65534)
    return bench.refused(
        bench.train(bench.images, place / "run", *SHORT, before=Unprivileged()), "Permission denied"
    )


@case("faults of the machine", "memory that is out")
def _(bench):
    used = resource.RLIMIT_AS
    settings = ("teacher.batch_size=64", "data.image_size=2048", *SHORT)
    running = bench.train(bench.images, bench.new(), *settings, before=Limit(used, 12 << 30))
    return bench.refused(running, "Out of memory", "batch_size")


@case("faults of the machine", "a process that reads images is killed")
def _(bench):
    run = bench.new()
    running = bench.train(bench.images, run, *LONG, "data.workers=1").wait_for(run / "teacher/checkpoints")
    deadline = time.monotonic() + 60
    while running.runs() and time.monotonic() < deadline:
        for child in running.children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        time.sleep(0.05)
    return bench.refused(running, "process that reads images", "(Teacher, step ")


@case("faults of the machine", "SIGTERM, as schedulers send it")
def _(bench):
    run = bench.new()
    running = bench.train(bench.images, run, *LONG).wait_for(run / "teacher/checkpoints")
    said = bench.refused(running.signal(signal.SIGTERM), "stopped; repeat", "(Teacher, step ", code=143)
    assert not (run / "run.lock").exists()
    return said


@case("faults of the machine", "a file, or a link to itself, where the output folder should be")
def _(bench):
    file = bench.new()
    file.touch()
    bench.refused(bench.train(bench.images, file / "run", *SHORT), str(file))
    loop = bench.new()
    loop.symlink_to(loop)
    bench.refused(bench.train(bench.images, loop, *SHORT), str(loop))
    return bench.refused(bench.train(bench.images, file, *SHORT), str(file))


@case("run folder damaged", "an empty config.yaml, a cut result.json, a checkpoint of another stage")
def _(bench):
    run = bench.copy(bench.teacher)
    before = weights(run)
    (run / "config.yaml").write_text("")
    bench.refused(bench.command("report", run), str(run / "config.yaml"))
    bench.done(bench.train(bench.images, run, *SHORT))  # written again
    result = run / "teacher/result.json"
    whole = result.read_text()
    result.write_text(whole[:-9])
    said = bench.refused(bench.train(bench.images, run, *SHORT), str(result), "delete")
    result.write_text(whole)
    shutil.rmtree(run / "teacher/checkpoints")
    shutil.copytree(bench.run / "slade/checkpoints", run / "teacher/checkpoints")
    for name in ("result.json", "model.safetensors"):
        (run / "teacher" / name).unlink()
    other = bench.refused(bench.train(bench.images, run, *SHORT), "teacher", "delete")
    shutil.rmtree(run / "teacher")
    bench.done(bench.train(bench.images, run, *SHORT))
    assert weights(run) == before
    return f"{said} / {other}"


@case("settings of a wrong type", "each in a file: a list, yes, a word, a key twice, a number too large")
def _(bench):
    said = []
    for text, words in (
        ("data: [1, 2]", "data must hold settings"),
        ("checkpoint_minutes: yes", "Input should be a number"),
        (
            "teacher: {loss: {name: ContrastiveLoss, pos_margin: wide}}",
            "teacher.loss: ContrastiveLoss refused",
        ),
        ("student: {miner: {name: MultiSimilarityMiner, epsilon: [1]}}", "student.miner: "),
        ("seed: 1\nseed: 2", "stands there twice"),
        (f"seed: 1{'0' * 400}", "seed: "),
        ("data: {workers: 100000}", "data.workers: "),
    ):
        file = bench.new("config").with_suffix(".yaml")
        file.write_text(text)
        small = [word for word in SMALL if word != "data.workers=0"]
        paths = [word for part, folder in bench.images.items() for word in (f"--{part}", folder)]
        command = ("train", "-c", file, *paths, "-o", bench.new(), *small, "rows=[teacher, slade]", "-q")
        said.append(bench.refused(bench.command(*command), words))
    return " / ".join(said[:3])


@case("a student's setting that cannot work", "min_cluster_size=100, then the same command without it")
def _(bench):
    run = bench.new()
    said = bench.refused(
        bench.train(bench.images, run, *STUDENT, "student.min_cluster_size=100"), "min_cluster_size=100"
    )
    bench.warned(bench.train(bench.images, run, *STUDENT), "it begins again")
    assert weights(run) == weights(bench.run)
    return said


@case("two batch sizes that do not fit the classes", "8 labeled classes, batch sizes by default")
def _(bench):
    folders = bench.copied_images()
    for folder in sorted(folders["labeled"].iterdir())[8:]:
        shutil.rmtree(folder)
    kept = [word for word in SMALL if "batch_size" not in word and "images_per_class" not in word]
    paths = [word for part, folder in folders.items() for word in (f"--{part}", folder)]
    small = ("student.unlabeled_batch_size=8",)
    running = bench.command("train", *paths, "-o", bench.new(), *kept, *SHORT, *small, "-q")
    return bench.warned(running, "data.labeled has 8 classes")


@case("evaluate() with class names as labels", "pml_slade.evaluation.evaluate")
def _(bench):
    code = (
        "import numpy as np\nfrom pml_slade.evaluation import evaluate\n"
        "print(evaluate(np.eye(4)[[0, 0, 1, 1]], ['oak', 'oak', 'birch', 'birch']))"
    )
    return bench.done(bench.python(code), "'MAP@R': 100.0")


@case("timm trunk that refuses the image size", "vit_tiny_patch16_224 with images of 32 x 32")
def _(bench):
    settings = ("model.trunk=vit_tiny_patch16_224", "data.image_size=32", "data.mode=RGB", *SHORT)
    return bench.refused(bench.train(bench.images, bench.new(), *settings), "data.image_size", "224")


@case(
    "steps of a stage that is not trained", "`pretrain` with epoch_steps that does not divide teacher.steps"
)
def _(bench):
    settings = ("pretraining.steps=3", "epoch_steps=3", "pretraining.batch_size=8", "data.image_size=24")
    paths = [word for part in ("labeled", "unlabeled") for word in (f"--{part}", bench.images[part])]
    bench.done(bench.command("pretrain", *paths, "-o", bench.new(), *SMALL, *settings, "-q"), "swav.pth.tar")
    return "pretrains"


@case("logs to a file", "`train` with its progress, standard error in a file")
def _(bench):
    paths = [word for part, folder in bench.images.items() for word in (f"--{part}", folder)]
    code, lines = bench.command("train", *paths, "-o", bench.new(), *SMALL, *SHORT).end()
    assert code == 0
    assert not [line for line in lines if "\r" in line or "\x1b" in line or len(line) > 500]
    said = [line for line in lines if line.startswith("Teacher: step ")]
    assert len(said) == 2, lines
    return said[0]


@case("encodings", "names in UTF-8, and others that are none; lists under LC_ALL=C and cp1252")
def _(bench):
    names = ["größe.png", "画像.png", b"caf\xe9.png".decode("utf-8", "surrogateescape")]
    pool = bench.new()
    pool.mkdir()
    for i, file in enumerate(sorted(bench.images["unlabeled"].glob("*.png"))):
        shutil.copy(file, pool / (names[i] if i < len(names) else file.name))
    number, made = len(list(pool.iterdir())), bench.new("c").with_suffix(".csv")
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "cp1252"}
    clusters = ("cluster", bench.teacher, pool, "-k", 4, "-o", made, "-q", "--workers", 0)
    embeddings = (
        "embed",
        bench.teacher,
        made,
        "-o",
        bench.new("e").with_suffix(".csv"),
        "-q",
        "--workers",
        0,
    )
    both = "import sys\nfrom processes import pml_slade_command\n" + "\n".join(
        f"pml_slade_command(*{[str(word) for word in words]}, ended=False)"
        for words in (embeddings, clusters)
    )
    bench.done(bench.command(*clusters))
    # The locale is settled when Python starts: one that reads what another wrote, then writes for others.
    bench.done(Fresh("-c", both, **plain), f"{number} embeddings")
    made.read_text(encoding="utf-8")
    return bench.done(bench.command(*embeddings), f"{number} embeddings")


@case("Lightning checkpoints", "weights under the prefix model.")
def _(bench):
    file = bench.new("weights").with_suffix(".ckpt")
    state = build_trunk("convnet", in_channels=1).state_dict()
    torch.save({"state_dict": {f"model.{name}": value for name, value in state.items()}}, file)
    bench.done(bench.train(bench.images, bench.new(), *SHORT, f"model.weights={file}"))
    return "read, as those under module. and backbone. are"
