"""Reading the list of pairs: the good one, and every way to get it wrong."""

from pathlib import Path

import pytest
from svdp.errors import UserError
from svdp.evaluation.manifest import read_bars, read_pairs
from svdp.evaluation.protocol import COLUMNS
from svdp.evaluation.report import Bar

PAIR = '[[pair]]\nname = "a"\nsource = "face.png"\ndriving = "clip.mp4"\n'


@pytest.fixture
def write(tmp_path: Path):
    media = tmp_path / "media"
    media.mkdir()
    for name in ("face.png", "clip.mp4"):
        (media / name).touch()
    path = tmp_path / "pairs.toml"

    def put(text: str) -> Path:
        path.write_text('root = "media"\n' + text)
        return path

    return put


def test_paths_start_at_root_and_options_are_read(write, tmp_path: Path):
    manifest = read_pairs(write("[least.median]\nyaw = 0.8\n" + PAIR + "start = 5\nmax_frames = 7\n"), ["yaw"])
    (pair,) = manifest.pairs
    assert pair.source == tmp_path / "media" / "face.png"
    assert (pair.start, pair.max_frames) == (5, 7)
    assert list(manifest.bars) == [Bar(key="yaw", least=0.8, over="median")]


def test_self_reenactment_and_baselines(write, tmp_path: Path):
    text = PAIR.replace("face.png", "clip.mp4") + 'start = 4\ntarget = "clip.mp4"\ncompare = { head = "clip.mp4" }\n'
    manifest = read_pairs(write("[most.median]\nseam = 1.3\n" + text), ["seam"])
    (pair,) = manifest.pairs
    assert pair.is_self
    assert (pair.source_is_video, pair.source_frame, pair.target_start) == (True, None, 4)
    assert pair.compare == {"head": tmp_path / "media" / "clip.mp4"}
    assert list(manifest.bars) == [Bar(key="seam", most=1.3)]


def test_another_target_starts_at_its_beginning(write, tmp_path: Path):
    (tmp_path / "media" / "truth.mp4").touch()
    (pair,) = read_pairs(write(PAIR + 'start = 4\ntarget = "truth.mp4"\n'), []).pairs
    assert not pair.is_self
    assert (pair.source_is_video, pair.target_start) == (False, 0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "lists no pairs"),
        ("pair = 3", "lists no pairs"),
        ("pair = [3]", "pair 1 is not a table"),
        (PAIR + PAIR, "several pairs named a"),
        (PAIR.replace("face", "other"), "other.png does not exist"),
        (PAIR.replace('"a"', '"a/b"'), "must be fit for files"),
        (PAIR.replace('name = "a"', ""), 'pair 1 needs name = "..."'),
        (PAIR + "start = -1", "start must be a whole number from 0, got -1"),
        (PAIR + "max_frames = true", "max_frames must be a whole number from 1, got True"),
        (PAIR + "frames = 3", "unknown entries frames"),
        (PAIR + 'target = "none.mp4"', "none.mp4 does not exist"),
        (PAIR + "target_start = 3", "target_start says nothing without target"),
        (PAIR + "source_frame = 3", "face.png is no video"),
        (PAIR + "compare = 3", "compare must be a table"),
        (PAIR + "compare = { head = 3 }", 'compare needs head = "..."'),
        ("[most.median]\nseams = 1\n" + PAIR, "unknown entries seams"),
        ("[least.median]\nyaww = 1\n" + PAIR, "unknown entries yaww: known are yaw"),
        ('[least.every]\nyaw = "high"\n' + PAIR, "yaw must be a number"),
        ("[[pair", "cannot be read as TOML"),
        (PAIR + f'target = "{"x" * 5000}"', "xxxxx"),
        (PAIR + 'target = "a\\u0000b"', "pair 1: "),
    ],
)
def test_mistakes_are_named(write, text: str, said: str):
    with pytest.raises(UserError) as error:
        read_pairs(write(text), ["yaw"])
    assert said in str(error.value)


def test_no_such_file(tmp_path: Path):
    with pytest.raises(UserError, match=r"none.toml does not exist"):
        read_pairs(tmp_path / "none.toml", [])


def test_media_replaces_the_root(write, tmp_path: Path):
    path = write(PAIR)
    (tmp_path / "media").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="root or --media"):
        read_pairs(path, [])
    (pair,) = read_pairs(path, [], tmp_path / "elsewhere").pairs
    assert pair.source == tmp_path / "elsewhere" / "face.png"


@pytest.mark.shared
def test_the_nine_real_runs_are_there(root: Path, shared_dir: Path):
    manifest = read_pairs(
        root / "configs" / "evaluation" / "real_runs.toml", [column.key for column in COLUMNS], shared_dir
    )
    assert len(manifest.pairs) == 9
    assert len({p.source for p in manifest.pairs}) == len({p.driving for p in manifest.pairs}) == 3
    assert {p.source.resolve().parents[1] for p in manifest.pairs} == {shared_dir.resolve()}


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "count"), [("real_pairs", 20), ("self_runs", 6), ("long_runs", 3), ("ablation_runs", 3)]
)
def test_the_other_real_runs_are_there(root: Path, shared_dir: Path, name: str, count: int):
    manifest = read_pairs(
        root / "configs" / "evaluation" / f"{name}.toml", [column.key for column in COLUMNS], shared_dir
    )
    assert len(manifest.pairs) == count
    assert all(pair.is_self == (name == "self_runs") for pair in manifest.pairs)


def test_bars_alone(root: Path, write):
    bars = read_bars(root / "configs" / "evaluation" / "heldout.toml", [column.key for column in COLUMNS])
    assert Bar(key="psnr", least=22) in bars
    with pytest.raises(UserError, match="unknown entries pair, root"):
        read_bars(write(PAIR), [])
