"""When a question in other words may stand before the same answer."""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightschool_hookspecs import Chunk, GenerationError, Message, Role, TrainingExample
from nightschool_hookspecs.testing import FakeGenerate, FakeMeasure
from nightschool_hookspecs.variants import (
    SENTENCE,
    AskedModel,
    AskingSettings,
    Draft,
    VariantSettings,
    keeps,
    literals,
    question_of,
    shared_words,
    with_question,
)

ANY = VariantSettings(least_alike=0.0, most_same_words=1.0, variants_per_example=2)


def example(question: str, *, target: str = "done", number: int = 0) -> TrainingExample:
    messages = (Message(role=Role.USER, content=question),)
    return TrainingExample(event_id=f"s/{number}", messages=messages, target=target, prompt=question)


def texts(found: Sequence[TrainingExample]) -> list[str]:
    return [one.prompt for one in found]


def saying(*answers: str) -> Draft:
    left = list(answers)

    def draft(of: TrainingExample, question: str, chance: random.Random) -> str | None:
        return left.pop(0) if left else None

    return draft


# --------------------------------------------------------------------------- what must stay


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("copy src/a.txt to ../b, then cd ..", ("src/a.txt", "../b", "..")),
        ("go to . (the one with .bashrc).", (".", ".bashrc")),
        ("sort with -n and --key=2, not reversed", ("-n", "--key=2")),
        ('say "hello there", or `ls`', ('"hello there"', "`ls`")),
        ("find *.py files, 10 or 2.5 MB", ("*.py", "10", "2.5", "MB")),
        ("call getName of my_class in os.path", ("getName", "my_class", "os.path")),
        ("show $HOME of user@host", ("$HOME", "user@host")),
        ("open https://example.org/a?b=1.", ("https://example.org/a?b=1",)),
        ("restart the container web-front", ("web-front",)),
        ("the dogs' food isn't here. Really?", ()),
    ],
)
def test_literals(text: str, found: tuple[str, ...]) -> None:
    assert literals(text) == found


ARCHITECTURE = "The payment service keeps its orders in one table of the shop. See `orders`."


@pytest.mark.parametrize(
    ("question", "variant", "answer"),
    [
        ("count the lines of a.txt", "how many lines has a.txt", "wc -l a.txt"),
        ("delete files that are not empty", "remove files which aren't empty", "rm"),
        ("make a directory called backup", "create a folder named backup", "mkdir backup"),
        ("how do I tell Ada where Paris is", "in which way can I tell Ada where Paris is", "Say it."),
        ("describe the payment service of a shop", "say what the payment part of a shop does", ARCHITECTURE),
    ],
)
def test_the_same_question_in_other_words(question: str, variant: str, answer: str) -> None:
    assert keeps(question, variant, answer)


@pytest.mark.parametrize(
    ("question", "variant", "answer"),
    [
        ("count the lines of a.txt", "count the lines of b.txt", "wc -l"),
        ("count the lines of a.txt", "count the lines of the file", "wc -l"),
        ("count the lines", "count the first 10 lines", "wc -l"),
        ("copy a.txt to b.txt", "copy b.txt to a.txt", "cp"),
        ("say 'yes' twice", "say 'no' twice", "echo"),
        ("sort by -n", "sort by number", "sort"),
        ("delete files that are not empty", "delete files that are empty", "rm"),
        ("show the newest file", "show the oldest file", "ls"),
        ("show two lines", "show three lines", "head"),
        ("make a directory called backup", "make a directory called copies", "mkdir backup"),
        ("tell me where Paris is", "tell me where the city is", "In France."),
        ("tell me where the city is", "tell me where Paris is", "In France."),
    ],
)
def test_another_question(question: str, variant: str, answer: str) -> None:
    assert not keeps(question, variant, answer)


def test_an_answer_rests_on_no_word_of_its_sentences() -> None:
    assert shared_words("mkdir it: where the orders are kept in one table", ARCHITECTURE) == {"orders"}
    assert shared_words("list the users of a table", "SELECT name FROM users") == {"users"}


@given(
    st.lists(
        st.sampled_from(["word", "x", "9", "_", "\u00e9", " ", " ", " ", ", ", "'", "-", ".", "!", "\n"]), max_size=400
    )
)
def test_sentences_are_those_that_going_back_over_words_would_find(parts: list[str]) -> None:
    greedy = re.compile(SENTENCE.pattern.replace("++", "+").replace("}+", "}"))
    assert greedy.pattern != SENTENCE.pattern
    text = "".join(parts)
    assert [one.span() for one in SENTENCE.finditer(text)] == [one.span() for one in greedy.finditer(text)]


