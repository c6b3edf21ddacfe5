"""pluggy's own features, the failure policy, and what the host accepts as a plugin."""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pluggy
import pytest

from nightschool_daemon.config import ConfigurationError, PluginSettings, Preset
from nightschool_daemon.hooks import STAGES, Hooks, KnownStrikes, PluginFailed, PluginKind, PluginState, facade
from nightschool_hookspecs import Exam, GenerationError, Peers, Specialty
from nightschool_hookspecs.testing import FakeMeasure, sample_event

# An old-style wrapper that passes a failure on is what some of these tests are about.
pytestmark = pytest.mark.filterwarnings("ignore::pluggy.PluggyTeardownRaisedWarning")

NOW = datetime(2026, 1, 2, tzinfo=UTC)
HEADER = "from nightschool_hookspecs import hookimpl, Refusal, GenerationError\n"

Load = Callable[..., Hooks]


class MemoryStrikes:
    """A strike book that forgets when the test ends."""

    def __init__(self) -> None:
        self.counts: dict[tuple[str, str], int] = {}
        self.reasons: list[str] = []

    def strikes(self, name: str, content_digest: str) -> int:
        return self.counts.get((name, content_digest), 0)

    def strike(self, name: str, content_digest: str, reason: str, at: datetime) -> int:
        self.reasons.append(reason)
        self.counts[name, content_digest] = self.strikes(name, content_digest) + 1
        return self.counts[name, content_digest]


@pytest.fixture
def strikes() -> MemoryStrikes:
    return MemoryStrikes()


@pytest.fixture
def load(tmp_path: Path, strikes: MemoryStrikes) -> Load:
    """Loads plugins from their texts, in alphabetical order."""

    def load_texts(
        texts: Mapping[str, str],
        tables: Mapping[str, Mapping[str, object]] | None = None,
        disabled: tuple[str, ...] = (),
    ) -> Hooks:
        for name, text in texts.items():
            file = tmp_path / f"{name}.py"
            file.write_text(HEADER + textwrap.dedent(text), encoding="utf-8")
            file.chmod(0o600)
        return Hooks.load(
            plugin_directory=tmp_path,
            tables=tables or {},
            plugins=PluginSettings(disabled=disabled),
            strikes=strikes,
            clock=lambda: NOW,
            check_files=False,
            built_in=(),
        )

    return load_texts


def difficulty(answer: str, marker: str = "@hookimpl") -> str:
    """The text of a plugin that answers one first-result hook."""
    return f"""
        {marker}
        def nightschool_score_difficulty(event):
            return {answer}
        """


RAISING = difficulty("1 / 0")


def test_last_registered_is_asked_first(load: Load) -> None:
    hooks = load({"a": difficulty("0.1"), "b": difficulty("0.2")})
    assert hooks.score_difficulty(event=sample_event()) == 0.2


def test_first_result_ends_the_call(load: Load) -> None:
    hooks = load({"a": RAISING, "b": difficulty("0.2")})
    assert hooks.score_difficulty(event=sample_event()) == 0.2


def test_none_asks_the_next(load: Load) -> None:
    hooks = load({"a": difficulty("0.1"), "b": difficulty("None")})
    assert hooks.score_difficulty(event=sample_event()) == 0.1


def test_documented_value_where_nobody_answers(load: Load) -> None:
    hooks = load({})
    assert hooks.score_difficulty(event=sample_event()) == 0.5
    assert hooks.classify_event(event=sample_event()) == "other"


def test_tryfirst_and_trylast(load: Load) -> None:
    hooks = load(
        {
            "a": difficulty("0.1", "@hookimpl(tryfirst=True)"),
            "b": difficulty("0.2"),
            "c": difficulty("0.3", "@hookimpl(trylast=True)"),
        }
    )
    assert hooks.score_difficulty(event=sample_event()) == 0.1
    rest = load({"a": difficulty("None")})
    assert rest.score_difficulty(event=sample_event()) == 0.2


