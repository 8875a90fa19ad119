"""First table: what came out wrong without a word, or was lost."""

import os
import resource
import shutil
from functools import partial

import numpy as np
from faults.bench import SHORT, STUDENT, case, flip, weights
from faults.stress import two_at_once
from images import drawings
from PIL import Image
from processes import Limit

case = partial(case, 0)
TRAINER = """
import logging, warnings
import torch
from pytorch_metric_learning.losses import ContrastiveLoss
from pml_slade import PseudoLabelDataset, SelfTrainingTrainer
from pml_slade.compat import silent_epochs

silent = silent_epochs()
silent.__enter__()
logging.getLogger("PML").setLevel(logging.ERROR)  # it has a word for a trunk without an embedder
warnings.simplefilter("ignore")
torch.manual_seed(0)
labeled = [(torch.randn(4) + 3 * (i % 2), i % 2) for i in range(24)]
pool = [torch.randn(4) * 0.3 + torch.eye(4)[i % 3] * 4 for i in range(36)]
trunk = torch.nn.Linear(4, 3)

def build(labeled=labeled, pool=pool, trunk=trunk, batch_size=8, **settings):
    optimizers = {"trunk_optimizer": torch.optim.SGD(trunk.parameters(), lr=0.01)}
    settings = {"num_clusters": 3, "dataloader_num_workers": 0, **settings}
    settings["cluster_kwargs"] = {"progress": False, **settings.get("cluster_kwargs", {})}
    losses = {"metric_loss": ContrastiveLoss()}
    return SelfTrainingTrainer({"trunk": trunk}, optimizers, batch_size, losses, labeled, pool, **settings)
"""


@case("normalisation", "a trunk whose weights were trained with another mean and deviation")
def _(bench):
    code = "from pml_slade.models import trunk_input\nprint(trunk_input('tf_efficientnet_lite0'))"
    said = bench.done(bench.python(code), "mean=(0.5, 0.5, 0.5)", "std=(0.5, 0.5, 0.5)")
    return f"its own are used: {said}"


@case(
    "sampler of a pool that shrank", "clustering leaves two images out, the sampler draws from the raw pool"
)
def _(bench):
    code = TRAINER + (
        "pool[5], pool[17] = torch.tensor([0, 0, 0, -9.0]), torch.tensor([0, -9.0, 0, 0])\n"
        "drawn = [35, 17, 6, 5, 18, 0, 4, 16, 30, 31]\n"
        "trainer = build(teacher=torch.nn.Identity(), num_clusters=5, iterations_per_epoch=1,\n"
        "    cluster_kwargs={'min_cluster_size': 2, 'method': 'ward'}, unlabeled_sampler=drawn)\n"
        "get_batch = trainer.get_batch\n"
        "trainer.get_batch = lambda: batches.append(get_batch()) or batches[-1]\n"
        "batches = []\n"
        "trainer.train(num_epochs=1)\n"
        "data = batches[0][1][0]\n"
        "assert torch.equal(data, torch.stack([pool[i] for i in drawn if i not in (5, 17)]))\n"
        "print(f'{trainer.pool.num_left_out} images left out, the {len(data)} others of the sampler came')"
    )
    return bench.done(bench.python(code), "2 images left out, the 8 others")


@case("nothing trained", "6 labeled images, batch_size=8, 5 epochs")
def _(bench):
    running = bench.python(TRAINER + "build(labeled=labeled[:6]).train(num_epochs=5)")
    return bench.refused(running, "dataset has 6 samples, fewer than one batch of 8")


@case("nothing measured", "fewer than 10 labeled classes and no test images")
def _(bench):
    folders = bench.copied_images()
    for folder in sorted(folders["labeled"].iterdir())[9:]:
        shutil.rmtree(folder)
    parts = {part: folders[part] for part in ("labeled", "unlabeled")}
    code, lines = bench.train(parts, bench.new(), *SHORT).end()
    assert code == 0
    bench._has(" ".join(lines), ["data.labeled has 9 classes", "nothing will be measured"])
    own = ("data.validation_fraction=0.3", *SHORT)
    bench.done(bench.train(parts, bench.new(), *own), "validation classes")
    return " ".join(lines)


def _swap(folder):
    """Another image in the place of one."""
    file = sorted(folder.rglob("*.png"))[0]
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(file)


def _add(folder):
    file = sorted(folder.rglob("*.png"))[0]
    shutil.copy(file, file.with_name("new.png"))


def _rename(folder):
    file = sorted(folder.rglob("*.png"))[0]
    file.rename(file.with_name("renamed.png"))


