"""In which type a changed tensor keeps its lesson at the least bytes.

Base weights stand exactly on the grid of their type: rounded back to it, a small change is lost, in a finer type it is
kept. Types that are coarser than the tensor's own are none to choose from: they would spoil the base. One way leaves
the codes as they are: Q4_1 and Q5_1 keep a minimum of 16 bits a block, so a change that is constant within each block
of 32 (group-wise LoRA) is a change of the minimum alone.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind
from numpy.typing import NDArray

from nightschool_daemon.learning import ggml

Weights = NDArray[np.float32]
Blocks = NDArray[np.uint8]

WIDER: Sequence[Kind] = (
    Kind.Q3_K,
    Kind.IQ4_XS,
    Kind.Q4_K,
    Kind.Q4_1,
    Kind.Q5_0,
    Kind.Q5_1,
    Kind.Q5_K,
    Kind.Q6_K,
    Kind.Q8_0,
    Kind.F16,
)
"""What a tensor may be widened to, besides its own type."""
LEFT = 0.9
"""So much of the change must be left along its own direction. Rounded back to the base's own grid little is: most
weights return to where they were, whatever the energy of that error."""
LOST_BY_NOISE = 0.03
"""Where less noise is allowed than the change has energy, less of the change may be lost: so much at equal energy."""
WHOLE: Sequence[tuple[Kind, float]] = ((Kind.Q6_K, 4.0), (Kind.Q8_0, 16.0), (Kind.F16, 16.0))
"""Types, and below how many bits a weight others are whole in them: weights of these are then what they were, but for a
tenth of the energy that their own type errs by."""
SAMPLED_ROWS = 64
"""Rows of a tensor by which types are compared: quantising all in every type would take minutes."""
MINIMUM_BLOCK = 32


@dataclass(frozen=True, kw_only=True)
class Demand:
    """What is asked of the types of a lesson."""

    allowed_noise: float
    """Energy that rounding may add, in units of the change's own."""
    least: Kind | None = None
    """Types of fewer bits than this one's do not do."""


LADDER: Sequence[Demand] = (
    *(Demand(allowed_noise=noise) for noise in (30.0, 10.0, 3.0, 1.0, 0.1)),
    Demand(allowed_noise=math.inf, least=Kind.Q8_0),
    Demand(allowed_noise=0.0),
)
"""What may be asked, one after another, until enough of a lesson is left. The last takes the type of least noise.

Noise has no direction, the lesson has one: noise of twice the change's energy still leaves 99 % of what was learned.
"""
FINER: Sequence[Demand] = tuple(Demand(allowed_noise=noise) for noise in np.geomspace(30.0, 1e-4, 91).tolist())
"""What may be asked between those: each time an eighth less noise."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A type for a changed tensor."""

    kind: Kind
    keeps_codes: bool = False
    """The codes of the base stay, and the minima alone change."""
    noise: float
    """Energy that rounding adds, in units of the change's own."""
    left: float
    """Share of the change that is left along its own direction."""


def block_of(kind: Kind) -> int:
    """Weights of a block."""
    return int(gguf.GGML_QUANT_SIZES[kind][0])


def size_of(shape: Sequence[int], kind: Kind) -> int:
    """Bytes of a tensor in a type."""
    weights, size = gguf.GGML_QUANT_SIZES[kind]
    count = int(np.prod(shape))
    return count // int(weights) * int(size)


def fits(columns: int, kind: Kind) -> bool:
    """Whether rows of so many columns are whole blocks of a type."""
    return columns % block_of(kind) == 0


def can_write(kind: Kind) -> bool:
    """Whether weights can be rounded to a type here."""
    library = ggml.library()
    return kind in PORTABLE or (library is not None and library.reads(kind))


PORTABLE = frozenset({Kind.F32, Kind.F16, Kind.BF16, Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q5_1, Kind.Q8_0})
"""What gguf-py rounds to by itself; the others need ggml's C."""


def rounded(values: Weights, kind: Kind) -> Blocks:
    """Rows of weights as blocks: (rows, columns) to (rows, bytes a row)."""
    library = ggml.library()
    values = np.ascontiguousarray(values, np.float32)
    if library is not None and library.reads(kind):
        return library.quantized(values, kind)
    whole = np.ascontiguousarray(gguf.quantize(values, kind))
    return whole.view(np.uint8).reshape(values.shape[0], -1)


def sampled(rows: int) -> NDArray[np.int64]:
    """Which rows of a tensor types are compared by."""
    return np.linspace(0, rows - 1, min(SAMPLED_ROWS, rows)).astype(np.int64)


def bits(kind: Kind) -> float:
    """Of a weight."""
    weights, size = gguf.GGML_QUANT_SIZES[kind]
    return float(8 * size / weights)


