"""A saved adapter is read back as it was, and what would begin somewhere else is refused."""

import json
import math
import os
import pickle
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from nightschool_daemon.learning import gguf_file
from nightschool_daemon.learning.engine.forms import Form, LowRank, Neurons
from nightschool_daemon.learning.engine.network import Network
from nightschool_daemon.learning.engine.packed import Bench
from nightschool_daemon.learning.lesson import PREFIX, read_lesson
from nightschool_daemon.learning.peft_files import base_name, load_form, require_start, save_form
from nightschool_hookspecs.records import Hyperparameters, TrainedForm
from nightschool_hookspecs.services import TrainingError
from support.rewritten_gguf import rewritten
from support.tiny_architectures import write_tiny_architecture

CPU = torch.device("cpu")
F = TypeVar("F", bound=Form)
Open = Callable[[str], Network]
WEIGHTS, CONFIGURATION = "adapter_model.safetensors", "adapter_config.json"


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Open:
    directory = tmp_path_factory.mktemp("tiny")

    def opened(architecture: str) -> Network:
        path = directory / f"{architecture}.gguf"
        if not path.exists():
            write_tiny_architecture(path, architecture, kind="F32")
        return Network(gguf_file.read(path), Bench(device=CPU, dtype=torch.float32, threads=1))

    return opened


def low_rank(opened: Network, *, seed: int = 0, rank: int = 4, alpha: float = 8, group: int = 1) -> LowRank:
    generator = torch.Generator().manual_seed(seed)
    form = LowRank(opened.linears(), rank=rank, alpha=alpha, group=group, generator=generator)
    return filled(form, generator)


def filled(form: F, generator: torch.Generator) -> F:
    for one in form.parameters.values():
        torch.nn.init.normal_(one, generator=generator)
    return form


def assert_equal(form: Form, other: Form) -> None:
    for name, one in form.parameters.items():
        torch.testing.assert_close(other.parameters[name], one, rtol=1e-6, atol=1e-6, msg=name)


@pytest.mark.parametrize("group", [1, 32])
@pytest.mark.parametrize("architecture", ["llama", "mistral3", "gemma3", "phi3"])
def test_a_low_rank_form_comes_back(network: Open, tmp_path: Path, architecture: str, group: int) -> None:
    opened = network(architecture)
    form, other = (low_rank(opened, seed=seed, group=group) for seed in (0, 1))
    save_form(form, opened.file, tmp_path / "adapter")
    load_form(other, opened.file, tmp_path / "adapter")
    assert_equal(form, other)


@pytest.mark.parametrize("begin", ["model.", "model.language_model.", "language_model.model."])
@pytest.mark.parametrize("architecture", ["gemma3", "mistral3"])
def test_an_adapter_of_a_text_model_by_itself_and_of_one_that_sees_means_the_same(
    network: Open, tmp_path: Path, architecture: str, begin: str
) -> None:
    """The last was how transformers named it before 4.52."""
    opened = network(architecture)
    form, other = (low_rank(opened, seed=seed) for seed in (0, 1))
    save_form(form, opened.file, tmp_path)
    written = load_file(tmp_path / WEIGHTS)
    save_file(
        {f"{PREFIX}{begin}{key[key.index('layers.') :]}": one for key, one in written.items()}, tmp_path / WEIGHTS
    )
    load_form(other, opened.file, tmp_path)
    assert_equal(form, other)
    assert len(read_lesson(tmp_path, opened.file).touched) == len(opened.linears())


@pytest.mark.parametrize("sees", [False, True])
def test_an_adapter_has_the_names_of_the_model_that_its_base_is_published_in(
    network: Open, tmp_path: Path, *, sees: bool
) -> None:
    opened = network("gemma3")
    tensors = {"v.patch_embd.weight": np.zeros((4, 4), np.float32)} if sees else {}
    file = gguf_file.read(rewritten(opened.file.path, tmp_path / "base.gguf", tensors=tensors))
    save_form(low_rank(opened), file, tmp_path / "adapter")
    begin = f"{PREFIX}model.language_model.layers." if sees else f"{PREFIX}model.layers."
    assert all(key.startswith(begin) for key in load_file(tmp_path / "adapter" / WEIGHTS))


