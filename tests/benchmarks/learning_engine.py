"""`make bench-learning-engine`: the packed engine against TRL and transformers, in the same run.

Every measure runs in a process of its own, so that its peak of memory is its own; medians of three. The peers stand in
a dependency group of their own (`peers`); a row whose peer is not installed prints `holds: null` and does not fail.
"""

import argparse
import importlib.util
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from benchmarks import forms, tasks  # noqa: E402 - found through the path above
from nightschool_daemon.learning.rows import Row  # noqa: E402
from support.base_models import MODELS  # noqa: E402

RESULT = ROOT / "build" / "bench" / "learning-engine.json"
REPEATS = 3
PAIRS = 64
BATCH = 8
RANK = 16
HEAD_WIDTH, HEAD_VOCABULARY = 640, 262_144

Figures = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A figure of ours, the same of a peer, and by how much ours must be better."""

    name: str
    ours: tuple[str, str]
    """Name of the function below that takes it, and the figure's name."""
    peer: tuple[str, str]
    model: str
    goal: float
    more_is_better: bool
    needs: str = "trl"


def measures() -> list[Measure]:
    """The table's rows."""
    rows = [
        Measure(
            name=f"SFT tokens/s, {model}",
            ours=("packed_sft", "tokens_s"),
            peer=("trl_sft", "tokens_s"),
            model=model,
            goal=2.5,
            more_is_better=True,
        )
        for model in MODELS
    ]
    rows += [
        Measure(
            name=f"peak MB of that, {model}",
            ours=("packed_sft", "peak_mb"),
            peer=("trl_sft", "peak_mb"),
            model=model,
            goal=2.0,
            more_is_better=False,
        )
        for model in MODELS
    ]
    rows += [
        Measure(
            name=f"GGUF to first step s, {model}",
            ours=("packed_load", "seconds"),
            peer=("transformers_load", "seconds"),
            model=model,
            goal=4.0,
            more_is_better=False,
            needs="transformers",
        )
        for model in MODELS
    ]
    rows += [
        Measure(
            name=f"DPO pairs/s, {model}",
            ours=("packed_dpo", "pairs_s"),
            peer=("trl_dpo", "pairs_s"),
            model=model,
            goal=3.5,
            more_is_better=True,
        )
        for model in MODELS
    ]
    head = {"ours": "packed_head", "peer": "trl_head"}
    rows += [
        Measure(
            name=f"head over 262,144 tokens: {title}",
            ours=(head["ours"], figure),
            peer=(head["peer"], figure),
            model="gemma",
            goal=goal,
            more_is_better=False,
        )
        for title, figure, goal in (("s", "seconds", 4.0), ("MB", "added_mb", 12.0))
    ]
    return rows


def main() -> int:
    """Take all figures, print the table. Returns 1 where a row falls short."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--take", nargs=2, metavar=("FUNCTION", "MODEL"))
    given = parser.parse_args()
    if given.take:
        print(json.dumps(TAKERS[given.take[0]](given.take[1])))
        return 0
    taken: dict[tuple[str, str], Figures] = {}
    rows = [row_of(measure, taken) for measure in measures()]
    for row in rows:
        print("  ".join(f"{key} {value:.4g}" if isinstance(value, float) else f"{value}" for key, value in row.items()))
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 1 if any(row["holds"] is False for row in rows) else 0


def row_of(measure: Measure, taken: dict[tuple[str, str], Figures]) -> dict[str, object]:
    """One line of the table."""
    ours = figure(measure.ours, measure.model, taken)
    if importlib.util.find_spec(measure.needs) is None:
        return {"measure": measure.name, "ours": ours, "peer": None, "ratio": None, "goal": measure.goal, "holds": None}
    peer = figure(measure.peer, measure.model, taken)
    ratio = ours / peer if measure.more_is_better else peer / ours
    return {
        "measure": measure.name,
        "ours": ours,
        "peer": peer,
        "ratio": ratio,
        "goal": measure.goal,
        "holds": ratio >= measure.goal,
    }


def figure(source: tuple[str, str], model: str, taken: dict[tuple[str, str], Figures]) -> float:
    """The median of a figure, taken once for all rows that want it."""
    taker, name = source
    if (taker, model) not in taken:
        repeats = [in_a_process(taker, model) for _ in range(REPEATS)]
        taken[taker, model] = {key: statistics.median(one[key] for one in repeats) for key in repeats[0]}
    return taken[taker, model][name]


def in_a_process(taker: str, model: str) -> Figures:
    """Take figures in a process of its own."""
    command = [sys.executable, __file__, "--take", taker, model]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{taker} of {model} ended with {done.returncode}: {done.stderr[-2000:]}")
    found: Figures = json.loads(done.stdout.splitlines()[-1])
    return found


def peak_mb() -> float:
    """Largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def rows_of(model: str) -> list[Row]:
    """The same examples for everybody."""
    from nightschool_daemon.learning import gguf_file
    from nightschool_daemon.learning.loading import load_tokens

    file = gguf_file.read(forms.fetched(model, MODELS[model]))
    tokens = load_tokens(file, model, forms.cached())
    return forms.rows_of(tasks.shell(0, PAIRS, 1).learned, MODELS[model], tokens)


