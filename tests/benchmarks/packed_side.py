"""Our side of `make bench-learning-engine`. Every function takes its figures in a process of its own."""

import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks import forms, material, tasks
from benchmarks.material import Figures
from nightschool_daemon.config import OllamaSettings
from nightschool_daemon.jobs import ExportResult
from nightschool_daemon.learning import gguf_file
from nightschool_daemon.learning.engine import fitting, head, machine
from nightschool_daemon.learning.engine.adam import Adam
from nightschool_daemon.learning.engine.examples import Answer, Example, batches
from nightschool_daemon.learning.engine.loop import Objective, Plan, gradients_of, trained_of
from nightschool_daemon.learning.engine.network import Network
from nightschool_daemon.learning.engine.todo import Todo
from nightschool_daemon.learning.export import Parcel, write_adapter
from nightschool_daemon.learning.gguf_file import GgufFile
from nightschool_daemon.learning.lesson import read_lesson
from nightschool_daemon.learning.packed_route import make_form
from nightschool_daemon.learning.rounding import Demand
from nightschool_daemon.learning.rows import Row
from nightschool_daemon.learning.tokenizer import build_tokenizer
from nightschool_daemon.ollama.http import OllamaHttp
from nightschool_daemon.ollama.publish import Publication, publish
from nightschool_hookspecs.records import DeliveryForm, Hyperparameters, TrainedForm, TrainingMethod
from support.base_models import MODELS
from support.night import import_base
from support.ollama_server import OllamaServer

RATE = 5e-4
SETTINGS = Hyperparameters(
    form=TrainedForm.LORA,
    learning_rate=RATE,
    batch_size=material.BATCH,
    lora_r=material.RANK,
    lora_alpha=2 * material.RANK,
    num_epochs=1,
)
SERVED = "0.34.3"
ANSWERED, ANSWER_TOKENS, ROUNDS = 8, 48, 9
"""Prompts by which decoding is timed, tokens of an answer, and how often base and delivered model take turns."""


def packed_sft(model: str, _seed: int) -> Figures:
    """One epoch of LoRA by the packed engine. Allowed are the file's own size and 1.5 GB."""
    seconds, learned = _epoch(model, _wanted(material.rows_of(model)), TrainingMethod.SFT)
    allowed = forms.fetched(model, MODELS[model]).stat().st_size + 1.5e9
    return {
        "tokens_s": sum(map(len, learned)) / seconds,
        "peak_mb": material.peak_mb(),
        "allowed_mb": allowed / 1e6,
    }


def packed_sft_in_blocks(model: str, _seed: int) -> Figures:
    """The same with every layer in its blocks to the end, as where there is no room to keep some of them unpacked."""
    seconds, learned = _epoch(model, _wanted(material.rows_of(model)), TrainingMethod.SFT, keeps_unpacked=False)
    return {"tokens_s": sum(map(len, learned)) / seconds}


def packed_dpo(model: str, _seed: int) -> Figures:
    """One epoch of DPO: each wanted answer over that to another prompt. What the base says of them is taken before."""
    rows = material.rows_of(model)
    examples = [
        Example(
            prompt=row.prompt, answers=(Answer(tokens=row.completion), Answer(tokens=other.completion, liked=False))
        )
        for row, other in zip(rows, [*rows[1:], rows[0]], strict=True)
    ]
    seconds, learned = _epoch(model, examples, TrainingMethod.DPO)
    return {"pairs_s": len(learned) / seconds}


def packed_first_step(model: str, _seed: int) -> Figures:
    """From the file to the end of the first step, tokenizer included, nothing kept from before."""
    examples = _wanted(material.rows_of(model)[: material.BATCH])
    path = forms.fetched(model, MODELS[model])
    with tempfile.TemporaryDirectory() as directory:
        began = time.perf_counter()
        file = gguf_file.read(path)
        build_tokenizer(file).encode("a b c")
        trainer = Trainer.of(file, examples, TrainingMethod.SFT, Path(directory))
        trainer.step(trainer.steps()[0])
        return {"seconds": time.perf_counter() - began}


def packed_head(_model: str, _seed: int) -> Figures:
    """Loss and gradient of a head in Q8_0, where labels are."""
    matrix, hidden, targets, labels = material.head_batch()
    bench = machine.bench()
    hidden = hidden[labels].to(bench.dtype).requires_grad_()
    targets = targets[labels]
    before = material.begin_peak()
    began = time.perf_counter()
    (-head.log_probabilities(hidden, targets, matrix, bench, None).mean()).backward()
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "added_mb": max(1.0, material.peak_mb() - before)}


def packed_export(model: str, _seed: int) -> Figures:
    """A PEFT adapter on all linear layers as a GGUF adapter."""
    file = gguf_file.read(forms.fetched(model, MODELS[model]))
    with tempfile.TemporaryDirectory() as directory:
        seconds, exported = exported_adapter(file, material.adapter(model), Path(directory))
        return {"seconds": seconds, "tensors": len(gguf_file.read(exported).tensors)}


def exported_adapter(file: GgufFile, adapter: Path, directory: Path) -> tuple[float, Path]:
    """Seconds that the export took, and its file."""
    began = time.perf_counter()
    parcel = Parcel(
        lesson=read_lesson(adapter, file),
        name="exported",
        directory=directory,
        demand=Demand(allowed_noise=0.0),
        report=lambda _done, _total, _text: None,
    )
    (exported,) = write_adapter(parcel)
    return time.perf_counter() - began, exported.path