def choices(blocks: Blocks, delta: Weights, own: Kind, *, grouped: bool) -> tuple[Choice, ...]:
    """Every type that is as fine as the tensor's own, and what it does to the change.

    `blocks` of type `own` and `delta`: a sample of the tensor's rows. `grouped`: the change is constant within blocks
    of 32 inputs.
    """
    base = ggml.dequantized(blocks, own)
    kinds = [kind for kind in dict.fromkeys((own, *WIDER)) if bits(kind) >= bits(own) and can_write(kind)]
    found = [_judged(base, delta, rounded(base + delta, kind), kind) for kind in kinds if fits(delta.shape[1], kind)]
    if grouped and own in AFFINE:
        moved = shifted(blocks, own, delta[:, ::MINIMUM_BLOCK])
        found.append(_judged(base, delta, moved, AFFINE[own], keeps_codes=True))
    coarsest = _grid_noise(base, delta, own)
    return tuple(one for one in found if one.kind is own or one.noise <= coarsest)


def narrowest(found: Sequence[Choice], columns: int, demand: Demand) -> Choice:
    """The choice of least bytes that does what is asked; the one of least noise where none does."""
    needed = max(LEFT, 1 - LOST_BY_NOISE * demand.allowed_noise)
    least = bits(demand.least) if demand.least is not None else 0.0
    good = [
        one for one in found if one.noise <= demand.allowed_noise and one.left >= needed and bits(one.kind) >= least
    ]
    if not good:
        return min(found, key=lambda one: one.noise)
    return min(good, key=lambda one: (size_of((columns,), one.kind), one.noise))


def choices_beside(added: Weights, own: Kind, columns: int) -> tuple[Choice, ...]:
    """Every type that a tensor may get which new weights stand beside, and what it does to these.

    In its own type the old blocks stay as they are; a wider one keeps them whole. `columns`: of the widened tensor.
    """
    kinds = [own, *(kind for kind, below in WHOLE if bits(own) < min(below, bits(kind)) and can_write(kind))]
    return tuple(
        _judged(np.zeros_like(added), added, rounded(added, kind), kind)
        for kind in kinds
        if fits(added.shape[1], kind) and fits(columns, kind)
    )


def _judged(base: Weights, delta: Weights, blocks: Blocks, kind: Kind, *, keeps_codes: bool = False) -> Choice:
    """What a type does to the change; `blocks` of this type are `base + delta`."""
    moved = ggml.dequantized(blocks, kind) - base
    return Choice(
        kind=kind,
        keeps_codes=keeps_codes,
        noise=float(np.square(moved - delta).sum()) / _energy(delta),
        left=float((moved * delta).sum()) / _energy(delta),
    )


def _grid_noise(base: Weights, delta: Weights, own: Kind) -> float:
    """What the tensor's own type errs on weights like these, in units of the change's energy.

    The base's own stand on its grid and would show no error, so each block gets weights of different rows.
    """
    if not can_write(own):
        return float("inf")
    mixed = np.ascontiguousarray(base.T).reshape(base.shape)
    return max(_error(one, own) for one in (mixed, base + delta)) / _energy(delta)


def _error(values: Weights, kind: Kind) -> float:
    """Energy of what rounding changes."""
    return float(np.square(ggml.dequantized(rounded(values, kind), kind) - values).sum())


def _energy(delta: Weights) -> float:
    return float(np.square(delta).sum()) or 1.0


# --------------------------------------------------------------------------- the exact affine form

AFFINE: Mapping[Kind, Kind] = {
    Kind.Q4_0: Kind.Q4_1,
    Kind.Q4_1: Kind.Q4_1,
    Kind.Q4_K: Kind.Q4_1,
    Kind.Q5_0: Kind.Q5_1,
    Kind.Q5_1: Kind.Q5_1,
    Kind.Q5_K: Kind.Q5_1,
}
"""Types whose blocks of 32 can be written with the same codes and a minimum of their own."""


def shifted(blocks: Blocks, own: Kind, shifts: Weights) -> Blocks:
    """Add to each block of 32 weights one number: (rows, bytes a row) in `own` to the same in `AFFINE[own]`.

    `shifts`: shape (rows, columns / 32).
    """
    # only here, as they take seconds
    import torch

    from nightschool_daemon.learning.engine.blocks import SPLITTERS

    data = torch.from_numpy(blocks.reshape(-1, gguf.GGML_QUANT_SIZES[own][1]).copy())
    codes, scales, minima = (one.numpy() for one in SPLITTERS[own](data))
    head = np.concatenate((_halves(scales), _halves(minima + shifts.reshape(-1, 1))), axis=1)
    low = codes & 15
    nibbles = np.asarray(low[:, :16] | low[:, 16:] * 16, np.uint8)
    if AFFINE[own] is Kind.Q5_1:
        fifth = np.packbits(codes >> 4, axis=1, bitorder="little")
        head = np.concatenate((head, fifth), axis=1)
    return np.ascontiguousarray(np.concatenate((head, nibbles), axis=1)).reshape(blocks.shape[0], -1)


def _halves(values: Weights) -> Blocks:
    return values.astype(np.float16).view(np.uint8)
