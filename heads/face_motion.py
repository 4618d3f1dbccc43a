"""A face's motion as one value, free of whose face it was: from a driver, a file or sliders; cut, mixed and edited."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property

import numpy as np

from ..errors import UserError
from .controls import CONTROLS, NAMES, NUMBER, PARTS, Edit, weights_of
from .drive import DriverMotion, fit_driver
from .fit import FLIP
from .landmarks import NUM_FACE
from .place import follow_size
from .scene import PIVOT
from .solve import FaceBasis, rotations

REGIONS = ("eyes", "nose", "mouth")  # of a driver's pixels, as in signals.regions
ROWS = ("expression", "angles", "lids", "lips", "centre", "size", "strength", "offset")


@dataclass(frozen=True)
class FaceMotion:
    """T frames of what a face does; float32 arrays.

    Strength and offset are edits that wait for a portrait, since they count from what the portrait's face does itself.
    """

    names: tuple[str, ...]  # of the expression weights, as HeadModel.names
    fps: float
    expression: np.ndarray  # (T, E) weights in 0..1, gaze among them
    angles: np.ndarray  # (T, 3) degrees: yaw, pitch, roll as FaceTrack.euler
    lids: np.ndarray  # (T, 2) left and right eye: 0 closed, 1 as open as at rest
    lips: np.ndarray  # (T, 3) gap in the middle, right and left: 0 closed, in shares of the mouth's width at rest
    centre: np.ndarray  # (T, 2) where the head turns, right and down, in shares of the square's side
    size: np.ndarray  # (T,) share of the square's side that a centimetre of the bundled head takes
    strength: np.ndarray  # (T, C) by controls.NAMES
    offset: np.ndarray  # (T, C)
    regions: tuple[str, ...] = ()  # where the driver's pixels show this motion, before strength and offset

    def __post_init__(self) -> None:
        if not len(self):
            raise UserError("the motion has no frames: leave at least one")

    def __len__(self) -> int:
        return len(self.size)

    def __getitem__(self, index: slice | np.ndarray | Sequence[int]) -> FaceMotion:
        """The chosen frames; they are no longer the driver's unless they are its first."""
        chosen = np.arange(len(self))[index]
        regions = self.regions if np.array_equal(chosen, np.arange(len(chosen))) else ()
        return self.each(lambda rows: rows[chosen], regions)

    def each(self, change: Callable[[np.ndarray], np.ndarray], regions: tuple[str, ...] = ()) -> FaceMotion:
        """The motion with `change` applied to every array; `regions` as of the result."""
        rows = {name: np.asarray(change(getattr(self, name)), np.float32) for name in ROWS}
        return replace(self, regions=regions, **rows)

    @cached_property
    def edited(self) -> tuple[str, ...]:
        """Controls that any frame edits."""
        changed = ((self.strength != 1) | (self.offset != 0)).any(0)
        return tuple(name for name, there in zip(NAMES, changed, strict=True) if there)

    @property
    def agreeing(self) -> tuple[str, ...]:
        """Regions of the driver whose pixels show what the edited motion does."""
        if set(self.edited) & set(PARTS["head"]):
            return ()
        lost = {
            part for part, name in (("eyes", "eyes"), ("mouth", "mouth_all")) if set(self.edited) & set(PARTS[name])
        }
        return tuple(region for region in self.regions if region not in lost)


def fit_motion(
    basis: FaceBasis, landmarks: np.ndarray, blendshapes: np.ndarray, side: float, fps: float = 25.0
) -> FaceMotion:
    """What a driver does.

    Args:
        landmarks: (T, 478, 3) pixels of its square, of `side` pixels. blendshapes: (T, 52) as in FaceTrack.
    """
    driver = fit_driver(basis, landmarks.astype(np.float32), blendshapes)
    return of_driver(basis, driver, side, fps)


