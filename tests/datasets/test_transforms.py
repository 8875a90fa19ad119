import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from pml_slade.datasets.transforms import IMAGENET_MEAN, IMAGENET_STD, ToFloatTensor, transforms
from pml_slade.exceptions import ConfigError


def picture(mode="RGB", size=(50, 40)):
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(noise).convert(mode)


@pytest.mark.parametrize("kind", ["small", "photo"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("train", [False, True])
def test_output_is_a_square_float_tensor(kind, mode, train):
    transform = pickle.loads(pickle.dumps(transforms(kind, 28, mode, train)))
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
