"""Does every slider do what it says, and nothing else? Each control against each measure, found anew in pictures.

    python scripts/effects.py                                             # the bundled portraits and clips
    python scripts/effects.py --portraits A.jpg B.jpg ... --clips C.mp4 ...

The clips say how far each control and each measure goes in life: their natural spans (5th to 95th percentile, counted
from each clip's median). Of every portrait two pictures are drawn that differ by one such span of one control; the face
is found in both. A cell is the change of a measure in its natural spans: 1 on the diagonal is exactly what was asked.
One unit of the controls in UNIT is a natural span of their measure. The column "head" is the same change read off the
drawn head's own landmarks: what it lacks to 1 is the slider's fault, what the diagonal lacks to it is the detector's.
Printed are medians over the portraits with 95 % intervals (sign test), for which six portraits are the fewest.

The detector's blendshapes hardly fire on drawn brows, pursed lips and jaws, though they move, and its head matrix reads
a smile as a nod. So these are measured by landmarks, in the frame of the points that no expression moves (RIGID).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import typer
from svdp.evaluation.ceiling import known_track
from svdp.evaluation.redetection import MEASURES
from svdp.evaluation.score import Score, median_score
from svdp.heads.controls import CONTROLS, NUMBER, Edit, pairs_of
from svdp.heads.face_motion import FaceMotion, edit, fit_motion, joined, still
from svdp.heads.fit import align
from svdp.heads.pose import PosedPortrait, open_rig
from svdp.heads.solve import euler_angles, y_up
from svdp.signals.crops import CropConfig, crop_track, face_frame, plan_crop
from svdp.signals.images import load_image
from svdp.signals.track import FaceFinder, FaceTrack, detect_face, link_faces, track_faces
from svdp.signals.video import VideoReader

EXAMPLES = Path(__file__).resolve().parents[1] / "assets" / "examples"
SCALE = 1.7
UNIT = ("brows", "pucker", "jaw")  # one unit of these controls is a natural span of their measure
RIGID = (33, 133, 362, 263, 168, 6, 197, 195, 5, 127, 356, 234, 454, 93, 323)  # corners of the eyes, nose, ears
BRIDGE, UPPER, LOWER, CORNERS = 168, 13, 14, (61, 291)
BROWS = (70, 63, 105, 66, 107, 300, 293, 334, 296, 336)
SMILE_WIDENS = 1.67  # by how much a smile of the bundled head widens the mouth for each rise of its corners
COUPLED = {  # pairs that belong together in a face, and why
    ("pitch", "up"): "the face nods about the neck",
    ("yaw", "right"): "the face turns about the neck",
    ("roll", "right"): "the face tilts about the neck",
    ("zoom", "up"): "the head grows about the neck",
    ("gaze_up", "lids"): "the lids follow the eyes",
    ("lids", "gaze_up"): "the detector reads gaze off the lids",
    ("lids", "brows"): "the detector lowers the brows of closed eyes",
    ("brows", "zoom"): "the detector moves the forehead along with the brows",
}


def _turns(track: FaceTrack) -> np.ndarray:
    """(T, 3, 3) rotation of the head by RIGID alone."""
    points, trust = open_rig(256, SCALE)[1].neutral[list(RIGID)], np.ones(len(RIGID))
    return np.stack([align(points, seen, trust).rotation for seen in y_up(track.landmarks[:, RIGID])])


def _angle(number: int) -> Callable[[FaceTrack], np.ndarray]:
    """Yaw, pitch or roll by RIGID: the detector's own matrix counts mouth and cheeks in."""
    return lambda track: euler_angles(_turns(track))[:, number]


def _points(track: FaceTrack) -> np.ndarray:
    """(T, 478, 3) landmarks in the head's frame from the nose's bridge: right, up, forward in distances of the eyes."""
    seen = y_up(track.landmarks - track.landmarks[:, BRIDGE, None])
    return np.einsum("tij,tni->tnj", _turns(track), seen) / track.eye_distance[:, None, None]


def _brows(track: FaceTrack) -> np.ndarray:
    """(T,) height of the brows. The brow blendshapes hardly fire on drawn faces: a third of what is drawn."""
    return _points(track)[:, BROWS, 1].mean(1)


