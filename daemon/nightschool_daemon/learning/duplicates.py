"""Near-duplicates among many texts, without comparing all pairs.

Three stages, cheap to dear:

1. Equal texts are one. (The caller folds case, white space and closing punctuation first.)
2. A sketch finds pairs that share most of their wording: MinHash over groups of `SHINGLE` characters, in bands of rows;
   two texts that agree in all rows of any band are candidates (Broder 1997; Indyk and Motwani 1998). Of short texts a
   typo in every other word leaves few of these groups whole, so each is compared with each of about its length by
   their edits. Where there are vectors, pairs of a high cosine are candidates too: exactly, by blocked matrix products,
   since up to some hundred thousand texts no index pays.
3. The similarity plugins, which cost a thousand times more a pair, see candidates only.

Texts before the index `since` are known to each other, those from there on are new: pairs are wanted of which at least
one is new, or with `across` exactly one, as of two lists.

Of prompts by one pattern nearly all are alike. So each stage gives a text with the `WINDOW` others that are nearest to
it and the `FIRST` that it is near to at all: what it costs grows with the texts, not with their pairs, and a crowd of
several patterns still hangs together, through those that came first. So many are given of each sort, lest one that is
near be lost behind a crowd of nearer ones that are none: of texts that are known and of new ones, of texts with the
same digits and with others, and of those that differ by slips of the pen.

Everything is deterministic: the hash functions are fixed, pairs come sorted.

With a Jaccard similarity s of the character groups a pair is found with probability 1 - (1 - s^5)^36: 0.95 at 0.6,
0.999 at 0.7, 0.09 at 0.3.
"""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from difflib import SequenceMatcher
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from nightschool_daemon import wording
from nightschool_hookspecs.records import Matrix

logger = logging.getLogger(__name__)

Pairs: TypeAlias = NDArray[np.int64]
"""Shape (pairs, 2): two indices, the lower one first; sorted, each pair once."""
Places: TypeAlias = NDArray[np.int64]
"""Shape (any,): indices of texts."""
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
MOST_COMPARED = 2_000_000_000
"""Pairs that are compared so, some two minutes of them: those of the shortest texts first."""
SLIP = 0.6
"""Edit similarity from which a word is another one with a slip of the pen. Letters that change places are one edit."""
TOO_MANY = (
    "%d of %d new short prompts, the longest ones, are too many to be compared letter by letter with all others: "
    "a near-duplicate with a slip of the pen in every other word may be missed"
)
WINDOW = 64
"""Texts of one bucket that are paired with each other; of a larger bucket each with its next ones.

And others that a text is near to: of more the nearest.
"""
SLIPS = 512
"""Texts with the same digits, the nearest ones, that are looked at for whether they differ by slips alone."""
FIRST = 8
"""Of more, those with which it is paired too, however far they are among them."""
TEXTS_AT_ONCE = 1024
"""Texts that are sketched at once: their hashes stay in the processor's cache."""
TILE = 2048
"""Rows and columns of a block of cosines."""
ROWS_AT_ONCE, COLUMNS_AT_ONCE = 512, 8192
"""Of a block of edit similarities."""
PRINTS_AT_ONCE = 2048
"""Fingerprints that are compared with all others at once, to bound the memory."""
ROUNDING = 1e-6
"""By which a similarity that is just high enough may come out lower."""
PRINT_ROWS = 3
"""Rows of a band of fingerprints: so 9999 of 10000 pairs that share just enough to be near have a band in common."""

NO_PAIRS: Pairs = np.empty((0, 2), np.int64)
SEED = 0x9E3779B97F4A7C15
PRIME = 0x100000001B3
EMPTY = np.uint32(0xFFFFFFFF)


