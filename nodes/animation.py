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
import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from ..heads.doubts import look_for_doubts, warn
from ..heads.pose import PosedFrame, PosedPortrait
from ..model.backends.comfy import LoadedAdapter, apply_adapter, check_model, own_fusion
from ..model.backends.comfy_guider import SVDPGuider, VideoSignals
from ..model.backends.comfy_sampling import VideoLatents, sample_video, segment_plan
from ..model.backends.comfy_signals import encode_signals, encode_source, joined
from ..model.backends.comfy_store import model_parts, origin_of
from ..model.config import FusionConfig, SamplingConfig, by_preset
from ..model.flow import sigma_schedule
from ..signals.crops import Crop, CropConfig, crop_frame, crop_landmarks, crop_track, plan_crop, zoom_of
from ..signals.hold import held_squares
from ..signals.landmarker import choose_runner
from ..signals.motion import align_motion
from ..signals.paste import Paster
from ..signals.regions import REGIONS, RegionConfig, masked_frames, region_masks
from ..signals.track import FaceTrack, describe_track, detect_face, track_faces
from ..signals.video import VideoWriter
from .bundled import Model, bundled_adapter, bundled_model
from .clips import Clip
from .kept import KEPT
from .media import temporary_file, to_image, to_mask, to_uint8
from .previews import find_previewer, preview_of
from .progress import Sheet, StageBar, Stages, ahead, cancellable

log = logging.getLogger(__name__)

PART = 8  # frames encoded, decoded and written together: also how soon Cancel takes effect
STAGES = (("track", 15), ("encode", 20), ("sample", 55), ("write", 10))  # share of the progress bar, in percent
DRAFT_STAGES = (("track", 30), ("write", 70))
DRAFT_STEP, DRAFT_SIDES = 16, (128, 1024)  # sides of a draft's square, pixels: multiples of, and from - to
IMAGES_SHARE = 0.25  # of the free memory that the frames may take, where they are wanted as images


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """The dials of the node."""

    seed: int = 0
    steps: int = 0  # 0: the preset's
    preset: str = "balanced"  # of the adapter's own sampling
    follow: float = 1.0  # times the adapter's own driving weight
    motion: str = "absolute"
    paste: bool = True
    max_frames: int = 0  # 0: all
    regions: tuple[str, ...] = REGIONS
    source_face: str = "largest"
    driving_face: str = "largest"
    folder: Path | None = None  # where finished segments are kept
    images: bool = False  # also give the frames as images


@dataclass(frozen=True)
class Result:
    """The finished file, a contact sheet (H, W, 3) uint8, and what happened in words.

    `images` (T, H, W, 3) are the frames, where they are wanted and fit into memory; `mask` (H, W) in [0, 1] says where
    the animated square is seen in them.
    """

    path: Path
    sheet: np.ndarray
    report: str
    images: Tensor | None = None
    mask: Tensor | None = None


def complete_model(model: Any, adapter: LoadedAdapter | None, vae: Any) -> Model:
    """What is connected; all three left open is the bundled model. Raises UserError if some are missing."""
    given = {"model": model, "adapter": adapter, "vae": vae}
    missing = [name for name, value in given.items() if value is None]
    if len(missing) == len(given):
        return bundled_model()
    if missing:
        raise UserError(f"connect {' and '.join(missing)} too: model, adapter and vae belong together")
    assert adapter is not None
    check_model(model, adapter.config)  # now, and not when a long clip has been tracked
    return Model(model, adapter, vae)


def complete_adapter(adapter: LoadedAdapter | None) -> LoadedAdapter:
    """The connected adapter, else the bundled one: it says how wide the squares are cut."""
    return adapter or bundled_adapter()


def animate(model: Model, source: Tensor, driving: Clip, wishes: Wishes) -> Result:
    """Animate one picture (1, H, W, 3) with a clip. Raises UserError, MediaError or NoFaceError in words."""
    return _ModelRun(model, one_picture(source), driving, wishes).run()


def draft(adapter: LoadedAdapter | None, source: Tensor, driving: Clip, wishes: Wishes) -> Result:
    """The portrait's 3D head alone over the driver's face, as sharp as the picture; errors as in `animate`."""
    return _DraftRun(complete_adapter(adapter).config.crop_scale, one_picture(source), driving, wishes).run()


