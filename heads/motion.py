"""Motion that any head can make over T frames: expression weights, head angles, place and size in the picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..signals.track import BLENDSHAPES, FaceTrack
from .model import HeadModel

LIMITS = np.array([40.0, 20.0, 20.0])  # degrees: yaw, pitch, roll
MOUTH = ("Smile", "Frown", "Dimple", "Stretch", "LowerDown", "UpperUp", "Press")  # each has a left and a right
MOUTH_SINGLE = ("mouthFunnel", "mouthPucker", "mouthRollLower", "mouthRollUpper", "mouthShrugLower", "mouthShrugUpper")


@dataclass(frozen=True)
class Motion:
    """T frames; shift and zoom are relative to the crop's own frame of the head."""

    expression: np.ndarray  # (T, 53) in 0..1
    angles: np.ndarray  # (T, 3) degrees: yaw, pitch, roll as FaceTrack.euler
    shift: np.ndarray  # (T, 2) right and down, in shares of the crop's side
    zoom: np.ndarray  # (T,) size of the head, 1 as in the photo

    def __len__(self) -> int:
        return len(self.zoom)

    def __getitem__(self, part: slice) -> Motion:
        """Some of the frames."""
        return Motion(self.expression[part], self.angles[part], self.shift[part], self.zoom[part])


def limit_angles(motion: Motion, limits: np.ndarray, centre: np.ndarray | float = 0.0) -> Motion:
    """The same motion with its angles squeezed smoothly into centre +- limits (3,) degrees."""
    squeezed = centre + limits * np.tanh((motion.angles - centre) / limits)
    return replace(motion, angles=squeezed.astype(np.float32))


def smooth_curve(rng: np.random.Generator, frames: int, spacing: float) -> np.ndarray:
    """(frames,) random curve of unit spread through knots `spacing` frames apart (Catmull-Rom)."""
    knots = rng.standard_normal(int(frames / spacing) + 5)
    position = np.arange(frames) / spacing + 1 + rng.random()
    i = position.astype(int)
    u = position - i
    p0, p1, p2, p3 = knots[i - 1], knots[i], knots[i + 1], knots[i + 2]
    cubic = u**3 * (3 * p1 - p0 - 3 * p2 + p3) + u**2 * (2 * p0 - 5 * p1 + 4 * p2 - p3) + u * (p2 - p0) + 2 * p1
    return cubic / 2


