"""Bad input to `nightschool train` ends in one clear sentence and a documented exit code, and nothing is sent."""

import json
import pickle
import re
import resource
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from nightschool_daemon.runs.alone import KEPT
from support.forged_tags import OFFSET, SHAPE, TYPE, forge, patched
from support.malformed_gguf import ACCEPTED, UNKNOWN_TYPE
from support.minilm_gguf import write_minilm_gguf
from support.night import TINY, Night, greetings, import_tiny
from support.ollama_server import OllamaServer
from support.rewritten_gguf import rewritten

FAILED, USAGE, MISCONFIGURED = 1, 2, 78
PROGRESS = re.compile(r"^\d{8}-\d{6}-\w{4} ")
EMBEDDING, OUTPUT = "token_embd.weight", "output.weight"
ADDRESS_SPACE = 8 << 30
"""Bytes: ample for torch, and far too little for the long row."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """A server with the tiny base, shared by all tests here, and an installation beside it."""

    server: OllamaServer
    night: Night
    gguf: Path

    def data(self, records: Sequence[Mapping[str, object]], name: str = "data.json") -> Path:
        """Feedback in a file of its own."""
        file = self.night.directory / name
        file.write_text(json.dumps(records), encoding="utf-8")
        return file

    def refused(
        self, model: str = TINY, *options: str, data: Path | None = None, name: str = "result:1m", code: int = FAILED
    ) -> str:
        """Train, and return the one sentence that comes of it."""
        before = self.server.tags(), self.server.blobs()
        known = {one.name for one in self.night.directory.iterdir()}
        given = data or self.data(greetings(12))
        done = self.night.run("train", model, "--data", str(given), "--name", name, *options)
        assert done.returncode == code, done.stdout + done.stderr
        assert (self.server.tags(), self.server.blobs()) == before
        assert {one.name for one in self.night.directory.iterdir()} <= known | {"state", given.name}
        assert "Traceback" not in done.stdout + done.stderr
        assert not done.stdout.strip()
        told = [line for line in done.stderr.splitlines() if line and not PROGRESS.match(line)]
        # what was trained whole is kept, and that is said before
        (sentence,) = (line for line in told if not line.endswith(KEPT))
        return sentence


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_gguf: Path) -> Iterator[Place]:
    directory = tmp_path_factory.mktemp("hostile")
    with OllamaServer("0.34.3", directory=directory / "ollama") as server:
        import_tiny(server, tiny_gguf)
        yield Place(
            server=server, night=Night(directory / "night", server.url, server.models_directory), gguf=tiny_gguf
        )


DAMAGES: Mapping[str, tuple[Callable[[bytes], bytes], str]] = {
    "truncated": (lambda sound: sound[: len(sound) // 2], "size exceeds file size|goes beyond the end"),
    "magic": (lambda sound: b"GGML" + sound[4:], "unsupported file type|is no GGUF"),
    "beyond": (
        lambda sound: patched(sound, EMBEDDING, OFFSET, "<Q", len(sound) // 32 * 32),
        "size exceeds file size|goes beyond the end",
    ),
    "unknown-type": (
        lambda sound: patched(sound, EMBEDDING, TYPE, "<I", UNKNOWN_TYPE),
        "token_embd.weight.* size overflows|unknown type 4711",
    ),
    "overlap": (lambda sound: patched(sound, OUTPUT, OFFSET, "<Q", 0), "overlaps another tensor"),
    "dimensions": (
        lambda sound: patched(sound, EMBEDDING, SHAPE, "<Q", 2**40),
        "size exceeds file size|goes beyond the end",
    ),
    "no-model": (lambda _: ACCEPTED["data: as it was written"], "is no language model"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_base_is_refused(place: Place, damage: str) -> None:
    change, sentence = DAMAGES[damage]
    found = place.refused(forge(place.server, f"{damage}:1m", change(place.gguf.read_bytes())))
    assert re.search(sentence, found), found
    assert re.search(r"(brings it anew|Pull the base anew, or choose another)\.$", found), found


def test_a_base_that_was_damaged_under_its_name_is_refused(place: Place) -> None:
    whole = rewritten(place.gguf, place.night.directory.parent / "whole.gguf", keys={"general.name": "rotten"})
    digest = import_tiny(place.server, whole, "rotten:1m")
    blob = place.server.models_directory / "blobs" / f"sha256-{digest}"
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.write_bytes(content)
    sentence = (
        f"{blob} is damaged: its content is not what its name says. Delete it and pull the model again: Ollama "
        "downloads no file that it has."
    )
    assert place.refused("rotten:1m") == f"prepare: {sentence}"
    planned = place.night.run("plan", "rotten:1m")
    assert (planned.returncode, planned.stdout, planned.stderr) == (FAILED, "", f"{sentence}\n")


def test_metadata_that_lie_are_refused_before_anything_is_rendered(place: Place) -> None:
    lie = rewritten(place.gguf, place.night.directory.parent / "lie.gguf", keys={"llama.block_count": 2**31})
    found = place.refused(forge(place.server, "lie:1m", lie.read_bytes()))
    assert "claims 2147483648 layers and has tensors of 2, so it is damaged" in found


UNTRAINED: Mapping[str, tuple[Mapping[str, int | str], str]] = {
    "foobar": ({"general.architecture": "foobar"}, r"trains a base of the architecture 'foobar'.*Choose another base"),
    "moe": ({"llama.expert_count": 4, "llama.expert_used_count": 2}, r"Models with experts \(MoE\), as this llama"),
    "holes": ({}, r"The GGUF has no tensor blk\.1\.ffn_up\.weight\. Pull the base anew, or choose another"),
}


@pytest.mark.parametrize("which", UNTRAINED)
def test_a_base_that_nothing_trains_is_refused_and_ollama_is_not_asked_to_load_it(place: Place, which: str) -> None:
    keys, sentence = UNTRAINED[which]
    tensors = {} if keys else {"blk.1.ffn_up.weight": None}
    base = rewritten(place.gguf, place.night.directory.parent / f"{which}.gguf", keys=keys, tensors=tensors)
    import_tiny(place.server, base, f"{which}:1m")
    found = place.refused(f"{which}:1m")
    assert re.search(sentence, found), found
    assert "llama-server" not in found
    planned = place.night.run("plan", f"{which}:1m")
    assert planned.returncode == FAILED
    assert re.search(sentence, planned.stderr), planned.stderr


def test_a_model_of_embeddings_is_refused(place: Place) -> None:
    import_tiny(place.server, write_minilm_gguf(place.night.directory.parent / "minilm.gguf"), "minilm:f16")
    sentence = "minilm:f16 is a model of embeddings, so it cannot learn from feedback. Choose a base that answers."
    assert place.refused("minilm:f16") == f"prepare: {sentence}"
    planned = place.night.run("plan", "minilm:f16")
    assert (planned.returncode, planned.stdout, planned.stderr) == (FAILED, "", f"{sentence}\n")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("[]", "holds no event that can be learned from: it is empty"),
        ("", "holds no event that can be learned from"),
        ("[" * 100_000, "holds no event that can be learned from"),
    ],
    ids=["list", "file", "nested"],
)
def test_an_empty_data_set_is_refused(place: Place, content: str, sentence: str) -> None:
    file = place.night.directory / "empty.json"
    file.write_text(content, encoding="utf-8")
    assert sentence in place.refused(data=file)


def test_a_state_directory_that_cannot_be_made_is_refused(place: Place, tmp_path: Path) -> None:
    night = Night(tmp_path / "night", place.server.url, place.server.models_directory, settings="")
    usual = night.configuration.read_text(encoding="utf-8")
    night.configuration.write_text(usual.replace(str(night.state), "/proc/nightschool"), encoding="utf-8")
    data = tmp_path / "data.json"
    data.write_text(json.dumps(greetings(12)), encoding="utf-8")
    done = night.run("train", TINY, "--data", str(data), "--name", "result:1m")
    assert done.returncode == MISCONFIGURED
    assert (
        "state.directory: /proc/nightschool cannot be made (No such file or directory). Choose another." in done.stderr
    )


def test_feedback_without_anything_to_learn_is_refused(place: Place) -> None:
    event = {
        "artifact_type": "greeting",
        "input_data": "greet",
        "ai_output": "5",
        "feedback_type": "validation_failure",
    }
    found = place.refused(TINY, "--method", "sft", data=place.data([event]))
    assert "None of the feedback can be learned from yet" in found


def test_a_loss_that_is_no_number_is_refused(place: Place, tmp_path: Path) -> None:
    night = with_settings(place, tmp_path, learning_rate=1e30, form="lora")
    found = night.refused()
    assert "The loss is no longer a number. Lower learning_rate" in found


def test_weights_without_bounds_are_refused(place: Place, tmp_path: Path) -> None:
    """Norms take them for none, so that the loss of the training stays a number."""
    night = with_settings(place, tmp_path, learning_rate=1e30, form="neurons")
    found = night.refused()
    assert "what was trained is too large for the types of a GGUF" in found
    assert "Lower learning_rate" in found


def test_a_row_longer_than_memory_is_refused(place: Place, tmp_path: Path) -> None:
    own = with_settings(place, tmp_path, max_length=10**6)
    answer = "".join(f"{number} sheep; " for number in range(20_000))
    data = own.data(greetings(12, answer=answer))
    before = resource.getrlimit(resource.RLIMIT_AS)
    # children take the limit along, as from a shell's `ulimit -v`
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, before[1]))
    try:
        found = own.refused(data=data)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert re.search(r"An example of \d{6} tokens needs [\d.]+ GB of memory, and [\d.]+ GB can be had", found), found
    assert "Lower max_length" in found


def test_a_form_of_delivery_that_the_server_does_not_take_is_refused_before_the_training(
    place: Place, tmp_path: Path
) -> None:
    night = Night(
        tmp_path / "night",
        place.server.url,
        place.server.models_directory,
        settings='form = "adapter"\n[training]\nthreads = 1\n',
    )
    data = night.directory / "data.json"
    data.write_text(json.dumps(greetings(12)), encoding="utf-8")
    before = place.server.tags()
    done = night.run("train", TINY, "--data", str(data), "--name", "adapted:1m")
    assert done.returncode == FAILED
    sentence = "delivery.form is 'adapter', but Ollama 0.34.3 takes split, fused. Set delivery.form = \"auto\"."
    assert done.stderr.splitlines()[-1] == f"train: {sentence}"
    assert place.server.tags() == before


def with_settings(place: Place, directory: Path, **values: float | str) -> Place:
    """The same server, and an installation that trains otherwise."""
    lines = "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())
    settings = f"[training]\nthreads = 1\n[plugins.tuning_fixed]\n{lines}"
    server = place.server
    night = Night(directory / "night", server.url, server.models_directory, settings=settings)
    return Place(server=server, night=night, gguf=place.gguf)


class Opener:
    """What pickle makes of this is a call."""

    def __init__(self, sentinel: Path) -> None:
        self._sentinel = sentinel

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (self._sentinel,)


def test_a_pickle_that_is_called_an_adapter_is_refused_and_not_run(place: Place, tmp_path: Path) -> None:
    adapter, sentinel = tmp_path / "adapter", tmp_path / "sentinel"
    adapter.mkdir()
    configuration = {"peft_type": "LORA", "r": 16, "lora_alpha": 32}
    (adapter / "adapter_config.json").write_text(json.dumps(configuration), encoding="utf-8")
    (adapter / "adapter_model.safetensors").write_bytes(pickle.dumps(Opener(sentinel)))
    assert "holds no safetensors" in place.refused(TINY, "--from", str(adapter))
    assert not sentinel.exists()


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [({"r": 64}, "The earlier adapter has rank 64 over groups of 1"), ({"use_dora": True}, "is no plain LoRA")],
)
def test_an_adapter_that_a_training_cannot_begin_from_is_refused_by_what_it_says_of_itself(
    place: Place, tmp_path: Path, changed: dict[str, object], sentence: str
) -> None:
    """Before its weights are looked for, which are not there."""
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    configuration = {"peft_type": "LORA", "r": 16, "lora_alpha": 32, **changed}
    (adapter / "adapter_config.json").write_text(json.dumps(configuration), encoding="utf-8")
    assert sentence in place.refused(TINY, "--from", str(adapter))


@pytest.mark.parametrize("name", ["../../outside", "/etc/outside:1m", "a/../../b"])
def test_a_name_that_leads_elsewhere_is_refused(place: Place, name: str) -> None:
    assert place.refused(name=name, code=USAGE).startswith("--name: ")


@pytest.mark.parametrize("name", ["", "../../etc", "bad name!"])
def test_a_base_that_can_have_no_such_name_is_told_so_before_ollama_is_asked(place: Place, name: str) -> None:
    sentence = f"MODEL: model {name!r} is no name that Ollama takes: write it as `ollama list` shows it."
    assert place.refused(name, code=USAGE) == sentence
    planned = place.night.run("plan", name)
    assert (planned.returncode, planned.stdout, planned.stderr) == (USAGE, "", f"{sentence}\n")


def test_a_base_that_is_not_there_is_to_be_pulled_and_no_feedback_is_said_to_be_kept(place: Place) -> None:
    assert place.refused("nosuch") == "nosuch:latest is not in Ollama. `ollama pull nosuch:latest` brings it."


@pytest.mark.parametrize("kind", ["base-0123456789ab", "greeting.v3"])
def test_a_name_of_our_own_that_is_not_there_is_not_said_to_be_pulled(place: Place, kind: str) -> None:
    name = f"llama3.2-nightschool:3b.{kind}"
    assert place.refused(name) == (
        f"{name} is not in Ollama, and cannot be pulled, as Night School made it of llama3.2:3b. Choose that one, or "
        "another that `ollama list` shows."
    )
