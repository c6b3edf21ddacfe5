"""What a training is expected to take, told before it starts: what a worker answers to `nightschool plan`."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from nightschool_hookspecs.records import (
    DeliveryForm,
    Hyperparameters,
    HyperparameterSearch,
    MethodChoice,
    TrainingMethod,
)

ON_TOP = "measuring, writing and registering come on top"
"""What the time of a training is told without."""


class Route(StrEnum):
    """What trains."""

    PACKED = "packed"
    """The engine that works on the blocks of the file itself."""
    TRANSFORMERS = "transformers"
    """transformers with PEFT, on weights in 32-bit floats."""


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """What was decided for a training, and what is expected of it."""

    tokens_a_pass: int
    checkpointed: int
    """So many layers are computed again on the way back instead of being kept."""
    unpacked: int = 0
    """So many layers are kept as floats, because there is memory for it; the others are de-quantised for every pass."""
    layers: int
    """That the base has."""
    trained_from: int = 0
    """The layers below are left as they are, because not all could be trained in this memory."""
    peak_bytes: int
    """Resident memory of the process at its height, the file's pages included; on a GPU the memory of the device,
    with these pages where it is the machine's own."""
    available_bytes: int
    """The same, as much as may be taken."""
    seconds: float
    """Expected time of the training."""
    is_rough: bool = False
    """By rules of thumb, not by trying a layer."""
    is_begun: bool = False
    """A training goes on by it."""

    def sentence(self) -> str:
        """What was decided, and what it takes."""
        kept = f", {counted(self.unpacked, 'layer')} kept unpacked" if self.unpacked else ""
        again = f", {counted(self.checkpointed, 'layer')} computed twice" if self.checkpointed else ""
        return (
            f"passes of {self.tokens_a_pass} tokens{kept}{again}{self._left_out()}: "
            f"about {self.peak_bytes / 1e9:.1f} GB of {self.available_bytes / 1e9:.1f} GB, and "
            f"{duration(self.seconds)} for the training itself{', counted from its beginning' if self.is_begun else ''}"
        )

    def _left_out(self) -> str:
        if not self.trained_from:
            return ""
        upper = self.layers - self.trained_from
        return (
            f", and of {self.layers} layers only the upper {upper} are trained, because memory is short for more (all "
            "would learn more: lower max_length, neurons or lora_r in [plugins.tuning_fixed], or choose a smaller base)"
        )


@dataclass(frozen=True, kw_only=True)
class PlannedTraining:
    """One training of a plan: preferences on top of wanted answers make two."""

    method: TrainingMethod
    hyperparameters: Hyperparameters
    examples: int
    left_out: int
    """Examples longer than `max_length`."""
    beyond_context: int = 0
    """Examples longer than the base's context, which are learned from all the same."""
    tokens: int
    """Of all examples, prompts included, once."""
    longest: int
    """Tokens of the longest example."""
    parameters: int
    """That are trained."""
    memory: MemoryPlan


@dataclass(frozen=True, kw_only=True)
class DeliveryCost:
    """What a version costs in Ollama's store in one form. The types of its tensors are chosen after the training."""

    form: DeliveryForm
    least_bytes: int
    """Where each touched tensor keeps its type."""
    most_bytes: int
    """Where each is in the type that keeps all but the smallest lessons whole."""
    shared_bytes: int
    """Once for a base, however many versions share it."""
    reason: str
    is_chosen: bool = False

    def sentence(self) -> str:
        """The cost in words."""
        return cost_text(self.least_bytes, self.most_bytes, self.shared_bytes)


@dataclass(frozen=True, kw_only=True)
class PlanRequest:
    """`request.json`: what is to be planned. The events, if there are any, lie in `prepare/events.jsonl`."""

    base: str
    weights_digest: str
    gguf: Path
    method: MethodChoice
    system: str | None
    """The base's own system text: it stands in every prompt."""
    loaded_bytes: int
    """What Ollama's models hold in memory, and a run asks it to give back."""
    has_events: bool
    learned: Path | None = None
    """What the version in use learned on these weights, where a training would begin from that."""


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """The answer."""

    base: str
    architecture: str
    parameters: int
    """Of the base."""
    file_bytes: int
    route: Route | None
    """None where nothing trains it."""
    passed_over: str | None = None
    """Why there is a GPU and it is not used, in a sentence; None: that is not so."""
    assumed: str | None
    """What was taken for the data, where none was given."""
    events: int
    """That would be learned from."""
    replayed: int = 0
    """Examples that would be learned again so that they are not forgotten, answers of the base's own among them."""
    starters: int = 0
    """Starter examples that would be learned beside them, as there are few."""
    held_out: int
    """Prompts that would be kept for an exam, or events to be measured on."""
    folded: int = 0
    """Prompts that trial candidates would be asked, by cross-fitting."""
    folds: int = 0
    """Of cross-fitting; 0: none."""
    events_left_out: Mapping[str, int]
    """Reason -> events that would not be learned from."""
    search: HyperparameterSearch | None = None
    """For hyperparameters, before the training, or what one found earlier; None: what is configured holds."""
    trainings: tuple[PlannedTraining, ...]
    not_learned: str = ""
    """What is in the data and would not be learned, and why, in a sentence; empty: nothing."""
    problem: str | None
    """One sentence: why it cannot be trained here, and what to change; None where it can."""
    loaded_bytes: int
    """What Ollama's models hold in memory, and a run asks it to give back."""
    is_examined: bool = True
    """An exam would follow."""
    server: str = ""
    """Ollama's version."""
    deliveries: tuple[DeliveryCost, ...] = ()
    not_delivered: tuple[str, ...] = ()
    """A sentence for each form that is not to be had."""
    why_delivery: str = ""
    """Why the chosen form is taken."""
    delivery_problem: str | None = None
    """Why none is taken; None where one is."""

    @property
    def asked(self) -> int:
        """Prompts that would count in an exam."""
        return self.held_out + self.folded

    @property
    def seconds(self) -> float:
        """Of all trainings, those of trial candidates and of a search left out."""
        return sum(one.memory.seconds for one in self.trainings)

    @property
    def peak_bytes(self) -> int:
        """The highest of all trainings."""
        return max((one.memory.peak_bytes for one in self.trainings), default=0)

    @property
    def delivery(self) -> DeliveryCost | None:
        """The form that would be taken."""
        return next((one for one in self.deliveries if one.is_chosen), None)


def cost_text(least_bytes: int, most_bytes: int, shared_bytes: int) -> str:
    """`45.2 to 60.1 MB a version, 23.0 MB shared by all versions`."""
    least, most = f"{least_bytes / 1e6:.1f}", f"{most_bytes / 1e6:.1f}"
    size = most if least == most else f"{least} to {most}"
    shared = f", {shared_bytes / 1e6:.1f} MB shared by all versions" if shared_bytes else ""
    return f"{size} MB a version{shared}"


def counted(number: int, noun: str) -> str:
    """`1 layer`, `5 layers`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def duration(seconds: float) -> str:
    """`40 s`, `12 min`, `3.5 h`."""
    if seconds < 100:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"
