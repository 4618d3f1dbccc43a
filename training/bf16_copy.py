"""A bfloat16 working copy of the model for the forward and backward pass, beside float32 master weights.

On CPUs with bfloat16 instructions autocast spends most of a step on conversions; a model that is bfloat16 throughout
does not. The optimiser, the average and the checkpoints see the float32 masters alone.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import fields

import torch
from torch import Tensor

from ..model.backends.diffusers import Denoiser
from ..model.streams import Conditions


class BF16Copy:
    """`module` is the copy that runs; weights flow from the masters to it, gradients back."""

    dtype = torch.bfloat16

    def __init__(self, master: Denoiser) -> None:
        self.module = deepcopy(master).to(self.dtype)
        copies = dict(self.module.named_parameters())
        self.pairs = [(p, copies[name]) for name, p in master.named_parameters() if p.requires_grad]

    @torch.no_grad()
    def take_weights(self) -> None:
        """Round the masters' weights into the copy."""
        torch._foreach_copy_([c for _, c in self.pairs], [m for m, _ in self.pairs])  # pyright: ignore[reportPrivateImportUsage]

    def give_gradients(self) -> None:
        """Move the copy's gradients to the masters, in float32; what got none stays without."""
        for master, copy in self.pairs:
            master.grad = None if copy.grad is None else copy.grad.float()
            copy.grad = None

    def cast(self, conditions: Conditions) -> Conditions:
        """Conditions with floating tensors in the copy's precision; token indices stay as they are."""
        values = {f.name: getattr(conditions, f.name) for f in fields(conditions)}
        return Conditions(**{k: self._cast(v) for k, v in values.items()})

    def _cast(self, value: Tensor | None) -> Tensor | None:
        return value.to(self.dtype) if value is not None and value.is_floating_point() else value
