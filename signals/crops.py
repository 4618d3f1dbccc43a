"""One crop rule for source and driver: a square whose scale is locked over the clip.

Coordinates are continuous: the pixel in column j covers [j, j + 1), so an affine maps picture edges to picture edges.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from ..errors import NoFaceError
from .opencv import cv2
from .smoothing import fill_missing
from .track import FaceTrack

SIDES = ((127, 356), (234, 454), (93, 323))  # face edge before the ears: upper, middle, lower; right and left of each
FOREHEAD, NOSE_BASE = 10, 2
HEIGHT_FACTOR = 1.63  # face height with the mouth closed / distance of the two: median of 34 portraits
AUTO_LIMIT = 0.2  # of the face size: a head that strays further from its usual place is followed
FOLLOW_SIGMA = 10.0  # frames: the followed centre is this slow, so that small head motion stays in the picture
GROWTH_LIMIT = 1.12  # the closest frames may be this much larger than the usual one before the crop is widened


@dataclass(frozen=True, kw_only=True)
class CropConfig:
    """How much of the picture is taken, and whether the square moves."""

    size: int = 128  # pixels of the result
    scale: float = 1.9  # side of the square / face size
    shift_y: float = 0.0  # moves the square up by this share of the face size
    position: Literal["auto", "locked", "follow"] = "auto"  # auto: locked unless the head strays

    def __post_init__(self):
        if self.size < 8:
            raise ValueError(f"a crop needs at least 8 pixels, got size {self.size}")
        if self.scale <= 0:
            raise ValueError(f"scale must be above 0, got {self.scale}")
        if self.position not in ("auto", "locked", "follow"):
            raise ValueError(f"position must be auto, locked or follow, got {self.position!r}")


@dataclass(frozen=True)
class Crop:
    """Where a square of each frame lies."""

    affines: np.ndarray  # (T, 2, 3) float32: picture coordinates -> crop coordinates, one scale for all T
    size: int  # pixels of the crop's side

    def __getitem__(self, index: slice | np.ndarray) -> "Crop":
        """The crop of the chosen frames."""
        return replace(self, affines=self.affines[index])


def face_frame(landmarks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centre (T, 2) and size (T,) of faces in pixels, from (T, 478, 3) landmarks; the crop rule's two measures.

    The centre lies between the ears, so it stays with the head when the face turns, and a little above the middle of
    the face. The size is the geometric mean of face width and height, both measured in depth too, the height without
    the jaw: neither turning nor opening the mouth changes it much. About 0.92 of the height of a closed-mouth face.
    """
    right = landmarks[:, [pair[0] for pair in SIDES]]
    left = landmarks[:, [pair[1] for pair in SIDES]]
    centre = (right + left).mean(1)[:, :2] / 2
    width = np.linalg.norm(right - left, axis=2).mean(1)
    height = HEIGHT_FACTOR * np.linalg.norm(landmarks[:, FOREHEAD] - landmarks[:, NOSE_BASE], axis=1)
    return centre, np.sqrt(width * height)


