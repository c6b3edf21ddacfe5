"""What a training changes in the tensors of its base, in the layout of the file.

A lesson is read from the directory that a training left: PEFT's files for LoRA, plain or group-wise, and
`neurons.safetensors` for added feed-forward units. `nightschool.json` beside them says which.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from gguf import GGMLQuantizationType as Kind
from numpy.typing import NDArray

from nightschool_daemon.learning import gguf_file, rounding
from nightschool_daemon.learning.engine.architecture import is_fused
from nightschool_daemon.learning.gguf_file import Field, GgufFile, NewTensor
from nightschool_daemon.learning.loading import tensor_of, to_file_layout
from nightschool_daemon.learning.rounding import Choice, Demand
from nightschool_hookspecs.services import TrainingError

if TYPE_CHECKING:
    import torch

    from nightschool_daemon.learning.engine.forms import Form

Weights = NDArray[np.float32]

PREFIX = "base_model.model."
TEXT_MODEL = "model.language_model."
"""How names in a text model begin within one that sees pictures; in a text model by itself with `model.`."""
OLDER_TEXT_MODEL = "language_model.model."
"""The same before transformers 4.52."""
DESCRIPTION = "nightschool.json"
NEURONS = "neurons.safetensors"
FEED_FORWARD = ("ffn_gate", "ffn_up", "ffn_down")
WIDENED = re.compile(r"blk\.\d+\.(ffn_(gate|up|down)\.weight|ffn_(gate|up)\.bias)")
"""What becomes larger by added neurons: the bias of `ffn_down` stays as long as it was."""


class Lesson(ABC):
    """A change of a base."""

    file: GgufFile

    @property
    @abstractmethod
    def touched(self) -> tuple[str, ...]:
        """Names of the tensors that it changes, in the order of the file."""

    @abstractmethod
    def choice(self, name: str, demand: Demand) -> Choice:
        """The type of a touched tensor: the one of least bytes that does what is asked."""

    @abstractmethod
    def tensor(self, name: str, demand: Demand) -> NewTensor:
        """A touched tensor with the lesson in it, in that type."""

    @abstractmethod
    def fields(self) -> list[Field]:
        """The base's metadata, with what the lesson changes in them."""

    @abstractmethod
    def form(self, device: torch.device) -> Form:
        """What the packed network adds to the base to be the trained one."""

    def bytes(self, demand: Demand) -> int:
        """Of all touched tensors."""
        tensors = [self.tensor(name, demand) for name in self.touched]
        return sum(rounding.size_of(one.shape, one.type) for one in tensors)

    def demands(self, asked: Sequence[Demand] = rounding.LADDER) -> list[Demand]:
        """Those that lead to different types, the fewest bytes first."""
        found: dict[tuple[Choice, ...], Demand] = {}
        for demand in asked:
            found.setdefault(tuple(self.choice(name, demand) for name in self.touched), demand)
        return sorted(found.values(), key=self.bytes)

    def between(self, less: Demand, more: Demand, worth: float) -> Demand | None:
        """The one that is halfway between two in bytes, and leads to so many fewer than `more`; None: there is none."""
        bounds = self.bytes(less), self.bytes(more)
        found = {one: self.bytes(one) for one in self.demands(rounding.FINER)}
        cheaper = [one for one, count in found.items() if bounds[0] < count <= bounds[1] - worth]
        return min(cheaper, key=lambda one: abs(2 * found[one] - sum(bounds)), default=None)


@dataclass(frozen=True, kw_only=True)
class LowRankDelta:
    """A delta of rank r in the layout of the file: `scale * up @ down`."""

    module: str
    """The module in transformers, `model.layers.0.mlp.up_proj`."""
    down: Weights
    """LoRA's A, shape (r, in)."""
    up: Weights
    """LoRA's B, shape (out, r), rows in the file's order."""
    scale: float

    def delta(self, rows: NDArray[np.int64] | slice = slice(None), columns: slice = slice(None)) -> Weights:
        """Shape (out, in), or some rows and columns of it."""
        return np.asarray(self.scale * (self.up[rows] @ self.down[:, columns]), np.float32)


