"""From files to tags on the real server: whole, the same when repeated, sharing what can be shared."""

import contextlib
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import gguf
import httpx
import numpy as np
import pytest

from nightschool_daemon.config import OllamaSettings
from nightschool_daemon.jobs import DeliveredFile
from nightschool_daemon.learning import gguf_file
from nightschool_daemon.learning.export import Parcel, write_fused, write_split
from nightschool_daemon.learning.lesson import LowRankDelta, LowRankLesson
from nightschool_daemon.learning.rounding import Demand
from nightschool_daemon.ollama.abilities import probe_abilities, takes_split
from nightschool_daemon.ollama.errors import OllamaRefused, PublicationFailed
from nightschool_daemon.ollama.http import CreateRequest, OllamaHttp
from nightschool_daemon.ollama.publish import Publication, publish
from nightschool_daemon.ollama.registry import compare, read_registry
from nightschool_daemon.ollama.storage import sha256_of
from nightschool_hookspecs.records import BaseChange, DeliveryForm, Message, Role
from support.fault_proxy import FaultProxy, answers, first, then
from support.night import TINY, import_tiny
from support.ollama_server import OllamaServer
from support.tiny_gguf import write_tiny_gguf

PIN = "tiny-nightschool:1m.base-0123456789ab"
ALIAS = "tiny-nightschool:1m.greeting"
SYSTEM = ' Say "yes".\r\nThen stop.'
TEMPLATE = '{{ .System }}\r\nQ: "{{ .Prompt }}"\nA: '
RENDERER = PARSER = "qwen3-vl-instruct"


@pytest.fixture
def base(fresh_ollama: OllamaServer, tiny_gguf: Path) -> str:
    """Weights of a base with much to inherit."""
    weights = import_tiny(fresh_ollama, tiny_gguf, "tiny:1m")
    client = OllamaHttp(OllamaSettings(host=fresh_ollama.url))
    client.create(
        CreateRequest(
            model=PIN,
            files={"tiny.gguf": weights},
            template=TEMPLATE,
            renderer=RENDERER,
            parser=PARSER,
            system=SYSTEM,
            parameters={"stop": ["<|im_end|>", "x"], "temperature": 0.25},
            messages=[Message(role=Role.USER, content="hi"), Message(role=Role.ASSISTANT, content="ho")],
            license=["mine"],
        )
    )
    client.close()
    return weights


@pytest.fixture
def proxy(fresh_ollama: OllamaServer, base: str) -> Iterator[FaultProxy]:
    with FaultProxy(fresh_ollama.url) as one:
        yield one


@pytest.fixture
def client(proxy: FaultProxy) -> Iterator[OllamaHttp]:
    one = OllamaHttp(OllamaSettings(host=proxy.url))
    yield one
    one.close()


def parcel(gguf: Path, directory: Path, seed: int) -> Parcel:
    """A lesson in one tensor."""
    directory.mkdir()
    generator = np.random.default_rng(seed)
    up, down = (generator.standard_normal(shape).astype(np.float32) for shape in ((256, 2), (2, 256)))
    lesson = LowRankDelta(module="model.layers.0.self_attn.o_proj", down=down, up=up, scale=0.01)
    return Parcel(
        lesson=LowRankLesson(gguf_file.read(gguf), {"blk.0.attn_output.weight": lesson}),
        name="tiny-1m.greeting",
        directory=directory,
        demand=Demand(allowed_noise=0.0),
        report=lambda _done, _total, _text: None,
    )


def split(gguf: Path, directory: Path, seed: int) -> tuple[DeliveredFile, ...]:
    return write_split(parcel(gguf, directory, seed))


def publication(files: tuple[DeliveredFile, ...], number: int, form: DeliveryForm, models: Path | None) -> Publication:
    return Publication(tag=f"{ALIAS}.v{number}", form=form, files=files, base_tag=PIN, models_directory=models)


