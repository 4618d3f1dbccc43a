"""Where samples come from, behind one interface: pairs made elsewhere, clips that drive themselves, rendered heads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ...errors import UserError
from .clips import make_self_driven
from .identities import SplitInputs
from .pairs import make_pair_clip
from .pictures import PictureClip
from .rendered_pairs import make_pair
from .sources import DataConfig


class Provider(Protocol):
    """Makes samples, each from the generator's numbers alone."""

    def __call__(self, rng: np.random.Generator) -> PictureClip:
        """One sample; its `info` names the provider, identities and licences."""
        ...


@dataclass(frozen=True)
class Providers:
    """The providers that a configuration's media allow, with their shares."""

    optional: Sequence[tuple[float, Provider]]  # each takes its share of what those before it left
    rest: Provider | None  # rendered heads: all that is left

    def make(self, rng: np.random.Generator) -> PictureClip:
        """One sample of one of them."""
        for share, provider in self.optional:
            if rng.random() < share:
                return provider(rng)
        provider = self.rest or self.optional[-1][1]
        return provider(rng)


def open_providers(config: DataConfig, inputs: SplitInputs, split: str) -> Providers:
    """The providers for a split's media. Raises UserError if it has too few for the shares that are set."""
    optional: list[tuple[float, Provider]] = []
    if inputs.pairs and config.pair_share:
        optional.append((config.pair_share, lambda rng: make_pair_clip(rng, inputs.pairs, config)))
    if inputs.segments:
        optional.append((config.clip_share, lambda rng: make_self_driven(rng, inputs.segments, config)))
    rig, identities = inputs.rig, inputs.identities
    rendered = rig is not None and len(identities.portraits) >= 2
    if not rendered and not any(share == 1 for share, _ in optional):
        raise UserError(
            f"rendered pairs need two usable portraits or more for {split}, and a head_model; the media give too "
            "few. Without rendered pairs set pair_share or clip_share to 1"
        )
    return Providers(optional, (lambda rng: make_pair(rng, rig, identities, config)) if rig and rendered else None)
