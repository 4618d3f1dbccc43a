"""Photos on fitted heads: any portrait in any expression and pose, hair, shoulders and background included.

The whole photo is warped by the head's own displacement in the picture and the rendered face is laid over it. Canvas
coordinates are those of a square cut out of the photo by the crop rule, `SUPERSAMPLING` times as fine as the training
picture and with a margin of `MARGIN` of the crop's side all round.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch

from ..signals.crops import CropConfig, plan_crop, resample
from ..signals.track import FaceTrack
from .fit import FLIP, Camera, HeadFit, align, fit_head, rotation_matrix
from .landmarks import LIPS, LandmarkTable
from .model import HeadModel
from .motion import Motion
from .raster import interpolate, rasterise, shade, vertex_normals
from .texture import EYE_OUTLINES, LEFT_EYE, MOUTH_REGION, RIGHT_EYE, Anatomy, Skin, take_skin
from .warp import displacement_field

SUPERSAMPLING = 2
MARGIN = 0.25
PIVOT = np.array([0.0, -6.0, 0.0], np.float32)  # about where a head turns, head space
LIGHT = np.array([0.25, -0.35, 0.9], np.float32)  # towards the light, on screen
AMBIENT = 0.6
DIMMEST, BRIGHTEST = 0.75, 1.2  # how far a turn may change the light on skin
WATCHED = {  # landmarks of a region, and how far they change in centimetres: not to speak of, too far
    RIGHT_EYE: (np.array([*EYE_OUTLINES[0], *range(468, 473)]), (0.05, 0.15)),
    LEFT_EYE: (np.array([*EYE_OUTLINES[1], *range(473, 478)]), (0.05, 0.15)),
    MOUTH_REGION: (LIPS, (0.08, 0.22)),
}
TURN_KEPT = (10.0, 25.0)  # degrees by which the head may turn before eyes and mouth no longer look as in the photo
STRETCH_KEPT = (0.4, 1.0)  # log of the warp's local stretch: still the photo, no longer
FIELD_SPACING = 8.0  # canvas pixels between the nodes of the warp, or more, so that there are at most
MOST_NODES = 96  # steps a side


@dataclass(frozen=True)
class Portrait:
    """One photo and the head fitted to it, on its canvas."""

    name: str
    canvas: np.ndarray  # (n, n, 3) float32
    landmarks: np.ndarray  # (478, 3) as detected, canvas pixels
    fit: HeadFit
    points: np.ndarray  # (V + K, 3) fitted vertices and the hair's shell, canvas pixels
    skin: Skin
    normals: np.ndarray  # (V + K, 3) of the fitted vertices


@dataclass(frozen=True)
class Actor:
    """How one person looks in a clip: a photo's surroundings, a face that may be another photo's, a head shape."""

    place: Portrait  # hair, clothes and background
    face: Portrait  # whose skin is drawn
    skin: Skin
    person: np.ndarray  # (V, 3) neutral head
    backdrop: np.ndarray | None = None  # plain background (n, n, 3) instead of the photo: the whole head is drawn


@dataclass(frozen=True)
class Studio:
    """All that rendering needs besides the portraits."""

    model: HeadModel
    table: LandmarkTable
    parts: Anatomy
    size: int  # pixels of a training picture
    crop_scale: float  # side of the crop / size of the face

    @property
    def fine(self) -> int:
        """Side of the picture before it is scaled down."""
        return self.size * SUPERSAMPLING

    @property
    def canvas_size(self) -> int:
        """Side of a canvas."""
        return int(self.fine * (1 + 2 * MARGIN))

    @property
    def field_steps(self) -> int:
        """How many times the warp's spacing goes into the canvas: a multiple of 16."""
        return min(MOST_NODES, max(16, round(self.canvas_size / FIELD_SPACING / 16) * 16))


def canvas_affine(affine: np.ndarray, size: int) -> np.ndarray:
    """Photo -> canvas, given the crop rule's (2, 3) photo -> crop of `size` pixels."""
    wide = affine * SUPERSAMPLING
    wide[:, 2] += MARGIN * size * SUPERSAMPLING
    return wide


def base_affine(studio: Studio) -> np.ndarray:
    """Canvas -> fine picture: the crop of the photo itself."""
    return np.array([[1, 0, -MARGIN * studio.fine], [0, 1, -MARGIN * studio.fine]], np.float32)


def make_portrait(studio: Studio, name: str, photo: np.ndarray, track: FaceTrack) -> Portrait:
    """Fit the head to a photo (H, W, 3) uint8 whose face was detected in `track` (one frame)."""
    crop = plan_crop(track, CropConfig(size=studio.size, scale=studio.crop_scale, position="locked"))
    affine = canvas_affine(crop.affines[0], studio.size)
    side = studio.canvas_size
    canvas = resample(photo, affine, (side, side)).astype(np.float32)
    landmarks = track.landmarks[0] * affine[0, 0]
    landmarks[:, :2] += affine[:, 2]
    fit = fit_head(studio.model, landmarks, studio.table)
    return restore_portrait(studio, name, canvas, landmarks, fit)


