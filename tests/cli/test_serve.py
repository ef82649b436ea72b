"""`mlx serve`: what it says before it serves, and a server in a process of its own."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from exports import ENDINGS, exported, write

from metalearn_cli.deploy import server
from metalearn_cli.deploy.folder import changing

needs_extra = pytest.mark.skipif(
    any(server.find_spec(name) is None for name in (*server.NEEDED, "onnxscript")), reason="needs the extra serve"
)


@pytest.fixture(scope="module")
def birds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported("images", tmp_path_factory.mktemp("served"))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "mlx serve needs one artefact: mlx serve ARTEFACT"),
        (["a", "b"], "mlx serve needs one artefact: mlx serve ARTEFACT"),
        (["a", "prot=1"], "mlx serve has no setting prot; did you mean port?"),
        (["a", "port=many"], "port must be a whole number from 0 to 65535, got 'many'"),
        (["a", f"port={'9' * 5000}"], "port must be a whole number from 0 to 65535"),
        (["a", "port=65536"], "port must be a whole number from 0 to 65535"),
        (["a", "limit.queue=0"], "limit.queue must be a whole number from 1 to"),
        (["a", "host=0.0.0.0"], "so that it needs a token: MLX_TOKEN=16-LETTERS-OR-MORE mlx serve a host=0.0.0.0"),
        (["a", "host=example.org"], "host=example.org may be reached from other machines, so that it needs a token"),
        (["a", "token=short"], "the token must have 16 or more letters, digits or marks, without spaces"),
        (["a", "origins=*"], "origins are as in https://a.example, without a path, got *"),
        (["a", "origins=https://a.example,b.example"], "without a path, got b.example"),
    ],
)
def test_settings_that_cannot_be_used_are_told(mlx: Callable, words: list[str], told: str) -> None:
    code, out, err = mlx("serve", *words)
    assert (code, out) == (2, "") and told in err


def test_packages_that_are_missing_are_named(mlx: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "find_spec", lambda name: None if name == "uvicorn" else object())
    code, _, err = mlx("serve", "a")
    assert code == 2 and "serving needs uvicorn: pip install 'metalearn-cli[serve]'" in err


@needs_extra
@pytest.mark.medium
def test_what_cannot_be_served_or_had_is_told(mlx: Callable, birds: Path) -> None:
    code, _, err = mlx("serve", str(birds.parent))
    assert code == 2 and "is no artefact: it has no artefact.json; make one with: mlx export" in err
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, _, err = mlx("serve", str(birds), f"port={port}")
        assert code == 2 and f"port {port} is in use; type another one: port={port + 1}"[:-3] in err
    code, _, err = mlx("serve", str(birds), "host=192.0.2.1", f"token={'x' * 16}")
    assert code == 2 and "host=192.0.2.1 port=8000 cannot be had: cannot assign requested address" in err
    code, _, err = mlx("serve", str(birds), "host=no.such.invalid", f"token={'x' * 16}")
    assert code == 2 and "host=no.such.invalid is no address of this machine" in err


class Served:
    """A server in a process of its own, which prints its exit code and whether it has imported torch."""

    def __init__(self, *words: str) -> None:
        code = """
