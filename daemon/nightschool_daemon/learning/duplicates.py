"""Near-duplicates among many texts, without comparing all pairs.

Three stages, cheap to dear:

1. Equal texts are one. (The caller folds case, white space and closing punctuation first.)
2. A sketch finds pairs that share most of their wording: MinHash over groups of `SHINGLE` characters, in bands of rows;
   two texts that agree in all rows of any band are candidates (Broder 1997; Indyk and Motwani 1998). Of short texts a
   typo in every other word leaves few of these groups whole, so while they are few each is compared with each by its
   edits. Where there are vectors, pairs of a high cosine are candidates too: exactly, by blocked matrix products,
   since up to some hundred thousand texts no index pays.
3. The similarity plugins, which cost a thousand times more a pair, see candidates only.

Everything is deterministic: the hash functions are fixed, pairs come sorted.

With a Jaccard similarity s of the character groups a pair is found with probability 1 - (1 - s^5)^36: 0.95 at 0.6,
0.999 at 0.7, 0.09 at 0.3.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from nightschool_hookspecs.records import Matrix

Pairs: TypeAlias = NDArray[np.int64]
"""Shape (pairs, 2): two indices, the lower one first; sorted, each pair once."""
Vectors: TypeAlias = NDArray[np.float32]
"""Shape (texts, dimensions), rows of length 1."""

SHINGLE = 5
ROWS, BANDS = 5, 36
BINS = 20
"""Minima that one hash function gives: it is cut into so many ranges, each with a minimum of its own."""
FUNCTIONS = ROWS * BANDS // BINS
LOWEST_AGREEMENT = 0.5
"""Share of equal minima, an estimate of the Jaccard similarity, below which a candidate is dropped at once."""
SHORT = 200
"""Characters up to which texts are compared by their edits."""
MOST_COMPARED = 4_000_000
"""Pairs that are compared so; the sketch alone finds candidates among more."""
WINDOW = 64
"""Texts of one bucket that are paired with each other; of a larger bucket each with its next ones."""
TEXTS_AT_ONCE = 16384
"""Texts that are sketched at once, to bound the memory."""
TILE = 2048
"""Rows and columns of a block of cosines."""

SEED = 0x9E3779B97F4A7C15
EMPTY = np.uint32(0xFFFFFFFF)


def near_texts(texts: Sequence[str], *, since: int = 0) -> Pairs:
    """Pairs of texts that probably share most of their wording, with at least one at or behind index `since`."""
    sketches = sketch(texts)
    count = len(texts)
    found = [_encoded(_in_band(sketches, band), since, count) for band in range(BANDS)]
    codes = np.unique(np.concatenate(found)) if found else np.empty(0, np.int64)
    pairs = np.stack(np.divmod(codes, max(count, 1)), axis=1)
    return pairs[_agree(sketches, pairs)]


def near_wordings(texts: Sequence[str], threshold: float, *, since: int = 0) -> Pairs:
    """Every pair of short texts whose edit similarity is at least `threshold`, with at least one at or behind `since`.

    None where they are too many to compare.
    """
    from rapidfuzz.distance import Levenshtein
    from rapidfuzz.process import cdist

    short = np.array([place for place, text in enumerate(texts) if len(text) <= SHORT], np.int64)
    late = short[short >= since]
    if len(late) * len(short) > MOST_COMPARED:
        return np.empty((0, 2), np.int64)
    left, right = ([texts[place] for place in places] for places in (late, short))
    table = cdist(left, right, scorer=Levenshtein.normalized_similarity, score_cutoff=threshold, dtype=np.float32)
    rows, columns = np.nonzero(table >= np.float32(threshold))
    pairs = np.sort(np.stack([late[rows], short[columns]], axis=1), axis=1)
    return np.unique(pairs[pairs[:, 0] < pairs[:, 1]], axis=0)


def near_vectors(vectors: Vectors, threshold: float, *, since: int = 0) -> Pairs:
    """Every pair whose cosine is at least `threshold`, with at least one at or behind index `since`."""
    found = [np.empty((0, 2), np.int64)]
    for low, high, cosines in _tiles(vectors, since):
        rows, columns = np.nonzero(cosines >= threshold)
        pairs = np.stack([rows + low, columns + high], axis=1)
        found.append(pairs[pairs[:, 0] < pairs[:, 1]])
    pairs = np.concatenate(found)
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]


def keep_first(pairs: Pairs, count: int) -> NDArray[np.bool_]:
    """Which of `count` texts stay where every one that has an earlier one that stays as its near-duplicate goes."""
    kept = np.ones(count, np.bool_)
    for of_first in np.split(pairs, np.flatnonzero(np.diff(pairs[:, 0])) + 1) if len(pairs) else []:
        if kept[of_first[0, 0]]:
            kept[of_first[:, 1]] = False
    return kept


def confirmed(
    pairs: Pairs, texts: Sequence[str], measure: Callable[[list[str], list[str]], Matrix], lowest: float
) -> Pairs:
    """The pairs whose measured similarity is at least `lowest`.

    A metric may depend on which text stands left: the one that sorts first does, so that the answer for two texts does
    not depend on which came first.
    """
    wanted: dict[int, list[tuple[int, int]]] = {}
    ordered: list[tuple[int, int]] = [(int(low), int(high)) for low, high in pairs]
    for place, (low, high) in enumerate(ordered):
        left, right = (low, high) if texts[low] <= texts[high] else (high, low)
        wanted.setdefault(left, []).append((right, place))
    keep = np.zeros(len(pairs), np.bool_)
    for left, others in wanted.items():
        found = measure([texts[left]], [texts[right] for right, _ in others])
        keep[[place for _, place in others]] = np.frombuffer(found.values, dtype=np.float32) >= lowest
    return pairs[keep]


# --------------------------------------------------------------------------- sketch


def sketch(texts: Sequence[str]) -> NDArray[np.uint32]:
    """Minima of the hashed character groups of each text, shape (ROWS * BANDS, texts)."""
    sketches = np.empty((ROWS * BANDS, len(texts)), np.uint32)
    for start in range(0, len(texts), TEXTS_AT_ONCE):
        part = texts[start : start + TEXTS_AT_ONCE]
        hashes, owners = shingles(part)
        for function in range(FUNCTIONS):
            minima = _minima(hashes, owners, len(part), function)
            sketches[function * BINS : (function + 1) * BINS, start : start + len(part)] = minima
    return sketches


def shingles(texts: Sequence[str]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Hashes of all groups of `SHINGLE` characters, and the index of the text that each is from.

    A text is read with a space before it, and filled up with spaces to one group at least.
    """
    padded = [f" {text}".ljust(SHINGLE) for text in texts]
    characters = np.frombuffer("".join(padded).encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    lengths = np.fromiter(map(len, padded), np.int64, len(padded))
    hashes = np.zeros(max(0, len(characters) - SHINGLE + 1), np.uint64)
    for place in range(SHINGLE):
        hashes *= np.uint64(0x100000001B3)
        hashes += characters[place : place + len(hashes)]
    owners = np.repeat(np.arange(len(padded)), lengths)[: len(hashes)]
    whole = owners == np.repeat(np.arange(len(padded)), lengths)[SHINGLE - 1 :]
    return _mixed(hashes[whole]), owners[whole]


def _minima(hashes: NDArray[np.uint64], owners: NDArray[np.int64], count: int, function: int) -> NDArray[np.uint32]:
    """The least hash in each of `BINS` ranges of one function, shape (BINS, count).

    A range that no group of a text fell into borrows from the next one that has any (Shrivastava and Li 2014).
    """
    mixed = _mixed(hashes ^ np.uint64((SEED * (function + 1)) & 0xFFFFFFFFFFFFFFFF))
    bins = ((mixed >> np.uint64(32)) * np.uint64(BINS)) >> np.uint64(32)
    minima = np.full(BINS * count, EMPTY, np.uint32)
    # 31 bits: a hash is never the value of an empty range
    np.minimum.at(minima, bins.astype(np.int64) * count + owners, mixed.astype(np.uint32) >> np.uint32(1))
    table = minima.reshape(BINS, count)
    empty = table == EMPTY
    while empty.any():
        lent = np.roll(table, -1, axis=0) * np.uint32(0x85EBCA6B) + np.uint32(1)
        table = np.where(empty & ~np.roll(empty, -1, axis=0), lent, table)
        empty = empty & np.roll(empty, -1, axis=0)
    return table


def _mixed(hashes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Spread every bit over all (the finisher of splitmix64)."""
    mixed = hashes ^ (hashes >> np.uint64(30))
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(27)
    mixed *= np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return mixed


def _in_band(sketches: NDArray[np.uint32], band: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Pairs of texts that agree in all rows of a band, lower index first."""
    # rows of a band come from different functions, so that no two are ranges of one
    keys = np.zeros(sketches.shape[1], np.uint64)
    for row in range(ROWS):
        keys = _mixed(keys ^ sketches[(band + row * BANDS) % len(sketches)])
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    for distance in range(1, min(WINDOW, len(order))):
        same = np.flatnonzero(ordered[distance:] == ordered[:-distance])
        if not len(same):
            return
        yield order[same], order[same + distance]


def _encoded(found: Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]], since: int, count: int) -> NDArray[np.int64]:
    """Each pair as one number."""
    parts = [low[high >= since] * count + high[high >= since] for low, high in found]
    return np.concatenate(parts) if parts else np.empty(0, np.int64)


def _agree(sketches: NDArray[np.uint32], pairs: Pairs) -> NDArray[np.bool_]:
    """Which pairs have enough equal minima."""
    equal = np.zeros(len(pairs), np.int64)
    for row in sketches:
        equal += row[pairs[:, 0]] == row[pairs[:, 1]]
    return equal >= LOWEST_AGREEMENT * len(sketches)


# --------------------------------------------------------------------------- vectors


def _tiles(vectors: Vectors, since: int) -> Iterator[tuple[int, int, Vectors]]:
    """Blocks of cosines that together hold each wanted pair: first row, first column, block."""
    for high in range(since, len(vectors), TILE):
        columns = vectors[high : high + TILE]
        for low in range(0, min(high + TILE, len(vectors)), TILE):
            yield low, high, vectors[low : low + TILE] @ columns.T
