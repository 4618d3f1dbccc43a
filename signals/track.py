"""Follow one face through a clip, or find it in a still picture."""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..errors import NoFaceError, UserError
from .detector import BLENDSHAPES, Detection, FaceDetector
from .finder import FaceFinder
from .follow import check_select, follow_face
from .smoothing import OneEuro, fill_missing, nearest_rotations

__all__ = ["BLENDSHAPES", "Detection", "FaceDetector", "FaceFinder", "FaceTrack", "OneEuro"]
__all__ += ["describe_track", "detect_face", "frame_ranges", "link_faces", "track_faces"]

DEFAULT_SMOOTHING = OneEuro()
RIVAL = 0.1  # of the area of the largest face, from which on another may have been meant
SMALL_FACE = 24  # pixels between the outer eye corners

log = logging.getLogger(__name__)

REMEDY = "use a picture or clip with one face looking roughly at the camera, not covered and at least 40 pixels wide"


@dataclass(frozen=True)
class FaceTrack:
    """One face over T frames. Pixel coordinates are continuous: the first pixel covers [0, 1)."""

    landmarks: np.ndarray  # (T, 478, 3) float32 pixels: x right, y down, z on the scale of x, away from the camera
    blendshapes: np.ndarray  # (T, 52) float32 in [0, 1], names in BLENDSHAPES
    matrices: np.ndarray  # (T, 4, 4) float32 head matrix: x right, y up, z towards the camera
    present: np.ndarray  # (T,) bool: detected (False: interpolated)
    image_size: tuple[int, int]  # (height, width)

    @property
    def num_frames(self) -> int:
        return len(self.landmarks)

    @property
    def missing(self) -> list[int]:
        """Numbers of the frames without a detection, from 0."""
        return [int(t) for t in np.flatnonzero(~self.present)]

    @property
    def euler(self) -> np.ndarray:
        """(T, 3) yaw, pitch, roll in degrees; the rotation is Ry(yaw) Rx(pitch) Rz(roll)."""
        m = self.matrices[:, :3, :3] / np.linalg.norm(self.matrices[:, :3, :3], axis=1, keepdims=True)
        yaw = np.arctan2(m[:, 0, 2], m[:, 2, 2])
        pitch = np.arcsin(np.clip(-m[:, 1, 2], -1, 1))
        roll = np.arctan2(m[:, 1, 0], m[:, 1, 1])
        return np.degrees(np.stack([yaw, pitch, roll], axis=1)).astype(np.float32)

    @property
    def mouth_open(self) -> np.ndarray:
        """(T,) height of the mouth's opening over its width, in the picture plane."""
        return self._distance(13, 14, axes=2) / np.maximum(self._distance(61, 291, axes=2), 1e-6)

    @property
    def eye_distance(self) -> np.ndarray:
        """(T,) distance of the outer eye corners in pixels, in depth too, so that a turned head keeps it."""
        return self._distance(33, 263)

    @property
    def boxes(self) -> np.ndarray:
        """(T, 4) left, top, right, bottom of the landmarks in pixels."""
        points = self.landmarks[:, :, :2]
        return np.concatenate([points.min(1), points.max(1)], axis=1)

    def __getitem__(self, index: Any) -> "FaceTrack":
        """The chosen frames (slice, index array or bool array; a single number keeps the time axis)."""
        index = [index] if isinstance(index, int) else index
        return replace(
            self, landmarks=self.landmarks[index], blendshapes=self.blendshapes[index], matrices=self.matrices[index],
            present=self.present[index],
        )  # fmt: skip

    def _distance(self, a: int, b: int, axes: int = 3) -> np.ndarray:
        return np.linalg.norm(self.landmarks[:, a, :axes] - self.landmarks[:, b, :axes], axis=1)


def track_faces(
    frames: Iterable[np.ndarray],
    fps: float,
    *,
    select: str = "largest",
    smoothing: OneEuro | None = DEFAULT_SMOOTHING,
    detector: FaceDetector | None = None,
    on_frame: Callable[[int], None] | None = None,
) -> FaceTrack:
    """Follow one face through (H, W, 3) uint8 RGB frames, which are read once and not kept.

    `select`: "largest", "left", "right" or a number counted from the left ("0"), among the faces seen together.
    Frames without the face are interpolated and listed in `missing`. Raises NoFaceError when no frame has it.
    """
    check_select(select)
    if not fps > 0:
        raise ValueError(f"fps must be above 0, got {fps}")
    size: tuple[int, int] | None = None
    faces: list[list[Detection]] = []
    with detector or FaceFinder("video") as active:
        for number, frame in enumerate(frames):
            size = _checked_size(frame, size, number)
            faces.append(active.detect(frame, round(number * 1000 / fps)))
            if on_frame is not None:
                on_frame(number)
    if size is None:
        raise NoFaceError("the clip has no frames, so there is no face to follow; check that it plays")
    if not any(faces):
        raise NoFaceError(f"no face found in any of {len(faces)} frames of {size[1]}x{size[0]} pixels; {REMEDY}")
    return link_faces(faces, size, fps, select=select, smoothing=smoothing)


