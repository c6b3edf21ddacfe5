"""What a training learns from next: what a plugin arranges, else every example of an epoch once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from nightschool_daemon.jobs import STRETCHES, StretchMark, append_line, whole_lines, write_lines
from nightschool_daemon.learning.engine.checkpoints import State
from nightschool_daemon.learning.engine.examples import Grouped, order_of
from nightschool_hookspecs.records import Hyperparameters, LearnedExample, Stretch, TrainingMethod, TrainingSoFar
from nightschool_hookspecs.services import TrainingError

EXPECTED_GAIN = 0.9
"""What is left of a loss at each evaluation, where a training is only planned."""
MEND = "Mend it, or add it to plugins.disabled: `nightschool plugins` lists who implements arrange_stretch."


class Teachable(Grouped, Protocol):
    """What can be learned from, and what a curriculum needs to know of it."""

    def __len__(self) -> int:
        """Tokens."""
        ...

    @property
    def event_id(self) -> str:
        """As `LearnedExample` has it, and so the others."""
        ...

    @property
    def events(self) -> tuple[str, ...]:
        """`source/id` of those that its answers are of."""
        ...

    @property
    def weight(self) -> float: ...

    @property
    def difficulty(self) -> float | None: ...

    @property
    def score(self) -> float | None: ...


def events_of(examples: Iterable[Teachable]) -> tuple[str, ...]:
    """`source/id` of the events that examples come from, each once."""
    return tuple(dict.fromkeys(key for one in examples for key in one.events))


class Arrange(Protocol):
    """Asks the plugins what is learned from next."""

    def __call__(self, *, examples: tuple[LearnedExample, ...], training: TrainingSoFar, seed: int) -> Stretch | None:
        """Return what `nightschool_arrange_stretch` says; None: nobody arranges it."""
        ...


def nobody_arranges(*, examples: tuple[LearnedExample, ...], training: TrainingSoFar, seed: int) -> Stretch | None:
    """Have each epoch see every example once."""
    return None


D = TypeVar("D", bound=Teachable)


@dataclass(frozen=True, kw_only=True)
class Curriculum(Generic[D]):
    """A training's way through its examples."""

    learned: Sequence[D]
    method: TrainingMethod
    settings: Hyperparameters
    seed: int
    arrange: Arrange = nobody_arranges
    goes_on: bool = False
    """Whether the training began from what an earlier one of the specialty had learned."""

    def next(self, state: State) -> Stretch:
        """What comes behind all that was arranged so far. Raises `TrainingError` where it does not fit."""
        training = TrainingSoFar(
            method=self.method,
            epochs=self.settings.num_epochs,
            epoch=state.epoch + 1,
            left=len(self.learned) - len(state.places),
            batch_size=self.settings.batch_size,
            losses=(state.start_loss, *state.losses),
            goes_on=self.goes_on,
        )
        arranged = self.arrange(examples=self._examples(state), training=training, seed=self.seed)
        if arranged is None:
            return Stretch(places=self._rest(state)[: training.left], stage="")
        _require_fit(arranged, len(self.learned), training)
        return arranged

    def expected(self) -> Iterator[Stretch]:
        """Every stretch of the training, if each evaluation is better than the last."""
        state = State(start_loss=1.0)
        while state.epoch < self.settings.num_epochs:
            stretch = self.next(state)
            yield stretch
            state = begun(state, stretch)
            state = evaluated(state, EXPECTED_GAIN ** (len(state.losses) + 1))
            if self.is_through(state):
                state = self.next_epoch(state)

    def is_through(self, state: State) -> bool:
        """Whether nothing is left of the epoch."""
        return state.evaluated == len(self.learned)

    def has_seen_all(self, state: State) -> bool:
        """Whether every example is among those of this epoch."""
        return len(set(state.places)) == len(self.learned)

    def next_epoch(self, state: State) -> State:
        """The beginning of the next epoch."""
        return replace(state, epoch=state.epoch + 1, step_of_epoch=0, places=(), evaluated=0, seen=self._seen(state))

    def mark(self, state: State, loss: float) -> StretchMark:
        """What is kept of the stretch under way, behind which the loss was taken."""
        stretch = [self.learned[place] for place in state.places[state.evaluated :]]
        seen = self._seen(replace(state, places=state.places[: state.evaluated]))
        known = frozenset(events_of(one for one, times in zip(self.learned, seen, strict=True) if times))
        return StretchMark(
            number=len(state.losses) + 1,
            epoch=state.epoch + 1,
            stage=state.stage,
            reason=state.reason,
            examples=len(stretch),
            tokens=sum(map(len, stretch)),
            watched_loss=loss,
            first_seen=tuple(key for key in events_of(stretch) if key not in known),
        )

    def _rest(self, state: State) -> tuple[int, ...]:
        """Every place, in the order of an epoch that nobody arranges; behind all others those that were arranged."""
        arranged = frozenset(state.places)
        return tuple(sorted(order_of(len(self.learned), state.epoch, self.seed), key=arranged.__contains__))

    def _examples(self, state: State) -> tuple[LearnedExample, ...]:
        return tuple(
            LearnedExample(
                event_id=one.event_id,
                group=one.group,
                tokens=len(one),
                weight=one.weight,
                difficulty=one.difficulty,
                score=one.score,
                seen=seen,
                beside=one.beside,
            )
            for one, seen in zip(self.learned, self._seen(state), strict=True)
        )

    def _seen(self, state: State) -> tuple[int, ...]:
        """How often each example was learned from, when all that is arranged is."""
        before = state.seen or (0,) * len(self.learned)
        now = Counter(state.places)
        return tuple(times + now[place] for place, times in enumerate(before))


def begun(state: State, stretch: Stretch) -> State:
    """The beginning of a stretch."""
    return replace(state, places=(*state.places, *stretch.places), stage=stretch.stage, reason=stretch.reason)


def evaluated(state: State, loss: float) -> State:
    """The end of a stretch, and the loss behind it."""
    return replace(state, evaluated=len(state.places), losses=(*state.losses, loss))


def is_under_way(state: State) -> bool:
    """Whether a stretch began that was not evaluated yet."""
    return state.evaluated < len(state.places)


def _require_fit(stretch: Stretch, count: int, training: TrainingSoFar) -> None:
    if not set(stretch.places) <= set(range(count)):
        raise TrainingError(f"A plugin arranged an example that is not there: there are {count}. {MEND}")
    if not stretch.stage:
        raise TrainingError(f"A plugin arranged a stretch of a stage without a name. {MEND}")
    length = len(stretch.places)
    is_short = length < training.left
    if length == 0 or length > training.left or (is_short and length % training.batch_size):
        raise TrainingError(
            f"A plugin arranged {length} examples where {training.left} are left of an epoch in batches of "
            f"{training.batch_size}: it is all of them, or a multiple of the batch. {MEND}"
        )


class StretchLog:
    """`curriculum.jsonl`: a line a stretch that a plugin arranged. What was written behind the checkpoint goes."""

    def __init__(self, directory: Path, state: State) -> None:
        self._file = directory / STRETCHES
        if self._file.exists():
            kept = [one for one in whole_lines(self._file, StretchMark) if one.number <= len(state.losses)]
            write_lines(self._file, kept)

    def write(self, mark: StretchMark) -> None:
        """Add a line, on the disk when this returns."""
        append_line(self._file, mark)
