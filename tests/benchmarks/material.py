"""What both sides of `make bench-learning-engine` learn from."""

import gc
import resource
from pathlib import Path
from typing import Any

from benchmarks import forms, tasks
from nightschool_daemon.learning.rows import Row
from support.base_models import MODELS

PAIRS = 32
BATCH = 8
RANK = 16
HEAD_WIDTH, HEAD_VOCABULARY = 640, 262_144

Figures = dict[str, float]


def peak_mb() -> float:
    """Largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def begin_peak() -> float:
    """Begin the peak anew, and return where it begins: what was freed goes back to the system before. Linux alone."""
    from nightschool_daemon.learning.engine import machine

    gc.collect()
    machine.return_free_memory()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return peak_mb()


def rows_of(model: str) -> list[Row]:
    """The same examples for everybody."""
    from nightschool_daemon.learning import gguf_file
    from nightschool_daemon.learning.loading import load_tokens

    file = gguf_file.read(forms.fetched(model, MODELS[model]))
    tokens = load_tokens(file, model, forms.cached())
    return forms.rows_of(tasks.shell(0, PAIRS, 1).learned, MODELS[model], tokens)


def head_batch() -> tuple[Any, Any, Any, Any]:
    """A head, and the states, targets and labelled places of a batch as it comes: padded rows, shifted by one."""
    import gguf
    import numpy as np
    import torch

    from nightschool_daemon.learning.engine.packed import PackedMatrix
    from nightschool_daemon.learning.rounding import rounded

    kind = gguf.GGMLQuantizationType.Q8_0
    piece = np.random.default_rng(0).standard_normal((4096, HEAD_WIDTH)).astype(np.float32) * 0.02
    data = torch.from_numpy(np.tile(rounded(piece, kind), (HEAD_VOCABULARY // 4096, 1)))
    matrix = PackedMatrix(name="output.weight", data=data, kind=kind, shape=(HEAD_VOCABULARY, HEAD_WIDTH))
    torch.manual_seed(0)
    rows = rows_of("gemma")[:BATCH]
    longest = max(map(len, rows)) - 1
    labels = torch.zeros(BATCH, longest, dtype=torch.bool)
    for number, row in enumerate(rows):
        labels[number, len(row.prompt) - 1 : len(row) - 1] = True
    count = labels.numel()
    return matrix, torch.randn(count, HEAD_WIDTH), torch.randint(0, HEAD_VOCABULARY, (count,)), labels.flatten()


def adapter(model: str) -> Path:
    """A PEFT adapter of random weights on all linear layers, made once."""
    import torch

    from nightschool_daemon.learning import gguf_file
    from nightschool_daemon.learning.engine import machine
    from nightschool_daemon.learning.engine.network import Network
    from nightschool_daemon.learning.packed_route import make_form
    from nightschool_daemon.learning.peft_files import save_form
    from nightschool_hookspecs.records import Hyperparameters, TrainedForm

    kept = forms.cached() / f"adapter-{model}"
    if not kept.exists():
        file = gguf_file.read(forms.fetched(model, MODELS[model]))
        form = make_form(
            Network(file, machine.bench()), Hyperparameters(form=TrainedForm.LORA, lora_r=RANK, lora_alpha=2 * RANK), 0
        )
        torch.manual_seed(0)
        form.put({name: torch.randn_like(one) for name, one in form.parameters.items()})
        save_form(form, file, kept)
    return kept
