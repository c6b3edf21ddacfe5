"""`make routes`: what Gemma 3 270M learns, delivered in each of the three ways, on real servers.

The same 200 corrections and the same settings as the demo. Held-out exam score before and after, and
the figures of the verification. Takes about a quarter of an hour on two cores.
"""

import json
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from demo import demo  # noqa: E402 - found through the path above
from nightschool_daemon.jobs import ExportResult, RunDirectory, Step, VerifyResult  # noqa: E402
from nightschool_hookspecs.records import RunReport  # noqa: E402
from support.ollama_server import OllamaServer  # noqa: E402

WORK = ROOT / "build" / "routes"
RESULT = ROOT / "build" / "bench" / "routes.json"


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
    """Run all routes and print the table. Returns 1 where a route was not promoted."""
    shutil.rmtree(WORK, ignore_errors=True)
    rows = [measure(route) for route in ROUTES]
    table = Table(*rows[0], title="Gemma 3 270M, 160 corrections once, 40 held out")
    for row in rows:
        table.add_row(*(f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.values()))
    Console(width=220).print(table)
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0 if all(row["end"] == "promoted" and row["verified"] for row in rows) else 1


def measure(route: Route) -> dict[str, object]:
    """One night by one route."""
    work = WORK / route.form
    (work / "feedback").mkdir(parents=True)
    with OllamaServer("0.34.3", directory=work / "ollama") as server:
        demo.import_base(as_demo_server(server), work)
    began = time.monotonic()
    with OllamaServer(route.version, directory=work / "ollama") as server:
        demo.drop_feedback(work / "feedback")
        configuration = demo.write_configuration(as_demo_server(server), work, form=route.form)
        demo.nightschool(configuration, "run", "--now", f"{demo.BASE}/shell")
        report = json.loads(demo.nightschool(configuration, "report", "--json", capture=True))
    return figures(route, RunDirectory(path=work / "state" / "runs" / report["run"]["id"]), time.monotonic() - began)


def figures(route: Route, directory: RunDirectory, seconds: float) -> dict[str, object]:
    """What the run's own records say."""
    report = directory.result(Step.REPORT, RunReport)
    verified = directory.result(Step.VERIFY, VerifyResult)
    export = directory.result(Step.EXPORT, ExportResult)
    if report.verdict is None:
        raise RuntimeError(f"{route.name}: no verdict: {report.reason}")
    return {
        "route": f"{route.name}, {route.version}",
        "end": report.end.value,
        "before": report.verdict.incumbent_mean,
        "after": report.verdict.candidate_mean,
        "low": report.verdict.interval[0],
        "high": report.verdict.interval[1],
        "p": report.verdict.p_value,
        "noise (points)": report.verdict.noise,
        "loss base": verified.base_loss,
        "trained": verified.trained_loss,
        "delivered": verified.delivered_loss,
        "live (nats)": verified.live,
        "disagreement": verified.disagreement,
        "engine noise": verified.noise,
        "verified": verified.passed,
        "MB a version": export.plan.version_bytes / 1e6,
        "minutes": seconds / 60,
    }


def as_demo_server(server: OllamaServer) -> demo.Server:
    """The server as the demo's functions take it."""
    return demo.Server(url=server.url, models_directory=server.models_directory, ours=True, binary=str(server.binary))


if __name__ == "__main__":
    sys.exit(main())
