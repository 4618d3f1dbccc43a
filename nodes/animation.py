"""The whole chain behind Animate Portrait: the driver is read twice, a part at a time, so that only crops are kept."""

# pyright: reportMissingImports=false
# (ComfyUI is a program, not a package that could be installed)
from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import comfy.model_management
import comfy.samplers
import comfy.utils
import latent_preview
import numpy as np
from torch import Tensor

from ..errors import UserError
from ..heads.pose import PosedFrame, PosedPortrait
from ..model.backends.comfy import LoadedAdapter, apply_adapter, own_fusion
from ..model.backends.comfy_guider import SVDPGuider, VideoSignals
from ..model.backends.comfy_sampling import sample_video, segment_plan
from ..model.backends.comfy_signals import encode_signals, encode_source, joined
from ..model.config import FusionConfig
from ..model.flow import sigma_schedule
from ..model.sampling import SamplingConfig
from ..signals.crops import Crop, CropConfig, crop_frame, crop_landmarks, crop_track, plan_crop, zoom_of
from ..signals.motion import align_motion
from ..signals.paste import paste_back
from ..signals.preview import contact_sheet, pick_frames
from ..signals.regions import REGIONS, RegionConfig, masked_frames, region_masks
from ..signals.track import FaceTrack, describe_track, detect_face, track_faces
from ..signals.video import VideoReader, VideoWriter
from .bundled import Model, bundled_adapter, bundled_model
from .media import temporary_file, to_image, to_mask, to_uint8

log = logging.getLogger(__name__)

Stages = tuple[tuple[str, int], ...]

PART = 32  # frames encoded, decoded and written together
COLUMNS, CELL = 8, 160  # of the contact sheet, pixels
STAGES = (("track", 15), ("encode", 20), ("sample", 55), ("write", 10))  # share of the progress bar, in percent
DRAFT_STAGES = (("track", 30), ("write", 70))
DRAFT_STEP, DRAFT_SIDES = 16, (128, 1024)  # sides of a draft's square, pixels: multiples of, and from - to


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
        return bundled_model()
    if missing:
        raise UserError(f"connect {' and '.join(missing)} too: model, adapter and vae belong together")
    assert adapter is not None
    return Model(model, adapter, vae)


def complete_adapter(adapter: LoadedAdapter | None) -> LoadedAdapter:
    """The connected adapter, else the bundled one: it says how wide the squares are cut."""
    return adapter or bundled_adapter()


def animate(model: Model, picture: Tensor, driving: Path, wishes: Wishes) -> Result:
    """Animate one picture (H, W, 3) with a driving file. Raises UserError, MediaError or NoFaceError in words."""
    return _ModelRun(model, to_uint8(picture), driving, wishes).run()


def draft(adapter: LoadedAdapter | None, picture: Tensor, driving: Path, wishes: Wishes) -> Result:
    """The portrait's 3D head alone over the driver's face, as sharp as the picture; errors as in `animate`."""
    return _DraftRun(complete_adapter(adapter).config.crop_scale, to_uint8(picture), driving, wishes).run()


def draft_side(source: FaceTrack, scale: float) -> int:
    """Side in pixels of a draft's square: as many as the picture has there, rounded up, within limits."""
    square = plan_crop(source, CropConfig(size=DRAFT_STEP, scale=scale))
    there = DRAFT_STEP / float(zoom_of(square.affines)[0])
    return int(np.clip(np.ceil(there / DRAFT_STEP) * DRAFT_STEP, *DRAFT_SIDES))


class _Run:
    """What both ways of animating share: faces, squares, the posed head, the finished file."""

    def __init__(self, picture: np.ndarray, driving: Path, wishes: Wishes, stages: Stages) -> None:
        self.picture, self.wishes = picture, wishes
        self.reader = VideoReader(driving, max_frames=wishes.max_frames or None)
        self.progress = _Stages(stages)
        self.source = detect_face(picture, select=wishes.source_face)

    def _cut(self, size: int, scale: float) -> np.ndarray:
        """The portrait's square (size, size, 3)."""
        self.rule = CropConfig(size=size, scale=scale)
        self.place = plan_crop(self.source, self.rule)
        return crop_frame(self.picture, self.place.affines[0], size)

    def _pose(self, track: FaceTrack, crop: Crop) -> Iterator[PosedFrame]:
        """The portrait's head over the driver's face in every frame."""
        portrait = PosedPortrait(self.picture, self.source, self.rule.size, self.rule.scale)
        return portrait.pose(crop_landmarks(track.landmarks, crop.affines), track.blendshapes, self._motion)

    @property
    def _motion(self) -> Literal["absolute", "relative"]:
        return "relative" if self.wishes.motion == "relative" else "absolute"

    def _finished(self, square: np.ndarray) -> np.ndarray:
        """A frame of the result."""
        return paste_back(self.picture, square, self.place.affines[0])[0] if self.wishes.paste else square

    def _writer(self, path: Path) -> VideoWriter:
        size, cut = self.picture.shape[:2], self.wishes.max_frames > 0
        size = size if self.wishes.paste else (self.rule.size, self.rule.size)
        return VideoWriter(path, size, self.reader.timing, sound=self.reader.path, cut_sound=cut)

    def _follow(self) -> FaceTrack:
        step = self.progress.stage("track", self.wishes.max_frames or self.reader.info.declared_frames)
        fps = float(self.reader.info.fps)
        track = track_faces(self.reader, fps, select=self.wishes.driving_face, on_frame=lambda _: step())
        for problem in self.reader.problems:
            log.warning("%s", problem)
        return track

    def _driver_crop(self, track: FaceTrack, source: FaceTrack) -> Crop:
        own = plan_crop(track, self.rule)
        return align_motion(own, track, source, self._motion)


