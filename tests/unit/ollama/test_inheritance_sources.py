"""What a model has besides its weights: from the layers on disk, or from the printed Modelfile."""

import hashlib
import json
from pathlib import Path

import pytest

from nightschool_daemon.ollama.http import ShownModel
from nightschool_daemon.ollama.inheritance import Inheritance, inheritance_of
from nightschool_daemon.ollama.modelfile import Modelfile
from nightschool_daemon.ollama.storage import MEDIA_TYPE
from nightschool_hookspecs.records import Message, Role

PROJECTOR = "2" * 64
MODELFILE = f"""FROM /m/blobs/sha256-{"1" * 64}
FROM /m/blobs/sha256-{PROJECTOR}
TEMPLATE printed {{{{ .Prompt }}}}
SYSTEM printed
RENDERER gemma
PARSER gemma
PARAMETER stop one
PARAMETER stop 2
PARAMETER temperature 0.5
PARAMETER num_ctx 128
PARAMETER use_mmap true
PARAMETER odd nan-like
MESSAGE user printed
LICENSE printed
"""


def shown(modelfile: str = MODELFILE, name: str = "tiny:1m") -> ShownModel:
    file = Modelfile.parse(modelfile)
    return ShownModel(
        name=name,
        modelfile=file,
        weights_digest=file.weights_digest,
        weights_path=file.weights_path,
        architecture="llama",
        capabilities=("completion",),
        template="",
        embedding_length=1,
        attention_width=1,
    )


def store(models: Path, where: str, layers: dict[str, bytes]) -> dict[str, Path]:
    """Write a manifest and its blobs."""
    (models / "blobs").mkdir(parents=True, exist_ok=True)
    blobs, entries = {}, []
    for kind, content in layers.items():
        digest = hashlib.sha256(content).hexdigest()
        blobs[kind] = models / "blobs" / f"sha256-{digest}"
        blobs[kind].write_bytes(content)
        entries.append({"mediaType": MEDIA_TYPE + kind, "digest": f"sha256:{digest}"})
    manifest = models / "manifests" / where
    manifest.parent.mkdir(parents=True, exist_ok=True)
    manifest.write_text(json.dumps({"layers": entries}))
    return blobs


LAYERS = {
    "model": b"GGUF",
    "template": 'a\r\n{{ .Prompt }} """é'.encode(),
    "system": b' "exact"\n',
    "params": json.dumps({"stop": ["a", "b"], "temperature": 0.25}).encode(),
    "messages": json.dumps([{"role": "assistant", "content": "hi"}]).encode(),
    "license": b"mine",
    "projector": b"GGUF too",
}


def test_from_the_printed_modelfile() -> None:
    assert inheritance_of(shown(), None) == Inheritance(
        template="printed {{ .Prompt }}",
        system="printed",
        parameters={
            "stop": ["one", "2"],
            "temperature": 0.5,
            "num_ctx": 128,
            "use_mmap": True,
            "odd": "nan-like",
        },
        messages=(Message(role=Role.USER, content="printed"),),
        licenses=("printed",),
        renderer="gemma",
        parser="gemma",
        projectors=(PROJECTOR,),
    )


def test_the_template_that_stands_for_none_is_none() -> None:
    assert inheritance_of(shown("FROM x\nTEMPLATE {{ .Prompt }}\n"), None).template is None


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("tiny:1m", "registry.ollama.ai/library/tiny/1m"),
        ("me/tiny:1m", "registry.ollama.ai/me/tiny/1m"),
        ("hf.co/me/tiny:1m", "hf.co/me/tiny/1m"),
    ],
)
def test_the_layers_on_disk_are_taken_letter_by_letter(tmp_path: Path, name: str, where: str) -> None:
    blobs = store(tmp_path, where, LAYERS)
    assert inheritance_of(shown(name=name), tmp_path) == Inheritance(
        template='a\r\n{{ .Prompt }} """é',
        system=' "exact"\n',
        parameters={"stop": ["a", "b"], "temperature": 0.25},
        messages=(Message(role=Role.ASSISTANT, content="hi"),),
        licenses=("mine",),
        renderer="gemma",
        parser="gemma",
        projectors=(blobs["projector"].name.removeprefix("sha256-"),),
    )


def test_a_model_of_weights_alone_inherits_nothing(tmp_path: Path) -> None:
    store(tmp_path, "registry.ollama.ai/library/tiny/1m", {"model": b"GGUF"})
    assert inheritance_of(shown("FROM x\n"), tmp_path) == Inheritance()


@pytest.mark.parametrize("damage", ["no manifest", "cut manifest", "list", "no blob"])
def test_a_damaged_store_falls_back_to_the_modelfile(tmp_path: Path, damage: str) -> None:
    blobs = store(tmp_path, "registry.ollama.ai/library/tiny/1m", LAYERS)
    manifest = tmp_path / "manifests/registry.ollama.ai/library/tiny/1m"
    if damage == "no manifest":
        manifest.unlink()
    elif damage == "cut manifest":
        manifest.write_bytes(manifest.read_bytes()[:-5])
    elif damage == "list":
        manifest.write_text("[]")
    else:
        blobs["system"].unlink()
    assert inheritance_of(shown(), tmp_path) == inheritance_of(shown(), None)


def test_two_registries_with_the_same_name_leave_it_to_the_server(tmp_path: Path) -> None:
    store(tmp_path, "registry.ollama.ai/library/tiny/1m", LAYERS)
    store(tmp_path, "example.org/library/tiny/1m", LAYERS)
    assert inheritance_of(shown(), tmp_path) == inheritance_of(shown(), None)
