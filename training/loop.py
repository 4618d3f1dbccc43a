"""The training loop: rectified flow on clips, one branch of the fusion per micro-batch, a curriculum, exact resume."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, cast

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedDataParallelKwargs, broadcast_object_list
from torch import Tensor

from ..errors import UserError
from ..model.flow import add_noise, velocity_target
from ..model.fusion import Branch
from .bf16_copy import BF16Copy
from .checkpoint import LAST, Progress, load_checkpoint, run_folder, save_checkpoint
from .config import StageSettings, TrainConfig, config_from_json
from .data.windows import ClipBatch
from .ema import Ema
from .loss import draw_sigmas, flow_loss, region_weight_map
from .monitor import Monitor, conditions_of
from .optim import build_optimizer, set_learning_rate
from .schedule import draw_branch, learning_rate, progress_at, rng, stage_at
from .setup import build_denoiser, describe, export_weights, load_clips, open_gates
from .sharding import gather_into, gathered, shard, whole

log = logging.getLogger(__name__)

WINDOW, NOISE, SIGMA, BRANCH, HISTORY = range(5)  # what a random stream is for
StopRule = Callable[[Progress], bool]


@dataclass(frozen=True)
class TrainResult:
    """How a run ended; `finished` is False if it was stopped and can be resumed."""

    step: int
    finished: bool
    weights: Path  # folder with base.safetensors (if the base was trained) and adapter.safetensors


class Trainer:
    """One process's part of a run. `run` does everything; the other methods are its steps."""

    def __init__(self, config: TrainConfig, out: Path) -> None:
        self.config, self.out = config, out
        self.progress = Progress(config=config.to_json())
        torch.manual_seed(config.seed)
        self.accelerator = Accelerator(
            cpu=_several_on_cpu(),
            mixed_precision="no" if config.precision == "bf16-weights" else config.precision,
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],  # branches leave some unused
        )
        self.clips, self.heldout = load_clips(config)
        self.denoiser = build_denoiser(config)
        open_gates(self.denoiser.adapter, 0, config.gate_steps)  # before it is seen what is trained
        self.sharded = config.sharding == "fsdp" and self.accelerator.num_processes > 1
        self.plain = deepcopy(self.denoiser) if self.sharded and self.accelerator.is_main_process else None
        self.denoiser.to(self.accelerator.device)
        if self.sharded:
            shard(self.denoiser, self.accelerator.device, self.accelerator.num_processes)
        optimizer = build_optimizer(self.denoiser, config.optim)
        self.bf16_copy = BF16Copy(self.denoiser) if config.precision == "bf16-weights" else None
        running = self.bf16_copy.module if self.bf16_copy is not None else self.denoiser
        if self.sharded:
            self.model, self.optimizer = self.denoiser, self.accelerator.prepare(optimizer)
        else:
            self.model, self.optimizer = self.accelerator.prepare(running, optimizer)
        self.trained = [p for p in self.denoiser.parameters() if p.requires_grad]
        self.ema = Ema(self.denoiser, config.optim.ema)
        self.monitor = Monitor(config, out, self.denoiser, self.heldout, self.accelerator)
        self.clock = 0.0

    @property
    def checkpoint_path(self) -> Path:
        """The one checkpoint that is kept, besides the exported best weights."""
        return self.out / "checkpoints" / LAST

    def resume(self) -> None:
        """Go on from the last checkpoint. Raises `UserError` if there is none or it is of another configuration."""
        saved = load_checkpoint(self.checkpoint_path, self.denoiser, [self.optimizer.optimizer], self.ema)
        _check_same(saved.config, self.config.to_json(), str(self.checkpoint_path))
        saved.config = self.progress.config
        self.progress = saved
        log.info("resumed at step %d, %.1f minutes spent", saved.step, saved.seconds / 60)

    def run(self, should_stop: StopRule) -> TrainResult:
        """Train until the budget is spent or `should_stop`; always leaves a checkpoint."""
        spent = self.progress.seconds
        self.clock = time.monotonic() - spent
        saved_at = spent
        self.monitor.open(self.progress.step, spent)
        try:
            while (share := self._share()) < 1.0 and not self._agree(should_stop(self.progress)):
                self._enter_stage(share)
                self.train_step(share)
                self._watch()
                if self.progress.seconds - saved_at >= 60 * self.config.watch.checkpoint_minutes:
                    with self.monitor.pause():
                        self.save()
                    saved_at = self.progress.seconds
            finished = self._share() >= 1.0
            self._finish(finished)
        finally:
            self.monitor.close()
        return TrainResult(self.progress.step, finished, self.out / "weights")

    def _share(self) -> float:
        """Share of the budget spent; with a time budget all processes go by the first one's clock."""
        self.progress.seconds = time.monotonic() - self.clock
        if self.config.minutes and self.accelerator.num_processes > 1:
            seconds = [self.progress.seconds]
            broadcast_object_list(seconds)
            self.progress.seconds = seconds[0]
        return progress_at(self.config, self.progress.step, self.progress.seconds)

    def _agree(self, stop: bool) -> bool:
        """Whether any process was asked to stop: then all do."""
        if self.accelerator.num_processes == 1:
            return stop
        return bool(self._most(torch.tensor(int(stop), device=self.accelerator.device)))

    def _most(self, count: Tensor) -> int:
        """The largest value of a scalar in all processes."""
        return int(cast(Tensor, self.accelerator.gather(count[None])).max())

    def _enter_stage(self, share: float) -> None:
        index = self.config.stages.index(stage_at(self.config.stages, share))
        if index != self.progress.stage:
            log.info("step %d: stage %d of the curriculum begins", self.progress.step, index + 1)
            self.progress.stage, self.progress.best_loss = index, None  # losses of stages do not compare

    @property
    def stage(self) -> StageSettings:
        """The current stage of the curriculum."""
        return self.config.stages[self.progress.stage]

    def train_step(self, share: float) -> None:
        """One update of the weights."""
        step, optim = self.progress.step, self.config.optim
        rate = learning_rate(optim, step, share)
        set_learning_rate(self.optimizer, rate)
        self.optimizer.zero_grad(set_to_none=True)
        self._open_gates()
        if self.bf16_copy is not None:
            self.bf16_copy.take_weights()
        for micro in range(optim.accumulate):
            last = micro == optim.accumulate - 1
            with nullcontext() if last or self.sharded else self.accelerator.no_sync(self.model):
                self.accelerator.backward(self._micro_batch(step, micro) / optim.accumulate)
        if self.bf16_copy is not None:
            self.bf16_copy.give_gradients()
        norm = self.accelerator.clip_grad_norm_(self.trained, optim.clip)
        self.optimizer.step()
        self.ema.update()
        self.progress.step += 1
        self.monitor.after_step(whole(norm) if isinstance(norm, Tensor) else norm, rate)

    def _open_gates(self) -> None:
        """As far as the step says, in every copy of the model."""
        for copy in (self.denoiser, self.bf16_copy and self.bf16_copy.module, self.plain):
            if copy is not None:
                open_gates(copy.adapter, self.progress.step, self.config.gate_steps)

    def draw(self, step: int, micro: int) -> tuple[ClipBatch, Branch, Tensor, Tensor]:
        """Batch, branch, noise levels (B,) and noise like the target of a micro-batch: a function of the seed and the
        place in the run alone. Sample i is the same however many processes share the global batch."""
        stage, seed, world = self.stage, self.config.seed, self.accelerator.num_processes
        first = (micro * world + self.accelerator.process_index) * stage.batch
        places = range(first, first + stage.batch)
        windows = [rng(seed, step, WINDOW, i) for i in places]
        clips = self.clips.at(step)
        batch = clips.sample(windows, stage.frames, stage.history, stage.strides, self.config.data)
        shape = batch.target.shape[1:]
        noise = torch.stack([torch.randn(shape, generator=rng(seed, step, NOISE, i)) for i in places])
        total = stage.batch * world * self.config.optim.accumulate
        sigmas = draw_sigmas(total, self.config.loss, rng(seed, step, SIGMA))[first : first + stage.batch]
        return batch, draw_branch(stage.branches, rng(seed, step, BRANCH, micro)), sigmas, noise

    def _micro_batch(self, step: int, micro: int) -> Tensor:
        batch, branch, sigmas, noise = self.draw(step, micro)
        batch = batch.to(self.accelerator.device)
        sigmas, noise = sigmas.to(batch.target.device), noise.to(batch.target.device)
        adapter, past = self.denoiser.adapter.config, self._noisy_history(batch, step, micro)
        conditions = conditions_of(batch, branch, adapter, past, self._least_tokens(batch))
        noisy = add_noise(batch.target, noise, sigmas)
        if self.bf16_copy is not None:
            noisy, conditions = noisy.to(self.bf16_copy.dtype), self.bf16_copy.cast(conditions)
        with self.accelerator.autocast() if self.sharded else nullcontext():
            velocity = self.model(noisy, sigmas, conditions)
        weight = region_weight_map(batch.regions, self.config.loss.region_weights)
        loss, per_sample = flow_loss(
            velocity, velocity_target(batch.target, noise), sigmas, weight, self.config.loss.weighting
        )
        self.monitor.add(branch, sigmas, per_sample)
        return loss

    def _noisy_history(self, batch: ClipBatch, step: int, micro: int) -> Tensor:
        """History at a random noise level per sample: what the model made itself is never quite clean."""
        if not self.stage.history_noise or not batch.history.shape[1]:
            return batch.history
        first = (micro * self.accelerator.num_processes + self.accelerator.process_index) * self.stage.batch
        generators = [rng(self.config.seed, step, HISTORY, first + i) for i in range(len(batch.history))]
        level = torch.cat([torch.rand(1, generator=g) for g in generators]) * self.stage.history_noise
        noise = torch.stack([torch.randn(batch.history.shape[1:], generator=g) for g in generators])
        return add_noise(batch.history, noise.to(batch.history.device), level.to(batch.history.device))

    def _least_tokens(self, batch: ClipBatch) -> int:
        """Driving tokens that the neediest frame in any process needs: all keep as many."""
        if self.accelerator.num_processes == 1:
            return 0
        return self._most(batch.needed_tokens(self.config.base.architecture.patch))

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """Inside, the denoiser has its averaged weights, whole."""
        with self.ema.applied(), gathered(self.denoiser):
            yield

    def _watch(self) -> None:
        """Logs, held-out probes and sample grids, as often as the settings say; best weights are exported."""
        step, watch = self.progress.step, self.config.watch
        if step % watch.log_every == 0:
            self.monitor.report(self.progress)
        with self.monitor.pause():
            if watch.probe_every and step % watch.probe_every == 0:
                self._probe()
            if self.monitor.grid_is_due(self.progress.seconds):
                with self._averaged():
                    self.monitor.grid(self.progress)

    def _probe(self) -> None:
        with self._averaged():
            loss = self.monitor.probe(self.progress, self.stage)
            best = self.progress.best_loss
            if best is None or loss < best:
                self.progress.best_loss, self.progress.best_step = loss, self.progress.step
                self._export("best")

    def save(self) -> None:
        """Checkpoint and current averaged weights; only the main process writes."""
        main = self.accelerator.is_main_process
        if main or self.sharded:
            parts = self.denoiser, [self.optimizer.optimizer], self.ema
            save_checkpoint(self.checkpoint_path, self.progress, *parts, write=main)
            with self._averaged():
                self._export("weights")
        self.accelerator.wait_for_everyone()

    def _export(self, name: str) -> None:
        if self.sharded:
            gather_into(self.plain, self.denoiser)
        if self.accelerator.is_main_process:
            info = {**(self.config.info or {}), "training": describe(self.config, self.progress)}
            export_weights(self.plain or self.denoiser, self.out / name, info, with_base=self.config.base.train)

    def _finish(self, finished: bool) -> None:
        self.save()
        if finished and self.progress.step % (self.config.watch.probe_every or 1):
            self._probe()
        if finished and self.config.watch.grid_minutes:
            with self._averaged():
                self.monitor.grid(self.progress)
        log.info(
            "%s at step %d after %.1f minutes; weights in %s",
            "finished" if finished else "stopped",
            self.progress.step,
            self.progress.seconds / 60,
            self.out / "weights",
        )


