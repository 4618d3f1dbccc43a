"""Samples for the posed model, rendered while training: target, posed source, masked driver, source.

Three kinds. "rendered": another person makes the target's motion. "photo": the target is an untouched photo, source and
driver are rendered (inverse pairs). "clip": the target is a real clip. Targets are drawn with one head model and posed
sources with another, so that they never agree by construction. The posed source is always made from the source's
picture and from what a tracker would say of the driver, as at inference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

from ...heads.drive import fit_driver, fit_face
from ...heads.fit import HeadFit, fit_head
from ...heads.landmarks import load_table
from ...heads.model import load_head_model
from ...heads.motion import Motion, invent, limit_angles, replay
from ...heads.place import place, transfer
from ...heads.scene import (
    MARGIN,
    SUPERSAMPLING,
    Portrait,
    Rig,
    Subject,
    base_affine,
    crop_points,
    draw,
    draw_known,
    move_head,
    restore_portrait,
    with_shell,
)
from ...heads.solve import FaceBasis, face_basis
from ...heads.texture import anatomy, look_up
from ...signals.crops import resample
from ...signals.motion import STEADY
from ...signals.regions import RegionConfig, region_masks
from ...signals.track import BLENDSHAPES, FaceTrack
from .augmentation import DriverChanges, disturb
from .pictures import draw_colours, draw_paint, lift_dark, random_backdrop, to_bytes

Kind = Literal["rendered", "photo", "clip"]
NEAR = np.array([27.0, 16.0, 18.0])  # degrees from about the photo's own pose: how far warped photos look right
SHAPE_JITTER = 0.35  # spread of the identity weights that make another head of one photo
MOST_ZOOM = 1.3  # of the face's size in a clip
MARK_STEPS = 48  # a pack's landmarks are whole numbers: so many to a pixel
MARK_NOISE = (0.010, 0.004)  # a tracker's error in eye distances: of all frames alike, of each frame


@dataclass(frozen=True, kw_only=True)
class PosedDataConfig:
    """What samples are drawn from, and how."""

    size: int = 256
    crop_scale: float = 1.4
    frames: int = 11
    rendered_share: float = 0.25
    photo_share: float = 0.4  # the rest are real clips
    swap_share: float = 0.15  # rendered targets: the face of one photo in the surroundings of another
    reshape_share: float = 0.5
    paint_share: float = 0.25
    plain_share: float = 0.04
    replay_share: float = 0.6
    own_driver_share: float = 0.5  # photos and clips: driven by themselves, recoloured; else by a rendered person
    driver: DriverChanges = field(default_factory=lambda: DriverChanges(colour=0.8, affine=0.5, light=0.15))


@dataclass(frozen=True)
class PosedSample:
    """One sample of T frames; all uint8."""

    kind: Kind
    source: np.ndarray  # (S, S, 3)
    target: np.ndarray  # (T, S, S, 3)
    posed: np.ndarray  # (T, S, S, 4) the posed source and what of it is known
    driver: np.ndarray  # (T, S, S, 4) the masked driver and its mask

    def mirrored(self) -> PosedSample:
        """Left and right exchanged."""
        flip = lambda a: np.ascontiguousarray(np.flip(a, -2))  # noqa: E731
        return PosedSample(self.kind, flip(self.source), flip(self.target), flip(self.posed), flip(self.driver))


@dataclass(frozen=True)
class Face:
    """One photo: its canvas without supersampling, landmarks there, blendshapes, and a fit for each head model."""

    name: str
    jpeg: bytes
    landmarks: np.ndarray  # (478, 3) canvas pixels
    blendshapes: np.ndarray  # (52,)
    fits: tuple[HeadFit, HeadFit] | None = None  # target's, posing; on the supersampled canvas

    def canvas(self, side: int) -> np.ndarray:
        """(side, side, 3) float32 RGB."""
        picture = cv2.imdecode(np.frombuffer(self.jpeg, np.uint8), cv2.IMREAD_COLOR)
        assert picture is not None
        large = cv2.resize(picture, (side, side), interpolation=cv2.INTER_CUBIC)
        return np.ascontiguousarray(large[..., ::-1]).astype(np.float32)


@dataclass(frozen=True)
class Clip:
    """A tracked clip, its face cropped with a margin."""

    name: str
    video: bytes  # H.264; decoded anew for each sample, so that a world is small enough to be sent to processes
    track: FaceTrack  # in pixels of the canvas without supersampling

    def frames(self) -> np.ndarray:
        """(n, side, side, 3) uint8."""
        return _decode(self.video)


@dataclass(frozen=True)
class World:
    """Everything that samples of one split are made from."""

    config: PosedDataConfig
    target: Rig
    posing: Rig
    basis: FaceBasis
    faces: Sequence[Face]
    clips: Sequence[Clip]


def open_head(path: Path, table: Path, config: PosedDataConfig) -> Rig:
    """A head model ready to be drawn."""
    model, marks = load_head_model(path), load_table(table)
    return Rig(model, marks, anatomy(model, marks), config.size, config.crop_scale)


def open_world(
    pack: Path, target: Rig, posing: Rig, config: PosedDataConfig, split: str = "train", most_clips: int = 10**6
) -> World:
    """Read the faces and clips of one split; faces are not fitted yet."""
    faces, clips = [], []
    with np.load(pack / "portraits.npz") as data:
        arrays = {name: data[name] for name in data.files}
    for n in np.flatnonzero(arrays["splits"] == split):
        low, high = arrays["offsets"][n], arrays["offsets"][n + 1]
        blob = arrays["data"][low:high].tobytes()
        marks = arrays["landmarks"][n].astype(np.float32) / MARK_STEPS
        faces.append(Face(str(arrays["names"][n]), blob, marks, arrays["blendshapes"][n].astype(np.float32)))
    with np.load(pack / "clips.npz") as data:
        arrays = {name: data[name] for name in data.files}
    starts = np.concatenate([[0], np.cumsum(arrays["lengths"])])
    for n in np.flatnonzero(arrays["splits"] == split)[:most_clips]:
        video = arrays["data"][arrays["offsets"][n] : arrays["offsets"][n + 1]].tobytes()
        part = slice(starts[n], starts[n + 1])
        side = int(config.size * (1 + 2 * MARGIN))
        track = FaceTrack(
            arrays["landmarks"][part].astype(np.float32) / MARK_STEPS, arrays["blendshapes"][part].astype(np.float32),
            arrays["matrices"][part], np.ones(starts[n + 1] - starts[n], bool), (side, side),
        )  # fmt: skip
        near, far = np.percentile(track.eye_distance, (95, 5))
        if near < MOST_ZOOM * far:  # one scale is kept over a clip
            clips.append(Clip(str(arrays["names"][n]), video, track))
    return World(config, target, posing, face_basis(posing.model, posing.table), faces, clips)


def _decode(video: bytes) -> np.ndarray:
    """(n, H, W, 3) uint8 RGB of an mp4 file's bytes."""
    import tempfile

    with tempfile.NamedTemporaryFile(suffix=".mp4") as file:
        file.write(video)
        file.flush()
        reader, frames = cv2.VideoCapture(file.name), []
        while True:
            there, frame = reader.read()
            if not there:
                break
            frames.append(frame[..., ::-1])
        reader.release()
    return np.ascontiguousarray(np.stack(frames))


