"""Settings: lists and tables of TOML, CSV and JSON with values that no one means, damaged text, other encodings."""

from __future__ import annotations

import json
import logging
import math
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import svdp
from hostile.case import Generator, damaged, mutated, written
from svdp.animation.batch import read_jobs
from svdp.evaluation.columns import COLUMNS
from svdp.evaluation.manifest import read_pairs
from svdp.heads.face_motion import still
from svdp.heads.model import BUNDLED, load_head_model
from svdp.heads.motion_file import load_motion, to_text
from svdp.training.autoencoder import AutoencoderConfig
from svdp.training.config import config_from_json, load_config, read_toml
from svdp.training.data.sources import SPLITS, list_media, load_data_config
from svdp.training.recipe import load_recipe

if sys.version_info >= (3, 11):
    pass
else:
    pass

ROOT = Path(svdp.__file__).parent
CONFIGS, EXAMPLES = ROOT / "configs", ROOT / "assets" / "examples"
ENCODINGS = ("utf-16", "utf-8-sig", "latin-1", "utf-32", "cp1252")
TINY = {
    "name": "tiny", "seed": 3, "steps": 2, "precision": "no",
    "base": {"architecture": {"width": 32, "depth": 2, "heads": 2, "dual_blocks": [0], "table_size": 16,
                              "context_dim": 8, "pooled_dim": 8}},
    "adapter": {"gate": "open", "video_head_dim": 8, "segment_length": 4, "num_history": 2, "resolution": 64},
    "data": {"target_source": 0.2, "region_dropout": 0.1, "stream_shards": 0, "reverse": 0.1},
    "loss": {"shift": 3.0, "mean": 0.5, "std": 1.0, "eyes": 2.0},
    "optim": {"name": "adamw", "lr": 2e-3, "warmup": 2, "ema": 0.99, "clip": 1.0, "accumulate": 1},
    "stage": [
        {"until": 0.5, "batch": 4, "frames": 3, "strides": [1, 2]},
        {"batch": 2, "frames": 4, "history": 2, "history_noise": 0.2,
         "branches": {"u": 0.1, "s": 0.1, "d": 0.3, "p": 0.5}},
    ],
    "watch": {"log_every": 1, "probe_every": 2, "probe_clips": 2, "grid_minutes": 0.0, "checkpoint_minutes": 60.0},
}  # fmt: skip
JOB = {"source": "source.jpg", "driving": "driving.mp4", "output": "b.mp4", "steps": 2, "seed": 3, "regions": ["eyes"]}
JOBS = {"root": ".", "defaults": {"max_frames": 2, "detail": 0.5, "edit": "smile=0.2"}, "job": [JOB]}
PAIR = {"name": "a", "source": "source.jpg", "driving": "driving.mp4", "start": 1, "max_frames": 5}
PAIRS = {
    "root": str(EXAMPLES),
    "least": {"median": {"yaw": 0.8}, "every": {"faces": 0.9}},
    "pair": [PAIR, {**PAIR, "name": "b", "target": "driving.mp4", "compare": {"c": "driving.mp4"}}],
}
MEDIA = {
    "root": "examples", "origin": "a", "licence": "MIT", "portraits": ["*.jpg"], "clips": ["driving.mp4"],
    "heldout": ["source2"],
}  # fmt: skip
DATA = {
    "data": {"autoencoder": "", "head_model": "", "size": 128, "crop_scale": 1.4, "pair_share": 0.5},
    "driver": {}, "roots": {"examples": str(EXAMPLES)}, "media": [MEDIA],
}  # fmt: skip


def make_toml(*tables: Mapping[str, Any] | str) -> Callable[[np.random.Generator, Path], Path]:
    """The maker of a TOML file: one of these tables (a text names a file of configs/), changed or damaged as text."""

    def make(rng: np.random.Generator, folder: Path) -> Path:
        table = tables[int(rng.integers(len(tables)))]
        table = read_toml(CONFIGS / table) if isinstance(table, str) else table
        return written(folder / "a.toml", as_text(rng, table, toml_of))

    return make


def as_text(rng: np.random.Generator, table: Any, write: Callable[[Any], str]) -> bytes:
    """A table as a file: mostly with other values, else with damaged bytes or in another encoding."""
    kind = rng.random()
    if kind < 0.1:
        return damaged(rng, write(table).encode())
    if kind < 0.2:
        text = write({**table, "title": "\xe9"})
        return text.encode(str(rng.choice(ENCODINGS)), "replace")
    return write(mutated(rng, table)).encode("utf-8", "replace")


