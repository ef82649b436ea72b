"""The page of `mlx serve` in a browser: `make test-browser`, which installs one where it can."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from exports import changed_here, exported, write

from metalearn_cli.deploy import routes, server
from metalearn_cli.deploy.bodies import Limits
from metalearn_cli.deploy.server import Settings, State

pytestmark = pytest.mark.browser
TOKEN = "a-token-of-24-characters"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync = pytest.importorskip("playwright.sync_api", reason="needs Playwright: make test-browser")
    path = os.environ.get("MLX_BROWSER") or shutil.which("chromium") or shutil.which("chromium-headless-shell")
    if path is None:
        pytest.skip("needs chromium on PATH, or its path in MLX_BROWSER: make test-browser")
    with sync.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"] * (os.geteuid() == 0))
        yield started
        started.close()


@pytest.fixture(scope="module")
def original(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported("images", tmp_path_factory.mktemp("page"))


@pytest.fixture
def address(
    original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., str]]:
    """Return a function from a token to the address of a server on a free port."""
    uvicorn = pytest.importorskip("uvicorn", reason="needs the extra serve")
    shutil.copytree(original, tmp_path / "birds")

    monkeypatch.setattr(routes, "change", changed_here(capsys))
    running = list[Any]()

    def start(token: str = "") -> str:
        state = State(Settings(tmp_path / "birds", token, (), Limits()))
        listener, url = server.listening("127.0.0.1", 0)
        one = uvicorn.Server(uvicorn.Config(routes.application(state), log_config=None, lifespan="off", http="h11"))
        thread = threading.Thread(target=one.run, kwargs={"sockets": [listener]})
        thread.start()
        running.append((one, thread, state, listener))
        return url

    yield start
    for one, thread, state, listener in running:
        one.should_exit = True
        thread.join()
        state.stop()
        listener.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """Return a page that fails if it has said something on the console, or has asked another server."""
    opened, said, asked = browser.new_page(viewport={"width": 1280, "height": 900}), list[str](), set[str]()
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("request", lambda request: asked.add(request.url.removeprefix("blob:").split("/")[2].split(":")[0]))
    opened.on("dialog", lambda dialog: dialog.accept())
    yield opened
    opened.close()
    refused = "the server responded with a status of 4"  # the browser tells of them by itself
    assert [line for line in said if refused not in line] == [] and asked == {"127.0.0.1"}


@pytest.fixture
def expect() -> Any:
    return pytest.importorskip("playwright.sync_api").expect


def files(folder: Path, *seeds: int) -> list[str]:
    return [str(write("images", folder / f"{seed}.png", seed)) for seed in seeds]


def drop(page: Any, selector: str, path: str) -> None:
    """Drop a file, as from a file manager."""
    content = [*Path(path).read_bytes()]
    held = page.evaluate_handle(
        """([content, name]) => {
            const held = new DataTransfer();
            held.items.add(new File([new Uint8Array(content)], name, { type: "image/png" }));
            return held;
        }""",
        [content, Path(path).name],
    )
    page.dispatch_event(selector, "drop", {"dataTransfer": held})


def test_classes_are_added_and_files_classified(page: Any, expect: Any, address: Callable, tmp_path: Path) -> None:
    page.goto(address())
    expect(page.locator("#classes li")).to_have_count(3)
    for k, name in enumerate(("owl", "tit/2", "<b>&")):
        page.fill("#class", name)
        page.set_input_files("#examples", files(tmp_path, 10 * k + 51, 10 * k + 52))
        expect(page.locator("#chosen img")).to_have_count(2)
        page.press("#class", "Enter")  # by the keyboard
        expect(page.locator("#status")).to_have_text(f"{name} is learnt", timeout=60_000)
    expect(page.locator("#classes li")).to_have_count(6)
    page.set_input_files("#queries", files(tmp_path, 51, 62))
    expect(page.locator("#answers canvas")).to_have_count(2)
    drop(page, "#ask .drop", files(tmp_path, 72)[0])
    expect(page.locator("#answers canvas")).to_have_count(3)
    titles = page.locator("#answers h3").all_inner_texts()
    assert [title.partition(", ")[0] for title in titles] == ["<b>&", "tit/2", "owl"]  # each an example of its class
    expect(page.locator("#status")).to_contain_text("72.png: <b>&, probability ")
    expect(page.locator("#answers > li").first).to_contain_text("<b>&/72.png")  # the nearest example
    expect(page.locator("#answers > li").first.get_by_role("img", name="example of <b>&").first).to_be_visible()
    expect(page.locator(".nearest img")).to_have_count(9)
    for image in page.locator(".nearest img").all():
        expect(image).to_have_js_property("naturalWidth", 16)
    canvas = page.locator("canvas").first
    colours = canvas.evaluate("c => new Set(c.getContext('2d').getImageData(0, 0, c.width, c.height).data).size")
    assert colours > 20 and "Map of what speaks for <b>&" in canvas.get_attribute("aria-label")
    ratio = "c => { c.width = 3 * c.height; const box = c.getBoundingClientRect(); return box.width / box.height; }"
    assert canvas.evaluate(ratio) == pytest.approx(3, rel=0.05)  # of a recording: no bars above and below
    bar = "b => b.parentElement.clientWidth / b.closest('table').clientWidth"
    assert page.locator(".bar").first.evaluate(bar) > 0.7  # 100 % is nearly the whole width
    for width in (1280, 400):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") == width
    page.get_by_role("button", name="Remove the class tit/2").click()
    expect(page.locator("#status")).to_have_text("tit/2 is removed", timeout=60_000)
    expect(page.locator("#classes li")).to_have_count(5)


def test_what_fails_is_said_and_can_be_tried_again(page: Any, expect: Any, address: Callable, tmp_path: Path) -> None:
    page.goto(address())
    page.fill("#class", "owl")
    page.press("#class", "Enter")
    expect(page.get_by_role("alert")).to_have_text("give some examples of owl")
    (tmp_path / "no.png").write_text("no picture")
    page.set_input_files("#queries", str(tmp_path / "no.png"))
    refused = "no.png: the file is not one of PNG, JPEG, BMP"
    expect(page.get_by_role("alert")).to_have_text(refused)
    page.set_input_files("#queries", files(tmp_path, 7))
    expect(page.get_by_role("alert")).to_have_text("")
    expect(page.locator("#answers > li")).to_have_count(1)
    page.set_input_files("#queries", [str(tmp_path / "no.png"), *files(tmp_path, 8, 9)])
    expect(page.get_by_role("alert")).to_have_text(refused)
    expect(page.locator("#answers > li")).to_have_count(3)


def test_every_control_has_a_name_and_is_reached_by_the_keyboard(page: Any, expect: Any, address: Callable) -> None:
    page.goto(address())
    expect(page.locator("#classes li")).to_have_count(3)
    reached = list[str]()
    for _ in range(8):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.getAttribute('aria-label')"))
    removes = [f"Remove the class {name}" for name in ("crow", "jay", "wren")]
    assert reached[:6] == ["queries", *removes, "class", "examples"]
    assert page.evaluate("document.activeElement.tagName") in ("BUTTON", "BODY")
    for role, name in (("textbox", "Its name"), ("button", "Add"), ("heading", "Classes"), ("button", removes[0])):
        expect(page.get_by_role(role, name=name, exact=True)).to_be_visible()
    for label in ("Drop files here, or choose them", "Drop examples here, or choose them"):
        expect(page.get_by_label(label)).to_be_visible()


def test_the_token_is_asked_for(page: Any, expect: Any, address: Callable) -> None:
    page.goto(address(TOKEN))
    expect(page.locator("#token")).to_be_focused()
    expect(page.get_by_role("alert")).to_have_text("")
    page.fill("#token", "another-of-24-characters")
    page.press("#token", "Enter")
    expect(page.get_by_role("alert")).to_have_text("the token is wrong")
    page.fill("#token", TOKEN)
    page.press("#token", "Enter")
    expect(page.locator("#classes li")).to_have_count(3)
    expect(page.locator("#login")).to_be_hidden()
    assert TOKEN not in page.url