def fit_face_twice(face: Face, world: World) -> Face | None:
    """The face with its fits; None if it fits badly or is turned too far."""
    marks = face.landmarks * SUPERSAMPLING
    first = fit_head(world.target.model, marks, world.target.table)
    second = fit_face(world.basis, marks, face.blendshapes)
    if max(first.error, second.error) > 0.07 or abs(first.camera.yaw) > 26:
        return None
    return replace(face, fits=(first, second))


def portrait_of(face: Face, world: World, which: int) -> Portrait:
    """The face on the target's head (0) or on the posing head (1)."""
    assert face.fits is not None
    rig = (world.target, world.posing)[which]
    canvas = face.canvas(rig.canvas_size)
    return restore_portrait(rig, face.name, canvas, face.landmarks * SUPERSAMPLING, face.fits[which])


def make_sample(rng: np.random.Generator, world: World, kind: Kind | None = None) -> PosedSample:
    """One sample; a "photo" has one frame."""
    config = world.config
    if kind is None:
        draws = rng.random()
        kind = "rendered" if draws < config.rendered_share else "photo"
        if draws >= config.rendered_share + config.photo_share and world.clips:
            kind = "clip"
    sample = {"rendered": _rendered, "photo": _photo, "clip": _clip}[kind](rng, world)
    return sample.mirrored() if rng.random() < 0.5 else sample