def mask_frame(masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centre (T, 2) and size (T,) in pixels of what is marked in (T, H, W) masks (any type, above half of the largest).

    For faces that no detector finds: the mask covers the face, so its box stands for it. Frames without any mark are
    interpolated. Raises NoFaceError if no frame has one.
    """
    marked: np.ndarray = np.greater(masks, 127 if masks.dtype == np.uint8 else 0.5)
    present: np.ndarray = np.asarray(marked.any(axis=(1, 2)))
    if not present.any():
        raise NoFaceError("the mask is empty in every frame: mark the face in it")
    boxes = np.stack([_box(m) if there else np.zeros(4) for m, there in zip(marked, present, strict=True)])
    boxes = fill_missing(boxes, present)
    sides = boxes[:, 2:] - boxes[:, :2]
    return (boxes[:, :2] + boxes[:, 2:]) / 2, np.sqrt(sides[:, 0] * sides[:, 1])


def plan_crop(track: FaceTrack, cfg: CropConfig) -> Crop:
    """The square around the tracked face in each frame."""
    return plan_squares(*face_frame(track.landmarks), cfg)


def plan_squares(centres: np.ndarray, sizes: np.ndarray, cfg: CropConfig) -> Crop:
    """Squares around faces of which centre (T, 2) and size (T,) are known, in pixels."""
    size = max(float(np.median(sizes)), float(np.percentile(sizes, 95)) / GROWTH_LIMIT)
    usual = np.median(centres, axis=0)
    strays = float(np.percentile(np.linalg.norm(centres - usual, axis=1), 98)) > AUTO_LIMIT * size
    if cfg.position == "follow" or (cfg.position == "auto" and strays):
        centres = _slow(centres)
    else:
        centres = np.broadcast_to(usual, centres.shape)
    zoom = cfg.size / (cfg.scale * size)
    corners = centres - np.array([0, cfg.shift_y * size]) - cfg.scale * size / 2
    affines = np.zeros((len(centres), 2, 3), np.float32)
    affines[:, [0, 1], [0, 1]] = zoom
    affines[:, :, 2] = -zoom * corners
    return Crop(affines, cfg.size)


def crop_frame(frame: np.ndarray, affine: np.ndarray, size: int) -> np.ndarray:
    """Cut (size, size, 3) uint8 out of an (H, W, 3) uint8 frame; beyond its edges the edge pixels are repeated."""
    return resample(frame, affine, (size, size))


def crop_landmarks(landmarks: np.ndarray, affines: np.ndarray) -> np.ndarray:
    """(T, L, 3) landmarks in crop pixels; depth is scaled along. `affines` (T, 2, 3)."""
    flat = np.einsum("tij,tlj->tli", affines[:, :, :2], landmarks[:, :, :2]) + affines[:, None, :, 2]
    depth = landmarks[:, :, 2:] * zoom_of(affines)[:, None, None]
    return np.concatenate([flat, depth], axis=2).astype(np.float32)


def crop_track(track: FaceTrack, crop: Crop) -> FaceTrack:
    """The track of the cropped clip."""
    landmarks = crop_landmarks(track.landmarks, crop.affines)
    return replace(track, landmarks=landmarks, image_size=(crop.size, crop.size))


def resample(image: np.ndarray, affine: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """Warp by a (2, 3) similarity in continuous coordinates; when it shrinks, every source pixel counts (area mean)."""
    factor = int(np.ceil(1 / zoom_of(affine[None])[0] - 0.05))
    oversampled = affine.astype(np.float64) * max(factor, 1)
    oversampled[:, 2] += oversampled[:, :2].sum(1) / 2 - 0.5  # cv2 counts from pixel centres
    height, width = size_hw
    flags = cv2.INTER_LINEAR if factor > 1 else cv2.INTER_CUBIC
    big = (width * max(factor, 1), height * max(factor, 1))
    warped = cv2.warpAffine(image, oversampled, big, flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return warped if factor <= 1 else cv2.resize(warped, (width, height), interpolation=cv2.INTER_AREA)


def zoom_of(affines: np.ndarray) -> np.ndarray:
    """(T,) crop pixels per picture pixel of (T, 2, 3) similarities."""
    return np.sqrt(np.abs(np.linalg.det(affines[:, :, :2])))


def _box(marked: np.ndarray) -> np.ndarray:
    """(4,) left, top, right, bottom of an (H, W) bool mask with at least one pixel set."""
    columns, rows = (np.flatnonzero(marked.any(axis)) for axis in (0, 1))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float64)


def _slow(centres: np.ndarray) -> np.ndarray:
    """Gaussian mean over time of (T, 2), the ends held."""
    reach = round(3 * FOLLOW_SIGMA)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / FOLLOW_SIGMA) ** 2)
    padded = np.pad(centres, ((reach, reach), (0, 0)), mode="edge")
    return np.stack([np.convolve(column, kernel / kernel.sum(), mode="valid") for column in padded.T], axis=1)