def of_driver(basis: FaceBasis, driver: DriverMotion, side: float, fps: float, size: float | None = None) -> FaceMotion:
    """A fitted driver's motion, its place by the whole face; its size is followed slowly unless one is given."""
    heads = basis.express(basis.neutral, driver.expression) - PIVOT
    here = ((heads @ rotations(driver.angles).transpose(0, 2, 1)) * FLIP)[:, :NUM_FACE, :2]
    there = driver.landmarks[:, :NUM_FACE, :2].astype(np.float64) / side
    share = (basis.weights / basis.weights.sum())[:, None]
    middle, goal = (here * share).sum(1), (there * share).sum(1)
    count = len(driver)
    if size is None:
        spans = [(share * (p - m[:, None]) ** 2).sum((1, 2)) for p, m in ((here, middle), (there, goal))]
        sizes = follow_size(np.sqrt(spans[1] / spans[0]))
    else:
        sizes = np.full(count, size)
    strength, offset = _unedited(count, 1.0)
    return FaceMotion(
        basis.names, float(fps), driver.expression, driver.angles, driver.lids, driver.lips,
        (goal - sizes[:, None] * middle).astype(np.float32), sizes.astype(np.float32),
        strength, offset, regions=REGIONS,
    )  # fmt: skip


def still(names: tuple[str, ...], frames: int = 1, fps: float = 25.0) -> FaceMotion:
    """A motion that leaves any portrait as it is, for offsets alone."""
    shapes = {"expression": (frames, len(names)), "angles": (frames, 3), "lids": (frames, 2), "lips": (frames, 3)}
    arrays = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    strength, offset = _unedited(frames, 0.0)
    centre, size = np.full((frames, 2), 0.5, np.float32), np.full(frames, 0.04, np.float32)
    rest = {"centre": centre, "size": size, "strength": strength, "offset": offset}
    return FaceMotion(names, float(fps), regions=(), **arrays, **rest)


def _unedited(frames: int, strength: float) -> tuple[np.ndarray, np.ndarray]:
    shape = (frames, len(CONTROLS))
    return np.full(shape, strength, np.float32), np.zeros(shape, np.float32)


def edit(motion: FaceMotion, edits: Sequence[Edit]) -> FaceMotion:
    """The motion after `edits`, in order. Raises UserError for a frame that it does not have."""
    for change in edits:
        if change.held is not None:
            motion = freeze(motion, (change.control,), change.held)
            continue
        number = NUMBER[change.control]
        strength, offset = motion.strength.copy(), motion.offset.copy()
        strength[:, number] *= np.float32(change.strength)
        offset[:, number] = offset[:, number] * np.float32(change.strength) + np.float32(change.offset)
        motion = replace(motion, strength=strength, offset=offset)
    return motion


def freeze(motion: FaceMotion, controls: Sequence[str], frame: int = 0) -> FaceMotion:
    """The motion in which the controls stay as they are in one frame. Raises UserError if there is no such frame."""
    if frame >= len(motion):
        raise UserError(f"frame {frame} is not among the motion's {len(motion)}: choose a smaller one")
    return _with_controls(motion, motion[np.full(len(motion), frame)], controls, motion.regions)


def _with_controls(
    motion: FaceMotion, other: FaceMotion, controls: Sequence[str], regions: tuple[str, ...]
) -> FaceMotion:
    """The motion with the values of some controls from another of the same length."""
    rows = {name: getattr(motion, name).copy() for name in ROWS}
    every = slice(None)
    places = {"yaw": ("angles", 0), "pitch": ("angles", 1), "roll": ("angles", 2), "right": ("centre", 0),
              "up": ("centre", 1), "zoom": ("size", every), "lids": ("lids", every),
              "mouth": ("lips", every)}  # fmt: skip
    for name in controls:
        number = NUMBER[name]
        chosen = weights_of(CONTROLS[number], motion.names)
        rows["expression"][:, chosen] = other.expression[:, chosen]
        for edits in ("strength", "offset"):
            rows[edits][:, number] = getattr(other, edits)[:, number]
        if name in places:
            array, column = places[name]
            rows[array][..., column] = getattr(other, array)[..., column]
    lost = {r for r, part in (("eyes", "eyes"), ("mouth", "mouth_all")) if set(controls) & set(PARTS[part])}
    lost |= set(REGIONS) if set(controls) & set(PARTS["head"]) else set()
    return replace(motion, **rows, regions=tuple(r for r in regions if r not in lost))


def mix(
    head: FaceMotion, eyes: FaceMotion | None = None, mouth: FaceMotion | None = None, longest: bool = False
) -> FaceMotion:
    """Eyes and brows of one driver, mouth of another, head of a third, on the time line of the head's frame rate.

    As long as the shortest of them, or with `longest` as the longest: then the others hold their last frame.
    The driver's pixels are the head's: they no longer show what comes from others.
    """
    given = [m for m in (head, eyes, mouth) if m is not None]
    timed = [m if m.fps == head.fps else replace(retime(m, m.fps / head.fps), fps=head.fps) for m in given]
    count = (max if longest else min)(map(len, timed))
    fitted = iter([fit_length(m, count) for m in timed])
    mixed = next(fitted)
    for part, there in (("eyes", eyes), ("mouth_all", mouth)):
        if there is not None:
            mixed = _with_controls(mixed, next(fitted), PARTS[part], mixed.regions)
    return mixed