# --- the kinds ------------------------------------------------------------------------------------------------------


def _rendered(rng: np.random.Generator, world: World) -> PosedSample:
    """Targets of a rendered person; the driver is another rendered person with the same motion."""
    rig, config = world.target, world.config
    target = _target_subject(rng, world)
    motion = _reachable(target, _draw_motion(rng, world, config.frames))
    shown = _framed(rng, rig)
    heads = move_head(rig, target, motion)
    pictures = np.stack([draw(rig, target, points, shown) for points in heads])
    source_points = _source_points(rng, world, target)
    wide = _wide_picture(rig, target, source_points)
    marks = rig.table.locate(source_points[None])[0].astype(np.float32)
    blendshapes = _blendshapes(world, motion.expression)
    driven, masks, seen = _rendered_driver(rng, world, motion, rig.table.locate(heads), shown)
    posed = _pose(rng, world, wide, marks, None, seen, blendshapes, shown)
    colours = draw_colours(rng, 0.35)
    source = resample(wide, shown, (rig.fine, rig.fine))
    source = cv2.resize(source, (config.size, config.size), interpolation=cv2.INTER_AREA)
    posed = np.concatenate([colours(posed[..., :3].clip(0, 255)), posed[..., 3:]], -1)
    return PosedSample(
        "rendered", to_bytes(colours(source.clip(0, 255))), to_bytes(colours(pictures.clip(0, 255))), to_bytes(posed),
        _masked(driven, masks),
    )  # fmt: skip


def _photo(rng: np.random.Generator, world: World) -> PosedSample:
    """An inverse pair: the target is the photo; the source is the same person rendered in another pose."""
    rig, config = world.target, world.config
    face = world.faces[int(rng.integers(len(world.faces)))]
    portrait = portrait_of(face, world, 0)
    subject = Subject(portrait, portrait, portrait.skin, rig.model.person(portrait.fit.identity))
    shown = _framed(rng, rig)
    target = _cut(portrait.canvas, shown, rig)
    other = _reachable(subject, _draw_motion(rng, world, 4))
    other = replace(other, expression=other.expression * rng.uniform(0.2, 1.0))
    points = move_head(rig, subject, other)[int(rng.integers(4))]
    wide = _wide_picture(rig, subject, points)
    marks = rig.table.locate(points[None])[0].astype(np.float32)
    true = crop_points(portrait.landmarks[None], shown) / SUPERSAMPLING
    motion = Motion(
        portrait.fit.expression[None],
        _angles_of(portrait.fit)[None],
        np.zeros((1, 2), np.float32),
        np.ones(1, np.float32),
    )
    if rng.random() < config.own_driver_share:
        driven, masks = _own_driver(rng, world, target[None], true)
        seen = _noisy(rng, true)
    else:
        over = rig.table.locate(portrait.points[None])
        driven, masks, seen = _rendered_driver(rng, world, motion, over, shown)
        seen = _noisy(rng, true) if rng.random() < 0.5 else seen
    posed = _pose(rng, world, wide, marks, None, seen, face.blendshapes[None], shown)
    colours = draw_colours(rng, 0.35)
    source = _cut(wide, shown, rig)
    posed = np.concatenate([colours(posed[..., :3].clip(0, 255)), posed[..., 3:]], -1)
    return PosedSample(
        "photo", to_bytes(colours(source.clip(0, 255))), to_bytes(colours(target.clip(0, 255)))[None], to_bytes(posed),
        _masked(driven, masks),
    )  # fmt: skip


