"""`nightschool proxy`: passes requests on to Ollama, and a share of an alias's conversations to another version.

Whatever does not ask a shared alias for an answer passes through as it is, chunk by chunk in both directions. A client
that goes away ends the request upstream; an answer that breaks off breaks off here too.
"""

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path

import aiohttp
from aiohttp import hdrs, web
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from nightschool_daemon import config
from nightschool_daemon.config import ConfigurationError, Settings
from nightschool_daemon.exits import Exit
from nightschool_daemon.lean import give_back
from nightschool_daemon.notify import notify
from nightschool_daemon.ollama.address import base_url
from nightschool_daemon.ollama.errors import InvalidHost, RemoteHostRefused
from nightschool_daemon.proxy.answers import Answer, AnswerLog
from nightschool_daemon.proxy.conversation import (
    ASKING,
    Asked,
    Conversation,
    asked_in,
    conversation_of,
    takes_candidate,
)
from nightschool_daemon.proxy.renaming import Renamer
from nightschool_daemon.proxy.routes import Route, Routes, RoutesFile, secret_of

logger = logging.getLogger(__name__)

HOST = "127.0.0.1"
VERSION_HEADER = "x-nightschool-version"
CONVERSATION_HEADER = "x-nightschool-conversation"
LARGEST_QUESTION = 32 * 1024 * 1024
"""A larger request is not read, but passed through to what the alias holds."""
STOP_S = 5.0
"""How long answers may go on when the proxy is to end."""
HOP_BY_HOP = frozenset(
    ("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer",
     "transfer-encoding", "upgrade", "expect")
)  # fmt: skip
ADDED_BY_LIBRARY = (hdrs.SERVER, hdrs.DATE, hdrs.CONTENT_TYPE)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which version answers a question, and how."""

    route: Route
    asked: Asked
    conversation: Conversation
    version: str


class VersionGone(Exception):
    """Ollama does not have the chosen version any more."""


class Proxy:
    """Handles requests."""

    def __init__(self, settings: Settings, session: aiohttp.ClientSession, log: AnswerLog) -> None:
        self._upstream = base_url(settings.ollama)
        self._session = session
        self._log = log
        self._routes = RoutesFile(settings.state_directory)
        self._secret = secret_of(settings.state_directory)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Pass one request on."""
        if not request.raw_path.startswith("/"):
            return web.Response(status=HTTPStatus.BAD_REQUEST, text="This passes requests to Ollama alone.")
        routes = self._routes.current()
        if not routes.routes or request.method != hdrs.METH_POST or request.path not in ASKING:
            return await self._pass(request, request.content if request.body_exists else None)
        start, is_whole = await _read(request.content)
        choice = self._choice(request, routes, start) if is_whole else None
        if choice is None:
            return await self._pass(request, start if is_whole else _joined(start, request.content))
        return await self._answer(request, start, choice)

    def _choice(self, request: web.Request, routes: Routes, body: bytes) -> Choice | None:
        asked = asked_in(request.path, body)
        route = routes.of(asked.alias) if asked is not None else None
        if asked is None or route is None:
            return None
        conversation = conversation_of(self._secret, asked)
        named = request.headers.get(CONVERSATION_HEADER)
        to_candidate = takes_candidate(self._secret, route, conversation, named)
        version = route.candidate if to_candidate else route.incumbent
        return Choice(route=route, asked=asked, conversation=conversation, version=version)

    async def _answer(self, request: web.Request, body: bytes, choice: Choice) -> web.StreamResponse:
        """Have the chosen version answer. One that is gone leaves the question to what the alias holds."""
        try:
            return await self._pass(request, choice.asked.for_model(choice.version), choice)
        except VersionGone:
            logger.warning("%s is gone from Ollama; %s answers by itself.", choice.version, choice.route.alias)
            return await self._pass(request, body)

    async def _pass(
        self,
        request: web.Request,
        data: bytes | aiohttp.StreamReader | AsyncIterator[bytes] | None,
        choice: Choice | None = None,
    ) -> web.StreamResponse:
        """Ask Ollama and pass its answer back. Raises `VersionGone`."""
        headers = _forwarded(request.headers)
        if isinstance(data, bytes):
            headers.popall(hdrs.CONTENT_LENGTH, None)
        if choice is not None:
            # a name can be put into plain text only
            headers.popall(hdrs.ACCEPT_ENCODING, None)
        try:
            answer = await self._session.request(
                request.method,
                URL(f"{self._upstream}{request.raw_path}", encoded=True),
                headers=headers,
                data=data,
                allow_redirects=False,
                skip_auto_headers=(hdrs.USER_AGENT, hdrs.ACCEPT, hdrs.ACCEPT_ENCODING, hdrs.CONTENT_TYPE),
            )
        except aiohttp.ClientError as error:
            return _unreachable(self._upstream, error)
        async with answer:
            if choice is None:
                return await _passed_back(request, answer)
            if answer.status == HTTPStatus.NOT_FOUND:
                raise VersionGone
            if answer.status == HTTPStatus.OK:
                self._note(choice)
            return await _passed_back(request, answer, Renamer(choice.version, choice.asked.model))

    def _note(self, choice: Choice) -> None:
        self._log.put(
            Answer(
                conversation=choice.conversation,
                alias=choice.route.alias,
                version=choice.version,
                at=datetime.now(UTC),
            )
        )


