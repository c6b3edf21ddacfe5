"""Variants of a prompt in other words: the local model says the last user message anew.

The model that is to learn is asked itself, so nothing leaves the machine. What it says is kept where it is close to the
question by `measure`, differs in words, and has all that the answer rests on (`nightschool_hookspecs.variants`);
the answer stays the same. A model that gives no answer costs that variant, and after a few in a row it is left alone.
"""

import random
from dataclasses import dataclass

from nightschool_hookspecs import Generate, Measure, TrainingExample, hookimpl
from nightschool_hookspecs.variants import AskedModel, AskingSettings

REQUEST = """Say the request below in other words, in its own language. Its meaning must stay exactly the same: add \
nothing, leave nothing out, and do not answer it. Copy every name, number, path, flag, identifier and quoted text \
letter for letter. Reply with the new request alone.

Request: {question}"""


@dataclass(frozen=True, kw_only=True)
class AugmentationParaphrase(AskingSettings):
    """`[plugins.augmentation_paraphrase]`"""

    @hookimpl
    def nightschool_augment_examples(
        self, examples: tuple[TrainingExample, ...], generate: Generate, measure: Measure, seed: int
    ) -> tuple[TrainingExample, ...]:
        model = AskedModel(generate, self)

        def draft(example: TrainingExample, question: str, chance: random.Random) -> str | None:
            return model.ask(REQUEST.format(question=question), question, chance)

        return self.vary(examples, draft, measure, seed)


@hookimpl
def nightschool_register_settings() -> type[AugmentationParaphrase]:
    return AugmentationParaphrase
