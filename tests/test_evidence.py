"""The scripts behind docs/results.md and docs/findings.md write their tables, and train nothing twice."""

import sys
from argparse import Namespace

import pytest
import torch
from omniglot_tree import write_omniglot
from scripts import load_script, run_script, run_script_here

from pml_slade.losses import FeatureBasisLoss
from pml_slade.methods.pool import USUAL_WEIGHT
from pml_slade.miners import ThresholdPairMiner
from pml_slade.running.loading import load_config
from pml_slade.running.run import Result

pytestmark = pytest.mark.once
TINY = (
    "epoch_steps=2",
    "data.image_size=16",
    "model.embedding_size=8",
    *(f"{stage}.{s}" for stage in ("teacher", "student") for s in ("steps=4", "batch_size=8")),
    "student.unlabeled_batch_size=4",
    "student.basis.warmup=1",
    "methods.self_taught.neighbours=2",
)


@pytest.fixture(scope="module")
def omniglot(tmp_path_factory):
    root = tmp_path_factory.mktemp("omniglot")
    return write_omniglot(root, background=17, evaluation=2, characters=3, drawings=6)


def run(script, omniglot, folder, *options, start=run_script_here):
    files = ["--runs", folder / "runs", "--results", folder / "page.md", "--jobs", 2]
    start(script, omniglot, *TINY, *options, *files)
    return (folder / "page.md").read_text()


def times(folder):
    return {file: file.stat().st_mtime_ns for file in folder.rglob("result.json")}


def test_the_evidence_is_a_table_per_data_set_and_goes_on(omniglot, tmp_path):
    tasks = ("--seeds", 0, "--tasks", "omniglot-5")
    some = ("--rows", "control", "slade", "--presets", "best")
    run("evidence", omniglot, tmp_path, *tasks, "useless", *some, start=run_script)
    before = times(tmp_path)
    text = run("evidence", omniglot, tmp_path, *tasks)
    assert {file: time for file, time in times(tmp_path).items() if file in before} == before
    whole = "## Omniglot, 5 labeled alphabets"
    for title in (f"{whole}\n", f"{whole}, 80 % of the pool useless"):
        assert title in text
    for preset in ("best", "paper"):
        assert f"Preset `{preset}`, seeds: 1." in text
    for row in ("Mean teacher", "Self-taught (STML)", "With a feature basis", "Oracle (true pool labels)"):
        assert f"| {row} |" in text
    assert text.count("| SLADE |") == 3


def result(row, score):
    metrics = dict.fromkeys(("MAP@R", "RP", "P@1"), score)
    return Result(row, f"The {row}", 1, 64, metrics, metrics, "")


def test_the_share_is_that_of_the_oracles_gain():
    evidence = load_script("evidence")
    runs = [
        {row: result(row, score) for row, score in zip(("teacher", "control", "slade", "oracle"), scores)}
        for scores in ((10, 20, 28, 30), (10, 30, 34, 40))
    ]
    assert evidence.against_control("slade", runs) == ["+6.0 ± 25.4", "60 % ± 254"]
    assert evidence.against_control("oracle", runs) == ["+10.0 ± 0.0", ""]
    assert evidence.against_control("control", runs) == ["", ""]
    # Where the teacher was better before it was trained on, it is the one to beat.
    for run, score in zip(runs, (24, 10)):
        run["teacher"] = result("teacher", score)
    assert "SLADE +4.0 ± 0.0 MAP@R, 53 % ± 169 of what the oracle" in evidence.over_the_better(runs)[0]


def test_slade_is_compared_with_the_peer_of_the_best_mean_by_seed():
    evidence = load_script("evidence")
    rows = ("control", "pseudo", "iterated", "slade", "oracle")
    runs = [
        {row: result(row, score) for row, score in zip(rows, scores)}
        for scores in ((90, 12, 20, 26, 90), (90, 26, 20, 18, 90))
    ]
    (text,) = evidence.over_the_best_peer(runs)
    assert "peers, The iterated: SLADE +2.0 MAP@R ± 50.8 (by seed: +6.0, -2.0)." in text
    no_peers = [{row: run[row] for row in ("control", "slade")} for run in runs]
    assert evidence.over_the_best_peer(no_peers) == []


def test_there_is_no_share_where_the_oracle_is_no_bound():
    evidence = load_script("evidence")
    rows = {row: result(row, 1.0) for row in evidence.PAPER}
    assert "–" in evidence.table([rows], evidence.PAPER)
    assert "share" in evidence.table([rows], evidence.PAPER)
    assert "share" not in evidence.table([rows], evidence.PAPER, shares=False)
    assert evidence.over_the_better([rows])[0].endswith("SLADE +0.0 MAP@R.")


