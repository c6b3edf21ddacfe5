"""The daemon and the command line together: everything goes through the control socket while it serves."""

import json
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from nightschool_daemon.config import OllamaSettings
from nightschool_daemon.jobs import RunDirectory, Wording
from nightschool_daemon.ledger import FILE_NAME, Ledger
from nightschool_daemon.ollama import names
from nightschool_daemon.ollama.http import OllamaHttp
from nightschool_hookspecs.records import RunEnd, Specialty, TrainingMethod
from support.night import TINY, TINY_ALIAS, TINY_SETTINGS, Night, greetings, import_tiny, wait_until
from support.ollama_server import OllamaServer


@pytest.fixture
def night(tmp_path: Path, fresh_ollama: OllamaServer, tiny_gguf: Path) -> Night:
    """An installation with the tiny base."""
    import_tiny(fresh_ollama, tiny_gguf)
    return Night(tmp_path / "night", fresh_ollama.url, fresh_ollama.models_directory)


@pytest.fixture
def daemon(night: Night) -> Iterator["subprocess.Popen[str]"]:
    """The running daemon."""
    process = night.start("serve")
    wait_until((night.directory / "run" / "control.sock").exists, 30)
    yield process
    process.terminate()
    assert process.wait(60) == 0


def specialty(night: Night) -> dict[str, object]:
    """The one specialty as `status` tells it."""
    status = night.json("status")
    assert isinstance(status, dict)
    assert status["daemon"] == "running"
    found = status["specialties"][0]
    assert isinstance(found, dict)
    return found


def test_run_status_undo_and_history_go_through_the_daemon(
    night: Night, daemon: "subprocess.Popen[str]", fresh_ollama: OllamaServer
) -> None:
    night.drop(greetings(60))
    wait_until(lambda: night.ledger().events.total() == 60, 30)
    assert specialty(night)["fresh"] == 60

    done = night.learn()

    assert done.returncode == 0, done.stdout + done.stderr
    assert "examine" in done.stderr
    assert specialty(night)["serving"] == f"{TINY_ALIAS}.v1"
    report = night.json("report")
    assert isinstance(report, dict)
    assert report["end"] == "promoted"
    assert "# A better model is in use" in done.stdout
    assert "A better model is in use" in night.run("report", report["run"]["id"]).stdout
    assert night.run("report", "nowhere").returncode == 1
    assert "training_sft" in night.run("plugins").stdout
    assert night.learn().returncode == 4
    assert night.run("undo", TINY_ALIAS).returncode == 0
    assert fresh_ollama.tags()[TINY_ALIAS] == fresh_ollama.tags()[TINY]
    history = night.json("history")
    assert isinstance(history, dict)
    assert [one["kind"] for one in history["moves"]] == ["undo", "promote"]


def test_cancelled_run_leaves_nothing_behind(
    night: Night, daemon: "subprocess.Popen[str]", fresh_ollama: OllamaServer
) -> None:
    night.drop(greetings(60))
    running = night.start("run", "--now")
    wait_until(lambda: bool(night.ledger().runs.unfinished()), 60)
    assert "ends" in night.run("cancel").stdout
    assert running.wait(120) == 1
    assert night.ledger().runs.latest(1)[0].end is RunEnd.CANCELLED
    assert {name for name in fresh_ollama.tags() if ".base-" not in name} == {TINY}
    assert night.run("cancel").stdout.startswith("No run")


def test_pause_and_resume_are_seen_in_status(night: Night, daemon: "subprocess.Popen[str]") -> None:
    assert night.run("pause").returncode == 0
    paused = night.json("status")
    assert isinstance(paused, dict)
    assert paused["paused"] is True
    assert night.run("resume").returncode == 0
    resumed = night.json("status")
    assert isinstance(resumed, dict)
    assert resumed["paused"] is False


def test_a_secret_that_is_lost_is_told_by_status_and_at_the_start_of_a_run(night: Night) -> None:
    with closing(Ledger.open(night.state / FILE_NAME)) as ledger:
        learned = Wording(event_id="dropdir/gone", group="g", text="greet guest 7", method=TrainingMethod.SFT)
        ledger.events.remember(Specialty(base=TINY, artifact_type="greeting"), [learned], [], "v1")
    told = f"{night.state / 'secret'} is gone, by which withdrawn prompts are known again (1 of them)"
    assert told not in night.run("status").stdout
    (night.state / "secret").unlink()
    status = night.json("status")
    assert isinstance(status, dict)
    (problem,) = status["problems"]
    assert problem.startswith(told)
    assert told in night.learn().stderr


