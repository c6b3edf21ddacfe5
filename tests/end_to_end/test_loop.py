"""The whole loop on a real Ollama with the tiny model: from feedback files to an alias that moved, and back."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import html5lib
import httpx
import pytest

from nightschool_daemon.jobs import (
    TRAJECTORIES,
    ExportResult,
    RunDirectory,
    SelectResult,
    Step,
    VerifyResult,
    Watched,
    read_lines,
)
from nightschool_daemon.ledger import VersionState
from nightschool_hookspecs.records import (
    DeliveryForm,
    LossTrajectory,
    RunEnd,
    Specialty,
    TrainingMethod,
    TrainingResult,
)
from support.night import TINY, TINY_ALIAS, TINY_SETTINGS, TINY_TYPE, Night, greetings, import_tiny, thumbs, wait_until
from support.ollama_server import OllamaServer
from support.pages import elements, text_of


@pytest.fixture
def night(tmp_path: Path, fresh_ollama: OllamaServer, tiny_gguf: Path) -> Night:
    """An installation with the tiny base."""
    import_tiny(fresh_ollama, tiny_gguf)
    return Night(tmp_path / "night", fresh_ollama.url, fresh_ollama.models_directory)


def test_corrections_become_a_better_model_and_undo_restores_the_base(night: Night, fresh_ollama: OllamaServer) -> None:
    base_digest = fresh_ollama.tags()[TINY]
    night.drop(greetings(60))

    done = night.learn()

    assert done.returncode == 0, done.stdout + done.stderr
    report = night.json("report")
    assert isinstance(report, dict)
    assert report["end"] == "promoted"
    assert report["verdict"]["outcome"] == "proven"
    assert report["verdict"]["candidate_mean"] > report["verdict"]["incumbent_mean"] + 30
    tags = fresh_ollama.tags()
    assert tags[TINY_ALIAS] == tags[f"{TINY_ALIAS}.v1"] != base_digest
    assert tags[TINY] == base_digest
    look_at_the_shard(night, fresh_ollama)
    look_at_costs(night, done.stderr.splitlines())
    look_at_the_page(night)
    look_at_events(night)

    undone = night.run("undo", TINY_ALIAS)

    assert undone.returncode == 0, undone.stdout + undone.stderr
    assert fresh_ollama.tags()[TINY_ALIAS] == base_digest
    again = night.run("undo", TINY_ALIAS)
    assert again.returncode != 0
    assert "no promotion" in again.stdout + again.stderr


def look_at_the_shard(night: Night, server: OllamaServer) -> None:
    """Split versions share one."""
    directory = RunDirectory(path=night.run_directories()[0])
    export = directory.result(Step.EXPORT, ExportResult)
    assert export.plan.form is DeliveryForm.SPLIT
    assert all(f"sha256-{file.digest}" in server.blobs() for file in export.files)
    verified = directory.result(Step.VERIFY, VerifyResult)
    assert verified.passed
    assert verified.positions >= 64
    assert verified.held_out.delivered_loss < verified.held_out.base_loss


def look_at_costs(night: Night, told: Sequence[str]) -> None:
    """They are told before they are paid, and what is kept stands in report and ledger."""
    planned = next(number for number, line in enumerate(told) if "train: SFT in passes of" in line)
    costs = next(number for number, line in enumerate(told) if "export: delivered as split:" in line)
    registers = next(number for number, line in enumerate(told) if "give it to Ollama" in line)
    assert planned < costs < registers
    assert "fused would cost" in told[costs]
    assert "Ollama 0.34.3 takes no LoRA adapters." in told[costs]
    directory = RunDirectory(path=night.run_directories()[0])
    export, verified = directory.result(Step.EXPORT, ExportResult), directory.result(Step.VERIFY, VerifyResult)
    assert [one.form for one in export.others] == [DeliveryForm.FUSED]
    report = night.run("report").stdout
    assert "Planned beforehand: passes of" in report
    assert "fused would have cost" in report
    assert f"Loss on {verified.held_out_texts} held-out references: base" in report
    (version,) = night.ledger().versions.in_state(VersionState.PROMOTED)
    assert (version.lesson.held_in, version.lesson.held_out) == (export.held_in, verified.held_out)
    assert version.lesson.served is not None
    assert version.lesson.served.disagreement == verified.disagreement
    watched = Watched.of(directory.result(Step.TRAIN, TrainingResult))
    assert watched is not None
    assert version.lesson.watched == watched
    history = night.run("history").stdout
    assert version.tag in history
    assert str(watched) in history
    assert str(watched) in night.run("history", "--track", version.tag).stdout
    assert f"the one that was taken: {watched.loss:.3f}, of epoch {watched.epoch}" in report
    status = night.json("status")
    assert isinstance(status, dict)
    assert export.held_in is not None
    assert status["specialties"][0]["serving_lesson"]["held_in"]["delivered_loss"] == export.held_in.delivered_loss


def look_at_the_page(night: Night) -> None:
    """The page of the last run is sound, has its plots, and is the one that is written by hand."""
    page = (night.run_directories()[-1] / "report" / "report.html").read_text(encoding="utf-8")
    html5lib.HTMLParser(strict=True).parse(page)
    assert len(elements(page)("svg")) >= 2
    assert not elements(page)("script")
    assert "A better model is in use" in text_of(page)
    assert f"nightschool undo {TINY_ALIAS}" in text_of(page)
    file = night.directory / "page.html"
    assert night.run("report", "--html", str(file)).returncode == 0
    assert file.read_text(encoding="utf-8") == page
    track = night.json("history", "--track", TINY_ALIAS)
    assert isinstance(track, dict)
    assert track["best"] == f"{TINY_ALIAS}.v1"
    assert track["exams"][0]["exam"]["marks"]["candidate"]["score"] > 90
    assert f"The best is {TINY_ALIAS}.v1" in night.run("history", "--track", TINY_ALIAS).stdout
    assert night.run("history", "--track", "nobody").returncode == 1


def look_at_events(night: Night) -> None:
    """Of each piece of feedback it can be told what became of it."""
    selected = RunDirectory(path=night.run_directories()[-1]).result(Step.SELECT, SelectResult)
    learned = night.json("explain", selected.sources[TrainingMethod.SFT][0])
    assert isinstance(learned, dict)
    (of_run,) = learned["nights"]
    assert of_run["fate"].startswith("It was learned from: wanted answers. The selection had it in place ")
    assert of_run["mark"]["weight"] == pytest.approx(max(0.2, of_run["mark"]["priority"]))
    assert of_run["asked"] is None
    assert of_run["kin"]
    assert all(0.5 <= one["alike"] < 1 and one["after"] > one["before"] for one in of_run["kin"])
    items = night.run_directories()[-1] / "select" / "items.jsonl"
    held_out = json.loads(items.read_text(encoding="utf-8").splitlines()[0])["event_id"]
    asked = night.json("explain", held_out.split("/")[-1])
    assert isinstance(asked, dict)
    assert "kept for the exam" in asked["standing"]
    assert asked["nights"][0]["asked"]["after"] > asked["nights"][0]["asked"]["before"]
    said = night.run("explain", held_out)
    assert said.returncode == 0
    assert "not learned from" in " ".join(said.stdout.split())
    unknown = night.run("explain", "nobody")
    assert unknown.returncode == 1
    assert "There is no event nobody." in unknown.stdout + unknown.stderr


def learned_of(night: Night, run: int, beginning: str) -> list[str]:
    """The events that a run learned from whose names begin so."""
    selected = RunDirectory(path=night.run_directories()[run]).result(Step.SELECT, SelectResult)
    return [key for key in selected.sources[TrainingMethod.SFT] if key.startswith(beginning)]


def look_at_what_was_overtaken(night: Night) -> None:
    """It weighs less, on the side that is learned from, and is told on both."""
    learned = learned_of(night, 0, "test/old/")
    assert 0 < len(learned) < 6, "some are held out"
    report = night.run("report").stdout
    assert "What looks wrong in your feedback" in report
    assert "something else was said of the same prompt later" in report
    for number in range(6):
        key = f"test/old/g-{number}"
        told = night.json("explain", key)
        assert isinstance(told, dict)
        (of_run,) = told["nights"]
        assert of_run["noise"]["finding"]["contradicts"] == f"test/g-{number}"
        if key in learned:
            mark = of_run["mark"]
            assert mark["noise_factor"] == pytest.approx(0.4)
            assert mark["weight"] == pytest.approx(0.4 * max(0.2, mark["priority"]))
    assert "Why it looked wrong" in night.run("explain", learned[0]).stdout


def test_second_night_builds_on_fresh_feedback_and_its_undo_leads_to_the_first_version(
    night: Night, fresh_ollama: OllamaServer
) -> None:
    settings = TINY_SETTINGS.replace("[plugins]\n", '[plugins]\nenabled = ["noise_agreement"]\n')
    night.configure(fresh_ollama.url, fresh_ollama.models_directory, settings)
    overtaken = [
        {**one, "id": f"old/{one['id']}", "corrected_output": "zqxj", "timestamp": "2020-01-02T03:04:05Z"}
        for one in greetings(6)
    ]
    by_anna = [{**one, "metadata": {"user": "anna"}} for one in (*overtaken, *greetings(40))]
    night.drop([*by_anna, *greetings(6, answer="good day", first=60)])
    assert night.learn().returncode == 0
    first = fresh_ollama.tags()[f"{TINY_ALIAS}.v1"]
    look_at_what_was_overtaken(night)
    night.drop(greetings(60, answer="good day", first=100))
    night.drop([{**one, "corrected_output": "good day"} for one in greetings(40)])

    done = night.learn()

    assert done.returncode == 0, done.stdout + done.stderr
    tags = fresh_ollama.tags()
    assert tags[TINY_ALIAS] == tags[f"{TINY_ALIAS}.v2"]
    runs = [RunDirectory(path=one) for one in night.run_directories()]
    assert [one.result(Step.TRAIN, TrainingResult).warm_start for one in runs] == [False, True]
    # what was corrected otherwise since is new again, and what weighed less because it looked wrong proves nothing
    known = tuple(read_lines(runs[1].step(Step.PREPARE) / TRAJECTORIES, LossTrajectory))
    learned = [key for number in range(60, 66) for key in learned_of(night, 0, f"test/g-{number}")]
    assert learned
    assert {one.event_id for one in known} == set(learned)
    assert {one.training for one in known} == {runs[0].read_info().id}
    assert night.run("undo", TINY_ALIAS).returncode == 0
    assert fresh_ollama.tags()[TINY_ALIAS] == first


def test_new_ledger_does_not_overwrite_what_an_old_one_made_which_keeps_what_the_base_had(
    night: Night, fresh_ollama: OllamaServer, tiny_gguf: Path
) -> None:
    import_tiny(fresh_ollama, tiny_gguf, system="You greet guests.")
    night.drop(greetings(60))
    assert night.learn().returncode == 0
    look_at_what_the_base_had(fresh_ollama)
    first = fresh_ollama.tags()[f"{TINY_ALIAS}.v1"]
    shutil.rmtree(night.state)

    refused = night.learn()

    assert refused.returncode == 1
    assert f"`ollama rm {TINY_ALIAS}` gives it back" in refused.stdout + refused.stderr
    assert fresh_ollama.tags()[TINY_ALIAS] == first
    httpx.request("DELETE", f"{fresh_ollama.url}/api/delete", json={"model": TINY_ALIAS}).raise_for_status()
    again = night.learn()
    assert again.returncode == 0, again.stdout + again.stderr
    tags = fresh_ollama.tags()
    assert tags[f"{TINY_ALIAS}.v1"] == first
    assert tags[TINY_ALIAS] == tags[f"{TINY_ALIAS}.v2"]


def look_at_what_the_base_had(server: OllamaServer) -> None:
    """A promoted version keeps it."""
    shown = httpx.post(f"{server.url}/api/show", json={"model": TINY_ALIAS}, timeout=30).json()
    assert shown["system"] == "You greet guests."
    assert "<|im_start|>" in shown["template"]
    assert "stop" in shown["parameters"]


def weights_in(directory: RunDirectory) -> set[Path]:
    """Where large files are left."""
    return {one.parent for one in directory.path.rglob("*") if one.suffix in (".safetensors", ".gguf", ".tmp")}


def test_a_version_beyond_the_budget_is_refused_before_anything_is_written(
    night: Night, fresh_ollama: OllamaServer
) -> None:
    text = night.configuration.read_text().replace("[delivery]", "[delivery]\nmax_version_mb = 0.01")
    night.configuration.write_text(text)
    before = fresh_ollama.blobs()
    night.drop(greetings(60))
    done = night.learn()
    assert done.returncode == 1
    assert "A version may cost 0.01 MB (delivery.max_version_mb), which is too little: " in done.stdout
    assert fresh_ollama.blobs() == before
    assert not list(night.run_directories()[0].rglob("*.gguf"))


def test_the_route_by_transformers_and_peft_leads_to_the_same_place(night: Night, fresh_ollama: OllamaServer) -> None:
    """By stages of difficulty too, and without the pairs that would come on top, which it cannot learn."""
    wanted = '[training]\nengine = "transformers"\nmethod = "auto"'
    text = night.configuration.read_text().replace("[training]", wanted)
    text = text.replace("[plugins]", '[plugins]\nenabled = ["curriculum_staged"]')
    night.configuration.write_text(f"{text}\n[plugins.training_dpo]\nfewest_pairs = 2\n")
    night.drop(greetings(60))
    done = night.learn()
    assert done.returncode == 0, done.stdout + done.stderr
    directory = RunDirectory(path=night.run_directories()[0])
    export, verified = directory.result(Step.EXPORT, ExportResult), directory.result(Step.VERIFY, VerifyResult)
    assert export.held_in is not None
    assert export.held_in.kept >= 0.99
    assert verified.passed
    assert verified.held_out.delivered_loss < verified.held_out.base_loss
    assert (directory.step(Step.TRAIN) / "adapter" / "README.md").exists()
    assert "pairs of answers are not: these need the packed engine" in done.stdout + done.stderr
    assert directory.result(Step.TRAIN, TrainingResult).methods == (TrainingMethod.SFT,)
    assert weights_in(directory) == {directory.step(Step.TRAIN) / "adapter"}
    assert TINY_ALIAS in fresh_ollama.tags()
    stages = [one.stage for one in directory.stretches()]
    assert list(dict.fromkeys(stages)) == ["easy", "medium", "hard", "all"]
    assert "Curriculum: `easy` in epoch" in night.run("report").stdout
    easy = directory.stretches()[0].first_seen[0]
    assert "It was first seen in epoch 1, in the stage `easy`." in night.run("explain", easy, "--json").stdout


@pytest.mark.parametrize("form", ["grouped_lora", "neurons"])
def test_other_forms_of_a_lesson_are_delivered_whole(night: Night, form: str) -> None:
    text = night.configuration.read_text().replace("learning_rate = 0.003", f'learning_rate = 0.003\nform = "{form}"')
    night.configuration.write_text(text)
    night.drop(greetings(60))
    done = night.learn()
    assert done.returncode == 0, done.stdout + done.stderr
    directory = RunDirectory(path=night.run_directories()[0])
    export = directory.result(Step.EXPORT, ExportResult)
    assert export.held_in is not None
    assert export.held_in.kept >= 0.99
    assert directory.result(Step.VERIFY, VerifyResult).passed


def test_one_file_is_delivered_where_split_is_switched_off(
    tmp_path: Path, fresh_ollama: OllamaServer, tiny_gguf: Path
) -> None:
    import_tiny(fresh_ollama, tiny_gguf)
    night = Night(tmp_path / "night", fresh_ollama.url, fresh_ollama.models_directory)
    text = night.configuration.read_text().replace("[delivery]", '[delivery]\nform = "fused"')
    night.configuration.write_text(text)
    night.drop(greetings(60))
    assert night.learn().returncode == 0
    directory = RunDirectory(path=night.run_directories()[0])
    export = directory.result(Step.EXPORT, ExportResult)
    assert export.plan.form is DeliveryForm.FUSED
    assert len(export.files) == 1
    assert directory.result(Step.VERIFY, VerifyResult).passed


def test_adapter_is_delivered_where_the_server_takes_it(tmp_path: Path, tiny_gguf: Path) -> None:
    """Ollama 0.34.0 imports a GGUF only with a tool that is not here: its models come from 0.34.3."""
    with OllamaServer("0.34.3", directory=tmp_path / "ollama") as server:
        import_tiny(server, tiny_gguf)
    with OllamaServer("0.34.0", directory=tmp_path / "ollama") as server:
        night = Night(tmp_path / "night", server.url, server.models_directory)
        night.drop([*greetings(40), *thumbs(20, first=100)])
        done = night.learn()
        assert done.returncode == 0, done.stdout + done.stderr
        directory = RunDirectory(path=night.run_directories()[0])
        assert directory.result(Step.EXPORT, ExportResult).plan.form is DeliveryForm.ADAPTER
        pairs = directory.ranked_pairs()
        assert pairs
        assert all(one.candidate > one.incumbent for one in pairs), "what the adapter adds is computed"
        verified = directory.result(Step.VERIFY, VerifyResult)
        assert verified.passed, verified
        assert server.tags()[TINY_ALIAS] == server.tags()[f"{TINY_ALIAS}.v1"]


def test_candidate_that_is_not_better_leaves_nothing_behind(night: Night, fresh_ollama: OllamaServer) -> None:
    """It is trained, served, verified and examined, and the exam sees no difference."""
    night.add_plugin(
        "all_the_same",
        """
