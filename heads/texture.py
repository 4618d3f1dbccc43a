"""A photo on a fitted head: which vertices show it, what fills the others, how eyes and mouth are painted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..signals.opencv import cv2
from .landmarks import FACE_OVAL, LandmarkTable
from .model import HeadModel, eye_centre
from .raster import SKIN, fill_colours, rasterise, vertex_normals

EYE_OUTLINES = (
    np.array([33, 246, 161, 160, 159, 158, 157, 173, 133, 155, 154, 153, 145, 144, 163, 7]),
    np.array([263, 466, 388, 387, 386, 385, 384, 398, 362, 382, 381, 380, 374, 373, 390, 249]),
)
INNER_LIPS = np.array([78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308, 324, 318, 402, 317, 14, 87, 178, 88, 95])
BROW = [105, 334]
SHADE_OF_LIPS = 0.92  # light that reaches the front teeth
GUMS, TEETH, THROAT = (128.0, 66.0, 64.0), (228.0, 221.0, 208.0), (52.0, 24.0, 22.0)
SOCKET = "M_MouthSocket"  # skin inside the mouth, where the model tells it apart
FILL_ROUNDS = 120
LASHES = 0.65  # brightness of the lids' edges, if the photo does not show them, relative to skin
LID_TINT = 0.85  # of the colour around the eye in lids that the photo does not show
SOFT_FOLD = (0.3, 8)  # how much of itself a vertex keeps while that share is spread, and in how many rounds
SOFT_TRUST = (0.3, 6)  # the same for trust at the face's border
LID_DARKEST = 0.75
FOLDED = (1.2, 1.9)  # how many times an edge is longer with eyes closed: not folded before, wholly folded
AROUND_EYE = 3.6  # centimetres from an eye's centre, in which skin tells the colour of its lids
TOOTH_LINES = 0.6  # how dark the lines between teeth are, of what the head model says
DARK_TEETH = (5.6, 9.4)  # centimetres in front of the head's middle where teeth are dark, and in full light
SKIN_BRIGHT, SCLERA_BRIGHT, GLOSS_BRIGHT = 165, 200, 235  # usual brightness of skin, whites of eyes, the brightest skin
LEAST_SEEN = 12  # pixels from which a colour is taken
SOFT_BORDER = 1.6  # centimetres over which the face fades into the warped photo
RIGHT_EYE, LEFT_EYE, MOUTH_REGION = 1, 2, 3  # values of Anatomy.region
REGION_REACH = 0.8  # centimetres of skin around an eye's or the mouth's outline that belong to its region
HEAD_CENTRE, HEAD_RADII = np.array([0.0, 1.0, -1.0]), np.array([9.0, 13.0, 11.0])  # an ellipsoid about the head's size


@dataclass(frozen=True)
class Anatomy:
    """What depends on the model alone: edges, shading, opacity of the face, inside of the mouth, eyeballs."""

    edges: np.ndarray  # (E, 2)
    shading: np.ndarray  # (F,)
    looks: np.ndarray  # (F,) int: numbers of what looks different: skin, lids' edges, throat, eyes, teeth, gums
    opacity: np.ndarray  # (V,) 1 inside the face, fading to 0 at its outline
    throat: np.ndarray  # vertices of skin that lie inside the mouth
    mouth: np.ndarray  # vertices of teeth, gums and tongue
    depth_shade: np.ndarray  # (V,) darkening inside the mouth
    eye_angle: np.ndarray  # (V,) radians off the eye's axis at rest
    face_triangles: np.ndarray  # indices of triangles without the back of the head: clear ones hide, too
    anchors: np.ndarray  # (V,) bool: carry the photo's warp
    shell: np.ndarray  # (K, 3) head space: hair and ears around the face, which turn with the head
    scalp: np.ndarray  # (V,) bool: above the brows
    lashes: np.ndarray  # vertices of the lids' edges
    painted: np.ndarray  # vertices of eyes, teeth, tongue and throat
    clear: np.ndarray  # (V,) bool: face and neck, where the mesh lies well on photos; ears and sides do not
    region: np.ndarray  # (V,) int8: RIGHT_EYE, LEFT_EYE, MOUTH_REGION, or 0
    folded: np.ndarray  # (V,) 0..1: how far a vertex belongs to the lids' skin that is folded while eyes are open
    lid_shade: np.ndarray  # (V,) how bright a closed lid is
    round_normals: np.ndarray  # (V, 3) head space: normals of an ellipsoid in the head's place, for soft light


def anatomy(model: HeadModel, table: LandmarkTable) -> Anatomy:
    """Derive an Anatomy; slow (half a second), do it once."""
    points = table.locate(model.neutral)
    oval = points[FACE_OVAL][:, :2].astype(np.float32)
    face = model.part("M_Face")
    distance = np.array([cv2.pointPolygonTest(oval, (float(x), float(y)), True) for x, y in model.neutral[face, :2]])
    forward = -vertex_normals(model.neutral, model.triangles)[face, 2]  # y is up here
    opacity = np.zeros(model.num_vertices, np.float32)
    opacity[face] = np.clip(distance / SOFT_BORDER, 0, 1) * (np.clip((forward + 0.35) / 0.25, 0, 1))
    lips = points[INNER_LIPS]
    hidden = _hidden(model, face)
    reach = np.array([0.6 * np.ptp(lips[:, 0]), 2.5])
    near = (np.abs(model.neutral[face, :2] - lips[:, :2].mean(0)) < reach).all(1) & (
        model.neutral[face, 2] < lips[:, 2].min() - 0.3
    )
    throat = face[hidden & near]
    if SOCKET in model.materials:
        throat = np.union1d(throat, np.setdiff1d(model.part(SOCKET), face))
    opacity[throat] = 1
    shade = np.ones(model.num_vertices, np.float32) if model.shade is None else model.shade.copy()
    mouth = model.part("M_Teeth", "M_GumsTongue")
    teeth = model.part("M_Teeth")
    shade[teeth] = 1 - TOOTH_LINES * (1 - shade[teeth])
    back_, front = DARK_TEETH
    shade[mouth] *= np.clip((model.neutral[mouth, 2] - back_) / (front - back_), 0.08, 1) ** 1.3
    back, lashes = model.materials.index("M_BackHead"), _lid_edges(model, points)
    anchors = opacity > 0.3
    anchors[throat] = False
    height, folded = model.neutral[:, 1], _folded(model)
    return Anatomy(
        edges=model.edges(), shading=model.shading(), looks=_looks(model, lashes, throat), opacity=opacity,
        throat=throat, mouth=mouth, depth_shade=shade, eye_angle=eye_angles(model),
        face_triangles=np.nonzero(model.material != back)[0], anchors=anchors, shell=_hair_shell(), lashes=lashes,
        scalp=height > points[BROW, 1].mean(), clear=(opacity > 0) | (height < points[152, 1] - 0.5),
        region=_regions(model, points, throat), folded=folded, painted=np.concatenate([*model.eyeballs, mouth, throat]),
        round_normals=_round_normals(model.neutral), lid_shade=_lid_shade(model, folded),
    )  # fmt: skip


def _looks(model: HeadModel, lashes: np.ndarray, throat: np.ndarray) -> np.ndarray:
    """(F,) int: 0 skin, 1 lids' edges, 2 throat, from 3 on the materials of eyes and mouth."""
    looks = np.where(model.shading() == SKIN, 0, model.material + 3)
    for number, own in ((1, lashes), (2, throat)):
        chosen = np.isin(model.triangles, own).sum(1) > 1
        looks[chosen & (looks == 0)] = number
    return looks


