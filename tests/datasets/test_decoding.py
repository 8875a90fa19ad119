import numpy as np
import pytest
from PIL import Image

from pml_slade.datasets.decoding import read_image, to_mode
from pml_slade.exceptions import DataError


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "gif", "webp", "tif", "ppm"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_every_format_comes_in_the_mode_asked_for(tmp_path, suffix, mode):
    path = tmp_path / f"image.{suffix}"
    Image.new("RGB", (12, 7), (90, 90, 90)).save(path)
    image = read_image(path, mode)
    assert (image.mode, image.size) == (mode, (12, 7))
    assert np.abs(np.asarray(image).astype(int) - 90).max() <= 3


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "La", "RGBa"])
def test_transparent_pixels_turn_white(mode):
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    alpha = image.getchannel("A")
    image = image.convert(mode) if mode != "La" else image.convert("LA").convert("La")
    if mode == "PA":
        image.putalpha(alpha)  # older Pillow does not keep it
    assert np.asarray(to_mode(image, "L")).tolist() == [[0, 255]]


def test_the_transparent_palette_entry_turns_white(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "palette.png", transparency=1)
    read = read_image(tmp_path / "palette.png")
    assert [read.getpixel((x, 0)) for x in (0, 1)] == [(10, 20, 30), (255, 255, 255)]


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bit_grey_is_scaled_and_not_clipped(tmp_path, suffix):
    values = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / f"deep.{suffix}")
    assert np.asarray(read_image(tmp_path / f"deep.{suffix}", "L")).tolist() == [[0, 1, 128, 255]]


@pytest.mark.parametrize("asked", ["RGB", "L"])
@pytest.mark.parametrize("mode", ["1", "P", "CMYK", "YCbCr", "HSV", "L", "RGB"])
def test_white_stays_white_from_any_mode(mode, asked):
    white = Image.new("RGB", (3, 3), "white").convert(mode)
    assert np.asarray(to_mode(white, asked)).min() == 255


@pytest.mark.parametrize("asked", ["RGB", "L"])
def test_lab_becomes_what_was_asked_for(asked):
    white = to_mode(Image.new("LAB", (3, 3), (255, 128, 128)), asked)
    assert (white.mode, np.asarray(white).min() > 250) == (asked, True)


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    Image.new("RGB", (20, 10)).save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg").size == (10, 20)


def test_of_an_animation_the_first_frame_is_read(tmp_path):
    frames = [Image.new("L", (4, 4), value) for value in (200, 10)]
    frames[0].save(tmp_path / "film.gif", save_all=True, append_images=frames[1:])
    assert read_image(tmp_path / "film.gif", "L").getpixel((0, 0)) == 200


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "webp"])
def test_a_truncated_file_is_named(tmp_path, suffix):
    path = tmp_path / f"half.{suffix}"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=f"half.{suffix}.*replace the file"):
        read_image(path)


@pytest.mark.parametrize("content", [b"", b"no image at all", b"\x89PNG\r\n\x1a\n" + b"\x00" * 40])
def test_what_is_no_image_is_named(tmp_path, content):
    (tmp_path / "broken.png").write_bytes(content)
    with pytest.raises(DataError, match=r"broken\.png"):
        read_image(tmp_path / "broken.png")


def test_float_images_are_refused(tmp_path):
    Image.new("F", (2, 2)).save(tmp_path / "float.tif")
    with pytest.raises(DataError, match="8 or 16 bits"):
        read_image(tmp_path / "float.tif")
