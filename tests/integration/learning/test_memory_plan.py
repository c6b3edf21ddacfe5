"""What the planner decides, on a tiny network."""

import math
import mmap
import resource
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nightschool_daemon.learning import gguf_file
from nightschool_daemon.learning.engine import devices, fitting, footprint, machine, memory, pace
from nightschool_daemon.learning.engine.examples import Answer, Example
from nightschool_daemon.learning.engine.forms import Form, block_of
from nightschool_daemon.learning.engine.layout import Layout, lay_out
from nightschool_daemon.learning.engine.loop import Plan, train
from nightschool_daemon.learning.engine.network import Network
from nightschool_daemon.learning.engine.pace import Line, Pace, Sample
from nightschool_daemon.learning.engine.packed import Bench, PackedMatrix
from nightschool_daemon.learning.engine.todo import Cut, Passes, Todo
from nightschool_daemon.learning.engine.trial import PROBED_TOKENS, beside
from nightschool_daemon.learning.packed_route import KeptMemoryPlan, keep_memory_plan, kept_memory_plan, make_form
from nightschool_daemon.plans import MemoryPlan
from nightschool_hookspecs.records import (
    Hyperparameters,
    LearnedExample,
    Stretch,
    TrainedForm,
    TrainingMethod,
    TrainingSoFar,
)
from nightschool_hookspecs.services import TrainingError
from support.rewritten_gguf import rewritten
from support.tiny_architectures import write_tiny_architecture
from support.tiny_gguf import write_tiny_gguf

if TYPE_CHECKING:
    from numpy.typing import NDArray

SETTINGS = Hyperparameters(form=TrainedForm.LORA, learning_rate=2e-4, batch_size=8, num_epochs=1)
AMPLE = 10**12
held_bytes = memory.held_bytes
"""As it is where no test takes its place."""


@pytest.fixture
def network(tiny_gguf: Path) -> Network:
    return Network(gguf_file.read(tiny_gguf), machine.bench(torch.float32))


