"""A server for one artefact. The process imports no torch: `changes` adds and removes classes in a process of its own.

The artefact on the disk is the only state: whoever changes it, this server or another program, the next answer is that
of the new version.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import json
import logging
import os
import signal
import socket
import sys
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from metalearn_cli.core.errors import UserError
from metalearn_cli.core.machine import cores
from metalearn_cli.deploy.bodies import Limits, Refused
from metalearn_cli.deploy.folder import ABOUT
from metalearn_cli.deploy.served import Served, opened

log = logging.getLogger("metalearn_cli")

NEEDED = {
    "onnxruntime": "onnxruntime",
    "python_multipart": "python-multipart",
    "starlette": "starlette",
    "uvicorn": "uvicorn",
}
"""The modules that are imported, and their packages."""

HEAD = 60  # seconds until a request begins on a connection
GRACE = 1  # seconds that requests may go on after SIGTERM
CHANGE = 600  # seconds until a change of the artefact is made
CONNECTIONS = 512

T = TypeVar("T")


class Settings(NamedTuple):
    """How an artefact is served.

    Attributes:
        folder: the artefact.
        token: what a client has to send; "" for none.
        origins: pages of others that may use the server, as in https://a.example.
        limits: what a client may ask for.
    """

    folder: Path
    token: str = ""
    origins: tuple[str, ...] = ()
    limits: Limits = Limits()


class State:
    """What the requests of a server share.

    Args:
        settings: how the artefact is served.

    Attributes:
        settings: those.
        busy: requests that wait or are answered.
        counts: answers, by route, method and status.
        seconds: that they took, by route.
        changing: held by the request that changes the artefact; others wait for it.

    Raises:
        UserError: if packages are missing, or the artefact cannot be served.
    """

    def __init__(self, settings: Settings) -> None:
        if missing := [package for module, package in NEEDED.items() if find_spec(module) is None]:
            raise UserError(f"serving needs {', '.join(missing)}: pip install 'metalearn-cli[serve]'")
        self.settings = settings
        self.busy = 0
        self.counts: Counter[tuple[str, str, int]] = Counter()
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.changing = asyncio.Lock()
        self._threads = ThreadPoolExecutor(cores())
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._stamp = self._look()
        self._served = opened(settings.folder)

    def served(self) -> Served:
        """Return the artefact as it is on the disk by now; if it cannot be read, the last version that could be."""
        with self._lock:
            while (stamp := self._look()) not in (self._stamp, None):
                self._stamp = stamp
                try:
                    self._served = opened(self.settings.folder)
                except UserError as error:
                    log.warning("%s; the version before is served", error)
            return self._served

    async def work(self, run: Callable[[], T]) -> T:
        """Return what a function returns that computes, in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, run)

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Within a block, count a request.

        Raises:
            Refused: if there are too many.
        """
        if self.busy >= self.settings.limits.queue:
            raise Refused(503, "there are too many requests; try again in a second")
        self.busy += 1
        try:
            yield
        finally:
            self.busy -= 1

    def go_on(self) -> None:
        """Stop a computation if the server ends.

        Raises:
            Refused: if it does.
        """
        if self._stopping.is_set():
            raise Refused(503, "the server ends")

    def stop(self) -> None:
        """Stop all computations."""
        self._stopping.set()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _look(self) -> tuple[int, ...] | None:
        """Return what is different after each change of the artefact; None while it is not there."""
        try:
            found = (self.settings.folder / ABOUT).stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size


async def change(folder: Path, *words: str) -> None:
    """Change an artefact, see `changes`.

    Args:
        folder: the artefact.
        words: the change.

    Raises:
        Refused: if it is not changed.
    """
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "metalearn_cli.deploy.changes", str(folder.resolve()), *words),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONSAFEPATH": "1"},  # no modules from the current folder
    )
    try:
        out, _ = await asyncio.wait_for(child.communicate(), CHANGE)
    except asyncio.TimeoutError as error:
        raise Refused(504, f"the change took longer than {CHANGE} seconds") from error
    finally:
        if child.returncode is None:  # the server ends, or it took too long; the old version stands
            child.kill()
            await child.wait()
    if child.returncode:
        raise Refused(500, "the change has failed; the output of the server says why")
    found = json.loads(out)
    if found["error"]:
        raise Refused(found["status"], found["error"])


def is_loopback(host: str) -> bool:
    """Whether only the machine itself reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def listening(host: str, port: int) -> tuple[socket.socket, str]:
    """Return a socket that listens, and the address of its page.

    Raises:
        UserError: if the port cannot be had.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.create_server(address[:2], family=family, backlog=CONNECTIONS)
    except socket.gaierror as error:
        raise UserError(f"host={host} is no address of this machine ({error.strerror})") from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UserError(f"port {port} is in use; type another one: port={_free(host, port)}") from error
        if error.errno == errno.EACCES:
            raise UserError(f"port {port} is for the system alone; type one above 1023: port=8000") from error
        raise UserError(f"host={host} port={port} cannot be had: {str(error.strerror).lower()}") from error
    name, own = found.getsockname()[:2]
    return found, f"http://{f'[{name}]' if ':' in name else name}:{own}/"


def run(state: State, listener: socket.socket) -> None:
    """Answer requests until SIGTERM or Ctrl-C."""
    import uvicorn

    from metalearn_cli.deploy.routes import application

    server = uvicorn.Server(configured(application(state)))

    def stop(number: int, frame: Any) -> None:
        server.should_exit = True

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with listener:
            server.run(sockets=[listener])
    finally:
        state.stop()
        for number, handler in before.items():
            signal.signal(number, handler)


def configured(application: Any) -> Any:
    """Return how uvicorn serves an application."""
    import uvicorn
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Impatient(H11Protocol):
        """HTTP that ends a connection on which no request begins, for which uvicorn would wait for ever."""

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)  # type: ignore[arg-type]  # uvicorn names a narrower type than asyncio
            self.looking = self.loop.call_later(HEAD, self.look, None)

        def connection_lost(self, exc: Exception | None) -> None:
            self.looking.cancel()
            super().connection_lost(exc)

        def look(self, before: Any) -> None:
            """End the connection if nothing is answered, and no request has begun since the one before."""
            if self.cycle is before and (before is None or before.response_complete):
                self.transport.close()
            else:
                self.looking = self.loop.call_later(HEAD, self.look, self.cycle)

    return uvicorn.Config(
        application,
        http=Impatient,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=GRACE,
    )


def _free(host: str, port: int) -> int:
    """Return the next port that is free."""
    for other in range(port + 1, min(port + 100, 1 << 16)):
        with suppress(OSError), socket.create_server((host, other)):
            return other
    return 0
