"""What `nightschool init` writes can be read back, and knows what only the shell knew."""

from pathlib import Path

from nightschool_daemon import config
from nightschool_daemon.config import OllamaSettings
from nightschool_daemon.starter import starter_configuration

NOBODY = OllamaSettings(host="127.0.0.1:9", connect_timeout_s=0.2)


def test_defaults_need_no_table_of_their_own() -> None:
    text = starter_configuration(NOBODY, {})
    assert "[ollama]" not in text
    assert config.parse(text, None).ollama == OllamaSettings()


def test_address_and_directory_of_the_shell_are_written_down() -> None:
    text = starter_configuration(NOBODY, {"OLLAMA_HOST": "127.0.0.1:8000", "OLLAMA_MODELS": '/srv/a "b"'})
    read = config.parse(text, None).ollama
    assert read == OllamaSettings(host="127.0.0.1:8000", models_directory=Path('/srv/a "b"'))


def test_server_that_is_away_is_told_of_and_names_no_model() -> None:
    text = starter_configuration(NOBODY, {})
    assert "# Ollama could not be asked" in text
    assert not config.parse(text, None).specialties.default_base
