"""Media that a stranger, a broken disk or an unusual tool made: read as they are, or refused in one line."""

from __future__ import annotations

import os
import socket
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.stream import VideoStream
from PIL import Image
from svdp.errors import MediaError
from svdp.signals.images import load_image, save_image
from svdp.signals.video import VideoReader, VideoWriter


def test_tags_that_are_not_utf_8(make_clip):
    clip = make_clip("clip.mkv", 5, title="MARKER-é")
    clip.write_bytes(clip.read_bytes().replace("MARKER-é".encode(), "MARKER-éé".encode("latin-1")))
    assert b"MARKER-\xe9" in clip.read_bytes()
    assert VideoReader(clip).num_frames == 5


def test_a_colon_in_a_name_is_no_protocol(make_clip, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_clip("http:x.mp4", 5, sound="aac")
    reader = VideoReader("http:x.mp4")
    assert reader.num_frames == 5
    with VideoWriter("rtmp:out.mp4", (48, 64), reader.timing, sound="http:x.mp4") as writer:
        for frame in reader:
            writer.write(frame)
    assert VideoReader("rtmp:out.mp4").info.has_audio and (tmp_path / "rtmp:out.mp4").is_file()
    with pytest.raises(MediaError, match=r"video http:/127.0.0.1/a.mp4 does not exist"):
        VideoReader("http://127.0.0.1/a.mp4")


def test_a_name_that_is_not_utf_8(make_clip, tmp_path):
    name = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe.mp4"))
    try:
        os.rename(make_clip("a.mp4", 5), name)
    except OSError:
        pytest.skip("this file system wants UTF-8 names")
    assert VideoReader(name).num_frames == 5


PLAYLISTS = {
    "a.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\n{}\n#EXT-X-ENDLIST\n",
    "a.ffconcat": "ffconcat version 1.0\nfile {}\n",
    "a.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns={}\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
    "a.mpd": '<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><BaseURL>{}</BaseURL></MPD>',
}


@pytest.mark.parametrize("name", PLAYLISTS)
@pytest.mark.parametrize("what", ["http://127.0.0.1:{}/a.ts", "a.ts"])
def test_a_playlist_opens_nothing(make_clip, tmp_path, name, what):
    make_clip("a.ts", 5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        (tmp_path / name).write_text(PLAYLISTS[name].format(what.format(server.getsockname()[1])))
        with pytest.raises(MediaError, match=rf"{name} is a playlist: give the video itself"):
            VideoReader(tmp_path / name)
        with pytest.raises(TimeoutError):
            server.accept()


def test_frames_hours_apart(make_clip, tmp_path):
    clip = make_clip("apart.mkv", 3, ticks=[0, 1, 9_000_000], time_base=Fraction(1, 1000), sound="aac")
    timing = VideoReader(clip).timing
    assert not timing.constant and timing.fps > 0 and timing.time(2) == 9000
    with VideoWriter(tmp_path / "out.mp4", (48, 64), timing, sound=clip) as writer:
        for frame in VideoReader(clip):
            writer.write(frame)
    assert VideoReader(tmp_path / "out.mp4").timing.time(2) == 9000


def test_frames_days_apart_are_shown_at_an_even_beat(make_clip, tmp_path):
    clip = make_clip("days.mkv", 3, ticks=[0, 40, 100_000_000], time_base=Fraction(1, 1000))
    timing = VideoReader(clip).timing
    assert timing.constant and timing.time(2) < 1
    with VideoWriter(tmp_path / "out.mp4", (48, 64), timing) as writer:
        for frame in VideoReader(clip):
            writer.write(frame)
    assert VideoReader(tmp_path / "out.mp4").num_frames == 3


@pytest.mark.parametrize("ticks, fps", [([0, 1, 2, 9], 10), ([0, 3, 4, 9], 5)])
def test_the_mean_rate_of_a_variable_one(make_clip, ticks, fps):
    timing = VideoReader(make_clip("v.mkv", 4, ticks=ticks, time_base=Fraction(1, fps), fps=Fraction(fps))).timing
    assert not timing.constant and timing.fps == Fraction(3 * fps, 9)


ASYMMETRIC = np.zeros((48, 64, 3), np.uint8)
ASYMMETRIC[:12, :16] = 255  # top left
ASYMMETRIC[:12, 16:] = 120  # top


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
@pytest.mark.parametrize("flips", [(False, False), (True, False), (False, True), (True, True)])
def test_a_mirrored_film_is_shown_as_it_says(tmp_path, degrees, flips):
    if not hasattr(VideoStream, "set_display_matrix"):
        pytest.skip("this PyAV cannot write a display matrix")
    with av.open(str(tmp_path / "phone.mov"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.set_display_rotation(degrees, hflip=flips[0], vflip=flips[1])
        container.mux(stream.encode(av.VideoFrame.from_ndarray(ASYMMETRIC, format="rgb24")))
        container.mux(stream.encode(None))
    expected = np.rot90(ASYMMETRIC, degrees // 90)
    expected = expected[:, ::-1] if flips[0] else expected
    expected = expected[::-1] if flips[1] else expected
    shown = next(iter(VideoReader(tmp_path / "phone.mov")))
    assert shown.shape == expected.shape
    assert np.abs(shown.astype(int) - expected).mean() < 5


@pytest.mark.parametrize("name", ["moves.webp", "moves.gif", "moves.png", "moves.avif"])
def test_an_animated_picture_is_a_video(tmp_path, name):
    pictures = [Image.fromarray(np.full((48, 64, 3), 40 * i + 10, np.uint8)) for i in range(6)]
    try:
        durations = [40, 40, 80, 40, 40, 40]
        pictures[0].save(tmp_path / name, save_all=True, append_images=pictures[1:], duration=durations)
    except (OSError, KeyError):
        pytest.skip("this Pillow cannot write it")
    reader = VideoReader(tmp_path / name, start=1)
    assert [round(float(frame.mean()) / 40 - 0.25) for frame in reader] == [1, 2, 3, 4, 5]
    timing = reader.timing
    assert [timing.time(i) for i in range(5)] == [Fraction(t, 1000) for t in (0, 40, 120, 160, 200)]
    assert (reader.info.width, reader.info.height, reader.info.has_audio) == (64, 48, False)
    with pytest.raises(MediaError, match=r"has no frame 6 to start at"):
        list(VideoReader(tmp_path / name, start=6))


@pytest.mark.parametrize("name", ["still.webp", "still.avif"])
def test_a_still_picture_is_none(tmp_path, name):
    try:
        Image.new("RGB", (64, 48)).save(tmp_path / name)
    except (OSError, KeyError):
        pytest.skip("this Pillow cannot write it")
    with pytest.raises(MediaError, match="is a still picture"):
        VideoReader(tmp_path / name)


def qoi(width: int, height: int) -> bytes:
    return b"qoif" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x03\x00"


@pytest.mark.parametrize("name", ["a.qoi", "a.avif", "a.png", "a.jpg", "a.webp", "a.gif", "a.tiff", "a.bmp"])
def test_damaged_pictures_are_refused_or_read(tmp_path, name):
    good = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    try:
        Image.fromarray(good).save(tmp_path / name)
        data = (tmp_path / name).read_bytes()
    except (OSError, KeyError, ValueError):
        data = qoi(64, 48) + b"\xc0" * 10
    rng = np.random.default_rng(1)
    for _ in range(40):
        damaged = bytearray(data[: int(rng.integers(4, len(data) + 1))])
        for place in rng.integers(0, len(damaged), 6):
            damaged[place] = int(rng.integers(0, 256))
        (tmp_path / name).write_bytes(damaged)
        try:
            assert load_image(tmp_path / name).ndim == 3
        except MediaError as error:
            assert name in str(error)


def test_folders_pipes_and_devices_are_named(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for read, what in ((VideoReader, "video"), (load_image, "picture")):
        with pytest.raises(MediaError, match=rf"{what} .* is a folder: give a file in it"):
            read(tmp_path)
        with pytest.raises(MediaError, match=r"pipe is a pipe, and it must be read more than once"):
            read(tmp_path / "pipe")
        with pytest.raises(MediaError, match=r"/dev/null is a device"):
            read("/dev/null")
        with pytest.raises(MediaError, match=r"-: standard input must be read more than once, so save it"):
            read("-")
        with pytest.raises(MediaError, match=r"is no file name"):
            read("a\0b")


def test_frames_too_large_to_hold(make_clip, monkeypatch):
    monkeypatch.setattr("svdp.signals.video._MAX_MEGAPIXELS", 0.001)
    with pytest.raises(MediaError, match=r"has frames of 64x48: at most 0.001 megapixels; scale it down"):
        VideoReader(make_clip("large.mp4", 2))


def test_saving_a_picture_touches_nothing_else(tmp_path):
    (tmp_path / "a.part.png").write_bytes(b"precious")
    save_image(tmp_path / "a.png", np.zeros((40, 40, 3), np.uint8))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.part.png", "a.png"]
    assert (tmp_path / "a.part.png").read_bytes() == b"precious"


def test_long_silence_is_written_a_second_at_a_time(make_clip, tmp_path):
    clip = make_clip("late.mkv", 3, ticks=[0, 1, 100_000], time_base=Fraction(1, 1000), sound="pcm_s16le", late=60)
    timing = VideoReader(clip).timing
    with VideoWriter(tmp_path / "out.mp4", (48, 64), timing, sound=clip) as writer:
        for frame in VideoReader(clip):
            writer.write(frame)
    with av.open(str(tmp_path / "out.mp4")) as container:
        times = [float(p.pts * p.time_base) for p in container.demux(audio=0) if p.pts is not None]
    assert 61.5 < times[-1] < 62.5 and max(b - a for a, b in pairwise(times)) < 0.1