def test_sentences_that_are_too_long_are_those_that_going_back_over_words_would_find() -> None:
    greedy = re.compile(SENTENCE.pattern.replace("++", "+").replace("}+", "}"))
    for words in (5, 6, 200, 201, 202, 500):
        text = " ".join(["word"] * words) + "."
        assert [one.span() for one in SENTENCE.finditer(text)] == [one.span() for one in greedy.finditer(text)]


# --------------------------------------------------------------------------- the question of an example


def test_a_question_is_told_from_the_texts_around_it() -> None:
    shown = (Message(role=Role.SYSTEM, content="be brief"), Message(role=Role.USER, content="[1] man ls\n\nlist files"))
    asked = replace(example("list files"), messages=shown, chunks=(Chunk(text="man ls"),))
    assert question_of(asked) == "list files"
    variant = with_question(asked, "list files", "show files")
    assert variant.messages == (shown[0], Message(role=Role.USER, content="[1] man ls\n\nshow files"))
    assert (variant.prompt, variant.parent, variant.target) == ("show files", "s/0", "done")


@pytest.mark.parametrize(
    "untold",
    [
        replace(example("list files"), messages=()),
        replace(example("list files"), messages=(Message(role=Role.ASSISTANT, content="list files"),)),
        replace(example("ls"), messages=(Message(role=Role.USER, content="[1] man ls\n\nls"),)),
        replace(example("list files"), messages=(Message(role=Role.USER, content="list them"),)),
        replace(example(""), chunks=(Chunk(text="man ls"),)),
        example("  "),
    ],
)
def test_where_it_cannot_be_told_nothing_is_varied(untold: TrainingExample) -> None:
    assert question_of(untold) is None
    assert ANY.vary([untold], saying("show files"), FakeMeasure(), 1) == ()


# --------------------------------------------------------------------------- the loop


@pytest.mark.parametrize(
    ("settings", "text", "kept"),
    [
        (ANY, "show all files here", True),
        (ANY, "  List, all files HERE. ", False),
        (ANY, "list", False),
        (ANY, "list all files here and tell me a long story about them", False),
        (ANY, "show all\nfiles here", False),
        (replace(ANY, least_alike=0.5), "show all files here", True),
        (replace(ANY, least_alike=0.7), "show all files here", False),
        (replace(ANY, most_same_words=0.7), "show all files here", False),
    ],
)
def test_a_variant_is_kept_where_it_is_close_and_differs_in_words(
    settings: VariantSettings, text: str, kept: bool
) -> None:
    found = settings.vary([example("list all files here")], saying(text), FakeMeasure(), 1)
    assert texts(found) == ([text] if kept else [])
    assert all(one.parent == "s/0" and one.target == "done" for one in found)


def test_no_variant_is_made_twice_and_none_of_a_variant() -> None:
    original = example("list all files here")
    assert texts(ANY.vary([original], saying("show all files here", "Show all files here!"), FakeMeasure(), 1)) == [
        "show all files here"
    ]
    assert ANY.vary([replace(original, parent="s/9")], saying("show all files here"), FakeMeasure(), 1) == ()


def test_the_second_variant_of_one_comes_after_the_first_of_all() -> None:
    examples = [example("list all files here", number=number) for number in range(3)]
    answers = [f"{verb} all files here" for verb in "abcdef"]
    found = ANY.vary(examples, saying(*answers), FakeMeasure(), 1)
    assert texts(found) == answers
    assert len({one.parent for one in found[:3]}) == 3


@pytest.mark.parametrize("seed", range(4))
def test_those_come_first_at_which_the_model_fails(seed: int) -> None:
    examples = [
        replace(example("list all files here", number=number), hardness=hardness)
        for number, hardness in enumerate([1.0, 1.0, 3.0, 1.0, 2.0])
    ]
    answers = [f"{verb} all files here" for verb in "abcde"]
    settings = replace(ANY, variants_per_example=1)
    assert [one.parent for one in settings.vary(examples, saying(*answers), FakeMeasure(), seed)][:2] == ["s/2", "s/4"]


