"""A cell: one night of an installation, from its feedback to a model that Ollama serves, by the project's own code.

The run is the real one: its steps, its workers, its plugins. Three things are the bench's: which prompts are held out,
how many tokens are learned from (`budgets`), and that it ends when the candidate is served and measured, before its
exam. What is taken out of Ollama then, and how, is the run's own business.
"""

import functools
import logging
import resource
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import pstdev

from benchmarks import results
from benchmarks.ablation import budgets
from benchmarks.ablation.components import BASE, PASSES, Arm, toml
from benchmarks.ablation.measures import DIGITS, Bench, Said, Taken
from benchmarks.ablation.pools import ARTIFACT_TYPES, Material, Row, Size, material_of
from benchmarks.calls import digest_of
from benchmarks.nightly import correction, noon
from benchmarks.tasks import Pair
from nightschool_daemon import codec, config
from nightschool_daemon.installation import Installation, working
from nightschool_daemon.jobs import (
    MARKS,
    EventMark,
    ExportResult,
    RegisterResult,
    RunDirectory,
    SelectResult,
    Step,
    read_lines,
)
from nightschool_daemon.learning.engine.todo import Todo
from nightschool_daemon.learning.packed_route import READERS
from nightschool_daemon.learning.rows import FILES
from nightschool_daemon.runs import SilentListener
from nightschool_hookspecs.records import (
    FeedbackType,
    Hyperparameters,
    PairText,
    Side,
    SideChoice,
    Specialty,
    TrainingMethod,
    TrainingResult,
    TrainingText,
)
from support.base_models import MODELS
from support.night import Night

DROP_IN = Path(__file__).with_name("selection_random.py")
SHOWS = frozenset({"claims.py", "decisions.py", "effects.py", "pages.py", "records.py"})
"""Of the bench, what judges and shows the results: none is measured anew for another table."""
SHAPES = ("tasks.py", "nightly.py")
"""Beside them, what shapes a cell."""
DAYS = 30
"""Over which the corrections came."""
NOW = noon(DAYS + 1)
MEASURED = "It is measured."


@dataclass(frozen=True, kw_only=True)
class Block:
    """What cells have in common that are compared: the base, the pool, what is held out, and all chance."""

    model: str
    task: str
    seed: int


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One training."""

    block: Block
    arm: Arm

    @property
    def name(self) -> str:
        """Of its result's file."""
        return f"{self.block.model}-{self.block.task}-{self.arm.name}-{self.block.seed}"


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where cells are run, and where their results are."""

    url: str
    models_directory: Path
    results: Path
    code: str | None
    """Of which the result of a base has to be; None: of any."""


def file_of(directory: Path, name: str) -> Path:
    """Where a cell's result is kept."""
    return directory / f"{name}.json"


@dataclass(frozen=True, kw_only=True)
class Made:
    """What a result was made with."""

    size: Size
    code: str
    """Digest of all that is measured and measures, as it was when the cell began."""
    tables: str
    """The configuration of its installation, for who reads the result."""

    @classmethod
    def of(cls, cell: Cell, size: Size) -> "Made":
        """What a cell is made with now."""
        return cls(size=size, code=digest_of_code(), tables=toml(cell.arm.tables(size, cell.block.seed)))


