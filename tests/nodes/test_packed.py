"""What the Comfy registry gets: the files under version control less those that .comfyignore names."""

from __future__ import annotations

import re
import shutil
import subprocess
from fnmatch import fnmatch
from pathlib import Path

import pytest

NEEDED = ("__init__.py", "pyproject.toml", "requirements.txt", "LICENSE", "NOTICE", "README.md", "errors.py")
FOLDERS = ("assets", "evaluation", "heads", "locales", "model", "nodes", "signals", "web", "workflows")
LIMIT = 80_000_000  # bytes


@pytest.fixture(scope="module")
def packed(root: Path) -> list[Path]:
    """Files of the pack, relative to the checkout."""
    git = shutil.which("git")
    if git is None or not (root / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run([git, "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=True).stdout
    rules = [
        line.strip()
        for line in (root / ".comfyignore").read_text(encoding="utf-8").splitlines()
        if line.strip() and not line.startswith("#")
    ]
    return [Path(name) for name in listed.split("\0") if name and not any(_ignored(name, rule) for rule in rules)]


def _ignored(name: str, rule: str) -> bool:
    return name.startswith(rule) if rule.endswith("/") else fnmatch(name, rule)


def test_all_that_is_needed_and_no_tests(packed):
    names = {p.as_posix() for p in packed}
    assert set(NEEDED) <= names
    assert {p.parts[0] for p in packed if len(p.parts) > 1} >= set(FOLDERS)
    assert not [n for n in names if re.match(r"(tests|scripts|\.github|\.ci)/", n)]


def test_small_enough_and_nothing_that_registries_refuse(packed, root):
    there = [root / p for p in packed if (root / p).exists()]
    assert sum(p.stat().st_size for p in there) < LIMIT
    assert not [p for p in there if p.is_symlink() or p.suffix in (".pyc", ".js", ".sh", ".exe", ".so", ".pt", ".pth")]
    assert not {"install.py", "prestartup_script.py"} & {p.name for p in packed}


def test_publishing_runs_when_the_version_changes(root):
    action = (root / ".github" / "workflows" / "publish.yml").read_text(encoding="utf-8")
    assert "Comfy-Org/publish-node-action" in action and "secrets.REGISTRY_ACCESS_TOKEN" in action
    assert "pyproject.toml" in action
