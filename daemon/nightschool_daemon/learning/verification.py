"""Step `verify`: the served candidate is live, and it is the network that was trained.

The engine tells the likeliest next tokens behind a prompt, for the base and for the candidate; our own
forward pass computes the same over the base and over the blocks read back from the delivered file. The
engine's arithmetic differs from ours for base and candidate alike, so the differences between the two are
compared: over tokens that are among the 20 likeliest of both, the median of

    | (candidate - base) by the engine  -  (candidate - base) by us |

must be at most the largest of three: twice the median of | base by the engine - base by us |, `FLOOR`, and
`ROUNDED_SHARE` of the median of | (candidate - base) by us |. Where the first is large itself nothing can be told, nor
where too few of the places can be compared, nor where they differ by more than `LIVE_SHARE` of a small change.

A strong lesson leaves places at which the two lists have no token in common. There the candidate's likeliest token is
compared, with the base's log-probability by us on both sides, as the engine does not tell it; and the base's likeliest
one says how far the engine and we differ.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nightschool_daemon.jobs import (
    ExportResult,
    Losses,
    PrepareResult,
    RegisterResult,
    SelectResult,
    Step,
    VerifyResult,
)
from nightschool_daemon.learning import gguf_file
from nightschool_daemon.learning.engine.loop import LOWER_RATE
from nightschool_daemon.learning.lesson import read_lesson
from nightschool_daemon.learning.loading import Tokens
from nightschool_daemon.learning.rows import context_of, learned_texts
from nightschool_daemon.learning.threads import limit_threads
from nightschool_daemon.learning.variants import Variant, Variants, open_variants
from nightschool_daemon.learning.worker import WorkerContext
from nightschool_daemon.ollama.http import OllamaHttp
from nightschool_daemon.ollama.library import NextToken, OllamaLibrary
from nightschool_hookspecs.records import (
    Message,
    Role,
    TrainingResult,
    TrainingText,
)
from nightschool_hookspecs.services import TrainingError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Logprobs = NDArray[np.float32]
    """Shape (positions, vocabulary)."""

POSITIONS_A_TEXT = 8
"""Where the texts are enough; of fewer ones more."""
LEAST_COMPARED = 2 / 3
"""Of the places that are asked. The engine tells nothing where a model would end the answer, and a lesson may leave
base and candidate without a likely token in common; but where most places are lost, its tokens are not ours."""
FEW_POSITIONS = 64
"""With fewer it is told how many there were."""
MOST_NOISE = 0.5
"""Nats. Bases that both compute alike are far below (docs/learning.md): above it one of the two is wrong, and would
widen the bound that it is held to."""
FLOOR = 0.02
"""Nats. Below it a disagreement says nothing: 16-bit rounding inside the engine moves probabilities as much."""
ROUNDED_SHARE = 0.1
"""Of the change that we expect. The engine rounds activations to 8 bits, so that its error grows with what it computes:
lessons that moved the median by 8.7 and 9.9 nats were served with a disagreement of 2.0 and 2.7 % of that, LoRA of
twelve commands on SmolLM2 that moved it by 3.1 and 3.3 nats with 6.6 and 5.6 %. Another network, or half of the lesson,
is far above it."""
LIVE_SHARE = 0.5
"""The engine must show at least this share of the change that we expect."""


@dataclass(frozen=True, kw_only=True)
class Position:
    """A place in a text whose next token is asked for."""

    prefix: str
    ids: tuple[int, ...]
    """The engine's ids of the prefix, BOS included."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """The compared log-probabilities, one entry a (position, token) pair."""

    positions: int
    """That have at least one entry."""
    base_engine: NDArray[np.float64]
    """No number where the engine does not tell it."""
    base_own: NDArray[np.float64]
    candidate_engine: NDArray[np.float64]
    """No number in an entry that tells of the base alone."""
    candidate_own: NDArray[np.float64]
    silent: int = 0
    """Positions at which the engine names tokens of ours for the base, and none for the candidate, though by us it goes
    on there."""
    ended: int = 0
    """The same where by us too the candidate ends its answer."""


