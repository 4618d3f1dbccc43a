"""Many videos with one model: a list of jobs, made one after another; what is done is not made again.

A list is one of three:
- TOML: `root` (where paths start, relative to the file; by default its folder), [defaults] with settings for all, and
  [[job]] with `source`, `driving`, optionally `output` and any setting of `svdp.animate`.
- CSV: the same as columns; empty cells are left out.
- a folder: each of its pictures with each of its videos.
Outputs lie in one folder, each named after its picture and clip if the list does not name it.
"""

from __future__ import annotations

import csv
import json
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from ..errors import Cancelled, MediaError, UserError
from ..model.checks import shortened
from .config import MOTION_FILES, NO_FILES, AnimateConfig, WeightFiles

if TYPE_CHECKING:
    from .pipeline import LoadedModel
    from .stages import Display, Stop

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

log = logging.getLogger(__name__)

JOURNAL = "svdp-jobs"  # name of the journals, without their ending
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".avif")
VIDEOS = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".m4v", ".gif")
_A_LONG_TIME = timedelta(days=100)
_PATHS = ("source", "driving", "output")
_OF_THE_RUN = ("weights", "strength", "device", "dtype", "overwrite", "resume")  # the same for all jobs
_SETTINGS = tuple(f.name for f in fields(AnimateConfig) if f.name not in (*_PATHS, *_OF_THE_RUN))


@dataclass(frozen=True)
class Job:
    """One video to make. `settings` are those of `svdp.animate` that are not the same for all jobs."""

    source: Path
    driving: Path
    output: Path
    settings: Mapping[str, Any]

    @property
    def stamp(self) -> dict[str, Any]:
        """What the result is made from and with; another stamp is another result."""
        settings = {key: str(value) if key in MOTION_FILES else value for key, value in self.settings.items()}
        if "motion_file" in settings:
            settings["motion_file"] = _seen(self.settings["motion_file"])
        return {"settings": settings, "source": _seen(self.source), "driving": _seen(self.driving)}


@dataclass(frozen=True)
class Outcome:
    """What became of a job."""

    job: Job
    state: Literal["done", "kept", "failed"]  # kept: it was there already
    reason: str = ""  # why it failed
    seconds: float = 0.0


def read_jobs(path: Path | str, out: Path | str | None = None) -> list[Job]:
    """The jobs of a TOML or CSV list or of a folder (see above), with `out` as the folder of their outputs.

    By default outputs lie beside the list, or in the folder. Raises UserError that names the file, the job and the key.
    """
    path = Path(path)
    folder = Path(out) if out is not None else path if path.is_dir() else path.parent
    if path.is_dir():
        jobs = _from_folder(path, folder)
    elif not path.is_file():
        raise UserError(f"list of jobs {path} does not exist: give a TOML or CSV file, or a folder")
    elif path.suffix.lower() == ".csv":
        jobs = _from_csv(path, folder)
    else:
        jobs = _from_toml(path, folder)
    if not jobs:
        raise UserError(f"{path} holds no job: a list needs [[job]] or lines, a folder needs pictures and videos")
    _check_outputs(path, jobs)
    return jobs


def my_share(jobs: Sequence[Job]) -> list[Job]:
    """Those of this process, where a launcher such as `accelerate launch` started several; all of them otherwise.

    Every process takes each so many-th job, by the launcher's RANK and WORLD_SIZE.
    """
    rank, size = _number("RANK", 0), _number("WORLD_SIZE", 1)
    return list(jobs[rank :: max(1, size)])


def local_device(device: str) -> str:
    """ "auto" as this process's own graphics card, where a launcher started several on a machine."""
    local = os.environ.get("LOCAL_RANK", "")
    return f"cuda:{local}" if device == "auto" and local.isdigit() and _has_cards(int(local)) else device


def wait_for_others() -> None:
    """Return when every process that torch's launcher started with this one has called it, too.

    The launcher ends all of them as soon as one ends with an exit code, so none may say that a job failed before the
    others are done. Does nothing where there is no such launcher.
    """
    if _number("WORLD_SIZE", 1) < 2 or "TORCHELASTIC_RUN_ID" not in os.environ:
        return
    from torch import distributed

    distributed.init_process_group("gloo", timeout=_A_LONG_TIME)
    distributed.barrier()
    distributed.destroy_process_group()


