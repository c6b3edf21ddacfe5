"""Finds a model's files on this machine. No endpoint returns a blob's content, so it must be read from disk."""

import grp
import hashlib
import json
import os
from pathlib import Path

from nightschool_daemon.config import OllamaSettings
from nightschool_daemon.ollama import names
from nightschool_daemon.ollama.errors import BlobUnreadable
from nightschool_daemon.ollama.http import ShownModel

MEDIA_TYPE = "application/vnd.ollama.image."
HASH_CHUNK_BYTES = 4 * 1024 * 1024
USUAL_PLACES = ("/usr/share/ollama/.ollama/models", "/var/lib/ollama/.ollama/models", "/var/lib/ollama/models")


def locate_blob(settings: OllamaSettings, shown: ShownModel) -> Path:
    """The readable file of a model's weights. Raises `BlobUnreadable` with what exactly is missing."""
    if not shown.weights_digest:
        raise BlobUnreadable(f"{shown.name} has no GGUF of its own (is it a cloud model?), so it cannot be trained.")
    own = [] if shown.weights_path is None else [shown.weights_path]
    return _readable(shown, [*own, *_places(settings, shown.weights_digest)])


def locate_adapter(settings: OllamaSettings, shown: ShownModel, digest: str) -> Path:
    """The readable file of one of a model's adapters. Raises `BlobUnreadable`."""
    return _readable(shown, _places(settings, digest))


def _places(settings: OllamaSettings, digest: str) -> list[Path]:
    return [blob_of(directory, digest) for directory in models_directories(settings)]


def _readable(shown: ShownModel, candidates: list[Path]) -> Path:
    for path in candidates:
        if os.access(path, os.R_OK) and path.is_file():
            return path
    raise BlobUnreadable(_why_not(shown, candidates))


def models_directories(settings: OllamaSettings) -> tuple[Path, ...]:
    """Where blobs may lie: the configured directory, else the server's usual places."""
    if settings.models_directory is not None:
        return (settings.models_directory.expanduser(),)
    found = [Path("~/.ollama/models").expanduser(), *map(Path, USUAL_PLACES)]
    if given := os.environ.get("OLLAMA_MODELS"):
        found.insert(0, Path(given))
    return tuple(found)


def layers_of(name: str, models_directory: Path) -> dict[str, list[str]] | None:
    """SHA-256 of a tag's layers, hex, by their kind: "model", "template". None where its manifest cannot be read."""
    manifest = _manifest(name, models_directory)
    if manifest is None:
        return None
    layers: dict[str, list[str]] = {}
    for layer in manifest.get("layers", []):
        kind = layer["mediaType"].removeprefix(MEDIA_TYPE)
        layers.setdefault(kind, []).append(layer["digest"].removeprefix("sha256:"))
    return layers


def _manifest(name: str, models_directory: Path) -> dict[str, list[dict[str, str]]] | None:
    model, _, tag = name.rpartition(":")
    namespace = model if "/" in model else f"library/{model}"
    manifests = models_directory / "manifests"
    # a name may begin with its registry, hf.co/user/model, or leave it out
    found = sorted({*manifests.glob(f"*/{namespace}/{tag}"), *manifests.glob(f"{model}/{tag}")})
    if len(found) != 1:
        return None
    try:
        manifest = json.loads(found[0].read_bytes())
    except (OSError, ValueError):
        return None
    return manifest if isinstance(manifest, dict) else None


def blob_of(models_directory: Path, digest: str) -> Path:
    """Where a server keeps a blob, whether or not it is there."""
    return models_directory / "blobs" / f"sha256-{digest}"


def check_digest(path: Path, digest: str) -> None:
    """Compare a file with its name. Raises `BlobUnreadable` where the content differs."""
    found = sha256_of(path)
    if found != digest:
        raise BlobUnreadable(
            f"{path} is damaged: its content is not what its name says. Delete it and pull the model again: Ollama "
            "downloads no file that it has."
        )


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, hex, in bounded memory."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(HASH_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _why_not(shown: ShownModel, candidates: list[Path]) -> str:
    for path in candidates:
        closed = _first_closed(path)
        if closed is not None:
            group = _group_of(closed)
            return (
                f"{path} cannot be read: {closed} is closed to this user. Add the user to the group '{group}' "
                f"(`sudo usermod -aG {group} $USER`, then log in again), or run as the user that runs Ollama."
            )
    places = ", ".join(dict.fromkeys(str(path.parent.parent) for path in candidates))
    return (
        f"The file of {shown.name} is not on this machine (looked in {places}). Where it is gone from there, "
        f"{names.anew(shown.name)} Where Ollama runs in a container, mount its models directory read-only and set "
        "ollama.models_directory."
    )


def _first_closed(path: Path) -> Path | None:
    """The first of a path's parts that exists and may not be entered or read."""
    for part in [*reversed(path.parents), path]:
        try:
            part.stat()
        except PermissionError:
            return part.parent
        except OSError:
            return None
        needed = os.X_OK if part != path else os.R_OK
        if not os.access(part, needed):
            return part
    return None


def _group_of(path: Path) -> str:
    try:
        return grp.getgrgid(path.stat().st_gid).gr_name
    except (KeyError, OSError):
        return "ollama"
