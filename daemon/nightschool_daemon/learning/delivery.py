"""Which form of delivery is taken, and what each would cost: decided and told before anything is written."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from gguf import GGMLQuantizationType as Kind

from nightschool_daemon.config import DeliveryChoice, DeliverySettings
from nightschool_daemon.learning import adapter_file, rounding
from nightschool_daemon.learning.gguf_file import GgufFile, Tensor
from nightschool_daemon.learning.lesson import Lesson, LowRankLesson, is_widened, widened
from nightschool_daemon.learning.older_layout import needs_one_file
from nightschool_daemon.learning.rounding import Demand
from nightschool_daemon.plans import cost_text
from nightschool_hookspecs.records import (
    DeliveryForm,
    DeliveryPlan,
    DeliveryTarget,
    Hyperparameters,
    ServerAbilities,
    TensorInfo,
    TrainedForm,
)

LINEAR = re.compile(r"blk\.(\d+)\.(\w+)\.weight")
"""A layer's matrix: its block and its part."""

IN_WORDS: Mapping[DeliveryForm, str] = {
    DeliveryForm.SPLIT: "files in two shards",
    DeliveryForm.FUSED: "files of our own",
    DeliveryForm.ADAPTER: "LoRA adapters",
}
NO_ADAPTER = "Added neurons are no LoRA, so there is no adapter of them."
ONE_FILE = "Ollama takes this base in one file only: in shards it would not find what it has to pass over in it."


class ExportError(Exception):
    """The lesson cannot be delivered; the message says what to do."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The form that is taken, and what else was possible."""

    plan: DeliveryPlan
    others: tuple[DeliveryPlan, ...]
    why: str
    """One sentence."""

    def sentence(self, absent: Sequence[str]) -> str:
        """What each form costs, and why this one is taken. `absent`: why others are not to be had."""
        others = "".join(f" {one.form.value} would cost {cost(one)}." for one in self.others)
        missing = "".join(f" {one}" for one in absent)
        return f"delivered as {self.plan.form.value}: {cost(self.plan)}. {self.why}{others}{missing}"


def cost(plan: DeliveryPlan) -> str:
    """In words."""
    return cost_text(plan.version_bytes, plan.version_bytes, plan.shared_bytes)


def target_of(lesson: Lesson, abilities: ServerAbilities, demand: Demand) -> DeliveryTarget:
    """What the delivery plugins decide on."""
    delivered = {name: _delivered_bytes(lesson, name, demand) for name in lesson.touched}
    adapter_bytes = adapter_file.bytes_of(lesson.file, lesson.ranks) if isinstance(lesson, LowRankLesson) else None
    return _target(lesson.file, abilities, delivered, adapter_bytes)


@dataclass(frozen=True, kw_only=True)
class Expected:
    """A lesson that is still to be learned, by what it will touch."""

    settings: Hyperparameters
    trained_from: int = 0
    """Layers below are left as they are."""
    neurons: int = 0
    """Units added to each layer; 0: it is a LoRA."""

    def touches(self, tensor: Tensor) -> bool:
        """Whether it will change a tensor."""
        if self.neurons:
            return is_widened(tensor.name)
        match = LINEAR.fullmatch(tensor.name)
        if match is None or len(tensor.shape) != 2:
            return False
        block, part = match.groups()
        return int(block) >= self.trained_from and part in (self.settings.lora_layers or (part,))

    def bytes_of(self, file: GgufFile, tensor: Tensor, *, widest: bool) -> int:
        """Of a touched tensor with the lesson in it: in its own type, or in one that keeps all but the smallest.

        Added neurons kept all in their own types wherever it was measured (docs/learning.md).
        """
        if self.neurons:
            return rounding.size_of(widened(file, tensor.name, self.neurons), tensor.type)
        return max(tensor.bytes, rounding.size_of(tensor.shape, self._widest(tensor))) if widest else tensor.bytes

    def version_bytes(self, file: GgufFile, form: DeliveryChoice) -> int:
        """Of all files of a version, in types that keep all but the smallest lesson; of an adapter where that is asked
        for."""
        if form is DeliveryChoice.ADAPTER and not self.neurons:
            return self._adapter_bytes(file)
        wider = sum(self.bytes_of(file, one, widest=True) - one.bytes for one in self._touched(file))
        return file.path.stat().st_size + wider

    def _touched(self, file: GgufFile) -> list[Tensor]:
        return [one for one in file.tensors.values() if self.touches(one)]

    def lora_parameters(self, file: GgufFile) -> int:
        """Of LoRA on the tensors that it touches."""
        return self.settings.lora_r * sum(sum(one.shape) for one in self._touched(file))

    def _adapter_bytes(self, file: GgufFile) -> int:
        return adapter_file.bytes_of(file, {one.name: self.settings.lora_r for one in self._touched(file)})

    def _widest(self, tensor: Tensor) -> Kind:
        if self.settings.form is TrainedForm.GROUPED and tensor.type in rounding.AFFINE:
            return rounding.AFFINE[tensor.type]
        return Kind.Q8_0 if rounding.fits(tensor.shape[1], Kind.Q8_0) else Kind.F16

    def target(self, file: GgufFile, abilities: ServerAbilities, *, widest: bool) -> DeliveryTarget:
        """What the delivery plugins decide on."""
        delivered = {one.name: self.bytes_of(file, one, widest=widest) for one in self._touched(file)}
        adapter_bytes = None if self.neurons else self._adapter_bytes(file)
        return _target(file, abilities, delivered, adapter_bytes)


