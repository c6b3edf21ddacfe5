"""Which form of delivery is taken."""

import pytest

from nightschool_daemon.config import DeliveryChoice
from nightschool_daemon.learning.export import ExportError, chosen
from nightschool_hookspecs.records import DeliveryForm, DeliveryPlan, ServerAbilities

SERVER = ServerAbilities(version="0.34.3", split=True, fused=True, adapter=False, architecture="llama")


def plan(form: DeliveryForm, version_bytes: int, shared_bytes: int = 0) -> DeliveryPlan:
    return DeliveryPlan(form=form, version_bytes=version_bytes, shared_bytes=shared_bytes, reason="test")


SPLIT, FUSED = plan(DeliveryForm.SPLIT, 100, 900), plan(DeliveryForm.FUSED, 900)


def test_the_plan_that_adds_least_for_a_version_is_taken() -> None:
    assert chosen([FUSED, SPLIT], DeliveryChoice.AUTO, SERVER) is SPLIT
    assert chosen([SPLIT, FUSED], DeliveryChoice.AUTO, SERVER) is SPLIT


def test_the_configured_form_is_taken_whatever_it_costs() -> None:
    assert chosen([FUSED, SPLIT], DeliveryChoice.FUSED, SERVER) is FUSED


def test_a_configured_form_that_is_not_to_be_had_is_told() -> None:
    with pytest.raises(
        ExportError, match=r"delivery\.form is 'adapter', but Ollama 0\.34\.3 takes fused, split"
    ) as told:
        chosen([FUSED, SPLIT], DeliveryChoice.ADAPTER, SERVER)
    assert 'delivery.form = "auto"' in str(told.value)


def test_a_server_that_takes_nothing_is_told() -> None:
    with pytest.raises(ExportError, match=r"^Ollama 0\.34\.3 takes none of the known forms\."):
        chosen([], DeliveryChoice.AUTO, SERVER)
