"""Fine detail of a draft carried over to a result: what the draft shows sharply where the two agree."""

from __future__ import annotations

import numpy as np

from .opencv import cv2

COARSE = 1 / 96  # spread of the blur that tells coarse from fine, as a share of the picture's side
AGREE = 14.0  # grey levels by which the coarse pictures may differ before detail is no longer carried over


def transfer_detail(result: np.ndarray, draft: np.ndarray, known: np.ndarray, strength: float = 1.0) -> np.ndarray:
    """The result with the draft's fine detail, at the draft's size.

    The pictures are split into a coarse and a fine band, as in a Laplacian pyramid (Burt and Adelson 1983). The fine
    band is the draft's where the coarse bands agree and the draft is known; elsewhere it is the result's.

    Args:
        result: (h, w, 3) uint8; it is scaled to the draft's size.
        draft: (H, W, 3) uint8, in the same place.
        known: (H, W) uint8, 255 where the draft is to be trusted.
        strength: 0 leaves the result alone, 1 carries over all that agrees.

    Returns:
        (H, W, 3) uint8. Raises ValueError if strength is not between 0 and 1 or the sizes of draft and known differ.
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"strength must be between 0 and 1, got {strength}")
    if known.shape != draft.shape[:2]:
        raise ValueError(f"draft and known must have one size, got {draft.shape[:2]} and {known.shape}")
    height, width = draft.shape[:2]
    own = result
    if result.shape != draft.shape:
        own = cv2.resize(result, (width, height), interpolation=cv2.INTER_CUBIC)
    if not strength:
        return own.copy()
    own, other = own.astype(np.float32), draft.astype(np.float32)
    spread = max(2.0, COARSE * max(height, width))
    coarse_own, coarse_other = (cv2.GaussianBlur(p, (0, 0), spread) for p in (own, other))
    gap = np.abs(coarse_own - coarse_other).mean(2)
    trust = cv2.erode(known, np.ones((3, 3), np.uint8)).astype(np.float32) / 255
    share = cv2.GaussianBlur(strength * trust * np.exp(-((gap / AGREE) ** 2)), (0, 0), spread / 2)[..., None]
    fine = (own - coarse_own) + share * ((other - coarse_other) - (own - coarse_own))
    return (coarse_own + fine).round().clip(0, 255).astype(np.uint8)
