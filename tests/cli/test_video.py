"""Reading and writing video: counts, times, sound, rotation, damage."""

from __future__ import annotations

import gc
import subprocess
import sys
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.stream import VideoStream
from PIL import Image
from svdp.errors import MediaError
from svdp.signals.parts import part_ends
from svdp.signals.video import Timing, VideoReader, VideoWriter

NTSC = Fraction(30000, 1001)


def steady(count: int, fps: Fraction = Fraction(25)) -> Timing:
    return Timing(
        num_frames=count, fps=fps, constant=True, begin=Fraction(0), ticks=tuple(range(count)), time_base=1 / fps
    )


def numbers(path: Path, **options) -> list[int]:
    """The numbers that `moving_frames` painted into the frames."""
    return [round((float(frame[-1, -1].mean()) - 16) / 4) for frame in VideoReader(path, **options)]


def test_frames_come_in_order_and_twice_the_same(make_clip):
    clip = make_clip("clip.mp4", 40, fps=NTSC)
    reader = VideoReader(clip)
    assert reader.info.fps == NTSC and (reader.info.height, reader.info.width) == (48, 64)
    first, second = list(reader), list(reader)
    assert all(frame.dtype == np.uint8 and frame.shape == (48, 64, 3) for frame in first)
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert numbers(clip) == list(range(40))
    assert reader.num_frames == 40 and reader.timing.constant and reader.timing.fps == NTSC and not reader.problems


def test_start_and_max_frames_choose_frames(make_clip):
    clip = make_clip("clip.mp4", 30)
    assert numbers(clip, start=7, max_frames=5) == [7, 8, 9, 10, 11]
    assert VideoReader(clip, start=7, max_frames=5).timing.begin == Fraction(7, 25)
    with pytest.raises(MediaError, match=r"no frame 30 .*--start"):
        list(VideoReader(clip, start=30))


@pytest.mark.parametrize("name, codec", [("clip.webm", "libvpx"), ("clip.avi", "mpeg4"), ("clip.gif", "gif")])
def test_other_containers_keep_count_and_rate(make_clip, name, codec):
    reader = VideoReader(make_clip(name, 20, codec=codec))
    assert reader.num_frames == 20 and reader.timing.constant and reader.timing.fps == 25


def test_millisecond_timestamps_of_a_steady_clip_give_the_exact_rate(make_clip):
    timing = VideoReader(make_clip("clip.mkv", 90, fps=NTSC)).timing
    assert timing.constant and timing.fps == NTSC


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotation_metadata_is_applied(make_clip, degrees):
    if not hasattr(VideoStream, "set_display_rotation"):
        pytest.skip("this PyAV cannot write rotation metadata")
    reader = VideoReader(make_clip("turned.mp4", 3, rotate=degrees))
    frame = next(iter(reader))
    assert (reader.info.height, reader.info.width) == frame.shape[:2]
    assert frame.shape[:2] == ((64, 48) if degrees != 180 else (48, 64))
    bright = {90: (-4, 4), 180: (-4, -4), 270: (4, -4)}[degrees]  # where the top left corner went, counterclockwise
    assert frame[bright].mean() > 200 and frame[4, 4].mean() < 60


