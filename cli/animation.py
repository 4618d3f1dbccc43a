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
from ..signals.images import encode_image, load_image
from ..signals.video import Timing, VideoReader
from .app import console, installed_version, print_path
from .config import AnimateConfig
from .draft import PortraitInMaking
from .driver import DrivingSignals, Source, draft_source, follow_driver, own_size, read_source
from .film import Film
from .interrupt import Interrupted, StopRequest
from .kept import settings_of
from .output import OutputFile
from .progress import Screen, Stage
from .sheet import SheetCollector

if TYPE_CHECKING:
    from .pipeline import (  # brings torch and diffusers: seconds, spent only after the inputs were looked at
        AnimatedFrame,
        Model,
    )

log = logging.getLogger(__name__)

DRAFT_PART = 16  # frames of a draft after which it could go on
NO_MEMORY = "there is not enough memory: lower --resolution, --segment-length or --max-side"


def run(cfg: AnimateConfig) -> int:
    """Animate as `cfg` says; returns the exit code. Raises UserError, with nothing under the output's name then."""
    began = time.monotonic()
    output = OutputFile(
        cfg.output,
        overwrite=cfg.overwrite,
        resume=cfg.resume,
        sheet=cfg.contact_sheet,
        inputs=(cfg.source, cfg.driving, cfg.weights.base, cfg.weights.adapter, cfg.weights.autoencoder),
    )
    try:
        with StopRequest() as stop, Screen(console) as screen:
            frames = Animation(cfg, output, screen, stop).run()
    except Interrupted as interrupted:
        console.print(f"[yellow]{interrupted}:[/] {escape(output.settle())}", soft_wrap=True)
        return interrupted.exit_code
    except (UserError, MemoryError) as error:
        left = output.settle()
        if not output.started:
            raise
        words = str(error) if isinstance(error, UserError) else NO_MEMORY
        raise (type(error) if isinstance(error, UserError) else UserError)(f"{words}; {left}") from error
    except BaseException:
        output.settle()
        raise
    print_path(cfg.output)
    if output.sheet is not None and output.sheet.exists():
        print_path(output.sheet)
    console.print(f"[green]{frames} frames in {time.monotonic() - began:.1f} s[/]", soft_wrap=True)
    return 0


