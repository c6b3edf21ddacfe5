"""What a plugin author needs to test a plugin: fakes of the services, samples, and `check_plugin`.

The fakes need neither the daemon nor Ollama and give the same answer for the same question.

    from nightschool_hookspecs.testing import check_plugin
    import my_plugin

    def test_my_plugin_keeps_the_contract():
        check_plugin(my_plugin)
"""

import dataclasses
import hashlib
import math
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

import pluggy

from nightschool_hookspecs import (
    augmentation,
    batching,
    curriculum,
    delivery,
    evaluation,
    intake,
    lifecycle,
    preference,
    replay,
    reward,
    selection,
    similarity,
    training,
    tuning,
)
from nightschool_hookspecs.answers import answer_type, fits
from nightschool_hookspecs.markers import PROJECT
from nightschool_hookspecs.records import (
    AliasMove,
    AnswerScore,
    BaseChange,
    BatchStatistics,
    Budget,
    Chunk,
    DeliveryTarget,
    Event,
    Exam,
    ExamAnswer,
    ExamItem,
    FeedbackFile,
    FeedbackType,
    GuardResult,
    Hyperparameters,
    InstalledModel,
    ItemRole,
    LearnedExample,
    LiveAnswer,
    LiveFeedback,
    LossPoint,
    LossTrajectory,
    Material,
    Matrix,
    Message,
    MethodChoice,
    ModelAnswer,
    ModelMemory,
    MoveKind,
    Peers,
    PromptGroup,
    Role,
    RunEnd,
    RunInfo,
    RunReport,
    ScoredEvent,
    SearchTask,
    ServerAbilities,
    Sitting,
    Specialty,
    TensorInfo,
    Tool,
    TrainedForm,
    TrainingExample,
    TrainingJob,
    TrainingMethod,
    TrainingResult,
    TrainingSoFar,
    TrainingTrial,
    TrialEnd,
    TriedOut,
)
from nightschool_hookspecs.services import Judge, OutOfTime

STAGES: tuple[ModuleType, ...] = (
    intake,
    reward,
    similarity,
    batching,
    selection,
    curriculum,
    augmentation,
    replay,
    preference,
    tuning,
    training,
    delivery,
    evaluation,
    lifecycle,
)
SETTINGS_HOOK = "nightschool_register_settings"
DIMENSIONS = 16
SAMPLE_TIME = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SAMPLE_SPECIALTY = Specialty(base="llama3.2:3b", artifact_type="shell")
SAMPLE_CHUNKS = (Chunk(text="man ls"), Chunk(text="man wc"), Chunk(text="man sort"))
SHARES = {"nightschool_score_difficulty": "difficulty"}
"""Hooks whose answer is a share in 0..1."""


class ContractError(AssertionError):
    """A plugin does not keep the contract; the message names the hook and the fault."""


# --------------------------------------------------------------------------- services


class FakeGenerate:
    """`Generate` that answers from a list in turn, else with the last message's text. Keeps what it was asked."""

    def __init__(self, answers: Iterable[str] = ()) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[Message, ...]] = []

    def __call__(self, messages: Sequence[Message], *, max_tokens: int, temperature: float, seed: int) -> str:
        self.asked.append(tuple(messages))
        return self.answers.pop(0) if self.answers else messages[-1].content


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
    """A question that a guard put to a model."""

    model: str
    messages: tuple[Message, ...]
    temperature: float
    tools: tuple[Tool, ...]
    think: bool

    @property
    def text(self) -> str:
        """What the last message says."""
        return self.messages[-1].content


def _echo(asked: Asked) -> ModelAnswer | None:
    return ModelAnswer(text=asked.text, tokens=10, generation_s=1.0)


