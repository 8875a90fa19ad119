"""What trunks expect of photographs, and which sizes they take."""

import json

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from torch import nn

from pml_slade.datasets import TrunkInput, transforms
from pml_slade.exceptions import CheckpointError, ConfigError
from pml_slade.models import build_model, build_trunk, check_forward, load_model, save_model, trunk_input
from pml_slade.models.trunks import shapes_alone

HALF = (0.5, 0.5, 0.5)
NEEDS_DINOV3 = pytest.mark.skipif("vit_small_patch16_dinov3" not in timm.list_models(), reason="older timm")
SMALL_VIT = {"img_size": 32, "depth": 1, "embed_dim": 24, "num_heads": 2}


def photographs():
    """Smooth pictures with edges, landscape and portrait."""
    rng = np.random.default_rng(0)
    for width, height in ((150, 100), (90, 130), (64, 64)):
        coarse = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8))
        yield coarse.resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize(
    ("name", "mean", "interpolation", "crop", "squash", "size"),
    [
        ("timm/tf_efficientnet_lite0", HALF, "bicubic", 0.875, False, 224),
        ("timm/vit_small_patch16_224", HALF, "bicubic", 0.9, False, 224),  # augreg's
        ("timm/vit_small_patch16_224.dino", TrunkInput().mean, "bicubic", 0.9, False, 224),
        ("timm/vit_small_patch14_dinov2", TrunkInput().mean, "bicubic", 1.0, False, 518),
        ("vit_base_patch16_clip_224.openai", (0.48145466, 0.4578275, 0.40821073), "bicubic", 0.9, False, 224),
        ("timm/convnext_tiny.in12k_ft_in1k_384", TrunkInput().mean, "bicubic", 1.0, True, 384),
        ("efficientnet_v2_l", HALF, "bicubic", None, False, 480),
        ("swin_t", TrunkInput().mean, "bicubic", None, False, 224),
        ("resnet50", TrunkInput().mean, "bilinear", None, False, 224),
        ("bninception", TrunkInput().mean, "bilinear", None, False, None),
        ("convnet", TrunkInput().mean, "bilinear", None, False, None),
    ],
)
def test_a_trunk_says_what_it_expects(name, mean, interpolation, crop, squash, size):
    found = trunk_input(name)
    assert (found.mean, found.interpolation, found.crop) == (mean, interpolation, crop)
    assert (found.squash, found.size) == (squash, size)


@pytest.mark.parametrize("size", [64, 97, 112])
@pytest.mark.parametrize(
    "name", ["tf_efficientnet_lite0", "vit_base_patch16_clip_224.openai", "convnext_tiny.in12k_ft_in1k_384"]
)
def test_evaluation_is_timms_own_pipeline(name, size):
    with shapes_alone():
        config = resolve_model_data_config(timm.create_model(name))
    theirs = create_transform(**config | {"input_size": (3, size, size)})
    ours = transforms("photo", size, trunk_input=trunk_input(f"timm/{name}"))
    for image in photographs():
        torch.testing.assert_close(ours(image), theirs(image), rtol=0, atol=1e-6)


def test_a_trunk_with_other_normalisation_embeds_as_timms_own_pipeline_does(tmp_path):
    theirs = timm.create_model("tf_efficientnet_lite0", num_classes=0).eval()
    torch.save(theirs.state_dict(), tmp_path / "lite0.pth")
    models = build_model("timm/tf_efficientnet_lite0", 8, weights=tmp_path / "lite0.pth")
    config = resolve_model_data_config(theirs) | {"input_size": (3, 64, 64)}
    plain, expected = transforms("photo", 64), create_transform(**config)
    ours = transforms(
        "photo", 64, trunk_input=trunk_input("timm/tf_efficientnet_lite0", weights=tmp_path / "lite0.pth")
    )
    trunk = models["trunk"].eval()
    with torch.no_grad():
        wanted, got, before = (
            run(torch.stack([transform(image) for image in photographs()]))
            for run, transform in ((theirs, expected), (trunk, ours), (trunk, plain))
        )
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
    assert (before - wanted).norm() > 0.1 * wanted.norm()  # which ImageNet's would not have been


def test_torchvision_and_bninception_keep_the_reality_checks_pipeline():
    for name in ("resnet50", "bninception"):
        for image in photographs():
            ours = transforms("photo", 227, trunk_input=trunk_input(name))(image)
            assert torch.equal(ours, transforms("photo", 227)(image))


