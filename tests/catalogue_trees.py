"""Small trees in the official formats of the catalogue, with images that can be learned."""

from pathlib import Path

import numpy as np
from images import drawings
from PIL import Image
from scipy.io import savemat

SIZES = ((32, 32), (48, 40), (36, 48), (44, 32))
BIRDS = (
    "Black_footed_Albatross",
    "Laysan_Albatross",
    "Sooty_Albatross",
    "Groove_billed_Ani",
    "Crested_Auklet",
    "Least_Auklet",
    "Parakeet_Auklet",
    "Rhinoceros_Auklet",
    "Brewer_Blackbird",
    "Red_winged_Blackbird",
)
NORTH_AMERICAN = (
    "Mallard (Female/Eclipse male)",
    "Laysan Albatross",
    "Brewer's Blackbird (Male)",
    "Brewer's Blackbird (Female/Juvenile)",
    "Red-winged Blackbird (Male)",
    "Northern Cardinal (Adult Male)",
    "Chuck-will's-widow",
    "Sora",
)
"""Three of these are among the second half of BIRDS, one is in the first half."""
CARS = (
    "AM General Hummer SUV 2000",
    "Acura RL Sedan 2012",
    "Acura Integra Type R 2001",
    "Aston Martin Virage Coupe 2012",
    "Audi V8 Sedan 1994",
    "Audi A5 Coupe 2012",
    "BMW X5 SUV 2007",
    "Mercedes-Benz C-Class Sedan 2012",
    "Ram C/V Cargo Van Minivan 2012",
    "smart fortwo Convertible 2012",
)
MODELS = (
    ("Audi", "Audi A5 coupe"),
    ("Audi", "Audi A4L"),
    ("BWM", "BWM X5"),
    ("BWM", "BWM 3 Series"),
    ("Benz", "Benz C Class"),
    ("Volkswagen", "Golf convertible"),
    ("Lamorghini", "Gallardo"),
    ("Acura", "Acura RL abroad version"),
)
"""Three of these are among the second half of CARS, one is in the first half."""
CATEGORIES = ("dress", "jacket", "pants", "skirt", "top")


def write_cub200(root, classes=10, per_class=4, first=1):
    """Write root/CUB_200_2011; `first` is the id of the first class."""
    names = {c: f"{c:03d}.{_nth(BIRDS, c - first)}" for c in range(first, first + classes)}
    pictures = [
        (f"{name}/{name[4:]}_{n:04d}_{9000 + n}.jpg", c)
        for c, name in names.items()
        for n in range(per_class)
    ]
    base = Path(root, "CUB_200_2011")
    _write_birds(base, dict(enumerate(pictures, start=1)), names)
    _lines(base / "train_test_split.txt", [f"{i} {i % 2}" for i in range(1, len(pictures) + 1)])
    return base


def write_nabirds(root, classes=8, per_class=4):
    """Write root/nabirds; classes.txt names groups of birds, too, that have no images of their own."""
    names = {0: "Birds", 1: "Ducks, Geese, and Swans"}
    leaves = {295 + c: _nth(NORTH_AMERICAN, c) for c in range(classes)}
    pictures = {}
    for c in leaves:
        for n in range(per_class):
            key = f"{c:08x}-0000-4000-8000-{n:012x}"
            pictures[key] = (f"{c:04d}/{key.replace('-', '')}.jpg", c)
    base = Path(root, "nabirds")
    _write_birds(base, pictures, names | leaves)
    _lines(base / "hierarchy.txt", [f"{c} 1" for c in leaves])
    return base