def test_second_daemon_is_refused_and_told_of_the_first(night: Night, daemon: "subprocess.Popen[str]") -> None:
    second = night.run("serve")
    assert second.returncode == 5
    assert str(daemon.pid) in second.stderr


def test_training_by_hand_makes_a_model_and_nothing_else(night: Night, fresh_ollama: OllamaServer) -> None:
    before = set(fresh_ollama.tags())
    data = night.drop(greetings(40)).rename(night.directory / "data.jsonl")
    done = night.run("train", TINY, "--data", str(data), "--name", "polite")
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(fresh_ollama.tags()) == before | {"polite:latest"}
    assert "loss by SFT" in done.stdout
    assert "What is left of the lesson" in done.stdout
    assert "delivered as split: " in done.stderr
    # of 40 corrections four tell when to stop
    assert "Learned from 36 of the 40 records in data.jsonl." in done.stdout
    again = night.run("train", TINY, "--data", str(data), "--name", "polite")
    assert again.returncode == 1
    assert "polite:latest" in again.stderr


def test_five_corrections_are_learned_and_compared_at_as_many_places_as_they_have(
    night: Night, fresh_ollama: OllamaServer
) -> None:
    data = night.drop(greetings(5)).rename(night.directory / "data.jsonl")
    done = night.run("train", TINY, "--data", str(data), "--name", "polite")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Learned from 5 of the 5 records in data.jsonl." in done.stdout
    assert "verify: The served model is live and equals the trained network, at the 25 places that could" in done.stderr


def test_training_by_hand_learns_all_that_a_night_would_not_and_says_what_it_left_out(
    night: Night, fresh_ollama: OllamaServer
) -> None:
    scarce = "threads = 1\nmax_events = 10\nmax_tokens = 200\ntime_limit_minutes = 0.005\n"
    frugal = TINY_SETTINGS.replace("threads = 1\n", scarce).replace(
        'embedding = "static"\n', 'embedding = "static"\nmax_near_duplicates = 1\n'
    )
    night.configure(fresh_ollama.url, fresh_ollama.models_directory, frugal)
    again = {**greetings(1)[0], "id": "again"}
    long = {**greetings(1)[0], "id": "long", "input_data": "greet " + "a very dear " * 200 + "guest"}
    data = night.directory / "data.json"
    data.write_text(json.dumps([*greetings(118), again, long, {"input_data": "no event"}]), encoding="utf-8")

    done = night.run("train", TINY, "--data", str(data), "--name", "polite")

    assert done.returncode == 0, done.stdout + done.stderr
    learned, records = re.findall(r"Learned from (\d+) of the (\d+) records in data.json", done.stdout)[0]
    left_out = {why.strip(): int(count) for count, why in re.findall(r"│ (\d+) +│ (it .*?)│", done.stdout)}
    assert int(records) == 121
    assert int(learned) + sum(left_out.values()) == 121
    assert int(learned) >= 90
    assert left_out["it was kept apart, to measure on it"] == 11
    assert left_out["it was withdrawn, or another record says the same or takes its place"] == 1
    assert left_out["it cannot be read as an event"] == 1
    assert any("max_length" in why for why in left_out)
    assert "on 11 held-out references" in done.stdout


def test_who_began_a_training_by_hand_can_end_it_and_the_same_call_goes_on(
    night: Night, fresh_ollama: OllamaServer
) -> None:
    before = set(fresh_ollama.tags())
    data = night.drop(greetings(40)).rename(night.directory / "data.jsonl")
    running = night.start("train", TINY, "--data", str(data), "--name", "polite")
    wait_until(lambda: any(one.stat().st_size for one in night.state.glob("train-*/runs/*/train/metrics.jsonl")), 180)
    running.send_signal(signal.SIGINT)
    said, _ = running.communicate(timeout=60)
    assert running.returncode == 1
    assert "no model was made" in said
    assert "Call it again to go on" in said
    (left,) = night.state.glob("train-*")
    assert list(left.glob("runs/*/train/checkpoints/step-*"))
    assert set(fresh_ollama.tags()) == before
    done = night.run("train", TINY, "--data", str(data), "--name", "polite")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"It goes on with what was left in {left}" in done.stderr
    assert not list(night.state.glob("train-*"))
    assert set(fresh_ollama.tags()) == before | {"polite:latest"}