def test_grey_images_are_normalised_by_the_average_of_the_channels():
    assert trunk_input("timm/tf_efficientnet_lite0", "L").mean == (0.5,)
    grey = trunk_input("timm/vit_base_patch16_clip_224.openai", "L")
    assert grey.mean == pytest.approx((np.mean([0.48145466, 0.4578275, 0.40821073]),), abs=1e-6)
    assert (grey.interpolation, grey.crop) == ("bicubic", 0.9)
    for name in ("convnet", "bninception"):  # which undoes it
        assert trunk_input(name, "L") == TrunkInput.usual("L") == TrunkInput((0.5,), (0.5,))


def test_it_goes_through_json():
    expected = trunk_input("timm/convnext_tiny.in12k_ft_in1k_384")
    meta = json.loads(json.dumps({"mode": "RGB", "input": expected.as_meta()}))
    assert TrunkInput.from_meta(meta) == expected


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_what_says_nothing_means_the_usual(mode):
    assert TrunkInput.from_meta({"mode": mode}) == TrunkInput.usual(mode)
    assert TrunkInput.from_meta({"mode": mode, "input": None}) == TrunkInput.usual(mode)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"mean": [float("nan")] * 3}, "mean must be one finite number"),
        ({"mean": [10**400] * 3}, "mean must be one finite number"),
        ({"mean": "abc"}, "mean must be one finite number"),
        ({"std": [0, 1, 1]}, "std above 0"),
        ({"std": [1, 1]}, "as many"),
        ({"mean": [], "std": []}, "as many"),
        ({"interpolation": "hamming"}, "interpolation must be one of"),
        ({"interpolation": []}, "interpolation must be one of"),
        ({"crop": 1e-9}, r"crop must be in \[0.5, 1\], got 1e-09"),
        ({"crop": float("nan")}, "crop must be in"),
        ({"size": "large"}, "size must be"),
        ({"path": "/etc/passwd"}, "input must have mean, std"),
    ],
)
def test_what_no_trunk_expects_is_refused(change, match):
    with pytest.raises(ConfigError, match=match):
        TrunkInput.from_meta({"mode": "RGB", "input": TrunkInput().as_meta() | change})


def test_a_transform_refuses_what_is_for_other_channels():
    with pytest.raises(ConfigError, match="trunk_input is for 3 channels, and mode is 'L'"):
        transforms("photo", 32, "L", trunk_input=TrunkInput())


def test_a_model_of_ours_says_what_its_weights_expect(tmp_path):
    name = "timm/vit_tiny_patch16_224"
    meta = {"trunk": name, "trunk_options": SMALL_VIT, "embedding_size": 4, "in_channels": 3, "mode": "RGB"}
    models = build_model(name, 4, trunk_options=SMALL_VIT)
    own = TrunkInput(HALF, HALF, "bilinear", 0.75)
    new = save_model(tmp_path / "new", models, meta | {"input": own.as_meta()})
    old = save_model(tmp_path / "old", models, meta)
    assert trunk_input(name, weights=new) == load_model(new).trunk_input == own
    assert trunk_input(name, weights=old) == load_model(old).trunk_input == TrunkInput.usual()
    assert trunk_input(name, "L", weights=new).mean == (0.5,)
    assert trunk_input(name).mean == HALF


def test_a_missing_weights_file_is_an_error():
    with pytest.raises(CheckpointError, match=r"no weights file nowhere\.pth"):
        trunk_input("resnet50", weights="nowhere.pth")


@pytest.mark.parametrize(
    ("name", "options", "size", "match"),
    [
        (
            "timm/vit_tiny_patch16_224",
            {},
            112,
            r"data.image_size is 112, and the trunk VisionTransformer refuses images of 112 x 112 pixels: .+ "
            r"It takes 224 x 224: give it data.image_size=224, or build it for others by "
            r"model.trunk_options=\{img_size: 112\} or \{dynamic_img_size: true\}\.",
        ),
        (
            "timm/vit_small_patch14_dinov2",
            {"depth": 1},
            100,
            r"takes 518 x 518.*by data.image_size=98 and model.trunk_options=\{img_size: 98\}",
        ),
        ("vit_b_16", {}, 64, r"takes 224 x 224.*model.trunk_options=\{image_size: 64\}\."),
        ("timm/swin_tiny_patch4_window7_224", {}, 64, r"takes 224 x 224.*\{img_size: 64\}"),
        ("convnet", {}, 8, "ConvNet refuses images of 8 x 8.*Give larger images"),
        ("alexnet", {}, 20, "AlexNet refuses.*Give larger images"),
    ],
)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_size_that_a_trunk_refuses_is_an_error_with_the_way_out(name, options, size, match, device):
    with shapes_alone():
        trunk = build_trunk(name, **options)
    if device == "cpu":
        trunk = trunk.to_empty(device="cpu")
    with pytest.raises(ConfigError, match=match):
        check_forward({"trunk": trunk}, size)


