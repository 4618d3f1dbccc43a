"""Reading pictures as they come from phones, browsers and editors."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageCms
from svdp.errors import MediaError
from svdp.signals.images import BACKGROUND, load_image, save_image


def ramp(height: int = 64, width: int = 96) -> np.ndarray:
    """A picture without symmetry: red grows to the right, green downwards."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[..., 0] = np.linspace(0, 255, width)
    picture[..., 1] = np.linspace(0, 255, height)[:, None]
    picture[..., 2] = 60
    return picture


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.bmp", "a.tiff"])
def test_lossless_round_trip(tmp_path, name):
    if name.endswith("webp"):
        Image.fromarray(ramp()).save(tmp_path / name, lossless=True)
    else:
        save_image(tmp_path / name, ramp())
    assert np.array_equal(load_image(tmp_path / name), ramp())
    assert [p.name for p in tmp_path.iterdir()] == [name]  # nothing half-written left


@pytest.mark.parametrize("orientation, turn", [(3, 2), (6, -1), (8, 1)])
def test_exif_rotation_of_phones_is_applied(tmp_path, orientation, turn):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.rot90(ramp(), -turn)).save(tmp_path / "phone.jpg", quality=98, exif=exif)
    read = load_image(tmp_path / "phone.jpg")
    assert read.shape == ramp().shape
    assert np.abs(read.astype(int) - ramp()).mean() < 3


@pytest.mark.parametrize("size", [None, 48])
def test_exif_rotation_and_scaling_together(tmp_path, size):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(ramp(256, 384), 1)).save(tmp_path / "phone.jpg", quality=98, exif=exif)
    read = load_image(tmp_path / "phone.jpg", max_side=size)
    assert read.shape == ((256, 384, 3) if size is None else (32, 48, 3))
    assert read[0, -1, 0] > 230 > 30 > read[0, 0, 0]


def test_transparency_is_laid_on_grey(tmp_path):
    picture = np.dstack([ramp(), np.full((64, 96), 255, np.uint8)])
    picture[:10, :, 3] = 0
    picture[10:20, :, 3] = 128
    Image.fromarray(picture, "RGBA").save(tmp_path / "cut.png")
    read = load_image(tmp_path / "cut.png")
    assert (read[:10] == BACKGROUND).all()
    assert np.array_equal(read[20:], ramp()[20:])
    assert np.abs(read[15].astype(int) - (ramp()[15] // 2 + 64)).max() <= 2


def test_transparent_palette_is_laid_on_grey(tmp_path):
    picture = Image.fromarray(np.repeat([[0, 1, 2]], 40, 0).repeat(20, 1).astype(np.uint8), "P")
    picture.putpalette([10, 20, 30, 200, 100, 50, 0, 255, 0])
    picture.save(tmp_path / "palette.png", transparency=1)
    read = load_image(tmp_path / "palette.png")
    assert tuple(read[0, 0]) == (10, 20, 30) and tuple(read[0, 30]) == BACKGROUND and tuple(read[0, 50]) == (0, 255, 0)


def test_sixteen_bit_grey_keeps_its_range(tmp_path):
    values = np.linspace(0, 65535, 96).astype(np.uint16)[None].repeat(64, 0)
    Image.fromarray(values).save(tmp_path / "deep.png")
    read = load_image(tmp_path / "deep.png")
    assert read.shape == (64, 96, 3)
    assert np.abs(read[0, :, 1] - values[0] / 257).max() <= 0.51


def test_sixteen_bit_colour_keeps_its_range(tmp_path):
    import cv2  # Pillow cannot write such files

    deep = (ramp().astype(np.uint16) * 257)[..., ::-1]
    assert cv2.imwrite(str(tmp_path / "deep.png"), deep)
    assert np.abs(load_image(tmp_path / "deep.png").astype(int) - ramp()).max() <= 1


def test_grey_cmyk_and_bilevel_become_rgb(tmp_path):
    Image.fromarray(ramp()).convert("L").save(tmp_path / "grey.jpg", quality=95)
    grey = load_image(tmp_path / "grey.jpg")
    assert grey.shape == (64, 96, 3) and (np.ptp(grey, axis=2) == 0).all()
    Image.fromarray(ramp()).convert("CMYK").save(tmp_path / "print.jpg", quality=98)
    assert np.abs(load_image(tmp_path / "print.jpg").astype(int) - ramp()).mean() < 6
    Image.fromarray(ramp()).convert("1").save(tmp_path / "fax.png")
    assert set(np.unique(load_image(tmp_path / "fax.png"))) <= {0, 255}


def test_a_colour_profile_is_converted_and_a_broken_one_left_aside(tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(ramp()).save(tmp_path / "srgb.png", icc_profile=profile)
    assert np.abs(load_image(tmp_path / "srgb.png").astype(int) - ramp()).max() <= 1
    Image.fromarray(ramp()).save(tmp_path / "broken.png", icc_profile=b"not a profile")
    assert np.array_equal(load_image(tmp_path / "broken.png"), ramp())


def test_the_first_frame_of_a_moving_picture(tmp_path):
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "lime")]
    frames[0].save(tmp_path / "two.gif", save_all=True, append_images=frames[1:])
    assert tuple(load_image(tmp_path / "two.gif")[0, 0]) == (255, 0, 0)


def test_one_pixel_is_too_small(tmp_path):
    Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")
    with pytest.raises(MediaError, match=r"dot\.png is 1x1 pixels: too small to hold a face; use one of at least"):
        load_image(tmp_path / "dot.png")


def test_eight_thousand_pixels_are_scaled_down(tmp_path):
    Image.new("RGB", (8000, 8000), (90, 120, 60)).save(tmp_path / "huge.jpg")
    read = load_image(tmp_path / "huge.jpg", max_side=1024)
    assert read.shape == (1024, 1024, 3)
    assert np.abs(read.astype(int) - (90, 120, 60)).max() <= 2


def test_over_the_limit_is_refused_before_decoding(tmp_path):
    header = io.BytesIO()
    Image.new("1", (16, 16)).save(header, "PNG")
    data = bytearray(header.getvalue())
    data[16:24] = (30000).to_bytes(4, "big") * 2  # width and height in the header; its checksum comes after
    import zlib

    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    (tmp_path / "bomb.png").write_bytes(data)
    with pytest.raises(MediaError, match=r"bomb\.png is too large.*at most 200 megapixels; scale it down"):
        load_image(tmp_path / "bomb.png")


def test_missing_foreign_and_damaged_files_are_named(tmp_path):
    with pytest.raises(MediaError, match=r"gone\.png does not exist"):
        load_image(tmp_path / "gone.png")
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(MediaError, match=r"text\.png is not a picture that can be read: save it as PNG or JPEG"):
        load_image(tmp_path / "text.png")
    save_image(tmp_path / "cut.png", np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:3000])
    with pytest.raises(MediaError, match=r"cut\.png is damaged"):
        load_image(tmp_path / "cut.png")


def test_floating_point_pictures_are_refused(tmp_path):
    Image.fromarray(np.zeros((40, 40), np.float32)).save(tmp_path / "float.tiff")
    with pytest.raises(MediaError, match="floating-point"):
        load_image(tmp_path / "float.tiff")


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(MediaError, match=r"cannot write .*gone.*a\.png"):
        save_image(tmp_path / "gone" / "a.png", ramp())
    with pytest.raises(MediaError, match=r"unknown picture format '\.xyz'"):
        save_image(tmp_path / "a.xyz", ramp())
