"""Which feedback contradicts what its like says: by votes of those who ask the same, and by how hard it was to learn.

    doubt        = against / (against + support(own)), the largest over all others
    against      = conflict * support(other) * unity
    unity        = support(other) / votes of all who do not agree with the own answer, at most 1
    support      = sum over all voices of votes * agreement with the answer
    factor       = 1 - (1 - lowest_factor) * (doubt - 0.5) / (certain_from - 0.5), clipped to lowest_factor .. 1
    votes        = sum over the events of a voice of max(priority, least_vote) * exp(-trust_in_losses * stubbornness)
    level        = mean over the points of a trajectory of log(loss) - median of the same for all that are like it
    stubbornness = robust z-score of the level within one training; -3 .. 3

A voice is what one person says to one wording of a question: an answer that is wanted, or one that is not. A correction
says both, of its two answers. Voices are compared where they ask the same: near-duplicates of one group in the same
context, of which each keeps literals, names and deciding words of the other (`nightschool_hookspecs.variants`). To
`the last 5 lines` and `the last 7 lines` different answers are right.

Two wanted answers conflict as far as they are unlike, by all similarity plugins together: wholly at `contrary`, not at
all from `alike` on, for many questions have several right answers. What somebody corrected or disliked conflicts with
wanting the very same text, however alike the correction is. So an answer is doubted where those who ask the same agree
among each other and not with it: agreement of labels among nearest neighbours (Wilson 1972, "edited nearest
neighbour"), by votes. Of a question with many answers none is doubted. Neighbours that are merely similar have no vote:
of as many as votes doubt they would name fewer wrong ones (of swapped commands of NL2Bash four fifths; votes all).

Where there is as much for an answer as against it, nobody but its owner can tell: it is shown, with its whole weight.

What a person says later of the same prompt supersedes what they said before, where the two conflict. What is
superseded has no vote against what came in its place, and elsewhere counts `outdated` of its votes. Feedback without a
`user` may be of anybody: it supersedes nothing, or the last voice were always right.

Mislabelled examples are learned last: their losses stay high while those of the others fall (Pleiss et al. 2020, "area
under the margin"; Swayamdipta et al. 2020, "dataset cartography": low mean confidence). So do hard ones, and nothing in
the loss tells them apart. So losses only weigh votes: where two answers to one question stand against each other, the
one that the network took up with less resistance is likelier the right one. An event with no one against it keeps its
whole weight, whatever its loss; where it is an outlier (`stubborn_from`) it is shown. The logarithm makes the last
epochs count, in which what many examples teach is known; losses below e^-7 are all the same.

Under a curriculum examples come in at different times, and some more often than others. A loss tells nothing by itself
then: what is first seen late meets a network that knows more, what was seen before is half known by heart. So each loss
is compared with those that are like it alone, taken in the same stretch of the training of events of which as much had
been seen, variants counted too; an event's level is the mean of what it lies above them. Where each epoch learns from
everything once, all losses of an epoch are alike, and this is the mean over the epochs. A curriculum by difficulty
compares hard ones with hard ones, so that hardness alone makes no outlier. Where fewer than `fewest_learned` events are
alike, their losses say nothing.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import combinations, product

from nightschool_hookspecs import Event, LossTrajectory, Measure, NoiseFinding, ScoredEvent, hookimpl
from nightschool_hookspecs.corrections import is_minor
from nightschool_hookspecs.paired import median
from nightschool_hookspecs.variants import Essentials, literals

SMALLEST_LOSS = math.exp(-7)
"""Nats an answer token. Below it an answer is known by heart."""
LARGEST_STUBBORNNESS = 3.0
"""What lies further out is an outlier either way; `trust_in_losses` says how much that counts."""
LONGEST_ANSWER = 8000
"""Characters of an answer that are compared, from its beginning, to bound the time, as the next."""
MOST_VOICES = 64
"""About one question. A question of more has no answer that a vote could find; the weightiest are heard."""


@dataclass(frozen=True, kw_only=True)
class NoiseAgreement:
    """`[plugins.noise_agreement]`"""

    lowest_factor: float = 0.2
    """0..1, what is left of the weight of an event that is certainly contradicted. 0: nothing is learned from it."""
    certain_from: float = 0.9
    """Above 0.5, at most 1: the doubt from which on the least factor counts."""
    shown_from: float = 0.4
    """0..1, the doubt from which on an event is shown. Up to 0.5 it keeps its weight."""
    contrary: float = 0.3
    """Similarity, 0..1, of two wanted answers up to which they contradict each other wholly."""
    alike: float = 0.6
    """From which on they do not at all."""
    outdated: float = 0.25
    """Above 0, at most 1: the share of its votes that is left to what the same person said otherwise later."""
    trust_in_losses: float = 0.5
    """0..10, how much a unit of stubbornness takes from a vote, as a power of e. 0: losses do not count."""
    least_vote: float = 0.1
    """Above 0, of an event that is worth less: it was said all the same."""
    fewest_learned: int = 20
    """Losses that must be alike, taken in the same stretch of a training when as much was seen, before they count."""
    smallest_spread: float = 0.25
    """Of logarithms of losses: where they differ by less, an outlier is none."""
    stubborn_from: float = 2.0
    """Stubbornness from which on an event is shown that nobody contradicts."""
    confirmed_tag: str = "confirmed"
    """An event with this tag is never doubted. Empty: there is no such tag."""

    def __post_init__(self) -> None:
        if not (0 <= self.lowest_factor <= 1 and 0 <= self.shown_from <= 1):
            raise ValueError("lowest_factor and shown_from must be within 0..1")
        if not 0 < self.outdated <= 1:
            raise ValueError("outdated must be above 0 and at most 1")
        if not 0.5 < self.certain_from <= 1:
            raise ValueError("certain_from must be above 0.5 and at most 1")
        if not 0 <= self.contrary < self.alike <= 1:
            raise ValueError("contrary must be below alike, both within 0..1")
        if not 0 <= self.trust_in_losses <= 10:
            raise ValueError("trust_in_losses must be within 0..10")
        if not 0 < self.least_vote < math.inf:
            raise ValueError("least_vote must be finite and above 0")
        if self.fewest_learned < 2:
            raise ValueError("fewest_learned must be at least 2")
        if not (0 < self.smallest_spread < math.inf and 0 < self.stubborn_from < math.inf):
            raise ValueError("smallest_spread and stubborn_from must be finite and above 0")

    @hookimpl
    def nightschool_find_noise(
        self, events: tuple[ScoredEvent, ...], trajectories: tuple[LossTrajectory, ...], measure: Measure
    ) -> tuple[NoiseFinding, ...]:
        stubbornness = self.stubbornness(trajectories)
        # in a fixed order, so that sums come out the same whatever the order of arrival
        ordered = sorted(events, key=lambda one: one.event.key)
        doubted = {
            found.event_id: found
            for members in _questions(ordered)
            for found in self._doubted(_voices(members, self._votes(members, stubbornness)), measure)
        }
        others = (one for one in ordered if one.event.key not in doubted)
        findings = (*doubted.values(), *self._stubborn(others, stubbornness))
        confirmed = frozenset(one.event.key for one in ordered if self._is_confirmed(one.event))
        return tuple(one for one in findings if one.event_id not in confirmed)

    def _is_confirmed(self, event: Event) -> bool:
        return bool(self.confirmed_tag) and self.confirmed_tag in event.metadata.tags

    # ----------------------------------------------------------------------- by losses

    def stubbornness(self, trajectories: Iterable[LossTrajectory]) -> dict[str, float]:
        """How much higher an event's losses stayed than those that are like them, by its key."""
        of_training: dict[str, list[LossTrajectory]] = {}
        for one in trajectories:
            if all(math.isfinite(point.loss) for point in one.points):
                of_training.setdefault(one.training, []).append(one)
        return {key: score for known in of_training.values() for key, score in self._scores(self._levels(known))}

    def _levels(self, known: Iterable[LossTrajectory]) -> dict[str, float]:
        """Of one training, by event; of those alone that have losses with enough others like them."""
        alike: dict[tuple[int, int], list[tuple[str, float]]] = {}
        for one in known:
            for point in one.points:
                height = math.log(max(SMALLEST_LOSS, point.loss))
                alike.setdefault((point.stretch, point.seen), []).append((one.event_id, height))
        above: dict[str, list[float]] = {}
        for heights in alike.values():
            if len(heights) >= self.fewest_learned:
                middle = median(height for _, height in heights)
                for key, height in heights:
                    above.setdefault(key, []).append(height - middle)
        return {key: math.fsum(heights) / len(heights) for key, heights in above.items()}

    def _scores(self, levels: Mapping[str, float]) -> Iterator[tuple[str, float]]:
        """Modified z-scores (Iglewicz and Hoaglin 1993): a tenth of wrong labels moves neither median."""
        if not levels:
            return
        middle = median(levels.values())
        deviation = median(abs(level - middle) for level in levels.values())
        spread = max(self.smallest_spread, 1.4826 * deviation)
        for key, level in levels.items():
            yield key, max(-LARGEST_STUBBORNNESS, min(LARGEST_STUBBORNNESS, (level - middle) / spread))

    def _stubborn(self, events: Iterable[ScoredEvent], stubbornness: Mapping[str, float]) -> Iterator[NoiseFinding]:
        outliers = [one for one in events if stubbornness.get(one.event.key, 0.0) >= self.stubborn_from]
        for one in sorted(outliers, key=lambda one: -stubbornness[one.event.key]):
            reason = "the model took it up less than nearly all else that it learned, so it is a hard case, or wrong"
            yield NoiseFinding(event_id=one.event.key, factor=1.0, reason=reason)

    # ----------------------------------------------------------------------- by votes

    def _votes(self, members: Sequence[ScoredEvent], stubbornness: Mapping[str, float]) -> "dict[str, _Vote]":
        found = {}
        for one in members:
            worth = -one.priority if one.event.target is None else one.priority
            resisted = stubbornness.get(one.event.key, 0.0)
            weight = max(self.least_vote, worth) * math.exp(-self.trust_in_losses * resisted)
            found[one.event.key] = _Vote(weight=weight, stubbornness=resisted)
        return found

    def _doubted(self, voices: "Sequence[_Voice]", measure: Measure) -> Iterator[NoiseFinding]:
        if not _may_conflict(voices):
            return
        question = _Question(voices, measure, self)
        for place, voice in enumerate(voices):
            rival, doubt = question.strongest_rival(place)
            if rival is not None and doubt >= self.shown_from:
                reason = question.reason(place, rival)
                witness = voices[rival].keys[-1]
                for key in voice.keys:
                    yield NoiseFinding(event_id=key, factor=self._factor(doubt), reason=reason, contradicts=witness)

    def _factor(self, doubt: float) -> float:
        share = min(1.0, max(0.0, (doubt - 0.5) / (self.certain_from - 0.5)))
        return self.lowest_factor + (1 - self.lowest_factor) * (1 - share)

    def conflict_of(self, similarity: float) -> float:
        """How far two wanted answers that are so similar contradict each other, 0..1."""
        return min(1.0, max(0.0, (self.alike - similarity) / (self.alike - self.contrary)))


