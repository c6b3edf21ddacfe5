"""Runs, versions, moves, exams and the small tables."""

import sqlite3
import stat
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from nightschool_daemon.comparisons import Marks
from nightschool_daemon.jobs import Losses, Step, Watched
from nightschool_daemon.ledger import (
    Agreement,
    DeliveredFileRow,
    KeptLesson,
    Ledger,
    LedgerError,
    MoveRow,
    MoveState,
    RunRow,
    StepState,
    VersionRow,
    VersionState,
)
from nightschool_daemon.ledger.migrations import MIGRATIONS
from nightschool_daemon.reporting.records import ExamMarks
from nightschool_hookspecs import (
    CountedItem,
    DeliveryForm,
    Evidence,
    ExamAnswer,
    ExamItem,
    InstalledModel,
    ItemRole,
    MoveKind,
    Outcome,
    RunEnd,
    Sitting,
    Specialty,
    Verdict,
)
from support.run_rows import RUN_ROW

NOW = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)
SHELL = Specialty(base="tiny:1b", artifact_type="shell")
ERD = Specialty(base="tiny:1b", artifact_type="erd")


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger.open(tmp_path / "state" / "ledger.sqlite3")
    yield opened
    opened.close()


def run_row(identifier: str, specialty: Specialty = SHELL, started_at: datetime = NOW) -> RunRow:
    directory = Path("/runs") / identifier
    return replace(RUN_ROW, id=identifier, specialty=specialty, started_at=started_at, directory=directory)


def version_row(number: int, digest: str = "d" * 64, state: VersionState = VersionState.CANDIDATE) -> VersionRow:
    return VersionRow(
        tag=f"tiny-nightschool:1b.shell.v{number}",
        specialty=SHELL,
        number=number,
        run_id="r",
        form=DeliveryForm.FUSED,
        tag_digest=digest,
        weights_digest="",
        base_tag_digest="b",
        base_weights_digest="w",
        state=state,
        created_at=NOW,
        files=(DeliveredFileRow(name="model.gguf", path=Path("/runs/r/model.gguf"), digest="f" * 64, bytes=5),),
    )


def move_row(to_digest: str, alias: str = "tiny-nightschool:1b.shell") -> MoveRow:
    return MoveRow(
        id=0,
        kind=MoveKind.PROMOTE,
        alias=alias,
        from_digest=None,
        to_digest=to_digest,
        from_tag=None,
        to_tag="t",
        reason="better",
        run_id=None,
        intended_at=NOW,
        done_at=None,
        state=MoveState.INTENDED,
    )


LESSON = KeptLesson(
    held_in=Losses(base_loss=3.0, trained_loss=1.0, delivered_loss=1.1),
    held_out=Losses(base_loss=3.5, trained_loss=2.0, delivered_loss=2.0),
    served=Agreement(disagreement=0.01, noise=0.02, live=0.5, pairs=700),
    watched=Watched(loss=0.25, epoch=3, epochs=5, is_apart=True),
)


def test_what_is_left_of_a_lesson_stands_with_its_version(ledger: Ledger) -> None:
    row = version_row(1)
    ledger.versions.add(row)
    found = ledger.versions.get(row.tag)
    assert found is not None
    assert found.lesson == KeptLesson()
    assert found.lesson.sentence() == ""
    ledger.versions.set_lesson(row.tag, LESSON)
    found = ledger.versions.get(row.tag)
    assert found is not None
    assert found.lesson == LESSON
    assert found.lesson.sentence() == "95.0% kept, held-out loss 3.500 to 2.000"


def test_the_latest_versions_come_first(ledger: Ledger) -> None:
    for number in (1, 2, 3):
        ledger.versions.add(replace(version_row(number), created_at=NOW + timedelta(days=number)))
    assert [one.number for one in ledger.versions.latest(2)] == [3, 2]


def test_versions_of_an_older_ledger_are_kept(tmp_path: Path) -> None:
    file = tmp_path / "ledger.sqlite3"
    connection = sqlite3.connect(file)
    connection.executescript(f"{MIGRATIONS[0]}; PRAGMA user_version = 1;")
    values = ("t", "b", "shell", 1, "r", "fused", "d", "", "", "", "promoted", NOW.isoformat(), "[]")
    with connection:
        connection.execute(f"INSERT INTO versions VALUES ({', '.join('?' * 13)})", values)
    connection.close()
    opened = Ledger.open(file)
    found = opened.versions.get("t")
    opened.close()
    assert found is not None
    assert (found.state, found.lesson) == (VersionState.PROMOTED, KeptLesson())