class FakeModels:
    """`Models` that answer as a function says, else with the last message's text. Keeps what it was asked.

    `questions` bounds its time: the one after them raises `OutOfTime`.
    """

    def __init__(
        self,
        answer: Callable[[Asked], ModelAnswer | None] = _echo,
        *,
        capabilities: Mapping[str, tuple[str, ...]] | None = None,
        memory: Mapping[str, ModelMemory] | None = None,
        questions: int | None = None,
    ) -> None:
        self.asked: list[Asked] = []
        self._answer = answer
        self._capabilities = dict(capabilities or {})
        self._memory = dict(memory or {})
        self._questions = questions

    def ask(
        self,
        model: str,
        messages: Sequence[Message],
        *,
        max_tokens: int,
        seed: int,
        temperature: float = 0.0,
        tools: Sequence[Tool] = (),
        think: bool = False,
        kept: bool = False,
    ) -> ModelAnswer | None:
        """Return what the function says."""
        if self._questions is not None and len(self.asked) >= self._questions:
            raise OutOfTime("The time of the guards is used up.")
        asked = Asked(model=model, messages=tuple(messages), temperature=temperature, tools=tuple(tools), think=think)
        self.asked.append(asked)
        return self._answer(asked)

    def capabilities(self, model: str) -> tuple[str, ...]:
        """Return what it was given, else `completion` alone."""
        return self._capabilities.get(model, ("completion",))

    def memory(self, model: str) -> ModelMemory | None:
        """Return what it was given, else None."""
        return self._memory.get(model)


Prompt = tuple[Message, ...]


def _words(prompt: Prompt) -> Sequence[str]:
    return prompt[-1].content.split()


class FakeSample:
    """`Sample` whose answers a function says, else the last message's words. Keeps the prompts that it was asked."""

    def __init__(self, answers: Callable[[Prompt], Sequence[str]] = _words) -> None:
        self.asked: list[Prompt] = []
        self._answers = answers

    def __call__(
        self,
        prompts: Sequence[Prompt],
        *,
        answers: int,
        temperature: float,
        max_tokens: int,
        minutes: float,
        failures_in_a_row: int,
    ) -> tuple[tuple[str, ...], ...]:
        """Return the first of what the function says of each."""
        self.asked += prompts
        return tuple(tuple(self._answers(prompt))[:answers] for prompt in prompts)


def _by_overlap(item: ExamItem, answer: str) -> AnswerScore | None:
    return AnswerScore(score=100 * _overlap(answer, item.reference or ""), validator="overlap")


class FakeValidate:
    """`Validate` by a function, else by the share of words in common with the reference."""

    def __init__(self, score: Callable[[ExamItem, str], AnswerScore | None] = _by_overlap) -> None:
        self._score = score

    def __call__(self, item: ExamItem, answer: str) -> AnswerScore | None:
        """Return what the function says."""
        return self._score(item, answer)


class FakeEmbed:
    """`Embed` by hashed words; `available=False` is a machine without an embedding model."""

    def __init__(self, *, available: bool = True) -> None:
        self.available = available

    def __call__(self, texts: Sequence[str]) -> Matrix | None:
        return matrix([_unit_vector(text) for text in texts], columns=DIMENSIONS) if self.available else None


class FakeMeasure:
    """`Measure` by the share of common words; two texts without words are alike."""

    def __call__(self, left: Sequence[str], right: Sequence[str]) -> Matrix:
        return matrix([[_overlap(one, other) for other in right] for one in left], columns=len(right))


class FakeRecall:
    """`Recall` that knows some answers, and None for every other prompt. Keeps what it was asked.

    `questions` bounds its time: the one after them ends it.
    """

    def __init__(self, answers: Mapping[str, str], *, questions: int | None = None) -> None:
        self.answers = dict(answers)
        self.asked: list[str] = []
        self._questions = questions

    def __call__(
        self, prompts: Sequence[str], *, max_tokens: int, temperature: float, minutes: float
    ) -> Iterator[str | None]:
        for prompt in prompts:
            if self._questions is not None and len(self.asked) >= self._questions:
                return
            self.asked.append(prompt)
            yield self.answers.get(prompt)


class FakeRetrieve:
    """`Retrieve` over the chunks it was given, by common words with the query."""

    def __init__(self, chunks: Iterable[Chunk] = ()) -> None:
        self.chunks = tuple(chunks)

    def __call__(self, query: str, *, limit: int) -> tuple[Chunk, ...]:
        return tuple(sorted(self.chunks, key=lambda one: -_overlap(query, one.text))[:limit])


class FakeStore:
    """`Store` in memory."""

    def __init__(self, values: Mapping[str, str] | None = None) -> None:
        self.values = dict(values or {})

    def get(self, key: str) -> str | None:
        """Return the value, or None."""
        return self.values.get(key)

    def put(self, key: str, value: str) -> None:
        """Set the value."""
        self.values[key] = value

    def delete(self, key: str) -> None:
        """Forget the key, if it is there."""
        self.values.pop(key, None)