# --------------------------------------------------------------------------- who asks the same


def _questions(events: Sequence[ScoredEvent]) -> Iterator[list[ScoredEvent]]:
    """Events that may ask the same, together; those that say what they want, or do not want, and mean it."""
    found: dict[object, list[ScoredEvent]] = {}
    for one in events:
        if not one.event.metadata.weak and (one.event.target or _unwanted(one.event)):
            found.setdefault((one.group or one.event.key, _surroundings(one.event)), []).append(one)
    for members in found.values():
        if len(members) > 1:
            yield from _by_literals(members)


def _by_literals(members: Sequence[ScoredEvent]) -> Iterator[list[ScoredEvent]]:
    found: dict[tuple[str, ...], list[ScoredEvent]] = {}
    for one in members:
        found.setdefault(literals(one.event.input_data), []).append(one)
    yield from (same for same in found.values() if len(same) > 1)


def _surroundings(event: Event) -> object:
    """All that an answer may depend on besides the prompt."""
    context, metadata = event.context, event.metadata
    return (
        event.artifact_type,
        context.system,
        context.messages,
        tuple(chunk.text for chunk in context.chunks),
        metadata.fim_suffix,
        metadata.schema,
    )


def _unwanted(event: Event) -> str | None:
    """The answer that an event speaks against, with its white space folded; of a choice between two good ones none."""
    is_corrected = event.is_correction and not (event.metadata.preference or is_minor(event))
    if not (is_corrected or event.feedback_type.is_dislike) or not event.ai_output:
        return None
    given = _plain(event.ai_output)
    return given if given != _plain(event.target or "") else None


