"""`svdp evaluate` from end to end with a tiny real model: tables and files, keeping videos, mistakes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from svdp.cli.app import run
from svdp.signals.video import VideoReader


@pytest.fixture
def pairs(assets_dir: Path, tmp_path: Path) -> Path:
    """One pair of the bundled example media: six frames."""
    path = tmp_path / "pairs.toml"
    path.write_text(f"""
        root = "{(assets_dir / "examples").as_posix()}"
        [least.every]
        faces = 0.95
        [[pair]]
        name = "one"
        source = "source.jpg"
        driving = "driving.mp4"
        start = 2
        max_frames = 6
    """)
    return path


@pytest.fixture
def svdp_evaluate(tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> Callable:
    """svdp_evaluate(*options): exit code, standard output and standard error; without an embedder, for speed."""

    def call(*options: str) -> tuple[object, str, str]:
        usual = ["--out", str(tmp_path / "out"), "--weights", str(tiny_weights), "--embedder", "none"]
        with pytest.raises(SystemExit) as exit_:
            run(["evaluate", *usual, *options])
        return exit_.value.code, *capsys.readouterr()

    return call


@pytest.fixture
def evaluate(svdp_evaluate: Callable, pairs: Path) -> Callable:
    """The same of the one pair."""
    return lambda *options: svdp_evaluate(str(pairs), *options)


def test_tables_json_plots_video_and_sheet(evaluate, tmp_path: Path):
    code, table, said = evaluate("--keep-crop")
    assert code == 0, said
    out = tmp_path / "out"
    pictures = {"one.sheet.png", "one.curves.png", "summary.png", "length.png"}
    assert {p.name for p in out.iterdir()} == {"one.mp4", "made.json", "table.md", "results.json", *pictures}
    assert VideoReader(out / "one.mp4").num_frames == 6
    assert (out / "table.md").read_text() in table
    assert all(row in table for row in ("| one |", "| median |", "| static copy |", "### motion: error"))
    results = json.loads((out / "results.json").read_text())
    (found,) = results["runs"]
    assert found["checks"] == {"frames": True, "sound": True}
    assert found["details"]["driver_frames"] == found["details"]["result_frames"] == 6
    assert found["scores"]["yaw"]["value"] is None and found["scores"]["yaw"]["reason"]  # six frames are too few
    assert found["scores"]["csim_source"]["reason"] == "identity was not asked for"
    assert found["details"]["square_pixels"] == 64
    assert results["bars"][0]["met"] == (found["scores"]["faces"]["value"] >= 0.95)
    assert results["baselines"]["static copy"]["runs"][0]["scores"]["warping_error"]["value"] == 0
    assert {c["key"] for c in results["columns"]} >= set(found["scores"])


def test_self_reenactment_beside_another_video(svdp_evaluate, pairs: Path, tmp_path: Path):
    text = pairs.read_text().replace("source.jpg", "driving.mp4")
    pairs.write_text(text + 'target = "driving.mp4"\ncompare = { perfect = "driving.mp4" }\n')
    code, table, said = svdp_evaluate(str(pairs))
    assert code == 0, said
    out = tmp_path / "out"
    results = json.loads((out / "results.json").read_text())
    scores, still = results["runs"][0]["scores"], results["baselines"]["static copy"]["runs"][0]["scores"]
    assert "csim_driver" not in scores
    assert 5 < scores["psnr"]["value"] < still["psnr"]["value"] < 50  # random weights are worse than standing still
    assert list(results["baselines"]) == ["static copy", "perfect", "true video"]
    assert "### against the true frames" in table
    portrait = (out / "one.source.png").stat().st_mtime_ns, (out / "one.mp4").stat().st_mtime_ns
    assert svdp_evaluate(str(pairs), "--reuse")[0] == 0
    assert portrait == ((out / "one.source.png").stat().st_mtime_ns, (out / "one.mp4").stat().st_mtime_ns)


@pytest.mark.shared
def test_the_textured_head_stands_beside_the_result(evaluate, shared_dir: Path, tmp_path: Path):
    code, table, said = evaluate("--head-model", str(shared_dir / "models" / "ict_light_f16.npz"))
    assert code == 0, said
    assert "| mesh baseline |" in table
    head = VideoReader(tmp_path / "out" / "one.mesh.mp4")
    assert (head.num_frames, head.info.width, head.info.height) == (6, 64, 64)


@pytest.fixture
def shards(assets_dir: Path, tmp_path: Path) -> Path:
    """A folder with one shard: one clip of the bundled driver's face, encoded, and one clip of nothing."""
    import torch
    from svdp.model.autoencoder import TinyAutoencoder
    from svdp.signals.crops import CropConfig, crop_frame, plan_crop
    from svdp.signals.track import detect_face
    from svdp.training.data.shards import write_shard

    frames = list(VideoReader(assets_dir / "examples" / "driving.mp4", max_frames=10))
    affine = plan_crop(detect_face(frames[0]), CropConfig(size=128)).affines[0]
    squares = np.stack([crop_frame(frame, affine, 128) for frame in frames])
    codec = TinyAutoencoder.load(assets_dir / "vae" / "mini_autoencoder.safetensors")
    with torch.no_grad():
        target = codec.encode(torch.from_numpy(squares).permute(0, 3, 1, 2).float() / 255).numpy()
    regions = np.zeros((10, 3, 16, 16), np.uint8)
    regions[:, :, 6:10, 6:10] = 255
    face = {"sources": target[:1], "target": target, "driving": target, "regions": regions}
    nothing = {**face, "target": 0 * target}
    folder = tmp_path / "heldout"
    folder.mkdir()
    about = {"provider": "rendered", "identities": ["a"]}
    write_shard(folder / "clips.tar", [("k0", face, about), ("k1", nothing, {**about, "provider": "clip"})])
    return folder