import sys
from metalearn_cli.cli.main import main
code = main(sys.argv[1:])
print("@", code, *(name for name in ("torch", "matplotlib", "hydra") if name in sys.modules), file=sys.stderr)
"""
        line = [sys.executable, "-c", code, "serve", *words, "port=0", "--json"]
        self.process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout
        self.told = json.loads("".join(iter(self.process.stdout.readline, "}\n")) + "}")
        self.port = int(self.told["url"].rpartition(":")[2].strip("/"))

    def ask(self, method: str, path: str, content: bytes = b"", **headers: str) -> tuple[int, Any]:
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)) as connection:
            connection.request(method, path, content, headers)
            reply = connection.getresponse()
            return reply.status, json.loads(reply.read())

    def end(self, number: int) -> tuple[float, str]:
        """Send a signal; return the seconds until the process has ended, and its stderr."""
        began = time.monotonic()
        self.process.send_signal(number)
        _, err = self.process.communicate(timeout=30)
        return time.monotonic() - began, err


@pytest.fixture
def serving(birds: Path) -> Iterator[Callable[..., Served]]:
    started = list[Served]()

    def start(*words: str) -> Served:
        started.append(Served(str(birds), *words))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.end(signal.SIGKILL)


@needs_extra
@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
@pytest.mark.medium
def test_a_server_ends_soon_and_ends_what_it_began(serving: Callable, birds: Path, tmp_path: Path, number: int) -> None:
    served = serving()
    assert served.told["classes"] == {"crow": 3, "jay": 3, "wren": 3}
    content = write("images", tmp_path / "new.png", 7).read_bytes()
    assert served.ask("POST", "/predict", content)[0] == 200
    begun, stuck = (socket.create_connection(("127.0.0.1", served.port)) for _ in range(2))
    for one in (begun, stuck):
        one.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(content))
        one.sendall(content[:10])
    time.sleep(0.2)
    threading.Timer(0.3, lambda: begun.sendall(content[10:])).start()
    seconds, err = served.end(number)
    assert seconds < 4  # 2 on a machine that does nothing else
    assert err.split("@")[-1].split() == ["0"], err  # it has imported nothing of these
    assert begun.recv(15) == b"HTTP/1.1 200 OK"
    begun.close()
    stuck.close()


@needs_extra
@pytest.mark.slow  # the exporter starts anew for each change
def test_a_class_is_added_by_a_process_with_torch(serving: Callable, birds: Path, tmp_path: Path) -> None:
    served = serving(f"token={'x' * 16}")
    content, own = write("images", tmp_path / "owl.png", 7).read_bytes(), {"Authorization": f"Bearer {'x' * 16}"}
    assert served.ask("PUT", "/classes/owl", content)[0] == 401
    assert served.ask("PUT", "/classes/-owl=1", content, **own)[0] == 201
    assert served.ask("POST", "/predict", content, **own)[1]["class"] == "-owl=1"
    status, told = served.ask("PUT", "/classes/owl", b"no picture", **own)
    assert status == 415 and told["error"] == "the file is not one of PNG, JPEG, BMP"
    assert served.ask("DELETE", "/classes/-owl=1", **own)[1] == {"classes": {"crow": 3, "jay": 3, "wren": 3}}
    assert served.end(signal.SIGTERM)[1].split("@")[-1].split() == ["0"]


@needs_extra
@pytest.mark.slow
def test_a_server_that_ends_while_a_class_is_added_leaves_the_old_version(
    serving: Callable, birds: Path, tmp_path: Path
) -> None:
    served = serving()
    content = write("images", tmp_path / "owl.png", 7).read_bytes()
    before = {path.name: path.read_bytes() for path in birds.iterdir()}

    answered = list[int]()

    def add() -> None:
        answered.append(served.ask("PUT", "/classes/owl", content)[0])

    adding = threading.Thread(target=add)
    adding.start()
    time.sleep(2)
    assert served.end(signal.SIGTERM)[0] < 4
    adding.join()
    assert answered == [503]
    with changing(birds):  # which the process with torch would have done, were it alive
        assert {path.name: path.read_bytes() for path in birds.iterdir()} == before


@needs_extra
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["audio", "text"])
def test_recordings_and_texts_are_served(kind: str, tmp_path: Path) -> None:
    served = Served(str(exported(kind, tmp_path)))
    try:
        content = write(kind, tmp_path / f"new{ENDINGS[kind]}", 7).read_bytes()
        assert served.ask("POST", "/predict", content)[1]["class"] in ("crow", "jay", "wren")
        assert served.ask("POST", "/explain", content)[1].keys() >= {"parts" if kind == "text" else "values"}
        assert served.ask("POST", "/predict", b"\x89PNG\r\n\x1a\n")[0] == 415
        assert served.ask("PUT", "/classes/owl", content)[1]["classes"]["owl"] == 1
        assert served.ask("POST", "/predict", content)[1]["class"] == "owl"
    finally:
        assert served.end(signal.SIGTERM)[1].split("@")[-1].split() == ["0"]
