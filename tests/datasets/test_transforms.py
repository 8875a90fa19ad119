import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from pml_slade.datasets.redrawing import Redraw
from pml_slade.datasets.transforms import ToFloatTensor, batch_transforms, transforms
from pml_slade.datasets.trunk_input import IMAGENET_MEAN, IMAGENET_STD
from pml_slade.exceptions import ConfigError


def picture(mode="RGB", size=(50, 40)):
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(noise).convert(mode)


@pytest.mark.parametrize("kind", ["small", "photo"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("strength", ["mild", "strong"])
def test_output_is_a_square_float_tensor(kind, mode, train, strength):
    transform = pickle.loads(pickle.dumps(transforms(kind, 28, mode, train, strength)))
    tensor = transform(picture(mode))
    assert tensor.shape == (3 if mode == "RGB" else 1, 28, 28)
    assert tensor.dtype == torch.float32


@pytest.mark.parametrize("kind", ["small", "photo"])
def test_training_varies_and_evaluation_does_not(kind):
    train, evaluation = (transforms(kind, 28, "RGB", train) for train in (True, False))
    assert not torch.equal(train(picture()), train(picture()))
    assert torch.equal(evaluation(picture()), evaluation(picture()))


def test_training_follows_the_torch_seed():
    transform = transforms("small", 28, "L", train=True)
    drawn = []
    for _ in range(2):
        torch.manual_seed(3)
        drawn.append(transform(picture("L")))
    assert torch.equal(*drawn)


@pytest.mark.parametrize("strength", ["mild", "strong"])
def test_batches_are_redrawn_as_single_images_are(strength):
    transform, collate_fn = batch_transforms("small", 28, "L", strength)
    torch.manual_seed(3)
    images, labels = collate_fn([(transform(picture("L")), 5)])
    torch.manual_seed(3)
    assert torch.equal(images[0], transforms("small", 28, "L", True, strength)(picture("L")))
    assert labels.tolist() == [5]
    assert repr(collate_fn) == repr(pickle.loads(pickle.dumps(collate_fn)))


@pytest.mark.parametrize("views", [1, 2])
def test_photographs_are_augmented_one_by_one(views):
    transform, collate_fn = batch_transforms("photo", 28, "RGB", views=views)
    torch.manual_seed(3)
    drawn = pickle.loads(pickle.dumps(transform))(picture())
    torch.manual_seed(3)
    single = transforms("photo", 28, train=True)
    if views == 1:
        assert collate_fn is None
        assert torch.equal(drawn, single(picture()))
    else:
        assert all(torch.equal(view, single(picture())) for view in drawn)
        assert repr(single) in repr(transform)


def test_strength_is_nothing_to_evaluation():
    for kind in ("small", "photo"):
        mild, strong = (transforms(kind, 28, "L", strength=strength) for strength in ("mild", "strong"))
        assert torch.equal(mild(picture("L")), strong(picture("L")))


@pytest.mark.parametrize(("mode", "names"), [("RGB", {"RandomGrayscale"}), ("L", set())])
def test_strong_photographs_change_their_colours(mode, names):
    steps = {}
    for strength in ("mild", "strong"):
        steps[strength] = {type(s).__name__ for s in transforms("photo", 28, mode, True, strength).transforms}
    assert steps["strong"] - steps["mild"] == {"RandomApply"} | names
    grey = Image.new(mode, (28, 28), "#808080")
    values = {
        strength: {
            round(float(transforms("photo", 28, mode, True, strength)(grey).mean()), 3) for _ in range(8)
        }
        for strength in steps
    }
    assert len(values["mild"]) == 1
    assert len(values["strong"]) > 4


def test_small_images_are_redrawn_as_tensors():
    steps = transforms("small", 28, "L", True, "strong").transforms
    assert isinstance(steps[-1], Redraw)
    assert steps[-1].strength == "strong"


def test_small_images_of_the_right_size_keep_their_pixels():
    image = picture("L", (28, 28))
    assert torch.equal(transforms("small", 28, "L")(image)[0] * 255, torch.tensor(np.array(image)))


def test_the_tensor_is_that_of_torchvision():
    slow = v2.Compose(
        [
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )
    fast = ToFloatTensor(IMAGENET_MEAN, IMAGENET_STD)
    torch.testing.assert_close(fast(picture()), torch.as_tensor(slow(picture())))


def test_evaluation_of_photos_keeps_the_centre():
    image = Image.new("L", (64, 32), 0)
    image.paste(255, (24, 0, 40, 32))
    tensor = transforms("photo", 28, "L")(image)
    assert tensor[0, 14, 14] == 1
    assert tensor[0, 14, 0] == -1


@pytest.mark.parametrize("arguments", [("big", 28), ("small", 0), ("photo", 28, "CMYK")])
def test_unknown_settings_are_refused(arguments):
    with pytest.raises(ConfigError):
        transforms(*arguments)


@pytest.mark.parametrize("kind", ["small", "photo"])
@pytest.mark.parametrize("train", [False, True])
def test_unknown_strengths_are_refused(kind, train):
    for build in (
        lambda: transforms(kind, 28, "L", train, "wild"),
        lambda: batch_transforms(kind, 28, "L", "wild"),
    ):
        with pytest.raises(ConfigError, match="strength must be 'mild' or 'strong', got 'wild'"):
            build()


@pytest.mark.parametrize("kind", ["small", "photo"])
@pytest.mark.parametrize("views", [0, 3, "2", None])
def test_unknown_numbers_of_views_are_refused(kind, views):
    with pytest.raises(ConfigError, match=f"views must be 1 or 2, got {views!r}"):
        batch_transforms(kind, 28, "L", views=views)


@pytest.mark.parametrize("arguments", [("big", 28), ("small", 0), ("photo", 28, "CMYK")])
def test_batches_refuse_what_images_refuse(arguments):
    with pytest.raises(ConfigError):
        batch_transforms(*arguments)
