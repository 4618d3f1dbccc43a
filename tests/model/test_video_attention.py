"""Full-video attention against a readable loop."""

from __future__ import annotations

import pytest
import torch
from svdp.model.attention import FullVideoAttention, rotary

B, FRAMES, N, D, H = 2, 3, 5, 12, 2


def layer(scope: str = "full") -> FullVideoAttention:
    torch.manual_seed(0)
    made = FullVideoAttention(D, 8, 4, 256.0, scope=scope)
    for p in made.parameters():
        torch.nn.init.normal_(p, std=0.5)
    return made


def loop(a: FullVideoAttention, x: torch.Tensor, past: torch.Tensor | None) -> torch.Tensor:
    """One query token and one head at a time."""
    frames = [(f, x[:, f]) for f in range(x.shape[1])]
    seen = ([(f - past.shape[1], past[:, f]) for f in range(past.shape[1])] if past is not None else []) + frames
    out = torch.zeros_like(x)

    def head(linear, norm, y, h, frame):
        t = linear(a.norm(y))[..., h * 4 : h * 4 + 4]
        return rotary(norm(t)[None, None, None], torch.tensor([frame]), 256.0)[0, 0, 0] if norm is not None else t

    for b in range(x.shape[0]):
        for f, frame in frames:
            for n in range(N):
                heads = []
                for h in range(2):
                    q = head(a.to_q, a.norm_q, frame[b, n], h, f)
                    places = [n] if a.scope == "position" else range(N)
                    keys = torch.stack([head(a.to_k, a.norm_k, t[b, m], h, g) for g, t in seen for m in places])
                    values = torch.stack([head(a.to_v, None, t[b, m], h, g) for g, t in seen for m in places])
                    heads.append(torch.softmax(keys @ q / 2.0, 0) @ values)
                out[b, f, n] = a.to_out(torch.cat(heads))
    return out


@pytest.mark.parametrize("scope", ["full", "position"])
def test_vectorised_equals_loop(scope):
    a, x = layer(scope), torch.randn(B, FRAMES, N, D)
    past = torch.randn(B, H, N, D)
    with torch.no_grad():
        torch.testing.assert_close(a(x), loop(a, x, None), atol=1e-5, rtol=1e-5)
        history = a.key_values(past, torch.arange(-H, 0))
        torch.testing.assert_close(a(x, history), loop(a, x, past), atol=1e-5, rtol=1e-5)


def test_every_frame_sees_every_other_frame():
    a, x = layer(), torch.randn(1, FRAMES, N, D)
    changed = x.clone()
    changed[:, 2] += 1
    with torch.no_grad():
        assert ((a(changed) - a(x))[:, 0].abs().amax(-1) > 1e-4).all()


def test_in_the_factorised_form_a_token_sees_its_own_place_alone():
    a, x = layer("position"), torch.randn(1, FRAMES, N, D)
    changed = x.clone()
    changed[:, 2, 1] += 1
    with torch.no_grad():
        reached = (a(changed) - a(x)).abs().amax(-1)[0] > 1e-5
    assert reached[:, 1].all() and not reached[:, [0, 2, 3, 4]].any()


def test_time_order_matters():
    a, x = layer(), torch.randn(1, FRAMES, N, D)
    with torch.no_grad():
        assert (a(x.flip(1)).flip(1) - a(x)).abs().max() > 1e-4


def test_rotary_depends_on_distance_alone():
    q, k = torch.randn(1, 1, 1, 1, 8), torch.randn(1, 1, 1, 1, 8)

    def dot(i: int, j: int) -> float:
        return float((rotary(q, torch.tensor([i]), 256.0) * rotary(k, torch.tensor([j]), 256.0)).sum())

    assert abs(dot(5, 2) - dot(0, -3)) < 1e-5
    assert abs(dot(5, 2) - dot(5, 4)) > 1e-4


def test_zero_at_start():
    torch.manual_seed(0)
    a = FullVideoAttention(D, 8, 4, 256.0)
    a.reset_parameters()
    with torch.no_grad():
        assert torch.equal(a(torch.randn(1, FRAMES, N, D)), torch.zeros(1, FRAMES, N, D))