def near_texts(texts: Sequence[str], *, since: int = 0, across: bool = False) -> Pairs:
    """Pairs of texts that probably share most of their wording."""
    count, sketches, digits = len(texts), sketch(texts), digits_of(texts)
    found = [np.empty(0, np.int64)]
    for keys in _all_keys(sketches, digits):
        found += [low * count + high + since for low, high in _met(keys[:since], keys[since:])]
        if not across:
            found += [(low + since) * count + high + since for low, high in _in_band(keys[since:])]
    codes = np.unique(np.concatenate(found))
    pairs = np.stack(np.divmod(codes, max(count, 1)), axis=1)
    agreement = _agreement(sketches, pairs)
    pairs, agreement = pairs[agreement >= LOWEST_AGREEMENT], agreement[agreement >= LOWEST_AGREEMENT]
    sorts = _have_same(digits, pairs) + 2 * (pairs[:, 0] < since)
    return pairs[_of_crowds(pairs[:, 1], pairs[:, 0], agreement, sorts)]


def near_wordings(texts: Sequence[str], threshold: float, *, since: int = 0, across: bool = False) -> Pairs:
    """Every pair of short texts whose edit similarity is at least `threshold`; of a crowd each with some.

    Where they are too many to compare it says so, and those of the longest ones are missing.
    """
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    by_length = np.argsort(lengths, kind="stable")
    short = by_length[lengths[by_length] <= SHORT]
    early, late = short[short < since], short[short >= since]
    digits, found, compared = digits_of(texts), [NO_PAIRS], 0
    for start in range(0, len(late), ROWS_AT_ONCE):
        rows = late[start : start + ROWS_AT_ONCE]
        least, most = math.floor(lengths[rows[0]] * threshold), math.ceil(lengths[rows[-1]] / threshold)
        # of two new texts the longer one is the row
        shorter = late[: 0 if across else start + len(rows)]
        known, new = (_as_long(places, lengths, least, most) for places in (early, shorter))
        compared += len(rows) * (len(known) + len(new))
        if compared > MOST_COMPARED:
            logger.warning(TOO_MANY, len(late) - start, len(late))
            break
        found += [_few_edits(texts, digits, rows, columns, threshold) for columns in (known, new)]
    return np.unique(np.concatenate(found), axis=0)


def near_vectors(
    vectors: Vectors, threshold: float, *, digits: Places | None = None, since: int = 0, across: bool = False
) -> Pairs:
    """Every pair whose cosine is at least `threshold`; of a crowd each vector with some before it.

    `digits` are those of their texts, as `digits_of` tells them; None: all have the same.
    """
    digits = np.zeros(len(vectors), np.int64) if digits is None else digits
    found = [NO_PAIRS]
    for start in range(since, len(vectors), TILE):
        later = range(start, min(start + TILE, len(vectors)))
        for earlier in (range(since), range(since, since if across else later.stop)):
            found.append(_near_before(vectors, digits, later, earlier, threshold))
    pairs = np.concatenate(found)
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]


def near_fingerprints(left: Sequence[str], right: Sequence[str]) -> Pairs:
    """Pairs of fingerprints of near-duplicates, one from each list: indices in these, sorted.

    Every pair; of a crowd in the left list each of the right one with some.
    """
    ours, theirs = _minima_table(left), _minima_table(right)
    found = [NO_PAIRS]
    for start in range(0, len(right), PRINTS_AT_ONCE):
        found.append(_near_prints(ours, theirs[:, start : start + PRINTS_AT_ONCE]) + np.array([0, start]))
    pairs = np.concatenate(found)
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]


def digits_of(texts: Sequence[str]) -> Places:
    """A number a text, equal where the digits of two texts are, in their order."""
    numbers: dict[str, int] = {}
    others = {ord(character): None for character in set().union(*texts) if not character.isdigit()}
    found = (numbers.setdefault(text.translate(others), len(numbers)) for text in texts)
    return np.fromiter(found, np.int64, len(texts))


def confirmed(
    pairs: Pairs, texts: Sequence[str], measure: Callable[[list[str], list[str]], Matrix], lowest: float
) -> Pairs:
    """The pairs of near-duplicates: they differ by slips of the pen, or all metrics together measure at least `lowest`.

    Few edits suffice by themselves where they are slips, since of eight words a typo in one leaves half of the word
    groups that other metrics count. A metric may depend on which text stands left: the one that sorts first does, so
    that the answer for two texts does not depend on which came first.
    """
    keep = _alike_by_edits(pairs, texts, lowest)
    keep[keep] = _are_slips(pairs[keep], texts)
    wanted: dict[int, list[tuple[int, int]]] = {}
    for place in np.flatnonzero(~keep).tolist():
        low, high = int(pairs[place, 0]), int(pairs[place, 1])
        left, right = (low, high) if texts[low] <= texts[high] else (high, low)
        wanted.setdefault(left, []).append((right, place))
    for left, others in wanted.items():
        found = measure([texts[left]], [texts[right] for right, _ in others])
        keep[[place for _, place in others]] = np.frombuffer(found.values, dtype=np.float32) >= lowest
    return pairs[keep]