def test_small_crops_are_tried_too():
    name = "timm/vit_tiny_patch16_224"
    check_forward({"trunk": build_trunk(name, **SMALL_VIT, dynamic_img_size=True)}, 64, crops=[32])
    fixed = build_trunk(name, **SMALL_VIT)
    with pytest.raises(
        ConfigError,
        match=r"image_size is 32,.* 16 x 16 pixels.*by model.trunk_options=\{dynamic_img_size: true\}, or "
        r"leave the small crops out by pretraining.num_local=0",
    ):
        check_forward({"trunk": fixed}, 32, crops=[16])


def test_a_forward_changes_nothing():
    models = build_model("timm/resnet10t", 4)
    models["trunk"].bn1.eval()
    before = {k: v.clone() for k, v in models["trunk"].state_dict().items()}
    generator = torch.get_rng_state()
    check_forward(models, 32)
    assert all(torch.equal(v, before[k]) for k, v in models["trunk"].state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator)
    assert (models["trunk"].training, models["trunk"].bn1.training, models["embedder"].training) == (1, 0, 1)


def test_an_embedder_for_other_features_is_found():
    with pytest.raises(ConfigError, match="refuses"):
        check_forward({"trunk": build_trunk("convnet"), "embedder": nn.Linear(3, 2)}, 32)


@pytest.mark.parametrize(
    ("name", "options", "size"),
    [
        ("timm/vit_small_patch14_dinov2", {"img_size": 112, "depth": 2}, 112),
        ("timm/vit_small_patch14_dinov2", {"dynamic_img_size": True, "depth": 2}, 112),
        pytest.param("timm/vit_small_patch16_dinov3", {"depth": 2}, 112, marks=NEEDS_DINOV3),
        ("timm/vit_tiny_patch16_224", {"img_size": 64}, 64),
        ("timm/swin_tiny_patch4_window7_224", {"img_size": 64, "embed_dim": 24, "depths": [1, 1, 1, 1]}, 64),
        ("vit_b_16", {"image_size": 64}, 64),
    ],
)
def test_a_vit_runs_at_another_size_than_its_own(name, options, size):
    check_forward({"trunk": build_trunk(name, **options)}, size)


@pytest.mark.parametrize("size", [112, 224])
def test_a_vits_weights_are_resampled_as_timm_resamples_them(tmp_path, size):
    """DINOv2's file is for 518 pixels."""
    name, small = "vit_small_patch14_dinov2", {"depth": 1, "num_classes": 0}
    native = timm.create_model(name, **small)
    nn.init.normal_(native.pos_embed)
    torch.save(native.state_dict(), tmp_path / "dinov2.pth")
    theirs = timm.create_model(
        name,
        pretrained=True,
        pretrained_cfg_overlay={"file": str(tmp_path / "dinov2.pth"), "num_classes": 0},
        img_size=size,
        **small,
    ).eval()
    trunk = build_trunk(f"timm/{name}", weights=tmp_path / "dinov2.pth", img_size=size, depth=1).eval()
    assert trunk.pos_embed.shape[1] == 1 + (size // 14) ** 2
    assert all(torch.equal(v, theirs.state_dict()[k]) for k, v in trunk.state_dict().items())
    images = torch.randn(2, 3, size, size)
    torch.testing.assert_close(trunk(images), theirs(images))


def test_torchvisions_vit_is_resampled_by_torchvision(tmp_path):
    torch.save(build_trunk("vit_b_16", image_size=64).state_dict(), tmp_path / "vit.pth")
    trunk = build_trunk("vit_b_16", weights=tmp_path / "vit.pth", image_size=32)
    assert trunk.encoder.pos_embedding.shape == (1, 5, 768)
    with pytest.raises(ConfigError, match=r"own image_size.*take a trunk of timm.*img_size=32"):
        build_trunk("vit_b_16", weights="default", image_size=32)
