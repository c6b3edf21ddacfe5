"""`make bench-agreement`: log-probabilities of our forward pass beside those of a real Ollama, over the same blocks.

A tiny model of each architecture, in every variant with 32-bit weights and in every type of weights, answers for the
twenty likeliest tokens behind two texts. `ours` is the largest difference with 32-bit floats, the mean one with other
types, for which the engine rounds what goes into a product to 8 or 16 bits; `peer` is what is allowed, in nats.
docs/learning.md gets the same by architecture and type.
"""

import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from benchmarks import results  # noqa: E402 - found through the path above
from support.engine_logprobs import EXACT, ROUNDED_ON_AVERAGE, TEXTS, differences, engine_logprobs  # noqa: E402
from support.ollama_server import OllamaServer  # noqa: E402
from support.tiny_architectures import KINDS, VARIANTS, write_tiny_architecture  # noqa: E402

SERVED = "0.34.3"
NOT_TRAINED = "qwen3moe"
PAGE = ROOT / "docs" / "learning.md"
DEFAULT = "default"
ROUNDED = tuple(kind for kind in KINDS if kind != "F32")


@dataclass(frozen=True, kw_only=True)
class Found:
    """How far both are apart on one model, in nats."""

    architecture: str
    kind: str
    """Type of its matrices."""
    variant: str
    """`DEFAULT`, or one of the architecture's `VARIANTS`."""
    apart: Sequence[float]
    """For each of the likeliest tokens behind each place of the texts."""

    @property
    def told(self) -> float:
        """With 32-bit floats the largest, otherwise the mean."""
        return max(self.apart) if self.kind == "F32" else statistics.mean(self.apart)

    @property
    def row(self) -> results.Row:
        """A line of the table: how far ours is below what is allowed."""
        allowed = EXACT if self.kind == "F32" else ROUNDED_ON_AVERAGE
        name = f"{self.architecture} {self.variant}, F32" if self.kind == "F32" else f"{self.architecture}, {self.kind}"
        ratio = allowed / max(self.told, 1e-6)
        return results.row(name, self.told, allowed, 1.0, holds=ratio >= 1, ratio=ratio)


def main() -> int:
    """Take all, print the table. Returns 1 where one disagrees."""
    with tempfile.TemporaryDirectory() as text, OllamaServer(SERVED, directory=Path(text) / "ollama") as server:
        found = list(measured(server, Path(text)))
    results.put_into(PAGE, "agreement", by_type(found))
    return results.presented("agreement", f"Our forward pass and Ollama {SERVED}, nats", [one.row for one in found])


def measured(server: OllamaServer, directory: Path) -> Iterator[Found]:
    """Every variant of each architecture, then every type."""
    for architecture, variants in VARIANTS.items():
        if architecture == NOT_TRAINED:
            continue
        every = [*(("F32", one) for one in (DEFAULT, *variants)), *((one, DEFAULT) for one in ROUNDED)]
        for kind, variant in every:
            apart = of_model(server, directory, architecture, kind, variant)
            yield Found(architecture=architecture, kind=kind, variant=variant, apart=apart)


def of_model(server: OllamaServer, directory: Path, architecture: str, kind: str, variant: str) -> list[float]:
    """The differences of one model, in nats."""
    file = directory / f"{architecture}-{kind.lower()}-{variant}.gguf"
    write_tiny_architecture(file, architecture, kind=kind, variant="" if variant == DEFAULT else variant)
    found = differences(file, TEXTS, engine_logprobs(server, file, TEXTS))
    file.unlink()
    return found


def by_type(found: Sequence[Found]) -> str:
    """The page's table, a column for each architecture: the worst of its variants, then each type."""
    architectures = dict.fromkeys(one.architecture for one in found)
    variants = {
        name: max((one for one in found if one.architecture == name and one.kind == "F32"), key=lambda one: one.told)
        for name in architectures
    }
    told = {(one.architecture, one.kind): one.told for one in found if one.kind != "F32"}
    rows = [
        {"type": "F32, largest"} | {name: f"{one.told:.3f} ({one.variant})" for name, one in variants.items()},
        *({"type": kind} | {name: f"{told[name, kind]:.3f}" for name in architectures} for kind in ROUNDED),
    ]
    return results.as_markdown(rows)


if __name__ == "__main__":
    sys.exit(main())