class _Response(web.StreamResponse):
    """An answer with the headers that Ollama sent, and none that the library adds."""

    async def _prepare_headers(self) -> None:
        given = {name.lower() for name in self.headers}
        await super()._prepare_headers()
        for name in ADDED_BY_LIBRARY:
            if name.lower() not in given:
                self.headers.popall(name, None)


async def _passed_back(
    request: web.Request, answer: aiohttp.ClientResponse, renamer: Renamer | None = None
) -> web.StreamResponse:
    """Write an answer as it comes. One that breaks off breaks off for the client too."""
    response = _Response(status=answer.status, reason=answer.reason, headers=_forwarded(answer.headers))
    try:
        chunks = answer.content.iter_any() if renamer is None else await _renamed(answer, response, renamer)
        await response.prepare(request)
        async for chunk in chunks:
            await response.write(chunk)
        await response.write_eof()
    except aiohttp.ClientError:
        if request.transport is not None:
            request.transport.abort()
    return response


async def _renamed(
    answer: aiohttp.ClientResponse, response: web.StreamResponse, renamer: Renamer
) -> AsyncIterator[bytes]:
    """An answer under the name that was asked for. One that says how long it is is read whole: it will say so anew."""
    response.headers[VERSION_HEADER] = renamer.tag
    if hdrs.CONTENT_LENGTH not in response.headers:
        return renamer.stream(answer.content.iter_any())
    whole = renamer.whole(await answer.read(), failed=answer.status >= HTTPStatus.BAD_REQUEST)
    response.headers[hdrs.CONTENT_LENGTH] = str(len(whole))
    return _alone(whole)


async def _alone(whole: bytes) -> AsyncIterator[bytes]:
    yield whole


async def _read(content: aiohttp.StreamReader) -> tuple[bytes, bool]:
    """A question, and whether it is whole: one that is too large is read no further."""
    parts, size = [], 0
    async for chunk in content.iter_any():
        parts.append(chunk)
        size += len(chunk)
        if size > LARGEST_QUESTION:
            return b"".join(parts), False
    return b"".join(parts), True


async def _joined(start: bytes, rest: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    yield start
    async for chunk in rest.iter_any():
        yield chunk


def _forwarded(headers: "CIMultiDictProxy[str]") -> "CIMultiDict[str]":
    """The headers that belong to the message and not to the connection."""
    named = {one.strip().lower() for one in headers.get(hdrs.CONNECTION, "").split(",")}
    left_out = HOP_BY_HOP | named
    return CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in left_out)


def _unreachable(upstream: str, error: Exception) -> web.Response:
    text = f"Ollama at {upstream} cannot be reached ({type(error).__name__}). Start it with `ollama serve`."
    return web.json_response({"error": text}, status=502)


async def serve(settings: Settings, *, with_parent: bool) -> int:
    """Serve until SIGTERM or SIGINT; with a parent, until that ends. Returns the exit code."""
    stop = _stop_event(with_parent=with_parent)
    log = AnswerLog(settings.state_directory, settings.proxy.keep_days)
    log.start(datetime.now(UTC))
    async with _session(settings) as session:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", Proxy(settings, session, log).handle)
        # what a client compressed goes on as it is, with the headers that say so
        runner = web.AppRunner(
            app, handler_cancellation=True, access_log=None, shutdown_timeout=STOP_S, auto_decompress=False
        )
        await runner.setup()
        try:
            await web.TCPSite(runner, HOST, settings.proxy.port).start()
        except OSError as error:
            logger.error("Port %d cannot be used (%s). Set proxy.port to another.", settings.proxy.port, error.strerror)  # noqa: TRY400
            return Exit.FAILED
        else:
            if not with_parent:
                notify("READY=1")
            give_back()
            logger.info("The proxy serves at http://%s:%d", HOST, settings.proxy.port)
            await stop.wait()
            return Exit.OK
        finally:
            await runner.cleanup()
            log.stop()


def _stop_event(*, with_parent: bool) -> asyncio.Event:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for one in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(one, stop.set)
    if with_parent:
        # nothing is ever written there: it can be read when the parent has ended
        loop.add_reader(sys.stdin.fileno(), stop.set)
    return stop


def _session(settings: Settings) -> aiohttp.ClientSession:
    """What asks Ollama: as many requests at once as there are, and no limit to how long one takes."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=settings.ollama.connect_timeout_s),
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
    )


def _require_another(upstream: str, port: int) -> None:
    """Refuse to ask ourselves for ever, where the environment names the proxy as the server."""
    asked = URL(upstream)
    if asked.port == port and asked.host in (HOST, "localhost"):
        raise InvalidHost(f"{upstream} is the proxy itself. Set ollama.host to Ollama's own address.")


def main(file: Path | None, *, with_parent: bool) -> int:
    """Load the configuration and serve. Returns the exit code."""
    logging.basicConfig(stream=sys.stderr, level="INFO", format="%(levelname)s %(name)s: %(message)s")
    try:
        settings = config.load(file)
        _require_another(base_url(settings.ollama), settings.proxy.port)
        config.require_directories(settings)
    except (ConfigurationError, InvalidHost, RemoteHostRefused) as error:
        print(error, file=sys.stderr)
        return Exit.CONFIGURATION
    logging.getLogger().setLevel(settings.log.level.upper())
    with contextlib.suppress(KeyboardInterrupt):
        return asyncio.run(serve(settings, with_parent=with_parent))
    return Exit.OK
