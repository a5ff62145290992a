"""How a route is declared: once, with types, from which follow its validation, its rights, its log lines and its description.

    api = Api("communications")

    @api.get("/api/communications/{id}", entity="communication", raises=(404,))
    async def get_communication(me: Caller, path: CommunicationPath) -> Communication:
        \"\"\"One communication of the own company.\"\"\"

What a handler names, it gets: `me`, the session that asks (without it the route is open to everybody); `path`, `query`,
`headers` and `body`, which are Inputs, checked; `page`, the part of a list; `request`, aiohttp's own. It returns a struct
(`| web.Response` when it may also make the whole response itself), or raises Problem. What a request holds besides is a
mistake: a parameter or field that has no effect was meant to have one. All mistakes are told in one answer.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import NoneType, UnionType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import msgspec
from aiohttp import HttpVersion11, web

from impetus_service.kit.addresses import address
from impetus_service.kit.audit import JOURNAL
from impetus_service.kit.caller import AUTHENTICATE, Caller, Rank
from impetus_service.kit.paging import NAMES, Page, Paged
from impetus_service.kit.problems import CONTENT_TYPE as PROBLEM_JSON
from impetus_service.kit.problems import Fault, Problem, ProblemBody, answer
from impetus_service.kit.validation import Input, read_json, read_texts, refusal, unknown_names

Handler = Callable[..., Awaitable[Any]]

BODY_TIMEOUT = 30.0  # seconds for a request's body to arrive
Id = Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1, examples=[7])]


class Identified(msgspec.Struct):
    """What has an id, which its log lines name."""

    id: int


VERBS = {"GET": "read", "POST": "create", "PATCH": "update"}
INPUTS = ("path", "query", "headers", "body")
PARTS = frozenset({"me", *INPUTS, "page", "request"})

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True)
class Operation:
    """One method of one path."""

    method: str
    path: str
    handler: Handler
    tag: str
    status: int  # of success
    rank: int  # the lowest level that may
    entity: str | None  # what it is about, in the audit and data-access logs; None: it is not written there
    action: str  # its name there
    raises: tuple[int, ...]  # statuses of its own, besides those that follow from the declaration
    content_types: tuple[str, ...]  # that success may have; the first is what a struct is encoded as
    also: Mapping[int, type]  # other statuses that are answered with a struct, and no problem
    body_max: int | None  # bytes of a request's body; None: the application's limit
    any_query: bool  # whether parameters that are not declared are left alone, for probes that add their own
    headers: tuple[str, ...]  # that success may have, of openapi.HEADERS
    problem: tuple[str, type]  # how a problem is told: content type and struct
    hints: Mapping[str, Any] = field(repr=False)  # of the handler's parameters and its return

    @property
    def name(self) -> str:
        """Of the operation, unique: the handler's."""
        return self.handler.__name__

    @property
    def answers(self) -> Any:
        """The type that success is encoded from; None where the handler makes the whole response."""
        kinds = (
            get_args(self.hints["return"]) if isinstance(self.hints["return"], UnionType) else (self.hints["return"],)
        )
        structs = [kind for kind in kinds if get_origin(kind) or not issubclass(kind, web.StreamResponse | NoneType)]
        return structs[0] if structs else None

    @property
    def authenticated(self) -> bool:
        return "me" in self.hints

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        if not self.authenticated:
            return self._respond(await self.handler(**await self._arguments(request)))
        me = await request.app[AUTHENTICATE](request, self.action, self.entity or "")
        try:
            if me.level < self.rank:
                raise Problem(
                    403, f"this requires a role of level {self.rank}; yours has level {me.level}", "level_too_low"
                )
            answer = await self.handler(me=me, **await self._arguments(request))
        except Problem as problem:
            if problem.status in {403, 429} and self.entity is not None and not problem.repeated:
                await me.company.refused(problem.detail)
            raise
        if self.method == "GET" and self.entity is not None:
            self._note_access(request, me, self.entity, answer)
        return self._respond(answer)

    async def _arguments(self, request: web.Request) -> dict[str, Any]:
        """What the handler names, but for `me`. Raises Problem 422 with every fault of the request."""
        hints = self.hints
        arguments: dict[str, Any] = {}
        faults: list[Fault] = []

        def read(part: str, values: Mapping[str, str]) -> None:
            arguments[part], found = read_texts(values, hints[part], part)
            faults.extend(found)

        if "request" in hints:
            arguments["request"] = request
        if "path" in hints:
            read("path", request.match_info)
        if "headers" in hints:
            names = hints["headers"].__struct_encode_fields__
            read("headers", {name: request.headers[name] for name in names if name in request.headers})
        if "page" in hints:
            try:
                arguments["page"] = Page.of(request.query)
            except Problem as problem:
                faults += problem.errors
        # Of a parameter that is given twice the first counts; an empty one counts as not given, as a form sends it.
        of_page = NAMES if "page" in hints else ()
        given = {name: request.query[name] for name in request.query if name not in of_page}
        if "query" in hints:
            read(
                "query",
                {
                    name: text
                    for name, text in given.items()
                    if text or name not in hints["query"].__struct_encode_fields__
                },
            )
        elif given and not self.any_query:
            faults += unknown_names(list(given), "query", of_page)
        if "body" in hints:
            arguments["body"], found = await _body(request, hints["body"], self.body_max)
            faults += found
        if faults:
            raise refusal(faults)
        return arguments

    def _respond(self, answer: Any) -> web.StreamResponse:
        if isinstance(answer, web.StreamResponse):
            return answer
        if answer is None:
            return web.Response(status=self.status)
        return web.Response(body=_encode(answer), status=self.status, content_type=self.content_types[0])

    def _note_access(self, request: web.Request, me: Caller, entity: str, answer: Any) -> None:
        """Write to the data-access log what was seen."""
        entity_id = request.match_info.get("id")
        description = ""
        match answer:
            case Identified():
                entity_id = str(answer.id)
            case Paged():
                description = f"{len(answer.items)} rows"
        request.app[JOURNAL].add(
            "data_access_logs", me.company.id, me.user_id, self.action, entity,
            entity_id=entity_id, description=description, address=address(request),
        )  # fmt: skip


