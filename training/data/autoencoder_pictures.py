"""Pictures for the autoencoder: square crops around faces, eyes and mouths, masked driving frames, plain texture."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from ...errors import MediaError, NoFaceError, UserError

log = logging.getLogger(__name__)

PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp"}
VIDEOS = {".mp4", ".mpg", ".mpeg", ".mov", ".avi", ".mkv", ".webm"}
LEFT_EYE, RIGHT_EYE, MOUTH = (362, 263), (33, 133), (61, 291)  # corners in MediaPipe's numbering
EYE_DISTANCE = (33, 263)


@dataclass(frozen=True, kw_only=True)
class CropsConfig:
    """How many crops of which kind a frame gives; sides are relative to the face or to the eye distance."""

    size: int = 128
    frames_per_clip: int = 12  # evenly spaced
    num_faces: int = 3
    num_parts: int = 2  # of each eye and of the mouth
    num_masked: int = 1  # driving frames: black but for the face's regions
    num_textures: int = 2  # anywhere in the picture
    face_scale: tuple[float, float] = (1.2, 2.6)  # side / larger side of the landmarks' box
    part_scale: tuple[float, float] = (0.6, 1.6)  # side / eye distance
    min_side: int = 96  # pixels of the picture: smaller crops would be blur
    seed: int = 0

    def __post_init__(self) -> None:
        if self.size % 8 or self.min_side < 8 or self.frames_per_clip < 1:
            raise UserError(
                f"crops need a size in multiples of 8, min_side >= 8 and frames_per_clip >= 1, got {self.size}, "
                f"{self.min_side} and {self.frames_per_clip}"
            )


def read_frames(path: Path, limit: int) -> Iterator[np.ndarray]:
    """At most `limit` evenly spaced RGB frames (H, W, 3) uint8 of a picture, animation or video.

    Raises MediaError if the file cannot be read.
    """
    try:
        yield from (_video_frames if path.suffix.lower() in VIDEOS else _picture_frames)(path, limit)
    except (OSError, ValueError) as error:
        raise MediaError(f"cannot read {path} ({error}): remove it from the training data") from error


def _picture_frames(path: Path, limit: int) -> Iterator[np.ndarray]:
    from PIL import Image

    with Image.open(path) as image:
        total = getattr(image, "n_frames", 1)
        for index in np.unique(np.linspace(0, total - 1, min(limit, total)).round().astype(int)):
            image.seek(int(index))
            yield np.asarray(image.convert("RGB"))


def _video_frames(path: Path, limit: int) -> Iterator[np.ndarray]:
    import av

    with av.open(str(path)) as container:
        total = sum(1 for _ in container.decode(video=0))
    wanted = set(np.linspace(0, total - 1, min(limit, total)).round().astype(int).tolist())
    with av.open(str(path)) as container:
        for index, frame in enumerate(container.decode(video=0)):
            if index in wanted:
                yield frame.to_ndarray(format="rgb24")


def square(image: np.ndarray, centre: np.ndarray, side: float, size: int) -> np.ndarray:
    """The square of `side` pixels around `centre` (x, y), moved or shrunk to lie inside, at (size, size, 3)."""
    height, width = image.shape[:2]
    side = int(min(max(side, 8), height, width))
    left = int(np.clip(centre[0] - side / 2, 0, width - side))
    top = int(np.clip(centre[1] - side / 2, 0, height - side))
    how = cv2.INTER_AREA if side > size else cv2.INTER_CUBIC
    return cv2.resize(image[top : top + side, left : left + side], (size, size), interpolation=how)


def _face_crops(frame: np.ndarray, cfg: CropsConfig, rng: np.random.Generator) -> Iterator[np.ndarray]:
    from ...signals.regions import RegionConfig, masked_frames, region_masks
    from ...signals.track import detect_face

    try:
        landmarks = detect_face(frame).landmarks
    except NoFaceError:
        return
    points = landmarks[0, :, :2]
    low, high = points.min(0), points.max(0)
    face, eyes = float((high - low).max()), float(np.linalg.norm(np.subtract(*points[list(EYE_DISTANCE)])))

    def around(image: np.ndarray, centre: np.ndarray, unit: float, scale: tuple[float, float]) -> np.ndarray:
        side = max(unit * rng.uniform(*scale), cfg.min_side)
        return square(image, centre + rng.uniform(-0.12, 0.12, 2) * side, side, cfg.size)

    for _ in range(cfg.num_faces):
        yield around(frame, (low + high) / 2, face, cfg.face_scale)
    for corners in (LEFT_EYE, RIGHT_EYE, MOUTH):
        for _ in range(cfg.num_parts):
            yield around(frame, points[list(corners)].mean(0), eyes, cfg.part_scale)
    for _ in range(cfg.num_masked):
        regions = RegionConfig(dilation=rng.uniform(0.05, 0.3), brows=bool(rng.random() < 0.3))
        masks = region_masks(landmarks, (frame.shape[0], frame.shape[1]), regions)
        yield around(masked_frames(frame[None], masks)[0], (low + high) / 2, face, cfg.face_scale)


def crops_of(path: Path, cfg: CropsConfig, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """All crops (size, size, 3) uint8 of one file; frames without a face give texture only."""
    for frame in read_frames(path, cfg.frames_per_clip):
        if min(frame.shape[:2]) < cfg.min_side:
            continue
        yield from _face_crops(frame, cfg, rng)
        for _ in range(cfg.num_textures):
            side = rng.uniform(cfg.min_side, min(frame.shape[:2]))
            centre = rng.uniform((0, 0), (frame.shape[1], frame.shape[0]))
            yield square(frame, centre, side, cfg.size)


def find_files(patterns: Sequence[str], manifest: Path | None, root: Path) -> list[Path]:
    """Files of the glob patterns (relative to `root`) and those of the manifest that may train bundled weights.

    Raises UserError if a pattern finds nothing.
    """
    files: list[Path] = []
    for pattern in patterns:
        base = Path(pattern)
        found = Path(base.anchor).glob(str(base.relative_to(base.anchor))) if base.is_absolute() else root.glob(pattern)
        media = sorted(p for p in found if p.suffix.lower() in PICTURES | VIDEOS)
        if not media:
            raise UserError(f"no pictures or videos match {pattern} in {root}: correct `pictures` in the configuration")
        files += media
    return files + (allowed_files(manifest) if manifest else [])


def allowed_files(manifest: Path) -> list[Path]:
    """Files of a manifest.csv whose column may_train_bundled_weights starts with yes."""
    import csv

    with manifest.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [manifest.parent / row["file"] for row in rows if row["may_train_bundled_weights"].startswith("yes")]


def build_crops(files: Sequence[Path], out: Path, cfg: CropsConfig) -> Path:
    """Write all crops, shuffled, to `out` as one array (N, size, size, 3) uint8; an existing file is kept."""
    if out.is_file():
        return out
    rng = np.random.default_rng(cfg.seed)
    crops: list[np.ndarray] = []
    for index, path in enumerate(files):
        try:
            crops += crops_of(path, cfg, rng)
        except MediaError as error:
            log.warning("%s", error)
        if index % 50 == 49:
            log.info("%d of %d files, %d crops", index + 1, len(files), len(crops))
    if not crops:
        raise UserError(f"the {len(files)} training files gave no crops: check `pictures` and `manifest`")
    array = np.stack([crops[i] for i in rng.permutation(len(crops))])
    part = out.with_name("part-" + out.name)
    np.save(part, array)
    part.rename(out)
    return out