def test_non_square_pixels_become_square(tmp_path):
    with av.open(str(tmp_path / "wide.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(3, 2)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode(None))
    assert next(iter(VideoReader(tmp_path / "wide.mp4"))).shape == (48, 96, 3)


def test_variable_frame_rate_keeps_every_timestamp(make_clip, tmp_path):
    ticks = [0, 1, 2, 5, 6, 10, 11, 12, 20, 21]
    source = VideoReader(make_clip("vfr.mp4", 10, ticks=ticks, time_base=Fraction(1, 30), fps=Fraction(30)))
    timing = source.timing
    assert not timing.constant and timing.num_frames == 10
    with VideoWriter(tmp_path / "out.mp4", (48, 64), timing) as writer:
        for frame in source:
            writer.write(frame)
    written = VideoReader(tmp_path / "out.mp4").timing
    assert [written.time(i) for i in range(10)] == [Fraction(t, 30) for t in ticks]


@pytest.mark.parametrize("fps", [Fraction(25), NTSC, Fraction(24000, 1001), Fraction(60), Fraction(10)])
def test_written_rate_and_count_are_exact(tmp_path, fps):
    with VideoWriter(tmp_path / "out.mp4", (48, 64), steady(37, fps)) as writer:
        for index in range(37):
            writer.write(np.full((48, 64, 3), 6 * index, np.uint8))
    reader = VideoReader(tmp_path / "out.mp4")
    assert reader.num_frames == reader.info.declared_frames == 37
    assert reader.timing.constant and reader.timing.fps == fps and reader.timing.begin == 0
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.streams.video[0].average_rate == fps


def test_colours_survive_writing_and_reading(tmp_path):
    colours = np.array([[200, 30, 30], [30, 180, 40], [20, 40, 210], [128, 128, 128]], np.uint8)
    frame = np.repeat(colours, 16, 0)[None].repeat(32, 0)
    with VideoWriter(tmp_path / "out.mp4", frame.shape[:2], steady(2)) as writer:
        writer.write(frame)
        writer.write(frame)
    read = next(iter(VideoReader(tmp_path / "out.mp4")))
    assert np.abs(read[:, 8::16].astype(int) - frame[:, 8::16]).max() <= 6


def test_odd_sizes_are_extended_by_a_repeated_edge(tmp_path):
    frame = np.zeros((33, 47, 3), np.uint8)
    frame[-1], frame[:, -1] = 200, 200
    with VideoWriter(tmp_path / "odd.mp4", (33, 47), steady(1)) as writer:
        writer.write(frame)
    read = next(iter(VideoReader(tmp_path / "odd.mp4")))
    assert read.shape == (34, 48, 3)
    assert read[-1].mean() > 180 and read[:, -1].mean() > 180


@pytest.mark.parametrize("name, codec", [("a.mp4", "aac"), ("a.mkv", "pcm_s16le"), ("a.mp4", "libmp3lame")])
def test_sound_comes_along_in_time(make_clip, tone_begins, tmp_path, name, codec):
    source = VideoReader(make_clip(name, 50, sound=codec))
    assert source.info.has_audio
    with VideoWriter(tmp_path / "out.mp4", (48, 64), source.timing, sound=source.path) as writer:
        for frame in source:
            writer.write(frame)
    with av.open(str(tmp_path / "out.mp4")) as container:
        audio = container.streams.audio[0]
        assert audio.codec_context.codec.canonical_name == ("mp3" if codec == "libmp3lame" else "aac")
        assert float(audio.duration * audio.time_base) == pytest.approx(2.0, abs=0.15)
    assert tone_begins(tmp_path / "out.mp4") == pytest.approx(tone_begins(source.path), abs=0.01)
    assert VideoReader(tmp_path / "out.mp4").num_frames == 50 and VideoReader(tmp_path / "out.mp4").timing.begin == 0


@pytest.mark.parametrize("name, codec", [("a.mp4", "aac"), ("a.mkv", "pcm_s16le")])
def test_sound_of_a_part_is_cut_to_it_and_stays_in_time(make_clip, tone_begins, tmp_path, name, codec):
    source = VideoReader(make_clip(name, 50, sound=codec), start=10, max_frames=20)  # 0.4 s to 1.2 s; tone from 0.5 s
    timing = source.timing
    with VideoWriter(tmp_path / "out.mp4", (48, 64), timing, sound=source.path, cut_sound=True) as writer:
        for frame in source:
            writer.write(frame)
    with av.open(str(tmp_path / "out.mp4")) as container:
        audio = container.streams.audio[0]
        assert float(audio.duration * audio.time_base) == pytest.approx(0.8, abs=0.15)
    assert tone_begins(tmp_path / "out.mp4") == pytest.approx(0.1, abs=0.01)


def test_an_unfinished_file_is_playable_with_its_sound(make_clip, tmp_path):
    source = VideoReader(make_clip("a.mp4", 50, sound="aac"))
    with (
        pytest.raises(KeyboardInterrupt),
        VideoWriter(tmp_path / "o.mp4", (48, 64), source.timing, sound=source.path) as w,
    ):
        for index, frame in enumerate(source):
            if index == 20:
                raise KeyboardInterrupt
            w.write(frame)
    assert VideoReader(tmp_path / "o.mp4").num_frames == 20
    with av.open(str(tmp_path / "o.mp4")) as container:
        audio = container.streams.audio[0]
        assert float(audio.duration * audio.time_base) == pytest.approx(0.8, abs=0.1)


def test_a_writer_without_a_frame_leaves_no_video(make_clip, tmp_path):
    source = VideoReader(make_clip("a.mp4", 5, sound="aac"))
    VideoWriter(tmp_path / "o.mp4", (48, 64), source.timing, sound=source.path).close()
    assert not (tmp_path / "o.mp4").exists()


KILLED_WRITER = """
import os, sys
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
import numpy as np
from svdp.signals.parts import part_ends
from svdp.signals.video import Timing, VideoWriter

fps = Fraction(25)
timing = Timing(
    num_frames=400, fps=fps, constant=True, begin=Fraction(0), ticks=tuple(range(400)), time_base=1 / fps
)
writer = VideoWriter(Path(sys.argv[1]), (48, 64), timing)
for index in range(300):
    writer.write(np.full((48, 64, 3), index % 250, np.uint8))
os._exit(9)
"""


def test_a_killed_process_loses_less_than_a_second(tmp_path):
    # a process of its own, not a fork: the libraries' threads here would not survive one
    ended = subprocess.run([sys.executable, "-c", KILLED_WRITER, str(tmp_path / "killed.mp4")], check=False)
    assert ended.returncode == 9
    assert VideoReader(tmp_path / "killed.mp4").num_frames > 300 - 25


@pytest.mark.parametrize("fps", [Fraction(10), Fraction(24), NTSC, Fraction(60)])
def test_parts_are_so_short_that_two_of_them_are_less_than_a_second(fps):
    ends = part_ends(tuple(range(100)), 1 / fps)
    longest = max(b - a for a, b in pairwise([0, *ends]))
    assert ends[-1] == 100 and 0.8 < (2 * longest - 1) / fps < 1


def noise(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 48, 64, 3), dtype=np.uint8)


def packets(path: Path) -> list[tuple[int, bytes]]:
    """All sound of a file."""
    with av.open(str(path)) as container:
        return [(p.pts, bytes(p)) for p in container.demux(audio=0) if p.pts is not None]


@pytest.mark.parametrize("stopped_at", [30, 77, 199])
def test_a_writer_goes_on_from_what_another_left(make_clip, tmp_path, stopped_at):
    sound, frames = make_clip("a.mp4", 50, sound="aac"), noise(200)

    def write(path: Path, stop: int | None, kept: Path | None = None) -> int:
        with VideoWriter(path, (48, 64), steady(200), sound=sound, kept=kept) as writer:
            begin = writer.frames_written
            for frame in frames[begin:stop]:
                writer.write(frame)
        return begin

    write(tmp_path / "whole.mp4", None)
    write(tmp_path / "left.mp4", stopped_at)
    assert stopped_at - 12 <= write(tmp_path / "on.mp4", None, tmp_path / "left.mp4") <= stopped_at
    whole, on = (list(VideoReader(tmp_path / name)) for name in ("whole.mp4", "on.mp4"))
    assert len(whole) == len(on) == 200 and all(np.array_equal(a, b) for a, b in zip(whole, on, strict=True))
    assert packets(tmp_path / "whole.mp4") == packets(tmp_path / "on.mp4")


def test_what_is_kept_ends_before_the_first_damage(tmp_path):
    with VideoWriter(tmp_path / "left.mp4", (48, 64), steady(100)) as writer:
        for frame in noise(60):
            writer.write(frame)
        data = bytearray((tmp_path / "left.mp4").read_bytes())  # before it is finished
    data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)  # as after a power cut: long enough, and empty
    (tmp_path / "left.mp4").write_bytes(data)
    with VideoWriter(tmp_path / "on.mp4", (48, 64), steady(100), kept=tmp_path / "left.mp4") as writer:
        kept = writer.frames_written
    assert kept in (12, 24) and VideoReader(tmp_path / "on.mp4").num_frames == kept