def _check_same(saved: dict[str, Any], now: dict[str, Any], path: str) -> None:
    """A run may be resumed with another budget, other logging or its data elsewhere, not with another model or seed."""
    free = {"name", "steps", "minutes", "watch", "info", "compile", "sharding", "start"}
    try:
        saved = config_from_json(saved).to_json()  # settings that are younger than the checkpoint get their defaults
    except UserError as error:
        log.debug("%s: %s", path, error)
    saved_json, now_json = _as_lists(saved), _as_lists(now)
    for settings in (saved_json, now_json):
        settings.get("data", {}).pop("root", None)
        if settings.get("base", {}).get("train"):
            settings["base"].pop("path", None)  # where the weights came from at the start
    different = [k for k in now_json if k not in free and saved_json.get(k) != now_json[k]]
    if different:
        raise UserError(
            f"{path} was made with other settings of: {', '.join(different)}. Use the same configuration, another "
            "--out, or start anew without --resume"
        )


def _as_lists(value: Any) -> Any:
    """Tuples as lists, as JSON gives them back."""
    if isinstance(value, dict):
        return {k: _as_lists(v) for k, v in value.items()}
    return [_as_lists(v) for v in value] if isinstance(value, list | tuple) else value


def _several_on_cpu() -> bool:
    """Whether a launcher started several processes on a machine without a GPU: accelerate has to be told."""
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    return not alone and not (torch.cuda.is_available() or torch.xpu.is_available())


