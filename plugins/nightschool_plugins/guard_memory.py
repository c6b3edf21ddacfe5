"""Guards that the candidate does not take much more memory once it is loaded.

Each model is loaded with the exam's context, and the server says what it takes.

    broken   candidate > 1.25 x incumbent, and more than 512 MB above it

Where the server does not tell, or the contexts differ, nothing can be compared, and the result says why: models that
share their weights are one to it. No candidate waits for that, as nobody could look at another time either.
"""

from dataclasses import dataclass

from nightschool_hookspecs import Exam, GuardResult, ModelMemory, Models, OutOfTime, hookimpl

GUARD = "memory"
MB = 1_000_000


@dataclass(frozen=True, kw_only=True)
class GuardMemory:
    """`[plugins.guard_memory]`"""

    largest_factor: float = 1.25
    tolerated_mb: float = 512.0
    """So much more breaks nothing, whatever the factor."""

    def __post_init__(self) -> None:
        if not self.largest_factor >= 1:
            raise ValueError("largest_factor must be 1 or more")
        if not self.tolerated_mb >= 0:
            raise ValueError("tolerated_mb must be 0 or more")

    @hookimpl
    def nightschool_guard_promotion(self, exam: Exam, models: Models | None) -> GuardResult | None:
        if models is None:
            return None
        try:
            incumbent, candidate = models.memory(exam.incumbent), models.memory(exam.candidate)
        except OutOfTime as error:
            return _not_compared(str(error), dispensable=False)
        if incumbent is None or candidate is None:
            silent = exam.incumbent if incumbent is None else exam.candidate
            return _not_compared(f"Ollama does not tell what {silent} takes.", dispensable=True)
        if incumbent.context_tokens != candidate.context_tokens:
            return _not_compared("the two were loaded with different contexts.", dispensable=True)
        factor = candidate.total_bytes / incumbent.total_bytes
        more_mb = (candidate.total_bytes - incumbent.total_bytes) / MB
        return GuardResult(
            guard=GUARD,
            held=factor <= self.largest_factor or more_mb <= self.tolerated_mb,
            reason=f"The candidate takes {_told(candidate)} once it is loaded, the incumbent {_told(incumbent)}: "
            f"{factor:.2f} times as much.",
        )


def _not_compared(why: str, *, dispensable: bool) -> GuardResult:
    reason = f"Memory was not compared: {why}"
    return GuardResult(guard=GUARD, held=True, looked=False, dispensable=dispensable, reason=reason)


def _told(memory: ModelMemory) -> str:
    on_card = f", {memory.gpu_bytes / MB:.0f} of them on graphics cards" if memory.gpu_bytes else ""
    return f"{memory.total_bytes / MB:.0f} MB{on_card}"


@hookimpl
def nightschool_register_settings() -> type[GuardMemory]:
    return GuardMemory
