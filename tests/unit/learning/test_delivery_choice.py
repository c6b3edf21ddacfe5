"""Which form of delivery is taken, and which type the touched tensors get."""

import pytest
from gguf import GGMLQuantizationType as Kind

from nightschool_daemon.config import DeliveryChoice
from nightschool_daemon.learning.export import ExportError, chosen, type_for
from nightschool_hookspecs.records import DeliveryForm, DeliveryPlan, ServerAbilities

SERVER = ServerAbilities(version="0.34.3", split=True, fused=True, adapter=False, architecture="llama")


def plan(form: DeliveryForm, version_bytes: int, shared_bytes: int = 0) -> DeliveryPlan:
    return DeliveryPlan(
        form=form, tensor_type="Q8_0", version_bytes=version_bytes, shared_bytes=shared_bytes, reason="test"
    )


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


@pytest.mark.parametrize(
    ("columns", "wanted", "taken"),
    [
        (256, Kind.Q8_0, Kind.Q8_0),
        (32, Kind.Q8_0, Kind.Q8_0),
        (33, Kind.Q8_0, Kind.F16),
        (16, Kind.Q8_0, Kind.F16),
        (512, Kind.Q6_K, Kind.Q6_K),
        (640, Kind.Q6_K, Kind.F16),
        (7, Kind.F16, Kind.F16),
        (7, Kind.F32, Kind.F32),
    ],
)
def test_a_type_whose_blocks_do_not_fill_the_rows_gives_way(columns: int, wanted: Kind, taken: Kind) -> None:
    assert type_for(columns, wanted) is taken
