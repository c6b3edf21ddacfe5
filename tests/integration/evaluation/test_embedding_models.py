"""`Embed` with a real model of each kind: in a real Ollama, in sentence-transformers, and the static one."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from nightschool_daemon.config import EmbeddingSource, OllamaSettings, Settings, SimilaritySettings, StateSettings
from nightschool_daemon.evaluation.embedding import CachedEmbed, EmbeddingError, find, open_embed
from nightschool_daemon.evaluation.similarity import CombinedMeasure
from nightschool_daemon.hooks import Hooks
from nightschool_daemon.ollama.errors import ModelMissing
from support.minilm_gguf import write_minilm_gguf
from support.night import import_tiny
from support.ollama_server import OllamaServer

MODEL = "minilm:f16"
TEXTS = (
    "list all files of a directory",
    "show every file in a folder",
    "bake a cake with cherries",
    "",
    "\ud800 is no character",
)


@pytest.fixture(scope="module")
def server(ollama: OllamaServer, tiny_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> OllamaServer:
    """A server that has a model which answers, and one which embeds."""
    import_tiny(ollama, tiny_gguf)
    import_tiny(ollama, write_minilm_gguf(tmp_path_factory.mktemp("minilm") / "minilm.gguf"), MODEL)
    return ollama


def settings(directory: Path, server: OllamaServer, source: EmbeddingSource, model: str = "") -> Settings:
    return Settings(
        ollama=OllamaSettings(host=server.url),
        state=StateSettings(directory=directory),
        similarity=SimilaritySettings(embedding=source, ollama_model=model),
    )


def vectors(embed: CachedEmbed, texts: Sequence[str] = TEXTS) -> NDArray[np.float32]:
    found = embed(texts)
    assert found is not None
    assert (found.rows, found.values.format) == (len(texts), "f")
    return np.frombuffer(found.values, dtype=np.float32).reshape(found.rows, found.columns)


@pytest.mark.parametrize("source", ["ollama", "sentence-transformers", "static"])
def test_each_model_gives_unit_vectors_that_know_what_is_alike(
    source: EmbeddingSource, server: OllamaServer, tmp_path: Path
) -> None:
    found = vectors(open_embed(settings(tmp_path, server, EmbeddingSource(source))))
    assert np.linalg.norm(found, axis=1) == pytest.approx([1, 1, 1, 0, 1], abs=1e-5)
    alike, apart = found[0] @ found[1], found[0] @ found[2]
    assert alike > apart + 0.2


def test_minilm_says_the_same_in_ollama_and_in_sentence_transformers(server: OllamaServer, tmp_path: Path) -> None:
    served = vectors(open_embed(settings(tmp_path, server, EmbeddingSource.OLLAMA)), TEXTS[:3])
    loaded = vectors(open_embed(settings(tmp_path, server, EmbeddingSource.SENTENCE_TRANSFORMERS)), TEXTS[:3])
    assert (served * loaded).sum(axis=1) == pytest.approx([1, 1, 1], abs=1e-3)


def test_a_model_of_ollama_comes_first_and_without_one_sentence_transformers(
    server: OllamaServer, tmp_path: Path
) -> None:
    chosen = find(settings(tmp_path, server, EmbeddingSource.AUTO))
    assert chosen is not None
    assert chosen.name == f"ollama/{MODEL}@{server.tags()[MODEL]}"
    httpx.request("DELETE", f"{server.url}/api/delete", json={"model": MODEL}).raise_for_status()
    try:
        left = find(settings(tmp_path, server, EmbeddingSource.AUTO))
        assert left is not None
        assert left.name == "sentence-transformers/all-MiniLM-L6-v2"
        with pytest.raises(EmbeddingError, match="ollama pull"):
            find(settings(tmp_path, server, EmbeddingSource.OLLAMA))
    finally:
        import_tiny(server, write_minilm_gguf(tmp_path / "minilm.gguf"), MODEL)


def test_a_model_that_is_asked_for_by_name_must_be_there(server: OllamaServer, tmp_path: Path) -> None:
    with pytest.raises(ModelMissing, match="ollama pull nobody:latest"):
        find(settings(tmp_path, server, EmbeddingSource.OLLAMA, "nobody"))
    chosen = find(settings(tmp_path, server, EmbeddingSource.OLLAMA, MODEL))
    assert chosen is not None
    assert chosen.name.startswith(f"ollama/{MODEL}@")


STATIC_ALONE = """
import sys
from pathlib import Path
sys.modules["sentence_transformers"] = None  # as on a machine that has none
import importlib.util
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == "sentence_transformers" else real(name, package)
from nightschool_daemon.config import OllamaSettings, Settings, StateSettings
from nightschool_daemon.evaluation.embedding import find
print(find(Settings(ollama=OllamaSettings(host=sys.argv[1]), state=StateSettings(directory=Path(sys.argv[2])))).name)
print(sorted({"torch", "transformers"} & set(sys.modules)))
"""


def test_where_neither_is_there_the_static_one_is_and_it_loads_no_torch(
    fresh_ollama: OllamaServer, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", STATIC_ALONE, fresh_ollama.url, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    name, heavy = done.stdout.splitlines()
    assert name.startswith("static/wordllama-")
    assert heavy == "[]"


def test_all_three_metrics_together_on_the_spec_s_examples(server: OllamaServer, tmp_path: Path) -> None:
    hooks = Hooks.load(plugin_directory=None, tables={})
    for source in (EmbeddingSource.OLLAMA, EmbeddingSource.SENTENCE_TRANSFORMERS, EmbeddingSource.STATIC):
        measure = CombinedMeasure(hooks, open_embed(settings(tmp_path, server, source)))
        turned, empty, paraphrase, other = (
            measure([left], [right]).values[0]
            for left, right in (("Hello World", "World Hello"), ("", ""), TEXTS[:2], (TEXTS[0], TEXTS[2]))
        )
        assert 0.3 < turned < 0.9
        assert empty == 1.0
        assert paraphrase > other
