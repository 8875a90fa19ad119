"""Exported files give the original's embeddings, and say what they take."""

import json
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from images import drawings, small_config, splits, write_model
from PIL import Image
from typer.testing import CliRunner

import pml_slade
from pml_slade import exporting, hub
from pml_slade.cli import app
from pml_slade.datasets.trunk_input import TrunkInput
from pml_slade.exceptions import CheckpointError, ConfigError, MachineError
from pml_slade.exporting import CHECKED, describe_input, example_inputs, export
from pml_slade.running.run import Run

pytestmark = pytest.mark.once

ONNX = pytest.param("onnx", marks=pytest.mark.skipif(find_spec("onnxscript") is None, reason="needs onnx"))
PHOTO = TrunkInput(mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4), interpolation="bicubic", crop=0.875).as_meta()


@pytest.fixture(scope="module")
def letters(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("letters"), image_size=32)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    return write_model(folder, 0, "resnet18", "RGB", "photo", image_size=32, input=PHOTO)


def run_file(file, to, images):
    """Embeddings by the file alone."""
    if to == "torchscript":
        with torch.no_grad():
            return torch.jit.load(str(file))(images).numpy()
    import onnxruntime

    session = onnxruntime.InferenceSession(file)
    return session.run(["embeddings"], {"images": images.numpy()})[0]


def prepared(image, about):
    """An image as the description says, without the package."""
    for step in about["transform"]:
        if step["step"] == "mode":
            image = image.convert(step["mode"])
        elif step["step"] == "resize":
            how = Image.Resampling[step["interpolation"].upper()]
            if "size" in step:
                image = image.resize(step["size"], how)
            else:
                width, height = image.size
                short = min(width, height)
                side = step["shorter_side"]
                image = image.resize((int(side * width / short), int(side * height / short)), how)
        elif step["step"] == "center_crop":
            side = step["size"][0]
            left, top = round((image.width - side) / 2), round((image.height - side) / 2)
            image = image.crop((left, top, left + side, top + side))
        elif step["step"] == "scale":
            values = np.asarray(image, np.float32).reshape(*reversed(image.size), -1) / 255
        else:
            values = (values - np.float32(step["mean"])) / np.float32(step["std"])
    return torch.from_numpy(np.moveaxis(values, -1, 0).copy())


@pytest.mark.parametrize("to", ["torchscript", ONNX])
@pytest.mark.parametrize("model", ["letters", "photographs"])
def test_a_file_gives_the_embeddings_of_the_original(request, model, to, folders, tmp_path):
    trained = pml_slade.load(request.getfixturevalue(model), "cpu", workers=0)
    file = tmp_path / "file"
    assert export(trained, file, to) < 1e-4
    assert export(trained, file, to, folders["unlabeled"]) < 1e-4
    paths = [path for path in sorted(folders["unlabeled"].iterdir()) if path.suffix in (".png", ".jpg")]
    inputs = torch.stack([trained.open([path])[0][0] for path in paths])
    assert run_file(file, to, inputs) == pytest.approx(trained.embed(paths), abs=1e-4)
    assert run_file(file, to, inputs[:1]) == pytest.approx(trained.embed(paths[:1]), abs=1e-4)


@pytest.mark.parametrize("to", ["torchscript", ONNX])
def test_a_file_gives_the_same_embeddings_of_100_images(photographs, to, tmp_path):
    trained = pml_slade.load(photographs, "cpu", workers=0)
    images = drawings(10, per_class=CHECKED // 10, size=40)[0][..., None].repeat(3, axis=3)
    assert len(example_inputs(trained, images)) == len(images) == 100
    assert export(trained, tmp_path / "file", to, images) < 1e-4
    inputs = torch.stack([image for image, _ in trained.open(images)])
    assert np.abs(run_file(tmp_path / "file", to, inputs) - trained.embed(images)).max() < 1e-4


@pytest.mark.parametrize("model", ["letters", "photographs"])
def test_the_description_is_enough_to_prepare_an_image(request, model, folders, tmp_path):
    trained = pml_slade.load(request.getfixturevalue(model), "cpu", workers=0)
    file = tmp_path / "file.pt"
    export(trained, file, "torchscript")
    about = json.loads((tmp_path / "file.pt.json").read_text())
    assert about == describe_input(trained)
    assert about["output"]["shape"] == ["N", 8]
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 64, 3), np.uint8))
    image = image.convert(trained.mode)
    mine = prepared(image, about)
    assert list(mine.shape) == about["input"]["shape"][1:]
    assert mine.numpy() == pytest.approx(trained.transform(image).numpy(), abs=1e-5)