def test_specname(load: Load) -> None:
    text = """
        @hookimpl(specname="nightschool_score_difficulty")
        def by_another_name(event):
            return 0.7
        """
    assert load({"a": text}).score_difficulty(event=sample_event()) == 0.7


def test_default_parameters_keep_working(load: Load) -> None:
    text = """
        @hookimpl
        def nightschool_score_difficulty(event=None):
            return 0.25 if event is not None else 0.0
        """
    assert load({"a": text}).score_difficulty(event=sample_event()) == 0.25


def test_blocking_by_name(load: Load) -> None:
    hooks = load({"a": difficulty("0.1"), "b": difficulty("0.2")}, disabled=("b",))
    assert hooks.score_difficulty(event=sample_event()) == 0.1
    assert hooks.manager.is_blocked("b")
    assert {one.name: one.state for one in hooks.status()} == {"a": PluginState.ACTIVE, "b": PluginState.DISABLED}


def test_unknown_name_in_disabled_is_an_error(load: Load) -> None:
    with pytest.raises(ConfigurationError, match="did you mean 'mine'"):
        load({"mine": difficulty("0.1")}, disabled=("mime",))


@pytest.fixture
def optional(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Hooks]:
    """Loads two built-ins of which one must be switched on."""
    monkeypatch.setattr(facade, "OPTIONAL", frozenset({"reward_plain"}))

    def load(tables: Mapping[str, Mapping[str, object]] | None = None, **plugins: Any) -> Hooks:
        return Hooks.load(
            plugin_directory=None,
            tables=tables or {},
            plugins=PluginSettings(**plugins),
            built_in=("difficulty_length", "reward_plain"),
        )

    return load


@pytest.mark.parametrize(
    ("plugins", "state"),
    [
        ({}, PluginState.AVAILABLE),
        ({"enabled": ("reward_plain",)}, PluginState.ACTIVE),
        ({"preset": Preset.ALL}, PluginState.ACTIVE),
        ({"preset": Preset.ALL, "disabled": ("reward_plain",)}, PluginState.DISABLED),
    ],
)
def test_an_optional_built_in_is_asked_where_it_is_switched_on(
    optional: Callable[..., Hooks], plugins: dict[str, Any], state: PluginState
) -> None:
    hooks = optional(**plugins)
    assert {one.name: one.state for one in hooks.status()} == {
        "difficulty_length": PluginState.ACTIVE,
        "reward_plain": state,
    }
    score = hooks.score_reward(
        event=sample_event(), difficulty=0.5, peers=Peers(count_of_type=1, mean_count=1), now=NOW
    )
    assert (score.priority != 0) == (state is PluginState.ACTIVE)


def test_the_table_of_an_optional_built_in_is_checked_before_it_is_switched_on(optional: Callable[..., Hooks]) -> None:
    with pytest.raises(ConfigurationError, match=r"plugins\.reward_plain\.sucess.*did you mean 'success'"):
        optional({"reward_plain": {"sucess": 1.0}})


def test_an_unknown_name_in_enabled_is_an_error(optional: Callable[..., Hooks]) -> None:
    with pytest.raises(ConfigurationError, match=r"plugins\.enabled: reward_plan.*did you mean 'reward_plain'"):
        optional(enabled=("reward_plan",))


def test_a_built_in_that_is_asked_anyway_is_an_error_in_enabled(optional: Callable[..., Hooks]) -> None:
    with pytest.raises(ConfigurationError, match=r"difficulty_length is asked without it.*it is for reward_plain"):
        optional(enabled=("difficulty_length",))


OWN_REWARD = """
from dataclasses import dataclass
from nightschool_hookspecs import RewardScore, hookimpl

@dataclass(frozen=True, kw_only=True)
class Own:
    worth: float = 0.25

    @hookimpl
    def nightschool_score_reward(self):
        return RewardScore(priority=self.worth, reward=self.worth)

@hookimpl
def nightschool_register_settings():
    return Own
"""


