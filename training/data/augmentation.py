"""What is done to a driver so that only its motion can be of use: light, masks, glasses, something before the face."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from ...errors import UserError
from ...signals.regions import LEFT_EYE, OUTER_EYE_CORNERS, RIGHT_EYE, RegionConfig, region_masks

CHANCES = ("light", "region_dropout", "occlusion", "glasses")


@dataclass(frozen=True, kw_only=True)
class DriverChanges:
    """How drivers are changed: strengths, where 1 is usual and 0 none, and chances for each clip."""

    colour: float = 1.0  # strength: another camera, light and skin tone
    affine: float = 1.0  # strength: small scale, shift and, for real clips, change of proportions
    dilation: tuple[float, float] = (0.10, 0.24)  # of the masks, in eye distances: drawn between the two
    mask_jitter: float = 0.0  # standard deviation of noise on the landmarks that make the masks, in eye distances
    light: float = 0.0  # chance of light from one side
    region_dropout: float = 0.0  # chance that a region is not shown, for each region (training can do this too)
    occlusion: float = 0.0  # chance that something passes before the face
    glasses: float = 0.0  # chance of a drawn pair of glasses

    def __post_init__(self):
        for name in CHANCES:
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"[driver] {name} must be between 0 and 1, got {getattr(self, name)}")
        if min(self.colour, self.affine, self.mask_jitter, *self.dilation) < 0 or self.dilation[0] > self.dilation[1]:
            raise UserError("[driver] strengths, mask_jitter and dilation must be at least 0, dilation rising")


def driver_masks(rng: np.random.Generator, landmarks: np.ndarray, size: int, changes: DriverChanges) -> np.ndarray:
    """(T, 3, size, size) uint8 masks of the driver's regions from (T, 478, 3) landmarks in pixels."""
    regions = RegionConfig(dilation=float(rng.uniform(*changes.dilation)))
    if changes.mask_jitter:
        landmarks = _jittered(rng, landmarks, changes.mask_jitter)
    masks = region_masks(landmarks, (size, size), regions)
    if changes.region_dropout:
        masks[:, rng.random(masks.shape[1]) < changes.region_dropout] = 0
    return masks


def _jittered(rng: np.random.Generator, landmarks: np.ndarray, spread: float) -> np.ndarray:
    """Landmarks with an offset of the clip, one of each frame and one of each point, as a poor detector has."""
    unit = spread * eye_distances(landmarks)[:, None, None]
    count, points = landmarks.shape[:2]
    offset = (
        rng.normal(0, 1, (1, 1, 2)) + 0.5 * rng.normal(0, 1, (count, 1, 2)) + 0.5 * rng.normal(0, 1, (1, points, 2))
    )
    moved = landmarks.copy()
    moved[:, :, :2] += (unit * offset).astype(moved.dtype)
    return moved


def disturb(
    rng: np.random.Generator, pictures: np.ndarray, landmarks: np.ndarray, changes: DriverChanges
) -> np.ndarray:
    """Float pictures (T, H, W, 3) in 0..255, lit from a side, with glasses on, something before them, as drawn."""
    if changes.light and rng.random() < changes.light:
        pictures = pictures * _side_light(rng, pictures.shape[1:3])
    if changes.glasses and rng.random() < changes.glasses:
        pictures = _with_glasses(rng, pictures, landmarks)
    if changes.occlusion and rng.random() < changes.occlusion:
        pictures = _with_passer(rng, pictures, landmarks)
    return pictures


def eye_distances(landmarks: np.ndarray) -> np.ndarray:
    """(T,) distance of the outer eye corners in the picture, pixels; at least 1."""
    a, b = OUTER_EYE_CORNERS
    return np.maximum(np.linalg.norm(landmarks[:, a, :2] - landmarks[:, b, :2], axis=1), 1.0)


def _side_light(rng: np.random.Generator, size_hw: tuple[int, int]) -> np.ndarray:
    """Gain (H, W, 1) that falls across the picture in a random direction, of mean about 1."""
    angle, strength = rng.uniform(0, 2 * np.pi), rng.uniform(0.3, 1.0)
    y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in size_hw), indexing="ij")
    return np.exp(strength * (np.cos(angle) * x + np.sin(angle) * y))[..., None].astype(np.float32)


def _with_glasses(rng: np.random.Generator, pictures: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """Two rims and a bridge that stay with the eyes; the lenses may be tinted."""
    colour = tuple(float(c) for c in rng.uniform(0, 110, 3))
    width, height = rng.uniform(0.20, 0.27), rng.uniform(0.14, 0.24)  # half axes, in eye distances
    rim, tint = rng.uniform(0.02, 0.06), rng.uniform(0, 0.4) * (rng.random() < 0.4)
    result = np.ascontiguousarray(pictures).copy()
    for frame, points, unit in zip(result, landmarks[:, :, :2], eye_distances(landmarks), strict=True):
        eyes = [points[list(eye)].mean(0) for eye in (RIGHT_EYE, LEFT_EYE)]
        across = eyes[1] - eyes[0]
        turn = float(np.degrees(np.arctan2(across[1], across[0])))
        axes = (width * unit, height * unit)
        thick = max(1, round(rim * unit))
        if tint:
            lenses = frame.copy()
            for eye in eyes:
                cv2.ellipse(lenses, (tuple(map(float, eye)), (2 * axes[0], 2 * axes[1]), turn), colour, -1)
            frame += tint * (lenses - frame)
        for eye in eyes:
            cv2.ellipse(frame, (tuple(map(float, eye)), (2 * axes[0], 2 * axes[1]), turn), colour, thick)
        inner = across / max(float(np.linalg.norm(across)), 1e-6) * axes[0]
        ends = [(eyes[0] + inner).round().astype(int), (eyes[1] - inner).round().astype(int)]
        cv2.line(frame, ends[0].tolist(), ends[1].tolist(), colour, thick)
    return result


def _with_passer(rng: np.random.Generator, pictures: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """An ellipse of one colour, such as a hand or a microphone, that moves over the face from one place to another."""
    unit = float(eye_distances(landmarks).mean())
    middle = landmarks[:, :, :2].mean(axis=(0, 1))
    places = middle + unit * rng.uniform(-1.2, 1.2, (2, 2))
    share = np.linspace(0, 1, len(pictures)) if rng.random() < 0.7 else np.zeros(len(pictures))
    axes = tuple(float(a) for a in unit * rng.uniform((0.3, 0.2), (1.2, 0.6)))
    turn, colour = float(rng.uniform(0, 180)), tuple(float(c) for c in rng.uniform(20, 235, 3))
    result = np.ascontiguousarray(pictures).copy()
    for frame, s in zip(result, share, strict=True):
        at = places[0] + s * (places[1] - places[0])
        cv2.ellipse(frame, (tuple(map(float, at)), axes, turn), colour, -1)
    return result
