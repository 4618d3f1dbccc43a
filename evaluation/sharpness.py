"""How sharp a picture's edges are, whatever its noise."""

from __future__ import annotations

import numpy as np

from ..signals.opencv import cv2

FINE, COARSE = 1.0, 2.5  # pixels: blurs at which gradients are compared
EDGES = 0.06  # share of the pixels that are taken for edges: those of the steepest coarse gradient


def edge_sharpness(picture: np.ndarray) -> float:
    """Median ratio of the gradients at two scales along the strongest edges (Zhuo and Sim 2011, re-blurred gradients).

    A step edge has a ratio of COARSE / FINE; each blur lowers it, at last to 1. Noise is averaged along edges that are
    chosen at the coarse scale, so it hardly counts.

    Args:
        picture: (H, W, 3) uint8 RGB.

    Returns:
        The ratio less 1, so 0 is no sharpness at all.
    """
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32)
    coarse = _gradient(grey, COARSE)
    steep = np.hypot(*coarse)
    chosen = (steep >= np.quantile(steep, 1 - EDGES)) & _ridge(steep, coarse)
    if not chosen.any():
        return 0.0
    along = np.stack(coarse)[:, chosen] / np.maximum(steep[chosen], 1e-6)
    fine = (np.stack(_gradient(grey, FINE))[:, chosen] * along).sum(0)  # across the edge: noise has no direction
    return float(np.median(fine / np.maximum(steep[chosen], 1e-6))) - 1


def _ridge(steep: np.ndarray, gradient: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """(H, W) bool: where the gradient is steepest across its edge."""
    rows, columns = np.mgrid[: steep.shape[0], : steep.shape[1]].astype(np.float32)
    right, down = (g / np.maximum(steep, 1e-6) for g in gradient)
    sides = [
        cv2.remap(steep, columns + sign * right, rows + sign * down, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        for sign in (-1, 1)
    ]
    return (steep >= sides[0]) & (steep >= sides[1])


def _gradient(grey: np.ndarray, spread: float) -> tuple[np.ndarray, np.ndarray]:
    blurred = cv2.GaussianBlur(grey, (0, 0), spread)
    return cv2.Sobel(blurred, cv2.CV_32F, 1, 0), cv2.Sobel(blurred, cv2.CV_32F, 0, 1)