@pytest.fixture(autouse=True)
def _steady(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest of the process takes nothing."""
    torch.set_num_threads(1)
    monkeypatch.setattr(memory, "resident_bytes", lambda: 0)
    monkeypatch.setattr(memory, "held_bytes", lambda _network: 0)


@pytest.fixture
def form(network: Network) -> Form:
    return make_form(network, SETTINGS, 0)


def todo_of(length: int) -> Todo:
    example = Example(prompt=(1,) * (length // 2), answers=(Answer(tokens=(2,) * (length - length // 2)),))
    return Todo(examples=[example] * 16, method=TrainingMethod.SFT, settings=SETTINGS, seed=0)


def passes_of(some: Sequence[Sequence[Example]]) -> Passes:
    return Passes.of(some, pads=True)


def test_with_ample_memory_nothing_is_computed_twice(network: Network, form: Form) -> None:
    plan = fitting.fitted(network, form, todo_of(40), available=AMPLE)
    assert plan.checkpointed == 0
    assert plan.seconds > 0


def test_layers_are_computed_twice_where_memory_is_short(network: Network, form: Form) -> None:
    ample = fitting.fitted(network, form, todo_of(2048), available=AMPLE)
    short = fitting.fitted(network, form, todo_of(2048), available=ample.peak_bytes - kept_bytes(network, ample) - 1)
    assert short.checkpointed > 0
    assert short.peak_bytes < ample.peak_bytes


@pytest.mark.parametrize(("share", "twice"), [(0.5, 1), (0.49, 0)])
def test_a_few_layers_are_computed_twice_for_comfort_alone(
    network: Network, form: Form, monkeypatch: pytest.MonkeyPatch, share: float, twice: int
) -> None:
    """Though there is memory for all; where it would be more layers, time counts."""
    ample = fitting.fitted(network, form, todo_of(2048), available=AMPLE)
    without = ample.peak_bytes - kept_bytes(network, ample)
    monkeypatch.setattr(fitting, "FEW_TWICE", share)
    monkeypatch.setattr(fitting, "HEADROOM_BYTES", without - 1 - network.weights.bytes)
    found = fitting.fitted(network, form, todo_of(2048), available=AMPLE)
    assert (found.checkpointed, found.trained_from, found.tokens_a_pass) == (twice, 0, ample.tokens_a_pass)


def kept_bytes(network: Network, plan: MemoryPlan) -> int:
    """What its unpacked layers take more."""
    return sum(footprint.unpacked_bytes(network, one) for one in network.blocks[plan.layers - plan.unpacked :])


def test_layers_are_kept_unpacked_as_far_as_there_is_room(network: Network, form: Form) -> None:
    ample = fitting.fitted(network, form, todo_of(40), available=AMPLE)
    assert ample.unpacked == ample.layers == 2
    assert "2 layers kept unpacked" in ample.sentence()
    tight = fitting.fitted(network, form, todo_of(40), available=ample.peak_bytes - 1)
    assert (tight.unpacked, tight.checkpointed, tight.tokens_a_pass) == (1, 0, ample.tokens_a_pass)
    none = fitting.fitted(network, form, todo_of(40), available=ample.peak_bytes - kept_bytes(network, ample))
    assert (none.unpacked, none.checkpointed, none.tokens_a_pass) == (0, 0, ample.tokens_a_pass)
    assert none.peak_bytes == none.available_bytes


def test_no_more_is_kept_unpacked_than_a_training_may_take_comfortably(
    network: Network, form: Form, monkeypatch: pytest.MonkeyPatch
) -> None:
    ample = fitting.fitted(network, form, todo_of(40), available=AMPLE)
    without = ample.peak_bytes - kept_bytes(network, ample)
    monkeypatch.setattr(fitting, "UNPACKED_BYTES", without - network.weights.bytes)
    assert fitting.fitted(network, form, todo_of(40), available=AMPLE).unpacked == 0


def test_passes_that_only_go_forth_are_planned_for(network: Network, form: Form) -> None:
    """Batches of one example, all layers computed twice: the widest pass is that which takes the loss of many."""
    examples = [Example(prompt=(number,) * 32, answers=(Answer(tokens=(2,) * 32),)) for number in range(16)]
    whole, many = (
        replace(todo_of(64), examples=examples, settings=replace(SETTINGS, batch_size=size)) for size in (16, 1)
    )
    probe = footprint.widest(network, form, many, 1024)
    assert (probe.tokens, probe.asked) == (64, 1024)
    cut = Cut(checkpointed=network.architecture.layers)
    found = [
        footprint.peak_bytes(network, form, replace(probe, asked=tokens), cut, held=0) for tokens in (64, 8192, 16384)
    ]
    assert found[0] < found[1] < found[2]
    assert found[2] - found[1] >= 8192 * probe.kept_bytes / probe.tokens
    learning, kept = footprint.widest(network, form, whole, 1024), Cut(checkpointed=0)
    assert footprint.peak_bytes(network, form, learning, kept, held=0) == footprint.peak_bytes(
        network, form, replace(learning, asked=512), kept, held=0
    )


@pytest.mark.parametrize(("method", "asked"), [(TrainingMethod.SFT, 4 * 64), (TrainingMethod.KTO, 1024)])
def test_losses_are_taken_of_what_is_watched_and_by_kto_of_all(
    network: Network, form: Form, method: TrainingMethod, asked: int
) -> None:
    examples = [Example(prompt=(number,) * 32, answers=(Answer(tokens=(2,) * 32),)) for number in range(40)]
    settings = replace(SETTINGS, batch_size=1, num_epochs=9)
    held = replace(todo_of(64), examples=examples, settings=settings, method=method)
    assert held.split.held
    assert footprint.widest(network, form, held, 1024).asked == asked


def test_memory_of_a_gpus_own_is_used_whole(network: Network, form: Form, monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer that is not kept unpacked there goes over the bus with each pass, and memory that lies idle is no use."""
    monkeypatch.setattr(fitting, "UNPACKED_BYTES", 0)
    monkeypatch.setattr(fitting, "HEADROOM_BYTES", 0)
    beside_others = fitting.fitted(network, form, todo_of(2048), available=AMPLE)
    monkeypatch.setattr(devices, "has_own_memory", lambda _device: True)
    alone = fitting.fitted(network, form, todo_of(2048), available=AMPLE)
    assert (beside_others.unpacked, alone.unpacked) == (0, 2)
    assert alone.checkpointed == 0


def test_tensors_that_no_pass_reads_whole_take_no_memory(tiny_gguf: Path, tmp_path: Path) -> None:
    """What sees pictures, and the table of which rows are looked up where the head is another."""
    pictures = {"v.patch_embd.weight": np.zeros((64, 64), np.float32)}
    file = gguf_file.read(rewritten(tiny_gguf, tmp_path / "more.gguf", tensors=pictures))
    sizes = {name: one.bytes for name, one in file.tensors.items()}
    table = sizes["token_embd.weight"]
    read = sum(sizes.values()) - sizes["v.patch_embd.weight"]
    assert Network(file, machine.bench(torch.float32)).weights.bytes == read - table
    tied = gguf_file.read(rewritten(file.path, tmp_path / "tied.gguf", tensors={"output.weight": None}))
    assert Network(tied, machine.bench(torch.float32)).weights.bytes == read - sizes["output.weight"]


def test_what_is_kept_unpacked_is_what_the_blocks_hold(network: Network, form: Form) -> None:
    packed = {one.name: network.bench.unpack(one).clone() for one in network.blocks[1].matrices.values()}
    blocks = {one.name: one.data.clone() for one in network.blocks[1].matrices.values()}
    fitting.set_up(network, form, replace(fitting.fitted(network, form, todo_of(40), available=AMPLE), unpacked=1))
    assert all(one.unpacked is None for one in network.blocks[0].matrices.values())
    for one in network.blocks[1].matrices.values():
        assert torch.equal(network.bench.unpack(one), packed[one.name])
        assert torch.equal(one.data, blocks[one.name]), "pages that went back are read anew"


def test_the_pages_of_what_is_kept_unpacked_go_back(tmp_path: Path) -> None:
    file = write_tiny_gguf(tmp_path / "floats.gguf", kind="F32")
    network = Network(gguf_file.read(file), machine.bench(torch.float32))
    for block in network.blocks:
        for matrix in block.matrices.values():
            matrix.data.sum()
    before = resident_of(file)
    network.keep_unpacked(len(network.blocks))
    assert resident_of(file) < before


def test_what_is_unpacked_already_is_not_unpacked_again(network: Network) -> None:
    """As where trainings are tried out one after another beside one network."""
    network.keep_unpacked(2)
    first = floats_of(network)
    assert len(first) == 2 * 7
    network.keep_unpacked(2)
    assert all(one is other for one, other in zip(floats_of(network), first, strict=True))


def test_layers_that_are_to_be_unpacked_no_longer_go_before_others_come(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    network.keep_unpacked(2)
    lower, upper = network.blocks
    network.keep_unpacked(1)
    assert all(one.unpacked is None for one in network.blocks[0].matrices.values())
    assert network.blocks[1] is upper
    network.blocks = (lower, upper.packed())
    gone = [weakref.ref(one.unpacked) for one in lower.matrices.values() if one.unpacked is not None]
    del lower, upper
    there: list[bool] = []
    unpacked = Bench.unpacked

    def noted(bench: Bench, matrix: PackedMatrix) -> PackedMatrix:
        there.extend(one() is not None for one in gone)
        return unpacked(bench, matrix)

    monkeypatch.setattr(Bench, "unpacked", noted)
    network.keep_unpacked(1)
    assert there == [False] * 7 * 7


def floats_of(network: Network) -> list[torch.Tensor]:
    """Of the matrices that are kept unpacked."""
    matrices = (matrix for block in network.blocks for matrix in block.matrices.values())
    return [one.unpacked for one in matrices if one.unpacked is not None]


def resident_of(file: Path) -> int:
    """Bytes of a file that this process has in memory."""
    found = 0
    lines = iter(Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines())
    for line in lines:
        if line.endswith(str(file)):
            found += next(int(one.split()[1]) * 1024 for one in lines if one.startswith("Rss:"))
    return found


def upper_alone(network: Network, form: Form) -> MemoryPlan:
    """The plan where one byte less than all layers need is to be had."""
    least = min(
        footprint.peak_bytes(network, form, footprint.probed(network, form, todo_of(2048).examples[:1]), cut, 0)
        for cut in (Cut(checkpointed=again) for again in range(network.architecture.layers + 1))
    )
    return fitting.fitted(network, form, todo_of(2048), available=least - 1)


def test_fewer_layers_are_trained_before_a_training_is_refused(network: Network, form: Form) -> None:
    plan = upper_alone(network, form)
    assert 0 < plan.trained_from < plan.layers
    assert plan.checkpointed == plan.layers - plan.trained_from
    assert plan.peak_bytes <= plan.available_bytes
    assert f"of {plan.layers} layers only the upper {plan.layers - plan.trained_from} are trained" in plan.sentence()


def test_a_plan_that_trains_all_layers_says_nothing_of_it(network: Network, form: Form) -> None:
    assert "upper" not in fitting.fitted(network, form, todo_of(40), available=AMPLE).sentence()


def test_layers_that_are_left_out_get_no_gradient_and_keep_nothing(network: Network, form: Form) -> None:
    fitting.set_up(network, form, upper_alone(network, form))
    network.form = form
    layout = lay_out([todo_of(40).examples[0].branches()], network.bench.device, shares=True)
    network.log_probabilities(layout).sum().backward()
    moved = {block_of(name) for name, one in form.parameters.items() if one.grad is not None}
    assert moved == set(range(1, network.architecture.layers))
    assert form.size() == sum(one.numel() for name, one in form.parameters.items() if block_of(name) >= 1)


ONE_A_TOKEN = Pace(
    alone=Line(fixed=0, slope=1),
    forth=Line(fixed=0, slope=1),
    back=Line(fixed=0, slope=2),
    head_forth=Line(fixed=0, slope=0),
    head_both=Line(fixed=0, slope=0),
)
"""A second for each token forth, two back; the head costs nothing."""


@pytest.mark.parametrize(
    ("method", "epochs", "cut", "passes"),
    [
        (TrainingMethod.SFT, 1, Cut(checkpointed=0), 3 + 2),
        (TrainingMethod.SFT, 4, Cut(checkpointed=0), 4 * 3 + 5),
        (TrainingMethod.SFT, 1, Cut(checkpointed=2), 3 + 1 + 2),
        (TrainingMethod.SFT, 1, Cut(checkpointed=1, trained_from=1), 1 + 0.5 + 1 + 2),
        (TrainingMethod.DPO, 1, Cut(checkpointed=0), 3 + 2 + 1),
        (TrainingMethod.KTO, 1, Cut(checkpointed=0), 3 + 3 * 2 + 1 + 2),
    ],
)
def test_every_pass_of_a_method_is_counted(method: TrainingMethod, epochs: int, cut: Cut, passes: float) -> None:
    """In seconds of all examples once forth. So few are watched too, before the training and after each epoch."""
    distinct = [Example(prompt=(1, number), answers=(Answer(tokens=(2, 3)),)) for number in range(16)]
    settings = replace(SETTINGS, num_epochs=epochs)
    todo = Todo(examples=distinct, method=method, settings=settings, seed=0, pads=False)
    assert pace.seconds(ONE_A_TOKEN, todo, 64, cut, layers=2) == pytest.approx(64 * passes)


@pytest.mark.parametrize("has_start", [False, True])
@pytest.mark.parametrize("method", TrainingMethod)
def test_what_is_told_is_what_a_training_puts_through_the_network(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: TrainingMethod, *, has_start: bool
) -> None:
    """In tokens that go forth, with three for each that is gone back from."""
    wanted, other = Answer(tokens=(2, 3)), Answer(tokens=(3, 2), liked=False)
    answers = (wanted, other) if method is TrainingMethod.DPO else (wanted,)
    examples = [Example(prompt=(number, number), answers=answers) for number in range(1, 17)]
    pads = network.pads(branching=method is TrainingMethod.DPO)
    todo = Todo(examples=examples, method=method, settings=SETTINGS, seed=0, pads=pads, has_start=has_start)
    whole, seen = Network.log_probabilities, list[int]()

    def counted(self: Network, layout: Layout) -> torch.Tensor:
        seen.append(layout.ids.shape[0] * (3 if torch.is_grad_enabled() else 1))
        return whole(self, layout)

    monkeypatch.setattr(Network, "log_probabilities", counted)
    plan = Plan(
        method=method,
        hyperparameters=SETTINGS,
        seed=0,
        tokens_a_pass=2048,
        output=tmp_path,
        signature="",
        has_start=has_start,
    )
    form, start = (make_form(network, SETTINGS, 0) for _ in range(2))
    train(network, form, examples, plan, lambda _done, _total, _text: None, reference=start if has_start else None)
    assert sum(seen) == pytest.approx(pace.seconds(ONE_A_TOKEN, todo, 2048, Cut(checkpointed=0), layers=2))


def test_the_narrowest_pass_is_timed_beside_one_that_is_too_wide_for_it(network: Network) -> None:
    """What each pass takes by itself is told by it; a row of thousands of tokens would hide that."""
    short, long = todo_of(20).examples[:1], todo_of(5000).examples[:1]
    todo = replace(todo_of(20), examples=[*short, *long])
    small, large = pace._unlike(todo, passes_of([short, long]))
    assert (list(small), todo.computed(large)) == (short, PROBED_TOKENS)
    small, large = pace._unlike(todo, passes_of([long]))
    assert (todo.computed(small), todo.computed(large)) == (PROBED_TOKENS // 2, PROBED_TOKENS)


@pytest.mark.parametrize("lengths", [[20], [20, 20, 20, 20], [18, 19, 20, 20], [2, 20]])
def test_two_passes_that_are_timed_are_wide_apart(lengths: list[int]) -> None:
    """Else what a line adds for each token is the chance of two times, and a wide pass is told by it."""
    rows = [
        Example(prompt=(number,) * (length - 1), answers=(Answer(tokens=(2,)),))
        for number, length in enumerate(lengths)
    ]
    todo = replace(todo_of(20), examples=rows)
    small, large = pace._unlike(todo, passes_of([rows]))
    assert list(large) == rows
    assert 0 < todo.computed(small) <= todo.computed(large) / pace.UNLIKE
    narrow = rows[:1]
    if todo.computed(rows) > 2 * todo.computed(narrow):
        assert pace._unlike(todo, passes_of([rows, narrow])) == (narrow, rows)


def test_layers_are_timed_one_behind_the_other(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """Again and again the same one would be met in the processor's caches."""
    layers = network.architecture.layers
    (sample,), otherwise = pace._samples(network, Cut(checkpointed=0), 40)
    assert [one.number for one in sample.blocks] == list(range(layers))
    assert otherwise is None
    # where one layer's results are kept at a time, or where its weights fill the caches, one is enough
    (tight,), _ = pace._samples(network, Cut(checkpointed=layers), 40)
    monkeypatch.setattr(pace, "CACHES_BYTES", 1)
    (large,), _ = pace._samples(network, Cut(checkpointed=0), 40)
    assert len(tight.blocks) == len(large.blocks) == 1
    assert tight.layers == large.layers == layers


@pytest.mark.parametrize(("unpacked", "others"), [(0, 0), (3, 3), (4, 3), (6, 1), (7, 0)])
def test_layers_are_timed_as_most_are_and_a_few_otherwise(tmp_path: Path, unpacked: int, others: int) -> None:
    file = write_tiny_architecture(tmp_path / "tiny.gguf", "gemma3")
    network = Network(gguf_file.read(file), machine.bench(torch.float32))
    (sample,), otherwise = pace._samples(network, Cut(checkpointed=0, unpacked=unpacked), 1)
    assert sample.layers == network.architecture.layers == 7
    assert {one.is_unpacked for one in sample.blocks} == {unpacked > 3}
    assert (otherwise.layers if otherwise else 0) == others
    if otherwise:
        assert {one.is_unpacked for one in otherwise.blocks} == {unpacked <= 3}


def in_seconds(seconds: Mapping[tuple[bool, int], float]) -> "Callable[..., NDArray[np.float64]]":
    """In place of `pace._layer_seconds`: by whether layers are unpacked and how many rows a pass has, back the double;
    without a gradient half of it, and no way back.
    """

    def timed(_: Network, examples: Sequence[Example], samples: Sequence[Sample]) -> "NDArray[np.float64]":
        forth = [seconds[one.blocks[0].is_unpacked, len(examples)] for one in samples]
        alone = not torch.is_grad_enabled()
        return np.array([(one / 2, 0.0) if alone else (one, 2 * one) for one in forth])

    return timed


def test_layers_that_are_otherwise_add_the_same_to_every_pass(
    network: Network, form: Form, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Timed in the narrow pass alone; what only goes forth takes its share of both."""
    layers = network.architecture.layers
    rows = [Example(prompt=(number,) * 9, answers=(Answer(tokens=(2,)),)) for number in range(3)]
    todo = replace(todo_of(20), examples=[rows[0]], pads=False)
    todo._learning[64] = passes_of([rows, rows[:1]])
    timed = {(False, 1): 10.0, (False, 3): 20.0, (True, 1): 7.0}
    monkeypatch.setattr(pace, "_layer_seconds", in_seconds(timed))
    found = pace.pace_of(network, form, todo, 64, Cut(checkpointed=0, unpacked=1))
    assert found.forth.at(10) == pytest.approx(10 * (layers - 1) + 7)
    assert found.forth.at(30) == pytest.approx(20 * (layers - 1) + 17)
    assert found.back.at(30) == pytest.approx(2 * found.forth.at(30))
    assert found.alone.at(30) == pytest.approx(found.forth.at(30) / 2)
    assert found.head_both.at(30) >= found.head_forth.at(30) > 0


@pytest.mark.parametrize(("tokens", "layers"), [(32, 32), (256, 4), (300, 3), (2048, 3)])
def test_wide_passes_go_through_fewer_layers(tokens: int, layers: int) -> None:
    """They take long, and fetching a layer's weights is little of that."""
    assert pace._chained(tokens) == layers


def test_a_window_makes_layers_of_another_kind_where_it_is_narrower_than_a_row(tmp_path: Path) -> None:
    file = write_tiny_architecture(tmp_path / "tiny.gguf", "gemma3")
    network = Network(gguf_file.read(file), machine.bench(torch.float32))
    form, window = make_form(network, SETTINGS, 0), network.architecture.window
    (alike,), _ = pace._samples(network, Cut(checkpointed=0), window)
    assert alike.layers == network.architecture.layers
    (local, whole), _ = pace._samples(network, Cut(checkpointed=0), window + 1)
    assert (local.layers, whole.layers) == (6, 1)
    layout = lay_out([todo_of(window).examples[0].branches()], network.bench.device, shares=True)
    with beside(network, form):
        kept = [
            footprint._kept_bytes(network, block, layout, network.reaches(layout), ()) for block in network.blocks[-2:]
        ]
    assert [network.architecture.is_local(block.number) for block in network.blocks[-2:]] == [False, True]
    assert kept[0] == kept[1]


@pytest.mark.parametrize(
    ("times", "counted"),
    [
        ([0.02, 0.02], [0.02, 0.02]),
        ([0.05, 0.02, 0.0219], [0.02, 0.0219]),
        ([0.05, 0.04, 0.02, 0.0219], [0.02, 0.0219]),
        ([0.01, 0.02, 0.03, 0.04, 0.05], [0.01, 0.02, 0.03, 0.04, 0.05]),
        ([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]),
        ([pace.LONG_S], [pace.LONG_S]),
    ],
    ids=[
        "two agree",
        "the first met page faults",
        "the first two",
        "no two agree",
        "nor does it take little",
        "longer",
    ],
)
def test_a_probe_is_made_until_two_tries_agree(times: list[float], counted: list[float]) -> None:
    """Of the others, which met page faults or others' work, nothing counts."""
    left = iter([*times, 0.0])
    assert [forth for forth, _ in pace._repeated(lambda: (next(left), 0.0))] == counted
    assert list(left) == [0.0]


def in_fours(*, examples: tuple[LearnedExample, ...], training: TrainingSoFar, seed: int) -> Stretch:
    """The first four over and over."""
    return Stretch(places=(0, 1, 2, 3), stage="easy")


def test_a_curriculum_is_evaluated_more_often(network: Network) -> None:
    """Sixteen examples in four stretches: once before the training, and after each."""
    distinct = [Example(prompt=(1, number), answers=(Answer(tokens=(2, 3)),)) for number in range(16)]
    settings = replace(SETTINGS, batch_size=4)
    todo = Todo(examples=distinct, method=TrainingMethod.SFT, settings=settings, seed=0, pads=False, arrange=in_fours)
    found = pace.seconds(ONE_A_TOKEN, todo, 64, Cut(checkpointed=0), layers=2)
    assert found == pytest.approx(64 * (3 + 1 + 4))


def test_a_curriculum_may_have_the_longest_come_several_times(network: Network, form: Form) -> None:
    """Whatever it is expected to do: it depends on losses."""
    short, long = todo_of(20).examples[0], todo_of(200).examples[0]
    todo = replace(todo_of(20), examples=[*[short] * 15, long], settings=replace(SETTINGS, batch_size=4))
    widest = footprint.widest(network, form, replace(todo, arrange=in_fours), 2048)
    together = footprint.widest(network, form, replace(todo, examples=[long] * 4), 2048)
    assert widest == replace(together, lengths=widest.lengths, asked=widest.asked)
    assert widest.tokens == 4 * 200


def test_a_curriculum_may_have_the_longest_come_together(network: Network, form: Form) -> None:
    """Each has a prompt of its own, which is computed and kept; of one that comes four times it is kept once."""
    long = [Example(prompt=(number,) * 180, answers=(Answer(tokens=(2,) * 20),)) for number in range(1, 5)]
    todo = replace(todo_of(20), examples=[*todo_of(20).examples, *long], settings=replace(SETTINGS, batch_size=4))
    widest = footprint.widest(network, form, replace(todo, arrange=in_fours), 2048)
    together = footprint.widest(network, form, replace(todo, examples=long), 2048)
    assert widest == replace(together, lengths=widest.lengths, asked=widest.asked)
    alike = footprint.widest(network, form, replace(todo, examples=long[:1] * 4), 2048)
    assert widest.kept_bytes > 1.5 * alike.kept_bytes


def test_the_head_is_unpacked_once_a_pass() -> None:
    of_head = replace(ONE_A_TOKEN, head_both=Line(fixed=10, slope=0.1))
    example = Example(prompt=(1,), answers=(Answer(tokens=(2,) * 9),))
    several = passes_of([[example]] * 2)
    assert of_head.whole(several, again=0, trained=1) == pytest.approx(2 * (10 * 3 + 10 + 9 * 0.1))


@given(fixed=st.floats(0, 10), slope=st.floats(1e-6, 1), small=st.integers(1, 500), more=st.integers(1, 500))
def test_a_line_through_two_times_gives_them_back(fixed: float, slope: float, small: int, more: int) -> None:
    large = small + more
    line = Line.through((small, fixed + slope * small), (large, fixed + slope * large))
    assert line.at(small) == pytest.approx(fixed + slope * small)
    assert line.at(large) == pytest.approx(fixed + slope * large)


@given(small=st.integers(1, 500), more=st.integers(0, 500), first=st.floats(1e-6, 9), second=st.floats(1e-6, 9))
def test_no_part_of_a_time_is_negative(small: int, more: int, first: float, second: float) -> None:
    line = Line.through((small, first), (small + more, second))
    assert line.fixed >= -1e-12
    assert line.slope >= 0
    assert line.at(small + more) == pytest.approx(second)


def test_a_row_longer_than_memory_is_refused_with_what_to_do(network: Network, form: Form) -> None:
    with pytest.raises(TrainingError, match=r"An example of 40 tokens needs .* Lower max_length"):
        fitting.fitted(network, form, todo_of(40), available=1)


def test_a_limit_on_the_address_space_is_kept_to(network: Network) -> None:
    """`ulimit -v`: a gigabyte more than this process has now."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    limit = psutil.Process().memory_info().vms + 10**9
    resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
    try:
        assert memory.available_bytes(network) <= 10**9
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize(
    ("groups", "files", "left"),
    [
        ("0::/a/b\n", {"a/b/memory.max": "9000", "a/b/memory.current": "2000"}, 7000),
        ("0::/a/b\n", {"a/memory.high": "5000", "a/memory.current": "6000", "a/b/memory.max": "max"}, 0),
        (
            "0::/a\n",
            {
                "a/memory.max": "9000",
                "a/memory.current": "8000",
                "a/memory.stat": "anon 1000\nfile 7000\ninactive_file 6500",
            },
            7500,
        ),
        (
            "4:memory:/a\n",
            {
                "memory/a/memory.limit_in_bytes": "9000",
                "memory/a/memory.usage_in_bytes": "8000",
                "memory/a/memory.stat": "inactive_file 10\ntotal_inactive_file 3000",
            },
            4000,
        ),
        (
            "9:name=systemd:/\n4:cpu,memory:/a/b\n0::/\n",
            {"memory/a/b/memory.limit_in_bytes": "9000", "memory/a/b/memory.usage_in_bytes": "1000"},
            8000,
        ),
        (
            "4:memory:/not/mounted:here\n",
            {"memory/memory.limit_in_bytes": "9000", "memory/memory.usage_in_bytes": "1000"},
            8000,
        ),
        ("3:cpuset:/a\n", {"cpuset/a/memory.limit_in_bytes": "9000"}, math.inf),
    ],
    ids=[
        "version 2",
        "a group above",
        "files that were read",
        "files that were read, version 1",
        "version 1",
        "the root of a container",
        "none",
    ],
)
def test_what_control_groups_leave_is_kept_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, groups: str, files: dict[str, str], left: float
) -> None:
    (tmp_path / "own").write_text(groups)
    for name, content in files.items():
        (tmp_path / "cgroup" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "cgroup" / name).write_text(f"{content}\n")
    monkeypatch.setattr(memory, "OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(memory, "GROUPS", tmp_path / "cgroup")
    assert memory._left_in_group() == left


def test_what_is_kept_grows_with_the_tokens(network: Network, form: Form) -> None:
    half, whole = (footprint.probed(network, form, todo_of(size).examples[:1]) for size in (256, 512))
    assert whole.kept_bytes == pytest.approx(2 * half.kept_bytes, rel=0.05)


def test_what_prompts_begin_with_alike_hides_no_wider_pass(network: Network, form: Form) -> None:
    """Eight answers to one prompt are more tokens than eight prompts, and fewer to compute."""
    unlike = [Example(prompt=(number,) * 250, answers=(Answer(tokens=(2,)),)) for number in range(1, 9)]
    alike = [Example(prompt=(9,) * 250, answers=(Answer(tokens=(2, number)),)) for number in range(8)]
    todo = Todo(examples=[*unlike, *alike], method=TrainingMethod.KTO, settings=SETTINGS, seed=0)
    assert todo.computed(alike) == 250 + 8 * 2
    assert todo.computed(unlike) == 8 * 251
    apart = Todo(examples=unlike, method=TrainingMethod.KTO, settings=SETTINGS, seed=0)
    widest, of_unlike = (footprint.widest(network, form, one, 4096) for one in (todo, apart))
    assert widest == replace(of_unlike, lengths=widest.lengths, asked=widest.asked)
    assert replace(todo, pads=False).computed(alike) == 8 * 252


def test_a_pass_too_wide_for_a_trial_is_extrapolated(network: Network, form: Form) -> None:
    tried, told = (footprint.probed(network, form, todo_of(size).examples[:1]) for size in (2048, 4096))
    assert told.tokens == 4096
    assert told.kept_bytes == pytest.approx(2 * tried.kept_bytes, rel=0.05)


def pair_of(prompt: int, answer: int) -> Example:
    return Example(prompt=(1,) * prompt, answers=(Answer(tokens=(2,) * answer), Answer(tokens=(3,) * answer)))


@pytest.mark.parametrize("longest", [900, 4000])
def test_the_masks_of_pairs_are_counted_once_for_all_layers(network: Network, form: Form, longest: int) -> None:
    pairs = [pair_of(longest - 40, 20)]
    todo = Todo(examples=pairs, method=TrainingMethod.DPO, settings=SETTINGS, seed=0)
    of_pairs = footprint.widest(network, form, todo, longest)
    alone = footprint.probed(network, form, todo_of(longest).examples[:1])
    assert of_pairs.kept_bytes == pytest.approx(alone.kept_bytes, rel=0.05)
    # one byte says whether a token sees another, four are added to its score
    assert of_pairs.shared_bytes - alone.shared_bytes == pytest.approx(5 * longest**2, rel=0.05)


def test_a_ragged_batch_is_planned_for_its_padding(network: Network, form: Form) -> None:
    """Seven short rows cost nothing beside a long one, which goes by itself."""
    long, short = todo_of(400).examples[0], todo_of(20).examples[0]
    ragged = replace(todo_of(400), examples=[long, *[short] * 7])
    found = footprint.widest(network, form, ragged, 600)
    assert (found.tokens, found.kept_bytes) == (400, footprint.probed(network, form, [long]).kept_bytes)
    in_line = footprint.widest(network, form, replace(ragged, pads=False), 600)
    assert in_line.tokens == 540


def test_a_training_goes_on_with_the_plan_that_it_began_with(network: Network, form: Form, tmp_path: Path) -> None:
    plan = fitting.fitted(network, form, todo_of(40), available=AMPLE)
    kept = KeptMemoryPlan(signature="a", plan=plan, dtype="bfloat16")
    assert kept_memory_plan(tmp_path, "a") is None
    keep_memory_plan(tmp_path, kept)
    assert kept_memory_plan(tmp_path, "a") == kept
    assert kept_memory_plan(tmp_path, "b") is None, "other data are planned anew"
    (tmp_path / "plan.json").write_text('{"signature": "a"}')
    assert kept_memory_plan(tmp_path, "a") is None, "what another release wrote is planned anew"


def test_with_less_memory_than_it_began_with_more_is_computed_twice_and_nothing_else_changes(
    network: Network, form: Form
) -> None:
    todo = todo_of(2048)
    begun = fitting.fitted(network, form, todo, available=AMPLE)
    available = begun.peak_bytes - kept_bytes(network, begun) - 1
    short = fitting.refitted(network, form, todo, begun, available=available)
    assert short.checkpointed > begun.checkpointed == 0
    assert short.peak_bytes < begun.peak_bytes
    same = replace(begun, checkpointed=short.checkpointed, unpacked=short.unpacked, peak_bytes=short.peak_bytes)
    assert short == replace(same, available_bytes=available, is_begun=True)
    again = fitting.refitted(network, form, todo, short, available=AMPLE)
    assert (again.checkpointed, again.unpacked) == (0, begun.unpacked)
    assert fitting.refitted(network, form, todo, begun, available=1).checkpointed == network.architecture.layers


def test_pages_of_the_base_that_are_in_memory_are_not_counted_twice(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, tensors = network.weights, network.file.tensors
    large = [one for one in tensors.values() if one.bytes > 4 * mmap.PAGESIZE]
    for one in large:
        weights.let_go(one.name)
    before = weights.resident_bytes()
    for one in large:
        rows, columns = one.shape
        int(weights.matrix(one.name, (rows, columns)).data.sum())
    pages = weights.resident_bytes()
    assert pages - before > 0.5 * sum(one.bytes for one in large)
    assert pages <= network.file.path.stat().st_size + mmap.PAGESIZE
    monkeypatch.setattr(memory, "resident_bytes", lambda: 10**9 + pages)
    monkeypatch.setattr(memory, "free_memory", lambda: 10**9)
    assert held_bytes(network) == 10**9
    assert memory.available_bytes(network) == (1 + memory.FREE_SHARE) * 10**9


def test_rows_of_unlike_length_leave_more_holes(network: Network, form: Form, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(footprint, "HOLES_A_LENGTH_BYTES", 1000)

    def peak(lengths: Iterable[int]) -> int:
        examples = [Example(prompt=(1,) * 20, answers=(Answer(tokens=(2,) * (one - 20)),)) for one in lengths]
        a_row_at_a_time = replace(SETTINGS, batch_size=1)
        todo = Todo(examples=examples, method=TrainingMethod.SFT, settings=a_row_at_a_time, seed=0)
        return fitting.fitted(network, form, todo, available=AMPLE).peak_bytes

    assert peak([*range(500, 508), 508]) - peak([508] * 9) == 1000 * 8
