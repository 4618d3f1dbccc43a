"""How steady a video is, and whether it moves as the true one does: measures on neighbouring frames, by optical flow.

Pictures are (H, W, 3) uint8 RGB of one size; a flow (H, W, 2) float32 is in pixels, x first, and says where each pixel
of the first picture is found in the second.
"""

from __future__ import annotations

import numpy as np

from ..signals.opencv import cv2

# Farnebäck's method with the settings of TecoGAN's published metric, so that numbers can be compared.
_PYRAMID, _LEVELS, _WINDOW, _ITERATIONS, _POLYNOMIAL, _SIGMA = 0.5, 3, 15, 3, 5, 1.2


def tof(result_before: np.ndarray, result: np.ndarray, true_before: np.ndarray, true: np.ndarray) -> float:
    """tOF, in pixels, less is better: how far the result's motion between two frames is from the true motion.

    Mean over pixels of the length of the difference of the two optical flows (Chu et al., "Learning temporal coherence
    via self-supervision for GAN-based video generation" (TecoGAN), ACM TOG 39(4), 2020), flows by Farnebäck 2003. A
    frozen result has the mean length of the true motion.
    """
    difference = farneback_flow(result_before, result) - farneback_flow(true_before, true)
    return float(np.linalg.norm(difference, axis=2).mean())


def warping_error(before: np.ndarray, now: np.ndarray) -> float:
    """E_warp of two neighbouring frames, less is better: what flickers, motion aside (Lai et al., ECCV 2018).

    Mean squared difference, full range 1, of a frame and the next one warped back onto it, over the pixels seen in both
    (`seen_in_both`); nan if there is none. The flow is that of the video itself, by DIS (Kroeger et al. 2016).
    Frozen pictures have 0; motion that the flow explains has nearly 0; brightness that flickers by d has d squared.
    """
    forward, backward = dis_flow(before, now), dis_flow(now, before)
    seen = seen_in_both(forward, backward)
    if not seen.any():
        return float("nan")
    difference = before.astype(np.float32) - warp(now, forward).astype(np.float32)
    return float((difference[seen] ** 2).mean()) / 255**2


def farneback_flow(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Optical flow by polynomial expansion (Farnebäck 2003): smooth and blind to small parts."""
    start = np.zeros((*a.shape[:2], 2), np.float32)
    return cv2.calcOpticalFlowFarneback(
        _grey(a), _grey(b), start, _PYRAMID, _LEVELS, _WINDOW, _ITERATIONS, _POLYNOMIAL, _SIGMA, 0
    )


def dis_flow(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Optical flow by dense inverse search (Kroeger et al., ECCV 2016)."""
    method = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    return method.calc(_grey(a), _grey(b), np.zeros((*a.shape[:2], 2), np.float32))


def warp(picture: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """`picture`, the second of a flow's two, pulled back onto the first; beyond the edges they are repeated."""
    places = _grid(flow) + flow
    return cv2.remap(picture, places[..., 0], places[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def seen_in_both(forward: np.ndarray, backward: np.ndarray) -> np.ndarray:
    """(H, W) bool: pixels of the first picture that the second shows too.

    Left out are pixels whose flow leads out of the picture, does not lead back (occlusion), or changes abruptly (motion
    boundary), with the thresholds of Sundaram et al., ECCV 2010, which Ruder et al. 2016 and Lai et al. 2018 use.
    """
    height, width = forward.shape[:2]
    x, y = np.moveaxis(_grid(forward) + forward, 2, 0)
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    returned = warp(backward, forward)
    lengths = (forward**2).sum(2) + (returned**2).sum(2)
    closed = ((forward + returned) ** 2).sum(2) <= 0.01 * lengths + 0.5
    gradients = sum((g**2).sum(2) for g in np.gradient(forward, axis=(0, 1)))
    smooth = gradients <= 0.01 * (forward**2).sum(2) + 0.002
    return inside & closed & smooth


def _grid(flow: np.ndarray) -> np.ndarray:
    y, x = np.mgrid[: flow.shape[0], : flow.shape[1]]
    return np.stack([x, y], axis=2).astype(np.float32)


def _grey(picture: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
