"""Where model files are looked for: `models/svdp` for adapters, and the bundled model in the ordinary lists."""

# pyright: reportMissingImports=false
# (ComfyUI is a program, not a package that could be installed)
from __future__ import annotations

from pathlib import Path

import folder_paths

KEY = "svdp"
ASSETS = Path(__file__).resolve().parents[1] / "assets"
EXAMPLES = ASSETS / "examples"
BUNDLED = {  # folder key -> the bundled files that belong there
    "checkpoints": "*base.safetensors",
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
    """The bundled file of a folder key: "checkpoints" the base, "vae" the autoencoder, "svdp" the adapter."""
    return next(iter(sorted(ASSETS.rglob(BUNDLED[key]))))
