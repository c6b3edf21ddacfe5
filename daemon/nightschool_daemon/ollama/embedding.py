"""Embeddings by a model that Ollama serves."""

from collections.abc import Sequence

from nightschool_daemon.config import OllamaSettings
from nightschool_daemon.ollama import names
from nightschool_daemon.ollama.errors import ModelMissing
from nightschool_daemon.ollama.http import EMBEDDING, OllamaHttp, TagEntry
from nightschool_daemon.ollama.library import OllamaLibrary


class OllamaEmbedder:
    """Vectors of a served model. `name` changes with its weights."""

    def __init__(self, library: OllamaLibrary, entry: TagEntry) -> None:
        self.name = f"ollama/{entry.name}@{entry.digest}"
        self._library = library
        self._model = entry.name

    def __call__(self, texts: Sequence[str]) -> Sequence[Sequence[float]]:
        """A vector a text, in order. What is longer than the model's context is cut. Raises `OllamaError`."""
        return self._library.embed(self._model, texts)


def find_embedder(settings: OllamaSettings, wanted: str) -> OllamaEmbedder | None:
    """The model `wanted`, or where that is empty the first by name that can embed; None where none can.

    Raises `ModelMissing` where `wanted` is not installed.
    """
    http = OllamaHttp(settings)
    try:
        entry = _named(http, wanted) if wanted else _first_able(http)
    finally:
        http.close()
    return OllamaEmbedder(OllamaLibrary(settings), entry) if entry is not None else None


def _named(http: OllamaHttp, wanted: str) -> TagEntry:
    name = names.normalise(wanted)
    for entry in http.tags():
        if entry.name == name:
            return entry
    raise ModelMissing(f"similarity.ollama_model: {name} is not in Ollama. `ollama pull {name}` brings it.")


def _first_able(http: OllamaHttp) -> TagEntry | None:
    local = sorted((one for one in http.tags() if not one.is_remote), key=lambda one: one.name)
    return next((one for one in local if EMBEDDING in _capabilities(http, one)), None)


def _capabilities(http: OllamaHttp, entry: TagEntry) -> tuple[str, ...]:
    """What a tag can do; servers that do not list it are asked for each."""
    if entry.capabilities is not None:
        return entry.capabilities
    try:
        return http.show(entry.name).capabilities
    except ModelMissing:
        # it was removed between the two calls
        return ()
