"""The head renderer's loops, pixel by pixel: raster.py and shading.py to be read, and, with numba, the fast path.

Screen coordinates: x right, y down in pixels with pixel centres at .5; depth z grows towards the viewer. A triangle is
seen from the front when it runs counter-clockwise as one sees it; back faces are skipped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numba import njit

    COMPILED = True
else:
    try:
        from numba import njit

        COMPILED = True
    except ImportError:  # numba belongs to the extra "train": without it the loops are for reading and for tests
        COMPILED = False

        def njit(**_):
            """Leave a function as it is."""
            return lambda function: function


BEHIND = np.float32(-1e9)  # depth of empty pixels
SKIN, EYE, MOUTH = 0, 1, 2  # how a triangle is shaded
LEAST_AREA = 1e-4  # square pixels, twice a triangle's area: smaller ones are not drawn


@njit(cache=True, nogil=True)
def rasterise(points, triangles, height, width):
    """Z-buffer. points (V, 3) float32, triangles (F, 3) int32 -> triangle index (H, W) int32 (-1: empty),
    barycentric weights of corners 1 and 2 (H, W, 2), depth (H, W)."""
    index = np.full((height, width), -1, np.int32)
    depth = np.full((height, width), BEHIND, np.float32)
    weights = np.zeros((height, width, 2), np.float32)
    half = np.float32(0.5)
    for f in range(triangles.shape[0]):
        a, b, c = triangles[f, 0], triangles[f, 1], triangles[f, 2]
        x0, y0, x1, y1 = points[a, 0], points[a, 1], points[b, 0], points[b, 1]
        x2, y2 = points[c, 0], points[c, 1]
        area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
        if area >= -LEAST_AREA:
            continue
        left = max(0, int(np.ceil(min(x0, x1, x2) - half)))
        right = min(width - 1, int(np.floor(max(x0, x1, x2) - half)))
        top = max(0, int(np.ceil(min(y0, y1, y2) - half)))
        bottom = min(height - 1, int(np.floor(max(y0, y1, y2) - half)))
        inverse = np.float32(1.0) / area
        for y in range(top, bottom + 1):
            py = np.float32(y) + half
            for x in range(left, right + 1):
                px = np.float32(x) + half
                w1 = ((px - x0) * (y2 - y0) - (x2 - x0) * (py - y0)) * inverse
                w2 = ((x1 - x0) * (py - y0) - (px - x0) * (y1 - y0)) * inverse
                w0 = np.float32(1.0) - w1 - w2
                if w0 < 0 or w1 < 0 or w2 < 0:
                    continue
                z = w0 * points[a, 2] + w1 * points[b, 2] + w2 * points[c, 2]
                if z > depth[y, x]:
                    depth[y, x] = z
                    index[y, x] = f
                    weights[y, x, 0] = w1
                    weights[y, x, 1] = w2
    return index, weights, depth


@njit(cache=True, nogil=True)
def vertex_normals(points, triangles):
    """Unit normals (V, 3), area weighted; z towards the viewer for front faces of screen points."""
    normals = np.zeros_like(points)
    for f in range(triangles.shape[0]):
        a, b, c = triangles[f, 0], triangles[f, 1], triangles[f, 2]
        ux, uy, uz = points[b, 0] - points[a, 0], points[b, 1] - points[a, 1], points[b, 2] - points[a, 2]
        vx, vy, vz = points[c, 0] - points[a, 0], points[c, 1] - points[a, 1], points[c, 2] - points[a, 2]
        nx, ny, nz = uz * vy - uy * vz, ux * vz - uz * vx, uy * vx - ux * vy
        for k in (a, b, c):
            normals[k, 0] += nx
            normals[k, 1] += ny
            normals[k, 2] += nz
    for i in range(normals.shape[0]):
        length = np.sqrt(normals[i, 0] ** 2 + normals[i, 1] ** 2 + normals[i, 2] ** 2) + 1e-12
        normals[i] /= length
    return normals


@njit(cache=True, nogil=True)
def fill_colours(colours, weights, edges, rounds):
    """Spread trusted vertex colours over the mesh: (V, 3) colours with trust (V,) in 0..1, edges (E, 2).

    Each round every vertex becomes weight * its own colour + (1 - weight) * mean of its neighbours.
    """
    known = colours.copy()
    current = colours.copy()
    count = np.zeros(colours.shape[0], np.float32)
    for e in range(edges.shape[0]):
        count[edges[e, 0]] += 1
        count[edges[e, 1]] += 1
    for _ in range(rounds):
        total = np.zeros_like(current)
        for e in range(edges.shape[0]):
            a, b = edges[e, 0], edges[e, 1]
            for k in range(3):
                total[a, k] += current[b, k]
                total[b, k] += current[a, k]
        for i in range(current.shape[0]):
            if count[i] > 0:
                for k in range(3):
                    current[i, k] = weights[i] * known[i, k] + (1 - weights[i]) * total[i, k] / count[i]
    return current


@njit(cache=True, nogil=True)
def _sample(image, x, y, k):
    height, width = image.shape[0], image.shape[1]
    x = min(max(x - 0.5, 0.0), width - 1.001)
    y = min(max(y - 0.5, 0.0), height - 1.001)
    j, i = int(x), int(y)
    fx, fy = x - j, y - i
    top = image[i, j, k] * (1 - fx) + image[i, j + 1, k] * fx
    low = image[i + 1, j, k] * (1 - fx) + image[i + 1, j + 1, k] * fx
    return top * (1 - fy) + low * fy


@njit(cache=True, nogil=True)
def _ramp(low, high, value):
    t = min(max((value - low) / (high - low), 0.0), 1.0)
    return t * t * (3 - 2 * t)


@njit(cache=True, nogil=True)
def _eye_colour(dx, dy, dz, angle, palette, k):
    """Sclera, iris, pupil by the angle (radians) off the optical axis; shade of the upper lid; a highlight."""
    colour = palette[0, k] + (palette[1, k] * 0.55 - palette[0, k]) * _ramp(0.43, 0.37, angle)
    colour += palette[1, k] * 0.45 * _ramp(0.38, 0.30, angle)
    colour += (palette[2, k] - colour) * _ramp(0.18, 0.13, angle)
    colour *= 1 - 0.45 * _ramp(0.0, 0.45, -dy) - 0.12 * _ramp(0.2, 0.7, abs(dx))
    glint = (dx + 0.16) ** 2 + (dy + 0.20) ** 2
    return colour + (235.0 - colour) * 0.8 * _ramp(0.012, 0.004, glint) * (dz > 0)


@njit(cache=True, nogil=True)
def _lighten(value, factor):
    """value * factor, but what is bright already is brightened less, so that nothing burns white."""
    room = 1 - min(max(value / 255.0, 0.0), 1.0) if factor > 1 else 1.0
    return value * (1 + (factor - 1) * room)


@njit(cache=True, nogil=True)
def shade(index, weights, triangles, shading, photo, photo_xy, trust, colours, light, alpha, eye, palette):
    """Colours of a rasterised head: the photo seen through the mesh, filled colours where the photo is not trusted.

    Args:
        index, weights: from `rasterise`. triangles (F, 3); shading (F,) SKIN, EYE or MOUTH.
        photo: (h, w, 3) float32. photo_xy (V, 2): where a vertex lies in the photo; trust (V,) in 0..1, of eyes and
            mouth as of skin: 0 paints them.
        colours (V, 3): filled colours; light (V,): factor on skin; alpha (V,): opacity of skin.
        eye (V, 4): screen direction from the centre of the eyeball and the angle off its axis.
        palette (3, 3): colours of sclera, iris and pupil.

    Returns:
        (H, W, 5) float32: colour not multiplied by alpha; alpha; how far it is the photo, both in 0..1.
    """
    height, width = index.shape
    out = np.zeros((height, width, 5), np.float32)
    for y in range(height):
        for x in range(width):
            f = index[y, x]
            if f < 0:
                continue
            a, b, c = triangles[f, 0], triangles[f, 1], triangles[f, 2]
            w1, w2 = weights[y, x, 0], weights[y, x, 1]
            w0 = 1 - w1 - w2
            out[y, x, 3] = 1
            sure, lit = w0 * trust[a] + w1 * trust[b] + w2 * trust[c], 1.0
            if shading[f] == SKIN:
                out[y, x, 3] = w0 * alpha[a] + w1 * alpha[b] + w2 * alpha[c]
                lit = w0 * light[a] + w1 * light[b] + w2 * light[c]
            out[y, x, 4] = sure
            dx, dy, dz, angle = 0.0, 0.0, 0.0, 0.0
            if shading[f] == EYE:
                dx = w0 * eye[a, 0] + w1 * eye[b, 0] + w2 * eye[c, 0]
                dy = w0 * eye[a, 1] + w1 * eye[b, 1] + w2 * eye[c, 1]
                dz = w0 * eye[a, 2] + w1 * eye[b, 2] + w2 * eye[c, 2]
                angle = w0 * eye[a, 3] + w1 * eye[b, 3] + w2 * eye[c, 3]
            px = w0 * photo_xy[a, 0] + w1 * photo_xy[b, 0] + w2 * photo_xy[c, 0]
            py = w0 * photo_xy[a, 1] + w1 * photo_xy[b, 1] + w2 * photo_xy[c, 1]
            for k in range(3):
                if shading[f] == EYE:
                    value = _eye_colour(dx, dy, dz, angle, palette, k)
                else:
                    value = w0 * colours[a, k] + w1 * colours[b, k] + w2 * colours[c, k]
                if sure > 0:
                    value = sure * _sample(photo, px, py, k) + (1 - sure) * value
                out[y, x, k] = _lighten(value, lit)
    return out