@functools.cache
def digest_of_code() -> str:
    """Of the project and of the part of the bench that measures: what a result depends on besides its cell."""
    own = [file for file in Path(__file__).parent.glob("*.py") if file.name not in SHOWS]
    return digest_of([*own, *(Path(__file__).parents[1] / name for name in SHAPES)])


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a training took."""

    budget: int
    """Tokens that it was to learn from."""
    tokens: int
    """That the loop counted."""
    epochs: int
    examples: int
    added: int
    """Of the examples that were selected, those beside the corrections: variants, what is replayed, starters."""
    pairs: int
    sampled: int
    """Of the pairs, those among answers that the base was asked for; the others are corrections."""
    searched: int
    """Tokens that a search for hyperparameters took, learned from and measured on."""
    selecting_s: float
    training_s: float
    """With the search."""
    peak_mb: float
    """Of the heaviest step."""


@dataclass(frozen=True, kw_only=True)
class BaseResult:
    """A base that nothing was taught, and what it said."""

    made: Made
    taken: Taken
    closing: str
    """With which token its answers end."""
    said: dict[str, Said]
    """By the prompts of the dirty pool, which somebody corrected."""
    own: tuple[Pair, ...]
    """To general prompts."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """A model that was taught."""

    made: Made
    taken: Taken
    cost: Cost
    spread: dict[str, float]
    """Standard deviations, by name, of what parts tell events apart by: where one is 0 such a part does nothing."""


def kept(file: Path, size: Size, code: str | None) -> BaseResult | Result | None:
    """A result that was made of this size and this code; None where there is none. `code`: None is any."""
    is_base = f"-{BASE.name}-" in file.stem
    try:
        found = (
            codec.from_json(file.read_bytes(), BaseResult) if is_base else codec.from_json(file.read_bytes(), Result)
        )
    except (FileNotFoundError, codec.CodecError):
        # what an earlier bench kept may have another form
        return None
    return found if found.made.size == size and code in (None, found.made.code) else None


def run(cell: Cell, size: Size, place: Place, directory: Path) -> BaseResult | Result:
    """Carry a cell out in an empty directory. Raises `results.CellFailed`."""
    # a library of the embeddings has the root logger tell everything
    logging.getLogger("httpx").setLevel(logging.WARNING)
    material = material_of(cell.block.task, size, cell.block.seed)
    base = None if cell.arm == BASE else base_of(cell.block, size, place)
    here = _installed(directory / "night", cell, size, place)
    rows = material.clean if cell.arm.is_clean else material.dirty
    here.drop([*_feedback(cell.block, rows, base), *_questions(cell.block, material.held_out)])
    with working(config.load(here.configuration)) as found:
        found.intake.scan(NOW)
        _hold_out(found, cell.block, material)
        run_id = found.runs.start(_specialty(cell.block), "ablation", NOW)
        watcher = Watcher(found, run_id, cell, size, material, base)
        report = found.runs.execute(run_id, watcher)
    if watcher.result is None:
        raise results.CellFailed(watcher.failure or report.reason)
    return watcher.result


def _installed(directory: Path, cell: Cell, size: Size, place: Place) -> Night:
    settings = toml(cell.arm.tables(size, cell.block.seed))
    here = Night(directory, place.url, place.models_directory, settings=settings)
    if cell.arm.samples:
        here.add_plugin(DROP_IN.stem, DROP_IN.read_text(encoding="utf-8"))
    return here


def _specialty(block: Block) -> Specialty:
    return Specialty(base=MODELS[block.model].tag, artifact_type=ARTIFACT_TYPES[block.task])


def base_of(block: Block, size: Size, place: Place) -> BaseResult:
    """The base of a block. Raises `results.CellFailed` where it was not measured yet."""
    file = file_of(place.results, Cell(block=block, arm=BASE).name)
    found = kept(file, size, place.code)
    if not isinstance(found, BaseResult):
        raise results.CellFailed(f"{file.stem} comes first")
    return found


# --------------------------------------------------------------------------- what the installation is given


def _feedback(block: Block, rows: Sequence[Row], base: BaseResult | None) -> Iterator[dict[str, object]]:
    """What came in over a month. What was corrected or disliked is what the incumbent said."""
    for number, row in enumerate(rows):
        at = noon(1 + number * DAYS // len(rows))
        event = correction(f"c-{number}", block.model, row.pair, at, ARTIFACT_TYPES[block.task])
        yield event | reaction(row, base.said.get(row.source.prompt) if base is not None else None)


def reaction(row: Row, said: Said | None) -> dict[str, object]:
    """How a row differs from a correction of nothing. `said`: by the incumbent; None: it is not known."""
    if row.feedback is FeedbackType.EXPLICIT_POSITIVE:
        # nobody's validator knows the right answer
        liked = {"ai_output": row.answer, "corrected_output": None, "validation_score": None}
        return {**liked, "feedback_type": row.feedback.value}
    if said is None or not said.text.strip() or said.text == row.answer:
        return {}
    found: dict[str, object] = {"ai_output": said.text, "validation_score": said.score, "retries": row.retries}
    if row.feedback is FeedbackType.EXPLICIT_NEGATIVE:
        found |= {"corrected_output": None, "feedback_type": row.feedback.value}
    return found


def _questions(block: Block, held_out: Sequence[Pair]) -> Iterator[dict[str, object]]:
    for number, pair in enumerate(held_out):
        yield correction(f"held-{number}", block.model, pair, noon(DAYS), ARTIFACT_TYPES[block.task])


def _hold_out(found: Installation, block: Block, material: Material) -> None:
    """Put the held-out prompts on their side of the exam. The run divides the others, and learns from all of them."""
    held_out = {one.prompt for one in material.held_out}
    artifact_type = ARTIFACT_TYPES[block.task]
    keys = [row.key for row in found.ledger.events.prompts(artifact_type) if row.text in held_out]
    choices = [SideChoice(key=key, side=Side.HELD_OUT) for key in keys]
    found.ledger.events.set_sides(artifact_type, choices, {key: key for key in keys})


# --------------------------------------------------------------------------- the run


class Watcher(SilentListener):
    """Follows the run of a cell: sees to its budget, measures what it serves, and ends it."""

    def __init__(
        self,
        found: Installation,
        run_id: str,
        cell: Cell,
        size: Size,
        material: Material,
        base: BaseResult | None,
    ) -> None:
        """`base`: what was measured of the base; None: that is what this cell is about."""
        self._found, self._cell, self._size, self._material, self._base = found, cell, size, material, base
        self._made = Made.of(cell, size)
        self._run: RunDirectory = found.runs.context_of(run_id, self).directory
        self._bench = Bench(cell.block.model, cell.block.task, size, found.settings, found.hooks)
        self._began: dict[Step, float] = {}
        self._seconds: dict[Step, float] = {}
        self._sampled = 0
        self.result: BaseResult | Result | None = None
        self.failure = ""
        """Why the cell is nothing that could be compared; empty: it is, or the run says why."""

    def step_began(self, run_id: str, step: Step) -> None:
        self._began[step] = time.monotonic()

    def step_ended(self, run_id: str, step: Step) -> None:
        self._seconds[step] = time.monotonic() - self._began[step]
        if step is Step.SELECT and self._base is None:
            self._end(self._measured_base())
        elif step is Step.SELECT:
            self._fit()
        elif step is Step.REGISTER and self._base is not None:
            self._end(self._measured(self._base))

    def _end(self, result: BaseResult | Result) -> None:
        self.result = result
        self._found.runs.cancel(MEASURED)

    def _fit(self) -> None:
        arm, tokens = self._cell.arm, self._bench.tokens

        def example(text: TrainingText) -> int:
            return len(tokens.prompt(text.prompt)) + len(tokens.completion(text.prompt, text.completion))

        def pair(text: PairText) -> int:
            answers = (tokens.completion(text.prompt, one) for one in (text.chosen, text.rejected))
            return len(tokens.prompt(text.prompt)) + sum(map(len, answers))

        budget = budgets.Budget(
            tokens=arm.tokens(self._size),
            passes=arm.passes,
            most_passes=PASSES,
            watches=arm.watches,
            seed=self._cell.block.seed,
            fewest_pairs=arm.fewest_pairs,
        )
        self._sampled = budgets.apply(self._run, budget, budgets.Count(example=example, pair=pair, seen=self._seen))
        if arm.is_of_pairs and not self._sampled:
            self.failure = "the base gave no whole answer that makes a pair, so preferences were not learned"
            self._found.runs.cancel(self.failure)

    def _seen(self, settings: Hyperparameters) -> int:
        """Tokens that the loop will count, by its own plan."""
        examples = list(
            READERS[TrainingMethod.SFT](self._run.step(Step.SELECT) / FILES[TrainingMethod.SFT], self._bench.tokens)
        )
        todo = Todo(
            examples=examples,
            method=TrainingMethod.SFT,
            settings=settings,
            seed=self._run.read_info().seed,
            arrange=self._found.hooks.arrange_stretch,
        )
        return sum(len(todo.split.learned[place]) for stretch in todo.stretches for place in stretch.places)

    def _measured_base(self) -> BaseResult:
        closing, tag = self._run.result(Step.SELECT, SelectResult).closing, MODELS[self._cell.block.model].tag
        own = self._bench.own_answers()
        return BaseResult(
            made=self._made,
            taken=self._bench.take(tag, None, self._material, own, closing),
            closing=closing,
            said=self._bench.said(self._material),
            own=own,
        )

    def _measured(self, base: BaseResult) -> Result:
        registered = self._run.result(Step.REGISTER, RegisterResult)
        (delivered, *_) = self._run.result(Step.EXPORT, ExportResult).files
        selected = self._run.result(Step.SELECT, SelectResult)
        trained = self._run.result(Step.TRAIN, TrainingResult)
        search = trained.search
        peak_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1000
        taken = self._bench.take(registered.tag, delivered.path, self._material, base.own, base.closing)
        self._found.ollama.unload(registered.tag)
        return Result(
            made=self._made,
            taken=taken,
            cost=Cost(
                budget=self._cell.arm.tokens(self._size),
                tokens=trained.tokens,
                epochs=selected.hyperparameters.num_epochs,
                examples=selected.material.examples,
                added=selected.variants + selected.replayed.count + selected.starters,
                pairs=selected.material.pairs,
                sampled=self._sampled,
                searched=0 if search is None else search.tokens + search.measured_tokens,
                selecting_s=self._seconds[Step.SELECT],
                training_s=self._seconds[Step.TRAIN],
                peak_mb=peak_mb,
            ),
            spread=self._spread(base),
        )

    def _spread(self, base: BaseResult) -> dict[str, float]:
        marks = list(read_lines(self._run.step(Step.SELECT) / MARKS, EventMark))
        learned = [one for one in marks if one.weight is not None]
        rows = (row for row in self._material.dirty if row.feedback is not FeedbackType.EXPLICIT_POSITIVE)
        values = {
            "priorities": [one.priority for one in marks],
            "difficulties": [one.difficulty for one in learned],
            "weights": [one.weight or 0.0 for one in learned],
            "scores": [base.said[row.source.prompt].score for row in rows],
        }
        return {name: round(pstdev(some), DIGITS) if some else 0.0 for name, some in values.items()}