def test_of_a_training_by_hand_that_was_killed_nothing_is_left_where_another_begins_anew(
    night: Night, fresh_ollama: OllamaServer, tmp_path: Path
) -> None:
    before = set(fresh_ollama.tags())
    data = night.drop(greetings(8)).rename(night.directory / "data.jsonl")
    call = ("train", TINY, "--data", str(data), "--name", "polite", "--adapter", str(tmp_path / "adapter"))
    running = night.start(*call)
    wait_until(lambda: any(night.state.glob("train-*/runs/*/train/checkpoints/step-*")), 180)
    running.kill()
    running.communicate(timeout=60)
    assert len(list(night.state.glob("train-*"))) == 1
    assert set(fresh_ollama.tags()) > before
    done = night.run(*call, "--anew")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "It goes on" not in done.stderr
    assert not list(night.state.glob("train-*"))
    assert set(fresh_ollama.tags()) == before | {"polite:latest"}


def test_a_name_that_another_training_makes_is_refused_before_anything_is_trained(night: Night, tmp_path: Path) -> None:
    data = night.drop(greetings(40)).rename(night.directory / "data.jsonl")
    first = night.start("train", TINY, "--data", str(data), "--name", "polite")
    wait_until(lambda: any(night.state.glob("train-*/runs/*/train/worker.log")), 60)
    place = tmp_path / "adapter"
    second = night.run("train", TINY, "--data", str(data), "--name", "Polite:latest", "--adapter", str(place))
    assert second.returncode == 1
    assert "Another `nightschool train` makes polite:latest at present." in second.stderr
    assert not place.exists()
    assert first.poll() is None
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=60)


def test_two_trainings_side_by_side_have_candidates_of_their_own(night: Night, fresh_ollama: OllamaServer) -> None:
    """Neither may be given what the other made: both count their versions from one."""
    data = night.drop(greetings(8)).rename(night.directory / "data.jsonl")
    running = [night.start("train", TINY, "--data", str(data), "--name", name) for name in ("polite", "kind")]
    wait_until(lambda: len(list(night.state.glob("train-*/runs/*/prepare/result.json"))) == 2, 240)
    runs = [RunDirectory(path=one.parent).read_info() for one in night.state.glob("train-*/runs/*/run.json")]
    assert len({names.version_of(one.specialty, 1) for one in runs}) == 2
    for one in running:
        said, _ = one.communicate(timeout=300)
        assert one.returncode == 0, said
    assert set(fresh_ollama.tags()) == {TINY, "polite:latest", "kind:latest"}


def test_a_model_that_came_under_the_name_meanwhile_stays_and_what_was_trained_is_called_otherwise(
    night: Night, fresh_ollama: OllamaServer
) -> None:
    data = night.drop(greetings(8)).rename(night.directory / "data.jsonl")
    running = night.start("train", TINY, "--data", str(data), "--name", "polite")
    wait_until(lambda: any(night.state.glob("train-*/runs/*/train/worker.log")), 60)
    with closing(OllamaHttp(OllamaSettings(host=fresh_ollama.url))) as ollama:
        ollama.copy(TINY, "polite")
    said, _ = running.communicate(timeout=300)
    assert running.returncode == 1
    told = "polite:latest-2 is made. polite:latest came into Ollama while it was trained, and was left as it is."
    assert told in " ".join(said.split())
    tags = fresh_ollama.tags()
    assert set(tags) == {TINY, "polite:latest", "polite:latest-2"}
    assert tags["polite:latest"] == tags[TINY] != tags["polite:latest-2"]