def _alike_by_edits(pairs: Pairs, texts: Sequence[str], lowest: float) -> NDArray[np.bool_]:
    from rapidfuzz.distance import Levenshtein
    from rapidfuzz.process import cpdist

    left, right = ([texts[place] for place in pairs[:, side]] for side in (0, 1))
    enough = lowest - ROUNDING
    found = cpdist(left, right, scorer=Levenshtein.normalized_similarity, score_cutoff=enough, dtype=np.float32)
    return np.asarray(found >= np.float32(enough))


def _are_slips(pairs: Pairs, texts: Sequence[str]) -> NDArray[np.bool_]:
    """Of which pairs every word can be told from the other text, and all digits are the same."""
    places, where = np.unique(pairs, return_inverse=True)
    found, where = np.zeros(len(pairs), np.bool_), where.reshape(pairs.shape)
    own = [texts[int(place)] for place in places]
    same, words = _have_same(digits_of(own), where), [text.split() for text in own]
    found[same] = [_is_slip(words[low], words[high]) for low, high in where[same].tolist()]
    return found


def _is_slip(left: Sequence[str], right: Sequence[str]) -> bool:
    from rapidfuzz.distance import OSA

    left, right = _without_common_start(left, right)
    left, right = (one[::-1] for one in _without_common_start(left[::-1], right[::-1]))
    changed = (one for one in SequenceMatcher(None, left, right, autojunk=False).get_opcodes() if one[0] != "equal")
    # a space too many or too few is a slip
    parts = (("".join(left[begin:end]), "".join(right[start:stop])) for _, begin, end, start, stop in changed)
    return all(OSA.normalized_similarity(one, other) >= SLIP for one, other in parts)


