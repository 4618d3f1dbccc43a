"""Every example workflow dropped into ComfyUI's real front end: nothing unknown, nothing red, the twin's prompt."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from .test_workflows import NAMES, NEEDS_DOWNLOADS, PATIENCE, ROOT, Server, server

__all__ = ["server"]  # the fixture
pytestmark = [pytest.mark.slow, pytest.mark.timeout(2 * PATIENCE)]
SCRIPT = Path(__file__).with_name("front_end.js")
OFFLINE = ("ERR_NAME_NOT_RESOLVED", "ERR_INTERNET_DISCONNECTED")  # what the front end fetches from elsewhere


@pytest.fixture(scope="module")
def seen(server: Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the front end made of the workflows."""
    node = shutil.which("node")
    browser = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if node is None or browser is None:
        pytest.skip("no node or chromium here")
    has_driver = subprocess.run([node, "-e", "require('playwright-core')"], capture_output=True, check=False)
    if has_driver.returncode:
        pytest.skip("playwright-core is not installed: npm install playwright-core, and set NODE_PATH")
    command = [node, str(SCRIPT), f"http://127.0.0.1:{server.port}/", str(ROOT / "workflows")]
    command += [os.environ["WORKFLOW_PICTURES"]] if "WORKFLOW_PICTURES" in os.environ else []  # for the thumbnails
    run = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=PATIENCE, env={**os.environ, "CHROMIUM": browser}
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.parametrize("name", NAMES)
def test_dropped_workflow_is_whole(seen, name):
    found = seen["workflows"][f"{name}.json"]
    assert found["unknown"] == []
    assert name in NEEDS_DOWNLOADS or found["red"] == []
    assert [e for e in found["errors"] if not any(word in e for word in OFFLINE)] == []
    twin = json.loads((ROOT / "workflows" / "api" / f"{name}.json").read_text(encoding="utf-8"))
    assert found["prompt"] == twin


def test_help_page_opens(seen):
    assert seen["help"] is True
