"""The three networks that a delivery is judged by: the base, what was trained, what the delivered blocks hold.

Our own forward pass computes them, by the packed engine where it knows the architecture, else by transformers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np

from nightschool_daemon.config import EngineChoice, Settings
from nightschool_daemon.jobs import ExportResult
from nightschool_daemon.learning import gguf_file
from nightschool_daemon.learning.engine.architecture import DEFAULT_CONTEXT, is_known
from nightschool_daemon.learning.gguf_file import GgufFile
from nightschool_daemon.learning.lesson import Lesson, LowRankLesson, require_low_rank
from nightschool_daemon.learning.loading import (
    Base,
    Tokens,
    from_file_layout,
    load_base,
    load_tokens,
    require_same_weights,
    set_weight,
)
from nightschool_daemon.learning.peft_route import answer_losses, head, padded
from nightschool_daemon.learning.rows import Row
from nightschool_daemon.learning.served import adapter_factors
from nightschool_hookspecs.records import DeliveryForm
from nightschool_hookspecs.services import TrainingError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nightschool_daemon.learning.engine.network import Network

    Logprobs = NDArray[np.float32]
    """Shape (positions, vocabulary), or (rows,) of whole answers."""


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
    def use(self, variant: Variant, export: ExportResult | None = None) -> None:
        """Compute with this one from now on; what was delivered is told by `export`. A new `Variants` is the base."""

    @abstractmethod
    def logprobs(self, texts: Sequence[Sequence[int]], ends: Sequence[Sequence[int]]) -> Logprobs:
        """Log-probabilities of the next token behind the first `end` ids of each text, in order."""

    @abstractmethod
    def answer_sums(self, rows: Sequence[Row]) -> Logprobs:
        """Log-probability of each whole answer in nats, shape (rows,)."""

    def mean_loss(self, rows: Sequence[Row]) -> float:
        """Nats per answer token, every token counted alike."""
        return -float(self.answer_sums(rows).sum()) / sum(len(row.completion) for row in rows)


def open_variants(lesson: Lesson, digest: str, settings: Settings) -> Variants:
    """Load what is needed. Raises `TrainingError`."""
    cache = settings.state_directory / "cache"
    if settings.training.engine is EngineChoice.AUTO and is_known(lesson.file):
        return PackedVariants(lesson, load_tokens(lesson.file, digest, cache), settings.exam.context_tokens)
    return LoadedVariants(load_base(lesson.file.path, digest, cache), require_low_rank(lesson))


# --------------------------------------------------------------------------- by the packed engine


class PackedVariants(Variants):
    """The blocks themselves: those of the base, or those of the delivered file where it has them."""

    def __init__(self, lesson: Lesson, tokens: Tokens, context: int = DEFAULT_CONTEXT) -> None:
        self.file, self.tokens = lesson.file, tokens
        self._lesson, self._context = lesson, context
        self._network = self._opened(None)

    def use(self, variant: Variant, export: ExportResult | None = None) -> None:
        if variant is Variant.DELIVERED and export is not None and export.plan.form is not DeliveryForm.ADAPTER:
            self._network = self._opened(gguf_file.read(export.files[0].path))
            return
        self._network = self._opened(None)
        if variant is Variant.TRAINED:
            self._network.form = self._lesson.form(self._network.bench.device)
        elif variant is Variant.DELIVERED:
            delivered = delivered_adapter(require_low_rank(self._lesson), export)
            self._network.form = delivered.form(self._network.bench.device)

    def logprobs(self, texts: Sequence[Sequence[int]], ends: Sequence[Sequence[int]]) -> Logprobs:
        import torch

        from nightschool_daemon.learning.engine.layout import Branches

        found = []
        for ids, places in zip(texts, ends, strict=True):
            layout = self._network.lay_out([Branches(stem=tuple(ids), answers=())])
            behind = torch.tensor([end - 1 for end in places], device=self._network.bench.device)
            found.append(torch.log_softmax(self._network.logits(layout, behind), dim=-1).cpu().numpy())
        return np.concatenate(found)

    def answer_sums(self, rows: Sequence[Row]) -> Logprobs:
        from nightschool_daemon.learning.engine.examples import Answer, Example
        from nightschool_daemon.learning.engine.scoring import answer_sums

        examples = [Example(prompt=row.prompt, answers=(Answer(tokens=row.completion),)) for row in rows]
        return np.concatenate(answer_sums(self._network, examples))

    def _opened(self, over: GgufFile | None) -> Network:
        import torch

        from nightschool_daemon.learning.engine import machine
        from nightschool_daemon.learning.engine.network import Network

        return Network(self.file, machine.bench(torch.float32), context=self._context, over=over)


def delivered_adapter(lesson: LowRankLesson, export: ExportResult | None) -> LowRankLesson:
    """The lesson as the delivered adapter has it."""
    if export is None:
        raise TrainingError("Nothing was delivered yet.")
    factors = adapter_factors(gguf_file.read(export.files[0].path))
    found = {}
    for name, one in lesson.factors.items():
        down, up, scale = factors[name.removesuffix(".weight")]
        found[name] = replace(one, down=down, up=up, scale=scale)
    return LowRankLesson(lesson.file, found)


# --------------------------------------------------------------------------- by transformers


class LoadedVariants(Variants):
    """A model of transformers whose weights are exchanged."""

    def __init__(self, base: Base, lesson: LowRankLesson) -> None:
        self.file, self.tokens = base.file, base.tokens
        self._base, self._lesson = base, lesson
        require_same_weights(base, [one.module for one in lesson.factors.values()])

    def use(self, variant: Variant, export: ExportResult | None = None) -> None:
        if variant is Variant.BASE:
            self._apply({name: self.file.dequantized(name) for name in self._lesson.factors})
        elif variant is Variant.TRAINED:
            self._apply(self._added(self._lesson))
        elif export is not None and export.plan.form is not DeliveryForm.ADAPTER:
            delivered = gguf_file.read(export.files[0].path)
            self._apply({name: delivered.dequantized(name) for name in self._lesson.factors})
        else:
            self._apply(self._added(delivered_adapter(self._lesson, export)))

    def logprobs(self, texts: Sequence[Sequence[int]], ends: Sequence[Sequence[int]]) -> Logprobs:
        import torch

        model = self._base.model
        model.eval()
        found = []
        with torch.no_grad():
            for text, places in zip(texts, ends, strict=True):
                ids, _ = padded([Row(prompt=tuple(text), completion=(), weight=1.0)])
                behind = torch.tensor([end - 1 for end in places])
                hidden = model.get_decoder()(input_ids=ids.to(model.device)).last_hidden_state[0, behind]
                found.append(torch.log_softmax(head(model, hidden).float(), dim=-1).cpu().numpy())
        return np.concatenate(found)

    def answer_sums(self, rows: Sequence[Row]) -> Logprobs:
        import torch

        model = self._base.model
        model.eval()
        with torch.no_grad():
            losses = [float(answer_losses(model, [row])) for row in rows]
        return -np.array(losses, np.float32)

    def _added(self, lesson: LowRankLesson) -> dict[str, NDArray[np.float32]]:
        """Tensor -> weight with the lesson in it, in the file's layout."""
        return {name: self.file.dequantized(name) + one.delta() for name, one in lesson.factors.items()}

    def _apply(self, weights: Mapping[str, NDArray[np.float32]]) -> None:
        for name, weight in weights.items():
            module = self._base.model.get_submodule(self._lesson.factors[name].module)
            set_weight(module, from_file_layout(self.file, name, weight))