@pytest.fixture
def named_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Hooks]:
    """Loads an optional built-in beside a file of the user's that has its name."""
    monkeypatch.setattr(facade, "OPTIONAL", frozenset({"reward_plain"}))
    file = tmp_path / "reward_plain.py"
    file.write_text(OWN_REWARD, encoding="utf-8")
    file.chmod(0o600)

    def load(*, safe_mode: bool = False, **plugins: Any) -> Hooks:
        return Hooks.load(
            plugin_directory=tmp_path,
            tables={"reward_plain": {"worth": 0.75}},
            plugins=PluginSettings(**plugins),
            check_files=False,
            safe_mode=safe_mode,
            built_in=("reward_plain",),
        )

    return load


def worth(hooks: Hooks) -> float:
    return hooks.score_reward(
        event=sample_event(), difficulty=0.5, peers=Peers(count_of_type=1, mean_count=1), now=NOW
    ).priority


def test_a_plugin_of_the_users_may_have_the_name_of_a_built_in_that_is_off(named_alike: Callable[..., Hooks]) -> None:
    hooks = named_alike()
    assert [(one.name, one.kind, one.state) for one in hooks.status()] == [
        ("reward_plain", PluginKind.FILE, PluginState.ACTIVE)
    ]
    assert worth(hooks) == 0.75
    # without the user's plugins its table is still not ours to judge
    assert worth(named_alike(safe_mode=True)) == 0


@pytest.mark.parametrize("plugins", [{"enabled": ("reward_plain",)}, {"preset": Preset.ALL}])
def test_a_built_in_that_is_on_keeps_its_name(named_alike: Callable[..., Hooks], plugins: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=r"plugins\.reward_plain\.worth"):
        named_alike(**plugins)


def test_a_plugin_cannot_be_enabled_and_disabled() -> None:
    with pytest.raises(ValueError, match="reward_plain stands in both"):
        PluginSettings(enabled=("reward_plain",), disabled=("reward_plain",))


def test_call_monitoring_sees_answers_and_failures(load: Load) -> None:
    hooks = load({"a": difficulty("0.1")})
    seen: list[str] = []

    def before(hook_name: str, hook_impls: Sequence[pluggy.HookImpl], kwargs: Mapping[str, object]) -> None:
        seen.append(f"before {hook_name}")

    def after(
        outcome: pluggy.Result[object],
        hook_name: str,
        hook_impls: Sequence[pluggy.HookImpl],
        kwargs: Mapping[str, object],
    ) -> None:
        seen.append(f"after {outcome.get_result()}")

    undo = hooks.manager.add_hookcall_monitoring(before, after)
    hooks.score_difficulty(event=sample_event())
    undo()
    hooks.score_difficulty(event=sample_event())
    assert seen == ["before nightschool_score_difficulty", "after 0.1"]


def test_no_hook_is_historic(load: Load) -> None:
    manager = load({}).manager
    callers = [
        getattr(manager.hook, name) for stage in STAGES for name in vars(stage) if name.startswith("nightschool_")
    ]
    assert callers
    assert not any(caller.is_historic() for caller in callers)


# --------------------------------------------------------------------------- wrappers

HALVING = """
    @hookimpl(wrapper=True)
    def nightschool_score_difficulty(event):
        answer = yield
        return answer / 2
    """
OLD_STYLE = """
    @hookimpl(hookwrapper=True)
    def nightschool_score_difficulty(event):
        outcome = yield
        outcome.force_result(outcome.get_result() / 4)
    """
RESCUING = """
    @hookimpl(wrapper=True)
    def nightschool_score_difficulty(event):
        try:
            return (yield)
        except Exception:
            return 0.9
    """


def test_wrapper_changes_the_answer(load: Load) -> None:
    assert load({"a": difficulty("0.8"), "w": HALVING}).score_difficulty(event=sample_event()) == 0.4