def restore_portrait(studio: Studio, name: str, canvas: np.ndarray, landmarks: np.ndarray, fit: HeadFit) -> Portrait:
    """The portrait of a known fit."""
    person = studio.model.person(fit.identity)
    points = fit.camera.project(with_shell(studio, studio.model.express(person, fit.expression[None]))[0])
    skin = take_skin(studio.model, studio.parts, points[: studio.model.num_vertices], canvas, landmarks)
    return Portrait(name, canvas, landmarks, fit, points, skin, vertex_normals(points, studio.model.triangles))


def with_shell(studio: Studio, heads: np.ndarray) -> np.ndarray:
    """(T, V, 3) heads followed by the points of the hair's shell: (T, V + K, 3)."""
    return np.concatenate([heads, np.broadcast_to(studio.parts.shell, (len(heads), *studio.parts.shell.shape))], 1)


def move_head(studio: Studio, actor: Actor, motion: Motion) -> np.ndarray:
    """(T, V + K, 3) vertices and shell on the canvas of the actor's head making the motion; it turns about PIVOT."""
    rest = actor.place.fit.camera
    anchor = rest.project(PIVOT)
    heads = with_shell(studio, studio.model.express(actor.person, motion.expression)) - PIVOT
    moved = np.empty_like(heads)
    for t in range(len(motion)):
        scale = rest.scale * float(motion.zoom[t])
        camera = replace(rest, rotation=rotation_matrix(*motion.angles[t]), scale=scale, offset=anchor)
        moved[t] = camera.project(heads[t])
        moved[t, :, :2] += motion.shift[t] * studio.fine
    return moved


