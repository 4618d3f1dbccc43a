"""Shards from other places than a local folder, and training on a part of them at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from svdp.errors import UserError
from svdp.training.config import parse_config
from svdp.training.data.locations import find_files
from svdp.training.data.shards import load_shards, write_shard
from svdp.training.data.streaming import ClipStream
from svdp.training.data.windows import LatentClips
from svdp.training.loop import train

from .conftest import synthetic_clip, tiny_table

BLACK = torch.zeros(16, 8, 8)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five shards of two clips; every value of a clip's target is its number."""
    root = tmp_path_factory.mktemp("many")
    for split, shards in (("train", 5), ("heldout", 1)):
        (root / split).mkdir()
        for n in range(shards):
            clips = []
            for i in (2 * n, 2 * n + 1):
                clip = synthetic_clip(np.random.default_rng(i))
                clip["target"] = np.full_like(clip["target"], i) if split == "train" else clip["target"]
                clips.append((f"clip-{i:03d}", clip, {"provider": "synthetic"}))
            write_shard(root / split / f"clips-{n:04d}.tar", clips)
    return root


def numbers(clips: LatentClips) -> list[int]:
    return sorted(int(x) for x in clips.target[:, 0, 0, 0, 0])


def stream(many: Path, held: int = 2, every: int = 3) -> ClipStream:
    return ClipStream(find_files(many, ["train/*.tar"]), held, every, seed=0, black=BLACK)


def test_every_shard_is_held_equally_long(many: Path) -> None:
    clips = stream(many)
    assert (clips.count, len(clips.at(0))) == (10, 4)
    seen: Counter[int] = Counter()
    for step in range(2 * 3, 2 * 3 + 2 * 5 * 3):  # from where the first shards have had their full time
        seen.update(numbers(clips.at(step)))
    assert set(seen) == set(range(10)) and max(seen.values()) - min(seen.values()) <= 2 * 3
    changes = [set(numbers(clips.at(3 * n))) ^ set(numbers(clips.at(3 * n + 2))) for n in range(40, 44)]
    assert changes == [set()] * 4  # nothing changes between


def test_the_clips_of_a_step_depend_on_the_step_alone(many: Path) -> None:
    through = stream(many)
    kept = [(through.at(n).target.clone(), through.at(n).sources.clone()) for n in range(20)]
    for n in (0, 7, 19):
        fresh = stream(many).at(n)
        assert torch.equal(fresh.target, kept[n][0]) and torch.equal(fresh.sources, kept[n][1])
    assert numbers(stream(many, held=9).at(50)) == list(range(10))  # all fit: nothing ever changes


def test_shards_of_another_size_are_named(many: Path, tmp_path: Path) -> None:
    for path in (many / "train").glob("*.tar"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    clips = [(f"c{i}", synthetic_clip(np.random.default_rng(i)), {"provider": "s"}) for i in range(3)]
    write_shard(tmp_path / "clips-0009.tar", clips)
    with pytest.raises(UserError, match=r"clips-0009\.tar has 3 clips"):
        ClipStream(find_files(tmp_path, ["*.tar"]), 5, 1, seed=0, black=BLACK).at(0)
        ClipStream(find_files(tmp_path, ["*.tar"]), 5, 1, seed=0, black=BLACK).at(1)


def test_a_streamed_run_goes_on_bit_for_bit(many: Path, tmp_path: Path) -> None:
    config = parse_config(tiny_table(many, data={"stream_shards": 2, "stream_every": 1}))
    train(config, tmp_path / "whole")
    assert not train(config, tmp_path / "parts", should_stop=lambda progress: progress.step == 4).finished
    train(config, tmp_path / "parts", resume=True)
    whole, parts = (load_file(tmp_path / n / "checkpoints" / "last.safetensors") for n in ("whole", "parts"))
    assert [k for k in whole if not torch.equal(whole[k], parts[k])] == []
    assert "2 of 5 shards are held in memory" in (tmp_path / "whole" / "train.log").read_text()


# --- other places ----------------------------------------------------------------------------------------------------


@pytest.fixture
def remote(many: Path) -> Iterator[str]:
    """The same shards in fsspec's file system in memory."""
    fsspec = pytest.importorskip("fsspec")
    system = fsspec.filesystem("memory")
    for path in many.rglob("*.tar"):
        system.pipe_file(f"/bucket/data/{path.relative_to(many).as_posix()}", path.read_bytes())
    yield "memory://bucket/data"
    system.rm("/bucket", recursive=True)


def test_shards_at_a_remote_location_are_the_same(many: Path, remote: str, tmp_path: Path) -> None:
    names = find_files(remote, ["train/*.tar"])
    assert [str(n).rsplit("/", 1)[1] for n in names] == [f"clips-{n:04d}.tar" for n in range(5)]
    local, far = load_shards(find_files(many, ["train/*.tar"])), load_shards(names)
    assert all(np.array_equal(local[k], far[k]) for k in local)
    train(parse_config(tiny_table(many, steps=1)), tmp_path / "local")
    train(parse_config(tiny_table(many, steps=1, data={"root": remote, "stream_shards": 5})), tmp_path / "remote")
    assert (tmp_path / "remote" / "weights" / "adapter.safetensors").is_file()


def test_places_that_cannot_be_read_are_named(tmp_path: Path, remote: str) -> None:
    with pytest.raises(UserError, match="not an address that fsspec knows"):
        find_files("nowhere://bucket", ["*.tar"])
    with pytest.raises(UserError, match=r"no shards match none/\*\.tar in memory://bucket/data"):
        train(parse_config(tiny_table(tmp_path, data={"root": remote, "heldout": ["none/*.tar"]})), tmp_path / "run")
    with pytest.raises(UserError, match="is not a readable shard"):
        load_shards([f"{remote}/train/none.tar"])
