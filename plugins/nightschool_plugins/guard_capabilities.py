"""Guards that the candidate can do what the incumbent and the base can: call tools, think, see.

What the tags list is compared first. Where one of theirs lists tools or thinking, the same fixed prompts are put to
both, and to the candidate. A call is well-formed where it names a tool that was offered and gives every parameter a
value of its type; a model thinks where both its thinking and its answer have words.

    broken   a capability is missing from the candidate's tag, or the better of the two succeeds in more than half of
             the tries and the candidate in none of these

A single call that went wrong, which happens to any small model, breaks nothing; and as the base is asked every night,
what goes wrong in one night more than in the one before does not add up to a model that never calls. What a model
answered on an earlier night is not asked again. The candidate is asked only where the better one succeeds, and no more
once it succeeded.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from nightschool_hookspecs import (
    Exam,
    GuardResult,
    Message,
    ModelAnswer,
    Models,
    OutOfTime,
    Role,
    Tool,
    ToolCall,
    hookimpl,
)

GUARD = "capabilities"
TOOLS = (
    Tool(name="get_weather", description="Get the weather of a city as it is now.", parameters={"city": "string"}),
    Tool(name="set_timer", description="Set a timer that rings after some minutes.", parameters={"minutes": "integer"}),
)
CALLING = (
    "What is the weather in Paris right now? Use the tool get_weather.",
    "Set a timer of 5 minutes. Use the tool set_timer.",
    "I am going for a walk in Oslo today. Look up the weather there.",
    "Remind me of my tea in three minutes.",
)
THINKING = (
    "Is 17 a prime number? Think briefly, then answer in one sentence.",
    "Anna is older than Ben, and Ben is older than Carl. Who is the youngest? Think briefly, then say the name.",
    "I have 3 apples and eat one. How many are left? Think briefly, then answer with the number.",
)
JSON_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
}

Try = Callable[[str, str], bool]
"""Whether a model, by its name, succeeds at a prompt."""


@dataclass(frozen=True, kw_only=True)
class GuardCapabilities:
    """`[plugins.guard_capabilities]`"""

    tool_tokens: int = 128
    """Longest answer to a prompt that wants a tool called."""
    thinking_tokens: int = 512
    """Longest answer to a prompt that wants thought, its thinking included."""

    def __post_init__(self) -> None:
        if self.tool_tokens < 1 or self.thinking_tokens < 1:
            raise ValueError("tool_tokens and thinking_tokens must be 1 or more")

    @hookimpl
    def nightschool_guard_promotion(self, exam: Exam, seed: int, models: Models | None) -> GuardResult | None:
        if models is None:
            return None
        before = {"The incumbent": exam.incumbent}
        if exam.base_apart is not None:
            before["The base"] = exam.base_apart
        listed = {one for name in before.values() for one in models.capabilities(name)}
        missing = sorted(listed - set(models.capabilities(exam.candidate)))
        if missing:
            return _result(f"The candidate's tag no longer lists {' and '.join(missing)}.", held=False)
        tried = (
            ("tools", CALLING, "gave a well-formed tool call", partial(self._calls, models, seed)),
            ("thinking", THINKING, "thought before it answered", partial(self._thinks, models, seed)),
        )
        told = [f"The candidate's tag lists all of {', '.join(sorted(listed))}."]
        try:
            for capability, prompts, deed, attempt in tried:
                if capability not in listed:
                    continue
                held, sentence = _tries(before, exam.candidate, prompts, deed, attempt)
                if not held:
                    return _result(sentence, held=False)
                told.append(sentence)
        except OutOfTime as error:
            told.append(f"Not tried to the end: {error}")
            return _result(" ".join(told), held=True, looked=False)
        return _result(" ".join(told), held=True)

    def _calls(self, models: Models, seed: int, name: str, text: str) -> bool:
        answer = models.ask(name, _question(text), max_tokens=self.tool_tokens, seed=seed, tools=TOOLS, kept=True)
        return answer is not None and any(is_well_formed(call) for call in answer.tool_calls)

    def _thinks(self, models: Models, seed: int, name: str, text: str) -> bool:
        answer = models.ask(name, _question(text), max_tokens=self.thinking_tokens, seed=seed, think=True, kept=True)
        return answer is not None and has_thought(answer)


def _tries(
    before: Mapping[str, str], candidate: str, prompts: tuple[str, ...], deed: str, attempt: Try
) -> tuple[bool, str]:
    """Whether the candidate still does what one before it does in most tries, and the sentence that says so.

    `before`: the names of the models by the words for them; of equal ones the first counts.
    """
    able = {who: [text for text in prompts if attempt(name, text)] for who, name in before.items()}
    better = max(able, key=lambda who: len(able[who]))
    can = able[better]
    seen = f"{better} {deed} in {len(can)} of {len(prompts)} tries"
    if 2 * len(can) <= len(prompts):
        return True, f"{seen}, too few to compare."
    if any(attempt(candidate, text) for text in can):
        return True, f"{seen}, and the candidate at least once."
    return False, f"{seen}, the candidate in none of these."


def is_well_formed(call: ToolCall) -> bool:
    """Whether a call names a tool that was offered and gives every parameter a value of its type."""
    tool = next((one for one in TOOLS if one.name == call.name), None)
    return tool is not None and all(_fits(call.arguments.get(name), kind) for name, kind in tool.parameters.items())


def _fits(value: object, kind: str) -> bool:
    """Whether a JSON value has a type. true is no number; an empty text says nothing."""
    if isinstance(value, bool):
        return kind == "boolean"
    return isinstance(value, JSON_TYPES[kind]) and value != ""


def has_thought(answer: ModelAnswer) -> bool:
    """Whether both the thinking and the answer have words."""
    return bool(answer.thinking.strip()) and bool(answer.text.strip())


def _question(text: str) -> tuple[Message, ...]:
    return (Message(role=Role.USER, content=text),)


def _result(reason: str, *, held: bool, looked: bool = True) -> GuardResult:
    return GuardResult(guard=GUARD, held=held, looked=looked, reason=reason)


@hookimpl
def nightschool_register_settings() -> type[GuardCapabilities]:
    return GuardCapabilities
