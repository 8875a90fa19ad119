import numpy as np
import pytest
from PIL import Image, ImageFilter

from pml_slade.datasets.duplicates import VIEWS, Thumbnails, _view, find_duplicates, match
from pml_slade.datasets.images import ImageDataset
from pml_slade.exceptions import ConfigError, DataError


def photo(seed, size=(160, 120)):
    rng = np.random.default_rng(seed)
    rough = Image.fromarray(rng.integers(0, 256, (8, 10, 3), dtype=np.uint8)).resize(size, 3)
    grain = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    return Image.blend(rough, grain.filter(ImageFilter.GaussianBlur(1)), 0.3)


def save(folder, images, suffix="png", **options):
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{i}.{suffix}" for i in range(len(images))]
    for image, path in zip(images, paths):
        image.save(path, **options)
    return ImageDataset(paths)


def test_the_same_pixels_in_another_lossless_format_are_exact(tmp_path):
    photos = [photo(i) for i in range(6)]
    pool = save(tmp_path / "pool", photos[:4], "png")
    test = save(tmp_path / "test", photos[3:], "bmp")
    report = find_duplicates(pool, test)
    assert [tuple(pair) for pair in report.pairs] == [(3, 0, "exact", 1.0)]
    assert report.indices.tolist() == [3]


@pytest.mark.parametrize(
    "change",
    [
        lambda image: image.resize((83, 62)),
        lambda image: image.resize((400, 300)),
        lambda image: image.point(lambda value: 30 + value * 0.7),
        lambda image: image.convert("L").convert("RGB"),
    ],
    ids=["smaller", "larger", "paler", "grey"],
)
def test_changed_copies_are_near_and_others_are_not(tmp_path, change):
    photos = [photo(i) for i in range(12)]
    pool = save(tmp_path / "pool", photos[:8])
    test = save(tmp_path / "test", [change(image) for image in photos[6:]], "jpg", quality=60)
    pairs = find_duplicates(pool, test).pairs
    assert [(pair.a, pair.b, pair.kind) for pair in pairs] == [(6, 0, "near"), (7, 1, "near")]


@pytest.mark.parametrize("share", [0.9, 0.8])
@pytest.mark.parametrize("cropped", ["pool", "test"])
def test_crops_to_the_middle_are_near(tmp_path, share, cropped):
    def crop(image):
        width, height = (round(side * (1 - share) / 2) for side in image.size)
        return image.crop((width, height, image.width - width, image.height - height)).resize((90, 70))

    photos = [photo(i) for i in range(12)]
    whole, crops = photos[:8], [crop(image) for image in photos[6:]]
    sides = {"pool": whole, "test": crops} if cropped == "test" else {"pool": crops, "test": whole}
    datasets = [save(tmp_path / name, images, "jpg", quality=70) for name, images in sides.items()]
    pairs = [(pair.a, pair.b) for pair in find_duplicates(*datasets).pairs]
    assert pairs == ([(6, 0), (7, 1)] if cropped == "test" else [(0, 6), (1, 7)])


def test_blank_images_are_never_near():
    blank = [np.full((2, 8, 8), value, np.uint8) for value in (0, 3)]
    assert not find_duplicates(*(ImageDataset(images, mode="L") for images in blank)).pairs


def test_each_image_is_reported_once_with_its_best_match():
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16)).astype(np.uint8)
    crowd = ImageDataset(np.concatenate([images, images, images]), mode="L")
    report = find_duplicates(ImageDataset(images, mode="L"), crowd)
    assert [(pair.a, pair.b) for pair in report.pairs] == [(0, 0), (1, 1), (2, 2)]


def test_grey_and_colour_datasets_are_compared_in_grey():
    grey = np.random.default_rng(0).integers(0, 256, (2, 9, 9)).astype(np.uint8)
    colour = np.repeat(grey[..., None], 3, axis=-1)
    report = find_duplicates(ImageDataset(grey, mode="L"), ImageDataset(colour))
    assert report.count("exact") == 2


def test_the_report_reads_as_one_line(tmp_path):
    pool = save(tmp_path / "pool", [photo(0)])
    report = find_duplicates(pool, pool)
    path = pool.name(0)
    expected = f"1 exact and 0 near-duplicates among 1 x 1 images, e.g. {path} = {path}"
    assert str(report) == expected


def test_an_empty_side_has_no_duplicates():
    empty, one = (ImageDataset(np.zeros((n, 4, 4), np.uint8), mode="L") for n in (0, 1))
    assert not find_duplicates(one, empty).pairs
    assert not find_duplicates(empty, one).pairs


def test_bad_thresholds_and_damaged_files_are_refused(tmp_path):
    pool = save(tmp_path / "pool", [photo(0)])
    with pytest.raises(ConfigError, match="min_similarity"):
        find_duplicates(pool, pool, min_similarity=0)
    (tmp_path / "pool/0.png").write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"0\.png"):
        find_duplicates(pool, pool)


def test_what_finds_candidates_loses_none():
    noise = np.random.default_rng(0).integers(0, 256, (24, 6, 6)).astype(np.uint8)
    images = [Image.fromarray(each).resize((50, 40), 3) for each in noise]
    a, b = images[:10], images[10:]
    kept = Thumbnails.of(ImageDataset(np.stack([np.asarray(each) for each in a]), mode="L"), "L")
    other = Thumbnails.of(ImageDataset(np.stack([np.asarray(each) for each in b]), mode="L"), "L")
    views = [(1.0, share) for share in VIEWS] + [(share, 1.0) for share in VIEWS]
    every = [
        _view(kept.grey, ours).astype(np.float64) @ _view(other.grey, theirs).T.astype(np.float64)
        for ours, theirs in views
    ]
    best = np.max(every, axis=0)
    expected = [(i, int(row.argmax())) for i, row in enumerate(best) if row.max() >= 0.3]
    assert 3 < len(expected) < len(a)
    assert [(pair.a, pair.b) for pair in match(kept, other, 0.3).pairs] == expected
