"""Attention initialisation for bases trained from random weights: some heads look at their own place from the start.

A small model spends much of its training on finding out where things are. The positional table already says it, in
sines and cosines. A head whose query and key are the same few of them attends to its own neighbourhood. The source lies
a picture's width to the left: a head whose query is turned by that much attends to the same place of the source.
Trockman and Kolter (2023, arXiv 2305.09828) likewise start attention from what trained models look like.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..model.adapter import Adapter

LONGEST = 30.0  # tokens: wavelength of the slowest waves that are used


def init_local_attention(transformer: nn.Module, adapter: Adapter, picture_width: int) -> None:
    """Set head 0 of every attention to its own place and head 1 of the joint attention to the source's same place.

    The source lies `picture_width` tokens to the left. The other heads keep their random weights.

    Raises `UserError` if heads are too small or too few for it.
    """
    base = adapter.config.base
    width, size = base.width, base.width // base.heads
    if base.heads < 2 or size % 4 or size > width // 2:
        raise UserError('[base] attention_init = "local" needs two heads or more, of a size that 4 divides')
    waves = _waves(width, size // 4)
    here, there = _head(width, size, waves, 0.0), _head(width, size, waves, float(picture_width))
    with torch.no_grad():
        cast(Any, transformer.pos_embed).proj.weight[_places(width, waves)] = 0  # these channels tell the place alone
        for block in cast(Any, transformer).transformer_blocks:
            block.attn.to_q.weight[: 2 * size], block.attn.to_k.weight[: 2 * size] = (
                torch.cat([here, there]), torch.cat([here, here]),
            )  # fmt: skip
            if block.attn2 is not None:
                block.attn2.to_q.weight[:size], block.attn2.to_k.weight[:size] = here, here
        for layer in cast(Any, adapter.video).values():
            if layer.to_q.weight.shape[0] // layer.heads == size:
                layer.to_q.weight[:size], layer.to_k.weight[:size] = here, here


def _waves(width: int, count: int) -> list[int]:
    """Indices of `count` waves of the positional table, from the fastest to `LONGEST`.

    Diffusers' table of `width` channels has width / 4 waves for each direction. Wave i turns by
    10000 ** (-4 i / width) a token.
    """
    quarter = width // 4
    last = quarter * math.log(LONGEST / (2 * math.pi)) / math.log(10_000)
    return [round(last * i / (count - 1)) for i in range(count)]


def _places(width: int, waves: list[int]) -> list[int]:
    """Channels of these waves: sine and cosine along x, then along y."""
    return sorted({w + part * (width // 4) for w in waves for part in range(4)})


def _head(width: int, size: int, waves: list[int], left: float) -> Tensor:
    """Weight (size, width) that reads the waves as they are `left` tokens further left; sine and cosine of a wave lie
    half a head apart, as rotary embeddings pair them."""
    weight, quarter, half = torch.zeros(size, width), width // 4, size // 2
    for place, wave in enumerate(waves):
        turn = left * 10_000 ** (-wave / quarter)
        for axis, angle in ((0, turn), (1, 0.0)):
            row, sine, cosine = place + axis * len(waves), 2 * axis * quarter + wave, (2 * axis + 1) * quarter + wave
            weight[row, sine], weight[row, cosine] = math.cos(angle), -math.sin(angle)
            weight[row + half, sine], weight[row + half, cosine] = math.sin(angle), math.cos(angle)
    return weight
