"""Eyes, nose and mouth as filled polygons: the only parts of the driver that the model gets to see."""

from dataclasses import dataclass

import numpy as np

from .opencv import cv2

REGIONS = ("eyes", "nose", "mouth")

# Landmark indices; each region is the convex hull of its points, grown by the dilation.
# fmt: off
RIGHT_EYE = (33, 246, 161, 160, 159, 158, 157, 173, 133, 155, 154, 153, 145, 144, 163, 7,  # lid edges
             130, 247, 30, 29, 27, 28, 56, 190, 243, 112, 26, 22, 23, 24, 110, 25)  # and the lids around them
LEFT_EYE = (263, 466, 388, 387, 386, 385, 384, 398, 362, 382, 381, 380, 374, 373, 390, 249,
            359, 467, 260, 259, 257, 258, 286, 414, 463, 341, 256, 252, 253, 254, 339, 255)
RIGHT_BROW = (46, 53, 52, 65, 55, 107, 66, 105, 63, 70)
LEFT_BROW = (276, 283, 282, 295, 285, 336, 296, 334, 293, 300)
NOSE = (6, 122, 351, 196, 419, 198, 420,  # bridge
        129, 358, 64, 294, 98, 327, 97, 326, 2,  # wings, nostrils and base
        1, 4, 5, 45, 275)  # tip: it stands out in profile
MOUTH = (61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291, 375, 321, 405, 314, 17, 84, 181, 91, 146)  # outer lip edge
# fmt: on
OUTER_EYE_CORNERS = (33, 263)
SUBPIXEL_BITS = 4


@dataclass(frozen=True, kw_only=True)
class RegionConfig:
    """Which parts of the driver are shown, and how generously. Lengths are shares of the eye distance."""

    regions: tuple[str, ...] = REGIONS
    brows: bool = False  # the eyes' region takes in the brows
    dilation: float = 0.16  # the hulls grow by this much, half on each side
    feather: float = 0.0  # width of the soft edge

    def __post_init__(self):
        unknown = [r for r in self.regions if r not in REGIONS]
        if unknown:
            raise ValueError(f"unknown regions {unknown}; choose from {REGIONS}")
        if self.dilation < 0 or self.feather < 0:
            raise ValueError(f"dilation and feather must be at least 0, got {self.dilation} and {self.feather}")


def region_hulls(landmarks: np.ndarray, cfg: RegionConfig) -> dict[str, list[np.ndarray]]:
    """Grown convex hulls, (points, 2) float32 pixels, of one frame's (478, 3) landmarks; only regions switched on."""
    radius = cfg.dilation / 2 * eye_distance(landmarks)
    turns = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    disc = radius * np.stack([np.cos(turns), np.sin(turns)], axis=1)

    def hull(indices: tuple[int, ...]) -> np.ndarray:
        points = landmarks[list(indices), None, :2] + disc
        return cv2.convexHull(points.reshape(-1, 2).astype(np.float32))[:, 0]

    eyes = (RIGHT_EYE + RIGHT_BROW, LEFT_EYE + LEFT_BROW) if cfg.brows else (RIGHT_EYE, LEFT_EYE)
    parts = {"eyes": eyes, "nose": (NOSE,), "mouth": (MOUTH,)}
    return {name: [hull(part) for part in parts[name]] for name in REGIONS if name in cfg.regions}


def region_masks(landmarks: np.ndarray, size_hw: tuple[int, int], cfg: RegionConfig) -> np.ndarray:
    """(T, 3, H, W) uint8, 255 inside eyes, nose, mouth (the order of REGIONS), from (T, 478, 3) landmarks in pixels.

    Regions switched off are zero. With a feather the edge falls off smoothly, otherwise values are 0 and 255.
    """
    masks = np.zeros((len(landmarks), len(REGIONS), *size_hw), np.uint8)
    for frame_masks, points in zip(masks, landmarks, strict=True):
        for name, hulls in region_hulls(points, cfg).items():
            mask = frame_masks[REGIONS.index(name)]
            for hull in hulls:
                fixed_point = np.round((hull - 0.5) * 2**SUBPIXEL_BITS).astype(
                    np.int32
                )  # cv2 counts from pixel centres
                cv2.fillConvexPoly(mask, fixed_point, 255, shift=SUBPIXEL_BITS)
            if cfg.feather > 0:
                mask[:] = cv2.GaussianBlur(mask, (0, 0), max(cfg.feather * eye_distance(points) / 2, 0.1))
    return masks


def masked_frames(frames: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """(T, H, W, C) frames with everything outside the union of (T, 3, H, W) masks black."""
    shown = masks.max(axis=1)[..., None]
    if not np.any((shown > 0) & (shown < 255)):
        return np.where(shown > 0, frames, 0).astype(frames.dtype)
    return (frames * (shown / np.float32(255))).round().astype(frames.dtype)


def eye_distance(landmarks: np.ndarray) -> float:
    """Distance of the outer eye corners of (478, 3) landmarks in pixels, in depth too: a turned head keeps it."""
    a, b = OUTER_EYE_CORNERS
    return float(np.linalg.norm(landmarks[a] - landmarks[b]))
