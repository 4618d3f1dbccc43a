"""Photos on fitted heads: any portrait in any expression and pose, hair, shoulders and background included.

The whole photo is warped by the head's own displacement in the picture and the rendered face is laid over it. Canvas
coordinates are those of a square cut out of the photo by the crop rule, `SUPERSAMPLING` times as fine as the picture
and with a margin of `MARGIN` of the crop's side all round.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..signals.crops import CropConfig, plan_crop, resample
from ..signals.track import FaceTrack
from .fit import FLIP, Camera, HeadFit, align, fit_head, rotation_matrix
from .landmarks import LIPS, LandmarkTable
from .light import aim_eyes, eye_directions, fall, relight
from .model import HeadModel
from .motion import Motion
from .raster import SKIN, normals_of, vertex_normals, z_buffer
from .shading import Look, colour, sample
from .silhouettes import Mesh, make_mesh, smooth, soften
from .texture import EYE_OUTLINES, HEAD_CENTRE, HEAD_RADII, LEFT_EYE, MOUTH_REGION, RIGHT_EYE, Anatomy, Skin, take_skin
from .warp import displacement_field, fill, move_photo

SUPERSAMPLING = 2
MARGIN = 0.25
FACE_INNER = 0.5  # opacity from which on skin cannot be seen beside the drawn face
BORDER_SEEN = (0.0, 0.5)  # trust, spread over the mesh, from which on the border is there, and whole
BORDER_INNER = (0.6, 0.95)  # opacity from which on skin is no longer border, and not at all
MASK_STEP = 4  # canvas pixels a pixel of the face's mask
PIVOT = np.array([0.0, -6.0, 0.0], np.float32)  # about where a head turns, head space
WATCHED = {  # landmarks of a region, and how far they change in centimetres: not to speak of, too far
    RIGHT_EYE: (np.array([*EYE_OUTLINES[0], *range(468, 473)]), (0.05, 0.15)),
    LEFT_EYE: (np.array([*EYE_OUTLINES[1], *range(473, 478)]), (0.05, 0.15)),
    MOUTH_REGION: (LIPS, (0.08, 0.22)),
}
LIP_PAIRS = np.array([[82, 87], [13, 14], [312, 317]])  # upper and lower
LIPS_OPEN = (0.0, 0.6)  # centimetres between the lips: too few for light to fall in, enough
TURN_KEPT = (10.0, 25.0)  # degrees by which the head may turn before eyes and mouth no longer look as in the photo
SHELL_SEEN = (-0.28, -0.12)  # part of a normal towards the viewer: the photo does not show the shell there, and does
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
    frame: np.ndarray | None = None  # (4,) left, top, right, bottom of the photo on the canvas; None: it fills it
    _kept: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def soft(self, device: torch.device) -> Tensor:
        """(n - 1, n - 1, 3): means of 2 x 2 pixels of the canvas about its inner corners, kept from call to call.

        A bilinear sample of them is what SUPERSAMPLING samples of the canvas come to on the average.
        """
        key = str(device)
        if key not in self._kept:
            canvas = torch.from_numpy(self.canvas).to(device)
            rows = canvas[1:] + canvas[:-1]
            self._kept[key] = 0.25 * (rows[:, 1:] + rows[:, :-1])
        return self._kept[key]

    def view(self, rig: Rig) -> Camera:
        """The `head_camera` of the photo's own head, kept from call to call."""
        if "view" not in self._kept:
            self._kept["view"] = head_camera(rig, self.points)
        return self._kept["view"]


@dataclass(frozen=True)
class Subject:
    """How one person looks in a clip: a photo's surroundings, a face that may be another photo's, a head shape."""

    place: Portrait  # hair, clothes and background
    face: Portrait  # whose skin is drawn
    skin: Skin
    person: np.ndarray  # (V, 3) neutral head
    backdrop: np.ndarray | None = None  # plain background (n, n, 3) instead of the photo: the whole head is drawn


