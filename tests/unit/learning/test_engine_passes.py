"""However rows are put together, cut apart, padded or branched, every answer gets the same log-probabilities."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from nightschool_daemon.learning import gguf_file
from nightschool_daemon.learning.engine import attention, methods
from nightschool_daemon.learning.engine.examples import Answer, Example, passes
from nightschool_daemon.learning.engine.forms import LowRank, Neurons
from nightschool_daemon.learning.engine.layout import Branches, lay_out
from nightschool_daemon.learning.engine.network import Network
from nightschool_daemon.learning.engine.packed import Bench
from support.tiny_architectures import write_tiny_architecture

CPU = torch.device("cpu")
Open = Callable[[str], Network]
Ids = tuple[int, ...]
Drawn = list[tuple[Ids, tuple[Ids, ...]]]
TOKENS = st.lists(st.integers(3, 200), min_size=1, max_size=14).map(tuple)
ROWS = st.lists(st.tuples(TOKENS, st.lists(TOKENS, min_size=1, max_size=3).map(tuple)), min_size=1, max_size=4)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Open:
    """A tiny network of an architecture; Gemma's attend within 8 tokens in most layers."""
    directory, opened = tmp_path_factory.mktemp("tiny"), dict[str, Network]()

    def open_one(architecture: str) -> Network:
        if architecture not in opened:
            file = write_tiny_architecture(directory / f"{architecture}.gguf", architecture, kind="F32")
            opened[architecture] = Network(
                gguf_file.read(Path(file)), Bench(device=CPU, dtype=torch.float32, threads=1)
            )
        return opened[architecture]

    return open_one


def sums(network: Network, rows: list[Branches]) -> torch.Tensor:
    layout = lay_out(rows, CPU, shares=True)
    with torch.no_grad():
        return methods.sums_by_answer(network.log_probabilities(layout), layout.answer_of, layout.answers)


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gemma3", "mistral3"])
@settings(max_examples=8, deadline=None)
@given(drawn=ROWS)
def test_branches_count_as_rows_of_their_own(network: Open, architecture: str, drawn: Drawn) -> None:
    opened = network(architecture)
    rows = [Branches(stem=stem, answers=answers) for stem, answers in drawn]
    alone = [sums(opened, [Branches(stem=row.stem, answers=(one,))]) for row in rows for one in row.answers]
    torch.testing.assert_close(sums(opened, rows), torch.cat(alone), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gemma3", "phi3"])
def test_branches_teach_as_rows_of_their_own(network: Open, architecture: str) -> None:
    opened = network(architecture)
    opened.form = form = moved(opened)
    texts = [((1, *range(20, 33)), ((7, 8, 9), (3, 4), (5, 6, 7, 8))), ((1, 30), ((31, 32, 33, 34),))]
    branched = [Branches(stem=stem, answers=answers) for stem, answers in texts]
    alone = [Branches(stem=stem, answers=(one,)) for stem, answers in texts for one in answers]
    found = []
    for together in ([branched], [alone], [[one] for one in alone]):
        for rows in together:
            opened.log_probabilities(lay_out(rows, CPU, shares=True)).sum().backward()
        found.append(taken_gradients(form))
    opened.form = None
    for other in found[1:]:
        for name, gradient in found[0].items():
            torch.testing.assert_close(other[name], gradient, rtol=1e-3, atol=1e-4 * float(gradient.abs().max()))


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gemma3", "mistral3"])
@pytest.mark.parametrize("answers", [1, 2])
def test_what_rows_begin_with_alike_counts_and_teaches_as_if_each_had_its_own(
    network: Open, architecture: str, answers: int
) -> None:
    """A system prompt of all, questions that begin alike, and one that is asked twice."""
    opened = network(architecture)
    opened.form = form = moved(opened)
    stems = [(1, *range(20, 33), *more) for more in ((40, 41), (40, 42, 43), (50,), (50,))]
    rows = [Branches(stem=stem, answers=((7, 8, 9), (60 + number, 4))[:answers]) for number, stem in enumerate(stems)]
    found = []
    for shares in (True, False):
        layout = lay_out(rows, CPU, shares=shares)
        values = opened.log_probabilities(layout)
        values.sum().backward()
        found.append((len(layout.ids), values.detach(), taken_gradients(form)))
    opened.form = None
    (fewer, shared, taught), (count, apart, also_taught) = found
    assert count - fewer == 3 * 14 + 1 + 1
    torch.testing.assert_close(shared, apart, rtol=1e-4, atol=1e-3)
    for name, gradient in taught.items():
        torch.testing.assert_close(also_taught[name], gradient, rtol=1e-3, atol=1e-4 * float(gradient.abs().max()))


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "phi3"])
def test_products_of_16_bits_say_and_teach_nearly_the_same(tmp_path: Path, architecture: str) -> None:
    file = gguf_file.read(write_tiny_architecture(tmp_path / "tiny.gguf", architecture, kind="Q8_0"))
    rows = [Branches(stem=(1, *range(270, 290)), answers=((300, 301, 302), (303, 304)))]
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        network = Network(file, Bench(device=CPU, dtype=dtype, threads=2))
        network.form = form = moved(network)
        values = network.log_probabilities(lay_out(rows, CPU, shares=True))
        values.mean().backward()
        found.append((values.detach(), torch.cat([one.flatten() for one in taken_gradients(form).values()])))
    (exact, gradient), (rounded, rounded_gradient) = found
    assert float((rounded - exact).abs().max()) < 0.3
    assert float(torch.nn.functional.cosine_similarity(rounded_gradient, gradient, dim=0)) > 0.99


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "phi3", "qwen3"])
def test_rows_in_line_count_and_teach_as_padded_ones(network: Open, architecture: str) -> None:
    opened = network(architecture)
    opened.form = form = moved(opened)
    texts = [((1, *range(20, 33)), tuple(range(40, 52))), ((7,), (8,)), ((1, 30, 9), tuple(range(60, 68)))]
    rows = [Branches(stem=stem, answers=(answer,)) for stem, answer in texts]
    found = []
    for attend in (None, one_by_one):
        opened.rows_in_line = attend
        values = opened.log_probabilities(opened.lay_out(rows))
        values.sum().backward()
        found.append((values.detach(), taken_gradients(form)))
    opened.form = opened.rows_in_line = None
    (padded, taught), (in_line, also_taught) = found
    torch.testing.assert_close(in_line, padded, rtol=1e-4, atol=1e-3)
    for name, gradient in taught.items():
        torch.testing.assert_close(also_taught[name], gradient, rtol=1e-3, atol=1e-4 * float(gradient.abs().max()))


