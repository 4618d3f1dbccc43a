"""`svdp animate` from end to end with a tiny real model: what comes out for good input."""

from __future__ import annotations

from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pytest
from svdp.animation.config import AnimateConfig, WeightFiles
from svdp.animation.pipeline import sampling_config
from svdp.signals.images import load_image, save_image
from svdp.signals.video import VideoReader


def frames_of(path: Path) -> list[np.ndarray]:
    return list(VideoReader(path))


def test_a_clip_with_its_sound_rate_and_every_frame(animate, examples, tmp_path):
    code, said = animate("--max-frames", "20")
    assert code == 0, said
    result, driver = VideoReader(tmp_path / "out.mp4"), VideoReader(examples.driving)
    assert result.num_frames == 20 and result.timing.constant and result.timing.fps == driver.timing.fps
    assert (result.info.height, result.info.width) == load_image(examples.source).shape[:2]
    with av.open(str(tmp_path / "out.mp4")) as container:
        audio = container.streams.audio[0]
        assert float(audio.duration * audio.time_base) == pytest.approx(20 / float(result.info.fps), abs=0.1)
    assert load_image(tmp_path / "out.sheet.png").shape[0] > 4 * 160
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.mp4", "out.sheet.png"]


def test_only_the_face_changes_when_pasted_back(animate, examples, tmp_path):
    code, said = animate("--max-frames", "2", "--no-contact-sheet")
    assert code == 0, said
    source, result = load_image(examples.source), frames_of(tmp_path / "out.mp4")[0]
    change = np.abs(source.astype(int) - result).mean(-1)
    edge = np.concatenate([change[:8].ravel(), change[:, :4].ravel(), change[:, -4:].ravel()])
    height, width = change.shape
    assert edge.mean() < 6 < 20 < change[height // 3 : height // 2, width // 3 : -width // 3].mean()
    assert not (tmp_path / "out.sheet.png").exists()


def test_the_bare_crop_has_the_model_s_size(animate, tmp_path):
    code, said = animate("--max-frames", "2", "--keep-crop", "--resolution", "96")
    assert code == 0, said
    assert frames_of(tmp_path / "out.mp4")[0].shape == (96, 96, 3)


def test_the_same_seed_gives_the_same_video(animate, tmp_path):
    for name, seed in (("a.mp4", "3"), ("b.mp4", "3"), ("c.mp4", "4")):
        code, said = animate("--max-frames", "3", "--keep-crop", "--seed", seed, output=tmp_path / name)
        assert code == 0, said
    a, b, c = (np.stack(frames_of(tmp_path / name)) for name in ("a.mp4", "b.mp4", "c.mp4"))
    assert np.array_equal(a, b) and not np.array_equal(a, c)


def test_a_part_of_the_driver(animate, examples, tmp_path):
    code, said = animate("--start", "10", "--max-frames", "5")
    assert code == 0, said
    assert VideoReader(tmp_path / "out.mp4").num_frames == 5


def test_every_dial_is_accepted(animate, tmp_path):
    code, said = animate(
        *("--max-frames", "10", "--regions", "eyes,mouth", "--brows", "--dilation", "0.3", "--motion", "relative"),
        *(
            "--reference",
            "2",
            "--steps",
            "1",
            "--solver",
            "dpmpp_2m",
            "--fusion-source",
            "2",
            "--fusion-driving",
            "2.5",
        ),
        *("--fusion-history", "1", "--fusion-rescale", "0.5"),
        *("--segment-length", "4", "--history", "1", "--history-noise", "0.1"),
        *("--strength", "0.5", "--device", "cpu", "--dtype", "bfloat16", "--max-side", "200", "--select-face", "0"),
    )
    assert code == 0, said
    assert VideoReader(tmp_path / "out.mp4").num_frames == 10
    assert "1 steps (dpmpp_2m)" in said and "bfloat16" in said


@pytest.mark.parametrize(("wished", "expected"), [(None, 1.0), (0.0, 0.0), (0.5, 0.5)])
def test_wishes_stand_above_the_adapter_files_own(wished, expected, tmp_path):
    files = WeightFiles(base=tmp_path / "b", adapter=tmp_path / "a", autoencoder=tmp_path / "v")
    media = {"source": tmp_path / "a.png", "driving": tmp_path / "b.mp4", "output": tmp_path / "c.mp4"}
    wishes = AnimateConfig(**media, weights=files, fusion_rescale=wished)
    own = {"sampling": {"steps": 8, "fusion": {"source": 1.5, "rescale": 1.0}}}
    sampling = sampling_config(wishes, own)
    assert (sampling.steps, sampling.fusion.source, sampling.fusion.rescale) == (8, 1.5, expected)


def test_a_variable_frame_rate_is_kept(animate, examples, encode, tmp_path):
    ticks = [0, 1, 3, 4, 9, 10]
    frames = islice(VideoReader(examples.driving), 6)
    clip = encode(tmp_path / "vfr.mp4", frames, ticks=ticks, time_base=Fraction(1, 30), fps=Fraction(30))
    code, said = animate(driving=clip)
    assert code == 0 and "variable frame rate" in said
    timing = VideoReader(tmp_path / "out.mp4").timing
    assert [timing.time(i) for i in range(6)] == [Fraction(t, 30) for t in ticks]


def test_odd_sizes_work(animate, examples, encode, tmp_path):
    picture = load_image(examples.source)
    save_image(tmp_path / "odd.png", picture[: picture.shape[0] // 2 * 2 - 1, : picture.shape[1] // 2 * 2 - 1])
    frames = (np.ascontiguousarray(f[:-1, :-1]) for f in islice(VideoReader(examples.driving), 3))
    clip = encode(tmp_path / "odd.gif", frames, codec="gif")
    assert VideoReader(clip).info.width % 2 == 1
    code, said = animate(source=tmp_path / "odd.png", driving=clip)
    assert code == 0, said
    height, width = load_image(tmp_path / "odd.png").shape[:2]
    assert frames_of(tmp_path / "out.mp4")[0].shape == (height + 1, width + 1, 3)


def test_a_face_in_one_of_a_hundred_frames_is_not_enough_unless_forced(animate, examples, encode, tmp_path):
    face = next(iter(VideoReader(examples.driving)))
    frames = (face if i == 41 else np.full_like(face, 90) for i in range(100))
    clip = encode(tmp_path / "once.mp4", frames, fps=Fraction(25))
    code, said = animate("--steps", "1", "--keep-crop", driving=clip)
    assert code == 2 and "the face is seen in only 1 of 100 frames; choose a clip or a --start that shows it" in said
    assert "--force" in said and [p.name for p in tmp_path.iterdir()] == ["once.mp4"]
    code, said = animate("--steps", "1", "--keep-crop", "--force", driving=clip)
    assert code == 0, said
    assert "face not seen in frames 0-40, 42-99: interpolated" in said
    assert VideoReader(tmp_path / "out.mp4").num_frames == 100


@pytest.mark.parametrize("kind", ["alpha", "sixteen", "exif", "huge"])
def test_pictures_of_all_kinds(animate, examples, tmp_path, kind):
    from PIL import Image

    image = Image.open(examples.source).convert("RGB")
    if kind == "alpha":
        path = tmp_path / "cut.png"
        image.putalpha(Image.new("L", image.size, 255))
        image.save(path)
    elif kind == "sixteen":
        path = tmp_path / "deep.png"
        Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257).save(path)
    elif kind == "exif":
        path, exif = tmp_path / "phone.jpg", Image.Exif()
        exif[0x0112] = 6
        image.rotate(90, expand=True).save(path, exif=exif)
    else:
        path = tmp_path / "huge.jpg"
        image.resize((8000, 8000)).save(path, quality=70)
    code, said = animate("--max-frames", "1", "--steps", "1", "--max-side", "320", source=path)
    assert code == 0, said
    height, width = frames_of(tmp_path / "out.mp4")[0].shape[:2]
    assert max(height, width) <= 320
    assert (height >= width) == (kind == "huge" or image.height >= image.width)


def test_a_truncated_driver_is_used_as_far_as_it_goes(animate, examples, encode, tmp_path):
    clip = encode(tmp_path / "cut.mp4", islice(VideoReader(examples.driving), 40), muxing={"movflags": "faststart"})
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    code, said = animate("--steps", "1", driving=clip)
    assert code == 0, said
    frames = VideoReader(tmp_path / "out.mp4").num_frames
    assert 1 < frames < 40
    assert f"cut.mp4 is damaged or cut short: {frames} of 40 frames decode; these are used" in said
