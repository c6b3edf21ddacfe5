"""Split, select, examine and judge in a run directory, with a real Ollama and the real plugins."""

import hashlib
import os
from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from nightschool_daemon import codec
from nightschool_daemon.config import (
    EmbeddingSource,
    ExamSettings,
    OllamaSettings,
    Settings,
    SimilaritySettings,
    StateSettings,
)
from nightschool_daemon.evaluation import examiner
from nightschool_daemon.hooks import Hooks
from nightschool_daemon.jobs import (
    BaseSnapshot,
    EventRow,
    ExamineResult,
    JudgeResult,
    PrepareResult,
    PromptRow,
    RegisterResult,
    RunDirectory,
    SelectResult,
    SplitResult,
    Step,
    write_lines,
)
from nightschool_daemon.learning import dataset, judging, split
from nightschool_daemon.ollama.http import CreateRequest, OllamaHttp
from nightschool_daemon.ollama.storage import sha256_of
from nightschool_hookspecs import (
    Chunk,
    Event,
    Exam,
    ExamAnswer,
    ExamItem,
    FeedbackType,
    GuardResult,
    ItemRole,
    Message,
    Outcome,
    Role,
    RunInfo,
    ScoredEvent,
    Sitting,
    Specialty,
    TrainingExample,
    TrainingText,
    Verdict,
    hookimpl,
)
from nightschool_plugins.judge_paired import JudgePaired
from support.ollama_server import OllamaServer
from support.tiny_gguf import write_ending_gguf

NOW = datetime(2026, 1, 2, tzinfo=UTC)
BUILT_IN = (
    "reward_plain",
    "difficulty_length",
    "similarity_edit",
    "similarity_bleu",
    "similarity_embedding",
    "selection_priority",
    "negatives_plain",
    "curriculum_shuffle",
    "augmentation_letters",
    "preference_corrections",
    "tuning_fixed",
    "evaluation_split",
    "evaluation_text",
    "evaluation_shell",
    "guard_answers",
    "guard_length",
    "guard_liked",
    "judge_paired",
)
NAME = "night-tiny:latest"
CANDIDATE = "night-tiny:candidate"


class BuildsPlainly:
    @hookimpl
    def nightschool_build_example(self, event: ScoredEvent, chunks: tuple[Chunk, ...]) -> TrainingExample | None:
        messages = (Message(role=Role.USER, content=event.event.input_data),)
        return TrainingExample(event_id="", messages=messages, target=event.event.target or "")


@dataclass(frozen=True, kw_only=True)
class Night:
    """A worker's context without its process."""

    run: RunDirectory
    info: RunInfo
    settings: Settings
    hooks: Hooks
    notes: list[str] = field(default_factory=list)

    def progress(self, done: int, total: int, text: str) -> None:
        assert 0 <= done <= total

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture
def base(ollama: OllamaServer, tiny_gguf: Path) -> str:
    """The digest of the tiny model, imported under two names."""
    digest = hashlib.sha256(tiny_gguf.read_bytes()).hexdigest()
    http = OllamaHttp(OllamaSettings(host=ollama.url))
    http.upload_blob(tiny_gguf, digest)
    http.create(CreateRequest(model=NAME, files={"tiny.gguf": digest}))
    http.copy(NAME, CANDIDATE)
    http.close()
    return digest


@pytest.fixture
def night(ollama: OllamaServer, base: str, tiny_gguf: Path, tmp_path: Path) -> Night:
    return _night(ollama, base, tiny_gguf, tmp_path)


def _night(ollama: OllamaServer, base: str, gguf: Path, tmp_path: Path, answer: str | None = None) -> Night:
    tables = {"evaluation_split": {"grown_events": 1, "grown_items": 0}}
    hooks = Hooks.load(plugin_directory=None, tables=tables, built_in=BUILT_IN)
    hooks.manager.register(BuildsPlainly(), name="test")
    settings = Settings(
        ollama=OllamaSettings(host=ollama.url),
        state=StateSettings(directory=tmp_path / "state"),
        exam=ExamSettings(max_items=4, max_answer_tokens=6, context_tokens=512),
    )
    specialty = Specialty(base=NAME, artifact_type="shell")
    info = RunInfo(id="r", specialty=specialty, seed=5, started_at=NOW, reason="test", directory=tmp_path)
    run = RunDirectory(path=tmp_path / "run")
    for step in Step:
        run.step(step).mkdir(parents=True)
    _prepare(run, base, gguf, answer)
    return Night(run=run, info=info, settings=settings, hooks=hooks)


