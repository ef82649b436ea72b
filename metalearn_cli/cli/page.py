"""The page of `mlx report`: one HTML file with its own style, script and pictures, which loads nothing.

Text of runs may be untrusted: what is not `Html` is escaped, and the page's policy allows only the style and the
script of its template, and no requests.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from metalearn_cli.cli.drawing import (
    LEFT,
    RIGHT,
    Html,
    across,
    axes,
    drawing,
    escaped,
    interval_bar,
    marker,
    panel,
    scale,
    short,
    shown_value,
    tag,
    words,
)
from metalearn_cli.cli.phrases import (
    calibrations,
    duration,
    hardest,
    measured,
    over,
    verdict,
    with_intervals,
    with_unit,
)
from metalearn_cli.core.errors import UserError
from metalearn_cli.core.metric import metric_named
from metalearn_cli.core.stages import TABLE
from metalearn_cli.records.pictures import small

Record = Mapping[str, Any]

PICTURES = 24
"""Most pictures of a page."""
_OF_A_RUN = 4  # most pictures of a run
_WIDTH, _COLOURS = 800, 48  # of a picture
_AXES = 7  # most settings of the picture of settings
_KEYS = 12  # most curves that a panel names
_EMBEDDING = (
    "Each mark is an item, each colour and shape a class. Items side by side have similar features, "
    "as far as two principal components show it."
)
_GAINS = (
    "A gain is the difference to the row above, episode by episode. "
    "A stage helps or hurts if all intervals of its gain exclude 0."
)


def page(record: Record, made: str) -> str:
    """Return the page of a record of runs.

    Args:
        record: see `studies.report.gathered`.
        made: when and by what version, for the end of the page.
    """
    return _framed(_title(record), _Page(record).sections(made))


def map_page(title: str, told: str, points: Sequence[Point], axis: str) -> str:
    """Return the page of a map of items.

    Args:
        title: of the page.
        told: what is shown.
        points: the items.
        axis: what is shown across and upwards.
    """
    figure = tag("figure", _map(points, axis))
    return _framed(escaped(title), [tag("h1", title), tag("p", told, class_="faint"), figure])


def _framed(title: str, sections: Iterable[Html]) -> str:
    """Return a page with its style and script, whose policy allows nothing else."""
    template = (Path(__file__).parent / "page.html").read_text()
    style, script = (re.search(f"<{name}>(.*?)</{name}>", template, re.DOTALL) for name in ("style", "script"))
    assert style and script
    hashes = [base64.b64encode(hashlib.sha256(own[1].encode()).digest()).decode() for own in (style, script)]
    policy = (
        f"default-src 'none'; style-src 'sha256-{hashes[0]}'; script-src 'sha256-{hashes[1]}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    head, tail = template.split("@@BODY@@")
    head = head.replace("@@POLICY@@", policy).replace("@@TITLE@@", title)
    return head + "\n".join(sections) + tail


def _title(record: Record) -> str:
    number = len(record["runs"])
    only = record["runs"][0]
    of_sweep = f" of sweep {record['sweep']['id']}" if record["sweep"] else ""
    return escaped(f"{only['stage']} {only['id']}" if number == 1 else f"{number} runs{of_sweep}") + " - mlx report"


class Point(NamedTuple):
    """An item of a map.

    Attributes:
        title: what is shown of it when it is pointed at.
        name: of its class.
        x: its place across.
        y: its place upwards.
        new: whether it is no example of the class.
    """

    title: str
    name: str
    x: float
    y: float
    new: bool = False


class _Page:
    """The sections of a page; colours tell the runs of a stage apart."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.runs: Sequence[Record] = record["runs"]
        self.both = (record["runs"], record["others"])
        self.every: list[Record] = [*record["runs"], *record["others"]]
        self.colours: dict[str, str] = {}
        counts: dict[str, int] = {}
        for run in self.every:
            index = counts[run["stage"]] = counts.get(run["stage"], -1) + 1
            self.colours[run["id"]] = f"c{index % 8} d{index // 8 % 3}"

    def sections(self, made: str) -> list[Html]:
        """Return all sections that have something to show."""
        parts = [self.head(), self.results(), self.selections(), self.settings()]
        parts += [self.gains(run) for run in self.runs if run["table"]]
        parts += [self.curves(), self.embeddings(), self.pictures(), self.lineage(), self.again()]
        return [*filter(None, parts), tag("p", made, class_="faint")]

    def head(self) -> Html:
        """Return the title, and what is unfinished or could not be read."""
        heading = _title(self.record).removesuffix(" - mlx report")
        parts = [tag("h1", Html(heading))]
        named = {run["id"]: run for run in self.every}
        for name in self.record["unfinished"]:
            run = named[name]
            steps = f", step {run['step'] or 0} of {run['steps']}" if run["steps"] else ""
            why = f": {run['error']}" if run["error"] else ""
            parts.append(tag("p", f"{run['stage']} {name} is not finished: {run['status']}{steps}{why}", class_="warn"))
        parts += [tag("p", problem, class_="warn") for problem in self.record["problems"]]
        return tag("header", parts)

    def results(self) -> Html:
        """Return the scores of the named runs, and of evaluations that belong to them, with intervals as bars."""
        of_chains = self.runs[0]["stage"] == "run"  # their evaluations are rows of their own tables
        scoring = [run for run in self.record["others"] if run["stage"] == "evaluate" and not of_chains]
        parts = [self.scores(self.runs, self.record["varying"][:_AXES])]
        parts += [tag("h3", "Evaluations of them"), self.scores(scoring, ["parent"])] if scoring else []
        shown = [*self.runs, *scoring]
        lines = dict.fromkeys(over(result) for run in shown for result in run["results"] if result.get("over"))
        parts += [tag("p", line, class_="faint") for line in lines]
        worst = [run for run in shown if run["results"] and run["results"][0].get("hardest")]
        worst = [run for run in worst if all("worst_decile" in result for result in run["results"])]
        told = [tag("p", f"{run['id']}: {hardest(run['results'])}.", class_="faint") for run in worst]
        parts += [
            tag("p", f"{run['id']}: {sentence}", class_="faint")
            for run in shown
            for sentence in calibrations(run["results"])
        ]
        return _section("Results", [*parts, *([_folded("The hardest episodes and classes", told)] if told else [])])

    def scores(self, found: Sequence[Record], keys: Sequence[str]) -> Html:
        """Return a table of runs, a row for each score; `keys` are settings, or facts of a run."""
        scored = [(run, result) for run in found for result in run["results"] or [{}]]
        scales = _scales([result for _, result in scored if result])
        learners = ["learner"] * any(_learner(result) for _, result in scored)
        rows = []
        for run, result in scored:
            bar = interval_bar(result["value"], result.get("interval"), *scales[result["name"]]) if result else ""
            unfinished = "" if run["status"] == "completed" else f"{run['status']} "
            cells = [
                tag("td", self.swatch(run), run["id"], class_="id"),
                tag("td", unfinished, with_unit(result) if result else "", class_="n"),
                tag("td", bar),
                tag("td", str(result.get("name") or "")),
                *(tag("td", _learner(result)) for _ in learners),
                *(tag("td", shown_value(run["settings"].get(key, run.get(key)))) for key in keys),
            ]
            rows.append(tag("tr", cells, data_run=run["id"]))
        heads = ["run", "result", "", "metric", *learners, *("of" if key == "parent" else key for key in keys)]
        return tag("div", tag("table", tag("tr", [tag("th", head) for head in heads]), rows), class_="wide")

    def selections(self) -> Html:
        """Return the tables of evaluations that chose settings: the score of each candidate on validation episodes."""
        parts: list[Html] = []
        for run in (run for run in self.every if run["selected"]):
            found = run["selected"]
            ends = _scales(found)[found[0]["name"]]
            lines = []
            for row in found:
                cells = [*(tag("td", shown_value(value)) for value in row["values"].values())]
                cells += [
                    tag("td", with_unit(row), class_="n"),
                    tag("td", interval_bar(row["value"], row.get("interval"), *ends)),
                ]
                lines.append(tag("tr", cells, tag("td", "chosen" if row["chosen"] else "")))
            heads = tag("tr", [tag("th", head) for head in (*found[0]["values"], found[0]["name"], "", "")])
            label = f"{run['id']}: {_learner(found[0])}"
            parts += [tag("h3", label), tag("div", tag("table", heads, lines), class_="wide")]
            parts.append(tag("p", over(found[0]), class_="faint"))
        return _section("Settings chosen on validation episodes", parts) if parts else Html()

    def swatch(self, run: Record) -> Html:
        """Return a piece of the run's colour."""
        line = tag("line", x1=0, x2=18, y1=4, y2=4, class_=f"curve {self.colours[run['id']]}")
        return tag("svg", line, class_="swatch", viewBox="0 0 18 8", aria_hidden="true")

    def settings(self) -> Html:
        """Return parallel coordinates: a line for each run, through its settings and its result."""
        name = _metric(self.runs)
        done = [run for run in self.runs if run["metric"] and run["metric"]["name"] == name]
        done = [run for run in done if run["metric"]["value"] is not None]
        keys = self.record["varying"][:_AXES]
        if len(done) < 2 or not keys:
            return Html()
        columns = [[run["settings"].get(key) for run in done] for key in keys]
        columns.append([run["metric"]["value"] for run in done])
        apart = max(150, 880 // len(keys))
        width, top, bottom = 60 + apart * len(keys), 40, 230
        places = [30 + apart * index for index in range(len(columns))]
        scales = [scale(column, top, bottom, apart=12) for column in columns]
        lines: list[Html] = []
        labels: list[Html] = []
        for x, key, (_, ticks) in zip(places, [*keys, name], scales, strict=True):
            anchor, side = ("end", -5) if x == places[-1] else ("start", 5)
            share = x == places[-1] and metric_named(name).unit == "share"
            lines.append(tag("line", x1=x, x2=x, y1=top, y2=bottom, class_="axis"))
            labels.append(words(x - 4 * side, 16, short(key, 20), anchor))
            for value, y in ticks:
                label = f"{100 * value:.1f} %" if share else short(shown_value(value), 16)
                labels.append(words(x + side, y - 3, label, anchor))
        for index, run in enumerate(done):
            points = " ".join(f"{x},{heights[index]:.1f}" for x, (heights, _) in zip(places, scales, strict=True))
            title, kind = tag("title", f"{run['id']}: {measured(run)}"), f"curve {self.colours[run['id']]}"
            lines.append(tag("polyline", title, points=points, class_=kind, data_run=run["id"]))
        more = len(self.record["varying"]) - len(keys)
        told = [tag("p", f"{more} more settings differ: {', '.join(self.record['varying'][_AXES:])}")] * (more > 0)
        slices = tag("div", self.slices(name, done, keys), class_="grid")
        return _section("Settings and results", [drawing([*lines, *labels], width, 250), *told, slices])

    def gains(self, run: Record) -> Html:
        """Return the tables of a chain: what is scored after each stage, and how much the stage gains."""
        tables: dict[str, list[Record]] = {}
        for row in run["table"]:
            tables.setdefault(_learner(row), []).append(row)
        scores = _scales(run["table"])
        gains = [row for row in run["table"] if row.get("gain") is not None]
        ends = [abs(row["gain"]) + (row.get("gain_interval") or 0) for row in gains]
        reach = max(ends, default=0) or 1
        parts: list[Html] = []
        for label, rows in tables.items():
            lines = []
            for row in rows:
                gain, half = row.get("gain"), row.get("gain_interval")
                known = gain is not None and "gain_interval" in row
                lines.append(
                    tag(
                        "tr",
                        tag("td", "untrained" if row["after"] == "nothing" else row["after"]),
                        tag("td", with_unit(row), class_="n"),
                        tag("td", interval_bar(row["value"], row.get("interval"), *scores[row["name"]])),
                        tag("td", with_intervals(row, "gain_") if gain is not None else "", class_="n"),
                        tag("td", interval_bar(gain, half, -reach, reach)),
                        tag("td", verdict(row) if known else ""),
                    )
                )
            heads = tag("tr", [tag("th", head) for head in ("after", rows[0]["name"], "", "gain", "", "the stage")])
            parts += [tag("h3", label), tag("div", tag("table", heads, lines), class_="wide")]
        parts += [tag("p", told, class_="faint") for told in (over(run["table"][0]), _GAINS)]
        return _section(f"Gains of the stages, run {run['id']}", parts)

    def curves(self) -> Html:
        """Return a panel of curves for each stage and metric."""
        panels: dict[tuple[str, str], list[tuple[Record, list[list[float]]]]] = {}
        for run in self.every:
            for name, points in run["curves"].items():
                panels.setdefault((run["stage"], name), []).append((run, points))
        figures = []
        for (stage, name), lines in sorted(panels.items(), key=lambda item: (_rank(item[0][0]), item[0])):
            keys = [tag("span", self.swatch(run), run["id"], class_="key", data_run=run["id"]) for run, _ in lines]
            more = [tag("span", f"and {len(keys) - _KEYS} more", class_="key")] * (len(keys) > _KEYS)
            caption = tag("figcaption", keys[:_KEYS], more)
            figures.append(tag("figure", tag("h3", f"{stage}: {short(name)}"), self.panel(name, lines), caption))
        return _section("Learning curves", [tag("div", figures, class_="grid")]) if figures else Html()

    def panel(self, name: str, lines: Sequence[tuple[Record, list[list[float]]]]) -> Html:
        """Return the curves of one metric over steps."""
        values = [value for _, points in lines for _, value in points]
        along, marks = across(0, max(step for _, points in lines for step, _ in points))
        up, parts = axes(min(values), max(values), marks, "step", metric_named(name).unit == "share")
        for run, points in lines:
            at = [(along(step), up(value)) for step, value in points]
            title = tag("title", f"{run['id']}: {points[-1][1]:.4g} at step {points[-1][0]}")
            marked = {"class_": f"curve {self.colours[run['id']]}", "data_run": run["id"]}
            parts.append(tag("polyline", title, points=" ".join(f"{x},{y}" for x, y in at), **marked))
            if len(at) == 1:
                marked["class_"] = marked["class_"].replace("curve", "dot")
                parts.append(tag("circle", title, cx=at[0][0], cy=at[0][1], r=3, **marked))
        return panel(parts, f"{name} over steps")

    def slices(self, name: str, done: Sequence[Record], keys: Sequence[str]) -> list[Html]:
        """Return a panel for each setting: the results of the runs over its values."""
        values = [run["metric"]["value"] for run in done]
        share = metric_named(name).unit == "share"
        figures = []
        for key in keys:
            places, ticks = scale([run["settings"].get(key) for run in done], RIGHT - 40, LEFT + 40, apart=80)
            marks = [(short(shown_value(value), 16), x) for value, x in ticks]
            up, parts = axes(min(values), max(values), marks, short(key, 40), share)
            for run, x, value in zip(done, places, values, strict=True):
                title, kind = tag("title", f"{run['id']}: {measured(run)}"), f"dot {self.colours[run['id']]}"
                parts.append(tag("circle", title, cx=round(x, 1), cy=up(value), r=4, class_=kind, data_run=run["id"]))
            figures.append(
                tag("figure", tag("h3", f"{name} over {short(key, 40)}"), panel(parts, f"{name} over {key}"))
            )
        return figures

    def embeddings(self) -> Html:
        """Return a panel for each embedding map; evaluations with the same map, as of two learners, are one."""
        figures: dict[Html, list[str]] = {}
        for run in self.every:
            if run["embedding"]:
                figures.setdefault(_embedding(run["embedding"]), []).append(run["id"])
        shown = [tag("figure", tag("h3", ", ".join(names)), picture) for picture, names in figures.items()]
        told = tag("p", _EMBEDDING, class_="faint")
        return _section("Where unseen classes lie", [told, tag("div", shown, class_="grid")]) if shown else Html()

    def pictures(self) -> Html:
        """Return the pictures that the runs left: sample episodes with answers, reconstructions, and others."""
        figures: list[Html] = []
        left = 0
        for run in self.every:
            for path in run["pictures"][:_OF_A_RUN]:
                if len(figures) == PICTURES:
                    left += 1
                    continue
                told = f"{run['stage']} {run['id']}: {Path(path).stem.replace('_', ' ')}"
                try:
                    data, (width, height) = small(Path(path), _WIDTH, _COLOURS)
                except UserError as error:
                    figures.append(tag("p", str(error), class_="warn"))
                    continue
                source = f"data:image/png;base64,{base64.b64encode(data).decode()}"
                image = Html(f'<img src="{source}" alt="{escaped(told)}" width="{width}" height="{height}">')
                figures.append(tag("figure", image, tag("figcaption", told)))
        more = [tag("p", f"{left} more pictures are in the folders of the runs.", class_="faint")] * (left > 0)
        body = [tag("div", figures, class_="grid"), *more]
        return _section("Sample episodes and pictures", body) if figures else Html()

    def lineage(self) -> Html:
        """Return the graph of which run started from which; evaluations of one run are one box."""
        there = {run["id"]: run for run in self.every}
        children: dict[str | None, list[Record]] = {}
        for run in sorted(self.every, key=lambda run: str(run["started_at"])):
            if run["stage"] != "run":
                parent = run["parent"] if run["parent"] in there else None
                children.setdefault(parent, []).append(run)
        boxes: list[tuple[int, float, list[Record]]] = []
        edges: list[tuple[tuple[int, float], tuple[int, float]]] = []
        rows = 0

        def put(together: list[Record], depth: int) -> float:
            """Place a box after those that start from it, and return its row."""
            nonlocal rows
            below = [put(own, depth + 1) for own in _boxes(children.pop(together[0]["id"], []))]
            row = sum(below) / len(below) if below else float(rows)
            rows += not below
            boxes.append((depth, row, together))
            edges.extend(((depth, row), (depth + 1, other)) for other in below)
            return row

        for own in _boxes(children.pop(None, [])):
            put(own, 0)
        if not edges:
            return Html()
        across, down, named = 210, 50, {run["id"] for run in self.runs}
        parts = []
        for (depth, row), (other, end) in edges:
            x, y, to, at = 10 + depth * across + 180, 30 + row * down, 10 + other * across, 30 + end * down
            line = f"M{x},{y:.1f} C{x + 15},{y:.1f} {to - 15},{at:.1f} {to},{at:.1f}"
            parts.append(tag("path", d=line, class_="edge"))
        for depth, row, together in boxes:
            run, x, y = together[0], 10 + depth * across, 30 + row * down
            kind = " named" * any(own["id"] in named for own in together) + " gone" * (run["status"] == "gone")
            title = tag("title", "; ".join(f"{own['id']} ({own['status']}): {measured(own)}" for own in together))
            parts.append(tag("rect", title, x=x, y=round(y - 19, 1), width=180, height=38, rx=5, class_=f"node{kind}"))
            label = run["stage"] if len(together) == 1 else f"{run['stage']}, {len(together)} runs"
            unfinished = f", {run['status']}" * (run["status"] != "completed")
            parts.append(words(x + 8, y - 3, short(label + unfinished, 24)))
            name = run["id"] if len(together) == 1 else f"{run['id']}, ..."
            parts.append(tag("text", short(name, 24), x=x + 8, y=round(y + 13, 1), class_="faint"))
        width, height = 10 + (max(depth for depth, _, _ in boxes) + 1) * across, 10 + rows * down
        return _section("Where they come from", [drawing(parts, width, height)])

    def again(self) -> Html:
        """Return the command of each run, with the versions and checksums that tell whether it is the same."""
        named, others = ([self.repeated(run) for run in found if run["command"]] for found in self.both)
        if not named and not others:
            return Html()
        folded = [_folded("The runs that they come from, and their evaluations", others)] if others else []
        sweep = self.record["sweep"] or {"command": None}
        whole = [tag("h3", f"sweep {sweep['id']}"), tag("pre", sweep["command"])] if sweep["command"] else []
        return _section("To repeat them", [*whole, *named, *folded])

    def checkpoint(self, run: Record) -> Record:
        """Return the checkpoint of a run, or the one that it scored."""
        parent = next((other for other in self.every if other["id"] == run["parent"]), {"checkpoint": None})
        return run["checkpoint"] or parent["checkpoint"] or {}

    def repeated(self, run: Record) -> Html:
        """Return the command of a run, and what tells whether the result is the same."""
        data, found = run["data"], self.checkpoint(run)
        facts = [f"took {duration(run['seconds'])}"] if run["seconds"] is not None else []
        facts += [f"{name} {version}" for name, version in found.get("versions", {}).items()]
        facts += [f"checkpoint sha256 {found['sha256']}"] if found else []
        facts += [f"data {data['name']}, fingerprint {data['fingerprint']}"] if data["fingerprint"] else []
        told = tag("p", "; ".join(facts), class_="faint")
        return tag("div", tag("h3", f"{run['stage']} {run['id']}"), tag("pre", run["command"]), told)


def _boxes(found: Sequence[Record]) -> list[list[Record]]:
    """Return runs that start from the same one as boxes: evaluations together, others one by one."""
    scored = [run for run in found if run["stage"] == "evaluate"]
    return [[run] for run in found if run["stage"] != "evaluate"] + [scored] * bool(scored)


def _embedding(found: Mapping[str, Any]) -> Html:
    """Return the picture of an embedding map, see `records.embedding`, with a mark for each of its classes."""
    return _map([Point(name, name, x, y) for name, x, y in found["points"]], of_components(*found["variance"]))


def of_components(first: float, second: float) -> str:
    """Return what a map of principal components shows across and upwards."""
    return f"first component, {100 * first:.0f} % of the variance; upwards the second, {100 * second:.0f} %"


def _map(points: Sequence[Point], axis: str) -> Html:
    """Return the picture of a map, with a mark for each class; those of new items are hollow."""
    names = list(dict.fromkeys(point.name for point in points))
    xs, ys = [point.x for point in points], [point.y for point in points]
    along, marks = across(min(xs), max(xs))
    up, parts = axes(min(ys), max(ys), marks, axis)
    for point in points:
        mark = marker(along(point.x), up(point.y), names.index(point.name), tag("title", point.title))
        parts.append(tag("g", mark, class_="new") if point.new else mark)
    keys = []
    for index, name in enumerate(names):
        sign = tag("svg", marker(6, 5, index), class_="swatch", viewBox="0 0 12 10", aria_hidden="true")
        keys.append(tag("span", sign, short(name, 30), class_="key"))
    return Html(panel(parts, "map of features") + tag("figcaption", keys))


def _section(heading: str, content: Iterable[str]) -> Html:
    return tag("section", tag("h2", heading), content)


def _learner(result: Record) -> str:
    """Return the learner of a score, and its protocol if there are several."""
    parts = [result.get("learner"), result.get("normalisation", "none").replace("none", ""), result.get("drawn")]
    return ", ".join(part for part in parts if part)


def _folded(heading: str, content: Iterable[str]) -> Html:
    return tag("details", tag("summary", heading), content)


def _rank(stage: str) -> int:
    return [*TABLE, stage].index(stage)


def _metric(found: Sequence[Record]) -> str:
    """Return the name of the metric that most runs have."""
    names = [run["metric"]["name"] for run in found if run["metric"]]
    return max(names, key=names.count, default="")


def _scales(results: Iterable[Record]) -> dict[str, tuple[float, float]]:
    """Return the range of the values of each metric, with their intervals."""
    found: dict[str, tuple[float, float]] = {}
    for result in results:
        if (value := result["value"]) is not None:
            half = result.get("interval") or 0
            low, high = found.get(result["name"], (math.inf, -math.inf))
            found[result["name"]] = min(low, value - half), max(high, value + half)
        else:
            found.setdefault(result["name"], (0.0, 1.0))
    return found