def toml_of(table: Mapping[str, Any]) -> str:
    """A table as TOML, everything inside it inline; the text reads back as the same table."""
    return "".join(f"{json.dumps(str(key))} = {_value(value)}\n" for key, value in table.items())


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(str(k))} = {_value(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, float) and not math.isfinite(value):
        return {math.inf: "inf", -math.inf: "-inf"}.get(value, "nan")
    return json.dumps(value)


def make_csv(rng: np.random.Generator, folder: Path) -> Path:
    """A list of jobs as CSV with odd names of columns, odd cells, damaged text."""
    row = mutated(rng, {**JOB, "regions": "eyes,mouth", "draft": "true"})
    cells = [",".join(f'"{x}"' for x in part) for part in (row.keys(), row.values())]
    data = "\n".join([*cells, *cells[1:]] if rng.random() < 0.2 else cells).encode("utf-8", "replace")
    return written(folder / "a.csv", damaged(rng, data) if rng.random() < 0.3 else data)


def make_motion(rng: np.random.Generator, folder: Path) -> Path:
    """A file of motion with odd values or damaged text."""
    return written(folder / "a.motion.json", as_text(rng, json.loads(to_text(still(_names()))), json.dumps))


def read_training(path: Path) -> None:
    """Twice: from the file, and from what a checkpoint keeps of it."""
    config = load_config(path)
    config_from_json(json.loads(json.dumps(config.to_json())))


def read_autoencoder(path: Path) -> None:
    """As `svdp train` reads the settings of an autoencoder."""
    AutoencoderConfig.from_table(read_toml(path), path.parent)


def read_data(path: Path) -> None:
    """The settings, then the files that they name."""
    config = load_data_config(path)
    for split in SPLITS:
        for kind in ("portraits", "clips", "pairs"):
            list_media(config, split, kind)


def read_list(path: Path) -> None:
    """A list of pairs."""
    read_pairs(path, [column.key for column in COLUMNS])


def read_motion(path: Path) -> None:
    """As --motion-file reads it."""
    load_motion(path, _names())


def train(path: Path) -> None:
    """At most two steps on a few kilobytes of data: what can be read must train, or be refused in a line."""
    from accelerate.state import AcceleratorState
    from svdp.training.config import with_overrides
    from svdp.training.loop import train as run

    logging.disable(logging.WARNING)
    try:
        config = with_overrides(load_config(path), data=str(_shards()), steps=2)
        run(config, path.with_name("result"))
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
        logging.disable(logging.NOTSET)


@cache
def _names() -> tuple[str, ...]:
    return load_head_model(BUNDLED).names


@cache
def _shards() -> Path:
    """Shards of random numbers: six clips to train on, three held out."""
    from svdp.training.data.shards import write_shard

    root, rng = Path(tempfile.mkdtemp(prefix="svdp-fuzz-")), np.random.default_rng(0)
    for split, count in (("train", 6), ("heldout", 3)):
        (root / split).mkdir()
        write_shard(root / split / "a.tar", [(f"clip-{i}", _clip(rng), {"provider": "a"}) for i in range(count)])
    return root


def _clip(rng: np.random.Generator) -> dict[str, np.ndarray]:
    regions = np.zeros((9, 3, 8, 8), np.uint8)
    regions[:, 0, 1:3, 1:4] = regions[:, 1, 3:5, 3:5] = regions[:, 2, 5:7, 3:6] = 255
    shapes = {"sources": (2, 16, 8, 8), "target": (9, 16, 8, 8), "driving": (9, 16, 8, 8)}
    return {name: rng.standard_normal(shape) for name, shape in shapes.items()} | {"regions": regions}


GENERATORS = [
    Generator("training settings", make_toml("mini.toml", "sd35m.toml", "sd35m-full.toml"), read_training),
    Generator("training", make_toml(TINY), train),
    Generator("autoencoder run", make_toml("autoencoder.toml", "autoencoder-256.toml"), read_autoencoder),
    Generator("recipe", make_toml("bundled.toml", "sd35m-posed.toml"), load_recipe),
    Generator("data settings", make_toml(DATA), read_data),
    Generator("list of pairs", make_toml(PAIRS), read_list),
    Generator("list of jobs", make_toml(JOBS), read_jobs),
    Generator("jobs as CSV", make_csv, read_jobs),
    Generator("motion", make_motion, read_motion),
]
