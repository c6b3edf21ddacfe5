"""How many neurons are added to real models, and what they take in memory with all that belongs to them."""

from pathlib import Path

import pytest
from gguf import GGMLQuantizationType as Kind

from nightschool_daemon.learning import gguf_file
from nightschool_daemon.learning.engine import fitting
from nightschool_daemon.learning.gguf_file import GgufFile
from nightschool_daemon.learning.lesson import block_of_neurons
from nightschool_daemon.learning.packed_route import STATE_BYTES, neurons_of
from nightschool_hookspecs.services import TrainingError
from support.hollow_gguf import SHAPES, write_hollow_gguf


def opened(directory: Path, model: str, kind: Kind) -> GgufFile:
    return gguf_file.read(write_hollow_gguf(directory / "hollow.gguf", SHAPES[model], kind))


def state_bytes(model: str, neurons: int) -> int:
    """Of so many a layer: 32-bit weights, their gradients and two moments."""
    shape = SHAPES[model]
    return 4 * 4 * 3 * neurons * shape.width * shape.layers


COUNTS = [
    ("SmolLM2 135M", Kind.Q4_1, 192, 0.16),
    ("SmolLM2 135M", Kind.Q8_0, 192, 0.16),
    ("Gemma 3 270M", Kind.Q4_K, 256, 0.14),
    ("Llama 3.2 1B", Kind.Q8_0, 448, 0.70),
    ("Llama 3.2 1B", Kind.Q4_K, 256, 0.40),
    ("Llama 3.2 3B", Kind.Q8_0, 160, 0.66),
    ("Llama 3.2 3B", Kind.Q4_K, 256, 1.06),
    ("Llama 3.1 8B", Kind.Q8_0, 96, 0.60),
    ("Llama 3.1 8B", Kind.Q4_K, 256, 1.61),
]


@pytest.mark.parametrize(("model", "kind", "count", "gigabytes"), COUNTS)
def test_so_many_neurons_are_added_as_leave_the_passes_their_room(
    tmp_path: Path, model: str, kind: Kind, count: int, gigabytes: float
) -> None:
    """An eighth beside small models, and beside large ones as many as half of the headroom holds, or one block."""
    file = opened(tmp_path, model, kind)
    assert neurons_of(file, 0) == count
    state = state_bytes(model, count)
    assert state / 1e9 == pytest.approx(gigabytes, abs=0.006)
    block = block_of_neurons(file)
    assert count % block == 0
    assert state <= fitting.HEADROOM_BYTES / 2 or count == block
    more = count + block
    assert more > SHAPES[model].feed_forward / 8 or state_bytes(model, more) > STATE_BYTES, "there is room for no more"


def test_so_many_as_are_asked_for_are_added_whatever_they_take(tmp_path: Path) -> None:
    file = opened(tmp_path, "Llama 3.1 8B", Kind.Q4_K)
    assert neurons_of(file, 1792) == 1792
    with pytest.raises(TrainingError, match="in multiples of 256, not 100"):
        neurons_of(file, 100)


def test_the_configuration_tells_how_much_they_may_take() -> None:
    configuration = Path(__file__).parents[3] / "config.toml"
    assert f"as many as take {STATE_BYTES // 10**6} MB in training" in configuration.read_text(encoding="utf-8")
