"""What is put to the test, and the pipelines that are made of it: records, no code of any component's own.

A component is a few plugins by their names, and settings that go with them. Where a plugin is not among the built-ins
the component is missing: the bench says so, and takes it in once it is there.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from benchmarks.ablation.pools import ARTIFACT_TYPES, Size
from nightschool_daemon.hooks import BUILT_IN
from nightschool_daemon.hooks.sources import OPTIONAL

Tables = Mapping[str, Mapping[str, object]]
"""Tables of a configuration by their names."""

PASSES = 3
"""Epochs in which a random sample of a night's size uses the tokens up."""
RAW_WITHOUT = ("reward_plain", "selection_priority", "negatives_plain")
"""Built-ins that weigh or choose, and that the raw pool does without."""
ANY_NUMBER = 1_000_000
TRAINING_LIMIT_MINUTES = 15.0
"""Several times what the dearest one takes: one that hangs is not to use up the hours."""
TASKS = tuple(ARTIFACT_TYPES)
RAW_TABLES: Tables = {"similarity": {"max_near_duplicates": ANY_NUMBER}}
FEW_QUESTIONS = {"most_questions": 24, "max_tokens": 64}
SHORT_SEARCH = {"fewest_examples": 8, "most_trials": 8, "random_trials": 3, "time_limit_minutes": 3.0}
SAMPLED_PROMPTS = 16


class Pipeline(StrEnum):
    """What a component is put into, or taken out of."""

    BASE = "base"
    """Nothing is trained."""
    RAW = "raw"
    """A random sample of the pool, every example alike."""
    MEASURED = "measured"
    """What is asked by default."""


@dataclass(frozen=True, kw_only=True)
class Component:
    """Something that may make a model better."""

    name: str
    plugins: tuple[str, ...] = ()
    """Built-ins that are switched on for it."""
    tables: Tables = field(default_factory=dict)
    """Settings that go with it. Whatever asks a server is bounded here."""
    chooses: bool = False
    """It says itself what a night learns from, in place of a random sample."""
    passes: int = 0
    """Epochs; 0: as many as the tokens allow."""
    watches: bool = False
    """The training sees these epochs, after each of which it may be stopped; else one that is as long."""
    signal: str = ""
    """What has to differ from event to event for it to do anything (`cells.Result.spread`); empty: nothing has."""
    joins: bool = True
    """It is part of everything together."""
    variant_of: str = ""
    """The component that it is with another setting: one of them at most becomes a default. Empty: of none."""
    asks: bool = False
    """It puts questions to the base, and does nothing where that was never tuned to conversations."""
    tasks: tuple[str, ...] = TASKS
    why_not: str = ""
    """Why no night by itself can show what it is worth; empty: one can."""

    @property
    def missing(self) -> tuple[str, ...]:
        """Plugins of it that are not there."""
        return tuple(one for one in self.plugins if one not in BUILT_IN)

    @property
    def is_measured(self) -> bool:
        """Whether nights are learned with it."""
        return not (self.missing or self.why_not)

    @property
    def is_ordinary(self) -> bool:
        """Whether it is held against the raw pool as that is."""
        return self.passes in (0, PASSES)


