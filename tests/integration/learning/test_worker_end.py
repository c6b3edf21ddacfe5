"""How a worker ends: with the process that started it, and when it is asked to; and what it is started with."""

import contextlib
import ctypes
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread
from types import SimpleNamespace

import psutil
import pytest

from nightschool_daemon import codec
from nightschool_daemon.config import DeliverySettings, Settings, StateSettings, TrainingSettings
from nightschool_daemon.jobs import (
    Progress,
    RunDirectory,
    Step,
    WorkerFailure,
    write_durably,
)
from nightschool_daemon.learning.engine.checkpoints import STATE
from nightschool_daemon.learning.worker import EXIT_FAILED, EXIT_TERMINATED, NO_ROOM, asked_of_kernel, watch_parent
from nightschool_daemon.ollama.storage import sha256_of
from nightschool_daemon.reasons import BY_HAND
from nightschool_daemon.runs import worker_process
from nightschool_daemon.runs.errors import RunCancelled, RunInterrupted, StepFailed, WorkerKilled
from nightschool_daemon.runs.listener import SilentListener
from nightschool_hookspecs.records import Hyperparameters, TrainedForm, TrainingMethod
from support import interrupted_workers
from support.step_results import SELECTED, prepare_and_split, run_info
from support.training_jobs import greetings, training_job

WORKER = [sys.executable, "-m", "nightschool_daemon.learning", "split"]

PARENT = """
import os, subprocess, sys, time
worker = subprocess.Popen([sys.executable, "-c", "import os, time; print(os.getpid(), flush=True);"
    "from nightschool_daemon.learning import worker;" + os.environ["FIRST"] +
    "worker.die_with_parent(int(os.environ['PARENT']));"
    "print('ready', flush=True); time.sleep(600)"], env={**os.environ, "PARENT": str(os.getpid())})
time.sleep(600)
"""


def test_worker_whose_parent_is_gone_ends_at_once(tmp_path: Path) -> None:
    done = subprocess.run([*WORKER, str(tmp_path), "--parent", "1"], capture_output=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    assert not list(tmp_path.iterdir())


def test_worker_of_this_parent_works(tmp_path: Path) -> None:
    """It finds no run there, and says so: it was not killed."""
    command = [*WORKER, str(tmp_path), "--parent", str(os.getpid())]
    done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert done.returncode == 1
    assert (tmp_path / "split" / "failure.json").is_file()


@pytest.mark.parametrize("first", ["", "worker.asked_of_kernel = lambda: False;"], ids=["by Linux", "elsewhere"])
def test_killed_parent_takes_its_worker_along(first: str) -> None:
    environment = {**os.environ, "FIRST": first}
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True, env=environment)
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    assert parent.stdout.readline() == "ready\n"
    parent.kill()
    parent.wait()
    # the worker held the other end of the pipe: it closes when the worker is gone
    assert parent.stdout.read() == ""
    parent.stdout.close()
    assert not Path(f"/proc/{worker}/exe").exists()


def test_a_worker_that_watches_its_parent_is_killed_when_that_is_another_and_not_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parents, told = [5, 5, 1], list[tuple[int, ...]]()
    monkeypatch.setattr(os, "getppid", lambda: parents.pop(0))
    monkeypatch.setattr(os, "kill", lambda *what: told.append((*what, len(parents))))
    watch_parent(5, every_s=0)
    assert told == [(os.getpid(), signal.SIGKILL, 0)]


@pytest.mark.parametrize("told", [None, -1])
def test_what_the_kernel_is_not_asked_is_watched(monkeypatch: pytest.MonkeyPatch, told: int | None) -> None:
    """`prctl` is Linux's alone."""
    library = SimpleNamespace() if told is None else SimpleNamespace(prctl=lambda *_: told)
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: library)
    assert not asked_of_kernel()