def _regions(model: HeadModel, points: np.ndarray, throat: np.ndarray) -> np.ndarray:
    """(V,) int8: which vertices an eye or the mouth shows or moves closely; `points` (478, 3) on the neutral head."""
    region = np.zeros(model.num_vertices, np.int8)
    face = model.part("M_Face")
    for number, outline in zip((RIGHT_EYE, LEFT_EYE, MOUTH_REGION), (*EYE_OUTLINES, INNER_LIPS), strict=True):
        gap = ((model.neutral[face, None] - points[outline][None]) ** 2).sum(2).min(1)
        region[face[gap < REGION_REACH**2]] = number
    region[model.eyeballs[1]], region[model.eyeballs[0]] = RIGHT_EYE, LEFT_EYE
    region[throat] = MOUTH_REGION
    region[model.part("M_Teeth", "M_GumsTongue")] = MOUTH_REGION
    return region


def _folded(model: HeadModel) -> np.ndarray:
    """(V,) float32: 1 where edges become several times as long when the eyes close, 0 where they stay."""
    blink = model.neutral + sum(model.expression[model.names.index(f"eyeBlink_{side}")] for side in "LR")
    edges = model.edges()
    before, after = (np.linalg.norm(p[edges[:, 0]] - p[edges[:, 1]], axis=1) for p in (model.neutral, blink))
    most = np.zeros(model.num_vertices)
    for end in edges.T:
        np.maximum.at(most, end, after / np.maximum(before, 1e-6))
    folded = np.clip((most - FOLDED[0]) / (FOLDED[1] - FOLDED[0]), 0, 1)
    folded[np.concatenate(model.eyeballs)] = 0
    rows = np.repeat(folded[:, None], 3, 1).astype(np.float32)
    nothing = np.full(model.num_vertices, SOFT_FOLD[0], np.float32)
    return np.clip(1.2 * fill_colours(rows, nothing, edges, SOFT_FOLD[1])[:, 0], 0, 1)