def link_faces(
    faces: list[list[Detection]],
    size: tuple[int, int],
    fps: float,
    *,
    select: str = "largest",
    smoothing: OneEuro | None = DEFAULT_SMOOTHING,
) -> FaceTrack:
    """One face out of the detections of every frame of `size` (height, width): followed, gaps filled, smoothed.

    At least one frame must have a face. Raises NoFaceError if there is none of the number selected.
    """
    track = _assemble(follow_face(faces, select), size)
    if track.missing:
        log.warning(
            "face not seen in frames %s: interpolated, and held from its neighbours", frame_ranges(track.missing)
        )
    if smoothing is None or track.num_frames == 1:
        return track
    return replace(track, landmarks=smoothing(track.landmarks, fps, float(np.median(track.eye_distance))))


def describe_track(track: FaceTrack) -> str:
    """A few lines for a human: frames, where the face was not seen, how far head and mouth move."""
    height, width = track.image_size
    seen = track.num_frames - len(track.missing)
    lines = [f"{track.num_frames} frames of {width}x{height} pixels, the face seen in {seen}"]
    if track.missing:
        lines.append(f"interpolated: {frame_ranges(track.missing)} (the face is held from the frames around)")
    eyes = np.median(track.eye_distance)
    lines.append(f"eyes {eyes:.0f} pixels apart" + (": small, expect little detail" if eyes < SMALL_FACE else ""))
    angles = zip(("yaw", "pitch", "roll"), track.euler.min(0), track.euler.max(0), strict=True)
    lines += [f"{name} {low:.0f} to {high:.0f} degrees" for name, low, high in angles]
    lines.append(f"mouth opening {track.mouth_open.min():.2f} to {track.mouth_open.max():.2f} of its width")
    return "\n".join(lines)


def detect_face(image: np.ndarray, *, select: str = "largest") -> FaceTrack:
    """The face of a still (H, W, 3) uint8 RGB picture as a track of one frame. Raises NoFaceError."""
    check_select(select)
    size = _checked_size(image, None, 0)
    with FaceFinder("image") as detector:
        faces = detector.detect(image)
    if not faces:
        raise NoFaceError(f"no face found in the picture of {size[1]}x{size[0]} pixels; {REMEDY}")
    if select == "largest":
        _tell_of_others(faces)
    return _assemble(follow_face([faces], select), size)


def _tell_of_others(faces: list[Detection]) -> None:
    """Say which of several faces, largest first, is taken, if nobody chose one."""
    rivals = [face for face in faces if face.area > RIVAL * faces[0].area]
    if len(rivals) > 1:
        row = sorted(faces, key=lambda face: face.box[[0, 2]].sum())
        log.warning(
            "the picture shows %d faces, of which the largest is taken, number %d from the left, counted from 0: "
            "choose another by --source-face (in ComfyUI: source_face, or face of Face Track)",
            len(faces), next(n for n, face in enumerate(row) if face is faces[0]),
        )  # fmt: skip


def frame_ranges(numbers: list[int]) -> str:
    """[3, 4, 5, 9] -> "3-5, 9"."""
    runs: list[list[int]] = []
    for n in numbers:
        if runs and n == runs[-1][-1] + 1:
            runs[-1][1:] = [n]
        else:
            runs.append([n])
    return ", ".join("-".join(map(str, run)) for run in runs)


def _checked_size(frame: np.ndarray, expected: tuple[int, int] | None, number: int) -> tuple[int, int]:
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
        raise ValueError(f"frames must be (H, W, 3) uint8 RGB, frame {number} is {frame.shape} {frame.dtype}")
    size = (frame.shape[0], frame.shape[1])
    if expected is not None and size != expected:
        was, now = (f"{s[1]}x{s[0]}" for s in (expected, size))
        raise UserError(f"the clip changes size from {was} to {now} at frame {number}; re-encode it to one size")
    return size


def _assemble(faces: list[Detection | None], size: tuple[int, int]) -> FaceTrack:
    """Stack one face's detections over time and fill the gaps."""
    present = np.array([face is not None for face in faces])
    some = next(face for face in faces if face is not None)
    rows = [face or some for face in faces]
    landmarks = fill_missing(np.stack([row.landmarks for row in rows]), present)
    blendshapes = fill_missing(np.stack([row.blendshapes for row in rows]), present)
    matrices = np.stack([row.matrix for row in rows])
    matrices = np.where(present[:, None, None], matrices, nearest_rotations(fill_missing(matrices, present)))
    return FaceTrack(landmarks, blendshapes, matrices.astype(np.float32), present, size)