def test_old_style_wrapper_changes_the_answer(load: Load) -> None:
    assert load({"a": difficulty("0.8"), "w": OLD_STYLE}).score_difficulty(event=sample_event()) == 0.2


def test_wrapper_may_answer_for_one_that_raised(load: Load) -> None:
    assert load({"a": RAISING, "w": RESCUING}).score_difficulty(event=sample_event()) == 0.9


@pytest.mark.parametrize(
    "body",
    [
        "raise OSError('before')\n    yield",
        "yield\n    raise OSError('after')",
        "yield\n    return 'text'",
        "yield\n    yield\n    return 0.1",
        "if False:\n        yield\n    return 0.1",
    ],
)
@pytest.mark.parametrize("style", ["wrapper", "hookwrapper"])
def test_failing_wrapper_of_a_decider_fails_the_call(load: Load, body: str, style: str) -> None:
    if style == "hookwrapper" and "return 'text'" in body:
        body = "(yield).force_result('text')"
    text = f"\n@hookimpl({style}=True)\ndef nightschool_score_difficulty(event):\n    {body}\n"
    hooks = load({"a": difficulty("0.1"), "w": text})
    with pytest.raises(PluginFailed) as failed:
        hooks.score_difficulty(event=sample_event())
    assert failed.value.plugin == "w"


def test_wrapper_is_not_blamed_for_what_it_wraps(load: Load) -> None:
    hooks = load({"a": RAISING, "w": HALVING, "x": OLD_STYLE})
    with pytest.raises(PluginFailed) as failed:
        hooks.score_difficulty(event=sample_event())
    assert failed.value.plugin == "a"


@pytest.mark.parametrize("body", ["raise OSError\n    yield", "yield\n    raise OSError"])
@pytest.mark.parametrize("style", ["wrapper", "hookwrapper"])
def test_failing_wrapper_of_an_observer_passes_through(
    load: Load, strikes: MemoryStrikes, tmp_path: Path, body: str, style: str
) -> None:
    seen = tmp_path / "seen"
    wrapper = f"\n@hookimpl({style}=True)\ndef nightschool_after_event_accepted(event):\n    {body}\n"
    hooks = load({"a": observing(seen), "w": wrapper})
    hooks.after_event_accepted(event=sample_event())
    assert seen.exists()
    assert strikes.reasons


# --------------------------------------------------------------------------- failures


def observing(file: Path) -> str:
    """A plugin that leaves a trace of each event."""
    return f"""
        from pathlib import Path

        @hookimpl
        def nightschool_after_event_accepted(event):
            with Path({str(file)!r}).open("a") as seen:
                seen.write(event.id)
        """


@pytest.mark.parametrize("failure", ["raise OSError('boom')", "raise SystemExit(3)", "import sys; sys.exit()"])
def test_raising_observer_is_logged_and_the_others_still_run(
    load: Load, tmp_path: Path, caplog: pytest.LogCaptureFixture, failure: str
) -> None:
    broken = f"\n@hookimpl\ndef nightschool_after_event_accepted(event):\n    {failure}\n"
    first, last = tmp_path / "first", tmp_path / "last"
    hooks = load({"a": observing(first), "broken": broken, "c": observing(last)})
    hooks.after_event_accepted(event=sample_event())
    assert first.exists()
    assert last.exists()
    assert "broken" in caplog.text


@pytest.mark.parametrize("answer", ["1 / 0", "exit(1)", "'hard'", "True", "float('nan')", "[0.5]"])
def test_failing_decider_names_itself(load: Load, strikes: MemoryStrikes, answer: str) -> None:
    hooks = load({"a": difficulty("0.1"), "broken": difficulty(answer)})
    with pytest.raises(PluginFailed, match=r"broken.*plugins\.disabled") as failed:
        hooks.score_difficulty(event=sample_event())
    assert (failed.value.plugin, failed.value.hook) == ("broken", "nightschool_score_difficulty")
    assert len(strikes.reasons) == 1


