"""What no lesson touches stands in the delivered files byte for byte, as somebody else reads them."""

from collections.abc import Callable, Mapping
from pathlib import Path

import gguf
import numpy as np
import pytest

from nightschool_daemon.jobs import DeliveredFile
from nightschool_daemon.learning import gguf_file
from nightschool_daemon.learning.export import Parcel, write_fused, write_split
from nightschool_daemon.learning.gguf_file import GgufFile
from nightschool_daemon.learning.lesson import Lesson, LowRankDelta, LowRankLesson, NeuronLesson
from nightschool_daemon.learning.rounding import Demand
from support.rewritten_gguf import rewritten
from support.tiny_architectures import write_tiny_architecture

COUNT = 256
"""Of added neurons a layer."""
Stored = tuple[str, tuple[int, ...], bytes]
"""A tensor's type, shape and content."""


def low_rank(file: GgufFile) -> LowRankLesson:
    """A lesson in one matrix of each block."""
    generator = np.random.default_rng(0)
    factors = {}
    for name in (one for one in file.tensors if one.endswith("attn_output.weight")):
        rows, columns = file.tensors[name].shape
        up, down = (generator.standard_normal(shape).astype(np.float32) for shape in ((rows, 2), (2, columns)))
        factors[name] = LowRankDelta(module=name, down=down, up=up, scale=0.01)
    return LowRankLesson(file, factors)


def neurons(file: GgufFile) -> NeuronLesson:
    """A lesson in the feed-forward matrices of every block."""
    width, layers = file.number("embedding_length") or 0, file.number("block_count") or 0
    shapes = {"ffn_gate": (COUNT, width), "ffn_up": (COUNT, width), "ffn_down": (width, COUNT)}
    return NeuronLesson(
        file, {f"blk.{n}.{part}": np.ones(shape, np.float32) for n in range(layers) for part, shape in shapes.items()}
    )


def stored(*files: Path) -> Mapping[str, Stored]:
    """The tensors of all files, as the gguf package reads them."""
    tensors = [one for file in files for one in gguf.GGUFReader(file).tensors]
    found = {one.name: (one.tensor_type.name, tuple(map(int, one.shape)), one.data.tobytes()) for one in tensors}
    assert len(found) == len(tensors)
    return found


@pytest.mark.parametrize("write", [write_fused, write_split])
@pytest.mark.parametrize("learn", [low_rank, neurons])
@pytest.mark.parametrize(("architecture", "kind"), [("qwen2", "Q4_K"), ("gemma3", "Q5_0"), ("qwen2", "F16")])
@pytest.mark.parametrize("alignment", [32, 4096])
def test_untouched_tensors_are_those_of_the_base_byte_for_byte(
    tmp_path: Path,
    write: Callable[[Parcel], tuple[DeliveredFile, ...]],
    learn: Callable[[GgufFile], Lesson],
    architecture: str,
    kind: str,
    alignment: int,
) -> None:
    plain = write_tiny_architecture(tmp_path / "plain.gguf", architecture, kind=kind)
    base = rewritten(plain, tmp_path / "base.gguf", keys={"general.alignment": alignment})
    lesson = learn(gguf_file.read(base))
    files = write(
        Parcel(
            lesson=lesson,
            name="tiny",
            directory=tmp_path,
            demand=Demand(allowed_noise=0.0),
            report=lambda _done, _of, _what: None,
        )
    )
    before, after = stored(plain), stored(*(one.path for one in files))
    assert after.keys() == before.keys()
    changed = {name for name in before if after[name] != before[name]}
    assert changed == set(lesson.touched)
