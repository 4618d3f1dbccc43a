"""Conditioning streams: what must change nothing changes nothing, and fast forms equal slow readable ones."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from svdp.model.attention import attend
from svdp.model.backends.diffusers import Denoiser
from svdp.model.fusion import BRANCHES
from svdp.model.streams import Conditions, embed_tokens
from svdp.model.tokens import patchify
from torch import Tensor

from .conftest import FRAMES, tiny_denoiser

SIGMA = torch.tensor([0.7])


def base_output(d: Denoiser, z: Tensor) -> Tensor:
    """The untouched diffusers forward on the adapter's empty prompt."""
    out = d.transformer(
        hidden_states=z[0],
        encoder_hidden_states=d.adapter.context.expand(FRAMES, -1, -1),
        pooled_projections=d.adapter.pooled.expand(FRAMES, -1),
        timestep=SIGMA.expand(FRAMES) * 1000,
        return_dict=False,
    )
    return out[0][None]


@pytest.mark.parametrize("source", ["tokens", "both"])
@pytest.mark.parametrize("driving", ["both", "tokens", "aligned"])
def test_untrained_adapter_gives_the_base_bit_for_bit(conditioning, driving, source, noisy, conditions):
    d = tiny_denoiser(trained=False, conditioning=conditioning, driving=driving, source=source)
    with torch.no_grad():
        for branch in BRANCHES:
            assert torch.equal(d(noisy, SIGMA, conditions, branch=branch), base_output(d, noisy))


def test_strength_zero_gives_the_base_bit_for_bit(conditioning, noisy, conditions):
    d = tiny_denoiser(conditioning=conditioning)
    with torch.no_grad():
        changed = d(noisy, SIGMA, conditions)
        d.strength = 0.0
        assert torch.equal(d(noisy, SIGMA, conditions), base_output(d, noisy))
    assert not torch.allclose(changed, base_output(d, noisy), atol=1e-3)


def test_every_condition_has_an_effect(conditioning, noisy, conditions):
    d = tiny_denoiser(conditioning=conditioning)
    with torch.no_grad():
        out = {b: d(noisy, SIGMA, conditions, branch=b) for b in BRANCHES}
    for a, b in (("u", "s"), ("s", "d"), ("d", "p")):
        assert (out[a] - out[b]).abs().max() > 1e-3, f"branch {b} equals {a}"


def test_the_aligned_source_enters_with_the_source_alone(conditioning, noisy, conditions):
    d = tiny_denoiser(conditioning=conditioning, source="both")
    with torch.no_grad():
        before = {b: d(noisy, SIGMA, conditions, branch=b) for b in BRANCHES}
        d.adapter.source_proj.weight.mul_(2)
        after = {b: d(noisy, SIGMA, conditions, branch=b) for b in BRANCHES}
    assert torch.equal(before["u"], after["u"])
    for branch in ("s", "d", "p"):
        assert (before[branch] - after[branch]).abs().max() > 1e-3, branch


def test_reused_streams_equal_streams_made_anew(conditioning, noisy, conditions):
    d = tiny_denoiser(conditioning=conditioning, source="both")
    with torch.no_grad():
        source = d.prefill(Conditions(source=conditions.source))
        streams = d.prefill(conditions, source)
        for sigma in (0.9, 0.4):
            t = torch.tensor([sigma])
            for branch in BRANCHES:
                again = d(noisy, t, conditions, branch=branch)
                torch.testing.assert_close(d(noisy, t, streams=streams, branch=branch), again, atol=1e-5, rtol=0)


