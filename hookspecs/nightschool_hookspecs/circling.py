"""Whether an answer runs in circles, as those of a model that does not know how to end one."""


def runs_in_circles(text: str, *, words: int = 4, fewest_words: int = 12, largest_share: float = 0.5) -> bool:
    """Whether of an answer's sequences of so many words more than a share came before in it.

    An answer of fewer than `fewest_words` does not.
    """
    found = text.split()
    if len(found) < fewest_words:
        return False
    sequences = [tuple(found[start : start + words]) for start in range(len(found) - words + 1)]
    return 1 - len(set(sequences)) / len(sequences) > largest_share