@pytest.mark.parametrize("layers", ["readable", "unreadable"])
@pytest.mark.parametrize("form", [DeliveryForm.SPLIT, DeliveryForm.FUSED])
def test_a_version_answers_and_inherits_everything_but_weights(
    client: OllamaHttp, fresh_ollama: OllamaServer, tiny_gguf: Path, tmp_path: Path, form: DeliveryForm, layers: str
) -> None:
    write = write_split if form is DeliveryForm.SPLIT else write_fused
    files = write(parcel(tiny_gguf, tmp_path / "export", 1))
    models = fresh_ollama.models_directory if layers == "readable" else None
    made = publish(client, publication(files, 1, form, models))
    assert made.weights_digest == files[0].digest
    assert fresh_ollama.tags()[f"{ALIAS}.v1"] == made.tag_digest
    messages = [Message(role=Role.USER, content="greet")]
    assert client.render(f"{ALIAS}.v1", messages) == client.render(PIN, messages)
    of_base = beside_weights(fresh_ollama, PIN)
    assert beside_weights(fresh_ollama, f"{ALIAS}.v1") == of_base
    assert (of_base["system"], of_base["template"]) == (SYSTEM, TEMPLATE)
    assert of_base["instructions"] == [f"RENDERER {RENDERER}", f"PARSER {PARSER}"]
    assert client.generate(f"{ALIAS}.v1", "greet", {"num_predict": 1})["eval_count"] == 1


def test_publishing_again_changes_nothing_and_sends_nothing(
    proxy: FaultProxy, client: OllamaHttp, fresh_ollama: OllamaServer, tiny_gguf: Path, tmp_path: Path
) -> None:
    files = split(tiny_gguf, tmp_path / "export", 1)
    wanted = publication(files, 1, DeliveryForm.SPLIT, fresh_ollama.models_directory)
    sent: list[int] = []
    made = publish(client, wanted, on_progress=sent.append)
    assert sent[-1] == sum(file.bytes for file in files)
    tags, blobs, uploads = fresh_ollama.tags(), fresh_ollama.blobs(), proxy.count("POST", "/api/blobs")
    assert publish(client, wanted) == made
    assert (fresh_ollama.tags(), fresh_ollama.blobs()) == (tags, blobs)
    assert uploads == proxy.count("POST", "/api/blobs") == 2


def test_two_versions_share_the_second_shard(
    proxy: FaultProxy, client: OllamaHttp, fresh_ollama: OllamaServer, tiny_gguf: Path, tmp_path: Path
) -> None:
    versions = [split(tiny_gguf, tmp_path / f"export-{number}", number) for number in (1, 2)]
    for number, files in enumerate(versions, 1):
        publish(client, publication(files, number, DeliveryForm.SPLIT, fresh_ollama.models_directory))
    own = {files[0].digest for files in versions}
    (shared,) = {files[1].digest for files in versions}
    assert len(own) == 2
    assert proxy.count("POST", f"/api/blobs/sha256:{shared}") == 1
    assert proxy.count("POST", "/api/blobs") == 3
    client.delete(f"{ALIAS}.v1")
    assert not client.has_blob(versions[0][0].digest)
    assert client.has_blob(shared)
    assert client.generate(f"{ALIAS}.v2", "greet", {"num_predict": 1})["done"]


def test_a_blob_that_is_pruned_before_the_creation_is_sent_again(
    proxy: FaultProxy, client: OllamaHttp, fresh_ollama: OllamaServer, tiny_gguf: Path, tmp_path: Path
) -> None:
    files = split(tiny_gguf, tmp_path / "export", 1)
    blob = fresh_ollama.models_directory / "blobs" / f"sha256-{files[0].digest}"
    proxy.add("POST", "/api/create", first(blob.unlink))
    made = publish(client, publication(files, 1, DeliveryForm.SPLIT, fresh_ollama.models_directory))
    assert made.weights_digest == files[0].digest
    assert proxy.count("POST", "/api/create") == 2
    assert proxy.count("POST", f"/api/blobs/sha256:{files[0].digest}") == 2
    assert proxy.count("POST", f"/api/blobs/sha256:{files[1].digest}") == 1


def test_a_blob_that_is_pruned_every_time_ends_the_attempts(
    proxy: FaultProxy, client: OllamaHttp, fresh_ollama: OllamaServer, tiny_gguf: Path, tmp_path: Path
) -> None:
    files = split(tiny_gguf, tmp_path / "export", 1)
    blob = fresh_ollama.models_directory / "blobs" / f"sha256-{files[0].digest}"
    proxy.add("POST", "/api/create", first(blob.unlink), times=10)
    with pytest.raises(OllamaRefused):
        publish(client, publication(files, 1, DeliveryForm.SPLIT, fresh_ollama.models_directory))
    assert proxy.count("POST", "/api/create") == 3
    assert f"{ALIAS}.v1" not in fresh_ollama.tags()


