"""The whole chain behind Animate Portrait: the driver is read twice, a part at a time, so that only crops are kept."""

# pyright: reportMissingImports=false
# (ComfyUI is a program, not a package that could be installed)
from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.samplers
import comfy.sd
import comfy.utils
import latent_preview
import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from ..model.backends.comfy import LoadedAdapter, apply_adapter, load_adapter, own_fusion
from ..model.backends.comfy_guider import SVDPGuider, VideoSignals
from ..model.backends.comfy_sampling import sample_video, segment_plan
from ..model.backends.comfy_signals import encode_signals
from ..model.config import FusionConfig
from ..model.flow import sigma_schedule
from ..model.sampling import SamplingConfig
from ..signals.crops import Crop, CropConfig, crop_frame, crop_landmarks, crop_track, plan_crop
from ..signals.motion import align_motion
from ..signals.paste import paste_back
from ..signals.preview import contact_sheet, pick_frames
from ..signals.regions import REGIONS, RegionConfig, masked_frames, region_masks
from ..signals.track import FaceTrack, describe_track, detect_face, track_faces
from ..signals.video import VideoReader, VideoWriter
from .folders import KEY, bundled
from .media import temporary_file, to_image, to_mask, to_uint8

log = logging.getLogger(__name__)

PART = 32  # frames encoded, decoded and written together
COLUMNS, CELL = 8, 160  # of the contact sheet, pixels
STAGES = (("track", 15), ("encode", 10), ("sample", 65), ("write", 10))  # share of the progress bar, in percent


@dataclass(frozen=True)
class Model:
    """What animates: a bare MODEL, an adapter for it, and a VAE."""

    model: Any
    adapter: LoadedAdapter
    vae: Any


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """The dials of the node."""

    seed: int = 0
    steps: int = 0  # 0: the adapter's own
    follow: float = 1.0  # times the adapter's own driving weight
    motion: str = "absolute"
    paste: bool = True
    max_frames: int = 0  # 0: all
    regions: tuple[str, ...] = REGIONS
    source_face: str = "largest"
    driving_face: str = "largest"


@dataclass(frozen=True)
class Result:
    """The finished file, a contact sheet (H, W, 3) uint8, and what happened in words."""

    path: Path
    sheet: np.ndarray
    report: str


def complete_model(model: Any, adapter: LoadedAdapter | None, vae: Any) -> Model:
    """What is connected; all three left open is the bundled model. Raises UserError if some are missing."""
    given = {"model": model, "adapter": adapter, "vae": vae}
    missing = [name for name, value in given.items() if value is None]
    if len(missing) == len(given):
        return _bundled_model()
    if missing:
        raise UserError(f"connect {' and '.join(missing)} too: model, adapter and vae belong together")
    assert adapter is not None
    return Model(model, adapter, vae)


def _bundled_model() -> Model:
    base, autoencoder, adapter = (bundled(key) for key in ("diffusion_models", "vae", KEY))
    state, metadata = comfy.utils.load_torch_file(str(autoencoder), return_metadata=True)
    vae = comfy.sd.VAE(sd=state, metadata=metadata)
    return Model(comfy.sd.load_diffusion_model(str(base)), load_adapter(str(adapter), adapter.name), vae)


def animate(model: Model, picture: Tensor, driving: Path, wishes: Wishes) -> Result:
    """Animate one picture (H, W, 3) with a driving file. Raises UserError, MediaError or NoFaceError in words."""
    return _Run(model, to_uint8(picture), driving, wishes).run()