from nightschool_hookspecs import AnswerScore, ExamItem, hookimpl

@hookimpl
def nightschool_validate_answer(item: ExamItem, answer: str) -> AnswerScore:
    return AnswerScore(score=50.0, validator="all_the_same")
""",
    )
    before = set(fresh_ollama.tags())
    night.drop(greetings(60))

    done = night.learn()

    assert done.returncode == 4, done.stdout + done.stderr
    report = night.json("report")
    assert isinstance(report, dict)
    assert report["end"] == "not_enough_to_tell"
    assert report["verdict"]["items"] == 20
    left = set(fresh_ollama.tags()) - before
    assert all(".base-" in name for name in left), left
    (version,) = night.ledger().versions.in_state(VersionState.DISCARDED)
    assert f"sha256-{version.files[0].digest}" not in fresh_ollama.blobs()


def test_lesson_too_small_to_be_seen_is_not_served(night: Night, fresh_ollama: OllamaServer) -> None:
    text = night.configuration.read_text().replace("learning_rate = 0.003", "learning_rate = 0.0000001")
    night.configuration.write_text(text)
    night.drop(greetings(40))
    assert night.learn().returncode in (1, 4)
    assert TINY_ALIAS not in fresh_ollama.tags()
    assert not night.ledger().versions.in_state(VersionState.CANDIDATE)


def test_too_few_prompts_for_an_exam_end_before_the_training(night: Night) -> None:
    night.drop(greetings(9))
    done = night.learn()
    assert done.returncode == 4
    assert "more corrections" in done.stdout
    assert night.ledger().runs.latest(1)[0].end is RunEnd.NOT_ENOUGH
    assert not (night.run_directories()[0] / "train").exists()
    assert (
        night.ledger().events.statistics(Specialty(base=TINY, artifact_type="greeting"), with_unassigned=True).available
    )


def test_liked_and_disliked_answers_alone_promote_nothing(night: Night, fresh_ollama: OllamaServer) -> None:
    events = [
        {
            "id": f"t-{number}",
            "artifact_type": "greeting",
            "model": TINY,
            "input_data": f"greet guest {number}",
            "ai_output": "hello",
            "feedback_type": "explicit_negative",
        }
        for number in range(30)
    ]
    night.drop(events)
    night.run("run", "--now", TINY_ALIAS)
    ledger = night.ledger()
    assert [row.end for row in ledger.runs.latest(1)] == [RunEnd.NOT_ENOUGH]
    assert TINY_ALIAS not in fresh_ollama.tags()


def test_feedback_that_got_worse_takes_a_promotion_back_and_the_report_says_why(
    night: Night, fresh_ollama: OllamaServer
) -> None:
    base_digest = fresh_ollama.tags()[TINY]
    text = night.configuration.read_text().replace("[training]", '[training]\nmethod = "auto"')
    night.configuration.write_text(f"{text}\n[plugins.training_dpo]\nfewest_pairs = 2\n")
    night.drop(greetings(60))
    done = night.learn()
    assert done.returncode == 0, done.stdout + done.stderr
    look_at_the_adapter_of_two_trainings(night)
    assert fresh_ollama.tags()[TINY_ALIAS] != base_digest
    used = {"artifact_type": TINY_TYPE, "source": "chat", "ai_output": "a whole and sound answer"}
    liked = {"model": TINY, "feedback_type": "explicit_positive", "timestamp": "2026-01-02T03:04:05Z"}
    disliked = {"model": TINY_ALIAS, "feedback_type": "explicit_negative"}
    night.drop([{**used, **liked, "id": f"l-{one}", "input_data": f"liked {one}"} for one in range(12)])
    night.drop([{**used, **disliked, "id": f"d-{one}", "input_data": f"disliked {one}"} for one in range(12)])
    daemon = night.start("serve")
    wait_until(lambda: night.ledger().runs.latest(1)[0].end is RunEnd.ROLLED_BACK)
    track = night.json("history", "--track", TINY_ALIAS)
    daemon.terminate()
    daemon.communicate(timeout=60)
    assert fresh_ollama.tags()[TINY_ALIAS] == base_digest
    page = night.run("report").stdout
    assert page.startswith("# The previous model is in use again")
    assert "## Since then" in page
    assert "Of 12 pairs that differ 12 are against" in page
    file = night.directory / "page.html"
    assert night.run("report", "--html", str(file)).returncode == 0
    assert "The previous model is in use again" in text_of(file.read_text(encoding="utf-8"))
    assert "Of 12 pairs that differ 12 are against" in text_of(file.read_text(encoding="utf-8"))
    assert isinstance(track, dict)
    assert (track["exams"][0]["exam"]["taken_back"], track["best"]) == (True, None)
    assert track["trend"]["after"] > track["trend"]["before"]


def look_at_the_adapter_of_two_trainings(night: Night) -> None:
    """The last one's alone is left: the first one's, the best epochs and checkpoints are as large."""
    directory = RunDirectory(path=night.run_directories()[0])
    assert directory.result(Step.TRAIN, TrainingResult).methods == (TrainingMethod.SFT, TrainingMethod.DPO)
    assert weights_in(directory) == {directory.step(Step.TRAIN) / "adapter"}


def test_thumbs_alone_prove_a_better_model(night: Night, fresh_ollama: OllamaServer) -> None:
    """No answer was ever corrected: which of two is better is all that is known."""
    night.drop(thumbs(40))

    done = night.learn()

    assert done.returncode == 0, done.stdout + done.stderr
    report = night.json("report")
    assert isinstance(report, dict)
    assert report["end"] == "promoted", report
    (run,) = night.ledger().runs.latest(1)
    ranked = RunDirectory(path=run.directory).ranked_pairs()
    assert len(ranked) >= 6
    assert sum(one.candidate for one in ranked) > sum(one.incumbent for one in ranked)
    assert report["verdict"]["items"] == len(ranked)
    said = " ".join(night.run("report").stdout.split())
    assert f"were compared by {len(ranked)} pairs of answers of which one is better" in said
    assert "more than before; the truth lies" in said, "of pairs the change alone is known"
    assert "Score before" not in said
