"""`make demo`: one night on a real model, from two hundred corrections to a better answer, and back.

Everything runs as on a user's machine: the demo drops feedback files, calls the `nightschool` command
and asks a real Ollama. It uses the Ollama that runs or is installed; where there is none it builds one.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import httpx
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from support.base_models import MODELS, BaseModel  # noqa: E402 - found through the path above

SAMPLE = ROOT / "tests" / "data" / "nl2bash" / "sample.jsonl"
WORK = ROOT / "build" / "demo"
EVENTS = 200
SHOWN = 5
OLLAMA_VERSION = "0.34.3"
console = Console()


class DemoFailed(Exception):
    """The demo cannot go on; the message says what is missing."""


@dataclass(frozen=True, kw_only=True)
class Server:
    """The Ollama that the demo talks to."""

    url: str
    models_directory: Path | None
    ours: bool
    binary: str


def main() -> int:
    """Run the demo. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", choices=MODELS, default="smollm2")
    base = MODELS[parser.parse_args().base]
    began = time.monotonic()
    try:
        with ollama_server() as server:
            demonstrate(server, base)
    except (DemoFailed, httpx.HTTPError) as error:
        console.print(f"[bold red]{error}[/]")
        return 1
    console.print(f"\nThe whole demo took {(time.monotonic() - began) / 60:.1f} minutes.")
    return 0


def demonstrate(server: Server, base: BaseModel) -> None:
    """One night and its undo."""
    shutil.rmtree(WORK, ignore_errors=True)
    feedback = WORK / "feedback"
    feedback.mkdir(parents=True)
    headline("1. A base model")
    import_base(server, base, WORK)
    headline("2. Two hundred corrections in the feedback directory")
    drop_feedback(feedback, base)
    configuration = write_configuration(server, WORK)
    headline("3. One night")
    nightschool(configuration, "run", "--now", f"{base.tag}/shell")
    run = json.loads(nightschool(configuration, "report", "--json", capture=True))
    headline("4. Before and after, on prompts that were not learned from")
    show_answers(WORK / "state" / "runs" / run["run"]["id"])
    show_verdict(run)
    if run["end"] != "promoted":
        raise DemoFailed(f"The candidate was not promoted: {run['reason']}")
    alias, version = run["alias"], run["version"]
    headline("5. Undo")
    show_undo(server, configuration, alias, base)
    headline("Try it yourself")
    show_next_steps(server, version, base)


@contextmanager
def ollama_server() -> Iterator[Server]:
    """The running Ollama, else the installed one, else one that is built now; the last two on a server of their own."""
    url = os.environ.get("OLLAMA_HOST") or "127.0.0.1:11434"
    url = url if "://" in url else f"http://{url}"
    if is_answering(url):
        console.print(f"Using the Ollama that runs at {url}. The demo's tags there have -demo in their names.")
        yield Server(url=url, models_directory=None, ours=False, binary=shutil.which("ollama") or "ollama")
        return
    from support.ollama_server import OllamaServer

    binary = shutil.which("ollama")
    if binary is None:
        build_ollama()
    else:
        console.print(f"Using the installed {binary} on a server of the demo's own.")
    WORK.parent.mkdir(exist_ok=True)
    with OllamaServer(
        OLLAMA_VERSION, directory=WORK.parent / "demo-ollama", binary=Path(binary) if binary else None
    ) as own:
        yield Server(url=own.url, models_directory=own.models_directory, ours=True, binary=str(own.binary))


def is_answering(url: str) -> bool:
    """Whether an Ollama answers at the address."""
    try:
        return httpx.get(f"{url}/api/version", timeout=3).status_code == 200
    except httpx.HTTPError:
        return False


def build_ollama() -> None:
    """Build the cached server of the tests."""
    if shutil.which("go") is None:
        raise DemoFailed(
            "No Ollama runs at OLLAMA_HOST, none is installed, and Go, which could build one, is missing. "
            "Install Ollama and run `make demo` again."
        )
    console.print("No Ollama on this machine: building one (two minutes, cached in .cache/ollama).")
    subprocess.run([sys.executable, ROOT / "tests/tools/build_ollama.py", OLLAMA_VERSION], check=True)


def import_base(server: Server, base: BaseModel, work: Path) -> None:
    """Give Ollama a small model with its template and its stop word."""
    from nightschool_daemon.ollama.storage import sha256_of

    file = work / "base.gguf"
    base.fetch(file)
    digest = sha256_of(file)
    with httpx.Client(base_url=server.url, timeout=300) as client:
        if client.head(f"/api/blobs/sha256:{digest}").status_code != 200:
            with file.open("rb") as stream:
                client.post(f"/api/blobs/sha256:{digest}", content=stream).raise_for_status()
        request = {
            "model": base.tag,
            "files": {"base.gguf": f"sha256:{digest}"},
            "template": base.template,
            "parameters": {"stop": [base.stop], "temperature": 0.2},
            "stream": False,
        }
        client.post("/api/create", json=request).raise_for_status()
    file.unlink()
    console.print(f"{base.tag}: {base.title}, as Ollama serves it.")


def drop_feedback(directory: Path, base: BaseModel) -> None:
    """Write corrections as applications would: most in one JSONL, some as files of their own."""
    with SAMPLE.open(encoding="utf-8") as stream:
        pairs = [json.loads(line) for line in islice(stream, EVENTS)]
    events = [
        {
            "id": f"nl2bash-{number}",
            "artifact_type": "shell",
            "model": base.tag,
            "input_data": pair["description"],
            "corrected_output": pair["command"],
            "feedback_type": "user_correction",
            "validation_score": 0,
            "source": "demo",
        }
        for number, pair in enumerate(pairs)
    ]
    lines = "".join(json.dumps(event) + "\n" for event in events[:-20])
    (directory / "editor.jsonl").write_text(lines, encoding="utf-8")
    for event in events[-20:]:
        (directory / f"{event['id']}.json").write_text(json.dumps(event), encoding="utf-8")
    console.print(
        f"{len(events)} events, such as: [italic]{pairs[0]['description']}[/] -> [bold]{pairs[0]['command']}[/]"
    )


