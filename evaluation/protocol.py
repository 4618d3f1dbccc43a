"""What is measured of one animated pair: frames or files in, rows of the report out.

Self-reenactment has a target, the true video; cross-reenactment has none. In both, the picture itself, held still, is a
row beside the result: what an animation is worth shows in what it is better at. Pixels are compared in the squares that
the model animates, at its resolution; faces are found and compared in the whole frames.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from ..errors import UserError
from ..signals.crops import CropConfig, crop_frame, plan_crop
from ..signals.track import FaceTrack, detect_face, track_faces
from ..signals.video import VideoReader
from .bootstrap import mean_score
from .columns import COLUMNS
from .identity import Embedder, embed_video, mean_embedding, spread
from .length import LEAST_FRAMES, SETTLED, WINDOW, colour_drift, kept_share, seam_ratio
from .manifest import Pair
from .redetection import MEASURES, Redetection, redetect
from .report import Run
from .score import Score
from .sharpness import edge_sharpness
from .sound import SoundCheck, check_sound
from .video import MeasuredVideo, frame_series, square_of_result

__all__ = ["COLUMNS", "Identity", "Reference", "evaluate_frames", "evaluate_pair", "measure"]

STATIC, TRUE = "static copy", "true video"
DRIVER_FRAMES = 16  # of the driver's mean embedding


@dataclass(frozen=True)
class Identity:
    """How likeness is measured; without an embedder, why it is not."""

    embedder: Embedder | None = None
    reason: str = "no embedder was given"


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What the result and all baselines of a pair are held against; read once."""

    driver: FaceTrack  # unsmoothed
    fps: float
    source: np.ndarray | None = None  # (D,) identity embedding of the source
    source_sharpness: float = 0.0  # of the source's square; 0: not known
    driver_looks: np.ndarray | None = None  # (D,) of the driver; None if the driver is the source's person
    cross: bool = True  # another person drives
    truth: MeasuredVideo | None = None
    truth_vectors: np.ndarray | None = None  # (T, D) of the true frames
    identity: Identity = field(default_factory=Identity)
    segment_length: int | None = None  # new frames of a segment; None: not made in segments
    select: str = "largest"


def measure(
    name: str, video: MeasuredVideo, against: Reference, *, method: str = "", track: FaceTrack | None = None
) -> Run:
    """One row: everything that can be measured of a video. `track`: its unsmoothed track, if it is known already."""
    found = redetect(video.frames if track is None else track, against.driver, against.fps, select=against.select)
    vectors = _vectors(video, found, against)
    series = frame_series(video.squares(), against.truth.squares() if against.truth else ())
    scores = {
        "faces": Score.of(found.faces),
        **found.correlations,
        **{f"{key}_error": score for key, score in found.errors.items()},
        **_identity_scores(vectors, against),
        **_time_scores(series, against.segment_length),
        "sharpness": _sharpness(series, against),
    }
    if against.truth and video is not against.truth:
        scores |= _truth_scores(series, vectors, against)
    details = {
        "driver_frames": found.driver_frames,
        "result_frames": found.result_frames,
        "driver_faces": found.driver_faces,
        "driver_spans": {f"{m.name} ({m.unit})": found.driver_spans[m.name] for m in MEASURES},
        "square_pixels": video.crop.size,
        "embedder": _describe(against.identity.embedder),
        "series": _series(found, series, vectors, against),
    }
    return Run(name=name, scores=scores, checks={"frames": found.frames_equal}, details=details, method=method)