def one_by_one(q: Tensor, k: Tensor, v: Tensor, starts: Tensor, longest: int, before: int) -> Tensor:
    """What `RowsInLine` promises, written out: each row by itself, each query with the keys that it sees."""
    times = q.shape[1] // k.shape[1]
    found = []
    for begin, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        assert end - begin <= longest
        order = torch.arange(end - begin)
        distance = order[:, None] - order[None, :]
        visible = (distance >= 0) & ((distance <= before) | (before < 0))
        keys, values = (one[begin:end].repeat_interleave(times, dim=1) for one in (k, v))
        scores = torch.einsum("qhs,khs->hqk", q[begin:end], keys).masked_fill(~visible, -torch.inf)
        found.append(torch.einsum("hqk,khs->qhs", scores.softmax(-1), values))
    return torch.cat(found)


def test_torch_takes_what_rows_in_line_gives_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel is CUDA's; what goes in and what comes back is the same on fake tensors anywhere."""
    monkeypatch.setattr(attention, "runs", lambda *_: True)
    assert attention.rows_in_line(CPU, torch.bfloat16, 64) is None
    cuda = torch.device("cuda")
    assert attention.rows_in_line(cuda, torch.float32, 64) is None
    assert attention.rows_in_line(cuda, torch.bfloat16, 512) is None
    attend = attention.rows_in_line(cuda, torch.bfloat16, 64)
    assert attend is not None
    with FakeTensorMode():
        q = torch.empty(10, 4, 64, dtype=torch.bfloat16, requires_grad=True)
        k = torch.empty(10, 2, 64, dtype=torch.bfloat16, requires_grad=True)
        mixed = attend(q, k, k, torch.empty(3, dtype=torch.int32), 6, 7)
        mixed.sum().backward()
    assert mixed.shape == q.shape
    assert q.grad is not None
    assert k.grad is not None
    assert (q.grad.shape, k.grad.shape) == (q.shape, k.shape)


