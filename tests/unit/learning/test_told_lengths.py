"""What is said of examples that are too long."""

from pathlib import Path

import pytest

from nightschool_daemon.learning import gguf_file
from nightschool_daemon.learning.rows import require_asked, told_of_lengths
from nightschool_hookspecs.services import TrainingError
from support.tiny_architectures import CONTEXT, write_tiny_architecture


def test_what_fits_is_no_word_worth() -> None:
    assert list(told_of_lengths([1, 512], 0, 2048, 512)) == []
    assert list(told_of_lengths([4096], 0, 8192, None)) == []


def test_what_is_left_out_and_what_the_base_was_not_made_for_is_counted() -> None:
    left_out, beyond = told_of_lengths([1, 513, 2048], 1, 2048, 512)
    assert left_out == "1 example is longer than 2048 tokens (max_length) and left out."
    assert beyond.startswith("2 examples are longer than the base's context of 512 tokens. They are learned whole")


def test_what_ollama_would_cut_altogether_is_refused_before_it_is_learned(tmp_path: Path) -> None:
    """Hours later it could not be compared with what is served. The bound that holds is named."""
    file = gguf_file.read(write_tiny_architecture(tmp_path / "tiny.gguf", "llama"))
    require_asked([CONTEXT, CONTEXT - 1], file, 4096)
    with pytest.raises(TrainingError, match=f"less than {CONTEXT} tokens \\(the base's context\\)"):
        require_asked([CONTEXT, 2 * CONTEXT], file, 4096)
    require_asked([99, 100], file, 100)
    with pytest.raises(TrainingError, match=r"less than 100 tokens \(exam\.context_tokens, which can be raised\)"):
        require_asked([100, 200], file, 100)