def _clip(rng: np.random.Generator, world: World) -> PosedSample:
    """Frames of a real clip; the source is another of its frames, the driver the clip itself or a rendered person."""
    rig, config = world.target, world.config
    chances = np.array([clip.track.num_frames for clip in world.clips], float) ** 0.5
    clip = world.clips[int(rng.choice(len(world.clips), p=chances / chances.sum()))]
    frames = clip.frames()
    order = _order(rng, len(frames), config.frames)
    row = int(rng.choice([t for t in range(len(frames)) if not order.min() <= t <= order.max()] or [0]))
    shown = _framed(rng, rig)
    landmarks = clip.track.landmarks * SUPERSAMPLING
    large = (rig.canvas_size, rig.canvas_size)
    canvases = [cv2.resize(f, large, interpolation=cv2.INTER_CUBIC).astype(np.float32) for f in frames[order]]
    target = np.stack([_cut(canvas, shown, rig) for canvas in canvases])
    true = crop_points(landmarks[order], shown) / SUPERSAMPLING
    wide = cv2.resize(frames[row], large, interpolation=cv2.INTER_CUBIC).astype(np.float32)
    if rng.random() < config.own_driver_share:
        driven, masks = _own_driver(rng, world, target, true)
        seen = _noisy(rng, true, still=0.5)
    else:
        driven, masks, seen = _stand_in(rng, world, true, clip.track.blendshapes[order])
    posed = _pose(
        rng, world, wide, landmarks[row], clip.track.blendshapes[row], seen, clip.track.blendshapes[order], shown
    )
    colours = draw_colours(rng, 0.35)
    source = _cut(wide, shown, rig)
    posed = np.concatenate([colours(posed[..., :3].clip(0, 255)), posed[..., 3:]], -1)
    return PosedSample(
        "clip", to_bytes(colours(source.clip(0, 255))), to_bytes(colours(target.clip(0, 255))), to_bytes(posed),
        _masked(driven, masks),
    )  # fmt: skip


# --- parts of a sample ----------------------------------------------------------------------------------------------


def _pose(
    rng: np.random.Generator,
    world: World,
    wide: np.ndarray,
    marks: np.ndarray,
    source_shapes: np.ndarray | None,
    seen: np.ndarray,
    blendshapes: np.ndarray,
    shown: np.ndarray,
) -> np.ndarray:
    """(T, S, S, 4) float32: the source picture's own head over the driver's landmarks, and 255 where it is known.

    Args:
        wide: (n, n, 3) the source's canvas; marks (478, 3) its landmarks there, as rendered.
        seen: (T, 478, 3) the driver's landmarks in the square; blendshapes (T, 52).
    """
    rig = world.posing
    eyes = float(np.linalg.norm(marks[33, :2] - marks[263, :2]))
    if source_shapes is None:  # rendered: exact, with depth towards the viewer
        marks = marks * [1, 1, -1] + rng.normal(0, 0.004, marks.shape) * eyes
        fit = fit_head(rig.model, marks.astype(np.float32), rig.table)
    else:
        fit = fit_face(world.basis, marks, source_shapes)
    portrait = restore_portrait(rig, "source", wide, marks.astype(np.float32), fit)
    driver = fit_driver(world.basis, seen.astype(np.float32), blendshapes)
    expression, angles = transfer(world.basis, driver, fit)
    motion = place(world.basis, fit, expression, angles, seen * SUPERSAMPLING, shown, rig.fine)
    subject = Subject(portrait, portrait, portrait.skin, rig.model.person(fit.identity))
    drawn = [draw_known(rig, subject, points, shown) for points in move_head(rig, subject, motion)]
    return np.stack([np.concatenate([picture, 255 * known[..., None]], -1) for picture, known in drawn])