COMPONENTS: tuple[Component, ...] = (
    # what weighs and chooses by default, which the raw pool does without
    Component(name="plain", plugins=RAW_WITHOUT, chooses=True, signal="priorities", joins=False),
    Component(
        name="reward",
        plugins=("reward_enhanced", "difficulty_heuristic", "selection_priority"),
        chooses=True,
        signal="priorities",
    ),
    Component(name="active", plugins=("selection_active", "reward_plain"), chooses=True, signal="scores"),
    Component(name="duplicates", tables={"similarity": {"max_near_duplicates": 2}}),
    Component(name="noise", plugins=("noise_agreement",), signal="weights"),
    Component(name="negatives", plugins=("negatives_hard",), signal="weights"),
    Component(
        name="curriculum",
        plugins=("curriculum_staged",),
        # an epoch is nine steps: by default it would have one stretch, and a night would end before the hard ones
        tables={"plugins.curriculum_staged": {"fewest_steps": 1}},
        signal="difficulties",
    ),
    Component(name="letters", tables={"plugins.augmentation_letters": {"variants_per_example": 2}}),
    Component(name="synonyms", plugins=("augmentation_synonyms",)),
    Component(
        name="paraphrase",
        plugins=("augmentation_paraphrase",),
        tables={"plugins.augmentation_paraphrase": FEW_QUESTIONS},
        asks=True,
    ),
    Component(
        name="backtranslate",
        plugins=("augmentation_backtranslate",),
        tables={"plugins.augmentation_backtranslate": FEW_QUESTIONS},
        asks=True,
    ),
    Component(name="context", plugins=("augmentation_context",), why_not="neither task has retrieved texts"),
    Component(
        name="preferences",
        plugins=("preference_pairs",),
        tables={
            "training": {"method": "auto"},
            "plugins.training_dpo": {"fewest_pairs": 2},
            "plugins.preference_pairs": {
                "samples": 2,
                "prompts": SAMPLED_PROMPTS,
                "failures_in_a_row": SAMPLED_PROMPTS,
                # one that is cut off is no answer, and a base that was never taught commands explains them at length
                "max_tokens": 320,
                "minutes": 2.0,
            },
        },
        asks=True,
    ),
    Component(
        name="rehearsal", plugins=("replay_mixed",), tables={"plugins.replay_mixed": {"minutes": 2.0}}, asks=True
    ),
    *(
        Component(
            name=f"rehearsal-{share:.0%}".rstrip("%"),
            plugins=("replay_mixed",),
            tables={"plugins.replay_mixed": {"minutes": 2.0, "share": share}},
            asks=True,
            joins=False,
            variant_of="rehearsal",
        )
        for share in (0.05, 0.25)
    ),
    Component(
        name="tuning",
        plugins=("tuning_optuna",),
        # other epochs would be other tokens
        tables={"plugins.tuning_optuna": {**SHORT_SEARCH, "num_epochs": [PASSES, PASSES], "fewest_steps": 0}},
        passes=PASSES,
        watches=True,
        # a search is dearer than all else of a night, and would be in every cell of the others
        joins=False,
    ),
    Component(
        name="starters",
        plugins=("training_starters",),
        # a night of diagrams has as few examples as a young specialty, though the pool is larger than that
        tables={"plugins.training_starters": {"until": 1000}},
        joins=False,
        tasks=("diagrams",),
    ),
    # a night of diagrams is too few examples to keep some of them aside
    Component(name="early stopping", passes=12, watches=True, tasks=("shell",)),
    Component(
        name="batching",
        plugins=("batching_adaptive",),
        why_not="it says when a night learns, not what",
    ),
)


@dataclass(frozen=True, kw_only=True)
class Arm:
    """A way from a pool to a model."""

    name: str
    pipeline: Pipeline = Pipeline.RAW
    components: tuple[Component, ...] = ()
    left_out: Component | None = None
    """Of the whole pipeline."""
    is_clean: bool = False
    """It learns from the oracle's pool."""
    share: float = 1.0
    """Of a night's events."""
    passes: int = 0
    watches: bool = False
    tasks: tuple[str, ...] = TASKS
    """On which it has anything to show."""

    @property
    def asks(self) -> bool:
        """Whether it shows something only where the base can answer questions."""
        if self.left_out is not None:
            return self.left_out.asks
        return self.pipeline is Pipeline.RAW and any(one.asks for one in self.components)

    def events(self, size: Size) -> int:
        """That a night learns from."""
        return max(1, round(self.share * size.night))

    def tokens(self, size: Size) -> int:
        """That it learns from in all: where the epochs are given, as many as these take."""
        return round(self.share * size.tokens * (self.passes or PASSES) / PASSES)

    def tables(self, size: Size, seed: int) -> Tables:
        """The configuration of its installation."""
        raw = self.pipeline is not Pipeline.MEASURED
        base: Tables = {
            "exam": {"max_answer_tokens": size.answer_tokens, "context_tokens": 1024},
            "similarity": {"embedding": "static"},
            "training": {
                "max_events": self.events(size),
                "max_tokens": ANY_NUMBER,
                "seed": seed + 1,
                "warm_start": False,
                "time_limit_minutes": TRAINING_LIMIT_MINUTES,
            },
            "plugins": {"enabled": self._enabled(), "disabled": self._disabled()},
            # what is held out is said by the bench
            "plugins.evaluation_split": {"held_out_share": 0.0, "grown_items": 0},
            "plugins.tuning_fixed": {"num_epochs": PASSES, "fewest_steps": 0, "batch_size": size.batch},
        }
        found = joined(base, RAW_TABLES if raw else {}, *(one.tables for one in self.components))
        if "plugins.tuning_optuna" in found:
            found["plugins.tuning_optuna"]["batch_size"] = [size.batch, 2 * size.batch]
        return found

    @property
    def fewest_pairs(self) -> int | None:
        """From so many pairs on they are learned from; None: never."""
        of_pairs = joined(*(one.tables for one in self.components)).get("plugins.training_dpo", {})
        fewest = of_pairs.get("fewest_pairs")
        return fewest if isinstance(fewest, int) else None

    @property
    def is_of_pairs(self) -> bool:
        """Whether it is nothing without pairs of sampled answers."""
        return self.pipeline is Pipeline.RAW and self.fewest_pairs is not None

    @property
    def samples(self) -> bool:
        """Whether a night learns from a random sample."""
        return self.pipeline is not Pipeline.MEASURED and not any(one.chooses for one in self.components)

    def _plugins(self) -> set[str]:
        return {name for one in self.components for name in one.plugins}

    def _enabled(self) -> list[str]:
        return sorted(self._plugins() & OPTIONAL)

    def _disabled(self) -> list[str]:
        """Of what is asked by default, all that is not part of the arm."""
        own = self._plugins()
        if self.pipeline is Pipeline.MEASURED:
            left_out = () if self.left_out is None else self.left_out.plugins
            return sorted(name for name in left_out if name not in own | OPTIONAL and name not in RAW_WITHOUT)
        by_default = {name for one in COMPONENTS for name in one.plugins if name in BUILT_IN and name not in OPTIONAL}
        return sorted((by_default | set(RAW_WITHOUT)) - own)


