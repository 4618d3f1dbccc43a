"""Run by `accelerate launch` in tests: distributed.py CHECKOUT OUT TOML ... trains each configuration into OUT/<stem>.

One called "parts" is stopped after three steps and resumed.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    checkout, out, *tables = sys.argv[1:]
    sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != Path(checkout)]
    import torch

    torch.set_num_threads(1)
    from accelerate.state import AcceleratorState
    from svdp.training.config import load_config
    from svdp.training.loop import train

    assert torch.distributed.is_torchelastic_launched()
    for table in map(Path, tables):
        if table.stem == "parts":
            train(load_config(table), Path(out) / table.stem, should_stop=lambda progress: progress.step == 3)
            AcceleratorState._reset_state()
        train(load_config(table), Path(out) / table.stem, resume=table.stem == "parts")
        AcceleratorState._reset_state()
