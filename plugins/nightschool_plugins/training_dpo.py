"""Learns better answers over worse ones, by direct preference optimisation with the pairs' margins as offset.

By itself where `training.method` is "dpo"; on top of supervised fine-tuning where it is "auto" and there are enough
pairs: the wanted answers first, then what is better than what. Where that fails, the wanted answers are what was
learned.
"""

from dataclasses import dataclass, replace

from nightschool_hookspecs import (
    MethodChoice,
    Train,
    TrainingError,
    TrainingJob,
    TrainingMethod,
    TrainingResult,
    hookimpl,
)


@dataclass(frozen=True, kw_only=True)
class TrainingDpo:
    """`[plugins.training_dpo]`"""

    fewest_pairs: int = 64
    """With fewer, "auto" learns the wanted answers alone."""
    beta: float = 0.1
    """How strongly the model is held to the one that it began from."""
    learning_rate_share: float = 0.1
    """Of the learning rate of supervised fine-tuning: preferences move a model further a step."""
    num_epochs: int = 1

    def __post_init__(self) -> None:
        if min(self.fewest_pairs, self.num_epochs) < 1:
            raise ValueError("fewest_pairs and num_epochs must be 1 or more")
        if not (self.beta > 0 and self.learning_rate_share > 0):
            raise ValueError("beta and learning_rate_share must be above 0")

    @hookimpl
    def nightschool_train_adapter(self, job: TrainingJob, train: Train) -> TrainingResult | None:
        if job.method is MethodChoice.DPO:
            if not job.material.pairs:
                raise TrainingError(
                    "The feedback has no pair of a better and a worse answer to learn from. Corrections with the "
                    "answer that they correct make pairs. Wanted answers are learned by the method "
                    '"sft" (--method, else training.method).'
                )
            return self._preferred(job, train)
        if job.method is MethodChoice.AUTO and job.material.examples and job.material.pairs >= self.fewest_pairs:
            first = train(
                replace(job, output=job.output / "sft"),
                method=TrainingMethod.SFT,
                hyperparameters=job.hyperparameters,
            )
            try:
                second = self._preferred(replace(job, warm_start=first.adapter, requires_start=True), train)
            except TrainingError as error:
                # hours of learning are not lost to what was to come on top
                told = f"Which answers are better than others was not learned. {error}"
                return replace(first, not_learned=" ".join(filter(None, (first.not_learned, told))))
            return _joined(first, second)
        return None

    def _preferred(self, job: TrainingJob, train: Train) -> TrainingResult:
        # a batch that was found for many wanted answers may be all the pairs that there are
        suggested = job.hyperparameters if job.suggested is None else job.suggested
        settings = replace(
            job.hyperparameters,
            batch_size=suggested.batch_size,
            learning_rate=job.hyperparameters.learning_rate * self.learning_rate_share,
            num_epochs=self.num_epochs,
            beta=self.beta,
        )
        return train(job, method=TrainingMethod.DPO, hyperparameters=settings)


def _joined(first: TrainingResult, second: TrainingResult) -> TrainingResult:
    """One result for two trainings, the second of which went on from the first."""
    told = [one.learned_events for one in (first, second) if one.learned_events is not None]
    learned = tuple(dict.fromkeys(event for events in told for event in events)) if len(told) == 2 else None
    watched = dict.fromkeys((*first.watched_events, *second.watched_events))
    return replace(
        second,
        methods=(*first.methods, *second.methods),
        steps=first.steps + second.steps,
        tokens=first.tokens + second.tokens,
        examples=first.examples + second.examples,
        left_out=first.left_out + second.left_out,
        seconds=first.seconds + second.seconds,
        warm_start=first.warm_start,
        learned_events=learned,
        watched_events=tuple(event for event in watched if event not in (learned or ())),
        plan="; then ".join(filter(None, (first.plan, second.plan))),
        not_learned=" ".join(filter(None, (first.not_learned, second.not_learned))),
    )


@hookimpl
def nightschool_register_settings() -> type[TrainingDpo]:
    return TrainingDpo
