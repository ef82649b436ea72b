"""The routes of the server: who may ask, what may be asked, and what is answered."""

from __future__ import annotations

import asyncio
import io
import logging
import re
import shutil
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exports import changed_here, exported
from PIL import Image
from sources import images

pytest.importorskip("starlette", reason="needs the extra serve")
pytest.importorskip("onnxscript", reason="needs the extra serve")
pytest.importorskip("httpx2", reason="needs the extra dev")

from starlette.testclient import TestClient

from metalearn_cli.deploy import artefact, exporting, routes
from metalearn_cli.deploy.bodies import Limits
from metalearn_cli.deploy.folder import changing, read_about
from metalearn_cli.deploy.routes import WAYS, application
from metalearn_cli.deploy.server import Settings, State

TOKEN = "a-token-of-24-characters"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported("images", tmp_path_factory.mktemp("served"), "train")


@pytest.fixture
def birds(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    """Return an artefact; classes are added in this process, and the graph stays as it is."""
    shutil.copytree(original, tmp_path / "birds")
    graph = (original / "encoder.onnx").read_bytes()
    monkeypatch.setattr(artefact, "graph_of", lambda enrolled, tried: graph)

    monkeypatch.setattr(routes, "change", changed_here(capsys))
    return tmp_path / "birds"


@pytest.fixture
def asking(birds: Path) -> Iterator[Callable[..., TestClient]]:
    """Return a function from settings to a client of a server with them."""
    states = list[State]()

    def make(host: str = "127.0.0.1:8000", **settings: Any) -> TestClient:
        states.append(State(Settings(**{"folder": birds, "token": "", **settings})))
        return TestClient(application(states[-1]), base_url=f"http://{host}")

    yield make
    for state in states:
        state.stop()


@pytest.fixture
def client(asking: Callable[..., TestClient]) -> TestClient:
    return asking()


def picture(seed: int = 7, form: str = "PNG") -> bytes:
    file = io.BytesIO()
    images.picture(seed, "L").save(file, form)
    return file.getvalue()


def bomb(width: int = 60_000, height: int = 60_000) -> bytes:
    """Return a PNG of few bytes and very many pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def files(*seeds: int) -> list[tuple[str, tuple[str, bytes]]]:
    return [("examples", (f"{seed}.png", picture(seed))) for seed in seeds]


@pytest.mark.medium
def test_the_description_is_of_the_routes(client):
    found = client.get("/openapi.json").json()
    described = {(method.upper(), path) for path, methods in found["paths"].items() for method in methods}
    served = {
        (method, route.path.replace(":path", ""))
        for route in client.app.routes
        for method in route.methods - {"HEAD"}
        if route.path.strip("/") not in routes.FILES
    }
    assert described == served == {(way.method, way.path) for way in WAYS}
    assert found["openapi"].startswith("3.1") and found["info"]["version"]
    for path, methods in found["paths"].items():
        for told in methods.values():
            assert ("parameters" in told) == ("{" in path) and told["summary"].endswith(".")
            assert all(what["description"] for what in told["responses"].values())
            assert "403" in told["responses"] and ("401" in told["responses"]) == (told["security"] != [])


def test_a_picture_gets_an_answer_and_a_map(client):
    assert client.get("/classes").json() == {
        "artefact": "birds",
        "classes": {"crow": 3, "jay": 3, "wren": 3},
        "takes": ["PNG", "JPEG", "BMP"],
        "kind": "image",
        "statistics": "train",
        "unknown": True,
    }
    for form in ("PNG", "JPEG", "BMP"):
        reply = client.post("/predict", content=picture(form=form))
        assert reply.status_code == 200 and reply.json()["class"] in ("crow", "jay", "wren")
    found = client.post("/explain", content=picture()).json()
    assert np.shape(found["values"]) == (16, 16) and np.shape(found["item"]) == (1, 16, 16)


def test_the_nearest_examples_are_shown(client):
    first, *_ = client.post("/predict", content=picture(11)).json()["examples"]
    assert (first["example"], first["distance"]) == ("jay/1.png", pytest.approx(0, abs=1e-4))
    reply = client.get(f"/{first['picture']}")
    assert reply.headers["content-type"] == "image/png"
    item = np.array(client.post("/explain", content=picture(11)).json()["item"])
    shown = np.asarray(Image.open(io.BytesIO(reply.content)))
    np.testing.assert_allclose(shown / 255, item[0], atol=1e-6)
    for number in ("99", "-1", "x", "00"):
        assert client.get(f"/{first['picture'].rpartition('/')[0]}/{number}").status_code == 404
    client.delete("/classes/crow")
    reply = client.get(f"/{first['picture']}")
    assert reply.status_code == 404 and "the classes may have changed since" in reply.json()["error"]


@pytest.mark.parametrize(
    ("content", "status", "told"),
    [
        (b"", 422, "the file is empty"),
        (b"hello", 415, "the file is not one of PNG, JPEG, BMP"),
        (picture(form="GIF"), 415, "the file is not one of PNG, JPEG, BMP"),
        (b"RIFF\x00\x00\x00\x00WAVE", 415, "the file is not one of"),
        (picture()[:60], 422, "the file cannot be read as an image"),
        (b"\x89PNG\r\n\x1a\nnonsense", 422, "the file cannot be read as an image"),
        (bomb(), 413, "the file has far more than 25 million pixels"),
        (bomb(5000, 6000), 413, "the file has 5000x6000 pixels; at most 25 million are read"),
    ],
)
@pytest.mark.parametrize("path", ["/predict", "/explain", "/classes/owl"])
def test_what_is_no_picture_is_refused(client, birds, path, content, status, told):
    before = read_about(birds)
    reply = client.request("PUT" if "classes" in path else "POST", path, content=content)
    assert (reply.status_code, told in reply.json()["error"]) == (status, True), reply.text
    assert read_about(birds) == before


def test_a_body_is_limited_whatever_it_says_of_its_length(asking):
    client = asking(limits=Limits(body=1))
    parts = list[int]()

    def chunks() -> Iterator[bytes]:
        for number in range(1000):
            parts.append(number)
            yield bytes(100_000)

    for content in (bytes(2_000_000), chunks()):
        reply = client.post("/predict", content=content)
        assert (reply.status_code, reply.json()["error"]) == (413, "the request has more than 1 MB")


def test_a_class_is_added_and_removed(client, birds):
    before = {path.name: path.read_bytes() for path in birds.iterdir()}
    reply = client.put("/classes/owl", files=files(1, 2))
    assert reply.status_code == 201 and reply.json()["classes"] == {"crow": 3, "jay": 3, "owl": 2, "wren": 3}
    assert [one["name"] for one in read_about(birds)["examples"] if one["class"] == "owl"] == ["owl/1.png", "owl/2.png"]
    assert client.get("/classes").json()["classes"]["owl"] == 2
    reply = client.put("/classes/owl", files=files(3))
    assert (reply.status_code, reply.json()["error"][:44]) == (409, "the class owl exists, with 2 examples; remov")
    reply = client.delete("/classes/owl")
    assert reply.status_code == 200 and reply.json()["classes"] == {"crow": 3, "jay": 3, "wren": 3}
    assert {path.name: path.read_bytes() for path in birds.iterdir()} == before
    assert client.delete("/classes/owl").status_code == 404
    assert client.delete("/classes/jay").status_code == 200
    reply = client.delete("/classes/crow")
    assert reply.status_code == 409 and "without crow there would be a single class" in reply.json()["error"]


@pytest.mark.parametrize("name", ["../../etc/passwd", "a/b", "-x", "k=v", "café", "a" * 200])
def test_a_name_is_a_name_whatever_is_in_it(client, birds, name, tmp_path):
    path = f"/classes/{name.replace('/', '%2F')}"
    sent = [
        ("examples", (file, picture(seed))) for seed, file in enumerate(("../../../etc/x.png", "C:\\a b.exe", "..."))
    ]
    reply = client.put(path, files=[*sent, ("examples", ("x.png", picture(9)))])
    assert reply.status_code == 201 and reply.json()["classes"][name] == 4, reply.text
    own = [one["name"] for one in read_about(birds)["examples"] if one["class"] == name]
    assert [one.removeprefix(f"{name}/") for one in own] == ["3.png", "a-b.png", "x-4.png", "x.png"]
    assert {path.name for path in tmp_path.iterdir()} == {"birds"}
    assert client.delete(path).status_code == 200


@pytest.mark.parametrize("name", ["%00", "%20a", "a" * 201, ""])
def test_names_that_cannot_be_shown_are_refused(client, name):
    reply = client.put(f"/classes/{name}", content=picture())
    assert reply.status_code == 422 and "has from 1 to 200 printable letters" in reply.json()["error"]


@pytest.mark.parametrize("name", [b".", b"..", b"\xff\xfe"])
def test_names_that_no_client_could_ask_for_are_refused(client, name):
    async def receive() -> Any:
        return {"type": "http.request", "body": picture()}

    path = "/classes/" + name.decode(errors="replace")  # as the server of HTTP reads it
    start, body = asyncio.run(answered(client, receive, "PUT", path))
    assert start["status"] == 422 and b"is UTF-8, and neither . nor .." in body["body"]


def test_an_example_that_cannot_be_read_is_named(client):
    sent = [*files(1), ("examples", ("notes.png", b"no picture"))]
    reply = client.put("/classes/owl", files=sent)
    assert (reply.status_code, reply.json()["error"]) == (415, "notes.png: the file is not one of PNG, JPEG, BMP")


def test_changes_that_come_at_once_are_made_one_by_one(asking, birds):
    client, replies = asking(limits=Limits(classes=5)), list[int]()

    def add(k: int) -> None:
        replies.append(client.put(f"/classes/owl-{k}", files=files(k)).status_code)

    with client:  # one event loop for all requests
        adding = [threading.Thread(target=add, args=(k,)) for k in range(3)]
        for one in adding:
            one.start()
        for one in adding:
            one.join()
    assert sorted(replies) == [201, 201, 409]  # the third would be the sixth class
    assert len(read_about(birds)["classes"]) == 5


def test_classes_and_examples_are_limited(asking):
    client = asking(limits=Limits(classes=4, items=2))
    reply = client.put("/classes/owl", files=files(1, 2, 3))
    assert reply.status_code == 400 and "Maximum number of files is 2" in reply.json()["error"]
    reply = client.put("/classes/owl", files=files(1), data={"a": "b", "c": "d"})
    assert reply.status_code == 413 and "a class has from 1 to 2 examples, got 3" in reply.json()["error"]
    assert client.put("/classes/owl", files=files(1)).status_code == 201
    reply = client.put("/classes/tit", files=files(1))
    assert reply.status_code == 409 and "there are 4 classes; more than 4 are not taken" in reply.json()["error"]
    reply = client.put("/classes/tit", content=b"--x", headers={"content-type": "multipart/form-data; boundary=x"})
    assert reply.status_code in (400, 409)


def test_a_form_that_is_none_is_refused(client):
    for content in (b"", b"--x\r\n", b"no form"):
        headers = {"content-type": "multipart/form-data; boundary=x"}
        reply = client.put("/classes/owl", content=content, headers=headers)
        assert reply.status_code in (400, 422), reply.text
    assert client.put("/classes/owl", content=b"", headers={"content-type": "multipart/form-data"}).status_code == 400


def test_a_full_disk_leaves_the_old_version(client, birds, monkeypatch):
    before = {path.name: path.read_bytes() for path in birds.iterdir()}

    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(artefact, "write_bytes", full)
    reply = client.put("/classes/owl", files=files(1))
    assert (reply.status_code, reply.json()["error"]) == (
        507,
        "the artefact cannot be written: no space left on device",
    )
    assert {path.name: path.read_bytes() for path in birds.iterdir()} == before
    monkeypatch.setattr(Path, "write_bytes", full)
    reply = client.put("/classes/owl", files=files(1))
    assert (reply.status_code, reply.json()["error"]) == (
        507,
        "the server cannot write a file: no space left on device",
    )
    assert client.post("/predict", content=picture()).status_code == 200


@pytest.mark.slow
def test_two_servers_of_an_artefact_see_each_others_changes(asking, birds, monkeypatch):
    monkeypatch.setattr(artefact, "graph_of", exporting.graph_of)
    one, two = asking(), asking()
    assert one.put("/classes/owl", files=files(1)).status_code == 201
    assert "owl" in two.post("/predict", content=picture()).json()["probabilities"]
    with changing(birds):  # another process changes it
        reply = two.delete("/classes/owl")
    assert (
        reply.status_code == 503 and reply.headers["retry-after"] == "1" and "is being changed" in reply.json()["error"]
    )


def test_an_artefact_that_is_damaged_later_is_served_as_it_was(client, birds, caplog):
    (birds / "artefact.json").write_text("{}")
    assert client.post("/predict", content=picture()).status_code == 200
    assert client.post("/predict", content=picture()).status_code == 200
    (line,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert line.endswith("export it again; the version before is served")
    shutil.rmtree(birds)
    assert client.post("/predict", content=picture()).status_code == 200


def test_a_mistake_of_the_server_is_in_its_output_and_not_in_the_answer(client, monkeypatch, caplog):
    monkeypatch.setattr(routes, "answer", lambda served, x: 1 / 0)
    reply = client.post("/predict", content=picture())
    assert (reply.status_code, reply.json()) == (500, {"error": "the server has made a mistake; its output says why"})
    assert "ZeroDivisionError" in caplog.text


def test_a_token_is_asked_for_everywhere_but_where_there_is_nothing_to_see(asking):
    client = asking(token=TOKEN, host="example.org")
    for way in WAYS:
        path = way.path.replace("{name}", "jay")
        for given in (None, "", "Bearer", f"Bearer {TOKEN}x", TOKEN, "Bearer ümlaut".encode("latin-1")):
            reply = client.request(way.method, path, headers={} if given is None else {"authorization": given})
            assert reply.status_code == (200 if way.public else 401), (path, given)
            if reply.status_code == 401:
                assert reply.headers["www-authenticate"] == "Bearer" and "token is missing or wrong" in reply.text
    own = {"authorization": f"Bearer {TOKEN}"}
    assert client.post("/predict", content=picture(), headers=own).status_code == 200
    assert all(client.get(f"/{path}").status_code == 200 for path in routes.FILES)


def test_a_name_that_another_page_made_lead_here_is_refused(asking):
    for host in ("localhost:8000", "LocalHost", "localhost", "127.0.0.1:1", "127.0.0.9", "[::1]:8000", "[::1]"):
        assert asking().get("/classes", headers={"host": host}).status_code == 200
    for host in ("evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example:8000", ""):
        reply = asking().get("/classes", headers={"host": host})
        assert reply.status_code == 403 and "the server is not called" in reply.json()["error"]


def test_other_pages_may_ask_only_if_they_are_named(asking):
    origin = {"origin": "https://a.example", "access-control-request-method": "PUT"}
    assert client_options(asking(), origin).status_code == 405
    assert "access-control-allow-origin" not in asking().post("/predict", content=picture(), headers=origin).headers
    named = asking(origins=("https://a.example",))
    assert client_options(named, origin).headers["access-control-allow-origin"] == "https://a.example"
    assert client_options(named, {**origin, "origin": "https://b.example"}).status_code == 400
    assert named.post("/predict", content=picture(), headers=origin).headers["access-control-allow-origin"]


def client_options(client: TestClient, headers: dict[str, str]) -> Any:
    return client.options("/classes/owl", headers=headers)


def test_no_more_requests_than_the_queue_holds(asking, monkeypatch):
    client, begun, end = asking(limits=Limits(queue=1)), threading.Event(), threading.Event()

    def slow(served: Any, x: Any) -> dict[str, Any]:
        begun.set()
        assert end.wait(10)
        return {}

    monkeypatch.setattr(routes, "answer", slow)
    with client:  # one event loop for both requests
        first = threading.Thread(target=lambda: client.post("/predict", content=picture()))
        first.start()
        assert begun.wait(10)
        reply = client.post("/predict", content=picture())
        assert reply.status_code == 503 and "too many requests" in reply.json()["error"]
        assert client.get("/healthz").json() == {"status": "ok"}  # whatever waits
        end.set()
        first.join()
    assert client.post("/predict", content=picture()).status_code == 200


def test_a_request_that_does_not_come_is_given_up(client, monkeypatch):
    monkeypatch.setattr(routes, "BODY", 0.1)

    async def receive() -> Any:
        await asyncio.sleep(10)

    start, body = asyncio.run(answered(client, receive))
    assert start["status"] == 408 and b"was not there after 0.1 seconds" in body["body"]


def test_a_client_that_goes_is_no_mistake_of_the_server(client, caplog):
    async def receive() -> Any:
        return {"type": "http.disconnect"}

    start, _ = asyncio.run(answered(client, receive))
    assert start["status"] == 400 and not [r for r in caplog.records if r.levelno >= logging.INFO]


async def answered(
    client: TestClient, receive: Callable[[], Any], method: str = "POST", path: str = "/predict"
) -> list[Any]:
    """Return what is sent to a client of whom this is received."""
    sent = list[Any]()

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"host", b"localhost")]
    scope = {"type": "http", "method": method, "path": path, "headers": headers, "query_string": b""}
    await client.app(scope, receive, send)
    return sent


def test_requests_are_counted(client):
    client.post("/predict", content=picture())
    client.post("/predict", content=b"no picture")
    client.get("/nowhere")
    text = client.get("/metrics").text
    assert 'mlx_requests_total{route="/predict",method="POST",status="200"} 1\n' in text
    assert 'mlx_requests_total{route="/predict",method="POST",status="415"} 1\n' in text
    assert 'mlx_requests_total{route="other",method="",status="404"} 1\n' in text
    assert 'mlx_request_seconds_count{route="/predict"} 2\n' in text and "mlx_classes 3\n" in text
    for line in text.splitlines():
        assert re.fullmatch(r'# (HELP|TYPE) \w+ .+|\w+(\{\w+="[^"]*"(,\w+="[^"]*")*\})? [\d.]+', line), line


def test_every_answer_has_the_headers_of_a_strict_page(client):
    for reply in (client.get("/"), client.get("/page.js"), client.get("/nowhere"), client.post("/predict")):
        assert reply.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self';")
        assert "unsafe" not in reply.headers["content-security-policy"]
        assert reply.headers["x-content-type-options"] == "nosniff"
    page = client.get("/").text
    assert "style=" not in page and "<style" not in page and " on" not in re.sub(r">[^<]*<", "><", page)
    assert re.findall(r"<script[^>]*>[^<]", page) == [] and "//" not in page
    assert client.get("/page.css").headers["content-type"].startswith("text/css")


def test_wrong_methods_and_paths_are_told(client):
    for method, path, status in (("GET", "/predict", 405), ("POST", "/classes/owl", 405), ("GET", "/page.py", 404)):
        reply = client.request(method, path)
        assert reply.status_code == status and reply.json()["error"]
    assert client.get("/..%2Froutes.py").status_code == 404
    assert Image.open(io.BytesIO(picture())).format == "PNG"
