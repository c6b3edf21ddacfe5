"""Whoever is killed finds the last whole step again: at whatever call to the disk, and whatever the disk tore."""

import errno
import json
import os
import resource
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from nightschool_daemon.disk import sync
from nightschool_daemon.jobs import STRETCHES, TRAJECTORIES, StretchMark, TrajectoryPoint, read_lines
from nightschool_daemon.learning import gguf_file
from nightschool_daemon.learning.engine import checkpoints, loop
from nightschool_daemon.learning.engine.adam import Adam
from nightschool_daemon.learning.engine.checkpoints import (
    MOMENTS,
    PARAMETERS,
    STATE,
    Checkpoints,
    State,
    save_tensors,
)
from nightschool_daemon.learning.engine.curriculum import Arrange, begun, nobody_arranges
from nightschool_daemon.learning.loading import Tokens, load_tokens
from nightschool_daemon.learning.termination import Terminated
from nightschool_daemon.ollama.storage import sha256_of
from nightschool_hookspecs.records import (
    Hyperparameters,
    LabelledText,
    PairText,
    Stretch,
    TrainedForm,
    TrainingJob,
    TrainingMethod,
    TrainingResult,
)
from nightschool_hookspecs.services import TrainingError
from nightschool_plugins.training_dpo import TrainingDpo
from support.kills import exit_code_of, heeding, killed
from support.training_jobs import (
    Interrupted,
    fine_tune,
    greetings,
    harder_and_harder,
    keep_every_step,
    staged,
    training_job,
    unheard,
)

SETTINGS = Hyperparameters(
    form=TrainedForm.LORA, learning_rate=0.005, batch_size=6, num_epochs=2, lora_r=4, lora_alpha=8, max_length=64
)
SHORT, STAGED = SETTINGS, replace(SETTINGS, batch_size=3, num_epochs=3)
DISK = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree")
AWAY = "go away<|im_end|>"
Made = tuple[dict[str, Tensor], Adam]
Trained = Callable[[Path, loop.Report], Path]
"""Train in a directory, and return that of what was trained."""


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def made(value: int) -> Made:
    """A parameter and an optimiser that has stepped as often as its value."""
    parameters = {"one": torch.full((4, 3), float(value), requires_grad=True)}
    optimizer = Adam(list(parameters.values()))
    for _ in range(value):
        parameters["one"].grad = torch.ones(4, 3)
        optimizer.step(0.0)
    return parameters, optimizer


def kept(directory: Path, step: int, signature: str = "job") -> None:
    parameters, optimizer = made(step)
    Checkpoints(directory=directory, signature=signature).keep(parameters, optimizer, State(step=step))


def found(directory: Path, signature: str = "job") -> int | None:
    """The step that is gone on from. All of it must be of that step."""
    parameters, optimizer = made(0)
    state = Checkpoints(directory=directory, signature=signature).restore(parameters, optimizer)
    if state is None:
        assert parameters["one"].unique().tolist() == [0]
        assert float(optimizer.moments()["0.step"]) == 0
        return None
    assert parameters["one"].unique().tolist() == [state.step]
    assert float(optimizer.moments()["0.step"]) == state.step
    return state.step


def stops_at(step: int) -> loop.Report:
    def report(done: int, _total: int, _text: str) -> None:
        if done == step:
            raise Interrupted

    return report


def calls_the_disk(event: str, _arguments: object) -> bool:
    return event in DISK


@pytest.mark.parametrize("before", [2, 9, 10])
def test_a_kill_leaves_the_step_before_or_the_new_one(tmp_path: Path, before: int) -> None:
    steps: list[int | None] = []
    while True:
        directory = tmp_path / str(len(steps))
        kept(directory, before)
        was_killed = killed(lambda directory=directory: kept(directory, before + 1), len(steps), calls_the_disk)  # type: ignore[misc]  # bound now
        steps.append(found(directory))
        kept(directory, before + 2)
        assert [one.name for one in directory.iterdir()] == [f"step-{before + 2}-epoch-0"]
        if not was_killed:
            break
    assert len(steps) > 10
    turn = steps.index(before + 1)
    assert steps == [before] * turn + [before + 1] * (len(steps) - turn)


def test_of_a_step_that_does_not_fit_in_all_its_parts_nothing_is_taken_over(tmp_path: Path) -> None:
    kept(tmp_path, 3)
    parameters = {"one": torch.zeros(4, 3, requires_grad=True)}
    of_another = Adam([torch.zeros(2, requires_grad=True)])
    assert Checkpoints(directory=tmp_path, signature="job").restore(parameters, of_another) is None
    assert parameters["one"].unique().tolist() == [0]


