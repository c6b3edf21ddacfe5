"""Finds out what the running server takes, by trying it on tiny files. A version string alone proves nothing."""

import tempfile
import textwrap
import uuid
from collections.abc import Callable
from pathlib import Path

from nightschool_daemon.ollama.errors import OllamaError, OllamaRefused
from nightschool_daemon.ollama.http import CreateRequest, OllamaHttp
from nightschool_daemon.ollama.names import PROBE
from nightschool_daemon.ollama.storage import sha256_of
from nightschool_hookspecs.records import DeliveryForm, ServerAbilities

LOWEST_VERSION = (0, 17, 1)
"""Below it the server does not check the bounds of a GGUF's tensors (CVE-2026-7482)."""
EFFECT = 1e-3
"""Nats by which an adapter must move a token's probability to count as applied."""
SAID = 160
"""Characters of what the server says to what it does not take, at most."""


def probe_abilities(ollama: OllamaHttp, base: str, architecture: str, scratch: Path) -> ServerAbilities:
    """Try each form of delivery with a private tag that is deleted again.

    `base` is asked for one token with and without a tiny adapter. `scratch` is a directory for the tiny
    files. A server that refuses them keeps some blobs of a kilobyte, until it prunes at its next start.
    Raises `OllamaRefused` for a server that must not be sent GGUFs.
    """
    version = ollama.version()
    _refuse_unsafe(version)
    scratch.mkdir(parents=True, exist_ok=True)
    found = {
        DeliveryForm.SPLIT: _refusal_of(ollama, _split_files(scratch)),
        DeliveryForm.FUSED: _refusal_of(ollama, _single_file(scratch)),
        DeliveryForm.ADAPTER: _refusal_of_adapter(ollama, base, architecture, scratch),
    }
    refusals = {form: reason for form, reason in found.items() if reason is not None}
    return ServerAbilities(
        version=version,
        split=DeliveryForm.SPLIT not in refusals,
        fused=DeliveryForm.FUSED not in refusals,
        adapter=DeliveryForm.ADAPTER not in refusals,
        architecture=architecture,
        refusals=refusals,
    )


def takes_split(ollama: OllamaHttp) -> bool:
    """Whether the server takes a model in shards, so that versions share what none of them touches."""
    with tempfile.TemporaryDirectory(prefix="nightschool-probe-") as scratch:
        return _refusal_of(ollama, _split_files(Path(scratch))) is None


def _refuse_unsafe(version: str) -> None:
    numbers = version.split("-", maxsplit=1)[0].split(".")
    try:
        parsed = tuple(int(one) for one in numbers)
    except ValueError:
        # a development build: the probes decide
        return
    if (0, 0, 0) < parsed < LOWEST_VERSION:
        raise OllamaRefused(
            f"Ollama {version} does not check the files it is sent (CVE-2026-7482). Update it to 0.17.1 or newer, "
            "best to 0.34.1 or newer.",
            status=200,
        )


def _refusal_of(ollama: OllamaHttp, files: list[Path]) -> str | None:
    """What the server says to a model of these files; None: it takes it."""
    return _with_tag(ollama, lambda tag: CreateRequest(model=tag, files=_uploaded(ollama, files)), lambda _tag: None)


def _refusal_of_adapter(ollama: OllamaHttp, base: str, architecture: str, scratch: Path) -> str | None:
    """Why an adapter is of no use; None: it is accepted and has an effect. Some servers accept it and ignore it."""
    shown = ollama.show(base)
    width = shown.embedding_length
    if not width:
        return f"It does not tell how wide {base} is, so that none could be tried."
    if (refusal := _refusal_of_all_adapters(ollama, base)) is not None:
        return refusal
    file = _adapter_file(scratch, architecture, width, shown.attention_width)
    plain = _first_token(ollama, base)

    def seen(tag: str) -> str | None:
        try:
            moved = _first_token(ollama, tag)
        finally:
            # a tag that is deleted while it is loaded stays in memory
            unload_quietly(ollama, tag)
        shared = plain.keys() & moved.keys()
        is_applied = not shared or max(abs(plain[one] - moved[one]) for one in shared) > EFFECT
        return None if is_applied else "It took a tiny one and answered as without it."

    return _with_tag(
        ollama, lambda tag: CreateRequest(model=tag, from_model=base, adapters=_uploaded(ollama, [file])), seen
    )


