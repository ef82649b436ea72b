"""What the server of an artefact answers, route by route, and who may ask."""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from metalearn_cli import __version__
from metalearn_cli.core.check import counted
from metalearn_cli.core.errors import UserError
from metalearn_cli.deploy.bodies import KINDS, MILLION, Refused, item_of, kind_of, names_of
from metalearn_cli.deploy.served import answer, explanation, picture
from metalearn_cli.deploy.server import State, change, is_loopback

log = logging.getLogger("metalearn_cli")

PAGE = Path(__file__).with_name("page")
FILES = {"": "index.html", "page.js": "page.js", "page.css": "page.css", "icon.svg": "icon.svg"}
"""The files of the page, by their paths."""

TYPES = {".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8"}
TYPES |= {".css": "text/css; charset=utf-8", ".svg": "image/svg+xml"}

HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
"""Of every answer."""

BODY = 60  # seconds until the whole of a request is there
DISCARDED = 8  # times the largest body: what is read of larger ones, to tell their client so
LONGEST = 200  # letters of the name of a class


class Reply(NamedTuple):
    """An answer: its status, and what it says, as JSON if it is neither text nor a picture in bytes."""

    status: int
    content: Any


class Way(NamedTuple):
    """A route of the server.

    Attributes:
        method: of HTTP.
        path: with its parts that vary as {name}.
        run: answers a request.
        about: what it does.
        takes: the types of what it takes; () if nothing.
        statuses: of the answers, and what each says.
        public: whether it needs no token.
    """

    method: str
    path: str
    run: Callable[[State, Any], Awaitable[Reply]]
    about: str
    takes: tuple[str, ...]
    statuses: Mapping[int, str]
    public: bool = False


async def _predict(state: State, request: Any) -> Reply:
    content, limits = await request.body(), state.settings.limits

    def run() -> dict[str, Any]:
        served = state.served()
        return answer(served, item_of(content, served, limits))

    return Reply(200, await state.work(run))


async def _explain(state: State, request: Any) -> Reply:
    content, limits = await request.body(), state.settings.limits

    def run() -> dict[str, Any]:
        served = state.served()
        try:
            return explanation(served, item_of(content, served, limits).x, state.go_on)
        except UserError as error:
            raise Refused(409, str(error)) from error

    return Reply(200, await state.work(run))


async def _picture(state: State, request: Any) -> Reply:
    def run() -> bytes:
        try:
            return picture(state.served(), **request.path_params)
        except UserError as error:
            raise Refused(404, str(error)) from error

    return Reply(200, await state.work(run))


async def _classes(state: State, request: Any) -> Reply:
    served = await state.work(state.served)
    about = served.about
    told = {"artefact": about["name"], "classes": served.sizes, "takes": [kind.name for kind in KINDS[served.kind]]}
    told |= {"kind": served.kind, "statistics": about["statistics"]}
    return Reply(200, told | {"unknown": bool((about["calibration"] or {}).get("threshold"))})


async def _enrol(state: State, request: Any) -> Reply:
    name, limits, files = request.path_params["name"], state.settings.limits, list[tuple[str, bytes]]()
    if request.headers.get("content-type", "").startswith("multipart/form-data"):
        async with request.form(max_files=limits.items, max_fields=limits.items) as form:
            for _, part in form.multi_items():
                files.append(("", part.encode()) if isinstance(part, str) else (part.filename or "", await part.read()))
    else:
        files.append(("", await request.body()))

    def check() -> list[str]:
        served = state.served()
        if not name.isprintable() or name != name.strip() or not 0 < len(name) <= LONGEST:
            told = f"the name of a class has from 1 to {LONGEST} printable letters, without spaces around it"
            raise Refused(422, told)
        if name in (".", "..") or "\ufffd" in name:  # clients drop the former from paths; the latter was no UTF-8
            raise Refused(422, "the name of a class is UTF-8, and neither . nor ..; take another name")
        if name in served.sizes:
            own = counted(served.sizes[name], "example")
            raise Refused(409, f"the class {name} exists, with {own}; remove it first")
        if len(served.sizes) >= limits.classes:
            raise Refused(409, f"there are {len(served.sizes)} classes; more than {limits.classes} are not taken")
        if not files or len(files) > limits.items:
            raise Refused(413 if files else 422, f"a class has from 1 to {limits.items} examples, got {len(files)}")
        for file, content in files:
            state.go_on()
            try:
                item_of(content, served, limits)
            except Refused as error:
                raise Refused(error.status, f"{file}: {error}" if file else str(error)) from error
        return names_of((file, kind_of(content, served)) for file, content in files)

    async with state.changing:
        with tempfile.TemporaryDirectory(prefix="mlx-serve-") as folder:
            for file, (_, content) in zip(await state.work(check), files, strict=True):
                await state.work(partial(Path(folder, file).write_bytes, content))
            await change(state.settings.folder, "enrol", name, folder)
        return Reply(201, {"classes": (await state.work(state.served)).sizes})