BASE = Arm(name="base", pipeline=Pipeline.BASE)
RAW = Arm(name="raw")
ORACLE = Arm(name="oracle", is_clean=True)
CURVE = tuple(replace(RAW, name=f"raw-{share:g}", share=share, tasks=("shell",)) for share in (0.125, 0.25, 0.5))
"""With less of everything: what the raw pool would have taught with fewer examples and tokens. A part of a night of
diagrams is too few examples to tell."""


def measured(components: Iterable[Component] = COMPONENTS) -> tuple[Component, ...]:
    """Those of which cells are run."""
    return tuple(one for one in components if one.is_measured)


def alone(component: Component) -> Arm:
    """A component with nothing beside it."""
    return Arm(
        name=_plain(component.name),
        components=(component,),
        passes=component.passes,
        watches=component.watches,
        tasks=component.tasks,
    )


def halved(component: Component) -> Arm:
    """The same with half of a night's examples and tokens."""
    return replace(alone(component), name=f"{_plain(component.name)}-0.5", share=0.5, tasks=("shell",))


def peer_of(arm: Arm) -> Arm:
    """What an arm of the raw pipeline is held against: the raw pool, as much of it, as often."""
    if arm.passes not in (0, PASSES):
        return replace(arm, name=f"raw-{arm.passes}-passes", components=(), watches=False)
    return next((one for one in CURVE if one.share == arm.share), RAW)


def joining(components: Iterable[Component]) -> tuple[Component, ...]:
    """Those that are part of everything together."""
    return tuple(one for one in components if one.is_ordinary and one.joins)


def whole(components: Sequence[Component]) -> Arm:
    """Everything together."""
    parts = joining(components)
    return Arm(name=f"all-{digest_of(parts)}", pipeline=Pipeline.MEASURED, components=parts)


def without(component: Component, components: Sequence[Component]) -> Arm:
    """Everything but one."""
    parts = tuple(one for one in joining(components) if one != component)
    name = f"without-{_plain(component.name)}-{digest_of(parts)}"
    return Arm(name=name, pipeline=Pipeline.MEASURED, components=parts, left_out=component)


def default(winners: Sequence[Component]) -> Arm:
    """What is asked by default, with those that the measurements speak for."""
    asked = [name for name in BUILT_IN if name not in OPTIONAL]
    return Arm(name=f"default-{digest_of(winners, asked)}", pipeline=Pipeline.MEASURED, components=tuple(winners))


def digest_of(components: Iterable[Component], plugins: Iterable[str] = ()) -> str:
    """Four letters that differ where another set of them was measured."""
    said = json.dumps([sorted(one.name for one in components), list(plugins)])
    return hashlib.sha256(said.encode()).hexdigest()[:4]


def joined(*tables: Tables) -> dict[str, dict[str, object]]:
    """All tables in one; of a key that several have, the last counts."""
    found: dict[str, dict[str, object]] = {}
    for one in tables:
        for name, values in one.items():
            found.setdefault(name, {}).update(values)
    return found


def toml(tables: Tables) -> str:
    """The tables as a configuration has them. What JSON and TOML write alike is all that is in them."""
    return "".join(f"[{name}]\n{''.join(_lines(values))}\n" for name, values in tables.items())


def _lines(values: Mapping[str, object]) -> Iterator[str]:
    for key, value in values.items():
        yield f"{key} = {json.dumps(value)}\n"


def _plain(name: str) -> str:
    return name.replace(" ", "-")