class FakeTrain:
    """`Train` that learns nothing and says it went well. Keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[TrainingJob, TrainingMethod, Hyperparameters]] = []

    def __call__(self, job: TrainingJob, *, method: TrainingMethod, hyperparameters: Hyperparameters) -> TrainingResult:
        self.asked.append((job, method, hyperparameters))
        return TrainingResult(
            adapter=job.output,
            methods=(method,),
            steps=1,
            tokens=job.material.examples,
            examples=job.material.examples,
            left_out=0,
            base_loss=2.0,
            trained_loss=1.0,
            seconds=0.0,
        )


def _sample_loss(hyperparameters: Hyperparameters, epochs: float) -> float:
    """Least at a rate of 1e-3, and less from epoch to epoch."""
    return 1 + abs(math.log10(hyperparameters.learning_rate / 1e-3)) + 1 / (1 + epochs)


class FakeTryOut:
    """`TryOut` that trains nothing: a function says the loss after so many epochs. Keeps what was tried out.

    An epoch is a token and a second, a measurement is a token, and the score is 100 less ten times the loss. There is
    time for so many `trainings`.
    """

    def __init__(
        self, loss: Callable[[Hyperparameters, float], float] = _sample_loss, *, trainings: int | None = None
    ) -> None:
        self.tried: list[tuple[TrainingTrial, TriedOut]] = []
        self._loss = loss
        self._trainings = trainings

    def __call__(self, trial: TrainingTrial, judge: Judge, /) -> TriedOut:
        """Ask the judge at each mark, and come to the end unless it says no."""
        loss_at = partial(self._loss, trial.hyperparameters)
        end = float(trial.hyperparameters.num_epochs)
        passed = [mark for mark in trial.marks if mark < end]
        stopped = next((number for number, mark in enumerate(passed) if not judge(mark, loss_at(mark))), None)
        reached = end if stopped is None else passed[stopped]
        loss = loss_at(end) if stopped is None else None
        found = TriedOut(
            end=TrialEnd.COMPLETE if stopped is None else TrialEnd.STOPPED,
            loss=loss,
            score=None if loss is None or not trial.answers else 100 - 10 * loss,
            tokens=math.ceil(reached),
            measured_tokens=len(passed) if stopped is None else stopped + 1,
            seconds=reached,
        )
        self.tried.append((trial, found))
        return found

    def seconds_left(self) -> float:
        """Return an hour, or 0 after the last training that there is time for."""
        return 0.0 if self._trainings is not None and len(self.tried) >= self._trainings else 3600.0


def matrix(rows: Sequence[Sequence[float]], *, columns: int) -> Matrix:
    """Rows of numbers as the contract's matrix."""
    values = array("f", [value for row in rows for value in row])
    return Matrix(values=memoryview(values), rows=len(rows), columns=columns)


def _unit_vector(text: str) -> list[float]:
    counts = [0.0] * DIMENSIONS
    for word in text.split() or [""]:
        counts[hashlib.sha256(word.encode()).digest()[0] % DIMENSIONS] += 1.0
    length = math.hypot(*counts)
    return [one / length for one in counts]


def _overlap(left: str, right: str) -> float:
    one, other = set(left.split()), set(right.split())
    return len(one & other) / len(one | other) if one | other else 1.0


# --------------------------------------------------------------------------- samples


def sample_event(
    identifier: str = "1",
    *,
    feedback_type: FeedbackType = FeedbackType.USER_CORRECTION,
    input_data: str = "list all files, also the hidden ones",
    ai_output: str | None = "ls",
    corrected_output: str | None = "ls -a",
    validation_score: float | None = 40.0,
    artifact_type: str | None = "shell",
) -> Event:
    """A correction of a shell command, or what the arguments make of it."""
    return Event(
        id=identifier,
        timestamp=SAMPLE_TIME,
        feedback_type=feedback_type,
        input_data=input_data,
        ai_output=ai_output,
        corrected_output=corrected_output,
        validation_score=validation_score,
        artifact_type=artifact_type,
        model=SAMPLE_SPECIALTY.base,
    )