def _plain(text: str) -> str:
    return " ".join(text.split())


# --------------------------------------------------------------------------- voices


@dataclass(frozen=True, kw_only=True)
class _Vote:
    weight: float
    stubbornness: float


@dataclass(frozen=True, kw_only=True)
class _Voice:
    """What a person says to a wording of a question, once or over and over."""

    person: str | None
    """None or empty: nobody knows who, so it may be of several people."""
    prompt: str
    """Folded."""
    essentials: Essentials
    """Of the prompt as it was put, and of the beginning of the wanted answer."""
    wanted: str | None
    """With its white space folded; None: it is only said what is not wanted."""
    unwanted: frozenset[str]
    keys: tuple[str, ...]
    """`source/id` of its events, the latest last."""
    votes: float
    stubbornness: float
    """Mean over its events."""
    spoke_at: datetime | None
    """Time of its latest event, as far as clocks can be trusted."""
    overrules_at: datetime | None
    """The same of what overrules what was said before: corrections and dislikes."""


def _voices(members: Sequence[ScoredEvent], votes: Mapping[str, _Vote]) -> list[_Voice]:
    """The weightiest voices, in a fixed order."""
    found: dict[tuple[str, str, tuple[str, str]], list[Event]] = {}
    for one in members:
        event = one.event
        # a lone dislike is told from others by what it dislikes
        said = ("wants", _plain(event.target)) if event.target else ("dislikes", _unwanted(event) or "")
        found.setdefault((event.metadata.user or "", _folded(event.input_data), said), []).append(event)
    voices = sorted((_voice(events, votes) for events in found.values()), key=lambda one: (-one.votes, one.keys))
    return voices[:MOST_VOICES]


