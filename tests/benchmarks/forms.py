"""`make bench-forms`: which trained form delivers most at the least bytes.

LoRA, group-wise LoRA and added neurons on two models and two tasks, at equal training tokens, each with the learning
rate that did best on the first seed: doubled or halved for as long as that helps. Every cell trains by the packed
engine, is delivered in split files as a run delivers, and has its losses taken over the blocks read back from them.
Finished cells are kept under `benchmarks/results/forms/` and not run again, so the bench can be stopped at any time.
"""

import argparse
import dataclasses
import itertools
import json
import math
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from gguf import GGMLQuantizationType

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from benchmarks import calls, results, tasks  # noqa: E402 - found through the path above
from nightschool_daemon.config import DeliveryChoice, DeliverySettings  # noqa: E402
from nightschool_daemon.jobs import ExportResult, Losses  # noqa: E402
from nightschool_daemon.learning import defaults, gguf_file, rounding  # noqa: E402
from nightschool_daemon.learning.delivery import ExportError  # noqa: E402
from nightschool_daemon.learning.engine import machine  # noqa: E402
from nightschool_daemon.learning.engine.examples import Example  # noqa: E402
from nightschool_daemon.learning.engine.forms import Form  # noqa: E402
from nightschool_daemon.learning.engine.loop import Diverged, Outcome, Plan, train  # noqa: E402
from nightschool_daemon.learning.engine.network import Network  # noqa: E402
from nightschool_daemon.learning.export import Parcel, attempted, write_split  # noqa: E402
from nightschool_daemon.learning.gguf_file import GgufFile  # noqa: E402
from nightschool_daemon.learning.lesson import Lesson, LowRankLesson, read_lesson  # noqa: E402
from nightschool_daemon.learning.loading import Tokens, load_tokens  # noqa: E402
from nightschool_daemon.learning.measuring import Mark, Measure, yardstick_of  # noqa: E402
from nightschool_daemon.learning.packed_route import example_of, make_form  # noqa: E402
from nightschool_daemon.learning.peft_files import save_form  # noqa: E402
from nightschool_daemon.learning.rounding import Demand  # noqa: E402
from nightschool_daemon.learning.rows import Row  # noqa: E402
from nightschool_daemon.learning.variants import PackedVariants, Variant  # noqa: E402
from nightschool_hookspecs.records import (  # noqa: E402
    DeliveryForm,
    DeliveryPlan,
    Hyperparameters,
    ServerAbilities,
    TrainedForm,
    TrainingMethod,
)
from support.base_models import CACHE, MODELS, BaseModel  # noqa: E402
from support.deliveries import delivering  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "forms"
WORK = ROOT / "build" / "forms"
PLOT = ROOT / "docs" / "forms.svg"


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A form of training, and the learning rate from which the best is sought."""

    form: TrainedForm
    rank: int
    rate: float


CONTENDERS = {
    "lora_r16": Contender(form=TrainedForm.LORA, rank=16, rate=2e-3),
    "grouped_r32": Contender(form=TrainedForm.GROUPED, rank=32, rate=4e-3),
    "neurons": Contender(form=TrainedForm.NEURONS, rank=16, rate=2e-3),
}
"""Group-wise LoRA has twice the rank: its A is a thirty-second of the size, and delivered bytes do not depend on it."""
PLAIN = "lora_r16"
STARTS = {"smollm2": 1.0, "gemma": 0.25}
"""What that rate is multiplied by, a model: norms after each block make Gemma learn at smaller steps."""
SEEDS = (0, 1, 2)
LEARNED = {"shell": 240, "diagrams": 80}
HELD_OUT = {"shell": 80, "diagrams": 20}
BATCH = 8
TOKENS_A_PASS = 2048
ABILITIES = ServerAbilities(version="0.34.3", split=True, fused=True, adapter=False, architecture="")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One training."""

    model: str
    task: str
    contender: str
    rate: float
    seed: int

    @property
    def file(self) -> Path:
        """Where its result is kept."""
        return RESULTS / f"{self.model}-{self.task}-{self.contender}-{self.rate:g}-{self.seed}.json"