@dataclass(frozen=True)
class Rig:
    """The head as it is drawn: its model, landmarks, anatomy and the size of the picture."""

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

    @cached_property
    def meshes(self) -> tuple[Mesh, Mesh]:
        """The face, as it is drawn over the photo, and the whole head."""
        arrays = self.model.triangles, self.parts.shading, self.parts.looks
        return make_mesh(*(array[self.parts.face_triangles] for array in arrays)), make_mesh(*arrays)

    @cached_property
    def anchored(self) -> Tensor:
        """(F, 3) int32: the face's triangles that anchors belong to, all that their normals depend on."""
        triangles = self.meshes[0].triangles
        return triangles[torch.from_numpy(self.parts.anchors)[triangles.long()].any(1)]

    def face_mask(self, portrait: Portrait) -> Tensor:
        """(n, n, 1) float32: the face within its outline, on the portrait's canvas at one MASK_STEP-th of its size."""
        if "mask" not in portrait._kept:
            mesh, count = self.meshes[0], self.canvas_size // MASK_STEP
            points = torch.from_numpy((portrait.points / MASK_STEP).astype(np.float32))
            index, _, _ = z_buffer(points, mesh.triangles, count, count)
            inner = torch.from_numpy(self.parts.opacity)[mesh.triangles.long()].mean(1) > FACE_INNER
            portrait._kept["mask"] = (inner[index] & (index >= 0)).float()[..., None]
        return portrait._kept["mask"]

    @property
    def field_steps(self) -> int:
        """How many times the warp's spacing goes into the canvas: a multiple of 16."""
        return min(MOST_NODES, max(16, round(self.canvas_size / FIELD_SPACING / 16) * 16))


def canvas_affine(affine: np.ndarray, size: int) -> np.ndarray:
    """Photo -> canvas, given the crop rule's (2, 3) photo -> crop of `size` pixels."""
    wide = affine * SUPERSAMPLING
    wide[:, 2] += MARGIN * size * SUPERSAMPLING
    return wide


def base_affine(rig: Rig) -> np.ndarray:
    """Canvas -> fine picture: the crop of the photo itself."""
    return np.array([[1, 0, -MARGIN * rig.fine], [0, 1, -MARGIN * rig.fine]], np.float32)


def make_portrait(rig: Rig, name: str, photo: np.ndarray, track: FaceTrack) -> Portrait:
    """Fit the head to a photo (H, W, 3) uint8 whose face was detected in `track` (one frame)."""
    crop = plan_crop(track, CropConfig(size=rig.size, scale=rig.crop_scale, position="locked"))
    affine = canvas_affine(crop.affines[0], rig.size)
    side = rig.canvas_size
    canvas = resample(photo, affine, (side, side)).astype(np.float32)
    landmarks = track.landmarks[0] * affine[0, 0]
    landmarks[:, :2] += affine[:, 2]
    fit = fit_head(rig.model, landmarks, rig.table)
    return restore_portrait(rig, name, canvas, landmarks, fit, photo_frame(affine, photo.shape[:2]))