def _smile(track: FaceTrack) -> np.ndarray:
    """(T,) height of the mouth's corners above its middle, which is taken where an opening mouth leaves it alone."""
    points = _points(track)
    return points[:, CORNERS, 1].mean(1) - (2 * points[:, UPPER, 1] + points[:, LOWER, 1]) / 3


def _pucker(track: FaceTrack) -> np.ndarray:
    """(T,) how much narrower the mouth is than its smile explains; the blendshape sees a fifth of what is drawn."""
    points = _points(track)
    return SMILE_WIDENS * _smile(track) - (points[:, CORNERS[1], 0] - points[:, CORNERS[0], 0])


def _jaw(track: FaceTrack) -> np.ndarray:
    """(T,) the mouth's corners towards the picture's right. They go along with the jaw.

    The blendshapes jawLeft and jawRight never fire, and of the chin's way the detector follows a third.
    """
    return _points(track)[:, CORNERS, 0].mean(1)


_KNOWN = {measure.name: measure.read for measure in MEASURES}
READ: dict[str, Callable[[FaceTrack], np.ndarray]] = {
    **{name: _angle(number) for number, name in enumerate(("yaw", "pitch", "roll"))},
    **{name: _KNOWN[name] for name in ("gaze_sideways", "gaze_up")},
    "right": lambda track: face_frame(track.landmarks)[0][:, 0] / track.image_size[1],
    "up": lambda track: -face_frame(track.landmarks)[0][:, 1] / track.image_size[0],
    "zoom": lambda track: np.log(face_frame(track.landmarks)[1]),
    "lids": lambda track: -_KNOWN["blink"](track),
    "brows": _brows,
    "mouth": _KNOWN["mouth_open"],
    "smile": _smile,
    "pucker": _pucker,
    "jaw": _jaw,
}
NAMES = tuple(control.name for control in CONTROLS if control.name in READ)
ALIKE = ("yaw", "pitch", "roll", "right", "up", "zoom")  # control and measure are of one unit


@dataclass(frozen=True)
class Spans:
    """Natural spans by control: of the control's own value, and of its measure."""

    asked: dict[str, float]
    read: dict[str, float]
    start: dict[str, float]  # where the control's own span begins, in spans from a face at rest: -1 is wholly below


def main() -> None:
    """Measure the spans, then the effects; print a table and what misses the mark."""
    options = parse()
    spans = natural_spans(options.clips, options.frames)
    found, drawn = zip(*(effects(path, spans, options.size) for path in options.portraits), strict=True)
    table = {name: {m: median_score([_score(c[name][m]) for c in found]) for m in NAMES} for name in NAMES}
    typer.echo(f"{len(options.portraits)} portraits, {len(options.clips)} clips, {options.size} px")
    typer.echo(f"| control | measure's span | asked | head | {' | '.join(NAMES)} |\n|---|{'---:|' * (len(NAMES) + 3)}")
    for name, row in table.items():
        shown = [f"**{s.value:.2f}**" if m == name else f"{s.value:.2f}" for m, s in row.items()]
        start, wide = first(name, spans), ask(name, spans)
        asked = f"{start:.2f} to {start + wide:.2f}"
        head = f"{np.median([d[name] for d in drawn]):.2f}"
        typer.echo(f"| {name} | {spans.read[name]:.3g} | {asked} | {head} | {' | '.join(shown)} |")
    for name in NAMES:
        for measure, score in table[name].items():
            missed = score.value < 0.5 if measure == name else abs(score.value) > 0.25
            if missed or measure == name:
                why = COUPLED.get((name, measure), "")
                told = f"{name} in {measure}: {score.value:.2f} [{score.low:.2f}, {score.high:.2f}]"
                typer.echo(told + (f" MISSED {why and '(coupled: ' + why + ')'}" if missed else ""))