class Api:
    """The operations of one subject. `problem` describes how the frame tells a problem there (frame.SHAPES)."""

    def __init__(self, tag: str, problem: tuple[str, type] = (PROBLEM_JSON, ProblemBody)) -> None:
        self.tag = tag
        self._problem = problem
        self.operations: list[Operation] = []

    def operation(
        self,
        method: str,
        path: str,
        *,
        status: int = 200,
        rank: int = Rank.MEMBER,
        entity: str | None = None,
        action: str | None = None,
        raises: tuple[int, ...] = (),
        content_types: tuple[str, ...] = ("application/json",),
        also: Mapping[int, type] | None = None,
        body_max: int | None = None,
        any_query: bool = False,
        headers: tuple[str, ...] = (),
    ) -> Callable[[Handler], Handler]:
        """Declare the decorated coroutine as `method` of `path`.

        With an `entity`, a GET is written to the data-access log, and the handler of another method does what it does in
        `me.company.transaction()` and records it there. The `action` is by default the entity's name and a verb.
        """

        def declare(handler: Handler) -> Handler:
            hints = get_type_hints(handler, include_extras=True)
            unknown = set(inspect.signature(handler).parameters) - PARTS
            if unknown or "return" not in hints:
                raise TypeError(f"{handler.__name__} names {unknown or 'no return type'}; there are {sorted(PARTS)}")
            for part in INPUTS:
                if part in hints and not issubclass(hints[part], Input):
                    raise TypeError(f"{handler.__name__}: {part} is of {hints[part].__name__}, which is not an Input")
            verb = "list" if "page" in hints else VERBS.get(method, method.lower())
            name = action or f"{entity}.{verb}"
            self.operations.append(
                Operation(
                    method,
                    path,
                    handler,
                    self.tag,
                    status,
                    rank,
                    entity,
                    name,
                    raises,
                    content_types,
                    also or {},
                    body_max,
                    any_query,
                    headers,
                    self._problem,
                    hints,
                )
            )
            return handler

        return declare

    def get(self, path: str, **options: Any) -> Callable[[Handler], Handler]:
        """`operation` of GET; and so on."""
        return self.operation("GET", path, **options)

    def post(self, path: str, **options: Any) -> Callable[[Handler], Handler]:
        return self.operation("POST", path, **options)

    def patch(self, path: str, **options: Any) -> Callable[[Handler], Handler]:
        return self.operation("PATCH", path, **options)

    def delete(self, path: str, **options: Any) -> Callable[[Handler], Handler]:
        return self.operation("DELETE", path, **options)

    def routes(self) -> list[web.RouteDef]:
        """For Application.add_routes."""
        return [web.route(each.method, each.path, each.__call__, expect_handler=_go_on) for each in self.operations]


async def _go_on(request: web.Request) -> web.Response | None:
    """The answer to Expect, which aiohttp gives before any middleware: 100, or 417."""
    expected = request.headers["Expect"]
    if expected.lower() != "100-continue":
        return answer(Problem(417, f"Expect: {expected[:100]}: only 100-continue is supported"))
    if request.version == HttpVersion11:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # the answer itself has not begun
    return None


async def _body(request: web.Request, wanted: Any, body_max: int | None) -> tuple[Any, list[Fault]]:
    if request.content_type != "application/json":
        raise Problem(415, f"the body is {request.content_type}; application/json is expected")
    try:
        async with asyncio.timeout(BODY_TIMEOUT):
            text = await (request if body_max is None else request.clone(client_max_size=body_max)).read()
    except TimeoutError:
        raise Problem(408, f"the body did not arrive within {BODY_TIMEOUT:g} s") from None
    try:
        return read_json(text, wanted)
    except msgspec.DecodeError as error:
        raise Problem(400, f"the body is not JSON: {error}", "malformed_json") from None
    except RecursionError:
        raise Problem(400, "the body is nested too deeply", "malformed_json") from None
    except UnicodeDecodeError:
        raise Problem(400, "the body is not JSON: it is not in UTF-8", "malformed_json") from None
