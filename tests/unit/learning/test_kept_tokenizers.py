"""A tokenizer is built once, until it is built otherwise."""

from pathlib import Path

import pytest

from nightschool_daemon.learning import gguf_file, loading
from nightschool_daemon.learning.loading import load_tokens
from nightschool_daemon.learning.tokenizer import RECIPE

DIGEST = "0123abcd"
DAMAGE = b"of another release"


def names(cache: Path) -> list[str]:
    return sorted(one.name for one in (cache / "tokenizers").iterdir())


def test_what_is_kept_is_built_once(tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = gguf_file.read(tiny_gguf)
    ids = load_tokens(file, DIGEST, tmp_path).prompt("hello")
    monkeypatch.delattr(loading, "build_tokenizer")
    assert load_tokens(file, DIGEST, tmp_path).prompt("hello") == ids


@pytest.mark.parametrize("older", [f"{DIGEST}.json", f"{DIGEST}.{RECIPE - 1}.json", f"{DIGEST}.{RECIPE + 1}.json"])
def test_what_another_release_kept_is_built_anew_and_does_not_stay(tiny_gguf: Path, tmp_path: Path, older: str) -> None:
    """What is of other bases stays."""
    kept = tmp_path / "tokenizers"
    kept.mkdir()
    others = ("0123abcde.json", "0123abc.1.json")
    for name in (older, *others):
        (kept / name).write_bytes(DAMAGE)
    assert load_tokens(gguf_file.read(tiny_gguf), DIGEST, tmp_path).prompt("hello")
    assert names(tmp_path) == sorted((f"{DIGEST}.{RECIPE}.json", *others))
