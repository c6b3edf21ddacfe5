"""How alike two texts are by the word groups they share: smoothed sentence BLEU.

similarity = BLEU(left against right) / 100          two equal texts: 1

BLEU up to four words, with exponential smoothing, over the lengths that the texts have (`effective_order`: else every
text of fewer than four words scores 0). Tokens and counts are sacrebleu's; each text is counted once, however many it
is compared with. Source: Papineni et al. 2002; Chen and Cherry 2014, method 3.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from nightschool_hookspecs import Embed, Matrix, SimilarityMatrix, hookimpl

LONGEST = 4
"""Words of the longest group that is counted."""

Words = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class SimilarityBleu:
    """`[plugins.similarity_bleu]`"""

    weight: float = 0.3
    """Share in the combined similarity."""

    @hookimpl
    def nightschool_measure_similarity(
        self, left: Sequence[str], right: Sequence[str], embed: Embed
    ) -> SimilarityMatrix:
        return SimilarityMatrix(metric="bleu", weight=self.weight, matrix=_compare(left, right))


@dataclass(frozen=True, kw_only=True)
class _Counted:
    """A text with its word groups and how often it has them."""

    text: str
    words: int
    groups: Counter[Words]


def _compare(left: Sequence[str], right: Sequence[str]) -> Matrix:
    import numpy

    counted = _count(dict.fromkeys([*left, *right]))
    table = numpy.empty((len(left), len(right)), dtype=numpy.float32)
    for row, text in enumerate(left):
        table[row] = [_score(counted[text], counted[other]) for other in right]
    return Matrix(values=table.ravel().data, rows=len(left), columns=len(right))


def _count(texts: dict[str, None]) -> dict[str, _Counted]:
    from sacrebleu.metrics.helpers import extract_all_word_ngrams
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    tokenize = Tokenizer13a()
    counted: dict[str, _Counted] = {}
    for text in texts:
        groups, words = extract_all_word_ngrams(tokenize(text.rstrip()), 1, LONGEST)
        counted[text] = _Counted(text=text, words=words, groups=groups)
    return counted


def _score(given: _Counted, reference: _Counted) -> float:
    from sacrebleu.metrics.bleu import BLEU

    if given.text == reference.text or not (given.words or reference.words):
        return 1.0
    correct, total = [0] * LONGEST, [max(0, given.words - length) for length in range(LONGEST)]
    for group in given.groups.keys() & reference.groups.keys():
        correct[len(group) - 1] += min(given.groups[group], reference.groups[group])
    found = BLEU.compute_bleu(correct, total, given.words, reference.words, smooth_method="exp", effective_order=True)
    return min(1.0, max(0.0, float(found.score) / 100))


@hookimpl
def nightschool_register_settings() -> type[SimilarityBleu]:
    return SimilarityBleu
