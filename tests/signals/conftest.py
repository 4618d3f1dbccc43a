"""A face made of numbers with known answers, and real pictures where there are some."""

from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from svdp.signals.detector import Detection
from svdp.signals.regions import LEFT_EYE, MOUTH, NOSE, RIGHT_EYE
from svdp.signals.track import FaceTrack


def ring(indices: tuple[int, ...], x: float, y: float, width: float, height: float, z: float) -> dict[int, tuple]:
    """Points spread over an ellipse."""
    turns = np.linspace(0, 2 * np.pi, len(indices), endpoint=False)
    return {i: (x + width * np.cos(a), y + height * np.sin(a), z) for i, a in zip(indices, turns, strict=True)}


def unit_face() -> np.ndarray:
    """(478, 3): a frontal face about 1 wide around (0, 0), nose towards the camera (negative z)."""
    rng = np.random.default_rng(0)
    face = rng.uniform(-0.3, 0.3, (478, 3)) * (1, 1, 0.2)
    places = ring(RIGHT_EYE, -0.22, -0.15, 0.12, 0.05, 0.0) | ring(LEFT_EYE, 0.22, -0.15, 0.12, 0.05, 0.0)
    places |= ring(NOSE, 0, 0.02, 0.08, 0.14, -0.1) | ring(MOUTH, 0, 0.3, 0.18, 0.07, -0.05)
    places |= {33: (-0.34, -0.15, 0), 133: (-0.1, -0.15, 0), 362: (0.1, -0.15, 0), 263: (0.34, -0.15, 0)}
    places |= {
        10: (0, -0.55, 0.0),
        2: (0, 0.15, -0.12),
        152: (0, 0.6, 0.0),
        168: (0, -0.16, -0.05),
        6: (0, -0.1, -0.07),
    }
    places |= {61: (-0.18, 0.3, 0), 291: (0.18, 0.3, 0), 13: (0, 0.28, -0.05), 14: (0, 0.32, -0.05)}
    places |= {127: (-0.5, -0.15, 0.3), 356: (0.5, -0.15, 0.3), 234: (-0.5, 0, 0.3), 454: (0.5, 0, 0.3)}
    places |= {93: (-0.47, 0.15, 0.3), 323: (0.47, 0.15, 0.3)}
    for index, place in places.items():
        face[index] = place
    return face


def rotation(yaw: float = 0, pitch: float = 0, roll: float = 0) -> np.ndarray:
    """Ry(yaw) Rx(pitch) Rz(roll), degrees."""
    y, p, r = np.radians([yaw, pitch, roll])
    about_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(p), -np.sin(p)], [0, np.sin(p), np.cos(p)]])
    about_z = np.array([[np.cos(r), -np.sin(r), 0], [np.sin(r), np.cos(r), 0], [0, 0, 1]])
    return about_y @ about_x @ about_z


def make_landmarks(x: float = 256, y: float = 256, size: float = 200, **angles: float) -> np.ndarray:
    """(478, 3) float32 pixels of the unit face, turned and placed."""
    return (unit_face() @ rotation(**angles).T * size + (x, y, 0)).astype(np.float32)


def make_detection(x: float = 256, y: float = 256, size: float = 200, **angles: float) -> Detection:
    matrix = np.eye(4, dtype=np.float32)
    matrix[:3, :3] = rotation(**angles)
    return Detection(make_landmarks(x, y, size, **angles), np.full(52, x / 1000, np.float32), matrix)


def make_track(landmarks: np.ndarray, image_size: tuple[int, int] = (512, 512)) -> FaceTrack:
    """A track of (T, 478, 3) landmarks, all detected."""
    count = len(landmarks)
    matrices = np.tile(np.eye(4, dtype=np.float32), (count, 1, 1))
    return FaceTrack(landmarks, np.zeros((count, 52), np.float32), matrices, np.ones(count, bool), image_size)


def smooth_picture(height: int, width: int) -> np.ndarray:
    """(H, W, 3) uint8 without sharp edges, so that resampling it loses little."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    waves = [np.sin(x / 31) + np.cos(y / 23), np.sin((x + y) / 37), np.cos((x - 2 * y) / 41)]
    return np.stack([128 + 50 * w for w in waves], axis=2).astype(np.uint8)


@pytest.fixture(scope="session")
def read_clip() -> Callable[..., Iterator[np.ndarray]]:
    """Frames of a clip as (H, W, 3) uint8."""

    def frames(path: Path, count: int = 10**9) -> Iterator[np.ndarray]:
        with av.open(str(path)) as container:
            for number, frame in enumerate(container.decode(video=0)):
                if number >= count:
                    return
                yield frame.to_ndarray(format="rgb24")

    return frames


@pytest.fixture(scope="session")
def portrait(assets_dir: Path) -> np.ndarray:
    """A real picture with a face: the bundled one, else one of the development data."""
    shared = assets_dir.parents[1] / "shared" / "data" / "portraits"
    places = [*assets_dir.glob("examples/source.*"), shared / "SadTalker__examples-source_image-art_9.png"]
    for path in places:
        if path.is_file():
            return np.asarray(Image.open(path).convert("RGB"))
    pytest.skip("no picture of a face: neither assets/examples/source.* nor ../shared/data is there")