class _DraftRun(_Run):
    """A draft: no model, no sampling."""

    def __init__(self, scale: float, picture: np.ndarray, driving: Path, wishes: Wishes) -> None:
        super().__init__(picture, driving, wishes, DRAFT_STAGES)
        self.scale = scale

    def run(self) -> Result:
        size = draft_side(self.source, self.scale)
        cropped, track = self._cut(size, self.scale), self._follow()
        crop = self._driver_crop(track, crop_track(self.source, self.place))
        sheet, began = _Sheet(cropped, track.num_frames), time.perf_counter()
        path = self._write(self._pose(track, crop), crop, sheet)
        told = f"draft: {track.num_frames} frames, squares of {size} pixels, {time.perf_counter() - began:.1f} s"
        return Result(path, sheet.picture(), f"{describe_track(track)}\n{told}")

    def _write(self, posed: Iterator[PosedFrame], crop: Crop, sheet: _Sheet) -> Path:
        path, step = temporary_file(".mp4"), self.progress.stage("write", len(crop.affines))
        with self._writer(path) as writer:
            for number, (frame, made) in enumerate(zip(self.reader, posed, strict=True)):
                step()
                writer.write(self._finished(made.picture))
                sheet.add("driver", number, crop_frame(frame, crop.affines[number], crop.size)[None])
                sheet.add("draft", number, made.picture[None])
        return path


class _ModelRun(_Run):
    """An animation by a model: its stages in order."""

    def __init__(self, model: Model, picture: np.ndarray, driving: Path, wishes: Wishes) -> None:
        super().__init__(picture, driving, wishes, STAGES)
        self.model, self.size = model, model.adapter.config.resolution

    def run(self) -> Result:
        cropped = self._cut(self.size, self.model.adapter.config.crop_scale)
        track = self._follow()
        driver = self._driver_crop(track, crop_track(self.source, self.place))
        sheet = _Sheet(cropped, track.num_frames)
        signals = self._encode(cropped, track, driver, sheet)
        latents, told = self._sample(signals)
        path = self._write(latents, sheet)
        return Result(path, sheet.picture(), f"{describe_track(track)}\n{told}")

    def _encode(self, cropped: np.ndarray, track: FaceTrack, crop: Crop, sheet: _Sheet) -> VideoSignals:
        step, cfg = self.progress.stage("encode", track.num_frames), RegionConfig(regions=self.wishes.regions)
        adapter, source, parts = self.model.adapter, to_image(cropped[None]), []
        latent = encode_source(self.model.vae, source)
        posed = self._pose(track, crop) if adapter.config.posed else None
        from_posed = adapter.sampling.get("start", 1.0) < 1
        for chosen, frames in _parts(iter(self.reader), track.num_frames):
            affines = crop.affines[chosen]
            cut = np.stack([crop_frame(f, a, self.size) for f, a in zip(frames, affines, strict=True)])
            masks = region_masks(crop_landmarks(track.landmarks[chosen], affines), (self.size, self.size), cfg)
            masked = masked_frames(cut, masks)
            sheet.add("driver", chosen.start, cut)
            sheet.add("what the model sees of it", chosen.start, masked)
            regions = [to_mask(masks[:, r]) for r in range(len(REGIONS))]
            signals = encode_signals(
                self.model.vae, source, to_image(masked), regions,
                source_latent=latent, **self._posed_part(posed, chosen, step, sheet),
            )  # fmt: skip
            parts.append(signals.only_for(adapter.config, from_posed))
        return joined(parts)

    def _posed_part(
        self, posed: Iterator[PosedFrame] | None, chosen: slice, step: Callable[[], None], sheet: _Sheet
    ) -> dict[str, Tensor]:
        """The next posed pictures and what of them is known, as `encode_signals` takes them."""
        made = []
        for _ in range(chosen.start, chosen.stop):
            made += [] if posed is None else [next(posed)]
            step()
        if not made:
            return {}
        pictures = np.stack([p.picture for p in made])
        sheet.add("posed source", chosen.start, pictures)
        return {"posed": to_image(pictures), "known": to_mask(np.stack([p.known for p in made]))}

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
            start=plan.start,
            on_step=on_step,
        )
        return result.latents, result.text()

    def _write(self, latents: Tensor, sheet: _Sheet) -> Path:
        path, step = temporary_file(".mp4"), self.progress.stage("write", len(latents))
        with self._writer(path) as writer:
            for start in range(0, len(latents), PART):
                decoded = to_uint8(self.model.vae.decode(latents[start : start + PART]))
                sheet.add("result", start, decoded)
                for frame in decoded:
                    step()
                    writer.write(self._finished(frame))
        return path


class Noise_RandomNoise:  # named like ComfyUI's own: then noise is a function of seed and frame number alone
    """Noise of a seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed


class _Stages:
    """One progress bar over all stages; every step is also the moment at which Cancel takes effect."""

    def __init__(self, stages: Stages) -> None:
        self._bar, self._shares = comfy.utils.ProgressBar(100), dict(stages)
        before = np.cumsum([0, *self._shares.values()]).tolist()
        self._before = dict(zip(self._shares, before, strict=False))

    def show(self, stage: str, share: float, preview: Any = None) -> None:
        """This share of the stage is done."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        done = self._before[stage] + self._shares[stage] * min(share, 1.0)
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