def _voice(events: Sequence[Event], votes: Mapping[str, _Vote]) -> _Voice:
    """Of events that say the same."""
    first, *_ = in_time = sorted(events, key=lambda one: (one.timestamp, one.key))
    wanted = _plain(first.target) if first.target else None
    unwanted = (_unwanted(one) for one in events)
    return _Voice(
        person=first.metadata.user,
        prompt=_folded(first.input_data),
        essentials=Essentials(first.input_data, (wanted or "")[:LONGEST_ANSWER]),
        wanted=wanted,
        unwanted=frozenset(one for one in unwanted if one is not None),
        keys=tuple(one.key for one in in_time),
        votes=math.fsum(votes[one.key].weight for one in events),
        stubbornness=math.fsum(votes[one.key].stubbornness for one in events) / len(events),
        spoke_at=_latest_time(events),
        overrules_at=_latest_time(filter(_overrules, events)),
    )


def _overrules(event: Event) -> bool:
    """Whether it says what is wanted from now on, whatever was said before. A like says that one answer was good."""
    return event.feedback_type.is_dislike or (event.is_correction and not event.metadata.preference)


def _latest_time(events: Iterable[Event]) -> datetime | None:
    return max((one.timestamp for one in events if not one.metadata.clock_flag), default=None)


def _folded(prompt: str) -> str:
    return _plain(prompt.casefold())


def _may_conflict(voices: Iterable[_Voice]) -> bool:
    """Whether different answers are wanted, or one that is not wanted: of most questions neither is so."""
    wanted = {one.wanted for one in voices if one.wanted is not None}
    return len(wanted) > 1 or any(not one.unwanted.isdisjoint(wanted) for one in voices)