def write_configuration(server: Server, work: Path, *, form: str = "auto", seed: int = 0) -> Path:
    """A configuration of the demo's own: short answers, few guard items. Seed 0: another one each time."""
    models = f'models_directory = "{server.models_directory}"\n' if server.models_directory else ""
    text = f"""
[ollama]
host = "{server.url}"
{models}
[feedback]
directory = "{work / "feedback"}"

[state]
directory = "{work / "state"}"
runtime_directory = "{work / "state"}"

[training]
seed = {seed}
# all feedback is there at once: the night shows what training does
examples_from = 0

[delivery]
form = "{form}"

[exam]
max_items = 40
max_guard_items = 5
max_answer_tokens = 48
context_tokens = 1024
"""
    file = work / "config.toml"
    file.write_text(text, encoding="utf-8")
    return file


def nightschool(configuration: Path, *arguments: str, capture: bool = False) -> str:
    """Call the command line. Its output goes to the terminal unless it is wanted."""
    command = [sys.executable, "-m", "nightschool_daemon", "--config", str(configuration), *arguments]
    if not capture:
        console.print(f"[dim]$ nightschool {' '.join(arguments)}[/]")
    result = subprocess.run(command, stdout=subprocess.PIPE if capture else None, text=True, check=False)
    if result.returncode != 0:
        raise DemoFailed(f"`nightschool {' '.join(arguments)}` ended with code {result.returncode}.")
    return result.stdout or ""


def show_answers(run: Path) -> None:
    """Five held-out prompts, evenly spread over the exam, side by side."""
    items = [json.loads(line) for line in (run / "select" / "items.jsonl").read_text().splitlines()]
    answers = [json.loads(line) for line in (run / "examine" / "answers.jsonl").read_text().splitlines()]
    by_key = {(one["item_id"], one["sitting"]): one for one in answers}
    asked = [item for item in items if (item["id"], "candidate") in by_key]
    table = Table("asked", "before", "after", "wanted", show_lines=True)
    for item in asked[:: max(1, len(asked) // SHOWN)][:SHOWN]:
        before, after = by_key[item["id"], "incumbent"], by_key[item["id"], "candidate"]
        table.add_row(
            item["messages"][-1]["content"],
            f"{shortened(before['text'])} [dim]({before['score']:.0f})[/]",
            f"{shortened(after['text'])} [dim]({after['score']:.0f})[/]",
            item["reference"],
        )
    console.print(table)


def shortened(text: str, limit: int = 110) -> str:
    """One line of an answer, safe for rich."""
    joined = " ".join(text.split()).replace("[", r"\[")
    return joined if len(joined) <= limit else joined[: limit - 3] + "..."


def show_verdict(run: dict[str, object]) -> None:
    """The exam's verdict with its interval."""
    verdict = run["verdict"]
    assert isinstance(verdict, dict)
    low, high = verdict["interval"]
    console.print(
        f"Verdict: [bold]{verdict['outcome']}[/]. Score {verdict['incumbent_mean']:.1f} -> "
        f"{verdict['candidate_mean']:.1f} on {verdict['items']} held-out prompts; gain {verdict['gain']:+.1f}, "
        f"95 % interval {low:+.1f} to {high:+.1f}, p = {verdict['p_value']:.5f}."
    )
    console.print(f"Alias in use: [bold]{run['alias']}[/] = {run['version']}")


def show_undo(server: Server, configuration: Path, alias: str, base: BaseModel) -> None:
    """Undo the promotion and show that the alias holds the base again, to the digest."""
    before = digests(server)
    nightschool(configuration, "undo", alias)
    after = digests(server)
    table = Table("", "manifest digest")
    table.add_row("the base", after[base.tag][:16])
    table.add_row("alias before undo", before[alias][:16])
    table.add_row("alias after undo", after[alias][:16])
    console.print(table)
    if after[alias] != after[base.tag]:
        raise DemoFailed("Undo did not restore the base's digest.")


def digests(server: Server) -> dict[str, str]:
    """Tag -> manifest digest."""
    models = httpx.get(f"{server.url}/api/tags", timeout=30).json()["models"]
    return {one["name"]: one["digest"] for one in models}


def show_next_steps(server: Server, version: str, base: BaseModel) -> None:
    """How to ask the new model, and how to remove what the demo left."""
    if server.ours:
        address = server.url.removeprefix("http://")
        console.print(f"  OLLAMA_HOST={address} OLLAMA_MODELS={server.models_directory} {server.binary} serve &")
        console.print(f"  OLLAMA_HOST={address} {server.binary} run {version} 'list the files in /tmp'")
        console.print(f"  rm -rf {WORK} {WORK.parent / 'demo-ollama'}      # removes everything")
    else:
        console.print(f"  ollama run {version} 'list the files in /tmp'")
        names = " ".join(name for name in digests(server) if name.startswith(base.tag.partition(":")[0]))
        console.print(f"  ollama rm {names}; rm -rf {WORK}      # removes everything")


def headline(text: str) -> None:
    """Announce a part of the demo."""
    console.rule(f"[bold]{text}[/]", align="left")


if __name__ == "__main__":
    sys.exit(main())
