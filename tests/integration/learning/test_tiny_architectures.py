"""The engine serves every tiny architecture, each variant's feature shows in what it says, and we compute the same."""

import math
from collections.abc import Sequence
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from nightschool_daemon.learning import gguf_file
from nightschool_daemon.learning.engine.architecture import is_known, read_architecture
from nightschool_daemon.learning.engine.network import Network
from nightschool_daemon.learning.engine.packed import Bench
from nightschool_daemon.ollama.library import NextToken
from nightschool_hookspecs.services import TrainingError
from support.deliveries import delivered, with_neurons
from support.engine_logprobs import (
    EXACT,
    ROUNDED,
    ROUNDED_ON_AVERAGE,
    TEXTS,
    differences,
    engine_logprobs,
    token_ids,
)
from support.ollama_server import OllamaServer
from support.rewritten_gguf import rewritten
from support.tiny_architectures import DEFAULTS, KINDS, ORIGINAL_CONTEXT, VARIANTS, write_tiny_architecture

NOT_TRAINED = "qwen3moe"
SERVED = [
    *(("llama", kind) for kind in ("Q2_K", "Q5_0", "Q8_0")),
    *((architecture, kind) for architecture in DEFAULTS if architecture != NOT_TRAINED for kind in ("Q4_K", "IQ4_XS")),
]
"""Architectures, and in which types of weights each is served."""
CLEARLY = 0.5
"""Difference of two logarithms that no rounding explains: with F32 weights that is below 0.02."""


@pytest.mark.parametrize("architecture", DEFAULTS)
def test_engine_serves_every_variant_and_each_differs(ollama: OllamaServer, tmp_path: Path, architecture: str) -> None:
    default = served(ollama, tmp_path, architecture)
    for variant in VARIANTS[architecture]:
        assert distance(default, served(ollama, tmp_path, architecture, variant=variant)) > CLEARLY, variant


def test_context_chooses_between_long_and_short_factors(ollama: OllamaServer, tmp_path: Path) -> None:
    file = write_tiny_architecture(tmp_path / "phi3-contexts.gguf", "phi3", kind="F32", variant="longrope")
    short, long = (engine_logprobs(ollama, file, TEXTS, context_tokens=tokens) for tokens in (ORIGINAL_CONTEXT, 512))
    assert distance(short, long) > CLEARLY
    assert disagreement(file, short, context=ORIGINAL_CONTEXT) < EXACT
    assert disagreement(file, long, context=512) < EXACT


@pytest.mark.parametrize("architecture", ["gemma2", "gemma3"])
def test_a_list_of_the_layers_that_are_local_anyway_changes_nothing(
    ollama: OllamaServer, tmp_path: Path, architecture: str
) -> None:
    plain = write_tiny_architecture(tmp_path / f"{architecture}-plain.gguf", architecture, kind="F32")
    shape = read_architecture(gguf_file.read(plain))
    local = [shape.is_local(layer) for layer in range(shape.layers)]
    keys = {f"{architecture}.attention.sliding_window_pattern": local}
    listed = rewritten(plain, tmp_path / f"{architecture}-listed.gguf", keys=keys)
    found = engine_logprobs(ollama, listed, TEXTS)
    assert distance(engine_logprobs(ollama, plain, TEXTS), found) < EXACT
    assert disagreement(listed, found) < EXACT


@pytest.mark.parametrize(("architecture", "variant"), [("llama", "bias"), ("phi3", "")])
def test_engine_serves_added_neurons(ollama: OllamaServer, tmp_path: Path, architecture: str, variant: str) -> None:
    """Biases are as many as neurons, and where one tensor holds gate and up each half has its own."""
    base = write_tiny_architecture(tmp_path / f"{architecture}-base.gguf", architecture, kind="F32", variant=variant)
    network = Network(gguf_file.read(base), Bench(device=torch.device("cpu"), dtype=torch.float32, threads=1))
    lesson = with_neurons(network, 32, tmp_path / "adapter")
    file = delivered(lesson, tmp_path).path.rename(tmp_path / f"{architecture}-wider.gguf")
    found = engine_logprobs(ollama, file, TEXTS)
    assert distance(engine_logprobs(ollama, base, TEXTS), found) > CLEARLY
    assert disagreement(file, found) < EXACT


@pytest.mark.parametrize("kind", KINDS)
def test_every_type_of_weights_reads_back(tmp_path: Path, kind: str) -> None:
    exact, file = (
        gguf.GGUFReader(write_tiny_architecture(tmp_path / f"{one}.gguf", "llama", kind=one)) for one in ("F32", kind)
    )
    for one, other in zip(exact.tensors, file.tensors, strict=True):
        values, read = gguf.dequantize(one.data, one.tensor_type), gguf.dequantize(other.data, other.tensor_type)
        assert np.corrcoef(values.ravel(), read.ravel())[0, 1] > 0.93, one.name


@pytest.mark.parametrize(("architecture", "kind"), SERVED)
def test_engine_computes_every_architecture_in_types_of_weights_as_we_do(
    ollama: OllamaServer, tmp_path: Path, architecture: str, kind: str
) -> None:
    file = write_tiny_architecture(tmp_path / f"{architecture}-{kind}.gguf", architecture, kind=kind)
    found = engine_logprobs(ollama, file, TEXTS)
    require_sound(found)
    differing = differences(file, TEXTS, found)
    assert max(differing) < ROUNDED
    assert sum(differing) / len(differing) < ROUNDED_ON_AVERAGE


def test_what_the_engine_cannot_train_is_refused_with_a_sentence(tmp_path: Path) -> None:
    file = gguf_file.read(write_tiny_architecture(tmp_path / "moe.gguf", NOT_TRAINED, kind="F32"))
    assert not is_known(file)
    with pytest.raises(TrainingError, match="does not know the architecture 'qwen3moe'"):
        read_architecture(file)


def served(server: OllamaServer, directory: Path, architecture: str, *, variant: str = "") -> Sequence[NextToken]:
    """Logprobs of a model, once they are found sound."""
    path = directory / f"{architecture}-{variant or 'default'}.gguf"
    file = write_tiny_architecture(path, architecture, kind="F32", variant=variant)
    found = engine_logprobs(server, file, TEXTS)
    require_sound(found)
    if is_known(gguf_file.read(file)):
        assert disagreement(file, found) < EXACT, path.stem
    file.unlink()
    return found


def disagreement(file: Path, found: Sequence[NextToken], *, context: int = 512) -> float:
    """Largest difference between the engine's logarithms and our own."""
    return max(differences(file, TEXTS, found, context_tokens=context))


def require_sound(found: Sequence[NextToken]) -> None:
    """Twenty finite logarithms behind each text, far from flat, and as many tokens as characters and one."""
    for text, one in zip(TEXTS, found, strict=False):
        values = [token.logprob for token in one.top]
        assert len(values) == 20
        assert all(map(math.isfinite, values))
        assert values[0] - values[-1] > 1
        assert one.prompt_tokens == len(token_ids(text))


def distance(some: Sequence[NextToken], others: Sequence[NextToken]) -> float:
    """Largest difference of a token's logprob; a token that only one side lists counts with the other's last."""
    return max(_distance(one, other) for one, other in zip(some, others, strict=True))


def _distance(one: NextToken, other: NextToken) -> float:
    listed = [{token.token: token.logprob for token in side.top} for side in (one, other)]
    last = [side.top[-1].logprob for side in (one, other)]
    tokens = listed[0].keys() | listed[1].keys()
    return max(abs(listed[0].get(token, last[0]) - listed[1].get(token, last[1])) for token in tokens)
