"""The stages of a run in order, and what is told of them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ..errors import MediaError
from ..signals.detail import transfer_detail
from ..signals.paste import paste_back, scaled_affine
from ..signals.video import Timing, VideoReader, VideoWriter
from .config import AnimateConfig
from .driver import DrivingSignals, Source, draft_rule, follow_driver, own_size, read_source
from .media import Clip, FrameKeeper, Media
from .output import OutputFile
from .sheet import SheetCollector

if TYPE_CHECKING:
    from .pipeline import (  # brings torch and diffusers: seconds, spent only after the inputs were looked at
        AnimatedFrame,
        LoadedModel,
        Model,
    )

log = logging.getLogger(__name__)

DRAFT_PART = 16  # frames of a draft in memory together


class Stage(Protocol):
    """One stage of a run that is under way."""

    def advance(self, units: int = 1) -> None: ...

    def done(self) -> None: ...


class Display(Protocol):
    """Where a run tells how far it is."""

    def stage(self, name: str, total: int | None = None, unit: str = "") -> Stage: ...

    def say(self, text: str) -> None: ...


class Stop(Protocol):
    """Asked between steps and frames: `check` raises `Cancelled` if the run is to end there."""

    def check(self) -> None: ...


class Animation:
    """The stages of one run.

    Without `output` the frames are kept in `kept`. `media`: the inputs, by default the files that `cfg` names;
    `loaded`: a model that is in memory already, by default it is read.
    """

    def __init__(
        self,
        cfg: AnimateConfig,
        output: OutputFile | None,
        screen: Display,
        stop: Stop,
        *,
        media: Media | None = None,
        loaded: LoadedModel | None = None,
    ) -> None:
        self.cfg, self.output, self.screen, self.stop = cfg, output, screen, stop
        self.media = media or Media()
        self.loaded = loaded
        self.kept = FrameKeeper()
        self.timing: Timing | None = None  # of the result, once the driver was read

    def run(self) -> int:
        """All stages, cheap checks first; returns the number of frames."""
        picture = self.media.picture(self.cfg)
        reader = self.media.reader(self.cfg)
        if self.cfg.draft:
            sheet, told = self._draft(picture, reader)
            return self._finish(sheet, told, reader)
        model = self._load()
        source = read_source(picture, self.cfg, model.crop)
        signals = self._follow(reader, source)
        if model.adapter.posed:
            fine = self.cfg.paste_back and self.cfg.detail > 0
            signals.pose(source, self.cfg, max(own_size(source), model.crop.size) if fine else None)
        self._describe(model, reader)
        sheet = self._write(model, source, reader, signals)
        return self._finish(sheet, f"{model.sampling.steps} steps, seed {model.sampling.seed}", reader)

    def _finish(self, sheet: SheetCollector, told: str, reader: Clip) -> int:
        self.timing = reader.timing
        if self.output is not None:
            self.output.commit()
            if self.cfg.contact_sheet:
                self._save_sheet(self.output.sheet, sheet, told)
        return reader.num_frames

    def _draft(self, picture: np.ndarray, reader: Clip) -> tuple[SheetCollector, str]:
        """The portrait's own 3D head over the driver's face, without a model."""
        rule = draft_rule(picture, self.cfg)
        source = read_source(picture, self.cfg, rule)
        signals = self._follow(reader, source)
        signals.pose(source, self.cfg)
        count = reader.timing.num_frames
        sheet = SheetCollector(source.cropped, count)
        size = picture.shape[:2] if self.cfg.paste_back else source.cropped.shape[:2]
        stage = self.screen.stage("drawing", count, "frames")
        with self._writer(size, reader) as writer:
            for start in range(0, count, DRAFT_PART):
                frames = signals.take(min(DRAFT_PART, count - start))
                assert frames.posed is not None
                for i, posed in enumerate(frames.posed):
                    self.stop.check()
                    writer.write(self._whole(source, posed) if self.cfg.paste_back else posed)
                    stage.advance()
                    for row, made in (
                        ("driver", frames.pictures[i]),
                        ("masked signal", frames.masked[i]),
                        ("result", posed),
                    ):
                        sheet.add(row, start + i, made)
        stage.done()
        return sheet, f"draft, {rule.size} px"

    def _writer(self, size: tuple[int, int], reader: Clip) -> VideoWriter | FrameKeeper:
        """Where frames (H, W, 3) go: the partial file, with the driver's sound, or memory."""
        if self.output is None:
            return self.kept
        self.output.started = True
        sound = self.cfg.driving if isinstance(reader, VideoReader) else None
        cut = self.cfg.max_frames is not None
        return VideoWriter(self.output.partial, size, reader.timing, sound=sound, cut_sound=cut)

    def _load(self) -> Model:
        from .pipeline import load_model, settled

        if self.loaded is not None:
            return settled(self.loaded, self.cfg)
        stage = self.screen.stage("loading the model")
        model = load_model(self.cfg)
        stage.done()
        return model

    def _follow(self, reader: Clip, source: Source) -> DrivingSignals:
        """First reading of the driver."""
        declared = max(0, reader.info.declared_frames - self.cfg.start)
        stage = self.screen.stage(
            "following the face", min(declared, self.cfg.max_frames or declared) or None, "frames"
        )

        def on_frame(number: int) -> None:
            self.stop.check()
            stage.advance()

        track = follow_driver(reader, self.cfg, on_frame)
        stage.done()
        for problem in reader.problems:
            log.warning("%s", problem)
        return DrivingSignals(reader, track, source, self.cfg)

    def _describe(self, model: Model, reader: Clip) -> None:
        timing = reader.timing
        rate = f"{float(timing.fps):.6g} frames/s" if timing.constant else "variable frame rate, timestamps kept"
        sampling, sound = model.sampling, "with sound" if reader.info.has_audio else "no sound"
        self.screen.say(
            f"{timing.num_frames} frames, {rate}, {sound}; {model.crop.size} px, {sampling.steps} steps "
            f"({sampling.solver}), seed {sampling.seed}, {model.device}, {str(model.dtype).removeprefix('torch.')}"
        )

    def _write(self, model: Model, source: Source, reader: Clip, signals: DrivingSignals) -> SheetCollector:
        """Second reading: sample, decode and write, a segment at a time."""
        from .pipeline import animate_frames, count_steps

        timing, cfg = reader.timing, self.cfg
        sheet = SheetCollector(source.cropped, timing.num_frames)
        size = source.picture.shape[:2] if cfg.paste_back else source.cropped.shape[:2]
        stage = self.screen.stage("animating", count_steps(model, timing.num_frames), "steps")
        with self._writer(size, reader) as writer:
            for frame in animate_frames(model, source.cropped, signals, timing.num_frames, self._on_step(stage)):
                self.stop.check()
                square = self._detailed(frame)
                writer.write(self._whole(source, square) if cfg.paste_back else square)
                for row, made in (("driver", frame.driver), ("masked signal", frame.masked), ("result", square)):
                    sheet.add(row, frame.number, made)
        stage.done()
        return sheet

    def _on_step(self, stage: Stage) -> Callable[[], None]:
        def on_step() -> None:
            self.stop.check()
            stage.advance()

        return on_step

    def _detailed(self, frame: AnimatedFrame) -> np.ndarray:
        """The result with the posed source's fine detail, where there is one."""
        if frame.posed is None or not self.cfg.detail:
            return frame.result
        return transfer_detail(frame.result, frame.posed.picture, frame.posed.known, self.cfg.detail)

    def _whole(self, source: Source, result: np.ndarray) -> np.ndarray:
        affine = scaled_affine(source.crop.affines[0], len(result), source.crop.size)
        return paste_back(source.picture, result, affine)[0]

    def _save_sheet(self, path: Path, sheet: SheetCollector, told: str) -> None:
        names = f"{self.cfg.source.name} + {self.cfg.driving.name}"
        try:
            sheet.save(path, f"{names}, {told}, {self.cfg.motion} motion")
        except MediaError as error:  # the video is whole and in its place
            log.warning("no contact sheet: %s", error)