def _prepare(run: RunDirectory, digest: str, gguf: Path, answer: str | None) -> None:
    """`answer`: what all want; None: another each."""
    rows = [
        EventRow(
            event=Event(
                id=str(number),
                timestamp=NOW,
                feedback_type=FeedbackType.USER_CORRECTION,
                input_data=f"list {number} files",
                artifact_type="shell",
                ai_output="dir",
                corrected_output=answer or f"ls | head -n {number}",
            ),
            group=f"group {number}",
            side=None,
            trained_on=False,
            arrival=number,
        )
        for number in range(30)
    ]
    lines = "".join(codec.to_json(row) + "\n" for row in rows)
    (run.step(Step.PREPARE) / "events.jsonl").write_text(lines, encoding="utf-8")
    prompts = [
        PromptRow(key=row.group or "", text=row.event.input_data, placed=False, group=row.group, side=None)
        for row in rows
    ]
    lines = "".join(codec.to_json(prompt) + "\n" for prompt in prompts)
    (run.step(Step.PREPARE) / "prompts.jsonl").write_text(lines, encoding="utf-8")
    snapshot = BaseSnapshot(
        name=NAME,
        tag_digest="t",
        weights_digest=digest,
        architecture="llama",
        capabilities=("completion",),
        pin=NAME,
        gguf=gguf,
    )
    run.finish(Step.PREPARE, PrepareResult(base=snapshot, incumbent=NAME, undo_tag=NAME, undo_digest="t", events=30))
    run.finish(Step.REGISTER, RegisterResult(tag=CANDIDATE, number=1, tag_digest="c", weights_digest=digest))


def lines(night: Night, step: Step, name: str) -> list[str]:
    return (night.run.step(step) / name).read_text(encoding="utf-8").splitlines()


@dataclass(frozen=True, kw_only=True)
class Finds:
    """A judge that finds what it is told to."""

    outcome: Outcome

    @hookimpl(tryfirst=True)
    def nightschool_judge_exam(self, exam: Exam, guards: tuple[GuardResult, ...], seed: int) -> Verdict:
        found = JudgePaired().nightschool_judge_exam(exam, guards, seed)
        return replace(found, outcome=self.outcome, decided=True)


@pytest.mark.parametrize(("outcome", "asked"), [(Outcome.PROVEN, 5), (Outcome.PROVISIONAL, 2)])
def test_more_of_what_was_learned_is_asked_of_a_candidate_that_would_come_into_use(
    night: Night, outcome: Outcome, asked: int
) -> None:
    night.hooks.manager.register(Finds(outcome=outcome), name="finds")
    exam = replace(night.settings.exam, max_regression_items=2, regression_items_to_promote=5)
    similarity = SimilaritySettings(embedding=EmbeddingSource.NONE)
    night = replace(night, settings=replace(night.settings, exam=exam, similarity=similarity))
    night.run.finish(Step.SPLIT, SplitResult(choices=(), training_events=0, held_out_events=1))
    counts = ExamItem(
        id="counts",
        event_id="counts",
        artifact_type="shell",
        role=ItemRole.GAIN,
        messages=(Message(role=Role.USER, content="list files"),),
        reference="ls",
    )
    learned = [replace(counts, id=f"learned/{number}", role=ItemRole.LEARNED) for number in range(9)]
    write_lines(night.run.step(Step.SELECT) / "items.jsonl", [counts])
    write_lines(night.run.step(Step.SELECT) / "regression.jsonl", learned)
    examiner.run(night)
    answers = [one for one in night.run.exam_answers() if one.item_id.startswith("learned/")]
    assert Counter(one.sitting for one in answers) == {Sitting.INCUMBENT: asked, Sitting.CANDIDATE: asked}


