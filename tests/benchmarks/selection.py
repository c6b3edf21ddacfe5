"""`make bench-selection`: near-duplicates against datasketch and SemHash, diverse selection against apricot.

All on the same real texts in one run. Times are CPU seconds of the process, all threads together, medians of three.
A row holds where the ratio reaches its goal *and* the answer is as good: the recall of datasketch reached, the same
texts kept as by SemHash, what is selected no more alike than by apricot. Apricot's facility location looks for what
stands for the most prompts, ours for what is unlike the rest of the choice: a row of its own says how far ours is from
that other value.
"""

import argparse
import json
import random
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from benchmarks import results  # noqa: E402 - found through the path above
from nightschool_daemon.evaluation.embedding import CachedEmbed, StaticEmbedder  # noqa: E402
from nightschool_daemon.hooks import Hooks  # noqa: E402
from nightschool_daemon.learning.duplicates import Pairs, near_texts, near_vectors, shingles  # noqa: E402
from nightschool_daemon.wording import fold  # noqa: E402
from nightschool_hookspecs import Budget, Event, FeedbackType, Matrix, ScoredEvent  # noqa: E402
from nightschool_plugins.selection_active import TEXTS_AT_ONCE, SelectionActive  # noqa: E402

DATA = ROOT / "tests" / "data" / "nl2bash"
REPEATS = 3
ALIKE = 0.7
"""Jaccard similarity of the groups of five characters from which a pair counts as a near-duplicate."""
COSINE = 0.9
GROWTH = (10_000, 100_000)
CHOICES, CHOSEN = 5000, 500
NIGHT = Budget(events=2000, tokens=400_000)
"""The defaults of `[training]`."""
T = TypeVar("T")


