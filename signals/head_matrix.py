"""The head's pose from its 478 points: MediaPipe's face geometry, in NumPy.

A canonical head with a weight for some of its points is laid over the points by the best similarity transform
(weighted Procrustes analysis). Points on the screen are first put into space by a pinhole camera, twice, since their
depth is known only up to the scale that is looked for.
"""

import struct
from collections.abc import Iterator
from typing import Any

import numpy as np

FIELD_OF_VIEW = np.radians(63.0)  # vertical, of MediaPipe's default camera
NEAR = 1.0
VERTEX = 5  # x, y, z and two texture coordinates


class HeadGeometry:
    """The canonical head of a FaceLandmarker file: points on a picture in, a head matrix out."""

    def __init__(self, metadata: bytes) -> None:
        """`metadata`: the file geometry_pipeline_metadata_landmarks.binarypb."""
        fields = list(_fields(metadata))
        mesh = next(value for number, value in fields if number == 1)
        vertices = np.array([value for number, value in _fields(mesh) if number == 3], "<f4").reshape(-1, VERTEX)
        self._canonical = vertices[:, :3].astype(np.float64)  # (468, 3)
        self._weights = np.zeros(len(vertices))
        for number, value in fields:
            if number == 2:
                point = dict(_fields(value))
                self._weights[point[1]] = point[2]

    def matrix(self, normalized: np.ndarray, width: int, height: int) -> np.ndarray:
        """(4, 4) float32 that takes the canonical head, in centimetres, to the camera's space.

        normalized: (478, 3) points as shares of the picture's width, height and width.
        """
        screen = normalized[: len(self._canonical)].astype(np.float64)
        near_height = 2 * NEAR * np.tan(FIELD_OF_VIEW / 2)
        near = np.array([near_height * width / height, near_height])
        points = np.concatenate([(screen[:, :2] * (1, -1) + (-0.5, 0.5)) * near, screen[:, 2:] * near[0]], axis=1)
        depth = points[:, 2].mean()
        first = self._scale(points * (1, 1, -1))
        total = first * self._scale(_in_space(points, depth, first))
        return self._solve(_in_space(points, depth, total)).astype(np.float32)

    def _scale(self, points: np.ndarray) -> float:
        return float(np.linalg.norm(self._solve(points)[:3, 0]))

    def _solve(self, targets: np.ndarray) -> np.ndarray:
        """(4, 4): the similarity transform that takes the canonical head to `targets` with the least weighted error."""
        weights = self._weights[:, None] / self._weights.sum()
        sources = self._canonical - (weights * self._canonical).sum(0)
        u, _, vt = np.linalg.svd((weights * targets).T @ sources)
        u[:, 2] *= np.sign(np.linalg.det(u) * np.linalg.det(vt))
        rotation = u @ vt
        scale = (weights * targets * (sources @ rotation.T)).sum() / (weights * sources * sources).sum()
        matrix = np.eye(4)
        matrix[:3, :3] = scale * rotation
        matrix[:3, 3] = (weights * (targets - scale * self._canonical @ rotation.T)).sum(0)
        return matrix


def _in_space(points: np.ndarray, depth: float, scale: float) -> np.ndarray:
    """Points on the near plane, (n, 3), as points in front of the camera, which looks along -z."""
    z = (points[:, 2:] - depth + NEAR) / scale
    return np.concatenate([points[:, :2] * z / NEAR, -z], axis=1)


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Number and value of every field of a protocol buffer message."""
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        kind = key & 7
        if kind == 0:
            value, place = _varint(message, place)
        elif kind == 2:
            length, place = _varint(message, place)
            value, place = message[place : place + length], place + length
        else:  # a 32-bit float: the file has no other kind
            (value,), place = struct.unpack_from("<f", message, place), place + 4
        yield key >> 3, value


def _varint(message: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place