@case("data changed on resume", "an image swapped, added or renamed in labeled, pool or test images")
def _(bench):
    folders = bench.copied_images()
    run, said = bench.copy(bench.run), []
    for part, change in (("labeled", _swap), ("unlabeled", _add), ("test", _rename)):
        kept = bench.copy(folders[part])
        change(folders[part])
        said.append(
            bench.refused(bench.train(folders, run, *STUDENT), "with other images", f"{part} images: 1")
        )
        shutil.rmtree(folders[part])
        kept.rename(folders[part])
    before = weights(run)
    bench.done(bench.train(folders, run, *STUDENT))
    assert weights(run) == before
    return said[-1]


@case("two runs in one folder", "the same command with two seeds, at once")
def _(bench):
    said = two_at_once(bench.new(), tries=2, say=lambda line: None)
    return f"one wins, the other {' or '.join(sorted(said))}"


@case("damaged copy wins", "one byte of a finished row's model flipped, the same command again")
def _(bench):
    run = bench.copy(bench.teacher)
    before = weights(run)
    flip(run / "teacher/model.safetensors")
    said = bench.refused(bench.train(bench.images, run, *SHORT), "does not match its SHA-256")
    assert weights(run) == before
    return said


@case("damaged weights", "one bit of a model's file flipped, given as model.weights")
def _(bench):
    file = bench.copy(bench.teacher) / "model.safetensors"
    flip(file)
    running = bench.train(bench.images, bench.new(), *SHORT, f"model.weights={file}")
    return bench.refused(running, str(file), "does not match its SHA-256")


@case("foreign files", "`-o .` in a folder that holds other/.editor.tmp")
def _(bench):
    here = bench.new()
    theirs = here / "other/.editor.tmp"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("notes")
    bench.done(bench.train(bench.images, ".", *SHORT, before=partial(os.chdir, here)))
    assert theirs.read_text() == "notes"
    return "the run is trained there; the file is left as it was"


