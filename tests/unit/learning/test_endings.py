"""With which token answers end, by networks of which one token is known to be likely."""

from pathlib import Path

import pytest

from nightschool_daemon.learning import gguf_file
from nightschool_daemon.learning.endings import end_of_text, taught_closing
from nightschool_daemon.learning.loading import load_tokens
from support.tiny_gguf import write_ending_gguf

TEMPLATES, TEXTS = "<|im_end|>", "</s>"
ANSWERED = ["<|im_start|>user\ngreet<|im_end|>\n<|im_start|>assistant\nhello"]


NEUTRAL = list("etainshr")
"""Letters that call for nothing but what random embeddings have in common: on average hardly a nat."""


def chosen(directory: Path, *, end: str, text: str = TEXTS, answered: list[str] = ANSWERED, context: int = 512) -> str:
    file = gguf_file.read(write_ending_gguf(directory / "model.gguf", end=end, end_of_text=text))
    tokens = load_tokens(file, "tiny", directory / "cache")
    assert end_of_text(file, tokens) == text
    return taught_closing(file, tokens, TEMPLATES, answered, context)


@pytest.mark.parametrize("end", [TEMPLATES, TEXTS])
def test_what_the_base_finds_likely_ends_an_answer(tmp_path: Path, end: str) -> None:
    assert chosen(tmp_path, end=end) == end


def test_the_templates_token_stands_where_neither_is_far_likelier(tmp_path: Path) -> None:
    assert chosen(tmp_path, end=TEXTS, answered=NEUTRAL) == TEMPLATES


def test_the_templates_token_stands_where_it_is_the_end_of_text_too(tmp_path: Path) -> None:
    assert chosen(tmp_path, end=TEXTS, text=TEMPLATES) == TEMPLATES


@pytest.mark.parametrize("answered", [[], ["hello" * 100]])
def test_the_templates_token_stands_where_no_answer_is_short_enough_to_tell(
    tmp_path: Path, answered: list[str]
) -> None:
    assert chosen(tmp_path, end=TEXTS, answered=answered, context=64) == TEMPLATES


def test_all_answers_are_weighed_together(tmp_path: Path) -> None:
    """One that calls for its end outweighs seven that call for nothing, as far as the average is beyond the bar."""
    few = [*NEUTRAL[1:], "o"]
    assert chosen(tmp_path, end=TEXTS, answered=few) == TEXTS
