"""Bad input: a message that names the thing and the remedy, exit code 2, nothing half-written."""

from __future__ import annotations

import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from svdp.animation.config import find_weights
from svdp.errors import UserError
from svdp.model.adapter import Adapter, AdapterFile, save_adapter
from svdp.model.config import AdapterConfig, BaseArchitecture
from svdp.signals.images import save_image
from svdp.signals.video import VideoReader


@pytest.fixture
def refused(animate, tmp_path):
    """refused(*options, **files): the message of a run that must fail with exit code 2 and leave no output."""

    def call(*options: str, **files: Path) -> str:
        before = {p.name for p in tmp_path.iterdir()}
        code, said = animate(*options, **files)
        assert code == 2, said
        assert {p.name for p in tmp_path.iterdir()} == before
        line = next(part for part in said.splitlines() if part.startswith("error: "))
        return line.removeprefix("error: ")

    return call


def test_no_such_files(refused, tmp_path):
    assert refused(source=tmp_path / "a.png") == f"picture {tmp_path / 'a.png'} does not exist: check the path"
    assert refused(driving=tmp_path / "a.mp4") == f"video {tmp_path / 'a.mp4'} does not exist: check the path"
    assert "weights folder" in refused("--weights", tmp_path / "gone")
    assert "there is no *base.safetensors in" in refused("--weights", tmp_path)
    assert "gone.safetensors do not exist" in refused("--adapter", tmp_path / "gone.safetensors")
    with pytest.raises(
        UserError, match=r"--base .*big needs --adapter: the bundled adapter fits the bundled base alone"
    ):
        find_weights(None, base=tmp_path / "big")


def test_the_weights_of_one_folder_belong_together(tmp_path):
    """Also in the folders base, svdp and vae, as scripts/make_bundled.py writes them."""
    for name in ("base/my_base", "svdp/my_adapter", "vae/my_autoencoder"):
        path = tmp_path / f"{name}.safetensors"
        path.parent.mkdir()
        path.touch()
    found = find_weights(tmp_path)
    assert {found.base, found.adapter, found.autoencoder} == set(tmp_path.glob("*/*"))


def test_not_a_video(refused, tmp_path):
    (tmp_path / "notes.mp4").write_bytes(b"\x00\x01notes" * 99)
    assert "notes.mp4 is not a video that can be read" in refused(driving=tmp_path / "notes.mp4")


def test_a_picture_as_driver_and_a_video_as_source(refused, examples):
    assert "is a still picture, not a video" in refused(driving=examples.source)
    assert "is not a picture that can be read: save it as PNG or JPEG" in refused(source=examples.driving)


def test_only_sound(refused, encode, tmp_path):
    clip = encode(tmp_path / "song.m4a", [], sound="aac")
    assert refused(driving=clip) == f"{clip} holds only sound: give a video with moving pictures"


def test_no_frame_after_start(refused):
    assert "has no frame 5000 to start at: choose a smaller --start" in refused("--start", "5000")


def test_a_source_without_a_face(refused, tmp_path):
    save_image(tmp_path / "wall.png", np.full((200, 200, 3), 120, np.uint8))
    message = refused(source=tmp_path / "wall.png")
    assert message.startswith(f"source {tmp_path / 'wall.png'}: no face found in the picture of 200x200 pixels; use")


def test_a_driver_without_any_face(refused, make_clip):
    message = refused(driving=make_clip("wall.mp4", 5))
    assert "wall.mp4: no face found in any of 5 frames of 64x48 pixels; use" in message


def test_a_face_number_that_is_not_there(refused):
    assert "7" in refused("--select-face", "7", "--max-frames", "3")
    assert "nobody" in refused("--select-face", "nobody", "--max-frames", "3")


def test_a_driver_cut_off_before_its_index(refused, examples, encode, tmp_path):
    clip = encode(tmp_path / "cut.mp4", islice(VideoReader(examples.driving), 10))
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    assert "cut.mp4 is not a video that can be read, or it was cut off" in refused(driving=clip)


