"""A video as it is measured: whole frames, and in each the square that the model animates."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np

from ..errors import MediaError
from ..signals.crops import Crop, CropConfig, crop_frame, plan_crop
from ..signals.track import FaceTrack
from .fidelity import l1, psnr, ssim
from .length import mean_lab
from .sharpness import edge_sharpness
from .temporal import tof, warping_error


@dataclass(frozen=True)
class MeasuredVideo:
    """Frames (H, W, 3) uint8 RGB, which can be read again and again, and the square of each; beyond `crop` its last."""

    frames: Iterable[np.ndarray]
    crop: Crop

    def squares(self) -> Iterator[np.ndarray]:
        """The squares, (size, size, 3) uint8, one by one."""
        for t, frame in enumerate(self.frames):
            affine = self.crop.affines[min(t, len(self.crop.affines) - 1)]
            same = frame.shape[:2] == (self.crop.size,) * 2 and np.array_equal(affine, np.eye(2, 3))
            yield frame if same else crop_frame(frame, affine, self.crop.size)


def whole_frame(side: int, size: int) -> Crop:
    """The crop that takes in a square frame of `side` pixels, as `size` pixels."""
    return Crop(np.float32(size / side) * np.eye(2, 3, dtype=np.float32)[None], size)


def square_of_result(frame: np.ndarray, picture: np.ndarray, source: Crop) -> Crop:
    """Where the animated square lies in a result's frame: in the source picture's place, or it is the whole frame.

    Videos have even sides, so a pasted result may be a row or a column larger than the picture. Raises MediaError for
    frames of another size.
    """
    (height, width), (rows, columns) = frame.shape[:2], picture.shape[:2]
    if (height, width) in ((rows, columns), (rows + rows % 2, columns + columns % 2)):
        return source
    if height == width:
        return whole_frame(height, source.size)
    raise MediaError(
        f"the result's frames of {width}x{height} pixels are neither square nor as large as the source of "
        f"{columns}x{rows}: give the source that it was made from, or the bare squares"
    )


def best_source_frame(track: FaceTrack, rule: CropConfig) -> int:
    """The frame of a clip that is the fairest portrait for self-reenactment.

    Source and driver are each cropped around their own face. Of this frame alone the crop is nearest to that of the
    whole clip, so what stands still in the clip stands still in the squares, and the true frames can be reached.
    """
    whole = plan_crop(track, rule)
    corners = np.array([(0, 0, 1), (rule.size, rule.size, 1)], np.float64).T
    offsets = []
    for t in range(track.num_frames):
        own = np.vstack([plan_crop(track[t], rule).affines[0], (0, 0, 1)])
        offsets.append(np.abs(whole.affines[t] @ np.linalg.solve(own, corners) - corners[:2]).max())
    return int(np.argmin(np.where(track.present, offsets, np.inf)))


def frame_series(result: Iterable[np.ndarray], truth: Iterable[np.ndarray] = ()) -> dict[str, np.ndarray]:
    """What can be measured frame by frame of squares (R, R, 3) uint8; `truth`: the true ones, as far as there are any.

    (T,) psnr, ssim, l1, sharpness and (T, 3) colour (CIELAB); (T - 1,) change, warping_error and tof from frame t to
    t + 1, change being the mean absolute difference. nan where there is no true frame.
    """
    values: dict[str, list[float]] = {
        key: [] for key in ("psnr", "ssim", "l1", "change", "warping_error", "tof", "sharpness")
    }
    colours: list[np.ndarray] = []
    past: np.ndarray | None = None
    true_past: np.ndarray | None = None
    for now, true in zip_longest(result, truth):
        if now is None:
            break
        colours.append(mean_lab(now))
        values["sharpness"].append(edge_sharpness(now))
        for key, metric in (("psnr", psnr), ("ssim", ssim), ("l1", l1)):
            values[key].append(metric(now, true) if true is not None else np.nan)
        if past is not None:
            values["change"].append(l1(past, now))
            values["warping_error"].append(warping_error(past, now))
            moved = (true_past, true) if true is not None and true_past is not None else None
            values["tof"].append(tof(past, now, *moved) if moved else np.nan)
        past, true_past = now, true
    return {**{key: np.array(series) for key, series in values.items()}, "colour": np.array(colours).reshape(-1, 3)}
