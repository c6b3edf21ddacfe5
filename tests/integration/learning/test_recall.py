"""What a base itself answers, on a real server: each prompt is put to it once, and a cut answer is none."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from nightschool_daemon.config import ExamSettings, OllamaSettings, Settings, StateSettings
from nightschool_daemon.jobs import BaseSnapshot
from nightschool_daemon.learning.recall import KeptRecall
from nightschool_daemon.ollama.http import CreateRequest, OllamaHttp
from nightschool_daemon.ollama.storage import sha256_of
from support.fault_proxy import FaultProxy, answers
from support.ollama_server import OllamaServer, free_port
from support.tiny_gguf import write_scripted_gguf

NAME = "recalled:1m"
PROMPTS = ("Is it so?", "Say it.", "Say it again.")
SAID = ["It is so.", "yes", "yes"]


@pytest.fixture(scope="module")
def base(ollama: OllamaServer, tmp_path_factory: pytest.TempPathFactory) -> BaseSnapshot:
    gguf = write_scripted_gguf(tmp_path_factory.mktemp("recalled") / "base.gguf", {"?": "It is so.", ".": "yes"})
    http, digest = OllamaHttp(OllamaSettings(host=ollama.url)), sha256_of(gguf)
    http.upload_blob(gguf, digest)
    template = "{{ range .Messages }}{{ .Content }}{{ end }}"
    http.create(CreateRequest(model=NAME, files={"base.gguf": digest}, template=template))
    http.close()
    return BaseSnapshot(
        name=NAME,
        tag_digest="a" * 64,
        weights_digest=digest,
        architecture="llama",
        capabilities=("completion",),
        pin=NAME,
        gguf=gguf,
    )


@dataclass(frozen=True, kw_only=True)
class Desk:
    """Where a base is asked through a proxy that counts."""

    proxy: FaultProxy
    base: BaseSnapshot
    state: Path

    def recall(self, clock: Callable[[], float] = lambda: 0.0, *, url: str = "", tag_digest: str = "") -> KeptRecall:
        """A new one, as every worker has."""
        settings = Settings(
            ollama=OllamaSettings(host=url or self.proxy.url),
            state=StateSettings(directory=self.state),
            exam=ExamSettings(context_tokens=256),
        )
        base = replace(self.base, tag_digest=tag_digest or self.base.tag_digest)
        return KeptRecall(settings, base, _heard, clock=clock)

    def ask(self, recall: KeptRecall, *, max_tokens: int = 6, temperature: float = 0.0) -> Iterator[str | None]:
        """Put the prompts to the base."""
        return recall(PROMPTS, max_tokens=max_tokens, temperature=temperature, minutes=1.0)

    @property
    def asked(self) -> int:
        """Questions that reached the server."""
        return self.proxy.count("POST", "/api/chat")

    @property
    def file(self) -> Path:
        """What is kept of this base."""
        return self.state / "cache" / "answers" / f"{self.base.tag_digest}.jsonl"


def _heard(done: int, total: int, text: str) -> None:
    assert 0 <= done <= total
    assert text


@pytest.fixture
def desk(ollama: OllamaServer, base: BaseSnapshot, tmp_path: Path) -> Iterator[Desk]:
    with FaultProxy(ollama.url) as proxy:
        yield Desk(proxy=proxy, base=base, state=tmp_path)


def test_each_prompt_is_put_to_the_base_once(desk: Desk) -> None:
    assert list(desk.ask(desk.recall())) == SAID
    assert desk.asked == 3
    assert list(desk.ask(desk.recall())) == SAID
    assert desk.asked == 3


def test_an_answer_that_was_cut_is_none_and_not_asked_for_again(desk: Desk) -> None:
    assert list(desk.ask(desk.recall(), max_tokens=1)) == [None] * 3
    assert list(desk.ask(desk.recall(), max_tokens=1)) == [None] * 3
    assert desk.asked == 3


def test_another_way_of_asking_and_another_form_of_the_base_are_asked_anew(desk: Desk) -> None:
    list(desk.ask(desk.recall()))
    list(desk.ask(desk.recall(), temperature=0.1))
    assert desk.asked == 6
    list(desk.ask(desk.recall(tag_digest="b" * 64)))
    assert desk.asked == 9


def test_no_more_is_asked_than_is_gone_through(desk: Desk) -> None:
    said = desk.ask(desk.recall())
    assert next(said) == SAID[0]
    assert desk.asked == 1


def test_past_its_time_the_base_is_asked_nothing_and_what_it_said_before_still_counts(desk: Desk) -> None:
    times = iter([0.0, 30.0, 60.0])
    assert list(desk.ask(desk.recall(lambda: next(times)))) == SAID[:1]
    times = iter([0.0, 61.0])
    assert list(desk.ask(desk.recall(lambda: next(times)))) == SAID[:1]
    assert desk.asked == 1


@pytest.mark.parametrize("told", [{"done": False}, {"error": "the runner has terminated"}])
def test_an_answer_that_the_server_broke_off_is_asked_for_again_another_time(
    desk: Desk, told: dict[str, object]
) -> None:
    desk.proxy.add("POST", "/api/chat", answers(200, told))
    assert list(desk.ask(desk.recall())) == [None, *SAID[1:]]
    assert list(desk.ask(desk.recall())) == SAID
    assert desk.asked == 4


def test_where_the_server_is_away_what_is_known_is_told(desk: Desk) -> None:
    assert next(desk.ask(desk.recall())) == SAID[0]
    assert list(desk.ask(desk.recall(url=f"127.0.0.1:{free_port()}"))) == SAID[:1]


def test_thoughts_are_no_whole_answer(desk: Desk) -> None:
    message = {"role": "assistant", "content": "yes", "thinking": "Let me see."}
    told = {"model": NAME, "message": message, "done": True, "done_reason": "stop"}
    desk.proxy.add("POST", "/api/chat", answers(200, told))
    assert next(desk.ask(desk.recall())) is None


@pytest.mark.parametrize(
    ("whole", "rest", "asked_again"),
    [(0, "", 3), (2, '{"question', 1), (3, '{"other": 1}\n', 3)],
    ids=["deleted", "torn in its last line", "of another release"],
)
def test_a_file_may_go_or_be_torn_and_then_the_base_is_asked_anew(
    desk: Desk, whole: int, rest: str, asked_again: int
) -> None:
    list(desk.ask(desk.recall()))
    lines = desk.file.read_text(encoding="utf-8").splitlines(keepends=True)
    desk.file.write_text("".join([*lines[:whole], rest]), encoding="utf-8")
    assert list(desk.ask(desk.recall())) == SAID
    assert desk.asked == 3 + asked_again
    assert len(desk.file.read_text(encoding="utf-8").splitlines()) == 3