def run(context: WorkerContext) -> None:
    """Compare served and trained network and leave `VerifyResult`."""
    base = context.run.result(Step.PREPARE, PrepareResult).base
    export = context.run.result(Step.EXPORT, ExportResult)
    candidate = context.run.result(Step.REGISTER, RegisterResult).tag
    limit_threads(context.settings.training.threads)
    context.progress(0, 4, "load the base model")
    trained = context.run.result(Step.TRAIN, TrainingResult)
    lesson = read_lesson(trained.adapter, gguf_file.read(base.gguf))
    variants = open_variants(lesson, base.weights_digest, context.settings)
    texts = learned_texts(context.run.step(Step.SELECT), trained.methods)
    limits = Limits(
        max_length=_max_length(context),
        context_tokens=context_of(lesson.file, context.settings.exam.context_tokens),
    )
    positions = choose_positions(
        variants.tokens, texts, context.settings.exam.verify_positions, context.info.seed, limits
    )
    context.progress(1, 4, f"ask the engine at {len(positions)} places")
    base_engine = ask_engine(context, base.pin, positions, limits.context_tokens)
    candidate_engine = ask_engine(context, candidate, positions, limits.context_tokens)
    context.progress(2, 4, "compute the same by our own forward pass")
    base_own = own_logprobs(variants, positions)
    variants.use(Variant.DELIVERED, export)
    candidate_own = own_logprobs(variants, positions)
    context.progress(3, 4, "compare the prompts")
    table = compare(variants.tokens, positions, (base_engine, candidate_engine), (base_own, candidate_own))
    result = judged(
        table,
        asked=len(positions),
        held_out=export.held_out or _held_in(export),
        held_out_texts=export.held_out_texts,
        prompts_equal=prompts_are_equal(context, base.pin, candidate),
    )
    if result.passed and result.positions < FEW_POSITIONS:
        context.note(result.reason)
    context.run.finish(Step.VERIFY, result)


def _held_in(export: ExportResult) -> Losses:
    """What the export measured on what was learned."""
    if export.held_in is None:
        raise TrainingError("It was not measured how much of the lesson was delivered. Run again.")
    return export.held_in


def judged(table: Table, *, asked: int, held_out: Losses, held_out_texts: int, prompts_equal: bool) -> VerifyResult:
    """Turn the table into medians and say whether they hold. `asked`: positions that were to be compared.

    The losses are the export's. Raises `TrainingError` where they are no numbers: no result can hold them.
    """
    base = np.where(np.isnan(table.base_engine), table.base_own, table.base_engine)
    is_compared = ~np.isnan(table.candidate_engine)
    served, own = (table.candidate_engine - base)[is_compared], (table.candidate_own - table.base_own)[is_compared]
    medians = Medians(
        noise=_median((table.base_engine - table.base_own)[~np.isnan(table.base_engine)]),
        live=_median(served),
        expected=_median(own),
        disagreement=_median(served - own),
    )
    _require_numbers(medians, held_out)
    is_silent = table.silent > LEAST_COMPARED * asked
    untold = None if is_silent else _why_not_compared(table, asked) or medians.untold()
    problem = SILENT if is_silent else untold or medians.problem()
    if problem is None and not prompts_equal:
        problem = "Ollama builds other prompts for the candidate than for its base. Update Ollama"
    places = "" if table.positions >= FEW_POSITIONS else f", at the {table.positions} places that could be compared"
    return VerifyResult(
        positions=table.positions,
        pairs=len(served),
        live=medians.live,
        expected=medians.expected,
        noise=medians.noise,
        disagreement=medians.disagreement,
        held_out=held_out,
        held_out_texts=held_out_texts,
        prompts_equal=prompts_equal,
        passed=problem is None,
        reason=f"{problem}." if problem else f"The served model is live and equals the trained network{places}.",
        is_last_word=is_silent or (untold is None and medians.expected < FLOOR),
    )


SILENT = (
    "the served model finds no token likely where its base does: what was trained is so large that it computes no "
    f"numbers any more. {LOWER_RATE}"
)


def _require_numbers(medians: Medians, held_out: Losses) -> None:
    if not all(map(math.isfinite, (medians.noise, held_out.base_loss))):
        raise TrainingError(
            "Our forward pass computes no numbers for the base itself, so it cannot be told whether the served model "
            "is the trained one. Choose another base."
        )
    of_lesson = (medians.live, medians.expected, medians.disagreement, held_out.trained_loss, held_out.delivered_loss)
    if not all(map(math.isfinite, of_lesson)):
        raise TrainingError(
            "With what was trained our forward pass computes no numbers, so it cannot be told whether the served model "
            f"is the trained one. {LOWER_RATE}."
        )


