"""The client sees the name that it asked for, however a stream is cut, and nothing else changes."""

import itertools
import json

from hypothesis import given
from hypothesis import strategies as st

from nightschool_daemon.proxy.renaming import Renamer

TAG, ASKED = "llama3.2-nightschool:3b.shell.v2", "Llama3.2-nightschool:3b.shell"
TEXTS = st.text(max_size=30) | st.just(f'say "model":"{TAG}"')


def line(model: str, text: str) -> bytes:
    """A line as Ollama writes it."""
    value = {"model": model, "message": {"content": text}, "done": False}
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


@given(st.lists(TEXTS, max_size=8), st.lists(st.integers(0, 400), max_size=8), st.booleans())
def test_any_cut_of_a_stream_gives_the_same(texts: list[str], cuts: list[int], ends: bool) -> None:
    stream = b"".join(line(TAG, text) for text in texts)
    wanted = b"".join(line(ASKED, text) for text in texts)
    if not ends:
        stream, wanted = stream.rstrip(b"\n"), wanted.rstrip(b"\n")
    renamer = Renamer(TAG, ASKED)
    places = [0, *sorted(min(one, len(stream)) for one in cuts), len(stream)]
    got = b"".join(renamer.feed(stream[a:b]) for a, b in itertools.pairwise(places)) + renamer.end()
    assert got == wanted


def test_whole_lines_are_passed_on_at_once() -> None:
    renamer = Renamer(TAG, ASKED)
    assert renamer.feed(line(TAG, "a") + b'{"mod') == line(ASKED, "a")


def test_sentence_of_an_error_names_what_was_asked_for() -> None:
    answer = json.dumps({"error": f"model '{TAG}' is broken"}).encode()
    assert Renamer(TAG, ASKED).whole(answer, failed=True) == answer.replace(TAG.encode(), ASKED.encode())
