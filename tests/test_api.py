"""Training and using a model in a few lines of Python."""

import numpy as np
import pytest
from images import BEST, SMALL, drawings, splits
from PIL import Image
from typer.testing import CliRunner

import pml_slade
from pml_slade.cli import app
from pml_slade.exceptions import ConfigError, DataError
from pml_slade.running.loading import load_config

pytestmark = pytest.mark.once

SETTINGS = load_config(None, [*SMALL, *BEST, "data.labeled=a", "data.unlabeled=b"]).model_dump(
    mode="json", exclude={"output", "rows", "pretraining", "methods"}
)
SETTINGS["data"] = {k: v for k, v in SETTINGS["data"].items() if k not in ("labeled", "unlabeled")}


@pytest.fixture(scope="module")
def trained(folders, tmp_path_factory):
    output = tmp_path_factory.mktemp("runs") / "run"
    return pml_slade.train(**folders, output=output, progress=False, **SETTINGS)


def test_python_and_the_command_line_give_the_same_weights(trained, folders, tmp_path):
    paths = [word for part, folder in folders.items() for word in (f"--{part}", str(folder))]
    result = CliRunner().invoke(app, ["train", *paths, "-o", str(tmp_path), "-q", *SMALL, *BEST])
    assert result.exit_code == 0, result.output
    for row in ("teacher", "slade"):
        file = f"{row}/model.safetensors"
        assert (trained.folder / file).read_bytes() == (tmp_path / file).read_bytes()


def test_results_and_models_are_there_by_row(trained):
    assert [result.row for result in trained.results] == ["start", "teacher", "control", "slade"]
    assert trained["slade"].test["MAP@R"] > 0
    best = max(trained.results, key=lambda result: result.validation["MAP@R"])
    assert trained.best == best
    with pytest.raises(KeyError):
        trained["oracle"]
    with pytest.raises(ConfigError, match="this run has no 'oracle'; it has start, teacher, control, slade"):
        trained.model("oracle")


def test_a_model_embeds_whatever_holds_the_images(trained, folders):
    model = trained.model("slade", "cpu")
    folder = folders["unlabeled"]
    vectors = model.embed(folder)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(64), abs=1e-5)
    paths = sorted(folder.iterdir())
    for images in (paths, [Image.open(path) for path in paths], model.open(folder), str(folder)):
        assert np.allclose(model.embed(images), vectors, atol=1e-6)
    assert np.allclose(model.embed(paths[3]), vectors[3:4], atol=1e-5)
    assert model.embed(np.zeros((2, 20, 30), np.uint8)).shape == (2, 8)


def test_a_model_measures_itself_as_training_did(trained, folders):
    measured = trained.model("slade", "cpu").evaluate(folders["test"])
    assert measured == pytest.approx(trained["slade"].test)


@pytest.mark.parametrize("wrong", [5, [], iter([1]), [np.zeros(3)]])
def test_what_is_no_images_is_refused(trained, wrong):
    with pytest.raises(DataError, match=r"images|items"):
        trained.model("slade", "cpu").embed(wrong)


class Pictures:
    """A data set as torchvision has them: PIL images, labels and no transform."""

    def __init__(self, classes, seed):
        self.images, self.targets = drawings(classes, seed=seed)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return Image.fromarray(self.images[index]), int(self.targets[index])


def test_data_sets_are_trained_on_and_the_pools_labels_are_not_read(tmp_path):
    class Unlabeled(Pictures):
        def __getitem__(self, index):
            return Image.fromarray(self.images[index])

    parts = {"labeled": Pictures(12, 0), "test": Pictures(4, 2)}
    first = pml_slade.train(
        **parts, unlabeled=Pictures(8, 1), output=tmp_path / "a", progress=False, **SETTINGS
    )
    other = Unlabeled(8, 1)
    other.targets = None
    second = pml_slade.train(**parts, unlabeled=other, output=tmp_path / "b", progress=False, **SETTINGS)
    assert first.results == second.results
    again = pml_slade.train(**parts, unlabeled=other, output=tmp_path / "b", progress=False, **SETTINGS)
    assert again.results == second.results
    with pytest.raises(ConfigError, match=r"unlabeled images: .* (changed|new)"):
        pml_slade.train(**parts, unlabeled=Pictures(8, 9), output=tmp_path / "b", progress=False, **SETTINGS)


def test_splits_are_taken_as_they_are(tmp_path):
    run = pml_slade.train(splits=splits(), output=tmp_path / "run", progress=False, **SETTINGS)
    assert len(run.results) == 4
    with pytest.raises(ConfigError, match="splits: give them, or labeled"):
        pml_slade.train("a", splits=splits(), output=tmp_path, **SETTINGS)
    with pytest.raises(ConfigError, match=r"data\.kind=given: .*pml_slade\.train"):
        CliRunner().invoke(
            app, ["train", "-c", str(run.folder / "config.yaml"), f"output={tmp_path / 'other'}"],
            catch_exceptions=False,
        )  # fmt: skip


def test_what_is_missing_or_unknown_is_named():
    with pytest.raises(ConfigError, match=r"data\.unlabeled missing"):
        pml_slade.train("my/labeled")
    with pytest.raises(ConfigError, match="unlabeled missing: give folders or data sets"):
        pml_slade.train(Pictures(3, 0))
    with pytest.raises(ConfigError, match="lerning: unknown key"):
        pml_slade.train("a", "b", lerning=3)
    with pytest.raises(ConfigError, match=r"teacher\.stepps: unknown key; did you mean teacher\.steps"):
        pml_slade.train("a", "b", teacher={"stepps": 3})
