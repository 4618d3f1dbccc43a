"""Between ComfyUI's tensors and the layers below: IMAGE is (N, H, W, 3) float32 in [0, 1], MASK (N, H, W)."""

# pyright: reportMissingImports=false
# (ComfyUI is a program, not a package that could be installed)
from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.utils
import folder_paths
import numpy as np
import torch
from comfy_api.latest import InputImpl
from torch import Tensor

from ..errors import UserError


class Progress:
    """The node's progress bar; every step is also the moment at which a pressed Cancel takes effect."""

    def __init__(self, total: int) -> None:
        self._total = max(total, 1)
        self._bar = comfy.utils.ProgressBar(self._total)

    def __call__(self, *_: Any) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        self._bar.update(1)

    def end(self) -> None:
        """All is done, in however many steps."""
        self._bar.update_absolute(self._total)


def frames_of(images: Tensor, progress: Progress | None = None) -> Iterator[np.ndarray]:
    """RGB uint8 (H, W, 3), one by one; transparency is dropped."""
    for image in images:
        if progress is not None:
            progress()
        yield to_uint8(image)


def to_uint8(image: Tensor) -> np.ndarray:
    """An IMAGE, or one frame of it, as RGB uint8."""
    return (image[..., :3].float() * 255).round().clamp(0, 255).to("cpu", torch.uint8).contiguous().numpy()


def to_image(frames: np.ndarray) -> Tensor:
    """RGB uint8 (N, H, W, 3) as IMAGE."""
    return torch.from_numpy(np.require(frames, requirements=["C", "W"])).float() / 255


def to_mask(masks: np.ndarray) -> Tensor:
    """uint8 (N, H, W) as MASK."""
    return torch.from_numpy(np.require(masks, requirements=["C", "W"])).float() / 255


def mask_to_uint8(mask: Tensor, num_frames: int, size_hw: tuple[int, int]) -> np.ndarray:
    """A MASK as uint8 (N, H, W): a single one is repeated, another size scaled. UserError for another number."""
    mask = mask.reshape(-1, *mask.shape[-2:]).float().cpu()
    if len(mask) not in (1, num_frames):
        raise UserError(f"{num_frames} images but {len(mask)} masks: give one for all, or one for each image")
    if tuple(mask.shape[1:]) != size_hw:
        mask = torch.nn.functional.interpolate(mask[:, None], size_hw, mode="bilinear")[:, 0]
    return (mask * 255).round().clamp(0, 255).to(torch.uint8).expand(num_frames, *size_hw).numpy()


def video_file(video: Any) -> tuple[Path, bool]:
    """The file behind a VIDEO, and whether it was there before: one that is in memory alone, or a part of a file, is
    written to the temp folder."""
    if isinstance(video, InputImpl.VideoFromComponents):  # its stream source would be encoded here, and then again
        video = _encodable(video)
    elif isinstance(source := video.get_stream_source(), str) and _is_whole(video, source):
        return Path(source), True
    path = temporary_file(".mp4")
    video.save_to(str(path))
    return path, False


def _encodable(video: Any) -> Any:
    """Without transparency, and without the last row or column of odd sides, which H.264 does not take."""
    parts = video.get_components()
    height, width = (side - side % 2 for side in parts.images.shape[1:3])
    return type(video)(replace(parts, images=parts.images[:, :height, :width, :3]))


def temporary_file(ending: str) -> Path:
    """A new name in ComfyUI's temp folder, which it empties when it starts."""
    folder = Path(folder_paths.get_temp_directory())
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, prefix="svdp_", suffix=ending, delete=False) as file:
        return Path(file.name)


def _is_whole(video: Any, path: str) -> bool:
    try:
        return abs(video.get_duration() - type(video)(path).get_duration()) < 1e-3
    except (ValueError, TypeError):  # a duration is not known, or another pack's kind of VIDEO
        return False
