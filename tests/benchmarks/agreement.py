"""`make bench-agreement`: log-probabilities of our forward pass beside those of a real Ollama, over the same blocks.

A tiny model of each architecture, in every variant with 32-bit weights and in every type of weights, answers for the
twenty likeliest tokens behind two texts. `ours` is the largest difference with 32-bit floats, the mean one with other
types, for which the engine rounds what goes into a product to 8 or 16 bits; `peer` is what is allowed, in nats.
"""

import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from benchmarks import results  # noqa: E402 - found through the path above
from support.engine_logprobs import EXACT, ROUNDED_ON_AVERAGE, TEXTS, differences, engine_logprobs  # noqa: E402
from support.ollama_server import OllamaServer  # noqa: E402
from support.tiny_architectures import KINDS, VARIANTS, write_tiny_architecture  # noqa: E402

SERVED = "0.34.3"
NOT_TRAINED = "qwen3moe"


def main() -> int:
    """Take all, print the table. Returns 1 where one disagrees."""
    with tempfile.TemporaryDirectory() as text, OllamaServer(SERVED, directory=Path(text) / "ollama") as server:
        rows = list(measured(server, Path(text)))
    return results.presented("agreement", f"Our forward pass and Ollama {SERVED}, nats", rows)


def measured(server: OllamaServer, directory: Path) -> Iterator[results.Row]:
    """A row for each variant, then one for each type."""
    for architecture, variants in VARIANTS.items():
        if architecture == NOT_TRAINED:
            continue
        for variant in ("", *variants):
            found = of_model(server, directory, architecture, "F32", variant)
            yield row(f"{architecture} {variant or 'default'}, F32", max(found), EXACT)
        for kind in KINDS:
            if kind != "F32":
                found = of_model(server, directory, architecture, kind, "")
                yield row(f"{architecture}, {kind}", statistics.mean(found), ROUNDED_ON_AVERAGE)


def of_model(server: OllamaServer, directory: Path, architecture: str, kind: str, variant: str) -> list[float]:
    """The differences of one model, in nats."""
    file = directory / f"{architecture}-{kind.lower()}-{variant or 'default'}.gguf"
    write_tiny_architecture(file, architecture, kind=kind, variant=variant)
    found = differences(file, TEXTS, engine_logprobs(server, file, TEXTS))
    file.unlink()
    return found


def row(measure: str, ours: float, allowed: float) -> results.Row:
    """A line of the table: how far ours is below what is allowed."""
    ratio = allowed / max(ours, 1e-6)
    return results.row(measure, ours, allowed, 1.0, holds=ratio >= 1, ratio=ratio)


if __name__ == "__main__":
    sys.exit(main())
