"""What the README shows works as it stands there: a stranger's path, from the letters to one's own images."""

import json
import re
import shlex
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
from images import BEST, SMALL, write_images
from typer.testing import CliRunner

from pml_slade import best_student
from pml_slade.cli import app
from pml_slade.exceptions import ConfigError
from pml_slade.losses import ClusterBasisLoss
from pml_slade.models import build_model
from pml_slade.running.loading import load_config

DATA = ("image_size", "mode", "transform", "augmentation", "workers")

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
SCRIPT, PARTS, MEMORY = re.findall(
    r"```python\n(.*?)```", (ROOT / "docs" / "script.md").read_text(), re.DOTALL
)
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
COMMANDS = [
    line for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL) for line in block.splitlines()
]


def run(code):
    exec(compile(code, "README", "exec"), {})


@pytest.mark.once
def test_a_few_lines_of_python_train_and_embed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folders = write_images(tmp_path / "my")
    folders["unlabeled"].rename(tmp_path / "my" / "pool")
    folders["test"].rename(tmp_path / "my" / "other_classes")
    config = load_config(None, [*SMALL, *BEST, "data.kind=given"]).model_dump(mode="json")
    config["data"] = {k: v for k, v in config["data"].items() if k in DATA}
    few = {name: config[name] for name in ("data", "model", "teacher", "student", "epoch_steps")}
    run(PYTHON[0].replace("seed=1", f"seed=1, progress=False, report=False, **{few!r}"))
    assert re.search(r"'Teacher': \d.*'SLADE': \d", capsys.readouterr().out)


@pytest.mark.once
@pytest.mark.usefixtures("few_letters")
def test_the_script_trains_best_and_says_what_it_gained(capsys):
    few = SCRIPT.replace("250", "25").replace("num_epochs=4", "num_epochs=2")
    run(few)
    assert re.search(r"^teacher \d+\.\d, SLADE \d+\.\d MAP@R$", capsys.readouterr().out, re.MULTILINE)


def test_the_script_is_the_preset_best():
    """What it hands to the trainers is what a run of `best` hands to them."""
    models = build_model("convnet", embedding_size=8, in_channels=1)
    parts = best_student(models, num_classes=3, embedding_size=8, num_clusters=5, lr=1e-3)
    student = load_config(["glyphs", "best"]).student
    assert parts["batch_size"] == student.batch_size
    assert parts["relabel_every"] == student.relabel_every == 1
    assert parts["cluster_kwargs"]["method"] == student.clustering == "ward"
    assert parts["loss_weights"] == {"unlabeled_metric_loss": 2.0, "basis_loss": 1.0}
    assert type(parts["loss_funcs"]["unlabeled_metric_loss"]) is ClusterBasisLoss
    assert parts["optimizers"]["basis_loss_optimizer"].param_groups[0]["lr"] == student.basis.lr
    assert parts["teacher"] is parts["end_of_iteration_hook"].models
    for wrong, message in (
        ({"steps": 0}, "steps: "),
        ({"stepps": 3}, "stepps: unknown key; did you mean steps"),
        ({"mining": "eq7"}, "mining=eq7"),
    ):
        with pytest.raises(ConfigError, match=message):
            best_student(models, 3, 8, 5, **wrong)


def serve_one_search(server):
    """In place of serving for ever: the page and a search, as a browser asks for them."""
    client = server.app.test_client()
    assert b"Drop, paste or choose a picture" in client.get("/").data
    assert client.post("/search", data=Path("query.jpg").read_bytes()).json["matches"]


@pytest.mark.once
def test_a_stranger_trains_on_eight_classes_and_looks_searches_and_exports(tmp_path, monkeypatch):
    """Every command on own images as it stands in the README; only the training is told to be short."""
    monkeypatch.chdir(tmp_path)
    folders = write_images(tmp_path / "my")
    for folder in sorted(folders["labeled"].iterdir())[8:]:
        shutil.rmtree(folder)
    folders["unlabeled"].rename(tmp_path / "my" / "pool")
    folders["test"].rename(tmp_path / "my" / "other_classes")
    shutil.copy(tmp_path / "my" / "pool" / "001.jpg", "query.jpg")
    if find_spec("flask"):
        monkeypatch.setattr("werkzeug.serving.BaseWSGIServer.serve_forever", serve_one_search)
    own = [line for line in COMMANDS if "runs/mine" in line or "pml-slade check" in line]
    assert [line.split()[1] for line in own] == [
        *("check", "train", "report", "search", "index", "serve", "embed", "evaluate", "cluster", "export")
    ]
    for line in own:
        words = shlex.split(line.replace("-k 200", "-k 8"))[1:]  # there are 64 images
        words += [*SMALL, *BEST, "report=true"] if words[0] == "train" else []
        if words[0] == "export" and find_spec("onnxscript") is None:
            words[words.index("onnx")] = "torchscript"
        if words[0] == "serve" and find_spec("flask") is None:
            continue
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, (line, result.output, result.exception)
        if words[0] == "train":
            assert [row["row"] for row in json.loads(Path("runs/mine/results.json").read_text())] == [
                *("start", "teacher", "control", "slade")
            ]
            assert "Nothing was held out to validate on" in result.output
            assert Path("runs/mine/report.html").stat().st_size > 10_000
            Path("runs/mine/report.html").unlink()  # the next command writes it again
    for file in ("embeddings.npz", "clusters.csv", "runs/mine/report.html", "found.html", "mine.onnx"):
        assert Path(file).stat().st_size > 0


@pytest.mark.once
@pytest.mark.usefixtures("few_letters")
def test_the_notebook_runs_from_its_first_cell_to_its_last(tmp_path, monkeypatch, capsys):
    """But for fewer letters and steps."""
    monkeypatch.chdir(tmp_path)
    cells = json.loads((ROOT / "docs" / "quickstart.ipynb").read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    run("\n".join(code).replace("steps = 100", "steps = 4"))
    printed = capsys.readouterr().out
    assert re.search(r"^SLADE +\d+\.\d$", printed, re.MULTILINE)
    assert "runs/notebook/report.html" in printed
    scores = [float(score) for score in re.findall(r"^(\d\.\d{3})  ", printed, re.MULTILINE)]
    assert len(scores) == 5
    assert scores == sorted(scores, reverse=True)
    assert not [cell for cell in cells if cell.get("outputs")]


def test_the_parts_stand_alone():
    run(PARTS)
    run(MEMORY)


def test_there_are_blocks_to_run():
    assert len(PYTHON) == 1
    assert len(COMMANDS) >= 6


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    targets = [command.split()[1] for command in COMMANDS if command.startswith("make ")]
    assert targets == ["demo", "test", "benchmark-smoke"]
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_commands_use_options_that_exist():
    from typer.main import get_command

    known = get_command(app).commands
    for line in (c for c in COMMANDS if c.startswith("pml-slade ")):
        name, *arguments = line.split()[1:]
        options = {opt for param in known[name].params for opt in param.opts}
        assert {a for a in arguments if a.startswith("-")} <= options, line