def run_jobs(
    jobs: Iterable[Job],
    model: LoadedModel | None,
    out: Path | str,
    *,
    overwrite: bool = False,
    display: Display | None = None,
    stop: Stop | None = None,
    on_outcome: Callable[[Outcome], None] | None = None,
) -> list[Outcome]:
    """Make every job's video with one model (None: drafts only); a job that fails does not stop the others.

    A journal in the folder `out` says what was made from and with what. A job whose result is there and is still what
    the list asks for is kept, and one that was stopped goes on, so that a stopped list is simply run again. Any other
    file under an output's name is replaced with `overwrite` alone; then a stopped job begins anew, too. Raises
    Cancelled if `stop` does, after the job under way has settled.
    """
    from .api import CancelRequest, Told

    display, stop = display or Told(None), stop or CancelRequest(None)
    journal, outcomes = Journal(Path(out), model), []
    for job in jobs:
        stop.check()
        if journal.holds(job):
            outcome = Outcome(job, "kept")
        else:
            new = not job.output.exists()
            if new:  # then a file of that name is ours and whole, even if this process ends before it can say so
                journal.note(job)
            outcome = _made(job, model, overwrite, display, stop)
            if not new and outcome.state == "done":
                journal.note(job)
        outcomes.append(outcome)
        if on_outcome is not None:
            on_outcome(outcome)
    return outcomes


class Journal:
    """JSON files in the folder of the outputs, one a process: by an output's path, what it is made from and with."""

    def __init__(self, folder: Path, model: LoadedModel | None) -> None:
        rank = _number("RANK", 0)
        self.path = folder / (f"{JOURNAL}.json" if rank == 0 else f"{JOURNAL}.{rank}.json")
        self._model = _stamp_of(model)
        self._all: dict[str, Any] = {}
        for file in sorted(folder.glob(f"{JOURNAL}*.json")):
            self._all |= _read_journal(file)
        self._own = _read_journal(self.path)

    def holds(self, job: Job) -> bool:
        """Whether the job's result is there and is what it asks for."""
        return job.output.is_file() and self._all.get(_key(job)) == self._entry(job)

    def note(self, job: Job) -> None:
        """Write down what the job's result is made from. Raises MediaError if the file cannot be written."""
        self._own[_key(job)] = self._all[_key(job)] = self._entry(job)
        part = self.path.with_name(self.path.name + ".part")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            part.write_text(json.dumps(self._own, indent=1), encoding="utf-8")
            os.replace(part, self.path)
        except OSError as error:
            raise MediaError(f"cannot write {self.path} ({error.strerror}): choose another folder") from error

    def _entry(self, job: Job) -> Any:
        """As it comes back from JSON."""
        model = None if job.settings.get("draft") else self._model
        return json.loads(json.dumps({**job.stamp, "model": model}))


def _made(job: Job, model: LoadedModel | None, replace: bool, display: Display, stop: Stop) -> Outcome:
    from .api import output_of, run
    from .media import Media

    try:
        cfg = AnimateConfig(
            source=job.source, driving=job.driving, output=job.output, weights=NO_FILES, overwrite=replace,
            resume=not replace, **job.settings,
        )  # fmt: skip
        if model is None and not cfg.draft:
            raise UserError("without a model there are drafts only: set draft = true")
        output = output_of(cfg, Media(), model)
        output.advice = ""  # the list is run again
        result = run(cfg, output, display, stop, loaded=model)
    except Cancelled:
        raise
    except UserError as error:
        return Outcome(job, "failed", " ".join(str(error).split()))
    except Exception as error:  # noqa: BLE001 (whatever is wrong with one job, the others are made)
        log.debug("%s", traceback.format_exc())
        return Outcome(job, "failed", f"{type(error).__name__}: {shortened(str(error), plain=True)}")
    return Outcome(job, "done", seconds=result.seconds)


def _from_folder(path: Path, out: Path) -> list[Job]:
    files = sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith("."))
    made = {p for p in files if ".sheet" in p.suffixes or ".partial" in p.suffixes}
    pictures = [p for p in files if p.suffix.lower() in PICTURES and p not in made]
    videos = [p for p in files if p.suffix.lower() in VIDEOS and p not in made]
    if out.resolve() == path.resolve():
        raise UserError(f"{path} holds the inputs: choose another folder for the outputs with --out")
    return [Job(p, v, out / f"{p.stem}-{v.stem}.mp4", {}) for p in pictures for v in videos]


def _from_csv(path: Path, out: Path) -> list[Job]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file, strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"list of jobs {path} is not CSV in UTF-8 ({error})") from error
    except OSError as error:
        raise UserError(f"list of jobs {path} cannot be read ({error.strerror})") from error
    jobs = []
    for number, row in enumerate(rows, 2):
        where = f"{path}, line {number}"
        if None in row or None in row.values():
            raise UserError(f"{where}: it has more or fewer cells than the first line names")
        filled = {key.strip(): text.strip() for key, text in row.items() if text.strip()}
        _check_keys(where, filled)
        typed = {key: text if key in _PATHS else _parsed(f"{where} {key}", key, text) for key, text in filled.items()}
        jobs.append(_job(where, typed, path.parent, out))
    return jobs