def sample_events() -> tuple[Event, ...]:
    """One event of each feedback type, a bare one, and one that came without a type."""
    kinds = [
        sample_event(kind.value, feedback_type=kind, corrected_output="ls -a" if "correction" in kind else None)
        for kind in FeedbackType
    ]
    bare = sample_event(
        "bare", feedback_type=FeedbackType.SUCCESS, input_data="", ai_output=None, corrected_output=None,
        validation_score=None,
    )  # fmt: skip
    return (*kinds, bare, sample_event("untyped", artifact_type=None))


def sample_scored_events() -> tuple[ScoredEvent, ...]:
    """The sample events as the scoring hooks leave them."""
    return tuple(
        ScoredEvent(event=event, priority=0.5, reward=0.5, difficulty=0.5, group=f"group-{index}", trained_on=False)
        for index, event in enumerate(sample_events())
    )


def sample_trajectories() -> tuple[LossTrajectory, ...]:
    """How a training learned the sample events, the last of them hardly."""
    *others, last = sample_events()
    learned = {event.key: (2.0, 1.0, 0.5) for event in others} | {last.key: (5.0, 4.5, 4.0)}
    return tuple(sample_trajectory(key, *losses) for key, losses in learned.items())


def sample_trajectory(event_id: str, *losses: float, training: str = "run-1") -> LossTrajectory:
    """How an event was learned that each epoch of a training learned from once."""
    points = (LossPoint(stretch=epoch, seen=epoch - 1, loss=loss) for epoch, loss in enumerate(losses, start=1))
    return LossTrajectory(event_id=event_id, training=training, points=tuple(points))


def sample_examples() -> tuple[TrainingExample, ...]:
    """Three training examples of different prompts."""
    return tuple(
        TrainingExample(
            event_id=f"dropdir/{number}",
            messages=(Message(role=Role.USER, content=f"count the lines of file {number}"),),
            target=f"wc -l file{number}",
            group=f"group-{number}",
        )
        for number in range(3)
    )


def sample_learned_examples() -> tuple[LearnedExample, ...]:
    """Twenty-four examples of a training, from easy to hard; every other answer of the model was scored."""
    return tuple(
        LearnedExample(
            event_id=f"dropdir/{number}",
            group=f"group-{number}",
            tokens=20 + number,
            weight=0.5,
            difficulty=number / 23,
            score=50.0 if number % 2 else None,
            seen=0,
        )
        for number in range(24)
    )


def sample_exam(*, items: int = 12) -> Exam:
    """An exam that the candidate passes a little better than the incumbent."""
    questions = tuple(_sample_item(number) for number in range(items))
    return Exam(
        specialty=SAMPLE_SPECIALTY,
        incumbent="llama3.2-nightschool:3b.base-0123456789ab",
        candidate="llama3.2-nightschool:3b.shell.v1",
        items=questions,
        answers=tuple(_sample_answer(item, sitting) for sitting in Sitting for item in questions),
    )


def _sample_item(number: int) -> ExamItem:
    return ExamItem(
        id=f"item-{number}",
        event_id=f"dropdir/{number}",
        artifact_type="shell",
        role=ItemRole.GUARD if number % 4 == 3 else ItemRole.GAIN,
        messages=(Message(role=Role.USER, content=f"count the lines of file {number}"),),
        reference=f"wc -l file{number}",
        group=f"group-{number}",
    )


def _sample_answer(item: ExamItem, sitting: Sitting) -> ExamAnswer:
    return ExamAnswer(
        item_id=item.id,
        sitting=sitting,
        model="llama3.2-nightschool:3b.shell.v1",
        text="wc -l",
        score=70.0 if sitting is Sitting.CANDIDATE else 60.0,
        detail="",
        failed=False,
        latency_s=0.5,
        tokens=4,
        done_reason="stop",
    )


def sample_run(directory: Path) -> RunInfo:
    """A run that has just begun."""
    return RunInfo(
        id="run-1",
        specialty=SAMPLE_SPECIALTY,
        seed=1,
        started_at=SAMPLE_TIME,
        reason="fresh feedback",
        directory=directory,
    )


