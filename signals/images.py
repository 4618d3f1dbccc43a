"""Reading and writing still pictures: what a phone, a browser or an image editor writes becomes RGB uint8."""

from __future__ import annotations

import io
import logging
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from ..errors import MediaError
from .files import open_input, write_whole

log = logging.getLogger(__name__)

MAX_MEGAPIXELS = 200
BACKGROUND = (127, 127, 127)  # mid grey: neither dark nor light hair melts into it
DECODER_ERRORS = (  # what Pillow's decoders raise over damaged files
    OSError, SyntaxError, EOFError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError,
    struct.error, zlib.error,
)  # fmt: skip
_SIXTEEN_BIT = ("I;16", "I;16B", "I;16L", "I;16N", "I")


def load_image(
    path: str | Path,
    *,
    max_side: int | None = None,
    min_side: int = 32,
    background: tuple[int, int, int] = BACKGROUND,
) -> np.ndarray:
    """A picture as RGB uint8 (H, W, 3), upright and in sRGB.

    EXIF orientation is applied, an embedded colour profile converted, CMYK, palette and grey pictures become RGB,
    16-bit values are scaled to 8 bits, transparency is composited on `background`, of a moving picture the first frame
    is taken. A picture longer than `max_side` pixels is scaled down to it.
    Raises MediaError: no such file, not a picture, damaged, under `min_side` or over 200 megapixels.
    """
    path = Path(path)
    try:
        with warnings.catch_warnings(), open_input(path, "picture") as file:
            warnings.simplefilter("ignore")  # of large pictures and odd tags
            with Image.open(file) as image:
                _check_size(path, image, min_side)
                return _to_rgb(image, path, max_side, background)
    except MediaError:  # a ValueError, as some of the others
        raise
    except MemoryError as error:
        raise MediaError(f"there is not enough memory for picture {path}: scale it down") from error
    except UnidentifiedImageError as error:
        raise MediaError(f"{path} is not a picture that can be read: save it as PNG or JPEG") from error
    except Image.DecompressionBombError as error:
        raise MediaError(_too_large(path, "")) from error
    except DECODER_ERRORS as error:
        raise MediaError(f"picture {path} is damaged or cannot be read ({error}): save it anew") from error


def save_image(path: str | Path, image: np.ndarray) -> None:
    """Write RGB (H, W, 3) or grey (H, W) uint8; the ending says the format. The file is complete or not there.

    Raises MediaError if the place cannot be written or the format is unknown.
    """
    path = Path(path)
    kind = Image.registered_extensions().get(path.suffix.lower())
    if kind not in Image.SAVE:
        raise MediaError(f"cannot write {path}: unknown picture format {path.suffix!r}; use .png")
    try:
        write_whole(path, encode_image(image, kind))
    except OSError as error:
        raise MediaError(f"cannot write {path} ({error.strerror or error}): choose another place") from error


def encode_image(image: np.ndarray, kind: str = "PNG") -> bytes:
    """A file of RGB (H, W, 3) or grey (H, W) uint8."""
    data = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(data, kind)
    return data.getvalue()


def _check_size(path: Path, image: Image.Image, min_side: int) -> None:
    width, height = image.size
    if min(width, height) < min_side:
        raise MediaError(
            f"picture {path} is {width}x{height} pixels: too small to hold a face; use one of at least 256x256"
        )
    if width * height > MAX_MEGAPIXELS * 1_000_000:
        raise MediaError(_too_large(path, f" ({width}x{height})"))


def _too_large(path: Path, size: str) -> str:
    return f"picture {path} is too large{size}: at most {MAX_MEGAPIXELS} megapixels; scale it down first"


def _to_rgb(image: Image.Image, path: Path, max_side: int | None, background: tuple[int, int, int]) -> np.ndarray:
    if max_side is not None and image.format == "JPEG":
        image.draft("RGB" if image.mode == "YCbCr" else image.mode, (2 * max_side, 2 * max_side))
    profile = image.info.get("icc_profile")
    upright = ImageOps.exif_transpose(image)
    rgb = flatten(_eight_bit(upright, path), background, profile)
    if max_side is not None and max(rgb.size) > max_side:
        rgb.thumbnail((max_side, max_side), Image.Resampling.LANCZOS, reducing_gap=3.0)
    return np.array(rgb, dtype=np.uint8)


def _eight_bit(image: Image.Image, path: Path) -> Image.Image:
    """The same picture with 8 bits a channel; 16-bit grey is scaled by 1/257, never cut off at 255."""
    if image.mode in _SIXTEEN_BIT:
        values = np.asarray(image).astype(np.float64)
        if values.max(initial=0) > 65535 or values.min(initial=0) < 0:
            raise MediaError(f"picture {path} has 32-bit values: save it as 8- or 16-bit PNG")
        return Image.fromarray(np.round(values / 257).astype(np.uint8))
    if image.mode == "F":
        raise MediaError(f"picture {path} has floating-point values: save it as 8- or 16-bit PNG")
    return image


def flatten(
    image: Image.Image, background: tuple[int, int, int] = BACKGROUND, profile: bytes | None = None
) -> Image.Image:
    """RGB in sRGB: through the embedded colour profile if there is one, transparency laid on `background`."""
    if image.has_transparency_data:
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
        solid = Image.new("RGB", image.size, background)
        solid.paste(_to_srgb(image.convert("RGB"), profile), mask=alpha)
        return solid
    return _to_srgb(image, profile)


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """RGB; through the embedded colour profile where it fits the picture's channels."""
    if profile and image.mode in ("RGB", "CMYK", "L"):
        try:
            embedded = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(image, embedded, ImageCms.createProfile("sRGB"), outputMode="RGB")
        except (ImageCms.PyCMSError, *DECODER_ERRORS) as error:
            log.info("the colour profile was left aside: %s", error)
        else:
            if converted is not None:
                return converted
    return image.convert("RGB")