def one_picture(source: Tensor) -> np.ndarray:
    """The picture (H, W, 3) uint8 of an IMAGE batch of one. Raises UserError for several."""
    if len(source) != 1:
        raise UserError(f"the source is one picture, got {len(source)}: take one with Get Image from Batch")
    return to_uint8(source[0])


def draft_side(source: FaceTrack, scale: float) -> int:
    """Side in pixels of a draft's square: as many as the picture has there, rounded up, within limits."""
    square = plan_crop(source, CropConfig(size=DRAFT_STEP, scale=scale))
    there = DRAFT_STEP / float(zoom_of(square.affines)[0])
    return int(np.clip(np.ceil(there / DRAFT_STEP) * DRAFT_STEP, *DRAFT_SIDES))


class _Run:
    """What both ways of animating share: faces, squares, the posed head, the finished file."""

    def __init__(self, picture: np.ndarray, driving: Clip, wishes: Wishes, stages: Stages) -> None:
        self.picture, self.wishes, self.driving = picture, wishes, driving
        self.progress = StageBar(stages)
        self.source = KEPT.get("source", self._source_key, lambda: cancellable(self._find_source))

    def _find_source(self) -> FaceTrack:
        return detect_face(self.picture, select=self.wishes.source_face)

    @property
    def _source_key(self) -> Any:
        return self.picture.shape, self.picture.tobytes(), self.wishes.source_face

    @property
    def _track_key(self) -> Any:
        return self.driving.key, self.wishes.driving_face

    def _cut(self, size: int, scale: float) -> np.ndarray:
        """The portrait's square (size, size, 3)."""
        self.rule = CropConfig(size=size, scale=scale)
        self.place = plan_crop(self.source, self.rule)
        return crop_frame(self.picture, self.place.affines[0], size)

    def _pose(self, track: FaceTrack, crop: Crop) -> Iterator[PosedFrame]:
        """The portrait's head over the driver's face in every frame; nothing is done before the first is asked for."""
        portrait = PosedPortrait(self.picture, self.source, self.rule.size, self.rule.scale)
        warn(look_for_doubts(self.picture, self.source, portrait.subject.place.fit))
        yield from portrait.pose(crop_landmarks(track.landmarks, crop.affines), track.blendshapes, self._motion)

    @property
    def _motion(self) -> Literal["absolute", "relative"]:
        return "relative" if self.wishes.motion == "relative" else "absolute"

    def _follow(self) -> FaceTrack:
        return KEPT.get("track", self._track_key, self._track)

    def _track(self) -> FaceTrack:
        step = self.progress.stage("track", self.driving.declared_frames)
        track = track_faces(self.driving, self.driving.fps, select=self.wishes.driving_face, on_frame=lambda _: step())
        for problem in self.driving.problems:
            log.warning("%s", problem)
        return track

    def _driver_crop(self, track: FaceTrack, source: FaceTrack) -> Crop:
        own = plan_crop(track, self.rule)
        return align_motion(own, track, source, self._motion)


class _Film:
    """The finished frames: into a file, and on request into memory as images. Use as a context manager."""

    def __init__(self, run: _Run) -> None:
        side, wishes = run.rule.size, run.wishes
        self.paste = Paster(run.picture, run.place.affines[0], side) if wishes.paste else None
        self.path, timing = temporary_file(".mp4"), run.driving.timing
        size = run.picture.shape[:2] if wishes.paste else (side, side)
        sound, cut = run.driving.path, wishes.max_frames > 0
        self._writer = VideoWriter(self.path, (size[0], size[1]), timing, sound=sound, cut_sound=cut)
        shape = (timing.num_frames, size[0], size[1], 3)
        self.images = torch.empty(shape) if wishes.images and _fits(shape) else None
        self.mask = torch.ones(size)

    def write(self, squares: np.ndarray) -> None:
        """Append animated squares (n, s, s, 3)."""
        for square in squares:
            frame, mask = self.paste(square) if self.paste else (square, None)
            if mask is not None and not self._writer.frames_written:
                self.mask = to_mask(mask)
            if self.images is not None:
                self.images[self._writer.frames_written] = to_image(frame)
            self._writer.write(frame)

    def __enter__(self) -> _Film:
        return self

    def __exit__(self, *error: Any) -> None:
        self._writer.__exit__(*error)