def test_neurons_come_back(network: Open, tmp_path: Path) -> None:
    opened = network("qwen2")
    form, other = (
        filled(Neurons(opened.architecture, count=32, spread=opened.spread, generator=generator), generator)
        for generator in (torch.Generator().manual_seed(seed) for seed in (0, 1))
    )
    save_form(form, opened.file, tmp_path / "adapter")
    load_form(other, opened.file, tmp_path / "adapter")
    assert_equal(form, other)


@pytest.mark.parametrize(("rank", "alpha", "group"), [(6, 8, 1), (4, 16, 1), (8, 4, 1)])
def test_an_adapter_of_a_lower_rank_or_another_alpha_means_the_same(
    network: Open, tmp_path: Path, rank: int, alpha: float, group: int
) -> None:
    opened = network("llama")
    form = low_rank(opened)
    save_form(form, opened.file, tmp_path / "adapter")
    generator = torch.Generator().manual_seed(1)
    other = LowRank(opened.linears(), rank=rank, alpha=alpha, group=group, generator=generator)
    load_form(other, opened.file, tmp_path / "adapter")
    assert_same_changes(form, other)


def test_what_was_trained_over_groups_is_plain_lora_too(network: Open, tmp_path: Path) -> None:
    opened = network("llama")
    form = low_rank(opened, group=32)
    save_form(form, opened.file, tmp_path / "adapter")
    other = LowRank(opened.linears(), rank=4, alpha=8, group=1, generator=torch.Generator().manual_seed(1))
    load_form(other, opened.file, tmp_path / "adapter")
    assert_same_changes(form, other)