def evaluate_frames(
    name: str,
    result: Iterable[np.ndarray],
    source: np.ndarray,
    driver: Iterable[np.ndarray],
    fps: float,
    *,
    rule: CropConfig | None = None,
    target: Iterable[np.ndarray] | None = None,
    compare: Mapping[str, Iterable[np.ndarray]] | None = None,
    identity: Identity | None = None,
    segment_length: int | None = None,
    select: str = "largest",
    source_face: str = "largest",
) -> list[Run]:
    """The row of a result and those of its baselines: the static copy, videos to compare, the true video.

    Args:
        result, driver, target: frames (H, W, 3) uint8 RGB that can be read several times; `target` may be `driver`.
        source: the portrait. rule: how source and driver were cropped for the model, with its resolution.
        segment_length: new frames of a segment, for the seams. select, source_face: which face, as for `track_faces`.

    Raises: NoFaceError if source or driver have no face; MediaError if a file behind the frames cannot be read, or
    frames are neither square nor of the source's size.
    """
    rule, identity = rule or CropConfig(size=256), identity or Identity()
    portrait = detect_face(source, select=source_face)
    place = plan_crop(portrait, rule)
    track = track_faces(driver, fps, select=select, smoothing=None)
    reference = Reference(
        driver=track,
        fps=fps,
        cross=target is not driver,
        identity=identity,
        segment_length=segment_length,
        select=select,
    )
    reference = with_looks(reference, source, portrait, driver)
    reference = replace(reference, source_sharpness=edge_sharpness(crop_frame(source, place.affines[0], rule.size)))
    true_track = track
    if target is not None:
        if target is not driver:
            true_track = track_faces(target, fps, select=select, smoothing=None)
        reference = with_truth(reference, MeasuredVideo(target, plan_crop(true_track, rule)), true_track)

    def row(method: str, frames: Iterable[np.ndarray], known: FaceTrack | None = None) -> Run:
        video = MeasuredVideo(frames, square_of_result(next(iter(frames)), source, place))
        return measure(name, video, reference, method=method, track=known)

    runs = [row("", result), row(STATIC, [source] * track.num_frames, still_track(portrait, track.num_frames))]
    runs += [row(method, frames) for method, frames in (compare or {}).items()]
    if reference.truth is not None:
        runs.append(measure(name, reference.truth, reference, method=TRUE, track=true_track))
    return runs


def evaluate_pair(
    pair: Pair,
    result: Path,
    source: np.ndarray,
    *,
    rule: CropConfig,
    identity: Identity | None = None,
    segment_length: int | None = None,
    select: str = "largest",
    source_face: str = "largest",
) -> list[Run]:
    """The same of files: a finished video, its source picture, and what it was made from.

    The result has the check `sound` (kept, see `sound`) as well. Raises as `evaluate_frames`.
    """
    driver = VideoReader(pair.driving, start=pair.start, max_frames=pair.max_frames)
    target = None
    if pair.target is not None:
        same = pair.is_self and pair.target_start == pair.start
        target = driver if same else VideoReader(pair.target, start=pair.target_start, max_frames=pair.max_frames)
    try:
        own, *others = evaluate_frames(
            pair.name, VideoReader(result), source, driver, float(driver.info.fps), rule=rule, target=target,
            compare={name: VideoReader(path) for name, path in pair.compare.items()}, identity=identity,
            segment_length=segment_length, select=select, source_face=source_face,
        )  # fmt: skip
    except UserError as error:
        raise type(error)(f"{pair.name}: {error}") from error
    timing = driver.timing
    sound = check_sound(result, pair.driving, timing.begin, timing.time(timing.num_frames))
    return [_with_sound(own, sound), *(replace(run, checks={}) for run in others)]


def still_track(portrait: FaceTrack, num_frames: int) -> FaceTrack:
    """The track of a picture that is held for so many frames."""
    return portrait[np.zeros(num_frames, int)]


def with_truth(against: Reference, truth: MeasuredVideo, track: FaceTrack) -> Reference:
    """The same reference with a true video."""
    embedder = against.identity.embedder
    vectors = embed_video(truth.frames, track, embedder, _embedded(track.num_frames)) if embedder else None
    return replace(against, truth=truth, truth_vectors=vectors)


def with_looks(
    against: Reference, source: np.ndarray, portrait: FaceTrack, driver: Iterable[np.ndarray] = ()
) -> Reference:
    """The same reference with the embeddings of source (H, W, 3) and, if it is another person, of the driver."""
    embedder = against.identity.embedder
    if embedder is None:
        return against
    looks = None
    if against.cross:
        numbers = spread(against.driver.num_frames, DRIVER_FRAMES)
        looks = mean_embedding(embed_video(driver, against.driver, embedder, numbers))
    return replace(against, source=embedder.embed(source, portrait.landmarks[0]), driver_looks=looks)


