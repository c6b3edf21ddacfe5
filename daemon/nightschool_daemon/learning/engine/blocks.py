"""GGUF blocks to floats in torch, on any device. Layouts after ggml's `ggml-common.h`; tested against gguf-py.

Every function takes the bytes of whole blocks, shape (blocks, bytes a block), and returns 32-bit floats,
shape (blocks, weights a block).
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import gguf
import torch
from gguf import GGMLQuantizationType as Kind
from torch import Tensor

SUB_BLOCK = 32
"""Weights of a sub-block of Q4_K, Q5_K and IQ4_XS; of a whole block of the older types."""

IQ4_VALUES = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
"""What the 16 codes of IQ4_NL and IQ4_XS stand for (`kvalues_iq4nl`)."""


def dequantized(data: Tensor, kind: Kind) -> Tensor:
    """Floats of rows of blocks: (rows, bytes a row), uint8, to (rows, columns), float32.

    Raises `KeyError` for a type that is not in `READERS`.
    """
    weights, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    columns = data.shape[1] // block_bytes * weights
    return READERS[kind](data.reshape(-1, block_bytes)).reshape(data.shape[0], columns)


def _half(data: Tensor) -> Tensor:
    """16-bit floats, one for every two bytes."""
    return data.contiguous().view(torch.float16).float()


def _low_high(data: Tensor) -> Tensor:
    """The low four bits of every byte, then the high four: (blocks, n) to (blocks, 2n)."""
    return torch.cat((data & 15, data >> 4), dim=1)


def _bits(data: Tensor, count: int) -> Tensor:
    """One bit a weight, lowest first: (blocks, count / 8) bytes to (blocks, count)."""
    shifts = torch.arange(8, device=data.device, dtype=torch.uint8)
    return ((data.unsqueeze(-1) >> shifts) & 1).reshape(data.shape[0], count)


class Affine(NamedTuple):
    """Weights as `scale * code + minimum`; every tensor has a row a sub-block of 32."""

    codes: Tensor
    """Shape (sub-blocks, 32), uint8."""
    scales: Tensor
    """Shape (sub-blocks, 1), float32."""
    minima: Tensor
    """Shape (sub-blocks, 1), float32."""


def _q4_0(data: Tensor) -> Affine:
    scales = _half(data[:, :2])
    return Affine(_low_high(data[:, 2:]), scales, -8 * scales)


def _q4_1(data: Tensor) -> Affine:
    return Affine(_low_high(data[:, 4:]), _half(data[:, :2]), _half(data[:, 2:4]))


def _q5_0(data: Tensor) -> Affine:
    scales = _half(data[:, :2])
    codes = _low_high(data[:, 6:]) | (_bits(data[:, 2:6], SUB_BLOCK) << 4)
    return Affine(codes, scales, -16 * scales)


def _q5_1(data: Tensor) -> Affine:
    codes = _low_high(data[:, 8:]) | (_bits(data[:, 4:8], SUB_BLOCK) << 4)
    return Affine(codes, _half(data[:, :2]), _half(data[:, 2:4]))


def _q8_0(data: Tensor) -> Tensor:
    return _half(data[:, :2]) * data[:, 2:].contiguous().view(torch.int8).float()


def _two_bits(data: Tensor) -> Tensor:
    """Codes of two bits as Q2_K and Q3_K keep them: 32 bytes hold four runs of 32, the lowest bits first."""
    parts = [(half >> shift) & 3 for half in data.split(SUB_BLOCK, dim=1) for shift in (0, 2, 4, 6)]
    return torch.cat(parts, dim=1)


def _q2_k(data: Tensor) -> Tensor:
    scales, codes = data[:, :16], _two_bits(data[:, 16:80])
    factor = (_half(data[:, 80:82]) * (scales & 15).float()).unsqueeze(-1)
    minimum = (_half(data[:, 82:84]) * (scales >> 4).float()).unsqueeze(-1)
    return (factor * codes.reshape(-1, 16, 16).float() - minimum).reshape(-1, 256)


def _q3_k(data: Tensor) -> Tensor:
    high, codes, packed = data[:, :32], _two_bits(data[:, 32:96]), data[:, 96:108]
    low = torch.cat((packed[:, :8] & 15, packed[:, :8] >> 4), dim=1)
    top = torch.cat([(packed[:, 8:] >> shift) & 3 for shift in (0, 2, 4, 6)], dim=1)
    scales = (low | (top << 4)).to(torch.int8).float() - 32
    # a set bit of the mask means that nothing is taken off
    third = torch.cat([(high >> shift) & 1 for shift in range(8)], dim=1)
    values = codes.float() - 4 * (1 - third.float())
    factor = (_half(data[:, 108:110]) * scales).unsqueeze(-1)
    return (factor * values.reshape(-1, 16, 16)).reshape(-1, 256)


def _scales_k(packed: Tensor) -> tuple[Tensor, Tensor]:
    """Scales and minima of Q4_K and Q5_K, six bits each: (blocks, 12) to twice (blocks, 8)."""
    first, second, third = packed.split(4, dim=1)
    scales = torch.cat((first & 63, (third & 15) | ((first >> 6) << 4)), dim=1)
    minima = torch.cat((second & 63, (third >> 4) | ((second >> 6) << 4)), dim=1)
    return scales.float(), minima.float()


def _affine_k(data: Tensor, codes: Tensor) -> Affine:
    """`d * scale * code - dmin * minimum` of each sub-block of 32."""
    scales, minima = _scales_k(data[:, 4:16])
    factors, least = _half(data[:, :2]) * scales, -_half(data[:, 2:4]) * minima
    return Affine(codes.view(-1, SUB_BLOCK), factors.view(-1, 1), least.view(-1, 1))


def _nibbles_k(data: Tensor) -> Tensor:
    """Four bits a weight as the K types keep them: 32 bytes hold 32 low codes, then 32 high ones."""
    return torch.cat([_low_high(part) for part in data.split(SUB_BLOCK, dim=1)], dim=1)


def _q4_k(data: Tensor) -> Affine:
    return _affine_k(data, _nibbles_k(data[:, 16:]))


def _q5_k(data: Tensor) -> Affine:
    high = torch.cat([(data[:, 16:48] >> shift) & 1 for shift in range(8)], dim=1)
    return _affine_k(data, _nibbles_k(data[:, 48:]) | (high << 4))


SPLITTERS: Mapping[Kind, Callable[[Tensor], Affine]] = {
    Kind.Q4_0: _q4_0,
    Kind.Q4_1: _q4_1,
    Kind.Q5_0: _q5_0,
    Kind.Q5_1: _q5_1,
    Kind.Q4_K: _q4_k,
    Kind.Q5_K: _q5_k,
}
"""Types of sub-blocks of 32 that have a scale and a minimum each."""


def _floats_of(parts: Callable[[Tensor], Affine]) -> Callable[[Tensor], Tensor]:
    def read(data: Tensor) -> Tensor:
        codes, scales, minima = parts(data)
        return codes.float().mul_(scales).add_(minima).view(data.shape[0], -1)

    return read


def _q6_k(data: Tensor) -> Tensor:
    halves = zip(data[:, :128].split(64, dim=1), data[:, 128:192].split(SUB_BLOCK, dim=1), strict=True)
    parts: list[Tensor] = []
    for low, high in halves:
        fours = (low[:, :32] & 15, low[:, 32:] & 15, low[:, :32] >> 4, low[:, 32:] >> 4)
        parts += [four | (((high >> (2 * number)) & 3) << 4) for number, four in enumerate(fours)]
    values = torch.cat(parts, dim=1).float() - 32
    scales = data[:, 192:208].contiguous().view(torch.int8).float()
    factor = (_half(data[:, 208:210]) * scales).unsqueeze(-1)
    return (factor * values.reshape(-1, 16, 16)).reshape(-1, 256)


def _iq4(codes: Tensor) -> Tensor:
    return torch.tensor(IQ4_VALUES, dtype=torch.float32, device=codes.device)[codes.long()]


def _iq4_nl(data: Tensor) -> Tensor:
    return _half(data[:, :2]) * _iq4(_low_high(data[:, 2:]))


def _iq4_xs(data: Tensor) -> Tensor:
    high = data[:, 2:4].contiguous().view(torch.int16).int()
    low = data[:, 4:8]
    parts = []
    for number in range(8):
        four = (low[:, number // 2] >> (4 * (number % 2))) & 15
        two = (high[:, 0] >> (2 * number)) & 3
        parts.append((four.int() | (two << 4)) - 32)
    factor = (_half(data[:, :2]) * torch.stack(parts, dim=1).float()).unsqueeze(-1)
    codes = torch.cat([_low_high(part) for part in data[:, 8:].split(16, dim=1)], dim=1)
    return (factor * _iq4(codes).reshape(-1, 8, SUB_BLOCK)).reshape(-1, 256)


def _f32(data: Tensor) -> Tensor:
    return data.contiguous().view(torch.float32)


def _bf16(data: Tensor) -> Tensor:
    return data.contiguous().view(torch.bfloat16).float()


READERS: Mapping[Kind, Callable[[Tensor], Tensor]] = {
    Kind.F32: _f32,
    Kind.F16: _half,
    Kind.BF16: _bf16,
    **{kind: _floats_of(parts) for kind, parts in SPLITTERS.items()},
    Kind.Q8_0: _q8_0,
    Kind.Q2_K: _q2_k,
    Kind.Q3_K: _q3_k,
    Kind.Q6_K: _q6_k,
    Kind.IQ4_NL: _iq4_nl,
    Kind.IQ4_XS: _iq4_xs,
}
"""Every type that is read."""