def _fits(shape: tuple[int, ...]) -> bool:
    """Whether images of this shape take but a share of the free memory."""
    free = comfy.model_management.get_free_memory(torch.device("cpu"))
    return 4 * int(np.prod(shape, dtype=np.int64)) < IMAGES_SHARE * free


class _DraftRun(_Run):
    """A draft: no model, no sampling."""

    def __init__(self, scale: float, picture: np.ndarray, driving: Clip, wishes: Wishes) -> None:
        super().__init__(picture, driving, wishes, DRAFT_STAGES)
        self.scale = scale

    def run(self) -> Result:
        size = draft_side(self.source, self.scale)
        cropped, track = self._cut(size, self.scale), self._follow()
        crop = self._driver_crop(track, crop_track(self.source, self.place))
        sheet, began = Sheet(cropped, track.num_frames), time.perf_counter()
        film = self._write(self._pose(track, crop), crop, sheet)
        told = f"draft: {track.num_frames} frames, squares of {size} pixels, {time.perf_counter() - began:.1f} s"
        return Result(film.path, sheet.picture(), f"{_described(track)}\n{told}", film.images, film.mask)

    def _write(self, posed: Iterator[PosedFrame], crop: Crop, sheet: Sheet) -> _Film:
        step = self.progress.stage("write", len(crop.affines))
        with _Film(self) as film:
            for number, (frame, made) in enumerate(zip(self.driving, ahead(posed), strict=True)):
                step()
                film.write(made.picture[None])
                sheet.add("driver", number, crop_frame(frame, crop.affines[number], crop.size)[None])
                sheet.add("draft", number, made.picture[None])
        return film