class Animation:
    """The stages of one run."""

    def __init__(self, cfg: AnimateConfig, output: OutputFile, screen: Screen, stop: StopRequest) -> None:
        self.cfg, self.output, self.screen, self.stop = cfg, output, screen, stop

    def run(self) -> int:
        """All stages, cheap checks first; returns the number of frames."""
        picture = load_image(self.cfg.source, max_side=self.cfg.max_side)
        reader = VideoReader(self.cfg.driving, start=self.cfg.start)  # all of it: the first frames depend on the rest
        settings = settings_of(self.cfg, installed_version())
        self.output.check_settings(settings)
        if self.cfg.draft:
            sheet, told = self._draft(picture, reader, settings)
        else:
            sheet, told = self._by_model(picture, reader, settings)
        self.output.commit()
        if self.cfg.contact_sheet:
            self._save_sheet(sheet, told)
        return len(self._timing(reader).ticks)

    def _by_model(
        self, picture: np.ndarray, reader: VideoReader, settings: dict[str, str]
    ) -> tuple[SheetCollector, str]:
        model = self._load()
        source = read_source(picture, self.cfg, model.crop)
        signals = self._follow(reader, source)
        if model.adapter.posed:
            fine = self.cfg.paste_back and self.cfg.detail > 0
            signals.pose(source, self.cfg, max(own_size(source), model.crop.size) if fine else None)
        self._describe(model, reader)
        sheet = self._write(model, source, reader, signals, settings)
        return sheet, f"{model.sampling.steps} steps, seed {model.sampling.seed}"

    def _draft(self, picture: np.ndarray, reader: VideoReader, settings: dict[str, str]) -> tuple[SheetCollector, str]:
        """The portrait's own 3D head over the driver's face, without a model."""
        with PortraitInMaking() as portrait:
            source = draft_source(picture, self.cfg)
            portrait.begin(source)
            signals = self._follow(reader, source, portrait.check)
            count, begin = self._timing(reader).num_frames, self._begin
            signals.pose(source, self.cfg, portrait=portrait.result(), last=count)
        stage = self.screen.stage("drawing", count - begin, "frames")
        with self._writing(source, reader, settings) as film:
            for number, posed in enumerate(signals.posed(), begin):
                self.stop.check()
                film.add(number, posed.picture)
                stage.advance()
                if (number + 1) % DRAFT_PART == 0:
                    film.boundary(number + 1)
        if self.cfg.contact_sheet:
            for frames in signals.show(film.sheet.frames):
                self.stop.check()
                film.show(frames.first, frames.pictures[0], frames.masked[0])
        stage.done()
        return film.sheet, f"draft, {source.rule.size} px"

    def _timing(self, reader: VideoReader) -> Timing:
        """Of the frames that are wanted."""
        return reader.timing if self.cfg.max_frames is None else reader.timing.first(self.cfg.max_frames)

    @property
    def _begin(self) -> int:
        """The first frame that is made: 0, or where a stopped run can go on."""
        return self.output.checkpoint.start if self.output.checkpoint else 0

    def _writing(self, source: Source, reader: VideoReader, settings: dict[str, str]) -> Film:
        timing = self._timing(reader)
        if self.output.checkpoint:
            self.screen.say(f"goes on at frame {self._begin} of {timing.num_frames}")
        sound = self.cfg.driving if reader.info.has_audio else None
        cut = timing.num_frames < reader.num_frames
        return Film(self.output, source, timing, settings, paste=self.cfg.paste_back, sound=sound, cut_sound=cut)

    def _load(self) -> Model:
        from .pipeline import load_model

        stage = self.screen.stage("loading the model")
        model = load_model(self.cfg)
        stage.done()
        return model

    def _follow(
        self, reader: VideoReader, source: Source, also_check: Callable[[], None] = lambda: None
    ) -> DrivingSignals:
        """First reading of the driver; `also_check` may raise to stop."""
        declared = max(0, reader.info.declared_frames - self.cfg.start)
        stage = self.screen.stage("following the face", declared or None, "frames")

        def on_frame(number: int) -> None:
            self.stop.check()
            also_check()
            stage.advance()

        track = follow_driver(reader, self.cfg, on_frame)
        stage.done()
        for problem in reader.problems:
            log.warning("%s", problem)
        return DrivingSignals(reader, track, source, self.cfg, self._begin)

    def _describe(self, model: Model, reader: VideoReader) -> None:
        timing = self._timing(reader)
        rate = f"{float(timing.fps):.6g} frames/s" if timing.constant else "variable frame rate, timestamps kept"
        sampling, sound = model.sampling, "with sound" if reader.info.has_audio else "no sound"
        self.screen.say(
            f"{timing.num_frames} frames, {rate}, {sound}; {model.crop.size} px, {sampling.steps} steps "
            f"({sampling.solver}), seed {sampling.seed}, {model.device}, {str(model.dtype).removeprefix('torch.')}"
        )

    def _write(
        self, model: Model, source: Source, reader: VideoReader, signals: DrivingSignals, settings: dict[str, str]
    ) -> SheetCollector:
        """Second reading: sample, decode and write, a segment at a time."""
        import torch

        from .pipeline import Position, animate_frames, count_steps

        total, limit = reader.num_frames, self._timing(reader).num_frames
        kept = self.output.checkpoint
        history = None if kept is None or kept.history is None else torch.from_numpy(kept.history)
        begin = Position(self._begin, history)
        stage = self.screen.stage("animating", count_steps(model, total, limit, begin), "steps")
        with self._writing(source, reader, settings) as film:

            def on_segment(position: Position) -> None:
                film.boundary(position.frame, None if position.history is None else position.history.numpy())

            frames = animate_frames(
                model, source.cropped, signals, total, self._on_step(stage),
                limit=limit, begin=begin, on_segment=on_segment,
            )  # fmt: skip
            for frame in frames:
                self.stop.check()
                film.show(frame.number, frame.driver, frame.masked)
                film.add(frame.number, self._detailed(frame))
        stage.done()
        return film.sheet

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

    def _save_sheet(self, sheet: SheetCollector, told: str) -> None:
        names = f"{self.cfg.source.name} + {self.cfg.driving.name}"
        try:
            self.output.write_sheet(encode_image(sheet.render(f"{names}, {told}, {self.cfg.motion} motion")))
        except MediaError as error:  # the video is whole and in its place
            log.warning("no contact sheet: %s", error)
