"""What is learned again beside a lesson: corrections learned before, and what the base itself says to general prompts.

A training that sees its lesson alone forgets what it does not see. So a share of what a run learns from is of two
kinds:

    earlier   corrections that the model in use has learned and tonight's lesson has nothing of, drawn evenly, so that
              each has its turn over the nights (Robins 1995, "Catastrophic Forgetting, Rehearsal and Pseudorehearsal";
              Rolnick et al. 2019, "Experience Replay for Continual Learning")
    own       answers of the base's own to the prompts of `data/replay_prompts.toml`: where the lesson says nothing, the
              model is held to itself (Li and Hoiem 2016, "Learning without Forgetting"; Yang et al. 2024,
              "Self-Distillation Bridges Distribution Gap in Language Model Fine-Tuning"; Huang et al. 2024, "Mitigating
              Catastrophic Forgetting in Large Language Models with Self-Synthesized Rehearsal")

    replayed <= share * (examples + replayed)

A hundredth was found to be enough for models of billions of weights (Scialom et al. 2022, "Fine-tuned Language Models
are Continual Learners"). What one kind lacks the other makes up.

An own answer is drawn at a temperature below 1: a few answers are gone through in several epochs, and words from far
out would be learned by heart; the likeliest ones alone would narrow the model, and those of small models run in
circles. Answers that are cut, run in circles or repeat their prompt are left out. A base that gives hardly any whole
answer, as one that was never tuned to conversations, has no answers worth keeping: of its own nothing is replayed.
"""

import functools
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

from nightschool_hookspecs import OwnAnswer, Recall, Replay, ScoredEvent, TrainingExample, hookimpl
from nightschool_hookspecs.circling import says_something
from nightschool_hookspecs.replay import LARGEST_SHARE


@dataclass(frozen=True, kw_only=True)
class ReplayMixed:
    """`[plugins.replay_mixed]`"""

    share: float = 0.1
    """Of all examples of a run, 0..0.25: the host lets no more in."""
    own_share: float = 0.5
    """Of what is replayed, 0..1: answers of the base's own. The rest are earlier corrections, at 1 none."""
    max_tokens: int = 160
    """Of an own answer; a longer one is cut, and left out."""
    temperature: float = 0.7
    """Of the base, when it answers."""
    minutes: float = 10.0
    """That the base may take to answer, for a training set. It is asked each prompt once, whatever the night."""
    least_able: float = 0.25
    """Share of the prompts asked, 0..1, to which the base must give whole answers."""
    fewest_asked: int = 8
    """Prompts after which that is looked at first."""

    def __post_init__(self) -> None:
        if not 0 <= self.share <= LARGEST_SHARE:
            raise ValueError(f"share must be between 0 and {LARGEST_SHARE}")
        for name in ("own_share", "least_able"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be between 0 and 1")
        if min(self.max_tokens, self.fewest_asked) < 1:
            raise ValueError("max_tokens and fewest_asked must be at least 1")
        if not 0 <= self.temperature <= 2:
            raise ValueError("temperature must be between 0 and 2")
        if not self.minutes >= 0:
            raise ValueError("minutes must be at least 0")

    @hookimpl
    def nightschool_replay_examples(
        self, examples: tuple[TrainingExample, ...], earlier: tuple[ScoredEvent, ...], recall: Recall, seed: int
    ) -> Replay:
        wanted = math.floor(self.share * len(examples) / (1 - self.share))
        chance = random.Random(f"{seed}/replay")  # noqa: S311 - a choice of examples, not a secret
        kept = min(wanted, len(earlier)) if self.own_share < 1 else 0
        events = tuple(one.event.key for one in chance.sample(earlier, kept))
        own = max(round(self.own_share * wanted), wanted - kept) if self.own_share > 0 else 0
        answers = self._answers(own, recall, seed)
        return Replay(events=events[: wanted - len(answers)], answers=answers)

    def _answers(self, wanted: int, recall: Recall, seed: int) -> tuple[OwnAnswer, ...]:
        """So many whole answers to prompts by chance, or fewer. None of a base that gives hardly any."""
        if not wanted:
            return ()
        known = read_prompts()
        # by the seed alone: trial candidates, which learn of fewer events, begin with what the base was asked already
        prompts = random.Random(f"{seed}/replay/own").sample(known, len(known))  # noqa: S311 - no secret
        said = recall(prompts, max_tokens=self.max_tokens, temperature=self.temperature, minutes=self.minutes)
        found: list[OwnAnswer] = []
        asked = 0
        # it may end before the prompts do
        for prompt, text in zip(prompts, said, strict=False):
            asked += 1
            if text is not None and _is_answer(text, prompt):
                found.append(OwnAnswer(prompt=prompt, text=text))
            if len(found) == wanted or (asked >= self.fewest_asked and not self._is_able(len(found), asked)):
                break
        return tuple(found) if self._is_able(len(found), asked) else ()

    def _is_able(self, whole: int, asked: int) -> bool:
        return whole >= self.least_able * asked


@functools.cache
def read_prompts() -> tuple[str, ...]:
    """All prompts of the file, in its order."""
    import tomllib

    text = resources.files("nightschool_plugins").joinpath("data/replay_prompts.toml").read_text(encoding="utf-8")
    kinds: dict[str, Sequence[str]] = tomllib.loads(text)
    return tuple(prompt for prompts in kinds.values() for prompt in prompts)


def _is_answer(text: str, prompt: str) -> bool:
    return says_something(text) and text.strip().casefold() != prompt.casefold()


@hookimpl
def nightschool_register_settings() -> type[ReplayMixed]:
    return ReplayMixed
