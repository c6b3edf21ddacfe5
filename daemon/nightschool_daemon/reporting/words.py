"""Figures in plain words, for people who are no engineers of machine learning."""

import math
from collections.abc import Collection, Iterator, Sequence

from nightschool_daemon.plans import counted
from nightschool_daemon.reporting.records import Drift, InUse, TrackRecord, Trend
from nightschool_daemon.reporting.sheet import Section, Table, one_line
from nightschool_hookspecs.corrections import GOOD_SCORE
from nightschool_hookspecs.records import GuardResult, NoiseFinding, Outcome, Side, TrainingMethod, Verdict

EXAM = "The exam"
NIGHTS = "Over the nights"
LEFT_OUT = "What was left out"
PIECES = "Your feedback, piece by piece"
NOISE = "What looks wrong in your feedback"
"""Titles of sections that others look for."""
REASON_LETTERS = 300
"""Of what a plugin says against a piece of feedback."""
CERTAIN = 0.01
"""A change whose p-value is below this is told as one. It is looked for every night, so chance has many tries."""

TRACK_COLUMNS = (
    *("night", "version", "in use", "gain", "level", "score", f"above {GOOD_SCORE:g}", "reward"),
    *("s mean / median / 95 %", "tokens/s", "watched loss (epoch)"),
)

LEARNED_BY = {
    TrainingMethod.SFT: "wanted answers",
    TrainingMethod.DPO: "better answers over worse ones",
    TrainingMethod.KTO: "answers that were liked or disliked",
}

VERSIONS_IN_USE = 3
"""So many are told in words."""

BEYOND = " All gains since the base are added up; where what is wanted has changed meanwhile, they pass 100."

OPENINGS: dict[Outcome, str] = {
    Outcome.PROVEN: "The new model is better, and that is proven.",
    Outcome.PROVISIONAL: "The new model looks better, but that is not proven yet.",
    Outcome.NOT_ENOUGH: "Whether the new model is better cannot be told yet.",
    Outcome.WORSE: "The new model is not good enough.",
}


def points_in_words(verdict: Verdict) -> str:
    """`Of 100 points, 34 more than before (57 before, 91 after); the truth lies between 24 and 41 more ...`."""
    low, high = (round(one) for one in verdict.interval)
    gain = round(verdict.gain)
    difference = f"{_counted(gain)} than before" if gain else "as many as before"
    # one word for both where both lie on one side
    first = str(abs(low)) if low * high > 0 else _counted(low)
    bounds = f"between {first} and {_counted(high)}" if low != high else f"at about {_counted(high)}"
    levels = f" ({verdict.incumbent_mean:.0f} before, {verdict.candidate_mean:.0f} after)"
    means = levels if verdict.tells_levels else ""
    return f"Of 100 points, {difference}{means}; the truth lies {bounds} with 95 % certainty."


def _counted(points: int) -> str:
    return f"{abs(points)} {'fewer' if points < 0 else 'more'}"


def questions_in_words(verdict: Verdict, folds: int = 0) -> str:
    """How it was found out. `folds`: of cross-fitting; 0: by what was held out."""
    if folds:
        return (
            "There is too little feedback yet to keep enough of it for the exam alone, so it was the recipe that was "
            f"examined (cross-fitting): your feedback was divided into {folds} parts, and a part was put to a trial "
            "model that had learned from the other parts in the same way. The model in use and the trial models "
            f"{_compared_by(verdict)}, and neither had learned from any of what it was asked. The new model itself "
            "learned from all parts, and had to pass the checks."
        )
    return f"The model in use and the new one {_compared_by(verdict)}, and neither had learned from any of them."


def replayed_in_words(events: int, answers: int, share: float) -> str:
    """What was learned again: so many pieces of feedback, answers of the base's own, and their share of all, 0..1."""
    parts = [
        f"{events} of them, learned before," if events else "",
        f"{counted(answers, 'answer')} of the base's own to general prompts" if answers else "",
    ]
    were = "was" if events + answers == 1 else "were"
    return (
        f"So that nothing is forgotten, {' and '.join(filter(None, parts))} {were} gone over again: {share:.0%} of all "
        "examples."
    )


