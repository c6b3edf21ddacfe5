"""Delivers a lesson as a LoRA adapter beside the base: the smallest way, where the server still takes it.

Ollama 0.30 to 0.34.0 do; 0.34.1 and later refuse adapters.
"""

from nightschool_hookspecs import DeliveryForm, DeliveryPlan, DeliveryTarget, hookimpl


@hookimpl
def nightschool_choose_delivery(target: DeliveryTarget) -> DeliveryPlan | None:
    if not target.server.adapter or target.adapter_bytes is None:
        return None
    return DeliveryPlan(
        form=DeliveryForm.ADAPTER,
        version_bytes=target.adapter_bytes,
        shared_bytes=0,
        reason="The server takes LoRA adapters, so the base stays as it is.",
    )
