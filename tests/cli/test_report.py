"""`mlx report`: the page, the tables, and that untrusted runs can do no harm."""

import base64
import csv
import hashlib
import html
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image
from unit.studies.evaluations import DATA, STARTED, evaluation, training, write

from metalearn_cli.cli.drawing import scale
from metalearn_cli.records import sweeps
from metalearn_cli.records.embedding import Embedding, write_embedding

EVIL = "<script>alert(1)</script>\"'&</style><img src=x onerror=alert(2)>"
SCORES = [0.1, 0.5, 0.9, 0.4]
VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """The elements of a page, with their attributes; fails where elements do not close in order."""

    def __init__(self, text):
        super().__init__()
        self.found, self.open, self.texts = [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


@pytest.fixture
def runs(tmp_path):
    """Write trainings with curves, pictures and evaluations, one of them unfinished, and a chain."""
    folder = tmp_path / "runs"
    for index, name in enumerate(("protonet.ProtoNet", "anil.Anil", "maml.Maml")):
        config = {
            "algorithm": {"_target_": f"metalearn_cli.algorithms.{name}"},
            "optimizer": {"_target_": "torch.optim.Adam", "lr": 10.0**-index},
        }
        run = training(folder, f"t{index}", index, **config)
        metric = {"name": "val/accuracy", "value": 0.5 + index / 10, "interval": 0.1, "step": 5}
        changes = {"status": "died", "steps": 9, "step": 4} if index == 2 else {"metric": metric, "steps": 5}
        changes["started_at"] = f"2026-01-01T00:0{index}:00+00:00"
        path = Path(run["folder"])
        (path / "run.json").write_text(json.dumps({**json.loads((path / "run.json").read_text()), **changes}))
        lines = [{"step": step, "train/loss": 1 / step, "val/accuracy": 0.1 * step} for step in (1, 3, 5)]
        (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        (path / "plots").mkdir()
        Image.effect_noise((900, 300), 50).save(path / "plots" / "episode.png")
    evaluation(folder, "e0", SCORES, parent="t0", fact={"worst_decile": 0.1, "hardest": [_hard("class a")]})
    rows = [
        {"after": "nothing", "value": 0.4, "interval": 0.1},
        {
            "after": "meta-train",
            "value": 0.6,
            "interval": 0.1,
            "gain": 0.2,
            "gain_interval": 0.05,
        },
    ]
    facts = {"name": "test/accuracy", "learner": "protonet", "normalisation": "none"}
    table = [{**facts, "over": {"episodes": 4, "trainings": 1}, **row} for row in rows]
    info = {"id": "chain", "stage": "run", "status": "completed", "started_at": STARTED, "data": DATA, "table": table}
    info["evaluations"] = [{"after": "meta-train", "learner": "protonet", "runs": ["e0"]}]
    info["typed"] = ["data=glyphs", "stages=[meta-train]", "algorithm.name=it's; rm"]
    write(folder / "run" / "chain", info, {"training": {}, "seeds": 1})
    return folder


def _hard(name):
    return {"name": name, "value": 0.1, "interval": 0.1, "episodes": 3, "queries": 9}


def report(mlx, *words):
    answer = mlx("report", *words, "--out", "page.html")
    assert answer.code == 0, answer.err
    return Path("page.html").read_text()


@pytest.mark.medium
def test_the_page_of_trainings(mlx, runs):
    text = report(mlx, "stage=meta-train")
    page = Page(text)
    told = " ".join(page.texts)
    assert "t2 is not finished: died, step 4 of 9" in told
    for part in (
        "protonet",
        "50.0 +- 10.0 %",
        "Settings and results",
        "optimizer.lr",
        "meta-train: train/loss",
        "class a",
    ):
        assert part in told
    assert "_target_" not in told
    assert any(text.startswith("mlx meta-train algorithm=anil ") for text in page.texts)
    assert [tag for tag, _ in page.found].count("polyline") == 2 + 2 * 3  # settings of the finished, two curves of each
    pictures = [attributes["src"] for tag, attributes in page.found if tag == "img"]
    assert len(pictures) == 3 and all(source.startswith("data:image/png;base64,") for source in pictures)
    assert "mlx meta-train" in told


def test_the_page_of_a_chain(mlx, runs):
    told = " ".join(Page(report(mlx, "chain")).texts)
    assert "Gains of the stages, run chain" in told
    assert "+20.0 +- 5.0" in told and "helps" in told
    assert '''mlx run data=glyphs 'stages=[meta-train]' "algorithm.name=it's; rm"''' in told
    assert "evaluate" in told and "t0" in told


@pytest.mark.medium
def test_the_policy_allows_what_the_page_has_and_nothing_else(mlx, runs):
    text = report(mlx, "stage=meta-train", "chain")
    policy = next(a["content"] for tag, a in Page(text).found if a.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules.pop("default-src") == "'none'" and rules.pop("img-src") == "data:"
    for name in ("style", "script"):
        (inside,) = re.findall(f"<{name}>(.*?)</{name}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert rules.pop(f"{name}-src") == f"'sha256-{digest}'"
    assert rules == {"base-uri": "'none'", "form-action": "'none'"}
    assert not re.search(r"https?:|url\(|@import", re.sub(r"base64,[\w+/=]+", "", text))


def test_text_of_strangers_is_shown_as_it_is(mlx, runs):
    path = runs / "evaluate" / "e0" / "run.json"
    info = json.loads(path.read_text())
    info["results"][0] |= {"learner": EVIL, "name": f"test/{EVIL}", "normalisation": EVIL, "hardest": [_hard(EVIL)]}
    info |= {"status": EVIL, "error": EVIL, "metric": info["results"][0]}
    path.write_text(json.dumps(info))
    path = runs / "meta-train" / "t0"
    info = json.loads((path / "run.json").read_text()) | {"status": EVIL, "error": EVIL, "best": "step-1"}
    (path / "run.json").write_text(json.dumps({**info, "data": {"name": EVIL, "fingerprint": EVIL}}))
    (path / "config.json").write_text(
        json.dumps({EVIL: EVIL, "algorithm": {"_target_": EVIL, EVIL: EVIL + "\ud800\x00"}})
    )
    (path / "metrics.jsonl").write_text(json.dumps({"step": 1, EVIL: 1}) + "\n")
    (path / "checkpoints" / "step-1").mkdir(parents=True)
    (path / "checkpoints" / "step-1" / "manifest.json").write_text(json.dumps({"versions": {EVIL: EVIL}}))
    (path / "plots" / f"{EVIL.replace('/', '')}.png").write_bytes((path / "plots" / "episode.png").read_bytes())
    text = report(mlx, "stage=meta-train", "chain", "e0")
    page = Page(text)
    allowed = {
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "header",
        "section",
        "h1",
        "h2",
        "h3",
        "p",
        "div",
        "span",
    }
    allowed |= {"table", "tr", "th", "td", "figure", "figcaption", "img", "details", "summary", "pre", "script"}
    allowed |= {"svg", "line", "circle", "rect", "path", "polyline", "text"}
    assert {tag for tag, _ in page.found} <= allowed
    assert [tag for tag, _ in page.found].count("script") == 1
    assert not [name for _, attributes in page.found for name in attributes if name.startswith("on") or name == "style"]
    assert html.escape(EVIL) in text


def test_a_damaged_picture_and_a_lost_file_get_a_line(mlx, runs):
    (runs / "meta-train" / "t0" / "plots" / "episode.png").write_text("no picture")
    (runs / "meta-train" / "t1" / "config.json").unlink()
    told = " ".join(Page(report(mlx, "t0", "t1")).texts)
    assert "episode.png cannot be read" in told
    assert "config.json is missing" in told


def test_maps_of_features(mlx, runs):
    """A map that two evaluations share is drawn once; a damaged one gets a line."""
    found = Embedding((0.5, 0.25), [("a & b", 0, 1), ("a & b", 1, 2), ("c", 3, -1)])
    evaluation(runs, "e1", SCORES, parent="t0")
    for name in ("e0", "e1"):
        write_embedding(found, runs / "evaluate" / name)
    text = report(mlx, "t0")
    page = Page(text)
    assert [tag for tag, attributes in page.found if attributes.get("aria-label") == "map of features"] == ["svg"]
    assert "first component, 50 % of the variance; upwards the second, 25 %" in page.texts
    assert {"e0, e1", "e1, e0"} & set(page.texts)
    (runs / "evaluate" / "e1" / "embedding.csv").write_text("class,one,two\na,nan,1\n")
    assert "embedding.csv is damaged; evaluate again to write it anew" in " ".join(Page(report(mlx, "t0")).texts)


def test_results_over_each_setting(mlx, runs):
    told = " ".join(Page(report(mlx, "stage=meta-train")).texts)
    assert "val/accuracy over optimizer.lr" in told and "val/accuracy over algorithm" in told


def test_numbers_do_not_cover_each_other():
    rates = [0.002, 0.0021, 0.01, 0.08]
    places, marks = scale(rates, 430, 92, apart=80)
    assert [value for value, _ in marks] == [0.002, 0.01, 0.08]
    assert places[2] - places[1] > 100  # by orders of magnitude
    assert scale([3, 3], 430, 92, apart=80)[1] == [(3, 92.0)]


def test_the_page_of_a_search(mlx, runs):
    for name in ("t0", "t1", "t2"):
        path = runs / "meta-train" / name / "run.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "sweep": "ab12"}))
    (runs / "sweeps" / "ab12").mkdir(parents=True)
    sweeps.write(runs / "sweeps" / "ab12", {"command": "mlx -m meta-train optimizer.lr=<b>"}, [])
    told = Page(report(mlx, "sweep=ab12")).texts
    assert "3 runs of sweep ab12" in told and "mlx -m meta-train optimizer.lr=<b>" in told


def test_the_formats(mlx, runs):
    answer = mlx("report", "stage=meta-train", "--format", "csv")
    rows = list(csv.DictReader(answer.out.splitlines()))
    names = answer.out.splitlines()[0].split(",")
    assert len(set(names)) == len(names)
    assert [(row["run"], row["algorithm"], row["value"]) for row in rows[:2]] == [
        ("t0", "protonet", "0.5"),
        ("t1", "anil", "0.6"),
    ]
    assert rows[2]["status"] == "died"
    answer = mlx("report", "chain", "--format", "md")
    assert "| meta-train | protonet | none | 60.0 +- 10.0 % | +20.0 +- 5.0 | helps |" in answer.out
    record = json.loads(mlx("report", "chain", "--format", "json").out)
    assert [run["id"] for run in record["runs"]] == ["chain"]
    assert not Path("report.html").exists()
    assert mlx("report", "chain", "--format", "md", "--out", "chain.md").out.startswith("chain.md: 1 run, ")
    assert Path("chain.md").read_text() == answer.out


def test_markdown_tells_what_was_selected_and_how_episodes_were_drawn(mlx, runs):
    path = runs / "run" / "chain" / "run.json"
    info = json.loads(path.read_text())
    info["table"][1] |= {"selected": [{"algorithm.inner_steps": 3}], "drawn": "within one group"}
    path.write_text(json.dumps(info))
    told = mlx("report", "chain", "--format", "md").out
    row = "| meta-train | protonet | none, within one group | 60.0 +- 10.0 % | inner\\_steps=3 | +20.0 +- 5.0 | helps |"
    assert row in told and "| result | selected | gain |" in told
    (line,) = csv.DictReader(mlx("report", "chain", "--format", "csv").out.splitlines())
    assert line["selected"] == "inner_steps=3"


def test_a_device_stays_what_it_is(mlx, runs):
    assert "cannot be written: No space left on device" in mlx("report", "t0", "--out", "/dev/full").err
    assert Path("/dev/full").is_char_device()


def test_calibration_is_reported(mlx, runs):
    file = runs / "evaluate" / "e0" / "run.json"
    info = json.loads(file.read_text())
    part = {"ece": 0.1, "nll": None}
    info["results"][0]["calibration"] = {"temperature": 2.5, "episodes": 9, "before": part, "after": part}
    file.write_text(json.dumps(info))
    told = "with temperature 2.5, fitted on 9 validation episodes: ECE 10.0 %, negative log-likelihood nan."
    assert told in mlx("report", "e0", "--format", "md").out
    assert told in " ".join(Page(report(mlx, "e0")).texts)


def test_the_choice_of_settings_is_reported(mlx, runs):
    file = runs / "evaluate" / "e0" / "run.json"
    info = json.loads(file.read_text())
    score = {**info["results"][0], "name": "val/accuracy", "value": 0.25, "interval": 0.125, "interval_classes": None}
    other = {**score, "value": None, "interval": None, "values": {"algorithm.lr": "<b>"}, "chosen": False}
    info["selected"] = [{**score, "values": {"algorithm.lr": 0.5}, "chosen": True}, other]
    file.write_text(json.dumps(info))
    text = mlx("report", "e0", "--format", "md").out
    (line,) = csv.DictReader(mlx("report", "e0", "--format", "csv").out.splitlines())
    assert line["selected"] == "lr=0.5"
    assert "Settings chosen on validation episodes, run e0:\n\n| algorithm.lr | val/accuracy |  |" in text
    rows = ["| 0.5 | 25.0 +- 12.5 (-) % | chosen |", "| \\<b> | nan |  |"]
    assert "\n".join(rows) in text
    cells = [text for text in Page(report(mlx, "t0")).texts if text in ("0.5", "25.0 +- 12.5 (-) %", "chosen", "<b>")]
    assert cells == ["0.5", "25.0 +- 12.5 (-) %", "chosen", "<b>"]


def test_tables_hold_text_of_strangers(mlx, runs):
    path = runs / "evaluate" / "e0" / "run.json"
    info = json.loads(path.read_text())
    info["results"][0] |= {"learner": "=1+1|<b>\n# x"}
    path.write_text(json.dumps(info))
    (row,) = csv.DictReader(mlx("report", "e0", "--format", "csv").out.splitlines(keepends=True))
    assert row["learner"].startswith("'=1+1")
    assert "=1+1\\|\\<b> # x" in mlx("report", "e0", "--format", "md").out


def test_where_the_page_is_written(mlx, runs):
    answer = mlx("report", "t0")
    assert answer.out.startswith("report.html: 1 run, ")
    told = json.loads(mlx("report", "stage=meta-train", "--json").out)
    assert told["unfinished"] == ["t2"] and told["bytes"] == len(Path("report.html").read_bytes())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "mlx report needs one more argument: mlx report RUN"),
        (["t9"], "there is no run 't9' in runs"),
        (["sweep=none"], "no runs in runs match sweep=none"),
        (["t0", "--format", "pdf"], "--format must be one of html, md, json, csv, got 'pdf'"),
        (["t0", "--out", "runs"], "--out runs: is a folder; type: --out runs/report.html"),
        (["t0", "--out", "none/page.html"], "--out none/page.html: cannot be written: No such file or directory"),
    ],
)
def test_what_is_refused(mlx, runs, words, told):
    answer = mlx("report", *words)
    assert (answer.code, answer.out) == (2, "")
    assert told in answer.err


def test_a_chain_records_what_was_typed(mlx, stage):
    found = json.loads(mlx("run", "data=gaussian", "backbone=mlp", "way=2", "--json").out)
    assert found["typed"] == ["data=gaussian", "backbone=mlp", "way=2"]


def test_in_a_browser(mlx, runs):
    """Neither an error nor a request, nothing wider than a phone, and one run can be singled out."""
    sync = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    program = shutil.which("chromium-headless-shell") or shutil.which("chromium")
    if program is None:
        pytest.skip("needs chromium")
    report(mlx, "stage=meta-train", "chain")
    with sync.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        for width in (1280, 400):
            page, said, asked = browser.new_page(viewport={"width": width, "height": 900}), [], []
            page.on("console", lambda message, said=said: said.append(message.text))
            page.on("pageerror", lambda error, said=said: said.append(str(error)))
            page.on("request", lambda request, asked=asked: asked.append(request.url))
            page.goto(Path("page.html").absolute().as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert page.evaluate("getComputedStyle(document.querySelector('.curve')).stroke") != "none"
            page.locator("tr[data-run=t0]").first.click()
            assert page.locator("polyline.dim[data-run=t1]").count() > 0
            assert page.locator("polyline.dim[data-run=t0]").count() == 0
            assert said == []
            assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
        browser.close()