class LowRankLesson(Lesson):
    """LoRA. With `group`, A is constant within so many inputs, and so is the delta."""

    def __init__(self, file: GgufFile, factors: Mapping[str, LowRankDelta], group: int = 1) -> None:
        self.file, self.group = file, group
        self.factors = {name: factors[name] for name in file.tensors if name in factors}
        self._choices: dict[str, tuple[Choice, ...]] = {}

    @property
    def touched(self) -> tuple[str, ...]:
        return tuple(self.factors)

    @property
    def ranks(self) -> Mapping[str, int]:
        """Of the LoRA on each touched tensor."""
        return {name: one.down.shape[0] for name, one in self.factors.items()}

    def tensor(self, name: str, demand: Demand) -> NewTensor:
        tensor = self.file.tensors[name]
        choice = self.choice(name, demand)

        def data() -> bytes:
            if choice.keeps_codes:
                blocks = self.file.rows_of_blocks(name)
                shifts = self.factors[name].delta(columns=slice(None, None, rounding.MINIMUM_BLOCK))
                return rounding.shifted(blocks, tensor.type, shifts).tobytes()
            return rounding.rounded(self.file.dequantized(name) + self.factors[name].delta(), choice.kind).tobytes()

        return NewTensor(name=name, shape=tensor.shape, type=choice.kind, data=data)

    def fields(self) -> list[Field]:
        return list(self.file.fields.values())

    def form(self, device: torch.device) -> Form:
        from nightschool_daemon.learning.engine.forms import FixedLowRank

        named = {name.removesuffix(".weight"): (one.down, one.up, one.scale) for name, one in self.factors.items()}
        return FixedLowRank(named, device)

    def choice(self, name: str, demand: Demand) -> Choice:
        tensor = self.file.tensors[name]
        if name not in self._choices:
            rows = rounding.sampled(tensor.shape[0])
            self._choices[name] = rounding.choices(
                self.file.rows_of_blocks(name)[rows],
                self.factors[name].delta(rows),
                tensor.type,
                grouped=self.group % rounding.MINIMUM_BLOCK == 0,
            )
        return rounding.narrowest(self._choices[name], tensor.shape[1], demand)


class NeuronLesson(Lesson):
    """Added feed-forward units: rows below gate and up, columns beside down. The base's blocks stay as they are.

    Where one tensor holds gate and up, each half gets its rows at its own end. Where they have biases, those of new
    units are 0.
    """

    def __init__(self, file: GgufFile, parameters: Mapping[str, Weights]) -> None:
        """`blk.0.ffn_gate` -> shape (count, width), and so on; down's shape is (width, count)."""
        self.file, self.parameters = file, parameters
        self.count = parameters["blk.0.ffn_gate"].shape[0]
        self._choices: dict[str, tuple[Choice, ...]] = {}

    @property
    def touched(self) -> tuple[str, ...]:
        return tuple(name for name in self.file.tensors if is_widened(name))

    def choice(self, name: str, demand: Demand) -> Choice:
        tensor = self.file.tensors[name]
        if _is_bias(name):
            return Choice(kind=tensor.type, noise=0.0, left=1.0)
        columns = widened(self.file, name, self.count)[-1]
        if name not in self._choices:
            added = np.concatenate(self._added(name))
            sample = added[rounding.sampled(added.shape[0])]
            self._choices[name] = rounding.choices_beside(sample, tensor.type, columns)
        return rounding.narrowest(self._choices[name], columns, demand)

    def tensor(self, name: str, demand: Demand) -> NewTensor:
        kind = self.choice(name, demand).kind

        def data() -> bytes:
            added = self._added(name)
            pairs = zip(np.split(self._old(name, kind), len(added)), added, strict=True)
            parts = [part for old, new in pairs for part in (old, rounding.rounded(new, kind))]
            return np.concatenate(parts, axis=1 if _is_down(name) else 0).tobytes()

        return NewTensor(name=name, shape=widened(self.file, name, self.count), type=kind, data=data)

    def _old(self, name: str, kind: Kind) -> NDArray[np.uint8]:
        """What there is, in a type: shape (rows, bytes a row). A bias has a number a row."""
        tensor = self.file.tensors[name]
        rows = tensor.shape[0]
        if kind is tensor.type:
            return self.file.rows_of_blocks(name).reshape(rows, -1)
        return rounding.rounded(self.file.dequantized(name).reshape(rows, -1), kind)

    def _added(self, name: str) -> list[Weights]:
        """What is new: in one part, or behind each half of a tensor that holds two matrices."""
        stem = name.rpartition(".")[0]
        stems = [stem.replace("ffn_up", "ffn_gate"), stem] if _holds_gate(self.file, name) else [stem]
        if _is_bias(name):
            return [np.zeros((self.count, 1), np.float32) for _ in stems]
        return [self.parameters[one] for one in stems]

    def fields(self) -> list[Field]:
        key = f"{self.file.architecture}.feed_forward_length"
        width = self.file.number("feed_forward_length") or 0
        return [
            gguf_file.field(key, gguf_file.Type.UINT32, width + self.count) if one.key == key else one
            for one in self.file.fields.values()
        ]

    def form(self, device: torch.device) -> Form:
        import torch

        from nightschool_daemon.learning.engine.architecture import read_architecture
        from nightschool_daemon.learning.engine.forms import Neurons

        form = Neurons(
            read_architecture(self.file), count=self.count, spread=lambda _layer: 1.0, generator=torch.Generator()
        )
        form.put({name: torch.from_numpy(np.array(one)) for name, one in self.parameters.items()})
        return form.on(device)


def is_widened(name: str) -> bool:
    """Whether added neurons make a tensor larger."""
    return WIDENED.fullmatch(name) is not None


def widened(file: GgufFile, name: str, count: int) -> tuple[int, ...]:
    """The shape of a tensor that is widened by so many neurons."""
    rows, *columns = file.tensors[name].shape
    if _is_down(name):
        return (rows, columns[0] + count)
    return (rows + count * (2 if _holds_gate(file, name) else 1), *columns)


