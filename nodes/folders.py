"""Where model files are looked for: `models/svdp` for adapters, and the bundled model in the ordinary lists."""

# pyright: reportMissingImports=false
# (ComfyUI is a program, not a package that could be installed)
from __future__ import annotations

import re
from pathlib import Path

import folder_paths

from ..errors import UserError

KEY = "svdp"
ASSETS = Path(__file__).resolve().parents[1] / "assets"
EXAMPLES = ASSETS / "examples"
_LONGEST_NAME = 80
_RESERVED = {"CON", "PRN", "AUX", "NUL", *(f"{port}{n}" for port in ("COM", "LPT") for n in range(1, 10))}
BUNDLED = {  # folder key -> the bundled files that belong there
    "diffusion_models": "*base.safetensors",
    "vae": "*autoencoder.safetensors",
    KEY: "*adapter.safetensors",
}


def register_folders() -> None:
    """Add the key `svdp` and the folders of the bundled files; again is harmless. Nothing is copied or created."""
    own = str(Path(folder_paths.models_dir) / KEY)
    _, endings = folder_paths.folder_names_and_paths.setdefault(KEY, ([own], {".safetensors"}))
    endings.add(".safetensors")  # a key that extra_model_paths.yaml made takes files of any kind
    folder_paths.add_model_folder_path(KEY, own)
    for key, pattern in BUNDLED.items():
        for folder in sorted({str(file.parent) for file in ASSETS.rglob(pattern)}):
            folder_paths.add_model_folder_path(key, folder)


def bundled(key: str) -> Path:
    """The bundled file of a folder key: "diffusion_models" the base, "vae" the autoencoder, "svdp" the adapter."""
    return next(iter(sorted(ASSETS.rglob(BUNDLED[key]))))


def name_problem(name: str | None) -> str | None:
    """Why a name cannot be that of a folder or file on every system; None if it can."""
    if not name:
        return None
    if re.search(r'[<>:"/\\|?*\x00-\x1f]', name):
        return f'{name!r} is not a plain name: leave out separators and the signs < > : " | ? *'
    if name != name.strip(" .") or len(name) > _LONGEST_NAME:
        return f"a name must not begin or end with a space or a dot, nor be longer than {_LONGEST_NAME} letters"
    if name.split(".")[0].upper() in _RESERVED:
        return f"{name!r} is reserved on Windows: choose another name"
    return None


def kept_folder(name: str) -> Path | None:
    """Where what is kept under a name lies: output/svdp/<name>; None for no name. Raises UserError for a bad one."""
    if problem := name_problem(name):
        raise UserError(problem)
    return Path(folder_paths.get_output_directory()) / KEY / name if name else None
