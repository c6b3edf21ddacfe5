"""What is told of a server that does not take a form of delivery: what it said to a tiny one."""

from pathlib import Path

from nightschool_daemon.ollama.abilities import probe_abilities
from nightschool_daemon.ollama.errors import OllamaRefused
from nightschool_daemon.ollama.http import CreateRequest
from nightschool_hookspecs.records import DeliveryForm
from support.memory_ollama import MemoryOllama

TINY = "tiny:1b"


class Refusing(MemoryOllama):
    """Takes no files, and no adapter."""

    def version(self) -> str:
        return "0.34.0"

    def upload_blob(self, path: Path, digest: str, on_progress: object = None) -> None:
        pass

    def create(self, request: CreateRequest) -> None:
        said = "adapters are gone" if request.adapters else f"llama-quantize: {len(request.files)} " + "x " * 200
        raise OllamaRefused(f"Ollama says: {said}", status=500)


def test_what_the_server_said_is_kept(tmp_path: Path, tiny_gguf: Path) -> None:
    ollama = Refusing(tmp_path / "models", tiny_gguf, TINY)
    found = probe_abilities(ollama, TINY, "llama", tmp_path / "probe")
    assert (found.split, found.fused, found.adapter) == (False, False, False)
    assert found.refusals[DeliveryForm.ADAPTER] == "To a tiny one it said: adapters are gone."
    assert found.refusals[DeliveryForm.SPLIT].startswith("To a tiny one it said: llama-quantize: 2 x")
    assert max(map(len, found.refusals.values())) < 200


class Deaf(Refusing):
    """Takes all, and heeds no adapter."""

    def create(self, request: CreateRequest) -> None:
        pass

    def unload(self, name: str) -> None:
        pass

    def generate(self, *_: object, **__: object) -> dict[str, object]:
        return {"response": "same"}


def test_an_adapter_that_is_not_heeded_is_told(tmp_path: Path, tiny_gguf: Path) -> None:
    found = probe_abilities(Deaf(tmp_path / "models", tiny_gguf, TINY), TINY, "llama", tmp_path / "probe")
    assert (found.split, found.fused, found.adapter) == (True, True, False)
    assert found.refusals == {DeliveryForm.ADAPTER: "It took a tiny one and answered as without it."}
