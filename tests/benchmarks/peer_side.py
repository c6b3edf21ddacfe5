"""The peers of `make bench-learning-engine`. Every function takes its figures in a process of its own."""

import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import forms, material, packed_side, tasks
from benchmarks.material import Figures
from nightschool_daemon.learning import gguf_file
from nightschool_daemon.learning.engine import machine
from nightschool_daemon.learning.gguf_file import GgufFile
from nightschool_daemon.learning.rows import Row
from support.base_models import MODELS

LORA = {
    "r": material.RANK,
    "lora_alpha": 2 * material.RANK,
    "target_modules": "all-linear",
    "task_type": "CAUSAL_LM",
}
CONVERTER = "llama-cpp-python==0.3.36"
"""Its source has llama.cpp's converters with it; nothing of it is built or installed."""
CONVERSION = """
import contextlib, pathlib, runpy, sys, time

script, *arguments = sys.argv[1:]
sys.path.insert(0, str(pathlib.Path(script).parent))
for given in (["--help"], arguments):
    sys.argv = [script, *given]
    began = time.perf_counter()
    with contextlib.redirect_stdout(sys.stderr), contextlib.suppress(SystemExit):
        runpy.run_path(script, run_name="__main__")
print(time.perf_counter() - began)
"""
"""Runs the converter twice in one process, first for its help, by which all that it imports is there. Prints how many
seconds the second time took."""


def trl_sft(model: str, _seed: int) -> Figures:
    """The same by TRL with its options for speed: 16-bit floats, rows of like length together."""
    return _trl_sft(model, in_16_bits=True)


def trl_sft_in_32_bits(model: str, _seed: int) -> Figures:
    """The same in 32-bit floats, which are faster on processors that have no products of 16 bits."""
    return _trl_sft(model, in_16_bits=False)


def _trl_sft(model: str, *, in_16_bits: bool) -> Figures:
    """Labels on answers alone, as ours."""
    from datasets import Dataset
    from peft import LoraConfig
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    rows = material.rows_of(model)
    network, tokenizer = _unpacked(model, in_16_bits=in_16_bits)
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
            peft_config=LoraConfig(**LORA),
            callbacks=[_clock(marks)],
            args=SFTConfig(
                train_sampling_strategy="group_by_length",
                completion_only_loss=True,
                **_of_peers(directory, in_16_bits=in_16_bits),
            ),
        )
        trainer.train()
    tokens = sum(map(len, rows)) * (len(marks) - 1) / len(marks)
    return {"tokens_s": tokens / (marks[-1] - marks[0]), "peak_mb": material.peak_mb()}


def transformers_first_step(model: str, _seed: int) -> Figures:
    """Model and tokenizer by `gguf_file`, PEFT around them, one step on the same rows."""
    import torch
    from peft import LoraConfig, get_peft_model

    ids, mask, labels = _padded(material.rows_of(model)[: material.BATCH])
    dtype = machine.fastest_type(machine.device())
    began = time.perf_counter()
    network, tokenizer = _loaded(model, dtype)
    tokenizer.encode("a b c")
    network = get_peft_model(network, LoraConfig(**LORA))
    optimizer = torch.optim.AdamW([one for one in network.parameters() if one.requires_grad], lr=5e-4)
    network(input_ids=ids, attention_mask=mask, labels=labels).loss.backward()
    optimizer.step()
    return {"seconds": time.perf_counter() - began}


def _padded(rows: Sequence[Row]) -> tuple[Any, Any, Any]:
    """Ids, what is no padding, and labels on answers alone; each of shape (rows, longest)."""
    import torch

    shape = (len(rows), max(map(len, rows)))
    ids, mask, labels = torch.zeros(shape).long(), torch.zeros(shape).long(), torch.full(shape, -100)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = torch.tensor([*row.prompt, *row.completion])
        mask[number, : len(row)] = 1
        labels[number, len(row.prompt) : len(row)] = torch.tensor(row.completion)
    return ids, mask, labels


def trl_dpo(model: str, _seed: int) -> Figures:
    """The same by TRL, with the reference taken before, in 16-bit floats."""
    return _trl_dpo(model, in_16_bits=True)


def trl_dpo_in_32_bits(model: str, _seed: int) -> Figures:
    """The same in 32-bit floats."""
    return _trl_dpo(model, in_16_bits=False)


