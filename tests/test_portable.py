"""Other people's machines: no call that only POSIX has, and folders and files with spaces, accents and long names."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

POSIX_MODULES = {"fcntl", "grp", "pwd", "resource", "termios", "tty", "pty", "posix", "syslog"}
POSIX_CALLS = {
    "fork", "forkpty", "getuid", "geteuid", "getgid", "getpgid", "killpg", "mkfifo", "nice", "pathconf",
    "posix_fadvise", "posix_spawn", "sched_getaffinity", "sched_setaffinity", "setsid", "sync", "uname", "symlink",
}  # fmt: skip
SHIPPED = ("animation", "cli", "evaluation", "heads", "model", "nodes", "signals", "training")
ODD = "Bilder & Filme \u00fcber \u6620\u753b"  # spaces, accents, another script


def shipped_files(root: Path) -> list[Path]:
    return [root / "__init__.py", *(path for part in SHIPPED for path in sorted((root / part).rglob("*.py")))]


def guarded(tree: ast.Module) -> set[ast.AST]:
    """Nodes within an `if` that asks for the system, or whether the module has the call, and within a fallback."""
    found: set[ast.AST] = set()
    for node in ast.walk(tree):
        words = ast.unparse(node.test) if isinstance(node, ast.If | ast.IfExp) else ""
        if any(word in words for word in ("os.name", "sys.platform", "hasattr(os")):
            found |= set(ast.walk(node))
        if isinstance(node, ast.FunctionDef) and any(
            isinstance(first, ast.If) and "os.name" in ast.unparse(first.test) for first in node.body
        ):
            found |= set(ast.walk(node))
    return found


def test_posix_alone_is_asked_for_only_where_it_is(root: Path) -> None:
    for path in shipped_files(root):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        safe = guarded(tree)
        for node in ast.walk(tree):
            names: set[str] = set()
            if isinstance(node, ast.Import):
                names = {alias.name.partition(".")[0] for alias in node.names} & POSIX_MODULES
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = {(node.module or "").partition(".")[0]} & POSIX_MODULES
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os":
                names = {node.attr} & POSIX_CALLS
            assert not names or node in safe, f"{path.relative_to(root)}:{node.lineno} needs {names} on every system"


def test_text_files_name_their_encoding(root: Path) -> None:
    """Windows would take another one."""
    for path in shipped_files(root):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                if node.func.attr in ("read_text", "write_text"):
                    given = {k.arg for k in node.keywords}
                    assert "encoding" in given, f"{path.relative_to(root)}:{node.lineno}: {node.func.attr}"


@pytest.mark.slow
def test_a_draft_from_and_to_folders_with_odd_and_long_names(root: Path, assets_dir: Path, tmp_path: Path) -> None:
    """The package itself lies in such a folder, as ComfyUI's portable build may, and so do the user's files."""
    code = tmp_path / ODD / ("long name " * 9).strip() / "custom nodes"
    code.mkdir(parents=True)
    shutil.copytree(
        root, code / "svdp",
        ignore=shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "tests", "docs", "mini_base*", "workflows"),
    )  # fmt: skip
    source, driving, made = (code / f"{ODD} {name}" for name in ("a.jpg", "b.mp4", "c.mp4"))
    shutil.copyfile(assets_dir / "examples" / "source.jpg", source)
    shutil.copyfile(assets_dir / "examples" / "driving.mp4", driving)
    command = [sys.executable, "-c", "import svdp, sys; print(svdp.__file__); from svdp.cli import main; main()"]
    command += ["animate", "--draft", "-s", source, "-d", driving, "-o", made, "--max-frames", "3"]
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, encoding="utf-8", cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(code), "PYTHONIOENCODING": "utf-8"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert str(code) in done.stdout.splitlines()[0]
    assert made.stat().st_size > 1000 and made.with_suffix(".sheet.png").is_file()
