"""Rendered cross-identity pairs: two people make exactly the same motion; one is the target, one the driver."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ...heads.model import HeadModel
from ...heads.motion import Motion, invent, limit_angles, replay
from ...heads.scene import MARGIN, Portrait, Rig, Subject, base_affine, crop_points, draw, move_head, with_shell
from ...signals.regions import masked_frames
from ...signals.track import FaceTrack
from .augmentation import DriverChanges, disturb, driver_masks
from .pictures import PictureClip, draw_colours, draw_paint, lift_dark, mirror, random_backdrop, to_bytes
from .posed import laid_over, painted, recoloured
from .sources import DataConfig, MediaFile

NEAR = np.array([27.0, 16.0, 18.0])  # degrees from about the photo's own pose: how far warped photos look right
FAR = np.array([42.0, 22.0, 22.0])  # degrees: heads on plain backgrounds
SHAPE_JITTER = 0.45  # spread of the identity weights that make another head of one photo


@dataclass(frozen=True)
class Identities:
    """What pairs are made from: portraits with their terms, and tracked clips that lend motion."""

    portraits: Sequence[Portrait]
    media: Sequence[MediaFile]
    tracks: Sequence[FaceTrack]


def make_pair(rng: np.random.Generator, rig: Rig, identities: Identities, config: DataConfig) -> PictureClip:
    """One sample of config.frames frames."""
    a, b = (int(n) for n in rng.choice(len(identities.portraits), 2, replace=False))
    target, names = _target_subject(rng, rig, identities, a, config)
    if config.cross_share < 1 and rng.random() >= config.cross_share:
        driver, b = target, a  # the target drives itself
    else:
        driver = _driver_subject(rng, rig, identities.portraits[b])
    motion = _within_reach(target, _draw_motion(rng, rig.model, identities, config.frames, config), config)
    base = base_affine(rig)
    shown = base if rng.random() < 0.5 else _jitter(rng, base, rig)
    colours = draw_colours(rng, 0.4)
    heads = move_head(rig, target, motion)
    pictures = np.stack([draw(rig, target, points, shown) for points in heads])
    sources = _draw_sources(rng, rig, identities, target, config, shown)
    driven = move_head(rig, driver, motion)
    place = laid_over(crop_points(rig.table.locate(heads), shown), rig.table.locate(driven))
    driving, masks = _draw_driver(rng, rig, driver, driven, place, config.driver)
    info = {
        "provider": "rendered",
        "identities": names,
        "driver": identities.media[b].name,
        "licences": sorted({m.licence for m in identities.media if m.name in (*names, identities.media[b].name)}),
    }
    clip = PictureClip(to_bytes(colours(sources)), to_bytes(colours(pictures)), driving, masks, info)
    return mirror(clip) if rng.random() < 0.5 else clip


def _jitter(rng: np.random.Generator, affine: np.ndarray, rig: Rig, strength: float = 1.0) -> np.ndarray:
    """The affine with a small random scale about the picture's centre and a shift."""
    zoom, middle = float(np.exp(strength * rng.normal(0, 0.03))), rig.fine / 2
    moved = affine * zoom
    moved[:, 2] += middle * (1 - zoom) + strength * rng.normal(0, 0.015, 2) * rig.fine
    return moved.astype(np.float32)


def _draw_motion(
    rng: np.random.Generator, model: HeadModel, identities: Identities, frames: int, config: DataConfig
) -> Motion:
    if identities.tracks and rng.random() < config.replay_share:
        return replay(rng, model, identities.tracks, frames)
    return invent(rng, model, frames)


def _within_reach(subject: Subject, motion: Motion, config: DataConfig) -> Motion:
    """The motion with its angles limited to what the subject's pictures bear."""
    if subject.backdrop is not None:
        wide = config.large_pose / FAR[0]
        return limit_angles(replace(motion, angles=motion.angles * wide), FAR * wide)
    return limit_angles(motion, NEAR, np.array([0.5 * subject.place.fit.camera.yaw, 0, 0]))


