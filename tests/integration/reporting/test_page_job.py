"""The page of a run by a real worker: plots, marks, the nights before; and a run that stands whatever breaks it."""

import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import html5lib
import pytest

from nightschool_daemon import codec
from nightschool_daemon.config import EmbeddingSource, OllamaSettings, Settings, SimilaritySettings, StateSettings
from nightschool_daemon.hooks import Hooks
from nightschool_daemon.jobs import (
    MARKS,
    ConcludeResult,
    EventMark,
    EventRow,
    JudgeResult,
    LeftOut,
    RunDirectory,
    Step,
    write_lines,
)
from nightschool_daemon.ledger import FILE_NAME, IncomingEvent, Ledger, VersionRow, VersionState
from nightschool_daemon.ollama.http import OllamaHttp
from nightschool_daemon.reasons import ASKED
from nightschool_daemon.reporting.job import marked
from nightschool_daemon.reporting.records import ExamPaper
from nightschool_daemon.reporting.sheet import markdown_of
from nightschool_daemon.runs import Runs, report
from nightschool_daemon.runs.context import StepContext
from nightschool_daemon.runs.listener import SilentListener
from nightschool_daemon.runs.sheets import sheet_of
from nightschool_daemon.runs.tracks import material_of, track
from nightschool_hookspecs.records import (
    Event,
    ExamAnswer,
    ExamItem,
    FeedbackType,
    ItemRole,
    Material,
    Message,
    Outcome,
    Peers,
    Role,
    RunEnd,
    Sitting,
    Specialty,
    TrainingMethod,
    Verdict,
)
from nightschool_hookspecs.testing import sample_event
from support.pages import elements, text_of
from support.run_rows import RUN_ROW
from support.step_results import SELECTED, TRAINED

NOW = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
SHELL = Specialty(base="tiny:1b", artifact_type="shell")
HOSTILE = "<script>alert('x')</script> ls \x1b[2J"