PLAIN = ("list", "show", "all", "files", "lines", "please", "which", "are", "here", "sorted")
LITERAL = ("-a", "--all", "src/b.c", "42", "a_b", "getName", '"x"', "*.py", "web-1")
QUESTIONS = st.lists(st.sampled_from(PLAIN) | st.sampled_from(LITERAL), min_size=1, max_size=12).map(" ".join)


def mangled(of: TrainingExample, question: str, chance: random.Random) -> str:
    """The question with some words lost, exchanged, doubled or invented."""
    words = question.split()
    for _ in range(chance.randrange(3)):
        place = chance.randrange(len(words))
        words[place : place + 1] = chance.choice([[], ["which"], [words[place]] * 2, ["7"], [words[-1]]]) or ["one"]
    return " ".join(words)


@given(st.lists(QUESTIONS, max_size=6), st.integers(1, 2), st.integers())
def test_no_literal_is_lost_whatever_a_model_says(questions: list[str], each: int, seed: int) -> None:
    examples = [example(text, number=number) for number, text in enumerate(questions)]
    settings = replace(ANY, variants_per_example=each)
    found = settings.vary(examples, mangled, FakeMeasure(), seed)
    assert len(found) <= each * len(examples)
    for variant in found:
        original = questions[int(str(variant.parent).removeprefix("s/"))]
        plain = {*PLAIN, "one"}
        assert [word for word in variant.prompt.split() if word not in plain] == [
            word for word in original.split() if word not in plain
        ]
    assert found == settings.vary(examples, mangled, FakeMeasure(), seed)


# --------------------------------------------------------------------------- asking a model


@dataclass
class Unreliable:
    """`Generate` that fails where its list says so."""

    fails: list[bool]
    asked: int = 0

    def __call__(self, messages: Sequence[Message], *, max_tokens: int, temperature: float, seed: int) -> str:
        self.asked += 1
        if self.fails and self.fails.pop(0):
            raise GenerationError("no answer")
        return "well"


def test_a_failure_costs_one_answer_and_a_few_in_a_row_end_it() -> None:
    model = Unreliable([True, True, False, True, True, True])
    asked = AskedModel(model, AskingSettings(temperature=0.5))
    assert [asked.ask("?", "?", random.Random(1)) for _ in range(9)] == [None, None, "well", *[None] * 6]
    assert model.asked == 6
    assert not asked.can_answer(1)


def test_the_budget_is_kept() -> None:
    model = Unreliable([])
    asked = AskedModel(model, AskingSettings(most_questions=3, temperature=0.5))
    assert [asked.ask("?", "?", random.Random(1)) for _ in range(5)] == ["well"] * 3 + [None] * 2
    assert model.asked == 3
    assert asked.can_answer(0)


@pytest.mark.parametrize(
    ("said", "text"),
    [
        (' "show all files" ', "show all files"),
        ("<think>hm</think>\nshow all files", "show all files"),
        ("Sure! show all files", None),
        ("Here's the request: show all files", None),
        ("Rewritten request: show all files", None),
        ("  ", None),
    ],
)
def test_what_a_model_says_of_its_task_is_no_question(said: str, text: str | None) -> None:
    assert AskedModel(FakeGenerate([said]), AskingSettings(temperature=0.5)).ask("?", "?", random.Random(1)) == text


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"variants_per_example": 0}, "1 or 2"),
        ({"variants_per_example": 3}, "1 or 2"),
        ({"least_alike": 1.1}, "least_alike"),
        ({"most_same_words": -0.1}, "most_same_words"),
        ({"most_questions": 0}, "most_questions"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"longest_question": 0}, "longest_question"),
        ({"failures_in_a_row": 0}, "failures_in_a_row"),
    ],
)
def test_settings_are_checked(settings: dict[str, int], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        AskingSettings(**settings)


@pytest.mark.parametrize(
    ("question", "variant"),
    [
        ("Enable the firewall", "Disable the firewall"),
        ("Stop the web server please", "Please start the web server"),
        ("Show the running containers", "Show the stopped containers"),
        ("List hidden files here", "List the files in this place"),
        ("Merge the branch into trunk", "Combine the branch with trunk"),
    ],
)
def test_an_opposite_or_a_lost_scope_is_no_variant(question: str, variant: str) -> None:
    assert not keeps(question, variant, "git merge branch")


def test_words_that_mean_the_same_are_no_opposites() -> None:
    assert keeps("Show all files and remove old ones", "List all files and delete old ones", "rm")