def _target(
    file: GgufFile, abilities: ServerAbilities, delivered: Mapping[str, int], adapter_bytes: int | None
) -> DeliveryTarget:
    """`delivered`: the bytes of the tensors that the lesson touches, with it in them."""
    whole = needs_one_file(file)
    return DeliveryTarget(
        server=replace(abilities, split=abilities.split and not whole),
        tensors=tuple(
            TensorInfo(
                name=one.name,
                shape=one.shape,
                type=one.type.name,
                bytes=one.bytes,
                touched=one.name in delivered,
                delivered_bytes=delivered.get(one.name, one.bytes),
            )
            for one in file.tensors.values()
        ),
        adapter_bytes=adapter_bytes,
        needs_one_file=whole,
        header_bytes=file.header_bytes,
    )


def _delivered_bytes(lesson: Lesson, name: str, demand: Demand) -> int:
    tensor = lesson.tensor(name, demand)
    return rounding.size_of(tensor.shape, tensor.type)


def require_possible(file: GgufFile, settings: DeliverySettings) -> None:
    """Raise `ExportError` where the base cannot be delivered in the configured form, whatever it learns."""
    _require_form(settings, in_one_file=needs_one_file(file))


def require_taken(server: ServerAbilities, settings: DeliverySettings, form: TrainedForm) -> None:
    """Raise `ExportError` where the server does not take the configured form, or what is trained cannot be in it."""
    if settings.form is DeliveryChoice.ADAPTER and form is TrainedForm.NEURONS:
        raise ExportError(f"delivery.form is 'adapter'. {NO_ADAPTER} Set delivery.form = \"auto\", or train LoRA.")
    forms = _forms_of(server)
    if settings.form is not DeliveryChoice.AUTO and settings.form.value not in [one.value for one in forms]:
        raise ExportError(_not_taken(server, forms, settings))


def _forms_of(server: ServerAbilities) -> list[DeliveryForm]:
    """What a server takes."""
    takes = {DeliveryForm.SPLIT: server.split, DeliveryForm.FUSED: server.fused, DeliveryForm.ADAPTER: server.adapter}
    return [form for form, is_taken in takes.items() if is_taken]


def _not_taken(server: ServerAbilities, forms: Sequence[DeliveryForm], settings: DeliverySettings) -> str:
    asked = "" if settings.form is DeliveryChoice.AUTO else f"delivery.form is '{settings.form}', but "
    takes = ", ".join(form.value for form in forms) or "none of the known forms"
    # versions from there on take all but adapters
    newer = "" if settings.form is DeliveryChoice.ADAPTER else "update Ollama to 0.34.1 or newer"
    other = "" if settings.form is DeliveryChoice.AUTO else 'set delivery.form = "auto"'
    advice = ", or ".join(one for one in (other, newer) if one)
    return f"{asked}Ollama {server.version} takes {takes}. {advice[0].upper()}{advice[1:]}."


def _require_form(settings: DeliverySettings, *, in_one_file: bool) -> None:
    if in_one_file and settings.form is DeliveryChoice.SPLIT:
        raise ExportError(f"delivery.form is 'split'. {ONE_FILE} Set delivery.form = \"auto\".")


def chosen(plans: Sequence[DeliveryPlan], settings: DeliverySettings, target: DeliveryTarget) -> Decision:
    """The plan of the fewest bytes a version, or of the configured form, within the budget. Raises `ExportError`."""
    _require_form(settings, in_one_file=target.needs_one_file)
    wanted = settings.form
    possible = [plan for plan in plans if wanted is DeliveryChoice.AUTO or plan.form.value == wanted.value]
    if not possible:
        raise ExportError(_not_taken(target.server, [plan.form for plan in plans], settings))
    taken = min(possible, key=lambda plan: plan.version_bytes)
    if not _fits(taken, settings):
        raise ExportError(_too_large(plans, settings))
    others = tuple(plan for plan in plans if plan is not taken)
    return Decision(plan=taken, others=others, why=_why(taken, others, settings))


def _fits(plan: DeliveryPlan, settings: DeliverySettings) -> bool:
    return not settings.max_version_mb or plan.version_bytes <= settings.max_version_mb * 1e6


def _too_large(plans: Sequence[DeliveryPlan], settings: DeliverySettings) -> str:
    costs = "; ".join(f"{one.form.value}: {cost(one)}" for one in plans)
    if settings.form is not DeliveryChoice.AUTO and any(_fits(one, settings) for one in plans):
        advice = 'Set delivery.form = "auto"'
    else:
        advice = "Raise it, or have fewer tensors changed: lora_layers in [plugins.tuning_fixed]"
    limit = f"A version may cost {settings.max_version_mb:g} MB (delivery.max_version_mb)"
    return f"{limit}, which is too little: {costs}. {advice}."


def _why(taken: DeliveryPlan, others: Sequence[DeliveryPlan], settings: DeliverySettings) -> str:
    if settings.form is not DeliveryChoice.AUTO:
        return f"delivery.form asks for it. {taken.reason}"
    least = " Of what is possible it adds the fewest bytes a version." if others else " It is the only form possible."
    return f"{taken.reason}{least}"


def absent(plans: Sequence[DeliveryPlan], target: DeliveryTarget) -> Iterator[str]:
    """A sentence for each form that is not to be had."""
    server = target.server
    takes = _forms_of(server)
    offered = {one.form for one in plans}
    for form in (one for one in DeliveryForm if one not in offered):
        if form is DeliveryForm.SPLIT and target.needs_one_file:
            yield ONE_FILE
        elif form not in takes:
            reason = f" {server.refusals[form]}" if form in server.refusals else ""
            yield f"Ollama {server.version} takes no {IN_WORDS[form]}.{reason}"
        elif form is DeliveryForm.ADAPTER and target.adapter_bytes is None:
            yield NO_ADAPTER
        else:
            yield f"No plugin offers {form.value}."
