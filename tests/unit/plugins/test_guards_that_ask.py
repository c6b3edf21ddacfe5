"""Guards that put questions of their own to the models: capabilities, general prompts, memory, latency."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import pytest

from nightschool_hookspecs import (
    Exam,
    ExamAnswer,
    ExamItem,
    GuardResult,
    ItemRole,
    Message,
    ModelAnswer,
    ModelMemory,
    Role,
    Sitting,
    Specialty,
    ToolCall,
)
from nightschool_hookspecs.testing import Asked, FakeMeasure, FakeModels
from nightschool_plugins.guard_capabilities import CALLING, THINKING, GuardCapabilities, is_well_formed
from nightschool_plugins.guard_general import GuardGeneral, read_prompts, recognised
from nightschool_plugins.guard_latency import GuardLatency
from nightschool_plugins.guard_memory import GuardMemory

BASE, OLD, NEW = "base", "old", "new"
CALL = ModelAnswer(text="", tool_calls=(ToolCall(name="get_weather", arguments={"city": "Paris"}),))
THOUGHT = ModelAnswer(text="Yes.", thinking="Let me see.")
TALK = ModelAnswer(text="I would look out of the window.")
EVERYTHING = {OLD: ("completion", "tools", "thinking"), NEW: ("completion", "tools", "thinking")}


def exam(seconds: Mapping[Sitting, Sequence[float]] | None = None, *, tokens: int = 10) -> Exam:
    """An exam of which only the seconds that the server took for each answer matter."""
    of = seconds or {}
    items = tuple(
        ExamItem(
            id=str(number),
            event_id=str(number),
            artifact_type="x",
            role=ItemRole.GAIN,
            messages=(Message(role=Role.USER, content=f"question {number}"),),
        )
        for number in range(len(of.get(Sitting.CANDIDATE, ())))
    )
    answers = tuple(
        ExamAnswer(
            item_id=str(number),
            sitting=sitting,
            model=NEW if sitting is Sitting.CANDIDATE else OLD,
            text="text",
            score=50.0,
            detail="",
            failed=False,
            latency_s=taken,
            tokens=tokens,
            done_reason="stop",
            generation_s=taken,
        )
        for sitting, all_taken in of.items()
        for number, taken in enumerate(all_taken)
    )
    specialty = Specialty(base="b:1", artifact_type="x")
    return Exam(specialty=specialty, incumbent=OLD, candidate=NEW, items=items, answers=answers)


def held(result: GuardResult | None) -> bool:
    assert result is not None
    return result.held


# --------------------------------------------------------------------------- capabilities


def capabilities(
    answer: Callable[[Asked], ModelAnswer | None], questions: int | None = None
) -> tuple[GuardResult | None, FakeModels]:
    models = FakeModels(answer, capabilities=EVERYTHING, questions=questions)
    return GuardCapabilities().nightschool_guard_promotion(exam(), 1, models), models


def able(asked: Asked) -> ModelAnswer:
    return CALL if asked.tools else THOUGHT


def test_a_tag_that_lost_a_capability_is_stopped_without_a_question() -> None:
    models = FakeModels(able, capabilities={OLD: ("completion", "tools", "vision"), NEW: ("completion", "tools")})
    result = GuardCapabilities().nightschool_guard_promotion(exam(), 1, models)
    assert not held(result)
    assert result is not None
    assert result.reason == "The candidate's tag no longer lists vision."
    assert not models.asked


def test_a_candidate_that_can_do_the_same_is_asked_no_more_than_it_takes() -> None:
    result, models = capabilities(able)
    assert held(result)
    assert [one.model for one in models.asked].count(OLD) == len(CALLING) + len(THINKING)
    assert [one.model for one in models.asked].count(NEW) == 2
    assert [one.think for one in models.asked] == [not one.tools for one in models.asked]


def test_a_candidate_that_calls_no_tool_any_more_is_stopped() -> None:
    result, _ = capabilities(lambda one: TALK if one.tools and one.model == NEW else able(one))
    assert not held(result)
    assert result is not None
    assert result.reason == (
        "The incumbent gave a well-formed tool call in 4 of 4 tries, the candidate in none of these."
    )


@pytest.mark.parametrize("lost", [TALK, ModelAnswer(text="", thinking="It goes on and on."), None])
def test_a_candidate_that_does_not_think_or_only_thinks_is_stopped(lost: ModelAnswer | None) -> None:
    result, _ = capabilities(lambda one: lost if one.think and one.model == NEW else able(one))
    assert not held(result)
    assert result is not None
    assert "thought before it answered in 3 of 3 tries" in result.reason


def test_one_call_that_comes_off_is_enough() -> None:
    result, _ = capabilities(lambda one: TALK if one.model == NEW and one.text in CALLING[:3] else able(one))
    assert held(result)


def test_an_incumbent_that_fails_in_half_of_the_tries_asks_nothing_of_the_candidate() -> None:
    result, models = capabilities(lambda one: TALK if one.text in CALLING[:2] or one.think else CALL)
    assert held(result)
    assert {one.model for one in models.asked} == {OLD}


def after_nights(answer: Callable[[Asked], ModelAnswer | None]) -> GuardResult | None:
    models = FakeModels(answer, capabilities=EVERYTHING | {BASE: EVERYTHING[OLD]})
    return GuardCapabilities().nightschool_guard_promotion(replace(exam(), base=BASE), 1, models)


def test_what_the_base_does_is_asked_of_the_candidate_though_the_incumbent_hardly_does_it_any_more() -> None:
    def eroded(one: Asked) -> ModelAnswer:
        calls = {BASE: CALLING, OLD: CALLING[:1], NEW: ()}[one.model]
        return THOUGHT if one.think else CALL if one.text in calls else TALK

    result = after_nights(eroded)
    assert not held(result)
    assert result is not None
    assert result.reason == "The base gave a well-formed tool call in 4 of 4 tries, the candidate in none of these."
    assert held(after_nights(lambda one: able(one) if one.model == NEW else eroded(one)))


def test_what_the_tag_of_the_base_lists_must_not_go_either() -> None:
    models = FakeModels(able, capabilities=EVERYTHING | {BASE: ("completion", "vision")})
    result = GuardCapabilities().nightschool_guard_promotion(replace(exam(), base=BASE), 1, models)
    assert result is not None
    assert result.reason == "The candidate's tag no longer lists vision."


def test_what_the_tag_does_not_list_is_not_tried() -> None:
    models = FakeModels()
    assert held(GuardCapabilities().nightschool_guard_promotion(exam(), 1, models))
    assert not models.asked


@pytest.mark.parametrize(
    ("call", "formed"),
    [
        (ToolCall(name="set_timer", arguments={"minutes": 5}), True),
        (ToolCall(name="set_timer", arguments={"minutes": "5"}), False),
        (ToolCall(name="set_timer", arguments={"minutes": True}), False),
        (ToolCall(name="get_weather", arguments={"city": ""}), False),
        (ToolCall(name="get_weather", arguments={"town": "Paris"}), False),
        (ToolCall(name="get_whether", arguments={"city": "Paris"}), False),
    ],
)
def test_a_call_is_well_formed_by_its_name_and_types(call: ToolCall, *, formed: bool) -> None:
    assert is_well_formed(call) is formed


def test_where_time_runs_out_nothing_is_broken_and_it_is_said() -> None:
    result, _ = capabilities(lambda one: TALK if one.model == NEW else able(one), questions=3)
    assert held(result)
    assert result is not None
    assert "Not tried to the end: The time of the guards is used up." in result.reason
    assert not result.looked


# --------------------------------------------------------------------------- general prompts

CHECKABLE, FREE = read_prompts()
RIGHT = {
    one.text: answer
    for one, answer in zip(
        CHECKABLE,
        (
            "12", "54", "63", "421", "7", "Paris", "Tokyo", "In Africa.", "Earth", "Yellow.", "William Shakespeare",
            "H2O", "100 degrees", "Cold", "children", "Bonjour", "dog", "Yes.", "purple elephant", "hello",
            "Apple, banana and cherry.", "2, 5, 9", "Wednesday", "Yes, it is.",
        ),
        strict=True,
    )
}  # fmt: skip


def general(answer: Callable[[Asked], ModelAnswer | None], questions: int | None = None) -> GuardResult | None:
    models = FakeModels(answer, questions=questions)
    return GuardGeneral().nightschool_guard_promotion(exam(), 1, FakeMeasure(), models)


def knowing(asked: Asked) -> ModelAnswer:
    return ModelAnswer(text=RIGHT.get(asked.text, f"About {asked.text}"))


def test_the_right_answer_matches_its_prompt_and_no_prompt_matches_itself() -> None:
    for one in CHECKABLE:
        assert one.answer is not None
        assert one.answer.search(RIGHT[one.text]), one.text
        assert not one.answer.search("ls -a"), one.text
    assert len({one.text for one in (*CHECKABLE, *FREE)}) == len(CHECKABLE) + len(FREE) == 34


def test_equal_models_hold() -> None:
    result = general(knowing)
    assert held(result)
    assert result is not None
    assert result.reason.startswith("Of 34 general prompts that the incumbent can do, the candidate fails at 0;")


def test_a_candidate_that_answers_everything_with_its_lesson_is_stopped() -> None:
    result = general(lambda one: ModelAnswer(text="ls -a") if one.model == NEW else knowing(one))
    assert not held(result)
    assert result is not None
    assert "the candidate fails at 34;" in result.reason


@pytest.mark.parametrize("part", [CHECKABLE, FREE])
def test_each_kind_of_prompt_alone_shows_a_loss(part: Sequence[object]) -> None:
    texts = {getattr(one, "text", "") for one in part}
    assert not held(general(lambda one: None if one.model == NEW and one.text in texts else knowing(one)))


def test_prose_that_is_recognised_makes_up_for_no_facts() -> None:
    """The incumbent recognises none of its prose, the candidate all of it: ten gains, beside eight facts lost."""
    lost = {one.text for one in CHECKABLE[:8]}

    def answer(one: Asked) -> ModelAnswer:
        if one.temperature:
            return ModelAnswer(text="Hm.")
        return TALK if one.model == NEW and one.text in lost else knowing(one)

    result = general(answer)
    assert not held(result)
    assert result is not None
    assert "fails at 8; it can do 10" in result.reason


def test_a_few_slips_break_nothing() -> None:
    slips = {one.text for one in CHECKABLE[:4]}
    assert held(general(lambda one: TALK if one.model == NEW and one.text in slips else knowing(one)))
    slips = {one.text for one in CHECKABLE[:5]}
    assert not held(general(lambda one: TALK if one.model == NEW and one.text in slips else knowing(one)))


def after_nights_of_slips(forgot: Mapping[str, int]) -> GuardResult | None:
    """What is found where each model forgot so many facts, the first of all."""

    def answer(one: Asked) -> ModelAnswer:
        return TALK if one.text in [fact.text for fact in CHECKABLE[: forgot[one.model]]] else knowing(one)

    return GuardGeneral().nightschool_guard_promotion(replace(exam(), base=BASE), 1, FakeMeasure(), FakeModels(answer))


def test_slips_of_several_nights_do_not_add_up() -> None:
    assert held(after_nights_of_slips({BASE: 0, OLD: 0, NEW: 4}))
    result = after_nights_of_slips({BASE: 0, OLD: 4, NEW: 8})
    assert not held(result)
    assert result is not None
    assert result.reason == (
        "Of 30 general prompts that the incumbent can do, the candidate fails at 4; it can do 0 that the incumbent "
        "cannot. Beside the base it fails at 8 more, and can do 0 more."
    )


def test_what_went_in_earlier_nights_stops_no_candidate_that_loses_nothing_further() -> None:
    assert held(after_nights_of_slips({BASE: 0, OLD: 8, NEW: 8}))
    assert held(after_nights_of_slips({BASE: 0, OLD: 8, NEW: 7}))
    assert not held(after_nights_of_slips({BASE: 0, OLD: 8, NEW: 9}))


def test_a_base_that_is_the_incumbent_is_not_asked_twice() -> None:
    models = FakeModels(knowing)
    GuardGeneral().nightschool_guard_promotion(replace(exam(), base=OLD), 1, FakeMeasure(), models)
    assert len(models.asked) == 78


def test_a_small_model_is_held_to_what_it_can_do() -> None:
    known = {one.text for one in CHECKABLE[:6]}

    def little(one: Asked) -> ModelAnswer:
        return knowing(one) if one.text in known else ModelAnswer(text="Hm.")

    assert held(general(little))
    assert not held(general(lambda one: ModelAnswer(text="Hm.") if one.model == NEW else little(one)))
    assert general(lambda _: ModelAnswer(text="Hm.")) is None


def test_what_a_server_failed_for_the_incumbent_says_nothing() -> None:
    result = general(lambda one: None if one.model == OLD and one.text in RIGHT else knowing(one))
    assert result is not None
    assert result.reason == (
        "Of 10 general prompts that the incumbent can do, the candidate fails at 0; it can do 0 that the incumbent "
        "cannot."
    )


def test_prose_by_which_the_incumbent_does_not_recognise_itself_is_not_asked_of_the_candidate() -> None:
    result = general(lambda one: ModelAnswer(text="Hm.") if one.temperature else knowing(one))
    assert result is not None
    assert result.reason == (
        "Of 24 general prompts that the incumbent can do, the candidate fails at 0; it can do 10 that the incumbent "
        "cannot."
    )


def test_prose_is_recognised_by_the_prompt_that_it_is_nearest_to() -> None:
    own = ["the sky is blue", "tea needs hot water", ""]
    drawn = ["blue is the sky today", "the sky is blue", "words"]
    assert recognised(drawn, own, FakeMeasure()) == [True, False, False]


def test_prose_that_runs_in_circles_is_nothing_that_a_model_can_do() -> None:
    def circling(asked: Asked) -> ModelAnswer:
        return ModelAnswer(text=f"{asked.text} " * 8) if asked.text not in RIGHT else knowing(asked)

    result = general(lambda one: TALK if one.model == NEW else circling(one))
    assert result is not None
    assert result.reason.startswith("Of 24 general prompts that the incumbent can do,")
    gained = general(lambda one: knowing(one) if one.model == NEW else circling(one))
    assert gained is not None
    assert gained.reason.endswith("the candidate fails at 0; it can do 10 that the incumbent cannot.")


def test_time_that_runs_out_compares_nothing() -> None:
    result = general(lambda one: TALK if one.model == NEW else knowing(one), questions=60)
    assert held(result)
    assert result is not None
    assert "were not compared" in result.reason
    assert not result.looked


# --------------------------------------------------------------------------- memory

GB = 1_000_000_000


def memory(old: ModelMemory | None, new: ModelMemory | None) -> GuardResult | None:
    known = {name: told for name, told in ((OLD, old), (NEW, new)) if told is not None}
    return GuardMemory().nightschool_guard_promotion(exam(), FakeModels(memory=known))


def takes(gigabytes: float, context: int | None = 4096) -> ModelMemory:
    return ModelMemory(total_bytes=round(gigabytes * GB), gpu_bytes=GB, context_tokens=context)


def test_memory_breaks_by_factor_and_size_together() -> None:
    result = memory(takes(4.0), takes(6.0))
    assert not held(result)
    assert result is not None
    assert result.reason == (
        "The candidate takes 6000 MB, 1000 of them on graphics cards once it is loaded, the incumbent 4000 MB, "
        "1000 of them on graphics cards: 1.50 times as much."
    )
    assert held(memory(takes(4.0), takes(4.9)))
    assert held(memory(takes(1.0), takes(1.5)))
    assert not held(memory(takes(1.0), takes(1.6)))
    assert held(memory(takes(6.0), takes(4.0)))


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (None, takes(9.0), "Ollama does not tell what old takes."),
        (takes(1.0), None, "Ollama does not tell what new takes."),
        (takes(1.0, 2048), takes(9.0, 4096), "the two were loaded with different contexts."),
    ],
)
def test_missing_figures_and_other_contexts_break_nothing_and_are_told(
    old: ModelMemory | None, new: ModelMemory | None, why: str
) -> None:
    result = memory(old, new)
    assert result is not None
    assert (result.held, result.looked, result.dispensable) == (True, False, True)
    assert result.reason == f"Memory was not compared: {why}"


def test_two_contexts_that_are_not_told_count_as_equal() -> None:
    assert not held(memory(takes(1.0, None), takes(9.0, None)))


# --------------------------------------------------------------------------- latency


def sat(old: Sequence[float], new: Sequence[float], again: Sequence[float] | None = None) -> Exam:
    return exam({Sitting.INCUMBENT: old, Sitting.CANDIDATE: new, Sitting.INCUMBENT_AGAIN: again or old})


def speed(
    old_s: float, new_s: float, *, busy: Callable[[int], float] = lambda _: 1.0, questions: int | None = None
) -> FakeModels:
    """Models of fixed speeds on a machine that is slower by a factor which depends on the number of the question."""
    count = 0

    def answer(asked: Asked) -> ModelAnswer:
        nonlocal count
        count += 1
        return ModelAnswer(
            text="x", tokens=10, generation_s=10 * busy(count) * (new_s if asked.model == NEW else old_s)
        )

    return FakeModels(answer, questions=questions)


def latency(sitting: Exam, models: FakeModels) -> GuardResult | None:
    return GuardLatency().nightschool_guard_promotion(sitting, 1, models)


def test_a_candidate_as_fast_in_the_exam_is_not_measured_again() -> None:
    models = speed(0.1, 0.1)
    result = latency(sat([1.0] * 8, [1.4] * 8), models)
    assert held(result)
    assert not models.asked


def test_a_machine_that_was_busy_during_the_candidates_block_breaks_nothing() -> None:
    models = speed(0.1, 0.1)
    result = latency(sat([1.0] * 8, [3.2] * 8), models)
    assert held(result)
    assert result is not None
    assert result.reason == (
        "A token of the candidate took 3.20 times as long in the exam, and 1.00 times as long when both took turns; "
        "1.5 are tolerated."
    )
    asked = [one.model for one in models.asked]
    assert asked.count(OLD) == asked.count(NEW) == 21
    assert all({*asked[at : at + 2]} == {OLD, NEW} for at in range(2, 42, 2))
    assert {OLD, NEW} == {asked[at] for at in range(2, 42, 2)}


def test_a_slower_candidate_is_stopped_also_on_a_busy_machine() -> None:
    assert not held(latency(sat([1.0] * 8, [2.0] * 8), speed(0.1, 0.2)))
    assert not held(latency(sat([1.0] * 8, [2.0] * 8), speed(0.1, 0.2, busy=_in_turns(7, 0))))


def _in_turns(period: int, shift: int) -> Callable[[int], float]:
    """Another program takes most of the machine during every other so many questions."""
    return lambda number: 3.2 if (number + shift) // period % 2 else 1.0


@pytest.mark.parametrize("period", [1, 2, 3, 7, 11])
def test_a_machine_that_stays_busy_by_turns_breaks_no_more_than_the_level_says(period: int) -> None:
    suspicious, guard, broken = sat([1.0] * 8, [3.2] * 8), GuardLatency(), 0
    for seed in range(400):
        models = speed(0.1, 0.1, busy=_in_turns(period, seed))
        broken += not held(guard.nightschool_guard_promotion(suspicious, seed, models))
    assert broken <= guard.level * 400


def test_the_incumbents_own_slow_block_is_the_noise_floor() -> None:
    models = speed(0.1, 0.3)
    assert held(latency(sat([1.0] * 8, [3.2] * 8, [3.0] * 8), models))
    assert not models.asked


def test_one_slow_answer_raises_no_suspicion() -> None:
    models = speed(0.1, 0.1)
    assert held(latency(sat([1.0] * 8, [*[1.0] * 7, 60.0]), models))
    assert not models.asked


def test_of_few_answers_short_ones_or_a_server_that_does_not_tell_nothing_is_said() -> None:
    models = speed(0.1, 0.9)
    assert latency(sat([1.0] * 4, [9.0] * 4), models) is None
    short = {one: [1.0] * 8 for one in Sitting} | {Sitting.CANDIDATE: [9.0] * 8}
    assert latency(exam(short, tokens=3), models) is None
    assert latency(sat([0.0] * 8, [0.0] * 8), models) is None
    assert not models.asked


def begun(old_s: float, new_s: float) -> Exam:
    """An exam in which reading the prompt took so long."""
    asked = sat([1.0] * 8, [1.0] * 8)
    answers = tuple(replace(one, reading_s=new_s if one.model == NEW else old_s) for one in asked.answers)
    return replace(asked, answers=answers)


def reading(old_s: float, new_s: float, *, first_s: float = 0.0) -> FakeModels:
    """Models that read a prompt in so long, and longer where the question before went to the other one."""
    last = ""

    def answer(asked: Asked) -> ModelAnswer:
        nonlocal last
        again, last = last == asked.model, asked.model
        took = new_s if asked.model == NEW else old_s
        return ModelAnswer(text="x", tokens=1, reading_s=took if again else took + first_s * (asked.model == NEW))

    return FakeModels(answer)


def delay(sitting: Exam, models: FakeModels) -> GuardResult | None:
    return GuardLatency().nightschool_guard_reading(sitting, 1, models)


def test_examples_that_are_read_before_every_question_are_waited_for() -> None:
    result = delay(begun(0.1, 3.1), reading(0.1, 3.1))
    assert not held(result)
    assert result is not None
    assert result.reason == (
        "Answers of the candidate began 3.0 s later in the exam, and 3.0 s later when both took turns; "
        "1 s are tolerated."
    )


def test_examples_that_the_server_keeps_delay_nothing() -> None:
    models = reading(0.1, 0.1, first_s=3.0)
    assert held(delay(begun(0.1, 0.1), models))
    assert not models.asked
    # in the exam they were read anew each time, as the machine had to make room; a model asked twice has them
    assert held(delay(begun(0.1, 3.1), models))
    assert len(models.asked) == 80


def test_where_the_server_does_not_tell_how_long_it_reads_nothing_is_said() -> None:
    assert delay(begun(0.0, 0.0), reading(0.0, 9.0)) is None


def test_pairs_that_came_in_time_decide_where_they_are_enough() -> None:
    suspicious = sat([1.0] * 8, [3.0] * 8)
    few = latency(suspicious, speed(0.1, 0.3, questions=2 + 2 * 4 + 1))
    assert held(few)
    assert few is not None
    assert "too few answers came to measure it again" in few.reason
    assert not few.looked
    assert not held(latency(suspicious, speed(0.1, 0.3, questions=2 + 2 * 5)))


# --------------------------------------------------------------------------- all


def test_without_models_they_are_silent() -> None:
    slow = sat([1.0] * 8, [3.0] * 8)
    assert GuardCapabilities().nightschool_guard_promotion(slow, 1, None) is None
    assert GuardGeneral().nightschool_guard_promotion(slow, 1, FakeMeasure(), None) is None
    assert GuardMemory().nightschool_guard_promotion(slow, None) is None
    assert GuardLatency().nightschool_guard_promotion(slow, 1, None) is None


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: GuardCapabilities(tool_tokens=0), "must be 1 or more"),
        (lambda: GuardGeneral(level=1.0), "level must lie between 0 and 1"),
        (lambda: GuardGeneral(short_tokens=0), "must be 1 or more"),
        (lambda: GuardMemory(largest_factor=0.5), "largest_factor must be 1 or more"),
        (lambda: GuardMemory(tolerated_mb=-1.0), "tolerated_mb must be 0 or more"),
        (lambda: GuardLatency(largest_factor=float("nan")), "largest_factor must be 1 or more"),
        (lambda: GuardLatency(pairs=3), "fewest_items must be 2 or more, and pairs as many or more"),
        (lambda: GuardLatency(pair_tokens=2), "pair_tokens as many or more"),
        (lambda: GuardLatency(longest_delay_s=0.0), "longest_delay_s must be above 0"),
    ],
)
def test_settings_out_of_range_are_refused(make: Callable[[], object], sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        make()
