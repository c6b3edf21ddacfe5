"""With which hyperparameters a run trains: those of the settings, and of few examples more epochs.

epochs = max(num_epochs, min(most_epochs, ceil(fewest_steps / ceil(examples / batch_size))))
"""

import math
from dataclasses import dataclass

from nightschool_hookspecs import Hyperparameters, Specialty, Store, TrainedForm, hookimpl


@dataclass(frozen=True, kw_only=True)
class TuningFixed:
    """`[plugins.tuning_fixed]`"""

    learning_rate: float = 0.0
    """0: what was found best for the form, by the base's architecture and width."""
    batch_size: int = 8
    """Examples an optimiser step; with fewer examples than that, all of them."""
    num_epochs: int = 3
    fewest_steps: int = 30
    """Of the optimiser. Few wanted answers are learned in more epochs, until there are so many; 0: never."""
    most_epochs: int = 6
    """For that; `num_epochs` may be more."""
    warmup_ratio: float = 0.05
    form: TrainedForm = TrainedForm.AUTO
    """`lora`, `grouped_lora`, `neurons`, or `auto`: neurons where they can be had, else LoRA."""
    neurons: int = 0
    """Feed-forward units added to each layer by the form `neurons`; 0: an eighth of those it has, fewer beside a large
    base."""
    lora_r: int = 16
    lora_alpha: int = 32
    lora_dropout: float = 0.0
    lora_layers: tuple[str, ...] = ()
    """Of each block: `attn_q`, `attn_k`, `attn_v`, `attn_output`, `ffn_gate`, `ffn_up`, `ffn_down`; empty: all."""
    max_length: int = 2048
    """Tokens of an example; longer ones are left out and counted, never cut."""

    def __post_init__(self) -> None:
        if self.most_epochs < 1 or self.fewest_steps < 0:
            raise ValueError("most_epochs must be 1 or more, and fewest_steps 0 or more")
        # the record knows the bounds of all others
        self._suggested(self.num_epochs)

    @hookimpl
    def nightschool_suggest_hyperparameters(
        self, specialty: Specialty, examples: int, store: Store, seed: int
    ) -> Hyperparameters:
        return self._suggested(self._epochs(examples))

    def _suggested(self, num_epochs: int) -> Hyperparameters:
        return Hyperparameters(
            learning_rate=self.learning_rate,
            batch_size=self.batch_size,
            num_epochs=num_epochs,
            warmup_ratio=self.warmup_ratio,
            form=self.form,
            neurons=self.neurons,
            lora_r=self.lora_r,
            lora_alpha=self.lora_alpha,
            lora_dropout=self.lora_dropout,
            lora_layers=self.lora_layers,
            max_length=self.max_length,
        )

    def _epochs(self, examples: int) -> int:
        """As many as are set, and of few examples as many as make the fewest steps."""
        if examples == 0:
            return self.num_epochs
        steps = math.ceil(examples / self.batch_size)
        return max(self.num_epochs, min(self.most_epochs, math.ceil(self.fewest_steps / steps)))


@hookimpl
def nightschool_register_settings() -> type[TuningFixed]:
    return TuningFixed