def _trl_dpo(model: str, *, in_16_bits: bool) -> Figures:
    from datasets import Dataset
    from peft import LoraConfig
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer

    begin, end = MODELS[model].turn
    pairs = tasks.shell(0, material.PAIRS, 1).learned
    network, tokenizer = _unpacked(model, in_16_bits=in_16_bits)
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
            peft_config=LoraConfig(**LORA),
            callbacks=[_clock(marks)],
            args=DPOConfig(precompute_ref_log_probs=True, **_of_peers(directory, in_16_bits=in_16_bits)),
        )
        trainer.train()
    return {"pairs_s": (material.PAIRS - material.BATCH) / (marks[-1] - marks[0]), "peak_mb": material.peak_mb()}


def _of_peers(directory: str, *, in_16_bits: bool) -> dict[str, Any]:
    """What both of TRL's trainers are told."""
    return {
        "output_dir": directory,
        "per_device_train_batch_size": material.BATCH,
        "num_train_epochs": 1,
        "learning_rate": 5e-4,
        "bf16": in_16_bits,
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


def trl_head(_model: str, _seed: int) -> Figures:
    """Loss and gradient of the same head by TRL's own: on a CPU it takes every place of the padded batch."""
    from trl.kernels.chunked_logprob import ChunkedLogProbFunction
    from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE

    matrix, hidden, targets, labels = material.head_batch()
    bench = machine.bench()
    dense = bench.unpack(matrix).clone()
    bench = machine.bench()
    hidden = hidden.to(dense.dtype).requires_grad_()
    before = material.begin_peak()
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
    return {"seconds": time.perf_counter() - began, "added_mb": max(1.0, material.peak_mb() - before)}


def _loaded(model: str, dtype: Any) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    file = forms.fetched(model, MODELS[model])
    network = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=dtype)
    return network, AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)


def _unpacked(model: str, *, in_16_bits: bool) -> tuple[Any, Any]:
    """The model in transformers' own files, made once: it trains none that it knows to come from a GGUF."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    kept = forms.cached() / "unpacked" / model
    dtype = torch.bfloat16 if in_16_bits else torch.float32
    if not kept.exists():
        network, tokenizer = _loaded(model, torch.float32)
        del network.config.quantization_config
        plain = AutoModelForCausalLM.from_config(network.config)
        plain.load_state_dict(network.state_dict())
        plain.save_pretrained(kept)
        tokenizer.save_pretrained(kept)
    return AutoModelForCausalLM.from_pretrained(kept, dtype=dtype), AutoTokenizer.from_pretrained(kept)


def converter_export(model: str, _seed: int) -> Figures:
    """The same adapter by llama.cpp's converter: what its command takes, and what once all that it imports is there."""
    _unpacked(model, in_16_bits=False)
    script, file = converter(), gguf_file.read(forms.fetched(model, MODELS[model]))
    with tempfile.TemporaryDirectory() as text:
        directory = Path(text)
        exported = directory / "converted.gguf"
        command = [str(script), str(material.adapter(model)), "--outtype", "f32"]
        command += ["--base", str(forms.cached() / "unpacked" / model), "--outfile", str(exported)]
        began = time.perf_counter()
        subprocess.run([sys.executable, *command], check=True, capture_output=True, text=True)
        whole = time.perf_counter() - began
        done = subprocess.run([sys.executable, "-c", CONVERSION, *command], check=True, capture_output=True, text=True)
        seconds = float(done.stdout.splitlines()[-1])
        _, own = packed_side.exported_adapter(file, material.adapter(model), directory)
        return {
            "seconds": seconds,
            "command_seconds": whole,
            "equal": _equal_tensors(gguf_file.read(own), gguf_file.read(exported)),
        }


def converter() -> Path:
    """The script, from the source distribution that it travels in. Raises `CalledProcessError` where it is not had."""
    kept = forms.cached() / "llama.cpp"
    if not kept.exists():
        with tempfile.TemporaryDirectory(dir=kept.parent) as text:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
            subprocess.run([*command, "--dest", text, CONVERTER], check=True)
            with tarfile.open(next(Path(text).glob("*.tar.gz"))) as archive:
                archive.extractall(text, filter="data")
            next(Path(text).glob("*/vendor/llama.cpp")).rename(kept)
    return kept / "convert_lora_to_gguf.py"


def _equal_tensors(own: GgufFile, other: GgufFile) -> int:
    """How many tensors of ours the other file has, with the same weights."""
    both = own.tensors.keys() & other.tensors.keys()
    return sum(np.array_equal(own.dequantized(name), other.dequantized(name)) for name in both)
