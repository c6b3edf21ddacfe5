"""Tags whose weights are damaged, as a failing disk leaves them: Ollama itself creates none of a malformed file."""

import hashlib
import json
import struct
from pathlib import Path

from support.malformed_gguf import text
from support.night import TINY
from support.ollama_server import OllamaServer

LIBRARY = Path("manifests/registry.ollama.ai/library")
WEIGHTS = "application/vnd.ollama.image.model"
SHAPE, TYPE, OFFSET = 4, 20, 24
"""Where the numbers of a matrix stand behind its name: after their count the two dimensions, then these."""


def forge(server: OllamaServer, name: str, content: bytes) -> str:
    """Give a server the tag `name`: the tiny model's, with this content in the place of its weights."""
    digest = hashlib.sha256(content).hexdigest()
    (server.models_directory / "blobs" / f"sha256-{digest}").write_bytes(content)
    library = server.models_directory / LIBRARY
    manifest = json.loads((library / TINY.replace(":", "/")).read_text(encoding="utf-8"))
    for layer in manifest["layers"]:
        if layer["mediaType"] == WEIGHTS:
            layer.update(digest=f"sha256:{digest}", size=len(content))
    file = library / name.replace(":", "/")
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(manifest), encoding="utf-8")
    return name


def patched(content: bytes, tensor: str, place: int, form: str, number: int) -> bytes:
    """The file with another number in a tensor's description."""
    start = content.index(text(tensor)) + len(text(tensor)) + place
    new = struct.pack(form, number)
    return content[:start] + new + content[start + len(new) :]