def test_tuning_chooses_among_as_many_settings_for_each(omniglot, tmp_path):
    text = run("tuning", omniglot, tmp_path, "--rows", "mean_teacher", "slade", "--seeds", 0)
    assert text.count("**chosen**") == 2
    assert text.count("| Mean teacher |") == text.count("| SLADE |") == 4
    before = times(tmp_path)
    assert run("tuning", omniglot, tmp_path, "--rows", "mean_teacher", "slade", "--seeds", 0) == text
    assert times(tmp_path) == before


def test_the_ablation_compares_each_variant_with_the_whole(omniglot, tmp_path):
    text = run("ablation", omniglot, tmp_path, "--of", "useless", "--seeds", 0)
    assert "## A pool of which 80 % are useless" in text
    assert [line.split(" | ")[0] for line in text.splitlines() if line.startswith("| ")][2:] == [
        f"| {title}" for title in ("the whole preset", "control", "oracle", "plain pseudo-labels")
    ]


def test_every_variant_of_the_ablation_can_be_built():
    for variants in load_script("ablation").VARIANTS.values():
        assert len({(v.preset, v.row, v.settings, v.useless, v.mined) for v in variants}) == len(variants)
        for v in variants:
            load_config(["omniglot", v.preset], [*v.settings, f"rows=[{v.row}]"])


@pytest.mark.parametrize("part", ["positives", "negatives", "agreeing"])
def test_a_part_of_eq_7_mines_and_pseudo_labels_do_the_rest(part):
    torch.manual_seed(0)
    true = 5 + torch.arange(24) % 5  # pseudo-labels come after those of the classes
    labels = torch.where(torch.arange(24) < 6, 5 + (true + 1) % 5, true)  # a few are wrong
    embeddings = torch.randn(5, 4)[true - 5] + 0.3 * torch.randn(24, 4)
    basis = FeatureBasisLoss(num_classes=5, embedding_size=4)
    basis(embeddings, labels)
    mined = load_script("mined").PartMiner(part, basis)(embeddings, labels)
    whole = ThresholdPairMiner(basis, basis, distance=basis.similarity)(embeddings, labels)
    (pos, neg), (pos7, neg7) = (
        [set(zip(a.tolist(), b.tolist())) for a, b in (pairs[:2], pairs[2:])] for pairs in (mined, whole)
    )
    same = {(i, j) for i in range(24) for j in range(24) if i != j and labels[i] == labels[j]}
    others = {(i, j) for i in range(24) for j in range(24) if labels[i] != labels[j]}
    assert all([pos7 - same, neg7 - others, same - pos7, others - neg7])
    assert (pos, neg) == {
        "positives": (pos7, others - pos7),
        "negatives": (same - neg7, neg7),
        "agreeing": (pos7 & same, neg7 & others),
    }[part]


def test_the_ablation_mines_by_the_part_that_a_variant_names(omniglot, tmp_path, monkeypatch):
    ablation, parts = load_script("ablation"), set()
    miner = sys.modules["mined"].PartMiner
    mine = miner.mine
    monkeypatch.setattr(miner, "mine", lambda self, *args: parts.add(self.part) or mine(self, *args))
    args = Namespace(omniglot=omniglot, runs=tmp_path, overrides=TINY, device="cpu")
    trial = ablation.Variant("a part", "paper", mined="negatives"), 0
    for each in (ablation.teacher_of(trial), trial):
        ablation.run(args, each)
    assert parts == {"negatives"}


def test_the_defaults_are_among_the_settings_tried():
    def resolved(*settings):
        config = load_config("glyphs", list(settings))
        weight = config.student.unlabeled_weight
        student = config.student.model_copy(update={"unlabeled_weight": weight or USUAL_WEIGHT})
        return student, config.methods

    every = load_script("tuning").TRIED
    for row, tried in every.items():
        found = [resolved(*settings.split()) for settings in tried]
        assert len(found) >= len(every["slade"])
        assert resolved() in found or (row == "slade" and resolved()[0] in [student for student, _ in found])


def test_a_teacher_depends_on_no_setting_of_students():
    own = ("tolerance=0", "teacher.basis.logit_scale=null")
    others = ("student.steps=5", "student.basis.logit_scale=null", "methods.memory.size=9")
    assert load_script("trials").of_the_teacher([*own, *others]) == own
