"""What a trunk expects goes all the way: settings, training, the model's file, and embedding by it."""

import numpy as np
import pytest
import torch
from images import small_config
from timm.data import create_transform, resolve_data_config
from timm.models import get_pretrained_cfg
from typer.testing import CliRunner

from pml_slade import cli
from pml_slade.datasets import image_folder
from pml_slade.exceptions import ConfigError
from pml_slade.models import load_model, trunk_input
from pml_slade.running.pretraining import run_pretraining
from pml_slade.running.run import Run

pytestmark = pytest.mark.once

NAME = "vit_tiny_patch16_224"  # of weights that want a mean and deviation of 0.5, bicubic, a crop of 0.9
VIT = (
    f"model.trunk=timm/{NAME}",
    "data.transform=photo",
    "data.mode=RGB",
    "data.image_size=32",
    "rows=[teacher]",
    "teacher.steps=4",
)
SMALL = "model.trunk_options={img_size: 32, depth: 1, embed_dim: 24, num_heads: 2}"


@pytest.fixture(scope="module")
def run(folders, tmp_path_factory):
    output = tmp_path_factory.mktemp("run")
    Run(small_config(folders, output, *VIT, SMALL), progress=False).run()
    return output


def test_a_run_keeps_in_its_file_what_its_trunk_expects(run):
    model = load_model(run)
    assert model.trunk_input == trunk_input(f"timm/{NAME}")
    assert model.meta["input"]["mean"] == [0.5, 0.5, 0.5]
    assert model.meta["trunk_options"] == {"img_size": 32, "depth": 1, "embed_dim": 24, "num_heads": 2}


def test_embedding_by_the_file_is_timms_own_pipeline(run, folders, tmp_path):
    command = [
        "embed",
        str(run),
        str(folders["test"]),
        "-o",
        str(tmp_path / "e.npz"),
        "-q",
        "--device",
        "cpu",
    ]
    result = CliRunner().invoke(cli.app, command)
    assert result.exit_code == 0, result.output
    found = np.load(tmp_path / "e.npz")["embeddings"]
    config = resolve_data_config(pretrained_cfg=get_pretrained_cfg(NAME).to_dict())
    transform = create_transform(**config | {"input_size": (3, 32, 32)})
    images = image_folder(folders["test"], mode="RGB")
    with torch.no_grad():
        expected = load_model(run)(torch.stack([transform(images[i][0]) for i in range(len(images))]))
    np.testing.assert_allclose(found, torch.nn.functional.normalize(expected).numpy(), atol=1e-5)


def test_the_same_command_finds_its_run(run, folders):
    results = Run(small_config(folders, run, *VIT, SMALL), progress=False).run()
    assert [result.row for result in results] == ["teacher"]


def test_a_size_that_the_trunk_refuses_is_told_before_anything_is_written(folders, tmp_path):
    config = small_config(folders, tmp_path / "run", *VIT, "model.trunk_options={depth: 1}")
    with pytest.raises(ConfigError, match=r"data.image_size is 32.*It takes 224 x 224.*\{img_size: 32\}"):
        Run(config, progress=False)
    assert not (tmp_path / "run").exists()


def test_swav_tells_of_small_crops_that_the_trunk_refuses(folders, tmp_path):
    pytest.importorskip("lightly")
    config = small_config(folders, tmp_path / "run", *VIT, SMALL, "pretraining.steps=2")
    with pytest.raises(ConfigError, match=r"images of 14 x 14.*or leave the small crops out"):
        run_pretraining(config, progress=False)
    assert not (tmp_path / "run").exists()


def test_swav_pretrains_a_vit_at_another_size(folders, tmp_path):
    pytest.importorskip("lightly")
    settings = ("pretraining.steps=2", "pretraining.num_local=0", "pretraining.batch_size=4")
    config = small_config(
        folders, tmp_path / "run", *VIT, SMALL, *settings, "pretraining.num_prototypes=4", "epoch_steps=2"
    )
    assert run_pretraining(config, progress=False).exists()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ("{checkpoint_path: x.pth}", "'checkpoint_path' is not let through"),
        ("{depht: 2}", r"'depht' is not let through.*did you mean depth\?"),
        ("{img_size: -1}", "img_size is '-1'; pass a number from 0 to 4096"),
        ("{pretrained_cfg: {url: 'http://x'}}", "'pretrained_cfg' is not let through"),
    ],
)
def test_a_setting_that_is_not_let_through_is_named(folders, tmp_path, options, match):
    with pytest.raises(ConfigError, match=match):
        small_config(folders, tmp_path, f"model.trunk_options={options}")
