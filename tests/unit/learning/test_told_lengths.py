"""What is said of examples that are too long."""

from nightschool_daemon.learning.rows import told_of_lengths


def test_what_fits_is_no_word_worth() -> None:
    assert list(told_of_lengths([1, 512], 0, 2048, 512)) == []
    assert list(told_of_lengths([4096], 0, 8192, None)) == []


def test_what_is_left_out_and_what_the_base_was_not_made_for_is_counted() -> None:
    left_out, beyond = told_of_lengths([1, 513, 2048], 1, 2048, 512)
    assert left_out == "1 example is longer than 2048 tokens (max_length) and left out."
    assert beyond.startswith("2 examples are longer than the base's context of 512 tokens. They are learned whole")
