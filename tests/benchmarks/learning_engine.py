"""`make bench-learning-engine`: the packed engine against TRL, transformers and llama.cpp's converter, in the same run.

Every figure is taken in a process of its own, so that its peak of memory is its own; medians of three. The peers stand
in a dependency group of their own (`peers`); a row whose peer is not to be had prints `holds: null` and does not fail.
What is delivered is compared with the base, the trained network and plain LoRA on three seeds. About an hour and a half
on two cores; `--rows TEXT ...` takes the rows alone that have one of these in their names.
"""

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from benchmarks import packed_side, peer_side, results  # noqa: E402 - found through the path above
from benchmarks.material import Figures  # noqa: E402
from nightschool_daemon.runs import worker_process  # noqa: E402
from support.base_models import MODELS  # noqa: E402

REPEATS = 3
Takes = dict[tuple[str, str], list[Figures]]
"""By the function that took them, and the model."""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A figure of ours, the same of a peer, and by how much ours must be better."""

    name: str
    ours: tuple[str, str]
    """Name of the function that takes it, and the figure's name."""
    peer: tuple[str, str]
    model: str
    goal: float | None
    """Of the ratio, which is above 1 where ours is better; None: it is told, and held to nothing."""
    more_is_better: bool
    has_peer: Callable[[], bool] = lambda: True

    def ratio(self, ours: float, peer: float) -> float:
        """How many times better ours is."""
        return ours / peer if self.more_is_better else peer / ours


def has_trl() -> bool:
    """Whether the group `peers` is installed."""
    return importlib.util.find_spec("trl") is not None


def has_converter() -> bool:
    """Whether llama.cpp's converter can be had."""
    try:
        peer_side.converter()
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


def measures() -> list[Measure]:
    """The table's rows."""
    return [
        *(row for model in MODELS for row in training_rows(model)),
        *head_rows(),
        *(row for model in MODELS for row in export_rows(model)),
        *(row for model in MODELS for row in lesson_rows(model)),
    ]


def training_rows(model: str) -> list[Measure]:
    """Speed and memory of a training."""
    beside_trl = (
        ("SFT tokens/s", "packed_sft", "trl_sft", "tokens_s", 2.5, True),
        ("SFT tokens/s, no layer kept unpacked", "packed_sft_in_blocks", "trl_sft", "tokens_s", 2.5, True),
        ("SFT tokens/s, TRL in 32-bit floats", "packed_sft", "trl_sft_in_32_bits", "tokens_s", 1.0, True),
        ("peak MB of that", "packed_sft", "trl_sft", "peak_mb", 2.0, False),
        ("DPO pairs/s", "packed_dpo", "trl_dpo", "pairs_s", 3.5, True),
        ("DPO pairs/s, TRL in 32-bit floats", "packed_dpo", "trl_dpo_in_32_bits", "pairs_s", 1.0, True),
    )
    return [
        *(
            Measure(
                name=f"{name}, {model}",
                ours=(ours, figure),
                peer=(peer, figure),
                model=model,
                goal=goal,
                more_is_better=more_is_better,
                has_peer=has_trl,
            )
            for name, ours, peer, figure, goal, more_is_better in beside_trl
        ),
        Measure(
            name=f"peak MB of that / file + 1.5 GB, {model}",
            ours=("packed_sft", "peak_mb"),
            peer=("packed_sft", "allowed_mb"),
            model=model,
            goal=1.0,
            more_is_better=False,
        ),
        Measure(
            name=f"GGUF to first step s, {model}",
            ours=("packed_first_step", "seconds"),
            peer=("transformers_first_step", "seconds"),
            model=model,
            goal=4.0,
            more_is_better=False,
        ),
    ]


def head_rows() -> list[Measure]:
    """The head over a large vocabulary."""
    return [
        Measure(
            name=f"head over 262,144 tokens: {unit}",
            ours=("packed_head", figure),
            peer=("trl_head", figure),
            model="gemma",
            goal=goal,
            more_is_better=False,
            has_peer=has_trl,
        )
        for unit, figure, goal in (("s", "seconds", 4.0), ("MB", "added_mb", 12.0))
    ]


