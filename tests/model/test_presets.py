"""Presets change an adapter's own sampling."""

from __future__ import annotations

from dataclasses import replace

import pytest
from svdp.errors import UserError
from svdp.model.config import FusionConfig, SamplingConfig, by_preset

OWN = SamplingConfig(steps=2, shift=2.0, fusion=FusionConfig(source=1.0, driving=1.0, mouth=0.5))


def test_balanced_is_the_adapters_own():
    assert by_preset(OWN, "balanced") == OWN


@pytest.mark.parametrize("steps, halved", [(1, 1), (2, 1), (20, 10)])
def test_fast_takes_half_the_steps_and_changes_nothing_else(steps, halved):
    own = replace(OWN, steps=steps)
    assert by_preset(own, "fast") == replace(own, steps=halved)


def test_faithful_has_the_papers_steps_and_weights_and_keeps_the_rest():
    made = by_preset(OWN, "faithful")
    assert (made.steps, made.fusion.source, made.fusion.driving, made.fusion.history) == (40, 2.0, 2.5, 1.0)
    assert made.shift == 2.0 and made.fusion.mouth == 0.5


def test_unknown_presets_are_named():
    with pytest.raises(UserError, match=r"quick.*faithful, balanced, fast"):
        by_preset(OWN, "quick")
