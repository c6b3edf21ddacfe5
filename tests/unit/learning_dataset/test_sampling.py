"""What the incumbent is asked for answers, what is kept of them, and what a failing server costs."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from nightschool_daemon.config import ExamSettings
from nightschool_daemon.evaluation.answer_files import MOST_MODELS
from nightschool_daemon.evaluation.local_model import pinned_options
from nightschool_daemon.learning.kept_answers import Ask, KeptAnswers, NotTaken, Question, Unanswered
from nightschool_daemon.learning.sampling import KeptSample
from nightschool_daemon.ollama.errors import OllamaInterrupted, OllamaRefused, OllamaUnreachable
from nightschool_daemon.ollama.library import ChatAnswer, PinnedOptions
from nightschool_hookspecs import Message, Role
from nightschool_hookspecs.records import ToolCall

Prompt = tuple[Message, ...]
EXAM = ExamSettings(context_tokens=1024)


def prompt(text: str) -> Prompt:
    return (Message(role=Role.USER, content=text),)


A, B, C, D, E = map(prompt, "ABCDE")


@dataclass(kw_only=True)
class Incumbent:
    """Answers with its own name, the prompt and the seed, unless a prompt is one that it fails at."""

    name: str = "m"
    fails: dict[Prompt, Exception] = field(default_factory=dict)
    cut_off: Sequence[Prompt] = ()
    thinks: Sequence[Prompt] = ()
    """Before it answers these."""
    calls: Sequence[Prompt] = ()
    """Those that it answers with a call of a tool."""
    breaks_off: Sequence[Prompt] = ()
    """Those of which the server does not tell how the answer ended."""
    asked: list[tuple[Prompt, PinnedOptions]] = field(default_factory=list)
    clock_s: float = 0.0
    """A minute an answer."""

    def __call__(self, messages: Prompt, options: PinnedOptions) -> ChatAnswer:
        self.asked.append((messages, options))
        self.clock_s += 60
        if messages in self.fails:
            raise self.fails[messages]
        return ChatAnswer(
            text=f"{self.name} {messages[0].content} {options.seed}",
            tokens=1,
            latency_s=1.0,
            done_reason=None if messages in self.breaks_off else "length" if messages in self.cut_off else "stop",
            thinking="Let me see." if messages in self.thinks else "",
            tool_calls=(ToolCall(name="look", arguments={}),) if messages in self.calls else (),
        )

    def prompts(self) -> str:
        """The prompts in order, a letter each."""
        return "".join(messages[0].content for messages, _ in self.asked)


@dataclass(kw_only=True)
class Listener:
    """Keeps what it is told."""

    told: list[tuple[int, int, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def progress(self, done: int, total: int, text: str, /) -> None:
        self.told.append((done, total, text))

    def note(self, text: str, /) -> None:
        self.notes.append(text)


@dataclass(frozen=True, kw_only=True)
class Night:
    """Draws answers with a file of its own."""

    directory: Path
    listener: Listener = field(default_factory=Listener)

    @property
    def file(self) -> Path:
        return self.directory / "answers.jsonl"

    def draw(
        self,
        ask: Ask | None,
        prompts: Sequence[Prompt],
        *,
        answers: int = 2,
        temperature: float = 0.8,
        minutes: float = 60.0,
        exam: ExamSettings = EXAM,
        clock: Callable[[], float] = lambda: 0.0,
    ) -> tuple[tuple[str, ...], ...]:
        kept = KeptAnswers(self.directory, "answers", ask)
        sample = KeptSample(kept, name="m:1", exam=exam, listener=self.listener, clock=clock)
        return sample(
            prompts, answers=answers, temperature=temperature, max_tokens=64, minutes=minutes, failures_in_a_row=2
        )


def counts(drawn: tuple[tuple[str, ...], ...]) -> list[int]:
    """How many answers to each prompt came."""
    return [len(one) for one in drawn]


@pytest.fixture
def night(tmp_path: Path) -> Night:
    return Night(directory=tmp_path)


def test_each_answer_is_drawn_with_another_seed_and_the_options_of_the_exam(night: Night) -> None:
    incumbent = Incumbent()
    (answers,) = night.draw(incumbent, [A], answers=4)
    options = [one for _, one in incumbent.asked]
    assert len(set(answers)) == len({one.seed for one in options}) == 4
    assert {replace(one, seed=0) for one in options} == {
        PinnedOptions(
            temperature=0.8,
            seed=0,
            top_k=EXAM.top_k,
            top_p=EXAM.top_p,
            min_p=EXAM.min_p,
            repeat_penalty=EXAM.repeat_penalty,
            repeat_last_n=EXAM.repeat_last_n,
            num_ctx=1024,
            num_predict=64,
        )
    }


def test_what_was_answered_is_not_asked_again(night: Night) -> None:
    first, second = Incumbent(), Incumbent(name="another night")
    before = night.draw(first, [A, B])
    after = night.draw(second, [B, C, A])
    assert (first.prompts(), second.prompts()) == ("AABB", "CC")
    assert [after[2], after[0]] == list(before)


def test_more_answers_to_a_prompt_are_asked_beside_those_there_are(night: Night) -> None:
    incumbent = Incumbent()
    before = night.draw(incumbent, [A], answers=2)
    after = night.draw(incumbent, [A], answers=3)
    assert incumbent.prompts() == "AAA"
    assert after[0][:2] == before[0]


def test_other_options_are_another_question(night: Night) -> None:
    incumbent = Incumbent()
    night.draw(incumbent, [A])
    night.draw(incumbent, [A], temperature=0.9)
    night.draw(incumbent, [A], exam=replace(EXAM, top_k=10))
    assert incumbent.prompts() == "A" * 6


def test_a_prompt_that_comes_twice_is_asked_once(night: Night) -> None:
    incumbent = Incumbent()
    one, other = night.draw(incumbent, [A, A])
    assert one == other
    assert incumbent.prompts() == "AA"


def test_who_may_not_ask_has_what_is_kept(night: Night) -> None:
    before = night.draw(Incumbent(), [A])
    assert night.draw(None, [A, B]) == (*before, ())


def test_a_line_that_a_kill_tore_is_asked_again(night: Night) -> None:
    incumbent = Incumbent()
    before = night.draw(incumbent, [A])
    os.truncate(night.file, night.file.stat().st_size - 3)
    assert night.draw(incumbent, [A]) == before
    assert incumbent.prompts() == "AAA"


def test_a_file_of_another_release_is_begun_anew(night: Night, caplog: pytest.LogCaptureFixture) -> None:
    night.file.write_text('{"signature": "of another kind", "text": ""}\n', encoding="utf-8")
    incumbent = Incumbent()
    before = night.draw(incumbent, [A])
    assert incumbent.prompts() == "AA"
    assert "answers.jsonl cannot be read" in caplog.text
    assert night.draw(None, [A]) == before


def test_when_the_time_is_over_what_is_there_counts(night: Night) -> None:
    incumbent = Incumbent()
    assert counts(night.draw(incumbent, [A, B, C], minutes=3, clock=lambda: incumbent.clock_s)) == [2, 1, 0]
    assert counts(night.draw(incumbent, [A, B, C], minutes=0, clock=lambda: incumbent.clock_s)) == [2, 1, 0]
    assert counts(night.draw(incumbent, [A, B, C], minutes=9, clock=lambda: incumbent.clock_s)) == [2, 2, 2]
    assert incumbent.prompts() == "AABBCC"


def test_an_answer_that_was_cut_off_is_none_and_its_prompt_is_left(night: Night) -> None:
    incumbent = Incumbent(cut_off=[B])
    for _ in range(2):
        assert counts(night.draw(incumbent, [A, B, C])) == [2, 0, 2]
    assert incumbent.prompts() == "AABCC"


@pytest.mark.parametrize("how", ["thinks", "calls", "breaks_off"])
def test_an_answer_of_which_its_text_is_not_all_is_none(night: Night, how: str) -> None:
    incumbent = Incumbent(**{how: [B]})  # type: ignore[arg-type]  # one of its lists of prompts
    assert counts(night.draw(incumbent, [A, B, C])) == [2, 0, 2]
    assert counts(night.draw(None, [A, B, C])) == [2, 0, 2]


def test_one_that_is_cut_off_after_a_whole_one_costs_itself_alone(night: Night) -> None:
    incumbent = Incumbent()
    night.draw(incumbent, [A], answers=1)
    incumbent.cut_off = [A]
    night.draw(incumbent, [A], answers=2)
    incumbent.cut_off = []
    assert counts(night.draw(incumbent, [A], answers=4)) == [3]
    assert incumbent.prompts() == "AAAA"


def test_a_question_that_fails_costs_its_prompt_and_is_asked_another_time(night: Night) -> None:
    incumbent = Incumbent(fails={B: OllamaInterrupted("m:1 broke off.")})
    assert counts(night.draw(incumbent, [A, B, C])) == [2, 0, 2]
    incumbent.fails.clear()
    assert counts(night.draw(incumbent, [A, B, C])) == [2, 2, 2]
    assert incumbent.prompts() == "AABCCBB"
    assert night.listener.notes == []


def test_a_prompt_that_the_server_does_not_take_says_nothing_of_the_model(night: Night) -> None:
    too_long = OllamaRefused("Ollama says: the prompt is longer than the context", status=400)
    incumbent = Incumbent(fails={A: too_long, B: too_long, C: too_long})
    assert counts(night.draw(incumbent, [A, B, C, D])) == [0, 0, 0, 2]
    assert incumbent.prompts() == "ABCDD"
    assert night.listener.notes == []


def test_a_model_that_the_server_cannot_run_is_given_up(night: Night) -> None:
    broken = OllamaRefused("Ollama says: the runner has stopped", status=500)
    assert counts(night.draw(Incumbent(fails={A: broken, B: broken}), [A, B, C])) == [0, 0, 0]
    assert "the runner has stopped" in night.listener.notes[0]


def test_a_server_that_went_away_is_asked_no_more_and_nothing_is_lost(night: Night) -> None:
    away = OllamaUnreachable("Ollama cannot be reached.")
    incumbent = Incumbent(fails={B: away, C: away, D: away})
    assert counts(night.draw(incumbent, [A, B, C, D, E])) == [2, 0, 0, 0, 0]
    assert incumbent.prompts() == "AAB"
    assert night.listener.notes == [
        "m:1 is asked for no more answers to rank. Ollama cannot be reached. Those that it gave count."
    ]
    incumbent.fails.clear()
    assert counts(night.draw(incumbent, [A, B])) == [2, 2]


def test_a_model_that_never_ends_is_given_up_and_those_in_between_count_in_no_row(night: Night) -> None:
    incumbent = Incumbent(cut_off=[A, C, D])
    assert counts(night.draw(incumbent, [A, B, C, D, E])) == [0, 2, 0, 0, 0]
    assert "(it does not end within 64 tokens)" in night.listener.notes[0]
    # what is known to fail is no further failure
    assert counts(night.draw(incumbent, [A, B, C, D, E])) == [0, 2, 0, 0, 2]


def test_how_far_it_is_is_told(night: Night) -> None:
    night.draw(Incumbent(), [A])
    night.listener.told.clear()
    night.draw(Incumbent(), [A, B])
    assert night.listener.told == [
        (0, 2, "m:1: answer 1 of at most 2 to rank"),
        (1, 2, "m:1: answer 2 of at most 2 to rank"),
    ]


# --------------------------------------------------------------------------- what is kept

QUESTION = Question.drawn(A, pinned_options(EXAM, 0))


def test_each_model_has_a_file_and_those_that_were_long_not_asked_go(tmp_path: Path) -> None:
    directory = tmp_path / "answers"
    for number in range(MOST_MODELS):
        KeptAnswers(directory, f"{number:02}", Incumbent()).ask(QUESTION)
        os.utime(directory / f"{number:02}.jsonl", (1000 + number, 1000 + number))
    for digest in ("00", "new"):
        assert KeptAnswers(directory, digest, None).is_known(QUESTION) == (digest == "00")
    names = {f"{number:02}.jsonl" for number in range(2, MOST_MODELS)}
    assert {one.name for one in directory.iterdir()} == {"00.jsonl", "new.jsonl", *names}


def test_nothing_is_written_before_anything_is_looked_for(tmp_path: Path) -> None:
    kept = KeptAnswers(tmp_path / "answers", "m", Incumbent())
    assert not (tmp_path / "answers").exists()
    assert kept.whole(QUESTION) is None
    assert (tmp_path / "answers").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("incumbent", "raised", "is_kept"),
    [
        (Incumbent(cut_off=[A]), Unanswered, True),
        (Incumbent(thinks=[A]), Unanswered, True),
        (Incumbent(fails={A: OllamaInterrupted("It broke off.")}), Unanswered, False),
        (Incumbent(fails={A: OllamaRefused("It is too long.", status=400)}), NotTaken, False),
        (Incumbent(fails={A: OllamaUnreachable("It is away.")}), OllamaUnreachable, False),
        (None, Unanswered, False),
    ],
)
def test_what_is_no_whole_answer_is_kept_as_none_where_the_model_gave_it(
    tmp_path: Path, incumbent: Incumbent | None, raised: type[Exception], is_kept: bool
) -> None:
    kept = KeptAnswers(tmp_path, "m", incumbent)
    with pytest.raises(raised):
        kept.ask(QUESTION)
    assert kept.whole(QUESTION) is None
    assert KeptAnswers(tmp_path, "m", None).is_known(QUESTION) == kept.is_known(QUESTION) == is_kept