def main() -> int:
    """Take all figures, print the tables. Returns 1 where a row falls short."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--million", action="store_true", help="show the growth up to a million texts too")
    given = parser.parse_args()
    texts = list(dict.fromkeys(fold(line) for line in (DATA / "descriptions.txt").open(encoding="utf-8")))
    print(f"{len(texts)} different real descriptions")
    sizes = (*GROWTH, 1_000_000) if given.million else GROWTH
    rows = [against_datasketch(texts), *against_semhash(texts), *against_apricot(texts), *drained(texts, sizes)]
    show_growth(texts, sizes)
    show_separation()
    return results.presented("selection", "Near-duplicates and selection, CPU seconds", rows)


def row_of(measure: str, ours: float, peer: float, goal: float, *, equal: bool) -> results.Row:
    """A line of the table; less is better."""
    ratio = peer / ours
    return results.row(measure, ours, peer, goal, holds=equal and ratio >= goal, ratio=ratio)


def taken(function: Callable[[], T]) -> tuple[float, T]:
    """The median of the CPU seconds, and the last result."""
    seconds: list[float] = []
    results: list[T] = []
    for _ in range(REPEATS):
        began = time.process_time()
        results = [function()]
        seconds.append(time.process_time() - began)
    return statistics.median(seconds), results[0]


# --------------------------------------------------------------------------- the wording


def against_datasketch(texts: list[str]) -> results.Row:
    """From texts to pairs. datasketch has its default of 128 permutations, and bands that favour recall."""
    truth = alike(texts)
    ours, found = taken(lambda: near_texts(texts))
    peer, candidates = taken(lambda: by_datasketch(texts))
    ours_recall = _recall(truth, {(int(low), int(high)) for low, high in found})
    peer_recall = _recall(truth, candidates)
    print(
        f"{len(truth)} pairs with a Jaccard similarity of {ALIKE}: recall {ours_recall:.4f} of {len(found)} pairs, "
        f"datasketch {peer_recall:.4f} of {len(candidates)}"
    )
    measure = f"near-duplicate pairs, CPU s, {len(texts)} texts, against datasketch MinHash+LSH"
    return row_of(measure, ours, peer, 10.0, equal=ours_recall >= peer_recall)


def by_datasketch(texts: list[str]) -> set[tuple[int, int]]:
    """Candidate pairs of MinHash and LSH over the same groups of characters."""
    from datasketch import MinHash, MinHashLSH  # pyright: ignore[reportMissingImports] - a peer, installed by its bench

    documents = [{part.encode() for part in _parts(text)} for text in texts]
    index = MinHashLSH(threshold=ALIKE, num_perm=128, weights=(0.1, 0.9))
    found: set[tuple[int, int]] = set()
    for number, sketch in enumerate(MinHash.generator(documents, num_perm=128)):
        found.update((int(str(other)), number) for other in index.query(sketch))
        index.insert(number, sketch)
    return found


def _parts(text: str) -> list[str]:
    padded = f" {text}".ljust(5)
    return [padded[place : place + 5] for place in range(len(padded) - 4)]


def alike(texts: list[str]) -> set[tuple[int, int]]:
    """Every near-duplicate pair, by comparing all."""
    from scipy.sparse import csr_matrix

    hashes, owners = shingles(texts)
    _, columns = np.unique(hashes, return_inverse=True)
    table = csr_matrix((np.ones(len(columns), np.int32), (owners, columns)))
    table.sum_duplicates()
    table.data[:] = 1
    sizes = np.asarray(table.sum(axis=1)).ravel()
    found: set[tuple[int, int]] = set()
    for start in range(0, len(texts), 500):
        shared = (table[start : start + 500] @ table.T).tocoo()
        low, high = shared.row + start, shared.col
        close = (shared.data >= ALIKE * (sizes[low] + sizes[high] - shared.data)) & (low < high)
        found.update(zip(low[close].tolist(), high[close].tolist(), strict=True))
    return found


def _recall(truth: set[tuple[int, int]], found: set[tuple[int, int]]) -> float:
    return len(truth & found) / len(truth)


# --------------------------------------------------------------------------- the vectors


class Given:
    """An encoder for a peer that has its vectors already."""

    def encode(self, inputs: Sequence[Any] | Any, **_: Any) -> NDArray[np.float32]:
        raise NotImplementedError


def against_semhash(texts: list[str]) -> list[results.Row]:
    """Which texts stay at a cosine of 0.9, on the same static vectors."""
    vectors = _vectors(texts)
    ours, kept = taken(lambda: keep_first(near_vectors(vectors, COSINE), len(texts)))
    ours_kept = {text for text, stays in zip(texts, kept, strict=True) if stays}
    rows: list[results.Row] = []
    for backend, title in (("basic", "exact"), ("usearch", "its default index")):
        peer, peer_kept = taken(partial(by_semhash, texts, vectors, backend))
        differing = len(ours_kept ^ peer_kept)
        print(f"SemHash, {title}: {len(peer_kept)} kept, ours {len(ours_kept)}, {differing} differ")
        measure = f"texts kept at cosine {COSINE}, CPU s, against SemHash ({title})"
        # an approximate index misses a few pairs: as good is who keeps no more near-duplicates than it
        equal = differing == 0 if backend == "basic" else len(ours_kept) <= len(peer_kept)
        rows.append(row_of(measure, ours, peer, 1.4, equal=equal))
    return rows


def keep_first(pairs: Pairs, count: int) -> NDArray[np.bool_]:
    """Which of `count` texts stay where every one that has an earlier one that stays as its near-duplicate goes."""
    kept = np.ones(count, np.bool_)
    for of_first in np.split(pairs, np.flatnonzero(np.diff(pairs[:, 0])) + 1) if len(pairs) else []:
        if kept[of_first[0, 0]]:
            kept[of_first[:, 1]] = False
    return kept


def by_semhash(texts: list[str], vectors: NDArray[np.float32], backend: str) -> set[str]:
    """The texts that SemHash keeps."""
    from semhash import SemHash  # pyright: ignore[reportMissingImports] - a peer, installed by its bench

    index = SemHash.from_embeddings(vectors, texts, Given(), ann_backend=backend)
    return set(index.self_deduplicate(COSINE).selected)


def _vectors(texts: list[str]) -> NDArray[np.float32]:
    vectors = StaticEmbedder()(texts)
    lengths: NDArray[np.float32] = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: NDArray[np.float32] = np.nan_to_num(np.asarray(vectors, dtype=np.float32) / lengths)
    return unit


# --------------------------------------------------------------------------- the choice


def against_apricot(texts: list[str]) -> list[results.Row]:
    """As many prompts by diversity alone, on the same vectors, as apricot by its default optimiser."""
    some = texts[:CHOICES]
    vectors = _vectors(some)
    place = {text: number for number, text in enumerate(some)}
    events = tuple(_event(f"{number:05}", text, "") for number, text in enumerate(some))

    def embed(texts: Sequence[str]) -> Matrix:
        found = vectors[[place[text] for text in texts]]
        return Matrix(values=found.ravel().data, rows=len(texts), columns=vectors.shape[1])

    by_diversity = SelectionActive(
        uncertainty_weight=0.0, quality_weight=0.0, artifact_weight=0.0, input_weight=1.0, output_weight=0.0
    )
    budget = Budget(events=CHOSEN, tokens=10**9)
    by_apricot(vectors)  # compiled by its first call
    ours, keys = taken(lambda: by_diversity.nightschool_select_events(events, (), budget, embed))
    peer, peer_places = taken(lambda: by_apricot(vectors))
    places = [int(key.rpartition("/")[2]) for key, _ in keys]
    alike, peer_alike = _crowding(vectors, places), _crowding(vectors, peer_places)
    print(f"{CHOSEN} of {CHOICES} prompts: cosine with the nearest other one {alike:.3f}, by apricot {peer_alike:.3f}")
    title = f"{CHOSEN} of {CHOICES} prompts"
    value, peer_value = _covered(vectors, places), _covered(vectors, peer_places)
    return [
        row_of(f"{title} unlike each other, CPU s, against apricot", ours, peer, 5.0, equal=alike <= peer_alike),
        results.row(f"{title}, their facility location, which apricot maximises", value, peer_value, None, holds=None),
    ]


def by_apricot(vectors: NDArray[np.float32]) -> list[int]:
    """The places that apricot selects."""
    from apricot import (  # pyright: ignore[reportMissingImports] - a peer, installed by its bench
        FacilityLocationSelection,
    )

    selection = FacilityLocationSelection(CHOSEN, metric="cosine").fit(vectors.astype(np.float64))
    if selection.ranking is None:
        raise RuntimeError("apricot selected nothing")
    return [int(place) for place in selection.ranking]


def _covered(vectors: NDArray[np.float32], places: Sequence[int]) -> float:
    """The sum over all prompts of the cosine with the nearest selected one."""
    return float((vectors @ vectors[places].T).max(axis=1).sum())


def _crowding(vectors: NDArray[np.float32], places: Sequence[int]) -> float:
    """The mean over the selected ones of the cosine with the nearest other one of them."""
    cosines = vectors[places] @ vectors[places].T
    np.fill_diagonal(cosines, -1.0)
    return float(cosines.max(axis=1).mean())


def drained(texts: list[str], sizes: Sequence[int]) -> list[results.Row]:
    """A history without near-duplicates, and a night's choice of it.

    The vectors of prompts are there by night, as their groups are found by them when they come. What they take is told
    beside it: of the static model's time for 1e5 prompts its tokeniser alone has 6 s.
    """
    print("growth of deduplication and choice:")
    seconds = {size: _drained(texts, size) for size in sizes}
    chosen, embedded = seconds[100_000]
    title = "1e5 events deduplicated and selected, core s, against 15"
    return [
        row_of(f"{title}, vectors of the prompts known", chosen, 15.0, 1.0, equal=True),
        results.row(f"{title}, these computed too", chosen + embedded, 15.0, None, holds=None),
    ]


def _drained(texts: list[str], size: int) -> tuple[float, float]:
    """CPU seconds, and those of the static model for the prompts, whose vectors grouping leaves in the cache."""
    history = _history(texts, size)
    prompts = [one.event.input_data for one in history]
    with tempfile.TemporaryDirectory() as directory:
        embed = CachedEmbed(StaticEmbedder, Path(directory) / "vectors.sqlite3")
        began = time.process_time()
        for start in range(0, size, TEXTS_AT_ONCE):
            embed(prompts[start : start + TEXTS_AT_ONCE])
        embedded = time.process_time()
        kept = keep_first(near_texts(prompts), size)
        unlike = tuple(one for one, stays in zip(history, kept, strict=True) if stays)
        deduplicated = time.process_time()
        chosen = SelectionActive().nightschool_select_events(unlike, (), NIGHT, embed)
        done = time.process_time()
    print(
        f"  {size:>9} events  {done - embedded:8.2f} CPU s: {deduplicated - embedded:.2f} to find near-duplicates, "
        f"{done - deduplicated:.2f} to choose {len(chosen)} of {len(unlike)}; {embedded - began:.2f} more to embed; "
        f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GB"
    )
    return done - embedded, embedded - began


def _history(texts: list[str], size: int) -> list[ScoredEvent]:
    chance = random.Random(20261129)
    rows: list[dict[str, str]] = [json.loads(line) for line in (DATA / "sample.jsonl").open(encoding="utf-8")]
    words, commands = " ".join(texts).split(), " ".join(row["command"] for row in rows).split()
    prompts = _prompts(words, size, chance)
    return [
        _event(f"{number:07}", prompt, " ".join(_runs(commands, chance)), chance)
        for number, prompt in enumerate(prompts)
    ]


def _event(identifier: str, prompt: str, wanted: str, chance: random.Random | None = None) -> ScoredEvent:
    """A correction of a command; by chance one that was liked."""
    chance = chance or random.Random(0)
    is_liked = chance.random() < 0.5
    event = Event(
        id=identifier,
        timestamp=datetime(2026, 1, 1, tzinfo=UTC),
        feedback_type=FeedbackType.SUCCESS if is_liked else FeedbackType.USER_CORRECTION,
        input_data=prompt,
        artifact_type="shell",
        ai_output=wanted if is_liked else wanted[: len(wanted) // 2],
        corrected_output=None if is_liked else wanted,
        validation_score=chance.uniform(71, 100) if is_liked else None,
    )
    priority = chance.uniform(0, 2)
    return ScoredEvent(
        event=event, priority=priority, reward=min(1.0, priority), difficulty=0.5, group=identifier, trained_on=False
    )


# --------------------------------------------------------------------------- growth, and what the metrics tell apart


def show_growth(texts: list[str], sizes: Sequence[int]) -> None:
    """How the search grows."""
    print("growth of the search by wording:")
    chance = random.Random(20261123)
    words = " ".join(texts).split()
    for size in sizes:
        grown = _prompts(words, size, chance)
        began = time.process_time()
        found = near_texts(grown)
        seconds = time.process_time() - began
        print(f"  {size:>9} texts  {seconds:8.2f} CPU s  {1e6 * seconds / size:6.1f} us a text  {len(found)} pairs")


def _prompts(words: list[str], size: int, chance: random.Random) -> list[str]:
    """Texts of three real runs of five words; one in ten is an earlier one with a typo."""
    grown = [" ".join(_runs(words, chance)) for _ in range(size)]
    for place in range(9, size, 10):
        grown[place] = typo(grown[chance.randrange(place)], chance)
    return grown


def _runs(words: list[str], chance: random.Random) -> list[str]:
    starts = [chance.randrange(len(words) - 5) for _ in range(3)]
    return [word for start in starts for word in words[start : start + 5]]


def show_separation() -> None:
    """How well the metrics tell a slip of the pen from another meaning, on pairs made by rule from real texts."""
    metrics, slips = separation()
    print(
        f"a slip against another meaning, {int(slips.sum())} and {int((~slips).sum())} pairs; 1 would tell all apart:"
    )
    for name, values in metrics.items():
        high = float((values[~slips] >= 0.85).mean())
        print(f"  {name:<10} area under the curve {area(values, slips):.3f}; other meaning at 0.85 or more: {high:.0%}")


def separation() -> tuple[dict[str, NDArray[np.float64]], NDArray[np.bool_]]:
    """How alike each metric finds the labelled pairs, 0..1, and which of them are slips; shape (pairs,)."""
    pairs = labelled_pairs()
    slips = np.array([label for _, _, label in pairs])
    return _scores([one for one, _, _ in pairs], [other for _, other, _ in pairs]), slips


def labelled_pairs() -> list[tuple[str, str, bool]]:
    """Real descriptions and commands, each beside itself with a slip, and beside itself with another meaning."""
    chance = random.Random(20261123)
    found: list[tuple[str, str, bool]] = []
    for line in (DATA / "sample.jsonl").open(encoding="utf-8"):
        row: dict[str, str] = json.loads(line)
        for text in row.values():
            changed = _other_meaning(text, chance)
            if changed is not None and len(text) > 20:
                found += [(text, typo(text, chance), True), (text, changed, False)]
    return found


def typo(text: str, chance: random.Random) -> str:
    """A slip of the pen: two neighbouring letters swapped, one letter lost or doubled."""
    place = chance.randrange(1, len(text) - 1)
    slips = (
        text[: place - 1] + text[place] + text[place - 1] + text[place + 1 :],
        text[:place] + text[place + 1 :],
        text[:place] + text[place] + text[place:],
    )
    return chance.choice(slips)


OTHER_MEANINGS = (
    ("all", "no"), ("files", "directories"), ("file", "directory"), ("and", "or"), ("more", "less"),
    ("before", "after"), ("ascending", "descending"), ("first", "last"), ("-f", "-d"), ("-r", "-n"),
    ("-name", "-path"), ("-n", "-c"), ("f", "d"), ("-l", "-L"), ("+", "-"), ("7", "70"), ("1", "2"),
    ("home", "tmp"), ("-iname", "-name"),
)  # fmt: skip


def _other_meaning(text: str, chance: random.Random) -> str | None:
    """One word or flag exchanged for another that asks for something else; None where there is none."""
    words = text.split(" ")
    known = dict(OTHER_MEANINGS)
    places = [place for place, word in enumerate(words) if word in known]
    if not places:
        return None
    place = chance.choice(places)
    return " ".join([*words[:place], known[words[place]], *words[place + 1 :]])


def _scores(left: list[str], right: list[str]) -> dict[str, NDArray[np.float64]]:
    hooks = Hooks.load(plugin_directory=None, tables={})
    with tempfile.TemporaryDirectory() as directory:
        embed = CachedEmbed(StaticEmbedder, Path(directory) / "vectors.sqlite3")
        answers = [
            hooks.measure_similarity(left=[one], right=[other], embed=embed)
            for one, other in zip(left, right, strict=True)
        ]
    found = {
        metric.metric: np.array([_value(row[place].matrix) for row in answers])
        for place, metric in enumerate(answers[0])
    }
    weights = {metric.metric: metric.weight for metric in answers[0]}
    found["combined"] = sum((weights[name] * values for name, values in found.items()), np.zeros(len(left)))
    return found


def _value(matrix: Matrix) -> float:
    return float(matrix.values[0])


def area(values: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    """Area under the ROC curve: how often a positive one is above another."""
    from scipy.stats import mannwhitneyu

    up, down = values[positive], values[~positive]
    return float(mannwhitneyu(up, down).statistic / (len(up) * len(down)))


if __name__ == "__main__":
    sys.exit(main())
