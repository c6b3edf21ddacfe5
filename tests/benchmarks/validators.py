"""`make bench-validators`: how well validators agree with people.

On real model answers that two or three people judged (tests/data/nl2bash/judged.jsonl). Weights were chosen on one
half of the prompts; the other half is reported. `ours` is the validator with the similarity that a night has by
default: edits, BLEU and the static embeddings. `peer` is what is named in the measure: edit similarity, BLEU, or each
of the people beside the others. With `--judge NAME`, a model of the local Ollama is asked too: its calibration is
fitted on the first half and printed, and its agreement reported on the second.
"""

import argparse
import hashlib
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

import numpy as np  # noqa: E402 - after the path above, as the imports below
from scipy.optimize import isotonic_regression  # noqa: E402
from scipy.stats import rankdata, spearmanr  # noqa: E402

from benchmarks import results  # noqa: E402 - found through the path above
from nightschool_daemon.config import EmbeddingSource, Settings, SimilaritySettings, StateSettings  # noqa: E402
from nightschool_daemon.evaluation.embedding import open_embed  # noqa: E402
from nightschool_daemon.evaluation.similarity import CombinedMeasure  # noqa: E402
from nightschool_daemon.hooks import Hooks  # noqa: E402
from nightschool_hookspecs import GOOD_SCORE, ExamItem, Generate, ItemRole, Message, Role  # noqa: E402
from nightschool_plugins.evaluation_judge import EvaluationJudge  # noqa: E402
from nightschool_plugins.evaluation_shell import EvaluationShell  # noqa: E402

DATA = ROOT / "tests" / "data" / "nl2bash" / "judged.jsonl"


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A model's answer with the verdicts of people."""

    description: str
    reference: str
    prediction: str
    template: bool
    """By majority, the command is right but for the values of its arguments."""
    command: bool
    """By majority, the whole command is right."""
    people: tuple[bool, ...]
    """Each person's verdict on the whole command."""

    @property
    def item(self) -> ExamItem:
        message = Message(role=Role.USER, content=self.description)
        return ExamItem(
            id="i",
            event_id="i",
            artifact_type="shell",
            role=ItemRole.GAIN,
            messages=(message,),
            reference=self.reference,
        )


def read(half: int) -> list[Judged]:
    """The answers to one half of the prompts, told apart by a digest of the prompt."""
    rows = [json.loads(line) for line in DATA.read_text(encoding="utf-8").splitlines()]
    return [
        Judged(
            description=row["description"],
            reference=row["references"][0],
            prediction=one["prediction"],
            template=one["template"] == "y",
            command=one["command"] == "y",
            people=tuple(verdict[1] == "y" for verdict in one["people"]),
        )
        for row in rows
        if hashlib.sha256(row["description"].encode()).digest()[0] % 2 == half
        for one in row["predictions"]
    ]


def area(scores: Sequence[float], verdicts: Sequence[bool]) -> float:
    """Area under the ROC curve: how often a right answer scores above a wrong one, ties counting half."""
    ranks, right = rankdata(scores), np.array(verdicts)
    count = right.sum()
    return float((ranks[right].sum() - count * (count + 1) / 2) / (count * (len(right) - count)))


def kappa(one: Sequence[bool], other: Sequence[bool]) -> float:
    """Cohen's kappa of two raters."""
    left, right = np.array(one, float), np.array(other, float)
    agreed, chance = (left == right).mean(), left.mean() * right.mean() + (1 - left.mean()) * (1 - right.mean())
    return float((agreed - chance) / (1 - chance))


def best_kappa(
    tuned: Sequence[float], tuned_verdicts: Sequence[bool], scores: Sequence[float], verdicts: Sequence[bool]
) -> float:
    """Kappa at the threshold that is best on the first half."""
    threshold = max(sorted(set(tuned)), key=lambda least: kappa([one >= least for one in tuned], tuned_verdicts))
    return kappa([one >= threshold for one in scores], verdicts)


def peers() -> dict[str, Callable[[Judged], float]]:
    from rapidfuzz.distance import Levenshtein
    from sacrebleu.metrics.bleu import BLEU

    bleu = BLEU(effective_order=True, tokenize="none")
    return {
        "edit similarity": lambda one: 100 * Levenshtein.normalized_similarity(one.prediction, one.reference),
        "BLEU": lambda one: bleu.sentence_score(one.prediction, [one.reference]).score,
    }


def shell(state: Path) -> Callable[[Judged], float]:
    """The validator as a night has it, with the embeddings that are there on every machine. `state`: for its cache."""
    similarity = SimilaritySettings(embedding=EmbeddingSource.STATIC)
    settings = Settings(state=StateSettings(directory=state), similarity=similarity)
    measure = CombinedMeasure(Hooks.load(plugin_directory=None, tables={}), open_embed(settings))
    validator = EvaluationShell()

    def score(one: Judged) -> float:
        found = validator.nightschool_validate_answer(one.item, one.prediction, measure)
        # a reference that does not parse is left to the similarity of texts
        return found.score if found else 100 * measure([one.prediction], [one.reference]).values[0]

    return score


