"""Variants in other words, by way of another language, with synonyms, with other retrieved texts."""

import re
from collections.abc import Sequence
from dataclasses import replace
from importlib import resources

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightschool_hookspecs import Chunk, GenerationError, Message, Role, TrainingExample
from nightschool_hookspecs.testing import FakeGenerate, FakeMeasure, FakeRetrieve
from nightschool_hookspecs.variants import DECIDING, literals
from nightschool_plugins.augmentation_backtranslate import AugmentationBacktranslate, language_of
from nightschool_plugins.augmentation_context import AugmentationContext
from nightschool_plugins.augmentation_paraphrase import AugmentationParaphrase
from nightschool_plugins.augmentation_synonyms import AugmentationSynonyms, synonyms

QUESTION = "list all files in src/b.c that end with 42"


def example(question: str, *, target: str = "done", number: int = 0) -> TrainingExample:
    messages = (Message(role=Role.USER, content=question),)
    return TrainingExample(event_id=f"s/{number}", messages=messages, target=target, prompt=question)


def texts(found: Sequence[TrainingExample]) -> list[str]:
    return [one.messages[-1].content for one in found]


def fails(messages: Sequence[Message], *, max_tokens: int, temperature: float, seed: int) -> str:
    raise GenerationError("no answer")


class Counts:
    """`Generate` that says one text and keeps the bounds it was asked with."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens: list[int] = []
        self.seeds: list[int] = []

    def __call__(self, messages: Sequence[Message], *, max_tokens: int, temperature: float, seed: int) -> str:
        self.tokens.append(max_tokens)
        self.seeds.append(seed)
        return self.text


# --------------------------------------------------------------------------- paraphrase


def test_a_paraphrase_is_asked_for_with_what_must_stay() -> None:
    model = FakeGenerate(["show me all files of src/b.c that end with 42"])
    found = AugmentationParaphrase().nightschool_augment_examples((example(QUESTION),), model, FakeMeasure(), 1)
    assert texts(found) == ["show me all files of src/b.c that end with 42"]
    assert [(one.parent, one.target) for one in found] == [("s/0", "done")]
    (asked,) = model.asked
    assert QUESTION in asked[-1].content
    assert "letter for letter" in asked[-1].content


@pytest.mark.parametrize(
    "said",
    [
        QUESTION,
        "show me all files of src/b.d that end with 42",
        "show me all files of src/b.c that end with 43",
        "ls src/b.c | grep 42",
        "",
    ],
)
def test_a_paraphrase_that_breaks_a_rule_is_dropped(said: str) -> None:
    plugin = AugmentationParaphrase()
    assert plugin.nightschool_augment_examples((example(QUESTION),), FakeGenerate([said]), FakeMeasure(), 1) == ()


def test_questions_and_tokens_of_a_night_are_bounded() -> None:
    plugin = AugmentationParaphrase(most_questions=7, max_tokens=50, variants_per_example=2)
    model = Counts("show me all files of src/b.c that end with 42")
    examples = tuple(example(QUESTION, number=number) for number in range(20))
    found = plugin.nightschool_augment_examples(examples, model, FakeMeasure(), 1)
    assert len(found) == 7
    assert model.tokens == [50] * 7
    assert len(set(model.seeds)) == 7


@pytest.mark.parametrize(("question", "tokens"), [("list ä", 7 + 16), ("list " * 100, 256)])
def test_an_answer_gets_tokens_by_the_length_of_its_question(question: str, tokens: int) -> None:
    model = Counts("show")
    AugmentationParaphrase().nightschool_augment_examples((example(question),), model, FakeMeasure(), 1)
    assert model.tokens == [tokens]


def test_a_long_question_is_not_asked_anew() -> None:
    plugin, model = AugmentationParaphrase(longest_question=10), FakeGenerate()
    assert plugin.nightschool_augment_examples((example(QUESTION),), model, FakeMeasure(), 1) == ()
    assert model.asked == []


@pytest.mark.parametrize("plugin", [AugmentationParaphrase(), AugmentationBacktranslate()])
def test_a_model_that_does_not_answer_leaves_the_originals(
    plugin: AugmentationParaphrase | AugmentationBacktranslate,
) -> None:
    examples = tuple(example(QUESTION, number=number) for number in range(5))
    assert plugin.nightschool_augment_examples(examples, fails, FakeMeasure(), 1) == ()


# --------------------------------------------------------------------------- back-translation


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("list the files of a directory", "en"),
        ("liste alle Dateien in dem Verzeichnis auf", "de"),
        ("affiche les fichiers du dossier", "fr"),
        ("muestra los archivos de la carpeta", "es"),
        ("mostra i file nella cartella", "it"),
        ("toon het bestand en de map", "nl"),
        ("mostre os arquivos da pasta", "pt"),
        ("show running processes", "en"),
        ("zażółć gęślą jaźń", None),
        ("列出所有文件", None),
        ("42", None),
    ],
)
def test_the_language_of_a_text(text: str, language: str | None) -> None:
    assert language_of(text) == language


def test_english_goes_by_way_of_french_and_comes_back() -> None:
    model = FakeGenerate(["affiche tous les fichiers", "show all the files of src/b.c that end with 42"])
    found = AugmentationBacktranslate().nightschool_augment_examples((example(QUESTION),), model, FakeMeasure(), 1)
    assert texts(found) == ["show all the files of src/b.c that end with 42"]
    there, back = (asked[-1].content for asked in model.asked)
    assert "from English into French" in there
    assert QUESTION in there
    assert "from French into English" in back
    assert "affiche tous les fichiers" in back


def test_another_language_goes_by_way_of_english() -> None:
    model = FakeGenerate(["list all files of the folder", "zeige alle Dateien in dem Verzeichnis"])
    question = "liste alle Dateien in dem Verzeichnis"
    found = AugmentationBacktranslate().nightschool_augment_examples((example(question),), model, FakeMeasure(), 1)
    assert texts(found) == ["zeige alle Dateien in dem Verzeichnis"]
    assert "from German into English" in model.asked[0][-1].content


def test_what_comes_back_in_another_language_is_dropped() -> None:
    plugin = AugmentationBacktranslate(least_alike=0.0)
    model = FakeGenerate(["affiche les fichiers", "affiche tous les fichiers de src/b.c qui 42 pour moi"])
    assert plugin.nightschool_augment_examples((example(QUESTION),), model, FakeMeasure(), 1) == ()


def test_a_text_of_an_untold_language_is_left_alone() -> None:
    model = FakeGenerate()
    plugin = AugmentationBacktranslate()
    assert plugin.nightschool_augment_examples((example("列出所有文件"),), model, FakeMeasure(), 1) == ()
    assert model.asked == []


def test_half_a_translation_is_not_begun() -> None:
    model = Counts("show all the files of src/b.c that end with 42")
    plugin = AugmentationBacktranslate(most_questions=5)
    examples = tuple(example(QUESTION, number=number) for number in range(9))
    assert len(plugin.nightschool_augment_examples(examples, model, FakeMeasure(), 1)) == 2
    assert len(model.tokens) == 4


@pytest.mark.parametrize(
    ("settings", "sentence"), [({"pivot": "en"}, "pivot"), ({"pivot": "tlh"}, "pivot"), ({"max_tokens": 0}, "max_tok")]
)
def test_settings_of_the_translation_are_checked(settings: dict[str, str], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        AugmentationBacktranslate(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("plugin", [AugmentationParaphrase, AugmentationBacktranslate])
def test_a_temperature_is_checked(plugin: type[AugmentationParaphrase | AugmentationBacktranslate]) -> None:
    with pytest.raises(ValueError, match="temperature"):
        plugin(temperature=-0.1)


# --------------------------------------------------------------------------- synonyms


def synonym_texts(question: str, *, target: str = "done", words: int = 1) -> set[str]:
    plugin = AugmentationSynonyms(least_alike=0.0, words_per_variant=words, variants_per_example=2)
    asked = (example(question, target=target),)
    return {
        text
        for seed in range(40)
        for text in texts(plugin.nightschool_augment_examples(asked, FakeGenerate(), FakeMeasure(), seed))
    }


@pytest.mark.parametrize(
    ("question", "found"),
    [
        ("Show all files", {"Display all files"}),
        ("please delete it all", {"please erase it all", "please remove it all", "kindly delete it all"}),
        ("print the list", {"output the list"}),
        ("create a folder", {"make a folder", "create a directory"}),
        ("make a folder", {"make a directory"}),
        ("how to find them", {"how to locate them"}),
        ("say `delete` or big/folder or the-folder", set()),
        ("I had an enormous pile", {"I had an immense pile"}),
        ("DELETE them", set()),
    ],
)
def test_words_give_way_where_they_may(question: str, found: set[str]) -> None:
    assert synonym_texts(question) == found


def test_a_word_of_the_answer_stays() -> None:
    assert synonym_texts("find the big files", target="find . -size +1M") == {"find the large files"}


@pytest.mark.parametrize(
    ("question", "target"),
    [
        ("find the big files", "find . -size +1M"),
        ("say 'quickly usually often', big one", "done"),
        ("DELETE or ERASE or REMOVE the big one", "done"),
    ],
)
def test_no_variant_is_wasted_on_a_word_that_must_stay(question: str, target: str) -> None:
    plugin, asked = AugmentationSynonyms(least_alike=0.0, words_per_variant=1), (example(question, target=target),)
    for seed in range(20):
        (text,) = texts(plugin.nightschool_augment_examples(asked, FakeGenerate(), FakeMeasure(), seed))
        assert text == question.replace("big", "large")


def test_two_words_give_way_at_once() -> None:
    assert "remove the large file now" in synonym_texts("delete the big file now", words=2)


def test_the_list_of_synonyms_is_sound() -> None:
    file = resources.files("nightschool_plugins").joinpath("data/synonyms.txt").read_text(encoding="utf-8")
    lines = [line for line in file.splitlines() if line and line[0] not in "#["]
    assert all(re.fullmatch(r"[a-z]+(, [a-z]+)*( > [a-z]+)?(, [a-z]+)*", line) for line in lines)
    known = synonyms()
    assert len(known.verbs) + len(known.words) > 200
    for section in (known.verbs, known.words):
        assert all(others and word not in others for word, others in section.items())
    # a word stands in one group only, and what must stay in any variant in none
    words = [word for line in lines for word in re.findall("[a-z]+", line)]
    assert len(words) == len(set(words))
    assert DECIDING.isdisjoint(words)


WORDS = st.sampled_from(
    [*synonyms().verbs, *synonyms().words, "the", "a", "an", "src/a.b", "--big", '"folder"', "please"]
)


@given(st.lists(WORDS, min_size=1, max_size=15).map(" ".join), st.integers(), st.integers(1, 4))
def test_synonyms_lose_no_literal_and_repeat_themselves(question: str, seed: int, words: int) -> None:
    plugin = AugmentationSynonyms(least_alike=0.0, words_per_variant=words, variants_per_example=2)
    asked = (example(question),)
    found = plugin.nightschool_augment_examples(asked, FakeGenerate(), FakeMeasure(), seed)
    assert len(found) <= 2
    assert found == plugin.nightschool_augment_examples(asked, FakeGenerate(), FakeMeasure(), seed)
    for text in texts(found):
        assert literals(text) == literals(question)
        pairs = zip(question.split(), text.split(), strict=True)
        assert 1 <= sum(old != new for old, new in pairs) <= words


def test_settings_of_the_synonyms_are_checked() -> None:
    with pytest.raises(ValueError, match="words_per_variant"):
        AugmentationSynonyms(words_per_variant=0)


# --------------------------------------------------------------------------- context

NEEDED = Chunk(text="the option -a shows hidden files")
SPARE = Chunk(text="a tool that prints calendars")
OTHER = Chunk(text="a tool that prints dates")
ALL = AugmentationContext(variants_per_example=2, least_alike=0.0)


def retrieved(*chunks: Chunk, target: str = "ls -a", question: str = "which tool prints them?") -> TrainingExample:
    content = "\n".join([*(f"[{number}] {one.text}" for number, one in enumerate(chunks, start=1)), "", question])
    return replace(
        example(question, target=target), messages=(Message(role=Role.USER, content=content),), chunks=chunks
    )


def contexts(
    given_example: TrainingExample, plugin: AugmentationContext = ALL, found: Sequence[Chunk] = (OTHER,)
) -> set[tuple[Chunk, ...]]:
    return {
        chunks
        for seed in range(40)
        for chunks in plugin.nightschool_vary_context(given_example, FakeRetrieve(found), FakeMeasure(), seed)
    }


def test_texts_are_dropped_exchanged_and_reordered_but_for_what_the_answer_rests_on() -> None:
    target = "ls with the option -a"
    assert contexts(retrieved(NEEDED, SPARE, target=target)) == {(NEEDED,), (NEEDED, OTHER), (SPARE, NEEDED)}


@pytest.mark.parametrize(
    "untouched",
    [
        retrieved(SPARE, target="see [1]"),
        retrieved(),
        retrieved(NEEDED, target="the option"),
        replace(retrieved(SPARE), messages=(Message(role=Role.USER, content="which tool prints them?"),)),
        retrieved(SPARE, question=f"{SPARE.text}: which tool prints them?"),
        replace(retrieved(SPARE), messages=()),
        replace(retrieved(SPARE), messages=(Message(role=Role.SYSTEM, content=SPARE.text), *retrieved(SPARE).messages)),
    ],
)
def test_what_cannot_be_varied_stays(untouched: TrainingExample) -> None:
    assert contexts(untouched) == set()


def test_a_text_that_did_not_fit_is_left_where_it_is_and_the_others_are_varied() -> None:
    full = retrieved(NEEDED, SPARE, target="ls with the option -a")
    assert contexts(replace(full, chunks=(OTHER, *full.chunks))) == contexts(full) != set()


def test_what_has_nothing_to_do_with_it_takes_no_place() -> None:
    strange = Chunk(text="zebras graze")
    strict = replace(ALL, least_alike=0.3)
    assert contexts(retrieved(SPARE), strict, [strange]) == set()
    assert contexts(retrieved(SPARE), strict, [strange, OTHER]) == {(OTHER,)}


def test_nothing_is_exchanged_where_nothing_is_looked_for() -> None:
    assert contexts(retrieved(SPARE), replace(ALL, searched=0)) == set()


def test_the_query_is_varied() -> None:
    asked: list[str] = []

    def retrieve(query: str, *, limit: int) -> tuple[Chunk, ...]:
        asked.append(query)
        return ()

    given_example = retrieved(SPARE, question="which tool prints the dates of a month")
    for seed in range(20):
        ALL.nightschool_vary_context(given_example, retrieve, FakeMeasure(), seed)
    assert len(set(asked)) > 5
    words = given_example.prompt.split()
    for query in asked:
        places = [words.index(word) for word in query.split()]
        assert places == sorted(places)
        assert len(places) == round(0.6 * len(words))


@given(
    st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=5, unique=True),
    st.sets(st.sampled_from("abcdefghxyz"), max_size=4),
    st.integers(),
    st.integers(1, 2),
)
def test_no_word_of_the_answer_that_was_shown_is_lost(names: list[str], wanted: set[str], seed: int, each: int) -> None:
    chunks = tuple(Chunk(text=f"word{name} here") for name in names)
    given_example = retrieved(*chunks, target=" ".join(f"word{name}" for name in sorted(wanted)) or "none")
    plugin = replace(ALL, variants_per_example=each)
    found = plugin.nightschool_vary_context(given_example, FakeRetrieve([OTHER]), FakeMeasure(), seed)
    assert len(found) <= each
    for varied in found:
        assert varied != chunks
        assert {f"word{name} here" for name in wanted & set(names)} <= {one.text for one in varied}
    assert found == plugin.nightschool_vary_context(given_example, FakeRetrieve([OTHER]), FakeMeasure(), seed)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"variants_per_example": 3}, "1 or 2"),
        ({"searched": -1}, "searched"),
        ({"query_share": 0}, "query_share"),
        ({"query_share": 1}, "query_share"),
        ({"least_alike": 2}, "least_alike"),
    ],
)
def test_settings_of_the_context_are_checked(settings: dict[str, int], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        AugmentationContext(**settings)