def _target_subject(
    rng: np.random.Generator, rig: Rig, identities: Identities, number: int, config: DataConfig
) -> tuple[Subject, list[str]]:
    """The target's person and the names of the photos in it."""
    place = face = identities.portraits[number]
    names = [identities.media[number].name]
    skin = place.skin
    if rng.random() < config.swap_share:
        other = int(rng.integers(len(identities.portraits)))
        if other != number:
            face = recoloured(identities.portraits[other], place)
            skin, names = face.skin, [*names, identities.media[other].name]
    if config.paint_share and rng.random() < config.paint_share:
        gains, own = draw_paint(rng, len(place.canvas)), face is place
        place = painted(gains, place)
        face = place if own else painted(draw_paint(rng, len(face.canvas)), face)
        skin = face.skin
    weights = face.fit.identity
    if rng.random() < config.reshape_share:
        weights = weights + rng.normal(0, SHAPE_JITTER, len(weights)).astype(np.float32)
    plain = rng.random() < config.plain_share
    backdrop = random_backdrop(rng, rig.canvas_size) if plain else None
    return Subject(place, face, skin, rig.model.person(weights), backdrop), names


def _driver_subject(rng: np.random.Generator, rig: Rig, portrait: Portrait) -> Subject:
    weights = portrait.fit.identity + rng.normal(0, SHAPE_JITTER, 100).astype(np.float32) * (rng.random() < 0.7)
    return Subject(portrait, portrait, portrait.skin, rig.model.person(weights))


def _draw_sources(
    rng: np.random.Generator,
    rig: Rig,
    identities: Identities,
    subject: Subject,
    config: DataConfig,
    shown: np.ndarray,
) -> np.ndarray:
    """(S, size, size, 3) float32: first the photo as it is (or the changed person posed like it), then other poses.

    shown: canvas -> fine picture of the target. The sources have the same, as at inference, where the result is painted
    into the source's own square: what does not move is where it was.
    """
    fit = subject.place.fit
    heads = with_shell(rig, rig.model.express(subject.person, fit.expression[None]))[0]
    untouched = subject.face is subject.place and subject.backdrop is None
    untouched = untouched and np.allclose(subject.person, rig.model.person(fit.identity))
    if untouched and np.array_equal(shown, base_affine(rig)):
        pictures = [photo_crop(rig, subject.place)]
    else:
        pictures = [draw(rig, subject, fit.camera.project(heads), shown)]
    other = _within_reach(subject, _draw_motion(rng, rig.model, identities, config.frames, config), config)
    calm = replace(other, expression=other.expression * rng.uniform(0.3, 1.0))
    moved = move_head(rig, subject, calm)
    for t in rng.choice(config.frames, config.sources - 1, replace=config.frames < config.sources - 1):
        pictures.append(draw(rig, subject, moved[t], shown))
    return np.stack(pictures)


def photo_crop(rig: Rig, portrait: Portrait) -> np.ndarray:
    """(size, size, 3) float32: the photo itself, cropped as at inference."""
    edge = int(MARGIN * rig.fine)
    inner = portrait.canvas[edge : edge + rig.fine, edge : edge + rig.fine]
    return inner.reshape(rig.size, 2, rig.size, 2, 3).mean((1, 3))


def _draw_driver(
    rng: np.random.Generator,
    rig: Rig,
    subject: Subject,
    moved: np.ndarray,
    place: np.ndarray,
    changes: DriverChanges,
) -> tuple[np.ndarray, np.ndarray]:
    """Masked pictures (T, size, size, 3) uint8 and masks (T, 3, size, size); `place` about as in `laid_over`."""
    affine = _jitter(rng, place, rig, changes.affine)
    pictures = np.stack([draw(rig, subject, points, affine) for points in moved])
    landmarks = crop_points(rig.table.locate(moved), affine) * (rig.size / rig.fine)
    masks = driver_masks(rng, landmarks, rig.size, changes)
    changed = disturb(rng, draw_colours(rng, changes.colour)(pictures), landmarks, changes)
    coloured = to_bytes(lift_dark(changed, masks))
    return masked_frames(coloured, masks), masks
