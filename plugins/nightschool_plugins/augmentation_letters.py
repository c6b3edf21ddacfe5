"""Variants of a prompt that differ in how people type: the case of its first letter, its closing mark.

Three forms of the last user message: first letter's case turned, closing mark added or taken away,
both. The answer stays the same, and so does what it may rest on: no `..` becomes a `.`. Off by default.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

from nightschool_hookspecs import Generate, Measure, Message, Role, TrainingExample, hookimpl
from nightschool_hookspecs.variants import keeps

CLOSING_MARKS = ".!?"


@dataclass(frozen=True, kw_only=True)
class AugmentationLetters:
    """`[plugins.augmentation_letters]`"""

    variants_per_example: int = 0
    """0..2; a training set grows to three times its size at most."""

    def __post_init__(self) -> None:
        if not 0 <= self.variants_per_example <= 2:
            raise ValueError("variants_per_example must be 0, 1 or 2")

    @hookimpl
    def nightschool_augment_examples(
        self, examples: tuple[TrainingExample, ...], generate: Generate, measure: Measure, seed: int
    ) -> tuple[TrainingExample, ...]:
        chance = random.Random(seed)  # noqa: S311 - a choice of variants, not a secret
        return tuple(variant for example in examples for variant in self._variants(example, chance))

    def _variants(self, example: TrainingExample, chance: random.Random) -> Iterator[TrainingExample]:
        if example.parent is not None or not example.messages or example.messages[-1].role is not Role.USER:
            return
        asked = example.messages[-1].content
        prompts = [form for form in _forms(asked) if keeps(asked, form, example.target)]
        for prompt in chance.sample(prompts, min(self.variants_per_example, len(prompts))):
            messages = (*example.messages[:-1], Message(role=Role.USER, content=prompt))
            yield replace(example, messages=messages, parent=example.event_id)


def _forms(prompt: str) -> tuple[str, ...]:
    forms = (_turn_first_letter(prompt), _turn_closing_mark(prompt), _turn_first_letter(_turn_closing_mark(prompt)))
    return tuple(dict.fromkeys(form for form in forms if form.strip() and form != prompt))


def _turn_first_letter(prompt: str) -> str:
    turned = prompt[:1].swapcase()
    return turned + prompt[1:] if len(turned) == 1 else prompt


def _turn_closing_mark(prompt: str) -> str:
    return prompt[:-1] if prompt.endswith(tuple(CLOSING_MARKS)) else prompt + "."


@hookimpl
def nightschool_register_settings() -> type[AugmentationLetters]:
    return AugmentationLetters