def _why_not_compared(table: Table, asked: int) -> str | None:
    """What is wrong where too few positions could be compared; None: nothing."""
    compared, least = table.positions, LEAST_COMPARED * asked
    if compared < least <= compared + table.ended:
        return (
            f"only {compared} of {asked} places could be compared: at {table.ended} others what was trained ends its "
            f"answer, where its base goes on. {LOWER_RATE}"
        )
    if not compared:
        return (
            "nothing could be compared: Ollama gives no log-probabilities (it needs 0.12.11 or newer), or its tokens "
            "are not those of our tokenizer"
        )
    if compared < least:
        return (
            f"only {compared} of {asked} places could be compared, too few to tell: at the others Ollama counts other "
            "tokens than we do, or names none that are ours. Update Ollama, or choose another base"
        )
    return None


@dataclass(frozen=True, kw_only=True)
class Medians:
    """As in `VerifyResult`."""

    noise: float
    live: float
    expected: float
    disagreement: float

    def untold(self) -> str | None:
        """Why they say nothing of the served model; None: they do."""
        if self.noise <= MOST_NOISE:
            return self._too_near()
        return (
            f"our forward pass and this server's differ by {self.noise:.3f} nats on the base itself (at most "
            f"{MOST_NOISE} are allowed), so it cannot be told whether the served model is the trained one. Update "
            "Ollama, or choose another base"
        )

    def _too_near(self) -> str | None:
        """Where the bound would let another lesson of the same size through, or half of this one."""
        if max(FLOOR, LIVE_SHARE * self.expected) < self.disagreement <= self.bound:
            return (
                f"the lesson moves probabilities by {self.expected:.3f} nats, and our forward pass and this server's "
                f"differ by {self.noise:.3f} on the base itself, so it cannot be told whether the served model is the "
                "trained one. Give it more feedback, or raise the learning rate"
            )
        return None

    @property
    def bound(self) -> float:
        """Up to which they may disagree."""
        return max(2 * self.noise, FLOOR, ROUNDED_SHARE * self.expected)

    def problem(self) -> str | None:
        """What they say against the served model; None: nothing."""
        if self.expected < FLOOR:
            return (
                f"the lesson is too small to be seen (it moves probabilities by {self.expected:.4f} nats). "
                "Give it more feedback, or raise the learning rate"
            )
        if self.live < LIVE_SHARE * self.expected:
            return (
                f"the served model does not show the lesson: it moved probabilities by {self.live:.3f} nats where "
                f"{self.expected:.3f} were trained. Update Ollama, or set delivery.form"
            )
        if self.disagreement > self.bound:
            return (
                f"the served model is not the trained one: they disagree by {self.disagreement:.3f} nats, at most "
                f"{self.bound:.3f} are allowed. Update Ollama, or set delivery.form"
            )
        return None


# --------------------------------------------------------------------------- positions


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How long a text may be, in tokens."""

    max_length: int
    """Longer ones were left out of the training."""
    context_tokens: int
    """The engine cuts longer prompts."""


def choose_positions(
    tokens: Tokens, texts: Sequence[TrainingText], wanted: int, seed: int, limits: Limits
) -> tuple[Position, ...]:
    """Places in the answers of training texts, a few a text, or more where there are few texts.

    Only prefixes whose tokenisation is stable.
    """
    shuffled = random.Random(f"{seed}/verify").sample(list(texts), len(texts))  # noqa: S311 - no secret
    found: list[list[Position]] = []
    for text in shuffled:
        found.append(_positions_of(tokens, text, limits))
        if _count(found, POSITIONS_A_TEXT) >= wanted:
            break
    most = max(map(len, found), default=0)
    if not most:
        raise TrainingError(
            f"No text that was learned has a prompt of less than {limits.context_tokens} tokens (exam.context_tokens "
            "or the base's context), and an answer of two or more, that can be compared with what the engine counts. "
            "Raise exam.context_tokens, or choose a base with a longer context."
        )
    enough = (one for one in range(POSITIONS_A_TEXT, most) if _count(found, one) >= wanted)
    a_text = next(enough, max(most, POSITIONS_A_TEXT))
    return tuple(place for of_text in found for place in of_text[:a_text])[:wanted]


def _count(found: Sequence[Sequence[Position]], a_text: int) -> int:
    """Of all texts, at most so many of each."""
    return sum(min(len(one), a_text) for one in found)


def _positions_of(tokens: Tokens, text: TrainingText, limits: Limits) -> list[Position]:
    """Prefixes of a text, each one token longer."""
    prompt, completion = tokens.prompt(text.prompt), tokens.completion(text.prompt, text.completion)
    if len(prompt) + len(completion) > limits.max_length:
        return []
    # the token that is asked for needs its place too, and where it would end the answer the engine tells nothing
    places = min(limits.context_tokens - len(prompt), len(completion) - 1)
    found = []
    for length in range(places):
        prefix = text.prompt + (tokens.text(completion[:length]) if length else "")
        ids = [*prompt, *completion[:length]]
        if tokens.prompt(prefix) == ids:
            found.append(Position(prefix=prefix, ids=tuple(ids)))
    return found


# --------------------------------------------------------------------------- engine and own forward pass


def ask_engine(
    context: WorkerContext, name: str, positions: Sequence[Position], context_tokens: int
) -> list[NextToken]:
    """The engine's likeliest next tokens at every position, in one block a model."""
    library = OllamaLibrary(context.settings.ollama)
    return [library.next_token(name, one.prefix, context_tokens=context_tokens) for one in positions]