class _Question:
    """Voices of which most ask the same, and how they stand to each other, by their places."""

    def __init__(self, voices: Sequence[_Voice], measure: Measure, settings: NoiseAgreement) -> None:
        self._voices = voices
        similarity = _similarities([one.wanted for one in voices if one.wanted is not None], measure)
        places = range(len(voices))
        self._conflicts, self._accords = ([[0.0] * len(voices) for _ in places] for _ in range(2))
        self._like = [{one} for one in places]
        """Who asks the same."""
        for one, other in combinations(places, 2):
            if _ask_the_same(voices[one], voices[other]):
                self._like[one].add(other)
                self._like[other].add(one)
                conflict, accord = _relation(voices[one], voices[other], similarity, settings)
                self._conflicts[one][other] = self._conflicts[other][one] = conflict
                self._accords[one][other] = self._accords[other][one] = accord
        for one in places:
            self._accords[one][one] = 1.0
        self._overruled = [frozenset(other for other in places if self._overrules(one, other)) for one in places]
        outdated = frozenset[int]().union(*self._overruled)
        self._votes = [one.votes * (settings.outdated if at in outdated else 1.0) for at, one in enumerate(voices)]

    def strongest_rival(self, place: int) -> tuple[int | None, float]:
        """The voice that speaks most against one, and the doubt that it raises, 0..1; None where nobody does."""
        overruled = self._overruled[place]
        own = self._support(place, frozenset())
        accords = self._accords[place]
        others = math.fsum(self._votes[at] * (1 - accords[at]) for at in self._like[place] - overruled)
        best, highest = None, 0.0
        for rival, conflict in enumerate(self._conflicts[place]):
            if conflict > 0 and rival not in overruled:
                support = self._support(rival, overruled)
                against = conflict * support * min(1.0, support / others)
                doubt = against / (against + own)
                if doubt > highest:
                    best, highest = rival, doubt
        return best, highest

    def reason(self, place: int, rival: int) -> str:
        """What speaks against a voice, for a person."""
        voice, other = self._voices[place], self._voices[rival]
        if place in self._overruled[rival]:
            return "something else was said of the same prompt later"
        if voice.wanted is None:
            return "an answer was disliked that is wanted elsewhere for the same question"
        if voice.wanted in other.unwanted:
            return "the same answer to the same question was corrected or disliked elsewhere"
        count = sum(len(one.keys) for at, one in enumerate(self._voices) if self._accords[rival][at] > 0.5)
        said = "another one wants" if count == 1 else f"{count} others want"
        easier = voice.stubbornness - other.stubbornness >= 1
        return f"{said} something else for the same question{', which was easier to learn' if easier else ''}"

    def _support(self, place: int, without: frozenset[int]) -> float:
        """Votes of those who agree."""
        accords = self._accords[place]
        return math.fsum(votes * accords[at] for at, votes in enumerate(self._votes) if at not in without)

    def _overrules(self, place: int, other_place: int) -> bool:
        one, other = self._voices[place], self._voices[other_place]
        is_same = one.person and (one.person, one.prompt) == (other.person, other.prompt)
        if not (is_same and one.overrules_at and other.spoke_at):
            return False
        return other.spoke_at < one.overrules_at and self._conflicts[place][other_place] > 0


def _ask_the_same(one: _Voice, other: _Voice) -> bool:
    return one.prompt == other.prompt or (
        one.essentials.is_kept_by(other.essentials) and other.essentials.is_kept_by(one.essentials)
    )


def _relation(
    one: _Voice, other: _Voice, similarity: Mapping[tuple[str, str], float], settings: NoiseAgreement
) -> tuple[float, float]:
    """How far two voices that ask the same are in conflict, and how far in accord, each 0..1."""
    if one.wanted in other.unwanted or other.wanted in one.unwanted:
        return 1.0, 0.0
    if one.wanted is None or other.wanted is None:
        return 0.0, float(not one.unwanted.isdisjoint(other.unwanted))
    conflict = settings.conflict_of(similarity[one.wanted, other.wanted])
    return conflict, 1 - conflict


def _similarities(answers: Iterable[str], measure: Measure) -> dict[tuple[str, str], float]:
    different = sorted(set(answers))
    if len(different) < 2:
        return {(one, one): 1.0 for one in different}
    beginnings = [one[:LONGEST_ANSWER] for one in different]
    return dict(zip(product(different, different), measure(beginnings, beginnings).values.tolist(), strict=True))


@hookimpl
def nightschool_register_settings() -> type[NoiseAgreement]:
    return NoiseAgreement
