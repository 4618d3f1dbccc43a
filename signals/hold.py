"""The driver's squares; where a frame shows no face, they are held from its neighbours.

Pixels of a frame without a face show a hand, a wall or another place, and the model would follow those. So the face of
the nearest frame that has one is laid where the track says that it would be. Over a long gap the face before fades
into the face after.
"""

from collections.abc import Container, Iterable, Iterator

import numpy as np

from .crops import Crop, crop_frame
from .motion import STEADY, compose, fit_similarity
from .track import FaceTrack

LONG_GAP = 0.5  # seconds from which a gap is long
FADE = 0.4  # seconds that the change in the middle of a long gap takes

Neighbour = tuple[int, np.ndarray]  # number and picture of a frame that shows the face


def held_squares(frames: Iterable[np.ndarray], track: FaceTrack, crop: Crop, fps: float) -> Iterator[np.ndarray]:
    """The square (size, size, 3) of every frame in order; frames are read once, two of them are kept.

    `track` and `crop` are of these frames (H, W, 3). Fewer frames than the track has give fewer squares.
    """
    for _, square in numbered_squares(enumerate(frames), track, crop, fps, range(track.num_frames)):
        yield square


def numbered_squares(
    frames: Iterable[Neighbour], track: FaceTrack, crop: Crop, fps: float, wanted: Container[int]
) -> Iterator[Neighbour]:
    """Number and square of the frames that are wanted, as `held_squares` gives them.

    frames: with their numbers in the track, in order, from `first_needed` for the first that is wanted on.
    """
    before: Neighbour | None = None
    gap: list[int] = []
    for number, frame in frames:
        if number >= track.num_frames:
            break
        if not track.present[number]:
            gap += [number] if number in wanted else []
            continue
        yield from _filled(gap, before, (number, frame), track, crop, fps)
        gap, before = [], (number, frame)
        if number in wanted:
            yield number, crop_frame(frame, crop.affines[number], crop.size)
    yield from _filled(gap, before, None, track, crop, fps)


def first_needed(track: FaceTrack, number: int) -> int:
    """The frame from which on frames must be read for the square of frame `number`: the last one with a face."""
    seen = np.flatnonzero(track.present[: number + 1])
    return int(seen[-1]) if len(seen) else 0


def share_after(frame: int, before: int, after: int, fps: float) -> float:
    """How much of a missing frame's face is that of the frame after the gap: 0 or 1, between them while it fades."""
    middle = (before + after) / 2
    if (after - before) / fps < LONG_GAP:
        return float(frame > middle)
    return float(np.clip(0.5 + (frame - middle) / (FADE * fps), 0, 1))


def _filled(
    gap: list[int], before: Neighbour | None, after: Neighbour | None, track: FaceTrack, crop: Crop, fps: float
) -> Iterator[Neighbour]:
    for number in gap:
        if before is None or after is None:
            only = before or after
            assert only is not None, "a track has at least one frame with a face"
            yield number, _moved(only, number, track, crop)
            continue
        share = share_after(number, before[0], after[0], fps)
        parts = [(w, n) for w, n in ((1 - share, before), (share, after)) if w > 0]
        mixed = sum(w * _moved(n, number, track, crop).astype(np.float32) for w, n in parts)
        yield number, np.round(mixed).astype(np.uint8)


def _moved(neighbour: Neighbour, number: int, track: FaceTrack, crop: Crop) -> np.ndarray:
    """The neighbour's face, laid where the track has the face in frame `number`."""
    there, picture = neighbour
    was, now = (track.landmarks[t, list(STEADY), :2] for t in (there, number))
    affine = compose(crop.affines[number], fit_similarity(was, now)[None])[0]
    return crop_frame(picture, affine, crop.size)