def test_what_was_trained_is_handed_over_though_no_model_comes_of_it(
    night: Night, fresh_ollama: OllamaServer, tmp_path: Path
) -> None:
    data = night.drop(greetings(8)).rename(night.directory / "data.jsonl")
    night.configure(
        fresh_ollama.url, fresh_ollama.models_directory, TINY_SETTINGS.replace("= 0.003", '= 1e-9\nform = "lora"')
    )
    adapter = tmp_path / "adapter"
    refused = night.run("train", TINY, "--data", str(data), "--name", "polite", "--adapter", str(adapter))
    assert refused.returncode == 1
    assert "too small to be seen" in refused.stderr
    assert f"What was trained is in {adapter}" in " ".join(refused.stderr.split())
    assert (adapter / "adapter_model.safetensors").is_file()
    assert "polite:latest" not in fresh_ollama.tags()


def test_a_place_that_is_lost_meanwhile_costs_no_model(
    night: Night, fresh_ollama: OllamaServer, tmp_path: Path
) -> None:
    data = night.drop(greetings(8)).rename(night.directory / "data.jsonl")
    adapter = tmp_path / "adapter"
    running = night.start("train", TINY, "--data", str(data), "--name", "polite", "--adapter", str(adapter))
    wait_until(adapter.is_dir, 60)
    adapter.rmdir()
    adapter.touch()
    said, _ = running.communicate(timeout=300)
    assert running.returncode == 1
    assert "polite:latest is made. What was trained could not be copied" in " ".join(said.split())
    assert "polite:latest" in fresh_ollama.tags()
    (kept,) = night.state.glob("adapter-*")
    assert str(kept) in "".join(said.split())
    assert list(kept.glob("*.safetensors"))


def test_a_place_that_cannot_be_made_is_told_before_anything_is_trained(
    night: Night, fresh_ollama: OllamaServer
) -> None:
    data = night.drop(greetings(8)).rename(night.directory / "data.jsonl")
    place = data / "adapter"
    refused = night.run("train", TINY, "--data", str(data), "--name", "polite", "--adapter", str(place))
    assert refused.returncode == 1
    assert "cannot be made: Not a directory" in refused.stderr
    assert "train" not in refused.stdout
    assert "polite:latest" not in fresh_ollama.tags()


EAGER = """
[plugins.training_dpo]
fewest_pairs = 20
learning_rate_share = 0.3
num_epochs = 4

[plugins.training_kto]
learning_rate_share = 1.0
num_epochs = 6
"""


def thumbs(count: int) -> list[dict[str, object]]:
    """Answers of two kinds: one that is liked, and one that is not."""
    kinds = (("hello", "explicit_positive"), ("5", "explicit_negative"))
    return [
        {"id": f"t-{number}-{kind}", "input_data": f"greet guest {number}", "ai_output": answer, "feedback_type": kind}
        for number in range(count)
        for answer, kind in kinds
    ]


@pytest.mark.parametrize(
    ("method", "events", "learned_by"),
    [
        ("kto", thumbs(24), ["KTO"]),
        ("dpo", greetings(32), ["DPO"]),
        ("auto", greetings(60), ["SFT", "DPO"]),
        ("auto", thumbs(24), ["KTO"]),
    ],
    ids=["kto", "dpo", "auto of corrections", "auto of thumbs"],
)
def test_training_by_hand_by_each_method(
    night: Night, fresh_ollama: OllamaServer, method: str, events: list[dict[str, object]], learned_by: list[str]
) -> None:
    night.configure(fresh_ollama.url, fresh_ollama.models_directory, TINY_SETTINGS + EAGER)
    data = night.drop(events).rename(night.directory / "data.jsonl")
    done = night.run("train", TINY, "--data", str(data), "--name", "polite", "--method", method)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.findall(r"loss by (\w+)", done.stdout) == learned_by
    assert ("not how to write them" in done.stdout) == ("SFT" not in learned_by)
    assert "polite:latest" in fresh_ollama.tags()


def test_a_disliked_answer_that_another_stands_over_counts_as_learned_from(
    night: Night, fresh_ollama: OllamaServer
) -> None:
    night.configure(fresh_ollama.url, fresh_ollama.models_directory, TINY_SETTINGS + EAGER)
    alone = {"id": "alone", "input_data": "part", "ai_output": "5", "feedback_type": "explicit_negative"}
    data = night.drop([*thumbs(3), alone]).rename(night.directory / "data.jsonl")
    done = night.run("train", TINY, "--data", str(data), "--name", "polite", "--method", "dpo")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Learned from 6 of the 7 records in data.jsonl." in done.stdout
    assert re.findall(r"│ (\d+) +│ (it .*?) *│", done.stdout) == [("1", "it has no answer worth learning")]


