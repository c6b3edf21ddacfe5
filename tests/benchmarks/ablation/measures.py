"""What a model is worth: its losses by our own forward pass, and the scores of what it answers through Ollama."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks import forms
from benchmarks.ablation.pools import ARTIFACT_TYPES, Material, Size
from benchmarks.tasks import Pair
from nightschool_daemon.config import Settings
from nightschool_daemon.evaluation.embedding import open_embed
from nightschool_daemon.evaluation.examiner import score_answer
from nightschool_daemon.evaluation.local_model import LocalModel, pinned_options
from nightschool_daemon.evaluation.patience import patiently
from nightschool_daemon.evaluation.similarity import CombinedMeasure
from nightschool_daemon.hooks import Hooks
from nightschool_daemon.learning import gguf_file
from nightschool_daemon.learning.engine import machine
from nightschool_daemon.learning.engine.examples import Answer, Example
from nightschool_daemon.learning.engine.network import Network
from nightschool_daemon.learning.engine.scoring import answer_sums
from nightschool_daemon.learning.loading import Tokens, load_tokens
from nightschool_daemon.learning.rows import Row
from nightschool_daemon.ollama.errors import OllamaInterrupted, OllamaRefused
from nightschool_daemon.ollama.library import OllamaLibrary
from nightschool_hookspecs.records import ExamItem, ItemRole, Message, Role
from nightschool_plugins.guard_general import read_prompts
from support.base_models import MODELS

GENERAL_TEXTS = 4
OWN_TOKENS = 40
"""Of an answer of the base's own to a general prompt."""
DIGITS = 4
"""That are kept of what is measured."""
SEED = 1
"""Of every question. At temperature 0 it decides nothing."""


@dataclass(frozen=True, kw_only=True)
class Losses:
    """Of some texts: nats of each, and its tokens."""

    nats: tuple[float, ...]
    tokens: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Taken:
    """All that is measured of a model."""

    held_out: Losses
    """Wanted answers to held-out prompts."""
    general: Losses
    """General texts, which no task is about, and what the base itself answers to general prompts: a model that still
    says the same finds it as likely. About as many tokens of each."""
    scores: tuple[float, ...]
    """0..100, of its answers to the first held-out prompts."""
    slipped: tuple[float, ...]
    """The same where these have a slip of the pen."""


@dataclass(frozen=True, kw_only=True)
class Said:
    """An answer of the incumbent."""

    text: str
    score: float
    """0..100, beside the right answer."""


class Bench:
    """One base and one task, and how models of it are measured."""

    def __init__(self, model: str, task: str, size: Size, settings: Settings, hooks: Hooks) -> None:
        self._model, self._task, self._size = MODELS[model], task, size
        self.file = gguf_file.read(forms.fetched(model, self._model))
        self.tokens: Tokens = load_tokens(self.file, model, forms.cached())
        self._library, self._hooks = OllamaLibrary(settings.ollama), hooks
        self._options = pinned_options(settings.exam, SEED)
        self._similarity = CombinedMeasure(hooks, open_embed(settings))
        self._judge = LocalModel(self._library, self._model.tag, settings.exam)

    def take(self, tag: str, delivered: Path | None, material: Material, own: Sequence[Pair], closing: str) -> Taken:
        """Measure a served model. `delivered`: the file with its blocks; None: it is the base."""
        network = Network(self.file, machine.bench(), over=None if delivered is None else gguf_file.read(delivered))
        scores = self.scores(tag, material.held_out[: self._size.asked])
        return Taken(
            held_out=_losses(network, self._rows(material.held_out, closing)),
            general=_losses(network, [*self._general(), *self._rows(own, "")]),
            scores=scores,
            slipped=self.scores(tag, material.slipped),
        )

    def scores(self, tag: str, pairs: Sequence[Pair]) -> tuple[float, ...]:
        """Put prompts to a served model, and score what it says."""
        answers = (self.ask(tag, one.prompt, self._size.answer_tokens) for one in pairs)
        return tuple(self.score(pair, answer) for pair, answer in zip(pairs, answers, strict=True))

    def ask(self, tag: str, prompt: str, tokens: int) -> str:
        """What a served model answers; nothing where Ollama breaks off, as when a base repeats one token for ever.

        Raises `OllamaUnreachable`.
        """
        options = replace(self._options, num_predict=tokens)
        messages = (Message(role=Role.USER, content=prompt),)
        try:
            return patiently(lambda: self._library.chat(tag, messages, options)).text
        except (OllamaInterrupted, OllamaRefused):
            return ""

    def score(self, pair: Pair, answer: str) -> float:
        """0..100, by the validator of the task."""
        item = ExamItem(
            id="asked",
            event_id="asked",
            artifact_type=ARTIFACT_TYPES[self._task],
            role=ItemRole.GAIN,
            messages=(Message(role=Role.USER, content=pair.prompt),),
            reference=pair.answer,
        )
        found = score_answer(self._hooks, self._similarity, self._judge, item, answer)
        return round(found.score, DIGITS)

    def said(self, material: Material) -> dict[str, Said]:
        """What the incumbent answered to the prompts of the dirty pool, by them: the base, or one that nearly knows."""
        found: dict[str, Said] = {}
        for pair in material.corrected:
            nearly = material.nearly.get(pair.prompt)
            text = nearly or self.ask(self._model.tag, pair.prompt, self._size.said_tokens)
            found[pair.prompt] = Said(text=text, score=self.score(pair, text))
        return found

    def own_answers(self) -> tuple[Pair, ...]:
        """What the base answers to general prompts; one that it has nothing to say to is left out."""
        prompts = [one.text for kind in read_prompts() for one in kind][: self._size.general]
        answered = (Pair(prompt=one, answer=self.ask(self._model.tag, one, OWN_TOKENS)) for one in prompts)
        return tuple(one for one in answered if one.answer.strip())

    def _rows(self, pairs: Sequence[Pair], closing: str) -> list[Row]:
        begin, _ = self._model.turn
        return forms.rows_of(pairs, replace(self._model, turn=(begin, closing)), self.tokens)

    def _general(self) -> list[Row]:
        texts = forms.general_ids(self.tokens)[:GENERAL_TEXTS]
        return [Row(prompt=ids[:1], completion=ids[1:], weight=1.0) for ids in texts]


def _losses(network: Network, rows: Sequence[Row]) -> Losses:
    examples = [Example(prompt=row.prompt, answers=(Answer(tokens=row.completion),)) for row in rows]
    sums = answer_sums(network, examples)
    return Losses(
        nats=tuple(round(-float(one[0]), DIGITS) for one in sums), tokens=tuple(len(row.completion) for row in rows)
    )