def export_rows(model: str) -> list[Measure]:
    """A PEFT adapter as a GGUF adapter: in the process that trained it, beside the command that does it otherwise.

    The goal is held to beside the command: nobody has its work without what it imports. That work alone is told too. A
    checksum and the wait for the disk are part of ours.
    """
    beside_converter = (("as its command", "command_seconds", 15.0), ("once it has imported all", "seconds", None))
    return [
        *(
            Measure(
                name=f"adapter export s, the converter {how}, {model}",
                ours=("packed_export", "seconds"),
                peer=("converter_export", figure),
                model=model,
                goal=goal,
                more_is_better=False,
                has_peer=has_converter,
            )
            for how, figure, goal in beside_converter
        ),
        Measure(
            name=f"adapter export: equal tensors / tensors, {model}",
            ours=("converter_export", "equal"),
            peer=("packed_export", "tensors"),
            model=model,
            goal=1.0,
            more_is_better=True,
            has_peer=has_converter,
        ),
    ]


def lesson_rows(model: str) -> list[Measure]:
    """What is left of a lesson, what it costs in bytes and in speed."""
    figures = (
        ("lesson kept, nats, delivered / trained", "kept", "learned", 0.99, True),
        ("bytes of the touched tensors, delivered / base", "bytes", "base_bytes", 1 / 1.15, False),
        ("decoding in Ollama tokens/s, delivered / base", "tokens_s", "base_tokens_s", 0.9, True),
        ("held-out loss, delivered / plain LoRA r=16 in Q8_0", "loss", "plain_loss", 1 / 1.01, False),
    )
    return [
        Measure(
            name=f"{name}, {model}",
            ours=("lesson", ours),
            peer=("lesson", peer),
            model=model,
            goal=goal,
            more_is_better=more_is_better,
        )
        for name, ours, peer, goal, more_is_better in figures
    ]


TAKERS: Mapping[str, Callable[[str, int], Figures]] = {
    one.__name__: one
    for one in (
        packed_side.packed_sft,
        packed_side.packed_sft_in_blocks,
        packed_side.packed_dpo,
        packed_side.packed_first_step,
        packed_side.packed_head,
        packed_side.packed_export,
        packed_side.lesson,
        peer_side.trl_sft,
        peer_side.trl_sft_in_32_bits,
        peer_side.trl_dpo,
        peer_side.trl_dpo_in_32_bits,
        peer_side.trl_head,
        peer_side.transformers_first_step,
        peer_side.converter_export,
    )
}


def main() -> int:
    """Take all figures, print the table. Returns 1 where a row falls short."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--take", nargs=3, metavar=("FUNCTION", "MODEL", "SEED"))
    parser.add_argument("--rows", nargs="+", default=[""], help="rows alone that have one of these in their names")
    given = parser.parse_args()
    if given.take:
        function, model, seed = given.take
        print(json.dumps(TAKERS[function](model, int(seed))))
        return 0
    taken: Takes = {}
    rows = [row_of(measure, taken) for measure in measures() if any(one in measure.name for one in given.rows)]
    return results.presented("learning-engine", "The packed engine and its peers", rows)


def row_of(measure: Measure, taken: Takes) -> dict[str, object]:
    """One line of the table: medians of figures and of ratios. Figures of one process are compared with each other."""
    row: dict[str, object] = {"measure": measure.name, "ours": None, "peer": None, "ratio": None}
    if not measure.has_peer():
        return row | {"goal": measure.goal, "holds": None}
    ours, peer = (figures(source, measure.model, taken) for source in (measure.ours, measure.peer))
    if measure.ours[0] == measure.peer[0]:
        ratio = statistics.median(map(measure.ratio, ours, peer))
    else:
        ratio = measure.ratio(statistics.median(ours), statistics.median(peer))
    row |= {"ours": statistics.median(ours), "peer": statistics.median(peer), "ratio": ratio}
    print(json.dumps(row), file=sys.stderr, flush=True)
    return row | {"goal": measure.goal, "holds": None if measure.goal is None else ratio >= measure.goal}


def figures(source: tuple[str, str], model: str, taken: Takes) -> list[float]:
    """A figure as often as it was taken: once for all rows that want it."""
    taker, name = source
    if (taker, model) not in taken:
        taken[taker, model] = [in_a_process(taker, model, seed) for seed in range(REPEATS)]
    return [one[name] for one in taken[taker, model]]


def in_a_process(taker: str, model: str, seed: int) -> Figures:
    """Take figures in a process of its own, with the environment of a worker: ours and the peers' alike."""
    command = [sys.executable, __file__, "--take", taker, model, str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=worker_process.environment())
    if done.returncode != 0:
        raise RuntimeError(f"{taker} of {model} ended with {done.returncode}: {done.stderr[-2000:]}")
    found: Figures = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    sys.exit(main())