def blend(first: FaceMotion, second: FaceMotion, share: float | np.ndarray) -> FaceMotion:
    """Between two motions of one length: `share` 0 is the first, 1 the second; one number, or one a frame (T,)."""
    if len(first) != len(second):
        raise UserError(f"cannot blend motions of {len(first)} and {len(second)} frames: cut the longer one")
    weight = np.broadcast_to(np.asarray(share, np.float32), len(first))

    def between(name: str) -> np.ndarray:
        a, b = getattr(first, name), getattr(second, name)
        w = weight.reshape(-1, *[1] * (a.ndim - 1))
        return np.where(w == 0, a, np.where(w == 1, b, a + w * (b - a))).astype(np.float32)

    regions = first.regions if not weight.any() else ()
    return replace(first, **{name: between(name) for name in ROWS}, regions=regions)


def fit_length(motion: FaceMotion, frames: int) -> FaceMotion:
    """The first `frames` frames; past the end the last one is held."""
    kept = motion[np.minimum(np.arange(frames), len(motion) - 1)]
    return replace(kept, regions=motion.regions if frames <= len(motion) else ())


def smooth(motion: FaceMotion, sigma: float) -> FaceMotion:
    """Gaussian mean over time, `sigma` frames wide, the ends held; 0 leaves the motion as it is."""
    if not sigma > 0 or len(motion) == 1:
        return motion
    reach = int(np.ceil(3 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    kernel /= kernel.sum()

    def mean(rows: np.ndarray) -> np.ndarray:
        padded = np.concatenate([rows[:1].repeat(reach, 0), rows, rows[-1:].repeat(reach, 0)]).astype(np.float64)
        return np.sum([w * padded[n : n + len(rows)] for n, w in enumerate(kernel)], axis=0)

    return motion.each(mean, motion.regions)


def retime(motion: FaceMotion, speed: float) -> FaceMotion:
    """The motion `speed` times as fast at its frame rate: below 1 slower, with frames between. Raises UserError."""
    if not 0.05 <= speed <= 20:
        raise UserError(f"speed must be from 0.05 to 20, got {speed:g}")
    if speed == 1:
        return motion
    at = np.minimum(np.arange(int((len(motion) - 1) / speed + 1e-6) + 1) * speed, len(motion) - 1)
    low = at.astype(int)
    return replace(
        blend(motion[low], motion[np.minimum(low + 1, len(motion) - 1)], (at - low).astype(np.float32)), regions=()
    )


def loop(motion: FaceMotion, times: int, seam: int = 0) -> FaceMotion:
    """The motion so often; over `seam` frames its end turns into its beginning. Raises UserError if it is too short."""
    if not 0 <= seam <= len(motion) // 2:
        raise UserError(f"a seam of {seam} frames does not fit {len(motion)}: at most half of them")
    once = motion
    if seam:
        share = (np.arange(seam) + 1) / (seam + 1)
        body, tail = motion[seam : len(motion) - seam], motion[len(motion) - seam :]
        once = joined([body, blend(tail, motion[:seam], share)]) if len(body) else blend(tail, motion[:seam], share)
    return joined([once] * times) if times > 1 else once


def joined(motions: Sequence[FaceMotion]) -> FaceMotion:
    """One after the other, at the first one's frame rate."""
    rows = {name: np.concatenate([getattr(m, name) for m in motions]) for name in ROWS}
    return replace(motions[0], **rows, regions=())


def reverse(motion: FaceMotion) -> FaceMotion:
    """The last frame first."""
    return motion[::-1]


def equal(first: FaceMotion, second: FaceMotion) -> bool:
    """Whether two motions are the same bit for bit; the driver's regions aside."""
    same = (first.names, first.fps) == (second.names, second.fps)
    return same and all(np.array_equal(getattr(first, name), getattr(second, name)) for name in ROWS)


assert {f.name for f in fields(FaceMotion)} == {*ROWS, "names", "fps", "regions"}