@contextmanager
def _stop_on_signals() -> Iterator[Callable[[], bool]]:
    """Inside, SIGTERM and SIGINT only ask for a stop after the current step; a second one acts as usual."""
    asked: list[int] = []
    before: dict[int, Any] = {}

    def ask(number: int, frame: FrameType | None) -> None:
        asked.append(number)
        signal.signal(number, before[number])

    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            before[number] = signal.getsignal(number)
            signal.signal(number, ask)
    except ValueError:  # not in the main thread: signals are somebody else's
        log.debug("not in the main thread: signals are not caught")
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is ask:
                signal.signal(number, handler)


@contextmanager
def _log_to(path: Path) -> Iterator[None]:
    """Inside, log lines of the package go to a file and to stdout, and nowhere else; the main process's only."""
    package = logging.getLogger(__name__.split(".")[0])
    handlers: list[logging.Handler] = [logging.NullHandler()]
    if PartialState(cpu=_several_on_cpu()).is_main_process:
        handlers = [logging.FileHandler(path, encoding="utf-8"), logging.StreamHandler(sys.stdout)]
    before = package.level, package.propagate
    package.setLevel(logging.INFO)
    package.propagate = False
    for handler in handlers:
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
        package.addHandler(handler)
    try:
        yield
    finally:
        package.setLevel(before[0])
        package.propagate = before[1]
        for handler in handlers:
            package.removeHandler(handler)
            handler.close()


def train(
    config: TrainConfig, out: str | Path, *, resume: bool = False, should_stop: StopRule | None = None
) -> TrainResult:
    """Train as configured and write checkpoints, logs, sample grids and weights under `out`.

    SIGTERM and SIGINT end the run after the current step, with a checkpoint; so does `should_stop(progress)`.
    Raises `UserError` if `out` has a run already and `resume` is False, or if there is nothing to resume.
    """
    out = Path(out)
    if not resume and (out / "checkpoints" / LAST).exists():
        raise UserError(f"{out} holds a run already: resume it (--resume) or choose another --out")
    kept = out / "checkpoints" / LAST
    with run_folder(out, kept), _log_to(out / "train.log"), _stop_on_signals() as asked:
        trainer = Trainer(config, out)
        if resume:
            trainer.resume()
        return trainer.run(lambda progress: asked() or (should_stop is not None and should_stop(progress)))