def compare(name: str, ours: Callable[[Judged], float], tuned: list[Judged], judged: list[Judged]) -> list[results.Row]:
    """Rows of a validator against every peer."""
    rows: list[results.Row] = []
    scorers = {name: ours, **peers()}
    on_tuned = {one: [score(row) for row in tuned] for one, score in scorers.items()}
    on_judged = {one: [score(row) for row in judged] for one, score in scorers.items()}
    for verdict in ("command", "template"):
        first, second = ([bool(getattr(one, verdict)) for one in part] for part in (tuned, judged))
        figures: dict[str, Callable[[str], float]] = {
            "AUC": lambda one, second=second: area(on_judged[one], second),  # type: ignore[misc]  # bound per loop
            "Spearman": lambda one, second=second: float(spearmanr(on_judged[one], second).statistic),  # type: ignore[misc]
            f"kappa at {GOOD_SCORE:g}": lambda one, second=second: kappa(  # type: ignore[misc]
                [score > GOOD_SCORE for score in on_judged[one]], second
            ),
            "kappa at its best threshold": lambda one, first=first, second=second: best_kappa(  # type: ignore[misc]
                on_tuned[one], first, on_judged[one], second
            ),
        }
        for figure, of in figures.items():
            for peer in peers():
                goal = 1.0 if figure != f"kappa at {GOOD_SCORE:g}" else None
                rows.append(row(f"{name}, correct {verdict}: {figure}, against {peer}", of(name), of(peer), goal))
    return rows


def people(judged: list[Judged], ours: float) -> results.Row:
    """How well each person agrees with the others on whole commands."""
    return row(
        "shell, correct command: kappa at its best threshold, against one person beside the others",
        ours,
        kappa(*one_and_the_rest(judged)),
        None,
    )


def one_and_the_rest(judged: Sequence[Judged]) -> tuple[list[bool], list[bool]]:
    """Each person's verdict, and that of most others on the same answer; it is left out where these are divided."""
    ones: list[bool] = []
    rests: list[bool] = []
    for answer in judged:
        for number, verdict in enumerate(answer.people):
            rest = [*answer.people[:number], *answer.people[number + 1 :]]
            if 2 * sum(rest) != len(rest):
                ones.append(verdict)
                rests.append(2 * sum(rest) > len(rest))
    return ones, rests


def row(measure: str, ours: float, peer: float, goal: float | None) -> results.Row:
    print(f"{measure:80} ours {ours:6.3f}  peer {peer:6.3f}", flush=True)
    return results.row(measure, ours, peer, goal, holds=None if goal is None else ours >= goal * peer)


def judge(generate: Generate, tuned: list[Judged], judged: list[Judged]) -> list[results.Row]:
    """Fit the judge's calibration on the first half, print it, and tell its agreement on the second."""
    plugin = EvaluationJudge(enabled=True)
    given = {id(one): plugin.points(one.item, one.prediction, generate) for one in (*tuned, *judged)}
    points = {key: said for key, said in given.items() if said is not None}
    tuned, judged = ([one for one in half if id(one) in points] for half in (tuned, judged))
    print("calibration =", list(calibrated([points[id(one)] for one in tuned], [one.command for one in tuned])))
    verdicts, edit = [one.command for one in judged], peers()["edit similarity"]
    return [
        row(
            "judge, correct command: AUC, against edit similarity",
            area([points[id(one)] for one in judged], verdicts),
            area([edit(one) for one in judged], verdicts),
            None,
        )
    ]


def calibrated(points: Sequence[int], verdicts: Sequence[bool]) -> tuple[float, ...]:
    """What 0 to 4 points are worth by people's verdicts, 0..100: isotonic, drawn to the mean by two answers a level."""
    mean = float(np.mean(verdicts))
    by_level = [[right for one, right in zip(points, verdicts, strict=True) if one == level] for level in range(5)]
    means = [(sum(level) + 2 * mean) / (len(level) + 2) for level in by_level]
    fitted = isotonic_regression(means, weights=[len(level) + 2 for level in by_level]).x
    return tuple(round(100 * float(one), 1) for one in fitted)


def main() -> int:
    """Print the tables and write the result. Returns 1 where a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--judge", help="an Ollama model to ask as judge")
    parser.add_argument("--judged", type=int, default=60, help="answers a half that the judge is asked about")
    given = parser.parse_args()
    tuned, judged = read(0), read(1)
    print(f"{len(tuned)} answers for tuning, {len(judged)} reported")
    with tempfile.TemporaryDirectory() as state:
        rows = compare("shell", shell(Path(state)), tuned, judged)
    ours = next(one["ours"] for one in rows if "command: kappa at its best" in str(one["measure"]))
    rows.append(people(judged, float(str(ours))))
    if given.judge:
        from nightschool_daemon.config import ExamSettings, OllamaSettings
        from nightschool_daemon.evaluation.local_model import LocalModel
        from nightschool_daemon.ollama.library import OllamaLibrary

        generate = LocalModel(OllamaLibrary(OllamaSettings()), given.judge, ExamSettings())
        rows += judge(generate, tuned[:: len(tuned) // given.judged], judged[:: len(judged) // given.judged])
    results.fill("validators", f"On {len(judged)} answers", rows)
    return results.presented("validators", "Agreement with people", rows)


if __name__ == "__main__":
    sys.exit(main())
