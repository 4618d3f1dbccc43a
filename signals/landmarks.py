"""Face landmarks that something else has found, as ComfyUI's own nodes give them, turned into a track.

The form (FACE_LANDMARKS): {"frames": a list of faces for each frame, "image_size": (height, width)}; a face has
"landmarks_xy" (478, 2) in pixels, "landmarks_3d" (478, 3) in units of the landmark model, "blendshapes" by name and,
from the detector, "transformation_matrix" (4, 4). The points are those of the same face mesh as `detector`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import NoFaceError, UserError
from .detector import BLENDSHAPES, NUM_LANDMARKS, Detection
from .smoothing import OneEuro
from .track import DEFAULT_SMOOTHING, FaceTrack, link_faces


def track_from_landmarks(
    found: Mapping[str, Any],
    fps: float,
    *,
    num_frames: int | None = None,
    select: str = "largest",
    smoothing: OneEuro | None = DEFAULT_SMOOTHING,
) -> FaceTrack:
    """One face of landmarks found elsewhere; frames without any are interpolated, as in `track_faces`.

    num_frames: how many there must be. Raises UserError if they are of another number or kind, NoFaceError if no frame
    has a face.
    """
    frames, size = found["frames"], found["image_size"]
    if num_frames is not None and len(frames) != num_frames:
        raise UserError(f"{num_frames} images but landmarks of {len(frames)}: detect them on the same images")
    faces = [[_detection(face) for face in per_frame] for per_frame in frames]
    if not any(faces):
        raise NoFaceError(f"the landmarks hold no face in any of {len(frames)} frames: look at the detector's preview")
    return link_faces(faces, (int(size[0]), int(size[1])), fps, select=select, smoothing=smoothing)


def _detection(face: Mapping[str, Any]) -> Detection:
    flat = np.asarray(face["landmarks_xy"], np.float32)
    deep = np.asarray(face["landmarks_3d"], np.float32)
    if flat.shape != (NUM_LANDMARKS, 2) or deep.shape != (NUM_LANDMARKS, 3):
        raise UserError(
            f"face landmarks must be {NUM_LANDMARKS} points of MediaPipe's face mesh, got {flat.shape} and {deep.shape}"
        )
    depth = deep[:, 2] * _spread(flat) / max(_spread(deep[:, :2]), 1e-6)
    shapes = face.get("blendshapes") or {}
    matrix = face.get("transformation_matrix")
    return Detection(
        np.concatenate([flat, depth[:, None]], axis=1).astype(np.float32),
        np.array([shapes.get(name, 0.0) for name in BLENDSHAPES], np.float32),
        np.eye(4, dtype=np.float32) if matrix is None else np.asarray(matrix, np.float32),
    )


def _spread(points: np.ndarray) -> float:
    """Root mean square distance of points from their mean: the ratio of two is the scale between them."""
    return float(np.sqrt(((points - points.mean(0)) ** 2).sum(1).mean()))
