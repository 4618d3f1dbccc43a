"""What a run writes: no input and nothing that was there is lost, one run at a time, and a stopped run goes on."""

from __future__ import annotations

import io
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pytest
from svdp.animation.kept import Checkpoint
from svdp.animation.output import OutputFile
from svdp.errors import MediaError, UserError
from svdp.signals.video import VideoReader

SHORT = ("--draft", "--resolution", "128")


@pytest.fixture
def short(examples, encode, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three frames of the example, to be followed quickly."""
    return encode(tmp_path_factory.mktemp("short") / "short.mp4", islice(VideoReader(examples.driving), 3))


@pytest.fixture
def draft(animate, short) -> Callable[..., tuple[int, str]]:
    """draft(*options, **files): `svdp animate --draft` of a short clip."""

    def call(*options: str, **files: Path) -> tuple[int, str]:
        return animate(*SHORT, *options, **{"driving": short, **files})

    return call


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def frames_and_sound(path: Path) -> tuple[list[np.ndarray], list[tuple[int, bytes]]]:
    with av.open(str(path)) as container:
        sound = [(p.pts, bytes(p)) for p in container.demux(audio=0) if p.pts is not None]
    return list(VideoReader(path)), sound


def assert_same(a: Path, b: Path) -> None:
    """Every decoded frame and every packet of sound."""
    (frames_a, sound_a), (frames_b, sound_b) = frames_and_sound(a), frames_and_sound(b)
    assert len(frames_a) == len(frames_b) and all(map(np.array_equal, frames_a, frames_b))
    assert sound_a == sound_b and len(sound_a) > 10


@pytest.fixture
def copied(tmp_path: Path) -> Callable[[Path, str], Path]:
    """copied(path, name): a copy in tmp_path."""

    def copy(path: Path, name: str) -> Path:
        (tmp_path / name).write_bytes(path.read_bytes())
        return tmp_path / name

    return copy


def test_names_that_a_run_writes_are_never_inputs(draft, copied, examples, short, tmp_path):
    driver, portrait = copied(short, "q.partial.mp4"), copied(examples.source, "s.sheet.png")
    before = {path: path.read_bytes() for path in (driver, portrait)}
    assert draft(driving=driver, output=tmp_path / "q.mp4")[0] == 0
    for extra in ((), ("--overwrite",)):
        code, said = draft(*extra, source=portrait, output=tmp_path / "s.mp4")
        assert code == 2 and f"output {portrait} is also an input" in said
    assert draft("--no-contact-sheet", source=portrait, output=tmp_path / "s.mp4")[0] == 0
    assert {path: path.read_bytes() for path in before} == before


def test_an_input_by_another_name_is_an_input(draft, copied, examples, short, tmp_path):
    driver = copied(short, "a.mp4")
    os.link(driver, tmp_path / "b.mp4")
    code, said = draft("--overwrite", driving=driver, output=tmp_path / "b.mp4")
    assert code == 2 and "is also an input" in said


def test_a_kept_film_as_driver_is_not_thrown_away(draft, copied, examples, short, tmp_path):
    (tmp_path / "q.mp4.partial").mkdir()
    driver = copied(short, "q.mp4.partial/video.mp4")
    code, said = draft("--overwrite", driving=driver, output=tmp_path / "q.mp4")
    assert code == 2 and "an input lies in" in said and driver.read_bytes() == short.read_bytes()


def test_a_contact_sheet_that_is_there_stays(draft, tmp_path):
    (tmp_path / "out.sheet.png").write_bytes(b"precious")
    code, said = draft()
    assert code == 2 and "out.sheet.png exists already: choose another name, or add --overwrite, or add --no-" in said
    assert draft("--no-contact-sheet")[0] == 0
    assert (tmp_path / "out.sheet.png").read_bytes() == b"precious"
    assert draft("--overwrite")[0] == 0
    assert (tmp_path / "out.sheet.png").read_bytes() != b"precious"


def test_files_of_others_in_the_working_folder_stay(draft, tmp_path):
    (tmp_path / "out.mp4.partial").mkdir()
    (tmp_path / "out.mp4.partial" / "letter.txt").write_text("precious")
    code, said = draft("--overwrite")
    assert code == 2 and "holds letter.txt, which is not of this program: move it elsewhere" in said
    assert names(tmp_path / "out.mp4.partial") == ["letter.txt"]


def test_an_output_that_appears_meanwhile_stays(tmp_path):
    output = OutputFile(tmp_path / "out.mp4")
    output.video.write_bytes(b"made")
    (tmp_path / "out.mp4").write_bytes(b"precious")
    with pytest.raises(MediaError, match=r"out\.mp4 has come to be there meanwhile; the finished video is"):
        output.commit()
    assert (tmp_path / "out.mp4").read_bytes() == b"precious" and output.video.read_bytes() == b"made"


@pytest.mark.parametrize("name", ["", ".", "..", "/", "a\udcff" * 200 + ".mp4", "x" * 300 + ".mp4"])
def test_names_that_cannot_be(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"output .* (is a folder|must end in)|cannot write"):
        OutputFile(Path(name))
    assert names(tmp_path) == []


def test_an_output_name_that_is_not_utf_8(examples, short, tmp_path, monkeypatch):
    from svdp.cli.app import run

    output = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe.mp4"))
    try:
        output.touch()
        output.unlink()
    except OSError:
        pytest.skip("this file system wants UTF-8 names")
    said = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(said, encoding="utf-8"))
    with pytest.raises(SystemExit, match="0"):
        run(["animate", *SHORT, "-s", str(examples.source), "-d", str(short), "-o", str(output)])
    sys.stdout.flush()
    assert VideoReader(output).num_frames == 3
    assert said.getvalue().splitlines() == [os.fsencode(output), os.fsencode(output).replace(b".mp4", b".sheet.png")]


def test_a_full_disk(animate, tmp_path):
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        code, said = animate("--draft", "--max-frames", "40")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert code == 2
    assert "video.mp4 (File too large): free some space and run again, or choose another place" in said
    assert "nothing was written" in said
    assert names(tmp_path) == []


def test_a_failed_run_leaves_no_folders(animate, make_clip, tmp_path):
    clip = make_clip("wall.mp4", 3)
    code, _ = animate("--draft", driving=clip, output=tmp_path / "new" / "deeper" / "out.mp4")
    assert code == 2 and names(tmp_path) == ["wall.mp4"]


HOLDER = """
import sys, time
from pathlib import Path
from svdp.animation.output import OutputFile
output = OutputFile(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def test_a_second_run_of_one_output_is_refused_at_its_start(draft, tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "out.mp4")], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == "held\n"
        for extra in ((), ("--overwrite",), ("--resume",)):
            code, said = draft(*extra)
            assert code == 2 and f"another run is making {tmp_path / 'out.mp4'}: wait for it" in said
        assert draft(output=tmp_path / "other.mp4")[0] == 0
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    assert draft()[0] == 0  # the lock ended with its process
    assert names(tmp_path) == ["other.mp4", "other.sheet.png", "out.mp4", "out.sheet.png"]


def test_locks_are_passed_on_one_at_a_time(tmp_path):
    """Many threads take, write and leave the same name; none sees another's file."""
    made, refused = [], []

    def run(number: int) -> None:
        for _ in range(20):
            try:
                output = OutputFile(tmp_path / "out.mp4", overwrite=True)
            except UserError:
                refused.append(number)
                continue
            output.video.write_bytes(str(number).encode())
            assert output.video.read_bytes() == str(number).encode()
            output.commit()
            made.append(number)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made and len(made) + len(refused) == 80 and names(tmp_path) == ["out.mp4"]


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_keeps_a_playable_file_and_goes_on(animate, examples, tmp_path, number, code):
    folder = tmp_path / "out.mp4.partial"

    def interrupt() -> None:
        until = time.monotonic() + 60
        while time.monotonic() < until and sum(size_of(folder)) < 12_000:
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=interrupt)
    thread.start()
    options = ("--steps", "2", "--max-frames", "60", "--keep-crop")
    exit_code, said = animate(*options)
    thread.join()
    assert exit_code == code
    assert not (tmp_path / "out.mp4").exists()
    frames = VideoReader(folder / "video.mp4").num_frames
    assert f"stopped by {number.name}: the first {frames} frames are kept in {folder / 'video.mp4'}; --resume" in said

    exit_code, said = animate(*options)
    assert exit_code == 2 and f"an earlier run stopped after {frames} frames, kept in" in said
    assert "go on with --resume, or begin anew with --overwrite" in said
    exit_code, said = animate("--resume", "--steps", "3", *options[2:])
    assert exit_code == 2 and "had another steps: give the same to go on" in said
    assert VideoReader(folder / "video.mp4").num_frames == frames
    exit_code, said = animate("--resume", *options)
    assert exit_code == 0 and "goes on at frame" in said, said
    assert names(tmp_path) == ["out.mp4", "out.sheet.png"]
    assert animate(*options, output=tmp_path / "once.mp4")[0] == 0
    assert_same(tmp_path / "out.mp4", tmp_path / "once.mp4")
    assert (tmp_path / "out.sheet.png").read_bytes() == (tmp_path / "once.sheet.png").read_bytes()


