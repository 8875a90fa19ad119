"""Redraw against torchvision's RandomAffine and ElasticTransform, and batches of views."""

import math
import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from pml_slade.datasets import ImageDataset, Redraw, batch_transforms
from pml_slade.datasets.redrawing import CollateViews, elastic_displacement, inverse_affine, resample
from pml_slade.exceptions import ConfigError, DataError

BILINEAR = v2.InterpolationMode.BILINEAR
# Sides whose tenth rounds to whole pixels, as torchvision does it, without another variance.
HEIGHT, WIDTH = 24, 36
EARLIER = not hasattr(v2.Transform, "make_params")
"""Whether this torchvision is one like 0.17, whose draws differ from those of later ones."""


def drawing(height=HEIGHT, width=WIDTH):
    """An L above and to the left of the centre: no symmetry hides a mistake."""
    image = torch.zeros(1, height, width)
    image[:, height // 2 - 6 : height // 2 + 3, width // 2 - 5 : width // 2 - 3] = 1
    image[:, height // 2 + 1 : height // 2 + 3, width // 2 - 5 : width // 2 + 2] = 1
    return image


def old(strength, side):
    """What `Redraw` replaced."""
    if strength == "mild":
        return v2.RandomAffine(10, (0.1, 0.1), (0.9, 1.1), 5, interpolation=BILINEAR)
    affine = v2.RandomAffine(15, (0.1, 0.1), (0.8, 1.2), 15, interpolation=BILINEAR)
    return v2.Compose([affine, v2.ElasticTransform(20.0 * (side / 28) ** 2, 3.0 * side / 28)])


def moments(batch):
    """(N, 6): ink, its centre in x and y, its extent in x and y and its slant, in pixels."""
    ink = batch[:, 0] / batch.sum((1, 2, 3))[:, None, None]
    y, x = (axis.float() for axis in torch.meshgrid(*map(torch.arange, ink.shape[1:]), indexing="ij"))
    mean_x, mean_y = ((ink * axis).sum((1, 2), keepdim=True) for axis in (x, y))
    dx, dy = x - mean_x, y - mean_y
    second = [(ink * a * b).sum((1, 2)) for a, b in ((dx, dx), (dy, dy), (dx, dy))]
    return torch.stack([batch.sum((1, 2, 3)), mean_x.flatten(), mean_y.flatten(), *second], 1)


@pytest.mark.parametrize("strength", ["mild", "strong"])
def test_drawings_are_distributed_as_torchvision_s(strength):
    n, transform = 1500, old(strength, HEIGHT)
    theirs = moments(torch.stack([transform(drawing()) for _ in range(n)]))
    ours = moments(Redraw(strength)(drawing().expand(n, -1, -1, -1)))
    spread = theirs.std(0)
    if strength == "strong":
        # A second interpolation, at f of the way between pixels, widens by f (1 - f): 1/6 on average.
        theirs[:, 3:5] -= 1 / 6
    torch.testing.assert_close(ours.mean(0) / spread, theirs.mean(0) / spread, atol=0.13, rtol=0)
    # 0.17 slants and turns up to a tenth otherwise.
    torch.testing.assert_close(ours.std(0), spread, atol=0, rtol=0.13 if EARLIER else 0.08)


@pytest.mark.parametrize(("turn", "shear", "scale"), [(10, 0, 1), (0, 15, 1), (0, 0, 1.2), (-14, 9, 0.8)])
@pytest.mark.parametrize("shift", [(0, 0), (3, 0), (-2, 1)])
def test_the_affine_map_is_torchvision_s(turn, shear, scale, shift):
    image = torch.rand(2, HEIGHT, WIDTH)
    angles = (torch.tensor([math.radians(angle)]) for angle in (turn, shear))
    inverse = inverse_affine(*angles, torch.tensor([scale]))
    ours = resample(image[None], inverse, torch.tensor([shift]))
    theirs = v2.functional.affine(image, turn, list(shift), scale, [shear, 0], interpolation=BILINEAR)
    torch.testing.assert_close(ours[0], theirs, atol=1e-4, rtol=0)


@pytest.mark.skipif(EARLIER, reason="this torchvision draws it otherwise")
@pytest.mark.parametrize(("height", "width"), [(28, 28), (HEIGHT, WIDTH), (56, 20), (1, 3)])
def test_the_elastic_displacement_is_torchvision_s(height, width):
    """From the same noise, so that size, smoothness and border agree at every pixel."""
    side = min(height, width)
    transform = v2.ElasticTransform(alpha=20.0 * (side / 28) ** 2, sigma=3.0 * side / 28)
    torch.manual_seed(1)
    theirs = transform.make_params([torch.zeros(1, height, width)])["displacement"]
    torch.manual_seed(1)
    ours = elastic_displacement(1, height, width)
    pixels = theirs * torch.tensor([width, height]) / 2
    torch.testing.assert_close(ours.permute(0, 2, 3, 1), pixels, atol=1e-5, rtol=1e-4)
    image = torch.rand(1, height, width)
    bent = resample(image[None], torch.eye(2)[None], torch.zeros(1, 2), ours)
    torch.testing.assert_close(bent[0], v2.functional.elastic(image, theirs), atol=1e-4, rtol=0)


def test_bending_comes_after_the_affine_map():
    image = v2.functional.gaussian_blur(drawing(56, 56), 9, 2.0)[None]
    inverse = inverse_affine(torch.tensor([0.2]), torch.tensor([0.2]), torch.tensor([0.8]))
    shift, still, upright = torch.tensor([[4.0, -3.0]]), torch.zeros(1, 2), torch.eye(2)[None]
    displacement = 4 * elastic_displacement(1, 56, 56)
    twice = resample(resample(image, inverse, shift), upright, still, displacement)
    turned_round = resample(resample(image, upright, still, displacement), inverse, shift)
    once = resample(image, inverse, shift, displacement)
    assert (once - twice).abs().max() < 0.05 < 0.2 < (once - turned_round).abs().max()


@pytest.mark.parametrize("strength", ["mild", "strong"])
def test_each_image_is_drawn_in_its_own_way(strength):
    measures = moments(Redraw(strength)(drawing().expand(16, -1, -1, -1)))
    assert all(len(column.unique()) == 16 for column in measures.T)


def test_channels_of_an_image_move_together():
    drawn = Redraw("strong")(drawing().expand(3, -1, -1))
    assert torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize("strength", ["mild", "strong"])
def test_the_torch_seed_decides(strength):
    redraw, results = Redraw(strength), []
    for _ in range(2):
        torch.manual_seed(3)
        results.append(redraw(drawing()))
    assert torch.equal(*results)
    assert not torch.equal(results[0], redraw(drawing()))


def test_one_image_is_a_batch_of_one():
    torch.manual_seed(0)
    one = Redraw("strong")(drawing())
    torch.manual_seed(0)
    batch = Redraw("strong")(drawing()[None])
    assert one.shape == (1, HEIGHT, WIDTH)
    assert torch.equal(one[None], batch)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("strength", ["mild", "strong"])
def test_dtype_and_shape_stay_and_the_drawing_hardly_depends_on_them(strength, dtype):
    images = drawing().expand(4, 3, -1, -1).to(dtype)
    torch.manual_seed(0)
    drawn = Redraw(strength)(images)
    torch.manual_seed(0)
    exact = Redraw(strength)(images.float())
    assert drawn.dtype == dtype
    assert drawn.shape == images.shape
    torch.testing.assert_close(drawn.float(), exact, atol=5e-3, rtol=0)


def test_no_images_stay_none():
    assert Redraw("strong")(torch.zeros(0, 1, 28, 28)).shape == (0, 1, 28, 28)


def test_the_images_given_stay_as_they_are():
    images = drawing()[None].repeat(4, 1, 1, 1)
    Redraw("strong")(images)
    assert torch.equal(images, drawing().expand(4, -1, -1, -1))


def test_black_comes_in_from_outside():
    white = torch.ones(1, 1, 10, 10)
    shifted = resample(white, torch.eye(2)[None], torch.tensor([[3.0, 0.0]]))
    torch.testing.assert_close(shifted[0, 0, 0], torch.tensor([0.0] * 3 + [1.0] * 7))
    drawn = Redraw("strong")(torch.ones(64, 1, 28, 28))
    assert drawn.min() == 0
    assert drawn.max() <= 1 + 1e-6
    assert not Redraw("strong")(torch.zeros(4, 1, 28, 28)).any()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("strength", ["mild", "strong"])
def test_images_stay_on_their_device(strength):
    torch.manual_seed(0)
    drawn = Redraw(strength)(drawing().expand(4, -1, -1, -1).cuda())
    torch.manual_seed(0)
    assert torch.equal(drawn, Redraw(strength)(drawing().expand(4, -1, -1, -1).cuda()))
    assert drawn.is_cuda


@pytest.mark.parametrize("thing", [Redraw("strong"), CollateViews(Redraw("mild"), views=2)])
def test_it_goes_to_loader_processes_and_tells_what_it_is(thing):
    again = pickle.loads(pickle.dumps(thing))
    assert repr(again) == repr(thing)
    assert "Redraw('" in repr(thing)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(28, 28), r"float tensor of shape .* got torch.float32 of shape \(28, 28\)"),
        (torch.zeros(1, 28, 28, dtype=torch.uint8), "got torch.uint8"),
        ("letter", "must be a tensor, got str; use ToFloatTensor"),
    ],
)
def test_what_is_no_image_is_refused(images, message):
    with pytest.raises(DataError, match=message):
        Redraw()(images)