def own_logprobs(variants: Variants, positions: Sequence[Position]) -> Logprobs:
    """Log-probabilities of every next token, by our forward pass: one pass a text serves all its positions."""
    groups = of_one_text(positions)
    return variants.logprobs([group[-1].ids for group in groups], [[len(one.ids) for one in group] for group in groups])


def of_one_text(positions: Sequence[Position]) -> list[list[Position]]:
    """Neighbours whose ids begin with those of the one before belong to one text."""
    groups: list[list[Position]] = []
    for one in positions:
        last = groups[-1][-1].ids if groups else None
        if last is not None and one.ids[: len(last)] == last:
            groups[-1].append(one)
        else:
            groups.append([one])
    return groups


def compare(
    tokens: Tokens,
    positions: Sequence[Position],
    engine: tuple[Sequence[NextToken], Sequence[NextToken]],
    own: tuple[Logprobs, Logprobs],
) -> Table:
    """Pair what engine and forward pass say of the tokens that both of the engine's lists have.

    A position whose prompt the engine counts otherwise is left out: its ids are not ours.
    """
    pieces, control = tokens.pieces(), tokens.control()
    entries: list[tuple[float, float, float, float]] = []
    compared = silent = ended = 0
    for number, (position, before, after) in enumerate(zip(positions, *engine, strict=True)):
        if before.prompt_tokens != len(position.ids):
            continue
        earlier, later = (
            {pieces[one.token]: one.logprob for one in told.top if one.token in pieces} for told in (before, after)
        )
        shown = [(one, one) for one in earlier if one in later] or _likeliest(earlier, later)
        compared += bool(shown)
        if earlier and not later:
            ends = int(own[1][number].argmax()) in control
            silent, ended = silent + (not ends), ended + ends
        for of_base, of_candidate in shown:
            identifier = of_base if of_candidate is None else of_candidate
            entries.append(
                (
                    math.nan if of_base is None else earlier[of_base],
                    float(own[0][number, identifier]),
                    math.nan if of_candidate is None else later[of_candidate],
                    float(own[1][number, identifier]),
                )
            )
    columns = np.array(entries, np.float64).reshape(-1, 4).T
    return Table(
        positions=compared,
        base_engine=columns[0],
        base_own=columns[1],
        candidate_engine=columns[2],
        candidate_own=columns[3],
        silent=silent,
        ended=ended,
    )


def _likeliest(earlier: Mapping[int, float], later: Mapping[int, float]) -> list[tuple[int | None, int | None]]:
    """The base's likeliest token and the candidate's, each by itself; none where the engine names none of either."""
    if not (earlier and later):
        return []
    return [(max(earlier, key=earlier.__getitem__), None), (None, max(later, key=later.__getitem__))]


# --------------------------------------------------------------------------- texts and prompts


def _max_length(context: WorkerContext) -> int:
    return context.run.result(Step.SELECT, SelectResult).hyperparameters.max_length


PROBES: Sequence[Sequence[Message]] = (
    (Message(role=Role.USER, content="Good morning"),),
    (Message(role=Role.SYSTEM, content="Be brief."), Message(role=Role.USER, content="Good morning")),
    (
        Message(role=Role.USER, content="Good morning"),
        Message(role=Role.ASSISTANT, content="Good morning to you"),
        Message(role=Role.USER, content="How are you?"),
    ),
)


def prompts_are_equal(context: WorkerContext, base: str, candidate: str) -> bool:
    """Whether Ollama builds the same prompts for both, over one turn, with a system text, over several turns."""
    http = OllamaHttp(context.settings.ollama)
    try:
        return all(http.render(base, one) == http.render(candidate, one) for one in PROBES)
    finally:
        http.close()


def _median(values: NDArray[np.float64]) -> float:
    return float(np.median(np.abs(values))) if len(values) else 0.0