def lesson(model: str, seed: int) -> Figures:
    """Shell commands by the default form at its default rate, and by plain LoRA in Q8_0 at the best that is known.

    The rates were chosen by the texts of seed 0, which is not among these.
    """
    seed += 1
    with tempfile.TemporaryDirectory() as text:
        directory = Path(text)
        ours, plain = directory / "ours", directory / "plain"
        ours.mkdir()
        plain.mkdir()
        result, export = forms.run(forms.by_default(model, "shell", seed), ours)
        base_speed, speed = _decoding(model, export, directory / "ollama")
        other, _ = forms.run(forms.best_plain(model, "shell", seed), plain)
    if other.in_q8_0 is None:
        raise RuntimeError("plain LoRA was not measured in Q8_0")
    return {
        "learned": result.base - result.trained,
        "kept": result.base - result.delivered,
        "bytes": result.delivered_bytes,
        "base_bytes": result.touched_bytes,
        "loss": result.delivered,
        "plain_loss": other.in_q8_0,
        "tokens_s": speed,
        "base_tokens_s": base_speed,
    }


def _decoding(model: str, export: ExportResult, directory: Path) -> tuple[float, float]:
    """Tokens a second that Ollama decodes with the base and with the delivered model: medians of turns."""
    base = MODELS[model]
    delivered = f"{base.tag}-delivered"
    prompts = [base.turn[0].format(prompt=one.prompt) for one in tasks.shell(0, ANSWERED, 1).learned]
    with OllamaServer(SERVED, directory=directory) as server:
        import_base(server, base, forms.fetched(model, base))
        ollama = OllamaHttp(OllamaSettings(host=server.url))
        publication = Publication(
            tag=delivered,
            form=DeliveryForm.SPLIT,
            files=export.files,
            base_tag=base.tag,
            models_directory=server.models_directory,
        )
        publish(ollama, publication)
        turns = [(_speed(ollama, base.tag, prompts), _speed(ollama, delivered, prompts)) for _ in range(ROUNDS)]
        ollama.close()
    before, after = zip(*turns, strict=True)
    return statistics.median(before), statistics.median(after)


def _speed(ollama: OllamaHttp, name: str, prompts: Sequence[str]) -> float:
    options = {"temperature": 0, "seed": 1, "num_predict": ANSWER_TOKENS, "num_ctx": 2048, "stop": []}
    answers = [ollama.generate(name, prompt, options, raw=True) for prompt in prompts]
    counts, nanoseconds = ([float(str(one[key])) for one in answers] for key in ("eval_count", "eval_duration"))
    return sum(counts) / sum(nanoseconds) * 1e9


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """A training that is taken step by step."""

    objective: Objective
    optimizer: Adam
    examples: Sequence[Example]

    @classmethod
    def of(
        cls,
        file: GgufFile,
        examples: Sequence[Example],
        method: TrainingMethod,
        directory: Path,
        *,
        keeps_unpacked: bool = True,
    ) -> "Trainer":
        """Planned as a run's training is. `keeps_unpacked`: as many layers as there is room for; else none."""
        network = Network(file, machine.bench())
        network.form = make_form(network, SETTINGS, 0)
        pads = network.pads(branching=method is TrainingMethod.DPO)
        todo = Todo(examples=examples, method=method, settings=SETTINGS, seed=0, pads=pads)
        planned = fitting.fitted(network, network.form, todo)
        if not keeps_unpacked:
            planned = replace(planned, unpacked=0)
        fitting.set_up(network, network.form, planned)
        plan = Plan(
            method=method,
            hyperparameters=SETTINGS,
            seed=0,
            tokens_a_pass=planned.tokens_a_pass,
            output=directory,
            signature="",
        )
        objective = Objective(network, plan, examples, examples[:1])
        optimizer = Adam(trained_of(objective))
        return cls(objective=objective, optimizer=optimizer, examples=examples)

    def steps(self) -> list[list[Example]]:
        """The batches of an epoch."""
        return batches(self.examples, material.BATCH)

    def step(self, batch: Sequence[Example]) -> None:
        """Learn from one."""
        gradients_of(self.objective, batch)
        self.optimizer.step(RATE)


def _epoch(
    model: str, examples: Sequence[Example], method: TrainingMethod, *, keeps_unpacked: bool = True
) -> tuple[float, list[Example]]:
    """Seconds of all steps but the first, and the examples that they learned from."""
    file = gguf_file.read(forms.fetched(model, MODELS[model]))
    with tempfile.TemporaryDirectory() as directory:
        trainer = Trainer.of(file, examples, method, Path(directory), keeps_unpacked=keeps_unpacked)
        first, *others = trainer.steps()
        trainer.step(first)
        began = time.perf_counter()
        for batch in others:
            trainer.step(batch)
        seconds = time.perf_counter() - began
    return seconds, [one for batch in others for one in batch]


def _wanted(rows: Sequence[Row]) -> list[Example]:
    return [Example(prompt=row.prompt, answers=(Answer(tokens=row.completion),)) for row in rows]