class _ModelRun(_Run):
    """An animation by a model: its stages in order."""

    def __init__(self, model: Model, picture: np.ndarray, driving: Clip, wishes: Wishes) -> None:
        super().__init__(picture, driving, wishes, STAGES)
        self.model, self.size = model, model.adapter.config.resolution

    def run(self) -> Result:
        cropped = self._cut(self.size, self.model.adapter.config.crop_scale)
        track = self._follow()
        driver = self._driver_crop(track, crop_track(self.source, self.place))
        signals, rows = KEPT.get("signals", self._signals_key, lambda: self._encode(cropped, track, driver))
        found = self._sample(signals)
        sheet = rows.copy()
        film = self._write(found.latents, sheet)
        return Result(film.path, sheet.picture(), f"{_described(track)}\n{found.text()}", film.images, film.mask)

    @property
    def _signals_key(self) -> Any:
        wishes, adapter = self.wishes, self.model.adapter
        made_with = [origin_of(p) for p in (adapter.patcher, self.model.vae.patcher)]
        return self._source_key, self._track_key, made_with, adapter.sampling, wishes.regions, wishes.motion

    def _encode(self, cropped: np.ndarray, track: FaceTrack, crop: Crop) -> tuple[VideoSignals, Sheet]:
        """The driver's signals; pictures are made ready in a thread while those before are encoded."""
        step, sheet = self.progress.stage("encode", track.num_frames), Sheet(cropped, track.num_frames)
        adapter, source, parts = self.model.adapter, to_image(cropped[None]), []
        latent = encode_source(self.model.vae, source)
        from_posed = adapter.sampling.get("start", 1.0) < 1
        for part in ahead(self._squares(track, crop)):
            step(part.chosen.stop - part.chosen.start)
            sheet.add("driver", part.chosen.start, part.cut)
            sheet.add("what the model sees of it", part.chosen.start, part.masked)
            posed = {}
            if part.posed:
                pictures = np.stack([p.picture for p in part.posed])
                sheet.add("posed source", part.chosen.start, pictures)
                posed = {"posed": to_image(pictures), "known": to_mask(np.stack([p.known for p in part.posed]))}
            regions = [to_mask(part.masks[:, r]) for r in range(len(REGIONS))]
            signals = encode_signals(
                self.model.vae, source, to_image(part.masked), regions, source_latent=latent, **posed
            )
            parts.append(signals.only_for(adapter.config, from_posed))
        return joined(parts), sheet

    def _squares(self, track: FaceTrack, crop: Crop) -> Iterator[_Squares]:
        cfg, size = RegionConfig(regions=self.wishes.regions), self.size
        posed = self._pose(track, crop) if self.model.adapter.config.posed else None
        for chosen, taken in _parts(held_squares(self.driving, track, crop, self.driving.fps), track.num_frames):
            cut = np.stack(taken)
            masks = region_masks(crop_landmarks(track.landmarks[chosen], crop.affines[chosen]), (size, size), cfg)
            heads = [] if posed is None else list(islice(posed, len(taken)))
            yield _Squares(chosen, cut, masks, masked_frames(cut, masks), heads)

    def _sample(self, signals: VideoSignals) -> VideoLatents:
        adapter, own = self.model.adapter, self.model.adapter.sampling
        usual, wishes = SamplingConfig(), self.wishes
        shift = own.get("shift") or usual.shift
        applied = apply_adapter(self.model.model, adapter, 1.0, shift)
        own_weights: dict[str, Any] = own_fusion(applied, {})
        told = replace(usual, steps=own.get("steps") or usual.steps, fusion=FusionConfig(**own_weights))
        sampling = by_preset(told, wishes.preset)
        steps, weights = wishes.steps or sampling.steps, sampling.fusion
        weights = replace(weights, driving=weights.driving * wishes.follow)
        guider = SVDPGuider(applied, signals, weights)
        plan = segment_plan(guider, 0, -1, -1.0)

        def make() -> VideoLatents:
            return sample_video(
                guider,
                Noise_RandomNoise(wishes.seed),
                comfy.samplers.sampler_object(own.get("solver") or usual.solver),
                sigma_schedule(steps, shift),
                plan.segments,
                plan.history_noise,
                start=plan.start,
                folder=wishes.folder,
                on_step=self._on_step(applied),
            )

        decides = self._signals_key, model_parts(applied), adapter.name, weights, steps, wishes.seed, wishes.folder
        return KEPT.get("latents", decides, make)

    def _on_step(self, applied: Any) -> Callable[[int, Tensor, Tensor, int], None]:
        previewer = find_previewer(applied)

        def on_step(done: int, x0: Tensor, x: Tensor, total: int) -> None:
            preview = previewer.decode_latent_to_preview_image("JPEG", x0) if previewer else None
            self.progress.show("sample", (done + 1) / total, preview)

        return on_step

    def _write(self, latents: Tensor, sheet: Sheet) -> _Film:
        step = self.progress.stage("write", len(latents))
        with _Film(self) as film:
            for start in range(0, len(latents), PART):
                decoded = to_uint8(self.model.vae.decode(latents[start : start + PART]))
                sheet.add("result", start, decoded)
                self.progress.show("write", start / len(latents), preview_of(decoded[0]))
                for frame in decoded:
                    step()
                    film.write(frame[None])
        return film


@dataclass(frozen=True)
class _Squares:
    """Some frames of the driver: which, its squares (n, s, s, 3), masks (n, 3, s, s), what is shown, posed heads."""

    chosen: slice
    cut: np.ndarray
    masks: np.ndarray
    masked: np.ndarray
    posed: list[PosedFrame]


class Noise_RandomNoise:  # named like ComfyUI's own: then noise is a function of seed and frame number alone
    """Noise of a seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed


def _described(track: FaceTrack) -> str:
    return f"{describe_track(track)}\n{choose_runner().name}"


def _parts(frames: Iterator[np.ndarray], total: int) -> Iterator[tuple[slice, list[np.ndarray]]]:
    """Frames in parts of PART with their numbers. Raises UserError if there are fewer than before."""
    for start in range(0, total, PART):
        taken = list(islice(frames, min(PART, total - start)))
        if len(taken) < min(PART, total - start):
            raise UserError("the driving video changed while it was read: run again")
        yield slice(start, start + len(taken)), taken