class Notes(SilentListener):
    """Remembers what is noted."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def note(self, run_id: str, text: str) -> None:
        self.told.append(text)


class Season:
    """A ledger with nights whose exams took place, without any server."""

    def __init__(self, directory: Path) -> None:
        self.settings = Settings(
            ollama=OllamaSettings(host="http://127.0.0.1:9"),
            state=StateSettings(directory=directory),
            similarity=SimilaritySettings(embedding=EmbeddingSource.STATIC),
        )
        self.ledger = Ledger.open(directory / FILE_NAME)
        self.listener = Notes()
        hooks = Hooks.load(plugin_directory=None, tables={})
        self.ollama = OllamaHttp(self.settings.ollama)
        self.runs = Runs(settings=self.settings, ledger=self.ledger, hooks=hooks, ollama=self.ollama, clock=lambda: NOW)
        self.nights = 0

    def close(self) -> None:
        self.ollama.close()
        self.ledger.close()

    def night(self, gain: float = 30.0, *, incumbent: str = "the base", promoted: bool = True) -> StepContext:
        """A run whose exam was judged, and which is concluded."""
        self.nights += 1
        at = NOW + timedelta(days=self.nights)
        context = self._begun(at)
        for step in (Step.EXAMINE, Step.JUDGE, Step.CONCLUDE, Step.REPORT):
            context.directory.step(step).mkdir()
        context.directory.finish(Step.EXAMINE, None)
        verdict = _verdict(gain)
        context.directory.finish(Step.JUDGE, JudgeResult(guards=(), verdict=verdict))
        items, answers = _exam(gain)
        self.ledger.exams.store(context.info.id, items, answers)
        self.ledger.exams.store_verdict(context.info.id, verdict)
        self.ledger.evidence.store(context.info.id, SHELL, incumbent, log_e_value=1.0, asked=[], counted=[])
        self.ledger.versions.add(
            VersionRow(
                tag=f"v{self.nights}",
                specialty=SHELL,
                number=self.nights,
                run_id=context.info.id,
                form=None,
                tag_digest="",
                weights_digest="",
                base_tag_digest="",
                base_weights_digest="",
                state=VersionState.PROMOTED if promoted else VersionState.DISCARDED,
                created_at=at,
            )
        )
        concluded = ConcludeResult(
            end=RunEnd.PROMOTED if promoted else RunEnd.NOT_ENOUGH,
            reason=verdict.reason,
            alias="tiny-nightschool:1b.shell",
            version=f"v{self.nights}",
        )
        context.directory.finish(Step.CONCLUDE, concluded)
        return context

    def _begun(self, at: datetime) -> StepContext:
        name = f"run-{self.nights}"
        place = self.settings.state_directory / name
        row = replace(RUN_ROW, id=name, reason=ASKED, started_at=at, directory=place)
        row.directory.mkdir()
        self.ledger.runs.create(row)
        directory = RunDirectory(path=row.directory)
        directory.settings.write_text(codec.to_json(self.settings))
        directory.info.write_text(codec.to_json(self.runs.info_of(row)))
        return self.runs.context_of(row.id, self.listener)

    def feedback(self, texts: list[str], first: int = 0) -> None:
        """Prompts that came in; every third answer was disliked."""
        self.ledger.events.add(
            [
                IncomingEvent(
                    event=Event(
                        id=str(number),
                        timestamp=NOW + timedelta(minutes=number),
                        feedback_type=FeedbackType.EXPLICIT_NEGATIVE if number % 3 == 0 else FeedbackType.SUCCESS,
                        input_data=text,
                        artifact_type="shell",
                        ai_output="ls",
                    ),
                    base=SHELL.base,
                    answered_by=None,
                    group=text,
                    arrived_at=NOW,
                )
                for number, text in enumerate(texts, start=first)
            ]
        )


def _verdict(gain: float) -> Verdict:
    return Verdict(
        outcome=Outcome.PROVEN,
        incumbent_mean=50.0,
        candidate_mean=50.0 + gain,
        gain=gain,
        interval=(gain - 8, gain + 7),
        p_value=0.001,
        noise=0.0,
        items=4,
        items_needed=None,
        guards=(),
        reason="The candidate is better.",
    )


def _exam(gain: float) -> tuple[list[ExamItem], list[ExamAnswer]]:
    items = [
        ExamItem(
            id=f"i{number}",
            event_id=f"e{number}",
            artifact_type="shell",
            role=ItemRole.GAIN if number < 4 else ItemRole.LEARNED,
            messages=(
                Message(role=Role.SYSTEM, content="Be short."),
                Message(role=Role.USER, content=f"list {number}"),
            ),
            reference="ls",
        )
        for number in range(5)
    ]
    answers = [
        ExamAnswer(
            item_id=item.id,
            sitting=sitting,
            model="m",
            text=HOSTILE,
            score=50.0 + (gain if sitting is Sitting.CANDIDATE else 0.0) if item.role is ItemRole.GAIN else 0.0,
            detail="",
            failed=False,
            latency_s=2.0,
            tokens=20,
            done_reason="stop",
        )
        for sitting in Sitting
        for item in items
    ]
    return items, answers


@pytest.fixture
def season(tmp_path: Path) -> Iterator[Season]:
    made = Season(tmp_path)
    yield made
    made.close()


def page_of(context: StepContext) -> Path:
    return context.directory.step(Step.REPORT) / "report.html"


def told(context: StepContext) -> str:
    return (context.directory.step(Step.REPORT) / "report.md").read_text(encoding="utf-8")


def test_a_run_leaves_a_sound_page_with_its_plots_and_the_words(season: Season) -> None:
    context = season.night()
    report.perform(context)
    page = page_of(context).read_text(encoding="utf-8")
    html5lib.HTMLParser(strict=True).parse(page)
    assert len(elements(page)("svg")) == 2
    assert not elements(page)("script")
    assert "<script>alert('x')</script> ls \N{REPLACEMENT CHARACTER}[2J" in text_of(page)
    words = "Of 100 points, 30 more than before (50 before, 80 after); the truth lies between 22 and 37 more"
    assert words in text_of(page)
    assert words in told(context)
    assert "\x1b" not in told(context)
    sheet = report.read_sheet(context.directory.path)
    assert sheet is not None
    assert markdown_of(sheet) == told(context)
    assert not (context.directory.path / "page").exists()
    assert season.listener.told == []


def test_what_became_of_each_piece_is_on_the_page_and_the_most_telling_in_the_words(season: Season) -> None:
    context = season.night()
    _choose(context.directory)
    report.perform(context)
    page = page_of(context).read_text(encoding="utf-8")
    html5lib.HTMLParser(strict=True).parse(page)
    (folded,) = elements(page)("details")
    told_on_page = "".join(folded.itertext())
    assert HOSTILE.replace("\x1b", "\N{REPLACEMENT CHARACTER}") in told_on_page
    assert "It was chosen, and the run ended before it had learned." in told_on_page
    assert "It was left out: it was withdrawn." in told_on_page
    # the words of `list 0` are most like those of `list 9`, and it went from 50 to 80
    assert "50 \N{RIGHTWARDS ARROW} 80 list 0" in told_on_page
    assert "`list 9` (corrected, weight 2.00): It was chosen" in told(context)
    assert "`nightschool explain dropdir/9`" in told(context)
    assert "One by one" not in told(context)


@pytest.mark.parametrize(("method", "are_told"), [(TrainingMethod.SFT, True), (TrainingMethod.DPO, False)])
def test_starter_examples_are_told_where_wanted_answers_were_learned(
    season: Season, method: TrainingMethod, are_told: bool
) -> None:
    context = season.night()
    _choose(context.directory, starters=5)
    context.directory.begin(Step.TRAIN)
    trained = replace(TRAINED, adapter=context.directory.path, methods=(method,))
    context.directory.finish(Step.TRAIN, trained)
    report.perform(context)
    assert ("5 starter examples were learned beside it" in told(context)) == are_told
    assert ("Beside them 5 starter examples, in none of the losses" in told(context)) == are_told


def _choose(directory: RunDirectory, *, starters: int = 0) -> None:
    """Let a run have chosen one piece and left another out."""
    events = [sample_event("9", input_data="list 9"), sample_event("10", input_data=HOSTILE)]
    for step in (Step.PREPARE, Step.SELECT):
        directory.begin(step)
    rows = (EventRow(event=one, group=one.id, side=None, trained_on=False, arrival=0) for one in events)
    write_lines(directory.step(Step.PREPARE) / "events.jsonl", rows)
    mark = EventMark(event_id="dropdir/9", priority=2.0, reward=1.0, difficulty=0.5, weight=2.0)
    write_lines(directory.step(Step.SELECT) / MARKS, [mark])
    selected = replace(
        SELECTED,
        items=4,
        sources={TrainingMethod.SFT: ("dropdir/9",), TrainingMethod.DPO: (), TrainingMethod.KTO: ()},
        left_out=(LeftOut(event_id="dropdir/10", reason="it was withdrawn"),),
        starters=starters,
    )
    directory.finish(Step.SELECT, selected)


def test_marks_of_the_exam_stand_in_the_ledger_with_the_reward_of_its_answers(season: Season) -> None:
    report.perform(season.night())
    (exam,) = season.ledger.exams.of_specialty(SHELL, 10)
    assert exam.marks is not None
    assert (exam.marks.candidate.score, exam.marks.candidate.success_rate, exam.marks.candidate.answers) == (80, 1, 4)
    assert (exam.marks.incumbent.score, exam.marks.incumbent.success_rate) == (50, 0)
    assert exam.marks.candidate.tokens_per_s == pytest.approx(10)
    # reward_plain: (80 - 50) / 50 and the bonus of a success; 0 and the malus of a failed check
    assert exam.marks.candidate_reward == pytest.approx(0.6 + 0.3)
    assert exam.marks.incumbent_reward == pytest.approx(-0.5)


def test_an_answer_as_good_as_the_wanted_one_by_a_relative_score_is_rewarded_as_a_success() -> None:
    items, answers = _exam(0.0)
    paper = ExamPaper(
        run_id="r",
        at=NOW,
        items=tuple(items),
        answers=tuple(replace(one, is_relative=one.sitting is Sitting.CANDIDATE) for one in answers),
        peers=Peers(count_of_type=1, mean_count=1.0),
    )
    marks = marked(Hooks.load(plugin_directory=None, tables={}), paper)
    # both have 50 points, which weigh nothing: the bonus of a success, and the malus of a failed check
    assert marks.candidate_reward == pytest.approx(0.3)
    assert marks.incumbent_reward == pytest.approx(-0.5)


def test_a_second_night_tells_of_the_first_and_works_out_what_a_failed_page_left(season: Season) -> None:
    season.night()  # its page was never made
    second = season.night(10.0, incumbent="v1")
    report.perform(second)
    first_exam, second_exam = season.ledger.exams.of_specialty(SHELL, 10)
    assert first_exam.marks is not None
    assert second_exam.marks is not None
    assert "2 were put into use. The best is v2 with 90 points, where the base has 50." in told(second)
    assert "| v2 | yes | +10.0 (+2.0 to +17.0) | 90.0 | 60.0 | 0% |" in told(second)


@pytest.mark.parametrize(
    ("methods", "is_told"),
    [((TrainingMethod.SFT,), False), ((TrainingMethod.SFT, TrainingMethod.DPO), True)],
)
def test_pairs_that_the_model_in_use_was_asked_for_are_told_where_they_were_learned(
    season: Season, methods: tuple[TrainingMethod, ...], is_told: bool
) -> None:
    context = season.night()
    for step in (Step.PREPARE, Step.SELECT, Step.TRAIN):
        context.directory.step(step).mkdir()
    write_lines(context.directory.step(Step.PREPARE) / "events.jsonl", ())
    material = Material(examples=20, better_known=20, pairs=70, liked=0, disliked=0)
    selected = replace(SELECTED, material=material, items=4, sampled=52)
    context.directory.finish(Step.SELECT, selected)
    trained = replace(
        TRAINED, adapter=context.directory.step(Step.TRAIN), methods=methods, base_loss=1.0, trained_loss=0.5
    )
    context.directory.finish(Step.TRAIN, trained)
    words = "70 pairs, of which 52 are among answers that the model in use was asked for"
    assert (words in markdown_of(sheet_of(context))) is is_told


def test_the_report_may_be_taken_again_after_a_kill(season: Season) -> None:
    context = season.night()
    report.perform(context)
    first = page_of(context).read_bytes()
    report.perform(context)
    assert page_of(context).read_bytes() == first


def test_without_matplotlib_the_page_has_words_alone(
    season: Season, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _hide("matplotlib", tmp_path, monkeypatch)
    context = season.night()
    report.perform(context)
    assert not elements(page_of(context).read_text(encoding="utf-8"))("svg")
    assert any("pip install nightschool[train]" in one for one in season.listener.told)
    assert season.ledger.exams.of_specialty(SHELL, 1)[0].marks is not None


def test_a_page_that_fails_costs_the_run_nothing(
    season: Season, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _hide("jinja2", tmp_path, monkeypatch)
    context = season.night()
    report.perform(context)
    assert "Of 100 points, 30 more" in told(context)
    assert context.directory.is_done(Step.REPORT)
    assert not page_of(context).exists()
    assert any("the page could not be made" in one for one in season.listener.told)


def test_a_desk_that_cannot_be_laid_costs_the_run_nothing(season: Season) -> None:
    context = season.night()
    (context.directory.path / "page").write_text("in the way")
    report.perform(context)
    assert "Of 100 points, 30 more" in told(context)
    assert any("the page could not be made" in one for one in season.listener.told)


def _hide(package: str, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let workers find a package that cannot be imported before the real one."""
    broken = directory / "broken" / package
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text(f"raise ImportError('no {package} here')")
    monkeypatch.setenv("PYTHONPATH", f"{directory / 'broken'}:{os.environ.get('PYTHONPATH', '')}")


def test_the_track_record_by_hand_sees_new_kinds_of_prompts(season: Season) -> None:
    season.night()
    season.feedback([f"list the {number} largest files below this directory" for number in range(60)])
    season.feedback([f"join table {number} with the orders of all customers" for number in range(20)], first=100)
    found = track(season.settings, material_of(season.ledger, SHELL), NOW)
    assert found.drift is not None
    assert found.drift.p_value < 0.01
    assert all("join table" in one for one in found.drift.examples)
    assert found.trend is not None
    assert found.base_level == 50


def test_an_embedding_model_that_is_away_costs_the_drift_alone(season: Season) -> None:
    similarity = replace(season.settings.similarity, embedding=EmbeddingSource.OLLAMA)
    season.feedback([f"list {number} files" for number in range(80)])
    found = track(replace(season.settings, similarity=similarity), material_of(season.ledger, SHELL), NOW)
    assert found.drift is None
    assert found.trend is not None