@pytest.mark.parametrize(
    ("given", "count"), [({}, "2000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, None)]
)
def test_a_worker_leaves_the_cores_to_others(
    given: dict[str, str], count: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless the environment says otherwise."""
    for name in worker_process.SAYS_HOW:
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    (tmp_path / Step.SPLIT).mkdir()
    telling = tmp_path / "python"
    telling.write_text("#!/bin/sh\nexec env\n")
    telling.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(telling))
    with worker_process._started(RunDirectory(path=tmp_path), Step.SPLIT) as process:
        process.wait(60)
    told = dict(
        line.split("=", 1) for line in (tmp_path / Step.SPLIT / "worker.log").read_text().splitlines() if "=" in line
    )
    assert told.get("GOMP_SPINCOUNT") == count


# --------------------------------------------------------------------------- a training that is asked to end

ONE_EPOCH = Hyperparameters(
    form=TrainedForm.LORA, learning_rate=1e-3, batch_size=2, num_epochs=1, lora_r=4, lora_alpha=8, max_length=64
)
"""Many steps of some milliseconds, within which no checkpoint is due."""


def about_to_train(directory: Path, gguf: Path, *, epochs: int = 1, min_free_gb: float = 0.1) -> RunDirectory:
    """A run with its steps before the training."""
    run = RunDirectory(path=directory)
    settled = replace(ONE_EPOCH, num_epochs=epochs)
    job = training_job(run.step(Step.SELECT), gguf, settled, texts=greetings(160))
    prepare_and_split(run, gguf, sha256_of(gguf), events=160)
    run.step(Step.TRAIN).mkdir()
    selected = replace(
        SELECTED,
        material=job.material,
        items=1,
        hyperparameters=settled,
        closing="<|im_end|>",
        sources=dict.fromkeys(TrainingMethod, ()),
    )
    run.finish(Step.SELECT, selected)
    info = replace(run_info(directory), seed=7)
    write_durably(run.info, codec.to_json(info))
    settings = Settings(
        state=StateSettings(directory=directory.parent / "state"),
        training=TrainingSettings(threads=1),
        delivery=DeliverySettings(min_free_gb=min_free_gb),
    )
    write_durably(run.settings, codec.to_json(settings))
    return run


def steps_of(run: RunDirectory) -> int:
    """How many a training has told."""
    try:
        return codec.from_json((run.step(Step.TRAIN) / "progress.json").read_bytes(), Progress).done
    except FileNotFoundError:
        return 0


def worked(run: RunDirectory, is_enough: Callable[[], bool]) -> int:
    """Have a worker train, and ask it to end as soon as that is enough. Returns its exit code."""
    with worker_process._started(run, Step.TRAIN) as worker:
        while worker.poll() is None:
            if is_enough():
                worker.terminate()
                break
            time.sleep(0.005)
        return worker.wait(60)


def test_a_training_that_is_asked_to_end_keeps_its_step_and_ends_as_an_uninterrupted_one(
    tiny_gguf: Path, tmp_path: Path
) -> None:
    whole, cut = (about_to_train(tmp_path / name, tiny_gguf) for name in ("whole", "cut"))
    assert worked(whole, lambda: False) == 0
    for asked_at in (3, 20, 40):
        assert worked(cut, lambda asked_at=asked_at: steps_of(cut) >= asked_at) == EXIT_TERMINATED  # type: ignore[misc]  # bound now
        (state,) = cut.step(Step.TRAIN).glob(f"checkpoints/*/{STATE}")
        assert json.loads(state.read_text())["state"]["step"] >= asked_at
    assert worked(cut, lambda: False) == 0
    metrics = [(one.step(Step.TRAIN) / "metrics.jsonl").read_text() for one in (whole, cut)]
    assert metrics[0].count("\n") > 60
    assert metrics[0] == metrics[1]


def test_a_training_leaves_the_delivery_its_room_on_the_disk(tiny_gguf: Path, tmp_path: Path) -> None:
    free_gb = shutil.disk_usage(tmp_path).free / 1e9
    run = about_to_train(tmp_path / "run", tiny_gguf, min_free_gb=free_gb + 10)
    assert worked(run, lambda: False) == EXIT_FAILED
    failure = codec.from_json((run.step(Step.TRAIN) / "failure.json").read_bytes(), WorkerFailure)
    assert "Free some space, or lower delivery.min_free_gb" in failure.reason


def test_a_reason_that_a_full_disk_did_not_take_is_no_fault_of_the_program(tmp_path: Path) -> None:
    (tmp_path / "failure.json").touch()
    found = worker_process._failure(tmp_path, EXIT_FAILED, Step.TRAIN)
    assert isinstance(found, StepFailed)
    assert str(found).startswith(f"train ended with code {EXIT_FAILED} and left no result. Its log is ")


# --------------------------------------------------------------------------- somebody kills it, as for want of memory


def worker_of(run: RunDirectory) -> int | None:
    """Process id of its worker at present."""
    for child in psutil.Process().children():
        # it may end meanwhile
        with contextlib.suppress(psutil.Error):
            if str(run.path) in child.cmdline():
                return int(child.pid)
    return None


def kill_at(run: RunDirectory, steps: Sequence[int]) -> Thread:
    """Kill worker after worker, each behind a step of the training."""

    def killing() -> None:
        killed = set[int]()
        for step in steps:
            while steps_of(run) < step or (worker := worker_of(run)) is None or worker in killed:
                time.sleep(0.005)
            os.kill(worker, signal.SIGKILL)
            killed.add(worker)

    thread = Thread(target=killing)
    thread.start()
    return thread


class Hears(SilentListener):
    """Keeps what it hears, in turn: sentences, and the steps of a training."""

    def __init__(self) -> None:
        self.all: list[str | int] = []

    def note(self, run_id: str, text: str) -> None:
        self.all.append(text)

    def progress(self, run_id: str, step: Step, done: int, total: int, text: str) -> None:
        self.all.append(done)

    def asked_for_room(self) -> None:
        self.all.append("room")


def test_a_training_whose_worker_is_killed_goes_on_from_its_checkpoint_while_its_run_does(
    tiny_gguf: Path, tmp_path: Path
) -> None:
    whole, cut = (about_to_train(tmp_path / name, tiny_gguf, epochs=2) for name in ("whole", "cut"))
    assert worked(whole, lambda: False) == 0
    killer = kill_at(cut, [100])
    hears = Hears()
    with interrupted_workers.context_of(cut) as context:
        worker_process.run_worker(replace(context, listener=hears), Step.TRAIN, before_again=hears.asked_for_room)
    killer.join()
    (again,) = (place for place, one in enumerate(hears.all) if isinstance(one, str) and "tried once more" in one)
    assert str(hears.all[again]).endswith("It is tried once more, from what it kept.")
    assert hears.all[again + 1] == "room"
    # the first epoch's end was kept, which is half of the steps
    steps = [one for one in hears.all[again + 2 :] if isinstance(one, int) and one]
    assert min(steps) > 80
    metrics = [(one.step(Step.TRAIN) / "metrics.jsonl").read_text() for one in (whole, cut)]
    assert metrics[0] == metrics[1]
    adapters = [sha256_of(one.step(Step.TRAIN) / "adapter" / "adapter_model.safetensors") for one in (whole, cut)]
    assert adapters[0] == adapters[1]


def test_a_training_whose_worker_is_killed_again_is_not_tried_a_third_time(
    tiny_gguf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = about_to_train(tmp_path / "run", tiny_gguf)
    killer = kill_at(run, [1, 1])
    with (
        interrupted_workers.context_of(run) as context,
        pytest.raises(WorkerKilled, match=r"^train was killed, likely because memory ran out\."),
    ):
        worker_process.run_worker(context, Step.TRAIN)
    killer.join()
    assert capsys.readouterr().out.count("It is tried once more") == 1


def test_a_second_try_has_the_time_that_the_first_one_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_gguf: Path
) -> None:
    """So that a training is cut short within it, in place of being ended with nothing."""
    run, told = about_to_train(tmp_path / "run", tiny_gguf), tmp_path / "told"
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\necho "$@" >> {told}\nsleep 0.3\nkill -9 $$\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with interrupted_workers.context_of(run) as context, pytest.raises(WorkerKilled):
        worker_process.run_worker(context, Step.TRAIN)
    first, second = (float(line.split("--seconds ")[1]) for line in told.read_text().splitlines())
    assert first <= context.settings.training.time_limit_s
    assert second <= first - 0.3


def test_what_is_left_of_the_time_is_all_that_a_training_has(tiny_gguf: Path, tmp_path: Path) -> None:
    run = about_to_train(tmp_path / "run", tiny_gguf)
    with worker_process._started(run, Step.TRAIN, -1.0) as worker:
        assert worker.wait(60) == EXIT_FAILED
    failure = codec.from_json((run.step(Step.TRAIN) / "failure.json").read_bytes(), WorkerFailure)
    assert failure.reason.startswith("There is no time left for it.")


def test_an_address_space_without_room_for_the_libraries_is_told_with_what_to_do(
    tiny_gguf: Path, tmp_path: Path
) -> None:
    run = about_to_train(tmp_path / "run", tiny_gguf)
    limited = (1_200_000_000, resource.RLIM_INFINITY)
    own = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, limited)
    try:
        with worker_process._started(run, Step.TRAIN) as worker:
            resource.setrlimit(resource.RLIMIT_AS, own)
            assert worker.wait(60) == EXIT_FAILED
    finally:
        resource.setrlimit(resource.RLIMIT_AS, own)
    failure = codec.from_json((run.step(Step.TRAIN) / "failure.json").read_bytes(), WorkerFailure)
    assert failure.reason == NO_ROOM


# --------------------------------------------------------------------------- somebody interrupts


def watched_until(run: RunDirectory, asked_at: int) -> int:
    """Have somebody watch over a training, and press Ctrl-C at a step. Returns their exit code."""
    with interrupted_workers.begun(run, Step.TRAIN) as watching:
        interrupted_workers.waited_for(lambda: steps_of(run) >= asked_at, watching)
        interrupted_workers.ctrl_c(watching)
        return watching.wait(60)


def test_ctrl_c_reaches_the_worker_in_the_same_terminal_as_a_request_to_end(tiny_gguf: Path, tmp_path: Path) -> None:
    whole, cut = (about_to_train(tmp_path / name, tiny_gguf) for name in ("whole", "cut"))
    assert worked(whole, lambda: False) == 0
    assert watched_until(cut, 20) == -signal.SIGINT
    (state,) = cut.step(Step.TRAIN).glob(f"checkpoints/*/{STATE}")
    assert json.loads(state.read_text())["state"]["step"] >= 20
    assert worked(cut, lambda: False) == 0
    metrics = [(one.step(Step.TRAIN) / "metrics.jsonl").read_text() for one in (whole, cut)]
    assert metrics[0] == metrics[1]


@pytest.mark.parametrize("of_terminal", [signal.SIGINT, signal.SIGHUP])
def test_a_terminal_does_not_reach_a_worker_that_is_only_just_started(
    tmp_path: Path, of_terminal: signal.Signals
) -> None:
    """It would take its end for a failure. This one finds no run there, and says so."""
    (tmp_path / Step.SPLIT).mkdir()
    with worker_process._started(RunDirectory(path=tmp_path), Step.SPLIT) as worker:
        worker.send_signal(of_terminal)
        assert worker.wait(60) == EXIT_FAILED
    assert (tmp_path / Step.SPLIT / "failure.json").is_file()


STARTS_A_PROGRAM = f"""#!{sys.executable}
import subprocess, sys
from nightschool_daemon.learning.worker import main
main(sys.argv[3:])
subprocess.run(["grep", "-E", "SigBlk|SigIgn", "/proc/self/status"])
"""


def test_what_a_worker_starts_can_be_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / Step.SPLIT).mkdir()
    starting = tmp_path / "python"
    starting.write_text(STARTS_A_PROGRAM)
    starting.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(starting))
    with worker_process._started(RunDirectory(path=tmp_path), Step.SPLIT) as worker:
        assert worker.wait(60) == 0
    told = dict(line.split(":") for line in (tmp_path / Step.SPLIT / "worker.log").read_text().splitlines())
    assert set(told) == {"SigBlk", "SigIgn"}
    assert not any(int(signals, 16) & 1 << signal.SIGINT - 1 for signals in told.values())


def test_second_ctrl_c_ends_what_does_not_end_by_itself(tiny_gguf: Path, tmp_path: Path) -> None:
    run, executable = about_to_train(tmp_path / "run", tiny_gguf), interrupted_workers.obstinate(tmp_path / "worker")
    with interrupted_workers.begun(run, Step.TRAIN, executable) as watching:
        interrupted_workers.waited_for(executable.with_name("begun").exists, watching)
        interrupted_workers.ctrl_c(watching)
        interrupted_workers.waited_for(executable.with_name("asked").exists, watching)
        interrupted_workers.ctrl_c(watching)
        said, _ = watching.communicate(timeout=60)
    assert said.decode() == "train ends when what it has is kept. Ctrl-C again ends it at once.\n"
    assert watching.returncode == -signal.SIGINT
    with pytest.raises(ProcessLookupError):
        os.killpg(watching.pid, 0)


def sets_when(event: Event, is_so: Callable[[], bool]) -> None:
    while not is_so():
        time.sleep(0.005)
    event.set()


@pytest.mark.parametrize(
    ("event", "reason", "error", "asked"),
    [
        ("interrupted", "test", RunInterrupted, 2),
        ("cancelled", "test", RunCancelled, 1),
        ("interrupted", BY_HAND, RunInterrupted, 2),
    ],
)
def test_only_what_goes_on_later_may_keep_something_before_it_ends(
    tiny_gguf: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    event: str,
    reason: str,
    error: type[Exception],
    asked: int,
) -> None:
    """It is asked, and waited for, before it is asked as all are, who have a moment to clear away."""
    run, executable = about_to_train(tmp_path / "run", tiny_gguf), interrupted_workers.obstinate(tmp_path / "worker")
    monkeypatch.setattr(sys, "executable", str(executable))
    monkeypatch.setattr(worker_process, "GRACE_S", 1.0)
    monkeypatch.setattr(worker_process, "CLEARING_S", 1.0)
    with interrupted_workers.context_of(run) as usual:
        context = replace(usual, info=replace(usual.info, reason=reason))
        asks = Thread(target=sets_when, args=(getattr(context.signals, event), executable.with_name("begun").exists))
        asks.start()
        with pytest.raises(error):
            worker_process.run_worker(context, Step.TRAIN)
        asks.join()
    assert len(executable.with_name("asked").read_text().splitlines()) == asked
