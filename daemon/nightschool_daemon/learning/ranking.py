"""Step `rank`: which of two answers to a held-out prompt incumbent and candidate find likelier.

A thumb up and a thumb down on two answers to one prompt say which is better, and not what would have been right: there
is nothing to score an answer against. But a model that has learned finds the better one likelier than before. No
endpoint of Ollama tells how likely a given text is, so the weights are read from where Ollama serves them, behind the
prompt that Ollama renders for that tag. What counts is the mean log-probability of an answer's tokens, since in the sum
the shorter answer wins.

What a model was found to say of a pair is on disk before the next pair, so that a killed step goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from nightschool_daemon.jobs import (
    HELD_OUT_PAIRS,
    RANKED,
    PrepareResult,
    RankResult,
    RegisterResult,
    Step,
    append_line,
    read_lines,
    whole_lines,
    write_lines,
)
from nightschool_daemon.learning.base_file import open_base
from nightschool_daemon.learning.engine.examples import Answer, Example
from nightschool_daemon.learning.engine.network import Network
from nightschool_daemon.learning.engine.scoring import answer_sums
from nightschool_daemon.learning.gguf_file import GgufFile
from nightschool_daemon.learning.loading import Tokens, load_tokens
from nightschool_daemon.learning.served import served_network
from nightschool_daemon.learning.threads import limit_threads
from nightschool_daemon.learning.worker import WorkerContext
from nightschool_daemon.ollama.http import OllamaHttp, ShownModel
from nightschool_hookspecs.records import PreferencePair, RankedPair
from nightschool_hookspecs.services import TrainingError

MARGINS = "margins.jsonl"


@dataclass(frozen=True, kw_only=True)
class Margin:
    """A line of `margins.jsonl`: what a model says of a pair."""

    signature: str
    """Of the model's files and of both texts."""
    nats: float


def run(context: WorkerContext) -> None:
    """Rank the pairs, and leave `ranked.jsonl` (RankedPair) and `RankResult`."""
    pairs = list(read_lines(context.run.step(Step.SELECT) / HELD_OUT_PAIRS, PreferencePair))
    used = frozenset(context.run.result(Step.PREPARE, PrepareResult).evidence.used)
    taken = chosen(pairs, context.settings.exam.max_pairs, context.info.seed, used)
    ranked = []
    if taken:
        try:
            ranked = rank(context, taken, partial(of_run, context))
        except TrainingError as error:
            context.note(f"{len(taken)} held-out pairs of answers were not ranked. {error}")
    write_lines(context.run.step(Step.RANK) / RANKED, ranked)
    context.run.finish(Step.RANK, RankResult(ranked=len(ranked), left_out=len(pairs) - len(ranked)))


def chosen(pairs: Sequence[PreferencePair], most: int, seed: int, used: frozenset[str]) -> list[PreferencePair]:
    """Draw a night's share; those that an earlier exam ranked only fill what the others leave."""
    shuffled = random.Random(f"{seed}/ranked").sample(pairs, len(pairs))  # noqa: S311 - no secret
    return sorted(shuffled, key=lambda one: one.key in used)[:most]


def rank(
    context: WorkerContext, pairs: Sequence[PreferencePair], sitters_of: Callable[[OllamaHttp], tuple[Sitter, Sitter]]
) -> list[RankedPair]:
    """Rank pairs by incumbent and candidate; those that do not fit into the context of one are left out.

    Raises `TrainingError` where a model cannot be computed, and `OllamaError`.
    """
    limit_threads(context.settings.training.threads)
    http = OllamaHttp(context.settings.ollama)
    try:
        sitters = sitters_of(http)
        asked = [[one.example(http, pair) for pair in pairs] for one in sitters]
        fitting = [at for at in range(len(pairs)) if all(of_one[at] is not None for of_one in asked)]
        margins = [
            list(one.margins([example for at in fitting if (example := of_one[at]) is not None]))
            for one, of_one in zip(sitters, asked, strict=True)
        ]
    finally:
        http.close()
    return [
        RankedPair(event_id=pairs[at].event_id, key=pairs[at].key, incumbent=before, candidate=after)
        for at, before, after in zip(fitting, *margins, strict=True)
    ]


def of_run(context: WorkerContext, http: OllamaHttp) -> tuple[Sitter, Sitter]:
    """Incumbent and candidate of a run. Raises `TrainingError`."""
    prepared = context.run.result(Step.PREPARE, PrepareResult)
    if prepared.incumbent_base is None:
        raise TrainingError(f"The base that {prepared.incumbent} was made from is gone.")
    candidate = context.run.result(Step.REGISTER, RegisterResult).tag
    return (
        Sitter.of(context, http, prepared.incumbent, prepared.incumbent_base),
        Sitter.of(context, http, candidate, prepared.base.gguf),
    )


@dataclass(frozen=True, kw_only=True)
class Sitter:
    """A model that ranks."""

    context: WorkerContext
    shown: ShownModel
    base: GgufFile
    tokens: Tokens

    @classmethod
    def of(cls, context: WorkerContext, http: OllamaHttp, name: str, base: Path) -> Sitter:
        """What Ollama serves under a name, made from a base. Raises `TrainingError`."""
        file = open_base(base)
        cache = context.settings.state_directory / "cache"
        tokens = load_tokens(file, base.name.removeprefix("sha256-"), cache)
        return cls(context=context, shown=http.show(name), base=file, tokens=tokens)

    def example(self, http: OllamaHttp, pair: PreferencePair) -> Example | None:
        """Both answers behind the prompt that Ollama renders: a tag may show examples first. None: they do not fit."""
        prompt = http.render(self.shown.name, pair.messages)
        answers = tuple(
            Answer(tokens=tuple(self.tokens.completion(prompt, one))) for one in (pair.chosen, pair.rejected)
        )
        found = Example(prompt=tuple(self.tokens.prompt(prompt)), answers=answers)
        fits = found.longest <= self.context.settings.exam.context_tokens and all(one.tokens for one in answers)
        return found if fits else None

    def margins(self, examples: Sequence[Example]) -> Iterator[float]:
        """How much likelier the better answer is, in nats a token, of each pair."""
        file = self.context.run.step(Step.RANK) / MARGINS
        known = {one.signature: one.nats for one in whole_lines(file, Margin)}
        network: Network | None = None
        for done, example in enumerate(examples):
            signature = self._signature(example)
            if signature not in known:
                self.context.progress(done, len(examples), f"{self.shown.name}: pair {done + 1} of {len(examples)}")
                tokens = self.context.settings.exam.context_tokens
                network = network or served_network(self.context.settings.ollama, self.shown, self.base, tokens)
                known[signature] = margin_of(network, example)
                append_line(file, Margin(signature=signature, nats=known[signature]))
            yield known[signature]

    def _signature(self, example: Example) -> str:
        files = (self.shown.weights_digest, *self.shown.modelfile.adapter_digests)
        texts = (example.prompt, *(one.tokens for one in example.answers))
        return hashlib.sha256(f"{files} {texts}".encode()).hexdigest()


def margin_of(network: Network, example: Example) -> float:
    """Mean log-probability of the first answer's tokens less that of the second's, in nats a token."""
    (sums,) = answer_sums(network, [example])
    better, worse = (float(nats) / len(one.tokens) for nats, one in zip(sums, example.answers, strict=True))
    return better - worse
