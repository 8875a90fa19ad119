"""The views of an image, by kind of data, size and mode."""

import pickle

import pytest
import torch
from PIL import Image

from pml_slade.exceptions import ConfigError
from pml_slade.pretraining import MultiCrop, swav_views


def picture(mode, size=(40, 30)):
    return Image.linear_gradient("L").resize(size).convert(mode)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize(("kind", "local"), [("photo", 14), ("small", 23)])
def test_two_global_views_then_the_local_ones(kind, local, mode):
    views = swav_views(kind, 32, mode, num_local=2)(picture(mode))
    channels = len(mode)
    assert [tuple(v.shape) for v in views] == [(channels, s, s) for s in (32, 32, local, local)]
    assert all(v.dtype == torch.float32 for v in views)
    assert not torch.equal(views[0], views[1])
    assert not torch.equal(views[2], views[3])


@pytest.mark.parametrize("kind", ["photo", "small"])
def test_no_local_views(kind):
    assert len(swav_views(kind, 32)(picture("RGB"))) == 2


def test_drawings_stay_between_black_and_white_and_photographs_are_normalised():
    drawn = torch.stack(swav_views("small", 28, "L")(Image.new("L", (28, 28), 255)))
    assert drawn.min() >= 0
    assert drawn.max() <= 1
    torch.manual_seed(1)
    white = torch.stack([v for _ in range(20) for v in swav_views("photo", 28)(Image.new("RGB", (28, 28)))])
    assert white.min() == pytest.approx(-0.485 / 0.229, abs=0.01)


def test_a_drawing_keeps_its_strokes():
    """A view is the same character by another hand: moved and bent, not cut off."""
    image = Image.new("L", (28, 28))
    image.paste(255, (11, 8, 17, 20))
    strokes = [float(v.sum()) for _ in range(20) for v in swav_views("small", 28, "L")(image)]
    assert min(strokes) > 0.5 * 6 * 12
    assert max(strokes) < 2 * 6 * 12


def test_they_go_to_loader_processes():
    views = swav_views("photo", 32, num_local=1)
    again = pickle.loads(pickle.dumps(views))
    results = []
    for each in (views, again):
        torch.manual_seed(0)
        results.append(each(picture("RGB")))
    assert all(torch.equal(a, b) for a, b in zip(*results))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("drawn", 28), "kind must be 'small' or 'photo', got 'drawn'"),
        (("small", 0), "image_size must be at least 1 pixel, got 0"),
        (("small", 28, "CMYK"), "mode must be 'RGB' or 'L', got 'CMYK'"),
        (("small", 28, "L", -1), "num_local must be an integer of at least 0, got -1"),
    ],
)
def test_what_cannot_be_made_is_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        swav_views(*arguments)


def test_its_repr_tells_what_it_does():
    assert "num_local=1" in repr(swav_views("small", 28, "L", 1))
    assert isinstance(swav_views("small", 28), MultiCrop)