def test_the_same_model_twice_is_not_promoted(night: Night) -> None:
    split.run(night)
    sides = night.run.result(Step.SPLIT, SplitResult)
    assert (sides.training_events, sides.held_out_events) == (24, 6)

    dataset.run(night)
    selected = night.run.result(Step.SELECT, SelectResult)
    assert (selected.material.examples, selected.items, selected.material.pairs) == (24, 6, 24)
    texts = [codec.from_json(line, TrainingText) for line in lines(night, Step.SELECT, "examples.jsonl")]
    items = [codec.from_json(line, ExamItem) for line in lines(night, Step.SELECT, "items.jsonl")]
    assert not {text.event_id for text in texts} & {item.event_id for item in items}
    assert all(text.completion.startswith("ls | head -n ") for text in texts)
    assert all(text.completion.endswith(selected.closing) for text in texts)
    assert all("list " in text.prompt for text in texts)
    _ends_as_ollama_ends_it(night, selected.closing)

    examiner.run(night)
    answers = [codec.from_json(line, ExamAnswer) for line in lines(night, Step.EXAMINE, "answers.jsonl")]
    assert night.run.result(Step.EXAMINE, ExamineResult).answers == len(answers) == 12
    assert [one.model for one in answers] == [NAME] * 4 + [CANDIDATE] * 4 + [NAME] * 4
    assert [one.sitting for one in answers[::4]] == list(Sitting)
    assert not any(one.failed for one in answers)
    assert all(0 < one.generation_s <= one.latency_s for one in answers)

    judging.run(night)
    verdict = night.run.result(Step.JUDGE, JudgeResult).verdict
    assert verdict.outcome in (Outcome.NOT_ENOUGH, Outcome.PROVISIONAL)
    assert verdict.items == 4


def _ends_as_ollama_ends_it(night: Night, closing: str) -> None:
    """What follows an answer in Ollama's own rendering of the conversation begins with the closing text."""
    http = OllamaHttp(night.settings.ollama)
    rendered = http.render(
        NAME,
        (
            Message(role=Role.USER, content="question"),
            Message(role=Role.ASSISTANT, content="answer"),
            Message(role=Role.USER, content="more"),
        ),
    )
    http.close()
    assert f"answer{closing}" in rendered


def test_answers_end_with_what_the_base_was_taught_to_end_with(fresh_ollama: OllamaServer, tmp_path: Path) -> None:
    gguf = write_ending_gguf(tmp_path / "untuned.gguf", end="</s>", end_of_text="</s>")
    digest = sha256_of(gguf)
    http = OllamaHttp(OllamaSettings(host=fresh_ollama.url))
    http.upload_blob(gguf, digest)
    http.create(CreateRequest(model=NAME, files={"untuned.gguf": digest}))
    own = _night(fresh_ollama, digest, gguf, tmp_path, answer="echo foo")
    split.run(own)
    dataset.run(own)
    assert own.run.result(Step.SELECT, SelectResult).closing == "</s>"
    texts = [codec.from_json(line, TrainingText) for line in lines(own, Step.SELECT, "examples.jsonl")]
    assert {text.completion for text in texts} == {"echo foo</s>"}
    assert own.notes == ["Answers end with </s>: this base was never taught to end one with <|im_end|>."]
    # and there the server ends
    said = http.generate(NAME, "hello", {"num_predict": 8, "temperature": 0}, raw=True)
    http.close()
    assert (said["response"], said["done_reason"]) == ("", "stop")


def test_an_exam_survives_a_restart_of_the_server_and_of_itself(night: Night, ollama: OllamaServer) -> None:
    split.run(night)
    dataset.run(night)
    asked = 0

    class Interrupted(Night):
        def progress(self, done: int, total: int, text: str) -> None:
            nonlocal asked
            asked += 1
            if asked == 3:
                ollama.restart()
            if asked == 6:
                raise KeyboardInterrupt

    first = Interrupted(run=night.run, info=night.info, settings=night.settings, hooks=night.hooks)
    with pytest.raises(KeyboardInterrupt):
        examiner.run(first)
    kept = lines(night, Step.EXAMINE, "answers.jsonl")
    assert len(kept) == 5
    os.truncate(night.run.step(Step.EXAMINE) / "answers.jsonl", len("\n".join(kept).encode()) - 4)

    examiner.run(night)
    after = lines(night, Step.EXAMINE, "answers.jsonl")
    assert after[:4] == kept[:4]
    assert len(after) == 12
    assert not any(codec.from_json(line, ExamAnswer).failed for line in after)


def test_answers_of_another_candidate_are_forgotten(night: Night) -> None:
    split.run(night)
    dataset.run(night)
    examiner.run(night)
    before = lines(night, Step.EXAMINE, "answers.jsonl")
    registered = night.run.result(Step.REGISTER, RegisterResult)
    again = RegisterResult(tag=registered.tag, number=1, tag_digest="another", weights_digest=registered.weights_digest)
    night.run.finish(Step.REGISTER, again)
    examiner.run(night)
    after = lines(night, Step.EXAMINE, "answers.jsonl")
    assert len(after) == len(before) == 12
    assert {codec.from_json(line, ExamAnswer).latency_s for line in after}.isdisjoint(
        codec.from_json(line, ExamAnswer).latency_s for line in before
    )