@dataclass(frozen=True, kw_only=True)
class Result:
    """What came of it; losses in nats per token, `general` on text that neither task is about."""

    base: float
    trained: float
    delivered: float
    kept: float
    general_base: float
    general_delivered: float
    touched_bytes: int
    delivered_bytes: int
    parameters: int
    tokens: int
    training_s: float
    peak_mb: float
    in_q8_0: float | None = None
    """Loss with every touched tensor in Q8_0, which keeps all of the lesson; for plain LoRA, the peer of the table."""
    in_own_types: float | None = None
    """Loss with every touched tensor in its own type again: what plain LoRA keeps where it may cost no bytes."""
    code: str = ""
    """Digest of what it was made of; empty: of code from before digests were kept."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A form on a task, at its best rate: medians over the seeds."""

    model: str
    task: str
    form: str
    rate: float
    seeds: int
    delivered: float
    in_q8_0: float | None
    in_own_types: float | None
    kept: float
    bytes: float
    """Of the touched tensors, over those of the base's."""
    forgets: float
    """What general text loses, in nats a token."""


class InQ80(LowRankLesson):
    """A lesson that is delivered in Q8_0 throughout."""

    def choice(self, name: str, demand: Demand) -> rounding.Choice:
        return rounding.Choice(kind=GGMLQuantizationType.Q8_0, noise=0.0, left=1.0)


class InOwnTypes(LowRankLesson):
    """A lesson that costs no bytes: every tensor is rounded back to the type that it has."""

    def choice(self, name: str, demand: Demand) -> rounding.Choice:
        return rounding.Choice(kind=self.file.tensors[name].type, noise=0.0, left=1.0)


