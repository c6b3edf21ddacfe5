"""Nothing that is held out is ever learned from, nor what is nearly it, nor what was made of it: seasons of 30 runs.

Hypothesis makes up seasons. Feedback comes, comes again a little changed, bridges what is learned from and what is held
out, is changed and withdrawn, also while a run goes on; versions are promoted, refused, undone and rebuilt; the daemon
dies, also while it notes what was learned, and goes on. The runs are those of the real pipeline (`support.bare_runs`),
with every optional plugin at work, and with a local model whose paraphrases are often prompts of the exam.
`support.leaks` judges.

    make leaks SEASONS=200        more seasons than a suite has time for
"""

import contextlib
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cache
from itertools import cycle, permutations, product
from pathlib import Path
from random import Random
from typing import Any, TypeAlias, cast

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from rapidfuzz.distance import Levenshtein

from nightschool_daemon.hooks import Hooks
from nightschool_daemon.jobs import RunDirectory, SelectResult, Step, read_lines
from nightschool_daemon.ollama import names
from nightschool_daemon.reasons import ASKED, REBUILD
from nightschool_daemon.runs import UndoRefused
from nightschool_daemon.wording import key_of
from nightschool_hookspecs import (
    Chunk,
    Context,
    Event,
    ExamItem,
    FeedbackType,
    LabelledAnswer,
    Message,
    Metadata,
    Outcome,
    OwnAnswer,
    PreferencePair,
    Replay,
    Role,
    ScoredEvent,
    Side,
    Specialty,
    StarterExample,
    TrainingExample,
    hookimpl,
)
from nightschool_hookspecs.records import Recipe, RunEnd, TrainingMethod, TrainingText
from support.bare_runs import START, Plot, all_plugins
from support.interrupted_runs import WRITERS, InterruptedRuns
from support.leaks import SURELY_NEAR, Candidate, candidates_of, near, plain
from support.tiny_gguf import write_tiny_gguf

RUNS = 30
"""In a season."""
SEASONS = int(os.environ.get("SEASONS", "6"))

# --------------------------------------------------------------------------- prompts

ENDS = (
    (
        "collect the printed invoices from every shelf beside our narrow kitchen window",
        "measure some wooden planks behind that old garage using a yellow ruler",
    ),
    (
        "describe how bakers knead sourdough while the heavy oven slowly gets warm",
        "compare which sailors repaired canvas amid violent storms near a stony harbour",
    ),
    (
        "translate this friendly letter about summer holidays into polite formal business language",
        "shorten that gloomy report concerning office budgets toward plain honest everyday words",
    ),
    (
        "plan a weekly menu of cheap vegetables for hungry students in spring",
        "draw one simple diagram showing modern bridges between rainy northern mountain villages",
    ),
    (
        "summarise the meeting notes where engineers discussed broken pumps and rusty valves",
        "rewrite those interview questions so young gardeners understand careful pruning of roses",
    ),
    (
        "explain why orange cats sleep on warm laundry during quiet grey afternoons",
        "invent a funny story where clever foxes steal fresh bread at dawn",
    ),
    (
        "choose gentle background music for evening guests who enjoy slow jazz ballads",
        "estimate how much gravel fills this narrow trench along our muddy driveway",
    ),
    (
        "check whether these museum tickets also cover guided tours of ancient pottery",
        "write some cheerful birthday rhymes about dragons riding wooden bicycles through forests",
    ),
    (
        "suggest warm winter clothes made of soft wool for travelling grandparents abroad",
        "count different bird species visiting that quiet pond near an abandoned mill",
    ),
    (
        "repair my squeaky kitchen door hinge using simple household tools like vinegar",
        "teach small children basic chess moves with colourful pictures and patient jokes",
    ),
)


def steps(one: str, other: str) -> list[str]:
    """From a text to another, a word at a time: each is near its neighbours, and the ends have nothing in common."""
    left, right = one.split(), other.split()
    return [" ".join([*right[:place], *left[place:]]) for place in range(len(left) + 1)]