def test_a_source_of_one_pixel(refused, tmp_path):
    Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")
    assert "dot.png is 1x1 pixels: too small to hold a face" in refused(source=tmp_path / "dot.png")


def test_a_corrupt_adapter(refused, tiny_weights, tmp_path):
    data = (tiny_weights / "adapter.safetensors").read_bytes()
    (tmp_path / "short.safetensors").write_bytes(data[: len(data) // 2])
    message = refused("--adapter", str(tmp_path / "short.safetensors"))
    assert "adapter file" in message and "short.safetensors is damaged or not safetensors" in message
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    assert "other.safetensors is not an SVDP adapter" in refused("--adapter", str(tmp_path / "other.safetensors"))


def test_a_mismatched_adapter_names_both_architectures(refused, tmp_path):
    base = BaseArchitecture(width=128, depth=2, heads=2, table_size=24, context_dim=16, pooled_dim=16)
    adapter = Adapter(AdapterConfig(base=base, video_head_dim=32))
    save_adapter(tmp_path / "wide.safetensors", AdapterFile(adapter))
    message = refused("--adapter", str(tmp_path / "wide.safetensors"))
    assert "width 128, 2 blocks" in message and "width 64, 1 blocks" in message


def test_a_corrupt_base_and_autoencoder(refused, tiny_weights, tmp_path):
    (tmp_path / "bad.safetensors").write_bytes(b"nothing of the kind")
    adapter = str(tiny_weights / "adapter.safetensors")
    bad = str(tmp_path / "bad.safetensors")
    assert "bad.safetensors is damaged" in refused("--base", bad, "--adapter", adapter)
    assert "bad.safetensors is damaged or not safetensors" in refused("--autoencoder", bad)
    state = load_file(tiny_weights / "base.safetensors")
    save_file(state, tmp_path / "novae.safetensors")
    assert "no autoencoder in" in refused("--autoencoder", str(tmp_path / "novae.safetensors"))


def test_outputs_that_cannot_be(refused, examples, tmp_path):
    (tmp_path / "file").write_text("x")
    assert "cannot write" in refused(output=tmp_path / "file" / "out.mp4")
    (tmp_path / "there.mp4").write_text("precious")
    assert "there.mp4 exists already: choose another name, or add --overwrite" in refused(output=tmp_path / "there.mp4")
    assert (tmp_path / "there.mp4").read_text() == "precious"
    assert "out.avi must end in one of .mp4" in refused(output=tmp_path / "out.avi")
    assert "is also an input" in refused("--overwrite", output=examples.driving)
    (tmp_path / "folder.mp4").mkdir()
    assert "is a folder: give a file name" in refused(output=tmp_path / "folder.mp4")


def test_settings_that_cannot_be(refused):
    assert "unknown region chin: choose among eyes, nose, mouth" in refused("--regions", "eyes,chin")
    assert "unknown motion 'sideways': choose among absolute, relative" in refused("--motion", "sideways")
    assert "unknown dtype 'float8'" in refused("--dtype", "float8")
    assert "multiple of 16" in refused("--resolution", "100")
    assert "resolution 256 is too large for this base" in refused("--resolution", "256")
    assert "device 'abacus' cannot be used here" in refused("--device", "abacus")
    assert "history" in refused("--history", "9", "--segment-length", "4")
    assert "solver" in refused("--solver", "magic")
    assert "--reference 90 is not among the driver's 64 frames" in refused(
        *("--motion", "relative", "--reference", "90", "--max-frames", "3")
    )


def test_usage_errors_and_version(svdp):
    assert svdp("animate")[0] == 2
    assert svdp("--version")[0] == 0


def test_help_does_not_load_the_heavy_libraries():
    script = (
        "import sys; from svdp.cli.app import build_app; build_app(); "
        "print([m for m in ('torch', 'diffusers', 'mediapipe', 'cv2', 'av', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_device_without_values_and_running_out_of_memory(refused, monkeypatch):
    assert "device 'meta' cannot be used here" in refused("--device", "meta")

    def full(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("svdp.animation.media.load_image", full)
    assert "there is not enough memory: lower --resolution" in refused()
