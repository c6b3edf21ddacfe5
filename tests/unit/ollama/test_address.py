"""Which server is spoken to, and that nothing leaves the machine unasked."""

import pytest

from nightschool_daemon.config import OllamaSettings
from nightschool_daemon.ollama.address import base_url
from nightschool_daemon.ollama.errors import InvalidHost, RemoteHostRefused


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OLLAMA_HOST", raising=False)


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("", "http://127.0.0.1:11434"),
        ("127.0.0.1", "http://127.0.0.1:11434"),
        ("127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("127.8.9.1:1", "http://127.8.9.1:1"),
        ("localhost", "http://localhost:11434"),
        ("models.localhost:80", "http://models.localhost:80"),
        ("http://localhost:8000/", "http://localhost:8000"),
        ("https://localhost", "https://localhost:443"),
        ("0.0.0.0:8000", "http://127.0.0.1:8000"),
        ("[::1]:8000", "http://[::1]:8000"),
        ("[::]:8000", "http://[::1]:8000"),
    ],
)
def test_this_machine(host: str, url: str) -> None:
    assert base_url(OllamaSettings(host=host)) == url


@pytest.mark.parametrize(
    "host",
    [
        "192.168.0.7",
        "10.0.0.1:11434",
        "https://ollama.com",
        "example.org",
        "localhost.example.org",
        "127.0.0.1.example.org",
        "notlocalhost",
        "http://127.0.0.1@example.org",
        "[2001:db8::1]:11434",
    ],
)
def test_another_machine_is_refused_unless_allowed(host: str) -> None:
    with pytest.raises(RemoteHostRefused, match=r"ollama\.allow_remote = true"):
        base_url(OllamaSettings(host=host))
    assert base_url(OllamaSettings(host=host, allow_remote=True)).startswith("http")


def test_the_environment_counts_where_the_configuration_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:9999")
    assert base_url(OllamaSettings()) == "http://127.0.0.1:9999"
    assert base_url(OllamaSettings(host="127.0.0.1:1111")) == "http://127.0.0.1:1111"


def test_the_environment_is_no_way_around_the_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", "example.org")
    with pytest.raises(RemoteHostRefused):
        base_url(OllamaSettings())


@pytest.mark.parametrize("host", ["127.0.0.1:abc", "localhost:99999", "http://[::1"])
def test_what_is_no_address_is_told_so(host: str) -> None:
    with pytest.raises(InvalidHost, match=r"Set ollama\.host"):
        base_url(OllamaSettings(host=host))
