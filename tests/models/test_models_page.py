"""What docs/models.md shows is what comes out."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from PIL import Image

from pml_slade.exceptions import CheckpointError
from pml_slade.models import build_trunk, resolve_trunk_name, save_swav_checkpoint, swav_head
from pml_slade.running.loading import load_config
from pml_slade.running.models import check_model

PAGE = (Path(__file__).parents[2] / "docs" / "models.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_the_message_of_a_file_that_does_not_fit_is_the_one_shown(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(build_trunk("resnet18").state_dict(), "resnet18.pth.tar")
    with pytest.raises(CheckpointError) as error:
        build_trunk("resnet50", weights="resnet18.pth.tar")
    assert blocks("text") == [f"{error.value}\n"]


@pytest.mark.once
def test_the_lines_that_go_on_with_swav_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parts = build_trunk("resnet50"), swav_head(2048, 2048, 128), torch.randn(3000, 128)
    save_swav_checkpoint("swav_800ep_pretrain.pth.tar", *parts)
    [code] = [code for code in blocks("python") if "swav" in code]
    exec(compile(code, "models.md", "exec"), {})
    written = [torch.load(file, weights_only=True) for file in sorted(tmp_path.iterdir())]
    assert len(written) == 2
    assert all(torch.equal(value, written[1][key]) for key, value in written[0].items())


def test_the_other_lines_of_python_run():
    plain = {}
    for code in blocks("python"):
        if "swav" not in code:
            exec(compile(code, "models.md", "exec"), plain)
    assert plain["plain"](Image.new("RGB", (300, 260), "white"))[0, 0, 0] == 1  # (1 - 0.5) / 0.5
    assert plain["embedder"](plain["features"]).square().sum(1).mean().item() == pytest.approx(1, rel=1e-3)


def test_the_command_for_a_vit_at_another_size_has_settings_that_work(tmp_path):
    [command] = re.findall(r"model\.trunk=.*", PAGE[PAGE.index("518 pixels, at 112 pixels") :])[:1]
    config = load_config(None, ["data.kind=glyphs", f"output={tmp_path}", *shlex.split(command)])
    check_model(config)
    assert (config.data.image_size, config.model.trunk_options) == (112, {"img_size": 112})


def test_the_trunks_that_are_named_exist():
    names = set(re.findall(r"(?<=`)(?:timm|torchvision)/[\w./]+(?=`)", PAGE))
    assert len(names) >= 5
    for name in names:
        assert resolve_trunk_name(name) == name