def test_a_run_reads_back_as_it_was_written(ledger: Ledger) -> None:
    ledger.runs.create(run_row("r"))
    assert ledger.runs.get("r") == run_row("r")
    assert ledger.runs.get("unknown") is None
    assert [one.id for one in ledger.runs.unfinished()] == ["r"]
    ledger.runs.finish("r", RunEnd.PROMOTED, "it is better", LATER)
    found = ledger.runs.get("r")
    assert found is not None
    assert (found.end, found.outcome_reason, found.finished_at) == (RunEnd.PROMOTED, "it is better", LATER)
    assert ledger.runs.unfinished() == ()


def test_latest_runs_of_one_specialty_or_all(ledger: Ledger) -> None:
    for number, specialty in enumerate((SHELL, ERD, SHELL)):
        ledger.runs.create(run_row(str(number), specialty, NOW + timedelta(minutes=number)))
    assert [one.id for one in ledger.runs.latest(2)] == ["2", "1"]
    assert [one.id for one in ledger.runs.latest(9, SHELL)] == ["2", "0"]


def test_of_runs_that_began_in_one_second_the_later_one_is_newer(ledger: Ledger) -> None:
    for identifier in ("b", "c", "a"):
        ledger.runs.create(run_row(identifier))
    assert [one.id for one in ledger.runs.latest(9)] == ["a", "c", "b"]


def test_a_step_that_begins_again_counts_its_attempts_and_forgets_its_failure(ledger: Ledger) -> None:
    ledger.runs.create(run_row("r"))
    ledger.runs.begin_step("r", Step.TRAIN, "in", NOW)
    ledger.runs.fail_step("r", Step.TRAIN, "out of memory", NOW)
    assert ledger.runs.steps("r")[0].state is StepState.FAILED
    ledger.runs.begin_step("r", Step.TRAIN, "in", LATER)
    step = ledger.runs.steps("r")[0]
    assert (step.state, step.attempt, step.reason, step.finished_at) == (StepState.RUNNING, 2, "", None)
    ledger.runs.finish_step("r", Step.TRAIN, "out", LATER)
    assert ledger.runs.steps("r")[0].output_digest == "out"


def test_steps_stand_in_their_order(ledger: Ledger) -> None:
    ledger.runs.create(run_row("r"))
    for step in reversed(Step):
        ledger.runs.begin_step("r", step, "in", NOW)
    assert [one.step for one in ledger.runs.steps("r")] == list(Step)


def test_a_number_is_never_used_twice(ledger: Ledger) -> None:
    assert ledger.versions.next_number(SHELL) == 1
    ledger.versions.add(version_row(1))
    ledger.versions.set_state(version_row(1).tag, VersionState.DISCARDED)
    assert ledger.versions.next_number(SHELL) == 2
    assert ledger.versions.next_number(ERD) == 1
    with pytest.raises(LedgerError):
        ledger.versions.add(version_row(1))
    assert len(ledger.versions.of_specialty(SHELL)) == 1


def test_a_version_reads_back_and_takes_its_digests(ledger: Ledger) -> None:
    ledger.versions.add(version_row(1, digest=""))
    assert ledger.versions.get(version_row(1).tag) == version_row(1, digest="")
    assert ledger.versions.by_digest("") is None
    ledger.versions.set_digests(version_row(1).tag, "t" * 64, "w" * 64)
    found = ledger.versions.by_digest("t" * 64)
    assert found is not None
    assert found.weights_digest == "w" * 64


def test_versions_stand_newest_first(ledger: Ledger) -> None:
    for number in (1, 2, 10):
        ledger.versions.add(version_row(number))
    assert [one.number for one in ledger.versions.of_specialty(SHELL)] == [10, 2, 1]
    assert len(ledger.versions.in_state(VersionState.CANDIDATE)) == 3


def test_a_move_is_an_intent_until_it_is_done(ledger: Ledger) -> None:
    first = ledger.moves.intend(move_row("1"))
    second = ledger.moves.intend(move_row("2"))
    third = ledger.moves.intend(move_row("3", alias="another"))
    assert [one.id for one in ledger.moves.unfinished()] == [first, second, third]
    ledger.moves.done(first, LATER)
    ledger.moves.abandon(second, LATER, "the tag was re-pointed")
    alias = move_row("1").alias
    last = ledger.moves.last_done(alias)
    assert last is not None
    assert (last.id, last.done_at, last.state) == (first, LATER, MoveState.DONE)
    newest, oldest = ledger.moves.history(alias, 5)
    assert (newest.state, oldest.id) == (MoveState.ABANDONED, first)
    assert newest.reason.startswith("better (given up at 2026-01-02T04:04:00+00:00: the tag was re-pointed")
    assert [one.id for one in ledger.moves.unfinished()] == [third]


