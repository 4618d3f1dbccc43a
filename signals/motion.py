"""Where the driver's face is put: as it is (absolute), or first laid over the source's face (relative)."""

from dataclasses import replace
from typing import Literal

import numpy as np

from .crops import Crop, crop_landmarks
from .track import FaceTrack

STEADY = (
    33,
    133,
    362,
    263,
    168,
    6,
    2,
    98,
    327,
)  # eye corners, bridge and base of the nose: expressions hardly move them


def align_motion(
    driver_crop: Crop,
    driver: FaceTrack,
    source: FaceTrack,
    mode: Literal["absolute", "relative"] = "absolute",
    reference: int = 0,
) -> Crop:
    """The driver's crop for a motion mode.

    absolute: `driver_crop` itself, so the result takes over the driver's place, size and tilt.
    relative: the similarity that lays the driver's face in frame `reference` over the source's face is added to every
    frame, so the result starts from the source's own pose and the driver's motion is counted from there.

    `driver` is in picture pixels, `source` in the pixels of its crop (`crop_track`), which is as large as the driver's.
    """
    if mode not in ("absolute", "relative"):
        raise ValueError(f"motion mode must be absolute or relative, got {mode!r}")
    if mode == "absolute":
        return driver_crop
    if source.image_size != (driver_crop.size, driver_crop.size):
        raise ValueError(
            f"the source track must be in the pixels of a {driver_crop.size} x {driver_crop.size} crop "
            f"(crop_track), it is of a picture of {source.image_size}"
        )
    if not 0 <= reference < driver.num_frames:
        raise ValueError(f"reference frame {reference} is not among the driver's {driver.num_frames} frames")
    chosen = slice(reference, reference + 1)
    seen = crop_landmarks(driver.landmarks[chosen], driver_crop.affines[chosen])[0]
    shift = fit_similarity(seen[list(STEADY), :2], source.landmarks[0, list(STEADY), :2])
    return replace(driver_crop, affines=compose(shift, driver_crop.affines))


def fit_similarity(points: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """(2, 3) least-squares rotation, scale and shift taking (N, 2) points to targets (Umeyama 1991, in the plane)."""
    p, q = (np.asarray(a, np.float64) @ (1, 1j) for a in (points, targets))  # complex numbers: a turn is a product
    centred = p - p.mean()
    turn = np.vdot(centred, q - q.mean()) / np.vdot(centred, centred).real
    shift = q.mean() - turn * p.mean()
    return np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])


def compose(second: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Affines (T, 2, 3) that apply `first` (T, 2, 3), then `second` (2, 3)."""
    linear = second[:, :2] @ first[:, :, :2]
    shift = first[:, :, 2] @ second[:, :2].T + second[:, 2]
    return np.concatenate([linear, shift[:, :, None]], axis=2).astype(np.float32)
