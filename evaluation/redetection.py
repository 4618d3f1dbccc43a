"""Does the result move as the driver does? The face is found anew in the finished frames and compared over time.

Everything is read with the detector that the animation itself uses, without smoothing, frame by frame; frames in which
the face was not found are left out, never interpolated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from ..errors import NoFaceError
from ..signals.track import BLENDSHAPES, FaceTrack, track_faces
from .bootstrap import mean_score
from .correlation import correlate
from .score import Score


@dataclass(frozen=True)
class Measure:
    """One quantity of a face over time, read from a track as (T,)."""

    name: str
    unit: str
    floor: float  # standard deviation up to which a face holds still: twice what detection alone made on still H.264
    read: Callable[[FaceTrack], np.ndarray]


def blink(track: FaceTrack) -> np.ndarray:
    """(T,) mean of both eyes' blink blendshapes, 0 open to 1 closed."""
    return (_shape(track, "eyeBlinkLeft") + _shape(track, "eyeBlinkRight")) / 2


def gaze_sideways(track: FaceTrack) -> np.ndarray:
    """(T,) gaze within the head towards the person's left, mean of both eyes' blendshapes, -1 to 1."""
    left = _shape(track, "eyeLookOutLeft") - _shape(track, "eyeLookInLeft")
    right = _shape(track, "eyeLookInRight") - _shape(track, "eyeLookOutRight")
    return (left + right) / 2


def gaze_up(track: FaceTrack) -> np.ndarray:
    """(T,) gaze within the head upwards, mean of both eyes' blendshapes, -1 to 1."""
    up = _shape(track, "eyeLookUpLeft") + _shape(track, "eyeLookUpRight")
    return (up - _shape(track, "eyeLookDownLeft") - _shape(track, "eyeLookDownRight")) / 2


MEASURES = (
    Measure("yaw", "degrees", 0.1, lambda track: track.euler[:, 0]),
    Measure("pitch", "degrees", 0.1, lambda track: track.euler[:, 1]),
    Measure("roll", "degrees", 0.1, lambda track: track.euler[:, 2]),
    Measure("mouth_open", "height over width", 0.005, lambda track: track.mouth_open),
    Measure("blink", "blendshape", 0.005, blink),
    Measure("gaze_sideways", "blendshape", 0.01, gaze_sideways),
    Measure("gaze_up", "blendshape", 0.01, gaze_up),
)


@dataclass(frozen=True, kw_only=True)
class Redetection:
    """What the finished frames show of the driver's motion."""

    driver_frames: int
    result_frames: int
    faces: float  # share of the result's frames in which a face was detected, 0 to 1
    driver_faces: float  # the same of the driver
    correlations: dict[str, Score]  # by the names in MEASURES
    errors: dict[str, Score]  # likewise: mean absolute difference to the driver, in the measure's unit
    driver_spans: dict[str, float]  # 5th to 95th percentile of the driver's motion, in the measure's unit
    track: FaceTrack | None = None  # of the result, unsmoothed

    @property
    def frames_equal(self) -> bool:
        """Whether the result has as many frames as the driver."""
        return self.driver_frames == self.result_frames


def redetect(
    result: Iterable[np.ndarray] | FaceTrack,
    driver: Iterable[np.ndarray] | FaceTrack,
    fps: float,
    *,
    select: str = "largest",
) -> Redetection:
    """Compare result frames with the driver's, both (H, W, 3) uint8 RGB, or unsmoothed tracks made of them before.

    Frame t of one belongs to frame t of the other; if one is longer, its end is left out of the correlations. A result
    without any face has a share of 0 and no correlation. Raises NoFaceError if the driver has no face.
    """
    track = driver if isinstance(driver, FaceTrack) else track_faces(driver, fps, select=select, smoothing=None)
    found, count = _track_result(result, fps, select)
    return Redetection(
        driver_frames=track.num_frames,
        result_frames=count,
        faces=float(found.present.mean()) if found else 0.0,
        driver_faces=float(track.present.mean()),
        correlations=compare_tracks(track, found),
        errors=track_errors(track, found),
        driver_spans={m.name: _span(m.read(track)[track.present]) for m in MEASURES},
        track=found,
    )


def compare_tracks(driver: FaceTrack, result: FaceTrack | None) -> dict[str, Score]:
    """Correlation of every measure over the frames in which both faces were detected; None: no face at all."""
    if result is None:
        return {m.name: Score.missing("no face in the result", counted=0.0) for m in MEASURES}
    common = slice(0, min(driver.num_frames, result.num_frames))
    driver, result = driver[common], result[common]
    valid = driver.present & result.present
    return {m.name: correlate(m.read(driver), m.read(result), valid, floor=m.floor) for m in MEASURES}


def track_errors(driver: FaceTrack, result: FaceTrack | None) -> dict[str, Score]:
    """Mean absolute difference of every measure over the frames in which both faces were detected, with its interval.

    Less is better; a result without a face counts as infinitely far. Mouth, blink and gaze differ between people who
    make the same face, too: compare methods on the same pairs, not pairs with each other.
    """
    if result is None:
        return {m.name: Score.missing("no face in the result", counted=float("inf")) for m in MEASURES}
    common = slice(0, min(driver.num_frames, result.num_frames))
    driver, result = driver[common], result[common]
    valid = driver.present & result.present
    differences = {m.name: np.abs(m.read(driver) - m.read(result))[valid] for m in MEASURES}
    return {
        name: mean_score(values, "no frame with a face in both", counted=float("inf"))
        for name, values in differences.items()
    }


def _track_result(result: Iterable[np.ndarray] | FaceTrack, fps: float, select: str) -> tuple[FaceTrack | None, int]:
    """The result's track, None without any face, and its number of frames."""
    if isinstance(result, FaceTrack):
        return result, result.num_frames
    counted = _Counted(result)
    try:
        return track_faces(counted, fps, select=select, smoothing=None), counted.count
    except NoFaceError:
        return None, counted.count


class _Counted:
    """An iterable that knows how many items it has given."""

    def __init__(self, items: Iterable[np.ndarray]) -> None:
        self._items = items
        self.count = 0

    def __iter__(self) -> Iterator[np.ndarray]:
        for item in self._items:
            self.count += 1
            yield item


def _shape(track: FaceTrack, name: str) -> np.ndarray:
    return track.blendshapes[:, BLENDSHAPES.index(name)]


def _span(values: np.ndarray) -> float:
    return float(np.subtract(*np.percentile(values, [95, 5])))
