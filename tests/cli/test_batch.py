"""`svdp batch`: lists of jobs in three forms, one model, failures that stop nothing, runs that go on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import svdp
from svdp.signals.video import VideoReader

SHORT = "max_frames = 2\nsteps = 1\npaste_back = false\ncontact_sheet = false\n"
Batch = Callable[..., tuple[int, str]]


@pytest.fixture
def batch(svdp, tiny_weights: Path) -> Batch:
    """batch(list, *options): `svdp batch` with the tiny model."""

    def call(jobs: Path, *options: str | Path) -> tuple[int, str]:
        code, said = svdp("batch", jobs, "--weights", tiny_weights, *options)
        return code, " ".join(said.split())

    return call


@pytest.fixture
def media(examples, tmp_path: Path) -> Path:
    """A folder with a portrait, a clip, and a picture without a face."""
    folder = tmp_path / "media"
    folder.mkdir()
    shutil.copy(examples.source, folder / "anna.jpg")
    shutil.copy(examples.driving, folder / "speech.mp4")
    return folder


def toml(folder: Path, *jobs: str, defaults: str = SHORT) -> Path:
    path = folder / "jobs.toml"
    parts = [f"[[job]]\n{job}\n" for job in jobs]
    path.write_text('root = "media"\n[defaults]\n' + defaults + "".join(parts))
    return path


ANNA = 'source = "anna.jpg"\ndriving = "speech.mp4"\n'


def test_one_failure_stops_nothing_and_the_next_run_makes_the_rest(batch, media, tmp_path) -> None:
    jobs = toml(tmp_path, ANNA, 'source = "gone.png"\ndriving = "speech.mp4"\n', ANNA + 'output = "b.mp4"\nseed = 3\n')
    out = tmp_path / "out"
    code, said = batch(jobs, "--out", out)
    assert code == 1
    assert "2 done, 0 there already, 1 failed" in said and "gone.png does not exist: check the path" in said
    assert sorted(p.name for p in out.iterdir()) == ["anna-speech.mp4", "b.mp4", "svdp-jobs.json"]
    assert VideoReader(out / "b.mp4").num_frames == 2
    times = {p.name: p.stat().st_mtime_ns for p in out.glob("*.mp4")}
    shutil.copy(media / "anna.jpg", media / "gone.png")
    code, said = batch(jobs, "--out", out)
    assert code == 0 and "1 done, 2 there already, 0 failed" in said
    assert all((out / name).stat().st_mtime_ns == time for name, time in times.items())
    assert (out / "gone-speech.mp4").exists()


def test_nothing_is_replaced_unless_it_was_asked_for(batch, media, tmp_path) -> None:
    jobs = toml(tmp_path, ANNA)
    (tmp_path / "anna-speech.mp4").write_text("precious")
    code, said = batch(jobs)
    assert code == 1 and "exists already" in said
    assert (tmp_path / "anna-speech.mp4").read_text() == "precious"
    assert batch(jobs, "--overwrite")[0] == 0
    assert VideoReader(tmp_path / "anna-speech.mp4").num_frames == 2
    code, said = batch(toml(tmp_path, ANNA + "seed = 1\n"))  # another video is asked for under the same name
    assert code == 1 and "exists already" in said
    code, said = batch(toml(tmp_path, ANNA))
    assert code == 0 and "1 there already" in said


def test_a_result_that_was_finished_before_it_was_noted_is_kept(batch, media, tmp_path) -> None:
    jobs = toml(tmp_path, ANNA)
    assert batch(jobs)[0] == 0
    book = json.loads((tmp_path / "svdp-jobs.json").read_text())
    assert list(book) == [str((tmp_path / "anna-speech.mp4").resolve())]
    (tmp_path / "svdp-jobs.json").write_text("[broken")  # then the file is a stranger's again
    assert batch(jobs)[0] == 1


def test_csv_has_typed_cells(batch, media, tmp_path) -> None:
    path = tmp_path / "jobs.csv"
    path.write_text(
        "source,driving,output,max_frames,steps,paste_back,regions,contact_sheet\n"
        'media/anna.jpg,media/speech.mp4,one.mp4,3,1,false,"eyes,mouth",false\n'
        "media/anna.jpg,media/speech.mp4,two.mp4,2,1,true,,false\n"
    )
    assert batch(path)[0] == 0
    assert [VideoReader(tmp_path / name).num_frames for name in ("one.mp4", "two.mp4")] == [3, 2]
    assert VideoReader(tmp_path / "one.mp4").info.width == 64 < VideoReader(tmp_path / "two.mp4").info.width


def test_a_folder_is_every_picture_with_every_clip(media, examples, tmp_path) -> None:
    shutil.copy(examples.source, media / "bert.png")
    (media / "notes.txt").write_text("no media")
    jobs = svdp.read_jobs(media, tmp_path / "out")
    assert [job.output.name for job in jobs] == ["anna-speech.mp4", "bert-speech.mp4"]
    with pytest.raises(svdp.UserError, match="choose another folder for the outputs"):
        svdp.read_jobs(media)


def test_processes_of_a_launcher_share_the_list(media, tmp_path, monkeypatch) -> None:
    from svdp.animation.batch import local_device, my_share

    jobs = svdp.read_jobs(toml(tmp_path, *(ANNA + f'output = "{n}.mp4"\n' for n in range(5))))
    assert my_share(jobs) == jobs
    shares = []
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        shares.append(my_share(jobs))
        svdp.run_jobs(shares[-1][:1], None, tmp_path)  # fails: no model, no draft
    assert [[job.output.stem for job in share] for share in shares] == [["0", "2", "4"], ["1", "3"]]
    assert sorted(p.name for p in tmp_path.glob("svdp-jobs*")) == ["svdp-jobs.1.json", "svdp-jobs.json"]
    monkeypatch.setenv("LOCAL_RANK", "40")
    assert (local_device("auto"), local_device("cpu")) == ("auto", "cpu")


@pytest.mark.slow
def test_two_launched_processes_make_every_video_once(root, media, tiny_weights, tmp_path) -> None:
    """A process that is early and has failures ends no other; a second launch makes what failed, and nothing else."""
    gone = 'source = "gone.png"\ndriving = "speech.mp4"\n'
    jobs = toml(tmp_path, *((ANNA if n % 2 else gone) + f'output = "{n}.mp4"\nseed = {n}\n' for n in range(6)))
    out = tmp_path / "out"
    settings = root / "configs" / "accelerate" / "two-cpu.yaml"  # `--cpu --num_processes 2` starts one process
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", settings]
    launcher += ["--main_process_port", "29531"]
    command = [*launcher, "-m", "svdp.cli", "batch", jobs, "--out", out, "--weights", tiny_weights, "--device", "cpu"]

    def launch() -> tuple[int, list[Path]]:
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, cwd=tmp_path,
                              env=environment, timeout=250)  # fmt: skip
        told = [Path(line) for line in done.stdout.splitlines() if line.endswith(".mp4")]
        return done.returncode, sorted(told)

    even, odd = [[out / f"{n}.mp4" for n in range(first, 6, 2)] for first in (0, 1)]
    code, told = launch()
    assert code != 0 and told == odd  # all of the second process's; each is told once, by the process that made it
    times = [path.stat().st_mtime_ns for path in odd]
    shutil.copy(media / "anna.jpg", media / "gone.png")
    code, told = launch()
    assert code == 0 and told == even
    assert [path.stat().st_mtime_ns for path in odd] == times
    books = [json.loads((out / name).read_text()) for name in ("svdp-jobs.json", "svdp-jobs.1.json")]
    assert [{Path(path).stem for path in book} for book in books] == [{"0", "2", "4"}, {"1", "3", "5"}]


def test_ctrl_c_ends_the_list_and_a_second_run_goes_on(batch, media, tmp_path, monkeypatch) -> None:
    import svdp.animation.pipeline as pipeline

    jobs = toml(tmp_path, *(ANNA + f'output = "{n}.mp4"\n' for n in range(3)))
    settled, calls = pipeline.settled, []

    def settled_then_stopped(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return settled(*arguments)

    monkeypatch.setattr(pipeline, "settled", settled_then_stopped)
    code, said = batch(jobs)
    assert code == 130 and "run again to go on" in said and "1 done, 0 there already, 0 failed, 2 not begun" in said
    code, said = batch(jobs)
    assert code == 0 and "2 done, 1 there already, 0 failed" in said


BAD = [
    ("jobs.toml", b"\xff\xfe", "not text in UTF-8"), ("jobs.toml", b"job = 3", "job a list of tables"),
    ("jobs.toml", b"[[job", "not valid TOML"), ("jobs.toml", b"", "holds no job"),
    ("jobs.toml", b"x = 1", "unknown key x"),
    ("jobs.toml", b"defaults = 1", "defaults a table"), ("jobs.toml", b"job = [3]", "job 1 must be a table, got 3"),
    ("jobs.toml", b"[[job]]\nsource = 'a.png'", "job 1: driving is missing"),
    ("jobs.toml", b"[[job]]\nsource = 3\ndriving = 'b.mp4'", "source must be a path, got 3"),
    ("jobs.toml", b"[[job]]\nsource = 'a'\ndriving = 'b'\nsteps = 0", "job 1: steps must be"),
    ("jobs.toml", b"[[job]]\nsource = 'a'\ndriving = 'b'\nsteps = nan", "job 1: steps must be a whole number"),
    ("jobs.toml", b"[[job]]\nsource = 'a'\ndriving = 'b'\nstrength = 1", "strength is the same for all jobs"),
    ("jobs.toml", b"[defaults]\nsource = 'a'\n[[job]]\n", "[defaults]: unknown key source"),
    ("jobs.toml", b"[[job]]\nsource = 'a'\ndriving = 'b'\n" * 2, "two jobs write"),
    ("jobs.toml", b"[[job]]\nsource = 'a'\ndriving = 'b.mp4'\noutput = 'b.mp4'", "input of one job and the output"),
    ("jobs.csv", b"source,driving\na\n", "line 2: it has more or fewer cells"),
    ("jobs.csv", b"source,driving\na,b,c\n", "line 2: it has more or fewer cells"),
    ("jobs.csv", b"source,driving,steps\na,b,many\n", "line 2 steps must be a number, got 'many'"),
    ("jobs.csv", b"source,driving,draft\na,b,1\n", "draft must be true or false"),
    ("jobs.csv", b"source,driving,colour\na,b,red\n", "unknown key colour"), ("jobs.csv", b"\xff", "not CSV in UTF-8"),
    ("jobs.csv", b"source,driving,detail\na,b,nan\n", "detail must be a number from 0 to 1, got nan"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "data", "words"), BAD)
def test_a_list_that_cannot_be_is_refused_before_anything_is_made(name, data, words, tmp_path, svdp) -> None:
    (tmp_path / name).write_bytes(data)
    code, said = svdp("batch", tmp_path / name)
    assert code == 2 and said.startswith("error: ") and words in said and said.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_no_list_at_all(svdp, tmp_path) -> None:
    assert "does not exist" in svdp("batch", tmp_path / "no.toml")[1]
    assert "holds no job" in svdp("batch", tmp_path, "--out", tmp_path / "o")[1]