@pytest.mark.parametrize("fails", ["", "forth", "back"])
def test_rows_are_padded_where_the_kernel_for_rows_in_line_does_not_run(
    monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    """As without a GPU's own flash attention: it is there by its signature, and raises when it is called."""

    def gives(q: Tensor, k: Tensor, *_others: object) -> Tensor:
        if fails == "forth":
            raise RuntimeError("No available kernel")
        found = q + k
        if fails == "back":
            found.register_hook(_no_kernel)
        return found

    tried = attention.runs.__wrapped__
    monkeypatch.setattr(attention, "_varlen", lambda: gives)
    # asked as for CUDA, tried where there is a device
    monkeypatch.setattr(attention, "runs", lambda _device, *others: tried(CPU, *others))
    with torch.no_grad():
        found = attention.rows_in_line(torch.device("cuda"), torch.bfloat16, 64)
    assert found is (None if fails else gives)


def _no_kernel(_gradient: Tensor) -> Tensor:
    raise RuntimeError("No available kernel")


def moved(opened: Network) -> LowRank:
    """An adapter that is off its base."""
    form = LowRank(opened.linears(), rank=4, alpha=8, group=1, generator=torch.Generator().manual_seed(1))
    for name, one in form.parameters.items():
        if name.endswith("lora_b"):
            torch.nn.init.normal_(one, std=0.05, generator=torch.Generator().manual_seed(2))
    return form


def taken_gradients(form: LowRank) -> dict[str, torch.Tensor]:
    """The gradients, none of which is zero; they begin anew."""
    found = {}
    for name, one in form.parameters.items():
        assert one.grad is not None
        assert bool(one.grad.abs().sum() > 0)
        found[name], one.grad = one.grad, None
    return found


@settings(max_examples=50, deadline=None)
@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=20), tokens=st.integers(1, 100), padded=st.booleans())
def test_passes_lose_nothing_and_keep_their_bound(lengths: list[int], tokens: int, padded: bool) -> None:
    batch = [
        Example(prompt=(number,) * length, answers=(Answer(tokens=(2,)),)) for number, length in enumerate(lengths)
    ]
    parts = list(passes(batch, tokens, padded=padded))
    assert sorted(one.prompt[0] for part in parts for one in part) == list(range(len(batch)))
    for part in parts:
        sizes = [len(one) for one in part]
        assert len(part) == 1 or (len(part) * max(sizes) if padded else sum(sizes)) <= tokens


@pytest.mark.parametrize(
    ("architecture", "branching", "padded"), [("llama", False, False), ("llama", True, True), ("gemma2", False, True)]
)
def test_rows_are_padded_where_they_branch_or_scores_are_bounded(
    network: Open, architecture: str, branching: bool, padded: bool
) -> None:
    opened = network(architecture)
    assert opened.pads(branching=branching)
    opened.rows_in_line = one_by_one
    assert opened.pads(branching=branching) is padded
    opened.rows_in_line = None


@pytest.mark.parametrize(
    ("architecture", "form"),
    [
        *(
            (architecture, form)
            for architecture in ("llama", "gemma3", "phi3")
            for form in ("lora", "grouped", "neurons")
        ),
    ],
)
def test_layers_computed_twice_or_kept_unpacked_give_the_same_gradients(
    network: Open, architecture: str, form: str
) -> None:
    opened, generator = network(architecture), torch.Generator().manual_seed(1)
    if form == "neurons":
        opened.form = Neurons(opened.architecture, count=32, spread=opened.spread, generator=generator)
    else:
        group = 32 if form == "grouped" else 1
        opened.form = LowRank(opened.linears(), rank=4, alpha=8, group=group, generator=generator)
    for name, one in opened.form.parameters.items():
        if name.endswith(("lora_b", "ffn_down")):
            torch.nn.init.normal_(one, std=0.05)
    rows = [
        Branches(stem=(1, 5, 9, 11), answers=((7, 8, 9), (3, 4))),
        Branches(stem=(1, 30), answers=((31, 32, 33, 34),)),
    ]
    found = []
    packed = opened.blocks
    for checkpointed, unpacked in ((0, 0), (opened.architecture.layers, 0), (1, 1)):
        opened.computed_twice = range(checkpointed)
        opened.keep_unpacked(unpacked)
        opened.log_probabilities(lay_out(rows, CPU, shares=True)).sum().backward()
        found.append({name: one.grad for name, one in opened.form.parameters.items()})
        for one in opened.form.parameters.values():
            assert one.grad is not None
            assert bool(one.grad.abs().sum() > 0)
            one.grad = None
    opened.computed_twice, opened.form, opened.blocks = range(0), None, packed
    for name, gradient in found[0].items():
        for other in found[1:]:
            torch.testing.assert_close(other[name], gradient, rtol=1e-5, atol=1e-6)
