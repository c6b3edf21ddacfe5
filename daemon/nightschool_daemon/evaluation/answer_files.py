"""Where answers are kept from night to night: a file a model, under its digest. A file may be deleted."""

from pathlib import Path

MOST_MODELS = 32
"""Models whose answers are kept; those that were not asked for the longest time go first."""


def file_of(directory: Path, model_digest: str) -> Path:
    """The file of a model that is asked now. Those of models that were long not asked are removed."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    file = directory / f"{model_digest}.jsonl"
    file.touch()
    newest = sorted(directory.glob("*.jsonl"), key=lambda one: one.stat().st_mtime, reverse=True)
    for old in newest[MOST_MODELS:]:
        old.unlink()
    return file
