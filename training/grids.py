"""Sample grids: held-out clips animated with the present weights, beside the truth."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..model.autoencoder import TinyAutoencoder
from ..model.backends.diffusers import Denoiser
from ..model.config import FusionConfig, SegmentConfig
from ..model.sampling import SamplingConfig, SegmentSignals, generate
from ..model.segments import Segment, plan_segments
from .config import StageSettings, TrainConfig
from .data.windows import LatentClips

PACKAGE = Path(__file__).resolve().parents[1]
SHOWN = (0.0, 0.5, 1.0)  # which frames of a clip, from first to last
GAP = 4  # pixels between pictures


class SampleGrid:
    """One row per clip: source, then target, masked driver and prediction of some frames, as PNG."""

    def __init__(self, config: TrainConfig, clips: LatentClips, folder: Path) -> None:
        watch = config.watch
        self.clips, self.folder = clips, folder
        self.count = min(watch.grid_clips, len(clips))
        source, driving, history = watch.grid_fusion
        fusion = FusionConfig(source=source, driving=driving, history=history)
        self.sampling = SamplingConfig(steps=watch.grid_steps, shift=config.loss.shift, seed=config.seed, fusion=fusion)
        self.frames: np.ndarray | None = None  # (T, H, W, 3) uint8: what `draw` drew last, as a video
        self.with_video = watch.grid_video
        self.autoencoder = TinyAutoencoder.load(find_file(watch.autoencoder)) if watch.autoencoder else None

    @property
    def possible(self) -> bool:
        """Whether there is an autoencoder to decode with."""
        return self.autoencoder is not None

    def draw(self, denoiser: Denoiser, stage: StageSettings, step: int) -> tuple[np.ndarray, float]:
        """Sample, save `step-NNNNNN.png` and `.webp`; returns the picture (H, W, 3) uint8 and the mean PSNR in dB."""
        device = next(denoiser.parameters()).device
        assert self.autoencoder is not None
        autoencoder = self.autoencoder.to(device)
        batch = self.clips.fixed(self.count, self.clips.num_frames, 0).to(device)
        rows, errors, films = [], [], []
        for i in range(self.count):
            signals = SegmentSignals(batch.regions[i], batch.driving[i])
            result = sample_clip(denoiser, batch.source[i], signals, stage, self.sampling)
            with torch.no_grad():
                target, driver, made, source = (
                    autoencoder.decode(z) for z in (batch.target[i], batch.driving[i], result, batch.source[i : i + 1])
                )
            errors.append((made.float() - target).square().mean().item())
            rows.append(_row(source[0], target, driver, made))
            films.append(_film(source[0], target, driver, made))
        picture = np.concatenate(rows)
        self.folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(self.folder / f"step-{step:06d}.png")
        if self.with_video:
            self.frames = np.concatenate(films, 1)
            (self.folder / f"step-{step:06d}.webp").write_bytes(animation(self.frames, "WEBP"))
        return picture, float(np.mean([-10 * np.log10(max(e, 1e-10)) for e in errors]))


def sample_clip(
    denoiser: Denoiser, source: Tensor, signals: SegmentSignals, stage: StageSettings, sampling: SamplingConfig
) -> Tensor:
    """Animate (C, h, w) with the signals of a whole clip, in segments as long as the stage's: latents (T, C, h, w)."""
    plan = plan_segments(
        len(signals.masks), SegmentConfig(length=stage.frames, num_history=min(stage.history, stage.frames))
    )

    def signals_of(segment: Segment) -> SegmentSignals:
        part = slice(segment.start, segment.stop)
        return SegmentSignals(signals.masks[part], None if signals.driving is None else signals.driving[part])

    results = generate(denoiser, source, signals_of, plan, sampling, device=source.device)
    return torch.cat([r.latents for r in results])


def find_file(name: str) -> Path:
    """A file by its path, or in the package (`assets/...`)."""
    return Path(name) if Path(name).exists() else PACKAGE / name


def _row(source: Tensor, target: Tensor, driver: Tensor, made: Tensor) -> np.ndarray:
    shown = [round(s * (len(target) - 1)) for s in SHOWN]
    pictures = [source, *(x[i] for i in shown for x in (target, driver, made))]
    tiles = [np.pad(_to_uint8(p), ((0, GAP), (0, GAP), (0, 0)), constant_values=255) for p in pictures]
    return np.concatenate(tiles, 1)


def _film(source: Tensor, target: Tensor, driver: Tensor, made: Tensor) -> np.ndarray:
    """(T, H, W, 3): source, target, masked driver and prediction beside each other."""
    beside = (source.expand_as(target), target, driver, made)
    return np.stack([np.concatenate([_to_uint8(p) for p in frame], 1) for frame in zip(*beside, strict=True)])


def animation(frames: np.ndarray, form: str, fps: int = 12) -> bytes:
    """Frames (T, H, W, 3) uint8 as an endless animation, "WEBP" or "GIF"."""
    pictures, file = [Image.fromarray(frame) for frame in frames], io.BytesIO()
    pictures[0].save(file, form, save_all=True, append_images=pictures[1:], duration=round(1000 / fps), loop=0)
    return file.getvalue()


def _to_uint8(picture: Tensor) -> np.ndarray:
    return (picture.float().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