def _refusal_of_all_adapters(ollama: OllamaHttp, base: str) -> str | None:
    """What the server says before it looks for an adapter's blob, asked with one that is nowhere; None: it looks.

    A server that refuses all adapters is not sent one that it would keep.
    """
    nowhere = "0" * 64
    try:
        ollama.create(
            CreateRequest(model=f"{PROBE}:{uuid.uuid4().hex[:12]}", from_model=base, adapters={"a.gguf": nowhere})
        )
    except OllamaRefused as error:
        return None if nowhere in str(error) else _in_short(error)
    return None


def _with_tag(
    ollama: OllamaHttp, request: Callable[[str], CreateRequest], look: Callable[[str], str | None]
) -> str | None:
    """Create a private tag, look at it, delete it. Returns a refusal; a server that went away is an error."""
    tag = f"{PROBE}:{uuid.uuid4().hex[:12]}"
    try:
        ollama.create(request(tag))
        return look(tag)
    except OllamaRefused as error:
        return _in_short(error)
    finally:
        _delete_quietly(ollama, tag)


def _in_short(error: OllamaRefused) -> str:
    said = textwrap.shorten(str(error).removeprefix("Ollama says: "), SAID)
    return f"To a tiny one it said: {said.rstrip('.')}."


def _delete_quietly(ollama: OllamaHttp, tag: str) -> None:
    try:
        ollama.delete(tag)
    except OllamaError:
        # what made the probe end is the error to be told; the sweep at the next start removes the tag
        return


def unload_quietly(ollama: OllamaHttp, name: str) -> None:
    """Take a model out of memory, if it can be: one that somebody is asking stays."""
    try:
        ollama.unload(name)
    except OllamaError:
        return


def _uploaded(ollama: OllamaHttp, files: list[Path]) -> dict[str, str]:
    digests = {file.name: sha256_of(file) for file in files}
    for file in files:
        ollama.upload_blob(file, digests[file.name])
    return digests


def _first_token(ollama: OllamaHttp, name: str) -> dict[str, float]:
    answer = ollama.generate(name, "The", {"num_predict": 1, "temperature": 0}, logprobs=True, top_logprobs=20)
    tokens = answer.get("logprobs")
    if not isinstance(tokens, list) or not tokens:
        # before 0.12.11 there are no log-probabilities: compare the text
        return {str(answer.get("response")): 0.0}
    return {one["token"]: one["logprob"] for one in tokens[0]["top_logprobs"]}


def _name() -> str:
    """Makes a file another one than that of a probe beside it: who deletes a tag takes its blobs along."""
    return f"probe {uuid.uuid4().hex}"


def _single_file(scratch: Path) -> list[Path]:
    import gguf
    import numpy as np

    file = scratch / "probe.gguf"
    writer = gguf.GGUFWriter(str(file), "llama")
    writer.add_name(_name())
    writer.add_tensor("token_embd.weight", np.zeros((1, 32), np.float32))
    _write(writer)
    return [file]


def _split_files(scratch: Path) -> list[Path]:
    import gguf
    import numpy as np

    files, name = [scratch / f"probe-{number:05d}-of-00002.gguf" for number in (1, 2)], _name()
    for number, file in enumerate(files):
        writer = gguf.GGUFWriter(str(file), "llama")
        writer.add_name(name)
        writer.add_uint16("split.no", number)
        writer.add_uint16("split.count", 2)
        writer.add_int32("split.tensors.count", 2)
        writer.add_tensor(f"probe.{number}.weight", np.zeros((1, 32), np.float32))
        _write(writer)
    return files


def _adapter_file(scratch: Path, architecture: str, width: int, attention_width: int) -> Path:
    """A rank-1 adapter on the first layer's attention output, large enough to be noticed."""
    import gguf
    import numpy as np

    file = scratch / "probe-adapter.gguf"
    writer = gguf.GGUFWriter(str(file), architecture)
    writer.add_type("adapter")
    writer.add_name(_name())
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 1.0)
    generator = np.random.default_rng(0)
    down = generator.standard_normal((1, attention_width)).astype(np.float32)
    up = generator.standard_normal((width, 1)).astype(np.float32)
    writer.add_tensor("blk.0.attn_output.weight.lora_a", down)
    writer.add_tensor("blk.0.attn_output.weight.lora_b", up)
    _write(writer)
    return file


def _write(writer: object) -> None:
    import gguf

    if not isinstance(writer, gguf.GGUFWriter):
        raise TypeError("a GGUF writer expected")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
