"""What the step `train` makes sure of before it trains."""

from pathlib import Path

import pytest

from nightschool_daemon.config import DeliveryChoice, DeliverySettings
from nightschool_daemon.jobs import Step
from nightschool_daemon.learning import training
from nightschool_daemon.learning.delivery import ExportError
from support.older_layouts import write_layouts
from support.selected_runs import at_step


def test_shards_of_a_base_with_pictures_are_refused_before_anything_is_trained(tmp_path: Path) -> None:
    base, _ = write_layouts(tmp_path, "gemma3 with pictures")
    context = at_step(Step.TRAIN, tmp_path, base, DeliverySettings(form=DeliveryChoice.SPLIT))
    with pytest.raises(ExportError, match=r'takes this base in one file only.* Set delivery\.form = "auto"\.$'):
        training.run(context)