def test_a_kill_while_another_jobs_step_is_replaced_leaves_no_mixture(tmp_path: Path) -> None:
    for at in range(100):
        directory = tmp_path / str(at)
        kept(directory, 3, "other")
        was_killed = killed(lambda directory=directory: kept(directory, 3), at, calls_the_disk)  # type: ignore[misc]  # as above
        steps = {job: found(shutil.copytree(directory, tmp_path / f"{at} of {job}"), job) for job in ("job", "other")}
        assert set(steps.values()) <= {3, None}
        if not was_killed:
            assert steps == {"job": 3, "other": None}
            return
    raise AssertionError("it never came to an end")


@pytest.mark.parametrize("file", [PARAMETERS, MOMENTS, STATE])
@pytest.mark.parametrize("left", [None, 0, 5, 100])
def test_what_the_disk_tore_is_left_out_and_told(
    tmp_path: Path, file: str, left: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    kept(tmp_path / "new", 10)
    kept(tmp_path / "old", 9)
    (tmp_path / "new" / "step-10-epoch-0").rename(tmp_path / "old" / "step-10-epoch-0")
    torn = tmp_path / "old" / "step-10-epoch-0" / file
    whole = torn.read_bytes()
    assert found(shutil.copytree(tmp_path / "old", tmp_path / "untorn")) == 10
    torn.unlink()
    if left is not None:
        torn.write_bytes(whole[:left])
    assert found(tmp_path / "old") == 9
    assert "step-10-epoch-0 is not whole" in caplog.text


# --------------------------------------------------------------------------- a whole training


@pytest.fixture(scope="module")
def tokens(tiny_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Tokens:
    cache = tmp_path_factory.mktemp("cache")
    (cache / "tokenizers").mkdir(exist_ok=True)
    return load_tokens(gguf_file.read(tiny_gguf), sha256_of(tiny_gguf), cache)


def dies_at(step: int) -> loop.Report:
    def report(done: int, _total: int, _text: str) -> None:
        if done == step:
            os.kill(os.getpid(), signal.SIGKILL)

    return report


def require_equal_when_killed(trained: Trained, directory: Path, steps: int) -> None:
    """Have a training end by itself, and the same killed behind each of its steps before it ends as well."""
    whole = trained(directory / "whole", unheard)
    for step in range(1, steps + 1):
        assert exit_code_of(partial(trained, directory / "cut", dies_at(step))) == -signal.SIGKILL
    again = trained(directory / "cut", unheard)
    assert (directory / "cut" / "metrics.jsonl").read_text() == (directory / "whole" / "metrics.jsonl").read_text()
    files = list(whole.glob("*.safetensors"))
    assert files
    assert all((again / one.name).read_bytes() == one.read_bytes() for one in files)


def steps_of(directory: Path) -> list[int]:
    """Of the lines of a training: one a step, and one an epoch."""
    return [json.loads(line)["step"] for line in (directory / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("settings", "arrange", "lines", "stages"),
    [
        (SHORT, nobody_arranges, [1, 2, 2, 3, 4, 4], []),
        (
            STAGED,
            staged(evaluations=2, fewest_steps=2),
            [1, 2, 3, 4, 4, 5, 6, 7, 8, 8, 9, 10, 11, 12, 12],
            ["easy", "easy", "medium", "hard", "all"],
        ),
    ],
    ids=["shuffled", "by stages"],
)
def test_a_training_that_is_killed_at_every_step_ends_as_the_uninterrupted_one(
    tiny_gguf: Path,
    tokens: Tokens,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: Hyperparameters,
    arrange: Arrange,
    lines: list[int],
    stages: list[str],
) -> None:
    keep_every_step(monkeypatch)
    file = gguf_file.read(tiny_gguf)

    def trained(directory: Path, report: loop.Report) -> Path:
        asked = training_job(directory, tiny_gguf, settings, texts=harder_and_harder())
        return fine_tune(file, tokens, asked, TrainingMethod.SFT, settings, report, arrange=arrange).adapter

    require_equal_when_killed(trained, tmp_path, lines[-1])
    assert steps_of(tmp_path / "whole") == lines
    for directory in (tmp_path / "whole", tmp_path / "cut"):
        file_of_stages = directory / STRETCHES
        marks = list(read_lines(file_of_stages, StretchMark)) if file_of_stages.exists() else []
        assert [one.stage for one in marks] == stages
        assert [one.number for one in marks] == list(range(1, len(stages) + 1))
    if stages:
        assert (tmp_path / "cut" / STRETCHES).read_text() == (tmp_path / "whole" / STRETCHES).read_text()
    points = list(read_lines(tmp_path / "whole" / TRAJECTORIES, TrajectoryPoint))
    assert [one.step for one in points] == sorted(settings.batch_size * list(range(1, lines[-1] + 1)))
    assert {one.stretch for one in points} == set(range(1, (len(stages) or settings.num_epochs) + 1))
    assert (tmp_path / "cut" / TRAJECTORIES).read_text() == (tmp_path / "whole" / TRAJECTORIES).read_text()


MATERIAL: Mapping[TrainingMethod, dict[str, Any]] = {
    TrainingMethod.SFT: {"texts": greetings()},
    TrainingMethod.DPO: {
        "pairs": [
            PairText(event_id=one.event_id, prompt=one.prompt, chosen=one.completion, rejected=AWAY, margin=0.1)
            for one in greetings()
        ]
    },
    TrainingMethod.KTO: {
        "labels": [
            LabelledText(event_id=one.event_id, prompt=one.prompt, completion=text, liked=text is one.completion)
            for one in greetings(6)
            for text in (one.completion, AWAY)
        ]
    },
}


@pytest.mark.parametrize(
    ("form", "method"),
    [
        (TrainedForm.NEURONS, TrainingMethod.SFT),
        (TrainedForm.GROUPED, TrainingMethod.SFT),
        (TrainedForm.NEURONS, TrainingMethod.DPO),
        (TrainedForm.LORA, TrainingMethod.KTO),
    ],
)
def test_every_form_and_method_goes_on_after_a_kill_at_every_step_as_if_nothing_had_been(
    tiny_gguf: Path,
    tokens: Tokens,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    form: TrainedForm,
    method: TrainingMethod,
) -> None:
    keep_every_step(monkeypatch)
    file, settings = gguf_file.read(tiny_gguf), replace(SETTINGS, form=form)

    def trained(directory: Path, report: loop.Report) -> Path:
        asked = training_job(directory, tiny_gguf, settings, **MATERIAL[method])
        return fine_tune(file, tokens, asked, method, settings, report).adapter

    require_equal_when_killed(trained, tmp_path, 4)
    assert steps_of(tmp_path / "whole") == [1, 2, 2, 3, 4, 4]


def test_preferences_on_top_of_wanted_answers_go_on_after_a_kill_at_every_step_of_both(
    tiny_gguf: Path, tokens: Tokens, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `auto` does: the second training is held to, and begins from, what the first one left."""
    keep_every_step(monkeypatch)
    file, settings, first_steps = gguf_file.read(tiny_gguf), replace(SETTINGS, form=TrainedForm.NEURONS), 4
    material = {**MATERIAL[TrainingMethod.SFT], **MATERIAL[TrainingMethod.DPO]}

    def trained(directory: Path, report: loop.Report) -> Path:
        def train(job: TrainingJob, *, method: TrainingMethod, hyperparameters: Hyperparameters) -> TrainingResult:
            before = 0 if method is TrainingMethod.SFT else first_steps

            def told(done: int, total: int, text: str) -> None:
                if done:
                    report(before + done, total, text)

            return fine_tune(file, tokens, job, method, hyperparameters, told)

        asked = training_job(directory, tiny_gguf, settings, **material)
        result = TrainingDpo(fewest_pairs=2).nightschool_train_adapter(job=asked, train=train)
        assert result is not None
        assert result.methods == (TrainingMethod.SFT, TrainingMethod.DPO)
        return result.adapter

    require_equal_when_killed(trained, tmp_path, first_steps + 2)
    assert steps_of(tmp_path / "whole") == [1, 2, 2]
    assert steps_of(tmp_path / "whole" / "sft") == steps_of(tmp_path / "cut" / "sft") == [1, 2, 2, 3, 4, 4]


# --------------------------------------------------------------------------- a disk that fails


def test_a_disk_that_cannot_be_read_at_present_costs_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept(tmp_path, 3)

    def unreadable(_file: Path) -> dict[str, Tensor]:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:
        patched.setattr(checkpoints, "load", unreadable)
        with pytest.raises(OSError, match="Input/output error"):
            found(tmp_path)
    assert found(tmp_path) == 3


def test_a_file_that_there_is_no_room_for_is_the_systems_error_and_nothing_of_it_stays(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            save_tensors({"one": torch.ones(10_000)}, tmp_path / "some.safetensors")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.errno == errno.EFBIG
    assert caught.value.filename == str(tmp_path / "some.safetensors")
    assert list(tmp_path.iterdir()) == []


# --------------------------------------------------------------------------- its room on the disk

ADDED = replace(SETTINGS, form=TrainedForm.NEURONS)
SPARED = 1000
HEADS = 10_000
"""Bytes that the heads of a training's files have room in."""


def test_a_training_that_the_disk_has_no_room_for_does_not_begin(
    tiny_gguf: Path, tokens: Tokens, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two checkpoints, each with two moments, and the best epoch's weights, beside what is to stay free.

    Their numbers alone are not all: each file has a head.
    """
    file, free = gguf_file.read(tiny_gguf), [0]
    monkeypatch.setattr(shutil, "disk_usage", lambda _place: SimpleNamespace(free=free[0]))

    def trained(report: loop.Report) -> Path:
        asked = training_job(tmp_path, tiny_gguf, ADDED, texts=harder_and_harder())
        job = replace(asked, spared_bytes=SPARED)
        return fine_tune(file, tokens, job, TrainingMethod.SFT, ADDED, report).adapter

    needed = (2 * 3 + 1) * 4 * 3 * 64 * 256 * 2 + SPARED
    free[0] = needed
    with pytest.raises(TrainingError, match="Free some space"):
        trained(unheard)
    assert not (tmp_path / "metrics.jsonl").exists()
    free[0] = needed + HEADS
    with pytest.raises(Interrupted):
        trained(stops_at(3))
    kept_bytes = sum(one.stat().st_size for one in tmp_path.rglob("*.safetensors"))
    assert kept_bytes > 4 * 4 * 3 * 64 * 256 * 2
    free[0] = needed + HEADS - kept_bytes
    assert trained(unheard).is_dir(), "what it kept gives way to what comes"


def leave_of_a_kill(output: Path) -> None:
    """A step and a best epoch half written, and the step before that was to go."""
    best = output / loop.BEST
    shutil.copyfile(best, checkpoints.unfinished(best))
    (last,) = (output / loop.CHECKPOINTS).glob("step-*")
    for name in (".step-3-epoch-1.tmp", "step-1-epoch-0"):
        shutil.copytree(last, last.with_name(name))


@pytest.mark.parametrize("was_killed", [False, True])
def test_a_training_takes_no_more_of_the_disk_than_it_asked_for(
    tiny_gguf: Path, tokens: Tokens, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, was_killed: bool
) -> None:
    keep_every_step(monkeypatch)
    file, job = gguf_file.read(tiny_gguf), training_job(tmp_path, tiny_gguf, ADDED, texts=harder_and_harder())
    if was_killed:
        with pytest.raises(Interrupted):
            fine_tune(file, tokens, job, TrainingMethod.SFT, ADDED, stops_at(3))
        leave_of_a_kill(tmp_path)
    asked_for: list[int] = []
    taken: list[int] = []
    usual = Checkpoints.bytes_at_once

    def heard(one: Checkpoints, parameters: Mapping[str, Tensor]) -> int:
        asked_for.append(usual(one, parameters))
        return asked_for[-1]

    def looks(path: Path) -> None:
        sync(path)
        taken.append(sum(one.stat().st_size for one in tmp_path.rglob("*.safetensors*")))

    monkeypatch.setattr(Checkpoints, "bytes_at_once", heard)
    monkeypatch.setattr(checkpoints, "sync", looks)
    fine_tune(file, tokens, job, TrainingMethod.SFT, ADDED, unheard)
    assert max(taken) <= asked_for[0] < max(taken) + HEADS
    assert sum(one.stat().st_size for one in tmp_path.rglob("*.safetensors")) < asked_for[0]


# --------------------------------------------------------------------------- SIGTERM

CUT = replace(SETTINGS, batch_size=2)
"""Six steps an epoch. None is so long that a checkpoint would be due within it."""
BY_STAGES = staged(evaluations=2, fewest_steps=2)
Comes = Callable[[int, pytest.MonkeyPatch], loop.Report]


@pytest.fixture
def _heeds_sigterm() -> Iterator[None]:
    with heeding():
        yield


def sigterm_at(turn: int) -> Callable[[], None]:
    """SIGTERM the so-manieth time that it is called."""
    calls: list[int] = []

    def comes() -> None:
        calls.append(1)
        if len(calls) == turn:
            signal.raise_signal(signal.SIGTERM)

    return comes


def behind(step: int, patch: pytest.MonkeyPatch) -> loop.Report:
    """When a step is told."""

    def report(done: int, _total: int, _text: str) -> None:
        if done == step:
            signal.raise_signal(signal.SIGTERM)

    return report


def among_the_gradients_of(step: int, patch: pytest.MonkeyPatch) -> loop.Report:
    """When the way back of a step's only pass is made."""
    patch.setattr(loop, "return_free_memory", sigterm_at(step))
    return unheard


def in_the_midst_of(step: int, patch: pytest.MonkeyPatch) -> loop.Report:
    """When the parameters have moved, and nobody knows it yet."""
    whole, comes = Adam.step, sigterm_at(step)

    def moves(optimizer: Adam, rate: float) -> None:
        whole(optimizer, rate)
        comes()

    patch.setattr(Adam, "step", moves)
    return unheard


def as_the_best_is_kept_of(epoch: int, patch: pytest.MonkeyPatch) -> loop.Report:
    """When an epoch is judged, and nothing of it is kept yet."""
    whole, comes = loop.OnDisk.keep_best, sigterm_at(epoch)

    def keeps(keeper: loop.OnDisk, learner: loop.Learner[loop.S]) -> None:
        comes()
        whole(keeper, learner)

    patch.setattr(loop.OnDisk, "keep_best", keeps)
    return unheard


def as_begins(stretch: int, patch: pytest.MonkeyPatch) -> loop.Report:
    """Between two stretches."""
    comes = sigterm_at(stretch)

    def begins(state: State, arranged: Stretch) -> State:
        comes()
        return begun(state, arranged)

    patch.setattr(loop, "begun", begins)
    return unheard


@pytest.mark.usefixtures("_heeds_sigterm")
@pytest.mark.parametrize(
    ("settings", "arrange", "comes", "at", "kept_step"),
    [
        (CUT, nobody_arranges, behind, 8, 8),
        (CUT, nobody_arranges, among_the_gradients_of, 9, 8),
        (CUT, nobody_arranges, in_the_midst_of, 9, 9),
        (CUT, nobody_arranges, behind, 6, 6),
        (CUT, nobody_arranges, as_the_best_is_kept_of, 1, 6),
        (CUT, nobody_arranges, among_the_gradients_of, 7, 6),
        (CUT, nobody_arranges, among_the_gradients_of, 1, None),
        (STAGED, BY_STAGES, behind, 2, 2),
        (STAGED, BY_STAGES, as_begins, 2, 2),
        (STAGED, BY_STAGES, among_the_gradients_of, 3, 2),
        (STAGED, BY_STAGES, as_the_best_is_kept_of, 2, 8),
    ],
)
def test_a_training_that_is_to_end_keeps_the_last_whole_step(
    tiny_gguf: Path,
    tokens: Tokens,
    tmp_path: Path,
    settings: Hyperparameters,
    arrange: Arrange,
    comes: Comes,
    at: int,
    kept_step: int | None,
) -> None:
    """And goes on from there as if nothing had been."""
    file = gguf_file.read(tiny_gguf)

    def trained(name: str, report: loop.Report) -> Path:
        asked = training_job(tmp_path / name, tiny_gguf, settings, texts=harder_and_harder())
        return fine_tune(file, tokens, asked, TrainingMethod.SFT, settings, report, arrange=arrange).adapter

    whole = trained("whole", unheard)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Terminated):
        trained("cut", comes(at, patch))
    left = [json.loads(one.read_text())["state"]["step"] for one in tmp_path.glob(f"cut/checkpoints/*/{STATE}")]
    assert left == ([] if kept_step is None else [kept_step])
    steps: list[int] = []
    again = trained("cut", lambda done, _total, _text: steps.append(done))
    assert steps[1] == (kept_step or 0) + 1, "the first is the plan's"
    for name in ("metrics.jsonl", TRAJECTORIES, *([] if arrange is nobody_arranges else [STRETCHES])):
        assert (tmp_path / "cut" / name).read_text() == (tmp_path / "whole" / name).read_text()
    for one in whole.glob("*.safetensors"):
        assert (again / one.name).read_bytes() == one.read_bytes()
