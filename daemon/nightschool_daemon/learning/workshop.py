"""What the stages of the dataset work with, and hand on."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from nightschool_daemon.evaluation.similarity import no_embeddings
from nightschool_daemon.hooks import Hooks
from nightschool_daemon.jobs import LeftOut, PromptRow
from nightschool_daemon.learning.corrections import ScoreCorrections, nobody_looks
from nightschool_daemon.learning.grouping import FindNear
from nightschool_daemon.learning.recall import nobody_answers
from nightschool_daemon.learning.sampling import Sampling
from nightschool_hookspecs.records import LossTrajectory, MethodChoice, NoiseFinding, RunInfo, ScoredEvent
from nightschool_hookspecs.services import Embed, Generate, Measure, Recall, Retrieve, Store

T = TypeVar("T")
LEARNS_ANSWERS = frozenset({MethodChoice.AUTO, MethodChoice.SFT})
"""Methods by which wanted answers are learned."""


class DatasetError(Exception):
    """A plugin broke a rule of the dataset; the message says which."""


@dataclass(frozen=True, kw_only=True)
class Workshop:
    """What the stages of the dataset work with."""

    hooks: Hooks
    info: RunInfo
    measure: Measure
    generate: Generate
    """Asks the base: of it variants are made."""
    judge: Generate
    """Asks the model that judges answers in an exam."""
    retrieve: Retrieve
    store: Store
    find_near: FindNear
    """Tells what came too close to a prompt that is kept apart from it: pairs across, of such a prompt and a text."""
    score_corrections: ScoreCorrections = nobody_looks
    embed: Embed = no_embeddings
    sampling: Sampling | None = None
    """None: the incumbent is asked for no answers."""
    recall: Recall = nobody_answers
    method: MethodChoice = MethodChoice.AUTO
    """What is learned by: nothing stands beside a lesson that is none of wanted answers."""
    ranks: bool = True
    """Pairs of answers can be ranked: versions of the base can be computed here."""
    most_alike: int = 16
    """Events of one group of near-duplicates that are learned from."""
    max_growth: float = 3.0
    """Examples and their variants together, as a multiple of the examples."""
    doubted: float = 0.5
    """Factor down from which nothing is preferred by an event: pairs and labels have no weights that it could lower."""
    trajectories: tuple[LossTrajectory, ...] = ()
    """How events were learned when they were new."""
    kept_aside: tuple[PromptRow, ...] = ()
    """Held-out prompts of the type, whatever base they were put to: each may be asked of this one too one day."""


@dataclass(frozen=True, kw_only=True)
class TrainingSide:
    """What nothing is asked of in an exam, in order of arrival."""

    all: tuple[ScoredEvent, ...]
    learnable: tuple[ScoredEvent, ...]
    """Of these, those in whose conversations no prompt of the exam was put before."""
    believed: tuple[ScoredEvent, ...]
    """Of those, what is not taken for noise altogether."""
    left_out: tuple[LeftOut, ...]
    """Why the others are not learnable."""
    noise: Mapping[str, NoiseFinding]
    """What looks wrong of what is learnable, by event."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What is learned from, best first, and what is not."""

    events: tuple[ScoredEvent, ...]
    scores: tuple[float | None, ...]
    """By which each was placed; None where the plugin that chose does not tell."""
    learnable: int
    """Events that there were to choose from."""
    left_out: tuple[LeftOut, ...]


def once(offered: Iterable[Iterable[T]], key: Callable[[T], object]) -> list[T]:
    """What all plugins offer; of equal ones the first."""
    found: dict[object, T] = {}
    for of_plugin in offered:
        for one in of_plugin:
            found.setdefault(key(one), one)
    return list(found.values())
