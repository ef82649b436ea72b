"""How long the server waits for its clients."""

from __future__ import annotations

import asyncio
import http.client
import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from metalearn_cli.deploy import server

uvicorn = pytest.importorskip("uvicorn", reason="needs the extra serve")


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Return the port of a server that takes longer for an answer than it waits for a request to begin."""
    monkeypatch.setattr(server, "HEAD", 0.2)

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.5)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = uvicorn.Server(server.configured(application))
        thread = threading.Thread(target=one.run, kwargs={"sockets": [listener]})
        thread.start()
        yield listener.getsockname()[1]
        one.should_exit = True
        thread.join()


@pytest.mark.parametrize("begun", [b"", b"GET / HTTP/1.1\r\nHost: localh"])
def test_a_connection_on_which_no_request_begins_is_closed(port: int, begun: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(begun)
        assert client.recv(9) == b""


def test_a_second_request_that_does_not_begin_is_closed_and_the_first_answered(port: int) -> None:
    request = b"GET / HTTP/1.1\r\nHost: localhost\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(request + b"\r\n" + request)
        told = b"".join(iter(lambda: client.recv(999), b""))
        assert told.count(b"200 OK") == 1 and told.endswith(b"ok")


def test_a_connection_that_is_used_stays(port: int) -> None:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
        for _ in range(2):
            connection.request("GET", "/")
            assert connection.getresponse().read() == b"ok"