def _from_toml(path: Path, out: Path) -> list[Job]:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise UserError(f"list of jobs {path} is not text in UTF-8") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UserError(f"list of jobs {path} is not valid TOML ({error})") from error
    except OSError as error:
        raise UserError(f"list of jobs {path} cannot be read ({error.strerror})") from error
    unknown = sorted(set(table) - {"root", "defaults", "job"})
    if unknown:
        raise UserError(f"{path}: unknown key {', '.join(unknown)}; known: root, defaults, job")
    root, defaults, entries = table.get("root", "."), table.get("defaults", {}), table.get("job", [])
    if not isinstance(root, str) or not isinstance(defaults, dict) or not isinstance(entries, list):
        raise UserError(f"{path}: root must be a text, defaults a table, and job a list of tables, [[job]]")
    _check_keys(f"{path}, [defaults]", defaults, paths=False)
    jobs = []
    for number, entry in enumerate(entries, 1):
        where = f"{path}, job {number}"
        if not isinstance(entry, dict):
            raise UserError(f"{where} must be a table, got {shortened(entry)}")
        _check_keys(where, entry)
        jobs.append(_job(where, {**defaults, **entry}, path.parent / root, out))
    return jobs


def _job(where: str, table: Mapping[str, Any], root: Path, out: Path) -> Job:
    for key in ("source", "driving"):
        if key not in table:
            raise UserError(f"{where}: {key} is missing")
    for key in (*_PATHS, *MOTION_FILES):
        if not isinstance(table.get(key, ""), str) or "\0" in table.get(key, ""):
            raise UserError(f"{where}: {key} must be a path, got {shortened(table[key])}")
    source, driving = root / table["source"], root / table["driving"]
    output = out / table.get("output", f"{source.stem}-{driving.stem}.mp4")
    settings: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in table.items() if k not in _PATHS}
    settings |= {key: base / table[key] for key, base in zip(MOTION_FILES, (root, out), strict=True) if key in table}
    weights = WeightFiles(base=root, adapter=root, autoencoder=root)
    try:  # a setting that cannot work is told before anything is made
        AnimateConfig(source=source, driving=driving, output=output, weights=weights, **settings)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    return Job(source, driving, output, settings)


def _check_keys(where: str, table: Mapping[str, Any], paths: bool = True) -> None:
    known = (*_PATHS, *_SETTINGS) if paths else _SETTINGS
    unknown = sorted(set(table) - set(known))
    if unknown:
        common = sorted(set(unknown) & set(_OF_THE_RUN))
        hint = f" ({', '.join(common)} is the same for all jobs)" if common else ""
        raise UserError(f"{where}: unknown key {', '.join(unknown)}{hint}; known: {', '.join(known)}")


def _parsed(where: str, key: str, text: str) -> Any:
    """A CSV cell as the setting's type."""
    kinds = set(_atoms(get_type_hints(AnimateConfig)[key]))
    if tuple in kinds:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    if bool in kinds:
        if text.lower() not in ("true", "false"):
            raise UserError(f"{where} must be true or false, got {shortened(text)}")
        return text.lower() == "true"
    for kind in (int, float):
        if kind in kinds:
            try:
                return kind(text)
            except ValueError as error:
                raise UserError(f"{where} must be a number, got {shortened(text)}") from error
    return text


def _atoms(kind: Any) -> Iterator[Any]:
    if get_origin(kind) is tuple:
        yield tuple
    elif get_args(kind):
        for part in get_args(kind):
            yield from _atoms(part)
    else:
        yield kind


def _check_outputs(path: Path, jobs: Sequence[Job]) -> None:
    seen: dict[Path, Job] = {}
    for job in jobs:
        for key, file in (("output", job.output), ("save_motion", job.settings.get("save_motion"))):
            if file is not None and file.resolve() in seen:
                raise UserError(f"{path}: two jobs write {file}: give each its own `{key}`")
            if file is not None:
                seen[file.resolve()] = job
    for job in jobs:
        for file in (job.source, job.driving, job.settings.get("motion_file")):
            if file is None:
                continue
            if file.resolve() in seen:
                raise UserError(f"{path}: {file} is an input of one job and the output of another")


def _seen(path: Path) -> list[Any]:
    """A file as it stands: its place, size and time."""
    try:
        stat = path.stat()
    except OSError:
        return [str(path.resolve())]
    return [str(path.resolve()), stat.st_size, stat.st_mtime_ns]


def _key(job: Job) -> str:
    return str(job.output.resolve())


def _stamp_of(model: LoadedModel | None) -> Any:
    if model is None:
        return None
    files = model.weights.base, model.weights.adapter, model.weights.autoencoder
    return [*map(_seen, files), model.denoiser.strength, str(model.dtype)]


def _read_journal(path: Path) -> dict[str, Any]:
    """A journal; an unreadable one is as good as none: the jobs are made again, if they may be."""
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return table if isinstance(table, dict) else {}


def _number(name: str, otherwise: int) -> int:
    text = os.environ.get(name, "")
    return int(text) if text.isdigit() else otherwise


def _has_cards(number: int) -> bool:
    import torch

    return torch.cuda.is_available() and torch.cuda.device_count() > number