def main() -> int:
    """Run what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after so long; the next call goes on")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), help="these alone")
    parser.add_argument("--tasks", nargs="+", choices=tasks.TASKS, default=list(tasks.TASKS), help="these alone")
    parser.add_argument("--forms", nargs="+", choices=CONTENDERS, default=list(CONTENDERS), help="these alone")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="cores to use")
    parser.add_argument("--anew", action="store_true", help="make those of other code again")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    deadline = time.monotonic() + 60 * given.minutes
    RESULTS.mkdir(parents=True, exist_ok=True)
    WORK.mkdir(parents=True, exist_ok=True)
    for cell in missing(given.models, given.tasks, given.forms, code() if given.anew else None):
        if time.monotonic() > deadline:
            break
        with tempfile.TemporaryDirectory(dir=WORK) as directory:
            try:
                result, _ = run(cell, Path(directory))
            except Diverged:
                result = gone_astray()
        cell.file.write_text(json.dumps(dataclasses.asdict(result), indent=1) + "\n", encoding="utf-8")
        print(cell.file.stem, f"{result.base:.3f} -> {result.delivered:.3f}, kept {result.kept:.1%}", flush=True)
    return show()


def missing(
    models: Sequence[str], of_tasks: Sequence[str], names: Sequence[str], of_code: str | None = None
) -> Iterator[Cell]:
    """Cells that are still to be run, each when it is known to be needed: the best rate's, and the default's.

    `of_code`: digest of the code that they must be of; None: of any.
    """
    for model, task, name in itertools.product(models, of_tasks, names):
        best = yield from tuned(model, task, name, of_code)
        wanted = [*seeds_of(best), *seeds_of(replace(best, rate=default_rate(model, name)))]
        yield from (one for one in wanted if not is_there(one, of_code))


def is_there(cell: Cell, of_code: str | None) -> bool:
    """Whether a cell is finished, by this code where that matters."""
    return cell.file.exists() and (of_code is None or read(cell).code == of_code)


def tuned(model: str, task: str, contender: str, of_code: str | None = None) -> Generator[Cell, None, Cell]:
    """The cell of the best learning rate on the first seed; what is missing on the way to it is yielded, to be run."""
    rate = CONTENDERS[contender].rate * STARTS[model]
    best = Cell(model=model, task=task, contender=contender, rate=rate, seed=SEEDS[0])
    if not is_there(best, of_code):
        yield best
    for factor in (2, 1 / 2):
        while True:
            further = replace(best, rate=best.rate * factor)
            if not is_there(further, of_code):
                yield further
            if read(further).delivered >= read(best).delivered:
                break
            best = further
    return best


def best(
    model: str, task: str, contender: str, seed: int, of: Callable[[Result], float] = lambda one: one.delivered
) -> Cell:
    """The cell of the learning rate that is best by a loss, of those that are known so far."""
    pattern = f"{model}-{task}-{contender}-*-{SEEDS[0]}.json"
    rates = {float(one.stem.split("-")[3]): one for one in RESULTS.glob(pattern)}
    losses = {rate: of(Result(**json.loads(one.read_text(encoding="utf-8")))) for rate, one in rates.items()}
    rate = min(losses, key=losses.__getitem__, default=CONTENDERS[contender].rate * STARTS[model])
    return Cell(model=model, task=task, contender=contender, rate=rate, seed=seed)


def best_plain(model: str, task: str, seed: int) -> Cell:
    """The best plain LoRA in Q8_0, by that very loss."""
    return best(model, task, PLAIN, seed, of=lambda one: one.delivered if one.in_q8_0 is None else one.in_q8_0)


def by_default(model: str, task: str, seed: int) -> Cell:
    """What is trained where nothing else is asked for."""
    contender = next(name for name, one in CONTENDERS.items() if one.form is TrainedForm.NEURONS)
    return Cell(model=model, task=task, contender=contender, rate=default_rate(model, contender), seed=seed)


def default_rate(model: str, contender: str) -> float:
    """The learning rate where none is asked for."""
    return defaults.rate_of(gguf_file.read(fetched(model, MODELS[model])), CONTENDERS[contender].form)


def seeds_of(cell: Cell) -> list[Cell]:
    """The same cell on every seed."""
    return [replace(cell, seed=seed) for seed in SEEDS]


def read(cell: Cell) -> Result:
    """A finished cell."""
    return Result(**json.loads(cell.file.read_text(encoding="utf-8")))


def run(cell: Cell, directory: Path) -> tuple[Result, ExportResult]:
    """Train, deliver into `directory`, measure."""
    model = MODELS[cell.model]
    gguf = fetched(cell.model, model)
    file = gguf_file.read(gguf)
    tokens = load_tokens(file, cell.model, cached())
    task = tasks.TASKS[cell.task](cell.seed, LEARNED[cell.task], HELD_OUT[cell.task])
    texts, held_out = (rows_of(pairs, model, tokens) for pairs in (task.learned, task.held_out))
    learned = [example_of(row) for row in texts]
    general = [Row(prompt=ids[:1], completion=ids[1:], weight=1.0) for ids in general_ids(tokens)]
    form, outcome = trained(file, cell, learned, directory)
    lesson = read_lesson(directory / "adapter", file)
    variants = PackedVariants(lesson, tokens)
    base, general_base = losses_of_base(cell) or (variants.mean_loss(held_out), variants.mean_loss(general))
    variants.use(Variant.TRAINED)
    trained_loss = variants.mean_loss(held_out)
    export = delivered(lesson, variants, learned, directory)
    variants.use(Variant.DELIVERED, export)
    loss, general_delivered = variants.mean_loss(held_out), variants.mean_loss(general)
    touched_bytes = sum(one.bytes for one in gguf_file.read(export.files[0].path).tensors.values())
    in_q8_0 = in_own_types = None
    if isinstance(lesson, LowRankLesson) and lesson.group == 1:
        others: list[float] = []
        for kind in (InQ80, InOwnTypes):
            there = directory / kind.__name__
            there.mkdir()
            variants.use(Variant.DELIVERED, written(kind(file, lesson.factors), there, Demand(allowed_noise=0.0)))
            others.append(variants.mean_loss(held_out))
        in_q8_0, in_own_types = others
    result = Result(
        base=base,
        trained=trained_loss,
        delivered=loss,
        kept=Losses(base_loss=base, trained_loss=trained_loss, delivered_loss=loss).kept,
        general_base=general_base,
        general_delivered=general_delivered,
        touched_bytes=sum(file.tensors[name].bytes for name in lesson.touched),
        delivered_bytes=touched_bytes,
        parameters=form.size(),
        tokens=outcome.tokens,
        training_s=outcome.seconds,
        peak_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000,
        in_q8_0=in_q8_0,
        in_own_types=in_own_types,
        code=code(),
    )
    return result, export


def gone_astray() -> Result:
    """Of a rate at which nothing is learned: worse than every other, and with nothing to measure."""
    return Result(
        base=math.inf,
        trained=math.inf,
        delivered=math.inf,
        kept=0.0,
        general_base=math.inf,
        general_delivered=math.inf,
        touched_bytes=0,
        delivered_bytes=0,
        parameters=0,
        tokens=0,
        training_s=0.0,
        peak_mb=0.0,
        code=code(),
    )


def code() -> str:
    """Digest of what cells are made of."""
    return calls.digest_of([Path(__file__), Path(tasks.__file__)])


def losses_of_base(cell: Cell) -> tuple[float, float] | None:
    """Held-out and general loss of the base, from a finished cell with the same texts; None where there is none."""
    for file in RESULTS.glob(f"{cell.model}-{cell.task}-*-{cell.seed}.json"):
        result = Result(**json.loads(file.read_text(encoding="utf-8")))
        if math.isfinite(result.base):
            return result.base, result.general_base
    return None


def trained(file: GgufFile, cell: Cell, learned: Sequence[Example], directory: Path) -> tuple[Form, Outcome]:
    """Train for one epoch, and leave the adapter in `directory`."""
    contender = CONTENDERS[cell.contender]
    settings = Hyperparameters(
        form=contender.form,
        lora_r=contender.rank,
        lora_alpha=2 * contender.rank,
        learning_rate=cell.rate,
        batch_size=BATCH,
        num_epochs=1,
    )
    network = Network(file, machine.bench())
    network.keep_unpacked(len(network.blocks))
    form = make_form(network, settings, cell.seed)
    plan = Plan(
        method=TrainingMethod.SFT,
        hyperparameters=settings,
        seed=cell.seed,
        tokens_a_pass=TOKENS_A_PASS,
        output=directory,
        signature=cell.file.stem,
    )
    outcome = train(network, form, learned, plan, lambda _done, _total, _text: None)
    save_form(form, file, directory / "adapter")
    return form, outcome


def delivered(lesson: Lesson, variants: PackedVariants, learned: Sequence[Example], directory: Path) -> ExportResult:
    """The files as a run writes them, with as much of what was learned in them as a run asks for."""
    context = delivering(directory, DeliverySettings(form=DeliveryChoice.SPLIT))
    yardstick = yardstick_of(TrainingMethod.SFT, learned)
    variants.use(Variant.BASE)
    base = yardstick.loss(variants)
    variants.use(Variant.TRAINED)
    mark = Mark(yardstick=yardstick, base=base, trained=yardstick.loss(variants))
    try:
        return attempted(context, lesson, ABILITIES, "cell", Measure(variants=variants, learned=[mark]).of_delivered)
    except ExportError:
        # a run would end here; of a rate that is too high it is to be seen what comes of it
        return written(lesson, directory, lesson.demands()[-1])


def written(lesson: Lesson, directory: Path, demand: Demand) -> ExportResult:
    """The split files of a lesson."""
    parcel = Parcel(
        lesson=lesson,
        name="cell",
        directory=directory,
        demand=demand,
        report=lambda _done, _total, _text: None,
    )
    plan = DeliveryPlan(form=DeliveryForm.SPLIT, version_bytes=0, shared_bytes=0, reason="")
    return ExportResult(abilities=ABILITIES, plan=plan, files=write_split(parcel), touched=lesson.touched)


def rows_of(pairs: Sequence[tasks.Pair], model: BaseModel, tokens: Tokens) -> list[Row]:
    """Pairs as the model's own turns."""
    begin, end = model.turn
    found = []
    for one in pairs:
        prompt = begin.format(prompt=one.prompt)
        completion = tokens.completion(prompt, one.answer + end)
        found.append(Row(prompt=tuple(tokens.prompt(prompt)), completion=tuple(completion), weight=1.0))
    return found