def sample_arguments(directory: Path) -> dict[str, tuple[Mapping[str, object], ...]]:
    """For every hook, calls with sample arguments. `directory` takes the files that a call needs."""
    events, scored, examples, exam = sample_events(), sample_scored_events(), sample_examples(), sample_exam()
    run = sample_run(directory)
    services: dict[str, object] = {"measure": FakeMeasure(), "seed": 1}
    return {
        "nightschool_parse_feedback": ({"file": _sample_file(directory)},),
        "nightschool_classify_event": tuple({"event": event} for event in events),
        "nightschool_validate_event": tuple({"event": event} for event in events),
        "nightschool_retrieve_context": tuple(
            {"event": event, "query": event.input_data, "retrieve": FakeRetrieve()} for event in events
        ),
        "nightschool_after_event_accepted": tuple({"event": event} for event in events),
        "nightschool_score_reward": tuple(
            {
                "event": event,
                "difficulty": 0.5,
                "peers": Peers(count_of_type=5, mean_count=5.0),
                "now": SAMPLE_TIME,
                "correction_score": score,
            }
            for event in events
            for score in ((None, 0.0, 100.0) if event.is_correction else (None,))
        ),
        "nightschool_measure_similarity": (
            {"left": ("", "ls -a", "ls"), "right": ("", "ls -a"), "embed": FakeEmbed()},
            {"left": ("ls",), "right": ("ls",), "embed": FakeEmbed(available=False)},
        ),
        "nightschool_choose_batch_size": tuple(
            {"specialty": SAMPLE_SPECIALTY, "statistics": _statistics(available)} for available in (0, 9, 1000)
        ),
        "nightschool_find_noise": tuple(
            {"events": some, "trajectories": known, "measure": FakeMeasure(), "embed": embed}
            for some, known in (((), ()), (scored, ()), (scored, sample_trajectories()))
            for embed in (FakeEmbed(), FakeEmbed(available=False))
        ),
        "nightschool_select_events": tuple(
            {"events": some, "others": rest, "budget": Budget(events=3, tokens=4000), "embed": embed, "seed": 1}
            for some, rest in (((), ()), (scored, ()), (scored[2:], scored[:2]))
            for embed in (FakeEmbed(), FakeEmbed(available=False))
        ),
        "nightschool_choose_shots": tuple(
            {"events": some, "budget": Budget(events=8, tokens=1024), "seed": 1} for some in ((), scored)
        ),
        "nightschool_select_negatives": tuple(
            {"events": some, "others": rest, "embed": embed} | services
            for some, rest in (((), ()), (scored, ()), (scored[2:], scored[:2]))
            for embed in (FakeEmbed(), FakeEmbed(available=False))
        ),
        "nightschool_score_difficulty": tuple({"event": event} for event in events),
        "nightschool_arrange_examples": tuple(
            {"examples": some, "store": FakeStore(), "seed": 1} for some in ((), examples)
        ),
        "nightschool_arrange_stretch": tuple(
            {"examples": some, "training": so_far, "seed": 1}
            for some in (sample_learned_examples(), tuple(map(_of_no_difficulty, sample_learned_examples())))
            for so_far in (_so_far(epoch=1, left=len(some)), _so_far(epoch=2, left=8), _so_far(epoch=3, left=len(some)))
        ),
        "nightschool_augment_examples": tuple(
            {"examples": some, "generate": FakeGenerate()} | services for some in ((), examples)
        ),
        "nightschool_vary_context": tuple(
            {"example": one, "retrieve": FakeRetrieve(SAMPLE_CHUNKS)} | services
            for one in (examples[0], dataclasses.replace(examples[0], chunks=SAMPLE_CHUNKS[:2]))
        ),
        "nightschool_replay_examples": tuple(
            {"examples": some, "earlier": events, "recall": FakeRecall({}), "seed": 1}
            for some in ((), examples * 10)
            for events in ((), scored)
        ),
        "nightschool_build_preference_pairs": tuple({"events": some} for some in ((), scored)),
        "nightschool_build_sampled_pairs": tuple(
            {"items": some, "sample": sample, "validate": FakeValidate(), "seed": 1}
            for some in ((), exam.items)
            for sample in (FakeSample(), FakeSample(lambda _: ()))
        ),
        "nightschool_label_answers": tuple({"events": some} for some in ((), scored)),
        "nightschool_suggest_hyperparameters": (
            {"specialty": SAMPLE_SPECIALTY, "examples": 20, "store": FakeStore(), "seed": 1},
        ),
        "nightschool_offer_examples": tuple(
            {"artifact_type": kind, "accepted": accepted} for kind in ("shell", "erd") for accepted in (1, 10, 1000)
        ),
        "nightschool_search_hyperparameters": tuple(
            {"task": task, "try_out": FakeTryOut(trainings=3), "store": FakeStore(), "seed": 1}
            for task in _sample_tasks(directory)
        ),
        "nightschool_build_example": tuple({"event": event, "chunks": (Chunk(text="man ls"),)} for event in scored),
        "nightschool_train_adapter": tuple(
            {"job": _sample_job(directory, method), "train": FakeTrain()} for method in MethodChoice
        ),
        "nightschool_choose_delivery": tuple({"target": _sample_target(takes)} for takes in (True, False)),
        "nightschool_select_held_out": ({"groups": (), "seed": 1}, {"groups": _sample_groups(), "seed": 1}),
        "nightschool_select_folds": ({"groups": ()}, {"groups": _sample_groups()}),
        "nightschool_validate_answer": tuple(
            {"item": exam.items[0], "answer": answer, "measure": FakeMeasure(), "generate": FakeGenerate()}
            for answer in ("", "wc -l file0", "'")
        ),
        "nightschool_guard_promotion": tuple(
            {"exam": exam, "models": models} | services for models in (None, FakeModels())
        ),
        "nightschool_judge_exam": tuple(
            {"exam": exam, "guards": (GuardResult(guard="length", held=held, reason="sample"),), "seed": 1}
            for held in (True, False)
        ),
        "nightschool_judge_feedback": tuple({"live": _sample_live(count)} for count in (0, 1, 100)),
        "nightschool_before_run": ({"run": run},),
        "nightschool_before_step": ({"run": run, "step": "train"},),
        "nightschool_after_step": ({"run": run, "step": "train"},),
        "nightschool_after_run": ({"report": RunReport(run=run, end=RunEnd.NOT_ENOUGH, reason="too few events")},),
        "nightschool_after_move": ({"move": _sample_move()},),
        "nightschool_after_base_change": ({"change": BaseChange.APPEARED, "model": _sample_model()},),
    }