class _Run:
    """One animation: its stages in order."""

    def __init__(self, model: Model, picture: np.ndarray, driving: Path, wishes: Wishes) -> None:
        self.model, self.picture, self.wishes = model, picture, wishes
        self.size = model.adapter.config.resolution
        self.rule = CropConfig(size=self.size, scale=model.adapter.config.crop_scale)
        self.reader = VideoReader(driving, max_frames=wishes.max_frames or None)
        self.progress = _Stages()

    def run(self) -> Result:
        source = detect_face(self.picture, select=self.wishes.source_face)
        place = plan_crop(source, self.rule)
        cropped = crop_frame(self.picture, place.affines[0], self.size)
        track = self._follow()
        driver = self._driver_crop(track, crop_track(source, place))
        sheet = _Sheet(cropped, track.num_frames)
        signals = self._encode(cropped, track, driver, sheet)
        latents, told = self._sample(signals)
        path = self._write(latents, place, sheet)
        return Result(path, sheet.picture(), f"{describe_track(track)}\n{told}")

    def _follow(self) -> FaceTrack:
        step = self.progress.stage("track", self.wishes.max_frames or self.reader.info.declared_frames)
        fps = float(self.reader.info.fps)
        track = track_faces(self.reader, fps, select=self.wishes.driving_face, on_frame=lambda _: step())
        for problem in self.reader.problems:
            log.warning("%s", problem)
        return track

    def _driver_crop(self, track: FaceTrack, source: FaceTrack) -> Crop:
        own = plan_crop(track, self.rule)
        return align_motion(own, track, source, "relative" if self.wishes.motion == "relative" else "absolute")

    def _encode(self, cropped: np.ndarray, track: FaceTrack, crop: Crop, sheet: _Sheet) -> VideoSignals:
        step, cfg = self.progress.stage("encode", track.num_frames), RegionConfig(regions=self.wishes.regions)
        source, parts = to_image(cropped[None]), []
        for chosen, frames in _parts(iter(self.reader), track.num_frames):
            affines = crop.affines[chosen]
            cut = np.stack([crop_frame(f, a, self.size) for f, a in zip(frames, affines, strict=True)])
            masks = region_masks(crop_landmarks(track.landmarks[chosen], affines), (self.size, self.size), cfg)
            masked = masked_frames(cut, masks)
            sheet.add("driver", chosen.start, cut)
            sheet.add("what the model sees of it", chosen.start, masked)
            regions = [to_mask(masks[:, r]) for r in range(len(REGIONS))]
            parts.append(encode_signals(self.model.vae, source, to_image(masked), regions, None))
            step(len(frames))
        return replace(
            parts[0], driving=torch.cat([p.driving for p in parts]), masks=torch.cat([p.masks for p in parts])
        )

    def _sample(self, signals: VideoSignals) -> tuple[Tensor, str]:
        adapter, own = self.model.adapter, self.model.adapter.sampling
        usual = SamplingConfig()
        shift = own.get("shift") or usual.shift
        applied = apply_adapter(self.model.model, adapter, 1.0, shift)
        own_weights: dict[str, Any] = own_fusion(applied, {})
        weights = FusionConfig(**own_weights)
        guider = SVDPGuider(applied, signals, replace(weights, driving=weights.driving * self.wishes.follow))
        steps = self.wishes.steps or own.get("steps") or usual.steps
        plan = segment_plan(guider, 0, -1, -1.0)
        previewer = latent_preview.get_previewer(applied.load_device, applied.model.latent_format)

        def on_step(done: int, x0: Tensor, x: Tensor, total: int) -> None:
            preview = previewer.decode_latent_to_preview_image("JPEG", x0) if previewer else None
            self.progress.show("sample", (done + 1) / total, preview)

        sampler = comfy.samplers.sampler_object(own.get("solver") or usual.solver)
        result = sample_video(
            guider,
            Noise_RandomNoise(self.wishes.seed),
            sampler,
            sigma_schedule(steps, shift),
            plan.segments,
            plan.history_noise,
            on_step=on_step,
        )
        return result.latents, result.text()

    def _write(self, latents: Tensor, place: Crop, sheet: _Sheet) -> Path:
        timing, path = self.reader.timing, temporary_file(".mp4")
        step, cut = self.progress.stage("write", timing.num_frames), self.wishes.max_frames > 0
        size = self.picture.shape[:2] if self.wishes.paste else (self.size, self.size)
        with VideoWriter(path, size, timing, sound=self.reader.path, cut_sound=cut) as writer:
            for start in range(0, timing.num_frames, PART):
                decoded = to_uint8(self.model.vae.decode(latents[start : start + PART]))
                sheet.add("result", start, decoded)
                for frame in decoded:
                    step()
                    writer.write(paste_back(self.picture, frame, place.affines[0])[0] if self.wishes.paste else frame)
        return path


class Noise_RandomNoise:  # named like ComfyUI's own: then noise is a function of seed and frame number alone
    """Noise of a seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed


class _Stages:
    """One progress bar over all stages; every step is also the moment at which Cancel takes effect."""

    def __init__(self) -> None:
        self._bar = comfy.utils.ProgressBar(100)
        self._before = dict(zip((n for n, _ in STAGES), np.cumsum([0, *(s for _, s in STAGES)]).tolist(), strict=False))

    def show(self, stage: str, share: float, preview: Any = None) -> None:
        """This share of the stage is done."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        done = self._before[stage] + dict(STAGES)[stage] * min(share, 1.0)
        self._bar.update_absolute(round(done), 100, preview)

    def stage(self, name: str, total: int) -> Any:
        """A function to call with the number of frames done since the last call."""
        state = [0]

        def step(count: int = 1) -> None:
            state[0] += count
            self.show(name, state[0] / max(total, 1))

        return step


class _Sheet:
    """Keeps a few evenly spread pictures of every row."""

    def __init__(self, source: np.ndarray, num_frames: int) -> None:
        self._frames = pick_frames(num_frames, COLUMNS)
        self._rows: dict[str, list[np.ndarray]] = {"source": [source] * len(self._frames)}

    def add(self, row: str, first: int, pictures: np.ndarray) -> None:
        """Pictures (n, h, w, 3) of consecutive frames from `first` on."""
        chosen = [pictures[f - first].copy() for f in self._frames if first <= f < first + len(pictures)]
        self._rows.setdefault(row, []).extend(chosen)

    def picture(self) -> np.ndarray:
        """The rows below each other."""
        return contact_sheet(list(self._rows.values()), list(self._rows), cell=CELL)


def _parts(frames: Iterator[np.ndarray], total: int) -> Iterator[tuple[slice, list[np.ndarray]]]:
    """Frames in parts of PART with their numbers. Raises UserError if there are fewer than before."""
    for start in range(0, total, PART):
        taken = list(islice(frames, min(PART, total - start)))
        if len(taken) < min(PART, total - start):
            raise UserError("the driving video changed while it was read: run again")
        yield slice(start, start + len(taken)), taken
