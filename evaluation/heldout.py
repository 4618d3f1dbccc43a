"""A model on clips whose true frames are known: encoded, held-out clips as `svdp data build` makes them.

The driver of such a clip shows only eyes, nose and mouth, of another head that makes the same motion; so the true
frames stand in for it: yaw, mouth and blink are compared with those found in the true frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import NoFaceError
from ..signals.track import detect_face, track_faces
from .correlation import pearson
from .protocol import STATIC, TRUE, Identity, Reference, measure, still_track, with_looks, with_truth
from .redetection import MEASURES
from .report import Run
from .score import Score
from .video import MeasuredVideo, whole_frame

POOLED = "all frames pooled"
FPS = 25.0  # shards do not say; the detector wants timestamps that rise


@dataclass(frozen=True, kw_only=True)
class HeldoutClip:
    """Decoded pictures of one clip, uint8 RGB: source (R, R, 3), true frames and result (T, R, R, 3)."""

    name: str
    source: np.ndarray
    truth: np.ndarray
    result: np.ndarray
    details: dict[str, Any] = field(default_factory=dict)


def evaluate_clip(clip: HeldoutClip, identity: Identity | None = None, segment_length: int | None = None) -> list[Run]:
    """The rows of the result, of the source held still and of the true frames themselves.

    Raises NoFaceError if source or true frames show no face that the detector finds: such a clip measures nothing.
    """
    try:
        portrait = detect_face(clip.source)
        track = track_faces(clip.truth, FPS, smoothing=None)
    except NoFaceError as error:
        raise NoFaceError(f"{clip.name}: {error}") from error
    crop = whole_frame(clip.truth.shape[1], clip.truth.shape[1])
    against = Reference(
        driver=track, fps=FPS, cross=False, identity=identity or Identity(), segment_length=segment_length
    )
    against = with_looks(against, clip.source, portrait)
    truth = MeasuredVideo(clip.truth, crop)
    against = with_truth(against, truth, track)
    still = MeasuredVideo([clip.source] * len(clip.truth), crop)
    result = measure(clip.name, MeasuredVideo(clip.result, crop), against)
    return [
        Run(name=result.name, scores=result.scores, checks=result.checks, details={**result.details, **clip.details}),
        measure(clip.name, still, against, method=STATIC, track=still_track(portrait, len(clip.truth))),
        measure(clip.name, truth, against, method=TRUE, track=track),
    ]


def pool(runs: Sequence[Run]) -> Run:
    """Correlations over the frames of all results together: poses that differ between clips count, too.

    Where a clip is short or hardly moves, its own correlation is mostly the detector's noise; this one is not.
    """
    scores = {}
    for m in MEASURES:
        pairs = [_pairs(run, m.name) for run in runs if not run.method]
        driver, result = np.concatenate([np.zeros((2, 0)), *pairs], axis=1)
        value = float(pearson(driver, result)) if len(driver) > 1 else np.nan
        scores[m.name] = Score.missing("nothing to correlate") if np.isnan(value) else Score.of(value)
    return Run(name="all", scores=scores, method=POOLED)


def _pairs(run: Run, name: str) -> np.ndarray:
    """(2, n) values of driver and result in the frames that have both."""
    series = run.details["series"]
    driver, result = (np.array(series.get(f"{who} {name}", []), float) for who in ("driver", "result"))
    length = min(len(driver), len(result))
    both = np.stack([driver[:length], result[:length]])
    return both[:, np.isfinite(both).all(0)]
