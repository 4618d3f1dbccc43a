"""Rendered samples on the device that trains, and batches of them."""

from __future__ import annotations

import math
import queue
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor, autocast

from ...errors import UserError
from ...model.autoencoder import FACTOR, LATENT_CHANNELS, TinyAutoencoder
from ...model.streams import Conditions
from .posed import PosedDataConfig, PosedSample
from .renderers import Renderers

GREY = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class SampleBatch:
    """B samples of F frames. Latents are float32, pixels in 0 to 1 but for the target's, which are uint8."""

    source: Tensor  # (B, 16, h, w) latents
    target: Tensor  # (B, F, 16, h, w) latents
    posed: Tensor  # (B, F, 16, h, w) latents of the posed source
    target_pixels: Tensor  # (B, F, 3, H, W)
    posed_pixels: Tensor  # (B, F, 4, H, W) the posed source and what of it is known
    driving_pixels: Tensor  # (B, F, 4, H, W) the masked driver and its mask
    real: Tensor  # (B,) bool: the target is a photo or a real clip

    def frames(self, part: slice) -> SampleBatch:
        """The same samples with some of their frames."""
        whole = {f.name: getattr(self, f.name) for f in fields(self)}
        return SampleBatch(**{k: v if k in ("source", "real") else v[:, part] for k, v in whole.items()})

    def conditions(self, driver: bool = True, posed: bool = True, history: Tensor | None = None) -> Conditions:
        """Signals of the samples; without the driver its pixels and mask are black. History is (B, H, 16, h, w)."""
        return Conditions(
            source=self.source,
            driving_pixels=self.driving_pixels if driver else torch.zeros_like(self.driving_pixels),
            history=history,
            posed_pixels=self.posed_pixels if posed else None,
            posed=self.posed if posed else None,
        )


class Store:
    """A ring of samples on the device: pictures as uint8, latents in half precision."""

    def __init__(self, capacity: int, frames: int, size: int, autoencoder: TinyAutoencoder, device: str) -> None:
        def pictures(*shape: int) -> Tensor:
            return torch.zeros(capacity, *shape, size, size, device=device, dtype=torch.uint8)

        def latents(*shape: int) -> Tensor:
            small = size // FACTOR
            return torch.zeros(
                capacity, *shape, LATENT_CHANNELS, small, small, device=device, dtype=torch.bfloat16
            )  # fmt: skip

        self.source, self.target = latents(), latents(frames)
        self.posed, self.target_pixels = latents(frames), pictures(frames, 3)
        self.posed_pixels, self.driving_pixels = pictures(frames, 4), pictures(frames, 4)
        self.real = torch.zeros(capacity, device=device, dtype=torch.bool)
        self.autoencoder, self.device = autoencoder, device
        self.added, self.capacity, self.num_frames = 0, capacity, frames

    def __len__(self) -> int:
        return min(self.added, self.capacity)

    def add(self, sample: PosedSample) -> None:
        """Encode a sample and put it in the oldest one's place."""
        n = self.added % self.capacity
        target, posed = self._tensor(sample.target), self._tensor(sample.posed)
        self.target_pixels[n], self.posed_pixels[n], self.driving_pixels[n] = target, posed, self._tensor(sample.driver)
        self.source[n] = self._encode(self._tensor(sample.source)[None])[0]
        self.target[n], self.posed[n] = self._encode(target), self._encode(posed[:, :3])
        self.real[n] = sample.kind != "rendered"
        self.added += 1

    def _tensor(self, pictures: np.ndarray) -> Tensor:
        return torch.from_numpy(np.moveaxis(pictures, -1, -3).copy()).to(self.device)

    @torch.no_grad()
    def _encode(self, pictures: Tensor) -> Tensor:
        with autocast(torch.device(self.device).type, torch.bfloat16):
            return self.autoencoder.encode(pictures.float() / 255)

    def batch(self, rows: Tensor, frames: Tensor) -> SampleBatch:
        """Samples `rows` (B,) at `frames` (B, F)."""
        r = rows[:, None]
        return SampleBatch(
            source=self.source[rows].float(),
            target=self.target[r, frames].float(),
            posed=self.posed[r, frames].float(),
            target_pixels=self.target_pixels[r, frames],
            posed_pixels=self.posed_pixels[r, frames].float() / 255,
            driving_pixels=self.driving_pixels[r, frames].float() / 255,
            real=self.real[rows],
        )

    def draw(self, count: int, frames: int, rendered_only: bool = False) -> SampleBatch:
        """`count` random samples, each with `frames` consecutive frames from a random one on."""
        rows = torch.randint(len(self), (count,), device=self.device)
        if rendered_only:
            rendered = (~self.real[: len(self)]).nonzero()[:, 0]
            rows = rendered[rows % len(rendered)]
        start = torch.randint(self.num_frames - frames + 1, (count, 1), device=self.device)
        return self.batch(rows, start + torch.arange(frames, device=self.device))