def _lid_shade(model: HeadModel, folded: np.ndarray) -> np.ndarray:
    """(V,) float32: how bright a closed lid is, which is round: darker in its crease and at its lashes."""
    blink = model.neutral + sum(model.expression[model.names.index(f"eyeBlink_{side}")] for side in "LR")
    shade = np.ones(model.num_vertices, np.float32)
    own = np.flatnonzero(folded > 0.5)
    low, high = np.percentile(blink[own, 1], [3, 97])
    share = np.clip((blink[:, 1] - low) / (high - low), 0, 1)
    round_ = LID_DARKEST + (1 - LID_DARKEST) * np.sin(np.pi * (0.15 + 0.85 * share)).clip(0, 1) ** 0.7
    return (1 + folded * (round_ - shade)).astype(np.float32)


def _round_normals(neutral: np.ndarray) -> np.ndarray:
    """(V, 3) unit normals of the ellipsoid about the head, at the vertices' directions."""
    normals = (neutral - HEAD_CENTRE) / HEAD_RADII**2
    return (normals / np.linalg.norm(normals, axis=1, keepdims=True)).astype(np.float32)


def eye_angles(model: HeadModel) -> np.ndarray:
    """(V,) radians between the eye's axis and the ray from its centre to a vertex of an eyeball; 0 elsewhere."""
    angle = np.zeros(model.num_vertices, np.float32)
    for ball in model.eyeballs:
        ray = model.neutral[ball] - eye_centre(model.neutral[ball])
        angle[ball] = np.arccos(np.clip(ray[:, 2] / np.linalg.norm(ray, axis=1), -1, 1))
    return angle


def _hair_shell() -> np.ndarray:
    """(K, 3) points on three half ellipses around the head, from jaw to jaw over the top, a little before the ears."""
    turn = np.radians(np.arange(-25, 206, 3.0))
    forward = 4.0 * np.clip(np.sin(turn), 0, 1) ** 2  # the hair over the forehead lies further in front
    rings = [(1.0, 1.0), (1.15, 1.0), (1.35, 1.0)]  # size, depth
    points = [np.stack([9.6 * r * np.cos(turn), 1.5 + 13.0 * r * np.sin(turn), z + forward], 1) for r, z in rings]
    return np.concatenate(points).astype(np.float32)


def _lid_edges(model: HeadModel, points: np.ndarray) -> np.ndarray:
    """Vertices of skin within a millimetre and a half of the outlines of the eyes."""
    face = model.part("M_Face")
    corners = [points[outline] for outline in EYE_OUTLINES]
    outline = np.concatenate([*corners, *((c + np.roll(c, 1, 0)) / 2 for c in corners)])
    near = ((model.neutral[face, None] - outline[None]) ** 2).sum(2).min(1) < 0.15**2
    return face[near]


