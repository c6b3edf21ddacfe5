"""The network behind a tag, computed by ourselves from the files that Ollama serves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nightschool_daemon.config import EngineChoice, OllamaSettings, Settings
from nightschool_daemon.learning import gguf_file
from nightschool_daemon.learning.engine.architecture import is_known, read_architecture
from nightschool_daemon.learning.gguf_file import GgufFile
from nightschool_daemon.ollama.http import ShownModel
from nightschool_daemon.ollama.storage import locate_adapter, locate_blob
from nightschool_hookspecs.services import TrainingError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from nightschool_daemon.learning.engine.network import Network

    Weights = NDArray[np.float32]


def why_not_computed(settings: Settings, file: GgufFile) -> str | None:
    """Why versions of a base cannot be computed here, as far as its header tells; None where they can."""
    if settings.training.engine is not EngineChoice.AUTO:
        return 'only the packed engine does that, and training.engine is "transformers"'
    if not is_known(file):
        return f"only the packed engine does that, and it does not compute a base like this ({file.architecture})"
    try:
        read_architecture(file)
    except TrainingError as error:
        return str(error).rstrip(".")
    return None


def served_network(settings: OllamaSettings, shown: ShownModel, base: GgufFile, context: int) -> Network:
    """What Ollama computes under a tag: a base itself, or a version that was made from it, in whatever form.

    `context`: tokens that it is run with. Raises `TrainingError` and `BlobUnreadable`.
    """
    import torch

    from nightschool_daemon.learning.engine import machine
    from nightschool_daemon.learning.engine.forms import FixedLowRank
    from nightschool_daemon.learning.engine.network import Network

    blob = locate_blob(settings, shown)
    over = None if blob.samefile(base.path) else gguf_file.read(blob)
    network = Network(base, machine.bench(torch.float32), context=context, over=over)
    for digest in shown.modelfile.adapter_digests:
        adapter = gguf_file.read(locate_adapter(settings, shown, digest))
        network.form = FixedLowRank(adapter_factors(adapter), network.bench.device)
    return network


def adapter_factors(file: GgufFile) -> dict[str, tuple[Weights, Weights, float]]:
    """What an adapter in Ollama's form adds: `blk.0.attn_q` -> A (r, in), B (out, r) and the scale of their product.

    Raises `TrainingError` where it tells no alpha.
    """
    alpha = file.scalar("adapter.lora.alpha")
    if not isinstance(alpha, float):
        raise TrainingError("The delivered adapter has no alpha. Run again.")
    factors = {}
    for name in (one.removesuffix(".lora_a") for one in file.tensors if one.endswith(".lora_a")):
        down, up = file.dequantized(f"{name}.lora_a"), file.dequantized(f"{name}.lora_b")
        factors[name.removesuffix(".weight")] = (down, up, alpha / down.shape[0])
    return factors
