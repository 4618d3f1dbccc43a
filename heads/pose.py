"""A portrait on the bundled 3D head, posed over a driver's face: the draft, and the model's posed source.

The head is drawn in the square that the crop rule cuts out of the driver's frames, so that posed source, masked driver
and result lie in one place.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, islice
from typing import Literal

import numpy as np

from ..errors import NoFaceError
from ..signals.track import FaceTrack
from .drive import fit_face
from .face_motion import FaceMotion, fit_motion
from .landmarks import load_bundled
from .motion import Motion
from .on_head import on_head
from .scene import (
    Portrait,
    Rig,
    Subject,
    base_affine,
    draw_frames,
    make_portrait,
    move_head,
    restore_portrait,
)
from .solve import FaceBasis, face_basis
from .texture import anatomy
from .threads import in_order

MOST_TURNED = 45.0  # degrees: a photo shows too little of a head turned further
AT_ONCE = 8  # frames whose vertices are in memory together


@dataclass(frozen=True)
class PosedFrame:
    """One frame: picture (size, size, 3) uint8; known (size, size) uint8, 255 where it is what the photo shows."""

    picture: np.ndarray
    known: np.ndarray


@lru_cache(maxsize=4)
def open_rig(size: int, crop_scale: float) -> tuple[Rig, FaceBasis]:
    """The bundled head, ready to be drawn in squares of `size` pixels."""
    model, table = load_bundled()
    return Rig(model, table, anatomy(model, table), size, crop_scale), face_basis(model, table)


class PosedPortrait:
    """A portrait that any driver can pose.

    Args:
        picture: (H, W, 3) uint8.
        face: the portrait's face, one frame.
        size, crop_scale: side of the squares in pixels, and how much wider than the face they are.

    Raises NoFaceError if the portrait shows too much of a profile.
    """

    def __init__(self, picture: np.ndarray, face: FaceTrack, size: int, crop_scale: float) -> None:
        check_turn(abs(float(face.euler[0, 0])))
        self.rig, self.basis = open_rig(size, crop_scale)
        first = make_portrait(self.rig, "portrait", picture, face)
        fit = fit_face(self.basis, first.landmarks, face.blendshapes[0])
        check_turn(abs(fit.camera.yaw))  # the detector sees but 5 sixths of it
        portrait: Portrait = restore_portrait(self.rig, "portrait", first.canvas, first.landmarks, fit, first.frame)
        self.subject = Subject(portrait, portrait, portrait.skin, self.rig.model.person(fit.identity))

    def pose(
        self,
        landmarks: np.ndarray,
        blendshapes: np.ndarray,
        mode: Literal["absolute", "relative"] = "absolute",
        reference: int = 0,
        first: int = 0,
        last: int | None = None,
    ) -> Iterator[PosedFrame]:
        """The portrait's head over a driver's face, frame by frame.

        Args:
            landmarks: (T, 478, 3) of the driver, pixels of its square.
            blendshapes: (T, 52) as in FaceTrack.
            mode, reference: the driver's own motion, or its change since a frame, as in `heads.on_head`.
            first, last: frames to begin and to end before (None: all); the others are fitted, and not given.
        """
        moves = fit_motion(self.basis, landmarks, blendshapes, self.rig.size)
        yield from self.perform(moves, mode, reference, first, last)

    def perform(
        self,
        moves: FaceMotion,
        mode: Literal["absolute", "relative"] = "absolute",
        reference: int = 0,
        first: int = 0,
        last: int | None = None,
    ) -> Iterator[PosedFrame]:
        """The portrait's head making a motion, edits included; arguments as in `lay` and `draw`."""
        yield from self.draw(self.lay(moves, mode, reference), first, last)

    def lay(self, moves: FaceMotion, mode: Literal["absolute", "relative"] = "absolute", reference: int = 0) -> Motion:
        """The motion as this portrait's head makes it, edits included; arguments as in `heads.on_head`."""
        return on_head(self.basis, moves, self.subject.place.fit, self.rig.fine, mode, reference)

    def draw(self, motion: Motion, first: int = 0, last: int | None = None) -> Iterator[PosedFrame]:
        """The frames of a motion from `lay`, from `first` on and before `last` (None: to the end).

        Several threads draw, AT_ONCE frames each; a frame comes out the same wherever one begins or ends, to the bit.
        """
        affine = base_affine(self.rig)
        end = len(motion) if last is None else min(last, len(motion))
        begin = first // AT_ONCE * AT_ONCE
        parts = [motion[start : start + AT_ONCE] for start in range(begin, end, AT_ONCE)]
        drawn = chain.from_iterable(in_order(lambda part: self._draw(part, affine), parts))
        yield from islice(drawn, first - begin, end - begin)

    def draw_one(self, motion: Motion, number: int) -> PosedFrame:
        """One frame of a motion from `lay`, by this thread alone."""
        return self._draw(motion[number : number + 1], base_affine(self.rig))[0]

    def _draw(self, motion: Motion, affine: np.ndarray) -> list[PosedFrame]:
        drawn = draw_frames(self.rig, self.subject, move_head(self.rig, self.subject, motion), affine)
        return [PosedFrame(_to_uint8(picture), _to_uint8(255 * known)) for picture, known in drawn]


def check_turn(yaw: float) -> None:
    """Raises NoFaceError if a portrait is turned by too many degrees."""
    if yaw > MOST_TURNED:
        raise NoFaceError(
            f"the portrait is turned by {yaw:.0f} degrees, and at most {MOST_TURNED:.0f} work: "
            "use a picture in which both eyes are seen"
        )


def _to_uint8(values: np.ndarray) -> np.ndarray:
    return values.round().clip(0, 255).astype(np.uint8)