# --------------------------------------------------------------------------- ours


def packed_sft(model: str) -> Figures:
    """One epoch of LoRA by the packed engine."""
    from nightschool_daemon.learning.engine.examples import Answer, Example
    from nightschool_hookspecs.records import TrainingMethod

    examples = [Example(prompt=row.prompt, answers=(Answer(tokens=row.completion),)) for row in rows_of(model)]
    seconds, learned = _epoch(model, examples, TrainingMethod.SFT)
    return {"tokens_s": sum(map(len, learned)) / seconds, "peak_mb": peak_mb()}


def packed_dpo(model: str) -> Figures:
    """One epoch of DPO: each wanted answer over that to another prompt. What the base says of them is taken before."""
    from nightschool_daemon.learning.engine.examples import Answer, Example
    from nightschool_hookspecs.records import TrainingMethod

    rows = rows_of(model)
    examples = [
        Example(
            prompt=row.prompt, answers=(Answer(tokens=row.completion), Answer(tokens=other.completion, liked=False))
        )
        for row, other in zip(rows, [*rows[1:], rows[0]], strict=True)
    ]
    seconds, learned = _epoch(model, examples, TrainingMethod.DPO)
    return {"pairs_s": len(learned) / seconds, "peak_mb": peak_mb()}


def _epoch(model: str, examples: Any, method: Any) -> tuple[float, list[Any]]:
    """Seconds of all steps but the first, and the examples that they learned from."""
    import torch

    from nightschool_daemon.learning import gguf_file
    from nightschool_daemon.learning.engine import machine, memory
    from nightschool_daemon.learning.engine.examples import batches
    from nightschool_daemon.learning.engine.loop import Objective, Plan, update
    from nightschool_daemon.learning.engine.network import Network
    from nightschool_daemon.learning.engine.route import make_form
    from nightschool_hookspecs.records import Hyperparameters

    settings = Hyperparameters(batch_size=BATCH, lora_r=RANK, num_epochs=1)
    network = Network(gguf_file.read(forms.fetched(model, MODELS[model])), machine.bench())
    network.form = make_form(network, settings, 0)
    todo = memory.Todo(examples=examples, method=method, settings=settings, seed=0)
    planned = memory.plan(network, network.form, todo)
    network.checkpointed = planned.checkpointed
    with tempfile.TemporaryDirectory() as directory:
        plan = Plan(
            method=method,
            hyperparameters=settings,
            seed=0,
            tokens_a_pass=planned.tokens_a_pass,
            output=Path(directory),
            signature="",
        )
        objective = Objective(network, plan, examples, examples[:1])
        optimizer = torch.optim.AdamW(objective.parameters(), lr=5e-4, fused=True)
        steps = batches(examples, BATCH, 0, 0)
        update(objective, steps[0], optimizer, 5e-4)
        began = time.perf_counter()
        for batch in steps[1:]:
            update(objective, batch, optimizer, 5e-4)
        seconds = time.perf_counter() - began
    return seconds, [one.example for batch in steps[1:] for one in batch]


def packed_load(model: str) -> Figures:
    """From the file to the first step, tokenizer included, nothing kept from before."""
    from nightschool_daemon.learning import gguf_file
    from nightschool_daemon.learning.engine import machine
    from nightschool_daemon.learning.engine.network import Network
    from nightschool_daemon.learning.tokenizer import build_tokenizer

    path = forms.fetched(model, MODELS[model])
    began = time.perf_counter()
    file = gguf_file.read(path)
    build_tokenizer(file).encode("a b c")
    Network(file, machine.bench())
    return {"seconds": time.perf_counter() - began}


def packed_head(model: str) -> Figures:
    """Loss and gradient of a head in Q8_0, where labels are."""

    from nightschool_daemon.learning.engine import head, machine

    matrix, hidden, targets, labels = _head()
    bench = machine.bench()
    hidden = hidden[labels].to(bench.dtype).requires_grad_()
    targets = targets[labels]
    before = peak_mb()
    began = time.perf_counter()
    (-head.log_probabilities(hidden, targets, matrix, bench, None).mean()).backward()
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "added_mb": max(1.0, peak_mb() - before)}


def _head() -> tuple[Any, Any, Any, Any]:
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


# --------------------------------------------------------------------------- peers


