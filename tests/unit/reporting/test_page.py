"""The page: sound HTML whatever stands in an answer, no script, nothing fetched, plots that are told in words too."""

import re
from datetime import timedelta

import html5lib
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nightschool_daemon.evaluation.similarity import no_embeddings
from nightschool_daemon.reporting import plots
from nightschool_daemon.reporting.page import html_of
from nightschool_daemon.reporting.records import IncomingPrompts, Question, TrackMaterial
from nightschool_daemon.reporting.sheet import PAGE_LETTERS, Picture
from nightschool_daemon.reporting.track import track_of
from nightschool_hookspecs.records import Specialty
from support.pages import elements, text_of
from support.seasons import night, said, sheet

HOSTILE = '</dd><script>alert(1)</script><img src="http://example.org/x" onerror=alert(2)>{{ 7 * 7 }}'
XHTML = "{http://www.w3.org/1999/xhtml}"
SPECIALTY = Specialty(base="tiny:1b", artifact_type="shell")


def questions(count: int = 6) -> list[Question]:
    texts = ("list files", "<b onload=x>", "$x^2$ costs $5", "列出文件", "a `b` & c", "z" * 300)
    return [
        Question(text=texts[number % len(texts)], before=10.0 * (number % 5), after=100.0 - number % 7)
        for number in range(count)
    ]


