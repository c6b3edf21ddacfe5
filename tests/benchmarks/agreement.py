"""`make bench-agreement`: log-probabilities of our forward pass beside those of a real Ollama, over the same blocks.

A tiny model of each architecture, in every variant with 32-bit weights and in every type of weights, answers for the
twenty likeliest tokens behind two texts. `ours` is the largest difference with 32-bit floats, the mean one with other
types, for which the engine rounds what goes into a product to 8 or 16 bits; `peer` is what is allowed, in nats.
"""

import json
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from support.engine_logprobs import EXACT, ROUNDED_ON_AVERAGE, TEXTS, differences, engine_logprobs  # noqa: E402
from support.ollama_server import OllamaServer  # noqa: E402
from support.tiny_architectures import KINDS, VARIANTS, write_tiny_architecture  # noqa: E402

RESULT = ROOT / "build" / "bench" / "agreement.json"
SERVED = "0.34.3"
NOT_TRAINED = "qwen3moe"
Row = dict[str, str | float | bool]


def main() -> int:
    """Take all, print the table. Returns 1 where one disagrees."""
    with tempfile.TemporaryDirectory() as text, OllamaServer(SERVED, directory=Path(text) / "ollama") as server:
        rows = list(measured(server, Path(text)))
    show(rows)
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0 if all(row["holds"] for row in rows) else 1


def measured(server: OllamaServer, directory: Path) -> Iterator[Row]:
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


def row(measure: str, ours: float, allowed: float) -> Row:
    """A line of the table."""
    ratio = allowed / max(ours, 1e-6)
    return {"measure": measure, "ours": ours, "peer": allowed, "ratio": ratio, "goal": 1.0, "holds": ratio >= 1}


def show(rows: list[Row]) -> None:
    """Print the table."""
    table = Table("model", "nats", "allowed", "holds", title="Our forward pass and Ollama " + SERVED)
    for one in rows:
        table.add_row(str(one["measure"]), f"{one['ours']:.4f}", f"{one['peer']}", str(one["holds"]))
    Console(width=100).print(table)


if __name__ == "__main__":
    sys.exit(main())