def test_record_with_a_number_that_is_none_is_the_plugins_failure(load: Load, strikes: MemoryStrikes) -> None:
    text = """
        from nightschool_hookspecs import RewardScore

        @hookimpl
        def nightschool_score_reward(event):
            return RewardScore(priority=float("nan"), reward=0.0)
        """
    peers = Peers(count_of_type=1, mean_count=1.0)
    with pytest.raises(PluginFailed, match=r"the plugin mine .*RewardScore\(priority=nan.*NaN"):
        load({"mine": text}).score_reward(event=sample_event(), difficulty=0.5, peers=peers, now=NOW)
    assert len(strikes.reasons) == 1


def test_what_is_no_hook_or_argument_is_told_with_the_nearest(load: Load) -> None:
    wrong = """
        @hookimpl
        def nightschool_score_rewards(event):
            return None
        """
    argument = """
        @hookimpl
        def nightschool_score_difficulty(evnt):
            return 0.5
        """
    reasons = {one.name: one.reason for one in load({"argument": argument, "wrong": wrong}).status()}
    assert "there is no hook nightschool_score_rewards; did you mean nightschool_score_reward?" in reasons["wrong"]
    assert "nightschool_score_difficulty has no argument 'evnt'; it has: event" in reasons["argument"]


def test_failure_of_many_lines_is_told_in_one(load: Load) -> None:
    text = """
        @hookimpl
        def nightschool_score_difficulty(event):
            raise ValueError("boom\\nsecond line")
        """
    with pytest.raises(PluginFailed, match=r"\(ValueError: boom second line\)"):
        load({"mine": text}).score_difficulty(event=sample_event())


def test_elements_of_a_tuple_are_checked(load: Load) -> None:
    text = """
        @hookimpl
        def nightschool_select_events(events, budget, seed):
            return ("a", 1)
        """
    hooks = load({"broken": text})
    with pytest.raises(PluginFailed, match="broken"):
        hooks.manager.hook.nightschool_select_events(events=(), others=(), budget=None, embed=None, seed=0)


def test_failure_of_a_service_is_not_the_plugins(load: Load, strikes: MemoryStrikes) -> None:
    text = """
        @hookimpl
        def nightschool_score_difficulty(event):
            raise GenerationError("the model is away")
        """
    with pytest.raises(GenerationError):
        load({"a": text}).score_difficulty(event=sample_event())
    assert not strikes.reasons


def test_three_strikes_disable_a_plugin_until_it_changes(load: Load) -> None:
    texts = {"a": difficulty("0.1"), "broken": RAISING}
    hooks = load(texts)
    for _ in range(3):
        with pytest.raises(PluginFailed):
            hooks.score_difficulty(event=sample_event())
    assert hooks.score_difficulty(event=sample_event()) == 0.1
    again = load(texts)
    assert again.score_difficulty(event=sample_event()) == 0.1
    assert [one.state for one in again.status()] == [PluginState.ACTIVE, PluginState.DISABLED]
    repaired = load(texts | {"broken": difficulty("0.3")})
    assert repaired.score_difficulty(event=sample_event()) == 0.3


def test_gate_that_fails_stays_shut(load: Load) -> None:
    """What decides on admission is asked on: feedback waits rather than getting in unseen."""
    texts = {
        "gate": """
        @hookimpl
        def nightschool_validate_event(event):
            raise ValueError("boom")
        """
    }
    hooks = load(texts)
    for _ in range(5):
        with pytest.raises(PluginFailed):
            hooks.validate_event(event=sample_event())
    again = load(texts)
    with pytest.raises(PluginFailed):
        again.validate_event(event=sample_event())