def parse() -> argparse.Namespace:
    """Options of the script."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--portraits", type=Path, nargs="+", default=sorted(EXAMPLES.glob("*.jpg")))
    parser.add_argument("--clips", type=Path, nargs="+", default=sorted(EXAMPLES.glob("*.mp4")))
    parser.add_argument("--frames", type=int, default=150, help="of a clip, at most")
    parser.add_argument("--size", type=int, default=256, help="pixels of the pictures")
    return parser.parse_args()


def natural_spans(clips: list[Path], frames: int) -> Spans:
    """How far controls and measures go in clips."""
    values: dict[str, list[np.ndarray]] = {name: [] for name in NAMES}
    reads: dict[str, list[np.ndarray]] = {name: [] for name in NAMES}
    rule = CropConfig(size=256, scale=SCALE)
    for path in clips:
        reader = VideoReader(path, max_frames=frames)
        track = track_faces(reader, float(reader.info.fps), smoothing=None)
        track = crop_track(track, plan_crop(track, rule))
        _, basis = open_rig(rule.size, SCALE)
        motion = fit_motion(basis, track.landmarks, track.blendshapes, rule.size)
        for name in NAMES:
            read = READ[name](track)
            value = read if name in ALIKE else control_value(motion, name)
            reads[name].append(read[track.present])
            values[name].append(value[track.present])
    asked, read = ({name: _span(_centred(rows[name])) for name in NAMES} for rows in (values, reads))
    start = {name: -0.5 if name in ALIKE else _start(values[name]) for name in NAMES}
    return Spans(asked, read, start)


def control_value(motion: FaceMotion, name: str) -> np.ndarray:
    """(T,) a control's value in a motion, in the unit of its weights; 0 is a face at rest."""
    if name == "lids":
        return motion.lids.mean(1) - 1
    zero = np.zeros(len(motion), np.float32)
    pairs = list(pairs_of(CONTROLS[NUMBER[name]], motion.names))
    each = [
        (zero if more is None else motion.expression[:, more]) - (zero if less is None else motion.expression[:, less])
        for more, less, _ in pairs
    ]
    return np.mean(each, axis=0)


def ask(name: str, spans: Spans) -> float:
    """By how much two pictures differ, in the unit of the control's offsets."""
    return 1.0 if name in UNIT else min(spans.asked[name], CONTROLS[NUMBER[name]].limit)


def first(name: str, spans: Spans) -> float:
    """The offset of the first of the two pictures."""
    return float(np.clip(spans.start[name], -1, 0)) * ask(name, spans)


def effects(path: Path, spans: Spans, size: int) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """What one natural span of each control does to one portrait, in natural spans of the measures.

    Returns:
        control -> measure -> change that is found in the pictures, nan without a face; and
        control -> change of its own measure on the head that is drawn.
    """
    picture = load_image(path)
    head = PosedPortrait(picture, detect_face(picture), size, SCALE)
    both = []
    for name in NAMES:
        low = first(name, spans)
        both += [Edit(name, offset=low), Edit(name, offset=low + ask(name, spans))]
    motion = head.lay(joined([edit(still(head.basis.names), [change]) for change in both]))
    known = known_track(head, motion)
    with FaceFinder("image") as detector:
        found = [detector.detect(frame.picture) for frame in head.draw(motion)]
    table, drawn = {}, {}
    for n, name in enumerate(NAMES):
        pair, share = found[2 * n : 2 * n + 2], 1.0 if name in UNIT else spans.asked[name] / ask(name, spans)
        drawn[name] = share * float(np.diff(READ[name](known[2 * n : 2 * n + 2]))[0]) / spans.read[name]
        table[name] = dict.fromkeys(NAMES, float("nan"))
        if all(pair):
            track = link_faces(pair, (size, size), 25.0, smoothing=None)
            table[name] = {m: share * float(np.diff(READ[m](track))[0]) / spans.read[m] for m in NAMES}
    return table, drawn


def _centred(rows: list[np.ndarray]) -> np.ndarray:
    """All clips' frames, counted from each clip's median."""
    return np.concatenate([row - np.median(row) for row in rows])


def _start(rows: list[np.ndarray]) -> float:
    """Where the span of a control lies about a face at rest: by the frames of all clips as they are."""
    low, high = np.percentile(np.concatenate(rows), [5, 95])
    return float(low / (high - low))


def _span(values: np.ndarray) -> float:
    return float(np.subtract(*np.percentile(values, [95, 5])))


def _score(value: float) -> Score:
    """A face that is not found again has no effect on its own measure: it counts as 0."""
    return Score.of(value) if np.isfinite(value) else Score.missing("no face", 0.0)


if __name__ == "__main__":
    main()