def starters_in_words(count: int) -> str:
    """What was learned beside little feedback."""
    were = "was" if count == 1 else "were"
    return (
        f"As there is little feedback of yours yet, {counted(count, 'starter example')} {were} learned beside it. None "
        "counts more than yours do on average, and the exam asks none."
    )


def guard_word(found: GuardResult) -> str:
    """What became of a guard, in a word or two."""
    if not found.looked:
        return "not looked at"
    return "held" if found.held else "broken"


def noise_in_words(finding: NoiseFinding, side: Side, methods: Collection[TrainingMethod]) -> str:
    """What speaks against a piece of feedback, and what that means for it, learned by these methods or by none."""
    witness = "" if finding.contradicts is None else f" (`{one_line(finding.contradicts)}`)"
    return f"{one_line(finding.reason, REASON_LETTERS)}{witness}. {_consequence(finding.factor, side, methods)}"


def _consequence(factor: float, side: Side, methods: Collection[TrainingMethod]) -> str:
    if side is Side.HELD_OUT:
        return "It is kept for the exam, where it counts as it is."
    if factor == 1:
        return "It counts as ever."
    if factor == 0:
        return "Nothing is learned from it."
    return _left_of(factor, methods)


def _left_of(factor: float, methods: Collection[TrainingMethod]) -> str:
    """Preferences have no weights that could be lowered."""
    if not methods:
        return "This run learns nothing from it."
    if TrainingMethod.SFT not in methods:
        return "It counts as ever, as a preference has no weight."
    beside = "" if len(methods) == 1 else " as a wanted answer, and in full as a preference"
    return f"It counts {factor:.0%} of its weight{beside}."


def _compared_by(verdict: Verdict) -> str:
    """What both did."""
    questions = verdict.items - verdict.pairs
    answered = f"answered the same {counted(questions, 'question')}"
    ranked = f"were compared by {counted(verdict.pairs, 'pair')} of answers of which one is better"
    if not verdict.pairs:
        return answered
    return f"{answered} and {ranked}" if questions else ranked


def verdict_sentences(verdict: Verdict, folds: int = 0) -> tuple[str, ...]:
    """What was found, what it rests on, and what would bring a finding where there is none."""
    sentences = [OPENINGS[verdict.outcome], questions_in_words(verdict, folds)]
    broken = [one for one in verdict.guards if not one.held]
    if broken:
        sentences.append(f"It was turned down because something got worse. {' '.join(one.reason for one in broken)}")
    elif held := [one for one in verdict.guards if one.looked]:
        sentences.append(f"Nothing that was checked got worse: {counted(len(held), 'check')} held.")
    if unseen := [one for one in verdict.guards if not one.looked]:
        reasons = " ".join(one.reason for one in unseen)
        sentences.append(f"{counted(len(unseen), 'check')} could not be made. {reasons}")
    if verdict.outcome is Outcome.PROVEN:
        sentences.append(
            "An exam ends as soon as this is proven, so the gain is likely somewhat smaller than it looks; the bounds "
            "that are given allow for it. They do not allow for what goes badly wrong now and then: a fault that fewer "
            f"than about one in {_rarest(verdict.items)} prompts shows, these {counted(verdict.items, 'question')} may "
            "not have met."
        )
    if verdict.obstacle:
        sentences.append(f"More questions alone would not tell. {verdict.obstacle}")
    elif verdict.items_needed is not None:
        sentences.append(
            f"For a gain like this it takes about {verdict.items_needed} more new questions to tell. "
            "Each correction of a new prompt may become one."
        )
    return tuple(sentences)


def _rarest(items: int) -> int:
    """One in so many prompts must show a fault that so many items miss in fewer than 5 % of exams."""
    return max(1, round(1 / (1 - math.pow(0.05, 1 / max(1, items)))))


def unproven_in_words(version: str, found: Verdict) -> str:
    """What the exams of two nights say of a version in use that was put there unproven."""
    met = f"{version} was put into use unproven; its next exam compared it with what stood there before again:"
    if found.outcome is Outcome.PROVEN:
        return f"{met} by now it is proven."
    if found.outcome is Outcome.PROVISIONAL:
        return f"{met} it still looks better, and the next exam looks again."
    return f"{met} what it seemed to be better by is not borne out."


