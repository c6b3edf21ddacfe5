"""An Ollama that keeps its tags in memory: for tests that hold whole runs by the dozen, in which no model answers."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from nightschool_daemon.config import OllamaSettings
from nightschool_daemon.ollama.errors import ModelMissing
from nightschool_daemon.ollama.http import LoadedModel, OllamaHttp, ShownModel, TagEntry
from nightschool_daemon.ollama.modelfile import Modelfile
from nightschool_daemon.ollama.storage import sha256_of
from nightschool_hookspecs.records import Message

TURN, END = "<|im_start|>", "<|im_end|>"


class MemoryOllama(OllamaHttp):
    """Tags with their digests, all of one file of weights, and a chat template."""

    def __init__(self, models: Path, gguf: Path, *names: str) -> None:
        super().__init__(OllamaSettings(models_directory=models))
        self.weights = sha256_of(gguf)
        blob = models / "blobs" / f"sha256-{self.weights}"
        blob.parent.mkdir(parents=True)
        blob.hardlink_to(gguf)
        self._digests = {name: f"digest of {name}" for name in names}

    def add(self, name: str) -> str:
        """Make a tag that holds something new, and return its digest."""
        self._digests[name] = f"digest of {name}"
        return self._digests[name]

    def tags(self) -> tuple[TagEntry, ...]:
        """Every tag."""
        found = self._digests.items()
        return tuple(TagEntry(name=a, digest=b, size=1, is_remote=False, capabilities=None) for a, b in found)

    def show(self, name: str) -> ShownModel:
        """The same of every tag."""
        if name not in self._digests:
            raise ModelMissing(f"Ollama does not have {name}.")
        return replace(_SHOWN, name=name, weights_digest=self.weights)

    def loaded(self) -> tuple[LoadedModel, ...]:
        """None ever is."""
        return ()

    def copy(self, source: str, destination: str) -> None:
        """Make `destination` hold what `source` holds."""
        self._digests[destination] = self._digests[source]

    def delete(self, name: str) -> None:
        """Remove a tag, if it is there."""
        self._digests.pop(name, None)

    def render(self, name: str, messages: Sequence[Message]) -> str:
        """ChatML."""
        turns = [f"{TURN}{one.role.value}\n{one.content}{END}\n" for one in messages]
        return "".join([*turns, f"{TURN}assistant\n"])


_SHOWN = ShownModel(
    name="",
    modelfile=Modelfile(parameters=(("stop", END),)),
    weights_digest="",
    weights_path=None,
    architecture="llama",
    capabilities=("completion",),
    template="",
    embedding_length=256,
    attention_width=256,
)
