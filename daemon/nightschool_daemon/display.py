"""What a person sees in the terminal: progress, tables, errors. Plain lines where there is no terminal."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column, Table
from rich.text import Text

from nightschool_daemon.comparisons import AnswerPair, Asked, Comparison
from nightschool_daemon.explaining import Explanation
from nightschool_daemon.jobs import EventMark, Step
from nightschool_daemon.plans import ON_TOP, PlannedTraining, Route, TrainingPlan, counted, duration
from nightschool_daemon.reporting.sheet import clean, one_line
from nightschool_daemon.reporting.words import guard_word
from nightschool_hookspecs.corrections import GOOD_SCORE
from nightschool_hookspecs.records import TrainedForm, Verdict

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

PLOT_WIDTH, PLOT_HEIGHT = 100, 16
"""Letters and lines."""
PLOT_TICKS = 5
"""On the axis of steps, at most."""

STEP_TEXTS: Mapping[Step, str] = {
    Step.PREPARE: "pin the base",
    Step.SPLIT: "hold prompts out",
    Step.SELECT: "choose what to learn",
    Step.TRAIN: "train",
    Step.EXPORT: "write the lesson",
    Step.REGISTER: "give it to Ollama",
    Step.VERIFY: "verify what is served",
    Step.CROSSFIT: "cross-fit",
    Step.RANK: "rank pairs of answers",
    Step.EXAMINE: "examine",
    Step.JUDGE: "judge",
    Step.CONCLUDE: "conclude",
    Step.REPORT: "report",
}


class PlainListener:
    """A line for every step and note: for logs and pipes."""

    def step_began(self, run_id: str, step: Step) -> None:
        print(f"{run_id}  {step.value:<9} {STEP_TEXTS[step]}", file=sys.stderr, flush=True)

    def progress(self, run_id: str, step: Step, done: int, total: int, text: str) -> None:
        pass

    def step_ended(self, run_id: str, step: Step) -> None:
        pass

    def note(self, run_id: str, text: str) -> None:
        print(f"{run_id}  {text}", file=sys.stderr, flush=True)


class BarListener:
    """A progress bar a step."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._task: TaskID | None = None

    def step_began(self, run_id: str, step: Step) -> None:
        self._task = self._bars.add_task(STEP_TEXTS[step], total=None, text="")

    def progress(self, run_id: str, step: Step, done: int, total: int, text: str) -> None:
        if self._task is not None:
            self._bars.update(self._task, completed=done, total=total or None, text=text)

    def step_ended(self, run_id: str, step: Step) -> None:
        if self._task is not None:
            self._bars.update(self._task, total=1, completed=1, text="")

    def note(self, run_id: str, text: str) -> None:
        self._bars.console.print(Text(text, style="yellow"))


@contextmanager
def run_listener() -> Iterator[PlainListener | BarListener]:
    """Progress bars on a terminal, plain lines elsewhere."""
    if not err.is_terminal:
        yield PlainListener()
        return
    with _bars() as bars:
        yield BarListener(bars)


@contextmanager
def job_bar(text: str) -> Iterator[Callable[[int, int, str], None]]:
    """A progress bar of work that belongs to no run; nothing where there is no terminal."""
    if not err.is_terminal:
        yield lambda _done, _total, _text: None
        return
    with _bars() as bars:
        task = bars.add_task(text, total=None, text="")
        yield lambda done, total, told: bars.update(task, completed=done, total=total or None, text=told)


