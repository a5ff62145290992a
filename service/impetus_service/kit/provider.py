"""The client of an OpenAI-compatible endpoint: completions, streamed completions, embeddings.

The provider is not trusted. What it sends is read up to a limit and within a time, and looked at before it is passed on;
whatever it does, a caller gets an answer in OpenAI's shape or a ProviderError that says whose fault it is.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from collections import deque
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from itertools import islice
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec

from impetus_service.kit import logs
from impetus_service.kit.outgoing import Answer, Outgoing, Stream, Unavailable, retry_after
from impetus_service.kit.settings import Settings

Shape = TypeVar("Shape")

log = logging.getLogger("impetus.provider")

DONE = b"[DONE]"
# Texts that the provider is asked about at once, and their bytes: an answer about 100 has up to 8 MB, at 3,072 numbers each.
PART_TEXTS, PART_BYTES = 100, 1_000_000
PARTS_AT_ONCE = 3  # of one request
EVENT_MAX_BYTES = 1_000_000  # of one line of a stream
RETRY_AFTER = 5.0  # seconds, where the provider names none
# Hosts of URLs, addresses of IPv4 and IPv6, and this host's own name.
_ADDRESSES = (
    r"(?<=://)[^\s/'\"]+|\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b|\[[0-9a-f:.]*:[0-9a-f:.]*\](?::\d+)?|\blocalhost(?::\d+)?"
)


class Reason(msgspec.Struct):
    """OpenAI's `error`, which is also what our own answers have below /v1."""

    message: str
    type: str | None = None
    param: str | None = None
    code: str | None = None


class Refusal(msgspec.Struct):
    """OpenAI's answer for what went wrong."""

    error: Reason


class _Said(msgspec.Struct):
    """As any endpoint sends it: some have a number for a code, some the message alone."""

    message: str
    type: Any = None
    param: Any = None
    code: Any = None


class _Refusal(msgspec.Struct):
    error: _Said


class ProviderError(Exception):
    """No usable answer. `status` is the one for our caller: 400 its own fault, 502 the provider's, 503 try again.

    `said` is what the provider itself said of a 400. No text names an address.
    """

    def __init__(
        self, status: int, sentence: str, retry_after: float | None = None, said: Reason | None = None
    ) -> None:
        super().__init__(sentence)
        self.status = status
        self.retry_after = retry_after  # seconds; with 503
        self.said = said


class _Choice(msgspec.Struct):
    index: int


class Completion(msgspec.Struct):
    """What a completion, or an event of a streamed one, must have to be passed on."""

    choices: list[_Choice]


class _Embedding(msgspec.Struct):
    index: int
    embedding: list[float] | str  # a str is base64, which OpenAI's package asks for


class Embeddings(msgspec.Struct):
    """What an answer of embeddings must have to be passed on."""

    data: list[_Embedding]
    model: str = ""
    usage: Any = None


