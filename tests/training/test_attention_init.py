"""Heads that look at their own place from the first step on."""

import pytest
import torch
from svdp.errors import UserError
from svdp.model.adapter import Adapter
from svdp.model.backends.diffusers import DiffusersBackend, build_transformer
from svdp.model.config import AdapterConfig, BaseArchitecture
from svdp.model.positions import crop_positions
from svdp.training.attention_init import init_local_attention

BASE = BaseArchitecture(
    width=128, depth=2, heads=2, dual_blocks=(0,), channels=4, patch=1, table_size=48, context_dim=8, pooled_dim=8
)
SIDE = 12  # tokens


@pytest.fixture
def parts():
    torch.manual_seed(0)
    return build_transformer(BASE), Adapter(AdapterConfig(base=BASE))


def attention(transformer, head, query, key):
    """(N, N) of the first block, from tokens of one picture to another's, each with random content."""
    backend, content = (
        DiffusersBackend(transformer),
        torch.randn(2, 4, SIDE, SIDE, generator=torch.Generator().manual_seed(1)),
    )
    table = backend.position_table()
    places = [crop_positions(table, SIDE, SIDE, place) for place in (query, key)]
    tokens = [backend.embed(c[None]) + place for c, place in zip(content, places, strict=True)]
    vec = backend.modulation(torch.tensor([0.5]), torch.zeros(1, 8))
    (q, _, _), (_, k, _) = (backend.blocks[0].image_in(t, vec)[0] for t in tokens)
    return (q[0, head] @ k[0, head].T / q.shape[-1] ** 0.5).softmax(-1)


@pytest.mark.parametrize(("head", "key"), [(0, "centre"), (1, "left")])
@torch.no_grad()
def test_a_head_looks_at_its_own_place(head, key, parts):
    transformer, adapter = parts
    own = torch.arange(SIDE**2)
    before = attention(transformer, head, "centre", key)
    init_local_attention(transformer, adapter, SIDE)
    after = attention(transformer, head, "centre", key)
    assert (before.argmax(-1) == own).float().mean() < 0.2
    assert (after.argmax(-1) == own).float().mean() > 0.9
    near = torch.cdist(*[torch.stack([own // SIDE, own % SIDE], 1).float()] * 2) < 2.5
    assert (after * near).sum(-1).mean() > 0.5 > (before * near).sum(-1).mean()


def test_heads_that_are_too_small_are_refused():
    small = BaseArchitecture(width=8, depth=1, heads=1, channels=4, table_size=16, context_dim=8, pooled_dim=8)
    with pytest.raises(UserError, match="two heads"):
        init_local_attention(build_transformer(small), Adapter(AdapterConfig(base=small, video_head_dim=4)), 4)