def test_guard_that_fails_keeps_candidates_out_until_somebody_mends_it(load: Load) -> None:
    """Without it a run would promote, and say that nothing that was checked got worse."""
    texts = {
        "mine": """
        @hookimpl
        def nightschool_guard_promotion(exam):
            raise ValueError("boom")
        """
    }
    exam = Exam(specialty=Specialty(base="b", artifact_type="t"), incumbent="i", candidate="c", items=(), answers=())
    for hooks in (load(texts), load(texts)):
        for _ in range(4):
            with pytest.raises(PluginFailed, match=r"add 'mine' to plugins\.disabled"):
                hooks.guard_promotion(exam=exam, seed=1, measure=FakeMeasure(), models=None)
        assert [one.state for one in hooks.status()] == [PluginState.ACTIVE]


@pytest.mark.parametrize("broken", ["import nothing_of_this_name", "def half(:"])
def test_guard_that_cannot_be_loaded_keeps_candidates_out(load: Load, broken: str) -> None:
    """It would be left out of a night, which would promote and say that nothing that was checked got worse."""
    text = f"""
        {broken}
        @hookimpl
        def nightschool_guard_promotion(exam):
            return None
        """
    exam = Exam(specialty=Specialty(base="b", artifact_type="t"), incumbent="i", candidate="c", items=(), answers=())
    hooks = load({"mine": text, "other": difficulty("0.1")})
    for _ in range(2):
        with pytest.raises(PluginFailed, match=r"plugin mine .* add 'mine' to plugins\.disabled"):
            hooks.guard_promotion(exam=exam, seed=1, measure=FakeMeasure(), models=None)
    assert hooks.validate_event(event=sample_event()) == ()
    assert hooks.score_difficulty(event=sample_event()) == 0.1
    switched_off = load({"mine": text}, disabled=("mine",))
    assert switched_off.guard_promotion(exam=exam, seed=1, measure=FakeMeasure(), models=None) == ()


def test_observer_that_lets_a_models_failure_through_is_an_observer_that_failed(load: Load) -> None:
    text = """
        @hookimpl
        def nightschool_after_event_accepted(event):
            raise GenerationError("the model is away")
        """
    load({"mine": text}).after_event_accepted(event=sample_event())


def test_a_workers_failure_counts(load: Load) -> None:
    hooks = load({"a": difficulty("0.1"), "broken": difficulty("0.2")})
    for _ in range(3):
        hooks.record_failure("broken", hooks.digest_of("broken"), "select: ValueError")
    assert hooks.score_difficulty(event=sample_event()) == 0.1
    assert next(one for one in hooks.status() if one.name == "broken").state is PluginState.DISABLED


def test_a_workers_failure_counts_for_the_content_it_had(load: Load) -> None:
    """The file changed since the daemon loaded it: what the worker saw is struck, what the daemon has goes on."""
    hooks = load({"a": difficulty("0.1"), "changed": difficulty("0.2")})
    for _ in range(3):
        hooks.record_failure("changed", "the digest of another content", "select: ValueError")
    assert hooks.score_difficulty(event=sample_event()) == 0.2


def test_known_strikes_are_heeded_and_not_kept(load: Load, strikes: MemoryStrikes, tmp_path: Path) -> None:
    """As in a worker, which reads the ledger and leaves the counting to the daemon."""
    hooks = load({"a": difficulty("0.1"), "broken": RAISING})
    for _ in range(3):
        with pytest.raises(PluginFailed):
            hooks.score_difficulty(event=sample_event())
    book = KnownStrikes(strikes.counts)
    known = Hooks.load(plugin_directory=tmp_path, tables={}, strikes=book, check_files=False, built_in=())
    assert known.score_difficulty(event=sample_event()) == 0.1
    assert sum(strikes.counts.values()) == 3


def test_all_refusals_are_returned(load: Load) -> None:
    text = """
        @hookimpl
        def nightschool_validate_event(event):
            return Refusal(reason=__name__)
        """
    assert len(load({"a": text, "b": text}).validate_event(event=sample_event())) == 2


# --------------------------------------------------------------------------- settings

