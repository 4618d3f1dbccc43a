"""Which of several faces is meant, and following it by overlap through gaps."""

from dataclasses import dataclass, field

import numpy as np

from ..errors import NoFaceError, UserError
from .detector import Detection, overlap

MIN_OVERLAP = 0.2


@dataclass
class _Tracklet:
    """Detections that overlap from sighting to sighting."""

    faces: dict[int, Detection] = field(default_factory=dict)

    @property
    def last(self) -> Detection:
        return self.faces[max(self.faces)]

    @property
    def weight(self) -> float:
        """Area summed over time: large and long-lived faces matter most."""
        return sum(face.area for face in self.faces.values())


def check_select(select: str) -> None:
    """Raise UserError for a selection that means nothing."""
    if select not in ("largest", "left", "right") and not select.isdecimal():
        raise UserError(
            f"unknown face selection {select!r}; use largest, left, right or a number from the left (0, 1, ..)"
        )


def follow_face(faces: list[list[Detection]], select: str) -> list[Detection | None]:
    """The selected person's detection in each frame, or None. Raises NoFaceError if the number asked for is not there.

    Faces are linked by overlap. Sightings that are not linked (the head left and came back elsewhere) belong to the
    same person if they never occur at the same time.
    """
    tracklets = _link(faces)
    chosen = [_selected(faces, tracklets, select)]
    seen = dict(chosen[0].faces)
    for other in sorted(tracklets, key=lambda t: -t.weight):
        if seen.keys().isdisjoint(other.faces):
            seen.update(other.faces)
    return [seen.get(t) for t in range(len(faces))]


def _link(faces: list[list[Detection]]) -> list[_Tracklet]:
    tracklets: list[_Tracklet] = []
    for t, found in enumerate(faces):
        pairs = [(overlap(k.last.box, f.box), i, j) for i, k in enumerate(tracklets) for j, f in enumerate(found)]
        free_tracks, free_faces = set(range(len(tracklets))), set(range(len(found)))
        for shared, i, j in sorted(pairs, reverse=True):
            if shared >= MIN_OVERLAP and i in free_tracks and j in free_faces:
                tracklets[i].faces[t] = found[j]
                free_tracks.remove(i)
                free_faces.remove(j)
        tracklets += [_Tracklet({t: found[j]}) for j in sorted(free_faces)]
    return tracklets


def _selected(faces: list[list[Detection]], tracklets: list[_Tracklet], select: str) -> _Tracklet:
    if select == "largest":
        return max(tracklets, key=lambda t: t.weight)
    crowded = int(np.argmax([len(found) for found in faces]))  # the first frame that shows most faces at once
    row = sorted((t for t in tracklets if crowded in t.faces), key=lambda t: t.faces[crowded].box[[0, 2]].sum())
    if select in ("left", "right"):
        return row[0 if select == "left" else -1]
    if int(select) >= len(row):
        raise NoFaceError(
            f"face number {select} asked for, but at most {len(row)} seen at once; count from 0 at the left"
        )
    return row[int(select)]