def general_ids(tokens: Tokens) -> list[tuple[int, ...]]:
    """The general texts as token ids."""
    return [tuple(tokens.prompt(text)) for text in tasks.general_texts()]


def fetched(name: str, model: BaseModel) -> Path:
    """The model's file, kept from one call to the next."""
    file = CACHE / f"{name}.gguf"
    if not file.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        model.fetch(file)
    return file


def cached() -> Path:
    """Where tokenizers are kept."""
    directory = ROOT / ".cache" / "bench"
    (directory / "tokenizers").mkdir(parents=True, exist_ok=True)
    return directory


def show() -> int:
    """Print a row a model, task and form, medians over the seeds, write the table, and draw loss against bytes."""
    rows = [
        row
        for model in MODELS
        for task in tasks.TASKS
        for contender in CONTENDERS
        if (row := summary(model, task, contender)) is not None
    ]
    print(
        f"{'model':9} {'task':9} {'form':13} {'rate':>6} {'n':>2} {'loss':>7} {'in Q8_0':>7} {'in own':>7} {'kept':>7} "
        f"{'bytes':>6} {'forgets':>8}"
    )
    for row in rows:
        plain = " ".join(("" if one is None else f"{one:.3f}").rjust(7) for one in (row.in_q8_0, row.in_own_types))
        text = f"{row.model:9} {row.task:9} {row.form:13} {row.rate:6g} {row.seeds:2} {row.delivered:7.3f} {plain}"
        print(f"{text} {row.kept:7.1%} {row.bytes:6.2f} {row.forgets:+8.3f}")
    cells = [Result(**json.loads(file.read_text(encoding="utf-8"))) for file in RESULTS.glob("*.json")]
    print(f"{len(cells)} cells of {calls.states(cells)}")
    results.write("forms", [dataclasses.asdict(one) for one in rows])
    if rows:
        draw(rows)
    return 0


