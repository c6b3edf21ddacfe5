"""Variants of a prompt by way of another language: the local model translates the last user message there and back.

English goes by way of `pivot`, French by default; every other language by way of English. The model that is to learn
is asked itself, so nothing leaves the machine. What comes back is kept where it is in the question's language, close to
the question by `measure`, differs in words, and has all that the answer rests on (`nightschool_hookspecs.variants`);
the answer stays the same. A model that gives no answer costs that variant, and after a few in a row it is left alone.

The language of a text is told by counting: it is that of which it has most function words (`the`, `le`, `der`, ...). A
text in plain ASCII without any, as short requests often are, is taken for English; any other that cannot be told is
left alone.
"""

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass

from nightschool_hookspecs import Generate, Measure, TrainingExample, hookimpl
from nightschool_hookspecs.variants import AskedModel, AskingSettings

REQUEST = """Translate the request below from {source} into {target}. Its meaning must stay exactly the same: add \
nothing, leave nothing out, and do not answer it. Copy every name, number, path, flag, identifier and quoted text \
letter for letter. Reply with the translation alone.

Request: {question}"""
NAMES = {
    "de": "German",
    "en": "English",
    "es": "Spanish",
    "fr": "French",
    "it": "Italian",
    "nl": "Dutch",
    "pt": "Portuguese",
}
WORD = re.compile(r"[^\W\d_]+")
FUNCTION_WORDS: Mapping[str, frozenset[str]] = {
    "de": frozenset(
        WORD.findall(
            "der die das den dem des ein eine einen einem und oder nicht ist sind mit von für auf zu in im wie wird "
            "aus bei als auch nach alle ich mir"
        )
    ),
    "en": frozenset(
        WORD.findall(
            "the a an and or not is are with of for on to in how what which from by as also all that this my me it "
            "into if where"
        )
    ),
    "es": frozenset(
        WORD.findall(
            "el la los las un una unos y o no es son con de del para en al como qué que por se todos todas mi me lo "
            "más si donde"
        )
    ),
    "fr": frozenset(
        WORD.findall(
            "le la les un une des et ou ne pas est sont avec de du pour dans au aux comment que qui par sur tous "
            "toutes mon ma mes ce cette"
        )
    ),
    "it": frozenset(
        WORD.findall(
            "il lo la i gli le un una e o non è sono con di del della per in al come che da su tutti tutte mio mi "
            "questo nella dove"
        )
    ),
    "nl": frozenset(
        WORD.findall(
            "de het een en of niet is zijn met van voor op te in hoe wat welke uit bij als ook naar alle ik mij mijn "
            "dat deze waar"
        )
    ),
    "pt": frozenset(
        WORD.findall(
            "o a os as um uma e ou não é são com de do da para em no na como que por se todos todas meu me mais onde "
            "dos das"
        )
    ),
}


@dataclass(frozen=True, kw_only=True)
class AugmentationBacktranslate(AskingSettings):
    """`[plugins.augmentation_backtranslate]`"""

    pivot: str = "fr"
    """By way of which language English goes: "de", "es", "fr", "it", "nl" or "pt". Others go by way of English."""
    temperature: float = 0.3
    """Of the model. At 0 it says the same each night."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pivot not in NAMES or self.pivot == "en":
            raise ValueError(f"pivot must be one of {', '.join(sorted(NAMES.keys() - {'en'}))}")

    @hookimpl
    def nightschool_augment_examples(
        self, examples: tuple[TrainingExample, ...], generate: Generate, measure: Measure, seed: int
    ) -> tuple[TrainingExample, ...]:
        model = AskedModel(generate, self)

        def draft(example: TrainingExample, question: str, chance: random.Random) -> str | None:
            source = language_of(question)
            if source is None or not model.can_answer(2):
                return None
            back = self._there_and_back(model, question, source, chance)
            return back if back is not None and language_of(back) == source else None

        return self.vary(examples, draft, measure, seed)

    def _there_and_back(self, model: AskedModel, question: str, source: str, chance: random.Random) -> str | None:
        target = self.pivot if source == "en" else "en"
        there = model.ask(_request(question, source, target), question, chance)
        return None if there is None else model.ask(_request(there, target, source), question, chance)


def language_of(text: str) -> str | None:
    """The language of a text by its function words, as a code; None where two have as many, or there are none."""
    words = WORD.findall(text.casefold())
    counts = {language: sum(word in known for word in words) for language, known in FUNCTION_WORDS.items()}
    most = max(counts.values())
    if most == 0:
        return "en" if text.isascii() and words else None
    leading = [language for language, count in counts.items() if count == most]
    return leading[0] if len(leading) == 1 else None


def _request(question: str, source: str, target: str) -> str:
    return REQUEST.format(source=NAMES[source], target=NAMES[target], question=question)


@hookimpl
def nightschool_register_settings() -> type[AugmentationBacktranslate]:
    return AugmentationBacktranslate
