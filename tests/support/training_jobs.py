"""Jobs of the tiny model's training."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from nightschool_daemon import codec
from nightschool_daemon.config import PluginSettings
from nightschool_daemon.hooks import Hooks
from nightschool_daemon.learning.engine import loop
from nightschool_daemon.learning.engine.curriculum import Arrange, nobody_arranges
from nightschool_daemon.learning.engine.loop import Report
from nightschool_daemon.learning.gguf_file import GgufFile
from nightschool_daemon.learning.loading import Tokens
from nightschool_daemon.learning.packed_route import learn, prepare
from nightschool_daemon.learning.rows import FILES
from nightschool_daemon.ollama.storage import sha256_of
from nightschool_hookspecs.records import (
    Hyperparameters,
    LabelledText,
    Material,
    MethodChoice,
    PairText,
    TrainingJob,
    TrainingMethod,
    TrainingResult,
    TrainingText,
)


class Interrupted(Exception):
    """The power went."""


def unheard(_done: int, _total: int, _text: str) -> None:
    """Nobody watches."""


def fine_tune(
    file: GgufFile,
    tokens: Tokens,
    job: TrainingJob,
    method: TrainingMethod,
    settings: Hyperparameters,
    report: Report,
    *,
    note: Callable[[str], None] = lambda _text: None,
    arrange: Arrange = nobody_arranges,
) -> TrainingResult:
    """A training by the packed engine from its beginning to its end."""
    return learn(prepare(file, tokens, job, method, settings, note=note, arrange=arrange), report, note)


def keep_every_step(patch: pytest.MonkeyPatch) -> None:
    """Have a checkpoint written after each, however soon."""
    patch.setattr(loop.Clock, "is_due", lambda _clock: True)


def greetings(count: int = 12) -> list[TrainingText]:
    """One answer to many prompts."""
    return [
        TrainingText(event_id=f"g-{number}", prompt=f"greet guest {number}\n", completion="hello<|im_end|>")
        for number in range(count)
    ]


def training_job(
    directory: Path,
    gguf: Path,
    settings: Hyperparameters,
    *,
    texts: Sequence[TrainingText] = (),
    pairs: Sequence[PairText] = (),
    labels: Sequence[LabelledText] = (),
) -> TrainingJob:
    """A job whose dataset and output are in one directory."""
    directory.mkdir(parents=True, exist_ok=True)
    of_method = {TrainingMethod.SFT: texts, TrainingMethod.DPO: pairs, TrainingMethod.KTO: labels}
    for method, records in of_method.items():
        lines = "".join(codec.to_json(one) + "\n" for one in records)
        (directory / FILES[method]).write_text(lines, encoding="utf-8")
    liked = sum(one.liked for one in labels)
    return TrainingJob(
        base_gguf=gguf,
        base_digest=sha256_of(gguf),
        architecture="llama",
        dataset=directory,
        output=directory,
        material=Material(
            examples=len(texts), better_known=len(texts), pairs=len(pairs), liked=liked, disliked=len(labels) - liked
        ),
        method=MethodChoice.AUTO,
        hyperparameters=settings,
        seed=7,
    )


def harder_and_harder(count: int = 12) -> list[TrainingText]:
    """The same, a third of them easy, of medium difficulty and hard."""
    levels = (0.1, 0.5, 0.9)
    return [replace(one, difficulty=levels[number % 3]) for number, one in enumerate(greetings(count))]


def staged(**settings: int) -> Arrange:
    """The curriculum by stages, asked as a worker asks it."""
    hooks = Hooks.load(
        plugin_directory=None,
        tables={"curriculum_staged": settings},
        plugins=PluginSettings(enabled=("curriculum_staged",)),
        built_in=("curriculum_staged",),
    )
    return hooks.arrange_stretch
