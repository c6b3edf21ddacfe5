"""The worker that builds a dataset asks a real small model what it says by itself, once, and has it learned again."""

import os
import subprocess
import sys
from collections.abc import Collection
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from nightschool_daemon import codec
from nightschool_daemon.config import (
    EmbeddingSource,
    ExamSettings,
    OllamaSettings,
    PluginSettings,
    Settings,
    SimilaritySettings,
    StateSettings,
    TrainingSettings,
)
from nightschool_daemon.jobs import (
    BaseSnapshot,
    EventRow,
    PrepareResult,
    PromptRow,
    Replayed,
    RunDirectory,
    SelectResult,
    SplitResult,
    Step,
    read_lines,
    write_lines,
)
from nightschool_daemon.learning.kept_answers import KeptAnswer
from nightschool_daemon.ollama.storage import sha256_of
from nightschool_hookspecs.circling import runs_in_circles
from nightschool_hookspecs.records import RunInfo, Side, Specialty, TrainingMethod, TrainingText
from nightschool_hookspecs.testing import sample_event
from nightschool_plugins.replay_mixed import read_prompts
from support.base_models import CACHE, MODELS
from support.fault_proxy import FaultProxy
from support.night import import_base
from support.ollama_server import OllamaServer

NOW = datetime(2026, 1, 2, tzinfo=UTC)
BASE = MODELS["smollm2"]
COMMANDS = {
    "list all files of the directory /var/log, also the hidden ones": "ls -a /var/log",
    "count the lines of every Python file below src": "find src -name '*.py' -exec wc -l {} +",
    "show the ten largest files in my home directory": "du -a ~ | sort -n | tail -10",
    "make a directory called backup and copy notes.txt into it": "mkdir backup && cp notes.txt backup",
    "print the second column of table.csv": "cut -d, -f2 table.csv",
    "stop the process that listens on port 8080": "fuser -k 8080/tcp",
    "show how much space is left on all disks": "df -h",
    "unpack archive.tar.gz into the directory out": "tar -xzf archive.tar.gz -C out",
    "an earlier one: say who is logged in": "who",
    "held out: show the last reboot": "last reboot",
}
ROOM = 8
"""Events that a night has room for."""
SEED = 4942
"""By it the base is asked first what it answers in a sentence."""


@pytest.fixture(scope="module")
def gguf(ollama: OllamaServer) -> Path:
    file = CACHE / "smollm2.gguf"
    if not file.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        BASE.fetch(file)
    import_base(ollama, BASE, file)
    return file


def laid_out(
    run: RunDirectory, url: str, gguf: Path, state: Path, tag_digest: str, held_out: Collection[int] = (9,)
) -> RunDirectory:
    """A run whose prompts are split, and one of which was learned before and has no room tonight."""
    for step in (Step.PREPARE, Step.SPLIT, Step.SELECT):
        run.step(step).mkdir(parents=True)
    rows = [_row(number, prompt, command) for number, (prompt, command) in enumerate(COMMANDS.items())]
    write_lines(run.step(Step.PREPARE) / "events.jsonl", rows)
    prompts = [
        PromptRow(key=one.event.key, text=one.event.input_data, placed=False, group=one.group, side=None)
        for one in rows
    ]
    write_lines(run.step(Step.PREPARE) / "prompts.jsonl", prompts)
    base = BaseSnapshot(
        name=BASE.tag,
        tag_digest=tag_digest,
        weights_digest=sha256_of(gguf),
        architecture="llama",
        capabilities=("completion",),
        pin=BASE.tag,
        gguf=gguf,
    )
    prepared = PrepareResult(base=base, incumbent=BASE.tag, undo_tag=BASE.tag, undo_digest="", events=len(rows))
    run.finish(Step.PREPARE, prepared)
    sides = {f"g{number}": Side.HELD_OUT if number in held_out else Side.TRAINING for number in range(len(rows))}
    kept = len(held_out)
    split = SplitResult(choices=(), training_events=len(rows) - kept, held_out_events=kept, sides=sides)
    run.finish(Step.SPLIT, split)
    settings = Settings(
        ollama=OllamaSettings(host=url),
        state=StateSettings(directory=state),
        similarity=SimilaritySettings(embedding=EmbeddingSource.NONE),
        training=TrainingSettings(max_events=ROOM, threads=1),
        exam=ExamSettings(context_tokens=1024),
        plugins=PluginSettings(enabled=("replay_mixed",)),
        plugin_tables={"replay_mixed": {"share": 0.25, "max_tokens": 96, "least_able": 0.0}},
    )
    run.settings.write_text(codec.to_json(settings), encoding="utf-8")
    specialty = Specialty(base=BASE.tag, artifact_type="shell")
    info = RunInfo(id="r", specialty=specialty, seed=SEED, started_at=NOW, reason="test", directory=run.path)
    run.info.write_text(codec.to_json(info), encoding="utf-8")
    return run


