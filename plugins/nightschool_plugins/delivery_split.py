"""Delivers a lesson as two shards: the touched tensors in Q8_0, and one shard that all versions share.

Q8_0 keeps what was learned; rounded back to four bits most of a small lesson is lost. A version costs
34 bytes for every 32 touched weights.
"""

from nightschool_hookspecs import DeliveryForm, DeliveryPlan, DeliveryTarget, hookimpl

BLOCK_WEIGHTS, BLOCK_BYTES = 32, 34


@hookimpl
def nightschool_choose_delivery(target: DeliveryTarget) -> DeliveryPlan | None:
    if not target.server.split:
        return None
    touched = [one for one in target.tensors if one.touched]
    weights = sum(one.bytes_at(BLOCK_WEIGHTS, BLOCK_BYTES) for one in touched)
    return DeliveryPlan(
        form=DeliveryForm.SPLIT,
        tensor_type="Q8_0",
        version_bytes=weights,
        shared_bytes=sum(one.bytes for one in target.tensors if not one.touched),
        reason="The server takes split files, so that versions share what no lesson touches.",
    )