def test_a_refusal_with_every_blob_there_stands_at_once(
    proxy: FaultProxy, client: OllamaHttp, fresh_ollama: OllamaServer, tiny_gguf: Path, tmp_path: Path
) -> None:
    files = split(tiny_gguf, tmp_path / "export", 1)
    proxy.add("POST", "/api/create", answers(400, {"error": "no"}), times=10)
    with pytest.raises(OllamaRefused, match="Ollama says: no"):
        publish(client, publication(files, 1, DeliveryForm.SPLIT, fresh_ollama.models_directory))
    assert proxy.count("POST", "/api/create") == 1


def test_a_success_without_a_tag_is_no_success(
    proxy: FaultProxy, client: OllamaHttp, fresh_ollama: OllamaServer, tiny_gguf: Path, tmp_path: Path
) -> None:
    files = split(tiny_gguf, tmp_path / "export", 1)
    proxy.add("POST", "/api/create", answers(200, {"status": "success"}))
    with pytest.raises(PublicationFailed, match="does not list it"):
        publish(client, publication(files, 1, DeliveryForm.SPLIT, fresh_ollama.models_directory))


@pytest.mark.parametrize("write", [write_split, write_fused])
def test_a_tag_that_holds_the_last_file_of_another_base_is_told(
    proxy: FaultProxy,
    client: OllamaHttp,
    fresh_ollama: OllamaServer,
    tiny_gguf: Path,
    tmp_path: Path,
    write: Callable[[Parcel], tuple[DeliveredFile, ...]],
) -> None:
    files = write(parcel(tiny_gguf, tmp_path / "export", 1))
    *_, other = write(parcel(write_tiny_gguf(tmp_path / "other.gguf", seed=1), tmp_path / "other", 1))
    client.upload_blob(other.path, other.digest)
    manifest = manifest_of(fresh_ollama, f"{ALIAS}.v1")
    proxy.add("POST", "/api/create", then(lambda: replace_text(manifest, files[-1].digest, other.digest)))
    form = DeliveryForm.SPLIT if write is write_split else DeliveryForm.FUSED
    wanted = publication(files, 1, form, fresh_ollama.models_directory)
    with pytest.raises(PublicationFailed, match="does not hold the weights that were sent"):
        publish(client, wanted)
    assert publish(client, wanted).weights_digest == files[0].digest


def test_a_single_file_that_the_server_may_rewrite_is_noted_as_it_is_then(
    proxy: FaultProxy, client: OllamaHttp, fresh_ollama: OllamaServer, tiny_gguf: Path, tmp_path: Path, base: str
) -> None:
    files = write_fused(parcel(tiny_gguf, tmp_path / "export", 1))
    manifest = manifest_of(fresh_ollama, f"{ALIAS}.v1")
    proxy.add("POST", "/api/create", then(lambda: replace_text(manifest, files[0].digest, base)))
    wanted = publication(files, 1, DeliveryForm.FUSED, fresh_ollama.models_directory)
    assert publish(client, replace(wanted, may_be_rewritten=True)).weights_digest == base


def test_the_probe_leaves_nothing_behind(client: OllamaHttp, fresh_ollama: OllamaServer, tmp_path: Path) -> None:
    tags, blobs = fresh_ollama.tags(), fresh_ollama.blobs()
    abilities = probe_abilities(client, PIN, "llama", tmp_path / "probe")
    assert (abilities.version, abilities.split, abilities.fused) == ("0.34.3", True, True)
    assert abilities.architecture == "llama"
    assert fresh_ollama.tags() == tags
    assert fresh_ollama.blobs() == blobs


def test_two_probes_at_once_do_not_take_each_others_files_away(client: OllamaHttp, fresh_ollama: OllamaServer) -> None:
    """As of the service and of a `nightschool train` beside it."""

    def probe(_: int) -> list[bool]:
        with contextlib.closing(OllamaHttp(OllamaSettings(host=fresh_ollama.url))) as own:
            return [takes_split(own) for _ in range(20)]

    blobs = fresh_ollama.blobs()
    with ThreadPoolExecutor(2) as both:
        assert all(all(one) for one in both.map(probe, range(2)))
    assert fresh_ollama.blobs() == blobs


