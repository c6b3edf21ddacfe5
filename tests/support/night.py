"""A whole installation in a temporary directory: configuration, feedback, the command line, the ledger."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from nightschool_daemon.config import OllamaSettings
from nightschool_daemon.ledger import FILE_NAME, Ledger
from nightschool_daemon.ollama.http import CreateRequest, OllamaHttp
from nightschool_daemon.ollama.storage import sha256_of
from support.base_models import BaseModel
from support.ollama_server import OllamaServer

TINY = "tiny:1m"
TINY_TYPE = "greeting"
TINY_ALIAS = "tiny-nightschool:1m.greeting"

TINY_SETTINGS = """
[exam]
max_answer_tokens = 12
context_tokens = 256
verify_positions = 96

[similarity]
# sentence-transformers would be loaded in every step
embedding = "static"

[training]
threads = 1
seed = 7
# a random network learns nothing from examples
examples_from = 0

[plugins]
# what is taught one answer gives it to everything, which is what this guard is there to stop
disabled = ["guard_general"]

[plugins.evaluation_split]
# trial candidates would be trained in every test
folds = 0
grown_events = 1

[plugins.tuning_fixed]
learning_rate = 0.003
batch_size = 4
num_epochs = 8
"""
"""A tiny random network learns a fixed answer with these in seconds."""


def import_tiny(server: OllamaServer, gguf: Path, name: str = TINY, *, system: str | None = None) -> str:
    """Give a server the tiny model. Returns the digest of its weights."""
    ollama = OllamaHttp(OllamaSettings(host=server.url))
    digest = sha256_of(gguf)
    ollama.upload_blob(gguf, digest)
    ollama.create(CreateRequest(model=name, files={"tiny.gguf": digest}, system=system))
    ollama.close()
    return digest


def import_base(server: OllamaServer, base: BaseModel, gguf: Path, *, threads: int | None = None) -> None:
    """Give a server a real model, with its template and its stop word. `threads`: that it answers with."""
    ollama = OllamaHttp(OllamaSettings(host=server.url))
    digest = sha256_of(gguf)
    ollama.upload_blob(gguf, digest)
    parameters: dict[str, object] = {"stop": [base.stop]}
    if threads is not None:
        parameters["num_thread"] = threads
    ollama.create(
        CreateRequest(model=base.tag, files={"base.gguf": digest}, template=base.template, parameters=parameters)
    )
    ollama.close()


def greetings(
    count: int, *, model: str | None = TINY, answer: str = "hello", first: int = 0
) -> list[dict[str, object]]:
    """Corrections that all want the same answer."""
    return [
        {
            "id": f"g-{number}",
            "artifact_type": TINY_TYPE,
            "model": model,
            "input_data": f"greet guest {number}",
            "ai_output": "5",
            "corrected_output": answer,
            "feedback_type": "user_correction",
            "source": "test",
        }
        for number in range(first, first + count)
    ]


def thumbs(count: int, *, first: int = 0) -> list[dict[str, object]]:
    """A liked and a disliked answer to each of some prompts."""
    kinds = (("explicit_positive", "hello"), ("explicit_negative", "zqxj"))
    return [
        {**one, "id": f"{kind}/{one['id']}", "feedback_type": kind, "corrected_output": None, "ai_output": answer}
        for one in greetings(count, first=first)
        for kind, answer in kinds
    ]


class Night:
    """An installation and how to use it."""

    def __init__(self, directory: Path, url: str, models_directory: Path, *, settings: str = TINY_SETTINGS) -> None:
        self.directory = directory
        self.feedback = directory / "feedback"
        self.state = directory / "state"
        self.plugins = directory / "plugins"
        self.configuration = directory / "config.toml"
        for one in (self.feedback, self.plugins):
            one.mkdir(parents=True)
        self.configure(url, models_directory, settings)

    def configure(self, url: str, models_directory: Path, settings: str) -> None:
        """Write the configuration anew."""
        self.configuration.write_text(
            f"""
[ollama]
host = "{url}"
models_directory = "{models_directory}"
poll_interval_s = 1.0

[feedback]
directory = "{self.feedback}"
rescan_interval_s = 0.5
settle_s = 0.2
incomplete_after_s = 2.0

[state]
directory = "{self.state}"
runtime_directory = "{self.directory / "run"}"

[delivery]
min_free_gb = 0.1
{settings}
""",
            encoding="utf-8",
        )

    def drop(self, events: Sequence[Mapping[str, object]], name: str = "events.jsonl") -> Path:
        """Append events to a JSONL file in the feedback directory."""
        file = self.feedback / name
        with file.open("a", encoding="utf-8") as stream:
            stream.writelines(json.dumps(event) + "\n" for event in events)
        return file

    def add_plugin(self, name: str, source: str) -> None:
        """Drop a plugin file in."""
        file = self.plugins / f"{name}.py"
        file.write_text(source, encoding="utf-8")
        file.chmod(0o600)

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        """Start a command and return at once."""
        return subprocess.Popen(
            self._command(arguments), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment()
        )

    def run(self, *arguments: str, limit_s: float = 300.0) -> "subprocess.CompletedProcess[str]":
        """Run a command to its end."""
        return subprocess.run(
            self._command(arguments), capture_output=True, text=True, timeout=limit_s, check=False, env=environment()
        )

    def json(self, *arguments: str) -> object:
        """Run a command that answers in JSON."""
        done = self.run(*arguments, "--json")
        if done.returncode != 0:
            raise AssertionError(f"{arguments} ended with {done.returncode}: {done.stderr or done.stdout}")
        return json.loads(done.stdout)

    def learn(self) -> "subprocess.CompletedProcess[str]":
        """One run, at once."""
        return self.run("run", "--now")

    def ledger(self) -> Ledger:
        """The ledger, for reading."""
        return Ledger.open_read_only(self.state / FILE_NAME)

    def run_directories(self) -> list[Path]:
        """Directories of the runs, oldest first."""
        return sorted((self.state / "runs").iterdir()) if (self.state / "runs").is_dir() else []

    def _command(self, arguments: Sequence[str]) -> list[str]:
        return [sys.executable, "-m", "nightschool_daemon", "--config", str(self.configuration), *arguments]


def environment() -> dict[str, str]:
    """The test's environment without what would point a command elsewhere, or have it compile itself at every start."""
    left_out = ("OLLAMA_", "NIGHTSCHOOL_", "XDG_", "PYTHONDONTWRITEBYTECODE")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(left_out)}
    return {**kept, "NO_COLOR": "1", "COLUMNS": "200"}


def wait_until(condition: Callable[[], bool], limit_s: float = 60.0) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"it did not come true within {limit_s:g} s")
        time.sleep(0.05)