class Provider:
    """The endpoint of OPENAI_BASE_URL, asked through the worker's HTTP client."""

    def __init__(self, settings: Settings, outgoing: Outgoing) -> None:
        self._base = settings.openai_base_url
        self._key = settings.openai_api_key
        self._model = settings.openai_model
        self._embedding_model = settings.openai_embedding_model
        self._timeout = settings.openai_timeout_ms / 1000
        self._stream = settings.openai_stream_ms / 1000
        self._outgoing = outgoing
        base = urlsplit(self._base)
        names = [re.escape(name) for name in (base.netloc, base.hostname) if name]
        self._addresses = re.compile("|".join([*names, _ADDRESSES]), re.IGNORECASE)

    async def complete(self, body: dict[str, Any]) -> bytes:
        """The completion that a body of POST /chat/completions asks for, as JSON. Raises ProviderError."""
        answer = await self._ask("/chat/completions", {"model": self._model, **body}, self._timeout)
        _look(answer.body, Completion)
        return answer.body

    async def embed(self, body: dict[str, Any]) -> bytes:
        """The embeddings that a body of POST /embeddings asks for, as JSON, one per input. Raises ProviderError."""
        return (await self._embed(body, self._timeout))[0]

    async def embed_in_parts(self, body: dict[str, Any]) -> AsyncGenerator[bytes, None]:
        """As embed, for more texts than the provider is asked about at once: its answers as one, piece by piece.

        All of it has the time of one request. Raises ProviderError: before the first piece, or in the midst.
        """
        ends = time.monotonic() + self._timeout
        parts = list(in_parts(body["input"]))

        async def ask(texts: list[str]) -> Embeddings:
            left = ends - time.monotonic()
            if left <= 0:
                raise ProviderError(503, f"the provider did not respond within {self._timeout:.3g} s", RETRY_AFTER)
            return (await self._embed({**body, "input": texts}, left))[1]

        coming = (asyncio.create_task(ask(texts)) for _, texts in parts)
        asked = deque(islice(coming, PARTS_AT_ONCE))
        usage, model = {"prompt_tokens": 0, "total_tokens": 0}, ""
        try:
            for begin, _ in parts:
                got = await asked.popleft()
                asked.extend(islice(coming, 1))
                model = got.model
                for name in usage:
                    count = got.usage.get(name) if isinstance(got.usage, dict) else None
                    usage[name] += count if isinstance(count, int) else 0
                data = [
                    {"object": "embedding", "index": begin + each.index, "embedding": each.embedding}
                    for each in got.data
                ]
                yield (b"," if begin else b'{"object":"list","data":[') + msgspec.json.encode(data)[1:-1]
        finally:
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
        yield b'],"model":%s,"usage":%s}' % (msgspec.json.encode(model), msgspec.json.encode(usage))

    async def _embed(self, body: dict[str, Any], within: float) -> tuple[bytes, Embeddings]:
        answer = await self._ask("/embeddings", {"model": self._embedding_model, **body}, within)
        got = _look(answer.body, Embeddings)
        wanted = len(body["input"]) if isinstance(body["input"], list) else 1
        if [item.index for item in got.data] != list(range(wanted)):
            raise ProviderError(502, f"the provider answered with {len(got.data)} embeddings for {wanted} inputs")
        return answer.body, got

    async def events(self, body: dict[str, Any]) -> AsyncGenerator[bytes, None]:
        """The data of each event of a streamed completion, as JSON, without the closing [DONE].

        Raises ProviderError: before the first event, or in the midst for a stream that breaks off, hangs or is none.
        To close the iterator hangs up on the provider.
        """
        content = msgspec.json.encode({"model": self._model, **body, "stream": True})
        try:
            async with self._outgoing.stream(
                "POST", self._url("/chat/completions"), headers=self._headers(), content=content, silence=self._timeout
            ) as stream:
                if stream.status != 200:
                    raise self._refusal(Answer(stream.status, stream.headers, await _beginning(stream)))
                async with aclosing(_lines(stream, self._stream)) as lines:
                    async for line in lines:
                        if not line.startswith(b"data:"):
                            continue  # comments and the fields that OpenAI does not use
                        data = line[5:].strip()
                        if data == DONE:
                            return
                        _look(data, Completion)
                        yield data
            raise ProviderError(502, "the provider's stream ended unexpectedly")
        except Unavailable as error:
            log.warning("%s", error)  # with its address, which the caller is not told
            raise ProviderError(503, f"the provider {error.why}", error.retry_after) from error

    async def _ask(self, path: str, body: dict[str, Any], within: float) -> Answer:
        try:
            answer = await self._outgoing.request(
                "POST",
                self._url(path),
                headers=self._headers(),
                content=msgspec.json.encode(body),
                within=within,
                patient=True,  # a completion that takes long would take as long again
            )
        except Unavailable as error:
            log.warning("%s", error)  # with its address, which the caller is not told
            raise ProviderError(503, f"the provider {error.why}", error.retry_after) from error
        if answer.status != 200:
            raise self._refusal(answer)
        return answer

    def _url(self, path: str) -> str:
        if not self._base:
            raise ProviderError(503, "no provider is configured; set OPENAI_BASE_URL or OPENAI_API_KEY")
        return self._base + path

    def _headers(self) -> dict[str, str]:
        # A completion may be asked for again without harm: the key makes it safe to repeat, here and on the way.
        headers = {"Content-Type": "application/json", "Idempotency-Key": str(uuid.uuid4())}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        return headers

    def _refusal(self, answer: Answer) -> ProviderError:
        """What a status that is not 200 means for our caller."""
        if answer.status in {400, 404, 413, 422}:
            said = self._reason(answer.body)
            return ProviderError(400, f"the provider rejected the request: {said.message}", said=said)
        if answer.status in {401, 403}:  # not passed on: they would speak of the caller's session
            return ProviderError(502, f"the provider rejected the API key (status {answer.status}); see OPENAI_API_KEY")
        wait = retry_after(answer.headers) or RETRY_AFTER
        if answer.status == 429:
            return ProviderError(503, "the provider has too many requests at the moment", wait)
        if answer.status >= 500:
            return ProviderError(503, f"the provider failed with status {answer.status}", wait)
        return ProviderError(502, f"the provider answered with status {answer.status}")

    def _reason(self, body: bytes) -> Reason:
        """What the provider says, shortened, without keys and addresses: it may speak of what is behind it."""
        try:
            said = msgspec.json.decode(body, type=_Refusal).error
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return Reason("it gave no reason")

        def shown(text: Any, length: int) -> str | None:
            return logs.redact(self._addresses.sub("***", str(text)))[:length] if isinstance(text, str | int) else None

        return Reason(
            shown(said.message, 500) or "it gave no reason",
            shown(said.type, 100), shown(said.param, 200), shown(said.code, 100),
        )  # fmt: skip


def in_parts(texts: list[str]) -> Iterator[tuple[int, list[str]]]:
    """(index of the first, texts), each of at most PART_TEXTS and, unless it is one alone, PART_BYTES."""
    begin = size = 0
    for index, text in enumerate(texts):
        length = len(text.encode())
        if index > begin and (index - begin >= PART_TEXTS or size + length > PART_BYTES):
            yield begin, texts[begin:index]
            begin, size = index, 0
        size += length
    yield begin, texts[begin:]


def _look(body: bytes, shape: type[Shape]) -> Shape:
    try:
        return msgspec.json.decode(body, type=shape)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ProviderError(502, f"the provider's response does not match OpenAI's format: {error}") from error


async def _beginning(stream: Stream) -> bytes:
    async with aclosing(stream.chunks()) as chunks:
        async for chunk in chunks:
            return chunk[:EVENT_MAX_BYTES]
    return b""


async def _lines(stream: Stream, within: float) -> AsyncGenerator[bytes, None]:
    """The lines of a stream, without their ends. Raises ProviderError for one that is too long, and after `within` seconds.

    asyncio.timeout would cancel whoever consumes us. So the clock is asked with each part, and for a part the stream itself
    waits no longer than for a silence.
    """
    rest = b""
    ends = time.monotonic() + within
    async with aclosing(stream.chunks()) as chunks:
        async for chunk in chunks:
            if time.monotonic() > ends:
                raise ProviderError(502, f"the provider's stream did not end within {within:g} s")
            *lines, rest = (rest + chunk).split(b"\n")
            if len(rest) > EVENT_MAX_BYTES:
                raise ProviderError(502, f"the provider sent a line of more than {EVENT_MAX_BYTES} bytes")
            for line in lines:
                yield line