WITH_SETTINGS = """
    from dataclasses import dataclass

    @dataclass(frozen=True, kw_only=True)
    class Hard:
        level: float = 0.3

        @hookimpl
        def nightschool_score_difficulty(self, event):
            return self.level

    @hookimpl
    def nightschool_register_settings():
        return Hard
    """


def test_settings_are_filled_from_the_plugins_table(load: Load) -> None:
    assert load({"hard": WITH_SETTINGS}).score_difficulty(event=sample_event()) == 0.3
    hooks = load({"hard": WITH_SETTINGS}, tables={"hard": {"level": 0.6}})
    assert hooks.score_difficulty(event=sample_event()) == 0.6


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"hard": {"levle": 0.6}}, r"plugins\.hard\.levle: .*did you mean 'level'"),
        ({"hard": {"level": "high"}}, r"plugins\.hard\.level: a number expected"),
        ({"hrad": {"level": 0.6}}, r"plugins\.hrad: .*did you mean 'hard'"),
        ({"plain": {"level": 0.6}}, r"plugins\.plain: .*no settings"),
    ],
)
def test_faults_of_the_configuration_name_their_path(
    load: Load, tables: Mapping[str, Mapping[str, object]], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        load({"hard": WITH_SETTINGS, "plain": difficulty("0.1")}, tables=tables)


# --------------------------------------------------------------------------- what is no plugin

BROKEN = {
    "syntax": ("def (", "SyntaxError"),
    "unknown_hook": (
        "\n@hookimpl\ndef nightschool_score_dificulty(event):\n    return 1.0\n",
        "nightschool_score_dificulty",
    ),
    "unknown_parameter": ("\n@hookimpl\ndef nightschool_score_difficulty(evnt):\n    return 1.0\n", "evnt"),
    "unmarked": ("\ndef nightschool_score_difficulty(event):\n    return 1.0\n", "@hookimpl"),
    "not_a_dataclass": ("\n@hookimpl\ndef nightschool_register_settings():\n    return int\n", "dataclass"),
    "beside": (
        WITH_SETTINGS + "\n    @hookimpl\n    def nightschool_classify_event(event):\n        return 'x'\n",
        "beside",
    ),
}


@pytest.mark.parametrize("name", sorted(BROKEN))
def test_broken_plugin_is_named_and_the_others_work(load: Load, name: str) -> None:
    text, sentence = BROKEN[name]
    hooks = load({"a": difficulty("0.1"), name: text})
    assert hooks.score_difficulty(event=sample_event()) == 0.1
    broken = next(one for one in hooks.status() if one.name == name)
    assert broken.state is PluginState.BROKEN
    assert sentence in broken.reason


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_file_that_others_may_write_is_refused(load: Load, tmp_path: Path, mode: int) -> None:
    load({"a": difficulty("0.1")})
    (tmp_path / "a.py").chmod(mode)
    hooks = Hooks.load(plugin_directory=tmp_path, tables={}, built_in=(), check_files=False)
    (status,) = hooks.status()
    assert status.state is PluginState.BROKEN
    assert "chmod go-w" in status.reason


def test_safe_mode_leaves_the_users_plugins_out(load: Load, tmp_path: Path) -> None:
    load({"a": difficulty("0.1")})
    hooks = Hooks.load(plugin_directory=tmp_path, tables={"a": {"key": 1}}, built_in=(), safe_mode=True)
    assert hooks.score_difficulty(event=sample_event()) == 0.5


def test_missing_built_in_is_an_error() -> None:
    with pytest.raises(ModuleNotFoundError):
        Hooks.load(plugin_directory=None, tables={}, built_in=("intake_telepathy",))


def test_status_says_where_a_plugin_comes_from(load: Load) -> None:
    (status,) = load({"a": difficulty("0.1")}).status()
    assert status.kind is PluginKind.FILE
    assert status.hooks == ("nightschool_score_difficulty",)
