"""Moving pictures that FFmpeg does not play: animated WebP and AVIF, read with Pillow."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import MediaError
from .files import open_input
from .images import DECODER_ERRORS, flatten

log = logging.getLogger(__name__)

TIME_BASE = Fraction(1, 1000)
_ANIMATION, _USUAL = 0b10, 100  # flag of a WebP header; milliseconds of a frame that does not say


def is_animated(path: Path) -> bool:
    """Whether a file is an animated WebP or AVIF, by its first bytes. Raises MediaError if it cannot be read."""
    with open_input(path, "video") as file:
        head = file.read(64)
    webp = head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X" and bool(head[20] & _ANIMATION if len(head) > 20 else 0)
    return webp or head[4:12] == b"ftypavis"


class AnimatedPicture:
    """Its frames with their times; `errors` of a reading tells whether it broke off.

    Raises MediaError if the picture cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with open_input(path, "video") as file:
            try:
                with Image.open(file) as image:
                    self.width, self.height = image.size
                    self.declared_frames = int(getattr(image, "n_frames", 1))
            except DECODER_ERRORS as error:
                raise MediaError(f"{path} is not a moving picture that can be read: convert it to MP4") from error

    def frames(self) -> Iterator[tuple[int, np.ndarray]]:
        """Milliseconds at which a frame is shown, and RGB uint8 (H, W, 3). Ends early where it is damaged."""
        shown = 0
        with open_input(self.path, "video") as file, Image.open(file) as image:
            for number in range(self.declared_frames):
                try:
                    image.seek(number)
                    picture = np.array(flatten(image), np.uint8)
                except DECODER_ERRORS as error:
                    log.info("frame %d does not decode: %s", number, error)
                    return
                yield shown, picture
                shown += int(image.info.get("duration") or _USUAL)

    @property
    def rate(self) -> Fraction:
        """Frames a second, as the first two say."""
        times = [time for (time, _), _ in zip(self.frames(), range(2), strict=False)]
        return Fraction(1000, max(1, times[1] - times[0])) if len(times) > 1 else Fraction(10)
