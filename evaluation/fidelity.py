"""How near a picture is to the true one. Pictures are (H, W, 3) uint8 RGB of one size."""

from __future__ import annotations

import numpy as np

from ..signals.opencv import cv2

MOST_PSNR = 100.0  # dB, for equal pictures: means over frames stay finite
_WINDOW, _SIGMA = 11, 1.5  # of SSIM, in pixels
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def l1(a: np.ndarray, b: np.ndarray) -> float:
    """Mean absolute difference over pixels and channels; full range is 1, less is better."""
    _check(a, b)
    return float(cv2.absdiff(a, b).mean()) / 255


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB, more is better: -10 log10 of the mean squared difference, full range 1.

    The error is taken over all three channels; equal pictures have MOST_PSNR.
    """
    _check(a, b)
    error = float((cv2.absdiff(a, b).astype(np.float64) ** 2).mean()) / 255**2
    return min(MOST_PSNR, -10 * np.log10(error)) if error else MOST_PSNR


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Structural similarity, 1 for equal pictures, more is better (Wang et al., IEEE TIP 13(4), 2004).

    As in the paper: Gaussian window of 11 pixels, sigma 1.5, K1 = .01, K2 = .03, places where the window fits; on each
    channel, and the mean of the three. Raises ValueError for pictures smaller than the window.
    """
    _check(a, b)
    if min(a.shape[:2]) < _WINDOW:
        raise ValueError(f"SSIM needs at least {_WINDOW} pixels a side, got {a.shape[:2]}")
    x, y = a.astype(np.float64), b.astype(np.float64)
    mean_x, mean_y = _blur(x), _blur(y)
    var_x, var_y = _blur(x * x) - mean_x**2, _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    above = (2 * mean_x * mean_y + _C1) * (2 * covariance + _C2)
    below = (mean_x**2 + mean_y**2 + _C1) * (var_x + var_y + _C2)
    return float((above / below).mean())


def _blur(x: np.ndarray) -> np.ndarray:
    """Window means, where the window lies inside the picture."""
    edge = _WINDOW // 2
    return cv2.GaussianBlur(x, (_WINDOW, _WINDOW), _SIGMA)[edge:-edge, edge:-edge]


def _check(a: np.ndarray, b: np.ndarray) -> None:
    if a.shape != b.shape or a.dtype != np.uint8 or b.dtype != np.uint8 or a.ndim != 3:
        raise ValueError(f"pictures must be (H, W, 3) uint8 of one size, got {a.shape} {a.dtype}, {b.shape} {b.dtype}")
