import hashlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from pml_slade.datasets import glyphs as drawn
from pml_slade.datasets.duplicates import find_duplicates
from pml_slade.datasets.glyph_letters import candidates, distinct
from pml_slade.datasets.glyph_rendering import FACES, Face, distort, fit
from pml_slade.datasets.glyphs import glyphs, glyphs_splits
from pml_slade.datasets.splits import class_names
from pml_slade.exceptions import ConfigError, DataError

pytestmark = [pytest.mark.usefixtures("few_letters"), pytest.mark.once]


def scripts(dataset):
    return {name.split("/")[0] for name in class_names(dataset)}


@pytest.mark.once
def test_parts_hold_the_scripts_they_should():
    splits = glyphs_splits()
    assert scripts(splits.labeled) == scripts(splits.validation) == {"latin"}
    assert scripts(splits.unlabeled) == {"latin", "greek"}
    assert scripts(splits.test) == {"cyrillic", "armenian", "georgian"}
    assert (splits.labeled.num_classes, splits.validation.num_classes) == (48, 12)


@pytest.mark.once
def test_no_class_is_in_two_parts():
    splits = glyphs_splits()
    parts = [splits.labeled, splits.validation, splits.unlabeled, splits.test]
    assert sum(part.num_classes for part in parts) == glyphs().num_classes
    assert set.union(*map(class_names, parts)) == set(glyphs().classes)


def test_each_letter_comes_in_enough_faces():
    counts = np.bincount(glyphs().labels)
    assert counts.min() >= drawn.MIN_FACES
    assert counts.max() <= len(FACES)


def test_images_are_white_ink_on_black_inside_the_frame():
    splits = glyphs_splits()
    image, label = splits.labeled[0]
    assert (image.mode, image.size, label) == ("L", (28, 28), 0)
    ink = glyphs()._images.reshape(len(glyphs()), -1)
    assert ink.max(axis=1).min() > 60
    assert ink.mean(axis=1).max() < 150


def test_no_test_image_is_in_the_pool():
    splits = glyphs_splits()
    assert not find_duplicates(splits.unlabeled, splits.test).pairs


def test_the_seed_chooses_letters_and_leaves_images_alone():
    first, again, other = (glyphs_splits(seed=seed) for seed in (0, 0, 1))
    assert first.labeled.classes == again.labeled.classes != other.labeled.classes
    assert np.array_equal(first.test._images, other.test._images)


@pytest.mark.once
def test_another_process_draws_the_same():
    code = (
        "from pml_slade.datasets.glyph_rendering import Face, distort; import hashlib;"
        "print(hashlib.sha1(distort(Face('DejaVuSerif').draw('g'), 28, 'Serif', 'g')).hexdigest())"
    )
    here = distort(Face("DejaVuSerif").draw("g"), 28, "Serif", "g")
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert there.stdout.strip() == hashlib.sha1(here).hexdigest()


@pytest.mark.parametrize("name", FACES)
def test_faces_leave_out_what_they_do_not_have(name):
    face = Face(name)
    assert face.draw("A").getbbox() is not None
    assert face.draw("\u4e00") is None
    assert face.draw(" ") is None


def test_faces_that_matplotlib_lacks_are_named():
    with pytest.raises(DataError, match="Wingdings"):
        Face("Wingdings")


def test_tiny_marks_are_no_letters():
    assert Face("DejaVuSans").draw("\u1fbe") is None  # GREEK PROSGEGRAMMENI


def test_distortion_depends_on_the_key_and_stays_inside():
    glyph = Face("DejaVuSans").draw("W")
    images = [distort(glyph, 28, "Sans", key) for key in range(50)]
    assert len({image.tobytes() for image in images}) == 50
    border = np.ones((28, 28), dtype=bool)
    border[1:-1, 1:-1] = False
    assert max(image[border].max() for image in images) == 0


def test_look_alikes_of_other_scripts_go_and_the_first_stays():
    letters = [letter for letter in candidates() if letter.character in "AaΑАЖОOо"]
    face = Face("DejaVuSans")
    thumbnails = np.array([[fit(face.draw(c.character), 16).ravel() for c in letters]])
    kept = distinct(thumbnails, np.ones((1, len(letters)), bool), [c.script for c in letters])
    assert [letters[i].class_name for i in kept] == [
        "latin/A (U+0041)",
        "latin/O (U+004F)",
        "latin/a (U+0061)",
        "cyrillic/Ж (U+0416)",
    ]


def test_a_test_letter_must_differ_from_training_letters_in_every_face():
    same = np.array([[200, 10], [190, 20]])
    thumbnails = np.stack([same, [[200, 0], [0, 200]]]).astype(np.uint8)
    drawn = np.ones((2, 2), bool)
    assert distinct(thumbnails, drawn, ["latin", "greek"]).tolist() == [0, 1]
    assert distinct(thumbnails, drawn, ["latin", "cyrillic"]).tolist() == [0]


def test_fit_keeps_the_shape():
    square = fit(Image.new("L", (40, 20), 255), 16)
    assert (square > 0).sum() == 16 * 8
    assert not square[:4].any()


@pytest.mark.parametrize(
    "arguments", [{"labeled_letters": 3}, {"labeled_letters": 10_000}, {"image_size": 4}]
)
def test_settings_that_cannot_be_met_are_refused(arguments):
    with pytest.raises(ConfigError, match=next(iter(arguments))):
        glyphs_splits(**arguments)
