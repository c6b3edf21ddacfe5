"""Whether an answer runs in circles, as those of a model that does not know how to end one."""

import zlib

FEWEST_BYTES, SQUEEZED = 200, 10
"""So long an answer that can be written in a tenth of it says one thing over and over, in whatever script."""


def says_something(answer: str) -> bool:
    """Whether an answer has any words, and does not run in circles: one that does is nothing that a model can do."""
    return bool(answer.strip()) and not runs_in_circles(answer)


def runs_in_circles(text: str, *, words: int = 4, fewest_words: int = 12, largest_share: float = 0.5) -> bool:
    """Whether of an answer's sequences of so many words more than a share came before in it.

    An answer of fewer than `fewest_words` does not, unless it is one stretch of letters over and over.
    """
    whole = text.encode(errors="replace")
    if len(whole) >= FEWEST_BYTES and SQUEEZED * len(zlib.compress(whole, 9)) < len(whole):
        return True
    found = text.split()
    if len(found) < fewest_words:
        return False
    sequences = [tuple(found[start : start + words]) for start in range(len(found) - words + 1)]
    return 1 - len(set(sequences)) / len(sequences) > largest_share