COMMAND = "import sys; from svdp.cli.app import run; run(sys.argv[1:])"


def kill_when_grown(command: list[str], folder: Path, size: int) -> bool:
    """Run a command and SIGKILL it as soon as the files in `folder` are so large; whether it was killed."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while process.poll() is None:
            if sum(size_of(folder)) >= size:
                process.kill()
            time.sleep(0.005)
    finally:
        process.kill()
        process.wait()
    return process.returncode == -signal.SIGKILL


def size_of(folder: Path) -> Iterator[int]:
    for path in folder.glob("video*.mp4"):
        try:
            yield path.stat().st_size
        except FileNotFoundError:  # it is being replaced
            continue


def test_a_draft_killed_at_random_goes_on_to_the_same_result(animate, examples, tmp_path):
    options = ("--draft", "--resolution", "128", "--keep-crop")
    assert animate(*options, output=tmp_path / "once.mp4")[0] == 0
    whole = (tmp_path / "once.mp4").stat().st_size
    files = ("--source", examples.source, "--driving", examples.driving, "-o", tmp_path / "out.mp4")
    command = [sys.executable, "-c", COMMAND, "animate", *map(str, files), *options]
    at = random.Random(16).randrange(whole // 3, whole * 3 // 4)
    assert kill_when_grown(command, tmp_path / "out.mp4.partial", at)
    kept = VideoReader(tmp_path / "out.mp4.partial" / "video.mp4").num_frames
    assert 0 < kept < 64
    code, said = animate("--resume", *options)
    assert code == 0 and "goes on at frame" in said, said
    assert_same(tmp_path / "out.mp4", tmp_path / "once.mp4")
    assert names(tmp_path) == ["once.mp4", "once.sheet.png", "out.mp4", "out.sheet.png"]


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "options", [("--draft", "--resolution", "128"), ("--max-frames", "60")], ids=["draft", "model"]
)
def test_a_run_killed_ten_times_ends_as_one_that_never_stopped(svdp, examples, tmp_path, options):
    """With the bundled model; every kill comes at a random moment after the first frames were written."""
    files = ("--source", examples.source, "--driving", examples.driving)
    rest = (*options, "--keep-crop", "--resume")
    assert svdp("animate", *files, "-o", tmp_path / "once.mp4", *rest)[0] == 0
    command = [sys.executable, "-c", COMMAND, "animate", *map(str, files), "-o", str(tmp_path / "out.mp4"), *rest]
    rng, killed, folder = random.Random(16), 0, tmp_path / "out.mp4.partial"
    while killed < 10 and not (tmp_path / "out.mp4").exists():
        size = (tmp_path / "once.mp4").stat().st_size
        killed += kill_when_grown(command, folder, sum(size_of(folder)) + rng.randrange(1, size // 6))
    print(f"killed {killed} times")
    if not (tmp_path / "out.mp4").exists():
        assert svdp("animate", *files, "-o", tmp_path / "out.mp4", *rest)[0] == 0
    assert killed >= 5
    assert_same(tmp_path / "out.mp4", tmp_path / "once.mp4")
    assert names(tmp_path) == ["once.mp4", "once.sheet.png", "out.mp4", "out.sheet.png"]


def test_a_damaged_checkpoint_is_named(tmp_path):
    checkpoint = Checkpoint("video.mp4", {"seed": "0"}, 16, np.ones((2, 16, 8, 8), np.float32))
    checkpoint.save(tmp_path / "a.npz")
    found = Checkpoint.load(tmp_path / "a.npz")
    assert found is not None and found.start == 16 and found.history is not None and found.history.all()
    assert found.differences({"seed": "1", "steps": "2"}) == ["seed", "steps"]
    data = (tmp_path / "a.npz").read_bytes()
    for cut in (0, 10, len(data) // 2, len(data) - 30):
        (tmp_path / "a.npz").write_bytes(data[:cut])
        with pytest.raises(MediaError, match=r"a\.npz is damaged: begin anew with --overwrite"):
            Checkpoint.load(tmp_path / "a.npz")
    assert Checkpoint.load(tmp_path / "none.npz") is None


@pytest.mark.parametrize("frames", ["3", "11"])
def test_a_preview_is_the_beginning_of_the_whole(animate, encode, examples, tmp_path, frames):
    options = ("--steps", "1", "--keep-crop", "--segment-length", "6")
    driving = encode(tmp_path / "a.mp4", islice(VideoReader(examples.driving), 20))
    assert animate(*options, driving=driving, output=tmp_path / "whole.mp4")[0] == 0
    assert animate(*options, "--max-frames", frames, driving=driving, output=tmp_path / "preview.mp4")[0] == 0
    whole, preview = list(VideoReader(tmp_path / "whole.mp4")), list(VideoReader(tmp_path / "preview.mp4"))
    assert len(whole) == 20 and len(preview) == int(frames)
    # encoded for itself, so not to the bit: the first frames differ by less than the two films' own neighbours
    for made, expected, following in zip(preview, whole, whole[1:], strict=False):
        assert np.abs(made.astype(int) - expected).mean() <= 0.5 * np.abs(following.astype(int) - expected).mean()
