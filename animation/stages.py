"""The stages of a run in order, and what is told of them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ..errors import MediaError, UserError
from ..signals.detail import transfer_detail
from ..signals.images import encode_image
from ..signals.track import FaceTrack
from ..signals.video import Timing
from .config import AnimateConfig
from .draft import PortraitInMaking
from .driver import DrivingSignals, Source, draft_source, find_source, follow_driver
from .film import Film
from .kept import settings_of
from .loading import ModelInLoading
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

DRAFT_PART = 16  # frames of a draft after which it could go on


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
        self.signals: DrivingSignals | None = None

    def run(self) -> int:
        """All stages, cheap checks first; returns the number of frames."""
        picture = self.media.picture(self.cfg)
        reader = self.media.reader(self.cfg)
        settings: dict[str, str] = {}
        if self.output is not None:
            settings = settings_of(self.cfg, self.media, self.loaded)
            self.output.check_settings(settings)
        if self.cfg.draft:
            sheet, told = self._draft(picture, reader, settings)
        else:
            sheet, told = self._by_model(picture, reader, settings)
        self.timing = self._timing(reader)
        self._keep_motion()
        if self.output is not None:
            self.output.commit()
            if self.cfg.contact_sheet:
                self._save_sheet(self.output, sheet, told)
        return self.timing.num_frames

    def _by_model(self, picture: np.ndarray, reader: Clip, settings: dict[str, str]) -> tuple[SheetCollector, str]:
        with ModelInLoading(self.cfg, self.loaded) as loading:
            loading.begin(picture, find_source(picture, self.cfg))
            track = self._follow(reader, loading.check)
            model = self._result(loading)
            if self.cfg.moves and not model.adapter.posed:
                raise UserError("this adapter takes no posed source, so motion cannot be edited: add --draft")
            source, head = loading.head()
        with closing(self._signals(reader, track, source)) as signals:
            if head is not None:
                signals.pose(source, self.cfg, head)
            self._describe(model, reader)
            sheet = self._write(model, source, reader, signals, settings)
        return sheet, f"{model.sampling.steps} steps, seed {model.sampling.seed}"

    def _draft(self, picture: np.ndarray, reader: Clip, settings: dict[str, str]) -> tuple[SheetCollector, str]:
        """The portrait's own 3D head over the driver's face, without a model."""
        with PortraitInMaking() as portrait:
            source = draft_source(picture, self.cfg)
            portrait.begin(source)
            signals = self._signals(reader, self._follow(reader, portrait.check), source)
            count, begin = self._timing(reader).num_frames, self._begin
            signals.pose(source, self.cfg, portrait.result(), last=count)
        stage = self.screen.stage("drawing", count - begin, "frames")
        with self._writing(source, reader, settings) as film:
            for number, posed in enumerate(signals.posed(), begin):
                self.stop.check()
                film.add(number, posed.picture)
                stage.advance()
                if (number + 1) % DRAFT_PART == 0:
                    film.boundary(number + 1)
        if self.output is not None and self.cfg.contact_sheet:
            for frames in signals.show(film.sheet.frames):
                self.stop.check()
                film.show(frames.first, frames.pictures[0], frames.masked[0])
        stage.done()
        return film.sheet, f"draft, {source.rule.size} px"

    def _timing(self, reader: Clip) -> Timing:
        """Of the frames that are wanted."""
        return reader.timing if self.cfg.max_frames is None else reader.timing.first(self.cfg.max_frames)

    @property
    def _begin(self) -> int:
        """The first frame that is made: 0, or where a stopped run can go on."""
        return self.output.checkpoint.start if self.output is not None and self.output.checkpoint else 0

    def _writing(self, source: Source, reader: Clip, settings: dict[str, str]) -> Film:
        timing = self._timing(reader)
        if self.output is not None and self.output.checkpoint:
            self.screen.say(f"goes on at frame {self._begin} of {timing.num_frames}")
        sound = self.cfg.driving if reader.info.has_audio else None
        cut, target = timing.num_frames < reader.num_frames, self.output or self.kept
        return Film(target, source, timing, settings, paste=self.cfg.paste_back, sound=sound, cut_sound=cut)

    def _result(self, loading: ModelInLoading) -> Model:
        """The model; it is told if it has to be waited for."""
        if self.loaded is not None or not loading.waiting:
            return loading.model()
        stage = self.screen.stage("loading the model")
        model = loading.model()
        stage.done()
        return model

    def _follow(self, reader: Clip, also_check: Callable[[], None]) -> FaceTrack:
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
        return track

    def _signals(self, reader: Clip, track: FaceTrack, source: Source) -> DrivingSignals:
        self.signals = DrivingSignals(reader, track, source, self.cfg, self._begin)
        return self.signals

    def _describe(self, model: Model, reader: Clip) -> None:
        timing = self._timing(reader)
        rate = f"{float(timing.fps):.6g} frames/s" if timing.constant else "variable frame rate, timestamps kept"
        sampling, sound = model.sampling, "with sound" if reader.info.has_audio else "no sound"
        self.screen.say(
            f"{timing.num_frames} frames, {rate}, {sound}; {model.crop.size} px, {sampling.steps} steps "
            f"({sampling.solver}), seed {sampling.seed}, {model.device}, {str(model.dtype).removeprefix('torch.')}"
        )

    def _write(
        self, model: Model, source: Source, reader: Clip, signals: DrivingSignals, settings: dict[str, str]
    ) -> SheetCollector:
        """Second reading: sample, decode and write, a segment at a time."""
        import torch

        from .pipeline import Position, animate_frames, count_steps

        total, limit = reader.num_frames, self._timing(reader).num_frames
        kept = self.output.checkpoint if self.output is not None else None
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

    def _keep_motion(self) -> None:
        """Write --save-motion, if it is wished."""
        if self.cfg.save_motion is not None and self.signals is not None and self.signals.moves is not None:
            from ..heads.motion_file import save_motion

            save_motion(self.cfg.save_motion, self.signals.moves)

    def _save_sheet(self, output: OutputFile, sheet: SheetCollector, told: str) -> None:
        names = f"{self.cfg.source.name} + {self.cfg.driving.name}"
        try:
            output.write_sheet(encode_image(sheet.render(f"{names}, {told}, {self.cfg.motion} motion")))
        except MediaError as error:  # the video is whole and in its place
            log.warning("no contact sheet: %s", error)