def _rendered_driver(
    rng: np.random.Generator,
    world: World,
    motion: Motion,
    landmarks: np.ndarray,
    shown: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pictures (T, S, S, 3), masks (T, 3, S, S) and tracked landmarks (T, 478, 3) of another person.

    The driver lies over `landmarks` (T, 478, 3) of the target, canvas points.
    """
    rig, config = world.target, world.config
    face = world.faces[int(rng.integers(len(world.faces)))]
    portrait = portrait_of(face, world, 0)
    weights = portrait.fit.identity + rng.normal(0, SHAPE_JITTER, len(portrait.fit.identity)) * (rng.random() < 0.5)
    subject = Subject(portrait, portrait, portrait.skin, rig.model.person(weights.astype(np.float32)))
    driven = move_head(rig, subject, motion)
    own = rig.table.locate(driven)
    affine = laid_over(crop_points(landmarks, shown), own)
    pictures = np.stack([draw(rig, subject, points, affine) for points in driven])
    marks = crop_points(own, affine) / SUPERSAMPLING * [1, 1, -1]
    changed, masks = _changed(rng, pictures, marks, config)
    return changed, masks, _noisy(rng, marks)


def _stand_in(
    rng: np.random.Generator, world: World, true: np.ndarray, blendshapes: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A rendered person in place of a clip's own face: same motion as fitted, over the same landmarks."""
    rig = world.posing
    face = world.faces[int(rng.integers(len(world.faces)))]
    portrait = portrait_of(face, world, 1)
    driver = fit_driver(world.basis, true.astype(np.float32), blendshapes)
    expression, angles = transfer(world.basis, driver, portrait.fit)
    affine = base_affine(rig)
    motion = place(world.basis, portrait.fit, expression, angles, true * SUPERSAMPLING, affine, rig.fine)
    subject = Subject(portrait, portrait, portrait.skin, rig.model.person(portrait.fit.identity))
    points = move_head(rig, subject, motion)
    pictures = np.stack([draw(rig, subject, p, affine) for p in points])
    marks = crop_points(rig.table.locate(points), affine) / SUPERSAMPLING * [1, 1, -1]
    changed, masks = _changed(rng, pictures, marks, world.config)
    return changed, masks, _noisy(rng, true, still=0.5)


def _own_driver(
    rng: np.random.Generator, world: World, target: np.ndarray, true: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The target itself as driver, its colours, sharpness and proportions changed."""
    config, size = world.config, world.config.size
    zoom = np.exp(rng.normal(0, 0.02, 2))
    middle = true[..., :2].mean((0, 1))
    shift = rng.normal(0, 0.006, 2) * size
    matrix = np.concatenate([np.diag(zoom), (middle * (1 - zoom) + shift)[:, None]], 1)
    moved = np.stack([cv2.warpAffine(f, matrix, (size, size), borderMode=cv2.BORDER_REPLICATE) for f in target])
    marks = true.copy()
    marks[..., :2] = true[..., :2] * zoom + matrix[:, 2]
    if rng.random() < 0.4:
        spread = float(rng.uniform(0.4, 1.3))
        moved = np.stack([cv2.GaussianBlur(f, (0, 0), spread) for f in moved])
    return _changed(rng, moved, marks, config)


def _changed(
    rng: np.random.Generator, pictures: np.ndarray, marks: np.ndarray, config: PosedDataConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Another camera, light and skin tone; and masks of eyes, nose and mouth."""
    changes = config.driver
    regions = RegionConfig(dilation=float(rng.uniform(*changes.dilation)))
    masks = region_masks(marks.astype(np.float32), (config.size, config.size), regions)
    coloured = draw_colours(rng, changes.colour)(pictures.clip(0, 255))
    return lift_dark(disturb(rng, coloured, marks, changes), masks), masks


def _masked(pictures: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """(T, S, S, 4) uint8: black outside the regions, and the mask."""
    shown = masks.max(1)[..., None]
    return np.concatenate([np.where(shown > 0, to_bytes(pictures), 0), shown], -1).astype(np.uint8)


def _noisy(rng: np.random.Generator, marks: np.ndarray, still: float = 1.0) -> np.ndarray:
    """Landmarks as a tracker says them: smooth errors that stay, and errors of each frame; in eye distances."""
    eyes = float(np.linalg.norm(marks[:, 33, :2] - marks[:, 263, :2], axis=1).mean())
    stays, each = MARK_NOISE
    bend = rng.normal(0, stays * still, (3, 3))  # a linear change of the face's shape
    middle = marks.mean((0, 1))
    error = (marks - middle) @ bend + rng.normal(0, stays * still * 0.4, (1, marks.shape[1], 3)) * eyes
    error = error + rng.normal(0, each * still, marks.shape) * eyes * 0.5
    error = error + rng.normal(0, each * still, (len(marks), 1, 3)) * eyes
    return marks + error


def _blendshapes(world: World, expression: np.ndarray) -> np.ndarray:
    """(T, 52) what MediaPipe would say of expression weights of the target's head."""
    table = world.target.model.from_blendshapes(tuple(BLENDSHAPES))
    return np.clip(expression @ table.T / np.maximum(table.sum(1), 1), 0, 1).astype(np.float32)


def _cut(canvas: np.ndarray, shown: np.ndarray, rig: Rig) -> np.ndarray:
    """(S, S, 3) float32: the square of a canvas."""
    fine = resample(canvas, shown, (rig.fine, rig.fine))
    return cv2.resize(fine, (rig.size, rig.size), interpolation=cv2.INTER_AREA)


def _wide_picture(rig: Rig, subject: Subject, points: np.ndarray) -> np.ndarray:
    """(n, n, 3) float32: the subject with these canvas points on a whole canvas, as sharp as a training picture."""
    wide = replace(rig, size=rig.canvas_size // SUPERSAMPLING)
    small = draw(wide, subject, points, np.eye(2, 3, dtype=np.float32))
    return cv2.resize(small, (rig.canvas_size,) * 2, interpolation=cv2.INTER_CUBIC).clip(0, 255).astype(np.float32)


def _framed(rng: np.random.Generator, rig: Rig) -> np.ndarray:
    """Canvas -> fine picture: the photo's own crop, or one moved and scaled as tracked drivers are."""
    affine = base_affine(rig)
    if rng.random() < 0.3:
        return affine
    zoom, middle = float(np.exp(rng.normal(0, 0.06))), rig.fine / 2
    moved = affine * zoom
    moved[:, 2] += middle * (1 - zoom) + rng.normal(0, 0.03, 2) * rig.fine
    return moved.astype(np.float32)


def _order(rng: np.random.Generator, length: int, frames: int) -> np.ndarray:
    """Indices (frames,) of a piece of a clip, at one or two frames a step, to and fro where it is short."""
    stride = 2 if length >= 2 * frames and rng.random() < 0.4 else 1
    span = (frames - 1) * stride + 1
    start = int(rng.integers(0, max(length - span, 0) + 1))
    order = np.arange(start, start + span, stride)
    period = 2 * max(length - 1, 1)
    return np.minimum(order % period, period - order % period)


def _draw_motion(rng: np.random.Generator, world: World, frames: int) -> Motion:
    if world.clips and rng.random() < world.config.replay_share:
        motion = replay(rng, world.target.model, [clip.track for clip in world.clips], frames)
    else:
        motion = invent(rng, world.target.model, frames)
    far = np.exp(rng.normal(0, 0.05))  # tracked drivers move and come nearer more than the motion's own
    drift = rng.normal(0, 0.03, 2) + np.linspace(-1, 1, frames)[:, None] * rng.normal(0, 0.02, 2)
    return replace(motion, zoom=(motion.zoom * far).astype(np.float32), shift=(motion.shift + drift).astype(np.float32))


def _reachable(subject: Subject, motion: Motion) -> Motion:
    if subject.backdrop is not None:
        return motion
    return limit_angles(motion, NEAR, np.array([0.5 * subject.place.fit.camera.yaw, 0, 0]))


def _angles_of(fit: HeadFit) -> np.ndarray:
    """(3,) degrees: yaw, pitch, roll."""
    m = fit.camera.rotation
    angles = np.arctan2(m[0, 2], m[2, 2]), np.arcsin(np.clip(-m[1, 2], -1, 1)), np.arctan2(m[1, 0], m[1, 1])
    return np.degrees(np.array(angles)).astype(np.float32)


def _source_points(rng: np.random.Generator, world: World, subject: Subject) -> np.ndarray:
    """(V + K, 3): the subject as it sits in the source's picture: as in the photo, or in another pose."""
    rig, fit = world.target, subject.place.fit
    if rng.random() < 0.6:
        heads = with_shell(rig, rig.model.express(subject.person, fit.expression[None]))[0]
        return fit.camera.project(heads)
    other = _reachable(subject, _draw_motion(rng, world, 4))
    calm = replace(other, expression=other.expression * rng.uniform(0.2, 0.9))
    return move_head(rig, subject, calm)[int(rng.integers(4))]


def _target_subject(rng: np.random.Generator, world: World) -> Subject:
    """Whom the target shows: a face, or one face in the surroundings of another, perhaps reshaped or painted."""
    config, rig = world.config, world.target
    first, second = (world.faces[int(n)] for n in rng.choice(len(world.faces), 2, replace=False))
    surroundings = shown = portrait_of(first, world, 0)
    if rng.random() < config.swap_share:
        shown = recoloured(portrait_of(second, world, 0), surroundings)
    if rng.random() < config.paint_share:
        gains = draw_paint(rng, len(surroundings.canvas))
        same = shown is surroundings
        surroundings = painted(gains, surroundings)
        shown = surroundings if same else painted(gains, shown)
    weights = surroundings.fit.identity
    if rng.random() < config.reshape_share:
        weights = weights + rng.normal(0, SHAPE_JITTER, len(weights)).astype(np.float32)
    plain = rng.random() < config.plain_share
    backdrop = random_backdrop(rng, rig.canvas_size) if plain else None
    return Subject(surroundings, shown, shown.skin, rig.model.person(weights), backdrop)


def laid_over(target: np.ndarray, driver: np.ndarray) -> np.ndarray:
    """(2, 3): the scale and shift that lay a driver's landmarks (T, 478, 3) over the target's, all frames together.

    At inference the result is painted where the driver's face is, so training must have both in one place.
    """
    p, q = (points[:, list(STEADY), :2].reshape(-1, 2).astype(np.float64) for points in (driver, target))
    middle_p, middle_q = p.mean(0), q.mean(0)
    zoom = np.vdot(p - middle_p, q - middle_q) / np.vdot(p - middle_p, p - middle_p)
    return np.concatenate([zoom * np.eye(2), (middle_q - zoom * middle_p)[:, None]], 1).astype(np.float32)


def recoloured(face: Portrait, like: Portrait) -> Portrait:
    """The face's photo with the other's skin tone."""
    sure = (face.skin.trust > 0.9) & (like.skin.trust > 0.9)
    if sure.sum() < 20:
        return face
    own, wanted = (np.median(p.skin.colours[sure], axis=0) + 8 for p in (face, like))
    return painted(np.clip(wanted / own, 0.5, 1.5).astype(np.float32), face)


def painted(gains: np.ndarray, portrait: Portrait) -> Portrait:
    """The portrait with other colours, which move along with the head: gains (3,) or (n, n, 3) of its canvas."""
    skin: Any = portrait.skin
    if gains.ndim == 1:
        own = gains
    else:
        own = look_up(gains, portrait.points[: len(skin.colours)])
    colours = np.clip(skin.colours * own, 0, 255).astype(np.float32)
    return replace(portrait, canvas=np.clip(portrait.canvas * gains, 0, 255), skin=replace(skin, colours=colours))
