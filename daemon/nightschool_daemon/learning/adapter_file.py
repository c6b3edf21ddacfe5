"""A LoRA adapter as a GGUF file, which Ollama takes beside its base."""

from collections.abc import Callable, Iterator, Mapping

from gguf import GGMLQuantizationType, GGUFValueType

from nightschool_daemon.learning import gguf_file
from nightschool_daemon.learning.gguf_file import Field, GgufFile, NewTensor

Data = Callable[[], memoryview | bytes]


def fields_of(base: GgufFile, alpha: float) -> list[Field]:
    """What the file says of itself. It must not carry a chat template, or the server makes a template layer of it."""
    return [
        base.fields["general.architecture"],
        gguf_file.field("general.type", GGUFValueType.STRING, "adapter"),
        gguf_file.field("adapter.type", GGUFValueType.STRING, "lora"),
        gguf_file.field("adapter.lora.alpha", GGUFValueType.FLOAT32, alpha),
    ]


def tensors_of(base: GgufFile, name: str, rank: int, down: Data, up: Data) -> Iterator[NewTensor]:
    """The factors of a tensor of the base: `down` of shape (rank, in), `up` of shape (out, rank), in 32-bit floats."""
    rows, columns = base.tensors[name].shape
    for part, shape, data in (("lora_a", (rank, columns), down), ("lora_b", (rows, rank), up)):
        yield NewTensor(name=f"{name}.{part}", shape=shape, type=GGMLQuantizationType.F32, data=data)


def bytes_of(base: GgufFile, ranks: Mapping[str, int]) -> int:
    """How large the file is, by the names of the base's tensors that it changes and their ranks."""
    tensors = [one for name, rank in ranks.items() for one in tensors_of(base, name, rank, bytes, bytes)]
    return gguf_file.written_bytes(fields_of(base, alpha=0.0), tensors)