def _sample_file(directory: Path) -> FeedbackFile:
    path = directory / "feedback.unknown"
    path.write_text("neither JSON nor anything else", encoding="utf-8")
    return FeedbackFile(path=path, name=path.name, modified_at=SAMPLE_TIME, settled=True)


def _statistics(available: int) -> BatchStatistics:
    return BatchStatistics(
        available=available, corrections=available, average_quality=0.5, total_seen=available, batches_made=0
    )


def _sample_groups() -> tuple[PromptGroup, ...]:
    return tuple(PromptGroup(key=f"group-{number}", events=1) for number in range(20))


def _of_no_difficulty(example: LearnedExample) -> LearnedExample:
    return dataclasses.replace(example, difficulty=None, score=None)


def _so_far(*, epoch: int, left: int) -> TrainingSoFar:
    """A training of three epochs that was evaluated behind each of them, and within."""
    return TrainingSoFar(
        method=TrainingMethod.SFT,
        epochs=3,
        epoch=epoch,
        left=left,
        batch_size=8,
        losses=tuple(0.9**number for number in range(epoch)),
        goes_on=False,
    )


def _sample_job(directory: Path, method: MethodChoice) -> TrainingJob:
    for name in ("examples.jsonl", "pairs.jsonl", "labels.jsonl"):
        (directory / name).write_text("", encoding="utf-8")
    return TrainingJob(
        base_gguf=directory / "base.gguf",
        base_digest="0" * 64,
        architecture="llama",
        dataset=directory,
        output=directory / "adapter",
        material=Material(examples=20, better_known=10, pairs=10, liked=10, disliked=5),
        method=method,
        hyperparameters=Hyperparameters(),
        seed=1,
    )


def _sample_tasks(directory: Path) -> tuple[SearchTask, ...]:
    """Few examples; many; and many where a training is only planned."""
    given = Hyperparameters(learning_rate=2e-3, form=TrainedForm.LORA)
    few = SearchTask(
        specialty=SAMPLE_SPECIALTY,
        base_digest="d",
        events=20,
        examples=20,
        tried_on=16,
        given=given,
        neuron_step=0,
        fixed=(),
        directory=directory,
    )
    many = dataclasses.replace(few, events=1000, examples=1000, tried_on=800)
    return few, many, dataclasses.replace(many, is_rehearsal=True)


