"""Learns from answers that were liked or disliked by themselves, by Kahneman-Tversky optimisation.

Where `training.method` is "kto"; and where it is "auto" and no feedback says what would have been better.
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
class TrainingKto:
    """`[plugins.training_kto]`"""

    beta: float = 0.1
    """How strongly the model is held to the one that it began from."""
    learning_rate_share: float = 0.2
    """Of the learning rate of supervised fine-tuning."""
    num_epochs: int = 1

    def __post_init__(self) -> None:
        if self.num_epochs < 1:
            raise ValueError("num_epochs must be 1 or more")
        if not (self.beta > 0 and self.learning_rate_share > 0):
            raise ValueError("beta and learning_rate_share must be above 0")

    @hookimpl
    def nightschool_train_adapter(self, job: TrainingJob, train: Train) -> TrainingResult | None:
        there = job.material
        if job.method is MethodChoice.KTO:
            if not there.liked + there.disliked:
                raise TrainingError(
                    "The feedback has no answer that was liked or disliked by itself. "
                    'Corrections are learned by the method "sft" (--method, else training.method).'
                )
        elif job.method is not MethodChoice.AUTO or there.better_known or not there.disliked:
            return None
        settings = replace(
            job.hyperparameters,
            learning_rate=job.hyperparameters.learning_rate * self.learning_rate_share,
            num_epochs=self.num_epochs,
            beta=self.beta,
        )
        return train(job, method=TrainingMethod.KTO, hyperparameters=settings)


@hookimpl
def nightschool_register_settings() -> type[TrainingKto]:
    return TrainingKto