def test_the_command_checks_what_it_writes(letters, folders, tmp_path):
    file = tmp_path / "letters.pt"
    arguments = ["--to", "torchscript", "-o", str(file), "--images", str(folders["unlabeled"])]
    result = CliRunner().invoke(app, ["export", str(letters), *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "within" in result.output
    assert file.exists()


def test_a_file_with_other_embeddings_is_not_written(letters, tmp_path, monkeypatch):
    def wrong(model, inputs, file, about):
        file.write_bytes(b"")
        return lambda images: model(images) + 1e-3

    monkeypatch.setitem(exporting.FORMATS, "torchscript", wrong)
    trained = pml_slade.load(letters, "cpu", workers=0)
    with pytest.raises(ConfigError, match=r"differ from the original's by 1\.0e-03, more than 0\.0001"):
        export(trained, tmp_path / "file.pt", "torchscript")
    assert list(tmp_path.iterdir()) == []


def test_what_is_missing_is_named(letters, tmp_path, monkeypatch):
    trained = pml_slade.load(letters, "cpu", workers=0)
    monkeypatch.setattr(exporting, "NEEDED", ("onnx_that_is_not_there",))
    with pytest.raises(
        ConfigError, match=r"to=onnx needs onnx_that_is_not_there: pip install 'pml-slade\[onnx\]'"
    ):
        export(trained, tmp_path / "file.onnx", "onnx")
    with pytest.raises(ConfigError, match="to must be one of onnx, torchscript, got 'hub'"):
        export(trained, tmp_path / "file", "hub")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Folder of a run of one row."""
    folder = tmp_path_factory.mktemp("run")
    Run(small_config({}, folder, "data.kind=given", "rows=[teacher]"), progress=False, splits=splits()).run()
    return folder


def test_a_run_for_the_hub_is_a_folder_that_load_reads(run, tmp_path, caplog):
    command = ["export", str(run), "--to", "hub", "-o", str(tmp_path / "hub")]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "license is unknown" in caplog.text
    assert sorted(path.name for path in (tmp_path / "hub").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    images = splits().test
    original, written = (pml_slade.load(folder, "cpu", workers=0) for folder in (run, tmp_path / "hub"))
    assert (original.embed(images) == written.embed(images)).all()
    about = json.loads((tmp_path / "hub" / "config.json").read_text())
    assert about["library_name"] == "pml-slade"
    assert about["transform"] == describe_input(original)["transform"]
    assert about["model"] == original.model.meta
    card = ModelCard.load(tmp_path / "hub" / "README.md")
    assert card.data.pipeline_tag == "image-feature-extraction"
    assert card.data.license == "unknown"


def test_only_a_named_repository_is_sent_to(run, tmp_path, monkeypatch):
    sent = []

    class Hub:
        def create_repo(self, repo, private, exist_ok):
            sent.append((repo, private))

        def upload_folder(self, repo_id, folder_path, allow_patterns):
            sent.append((repo_id, sorted(path.name for path in folder_path.iterdir())))
            return SimpleNamespace(commit_url="https://the.hub/me/letters")

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    command = ["export", str(run), "--to", "hub", "-o", str(tmp_path / "hub"), "-q"]
    CliRunner().invoke(app, command, catch_exceptions=False)
    assert sent == []
    result = CliRunner().invoke(app, [*command, "--repo", "me/letters"], catch_exceptions=False)
    assert "sent: https://the.hub/me/letters" in result.output
    assert sent == [("me/letters", True), ("me/letters", ["README.md", "config.json", "model.safetensors"])]

    def fails(*args, **options):
        raise ConnectionError("no network")

    monkeypatch.setattr(Hub, "create_repo", fails)
    with pytest.raises(MachineError, match=r"repo: me/letters could not be written \(no network\).*hf auth"):
        hub.upload(tmp_path / "hub", "me/letters")
    with pytest.raises(ConfigError, match="--repo me/letters: only --to hub sends"):
        CliRunner().invoke(
            app,
            ["export", str(run), "--to", "onnx", "-o", "a", "--repo", "me/letters"],
            catch_exceptions=False,
        )


def test_a_model_without_a_card_is_not_for_the_hub(letters, tmp_path):
    with pytest.raises(CheckpointError, match=r"has no model card README\.md: give the folder of a run"):
        hub.export_hub(letters, tmp_path / "hub")
    assert not (tmp_path / "hub").exists()