def test_an_exam_stored_twice_is_there_once(ledger: Ledger) -> None:
    ledger.runs.create(run_row("r"))
    item = ExamItem(id="i", event_id="dropdir/1", artifact_type="shell", messages=(), role=ItemRole.GAIN)
    answer = ExamAnswer(
        item_id="i",
        sitting=Sitting.CANDIDATE,
        model="m",
        text="ls",
        score=100.0,
        detail="",
        failed=False,
        latency_s=1.0,
        tokens=2,
        done_reason="stop",
    )
    for _ in range(2):
        ledger.exams.store("r", [item], [answer])
    assert (ledger.exams.items("r"), ledger.exams.answers("r")) == ((item,), (answer,))
    assert ledger.exams.verdict("r") is None
    with pytest.raises(LedgerError):
        ledger.exams.store("unknown run", [item], [])


def test_strikes_count_a_content_apart(ledger: Ledger) -> None:
    assert [ledger.plugins.strike("mine", "v1", "raised", NOW) for _ in range(3)] == [1, 2, 3]
    assert [one.name for one in ledger.plugins.disabled(at_least=3)] == ["mine"]
    assert ledger.plugins.strikes("mine", "v2") == 0


def test_stores_and_facts_are_key_value_spaces(ledger: Ledger) -> None:
    ledger.plugins.store_put("mine", "key", "1")
    ledger.plugins.store_put("mine", "key", "2")
    ledger.plugins.store_put("yours", "key", "3")
    assert ledger.plugins.store("mine") == {"key": "2"}
    ledger.plugins.store_delete("mine", "key")
    assert (ledger.plugins.store("mine"), ledger.plugins.store("yours")) == ({}, {"key": "3"})
    ledger.facts.put("paused", "yes")
    assert ledger.facts.get("paused") == "yes"
    ledger.facts.delete("paused")
    assert ledger.facts.get("paused") is None


def test_bases_are_remembered_and_forgotten(ledger: Ledger) -> None:
    model = InstalledModel(name="tiny:1b", digest="d", weights_digest="w", architecture="llama")
    ledger.bases.put(model, NOW)
    assert ledger.bases.known() == {"tiny:1b": model}
    ledger.bases.forget("tiny:1b")
    assert ledger.bases.known() == {}