def _hidden(model: HeadModel, vertices: np.ndarray) -> np.ndarray:
    """Which vertices of the neutral head cannot be seen from the front."""
    size = 600
    screen = model.neutral * np.array([20, -20, 20], np.float32) + np.array([size / 2, size / 2, 0], np.float32)
    _, _, depth = rasterise(screen.astype(np.float32), model.triangles, size, size)
    x = np.clip(screen[vertices, 0].astype(int), 0, size - 1)
    y = np.clip(screen[vertices, 1].astype(int), 0, size - 1)
    return screen[vertices, 2] < depth[y, x] - 20 * 0.25


@dataclass(frozen=True)
class Skin:
    """Per-vertex appearance taken from one photo."""

    trust: np.ndarray  # (V,) how far the photo itself is shown, whatever eyes and mouth do
    still_trust: np.ndarray  # (V,) the same while eyes and mouth are as in the photo: it shows them, too
    photo_xy: np.ndarray  # (V, 2) where a vertex lies in the photo; eyeballs aim at the irises seen there
    colours: np.ndarray  # (V, 3) filled colours
    palette: np.ndarray  # (3, 3) sclera, iris, pupil
    border: np.ndarray  # (V,) trust spread over the mesh: how far the face's soft border is there, without steps


def take_skin(
    model: HeadModel,
    parts: Anatomy,
    screen: np.ndarray,
    photo: np.ndarray,
    landmarks: np.ndarray,
    frame: np.ndarray | None = None,
    aimed: np.ndarray | None = None,
) -> Skin:
    """Read the photo (h, w, 3) float32 at the fitted vertices `screen` (V, 3) pixels; fill what it does not show.

    Args:
        landmarks: (478, 2 or 3) detected in the photo: eyes and the open mouth are cut out of the skin.
        frame: (4,) left, top, right, bottom of what the photo really shows; None: all of it.
        aimed: `screen` with eyeballs turned to where the photo's irises are; None: as they are.
    """
    trust = _facing(model, screen, photo.shape[:2])
    height, width = photo.shape[:2]
    left, top, right, bottom = (0, 0, width, height) if frame is None else frame
    low, high = np.maximum((left, top), 0) + 1, np.minimum((right, bottom), (width, height)) - 1
    inside: np.ndarray = np.all((screen[:, :2] > low) & (screen[:, :2] < high), axis=1)
    eyes, mouth = _holes(landmarks, (height, width))
    trust *= inside * (parts.clear | parts.scalp)
    still_trust = np.where(parts.region > 0, inside, trust).astype(np.float32)
    visible = trust.copy()
    in_eyes, in_mouth = look_up(eyes, screen), look_up(mouth, screen)
    trust *= (1 - np.clip(3 * in_eyes, 0, 1)) * (1 - np.clip(2 * in_mouth - 0.5, 0, 1))
    trust *= 1 - parts.folded
    trust[parts.painted] = 0
    aimed = screen if aimed is None else aimed
    openings = _eye_openings(landmarks, (height, width))
    balls = np.concatenate(model.eyeballs)
    trust[balls] = look_up(openings, aimed[balls]) * (inside & _faces_viewer(model, aimed))[balls]
    seen = look_up(photo, screen)
    face, hair = parts.opacity > 0.9, parts.scalp & ~parts.clear
    start, tint = _usual(seen, trust, face), _usual(seen, trust, hair)
    guess = np.where((parts.scalp & (parts.opacity == 0))[:, None], tint, start)
    colours = np.where(trust[:, None] > 0.05, seen, guess).astype(np.float32)
    colours = fill_colours(colours, trust.astype(np.float32), parts.edges, FILL_ROUNDS)
    _tint_lids(model, parts, colours, seen, trust)
    rims = parts.lashes[trust[parts.lashes] < 0.5]
    bright = np.maximum(colours[rims].mean(1, keepdims=True), 1)
    colours[rims] *= np.clip(LASHES * start.mean() / bright, LASHES, 1)  # dark lids stay as dark as they are
    palette = _palette(photo, landmarks, openings, float(start.mean()))
    gloss = np.percentile(seen[face & (trust > 0.6)].mean(1), 95) if (face & (trust > 0.6)).any() else 0.0
    level = max(start.mean() / SKIN_BRIGHT, palette[0].mean() / SCLERA_BRIGHT, gloss / GLOSS_BRIGHT)
    level = np.clip(level, 0.35, 1.05)  # whites of eyes and bright spots of dark skin tell of the light
    teeth, tint = model.part("M_Teeth"), _teeth_tint(photo, mouth, start, level)
    _paint_mouth(model, parts, colours, tint, float(np.clip(start.mean() / 165, 0.35, 1.05)))
    enamel = np.clip((seen[teeth].mean(1) / tint.mean() - 0.5) / 0.25, 0, 1)
    trust[teeth] = visible[teeth] * inside[teeth] * enamel * np.clip(3 * in_mouth[teeth] - 2, 0, 1)
    trust = trust.astype(np.float32)
    return Skin(trust, still_trust, aimed[:, :2].copy(), colours, palette, _spread(trust, parts.edges))