CHAINS = [steps(*ends) for ends in ENDS]
POOL = [text for chain in CHAINS for text in chain]
LENGTH = len(CHAINS[0])


def with_typo(text: str, place: int) -> str:
    """Two letters swapped in the middle of a word."""
    words = text.split()
    word = words[place % len(words)]
    middle = max(1, len(word) // 2)
    words[place % len(words)] = word[: middle - 1] + word[middle : middle + 1] + word[middle - 1] + word[middle + 1 :]
    return " ".join(words)


FORMS: tuple[Callable[[str], str], ...] = (
    lambda text: text,
    lambda text: f"  {text.upper()}!",
    lambda text: text.capitalize() + ".",
    lambda text: with_typo(text, 2),
    lambda text: with_typo(with_typo(text, 5), 8),
    # another prompt, which has the first one in it
    lambda text: f"dear helper, kindly {text} for grandmother",
)


@cache
def place_of(prompt: str) -> tuple[int, int]:
    """The chain and the place in it that a prompt comes nearest to."""
    places = product(range(len(CHAINS)), range(LENGTH))
    return max(places, key=lambda at: Levenshtein.normalized_similarity(CHAINS[at[0]][at[1]], prompt))


class Mischief:
    """`Generate` that says other people's prompts, or what lies between them and the one that it was given."""

    def __init__(self) -> None:
        self.gone: list[str] = []
        """Prompts whose feedback was withdrawn or changed, which it says again and again."""
        self.said: list[str] = []
        """What it said, the last at the end: users may come to ask so too."""

    def __call__(self, messages: Sequence[Message], *, max_tokens: int, temperature: float, seed: int) -> str:
        self.said.append(self._say(messages[-1].content, seed))
        return self.said[-1]

    def _say(self, asked: str, seed: int) -> str:
        chance = Random(f"{seed}/{asked}")
        if self.gone and chance.random() < 0.3:
            return chance.choice(FORMS)(chance.choice(self.gone))
        if chance.random() < 0.5:
            return chance.choice(FORMS)(chance.choice(POOL))
        chain, place = place_of(plain(asked.splitlines()[-1].removeprefix("Request: ")))
        return chance.choice(FORMS)(CHAINS[chain][within(place + chance.choice((-2, -1, 0, 1, 2)))])


class Beside:
    """Makes up prompts of the pool to be learned, as far as the host lets it."""

    @hookimpl
    def nightschool_offer_examples(self, accepted: int) -> tuple[StarterExample, ...]:
        return tuple(StarterExample(prompt=text, answer="ls -a") for text in Random(accepted).sample(POOL, 1))

    @hookimpl(wrapper=True)
    def nightschool_replay_examples(
        self, examples: tuple[TrainingExample, ...]
    ) -> Generator[None, Replay | None, Replay]:
        replay = (yield) or Replay()
        drawn = Random(len(examples)).sample(POOL, 1)
        return replace(replay, answers=(*(OwnAnswer(prompt=text, text="ls -a") for text in drawn), *replay.answers))

    @hookimpl
    def nightschool_build_sampled_pairs(self, items: tuple[ExamItem, ...]) -> tuple[PreferencePair, ...]:
        return tuple(
            PreferencePair(event_id=one.event_id, messages=_made_up(one.event_id), chosen="ls -a", rejected="ls")
            for one in items[:1]
        )

    @hookimpl
    def nightschool_build_preference_pairs(self, events: tuple[ScoredEvent, ...]) -> tuple[PreferencePair, ...]:
        answers = {one.event.ai_output or "" for one in events}
        return tuple(
            PreferencePair(event_id=one.event.key, messages=_made_up(one.event.key), chosen=chosen, rejected=rejected)
            for one in events[:1]
            for chosen, rejected in permutations(sorted(answers), 2)
        )

    @hookimpl
    def nightschool_label_answers(self, events: tuple[ScoredEvent, ...]) -> tuple[LabelledAnswer, ...]:
        return tuple(
            LabelledAnswer(event_id=one.event.key, messages=_made_up(one.event.key), answer="ls -a", liked=True)
            for one in events[:1]
        )


def _made_up(seed: str) -> tuple[Message, ...]:
    return (Message(role=Role.USER, content=Random(seed).choice(POOL)),)


@cache
def hooks() -> Hooks:
    return all_plugins(Beside())


NEARBY = (0, 0, 0, -1, 1, -2, 2)
"""Steps away from what is known."""


def within(place: int) -> int:
    """A place that is in a chain."""
    return max(0, min(LENGTH - 1, place))


# --------------------------------------------------------------------------- what may happen

BASES = ("tiny:1b", "small:3b")
TINY_SHELL, SMALL_SHELL, POOLED = (
    Specialty(base=base, artifact_type=kind)
    for base, kind in ((BASES[0], "shell"), (BASES[1], "shell"), (BASES[0], "all"))
)
CHUNKS = (Chunk(text="ls lists files"), Chunk(text="wc counts lines"))


@dataclass(frozen=True, kw_only=True)
class Arrival:
    """A piece of feedback."""

    chain: int
    place: int
    form: int
    kind: FeedbackType
    base: str | None
    artifact_type: str
    marks: Metadata
    has_chunks: bool
    earlier: int
    """Where in the pool stands what was asked earlier in its conversation; beyond the pool: it was the first prompt."""

    @property
    def context(self) -> Context:
        """What the model saw besides."""
        turns = [Message(role=Role.USER, content=text) for text in POOL[self.earlier : self.earlier + 1]]
        answered = [Message(role=Role.ASSISTANT, content="ls") for _ in turns]
        return Context(messages=(*turns, *answered), chunks=CHUNKS if self.has_chunks else ())


@dataclass(frozen=True, kw_only=True)
class Night(Plot):
    """What becomes of a run, and of feedback while the daemon is dead."""

    dies_before: str | None = None
    """Which of the writers of the last step; None: it lives through that."""
    which: int
    """Of the feedback that changes meanwhile, and all like it."""
    change: "Arrival | None"
    """What comes in its place. None: it is withdrawn."""


def twice(feedback: Sequence[Arrival]) -> list[Arrival]:
    """A liked answer to each prompt, and a disliked one."""
    thumbs = (FeedbackType.EXPLICIT_POSITIVE, FeedbackType.EXPLICIT_NEGATIVE)
    return [replace(one, kind=kind) for one in feedback for kind in thumbs]


def changed(event: Event, change: Arrival) -> Event:
    """Another answer, type or prompt in the place of its own, as the form of the change has it."""
    if change.form == 0:
        return replace(event, corrected_output="ls -x", feedback_type=CORRECTION)
    if change.form == 1:
        return replace(event, artifact_type="other" if event.artifact_type == "shell" else "shell")
    return replace(event, input_data=CHAINS[change.chain][change.place])


CORRECTION = FeedbackType.USER_CORRECTION
arrivals = st.builds(
    Arrival,
    chain=st.integers(0, len(CHAINS) - 1),
    place=st.integers(0, LENGTH - 1),
    form=st.integers(0, len(FORMS)),
    kind=st.sampled_from([*FeedbackType, CORRECTION, CORRECTION]),
    base=st.sampled_from([BASES[0], BASES[0], BASES[1], None]),
    artifact_type=st.sampled_from(["shell", "shell", "shell", "other"]),
    marks=st.sampled_from(
        [*[Metadata()] * 4, Metadata(demonstration=True), Metadata(preference=True), Metadata(weak=True)]
    ),
    has_chunks=st.booleans(),
    earlier=st.integers(0, 4 * len(POOL)),
)
feedbacks = st.lists(arrivals, min_size=1, max_size=7)
specialties = st.sampled_from([TINY_SHELL, TINY_SHELL, SMALL_SHELL, POOLED])
SFT, DPO, KTO = TrainingMethod.SFT, TrainingMethod.DPO, TrainingMethod.KTO
nights = st.builds(
    Night,
    outcome=st.sampled_from([Outcome.PROVEN, Outcome.PROVEN, Outcome.NOT_ENOUGH, Outcome.WORSE]),
    methods=st.sampled_from([(SFT,), (SFT, DPO), (DPO,), (KTO,)]),
    killed_at=st.sampled_from([*[None] * 5, Step.SELECT, Step.EXAMINE, Step.JUDGE]),
    dies_before=st.sampled_from([*[None] * 6, *WRITERS]),
    which=st.integers(0, 200),
    change=st.none() | arrivals,
)


class Seasons(RuleBasedStateMachine):
    """Each rule is a night: something happens, and a run is held."""

    @initialize()
    def begin(self) -> None:
        self.patch = pytest.MonkeyPatch()
        self.directory = tempfile.TemporaryDirectory()
        directory = Path(self.directory.name)
        self.mischief = Mischief()
        self.house = InterruptedRuns(
            directory=directory,
            gguf=write_tiny_gguf(directory / "tiny.gguf"),
            bases=BASES,
            hooks=hooks(),
            generate=self.mischief,
            patch=self.patch,
        )
        self.events: list[Event] = []
        self.changed: set[str] = set()
        """Keys of events that were withdrawn, or ask something else now."""
        self.of_night: list[Candidate] = []
        self.candidates: dict[Specialty, list[Candidate]] = {}
        self.specialty = TINY_SHELL
        """Of the night's run."""
        self.sides: dict[tuple[str, str], Side] = {}

    def teardown(self) -> None:
        if hasattr(self, "house"):
            self.house.close()
            self.patch.undo()
            self.directory.cleanup()

    # ----------------------------------------------------------------------- rules

    @rule(feedback=feedbacks, specialty=specialties, night=nights)
    def feedback_comes(self, feedback: list[Arrival], specialty: Specialty, night: Night) -> None:
        self.take_in(feedback)
        self.hold(specialty, night)

    @rule(which=st.integers(0, 200), feedback=feedbacks, specialty=specialties, night=nights)
    def prompts_come_again(self, which: int, feedback: list[Arrival], specialty: Specialty, night: Night) -> None:
        """In another form, or of the next in line: near one that is known, and perhaps near one of the other side."""
        known = [self.events[(which + number) % len(self.events)] for number in range(min(7, len(self.events)))]
        self.take_in_near(known, feedback)
        self.hold(specialty, night)

    @rule(which=st.integers(0, 200), feedback=feedbacks, comes_back=st.booleans(), specialty=specialties, night=nights)
    def feedback_is_withdrawn(
        self, which: int, feedback: list[Arrival], *, comes_back: bool, specialty: Specialty, night: Night
    ) -> None:
        """Of one prompt, and of all like it; what is near them comes in their place, or is forgotten by everybody."""
        known = self.withdraw(which)
        self.take_in_near(known if comes_back else (), feedback)
        self.hold(specialty, night)

    @rule(which=st.integers(0, 200), feedback=feedbacks, specialty=specialties, night=nights)
    def feedback_is_changed(self, which: int, feedback: list[Arrival], specialty: Specialty, night: Night) -> None:
        """Another answer, type or prompt comes under the key of a prompt and of all like it, then what is near them."""
        known = self.change(which, feedback)
        self.take_in_near(known, feedback)
        self.hold(specialty, night)

    @rule(feedback=feedbacks, specialty=specialties, night=nights)
    def prompts_are_answered_twice(self, feedback: list[Arrival], specialty: Specialty, night: Night) -> None:
        """So that there are pairs of answers to be ranked in the exam."""
        self.take_in(twice(feedback))
        self.hold(specialty, night)

    @rule(feedback=feedbacks, specialty=specialties, night=nights)
    def examples_are_shown(self, feedback: list[Arrival], specialty: Specialty, night: Night) -> None:
        self.take_in([replace(one, kind=CORRECTION) for one in feedback])
        self.hold(specialty, night, recipe=Recipe.EXAMPLES)

    @rule(feedback=feedbacks, specialty=specialties, night=nights)
    def a_base_has_another_template(self, feedback: list[Arrival], specialty: Specialty, night: Night) -> None:
        self.take_in(feedback)
        self.hold(specialty, night, reason=REBUILD)

    @rule(feedback=feedbacks, specialty=specialties, night=nights)
    def a_promotion_is_undone(self, feedback: list[Arrival], specialty: Specialty, night: Night) -> None:
        # there may be none
        with contextlib.suppress(UndoRefused):
            self.house.runs.undo(names.alias_of(specialty), self.house.now)
        self.take_in(feedback)
        self.hold(specialty, night)

    # ----------------------------------------------------------------------- invariants

    @invariant()
    def no_candidate_is_asked_what_it_learned(self) -> None:
        for one in getattr(self, "of_night", ()):
            self.require_none(one, one.shown, one)
            assert not one.groups & one.held_out

    @invariant()
    def no_version_learned_what_is_ever_held_out(self) -> None:
        """What was held out so far is in no training, nor in a trial candidate's; what was learned is not held out."""
        if not hasattr(self, "house"):
            return
        for one, other in product(self.of_night, self.candidates.get(self.specialty, ())):
            if not other.is_trial:
                self.require_none(one, one.shown, other)
                if not one.is_trial:
                    self.require_none(other, other.learned, one)

    @invariant()
    def no_incumbent_is_asked_what_it_learned(self) -> None:
        """Nor what those learned that it came from."""
        for one in getattr(self, "of_night", ()):
            versions = {other.name: other for other in self.candidates[self.specialty]}
            ancestor = versions.get(one.incumbent)
            while ancestor is not None:
                self.require_none(ancestor, ancestor.learned, one)
                ancestor = versions.get(ancestor.incumbent)

    @invariant()
    def no_prompt_changes_sides(self) -> None:
        if not hasattr(self, "house"):
            return
        for kind in ("shell", "other", "all"):
            prompts = self.house.ledger.events.prompts(kind)
            found = {(kind, one.key): one.side for one in prompts if one.side is not None}
            assert all(self.sides.get(key, side) is side for key, side in found.items())
            self.sides |= found

    # ----------------------------------------------------------------------- what rules and invariants are made of

    def require_none(self, learner: Candidate, learned: Mapping[str, str], exam: Candidate) -> None:
        """Nothing that was learned is near what is asked in the exam of a candidate."""
        for one, other, alike in near(learned, exam.asked):
            is_gone = learned[one] in self.changed or exam.asked[other] in self.changed
            if not is_gone or alike >= SURELY_NEAR:
                raise AssertionError(
                    f"{learner.name} learned '{one}' ({learned[one]}), and of {exam.name} "
                    f"'{other}' is asked ({exam.asked[other]})"
                )

    def note_gone(self, event: Event) -> None:
        self.changed.add(event.key)
        self.mischief.gone.append(plain(event.input_data))

    def withdraw(self, which: int) -> list[Event]:
        """Some events, which are returned."""
        known = [self.events[place] for place in self.alike(which)]
        for event in known:
            self.note_gone(event)
            marks = replace(event.metadata, deleted=True)
            self.send(replace(event, input_data="", feedback_type=FeedbackType.EXPLICIT_NEGATIVE, metadata=marks))
        return known

    def change(self, which: int, feedback: Sequence[Arrival]) -> list[Event]:
        """Some events, which are returned as they were."""
        places = self.alike(which)
        known = [self.events[place] for place in places]
        for place, change in zip(places, cycle(feedback), strict=False):
            before = self.events[place]
            # all in one way, so that nobody asks the old prompt any more
            after = self.events[place] = changed(before, replace(change, form=feedback[0].form))
            if (after.input_data, after.artifact_type) != (before.input_data, before.artifact_type):
                self.note_gone(before)
            self.send(after)
        return known

    def alike(self, which: int) -> list[int]:
        """Where the events stand that ask at most two steps from what one does: any, a learned or a held-out one."""
        if not self.events:
            return []
        at = [place_of(plain(one.input_data)) for one in self.events]
        candidates = [one for some in self.candidates.values() for one in some]
        learned = {key for one in candidates for key in one.learned.values()}
        held_out = {key for one in candidates if not one.is_trial for key in one.asked.values()}
        of_interest = (set[str](), learned, held_out)[which % 3]
        wanted = [number for number, one in enumerate(self.events) if one.key in of_interest]
        chain, place = at[wanted[which % len(wanted)] if wanted else which % len(at)]
        return [number for number, one in enumerate(at) if one[0] == chain and abs(one[1] - place) <= 2]

    def take_in_near(self, known: Sequence[Event], feedback: Sequence[Arrival]) -> None:
        """Feedback on prompts at most two steps from those of some events, of which there may be none yet."""
        if known:
            places = cycle(place_of(plain(one.input_data)) for one in known)
            feedback = [
                replace(one, chain=chain, place=within(place + NEARBY[one.place % len(NEARBY)]))
                for one, (chain, place) in zip(feedback, places, strict=False)
            ]
        self.take_in(feedback)

    def worded(self, one: Arrival) -> str:
        """Beyond the forms, as the local model said something not long ago."""
        if one.form < len(FORMS) or not self.mischief.said:
            return FORMS[one.form % len(FORMS)](CHAINS[one.chain][one.place])
        return self.mischief.said[-1 - (one.chain * LENGTH + one.place) % len(self.mischief.said)]

    def take_in(self, feedback: Sequence[Arrival]) -> None:
        for one in feedback:
            number, corrected = len(self.events), one.kind is CORRECTION
            event = Event(
                id=str(number),
                timestamp=START,
                feedback_type=one.kind,
                input_data=self.worded(one),
                artifact_type=one.artifact_type,
                model=one.base,
                context=one.context,
                ai_output=f"ls {number % 3}",
                corrected_output=f"ls -l {number}" if corrected else None,
                metadata=one.marks if corrected or one.marks.weak else Metadata(),
            )
            self.events.append(event)
            self.send(event)

    def send(self, event: Event) -> None:
        self.house.now += timedelta(minutes=1)
        self.house.take_in(replace(event, timestamp=self.house.now))

    def hold(
        self, specialty: Specialty, night: Night, *, reason: str = ASKED, recipe: Recipe = Recipe.TRAINING
    ) -> RunDirectory:
        def feedback_changes() -> None:
            if night.change is None:
                self.withdraw(night.which)
            else:
                self.change(night.which, [night.change])

        self.house.dies_before, self.house.meanwhile = night.dies_before, feedback_changes
        report = self.house.hold(specialty, reason, recipe, night)
        assert report.end is not RunEnd.FAILED, report.reason
        run = report.run
        versions = self.house.ledger.versions.of_specialty(specialty)
        name = next((one.tag for one in versions if one.run_id == run.id), f"run {run.id}")
        self.specialty = specialty
        directory = RunDirectory(path=run.directory)
        self.of_night = list(candidates_of(directory, name, night.methods))
        self.candidates.setdefault(specialty, []).extend(self.of_night)
        return directory


Seasons.TestCase.settings = settings(
    max_examples=SEASONS,
    # the first step is the beginning
    stateful_step_count=RUNS + 1,
    deadline=None,
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
TestSeasons = Seasons.TestCase


AUGMENTATIONS = ("paraphrase", "backtranslate", "synonyms", "letters", "context")

Asked: TypeAlias = tuple[str, str]
"""The event of a variant, and what its last message says."""


def note_variants(patch: pytest.MonkeyPatch) -> Mapping[str, set[Asked]]:
    """What each augmentation makes from now on, by its name."""
    made: dict[str, set[Asked]] = {f"augmentation_{name}": set() for name in AUGMENTATIONS}

    def noted(plugin: str, say: Callable[..., object], asked: Callable[[Any, Any], Asked]) -> None:
        def call(first: object, *others: object) -> tuple[Any, ...]:
            found = cast(tuple[Any, ...], say(first, *others))
            made[plugin].update(asked(first, one) for one in found)
            return found

        patch.setattr(implementation, "function", call)

    relay = hooks().manager.hook
    for implementation in relay.nightschool_augment_examples.get_hookimpls():
        noted(implementation.plugin_name, implementation.function, _says)
    for implementation in relay.nightschool_vary_context.get_hookimpls():
        noted(implementation.plugin_name, implementation.function, _says_with_texts)
    return made


def _says(_originals: object, variant: TrainingExample) -> Asked:
    return variant.event_id, variant.messages[-1].content


def _says_with_texts(original: TrainingExample, chunks: Sequence[Chunk]) -> Asked:
    """As `training_sft` puts the texts before the question."""
    texts = "\n".join(f"[{number}] {one.text}" for number, one in enumerate(chunks, start=1))
    return original.event_id, f"{texts}\n\n{original.prompt}"


def _learned_variants(night: RunDirectory) -> set[Asked]:
    """What was trained on."""
    if not night.is_done(Step.TRAIN):
        return set()
    texts = read_lines(night.step(Step.SELECT) / "examples.jsonl", TrainingText)
    return {(one.event_id, one.messages[-1].content) for one in texts if one.variant}


def test_a_season_has_all_that_could_leak(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that it is not for want of variants, sampled pairs, replayed or starter examples that nothing does."""
    season, chance = Seasons(), Random(1)
    season.begin()
    made = note_variants(monkeypatch)
    try:
        runs = [_a_plain_night(season, chance, dies_before) for dies_before in (*[None] * 4, *WRITERS)]
        nights = [run.result(Step.SELECT, SelectResult) for run in runs]
        variants = set[Asked]().union(*map(_learned_variants, runs))
        prompts = season.house.ledger.events.prompts("shell")
    finally:
        season.teardown()
    # what two of them made shows of neither that it is alive
    makers = Counter(one for of_plugin in made.values() for one in of_plugin)
    assert [name for name, of_plugin in made.items() if not any(makers[one] == 1 for one in of_plugin & variants)] == []
    assert sum(one.variants for one in nights) > 0
    assert any(event.context.chunks for event in season.events)
    assert sum(one.sampled for one in nights) > 0
    assert sum(one.starters for one in nights) > 0
    assert sum(len(one.replayed.events) for one in nights) > 0
    assert sum(one.replayed.answers for one in nights) > 0
    assert sum(one.material.liked + one.material.disliked for one in nights) > 0
    assert sum(one.items for one in nights) > 0
    assert sum(one.pairs for one in nights) > 0
    assert any(one.is_trial for one in season.candidates[TINY_SHELL])
    assert any("conversation" in left_out.reason for one in nights for left_out in one.left_out)
    asked = {key_of(one.input_data) for one in season.events}
    remembered = [one.text for one in prompts if one.text is not None and one.key not in asked]
    assert any(text in POOL for text in remembered)
    # what has the words of a prompt among others
    assert any(prompt in text for text in remembered for prompt in POOL if prompt != text)
    gone = [one for one in prompts if one.fingerprint is not None]
    assert {one.side for one in gone} == {Side.TRAINING, Side.HELD_OUT}
    assert {one.key in asked for one in gone} == {True, False}


def _a_plain_night(season: Seasons, chance: Random, dies_before: str | None) -> RunDirectory:
    feedback = [
        Arrival(
            chain=chance.randrange(len(CHAINS)),
            place=chance.randrange(LENGTH),
            form=0,
            kind=CORRECTION,
            base=BASES[0],
            artifact_type="shell",
            marks=Metadata(),
            has_chunks=number % 2 == 0,
            earlier=chance.randrange(2 * len(POOL)),
        )
        for number in range(10)
    ]
    season.take_in([*feedback[:6], *twice(feedback[6:])])
    night = Night(methods=(SFT, DPO), dies_before=dies_before, which=chance.randrange(200), change=None)
    return season.hold(TINY_SHELL, night)
