"""Delivers a lesson as one whole file with the touched tensors in Q8_0: the way that most servers take.

Q8_0 keeps what was learned; rounded back to four bits most of a small lesson is lost. Every version is a
whole model on disk.
"""

from nightschool_hookspecs import DeliveryForm, DeliveryPlan, DeliveryTarget, hookimpl

BLOCK_WEIGHTS, BLOCK_BYTES = 32, 34


@hookimpl
def nightschool_choose_delivery(target: DeliveryTarget) -> DeliveryPlan | None:
    if not target.server.fused:
        return None
    return DeliveryPlan(
        form=DeliveryForm.FUSED,
        tensor_type="Q8_0",
        version_bytes=sum(
            one.bytes_at(BLOCK_WEIGHTS, BLOCK_BYTES) if one.touched else one.bytes for one in target.tensors
        ),
        shared_bytes=0,
        reason="One file that every server takes, a whole model a version.",
    )
