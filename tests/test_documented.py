"""Every command that README and docs/ show is one that the real parsers take, on files that are there."""

from __future__ import annotations

import argparse
import ast
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import svdp
import typer.main
from svdp.cli.app import build_app

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
IN_REPOSITORY = ("assets", "configs", "docs", "scripts", "tests", "workflows", ".ci")
OTHERS = {"apt", "comfy", "git", "pip", "pip3"}  # not ours
VENV = re.compile(r"^(?:\.venv/bin/|\.venv\\Scripts\\)")


class Parsed(Exception):
    """Options were taken; nothing is run."""


def blocks(page: Path, kind: str = "bash|sh|console|text") -> list[str]:
    """The fenced blocks of a page."""
    return re.findall(rf"^```(?:{kind})\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[str]:
    """Lines of shell blocks, continued ones joined, and inline code that starts with a script of ours."""
    text = "\n".join(blocks(page, "bash|sh|console")).replace("\\\n", " ")
    plain = [line for line in "\n".join(blocks(page, "text")).splitlines() if VENV.match(line)]
    lines = [line.removeprefix("$ ").strip() for line in text.splitlines()] + plain
    inline = re.findall(r"`((?:\.venv/bin/)?python (?:scripts/|-m svdp)[^`]+)`", page.read_text(encoding="utf-8"))
    return [line for line in [*lines, *inline] if line and not line.startswith("#")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_is_taken(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    wrong = []
    for line in commands(page):
        for part in re.split(r"\s(?:&&|;|\|)\s", line):
            try:
                check(shlex.split(part, comments=True), monkeypatch)
            except (AssertionError, SystemExit, Exception) as error:  # noqa: BLE001  # all of a page in one message
                wrong.append(f"{part}\n    {type(error).__name__}: {error}")
    assert not wrong, "\n".join(wrong)


def test_the_pages_hold_commands_of_every_kind() -> None:
    found = [VENV.sub("", line).split()[0] for page in PAGES for line in commands(page)]
    assert len(found) > 30 and {"svdp", "python", "make"} <= set(found)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("svdp animate -s a.jpg -d b.mp4", "output"), ("svdp animate -s a -d b -o c --stepz 3", "stepz"),
        ("svdp animat -s a", "animat"), ("make demos", "demos"), ("python scripts/gone.py", "gone.py"),
        ("python scripts/make_bundled.py configs/bundled.toml out --worker x", "2"),
        ("svdp train configs/gone.toml", "configs/gone.toml"), ("svdp bundle a b --autoencoder c --steps x", "steps"),
        ("python -m svdp.heads.bake", "2"),
    ],
)  # fmt: skip
def test_a_wrong_command_is_found(line: str, problem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises((Exception, SystemExit)) as caught:
        check(shlex.split(line), monkeypatch)
    said = f"{caught.value} {getattr(caught.value, 'message', '')} {getattr(caught.value, 'param', '')}"
    assert problem in said and caught.type is not Parsed


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_examples_name_what_is_there(page: Path) -> None:
    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "svdp":
                assert hasattr(svdp, node.attr), f"svdp.{node.attr}"


def check(words: list[str], patch: pytest.MonkeyPatch) -> None:
    """Raise unless the words are a command that its own parser takes, and files of the repository are there."""
    if not words:
        return
    words = [VENV.sub("", words[0]), *words[1:]]
    while re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        words = words[1:]
    for word in words[1:]:
        if Path(word).parts[:1] and Path(word).parts[0] in IN_REPOSITORY:
            assert (ROOT / word).exists(), f"{word} is not there"
    name = Path(words[0]).name
    if name == "svdp":
        check_svdp(words[1:])
    elif name == "accelerate":
        place = words.index("svdp.cli")
        assert words[1] == "launch" and words[place - 1] == "-m"
        check_svdp(words[place + 1 :])
    elif name == "make":
        targets = re.findall(r"^([a-z-]+):.*?##", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        unknown = [w for w in words[1:] if "=" not in w and w not in targets]
        assert not unknown, f"no such target: {unknown}"
    elif name in ("python", "python3"):
        check_python(words[1:], patch)
    else:
        assert name in OTHERS or words[0] == ".ci/run", f"unknown command {name}"


def check_svdp(words: list[str]) -> None:
    """As the command line parses them."""
    group: Any = typer.main.get_command(build_app())
    while hasattr(group, "commands"):
        assert words, "a subcommand is missing"
        assert words[0] in group.commands, f"no such command: {words[0]}"
        group, words = group.commands[words[0]], words[1:]
    if words not in (["--help"], ["..."]):
        group.make_context("svdp", list(words))


def check_python(words: list[str], patch: pytest.MonkeyPatch) -> None:
    """A script or module up to where it has parsed its options."""
    if words[:2] == ["-m", "venv"]:
        return
    run = runpy.run_path
    if words[0] == "-m":
        run, words = (lambda name, run_name: runpy.run_module(name, run_name=run_name)), words[1:]
    else:
        assert (ROOT / words[0]).is_file(), f"{words[0]} is not there"

    with patch.context() as inner:
        for name in ("parse_args", "parse_intermixed_args"):
            inner.setattr(argparse.ArgumentParser, name, _only(getattr(argparse.ArgumentParser, name)))
        inner.setattr(sys, "argv", words)
        try:
            run(words[0], run_name="__main__")
        except Parsed:
            return
        except SystemExit as ended:
            if ended.code not in (0, None) or "--help" not in words:
                raise
            return
    raise AssertionError("it parsed no options")


def _only(parse: Any) -> Any:
    def parsed(self: argparse.ArgumentParser, *arguments: Any) -> None:
        parse(self, *arguments)
        raise Parsed

    return parsed


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_the_training_section_runs_as_written(tmp_path: Path) -> None:
    """Every command of "From what is bundled", in a copy of the checkout that holds nothing but what is shipped."""
    text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    section = re.search(r"^## From what is bundled\n(.*?)^## ", text, re.MULTILINE | re.DOTALL)
    assert section
    lines = re.findall(r"^```bash\n(.*?)^```", section.group(1), re.MULTILINE | re.DOTALL)
    clone = tmp_path / "clone"
    for folder in ("assets", "configs", "scripts"):
        shutil.copytree(ROOT / folder, clone / folder, ignore=shutil.ignore_patterns("__pycache__"))
    (clone / ".venv").symlink_to(sys.prefix)
    done = subprocess.run(["bash", "-e"], input="".join(lines), text=True, cwd=clone, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-3000:]
    made = clone / "runs" / "examples"
    assert sorted(p.name for p in (made / "pack").glob("*s.npz")) == ["clips.npz", "portraits.npz"]
    assert len(list(made.glob("assets/*/toy_*.safetensors"))) == 3
    from svdp.signals.video import VideoReader

    assert VideoReader(made / "portrait.mp4").num_frames == 24
