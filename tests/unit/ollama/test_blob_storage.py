"""Finding a model's file on this machine, and saying exactly what is in the way."""

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from nightschool_daemon.config import OllamaSettings
from nightschool_daemon.ollama import names
from nightschool_daemon.ollama.errors import BlobUnreadable
from nightschool_daemon.ollama.http import ShownModel
from nightschool_daemon.ollama.modelfile import Modelfile
from nightschool_daemon.ollama.storage import check_digest, locate_blob, models_directories, sha256_of

CONTENT = b"GGUF and so on"
DIGEST = hashlib.sha256(CONTENT).hexdigest()
NOBODY = 65534
SHOWN = ShownModel(
    name="tiny:1m",
    modelfile=Modelfile(),
    weights_digest=DIGEST,
    weights_path=None,
    architecture="llama",
    capabilities=(),
    template="",
    embedding_length=1,
    attention_width=1,
)


def placed(models: Path) -> Path:
    """A blob in a models directory."""
    file = models / "blobs" / f"sha256-{DIGEST}"
    file.parent.mkdir(parents=True)
    file.write_bytes(CONTENT)
    return file


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """Nothing is closed to root: step down for a while."""
    if os.getuid() != 0:
        yield
        return
    os.setresuid(NOBODY, NOBODY, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that every user may enter; pytest's own is closed."""
    made = Path(tempfile.mkdtemp())
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


def test_the_servers_own_path_comes_first(tmp_path: Path) -> None:
    own, other = placed(tmp_path / "own"), placed(tmp_path / "other")
    settings = OllamaSettings(models_directory=tmp_path / "other")
    assert locate_blob(settings, replace(SHOWN, weights_path=own)) == own
    assert locate_blob(settings, replace(SHOWN, weights_path=tmp_path / "in the container")) == other


def test_a_cloud_model_has_nothing_to_train(tmp_path: Path) -> None:
    with pytest.raises(BlobUnreadable, match="no GGUF of its own"):
        locate_blob(OllamaSettings(models_directory=tmp_path), replace(SHOWN, weights_digest=""))


def test_a_missing_file_names_the_places_and_the_container(tmp_path: Path) -> None:
    with pytest.raises(BlobUnreadable, match=r"mount its models directory.*ollama\.models_directory") as caught:
        locate_blob(OllamaSettings(models_directory=tmp_path / "models"), SHOWN)
    assert str(tmp_path / "models") in str(caught.value)


def test_a_file_that_is_gone_from_the_store_is_looked_for_once_and_can_be_pulled(tmp_path: Path) -> None:
    own = placed(tmp_path / "models")
    own.unlink()
    with pytest.raises(BlobUnreadable, match=r"`ollama pull tiny:1m` brings it anew") as caught:
        locate_blob(OllamaSettings(models_directory=tmp_path / "models"), replace(SHOWN, weights_path=own))
    assert f"(looked in {tmp_path / 'models'})" in str(caught.value)


def test_the_file_of_a_pin_comes_with_its_base(tmp_path: Path) -> None:
    pin = names.pin_of(SHOWN.name, DIGEST)
    with pytest.raises(BlobUnreadable, match=r"`ollama pull tiny:1m` brings it anew"):
        locate_blob(OllamaSettings(models_directory=tmp_path / "models"), replace(SHOWN, name=pin))


@pytest.mark.parametrize("closed", ["models", "models/blobs", f"models/blobs/sha256-{DIGEST}"])
def test_a_closed_part_of_the_path_is_named(open_directory: Path, closed: str) -> None:
    placed(open_directory / "models")
    part = open_directory / closed
    part.chmod(0)
    with unprivileged(), pytest.raises(BlobUnreadable, match=r"usermod -aG") as caught:
        locate_blob(OllamaSettings(models_directory=open_directory / "models"), SHOWN)
    part.chmod(0o755)
    assert f"{part} is closed to this user" in str(caught.value)


def test_the_configured_directory_is_the_only_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_MODELS", "/from/the/environment")
    assert models_directories(OllamaSettings(models_directory=tmp_path)) == (tmp_path,)
    found = models_directories(OllamaSettings())
    assert found[0] == Path("/from/the/environment")
    assert Path("~/.ollama/models").expanduser() in found


def test_a_damaged_file_is_told_from_a_whole_one(tmp_path: Path) -> None:
    file = placed(tmp_path)
    assert sha256_of(file) == DIGEST
    check_digest(file, DIGEST)
    file.write_bytes(CONTENT[:-1] + b"X")
    with pytest.raises(BlobUnreadable, match="Delete it and pull the model again"):
        check_digest(file, DIGEST)