def trl_sft(model: str) -> Figures:
    """The same by TRL, as fast as it goes: bfloat16, rows of like length together, labels on answers alone."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    rows = rows_of(model)
    network, tokenizer = _unpacked(model, torch.bfloat16)
    data = Dataset.from_list(
        [
            {
                "input_ids": [*row.prompt, *row.completion],
                "completion_mask": [0] * len(row.prompt) + [1] * len(row.completion),
            }
            for row in rows
        ]
    )
    marks: list[float] = []
    with tempfile.TemporaryDirectory() as directory:
        trainer = SFTTrainer(
            model=network,
            processing_class=tokenizer,
            train_dataset=data,
            peft_config=LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="CAUSAL_LM"),
            callbacks=[_clock(marks)],
            args=SFTConfig(
                train_sampling_strategy="group_by_length", completion_only_loss=True, **_of_peers(directory)
            ),
        )
        trainer.train()
    tokens = sum(map(len, rows)) * (len(marks) - 1) / len(marks)
    return {"tokens_s": tokens / (marks[-1] - marks[0]), "peak_mb": peak_mb()}


def transformers_load(model: str) -> Figures:
    """Model and tokenizer by `gguf_file`."""
    import torch

    began = time.perf_counter()
    _loaded(model, torch.bfloat16)
    return {"seconds": time.perf_counter() - began}


def trl_dpo(model: str) -> Figures:
    """The same by TRL, with the reference taken before."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer

    begin, end = MODELS[model].turn
    pairs = tasks.shell(0, PAIRS, 1).learned
    network, tokenizer = _unpacked(model, torch.bfloat16)
    data = Dataset.from_list(
        [
            {"prompt": begin.format(prompt=one.prompt), "chosen": one.answer + end, "rejected": other.answer + end}
            for one, other in zip(pairs, [*pairs[1:], pairs[0]], strict=True)
        ]
    )
    marks: list[float] = []
    with tempfile.TemporaryDirectory() as directory:
        trainer = DPOTrainer(
            model=network,
            processing_class=tokenizer,
            train_dataset=data,
            peft_config=LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="CAUSAL_LM"),
            callbacks=[_clock(marks)],
            args=DPOConfig(precompute_ref_log_probs=True, **_of_peers(directory)),
        )
        trainer.train()
    return {"pairs_s": (PAIRS - BATCH) / (marks[-1] - marks[0]), "peak_mb": peak_mb()}


def _of_peers(directory: str) -> dict[str, Any]:
    """What both of TRL's trainers are told."""
    return {
        "output_dir": directory,
        "per_device_train_batch_size": BATCH,
        "num_train_epochs": 1,
        "learning_rate": 5e-4,
        "bf16": True,
        "use_cpu": True,
        "gradient_checkpointing": False,
        "max_length": None,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "logging_steps": 1000,
    }


def _clock(marks: list[float]) -> Any:
    """Notes when each step ended."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):  # type: ignore[misc]  # transformers is not read by mypy
        def on_step_end(self, *_arguments: object, **_named: object) -> None:
            marks.append(time.perf_counter())

    return Clock()


def trl_head(_model: str) -> Figures:
    """Loss and gradient of the same head by TRL's own: on a CPU it takes every place of the padded batch."""
    from trl.kernels.chunked_logprob import ChunkedLogProbFunction
    from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE

    from nightschool_daemon.learning.engine import machine

    matrix, hidden, targets, labels = _head()
    bench = machine.bench()
    dense = bench.unpack(matrix).clone()
    bench = machine.bench()
    hidden = hidden.to(dense.dtype).requires_grad_()
    before = peak_mb()
    began = time.perf_counter()
    values, *_ = ChunkedLogProbFunction.apply(
        hidden,
        dense,
        None,
        targets,
        1.0,
        _CHUNKED_LOGPROB_CHUNK_SIZE,
        None,
        1.0,
        ("log_probs", "entropy", "is_top1"),
    )
    (-values.masked_fill(~labels, 0).sum() / labels.sum()).backward()
    return {"seconds": time.perf_counter() - began, "added_mb": max(1.0, peak_mb() - before)}


def _loaded(model: str, dtype: Any) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    file = forms.fetched(model, MODELS[model])
    network = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=dtype)
    return network, AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)


def _unpacked(model: str, dtype: Any) -> tuple[Any, Any]:
    """The model in transformers' own files, made once: it trains none that it knows to come from a GGUF."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    kept = forms.cached() / "unpacked" / model
    if not kept.exists():
        import torch

        network, tokenizer = _loaded(model, torch.float32)
        del network.config.quantization_config
        plain = AutoModelForCausalLM.from_config(network.config)
        plain.load_state_dict(network.state_dict())
        plain.save_pretrained(kept)
        tokenizer.save_pretrained(kept)
    return AutoModelForCausalLM.from_pretrained(kept, dtype=dtype), AutoTokenizer.from_pretrained(kept)


TAKERS: Mapping[str, Callable[[str], Figures]] = {
    one.__name__: one
    for one in (
        packed_sft,
        packed_dpo,
        packed_load,
        packed_head,
        trl_sft,
        trl_dpo,
        trl_head,
        transformers_load,
    )
}


if __name__ == "__main__":
    sys.exit(main())