class SamplePool:
    """What training draws from: clips and photos that renderers deliver while it runs."""

    def __init__(
        self, renderers: Renderers, capacity: tuple[int, int], data: PosedDataConfig, autoencoder: TinyAutoencoder,
        device: str,
    ) -> None:  # fmt: skip
        """Empty stores with room for so many clips and photos. The autoencoder is moved to the device."""
        self.renderers, self.arrived = renderers, 0
        autoencoder.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.clips, self.photos = (
            Store(count, frames, data.size, autoencoder, device)
            for count, frames in zip(capacity, (data.frames, 1), strict=True)
        )

    def take(self, most: int) -> None:
        """Put what has been rendered into the stores, at most so many samples."""
        for _ in range(most):
            try:
                sample = self.renderers.waiting.get_nowait()
            except queue.Empty:
                return
            (self.photos if len(sample.target) == 1 else self.clips).add(sample)
            self.arrived += 1

    def wait(self, clips: int, photos: int) -> None:
        """Take samples until there are so many. Raises UserError if the processes that render have ended."""
        enough = min(clips, self.clips.capacity), min(photos, self.photos.capacity)
        while len(self.clips) < enough[0] or len(self.photos) < enough[1]:
            self.take(64)
            if not self.renderers.alive:
                raise UserError("the processes that render samples have ended: see their messages above")
            time.sleep(0.05)


def heldout_batches(
    samples: Sequence[PosedSample], frames: int, autoencoder: TinyAutoencoder, device: str
) -> list[tuple[str, SampleBatch]]:
    """Held-out samples by kind, at most eight and the first `frames` frames at once."""
    found = []
    for kind in dict.fromkeys(sample.kind for sample in samples):
        own = [sample for sample in samples if sample.kind == kind]
        store = Store(len(own), len(own[0].target), len(own[0].source), autoencoder, device)
        for sample in own:
            store.add(sample)
        for rows in torch.arange(len(own), device=device).split(8):
            which = torch.arange(min(store.num_frames, frames), device=device).expand(len(rows), -1)
            found.append((kind, store.batch(rows, which)))
    return found


def recoloured(driver: Tensor, grey_share: float) -> Tensor:
    """Masked drivers (B, F, 4, H, W) in 0 to 1 with other colours: some grey, some of another saturation and hue.

    Black stays black, and the mask, the last channel, stays as it is.
    """
    count = len(driver)
    kind: dict[str, Any] = {"device": driver.device, "dtype": driver.dtype}
    saturation = torch.rand(count, 1, 1, **kind) * 1.4
    saturation[torch.rand(count, device=driver.device) < grey_share] = 0
    grey = torch.tensor(GREY, **kind).expand(3, 3)
    angle = 0.5 * torch.randn(count, 1, 1, **kind)
    cross = torch.tensor([[0, -1, 1], [1, 0, -1], [-1, 1, 0]], **kind) / math.sqrt(3)
    eye = torch.eye(3, **kind)
    hue = eye + torch.sin(angle) * cross + (1 - torch.cos(angle)) * (cross @ cross)
    gains = torch.exp(0.1 * torch.randn(count, 3, 1, **kind))
    matrix = gains * ((saturation * eye + (1 - saturation) * grey) @ hue)
    colours = torch.einsum("nij,nfjhw->nfihw", matrix, driver[:, :, :3]).clamp(0, 1)
    return torch.cat([colours, driver[:, :, 3:]], 2)