@pytest.mark.parametrize("strength", ["wild", None, ["mild"]])
def test_unknown_strengths_are_refused(strength):
    with pytest.raises(ConfigError, match="strength must be 'mild' or 'strong', got "):
        Redraw(strength)


def test_a_batch_of_bare_images_is_refused():
    with pytest.raises(DataError, match=r"items must be tuples \(image, ...\), got Tensor"):
        CollateViews(Redraw())([drawing(), drawing()])


def test_what_follows_the_image_comes_once_per_view():
    items = [(drawing(), 1, ("a", 0.5)), (drawing(), 2, ("b", 0.25))]
    images, labels, (names, shares) = CollateViews(Redraw(), views=2)(items)
    assert images.shape == (4, 1, HEIGHT, WIDTH)
    assert labels.tolist() == [1, 2, 1, 2]
    assert list(names) == ["a", "b", "a", "b"]
    assert shares.tolist() == [0.5, 0.25, 0.5, 0.25]


@pytest.mark.parametrize(("strength", "workers"), [("mild", 0), ("strong", 0), ("strong", 2)])
@pytest.mark.parametrize("kind", ["small", "photo"])
@pytest.mark.parametrize("views", [1, 2])
def test_batches_hold_first_views_then_second_ones(kind, strength, views, workers):
    # Grey levels far apart, which no transform of drawings changes, and photographs' only by jitter.
    pixels = np.stack([np.full((28, 28), level, dtype=np.uint8) for level in (40, 140, 240)])
    transform, collate_fn = batch_transforms(kind, 28, "L", strength, views)
    data = ImageDataset(pixels, [3, 5, 7], transform=transform, mode="L")
    images, labels = next(iter(DataLoader(data, 3, collate_fn=collate_fn, num_workers=workers)))
    assert images.shape == (3 * views, 1, 28, 28)
    assert images.dtype == torch.float32
    assert labels.tolist() == [3, 5, 7] * views
    if kind == "small" or strength == "mild":
        levels = torch.tensor([40.0, 140.0, 240.0]).repeat(views) / 255
        levels = levels if kind == "small" else levels * 2 - 1
        torch.testing.assert_close(images[:, 0, 14, 14], levels)


@pytest.mark.parametrize("kind", ["small", "photo"])
def test_the_two_views_of_an_image_differ(kind):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 28, 28), dtype=np.uint8)
    transform, collate_fn = batch_transforms(kind, 28, "L", views=2)
    data = ImageDataset(pixels, [0, 1, 2], transform=transform, mode="L")
    first, second = next(iter(DataLoader(data, 3, collate_fn=collate_fn)))[0].chunk(2)
    assert all(not torch.equal(a, b) for a, b in zip(first, second))