def _embedded(num_frames: int) -> list[int]:
    """Frames whose identity is looked at: evenly spread, and the windows of drift."""
    windows = [*range(SETTLED, SETTLED + WINDOW), *range(num_frames - WINDOW, num_frames)]
    return sorted({*spread(num_frames), *(windows if num_frames >= LEAST_FRAMES else [])})


def _describe(embedder: Embedder | None) -> dict[str, str | float] | None:
    return {"name": embedder.name, "same_person_from": embedder.same_from} if embedder else None


def _vectors(video: MeasuredVideo, found: Redetection, against: Reference) -> np.ndarray | None:
    embedder = against.identity.embedder
    if embedder is None or found.track is None:
        return None
    if video is against.truth:
        return against.truth_vectors
    return embed_video(video.frames, found.track, embedder, _embedded(found.result_frames))


def _identity_scores(vectors: np.ndarray | None, against: Reference) -> dict[str, Score]:
    keys = ["csim_source", *(["csim_driver", "csim_margin"] if against.cross else []), "csim_kept"]
    if against.identity.embedder is None:
        return {key: Score.missing(against.identity.reason) for key in keys}
    if vectors is None or against.source is None:
        return {key: Score.missing("no face in the result", None if key == "csim_driver" else 0.0) for key in keys}
    to_source = vectors @ against.source
    scores = {"csim_source": mean_score(to_source), "csim_kept": kept_share(to_source)}
    if against.driver_looks is not None:
        to_driver = vectors @ against.driver_looks
        scores |= {"csim_driver": mean_score(to_driver), "csim_margin": mean_score(to_source - to_driver)}
    return scores


def _truth_scores(series: dict[str, np.ndarray], vectors: np.ndarray | None, against: Reference) -> dict[str, Score]:
    scores = {key: mean_score(series[key]) for key in ("psnr", "ssim", "l1", "tof")}
    if against.identity.embedder is None:
        return {**scores, "csim_target": Score.missing(against.identity.reason)}
    if vectors is None or against.truth_vectors is None:
        return {**scores, "csim_target": Score.missing("no face in the result", counted=0.0)}
    length = min(len(vectors), len(against.truth_vectors))
    alike = (vectors[:length] * against.truth_vectors[:length]).sum(1)
    return {**scores, "csim_target": mean_score(alike, counted=0.0)}


def _sharpness(series: dict[str, np.ndarray], against: Reference) -> Score:
    if not against.source_sharpness:
        return Score.missing("no source picture to compare with")
    return mean_score(series["sharpness"] / against.source_sharpness)


def _time_scores(series: dict[str, np.ndarray], segment_length: int | None) -> dict[str, Score]:
    changes = series["change"]
    borders = range(segment_length, len(changes) + 1, segment_length) if segment_length else ()
    return {
        "warping_error": mean_score(1000 * series["warping_error"], "a single frame"),
        "seam": seam_ratio(changes, borders),
        "colour_drift": colour_drift(series["colour"]),
    }


def _series(
    found: Redetection, series: dict[str, np.ndarray], vectors: np.ndarray | None, against: Reference
) -> dict[str, list[float]]:
    """Everything over time, for curves: of the driver, of the result, and their pictures."""
    curves = {f"driver {m.name}": _known(m.read(against.driver), against.driver) for m in MEASURES}
    if found.track is not None:
        curves |= {f"result {m.name}": _known(m.read(found.track), found.track) for m in MEASURES}
    if vectors is not None and against.source is not None:
        curves["csim_source"] = vectors @ against.source
    curves |= {key: values for key, values in series.items() if key != "colour" and np.isfinite(values).any()}
    return {key: [round(float(v), 5) for v in values] for key, values in curves.items()}


def _known(values: np.ndarray, track: FaceTrack) -> np.ndarray:
    return np.where(track.present, values, np.nan)


def _with_sound(run: Run, sound: SoundCheck) -> Run:
    checks = {**run.checks, "sound": sound.kept}
    return replace(run, checks=checks, details={**run.details, "sound": {**asdict(sound), "kept": sound.kept}})
