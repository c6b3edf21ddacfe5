"""What a training by hand leaves that ended before its time: the same call goes on with it.

It lies in the training's own directory, without what is as large as the base or in Ollama. Of such directories a few
are kept, for some days.
"""

import hashlib
import shutil
from collections.abc import Collection, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

from nightschool_daemon import __version__, codec
from nightschool_daemon.codec import CodecError
from nightschool_daemon.config import DeliverySettings, ExamSettings, OllamaSettings, Settings
from nightschool_daemon.jobs import RunDirectory, Step, VerifyResult
from nightschool_daemon.locking import StateLock, is_locked, one_at_a_time
from nightschool_hookspecs.records import TrainingResult

MADE_OF = "made-of"
"""In such a directory: what the training there is made of, as `made_of` writes it."""
BASE, DATA = "base", "data"
"""What it is all about: where one of these is another, so is the training."""
GONE = ".gone"
"""How the names of directories end of which only the removal is under way."""
KEPT, KEPT_FOR = 3, timedelta(days=7)
"""So many are kept, each for so long after something was last written there."""
LEARNED = ("**/*.safetensors", "search/*")
"""In the directory of the step `train`: what was learned so far, and what a search for hyperparameters tried out."""
OF_EXAMS = (
    "max_items",
    "max_guard_items",
    "max_regression_items",
    "regression_items_to_promote",
    "max_lesson_items",
    "max_pairs",
    "regression_days",
    "round_items",
    "min_items",
    "verify_positions",
    "guard_time_s",
)
"""Settings of exams that no training asks; others say how a model is asked that judges what is learned."""
BEHIND = ("notify_", "guard_")
"""How names of plugins begin that no training asks."""
AGAIN = (Step.EXPORT, Step.REGISTER, Step.VERIFY)
"""Steps that are taken again: their files are as large as the base, and what they had in Ollama is gone."""


def made_of(settings: Settings, base: str, base_digest: str, data_digest: str) -> str:
    """All that two trainings must have in common for one to go on with what the other left: lines of name and value.

    The base's tag is in it, for pins are made and removed by that.
    """
    parts = {
        BASE: base_digest,
        DATA: data_digest,
        "name of the base": base,
        "release of Night School": __version__,
        "--from": _digest("\n".join(_states(settings.training.start_from))),
        "--method or configuration": _digest(codec.to_json(deciding(settings))),
    }
    return "\n".join(f"{name}: {value}" for name, value in parts.items())


def _states(brought: Path | None) -> Iterator[str]:
    """What tells that an adapter is another, or was changed."""
    if brought is None:
        return
    yield str(brought)
    for one in sorted(brought.expanduser().glob("*")):
        if one.is_file():
            yield f"{one.name} {one.stat().st_size} {one.stat().st_mtime_ns}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _parts_of(text: str) -> dict[str, str]:
    """What `made_of` wrote, by name."""
    parts: dict[str, str] = {}
    for line in text.splitlines():
        name, _, value = line.partition(": ")
        parts[name] = value
    return parts


def why_not(directories: Iterable[Path], wanted: str) -> Iterator[str]:
    """Of each training on the same base and data that was left and is not gone on with, a sentence why.

    Called within `comings_and_goings`.
    """
    now = _parts_of(wanted)
    for directory in directories:
        if is_locked(directory) or not can_go_on(directory):
            continue
        then = _parts_of((directory / MADE_OF).read_text(encoding="utf-8"))
        other = [name for name, value in now.items() if then.get(name) != value]
        if other and not {BASE, DATA} & set(other):
            yield (
                f"It begins anew: an unfinished training on the same base and data had another "
                f"{' and another '.join(other)}. What it left is in {directory} for {KEPT_FOR.days} days at most."
            )


def deciding(settings: Settings) -> Settings:
    """What decides how a training goes: what acts around it or behind it, as a limit of deliveries, may be another."""
    tables, unexamined = settings.plugin_tables.items(), ExamSettings()
    return Settings(
        ollama=OllamaSettings(models_directory=settings.ollama.models_directory),
        similarity=settings.similarity,
        training=replace(settings.training, start_from=None),
        delivery=DeliverySettings(form=settings.delivery.form),
        exam=replace(settings.exam, **{name: getattr(unexamined, name) for name in OF_EXAMS}),
        plugins=settings.plugins,
        plugin_tables={name: table for name, table in tables if not name.startswith(BEHIND)},
    )


def taken_up(directories: Iterable[Path], wanted: str) -> tuple[Path, StateLock] | None:
    """A directory that is made of the same and can be gone on with, and its lock. None: there is none.

    Called within `comings_and_goings`, so that none is removed or taken up by another meanwhile.
    """
    for directory in directories:
        if is_locked(directory) or not can_go_on(directory):
            continue
        if (directory / MADE_OF).read_text(encoding="utf-8") == wanted:
            return directory, StateLock.take(directory)
    return None


def can_go_on(directory: Path) -> bool:
    """Whether something was learned there that is not itself at fault where it could not be served."""
    return (directory / MADE_OF).is_file() and any(map(_is_open, _runs_in(directory)))


def trained_in(directory: Path) -> Path | None:
    """What was trained there; None where the training is not done."""
    done = (run for run in _runs_in(directory) if run.is_done(Step.TRAIN))
    return next((run.result(Step.TRAIN, TrainingResult).adapter for run in done), None)


def _is_open(run: RunDirectory) -> bool:
    learned = any(True for pattern in LEARNED for _ in run.step(Step.TRAIN).glob(pattern))
    try:
        return learned and not (run.is_done(Step.VERIFY) and run.result(Step.VERIFY, VerifyResult).is_last_word)
    except CodecError:
        # torn by the disk, or of another release
        return False


def leave(directory: Path, *, is_owing: bool = False) -> bool:
    """Keep what can be gone on with, and nothing else. Returns whether there is such.

    `is_owing`: there is something of it in Ollama still, so that the next sweep has to find the directory.
    """
    kept = can_go_on(directory)
    if kept or is_owing:
        shed(directory)
    else:
        remove(directory)
    return kept


def comings_and_goings(state_directory: Path) -> AbstractContextManager[None]:
    """The block in which directories of trainings are made, taken up and removed: one process is in it at a time."""
    return one_at_a_time(state_directory / "trainings.lock")


def remove(directory: Path) -> None:
    """Take a directory away, at once for whoever looks for one."""
    gone = directory.with_name(f".{directory.name}{GONE}")
    directory.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def clear(state_directory: Path) -> None:
    """Remove what is left of those that are gone."""
    for gone in state_directory.glob(f".*{GONE}"):
        shutil.rmtree(gone, ignore_errors=True)


def shed(directory: Path) -> None:
    """Remove what is made again from what was trained."""
    for run in _runs_in(directory):
        for step in AGAIN:
            shutil.rmtree(run.step(step), ignore_errors=True)


def worth_keeping(directories: Iterable[Path], now: datetime) -> Collection[Path]:
    """Those of the directories that can be gone on with, as far as they are neither too old nor too many."""
    oldest = (now - KEPT_FOR).timestamp()
    young = [(last, one) for one in directories if can_go_on(one) and (last := _last_written(one)) > oldest]
    return {one for _, one in sorted(young, reverse=True)[:KEPT]}


def _last_written(directory: Path) -> float:
    return max(one.stat().st_mtime for one in directory.glob("runs/*/*"))


def _runs_in(directory: Path) -> list[RunDirectory]:
    """The one run, if it began."""
    return [RunDirectory(path=one) for one in directory.glob("runs/*")]
