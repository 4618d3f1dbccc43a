"""A run of `svdp animate`: its stages in order, what is shown of them, and what is left when one fails."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from rich.markup import escape

from ..errors import MediaError, UserError
from ..signals.detail import transfer_detail
from ..signals.images import load_image
from ..signals.paste import paste_back, scaled_affine
from ..signals.video import VideoReader, VideoWriter
from .app import console
from .config import AnimateConfig
from .driver import DrivingSignals, Source, draft_rule, follow_driver, own_size, read_source
from .interrupt import Interrupted, StopRequest
from .moves import check_moves
from .output import OutputFile
from .progress import Screen, Stage
from .sheet import SheetCollector

if TYPE_CHECKING:
    from .pipeline import (  # brings torch and diffusers: seconds, spent only after the inputs were looked at
        AnimatedFrame,
        Model,
    )

log = logging.getLogger(__name__)

DRAFT_PART = 16  # frames of a draft in memory together


def run(cfg: AnimateConfig) -> int:
    """Animate as `cfg` says; returns the exit code. Raises UserError, with nothing under the output's name then."""
    began = time.monotonic()
    check_moves(cfg)
    output = OutputFile(cfg.output, overwrite=cfg.overwrite, inputs=(cfg.source, cfg.driving))
    try:
        with StopRequest() as stop, Screen(console) as screen:
            frames = Animation(cfg, output, screen, stop).run()
    except Interrupted as interrupted:
        console.print(f"[yellow]{interrupted}:[/] {escape(output.settle())}", soft_wrap=True)
        return interrupted.exit_code
    except UserError as error:
        if not output.started:
            raise
        raise type(error)(f"{error}; {output.settle()}") from error
    print(cfg.output)
    if cfg.contact_sheet and output.sheet.exists():
        print(output.sheet)
    console.print(f"[green]{frames} frames in {time.monotonic() - began:.1f} s[/]", soft_wrap=True)
    return 0


class Animation:
    """The stages of one run."""

    def __init__(self, cfg: AnimateConfig, output: OutputFile, screen: Screen, stop: StopRequest) -> None:
        self.cfg, self.output, self.screen, self.stop = cfg, output, screen, stop

    def run(self) -> int:
        """All stages, cheap checks first; returns the number of frames."""
        picture = load_image(self.cfg.source, max_side=self.cfg.max_side)
        reader = VideoReader(self.cfg.driving, start=self.cfg.start, max_frames=self.cfg.max_frames)
        if self.cfg.draft:
            sheet, told = self._draft(picture, reader)
            return self._finish(sheet, told, reader)
        model = self._load()
        if self.cfg.moves and not model.adapter.posed:
            raise UserError("this adapter takes no posed source, so motion cannot be edited: add --draft")
        source = read_source(picture, self.cfg, model.crop)
        signals = self._follow(reader, source)
        if model.adapter.posed:
            fine = self.cfg.paste_back and self.cfg.detail > 0
            signals.pose(source, self.cfg, max(own_size(source), model.crop.size) if fine else None)
        self._describe(model, reader)
        sheet = self._write(model, source, reader, signals)
        return self._finish(sheet, f"{model.sampling.steps} steps, seed {model.sampling.seed}", reader)

    def _finish(self, sheet: SheetCollector, told: str, reader: VideoReader) -> int:
        self.output.commit()
        if self.cfg.contact_sheet:
            self._save_sheet(sheet, told)
        return reader.num_frames

    def _draft(self, picture: np.ndarray, reader: VideoReader) -> tuple[SheetCollector, str]:
        """The portrait's own 3D head over the driver's face, without a model."""
        rule = draft_rule(picture, self.cfg)
        source = read_source(picture, self.cfg, rule)
        signals = self._follow(reader, source)
        signals.pose(source, self.cfg)
        timing, count = reader.timing, reader.timing.num_frames
        sheet = SheetCollector(source.cropped, count)
        size = picture.shape[:2] if self.cfg.paste_back else source.cropped.shape[:2]
        stage, cut = self.screen.stage("drawing", count, "frames"), self.cfg.max_frames is not None
        self.output.started = True
        with VideoWriter(self.output.partial, size, timing, sound=self.cfg.driving, cut_sound=cut) as writer:
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

    def _load(self) -> Model:
        from .pipeline import load_model

        stage = self.screen.stage("loading the model")
        model = load_model(self.cfg)
        stage.done()
        return model

    def _follow(self, reader: VideoReader, source: Source) -> DrivingSignals:
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

    def _describe(self, model: Model, reader: VideoReader) -> None:
        timing = reader.timing
        rate = f"{float(timing.fps):.6g} frames/s" if timing.constant else "variable frame rate, timestamps kept"
        sampling, sound = model.sampling, "with sound" if reader.info.has_audio else "no sound"
        self.screen.say(
            f"{timing.num_frames} frames, {rate}, {sound}; {model.crop.size} px, {sampling.steps} steps "
            f"({sampling.solver}), seed {sampling.seed}, {model.device}, {str(model.dtype).removeprefix('torch.')}"
        )

    def _write(self, model: Model, source: Source, reader: VideoReader, signals: DrivingSignals) -> SheetCollector:
        """Second reading: sample, decode and write, a segment at a time."""
        from .pipeline import animate_frames, count_steps

        timing, cfg = reader.timing, self.cfg
        sheet = SheetCollector(source.cropped, timing.num_frames)
        size = source.picture.shape[:2] if cfg.paste_back else source.cropped.shape[:2]
        stage = self.screen.stage("animating", count_steps(model, timing.num_frames), "steps")
        self.output.started = True
        cut = cfg.max_frames is not None
        with VideoWriter(self.output.partial, size, timing, sound=cfg.driving, cut_sound=cut) as writer:
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

    def _save_sheet(self, sheet: SheetCollector, told: str) -> None:
        names = f"{self.cfg.source.name} + {self.cfg.driving.name}"
        try:
            sheet.save(self.output.sheet, f"{names}, {told}, {self.cfg.motion} motion")
        except MediaError as error:  # the video is whole and in its place
            log.warning("no contact sheet: %s", error)