async def _unenrol(state: State, request: Any) -> Reply:
    name = request.path_params["name"]
    async with state.changing:
        served = await state.work(state.served)
        if name not in served.sizes:
            raise Refused(404, f"there is no class {name}; there are {', '.join(served.sizes)}")
        if len(served.sizes) == 2:
            raise Refused(409, f"without {name} there would be a single class; two or more are needed")
        await change(state.settings.folder, "unenrol", name)
        return Reply(200, {"classes": (await state.work(state.served)).sizes})


async def _health(state: State, request: Any) -> Reply:
    return Reply(200, {"status": "ok"})


async def _metrics(state: State, request: Any) -> Reply:
    totals = Counter[str]()
    lines = ["# HELP mlx_requests_total Answers by route, method and status.", "# TYPE mlx_requests_total counter"]
    for (path, method, status), count in sorted(state.counts.items()):
        totals[path] += count
        lines.append(f'mlx_requests_total{{route="{path}",method="{method}",status="{status}"}} {count}')
    lines += ["# HELP mlx_request_seconds Seconds until an answer.", "# TYPE mlx_request_seconds summary"]
    for path, count in sorted(totals.items()):
        lines.append(f'mlx_request_seconds_sum{{route="{path}"}} {state.seconds[path]:.6f}')
        lines.append(f'mlx_request_seconds_count{{route="{path}"}} {count}')
    lines += ["# HELP mlx_busy Requests that wait or are answered.", "# TYPE mlx_busy gauge", f"mlx_busy {state.busy}"]
    classes = len((await state.work(state.served)).sizes)
    lines += ["# HELP mlx_classes Classes of the artefact.", "# TYPE mlx_classes gauge", f"mlx_classes {classes}"]
    return Reply(200, "\n".join([*lines, ""]))


async def _openapi(state: State, request: Any) -> Reply:
    return Reply(200, openapi())


_UNKNOWN = "the server has a token, and the request has none or another one"
_ELSEWHERE = "the server has no token, and the request asks for it by a name that is not its own"
_ITEM = tuple(kind.type for kinds in KINDS.values() for kind in kinds)
_REFUSED = {
    408: "the request was not there in time",
    413: "too large: the request, the picture, the recording, the text, or the number of examples",
    415: "the file is of another kind than the artefact takes",
    422: "the file or the name cannot be used",
    503: "there are too many requests, or another program changes the artefact; try again",
}
_CHANGED = {
    507: "the disk is full; the artefact is unchanged",
    409: "the class exists, or there are too many or too few; the artefact is unchanged",
}
WAYS = (
    Way("POST", "/predict", _predict, "Classify a file or a text.", _ITEM, {200: "the answer", **_REFUSED}),
    Way(
        *("POST", "/explain", _explain, "Say which parts of a file or text speak for its answer.", _ITEM),
        {200: "the parts", 409: "such items have no explanation", **_REFUSED},
    ),
    Way(
        *("GET", "/examples/{version}/{number}", _picture, "Show an example that an answer names, as PNG.", ()),
        {200: "the picture", 404: "there is no such picture"},
    ),
    Way("GET", "/classes", _classes, "List the classes.", (), {200: "the classes, and what the artefact takes"}),
    Way(
        *("PUT", "/classes/{name}", _enrol, "Add a class by a few examples; nothing is trained."),
        ("multipart/form-data", *_ITEM),
        {201: "the classes", 400: "the form cannot be read, or has too many files", **_CHANGED, **_REFUSED},
    ),
    Way(
        *("DELETE", "/classes/{name}", _unenrol, "Remove a class.", ()),
        {200: "the classes", 404: "there is no such class", **_CHANGED, 503: _REFUSED[503]},
    ),
    Way("GET", "/healthz", _health, "Say that the server runs.", (), {200: "it runs"}, True),
    Way("GET", "/metrics", _metrics, "Count requests, for Prometheus.", (), {200: "the counts, as text"}),
    Way("GET", "/openapi.json", _openapi, "Describe this interface.", (), {200: "this description"}, True),
)
"""All routes but those of the page's files."""

_PUBLIC = {way.path for way in WAYS if way.public} | {f"/{path}" for path in FILES}