def test_only_its_owner_reads_the_ledger(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite3"
    Ledger.open(path).facts.put("a", "b")
    for file in tmp_path.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file


def test_it_opens_again_and_by_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first = Ledger.open(Path("ledger.sqlite3"))
    first.facts.put("a", "b")
    first.close()
    second = Ledger.open(Path("ledger.sqlite3"))
    assert second.facts.get("a") == "b"
    second.close()


def test_a_newer_schema_is_refused_by_both_ways_in(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite3"
    Ledger.open(path).close()
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    connection.close()
    for way in (Ledger.open, Ledger.open_read_only):
        with pytest.raises(LedgerError, match="newer Night School"):
            way(path)


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite3"
    path.write_bytes(b"my diary, not a database" * 100)
    with pytest.raises(LedgerError, match="cannot be opened"):
        Ledger.open(path)
    assert path.read_bytes() == b"my diary, not a database" * 100


def test_the_read_only_way_in_reads_beside_a_writer_and_never_writes(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite3"
    with pytest.raises(LedgerError, match="does not exist yet"):
        Ledger.open_read_only(path)
    assert not path.exists()
    writer = Ledger.open(path)
    reader = Ledger.open_read_only(path)
    writer.facts.put("a", "b")
    assert reader.facts.get("a") == "b"
    with pytest.raises(LedgerError, match="readonly"):
        reader.facts.put("a", "c")
    assert writer.facts.get("a") == "b"
    reader.close()
    writer.close()


# --------------------------------------------------------------------------- evidence


def counted(**gains: float) -> tuple[CountedItem, ...]:
    return tuple(CountedItem(key=key, gain=gain) for key, gain in gains.items())


def show(ledger: Ledger, run: int, incumbent: str, log_e_value: float, asked: str, **gains: float) -> None:
    ledger.runs.create(run_row(str(run), started_at=NOW + timedelta(days=run)))
    ledger.evidence.store(
        str(run), SHELL, incumbent, log_e_value=log_e_value, asked=list(asked), counted=counted(**gains)
    )


def test_evidence_is_kept_over_the_nights_in_their_order(ledger: Ledger) -> None:
    assert ledger.evidence.so_far(SHELL, "base") == Evidence()
    show(ledger, 2, "base", 1.5, "cad", c=5.0)
    show(ledger, 1, "base", 1.0, "ab", a=10.0, b=-2.5)
    known = ledger.evidence.so_far(SHELL, "base")
    assert known == Evidence(log_e_value=1.5, counted=counted(a=10.0, b=-2.5, c=5.0), used=("a", "b", "c", "d"))
    assert ledger.evidence.so_far(SHELL, "another") == Evidence()
    assert ledger.evidence.so_far(ERD, "base") == Evidence()


def test_evidence_stored_twice_is_there_once(ledger: Ledger) -> None:
    show(ledger, 1, "base", 1.0, "ab", a=10.0)
    ledger.evidence.store("1", SHELL, "base", log_e_value=2.0, asked=["b"], counted=counted(b=3.0))
    known = ledger.evidence.so_far(SHELL, "base")
    assert known == Evidence(log_e_value=2.0, counted=counted(b=3.0), used=("b",))


def test_a_promotion_ends_the_evidence_and_an_undo_does_not_make_items_new(ledger: Ledger) -> None:
    show(ledger, 1, "base", 4.0, "ab", a=10.0, b=20.0)
    ledger.evidence.settle(SHELL)
    assert ledger.evidence.so_far(SHELL, "version 1") == Evidence()
    assert ledger.evidence.so_far(SHELL, "base") == Evidence(used=("a", "b"))
    show(ledger, 2, "base", 0.5, "ac", c=7.0)
    known = ledger.evidence.so_far(SHELL, "base")
    assert known == Evidence(log_e_value=0.5, counted=counted(c=7.0), used=("a", "b", "c"))


def test_a_ledger_of_the_first_schema_gains_what_came_later(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite3"
    connection = sqlite3.connect(path)
    connection.executescript(f"{MIGRATIONS[0]}; PRAGMA user_version = 1")
    connection.close()
    ledger = Ledger.open(path)
    show(ledger, 1, "base", 1.0, "a", a=1.0)
    assert ledger.evidence.so_far(SHELL, "base").used == ("a",)
    ledger.close()


# --------------------------------------------------------------------------- exams over nights


def verdict(gain: float) -> Verdict:
    return Verdict(
        outcome=Outcome.PROVEN,
        incumbent_mean=50.0,
        candidate_mean=50.0 + gain,
        gain=gain,
        interval=(gain - 5, gain + 5),
        p_value=0.01,
        noise=0.0,
        items=12,
        items_needed=None,
        guards=(),
        reason="",
    )


def judged(ledger: Ledger, number: int, specialty: Specialty = SHELL) -> str:
    """A run whose exam was judged. Returns its id."""
    row = run_row(f"r{number}", specialty, started_at=NOW + timedelta(days=number))
    ledger.runs.create(row)
    ledger.exams.store_verdict(row.id, verdict(float(number)))
    ledger.evidence.store(row.id, specialty, "the incumbent", log_e_value=0.0, asked=[], counted=[])
    return row.id


def test_exams_of_a_specialty_come_oldest_first_and_of_many_the_newest(ledger: Ledger) -> None:
    for number in (3, 1, 2):
        judged(ledger, number)
    judged(ledger, 4, ERD)
    ledger.runs.create(run_row("was not judged", started_at=NOW + timedelta(days=9)))
    assert [one.gain for one in ledger.exams.of_specialty(SHELL, 10)] == [1.0, 2.0, 3.0]
    assert [one.run_id for one in ledger.exams.of_specialty(SHELL, 2)] == ["r2", "r3"]
    (only,) = ledger.exams.of_specialty(ERD, 10)
    assert (only.incumbent, only.version, only.questions, only.interval) == ("the incumbent", "r4", 12, (-1.0, 9.0))
    assert (only.promoted, only.taken_back, only.marks) == (False, False, None)


def test_an_exam_knows_what_became_of_its_version(ledger: Ledger) -> None:
    states = (VersionState.PROMOTED, VersionState.RETIRED, VersionState.DISCARDED)
    for number, state in enumerate(states, start=1):
        ledger.versions.add(replace(version_row(number, state=state), run_id=judged(ledger, number)))
    move = replace(move_row("d" * 64), kind=MoveKind.ROLL_BACK, from_tag=version_row(2).tag)
    identifier = ledger.moves.intend(move)
    assert not any(one.taken_back for one in ledger.exams.of_specialty(SHELL, 10))
    ledger.moves.done(identifier, LATER)
    found = ledger.exams.of_specialty(SHELL, 10)
    assert [one.version for one in found] == [version_row(number).tag for number in (1, 2, 3)]
    assert {one.watched for one in found} == {None}
    ledger.versions.set_lesson(version_row(2).tag, LESSON)
    assert [one.watched for one in ledger.exams.of_specialty(SHELL, 10)] == [None, LESSON.watched, None]
    assert [one.promoted for one in found] == [True, True, False]
    assert [one.taken_back for one in found] == [False, True, False]


def test_marks_are_kept_and_may_be_worked_out_anew(ledger: Ledger) -> None:
    marks = Marks(
        score=80.0,
        success_rate=0.5,
        answers=12,
        failed=0,
        latency_mean_s=1.0,
        latency_median_s=1.0,
        latency_p95_s=2.0,
        tokens_per_s=30.0,
    )
    run_id = judged(ledger, 1)
    first = ExamMarks(run_id=run_id, incumbent=marks, candidate=marks, incumbent_reward=None, candidate_reward=0.4)
    ledger.exams.store_marks([first])
    ledger.exams.store_marks([replace(first, candidate_reward=0.5)])
    (found,) = ledger.exams.of_specialty(SHELL, 1)
    assert found.marks == replace(first, candidate_reward=0.5)


# --------------------------------------------------------------------------- what was learned


def learned(event_id: str, reference: str, role: ItemRole = ItemRole.LEARNED) -> ExamItem:
    return ExamItem(
        id=f"{role}/{event_id}/{reference}",
        event_id=event_id,
        artifact_type="shell",
        role=role,
        messages=(),
        reference=reference,
    )


def answered(item: ExamItem, sitting: Sitting, score: float, *, failed: bool = False) -> ExamAnswer:
    return ExamAnswer(
        item_id=item.id,
        sitting=sitting,
        model="m",
        text="",
        score=score,
        detail="",
        failed=failed,
        latency_s=1.0,
        tokens=1,
        done_reason="stop",
    )


def examined(ledger: Ledger, number: int, incumbent: str, *answers: tuple[ExamItem, float, float]) -> str:
    """A night's exam, each item with the incumbent's score and the candidate's. Returns the candidate's tag."""
    row = run_row(f"r{number}", started_at=NOW + timedelta(days=number))
    ledger.runs.create(row)
    version = replace(version_row(number), run_id=row.id)
    ledger.versions.add(version)
    ledger.evidence.store(row.id, SHELL, incumbent, log_e_value=0.0, asked=(), counted=())
    sat = [answered(item, Sitting.INCUMBENT, before) for item, before, _ in answers]
    sat += [answered(item, Sitting.CANDIDATE, after) for item, _, after in answers]
    ledger.exams.store(row.id, [item for item, _, _ in answers], sat)
    return version.tag


def test_the_first_score_is_that_of_the_first_version_in_the_line_that_had_learned_a_correction(ledger: Ledger) -> None:
    a, b, lesson = learned("a", "ls"), learned("b", "cd"), learned("a", "ls", ItemRole.LESSON)
    first = examined(ledger, 1, "base", (lesson, 5.0, 90.0))
    beside = examined(ledger, 2, first, (a, 80.0, 70.0), (b, 60.0, 50.0))
    second = examined(ledger, 3, first, (a, 30.0, 20.0), (b, 31.0, 21.0), (learned("a", "ls -l"), 11.0, 12.0))
    found = {(one.event_id, one.reference): one.score for one in ledger.exams.first_scores((second, first))}
    # what the base could do before the lesson says nothing, nor does a candidate that was not taken
    assert found == {("a", "ls"): 90.0, ("b", "cd"): 60.0, ("a", "ls -l"): 11.0}
    assert {one.event_id: one.score for one in ledger.exams.first_scores((beside,))} == {"a": 70.0, "b": 50.0}
    assert ledger.exams.first_scores(()) == ()


def test_a_first_score_is_relative_where_its_answer_has_one(ledger: Ledger) -> None:
    version = examined(ledger, 1, "base")
    items = [learned("a", "ls"), learned("b", "cd")]
    by_judge = replace(answered(items[0], Sitting.CANDIDATE, 50.0), is_relative=True)
    ledger.exams.store("r1", items, [by_judge, answered(items[1], Sitting.CANDIDATE, 50.0)])
    assert {one.event_id: one.is_relative for one in ledger.exams.first_scores((version,))} == {"a": True, "b": False}


def test_what_a_server_failed_is_no_first_score(ledger: Ledger) -> None:
    version = examined(ledger, 1, "base")
    item = learned("a", "ls")
    ledger.exams.store("r1", [item], [answered(item, Sitting.CANDIDATE, 0.0, failed=True)])
    assert ledger.exams.first_scores((version,)) == ()