def test_a_kept_file_of_another_video_is_refused(tmp_path):
    with VideoWriter(tmp_path / "left.mp4", (48, 64), steady(100)) as writer:
        for frame in noise(30):
            writer.write(frame)
    for size, timing in (((64, 64), steady(100)), ((48, 64), steady(100, Fraction(30)))):
        with pytest.raises(MediaError, match=r"left\.mp4 does not fit this run: begin anew with --overwrite"):
            VideoWriter(tmp_path / "on.mp4", size, timing, kept=tmp_path / "left.mp4")


def test_a_full_disk_is_a_clear_error(tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    (tmp_path / "out.mp4").symlink_to("/dev/full")
    with pytest.raises(MediaError, match=r"cannot write .*out\.mp4 \(No space left on device\): free some space"):
        with VideoWriter(tmp_path / "out.mp4", (48, 64), steady(200)) as writer:
            for index in range(200):
                writer.write(np.full((48, 64, 3), index, np.uint8))


def test_a_place_that_cannot_be_written_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(MediaError, match=r"cannot write .*out\.mp4"):
        with VideoWriter(tmp_path / "file" / "out.mp4", (48, 64), steady(3)) as writer:
            writer.write(np.zeros((48, 64, 3), np.uint8))


def test_missing_and_foreign_files_are_named(tmp_path):
    with pytest.raises(MediaError, match=r"gone\.mp4 does not exist"):
        VideoReader(tmp_path / "gone.mp4")
    (tmp_path / "notes.mp4").write_text("these are notes, not a video\n" * 50)
    with pytest.raises(MediaError, match=r"notes\.mp4 is not a video"):
        VideoReader(tmp_path / "notes.mp4")
    (tmp_path / "notes.txt").write_text("these are notes, not a video\n" * 50)
    with pytest.raises(MediaError, match=r"notes\.txt is a text file, not a video"):
        VideoReader(tmp_path / "notes.txt")
    (tmp_path / "empty.mp4").write_bytes(b"")
    with pytest.raises(MediaError, match=r"empty\.mp4 is not a video"):
        VideoReader(tmp_path / "empty.mp4")
    Image.new("RGB", (64, 64)).save(tmp_path / "still.png")
    with pytest.raises(MediaError, match=r"still\.png is a still picture"):
        VideoReader(tmp_path / "still.png")


@pytest.mark.parametrize("name", ["sound.m4a", "sound.wav"])
def test_only_sound_is_named(encode, tmp_path, name):
    clip = encode(tmp_path / name, [], sound="aac" if name.endswith("m4a") else "pcm_s16le")
    with pytest.raises(MediaError, match=f"{name} holds only sound: give a video"):
        VideoReader(clip)


def test_zero_frames_are_named(tmp_path):
    with av.open(str(tmp_path / "none.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.start_encoding()
    with pytest.raises(MediaError, match=r"none\.mp4 (has no frames|holds no picture|is not a video)"):
        VideoReader(tmp_path / "none.mp4")


def test_a_truncated_file_with_its_index_in_front_is_used_as_far_as_it_goes(tmp_path, encode):
    noise = np.random.default_rng(0).integers(0, 256, (60, 48, 64, 3), dtype=np.uint8)
    clip = encode(tmp_path / "cut.mp4", noise, muxing={"movflags": "faststart"})
    data = clip.read_bytes()
    clip.write_bytes(data[: len(data) * 6 // 10])
    reader = VideoReader(clip)
    assert 10 < reader.num_frames < 60
    assert len(list(reader)) == reader.num_frames
    assert reader.problems == [
        f"{clip} is damaged or cut short: {reader.num_frames} of 60 frames decode; these are used"
    ]


def test_a_truncated_file_without_index_fails_clearly(make_clip):
    clip = make_clip("cut.mp4", 60)
    clip.write_bytes(clip.read_bytes()[:700])
    with pytest.raises(MediaError, match=r"cut\.mp4 is not a video that can be read, or it was cut off"):
        VideoReader(clip)


def test_memory_of_reading_does_not_grow(make_clip):
    reader = VideoReader(make_clip("long.mp4", 300))
    kept = [frame.base is None or frame.flags.owndata for frame in reader]
    assert len(kept) == 300


def test_frames_are_given_back_without_the_garbage_collector(make_clip):
    """PyAV's frames and their side data refer to each other: no more than the first of a clip may be asked for it."""
    clip = make_clip("turned.mp4", 40, rotate=90)
    gc.collect()
    gc.disable()
    try:
        reader = VideoReader(clip)
        assert sum(1 for _ in reader) == sum(1 for _ in reader) == 40
        left = sum(isinstance(thing, av.VideoFrame) for thing in gc.get_objects())
    finally:
        gc.enable()
    assert left <= 2