def _row(number: int, prompt: str, command: str) -> EventRow:
    event = sample_event(str(number), input_data=prompt, corrected_output=command)
    was_learned = "earlier" in prompt
    if was_learned:
        # of little weight, so that it is chosen last
        event = replace(event, metadata=replace(event.metadata, weight=0.01))
    return EventRow(
        event=event, group=f"g{number}", side=None, trained_on=was_learned, inherited=was_learned, arrival=number
    )


def select(run: RunDirectory) -> tuple[SelectResult, list[TrainingText]]:
    """The step in a process of its own, and what it leaves."""
    command = [sys.executable, "-m", "nightschool_daemon.learning", "select", str(run.path), "--parent"]
    done = subprocess.run([*command, str(os.getpid())], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    texts = list(read_lines(run.step(Step.SELECT) / "examples.jsonl", TrainingText))
    return run.result(Step.SELECT, SelectResult), texts


def test_a_share_of_what_is_learned_is_what_the_model_says_by_itself(
    ollama: OllamaServer, gguf: Path, tmp_path: Path
) -> None:
    digest, state = ollama.tags()[BASE.tag], tmp_path / "state"
    night = RunDirectory(path=tmp_path / "night")
    selected, texts = select(laid_out(night, ollama.url, gguf, state, digest))

    assert selected.replayed == Replayed(events=("dropdir/8",), answers=1)
    assert selected.replayed_share == 0.2
    assert selected.material.examples == ROOM
    assert set(selected.sources[TrainingMethod.SFT]) == {f"dropdir/{number}" for number in range(ROOM + 1)}
    assert selected.left_out == ()
    earlier, own = sorted((one for one in texts if one.beside), key=lambda one: one.event_id, reverse=True)
    assert (earlier.event_id, earlier.completion) == ("dropdir/8", f"who{selected.closing}")
    kept = _kept(state, digest)
    assert own.completion.removesuffix(selected.closing) in [one.text for one in kept]
    assert any(f"<|im_start|>user\n{prompt}<|im_end|>" in own.prompt for prompt in read_prompts())
    assert not runs_in_circles(own.completion)
    assert 0 < own.weight <= max(one.weight for one in texts if not one.beside)

    # a trial candidate learns of one event less: so there is room for the earlier one, and an answer in its place
    trial = RunDirectory(path=night.step(Step.CROSSFIT) / "01")
    with FaultProxy(ollama.url) as proxy:
        found, texts = select(laid_out(trial, proxy.url, gguf, state, digest, held_out=(0, 9)))
        asked = _questions(proxy)
    assert trial.is_trial
    assert found.replayed == Replayed(events=(), answers=2)
    assert (own.prompt, own.completion) in [(one.prompt, one.completion) for one in texts if one.beside]
    # what the base was asked for the candidate it is not asked again
    now = _kept(state, digest)
    assert now[: len(kept)] == kept
    assert asked == len(now) - len(kept) == len({one.question for one in now} - {one.question for one in kept})


def _kept(state: Path, digest: str) -> list[KeptAnswer]:
    """What the base has answered until now."""
    return list(read_lines(state / "cache" / "answers" / f"{digest}.jsonl", KeptAnswer))


def _questions(proxy: FaultProxy) -> int:
    """What was asked of the model itself: prompts that are rendered alone generate nothing."""
    asked = (one for one in proxy.requests if one.path.startswith("/api/chat"))
    return sum(b"_debug_render_only" not in one.body for one in asked)