def _spread(trust: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """(V,) trust that falls over some edges from where there is much of it to where there is none."""
    own, rounds = SOFT_TRUST
    rows = np.repeat(trust[:, None], 3, 1)
    return fill_colours(rows, np.full(len(trust), own, np.float32), edges, rounds)[:, 0].copy()


def _tint_lids(model: HeadModel, parts: Anatomy, colours: np.ndarray, seen: np.ndarray, trust: np.ndarray) -> None:
    """Give lids that the photo does not show, in place, the colour of bright skin around their eye.

    The fold in which they lie, and from which they are filled, is darker than a closed lid.
    """
    skin = parts.opacity > 0.9
    skin[parts.painted] = False
    for ball in model.eyeballs:
        away = np.linalg.norm(model.neutral[:, :2] - eye_centre(model.neutral[ball])[:2], axis=1)
        around = seen[skin & (away < AROUND_EYE) & (trust > 0.6)]
        if len(around) < LEAST_SEEN:
            continue
        bright = around.mean(1)
        tint = around[(bright >= np.median(bright)) & (bright <= np.percentile(bright, 90))].mean(0)
        lids = skin & (away < AROUND_EYE) & (parts.folded > 0)
        share = LID_TINT * parts.folded[lids, None]
        colours[lids] += share * (tint * parts.lid_shade[lids, None] - colours[lids])


def look_up(picture: np.ndarray, screen: np.ndarray) -> np.ndarray:
    """(V, ...) values of a picture (h, w, ...) at points (V, 2 or 3) in pixels, bilinear."""
    x, y = (np.ascontiguousarray(screen[None, :, k] - 0.5, np.float32) for k in (0, 1))
    return cv2.remap(picture, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[0]


def _usual(seen: np.ndarray, trust: np.ndarray, where: np.ndarray) -> np.ndarray:
    """(3,) median colour of the trusted vertices among `where`."""
    sure = where & (trust > 0.6)
    return np.median(seen[sure if sure.sum() > 20 else where], axis=0)


def _facing(model: HeadModel, screen: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(V,) 1 where a vertex looks at the camera and nothing hides it, 0 where it is turned away or hidden."""
    normals = vertex_normals(screen, model.triangles)
    _, _, depth = rasterise(screen, model.triangles, *size)
    x = np.clip(screen[:, 0].astype(int), 0, size[1] - 1)
    y = np.clip(screen[:, 1].astype(int), 0, size[0] - 1)
    visible = screen[:, 2] > depth[y, x] - 0.02 * np.ptp(screen[:, 2])
    return np.clip((normals[:, 2] - 0.12) / 0.3, 0, 1) * visible


def _holes(landmarks: np.ndarray, size_hw: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """(h, w) float32 each, 1 inside: the eyes with lashes and wet rims, and what is between the lips."""
    width = size_hw[1]
    eyes, mouth = np.zeros(size_hw, np.uint8), np.zeros(size_hw, np.uint8)
    for outline, mask in ((EYE_OUTLINES[0], eyes), (EYE_OUTLINES[1], eyes), (INNER_LIPS, mouth)):
        cv2.fillPoly(mask, [np.round(landmarks[outline, :2] - 0.5).astype(np.int32)], 255)
    reach = 2 * round(width / 190) + 1
    eyes = cv2.dilate(eyes, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach)))
    blur = max(0.8, width / 260)
    soft = [cv2.GaussianBlur(m, (0, 0), b).astype(np.float32) / 255 for m, b in ((eyes, blur), (mouth, blur / 2))]
    return soft[0], soft[1]


def _teeth_tint(photo: np.ndarray, mouth: np.ndarray, skin: np.ndarray, level: float) -> np.ndarray:
    """(3,) colour of the teeth that the photo shows between the lips, or usual teeth, `level` as bright."""
    inside = photo[mouth > 0.9]
    pale = (inside.mean(1) > 0.75 * skin.mean()) & (inside.min(1) > 0.6 * inside.max(1))
    if pale.sum() >= 4 * LEAST_SEEN:
        return np.median(inside[pale], axis=0)
    return np.array(TEETH) * level * SHADE_OF_LIPS


def _paint_mouth(model: HeadModel, parts: Anatomy, colours: np.ndarray, teeth: np.ndarray, level: float) -> None:
    """Teeth of a given colour (3,); gums, tongue and throat, `level` as bright as usual."""
    for name, colour in (("M_GumsTongue", np.array(GUMS) * level), ("M_Teeth", teeth)):
        own = model.part(name)
        colours[own] = colour * parts.depth_shade[own, None]
    colours[parts.throat] = np.array(THROAT, np.float32) * level


def _eye_openings(landmarks: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """(h, w) float32: 1 well between the lids, where neither lashes nor wet rims cover the eyes, 0 outside."""
    mask = np.zeros(size_hw, np.uint8)
    for outline in EYE_OUTLINES:
        cv2.fillPoly(mask, [np.round(landmarks[outline, :2] - 0.5).astype(np.int32)], 255)
    eye = float(np.linalg.norm(landmarks[33, :2] - landmarks[133, :2]))
    reach = max(1, round(eye / 24))
    mask = cv2.erode(mask, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1)))
    return cv2.GaussianBlur(mask, (0, 0), max(0.6, eye / 50)).astype(np.float32) / 255


def _faces_viewer(model: HeadModel, screen: np.ndarray) -> np.ndarray:
    """(V,) bool."""
    return vertex_normals(screen, model.triangles)[:, 2] > 0.15


def _palette(photo: np.ndarray, landmarks: np.ndarray, openings: np.ndarray, light: float) -> np.ndarray:
    """(3, 3) usual colours of sclera, iris and pupil in the photo, or usual ones where it shows too little of them."""
    level = np.clip(light / 165, 0.3, 1.05)
    rows, columns = np.nonzero(openings > 0.6)
    colours = photo[rows, columns]
    places = np.stack([columns, rows], 1) + 0.5
    away = np.full(len(places), np.inf)
    for centre, rim in ((468, (469, 471)), (473, (474, 476))):
        radius = np.linalg.norm(landmarks[rim[0], :2] - landmarks[rim[1], :2]) / 2
        away = np.minimum(away, np.linalg.norm(places - landmarks[centre, :2], axis=1) / max(radius, 1e-3))

    def usual(low: float, high: float, otherwise: np.ndarray) -> np.ndarray:
        ring = colours[(away >= low) & (away < high)]
        return np.median(ring, axis=0) if len(ring) >= LEAST_SEEN else otherwise

    bright = colours.mean(1)
    pale = bright >= np.percentile(bright[away >= 1.2], 50) if (away >= 1.2).any() else bright >= 0
    away[(away >= 1.2) & ~pale] = np.inf  # corners and the upper lid's shade
    sclera = usual(1.2, 2.2, np.array([224, 216, 210]) * level)
    iris = usual(0.45, 0.85, np.array([80, 62, 50]) * level)
    return np.stack([sclera, iris, usual(0, 0.3, np.array([14, 11, 10]))]).astype(np.float32)