def median(values: Iterable[float | None]) -> float | None:
    """Of those that there are; None where there is none."""
    there = [one for one in values if one is not None]
    return statistics.median(there) if there else None


def draw(rows: Sequence[Summary]) -> None:
    """Loss against bytes, a panel a model and task."""
    from matplotlib.figure import Figure

    panels = list(dict.fromkeys((row.model, row.task) for row in rows))
    figure = Figure(figsize=(4 * len(panels), 3.6), layout="constrained")
    for panel, axes in zip(panels, figure.subplots(1, len(panels), squeeze=False)[0], strict=True):
        for row in rows:
            if (row.model, row.task) == panel:
                axes.plot(row.bytes, row.delivered, "o", label=f"{row.form}, {row.seeds} seeds")
                if row.in_q8_0 is not None:
                    axes.axhline(row.in_q8_0, color="grey", linestyle=":", label="lora_r16, all in Q8_0")
        axes.set(title=f"{panel[0]}, {panel[1]}", xlabel="bytes of the touched tensors, base = 1")
        axes.legend(fontsize="small")
    figure.supylabel("held-out loss, nats a token")
    figure.savefig(PLOT, metadata={"Date": None})


def summary(model: str, task: str, contender: str) -> Summary | None:
    """Medians over the seeds at the best rate, once that is known."""
    search = tuned(model, task, contender)
    try:
        next(search)
    except StopIteration as end:
        cell: Cell = end.value
    else:
        return None
    found = [read(one) for one in seeds_of(cell) if one.file.exists()]
    return Summary(
        model=model,
        task=task,
        form=contender,
        rate=cell.rate,
        seeds=len(found),
        delivered=statistics.median(one.delivered for one in found),
        in_q8_0=median(one.in_q8_0 for one in found),
        in_own_types=median(one.in_own_types for one in found),
        kept=statistics.median(one.kept for one in found),
        bytes=statistics.median(one.delivered_bytes / one.touched_bytes for one in found),
        forgets=statistics.median(one.general_delivered - one.general_base for one in found),
    )


if __name__ == "__main__":
    sys.exit(main())