def assert_same_changes(form: LowRank, other: LowRank) -> None:
    theirs = {name: other.scale * up @ down for name, down, up in other.low_rank()}
    for name, down, up in form.low_rank():
        torch.testing.assert_close(theirs[name], form.scale * up @ down, rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.parametrize("changed", [{"rank": 2}, {"group": 32}])
def test_a_higher_rank_or_another_group_is_refused(network: Open, tmp_path: Path, changed: dict[str, int]) -> None:
    opened = network("llama")
    save_form(low_rank(opened), opened.file, tmp_path / "adapter")
    with pytest.raises(TrainingError, match="has rank 4 over groups of 1"):
        load_form(low_rank(opened, **changed), opened.file, tmp_path / "adapter")


def test_an_adapter_of_another_base_is_refused(network: Open, tmp_path: Path) -> None:
    opened, other = network("llama"), network("gemma3")
    save_form(low_rank(other), other.file, tmp_path / "adapter")
    with pytest.raises(TrainingError, match=r"trained for another base|not trained here"):
        load_form(low_rank(opened), opened.file, tmp_path / "adapter")


@pytest.mark.parametrize("broken", [WEIGHTS, CONFIGURATION])
def test_a_directory_that_is_no_adapter_is_told(network: Open, tmp_path: Path, broken: str) -> None:
    opened = network("llama")
    save_form(low_rank(opened), opened.file, tmp_path / "adapter")
    (tmp_path / "adapter" / broken).write_bytes(b"{broken")
    with pytest.raises(TrainingError, match=r"is no PEFT adapter|holds no safetensors"):
        load_form(low_rank(opened), opened.file, tmp_path / "adapter")
    (tmp_path / "adapter" / broken).unlink()
    with pytest.raises(TrainingError, match=r"it is missing, or no file"):
        load_form(low_rank(opened), opened.file, tmp_path / "adapter")


@pytest.mark.parametrize(
    "setting",
    [
        {"use_rslora": True},
        {"use_dora": True},
        {"rank_pattern": {"q_proj": 2}},
        {"alora_invocation_tokens": [1, 2]},
        {"layer_replication": [[0, 2], [1, 2]]},
        # what is trained beside another base than that of the file
        {"init_lora_weights": "pissa_niter_4"},
        {"init_lora_weights": "olora"},
    ],
)
def test_an_adapter_that_means_more_than_its_factors_is_refused(
    network: Open, tmp_path: Path, setting: dict[str, object]
) -> None:
    opened = network("llama")
    save_form(low_rank(opened), opened.file, tmp_path)
    configuration = json.loads((tmp_path / CONFIGURATION).read_text())
    (tmp_path / CONFIGURATION).write_text(json.dumps(configuration | setting))
    with pytest.raises(TrainingError, match="no plain LoRA"):
        load_form(low_rank(opened), opened.file, tmp_path)


@pytest.mark.parametrize("begun", [True, False, "gaussian", "eva"])
def test_however_its_factors_began_an_adapter_beside_the_base_is_read(
    network: Open, tmp_path: Path, begun: object
) -> None:
    opened = network("llama")
    save_form(low_rank(opened), opened.file, tmp_path)
    configuration = json.loads((tmp_path / CONFIGURATION).read_text())
    (tmp_path / CONFIGURATION).write_text(json.dumps(configuration | {"init_lora_weights": begun}))
    load_form(low_rank(opened), opened.file, tmp_path)


def test_an_adapter_of_some_layers_leaves_the_others_as_they_begin(network: Open, tmp_path: Path) -> None:
    opened = network("llama")
    form = low_rank(opened)
    save_form(form, opened.file, tmp_path)
    queries = {name: one for name, one in load_file(tmp_path / WEIGHTS).items() if ".q_proj." in name}
    save_file(queries, tmp_path / WEIGHTS)
    other = LowRank(opened.linears(), rank=4, alpha=8, group=1, generator=torch.Generator().manual_seed(1))
    load_form(other, opened.file, tmp_path)
    for name, one in other.parameters.items():
        if ".attn_q." in name:
            torch.testing.assert_close(one, form.parameters[name])
        elif name.endswith(".lora_b"):
            assert not one.any()


def test_an_adapter_with_more_is_refused(network: Open, tmp_path: Path) -> None:
    opened = network("llama")
    save_form(low_rank(opened), opened.file, tmp_path)
    whole = load_file(tmp_path / WEIGHTS)
    save_file({**whole, "base_model.model.lm_head.lora_A.weight": torch.ones(4, 256)}, tmp_path / WEIGHTS)
    with pytest.raises(TrainingError, match=r"lm_head\.lora_A\.weight, which is not trained here"):
        load_form(low_rank(opened), opened.file, tmp_path)


# --------------------------------------------------------------------------- hostile files


class Opener:
    """What pickle makes of this is a call."""

    def __init__(self, sentinel: Path) -> None:
        self._sentinel = sentinel

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (self._sentinel,)


def safetensors(header: bytes, data: bytes = b"", *, claimed: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if claimed is None else claimed) + header + data


def entry(shape: list[int], *offsets: int) -> dict[str, object]:
    return {"dtype": "F32", "shape": shape, "data_offsets": offsets}


HOSTILE_WEIGHTS: Mapping[str, tuple[bytes, str]] = {
    "header of 100 MB": (safetensors(b"{" + b" " * (100_000_000 - 2) + b"}"), "claims 100000000 bytes"),
    "header of 2^63 bytes": (safetensors(b"{}", claimed=2**63), "claims 9223372036854775808 bytes"),
    "overlapping tensors": (
        safetensors(json.dumps({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}).encode(), bytes(12)),
        "holds no safetensors",
    ),
    "tensor beyond the file": (
        safetensors(json.dumps({"a": entry([2**40], 0, 2**42)}).encode(), bytes(8)),
        "holds no safetensors",
    ),
    "truncated": (safetensors(b'{"a', claimed=400), "holds no safetensors"),
    "nothing": (b"", "holds no safetensors"),
    "no tensors": (safetensors(b"{}"), "it is empty"),
    "no number": (
        safetensors(json.dumps({"a": entry([1], 0, 4)}).encode(), struct.pack("<f", math.nan)),
        "a holds what is no number",
    ),
    "another tensor": (
        safetensors(json.dumps({"\u001b[2J": entry([1], 0, 4)}).encode(), bytes(4)),
        r"changes \\x1b\[2J, which is not trained here",
    ),
}


@pytest.mark.parametrize("which", HOSTILE_WEIGHTS)
def test_hostile_weights_are_refused(network: Open, tmp_path: Path, which: str) -> None:
    content, sentence = HOSTILE_WEIGHTS[which]
    opened = network("llama")
    save_form(low_rank(opened), opened.file, tmp_path / "adapter")
    (tmp_path / "adapter" / WEIGHTS).write_bytes(content)
    with pytest.raises(TrainingError, match=sentence):
        load_form(low_rank(opened), opened.file, tmp_path / "adapter")


def pickle_of(value: object, file: Path) -> None:
    file.write_bytes(pickle.dumps(value))


@pytest.mark.parametrize("write", [pickle_of, torch.save], ids=["pickle", "torch"])
@pytest.mark.parametrize("name", [WEIGHTS, "neurons.safetensors"])
def test_a_pickle_under_another_name_is_refused_and_not_run(
    network: Open, tmp_path: Path, write: Callable[[object, Path], None], name: str
) -> None:
    opened, sentinel = network("llama"), tmp_path / "sentinel"
    form: Form = low_rank(opened)
    if name == "neurons.safetensors":
        generator = torch.Generator().manual_seed(0)
        form = Neurons(opened.architecture, count=32, spread=opened.spread, generator=generator)
    save_form(form, opened.file, tmp_path / "adapter")
    write(Opener(sentinel), tmp_path / "adapter" / name)
    with pytest.raises(TrainingError, match="holds no safetensors"):
        load_form(form, opened.file, tmp_path / "adapter")
    assert not sentinel.exists()


def test_what_pickle_would_have_run_is_real(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Opener(tmp_path / "sentinel")))  # noqa: S301 - its own
    assert (tmp_path / "sentinel").exists()


