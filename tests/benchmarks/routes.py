"""`make bench-routes`: what Gemma 3 270M learns, delivered in each of the three ways, on real servers.

The same 200 corrections and the same settings as the demo. Held-out exam score before and after, and
the figures of the verification. Takes about a quarter of an hour on two cores.
"""

import json
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from benchmarks import results  # noqa: E402 - found through the path above
from demo import demo  # noqa: E402 - found through the path above
from nightschool_daemon.jobs import ExportResult, PrepareResult, RunDirectory, Step, VerifyResult  # noqa: E402
from nightschool_hookspecs.records import RunReport  # noqa: E402
from support.base_models import MODELS  # noqa: E402
from support.ollama_server import OllamaServer  # noqa: E402

WORK = ROOT / "build" / "routes"
BASE = MODELS["gemma"]
SEED = 1
"""The same split and the same training for every route."""


@dataclass(frozen=True, kw_only=True)
class Route:
    """A server and a form of delivery."""

    name: str
    version: str
    form: str


ROUTES = (
    Route(name="split", version="0.34.3", form="split"),
    Route(name="one file", version="0.34.3", form="fused"),
    Route(name="adapter", version="0.34.0", form="adapter"),
)


def main() -> int:
    """Run all routes and print the table. Returns 1 where a row falls short."""
    shutil.rmtree(WORK, ignore_errors=True)
    rows = [row for route in ROUTES for row in measure(route)]
    return results.presented("routes", "Gemma 3 270M, 150 corrections, 50 held out", rows)


def measure(route: Route) -> list[results.Row]:
    """One night by one route."""
    work = WORK / route.form
    (work / "feedback").mkdir(parents=True)
    with OllamaServer("0.34.3", directory=work / "ollama") as server:
        demo.import_base(as_demo_server(server), BASE, work)
    began = time.monotonic()
    with OllamaServer(route.version, directory=work / "ollama") as server:
        demo.drop_feedback(work / "feedback", BASE)
        configuration = demo.write_configuration(as_demo_server(server), work, form=route.form, seed=SEED)
        demo.nightschool(configuration, "run", "--now", f"{BASE.tag}/shell")
        report = json.loads(demo.nightschool(configuration, "report", "--json", capture=True))
    return figures(route, RunDirectory(path=work / "state" / "runs" / report["run"]["id"]), time.monotonic() - began)


def figures(route: Route, directory: RunDirectory, seconds: float) -> list[results.Row]:
    """What the run's own records say: each figure beside what it is to be compared with."""
    report = directory.result(Step.REPORT, RunReport)
    verified = directory.result(Step.VERIFY, VerifyResult)
    export = directory.result(Step.EXPORT, ExportResult)
    verdict = report.verdict
    if verdict is None:
        raise RuntimeError(f"{route.name}: no verdict: {report.reason}")
    held_out = verified.held_out
    low, high = verdict.interval
    name = f"{route.name} ({route.version})"
    return [
        row(f"{name}: held-out score, after / before", verdict.candidate_mean, verdict.incumbent_mean, 1.0),
        row(f"{name}: gain, lower end of its 95 % interval ({low:+.1f} to {high:+.1f})", low, verdict.noise, 1.0),
        row(f"{name}: held-out loss, base / delivered", held_out.base_loss, held_out.delivered_loss, 1.0),
        row(f"{name}: lesson kept, delivered / trained", held_out.kept, 1.0, 0.99),
        row(f"{name}: twice the engine's noise / disagreement (nats)", 2 * verified.noise, verified.disagreement, 1.0),
        row(f"{name}: lesson seen in the engine / expected (nats)", verified.live, verified.expected, 0.5),
        row(f"{name}: MB of the base / of a version", base_mb(directory), export.plan.version_bytes / 1e6, 0.0),
        row(f"{name}: minutes", seconds / 60, 10.0, 0.0),
    ]


def row(measure: str, ours: float, peer: float, goal: float) -> results.Row:
    """A line of the table: it holds where the ratio reaches the goal; beside a peer of zero, where ours is above it."""
    return results.row(measure, ours, peer, goal, holds=ours >= goal * peer if peer else ours > 0)


def base_mb(directory: RunDirectory) -> float:
    """Size of the base's file."""
    return directory.result(Step.PREPARE, PrepareResult).base.gguf.stat().st_size / 1e6


def as_demo_server(server: OllamaServer) -> demo.Server:
    """The server as the demo's functions take it."""
    return demo.Server(url=server.url, models_directory=server.models_directory, ours=True, binary=str(server.binary))


if __name__ == "__main__":
    sys.exit(main())