def crop_points(points: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """(..., 3) canvas points in the fine picture that `affine` (2, 3, canvas -> fine, no rotation) cuts out."""
    moved = points * affine[0, 0]
    moved[..., :2] += affine[:, 2]
    return moved.astype(np.float32)


def draw(studio: Studio, actor: Actor, points: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """One picture (size, size, 3) float32 of the actor with `points` (V + K, 3) from `move_head`.

    Args:
        affine: (2, 3) canvas -> fine picture, a scale and a shift.
    """
    return draw_known(studio, actor, points, affine)[0]


def draw_known(studio: Studio, actor: Actor, points: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The picture that `draw` makes, and the mask "known": how far each pixel is what the photo shows.

    Known is 1 where the picture is the photo, seen through the mesh or warped with little stretch, and on a plain
    backdrop. It is 0 on painted eyes and mouths, on filled skin, and where the warp stretches, folds or uncovers.

    Args:
        affine: (2, 3) canvas -> fine picture, a scale and a shift.

    Returns:
        (size, size, 3) float32 in about 0..255, and (size, size) float32 in 0..1.
    """
    model, parts, fine = studio.model, studio.parts, studio.fine
    plain = actor.backdrop is not None
    chosen = np.arange(len(model.triangles)) if plain else parts.face_triangles
    triangles = model.triangles[chosen]
    index, weights, _ = rasterise(crop_points(points, affine), triangles, fine, fine)
    opacity = np.ones_like(parts.opacity) if plain else parts.opacity
    skin, face = actor.skin, actor.face
    now, then = head_camera(studio, points), head_camera(studio, face.points)
    same = unchanged(studio, face.points, then, points, now)[parts.region]
    trust = skin.trust + same * (skin.still_trust - skin.trust)
    layer = shade(
        index, weights, triangles, parts.shading[chosen], face.canvas, face.points[:, :2].copy(), trust,
        skin.colours, relight(parts, now, then), opacity, eye_directions(model, parts.eye_angle, points), skin.palette,
    )  # fmt: skip
    if actor.backdrop is not None:
        behind, kept = resample(actor.backdrop, affine, (fine, fine)), np.ones((fine, fine), np.float32)
    else:
        behind, kept = warp_photo(studio, actor.place, points, vertex_normals(points, model.triangles), affine)
    alpha = layer[..., 3:]
    mixed = behind + alpha * (layer[..., :3] - behind)
    known = kept + alpha[..., 0] * (interpolate(index, weights, triangles, trust) - kept)
    side = (studio.size, studio.size)
    return cv2.resize(mixed, side, interpolation=cv2.INTER_AREA), cv2.resize(known, side, interpolation=cv2.INTER_AREA)


def head_camera(studio: Studio, points: np.ndarray) -> Camera:
    """The view under which the head's rigid part lies at `points` (V + K, 3): that of the hair's shell."""
    shell = studio.parts.shell
    return align(shell, points[studio.model.num_vertices :] * FLIP, np.ones(len(shell)))


def unchanged(studio: Studio, before: np.ndarray, then: Camera, after: np.ndarray, now: Camera) -> np.ndarray:
    """(4,) float32 in 0..1, by Anatomy.region: are eyes and mouth as in the photo? Elsewhere (region 0) always 1.

    Compares landmarks in head space; a head that turned far shows other parts of eyes and mouth, too.

    Args:
        before, after: (V + K, 3) points in the photo and now; then, now: their views.
    """
    heads = [
        ((studio.table.locate(points) - camera.offset) * FLIP / camera.scale) @ camera.rotation
        for points, camera in ((before, then), (after, now))
    ]
    turn = np.degrees(np.arccos(np.clip((np.trace(now.rotation @ then.rotation.T) - 1) / 2, -1, 1)))
    same = np.ones(4, np.float32)
    for region, (watched, limits) in WATCHED.items():
        change = heads[1][watched] - heads[0][watched]
        change -= change.mean(0)
        same[region] = _fall(limits, np.sqrt((change**2).sum(1).mean())) * _fall(TURN_KEPT, turn)
    return same


def _fall(limits: tuple[float, float], value):
    """1 up to the lower limit, 0 from the upper one on, smooth between."""
    share = np.clip((limits[1] - value) / (limits[1] - limits[0]), 0, 1)
    return share * share * (3 - 2 * share)


def relight(parts: Anatomy, now: Camera, then: Camera) -> np.ndarray:
    """(V,) how much brighter the skin is than in the photo, now that the head has turned (Lambert and ambient).

    Without it a turned head keeps the shading of a head from the front and looks flat. The normals are an ellipsoid's,
    so noses and foreheads get no highlights, and a head that only speaks keeps the photo's light.
    """
    lambert = [
        AMBIENT + (1 - AMBIENT) * np.clip(parts.round_normals @ (camera.rotation.T @ (FLIP * LIGHT)), 0, 1)
        for camera in (now, then)
    ]
    return np.clip(lambert[0] / lambert[1], DIMMEST, BRIGHTEST).astype(np.float32)


def eye_directions(model: HeadModel, eye_angle: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(V, 4) float32: unit direction from the centre of the eyeball on screen, and the angle off the eye's axis."""
    eye = np.zeros((model.num_vertices, 4), np.float32)
    for ball in model.eyeballs:
        low, high = points[ball].min(0), points[ball].max(0)
        eye[ball, :3] = (points[ball] - (low + high) / 2) / ((high - low)[:2].mean() / 2)
    eye[:, 3] = eye_angle
    return eye


def warp_photo(
    studio: Studio, place: Portrait, points: np.ndarray, normals: np.ndarray, affine: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(fine, fine, 3): the photo moved along with the head, smoothly coming to rest towards the canvas's border.

    With it (fine, fine): how far it is still the photo, 1 where nothing is stretched, squeezed or folded much.
    """
    spacing = studio.canvas_size / studio.field_steps
    facing = np.clip((normals[:, 2] - 0.1) / 0.3, 0, 1)
    known = studio.model.num_vertices
    trust = np.ones(len(points), np.float32)
    trust[:known] = place.skin.trust * facing[:known] * studio.parts.anchors
    start, end = (torch.from_numpy(np.ascontiguousarray(p[:, :2])) for p in (place.points, points))
    screening = torch.from_numpy(_screening(studio.field_steps + 1, spacing, place))
    field = displacement_field(start, end, torch.from_numpy(trust), spacing, screening).permute(1, 2, 0).numpy()
    field = np.ascontiguousarray(field)
    fine = studio.fine
    pixel = np.arange(fine, dtype=np.float32) + 0.5
    x = (pixel - affine[0, 2]) / affine[0, 0]
    y = (pixel - affine[1, 2]) / affine[1, 1]
    grid_x, grid_y = np.meshgrid(x, y)
    at = [(g / spacing).astype(np.float32) for g in (grid_x, grid_y)]
    moved = cv2.remap(field, at[0], at[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    kept = cv2.remap(_unstretched(field, spacing), at[0], at[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    map_x, map_y = grid_x + moved[..., 0] - 0.5, grid_y + moved[..., 1] - 0.5
    warped = cv2.remap(
        place.canvas, map_x.astype(np.float32), map_y.astype(np.float32), cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )  # fmt: skip
    return warped, kept


def _unstretched(field: np.ndarray, spacing: float) -> np.ndarray:
    """(cells, cells) float32: 1 where the warp x -> x + field keeps lengths, 0 where it stretches or folds them."""
    (a, b), (c, d) = (np.gradient(field[..., k], spacing)[::-1] for k in (0, 1))
    a, d = 1 + a, 1 + d
    mean, spread = np.hypot(a + d, c - b) / 2, np.hypot(a - d, b + c) / 2
    shortest = np.where(a * d > b * c, mean - spread, 0)  # singular values of the Jacobian: mean +- spread
    stretch = np.maximum(np.log(mean + spread), -np.log(np.maximum(shortest, 1e-3)))
    return _fall(STRETCH_KEPT, stretch).astype(np.float32)


def _screening(cells: int, spacing: float, place: Portrait) -> np.ndarray:
    """How fast the warp fades: slowly around the head, quickly below the chin, where shoulders stay."""
    chin = float(place.landmarks[152, 1]) / spacing
    rows = np.arange(cells, dtype=np.float32)
    fade = 0.001 + 0.006 * np.clip((rows - chin) / 6, 0, 1)
    return np.repeat(fade[:, None], cells, 1).astype(np.float32)