HOSTILE_CONFIGURATIONS: Mapping[str, tuple[str, str]] = {
    "a list": ("[]", "holds no object"),
    "nested without end": ("[" * 100_000, "is no PEFT adapter"),
    "too large": (" " * (2 << 20), "larger than"),
    "no rank": ('{"peft_type": "LORA", "lora_alpha": 8}', "r is no whole number"),
    "rank of nothing": ('{"peft_type": "LORA", "r": 0, "lora_alpha": 8}', "r is no whole number"),
    "rank in words": ('{"peft_type": "LORA", "r": "four", "lora_alpha": 8}', "r is no whole number"),
    "alpha that is no number": ('{"peft_type": "LORA", "r": 4, "lora_alpha": NaN}', "lora_alpha is no number"),
    "no alpha": ('{"peft_type": "LORA", "r": 4}', "lora_alpha is no number"),
    "another kind": ('{"peft_type": "IA3", "r": 4}', "no plain LoRA"),
}


@pytest.mark.parametrize("which", HOSTILE_CONFIGURATIONS)
def test_hostile_configurations_are_refused(network: Open, tmp_path: Path, which: str) -> None:
    content, sentence = HOSTILE_CONFIGURATIONS[which]
    opened = network("llama")
    save_form(low_rank(opened), opened.file, tmp_path / "adapter")
    (tmp_path / "adapter" / CONFIGURATION).write_text(content)
    with pytest.raises(TrainingError, match=sentence):
        load_form(low_rank(opened), opened.file, tmp_path / "adapter")
    with pytest.raises(TrainingError, match=sentence):
        require_start(tmp_path / "adapter", settings_of(TrainedForm.LORA))


