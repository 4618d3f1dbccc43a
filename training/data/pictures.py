"""Raw training clips as pictures, and the changes of appearance that keep a model from copying its driver."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

GREY = np.array([0.299, 0.587, 0.114], np.float32)


@dataclass(frozen=True)
class PictureClip:
    """One sample before encoding; all pictures (size, size, 3) uint8."""

    sources: np.ndarray  # (S, size, size, 3) the target's person, otherwise posed
    target: np.ndarray  # (T, size, size, 3)
    driving: np.ndarray  # (T, size, size, 3) masked: black outside the regions
    masks: np.ndarray  # (T, 3, size, size) uint8 0/255: eyes, nose, mouth of the driver
    info: dict[str, Any]  # provider, identities, licences


@dataclass(frozen=True)
class ColourChange:
    """A fixed change of colours: saturation, gains, gamma, hue."""

    matrix: np.ndarray  # (3, 3)
    gamma: float

    def __call__(self, pictures: np.ndarray) -> np.ndarray:
        """Pictures (..., 3) in 0..255, float32 in and out."""
        unit = np.clip(pictures @ self.matrix.T / 255, 0, 1)
        return (255 * unit**self.gamma).astype(np.float32)


def draw_colours(rng: np.random.Generator, strength: float) -> ColourChange:
    """A random change; strength 1 is strong (another camera, light and skin tone), 0 none."""
    saturation = 1 + strength * rng.uniform(-0.5, 0.3)
    gains = np.exp(strength * rng.normal(0, (0.12, 0.07, 0.12))) * np.exp(strength * rng.normal(0, 0.13))
    angle = strength * rng.normal(0, 0.12)
    saturate = saturation * np.eye(3) + (1 - saturation) * np.outer(np.ones(3), GREY)
    matrix = np.diag(gains) @ saturate @ _hue_rotation(angle)
    return ColourChange(matrix.astype(np.float32), float(np.exp(strength * rng.normal(0, 0.18))))


def _hue_rotation(angle: float) -> np.ndarray:
    """(3, 3) rotation about the grey axis (Rodrigues)."""
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * (cross @ cross)


def draw_paint(rng: np.random.Generator, size: int) -> np.ndarray:
    """(size, size, 3) float32 gains that vary softly over a photo: another make-up, complexion and light.

    People painted so are strangers: a model cannot know them by heart and has to look at the source.
    """
    gains = np.zeros((size, size, 3), np.float32)
    for cells, spread in ((2, 0.25), (5, 0.2), (12, 0.14)):
        tint = rng.normal(0, spread, (cells, cells, 3)) * rng.random() + rng.normal(0, spread, (cells, cells, 1))
        gains += cv2.resize(tint.astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
    return np.exp(gains - gains.mean())


def lift_dark(pictures: np.ndarray, masks: np.ndarray, least: float = 45.0) -> np.ndarray:
    """Float pictures (T, H, W, 3), brightened together if they are darker than `least` inside (T, 3, H, W) masks."""
    shown = masks.max(axis=1) > 0
    level = float(pictures[shown].mean()) if shown.any() else least
    return pictures * max(1.0, least / max(level, 1.0))


def to_bytes(pictures: np.ndarray) -> np.ndarray:
    """Float pictures in 0..255 as uint8."""
    return np.clip(pictures + 0.5, 0, 255).astype(np.uint8)


def pool_masks(masks: np.ndarray, factor: int = 8) -> np.ndarray:
    """(T, 3, H, W) -> (T, 3, H / factor, W / factor): the maximum of each block."""
    t, n, height, width = masks.shape
    return masks.reshape(t, n, height // factor, factor, width // factor, factor).max(axis=(3, 5))


def mirror(clip: PictureClip) -> PictureClip:
    """Left and right exchanged."""
    flip = lambda a, axis: np.ascontiguousarray(np.flip(a, axis))  # noqa: E731
    return PictureClip(
        flip(clip.sources, 2), flip(clip.target, 2), flip(clip.driving, 2), flip(clip.masks, 3),
        clip.info | {"mirrored": True},
    )  # fmt: skip


def random_backdrop(rng: np.random.Generator, size: int) -> np.ndarray:
    """(size, size, 3) float32 soft coloured background, sometimes with shapes in it."""
    corners = rng.uniform(15, 240, (int(rng.integers(2, 5)), int(rng.integers(2, 5)), 3)).astype(np.float32)
    picture = cv2.resize(corners, (size, size), interpolation=cv2.INTER_CUBIC)
    for _ in range(int(rng.integers(0, 6))):
        a, b = rng.integers(0, size, 2), rng.integers(0, size, 2)
        colour = tuple(float(c) for c in rng.uniform(15, 240, 3))
        cv2.rectangle(picture, (int(a[0]), int(a[1])), (int(b[0]), int(b[1])), colour, -1)
    return np.clip(cv2.GaussianBlur(picture, (0, 0), float(rng.uniform(1.5, 9))), 0, 255)
