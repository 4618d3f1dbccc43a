"""Every example workflow in a ComfyUI server: valid, and run to the end with the bundled model."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from svdp.signals.video import VideoReader

from .conftest import comfy_folder, why_not

ROOT = Path(__file__).resolve().parents[2]
NAMES = [p.stem for p in sorted((ROOT / "workflows").glob("*.json"))]
NEEDS_DOWNLOADS = {"4-full-size-sd35-medium"}
STAND_INS = {  # bundled files under the names of those that would have to be downloaded
    "checkpoints/sd3.5_medium.safetensors": "base/mini_base.safetensors",
    "svdp/svdp_sd35m_adapter.safetensors": "svdp/mini_adapter.safetensors",
}
FRAMES = 64  # of the example clips
PATIENCE = 900  # seconds, for a start or a run on a machine that has much else to do
PICTURES = {"9-edit-one-picture": 1, "10-expression-strip": 9}  # and how many they make

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2 * PATIENCE)]


class Server:
    """ComfyUI with this pack alone, in a folder of its own."""

    def __init__(self, base: Path) -> None:
        self.base, self.log = base, base / "server.log"
        (base / "custom_nodes").mkdir(parents=True)
        (base / "custom_nodes" / "video-driven-portraits").symlink_to(ROOT)
        for name, bundled in STAND_INS.items():
            (base / "models" / name).parent.mkdir(parents=True)
            shutil.copy(ROOT / "assets" / bundled, base / "models" / name)
        settings = base / "user" / "default" / "comfy.settings.json"
        settings.parent.mkdir(parents=True)
        settings.write_text('{"Comfy.TutorialCompleted": true}', encoding="utf-8")  # no dialog at the first start
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        options = ["--cpu", "--port", str(self.port), "--base-directory", str(base), "--disable-auto-launch"]
        self.process = subprocess.Popen(
            [sys.executable, "main.py", *options],
            cwd=comfy_folder(),
            stdout=self.log.open("wb"),
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def ask(self, place: str, data: Any = None) -> Any:
        body = None if data is None else json.dumps(data).encode()
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{place}", body, timeout=60) as answer:
            return json.load(answer)

    def tell(self, place: str, data: Any) -> None:
        """Ask for something that has no answer."""
        body = json.dumps(data).encode()
        urllib.request.urlopen(f"http://127.0.0.1:{self.port}{place}", body, timeout=60).close()

    def wait(self, seconds: float = PATIENCE) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.process.poll() is None:
            try:
                self.ask("/system_stats")
                return
            except OSError:
                time.sleep(1)
        raise AssertionError(self.log.read_text(encoding="utf-8", errors="replace")[-3000:])

    def run(self, prompt: dict[str, Any], seconds: float = PATIENCE) -> dict[str, Any]:
        number = self.ask("/prompt", {"prompt": prompt})["prompt_id"]
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            history = self.ask(f"/history/{number}")
            if number in history:
                return history[number]
            time.sleep(1)
        raise AssertionError(f"not finished after {seconds} s")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if why_not():
        pytest.skip(str(why_not()))
    running = Server(tmp_path_factory.mktemp("comfy"))
    try:
        running.wait()
        yield running
    finally:
        running.process.terminate()
        running.process.wait(20)


def prompt_of(name: str, **changed: Any) -> dict[str, Any]:
    """The API twin with other numbers; `frames`: only the beginning, where the whole chain is one node."""
    prompt = json.loads((ROOT / "workflows" / "api" / f"{name}.json").read_text(encoding="utf-8"))
    frames = changed.pop("frames", 0)
    for node in prompt.values():
        node["inputs"] |= {k: v for k, v in changed.items() if k in node["inputs"]}
        if frames and node["class_type"] == "SVDPAnimate":
            node["inputs"] |= {"length": "beginning", "length.frames": frames}
    return prompt


def test_loads_without_a_word(server):
    lines = server.log.read_text(encoding="utf-8", errors="replace").splitlines()
    about_us = [line for line in lines if "video-driven-portraits" in line or "svdp" in line.lower()]
    assert about_us and not [line for line in about_us if "WARN" in line.upper() or "FAILED" in line or "ERROR" in line]
    failed = [line for line in lines if "IMPORT FAILED" in line]
    assert not [line for line in failed if not re.search(r"nodes_\w+\.py", line)], "ComfyUI's own may lack a library"


def test_pages_texts_and_templates_are_served(server):
    listed = server.ask("/workflow_templates")["video-driven-portraits"]
    assert sorted(listed) == sorted(NAMES)
    assert "SVDPFaceTrack" in server.ask("/i18n")["zh"]["nodeDefs"]
    page = urllib.request.urlopen(
        f"http://127.0.0.1:{server.port}/extensions/video-driven-portraits/docs/SVDPFaceTrack.md", timeout=60
    )
    assert page.read().decode().startswith("# Face Track (SVDP)")


@pytest.mark.parametrize("name", NAMES)
def test_valid_for_comfy_cli(server, name, tmp_path):
    """The saved workflow, converted by comfy-cli, asks for what its twin asks for."""
    convert = pytest.importorskip("comfy_cli.workflow_to_api").convert_ui_to_api
    workflow = json.loads((ROOT / "workflows" / f"{name}.json").read_text(encoding="utf-8"))
    twin = json.loads((ROOT / "workflows" / "api" / f"{name}.json").read_text(encoding="utf-8"))
    made = convert(workflow, server.ask("/object_info"))
    assert {i: n["class_type"] for i, n in made.items()} == {i: n["class_type"] for i, n in twin.items()}
    for number, node in twin.items():
        if node["class_type"].startswith("SVDP"):
            assert made[number]["inputs"] == node["inputs"], number


@pytest.mark.parametrize("name", NAMES)
def test_comfy_clis_validator_accepts_the_twin(server, name, tmp_path):
    """`comfy workflow validate`: node types, input shapes, names of files, wiring."""
    pytest.importorskip("comfy_cli")
    (tmp_path / "prompt.json").write_text(json.dumps(prompt_of(name)), encoding="utf-8")
    (tmp_path / "nodes.json").write_text(json.dumps(server.ask("/object_info")), encoding="utf-8")
    command = [sys.executable, "-m", "comfy_cli", "--skip-prompt", "--no-enable-telemetry", "workflow", "validate"]
    command += ["--workflow", str(tmp_path / "prompt.json"), "--input", str(tmp_path / "nodes.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_runs_to_the_end(server, name):
    frames = 18 if name in ("1-first-try", "7-evaluate", "12-draft-and-video-upscaler") else FRAMES
    if name in NEEDS_DOWNLOADS:  # valid, but the stand-in has no autoencoder to run it with
        history = server.run(prompt_of(name, steps=1))
        failed = [text for kind, text in history["status"]["messages"] if kind == "execution_error"]
        assert [f["node_type"] for f in failed] == ["SVDPEncodeSignals"]
        return
    history = server.run(prompt_of(name, steps=1, frames=18))
    assert history["status"]["status_str"] == "success", history["status"]["messages"][-1]
    made = [f for o in history["outputs"].values() for f in o.get("images", []) if f["type"] == "output"]
    if name in PICTURES:
        assert [f["filename"][-4:] for f in made] == [".png"] * PICTURES[name]
        return
    films = [f for f in made if f["filename"].endswith(".mp4")]
    assert len(films) == 1
    reader = VideoReader(server.base / "output" / films[0]["subfolder"] / films[0]["filename"])
    assert reader.num_frames == frames and reader.info.has_audio and reader.info.fps == 30
    side = 800 if name == "6-upscale-and-detail" else 400  # pixels: the portrait's, or twice as many
    assert (reader.info.width, reader.info.height) == (side, side)


def test_a_missing_adapter_is_told_with_what_to_do(server):
    prompt = prompt_of("4-full-size-sd35-medium")
    (loader,) = (n for n in prompt.values() if n["class_type"] == "SVDPLoadAdapter")
    loader["inputs"]["adapter_name"] = "gone.safetensors"
    with pytest.raises(urllib.error.HTTPError) as refused:
        server.run(prompt)
    said = refused.value.read().decode()
    assert "gone.safetensors is not in models/svdp" in said and "mini_adapter" in said


def test_blueprints_are_in_the_node_library(server):
    found = server.ask("/global_subgraphs").values()
    names = {entry["name"] for entry in found if "video-driven-portraits" in json.dumps(entry["info"])}
    assert {p.stem for p in (ROOT / "subgraphs").glob("*.json")} <= names


def test_a_run_of_which_the_first_segment_is_left_goes_on(server):
    """Workflow 3 as it says: the same name, run again; finished segments are files under output."""
    prompt = prompt_of("3-long-video", steps=1, keep_as="a run")
    server.run(prompt)
    folder = server.base / "output" / "svdp" / "a run"
    files = sorted(folder.glob("*.safetensors"))
    assert len(files) == FRAMES / 8
    was = {f.name: f.read_bytes() for f in files}
    for file in files[1:]:
        file.unlink()
    for _ in range(3):  # ComfyUI misses the wish while it tidies up after a run
        time.sleep(3)
        server.tell("/free", {"unload_models": True, "free_memory": True})
    time.sleep(3)  # a prompt that comes at once may be taken before the cache is dropped
    server.run(prompt)
    assert {f.name: f.read_bytes() for f in folder.glob("*.safetensors")} == was
    assert (server.base / "output" / "svdp" / "tracks" / "my long video.track.npz").is_file()