def masked_block(block, tokens: Tensor, txt: Tensor, vecs: Tensor, vec: Tensor, mask: Tensor, num_z: int):
    """One joint block on [all image tokens; text] of one frame, readable: per-token modulation, one explicit mask."""
    parts = [block.image_in(tokens[:, i : i + 1], vecs[i : i + 1]) for i in range(tokens.shape[1])]
    (cq, ck, cv), c_state = block.context_in(txt, vec)
    q, k, v = (torch.cat([*(p[0][j] for p in parts), c], 2) for j, c in enumerate((cq, ck, cv)))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
    dual = None
    if parts[0][1] is not None:
        dq, dk, dv = (torch.cat([p[1][j] for p in parts], 2) for j in range(3))
        own = mask[: tokens.shape[1], : tokens.shape[1]].clone()
        own[:num_z, num_z:] = False  # dual attention: z on z alone
        dual = F.scaled_dot_product_attention(dq, dk, dv, attn_mask=own).transpose(1, 2).flatten(2)
    new = [
        block.image_out(tokens[:, i : i + 1], out[:, i : i + 1], dual[:, i : i + 1] if dual is not None else None, p[2])
        for i, p in enumerate(parts)
    ]
    return torch.cat(new, 1), block.context_out(txt, out[:, tokens.shape[1] :], c_state)


def slow_cached_forward(d: Denoiser, z: Tensor, c: Conditions, black: Tensor | None = None) -> Tensor:
    """Branch d of the cached form without caches: every frame holds [z, S, all of D; text] under one attention mask.
    `black` (F, N) marks driving tokens that nobody may see."""
    backend, a = d.backend, d.adapter
    n = 16
    zz = embed_tokens(backend, a, z[0], "centre", "noise")
    if a.driving_proj is not None:
        zz = zz + a.driving_proj(patchify(c.driving[0], 2))
    if a.source_proj is not None:
        zz = zz + a.source_proj(patchify(c.source, 2))
    s = embed_tokens(backend, a, c.source, "left", "source").expand(FRAMES, -1, -1)
    dr = embed_tokens(backend, a, c.driving[0], "right", "driving")
    x = torch.cat([zz, s, dr], 1)
    vec = backend.modulation(SIGMA, a.pooled[None])
    vec0 = backend.modulation(torch.zeros(1), a.pooled[None])
    vecs = torch.cat([vec.expand(n, -1), vec0.expand(2 * n, -1)])
    txt = d.transformer.context_embedder(a.context[None]).expand(FRAMES, -1, -1)
    total = 3 * n + txt.shape[1]
    for i, block in enumerate(backend.blocks):
        frames, texts = [], []
        for f in range(FRAMES):
            mask = torch.zeros(total, total, dtype=torch.bool)
            mask[:n] = mask[3 * n :] = True  # z and text see everything
            mask[n : 2 * n, n : 2 * n] = True  # S sees S
            mask[2 * n : 3 * n, 2 * n : 3 * n] = True  # D sees D
            if black is not None:
                hidden = torch.zeros(total, dtype=torch.bool)
                hidden[2 * n : 3 * n] = black[f]
                mask &= ~hidden[None, :]
                mask[hidden] = True  # rows that nobody reads: any value, but no NaN
            y, t = masked_block(block, x[f : f + 1], txt[f : f + 1], vecs, vec, mask, n)
            frames.append(y)
            texts.append(t)
        x, txt = torch.cat(frames), torch.cat(texts)
        x = torch.cat([x[:, :n] + a.video[str(i)](x[None, :, :n])[0], x[:, n:]], 1)
    t = d.transformer
    return d._unpatchify(t.proj_out(t.norm_out(x[:, :n], vec.expand(FRAMES, -1))), z[0])[None]


@pytest.mark.parametrize("source", ["tokens", "both"])
def test_cached_form_equals_one_masked_sequence(source, noisy, conditions):
    d = tiny_denoiser(gate="open", source=source)
    everything = torch.arange(16).expand(1, FRAMES, 16)
    with torch.no_grad():
        fast = d(noisy, SIGMA, replace(conditions, driving_index=everything), branch="d")
        torch.testing.assert_close(fast, slow_cached_forward(d, noisy, conditions), atol=1e-5, rtol=1e-5)


def test_pruned_tokens_equal_the_same_attention_with_black_tokens_masked(noisy, conditions):
    d = tiny_denoiser(gate="open")
    black = torch.ones(FRAMES, 16, dtype=torch.bool).scatter_(1, conditions.driving_index[0], False)
    with torch.no_grad():
        pruned = d(noisy, SIGMA, conditions, branch="d")
        slow = slow_cached_forward(d, noisy, conditions, black)
        torch.testing.assert_close(pruned, slow, atol=1e-5, rtol=1e-5)
        unmasked = slow_cached_forward(d, noisy, conditions)
    assert (pruned - unmasked).abs().max() > 1e-3  # the mask matters, so the equality above says something