def photo_frame(affine: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """(4,) left, top, right, bottom of a photo on its canvas; affine (2, 3) photo -> canvas."""
    corners = np.array([[0, 0], size_hw[::-1]], np.float32)
    return (corners * affine[0, 0] + affine[:, 2]).reshape(-1).astype(np.float32)


def restore_portrait(
    rig: Rig, name: str, canvas: np.ndarray, landmarks: np.ndarray, fit: HeadFit, frame: np.ndarray | None = None
) -> Portrait:
    """The portrait of a known fit; `frame` is where the photo lies on the canvas, None where it fills it."""
    person = rig.model.person(fit.identity)
    points = fit.camera.project(with_shell(rig, rig.model.express(person, fit.expression[None]))[0])
    aimed = aim_eyes(rig.model, rig.table, fit, landmarks)
    skin = take_skin(rig.model, rig.parts, points[: rig.model.num_vertices], canvas, landmarks, frame, aimed)
    return Portrait(name, canvas, landmarks, fit, points, skin, vertex_normals(points, rig.model.triangles), frame)


def with_shell(rig: Rig, heads: np.ndarray) -> np.ndarray:
    """(T, V, 3) heads followed by the points of the hair's shell: (T, V + K, 3)."""
    return np.concatenate([heads, np.broadcast_to(rig.parts.shell, (len(heads), *rig.parts.shell.shape))], 1)


def move_head(rig: Rig, subject: Subject, motion: Motion) -> np.ndarray:
    """(T, V + K, 3) vertices and shell on the canvas of the subject's head making the motion; it turns about PIVOT."""
    rest = subject.place.fit.camera
    anchor = rest.project(PIVOT)
    heads = with_shell(rig, rig.model.express(subject.person, motion.expression)) - PIVOT
    moved = np.empty_like(heads)
    for t in range(len(motion)):
        scale = rest.scale * float(motion.zoom[t])
        camera = replace(rest, rotation=rotation_matrix(*motion.angles[t]), scale=scale, offset=anchor)
        moved[t] = camera.project(heads[t])
        moved[t, :, :2] += motion.shift[t] * rig.fine
    return moved


def crop_points(points: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """(..., 3) canvas points in the fine picture that `affine` (2, 3, canvas -> fine, no rotation) cuts out."""
    moved = points * affine[0, 0]
    moved[..., :2] += affine[:, 2]
    return moved.astype(np.float32)


def draw(rig: Rig, subject: Subject, points: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """One picture (size, size, 3) float32 of the subject with `points` (V + K, 3) from `move_head`.

    Args:
        affine: (2, 3) canvas -> fine picture, a scale and a shift.
    """
    return draw_known(rig, subject, points, affine)[0]


def draw_known(
    rig: Rig, subject: Subject, points: np.ndarray, affine: np.ndarray, device: str | torch.device = "cpu"
) -> tuple[np.ndarray, np.ndarray]:
    """The picture that `draw` makes, and the mask "known": how far each pixel is what the photo shows.

    Known is 1 where the picture is the photo, seen through the mesh or warped with little stretch, and on a plain
    backdrop. It is 0 on painted eyes and mouths, on filled skin, where the warp stretches, folds or uncovers, and
    beyond the photo's edge.

    Args:
        affine: (2, 3) canvas -> fine picture, a scale and a shift; the fine picture has SUPERSAMPLING pixels a pixel.
        device: where PyTorch draws.

    Returns:
        (size, size, 3) float32 in about 0..255, and (size, size) float32 in 0..1.
    """
    return next(draw_frames(rig, subject, points[None], affine, device))


def draw_frames(
    rig: Rig, subject: Subject, points: np.ndarray, affine: np.ndarray, device: str | torch.device = "cpu"
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """`draw_known` for each of points (T, V + K, 3); the warps of the T frames are solved together, which is faster."""
    device = torch.device(device)
    fields = [None] * len(points) if subject.backdrop is not None else warp_fields(rig, subject, points, device)
    for shown, field_ in zip(points, fields, strict=True):
        drawn = paint(rig, subject, shown, affine / SUPERSAMPLING, device, field_).cpu().numpy()
        yield np.ascontiguousarray(drawn[..., :3]), np.ascontiguousarray(drawn[..., 3])


def paint(
    rig: Rig, subject: Subject, points: np.ndarray, affine: np.ndarray, device: torch.device, warp: Tensor | None
) -> Tensor:
    """(size, size, 4) float32: the picture of `draw_known` and its mask.

    Args:
        affine: canvas -> picture. warp: the frame's field from `warp_fields`; None before a backdrop.
    """
    parts, size, skin, face = rig.parts, rig.size, subject.skin, subject.face
    mesh = rig.meshes[subject.backdrop is not None].to(device)
    shown = torch.from_numpy(crop_points(points, affine)).to(device)
    index, weights, depth = z_buffer(shown, mesh.triangles, size, size)
    now, then = head_camera(rig, points), face.view(rig)
    same = unchanged(rig, face.points, then, points, now)[parts.region]
    lit = mouth_light(rig, points, now)
    dark = skin.colours[parts.throat].mean(0) if len(parts.throat) else np.zeros(3, np.float32)
    colours, teeth = skin.colours.copy(), parts.mouth
    colours[teeth] = dark + lit * (colours[teeth] - dark)
    trust = skin.trust.copy()
    trust[teeth] *= lit
    photo_xy = skin.photo_xy + same[:, None] * (face.points[: len(same), :2] - skin.photo_xy)
    look = Look(
        photo=face.soft(device),
        photo_xy=_on(device, photo_xy - 0.5),
        trust=_on(device, trust + same * (skin.still_trust - trust)),
        colours=_on(device, colours),
        light=_on(device, relight(parts, now, then)),
        alpha=_on(device, np.ones_like(parts.opacity) if subject.backdrop is not None else border_opacity(parts, skin)),
        eye=_on(device, eye_directions(rig.model, parts.eye_angle, points)),
        palette=_on(device, skin.palette),
    )
    layer = colour(index, weights, mesh.triangles, mesh.shading, look)
    inner = mesh.shading != SKIN  # the photo's own eyes and teeth, elsewhere, are not what the photo shows
    sure = torch.where(inner, _on(device, same)[mesh.triangles[:, 0]], 1.0)
    layer[..., 4] *= sure.index_select(0, index.reshape(-1).clamp(min=0)).reshape(size, size)
    behind = _surroundings(rig, subject, warp, affine, layer[..., 3])
    front = torch.cat([layer[..., :3], layer[..., 4:]], 2)
    mixed = behind + layer[..., 3:4] * (front - behind)
    return smooth(soften(mixed, index, mesh), layer[..., 3], depth, shown, mesh, now.scale * float(affine[0, 0]))


def border_opacity(parts: Anatomy, skin: Skin) -> np.ndarray:
    """(V,) Anatomy.opacity, but the soft border is clear where the photo does not show it.

    There it would be a ghost of filled colours before the background, which a turned head uncovers.
    """
    seen = np.clip((skin.border - BORDER_SEEN[0]) / (BORDER_SEEN[1] - BORDER_SEEN[0]), 0, 1)
    inner = np.clip((parts.opacity - BORDER_INNER[0]) / (BORDER_INNER[1] - BORDER_INNER[0]), 0, 1)
    return parts.opacity * np.maximum(seen, inner)


def _on(device: torch.device, array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, np.float32)).to(device)


def warp_fields(rig: Rig, subject: Subject, points: np.ndarray, device: torch.device) -> Tensor:
    """(T, 2, N, N): the warp of the photo's surroundings for points (T, V + K, 3), `field_steps` steps a side."""
    place, count, steps = subject.place, rig.model.num_vertices, rig.field_steps
    spacing = rig.canvas_size / steps
    trust = torch.ones(len(points), points.shape[1], device=device)
    own = _on(device, place.skin.trust * rig.parts.anchors)
    ends = _on(device, points)
    trust[:, count:] = _on(device, shell_seen(rig, place.fit.camera))
    for weights, end in zip(trust, ends, strict=True):
        normals = normals_of(end, rig.anchored.to(device))
        weights[:count] = own * ((normals[:count, 2] - 0.1) / 0.3).clamp(0, 1)
    start, screening = _on(device, place.points[:, :2]), _on(device, _screening(steps + 1, spacing, place))
    return displacement_field(start, ends[..., :2], trust, spacing, screening)


def shell_seen(rig: Rig, view: Camera) -> np.ndarray:
    """(K,) float32 in 0..1: how far points of the hair's shell are on the side of the head that a photo shows.

    Hair on the far side of a half profile was hidden: carried along, it would open a gap beside the face that nothing
    in the photo fills.
    """
    outward = (rig.parts.shell - HEAD_CENTRE) / HEAD_RADII**2
    facing = (outward / np.linalg.norm(outward, axis=1, keepdims=True)) @ view.rotation[2]
    low, high = SHELL_SEEN
    return np.clip((facing - low) / (high - low), 0, 1).astype(np.float32)


def _surroundings(rig: Rig, subject: Subject, warp: Tensor | None, affine: np.ndarray, alpha: Tensor) -> Tensor:
    """(size, size, 4): what is behind the face, the backdrop or the warped photo, and how far it is known.

    The surroundings are spread over what they do not show: where the warp comes from beyond the photo's edge, or would
    show the photo's face a second time, beside the drawn one with opacity `alpha` (size, size).
    """
    device = alpha.device
    size, place = rig.size, subject.place
    if warp is None:
        assert subject.backdrop is not None
        backdrop = _on(device, resample(subject.backdrop, affine, (size, size)))
        return torch.cat([backdrop, torch.ones(size, size, 1, device=device)], 2)
    spacing = rig.canvas_size / rig.field_steps
    moved, origin, lost = move_photo(warp, spacing, place.soft(device), place.frame, affine, size)
    again = sample(rig.face_mask(place).to(device), origin / MASK_STEP)[0]
    hole = ((again - 0.3) / 0.4).clamp(0, 1) * (1 - 8 * alpha).clamp(0, 1)
    hole = torch.maximum(hole, lost)
    if not (hole > 0).any():
        return moved
    moved[..., 3] *= 1 - hole
    return fill(moved, hole, ((again < 0.02) & (alpha < 0.05) & (lost == 0)).float())


def mouth_light(rig: Rig, points: np.ndarray, view: Camera) -> float:
    """How bright teeth and tongue are at points (V + K, 3), 0 to 1: little light falls between lips nearly closed."""
    lips = rig.table.locate(points)[LIP_PAIRS]
    gap = np.linalg.norm(lips[:, 0, :2] - lips[:, 1, :2], axis=1).max() / view.scale
    return float(1 - fall(LIPS_OPEN, gap))


def head_camera(rig: Rig, points: np.ndarray) -> Camera:
    """The view under which the head's rigid part lies at `points` (V + K, 3): that of the hair's shell."""
    shell = rig.parts.shell
    return align(shell, points[rig.model.num_vertices :] * FLIP, np.ones(len(shell)))


def unchanged(rig: Rig, before: np.ndarray, then: Camera, after: np.ndarray, now: Camera) -> np.ndarray:
    """(4,) float32 in 0..1, by Anatomy.region: are eyes and mouth as in the photo? Elsewhere (region 0) always 1.

    Compares landmarks in head space; a head that turned far shows other parts of eyes and mouth, too.

    Args:
        before, after: (V + K, 3) points in the photo and now; then, now: their views.
    """
    heads = [
        ((rig.table.locate(points) - camera.offset) * FLIP / camera.scale) @ camera.rotation
        for points, camera in ((before, then), (after, now))
    ]
    turn = np.degrees(np.arccos(np.clip((np.trace(now.rotation @ then.rotation.T) - 1) / 2, -1, 1)))
    same = np.ones(4, np.float32)
    for region, (watched, limits) in WATCHED.items():
        change = heads[1][watched] - heads[0][watched]
        change -= change.mean(0)
        same[region] = fall(limits, np.sqrt((change**2).sum(1).mean())) * fall(TURN_KEPT, turn)
    return same


def _screening(cells: int, spacing: float, place: Portrait) -> np.ndarray:
    """How fast the warp fades: slowly around the head, quickly below the chin, where shoulders stay."""
    chin = float(place.landmarks[152, 1]) / spacing
    rows = np.arange(cells, dtype=np.float32)
    fade = 0.001 + 0.006 * np.clip((rows - chin) / 6, 0, 1)
    return np.repeat(fade[:, None], cells, 1).astype(np.float32)