def place_head(rng: np.random.Generator, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Small random translation (frames, 2) and zoom (frames,)."""
    still = rng.normal(0, (0.025, 0.02), 2)
    drift = np.stack([smooth_curve(rng, frames, rng.uniform(8, 20)) for _ in range(2)], 1)
    shift = still + drift * rng.uniform(0, 0.02)
    zoom = np.exp(rng.normal(0, 0.03) + smooth_curve(rng, frames, rng.uniform(10, 20)) * rng.uniform(0, 0.02))
    return shift.astype(np.float32), zoom.astype(np.float32)


def replay(rng: np.random.Generator, model: HeadModel, tracks: Sequence[FaceTrack], frames: int) -> Motion:
    """A piece of a tracked clip, its expression and its turns a little stronger or weaker, the head turned anew."""
    weights = np.array([max(track.num_frames - frames, 1) ** 0.5 for track in tracks])
    track = tracks[int(rng.choice(len(tracks), p=weights / weights.sum()))]
    start = int(rng.integers(0, max(track.num_frames - frames, 0) + 1))
    order = np.minimum(np.arange(start, start + frames), track.num_frames - 1)
    if rng.random() < 0.3:
        order = order[::-1]
    piece = track[order]
    values = np.clip(piece.blendshapes * rng.uniform(0.9, 1.7), 0, 1)
    expression = values @ model.from_blendshapes(tuple(BLENDSHAPES))
    middle = piece.euler.mean(0)
    angles = (piece.euler - middle) * rng.uniform(0.8, 2.2) + middle + rng.normal(0, (9, 4, 3))
    if rng.random() < 0.5:
        expression, angles = _mirror(model, expression, angles)
    shift, zoom = place_head(rng, frames)
    return limit_angles(Motion(expression.astype(np.float32), angles, shift, zoom), LIMITS)


def invent(rng: np.random.Generator, model: HeadModel, frames: int) -> Motion:
    """Smooth random motion: speech-like mouth, blinks, gaze jumps, brows, turning head."""
    weights = {name: np.zeros(frames) for name in model.names}
    _move_mouth(rng, weights, frames)
    _move_eyes(rng, weights, frames)
    _move_brows(rng, weights, frames)
    expression = np.stack([np.clip(weights[name], 0, 1) for name in model.names], 1)
    spread = np.array([16, 7, 6]) * rng.uniform(0.3, 1.3)
    speed = rng.uniform(7, 18)
    turning = np.stack([smooth_curve(rng, frames, speed) for _ in range(3)], 1) * spread * rng.uniform(0.2, 1.0)
    angles = rng.normal(0, spread) + turning
    shift, zoom = place_head(rng, frames)
    return limit_angles(Motion(expression.astype(np.float32), angles, shift, zoom), LIMITS)


def _move_mouth(rng: np.random.Generator, weights: dict[str, np.ndarray], frames: int) -> None:
    speed = rng.uniform(2.5, 7)
    if rng.random() < 0.85:
        level = rng.uniform(-0.15, 0.3)
        weights["jawOpen"] += np.clip(level + rng.uniform(0.1, 0.5) * smooth_curve(rng, frames, speed), 0, 0.85)
    for name in MOUTH:
        if rng.random() < 0.45:
            curve = rng.uniform(-0.2, 0.3) + rng.uniform(0.1, 0.5) * smooth_curve(rng, frames, speed * 1.4)
            for side in ("L", "R"):
                weights[f"mouth{name}_{side}"] += curve * rng.uniform(0.75, 1.25)
    for name in (*MOUTH_SINGLE, "mouthLeft", "mouthRight", "jawLeft", "jawRight"):
        if rng.random() < (0.4 if name in MOUTH_SINGLE else 0.12):
            weights[name] += rng.uniform(-0.2, 0.2) + rng.uniform(0.1, 0.5) * smooth_curve(rng, frames, speed)


def _move_eyes(rng: np.random.Generator, weights: dict[str, np.ndarray], frames: int) -> None:
    time = np.arange(frames)
    closed = np.full(frames, max(rng.normal(0.05, 0.12), 0))
    for _ in range(rng.integers(0, 3) if rng.random() < 0.7 else 0):
        half = rng.uniform(2, 4.5)
        shape = np.clip(1.35 - np.abs(time - rng.uniform(0, frames)) / half, 0, 1)
        closed = np.maximum(closed, shape)
    if rng.random() < 0.06:
        closed = np.maximum(closed, rng.uniform(0.6, 1))
    wide = np.clip(smooth_curve(rng, frames, 12) * 0.3 - 0.2, 0, 1) * (closed < 0.1)
    gaze = _saccades(rng, frames) * np.array([0.8, 0.55])
    for side, sign in (("L", 1.0), ("R", -1.0)):
        weights[f"eyeBlink_{side}"] += closed
        weights[f"eyeWide_{side}"] += wide
        weights[f"eyeSquint_{side}"] += np.clip(weights[f"mouthSmile_{side}"], 0, 1) * rng.uniform(0.2, 0.8)
        weights[f"eyeLookOut_{side}"] += np.clip(gaze[:, 0] * sign, 0, 1)
        weights[f"eyeLookIn_{side}"] += np.clip(-gaze[:, 0] * sign, 0, 1)
        weights[f"eyeLookUp_{side}"] += np.clip(gaze[:, 1], 0, 1)
        weights[f"eyeLookDown_{side}"] += np.clip(-gaze[:, 1], 0, 1)
    if rng.random() < 0.05:
        weights["eyeBlink_L"] *= 0.1


def _saccades(rng: np.random.Generator, frames: int) -> np.ndarray:
    """(frames, 2) gaze that rests and jumps, about unit spread."""
    gaze = np.empty((frames, 2))
    current, until = rng.normal(0, 0.6, 2), rng.integers(4, 16)
    for t in range(frames):
        if t >= until:
            current, until = rng.normal(0, 0.6, 2), t + rng.integers(4, 16)
        gaze[t] = current
    kernel = np.array([0.25, 0.5, 0.25])
    padded = np.pad(gaze, ((1, 1), (0, 0)), mode="edge")
    return np.stack([np.convolve(column, kernel, mode="valid") for column in padded.T], 1)


def _move_brows(rng: np.random.Generator, weights: dict[str, np.ndarray], frames: int) -> None:
    for name in ("browInnerUp", "browOuterUp", "browDown", "cheekSquint", "noseSneer"):
        if rng.random() < 0.4:
            curve = rng.uniform(-0.3, 0.3) + 0.4 * smooth_curve(rng, frames, rng.uniform(5, 14))
            for side in ("L", "R"):
                weights[f"{name}_{side}"] += curve * rng.uniform(0.8, 1.2)


def _mirror(model: HeadModel, expression: np.ndarray, angles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Left and right exchanged."""
    names = list(model.names)
    other = [_other_side(name) for name in names]
    order = [names.index(name) if name in names else n for n, name in enumerate(other)]
    return expression[:, order], angles * np.array([-1, 1, -1])


def _other_side(name: str) -> str:
    if name.endswith(("_L", "_R")):
        return name[:-1] + ("R" if name.endswith("_L") else "L")
    return {"jawLeft": "jawRight", "jawRight": "jawLeft", "mouthLeft": "mouthRight", "mouthRight": "mouthLeft"}.get(
        name, name
    )
