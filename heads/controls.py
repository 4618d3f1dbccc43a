"""The dials of a face: what a person may change of a motion, which weights belong to each, and edits in words.

Every weight of the head belongs to one control, so that all strengths at 0 leave the portrait as it is. A control's
value moves from the portrait's own, s, to the motion's, m: s + strength * (m - s) + offset.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from ..errors import UserError


@dataclass(frozen=True)
class Control:
    """One dial.

    weights: stems of the expression weights whose strength it is. pairs: weights that an offset moves, one side's or
    both (`_*`): what grows with a positive offset, what with a negative one, and by how much.
    """

    name: str
    unit: str  # of an offset
    limit: float  # offsets beyond +- this are refused
    effect: str  # of a positive offset
    weights: tuple[str, ...] = ()
    pairs: tuple[tuple[str, str, float], ...] = ()


DEGREES, SHARE, WHOLE, SPANS = "degrees", "share of the square's side", "whole expressions", "natural spans"
# Weights that move the head's own landmarks by a natural span: how far they go in life, 5th to 95th percentile of 11
# clips (column "head" of scripts/effects.py with weights of 1, 12 portraits).
BROWS, PUCKER, JAW = 1.16, 1.11, 1.18
CONTROLS = (
    Control("yaw", DEGREES, 45, "the head turns to the picture's right"),
    Control("pitch", DEGREES, 30, "the head nods down"),
    Control("roll", DEGREES, 45, "the head tilts to the picture's left"),
    Control("right", SHARE, 1, "the head moves to the picture's right"),
    Control("up", SHARE, 1, "the head moves up"),
    Control("zoom", "logarithm of the size", 1, "the head grows"),
    Control(
        "gaze_sideways",
        WHOLE,
        1,
        "the eyes look to the picture's right",
        ("eyeLookIn", "eyeLookOut"),
        (("eyeLookOut_L", "eyeLookIn_L", 1), ("eyeLookIn_R", "eyeLookOut_R", 1)),
    ),
    Control(
        "gaze_up", WHOLE, 1, "the eyes look up", ("eyeLookUp", "eyeLookDown"), (("eyeLookUp_*", "eyeLookDown_*", 1),)
    ),
    Control(
        "lids",
        "openings at rest",
        1,
        "the eyes open; -1 closes them",
        ("eyeBlink", "eyeWide", "eyeSquint"),
        (("eyeWide_*", "eyeBlink_*", 1),),
    ),
    Control(
        "brows",
        SPANS,
        1,
        "the brows rise; below 0 they frown",
        ("browInnerUp", "browOuterUp", "browDown"),
        (("browInnerUp_*", "browDown_*", BROWS), ("browOuterUp_*", "", BROWS)),
    ),
    Control(
        "mouth",
        WHOLE,
        1,
        "the mouth opens; below 0 it closes",
        (
            "jawOpen",
            "mouthClose",
            "mouthLowerDown",
            "mouthUpperUp",
            "mouthRollLower",
            "mouthRollUpper",
            "mouthShrugLower",
            "mouthShrugUpper",
            "mouthPress",
        ),
        (("jawOpen", "", 1),),
    ),
    Control(
        "smile",
        WHOLE,
        1,
        "a smile; below 0 the corners of the mouth fall",
        ("mouthSmile", "mouthFrown", "mouthDimple", "cheekSquint"),
        (("mouthSmile_*", "mouthFrown_*", 1),),
    ),
    Control(
        "pucker",
        SPANS,
        1,
        "the lips are pursed; below 0 they are stretched",
        ("mouthPucker", "mouthFunnel", "mouthStretch"),
        (("mouthPucker", "", PUCKER), ("", "mouthStretch_*", PUCKER)),
    ),
    Control(
        "jaw",
        SPANS,
        1,
        "the jaw moves to the picture's right",
        ("jawLeft", "jawRight", "jawForward", "mouthLeft", "mouthRight"),
        (("jawLeft", "jawRight", JAW),),
    ),
    Control("rest", WHOLE, 0, "strength only: cheeks and nose", ("cheekPuff", "noseSneer")),
)
NAMES = tuple(control.name for control in CONTROLS)
NUMBER = {name: number for number, name in enumerate(NAMES)}
PARTS = {  # names for several controls; eyes, mouth and head are all of them
    "eyes": ("gaze_sideways", "gaze_up", "lids", "brows"),
    "mouth_all": ("mouth", "smile", "pucker", "jaw", "rest"),
    "head": ("yaw", "pitch", "roll", "right", "up", "zoom"),
}
PARTS["expression"] = PARTS["eyes"] + PARTS["mouth_all"]
PARTS["gaze"] = ("gaze_sideways", "gaze_up")
PARTS["all"] = NAMES
MOST_STRENGTH = 3.0
_EDIT = re.compile(r"\s*([a-z_]+)\s*([=*@])\s*(\S+)\s*")


@dataclass(frozen=True)
class Edit:
    """One change of one control: `strength` and `offset` as above; `held`: the frame whose value is kept throughout."""

    control: str
    strength: float = 1.0
    offset: float = 0.0
    held: int | None = None

    def __post_init__(self) -> None:
        if self.control not in NUMBER:
            raise UserError(f"unknown control {self.control!r}: choose among {', '.join((*NAMES, *PARTS))}")
        limit = CONTROLS[NUMBER[self.control]].limit
        if not abs(self.offset) <= limit:  # not a number, too
            raise UserError(f"{self.control}={self.offset:g} is out of range: choose from -{limit:g} to {limit:g}")
        if not 0 <= self.strength <= MOST_STRENGTH:
            raise UserError(f"{self.control}*{self.strength:g} is out of range: choose from 0 to {MOST_STRENGTH:g}")
        if self.held is not None and self.held < 0:
            raise UserError(f"{self.control}@{self.held}: frames are counted from 0")


def parse_edits(text: str) -> tuple[Edit, ...]:
    """ "smile=0.5, yaw*0.5, head@0": offsets, strengths, and frames at which a control is frozen, by comma.

    Names are those of CONTROLS, and of PARTS for several at once (an offset names one). Raises UserError.
    """
    edits: list[Edit] = []
    for part in filter(str.strip, text.split(",")):
        found = _EDIT.fullmatch(part)
        if found is None:
            raise UserError(f"cannot read the edit {part.strip()!r}: write smile=0.5, yaw*0.5 or head@0")
        name, sign, value = found.groups()
        names = (name,) if name in NUMBER else PARTS.get(name, (name,))
        if sign == "=" and len(names) > 1:
            raise UserError(f"{part.strip()}: an offset moves one control, choose among {', '.join(names)}")
        edits += [_edit(each, sign, value, part.strip()) for each in names]
    return tuple(edits)


def _edit(name: str, sign: str, value: str, said: str) -> Edit:
    try:
        number = int(value) if sign == "@" else float(value)
    except ValueError as error:
        wanted = "a frame's number" if sign == "@" else "a number"
        raise UserError(f"{said}: {value!r} is not {wanted}") from error
    if not math.isfinite(number):
        raise UserError(f"{said}: {value!r} is not a finite number")
    if sign == "@":
        return Edit(name, held=int(number))
    return Edit(name, offset=number) if sign == "=" else Edit(name, strength=number)


def weights_of(control: Control, names: tuple[str, ...]) -> list[int]:
    """Numbers of the weights in `names` whose strength the control is."""
    return [n for n, name in enumerate(names) if name.split("_")[0] in control.weights]


def pairs_of(control: Control, names: tuple[str, ...]) -> Iterable[tuple[int | None, int | None, float]]:
    """Numbers in `names` of the weights that grow with a positive and with a negative offset, and by how much."""
    for more, less, amount in control.pairs:
        for side in "LR" if "*" in more + less else "L":
            found = [names.index(name.replace("*", side)) if name else None for name in (more, less)]
            yield found[0], found[1], amount