def test_heldout_shards(svdp_evaluate, shards: Path, assets_dir: Path, tmp_path: Path):
    truth = str(assets_dir / "vae" / "mini_autoencoder.safetensors")
    bars = tmp_path / "bars.toml"
    bars.write_text("[least.median]\npsnr = 99\n[most.every]\nseam = 1000\n")
    code, table, said = svdp_evaluate(str(bars), "--shards", str(shards), "--truth-autoencoder", truth)
    assert code == 0, said
    assert "left out: k1" in said
    out = tmp_path / "out"
    assert {p.name for p in out.iterdir()} >= {"k0.sheet.png", "k1.sheet.png", "k0.curves.png", "summary.png"}
    results = json.loads((out / "results.json").read_text())
    (found,) = results["runs"]
    assert found["details"]["clip"]["identities"] == ["a"]
    assert found["details"]["square_pixels"] == 128
    assert found["scores"]["psnr"]["value"] < results["baselines"]["static copy"]["runs"][0]["scores"]["psnr"]["value"]
    assert results["baselines"]["true video"]["runs"][0]["scores"]["yaw"]["value"] in (None, pytest.approx(1))
    assert "| all frames pooled |" in table
    assert [bar["met"] for bar in results["bars"]] == [False, True]
    assert {"driver/inside", "source/outside"} <= set(results["condition_swap_gaps"])
    assert all(np.isfinite(gap) for gap in results["condition_swap_gaps"].values())
    assert "condition-swap gap of the driver, inside the regions" in table


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "name a list of pairs"),
        (("--shards", "."), "no shards (*.tar) in ."),
        (("pairs.toml", "--clips", "3"), "belong to --shards"),
        (("pairs.toml", "--shards", "{shards}"), "pairs.toml does not exist"),
        (("--shards", "{shards}", "--head-model", "head.npz"), "--head-model belongs to a list of pairs"),
        (("--shards", "{shards}", "--provider", "drawn"), "no clip of provider 'drawn'"),
    ],
)
def test_options_that_do_not_fit_together(svdp_evaluate, shards: Path, options: tuple[str, ...], said: str):
    code, _, error = svdp_evaluate(*(option.replace("{shards}", str(shards)) for option in options))
    assert code == 2
    assert said in " ".join(error.split())


def test_videos_are_kept_only_if_asked_and_if_they_fit(evaluate, tmp_path: Path):
    video = tmp_path / "out" / "one.mp4"
    assert evaluate()[0] == 0
    first = video.stat().st_mtime_ns
    code, _, said = evaluate()
    assert code == 2 and "--reuse" in said
    assert evaluate("--reuse")[0] == 0
    assert video.stat().st_mtime_ns == first
    assert evaluate("--reuse", "--seed", "1")[0] == 0
    second = video.stat().st_mtime_ns
    assert second > first
    assert evaluate("--overwrite", "--seed", "1")[0] == 0
    assert video.stat().st_mtime_ns > second


def test_drafts_are_rows_beside_the_model(evaluate, tmp_path: Path):
    assert evaluate("--drafts")[0] == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    (draft,) = results["baselines"]["draft"]["runs"]
    assert draft["scores"]["faces"]["value"] == 1 and draft["scores"]["roll_error"]["value"] < 6
    assert set(results["baselines"]["draft"]["less"]) == {column["key"] for column in results["columns"]}
    assert VideoReader(tmp_path / "out" / "one.draft.mp4").num_frames == results["runs"][0]["details"]["driver_frames"]


def test_the_ceiling_needs_no_model(evaluate, tmp_path: Path):
    code, table, said = evaluate("--ceiling", "--resolution", "160")
    assert code == 0, said
    (run_,) = json.loads((tmp_path / "out" / "results.json").read_text())["runs"]
    assert run_["scores"]["faces"]["value"] == 1 and run_["scores"]["roll_error"]["value"] < 3
    assert "| one |" in table and "CSIM" not in table
    assert not (tmp_path / "out" / "one.mp4").exists()


def test_mistakes_in_the_list_stop_before_any_work(evaluate, pairs: Path, tmp_path: Path):
    pairs.write_text(pairs.read_text().replace("source.jpg", "nobody.jpg"))
    code, _, said = evaluate()
    assert code == 2
    assert "nobody.jpg does not exist" in said
    assert not (tmp_path / "out").exists()


def test_help_shows_the_tables_of_the_list(capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit):
        run(["evaluate", "--help"])
    said = capsys.readouterr().out
    assert said.count("[[pair]]") == 2
    assert all(f"[{side}.{over}]" in said for side in ("least", "most") for over in ("median", "every"))
    assert "\\" not in said