def _without_common_start(left: Sequence[str], right: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    common = next((place for place, pair in enumerate(zip(left, right, strict=False)) if pair[0] != pair[1]), None)
    common = min(len(left), len(right)) if common is None else common
    return left[common:], right[common:]


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
        hashes *= np.uint64(PRIME)
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


def _band_keys(sketches: NDArray[np.uint32], band: int) -> NDArray[np.uint64]:
    """A key a text: texts of one key agree in all rows of a band."""
    # rows of a band come from different functions, so that no two are ranges of one
    keys = np.zeros(sketches.shape[1], np.uint64)
    for row in range(ROWS):
        keys *= np.uint64(PRIME)
        keys += sketches[(band + row * BANDS) % len(sketches)]
    return _mixed(keys)


def _all_keys(sketches: NDArray[np.uint32], digits: Places) -> Iterator[NDArray[np.uint64]]:
    """The keys of each band; where one has a crowd, those of texts that have the same digits too."""
    apart = _mixed(digits.astype(np.uint64) + np.uint64(1))
    for band in range(BANDS):
        keys = _band_keys(sketches, band)
        yield keys
        ordered = np.sort(keys)
        if np.any(ordered[WINDOW:] == ordered[:-WINDOW]):
            yield _mixed(keys ^ apart)


def _in_band(keys: NDArray[np.uint64]) -> Iterator[tuple[Places, Places]]:
    """Pairs of texts of one key, lower index first."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    for distance in range(1, min(WINDOW, len(order))):
        same = np.flatnonzero(ordered[distance:] == ordered[:-distance])
        if not len(same):
            return
        yield order[same], order[same + distance]


def _met(keys: NDArray[np.uint64], others: NDArray[np.uint64]) -> Iterator[tuple[Places, Places]]:
    """Pairs of one key, one from each list: with each of the others at most `WINDOW`, the first ones."""
    order = np.argsort(keys, kind="stable")
    ordered, left = keys[order], np.arange(len(others))
    first = np.searchsorted(ordered, others)
    for distance in range(min(WINDOW, len(keys))):
        left = left[first[left] + distance < len(keys)]
        left = left[ordered[first[left] + distance] == others[left]]
        if not len(left):
            return
        yield order[first[left] + distance], left


def _agreement(sketches: NDArray[np.uint32], pairs: Pairs) -> NDArray[np.float64]:
    """The share of equal minima of each pair."""
    low, high = np.ascontiguousarray(pairs.T)
    equal = np.zeros(len(pairs), np.int64)
    for row in sketches:
        equal += row.take(low) == row.take(high)
    return equal / len(sketches)


# --------------------------------------------------------------------------- edits


def _as_long(places: Places, lengths: Places, least: int, most: int) -> Places:
    """Of places in order of their texts' lengths those with a length between two."""
    ordered = lengths[places]
    return places[np.searchsorted(ordered, least) : np.searchsorted(ordered, most, side="right")]


def _few_edits(texts: Sequence[str], digits: Places, rows: Places, columns: Places, threshold: float) -> Pairs:
    """Pairs of a row and a column, lower index first; of a crowd of columns each row with some."""
    from rapidfuzz.distance import Levenshtein
    from rapidfuzz.process import cdist

    left, lowest, columns = [texts[place] for place in rows], threshold - ROUNDING, np.sort(columns)
    found, similarities = [NO_PAIRS], [np.empty(0, np.float32)]
    for start in range(0, len(columns), COLUMNS_AT_ONCE):
        some = columns[start : start + COLUMNS_AT_ONCE]
        right = [texts[place] for place in some]
        table = cdist(left, right, scorer=Levenshtein.normalized_similarity, score_cutoff=lowest, dtype=np.float32)
        table[rows[:, None] == some] = -np.inf
        near, beside = _thinned(table, table >= np.float32(lowest), digits[rows], digits[some], SLIPS)
        found.append(np.stack([rows[near], some[beside]], axis=1))
        similarities.append(table[near, beside])
    pairs, likeness = np.concatenate(found), np.concatenate(similarities)
    wide = _of_crowds(pairs[:, 0], pairs[:, 1], likeness, _have_same(digits, pairs), SLIPS)
    pairs, likeness = pairs[wide], likeness[wide]
    sorts = _have_same(digits, pairs) + 2 * _are_slips(pairs, texts)
    return np.sort(pairs[_of_crowds(pairs[:, 0], pairs[:, 1], likeness, sorts)], axis=1)


# --------------------------------------------------------------------------- fingerprints


def _minima_table(prints: Sequence[str]) -> NDArray[np.uint16]:
    """Shape (minima, fingerprints)."""
    rows = np.frombuffer(bytes.fromhex("".join(prints)), dtype=">u2").reshape(len(prints), wording.MINIMA)
    return np.ascontiguousarray(rows.T, dtype=np.uint16)


def _packed(rows: NDArray[np.uint16]) -> NDArray[np.uint64]:
    """Some rows as one number a column."""
    keys = np.zeros(rows.shape[1], np.uint64)
    for row in rows:
        keys = keys << np.uint64(16) | row
    return keys


def _near_prints(ours: NDArray[np.uint16], theirs: NDArray[np.uint16]) -> Pairs:
    """Pairs of columns that share enough minima; of a crowd in `ours` each of `theirs` with some."""
    found, width = [np.empty(0, np.int64)], theirs.shape[1]
    for row in range(0, wording.MINIMA, PRINT_ROWS):
        keys, others = (_packed(table[row : row + PRINT_ROWS]) for table in (ours, theirs))
        found += [one * width + other for one, other in _met(keys, others)]
    pairs = np.stack(np.divmod(np.unique(np.concatenate(found)), width), axis=1)
    surplus = _surplus(ours, theirs, pairs)
    pairs, surplus = pairs[surplus >= 0], surplus[surplus >= 0]
    return pairs[_of_crowds(pairs[:, 1], pairs[:, 0], surplus, np.zeros(len(pairs), np.int64))]


def _surplus(ours: NDArray[np.uint16], theirs: NDArray[np.uint16], pairs: Pairs) -> NDArray[np.float64]:
    """How many more minima than just enough each pair shares; a place where neither has one does not count."""
    equal, counted = np.zeros(len(pairs), np.int64), np.zeros(len(pairs), np.int64)
    for row, other_row in zip(ours, theirs, strict=True):
        one, other = row[pairs[:, 0]], other_row[pairs[:, 1]]
        there = (one != wording.NOTHING) | (other != wording.NOTHING)
        counted += there
        equal += there & (one == other)
    return equal - wording.NEAR * counted


# --------------------------------------------------------------------------- vectors


def _near_before(vectors: Vectors, digits: Places, later: range, earlier: range, threshold: float) -> Pairs:
    """Pairs of one of some vectors and one of others that is before it; of a crowd each with some."""
    found, cosines = [NO_PAIRS], [np.empty(0, np.float32)]
    for low in range(earlier.start, earlier.stop, TILE):
        some = range(low, min(low + TILE, earlier.stop))
        tile = vectors[later.start : later.stop] @ vectors[some.start : some.stop].T
        enough = tile >= np.float32(threshold)
        if some.stop > later.start:
            enough &= np.tri(len(later), len(some), later.start - low - 1, np.bool_)
        rows, columns = _thinned(tile, enough, digits[later.start : later.stop], digits[some.start : some.stop])
        found.append(np.stack([columns + low, rows + later.start], axis=1))
        cosines.append(tile[rows, columns])
    pairs = np.concatenate(found)
    return pairs[_of_crowds(pairs[:, 1], pairs[:, 0], np.concatenate(cosines), _have_same(digits, pairs))]


# --------------------------------------------------------------------------- crowds


def _have_same(digits: Places, pairs: Pairs) -> NDArray[np.bool_]:
    """Of which pairs both texts have the same digits."""
    return np.asarray(digits[pairs[:, 0]] == digits[pairs[:, 1]])


def _thinned(
    table: Vectors, enough: NDArray[np.bool_], digits: Places, others: Places, most_same: int = WINDOW
) -> tuple[Places, Places]:
    """Rows and columns of the places of a table that are `enough`; of a row of many, of each sort some.

    `digits` of the rows and `others` of the columns tell the sorts: `most_same` with the same ones, `WINDOW` without.
    """
    kept = enough.copy()
    crowded = np.flatnonzero(np.count_nonzero(enough, axis=1) > WINDOW)
    if len(crowded):
        values, near, same = table[crowded], enough[crowded], digits[crowded, None] == others
        kept[crowded] = _highest_and_first(values, near & same, most_same)
        kept[crowded] |= _highest_and_first(values, near & ~same, WINDOW)
    rows, columns = np.divmod(np.flatnonzero(kept), table.shape[1])
    return rows, columns


def _highest_and_first(table: Vectors, enough: NDArray[np.bool_], window: int) -> NDArray[np.bool_]:
    """The places of a table that are `enough`; of a row of many, the `window` highest and `FIRST` first ones."""
    kept = enough.copy()
    crowded = np.flatnonzero(np.count_nonzero(enough, axis=1) > window)
    if len(crowded):
        values = np.where(enough[crowded], table[crowded], -np.inf)
        highest = np.argpartition(values, -window, axis=1)[:, -window:]
        kept[crowded] &= np.cumsum(enough[crowded], axis=1) <= FIRST
        kept[crowded[:, None], highest] = True
    return kept


def _of_crowds(
    owners: Places,
    others: Places,
    likeness: NDArray[np.floating[Any]],
    sorts: NDArray[np.int64] | NDArray[np.bool_],
    window: int = WINDOW,
) -> Places:
    """Which pairs stay where each owner keeps of each sort the `window` of the highest likeness and `FIRST` others."""
    each = owners * (1 + sorts.max(initial=0)) + sorts
    nearest, first = (_ranks(each, np.lexsort((values, each))) for values in (-likeness, others))
    return np.flatnonzero((nearest < window) | (first < FIRST))


def _ranks(owners: Places, order: Places) -> Places:
    """The place of each pair among those of its owner, in an order that is by owners first."""
    ordered, ranks = owners[order], np.empty(len(order), np.int64)
    ranks[order] = np.arange(len(order)) - np.searchsorted(ordered, ordered)
    return ranks