def _sample_target(takes: bool) -> DeliveryTarget:
    return DeliveryTarget(
        server=ServerAbilities(version="0.34.3", split=takes, fused=takes, adapter=takes, architecture="llama"),
        tensors=(
            TensorInfo(
                name="blk.0.attn_q.weight", shape=(64, 64), type="Q4_K", bytes=2304, touched=True, delivered_bytes=4352
            ),
            TensorInfo(
                name="token_embd.weight",
                shape=(256, 64),
                type="Q8_0",
                bytes=17408,
                touched=False,
                delivered_bytes=17408,
            ),
        ),
        adapter_bytes=4096,
        header_bytes=8192,
    )


def _sample_live(count: int) -> LiveFeedback:
    """The incumbent's answers were liked, the candidate's were not."""
    return LiveFeedback(
        alias="llama3.2-nightschool:3b.shell",
        incumbent="llama3.2-nightschool:3b.shell.v1",
        candidate="llama3.2-nightschool:3b.shell.v2",
        answers=tuple(
            LiveAnswer(by_candidate=number % 2 == 1, negative=number % 2 == 1, source="chat") for number in range(count)
        ),
    )


def _sample_move() -> AliasMove:
    return AliasMove(
        kind=MoveKind.PROMOTE,
        alias="llama3.2-nightschool:3b.shell",
        from_digest=None,
        to_digest="1" * 64,
        reason="sample",
    )


def _sample_model() -> InstalledModel:
    return InstalledModel(name="llama3.2:3b", digest="2" * 64, weights_digest="0" * 64, architecture="llama")


# --------------------------------------------------------------------------- contract


def check_plugin(module: ModuleType) -> None:
    """Check that a plugin keeps the contract. Raises `ContractError`.

    Its hooks exist and have the declared parameters, its settings are a frozen dataclass with defaults, it
    registers, and on samples every hook answers with the declared type or None.
    """
    manager = pluggy.PluginManager(PROJECT)
    for stage in STAGES:
        manager.add_hookspecs(stage)
    plugin = _instance(manager, module)
    try:
        manager.register(plugin, module.__name__)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        raise ContractError(" ".join(str(error).split())) from error
    callers = [one for one in manager.get_hookcallers(plugin) or () if one.name != SETTINGS_HOOK]
    if not callers:
        raise ContractError(f"{module.__name__} implements no hook. Put @hookimpl above its functions")
    with TemporaryDirectory() as directory:
        calls = sample_arguments(Path(directory))
        for caller in callers:
            for arguments in calls[caller.name]:
                _check_answer(caller, arguments)


def _instance(manager: pluggy.PluginManager, module: ModuleType) -> object:
    """The module, or its settings with their defaults."""
    if manager.parse_hookimpl_opts(module, SETTINGS_HOOK) is None:
        return module
    contribute: Callable[[], object] = getattr(module, SETTINGS_HOOK)
    kind = contribute()
    if not isinstance(kind, type) or not dataclasses.is_dataclass(kind):
        raise ContractError(f"{SETTINGS_HOOK} must return a dataclass type, not {kind!r}")
    for field in dataclasses.fields(kind):
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ContractError(f"the setting {field.name} of {kind.__name__} needs a default")
    settings: object = kind()
    if not _is_frozen(settings):
        raise ContractError(f"{kind.__name__} must be frozen: @dataclass(frozen=True, kw_only=True)")
    return settings


def _is_frozen(settings: object) -> bool:
    try:
        setattr(settings, "a_name_that_no_setting_has", None)  # noqa: B010 - frozen means that this raises
    except dataclasses.FrozenInstanceError:
        return True
    return False


def _check_answer(caller: pluggy.HookCaller, arguments: Mapping[str, object]) -> None:
    answer: object = caller(**arguments)
    if caller.spec is None or caller.name.startswith((f"{PROJECT}_before_", f"{PROJECT}_after_")):
        return
    kind = answer_type(caller.spec.function)
    for one in answer if isinstance(answer, list) else [answer]:
        if one is not None and not fits(one, kind):
            raise ContractError(f"{caller.name} answered {one!r}, declared is {kind}")
    if caller.name in SHARES and isinstance(answer, float) and not 0 <= answer <= 1:
        raise ContractError(f"{caller.name} answered {answer}, a {SHARES[caller.name]} lies within 0..1")