def material(exams: int = 5, feedback: int = 60) -> TrackMaterial:
    return TrackMaterial(
        specialty=SPECIALTY,
        exams=tuple(night(number, 2.0 * number, promoted=number % 2 == 0) for number in range(exams)),
        said=said([number < feedback // 2 for number in range(feedback)]),
        prompts=IncomingPrompts(),
    )


def pictures() -> list[Picture]:
    found = material()
    track = track_of(found, no_embeddings, 1)
    feedback = plots.feedback_picture(found.said, track)
    assert feedback is not None
    return [plots.exam_picture(questions()), plots.nights_picture(track), feedback]


# --------------------------------------------------------------------------- the page


def test_a_script_in_an_answer_is_text() -> None:
    page = html_of(sheet(HOSTILE))
    document = elements(page)
    assert not document("script")
    assert not document("img")
    assert HOSTILE in text_of(page)
    assert not re.search(r"<[^>]*\son\w+=", page)


def test_nothing_is_fetched_and_scripts_are_forbidden() -> None:
    page = html_of(sheet(HOSTILE).with_pictures("The exam", pictures()))
    policy = next(one for one in elements(page)("meta") if one.get("http-equiv") == "Content-Security-Policy")
    assert str(policy.get("content")).startswith("default-src 'none'")
    for name in ("script", "link", "iframe", "object", "img", "image", "base", "form"):
        assert not elements(page)(name)
    for one in elements(page)("*"):
        for key, value in one.attrib.items():
            if key.rpartition("}")[2] in ("href", "src", "action"):
                assert value.startswith("#"), (key, value)
    assert not re.search(r"url\((?!#)|@import", page)


def test_the_page_has_a_language_a_title_and_a_form_for_print() -> None:
    page = html_of(sheet())
    (root,) = elements(page)("html")
    assert root.get("lang") == "en"
    (title,) = elements(page)("title")
    assert title.text == "A better model is in use - Night School"
    assert "@media print" in page
    assert [one.text for one in elements(page)("code")] == ["ollama run it"]


def test_every_plot_says_in_words_what_it_shows() -> None:
    page = html_of(sheet().with_pictures("The exam", pictures()))
    held = [one for one in elements(page)("div") if one.get("role") == "img"]
    assert len(held) == len(elements(page)("svg")) == 3
    for one, picture in zip(held, pictures(), strict=True):
        assert one.get("aria-label") == f"{picture.title}. {picture.words}"
    ids = [str(one.get("id")) for one in elements(page)("*") if one.get("id")]
    assert len(ids) == len(set(ids))


@given(st.text())
@settings(max_examples=60)
def test_whatever_was_answered_the_page_is_sound_html(text: str) -> None:
    page = html_of(sheet(text))
    html5lib.HTMLParser(strict=True).parse(page)
    assert not elements(page)("script")


def test_a_page_with_plots_is_sound_html() -> None:
    html5lib.HTMLParser(strict=True).parse(html_of(sheet(HOSTILE).with_pictures("The exam", pictures())))


def test_a_long_answer_is_cut() -> None:
    page = html_of(sheet("x" * 100_000))
    for one in (*elements(page)("dd"), *elements(page)("blockquote")):
        assert len(one.text or "") == PAGE_LETTERS


def test_pieces_of_feedback_are_folded_away_and_printed() -> None:
    page = html_of(sheet("List files"))
    (folded,) = elements(page)("details")
    assert folded.get("open") is None
    (table,) = [one for one in elements(page)("table") if one.get("class") == "pieces"]
    rows = [[" ".join("".join(cell.itertext()).split()) for cell in line] for line in table.iter(f"{XHTML}tr")]
    assert rows[0] == [
        *("feedback", "score", "worth", "weight", "what became of it"),
        "the exam\N{RIGHT SINGLE QUOTATION MARK}s question most like it",
    ]
    assert rows[1:] == [
        [
            "List filescorrected: List files",
            "40",
            "+1.00",
            "1.50",
            "List files",
            "12 \N{RIGHTWARDS ARROW} 90 List files",
        ],
        ["List filescorrected: List files", "-", "-", "-", "List files", "-"],
    ]
    assert "details::details-content" in page.partition("@media print")[2]


def test_a_name_in_the_fate_of_a_piece_is_set_apart_as_in_any_sentence() -> None:
    made = sheet("It was first seen in the stage `easy`.")
    (table,) = [one for one in elements(html_of(made))("table") if one.get("class") == "pieces"]
    assert {one.text for one in table.iter(f"{XHTML}code")} == {"easy"}
    assert any("the stage easy." in "".join(cell.itertext()) for cell in table.iter(f"{XHTML}td"))


# --------------------------------------------------------------------------- plots


def labels(svg: str) -> list[str]:
    return [one.text or "" for one in elements(f"<!DOCTYPE html>{svg}")("text")]


def test_the_exam_is_drawn_question_by_question() -> None:
    picture = plots.exam_picture(questions())
    assert {"list files", "<b onload=x>", "$x^2$ costs $5", "列出文件", "before", "after"} <= set(labels(picture.svg))
    assert picture.words == "Of 6 questions 6 were answered better than before, 0 as well as before, 0 worse."


@pytest.mark.parametrize("count", [1, 41, 300])
def test_one_question_and_many_can_be_drawn(count: int) -> None:
    svg = plots.exam_picture(questions(count)).svg
    assert ("list files" in labels(svg)) == (count <= plots.LABELLED_ROWS)


@pytest.mark.parametrize("exams", [1, 2, 40])
def test_nights_are_drawn_however_many_there_are(exams: int) -> None:
    track = track_of(material(exams), no_embeddings, 1)
    picture = plots.nights_picture(track)
    dates = [one for one in labels(picture.svg) if re.fullmatch(r"\d\d \w{3}", one)]
    assert 1 <= len(dates) <= plots.NIGHTS_WITH_DATES
    assert "put into use" in labels(picture.svg)


def test_feedback_is_drawn_where_there_is_enough_and_its_change_is_marked() -> None:
    found = material()
    track = track_of(found, no_embeddings, 1)
    picture = plots.feedback_picture(found.said, track)
    assert picture is not None
    assert f"{found.said[0].at + timedelta(hours=30):%d %b %Y}" in "".join(labels(picture.svg))
    assert plots.feedback_picture((), track_of(material(feedback=5), no_embeddings, 1)) is None


def test_the_same_plot_is_the_same_text() -> None:
    assert plots.exam_picture(questions()).svg == plots.exam_picture(questions()).svg