def write_cars196(root, classes=10, per_class=4, devkit=False):
    """Write root/cars196 with cars_annos.mat, or root/stanford_cars as torchvision reads it."""
    names = np.array([_nth(CARS, c) for c in range(classes)], dtype=object)
    rows = [(f"{1 + i:06d}.jpg", 1 + i // per_class, i % 2) for i in range(classes * per_class)]
    base = Path(root, "stanford_cars" if devkit else "cars196")
    folders = {0: "cars_train", 1: "cars_test"} if devkit else {0: "car_ims", 1: "car_ims"}
    _draw([base / folders[test] / name for name, _, test in rows], [c for _, c, _ in rows])
    if not devkit:
        annotations = [(f"car_ims/{name}", 1, 1, 30, 30, c, test) for name, c, test in rows]
        fields = ("relative_im_path", "bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "test")
        savemat(base / "cars_annos.mat", {"annotations": _structs(annotations, fields), "class_names": names})
        return base
    (base / "devkit").mkdir()
    savemat(base / "devkit" / "cars_meta.mat", {"class_names": names})
    fields = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")
    for test, file in enumerate(("devkit/cars_train_annos.mat", "cars_test_annos_withlabels.mat")):
        annotations = [(1, 1, 30, 30, c, name) for name, c, part in rows if part == test]
        savemat(base / file, {"annotations": _structs(annotations, fields)})
    return base


def write_compcars(root, classes=8, per_class=4):
    """Write root/compcars; one more class is in no list of the classification part."""
    cars = [_nth(MODELS, c, pair=True) for c in range(classes)] + [("Zoyte", "Zoyte 5008")]
    makes = list(dict.fromkeys(make for make, _ in cars))
    # Ids have gaps, and grow against the order of MODELS within a make.
    models = {3 * (len(cars) - number): model for number, (_, model) in enumerate(cars)}
    paths = [
        f"{makes.index(make) + 1}/{key}/{2010 + n % 3}/{key:04d}{n:010x}.jpg"
        for key, (make, _) in zip(models, cars)
        for n in range(per_class)
    ]
    base = Path(root, "compcars")
    _draw([base / "image" / path for path in paths], [i // per_class for i in range(len(paths))])
    cells = np.array([models.get(key, np.array([])) for key in range(1, max(models) + 1)], dtype=object)
    (base / "misc").mkdir()
    names = {"make_names": np.array(makes, dtype=object)[:, None], "model_names": cells[:, None]}
    savemat(base / "misc" / "make_model_name.mat", names)
    for half, listed in (("train", paths[:-per_class:2]), ("test", paths[1:-per_class:2])):
        _lines(base / "train_test_split" / "classification" / f"{half}.txt", listed)
    return base


def write_in_shop(root, classes=8, per_class=4):
    """Write root/in_shop; the first half of the items is to train on, of the others every second a query."""
    rows = []
    for c in range(classes):
        for n in range(per_class):
            item = f"id_{c + 1:08d}"
            status = "train" if c < classes // 2 else ("query", "gallery")[n % 2]
            rows.append((f"img/WOMEN/Dresses/{item}/{n + 1:02d}_1_front.jpg", item, status))
    base = Path(root, "in_shop")
    _draw([base / "Img" / name for name, _, _ in rows], [i // per_class for i in range(len(rows))])
    lines = [f"{name:<70} {item} {status}   " for name, item, status in rows]
    header = [str(len(rows)), "image_name item_id evaluation_status"]
    _lines(base / "Eval" / "list_eval_partition.txt", [*header, *lines])
    return base


def write_fashion200k(root, classes=10, per_class=10):
    """Write root/fashion200k; every item is two products, and each category has a small one more."""
    base = Path(root, "fashion200k")
    labels, files = {}, []
    for c in range(classes + len(CATEGORIES)):
        small = c >= classes
        category = CATEGORIES[c % len(CATEGORIES)]
        part = "train" if small or c // len(CATEGORIES) % 2 == 0 else "test"
        for n in range(2 if small else per_class):
            product = 50000000 + 2 * c + n % 2
            name = f"women/{category}s/casual_{category}s/{product}/{product}_{n // 2}.jpeg"
            files.append((base / name, c))
            text = f"{name}\t{-1 - n / 10:.2f}\tblue item {c} {category}"
            labels.setdefault(f"{category}_{part}_detect_all.txt", []).append(text)
    _draw(*zip(*files))
    for file, lines in labels.items():
        _lines(base / "labels" / file, lines)
    return base


WRITERS = {
    "CUB200": write_cub200,
    "NABirds": write_nabirds,
    "Cars196": write_cars196,
    "CompCars": write_compcars,
    "InShop": write_in_shop,
    "Fashion200k": write_fashion200k,
}
"""By the names of CATALOGUE."""


def _write_birds(base, pictures, names):
    _draw([base / "images" / path for path, _ in pictures.values()], [c for _, c in pictures.values()])
    _lines(base / "images.txt", [f"{key} {path}" for key, (path, _) in pictures.items()])
    _lines(base / "image_class_labels.txt", [f"{key} {c}" for key, (_, c) in pictures.items()])
    _lines(base / "classes.txt", [f"{c} {name}" for c, name in names.items()])


def _draw(files, labels):
    """One noisy copy of the pattern of its class in each of the files."""
    _, rows = np.unique(labels, return_inverse=True)
    counts = np.bincount(rows)
    pictures = drawings(len(counts), counts.max(), size=32)[0].reshape(len(counts), -1, 32, 32)
    used = [0] * len(counts)
    for number, (file, row) in enumerate(zip(files, rows)):
        file.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(pictures[row, used[row]]).resize(SIZES[number % len(SIZES)])
        image.convert("RGB").save(file, quality=95)
        used[row] += 1


def _structs(rows, fields):
    return np.array([rows], dtype=[(field, object) for field in fields])[0]


def _lines(file, lines):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _nth(names, number, pair=False):
    if number < len(names):
        return names[number]
    return (f"Maker {number}", f"Model {number}") if pair else f"Other {number}"