def test_an_adapter_is_taken_away_and_brought_back(night: Night, fresh_ollama: OllamaServer, tmp_path: Path) -> None:
    with night.configuration.open("a") as stream:
        stream.write('form = "lora"\n')
    data = night.drop(greetings(40)).rename(night.directory / "data.jsonl")
    adapter = tmp_path / "adapter"
    first = night.run("train", TINY, "--data", str(data), "--name", "first", "--adapter", str(adapter))
    assert first.returncode == 0, first.stdout + first.stderr
    assert json.loads((adapter / "adapter_config.json").read_text())["peft_type"] == "LORA"
    again = night.run("train", TINY, "--data", str(data), "--name", "second", "--adapter", str(adapter))
    assert again.returncode == 1
    assert "is there already" in again.stderr

    second = night.run("train", TINY, "--data", str(data), "--name", "second", "--from", str(adapter))

    assert second.returncode == 0, second.stdout + second.stderr
    (adapter / "adapter_config.json").write_text('{"peft_type": "LOKR"}')
    refused = night.run("train", TINY, "--data", str(data), "--name", "third", "--from", str(adapter))
    assert refused.returncode == 1
    assert "no plain LoRA" in refused.stderr
    assert set(fresh_ollama.tags()) == {TINY, "first:latest", "second:latest"}


@pytest.mark.parametrize(
    ("method", "events", "said"),
    [
        ("dpo", thumbs(24)[::2], "no pair of a better and a worse answer"),
        ("kto", greetings(24), "no answer that was liked or disliked by itself"),
        ("sft", thumbs(24)[1::2], "None of the feedback can be learned from"),
    ],
)
def test_a_method_without_its_feedback_is_told(
    night: Night, fresh_ollama: OllamaServer, method: str, events: list[dict[str, object]], said: str
) -> None:
    data = night.drop(events).rename(night.directory / "data.jsonl")
    before = set(fresh_ollama.tags())
    done = night.run("train", TINY, "--data", str(data), "--name", "polite", "--method", method)
    assert done.returncode == 1
    assert said in done.stderr
    assert set(fresh_ollama.tags()) == before


def test_plan_tells_what_a_training_would_take_and_changes_nothing(night: Night, fresh_ollama: OllamaServer) -> None:
    before = fresh_ollama.tags(), fresh_ollama.blobs()
    data = night.drop(greetings(40)).rename(night.directory / "data.jsonl")
    told = night.json("plan", TINY, "--data", str(data))
    assert isinstance(told, dict)
    assert (told["base"], told["events"], told["held_out"], told["problem"]) == (TINY, 40, 0, None)
    assert told["is_examined"] is False
    assert (fresh_ollama.tags(), fresh_ollama.blobs()) == before
    assert not night.run_directories()
    shown = night.run("plan", TINY)
    assert shown.returncode == 0, shown.stderr
    assert "100 examples of 128 tokens" in shown.stdout
    assert "delivered as split" in shown.stdout


def test_plan_of_a_model_that_is_not_there_says_so(night: Night) -> None:
    done = night.run("plan", "nowhere:1b")
    assert done.returncode == 1
    assert done.stderr.startswith("Ollama does not have nowhere:1b")
    assert done.stdout == ""


def test_dry_run_tells_and_changes_nothing(night: Night, fresh_ollama: OllamaServer) -> None:
    night.drop(greetings(50))
    told = night.json("run", "--dry-run")
    assert isinstance(told, list)
    planned = told[0]["plan"]
    assert (planned["events"], planned["held_out"], planned["trainings"][0]["examples"]) == (25, 25, 25)
    assert planned["trainings"][0]["memory"]["peak_bytes"] > 10**8
    assert [one["form"] for one in planned["deliveries"] if one["is_chosen"]] == ["split"]
    assert set(fresh_ollama.tags()) == {TINY}
    assert not night.run_directories()