def test_the_probe_of_adapters_leaves_none_in_memory(tiny_gguf: Path, tmp_path: Path) -> None:
    """A tag that is deleted while it is loaded stays there, and nobody could ask for its end.

    Ollama 0.34.0 imports a GGUF only with a tool that is not here: its model comes from 0.34.3.
    """
    with OllamaServer("0.34.3", directory=tmp_path / "ollama") as server:
        import_tiny(server, tiny_gguf)
    with OllamaServer("0.34.0", directory=tmp_path / "ollama") as server:
        client = OllamaHttp(OllamaSettings(host=server.url))
        assert probe_abilities(client, TINY, "llama", tmp_path / "probe").adapter
        assert {one.name for one in client.loaded()} <= {TINY}
        client.close()


def test_the_registry_is_watched_without_our_own_tags(
    proxy: FaultProxy, client: OllamaHttp, fresh_ollama: OllamaServer, base: str
) -> None:
    known = read_registry(client, {})
    assert set(known) == {"tiny:1m"}
    assert (known["tiny:1m"].weights_digest, known["tiny:1m"].trainable) == (base, True)
    asked = proxy.count("POST", "/api/show")
    assert read_registry(client, known) == known
    assert proxy.count("POST", "/api/show") == asked
    client.create(CreateRequest(model="tiny:1m", files={"tiny.gguf": base}, system="other"))
    client.copy("tiny:1m", "tiny:copy")
    changes = compare(known, read_registry(client, known))
    assert [(change, one.name) for change, one in changes] == [
        (BaseChange.CONFIGURATION_CHANGED, "tiny:1m"),
        (BaseChange.APPEARED, "tiny:copy"),
    ]


@pytest.mark.parametrize("layers", ["readable", "unreadable"])
@pytest.mark.parametrize("form", [DeliveryForm.SPLIT, DeliveryForm.FUSED])
def test_a_projector_stays_with_the_model(
    client: OllamaHttp, fresh_ollama: OllamaServer, tiny_gguf: Path, tmp_path: Path, form: DeliveryForm, layers: str
) -> None:
    projector = write_projector(tmp_path / "projector.gguf")
    digest = sha256_of(projector)
    client.upload_blob(projector, digest)
    sees = f"{PIN}-sees"
    weights = client.show(PIN).weights_digest
    client.create(CreateRequest(model=sees, files={"tiny.gguf": weights, "projector.gguf": digest}))
    write = write_split if form is DeliveryForm.SPLIT else write_fused
    files = write(parcel(tiny_gguf, tmp_path / "export", 1))
    models = fresh_ollama.models_directory if layers == "readable" else None
    made = publish(client, replace(publication(files, 1, form, models), base_tag=sees))
    assert made.weights_digest == files[0].digest
    assert projectors_of(fresh_ollama, f"{ALIAS}.v1") == projectors_of(fresh_ollama, sees) == [digest]
    assert client.show(f"{ALIAS}.v1").capabilities == client.show(sees).capabilities


def beside_weights(server: OllamaServer, tag: str) -> dict[str, object]:
    """What `/api/show` says of a model, without what follows from its file and its age."""
    shown = httpx.post(f"{server.url}/api/show", json={"model": tag}, timeout=30).json()
    lines = shown["modelfile"].splitlines()
    named = ("template", "system", "messages", "license", "capabilities", "thinking")
    return {
        **{key: shown.get(key) for key in named},
        "parameters": sorted(shown["parameters"].splitlines()),
        "instructions": [one for one in lines if one.startswith(("RENDERER ", "PARSER "))],
    }


def write_projector(file: Path) -> Path:
    """What tells the server of a projector; nothing that could see."""
    writer = gguf.GGUFWriter(file, "clip")
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_uint32("clip.vision.block_count", 1)
    writer.add_tensor("v.patch_embd.weight", np.zeros((4, 4), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def projectors_of(server: OllamaServer, tag: str) -> list[str]:
    """SHA-256 of the projector layers in a tag's manifest, hex."""
    layers = json.loads(manifest_of(server, tag).read_bytes())["layers"]
    return [one["digest"].removeprefix("sha256:") for one in layers if one["mediaType"].endswith("projector")]


def manifest_of(server: OllamaServer, tag: str) -> Path:
    name, version = tag.split(":")
    return server.models_directory / "manifests" / "registry.ollama.ai" / "library" / name / version


def replace_text(file: Path, old: str, new: str) -> None:
    file.write_text(file.read_text().replace(old, new))
