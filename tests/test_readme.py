"""README and documentation against the disk: the file tree, commands and options, links, lengths."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main
from svdp.cli.app import build_app

GENERATED = {"demo", "runs", "build", "dist", "__pycache__"}
ALWAYS_NAMED = ("*.py", "*.toml", "*.txt", "*.md", "Makefile", "LICENSE", "NOTICE")  # in the root of the checkout


@pytest.fixture(scope="module")
def readme(root) -> str:
    """README and the pages of docs/ together."""
    pages = [root / "README.md", *sorted((root / "docs").glob("*.md"))]
    return "\n\n".join(page.read_text(encoding="utf-8") for page in pages)


def test_the_readme_is_short_and_moves(root):
    text = (root / "README.md").read_text(encoding="utf-8")
    assert len(text) <= 9000
    first = re.findall(r"!\[.*?\]\((.*?)\)", text)[0]
    assert first.endswith((".webp", ".gif")) and (root / first).stat().st_size < 3_000_000
    assert text.index(first) < 300


def test_every_page_is_linked_and_begins_with_a_command(root):
    from_where = (root / "README.md", root / "docs" / "evidence.md")
    linked = "".join(page.read_text(encoding="utf-8") for page in from_where)
    for page in sorted((root / "docs").glob("*.md")):
        assert page.name in linked, f"nothing links to docs/{page.name}"
        assert re.match(r"# .*\n\n```", page.read_text(encoding="utf-8")), f"docs/{page.name} begins with no command"


@pytest.fixture(scope="module")
def tree(readme) -> dict[str, str]:
    """Path -> description of every file and folder that the file tree names; folders end with a slash."""
    block = re.search(r"^## Files\n.*?```text\n(.*?)```", readme, re.MULTILINE | re.DOTALL)
    assert block, "no file tree under '## Files'"
    named: dict[str, str] = {}
    folders: list[str] = []
    for line in block.group(1).splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        names, _, description = line.strip().partition("  ")
        folders = folders[:depth]
        for name in names.split():
            named["".join(folders) + name] = description.strip()
        if names.endswith("/"):
            folders.append(names)
    return named


@pytest.fixture(scope="module")
def command() -> Any:
    """The `svdp` command group; newer versions of typer bring their own click, hence no type."""
    return typer.main.get_command(build_app())


def test_tree_names_what_is_there(root, tree):
    gone = [path for path in tree if not (root / path).exists() or (root / path).is_dir() != path.endswith("/")]
    assert not gone, f"README.md names files that do not exist: {gone}"
    assert [path for path, description in tree.items() if not description] == []


def test_tree_names_all_that_is_there(root, tree):
    """Every folder of the checkout, every module of the package, every page and setting in its root."""
    missing = [f"{path}  {_headline(root / path)}" for path in _must_be_named(root) if path not in tree]
    assert not missing, "README.md's file tree lacks:\n" + "\n".join(missing)


def test_commands_exist(root, readme, command):
    targets = set(re.findall(r"^([a-z-]+):.*?##", (root / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    lines = _command_lines(readme)
    assert len(lines) > 8
    for line in lines:
        words = shlex.split(line, comments=True)
        if words[0] == "make":
            assert set(w for w in words[1:] if "=" not in w) <= targets, f"no such make target: {line}"
        elif Path(words[0]).name == "svdp":
            _check_call(command, words[1:], line)


def test_option_table_is_complete(readme, command):
    """The table names every option of `svdp animate` and no other."""
    rows = re.search(r"^\| option of `svdp animate` .*?\n\n", readme, re.MULTILINE | re.DOTALL)
    assert rows
    named = {
        name
        for row in rows.group().strip().splitlines()[2:]
        for name in re.findall(r"`(--[a-z-]+)`", row.split("|")[1])
    }
    options = _options(command.commands["animate"])
    known = {name for p in options for name in (*p.opts, *p.secondary_opts) if name.startswith("--")} - {"--help"}
    assert named - known == set(), "options that do not exist"
    wanted = {name for p in options for name in p.opts if name.startswith("--")} - {"--help"}
    assert wanted - named == set(), "options that the table lacks"


def test_links_resolve(root):
    for page in [*root.glob("*.md"), *(root / "docs").glob("**/*.md")]:
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"(?:src|href)=\"([^\"]+)\"", text):
            if re.match(r"https://", target):
                continue
            path, _, anchor = target.partition("#")
            linked = page.parent / path if path else page
            assert linked.exists(), f"{page.name} links to {target}, which does not exist"
            if anchor:
                assert anchor in _anchors(linked.read_text(encoding="utf-8")), f"{page.name}: no heading for #{anchor}"


def test_no_links_that_are_not_encrypted_and_no_private_ones(root, readme):
    assert not re.findall(r"http://\S+|file://\S+|localhost\S*", readme)


def _must_be_named(root: Path) -> list[str]:
    paths = [p for pattern in ALWAYS_NAMED for p in root.glob(pattern) if p.name != "README.md"]
    for top in (p for p in root.iterdir() if p.is_dir() and not _hidden(p)):
        folders = [top, *(p for p in top.rglob("*") if p.is_dir() and not any(map(_hidden, [p, *p.parents])))]
        paths += [f for f in folders if any(p.is_file() for p in f.rglob("*"))]
        if (top / "__init__.py").exists():
            paths += [p for p in top.rglob("*.py") if p.name != "__init__.py"]
    return sorted(p.relative_to(root).as_posix() + "/" * p.is_dir() for p in paths)


def _hidden(folder: Path) -> bool:
    return folder.name in GENERATED or folder.name.startswith(".") or folder.name.endswith(".egg-info")


def _headline(path: Path) -> str:
    if path.suffix != ".py":
        return ""
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n")[0]


def _command_lines(readme: str) -> list[str]:
    """Lines of shell blocks, and inline code that starts with `svdp` or `make` and says more than the bare name."""
    blocks = re.findall(r"^```(?:bash|sh|console)\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    lines = [line.removeprefix("$ ").strip() for block in blocks for line in block.splitlines() if line.strip()]
    inline = re.findall(r"`((?:\S*/)?(?:svdp|make) [^`]+)`", readme)
    return lines + inline


def _options(command: Any) -> list[Any]:
    return [p for p in command.params if p.param_type_name == "option"]


def _check_call(group: Any, words: list[str], line: str) -> None:
    """Follow the subcommands, then check that every option exists."""
    while hasattr(group, "commands") and words and not words[0].startswith("-"):
        assert words[0] in group.commands, f"no such command: {line}"
        group, words = group.commands[words[0]], words[1:]
    known = {name for p in _options(group) for name in (*p.opts, *p.secondary_opts)} | {"--help", "-h"}
    unknown = [w for w in words if w.startswith("-") and w.split("=")[0] not in known]
    assert not unknown, f"no such option {unknown}: {line}"


def _anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}