def _bars() -> Progress:
    columns = (
        TextColumn("{task.description:<22}"),
        BarColumn(bar_width=min(24, err.width // 8)),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        # what the others leave of the terminal's width
        # what plugins and sentences say is no markup
        TextColumn(
            "{task.fields[text]}",
            style="dim",
            markup=False,
            table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"),
        ),
    )
    return Progress(*columns, console=err, expand=True)


def show_explanation(found: Explanation) -> None:
    """An event, where it stands, and a table of its nights with what each asked that is like it."""
    event = found.event.event
    rows = [
        ("event", event.key),
        ("said", event.feedback_type.value.replace("_", " ")),
        ("prompt", one_line(event.input_data)),
        ("wanted", one_line(event.target or "")),
        ("stands", found.standing),
    ]
    show_table("", ("", ""), rows)
    if not found.nights:
        say("No run has had to do with it, as far as their files are still there.")
        return
    nights = [
        (f"{one.started_at:%Y-%m-%d %H:%M}", one.run, one.specialty, one.fate, _worth(one.mark), one.end or "under way")
        for one in found.nights
    ]
    columns = ("night", "run", "specialty", "what became of it", "worth", "how the run ended")
    show_table("Nights", columns, nights)
    doubts = [(one.run, one.suspicion) for one in found.nights if one.suspicion]
    if doubts:
        show_table("Why it looked wrong", ("run", "reason"), doubts)
    asked = [
        (one_line(kin.question), f"{kin.alike:.0%}", f"{kin.before:.0f}", f"{kin.after:.0f}", one.run)
        for one in found.nights
        for kin in (*filter(None, [one.asked]), *one.kin)
    ]
    if asked:
        show_table("Questions of the exam that are like it", ("question", "alike", "before", "after", "run"), asked)


def _worth(mark: EventMark | None) -> str:
    if mark is None:
        return ""
    doubted = f" ({mark.noise_factor:.0%} of what it was)" if mark.noise_factor < 1 else ""
    weight = "" if mark.weight is None else f", weight {mark.weight:.2f}{doubted}"
    return f"priority {mark.priority:.2f}, reward {mark.reward:+.2f}, difficulty {mark.difficulty:.2f}{weight}"


def show_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table; its cells are text, never markup, and are folded where they are too long: names can be copied."""
    out.print(_table(title, columns, rows))


def show_records(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table; where words would be broken in it, as names are in a narrow terminal, a line for each cell instead."""
    table = _table(title, columns, rows)
    for column in table.columns:
        # else the widest columns are made narrower first, which are those of names
        column.no_wrap = all(len(str(cell).split()) < 2 for cell in (column.header, *column.cells))
    if Measurement.get(out, out.options.update(width=sys.maxsize), table).minimum <= out.width:
        out.print(table)
        return
    lines = _table(title, ("", ""), ())
    lines.show_header = False
    for row in rows:
        for name, cell in zip(columns, row, strict=False):
            lines.add_row(name, _cell(cell))
        lines.add_section()
    out.print(lines)


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Table:
    table = Table(*(Column(one, overflow="fold") for one in columns), title=title or None, title_justify="left")
    for row in rows:
        table.add_row(*map(_cell, row))
    return table


def _cell(value: object) -> Text:
    return Text("" if value is None else clean(str(value)))


FORMS: Mapping[TrainedForm, str] = {
    TrainedForm.LORA: "LoRA of rank {rank}",
    TrainedForm.GROUPED: "group-wise LoRA of rank {rank}",
    TrainedForm.NEURONS: "{neurons} added neurons a layer",
}
ROUTES: Mapping[Route, str] = {
    Route.PACKED: "the packed engine, on the blocks of the file itself",
    Route.TRANSFORMERS: "transformers with PEFT, on weights in 32-bit floats, as the packed engine does not know it",
}


def plan_rows(plan: TrainingPlan) -> list[tuple[str, str]]:
    """What a training would take, as rows of a table. What stands in its way is no row."""
    rows = [
        ("base", f"{plan.architecture}, {plan.parameters / 1e6:.0f} million weights in {plan.file_bytes / 1e6:.0f} MB"),
        *([("trained by", ROUTES[plan.route])] if plan.route is not None else []),
        *([("on the CPU", plan.passed_over)] if plan.passed_over is not None else []),
        ("learned from", plan.assumed or f"{counted(plan.events, 'event')}; {_asked(plan)}"),
        *([("learned again", _replayed(plan))] if plan.replayed else []),
        *([("beside these", _starters(plan.starters))] if plan.starters else []),
        *(("left out", f"{count}: {reason}") for reason, count in plan.events_left_out.items()),
    ]
    if plan.search is not None:
        rows.append(("search", plan.search.reason))
    for one in plan.trainings:
        rows += _training_rows(one, name=f" ({one.method.upper()})" if len(plan.trainings) > 1 else "")
    if plan.not_learned:
        rows.append(("not learned", plan.not_learned))
    if plan.trainings and plan.loaded_bytes:
        rows.append(("held by Ollama", f"{plan.loaded_bytes / 1e9:.1f} GB, which a run asks it to give back first"))
    for cost in plan.deliveries:
        taken = f" Taken. {plan.why_delivery}" if cost.is_chosen else ""
        rows.append((f"delivered as {cost.form.value}", f"{cost.sentence()}.{taken}"))
    return rows + [("not delivered", sentence) for sentence in plan.not_delivered]


def _replayed(plan: TrainingPlan) -> str:
    examples = counted(plan.replayed, "example")
    return f"{examples} beside these, so that nothing is forgotten; fewer where the base gives no whole answers"


def _starters(count: int) -> str:
    return f"{counted(count, 'starter example')}, as there are few"


def _asked(plan: TrainingPlan) -> str:
    """What an exam would ask, or losses be taken on."""
    if not plan.is_examined:
        return f"{plan.held_out} more kept apart to be measured on" if plan.held_out else "none is kept apart"
    held_out = f"{plan.held_out} prompts held out for an exam"
    trial = f"; {plan.folded} more put to trial candidates, trained for it in {plan.folds} folds"
    return f"{held_out}{trial}" if plan.folds else held_out


def _training_rows(one: PlannedTraining, *, name: str) -> list[tuple[str, str]]:
    settings, memory = one.hyperparameters, one.memory
    form = FORMS[settings.form].format(rank=settings.lora_r, neurons=settings.neurons)
    parts = f" on {', '.join(settings.lora_layers)}" if settings.lora_layers else ""
    upper = memory.layers - memory.trained_from
    layers = (
        f"all {memory.layers}" if not memory.trained_from else f"the upper {upper} of {memory.layers}: memory is short"
    )
    left_out = f"; {one.left_out} longer than max_length left out" if one.left_out else ""
    beyond = f"; {one.beyond_context} longer than the base's context" if one.beyond_context else ""
    rough = "about " if not memory.is_rough else "very roughly "
    epochs = counted(settings.num_epochs, "epoch")
    return [
        (f"training{name}", f"{one.method.upper()}, {epochs} in steps of {settings.batch_size}"),
        (
            f"examples{name}",
            f"{one.examples} of {one.tokens} tokens in all, the longest of {one.longest}{left_out}{beyond}",
        ),
        (f"trained form{name}", f"{form}{parts}: {one.parameters / 1e6:.2f} million parameters"),
        (f"trained layers{name}", layers),
        (
            f"passes{name}",
            f"of {memory.tokens_a_pass} tokens at most, {counted(memory.unpacked, 'layer')} kept unpacked, "
            f"{memory.checkpointed} computed twice",
        ),
        (
            f"memory{name}",
            f"{rough}{memory.peak_bytes / 1e9:.2f} GB at its height; {memory.available_bytes / 1e9:.2f} GB can be had",
        ),
        (f"time{name}", f"{rough}{duration(memory.seconds)} for the training itself; {ON_TOP}"),
    ]


WHAT_WAS_ASKED: Mapping[Asked, str] = {
    Asked.UNLEARNED: "Too little is held out for exams yet: what neither model has learned is asked.",
    Asked.ALL: "Too little is held out for exams yet, and neither model has learned any of it: all feedback is asked.",
}


def comparison_notes(found: Comparison) -> list[str]:
    """What is to be known of a comparison beforehand."""
    return [one for one in (WHAT_WAS_ASKED.get(found.what, ""), found.not_ranked) if one]


def comparison_rows(found: Comparison) -> list[tuple[str, str, str]]:
    """How two models did, as rows of a table."""
    first, second = found.first_marks, found.second_marks
    scored = found.verdict is not None and found.asked > 0
    good = f"answers above {GOOD_SCORE:g}"
    score = "score beside the other (0 to 100)" if found.is_relative else "score (0 to 100)"
    return [
        *([(score, f"{first.score:.1f}", f"{second.score:.1f}")] if scored else []),
        *([(good, f"{first.success_rate:.0%}", f"{second.success_rate:.0%}")] if scored else []),
        ("failed", str(first.failed), str(second.failed)),
        ("seconds, median", f"{first.latency_median_s:.2f}", f"{second.latency_median_s:.2f}"),
        ("seconds, 95 % below", f"{first.latency_p95_s:.2f}", f"{second.latency_p95_s:.2f}"),
        ("tokens a second", f"{first.tokens_per_s:.1f}", f"{second.tokens_per_s:.1f}"),
        *([("pairs of answers ranked", "", str(found.pairs))] if found.pairs else []),
        *(_verdict_rows(found.verdict) if found.verdict is not None else []),
    ]


def _verdict_rows(verdict: Verdict) -> list[tuple[str, str, str]]:
    low, high = verdict.interval
    return [
        ("gain", "", f"{verdict.gain:+.1f} points (95 % interval {low:+.1f} to {high:+.1f})"),
        *((one.guard, "", f"{guard_word(one)}. {one.reason}") for one in verdict.guards),
    ]


def comparison_result(found: Comparison) -> str:
    """What a comparison came to."""
    if found.verdict is None:
        return (
            "There is no verdict: nothing says which answers are better. Corrections, demonstrations, preferences and "
            "two answers to one prompt do, and so does a model that judges ([plugins.evaluation_judge])."
        )
    return f"{found.second} takes the candidate's part. {found.verdict.reason}"


def answer_rows(found: Comparison, pair: AnswerPair) -> list[tuple[str, str]]:
    """What was said to one prompt, as rows of a table."""
    wanted = [("wanted", pair.wanted)] if pair.wanted is not None else []
    return [
        *wanted,
        (_scored(found.first, pair.first_score), pair.first),
        (_scored(found.second, pair.second_score), pair.second),
    ]


def _scored(name: str, score: float | None) -> str:
    return name if score is None else f"{name} ({score:.0f})"


def show_curve(
    title: str, losses: Sequence[tuple[int, float]], watched: Sequence[tuple[int, float]], *, is_held: bool
) -> None:
    """A plot of losses over steps, in letters. `is_held`: what is watched was kept apart from what is learned from."""
    import plotext

    plotext.clear_figure()
    plotext.theme("clear")
    plotext.plot_size(min(out.width, PLOT_WIDTH), PLOT_HEIGHT)
    plotext.title(title)
    plotext.xlabel("step")
    plotext.xticks(_ticks([step for step, _ in (*losses, *watched)]))
    plotext.plot(*zip(*losses, strict=True))
    plotext.scatter(*zip(*watched, strict=True), marker="x")
    out.print(Text(plotext.uncolorize(plotext.build()).rstrip()))
    # plotext's own legend would lie over the first losses
    say(f"Line: of each batch. x: of {'examples kept apart' if is_held else 'some of these examples'}, after an epoch.")


def _ticks(steps: Sequence[int]) -> list[int]:
    """Whole steps, about evenly from the first to the last."""
    first, last = min(steps), max(steps)
    count = min(PLOT_TICKS, last - first + 1)
    return sorted({first + (last - first) * number // max(1, count - 1) for number in range(count)})


def say(text: str) -> None:
    """A sentence on standard output."""
    out.print(Text(clean(text)))


def complain(text: str) -> None:
    """A sentence on standard error."""
    err.print(Text(clean(text), style="red"))
