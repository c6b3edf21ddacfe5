"""What the planner decides, on a tiny network."""

import resource
from pathlib import Path

import pytest
import torch

from nightschool_daemon.learning import gguf_file
from nightschool_daemon.learning.engine import machine, memory
from nightschool_daemon.learning.engine.examples import Answer, Example
from nightschool_daemon.learning.engine.forms import Form
from nightschool_daemon.learning.engine.network import Network
from nightschool_daemon.learning.engine.route import kept_plan, make_form
from nightschool_hookspecs.records import Hyperparameters, TrainingMethod
from nightschool_hookspecs.services import TrainingError

SETTINGS = Hyperparameters(batch_size=8, num_epochs=1)
AMPLE = 10**12


@pytest.fixture
def network(tiny_gguf: Path) -> Network:
    return Network(gguf_file.read(tiny_gguf), machine.bench(torch.float32))


@pytest.fixture(autouse=True)
def _steady(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest of the process takes nothing."""
    monkeypatch.setattr(memory, "resident_bytes", lambda: 0)


@pytest.fixture
def form(network: Network) -> Form:
    return make_form(network, SETTINGS, 0)


def todo_of(length: int) -> memory.Todo:
    example = Example(prompt=(1,) * (length // 2), answers=(Answer(tokens=(2,) * (length - length // 2)),))
    return memory.Todo(examples=[example] * 16, method=TrainingMethod.SFT, settings=SETTINGS, seed=0)


def test_with_ample_memory_nothing_is_computed_twice(network: Network, form: Form) -> None:
    plan = memory.plan(network, form, todo_of(40), available=AMPLE)
    assert plan.checkpointed == 0
    assert plan.seconds > 0


def test_layers_are_computed_twice_where_memory_is_short(network: Network, form: Form) -> None:
    ample = memory.plan(network, form, todo_of(2048), available=AMPLE)
    short = memory.plan(network, form, todo_of(2048), available=ample.peak_bytes - 1)
    assert short.checkpointed > 0
    assert short.peak_bytes < ample.peak_bytes


def test_a_row_longer_than_memory_is_refused_with_what_to_do(network: Network, form: Form) -> None:
    with pytest.raises(TrainingError, match=r"An example of 40 tokens needs .* Lower max_length"):
        memory.plan(network, form, todo_of(40), available=1)


def test_a_limit_on_the_address_space_is_kept_to() -> None:
    """`ulimit -v`: a gigabyte more than this process has now."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    limit = memory._of_proc("/proc/self/status", "VmSize") + 10**9
    resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
    try:
        assert memory.available_bytes(torch.device("cpu")) <= 10**9
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def test_what_is_kept_grows_with_the_tokens(network: Network, form: Form) -> None:
    half, whole = (memory.probed(network, form, todo_of(size).examples[:1]) for size in (256, 512))
    assert whole.kept_bytes == pytest.approx(2 * half.kept_bytes, rel=0.05)


def test_a_pass_too_wide_for_a_trial_is_extrapolated(network: Network, form: Form) -> None:
    tried, told = (memory.probed(network, form, todo_of(size).examples[:1]) for size in (2048, 4096))
    assert told.tokens == 4096
    assert told.kept_bytes == pytest.approx(2 * tried.kept_bytes, rel=0.05)


def test_a_training_goes_on_with_the_plan_that_it_began_with(network: Network, form: Form, tmp_path: Path) -> None:
    first = memory.plan(network, form, todo_of(40), available=AMPLE)
    assert kept_plan(tmp_path, "a", lambda: first) == first

    def never() -> memory.MemoryPlan:
        raise AssertionError("planned anew")

    assert kept_plan(tmp_path, "a", never) == first


def test_other_data_are_planned_anew(network: Network, form: Form, tmp_path: Path) -> None:
    kept_plan(tmp_path, "a", lambda: memory.plan(network, form, todo_of(40), available=AMPLE))
    second = memory.plan(network, form, todo_of(60), available=AMPLE)
    assert kept_plan(tmp_path, "b", lambda: second) == second
