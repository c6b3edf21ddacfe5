"""Step `examine`: first the held-out pairs are ranked by own forward pass, then the questions are asked.

A thumb up and a thumb down on two answers to one prompt say which is better, and not what would have been right: there
is nothing to score an answer against. But a model that has learned finds the better one likelier. No endpoint of Ollama
tells how likely a given text is, so the weights are read from where Ollama serves them, behind the prompt that Ollama
renders for that tag. A model ranks a pair right where the mean log-probability of the better answer's tokens is higher:
the mean, since in the sum the shorter answer wins.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nightschool_daemon.config import EngineChoice, OllamaSettings
from nightschool_daemon.evaluation import examiner
from nightschool_daemon.jobs import (
    HELD_OUT_PAIRS,
    RANKED,
    BaseSnapshot,
    PrepareResult,
    RegisterResult,
    Step,
    read_lines,
    write_lines,
)
from nightschool_daemon.learning import gguf_file
from nightschool_daemon.learning.base_file import open_base
from nightschool_daemon.learning.engine.architecture import is_known
from nightschool_daemon.learning.loading import Tokens, load_tokens
from nightschool_daemon.learning.rows import Row
from nightschool_daemon.learning.training import limit_threads
from nightschool_daemon.learning.worker import WorkerContext
from nightschool_daemon.ollama.http import OllamaHttp
from nightschool_daemon.ollama.storage import locate_blob
from nightschool_hookspecs.records import PreferencePair, RankedPair

if TYPE_CHECKING:
    from nightschool_daemon.learning.engine.network import Network

MOST_RANKED = 40
"""Pairs a night; each goes through both models."""


class NotRankedError(Exception):
    """A model's likelihoods cannot be had; the message says why."""


def run(context: WorkerContext) -> None:
    """Rank the pairs, leave `ranked.jsonl`, and hold the exam."""
    pairs = list(read_lines(context.run.step(Step.SELECT) / HELD_OUT_PAIRS, PreferencePair))
    used = frozenset(context.run.result(Step.PREPARE, PrepareResult).evidence.used)
    ranked: list[RankedPair] = []
    if pairs:
        try:
            ranked = ranked_pairs(context, chosen(pairs, context.info.seed, used))
        except NotRankedError as error:
            context.note(f"{len(pairs)} held-out pairs of answers were not ranked: {error}")
    write_lines(context.run.step(Step.EXAMINE) / RANKED, ranked)
    examiner.run(context)


def chosen(pairs: Sequence[PreferencePair], seed: int, used: frozenset[str]) -> list[PreferencePair]:
    """Draw a night's share; those that an earlier exam ranked only fill what the others leave."""
    shuffled = random.Random(f"{seed}/ranked").sample(pairs, len(pairs))  # noqa: S311 - no secret
    return sorted(shuffled, key=lambda one: one.group in used)[:MOST_RANKED]


def ranked_pairs(context: WorkerContext, pairs: Sequence[PreferencePair]) -> list[RankedPair]:
    """Rank them by incumbent and candidate. Pairs that do not fit into the context are left out.

    Raises `NotRankedError`, `TrainingError` and `OllamaError`.
    """
    limit_threads(context.settings.training.threads)
    prepared = context.run.result(Step.PREPARE, PrepareResult)
    if not prepared.is_of_base:
        raise NotRankedError(f"{prepared.incumbent} was made from earlier weights of its base.")
    base = Base.of(context, prepared.base)
    names = (prepared.incumbent, context.run.result(Step.REGISTER, RegisterResult).tag)
    http = OllamaHttp(context.settings.ollama)
    try:
        rows = {name: [base.rows(http, name, pair) for pair in pairs] for name in names}
        fitting = [at for at in range(len(pairs)) if all(base.fits(rows[name][at]) for name in names)]
        right: list[list[bool]] = []
        for done, name in enumerate(names):
            context.progress(done, len(names), f"how likely {name} finds {len(fitting)} pairs of answers")
            right.append(ranks_right(base.network(http, name), [rows[name][at] for at in fitting]))
    finally:
        http.close()
    return [
        RankedPair(
            event_id=pairs[at].event_id,
            key=pairs[at].group or pairs[at].event_id,
            incumbent=100.0 * before,
            candidate=100.0 * after,
        )
        for at, before, after in zip(fitting, *right, strict=True)
    ]


Rows = tuple[Row, Row]
"""The better answer behind its prompt, and the worse one."""


def ranks_right(network: Network, pairs: Sequence[Rows]) -> list[bool]:
    """Whether the better answer's tokens are the likelier ones, of each pair."""
    from nightschool_daemon.learning.engine.scoring import answer_sums

    if not pairs:
        return []
    rows = [row for pair in pairs for row in pair]
    means = answer_sums(network, rows) / [len(row.completion) for row in rows]
    return [bool(better > worse) for better, worse in means.reshape(-1, 2)]


@dataclass(frozen=True, kw_only=True)
class Base:
    """The model that incumbent and candidate were made from, or are."""

    snapshot: BaseSnapshot
    file: gguf_file.GgufFile
    tokens: Tokens
    context_tokens: int
    settings: OllamaSettings

    @classmethod
    def of(cls, context: WorkerContext, snapshot: BaseSnapshot) -> Base:
        """Open it. Raises `NotRankedError` where the packed engine does not compute it, and `TrainingError`."""
        file = open_base(snapshot.gguf)
        if context.settings.training.engine is not EngineChoice.AUTO or not is_known(file):
            raise NotRankedError("only the packed engine does that, and it does not compute this base here.")
        tokens = load_tokens(file, snapshot.weights_digest, context.settings.state_directory / "cache")
        return cls(
            snapshot=snapshot,
            file=file,
            tokens=tokens,
            context_tokens=context.settings.exam.context_tokens,
            settings=context.settings.ollama,
        )

    def rows(self, http: OllamaHttp, name: str, pair: PreferencePair) -> Rows:
        """Both answers as token ids behind the prompt that Ollama renders for a tag: a tag may show examples first."""
        prompt = http.render(name, pair.messages)
        better, worse = (
            Row(
                prompt=tuple(self.tokens.prompt(prompt)),
                completion=tuple(self.tokens.completion(prompt, answer)),
                weight=1.0,
            )
            for answer in (pair.chosen, pair.rejected)
        )
        return better, worse

    def fits(self, rows: Rows) -> bool:
        """Whether there is something to rank, and the engine would see all of it."""
        return all(row.completion and len(row) <= self.context_tokens for row in rows)

    def network(self, http: OllamaHttp, name: str) -> Network:
        """What Ollama serves under a name: the base, or a version of it. Raises `NotRankedError` and `OllamaError`."""
        import torch

        from nightschool_daemon.learning.engine import machine
        from nightschool_daemon.learning.engine.network import Network

        shown = http.show(name)
        if shown.modelfile.adapters:
            raise NotRankedError(f"{name} was delivered as an adapter, which only the server applies.")
        is_base = shown.weights_digest == self.snapshot.weights_digest
        over = None if is_base else gguf_file.read(locate_blob(self.settings, shown))
        return Network(self.file, machine.bench(torch.float32), context=self.context_tokens, over=over)
