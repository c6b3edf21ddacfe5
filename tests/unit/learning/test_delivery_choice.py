"""Which form of delivery is taken."""

from dataclasses import replace

import pytest

from nightschool_daemon.config import DeliveryChoice, DeliverySettings
from nightschool_daemon.learning.delivery import ExportError, absent, chosen, require_taken
from nightschool_hookspecs.records import DeliveryForm, DeliveryPlan, DeliveryTarget, ServerAbilities, TrainedForm

SERVER = ServerAbilities(version="0.34.3", split=True, fused=True, adapter=False, architecture="llama")
TARGET = DeliveryTarget(server=SERVER, tensors=(), adapter_bytes=5)


def plan(form: DeliveryForm, version_bytes: int, shared_bytes: int = 0) -> DeliveryPlan:
    return DeliveryPlan(form=form, version_bytes=version_bytes, shared_bytes=shared_bytes, reason="test")


AUTO = DeliverySettings()
ONE_FILE = DeliverySettings(form=DeliveryChoice.FUSED)
MB = 1_000_000
SPLIT, FUSED = plan(DeliveryForm.SPLIT, 100 * MB, 900 * MB), plan(DeliveryForm.FUSED, 1000 * MB)


def test_the_plan_that_adds_least_for_a_version_is_taken() -> None:
    for plans in ([FUSED, SPLIT], [SPLIT, FUSED]):
        decision = chosen(plans, AUTO, TARGET)
        assert (decision.plan, decision.others) == (SPLIT, (FUSED,))
        assert decision.why.endswith("it adds the fewest bytes a version.")


def test_the_configured_form_is_taken_whatever_it_costs() -> None:
    decision = chosen([FUSED, SPLIT], ONE_FILE, TARGET)
    assert (decision.plan, decision.others) == (FUSED, (SPLIT,))
    assert decision.why.startswith("delivery.form asks for it.")


def test_a_configured_form_that_is_not_to_be_had_is_told() -> None:
    with pytest.raises(
        ExportError, match=r"delivery\.form is 'adapter', but Ollama 0\.34\.3 takes fused, split"
    ) as told:
        chosen([FUSED, SPLIT], DeliverySettings(form=DeliveryChoice.ADAPTER), TARGET)
    # no newer Ollama takes it either
    assert str(told.value).endswith('Set delivery.form = "auto".')


def test_what_cannot_come_of_a_training_is_told_before_it() -> None:
    settings = DeliverySettings(form=DeliveryChoice.ADAPTER)
    with pytest.raises(ExportError, match=r"takes split, fused\. Set delivery\.form = \"auto\"\.$"):
        require_taken(SERVER, settings, TrainedForm.LORA)
    older = replace(SERVER, version="0.34.0", adapter=True)
    require_taken(older, settings, TrainedForm.LORA)
    with pytest.raises(ExportError, match="there is no adapter of them"):
        require_taken(older, settings, TrainedForm.NEURONS)


def test_shards_of_a_base_that_must_be_one_file_are_told_with_the_reason() -> None:
    """No newer server would take them."""
    target = replace(TARGET, server=replace(SERVER, split=False), needs_one_file=True)
    with pytest.raises(ExportError, match="Ollama takes this base in one file only") as told:
        chosen([FUSED], DeliverySettings(form=DeliveryChoice.SPLIT), target)
    assert str(told.value).endswith('Set delivery.form = "auto".')
    assert chosen([FUSED], AUTO, target).plan is FUSED


def test_a_server_that_takes_nothing_is_told() -> None:
    with pytest.raises(ExportError, match=r"^Ollama 0\.34\.3 takes none of the known forms\."):
        chosen([], AUTO, TARGET)


def test_what_the_budget_allows_is_taken() -> None:
    assert chosen([FUSED, SPLIT], DeliverySettings(max_version_mb=100), TARGET).plan is SPLIT


def test_where_nothing_fits_the_budget_every_cost_is_told() -> None:
    with pytest.raises(ExportError, match=r"^A version may cost 99\.5 MB \(delivery\.max_version_mb\)") as told:
        chosen([FUSED, SPLIT], DeliverySettings(max_version_mb=99.5), TARGET)
    assert "fused: 1000.0 MB a version; split: 100.0 MB a version, 900.0 MB shared by all versions" in str(told.value)
    assert "Raise it, or have fewer tensors changed: lora_layers" in str(told.value)


def test_a_configured_form_beyond_the_budget_is_refused_though_another_would_fit() -> None:
    with pytest.raises(ExportError, match=r'Set delivery\.form = "auto"\.$'):
        chosen([FUSED, SPLIT], DeliverySettings(form=DeliveryChoice.FUSED, max_version_mb=200), TARGET)


def test_all_costs_are_told_before_anything_is_written() -> None:
    decision = chosen([FUSED, SPLIT], AUTO, TARGET)
    told = decision.sentence(tuple(absent([FUSED, SPLIT], TARGET)))
    assert told == (
        "delivered as split: 100.0 MB a version, 900.0 MB shared by all versions. test Of what is possible it adds the "
        "fewest bytes a version. fused would cost 1000.0 MB a version. Ollama 0.34.3 takes no LoRA adapters."
    )


@pytest.mark.parametrize(
    ("server", "adapter_bytes", "reason"),
    [
        (SERVER, 5, "Ollama 0.34.3 takes no LoRA adapters."),
        (
            replace(SERVER, refusals={DeliveryForm.ADAPTER: "To a tiny one it said: not here."}),
            5,
            "Ollama 0.34.3 takes no LoRA adapters. To a tiny one it said: not here.",
        ),
        (replace(SERVER, adapter=True), None, "Added neurons are no LoRA, so there is no adapter of them."),
        (replace(SERVER, adapter=True), 5, "No plugin offers adapter."),
    ],
)
def test_why_a_form_is_not_to_be_had_is_told(server: ServerAbilities, adapter_bytes: int | None, reason: str) -> None:
    target = DeliveryTarget(server=server, tensors=(), adapter_bytes=adapter_bytes)
    assert list(absent([SPLIT, FUSED], target)) == [reason]