def test_joint_form_is_the_original_block_on_three_pictures(noisy, conditions):
    """Without gates the joint form is the base's own block on [z; S; D] (paper, conditioning)."""
    d = tiny_denoiser(conditioning="joint", gate="open", driving="tokens")
    backend, a, t = d.backend, d.adapter, d.transformer
    everything = torch.arange(16).expand(1, FRAMES, 16)
    with torch.no_grad():
        fast = d(noisy, SIGMA, replace(conditions, driving_index=everything), branch="d")
        parts = [
            embed_tokens(backend, a, noisy[0], "centre", "noise"),
            embed_tokens(backend, a, conditions.source, "left", "source").expand(FRAMES, -1, -1),
            embed_tokens(backend, a, conditions.driving[0], "right", "driving"),
        ]
        x = torch.cat(parts, 1)
        vec = backend.modulation(SIGMA.expand(FRAMES), a.pooled[None])
        txt = t.context_embedder(a.context[None]).expand(FRAMES, -1, -1)
        for i, block in enumerate(t.transformer_blocks):
            txt, x = block(hidden_states=x, encoder_hidden_states=txt, temb=vec)
            x = torch.cat([x[:, :16] + a.video[str(i)](x[None, :, :16])[0], x[:, 16:]], 1)
        slow = d._unpatchify(t.proj_out(t.norm_out(x[:, :16], vec)), noisy[0])[None]
    torch.testing.assert_close(fast, slow, atol=1e-5, rtol=1e-5)


def test_gate_blends_base_and_conditioned_attention(conditioning, noisy, conditions):
    d = tiny_denoiser(conditioning=conditioning)
    with torch.no_grad():
        d.adapter.condition_gate.fill_(1.0)
        blended = d(noisy, SIGMA, conditions, branch="d")
        d.adapter.condition_gate = None
        torch.testing.assert_close(blended, d(noisy, SIGMA, conditions, branch="d"), atol=1e-5, rtol=1e-5)


def test_gradient_checkpointing_gives_the_same_gradients(conditioning, noisy, conditions):
    grads = []
    for checkpointing in (False, True):
        d = tiny_denoiser(conditioning=conditioning).train()
        d.enable_gradient_checkpointing(checkpointing)
        d(noisy, SIGMA, conditions).square().mean().backward()
        grads.append({n: p.grad for n, p in d.named_parameters()})
    assert {n for n, g in grads[0].items() if g is None} == {n for n, g in grads[1].items() if g is None}
    missing = [n for n, g in grads[0].items() if g is None and not n.startswith("transformer.pos_embed.pos")]
    # the last block's text output and the history role's neighbours aside, everything learns
    assert not [n for n in missing if n.startswith("adapter.")], missing
    for name, grad in grads[0].items():
        if grad is not None:
            torch.testing.assert_close(grad, grads[1][name], atol=1e-6, rtol=1e-4)


def test_frames_are_independent_of_batch_neighbours(noisy, conditions):
    d = tiny_denoiser(source="both")
    other = torch.randn(noisy.shape, generator=torch.Generator().manual_seed(9))
    twice = Conditions(
        source=conditions.source.repeat(2, 1, 1, 1),
        driving=conditions.driving.repeat(2, 1, 1, 1, 1),
        driving_index=conditions.driving_index.repeat(2, 1, 1),
        history=conditions.history.repeat(2, 1, 1, 1, 1),
    )
    with torch.no_grad():
        both = d(torch.cat([noisy, other]), SIGMA.repeat(2), twice)
        torch.testing.assert_close(both[:1], d(noisy, SIGMA, conditions), atol=1e-5, rtol=1e-5)


def test_explicit_attention_equals_the_kernel():
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, n, 8, generator=g) for n in (5, 7, 7))
    torch.testing.assert_close(attend(q.clone().requires_grad_(), k, v), attend(q, k, v))