def openapi() -> dict[str, Any]:
    """Return the description of the routes, see https://spec.openapis.org/oas/v3.1.0."""
    paths: dict[str, dict[str, Any]] = {}
    for way in WAYS:
        told: dict[str, Any] = {"summary": way.about, "security": [] if way.public else [{"token": []}]}
        statuses = {**way.statuses, 403: _ELSEWHERE, **({} if way.public else {401: _UNKNOWN})}
        told["responses"] = {str(status): {"description": what} for status, what in sorted(statuses.items())}
        if names := re.findall(r"{(\w+)}", way.path):
            told["parameters"] = [
                {"name": n, "in": "path", "required": True, "schema": {"type": "string"}} for n in names
            ]
        if way.takes:
            told["requestBody"] = {"required": True, "content": {kind: {} for kind in way.takes}}
        paths.setdefault(way.path, {})[way.method.lower()] = told
    return {
        "openapi": "3.1.0",
        "info": {"title": "mlx serve", "version": __version__},
        "paths": paths,
        "components": {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
    }


def application(state: State) -> Any:
    """Return the server as an ASGI application."""
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.middleware import Middleware
    from starlette.middleware.cors import CORSMiddleware
    from starlette.requests import ClientDisconnect
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route

    def answering(way: Way) -> Any:
        async def run(request: Any) -> Response:
            request.scope["mlx.route"] = way.path
            try:
                with nullcontext() if way.method == "GET" else state.admitted():
                    reply = await way.run(state, request)
                if isinstance(reply.content, str):
                    return Response(reply.content, reply.status, media_type="text/plain; version=0.0.4")
                if isinstance(reply.content, bytes):
                    return Response(reply.content, reply.status, media_type="image/png")
                return JSONResponse(reply.content, reply.status)
            except (Refused, HTTPException, OSError):
                raise
            except ClientDisconnect as error:
                raise Refused(400, "the client has gone") from error
            except asyncio.CancelledError as error:
                raise Refused(503, "the server ends") from error
            except Exception as error:
                log.warning("%s %s has failed: %s", way.method, way.path, traceback.format_exc())
                raise Refused(500, "the server has made a mistake; its output says why") from error

        return run

    def showing(path: str) -> Any:
        content, kind = (PAGE / FILES[path]).read_bytes(), TYPES[Path(FILES[path]).suffix]

        async def run(request: Any) -> Response:
            return Response(content, media_type=kind)

        return run

    async def told(request: Any, error: Any) -> Response:
        if isinstance(error, HTTPException):
            return JSONResponse({"error": error.detail}, error.status_code, error.headers)
        if isinstance(error, OSError):
            error = Refused(507, f"the server cannot write a file: {str(error.strerror or error).lower()}")
        later = {"retry-after": "1"} if error.status == 503 else None
        return JSONResponse({"error": str(error)}, error.status, later)

    routes = [Route(way.path.replace("{name}", "{name:path}"), answering(way), methods=[way.method]) for way in WAYS]
    routes += [Route(f"/{path}", showing(path)) for path in FILES]
    middleware = [Middleware(Guard, state=state)]
    if origins := state.settings.origins:
        allowed: Any = {"allow_origins": origins, "allow_methods": ["GET", "POST", "PUT", "DELETE"]}
        middleware.insert(0, Middleware(CORSMiddleware, **allowed, allow_headers=["authorization", "content-type"]))
    handlers: Any = {Refused: told, HTTPException: told, OSError: told}
    return Starlette(routes=routes, middleware=middleware, exception_handlers=handlers)


class Guard:
    """Refuses who may not ask and what is too large, adds `HEADERS`, and counts.

    Args:
        app: the application behind it.
        state: of the server.
    """

    def __init__(self, app: Any, state: State) -> None:
        self._app, self._state = app, state

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request of ASGI."""
        from starlette.datastructures import Headers, MutableHeaders
        from starlette.responses import JSONResponse

        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        began, got, sent = time.monotonic(), 0, 500
        most = self._state.settings.limits.body * MILLION

        async def next_part() -> Any:
            nonlocal got
            try:
                message = await asyncio.wait_for(receive(), began + BODY - time.monotonic())
            except asyncio.TimeoutError as error:
                raise Refused(408, f"the request was not there after {BODY} seconds") from error
            got += len(message.get("body", b""))
            return message

        async def receiving() -> Any:
            message = await next_part()
            if got > most or int(headers.get("content-length", "0")) > most:
                while message.get("more_body") and got < DISCARDED * most:  # a client that still sends reads no answer
                    message = await next_part()
                raise Refused(413, f"the request has more than {self._state.settings.limits.body} MB")
            return message

        async def sending(message: Any) -> None:
            nonlocal sent
            if message["type"] == "http.response.start":
                sent = message["status"]
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        headers = Headers(scope=scope)
        try:
            self._admit(scope["path"], headers)
        except Refused as error:
            why = {"www-authenticate": "Bearer"} if error.status == 401 else {"connection": "close"}
            await JSONResponse({"error": str(error)}, error.status, why)(scope, receive, sending)
        else:
            await self._app(scope, receiving, sending)
        finally:
            path = scope.get("mlx.route", "other")
            method = scope["method"] if path != "other" else ""  # a client may send any
            self._state.counts[path, method, sent] += 1
            self._state.seconds[path] += time.monotonic() - began

    def _admit(self, path: str, headers: Mapping[str, str]) -> None:
        """Check who asks.

        Raises:
            Refused: if it may not be answered.
        """
        settings = self._state.settings
        host = re.sub(r":\d+$", "", headers.get("host", "").lower())
        if not settings.token and not is_loopback(host.strip("[]")):  # a name that another page has made lead here
            raise Refused(403, f"the server is not called {host}")
        given, wanted = headers.get("authorization", ""), f"Bearer {settings.token}"
        if settings.token and path not in _PUBLIC and not hmac.compare_digest(given.encode(), wanted.encode()):
            raise Refused(401, "the token is missing or wrong; send the header Authorization: Bearer TOKEN")
