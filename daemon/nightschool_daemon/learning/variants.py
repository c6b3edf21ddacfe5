"""The three networks that a delivery is judged by: the base, what was trained, what the delivered blocks hold.

Our own forward pass computes them, by the packed engine where it knows the architecture, else by transformers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nightschool_daemon.jobs import ExportResult
from nightschool_daemon.learning import gguf_file
from nightschool_daemon.learning.engine.architecture import is_known
from nightschool_daemon.learning.gguf_file import GgufFile
from nightschool_daemon.learning.lesson import LowRank, read_lesson
from nightschool_daemon.learning.loading import Base, Tokens, from_file_layout, load_base, load_tokens, set_weight
from nightschool_daemon.learning.peft_route import head, mean_loss, padded
from nightschool_daemon.learning.rows import Row
from nightschool_hookspecs.records import DeliveryForm
from nightschool_hookspecs.services import TrainingError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nightschool_daemon.learning.engine.layout import Layout
    from nightschool_daemon.learning.engine.network import Network

    Logprobs = NDArray[np.float32]
    """Shape (positions, vocabulary)."""

Lesson = Mapping[str, LowRank]
TOKENS_A_PASS = 2048


class Variant(StrEnum):
    """Which network computes."""

    BASE = "base"
    TRAINED = "trained"
    DELIVERED = "delivered"


class Variants(ABC):
    """A base with a lesson, in three forms."""

    file: GgufFile
    tokens: Tokens

    @abstractmethod
    def use(self, variant: Variant) -> None:
        """Compute with this one from now on. A new `Variants` is the base."""

    @abstractmethod
    def logprobs(self, texts: Sequence[Sequence[int]], ends: Sequence[Sequence[int]]) -> Logprobs:
        """Log-probabilities of the next token behind the first `end` ids of each text, in order."""

    @abstractmethod
    def mean_loss(self, rows: Sequence[Row]) -> float:
        """Nats per answer token, every token counted alike."""


def open_variants(path: Path, digest: str, cache: Path, adapter: Path, export: ExportResult) -> Variants:
    """Load what is needed. Raises `TrainingError`."""
    file = gguf_file.read(path)
    if is_known(file):
        return PackedVariants(file, load_tokens(file, digest, cache), read_lesson(adapter, file), export)
    base = load_base(path, digest, cache)
    return LoadedVariants(base, read_lesson(adapter, base.file), export)


# --------------------------------------------------------------------------- by the packed engine


class PackedVariants(Variants):
    """The blocks themselves: those of the base, or those of the delivered file where it has them."""

    def __init__(self, file: GgufFile, tokens: Tokens, lesson: Lesson, export: ExportResult) -> None:
        self.file, self.tokens = file, tokens
        self._lesson, self._export = lesson, export
        self._network = self._opened(None)

    def use(self, variant: Variant) -> None:
        delivers_weights = self._export.plan.form is not DeliveryForm.ADAPTER
        if variant is Variant.DELIVERED and delivers_weights:
            self._network = self._opened(gguf_file.read(self._export.files[0].path))
            return
        self._network = self._opened(None)
        if variant is Variant.TRAINED:
            self._add({name: (one.down, one.up, one.scale) for name, one in self._lesson.items()})
        elif variant is Variant.DELIVERED:
            self._add(delivered_factors(self._lesson, self._export))

    def logprobs(self, texts: Sequence[Sequence[int]], ends: Sequence[Sequence[int]]) -> Logprobs:
        import torch

        from nightschool_daemon.learning.engine.layout import Branches, lay_out

        found = []
        for ids, places in zip(texts, ends, strict=True):
            layout = lay_out([Branches(stem=tuple(ids), answers=())], self._network.bench.device)
            behind = torch.tensor([end - 1 for end in places], device=self._network.bench.device)
            found.append(torch.log_softmax(self._network.logits(layout, behind), dim=-1).cpu().numpy())
        return np.concatenate(found)

    def mean_loss(self, rows: Sequence[Row]) -> float:
        import torch

        total = count = 0.0
        with torch.no_grad():
            for layout in self._layouts(rows):
                values = self._network.log_probabilities(layout)
                total -= float(values.sum())
                count += values.numel()
        return total / count

    def _layouts(self, rows: Sequence[Row]) -> list[Layout]:
        from nightschool_daemon.learning.engine.examples import Answer, Example, Numbered, passes
        from nightschool_daemon.learning.engine.layout import lay_out

        examples = [Example(prompt=row.prompt, answers=(Answer(tokens=row.completion),)) for row in rows]
        numbered = [Numbered(number=number, example=one) for number, one in enumerate(examples)]
        return [
            lay_out([one.example.branches() for one in part], self._network.bench.device)
            for part in passes(numbered, TOKENS_A_PASS)
        ]

    def _opened(self, over: GgufFile | None) -> Network:
        import torch

        from nightschool_daemon.learning.engine import machine
        from nightschool_daemon.learning.engine.network import Network

        return Network(self.file, machine.bench(torch.float32), over=over)

    def _add(self, factors: Mapping[str, tuple[NDArray[np.float32], NDArray[np.float32], float]]) -> None:
        from nightschool_daemon.learning.engine.forms import FixedLowRank

        named = {name.removesuffix(".weight"): value for name, value in factors.items()}
        self._network.form = FixedLowRank(named, self._network.bench.device)


def delivered_factors(
    lesson: Lesson, export: ExportResult
) -> dict[str, tuple[NDArray[np.float32], NDArray[np.float32], float]]:
    """A, B and scale of each tensor as the delivered adapter has them."""
    delivered = gguf_file.read(export.files[0].path)
    alpha = delivered.scalar("adapter.lora.alpha")
    if not isinstance(alpha, float):
        raise TrainingError("The delivered adapter has no alpha. Run again.")
    found = {}
    for name in lesson:
        down, up = delivered.dequantized(f"{name}.lora_a"), delivered.dequantized(f"{name}.lora_b")
        found[name] = (down, up, alpha / down.shape[0])
    return found


# --------------------------------------------------------------------------- by transformers


class LoadedVariants(Variants):
    """A model of transformers whose weights are exchanged."""

    def __init__(self, base: Base, lesson: Lesson, export: ExportResult | None) -> None:
        self.file, self.tokens = base.file, base.tokens
        self._base, self._lesson, self._export = base, lesson, export
        require_same_weights(base, lesson)

    def use(self, variant: Variant) -> None:
        if variant is Variant.BASE:
            self._apply({name: self.file.dequantized(name) for name in self._lesson})
        elif variant is Variant.TRAINED:
            self._apply({name: self.file.dequantized(name) + one.delta() for name, one in self._lesson.items()})
        else:
            self._apply(self._delivered())

    def logprobs(self, texts: Sequence[Sequence[int]], ends: Sequence[Sequence[int]]) -> Logprobs:
        import torch

        model = self._base.model
        model.eval()
        found = []
        with torch.no_grad():
            for text, places in zip(texts, ends, strict=True):
                ids, _, _ = padded([Row(prompt=tuple(text), completion=(), weight=1.0)])
                behind = torch.tensor([end - 1 for end in places])
                hidden = model.get_decoder()(input_ids=ids).last_hidden_state[0, behind]
                found.append(torch.log_softmax(head(model, hidden).float(), dim=-1).numpy())
        return np.concatenate(found)

    def mean_loss(self, rows: Sequence[Row]) -> float:
        return mean_loss(self._base.model, rows)

    def _delivered(self) -> dict[str, NDArray[np.float32]]:
        """Tensor -> weight in the file's layout, read back from the delivered blocks."""
        if self._export is None:
            raise TrainingError("Nothing was delivered yet.")
        if self._export.plan.form is not DeliveryForm.ADAPTER:
            delivered = gguf_file.read(self._export.files[0].path)
            return {name: delivered.dequantized(name) for name in self._lesson}
        factors = delivered_factors(self._lesson, self._export)
        return {
            name: np.asarray(self.file.dequantized(name) + scale * (up @ down), np.float32)
            for name, (down, up, scale) in factors.items()
        }

    def _apply(self, weights: Mapping[str, NDArray[np.float32]]) -> None:
        for name, weight in weights.items():
            module = self._base.model.get_submodule(self._lesson[name].module)
            set_weight(module, from_file_layout(self.file, name, weight))


def require_same_weights(base: Base, lesson: Lesson) -> None:
    """Raise where a tensor of the file is not the module's weight in the layout that we think it has."""
    for name, one in lesson.items():
        ours = from_file_layout(base.file, name, base.file.dequantized(name))
        theirs = base.model.get_submodule(one.module).get_parameter("weight").detach().numpy()
        if ours.shape != theirs.shape or not np.allclose(ours, theirs, atol=1e-5):
            raise TrainingError(
                f"The layout of {name} in files of the architecture '{base.file.architecture}' is not known, so a "
                "lesson would land in wrong rows. Choose another base."
            )