def settings_of(form: TrainedForm, rank: int = 4) -> Hyperparameters:
    return Hyperparameters(form=form, lora_r=rank, lora_alpha=2 * rank)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (settings_of(TrainedForm.LORA), ""),
        (settings_of(TrainedForm.LORA, 8), ""),
        (settings_of(TrainedForm.LORA, 2), "has rank 4 over groups of 1, and one of rank 2"),
        (settings_of(TrainedForm.GROUPED), "over groups of 1, and one of rank 4 over groups of 32"),
        (settings_of(TrainedForm.NEURONS), "has another form"),
    ],
)
def test_whether_a_start_fits_is_known_before_the_base_is_opened(
    network: Open, tmp_path: Path, settings: Hyperparameters, sentence: str
) -> None:
    opened = network("llama")
    save_form(low_rank(opened), opened.file, tmp_path / "adapter")
    if not sentence:
        require_start(tmp_path / "adapter", settings)
        return
    with pytest.raises(TrainingError, match=sentence):
        require_start(tmp_path / "adapter", settings)


@pytest.mark.parametrize("content", ["[]", "{}", '{"group": 0}'])
def test_a_hostile_description_is_refused(network: Open, tmp_path: Path, content: str) -> None:
    opened = network("llama")
    save_form(low_rank(opened), opened.file, tmp_path / "adapter")
    (tmp_path / "adapter" / "nightschool.json").write_text(content)
    with pytest.raises(TrainingError, match="is no PEFT adapter's"):
        load_form(low_rank(opened), opened.file, tmp_path / "adapter")


@pytest.mark.parametrize("name", [WEIGHTS, CONFIGURATION])
def test_a_pipe_is_not_waited_for(network: Open, tmp_path: Path, name: str) -> None:
    opened = network("llama")
    save_form(low_rank(opened), opened.file, tmp_path / "adapter")
    (tmp_path / "adapter" / name).unlink()
    os.mkfifo(tmp_path / "adapter" / name)
    with pytest.raises(TrainingError, match="it is missing, or no file"):
        load_form(low_rank(opened), opened.file, tmp_path / "adapter")


@pytest.mark.parametrize("shape", [(4,), (4, 1, 256), (0, 256)])
@pytest.mark.parametrize("which", ["lora_A", "lora_B"])
def test_factors_of_another_shape_are_refused(
    network: Open, tmp_path: Path, which: str, shape: tuple[int, ...]
) -> None:
    opened = network("llama")
    save_form(low_rank(opened), opened.file, tmp_path)
    whole = load_file(tmp_path / WEIGHTS)
    name = next(one for one in whole if which in one)
    save_file({**whole, name: torch.ones(shape)}, tmp_path / WEIGHTS)
    with pytest.raises(TrainingError, match=r"is no matrix|is of shape"):
        load_form(low_rank(opened), opened.file, tmp_path)


SOURCE = "general.source.repo_url"


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"general.name": "Tiny 1B Instruct"}, "Tiny 1B Instruct (GGUF)"),
        # a word alone would be looked for on Hugging Face
        ({"general.name": "gpt2"}, "gpt2 (GGUF)"),
        ({"general.name": None}, ""),
        ({SOURCE: "https://huggingface.co/owner/Tiny-1.5B"}, "owner/Tiny-1.5B"),
        ({SOURCE: "https://huggingface.co/owner/Tiny-1.5B/", "general.name": None}, "owner/Tiny-1.5B"),
        ({SOURCE: "https://huggingface.co/owner", "general.name": "a"}, "a (GGUF)"),
        ({SOURCE: "https://example.org/owner/tiny", "general.name": "a"}, "a (GGUF)"),
        # what it was fine-tuned from is another model
        ({"general.base_model.0.repo_url": "https://huggingface.co/owner/tiny", "general.name": "a"}, "a (GGUF)"),
    ],
)
def test_an_adapter_names_the_model_that_it_was_trained_beside(
    tmp_path: Path, keys: Mapping[str, str | None], named: str
) -> None:
    plain = write_tiny_architecture(tmp_path / "plain.gguf", "llama")
    assert base_name(gguf_file.read(rewritten(plain, tmp_path / "named.gguf", keys=keys))) == named


def test_that_name_is_in_the_adapter(network: Open, tmp_path: Path) -> None:
    opened = network("llama")
    save_form(low_rank(opened), opened.file, tmp_path / "adapter")
    written = json.loads((tmp_path / "adapter" / CONFIGURATION).read_text(encoding="utf-8"))
    assert written["base_model_name_or_path"] == base_name(opened.file) != ""