# --------------------------------------------------------------------------- track record


def nights_section(track: TrackRecord) -> Section:
    """The track record in words."""
    return Section(title=NIGHTS, sentences=tuple(_nights(track)))


def _nights(track: TrackRecord) -> Iterator[str]:
    if track.base_level is not None:
        promoted = sum(one.exam.promoted for one in track.exams)
        yield (
            f"So far {counted(len(track.exams), 'new version')} sat an exam, and {promoted} "
            f"{'was' if promoted == 1 else 'were'} put into use. {_best(track)}"
        )
    if track.in_use:
        yield in_use_in_words(track.in_use)
    yield trend_in_words(track.trend)
    yield drift_in_words(track.drift)


def _best(track: TrackRecord) -> str:
    best = next((one for one in track.exams if one.exam.version == track.best), None)
    if best is None or track.base_level is None:
        return "The base is the best there is so far."
    return (
        f"The best is {best.exam.version} with {best.level.points:.0f} points, where the base has "
        f"{track.base_level:.0f}.{BEYOND if best.level.points > 100 else ''}"
    )


def in_use_in_words(found: Sequence[InUse]) -> str:
    """How far answers in use were from what was wanted, of the versions that answered last."""
    told = ", ".join(
        f"{one.version} {one.score:.0f} points ({counted(one.answers, 'answer')})" for one in found[:VERSIONS_IN_USE]
    )
    return f"What was corrected in use came, beside its corrections, to: {told}."


def trend_in_words(trend: Trend | None) -> str:
    """Whether feedback in use changed."""
    if trend is None:
        return "Feedback from use does not tell yet whether answers get better or worse."
    if trend.p_value >= CERTAIN:
        return f"Feedback from use is steady: the last {counted(trend.answers, 'answer')} show no clear change."
    direction = "fewer" if trend.after < trend.before else "more"
    return (
        f"Since about {trend.changed_at:%d %B %Y} {direction} answers are found wanting: {trend.after:.0%}, where it "
        f"was {trend.before:.0%} before."
    )


def drift_in_words(drift: Drift | None) -> str:
    """Whether what is asked changed."""
    if drift is None:
        return "There are too few prompts yet to say whether what is asked changes."
    if drift.p_value >= CERTAIN:
        return f"What is asked is of the same kind as before: the last {drift.recent} prompts show no clear change."
    told = "; ".join(f"`{one_line(one, 80)}`" for one in drift.examples)
    return (
        "What is asked has changed, so what was proven earlier may say less of it. The newest kinds of prompts, for "
        f"example: {told}."
    )


def track_table(track: TrackRecord) -> Table:
    """The exams, oldest first."""
    return Table(
        columns=TRACK_COLUMNS,
        rows=tuple(_track_row(track, number) for number in range(len(track.exams))),
    )


def _track_row(track: TrackRecord, number: int) -> tuple[str, ...]:
    tracked = track.exams[number]
    exam, level = tracked.exam, tracked.level
    low, high = exam.interval
    row = (
        f"{exam.at:%Y-%m-%d}",
        exam.version.rpartition(".")[2],
        ("taken back" if exam.taken_back else "yes") if exam.promoted else "no",
        f"{exam.gain:+.1f} ({low:+.1f} to {high:+.1f})",
        f"{level.points:.1f}",
    )
    watched = str(exam.watched or "-")
    if exam.marks is None:
        return (*row, *["-"] * (len(TRACK_COLUMNS) - len(row) - 1), watched)
    marks, reward = exam.marks.candidate, exam.marks.candidate_reward
    return (
        *row,
        f"{marks.score:.1f}",
        f"{marks.success_rate:.0%}",
        "-" if reward is None else f"{reward:+.2f}",
        f"{marks.latency_mean_s:.2f} / {marks.latency_median_s:.2f} / {marks.latency_p95_s:.2f}",
        f"{marks.tokens_per_s:.1f}",
        watched,
    )