@case("links", "folders a and b that link to each other twice")
def _(bench):
    root = bench.new()
    images, _labels = drawings(2, per_class=3)
    for i, image in enumerate(images):
        (root / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(root / "ab"[i % 2] / f"{i}.png")
    for here, there in (("a", "b"), ("b", "a")):
        for name in ("one", "two"):
            (root / here / name).symlink_to(root / there)
    running = bench.command("check", root)
    running.end()
    bench._has(running.out, [": 6 images"])
    return running.out.splitlines()[0]


@case("lost images", "a .jfif, a JPEG without suffix, and HEIC without its extra")
def _(bench):
    folders = bench.copied_images()
    file = sorted(folders["unlabeled"].glob("*.jpg"))[0]
    for name in ("a.jfif", "b"):
        shutil.copy(file, file.with_name(name))
    running = bench.command("check", folders["unlabeled"])
    running.end()
    bench._has(running.out, [": 66 images"])
    lost = folders["labeled"] / "lost"
    lost.mkdir()
    (lost / "a.strange").write_bytes(b"no image")
    return bench.warned(bench.train(folders, bench.new(), *SHORT), "skipped 1 files", ".strange", "'lost'")


@case("pool that is no pool", "the pool is the labeled folder")
def _(bench):
    folders = bench.images | {"unlabeled": bench.images["labeled"]}
    code, lines = bench.train(folders, bench.new(), *SHORT).end()
    [line] = [line for line in lines if "are labeled images" in line]
    assert code == 0
    return line


@case("pool that is no pool", "nearly as many clusters as images")
def _(bench):
    running = bench.train(bench.images, bench.new(), *SHORT, "student.num_clusters=60")
    return bench.warned(running, "num_clusters=60 for 64 images")


@case("pool that is no pool", "all images are the same")
def _(bench):
    folders = bench.copied_images()
    files = sorted(folders["unlabeled"].glob("*.png"))
    for file in sorted(folders["unlabeled"].iterdir()):
        if file not in files:
            file.unlink()
    for file in files[1:]:
        shutil.copy(files[0], file)
    code, lines = bench.train(folders, bench.new(), *STUDENT).end()
    found = [line for line in lines if "different embedding" in line]
    assert (code, len(found) > 0) in ((0, True), (2, True)), lines
    return found[0]


@case("pool that is no pool", "test images in the pool, with --quiet")
def _(bench):
    folders = bench.copied_images()
    for i, file in enumerate(sorted(folders["test"].rglob("*.png"))[:3]):
        shutil.copy(file, folders["unlabeled"] / f"test-{i}.png")
    return bench.warned(bench.train(folders, bench.new(), *SHORT), "3 exact", "test")


@case("NaN in a script", "a model that gives NaN in train mode")
def _(bench):
    code = TRAINER + (
        "class Broken(torch.nn.Linear):\n"
        "    def forward(self, x):\n"
        "        return super().forward(x) * (float('nan') if self.training else 1)\n"
        "build(trunk=Broken(4, 3)).train(num_epochs=1)"
    )
    return bench.refused(bench.python(code), "DivergedError", "not finite")


@case("short embeddings", "a model that returns 3 rows for 60 items")
def _(bench):
    code = (
        "import torch\nfrom pml_slade.clustering import embed\n"
        "class Short(torch.nn.Module):\n    def forward(self, x):\n        return x[:3]\n"
        "embed([torch.ones(8)] * 60, Short(), progress=False)"
    )
    return bench.refused(bench.python(code), "DataError", "3")


@case("numbers out of range", "pseudo-labels above 2**63, unlabeled_batch_size=0, num_clusters=0")
def _(bench):
    code = "import numpy as np\n" + TRAINER
    huge = "PseudoLabelDataset(pool, np.full(36, 2**63, np.uint64))"
    said = [
        bench.refused(bench.python(code + line), words)
        for line, words in (
            (huge, "pseudo_labels"),
            ("build(unlabeled_batch_size=0)", "unlabeled_batch_size must be"),
            ("build(num_clusters=0)", "num_clusters must be"),
        )
    ]
    return " / ".join(said)


@case("same file twice", "a CSV list with a/1.png and a/./1.png")
def _(bench):
    root = bench.copied_images()["labeled"]
    name = next(root.rglob("*.png")).relative_to(root)
    listed = root / "list.csv"
    listed.write_text(f"path,label\n{name},x\n{name.parent}/./{name.name},y\n")
    running = bench.train(bench.images | {"labeled": listed}, bench.new(), *SHORT)
    return bench.refused(running, "line 2", "line 3")


@case("overwritten output", "`embed -o e.npz` onto an existing file when the disk fills")
def _(bench):
    out = bench.new("e").with_suffix(".npz")
    out.write_bytes(b"old")
    limit = Limit(resource.RLIMIT_FSIZE, 1000)
    command = ("embed", bench.teacher, bench.images["unlabeled"], "-o", out, "-q", "--workers", 0)
    said = bench.refused(bench.command(*command, before=limit), str(out), "File too large")
    assert out.read_bytes() == b"old"
    return said


@case("strange lists", "CSV lists that are a pipe, hold a NUL, or a name of 200,000 letters")
def _(bench):
    root = bench.images["labeled"]
    text = "path,label\n" + "".join(f"{file},{file.parent.name}\n" for file in sorted(root.rglob("*.png")))
    pipe, said = bench.new("list").with_suffix(".csv"), []
    os.mkfifo(pipe)
    said.append(bench.refused(bench.train(bench.images | {"labeled": pipe}, bench.new(), *SHORT), str(pipe)))
    for more, word in (("a\0b.png,x\n", "a NUL"), ("x" * 200_000 + ",x\n", "name too long")):
        listed = bench.new("list").with_suffix(".csv")
        listed.write_text(text + more)
        line = bench.refused(bench.train(bench.images | {"labeled": listed}, bench.new(), *SHORT), word)
        assert len(line) < 1000
    return said[0]


@case("overwritten output", "`embed`, `report` and `export` onto a pipe, as onto /dev/null")
def _(bench):
    pipe, said = bench.new("e"), []
    os.mkfifo(pipe)
    for command in (
        ("embed", bench.teacher, bench.images["test"], "--workers", 0, "-q"),
        ("report", bench.teacher, "--workers", 0, "-q"),
        ("export", bench.teacher, "--to", "torchscript"),
    ):
        said.append(bench.refused(bench.command(*command, "-o", pipe), str(pipe), "no regular file"))
    assert pipe.is_fifo()
    return said[0]


@case("wrong format", "`embed -o e.csv`, and `-o e.what`")
def _(bench):
    out = bench.new("e")
    command = ("embed", bench.teacher, bench.images["unlabeled"], "-q", "--workers", 0, "-o")
    bench.done(bench.command(*command, out.with_suffix(".csv")))
    assert out.with_suffix(".csv").read_text().startswith("path,")
    return "a CSV file; " + bench.refused(bench.command(*command, out.with_suffix(".what")), ".npz")