def _holds_gate(file: GgufFile, name: str) -> bool:
    return ".ffn_up." in name and is_fused(file)


def _is_down(name: str) -> bool:
    return name.endswith("ffn_down.weight")


def _is_bias(name: str) -> bool:
    return name.endswith(".bias")


def block_of_neurons(file: GgufFile) -> int:
    """Neurons are added in multiples of so many: whole blocks of every `ffn_down`.

    Raises `TrainingError` where the feed-forward blocks cannot be widened.
    """
    blocks = [1]
    parts = FEED_FORWARD[1:] if is_fused(file) else FEED_FORWARD
    for layer in range(file.number("block_count") or 0):
        missing = [part for part in parts if f"blk.{layer}.{part}.weight" not in file.tensors]
        if missing:
            raise TrainingError(f"This base has no blk.{layer}.{missing[0]}.weight, so no neurons can be added to it.")
        kinds = [file.tensors[f"blk.{layer}.{part}.weight"].type for part in parts]
        unwritable = [kind.name for kind in kinds if not rounding.can_write(kind)]
        if unwritable:
            raise TrainingError(f"Weights cannot be rounded to {unwritable[0]} here: pip install libggml-python.")
        blocks.append(rounding.block_of(kinds[-1]))
    return max(blocks)


def read_lesson(directory: Path, file: GgufFile) -> Lesson:
    """Read what a training left. Raises `TrainingError` for adapters that are no plain LoRA."""
    described = directory / DESCRIPTION
    description = json.loads(described.read_text(encoding="utf-8")) if described.is_file() else {}
    if (directory / NEURONS).is_file():
        from safetensors.numpy import load_file

        return NeuronLesson(file, load_file(directory / NEURONS))
    return LowRankLesson(file, _read_low_rank(directory, file), group=int(description.get("group", 1)))


def require_low_rank(lesson: Lesson) -> LowRankLesson:
    """Raise `TrainingError` for a lesson that is no LoRA."""
    if not isinstance(lesson, LowRankLesson):
        raise TrainingError('Added neurons cannot be delivered as a LoRA adapter. Train with form = "lora".')
    return lesson


def _read_low_rank(adapter: Path, file: GgufFile) -> dict[str, LowRankDelta]:
    """Tensor name -> what the adapter adds to it. Tensors that it leaves alone are left out."""
    from safetensors.numpy import load_file

    configuration = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    require_plain(configuration)
    weights = load_file(adapter / "adapter_model.safetensors")
    scale = configuration["lora_alpha"] / configuration["r"]
    lesson: dict[str, LowRankDelta] = {}
    for key, down in sorted(weights.items()):
        if key.endswith(".lora_B.weight"):
            continue
        if not key.endswith(".lora_A.weight"):
            raise TrainingError(f"The adapter holds {key}, which is no plain LoRA, so it cannot be delivered.")
        module = by_itself(key).removeprefix(PREFIX).removesuffix(".lora_A.weight")
        up = weights[key.replace(".lora_A.", ".lora_B.")].astype(np.float32)
        if not up.any() or not down.any():
            continue
        name = tensor_of(file, module)
        lesson[name] = LowRankDelta(
            module=module, down=down.astype(np.float32), up=to_file_layout(file, name, up), scale=scale
        )
    return lesson


def by_itself(key: str) -> str:
    """A key of an adapter's as it is where the text model is no part of another."""
    for begin in (TEXT_MODEL, OLDER_TEXT_MODEL):
        if key.startswith(f"{PREFIX}{begin}"):
            return f"{PREFIX}model.{key.removeprefix(f'{PREFIX}{begin}')}"
    return key


SPECIAL = (
    *("use_dora", "use_rslora", "modules_to_save", "rank_pattern", "alpha_pattern", "fan_in_fan_out"),
    *("alora_invocation_tokens", "layer_replication", "target_parameters", "trainable_token_indices"),
    *("use_qalora", "use_bdlora", "arrow_config", "kasa_config", "monteclora_config"),
)
"""What makes an adapter more than plain LoRA, in PEFT's names."""
BEGUN_BESIDE_BASE = (None, True, False, "gaussian", "orthogonal", "eva")
"""Ways in which LoRA's weights begin (`init_lora_weights`) that leave those of the base as they are."""


def require_plain(configuration: Mapping[str, object]) -> None:
    """Raise `TrainingError` for an adapter's configuration that means more than plain LoRA."""
    special = [key for key in SPECIAL if configuration.get(key)]
    begun = configuration.get("init_lora_weights")
    if begun not in BEGUN_BESIDE_BASE:
        special.append(f"init_lora_weights={begun}, which changes the base")
    if configuration.get("peft_type") != "LORA" or special:
        raise TrainingError(
            f"The adapter is no plain LoRA ({configuration.get('peft_type')} {' '.join(special)}), so it cannot be "
            "delivered. Train a plain one."
        )
