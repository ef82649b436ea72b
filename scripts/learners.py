"""Write docs/learners.md and docs/results.md, from the code, the experiments and the records of `mlx verify`.

    python scripts/learners.py                     # write both pages
    python scripts/learners.py RUN_FOLDER ...      # first add the records of these runs, each a verify.json

A record replaces an earlier one of the same experiment and tier; all are kept in docs/benchmarks/verify.json.
"""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf

from metalearn_cli.core.build import locate
from metalearn_cli.core.claims import Expectation, parse_tiers
from metalearn_cli.core.metric import metric_named
from metalearn_cli.core.types import Traits
from metalearn_cli.records.names import choices, recorded_name
from metalearn_cli.studies.verify import FILE

ROOT = Path(__file__).resolve().parents[1]
RECORDS = ROOT / "docs" / "benchmarks" / "verify.json"
PUBLISHED = ROOT / "docs" / "benchmarks" / "published.md"
GROUPS = {
    "algorithm": ("Learners", "`mlx meta-train algorithm=NAME`, `mlx evaluate algorithm=NAME`"),
    "model": ("Models of pretraining", "`mlx pretrain model=NAME`"),
    "method": ("Methods of transfer", "`mlx transfer method=NAME`"),
}
WRITTEN = "<!-- written by scripts/learners.py; do not edit -->"


RULE = """\
Each row is a claim of an experiment. Accuracies are in percent. After +- is the half-width of the 95 % interval over
episodes and, in brackets, those over classes or groups of them, and over trainings. A result passes if it is better
than expected, or worse by no more than the tolerance, which is in brackets after the expected value, and the half-width
over episodes together. Minutes are those of our run, without those of an experiment that runs before, and those that
the experiment's file claims on 2 cores.

Where data is not downloaded, a command needs `data.root=FOLDER`; `mlx ls experiment NAME` says which files."""


BOUNDS = """\
## What bounds the results that fail

The settings of these experiments were chosen on validation classes."""


LEGEND = """\
Each section is one Python module: its names in commands, its source, its idea, and its number of lines with comments.
A learner is for tasks whose targets are classes, numbers (a regression) or both. It sees the items themselves, the
features that the backbone gives them, or the backbone's last feature maps. A head is a last layer with one output for
each class. In tables of results, accuracies are in percent; [results.md](results.md) has all results and says how to
read them, [protocols.md](protocols.md) says what an accuracy means."""

OF_METHODS = {
    "unlabelled": "items of another data set, without labels: `data@also.unlabelled=NAME`",
    "also": "one or more other labelled data sets: `data@also.ANY_WORD=NAME`",
    "taught": "a second checkpoint: `teacher=RUN`",
    "taught_features": "a second checkpoint: `teacher=RUN`",
}


class Component(NamedTuple):
    """A module of components.

    Attributes:
        path: its file.
        choices: the names of its configs, each with its settings.
    """

    path: Path
    choices: dict[str, dict[str, Any]]


def main(folders: Iterable[str]) -> None:
    """Add the records of runs, and write the pages."""
    records = known = json.loads(RECORDS.read_text())
    for folder in folders:
        new = with_names(json.loads((Path(folder) / FILE).read_text()))
        known = [r for r in known if (r["experiment"], r["tier"]) != (new["experiment"], new["tier"])] + [new]
    if known != records:
        ordered = sorted(known, key=lambda r: (r["experiment"], r["tier"]))
        RECORDS.write_text(json.dumps(ordered, indent=1) + "\n")
    for name, text in pages().items():
        (ROOT / "docs" / name).write_text(text)


def with_names(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record, where one of an earlier version names learners by their classes."""
    for result in record["results"]:
        result["expected"]["learner"] = recorded_name(result["expected"]["learner"])
    return record


def pages() -> dict[str, str]:
    """Return the text of each page by its name."""
    records = json.loads(RECORDS.read_text())
    return {"learners.md": learners(records), "results.md": results(records)}


def learners(records: list[dict[str, Any]]) -> str:
    """Return the page on learners, models and methods."""
    lines = ["# Learners, models and methods", WRITTEN, ""]
    lines += [LEGEND]
    for group, (title, how) in GROUPS.items():
        lines += [f"\n## {title}", f"\n{how}"]
        for component in components(group):
            source, idea, *_ = described(component.path)
            lines += [f"\n### {', '.join(component.choices)}", f"\n{source}", f"\n{idea}", ""]
            facts = [f"{len(component.path.read_text().splitlines())} lines"]
            needs: dict[str, list[str]] = {}
            for name, settings in component.choices.items():
                needs.setdefault(needed(group, settings), []).append(f"`{name}`")
            facts += [f"{', '.join(names)}: {of}" if len(needs) > 1 else of for of, names in needs.items()]
            lines += [f"- {fact}" for fact in facts if fact]
            if rows := [row for row in measured(records) if row[1].partition(" ")[0] in component.choices]:
                lines += ["", *table(["experiment", "result", "ours", "expected", "source", "verdict"], rows)]
    return "\n".join(lines) + "\n"


def components(group: str) -> list[Component]:
    """Return the modules of a group, in the order of their names."""
    found: dict[str, Component] = {}
    for name, settings in sorted(choices(group).items()):
        module = settings["_target_"].rpartition(".")[0]
        file = ROOT.joinpath(*module.split(".")).with_suffix(".py")
        found.setdefault(module, Component(file, {})).choices[name] = settings
    return sorted(found.values(), key=lambda component: component.path.stem)


def described(path: Path) -> list[str]:
    """Return the paragraphs of a module's docstring, each on one line: its source, its idea, and more."""
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    return [" ".join(paragraph.split()) for paragraph in text.split("\n\n")]


def needed(group: str, settings: Mapping[str, Any]) -> str:
    """Return what a component needs, in words; "" if it is nothing special."""
    target = settings["_target_"]
    if group == "algorithm":
        traits = locate(target, group)(**{k: v for k, v in settings.items() if k != "_target_"}).traits
        return ", ".join(of_traits(traits))
    if group == "model":
        return ""
    method = locate(target, group)(**{k: v for k, v in settings.items() if k != "_target_"})
    asked = dict.fromkeys(OF_METHODS[name] for name in getattr(method, "asks", ()))
    return f"needs {' and '.join(asked)}" if asked else ""


def of_traits(traits: Traits) -> Iterator[str]:
    """Yield the traits of a learner in words."""
    yield f"for {' and '.join(sorted(traits.targets))}"
    yield f"sees {traits.sees}"
    if traits.head:
        yield "needs a head"
    if traits.inner_gradients:
        yield "takes gradients in an episode"
    if not traits.learns:
        yield "learns nothing across tasks"
    if traits.uses_queries:
        yield "transductive by itself: an answer depends on the other queries"
    if not traits.batchable:
        yield "one task at a time"


def results(records: list[dict[str, Any]]) -> str:
    """Return the page that sets our results beside the expected ones."""
    columns = ["command", "result", "ours", "expected", "source", "re-runs", "verdict", "minutes / claimed", "machine"]
    rows, bounds = [], []
    by_name = {(record["experiment"], record["tier"]): record for record in records}
    for path in sorted((ROOT / "configs" / "experiment").glob("*.yaml")):
        for tier, claim in parse_tiers(OmegaConf.to_container(OmegaConf.load(path))["tiers"]).items():
            command = f"`mlx verify experiment={path.stem}{f' tier={tier}' * (tier != 'short')}`"
            record = by_name.get((path.stem, tier))
            for expected in claim.expect:
                result = found(record, expected)
                rows.append([command, about(expected), *compared(result, expected), *spent(record, claim.minutes)])
                command = ""
            if claim.bound:
                bounds += ["", f"- {path.stem}{f', tier {tier}' * (tier != 'short')}: {claim.bound}"]
    published = PUBLISHED.read_text().rstrip()
    lines = [
        "# Results",
        WRITTEN,
        "",
        RULE,
        "",
        *table(columns, rows),
        "",
        BOUNDS,
        *bounds,
        "",
        "## Published figures",
        "",
        published,
    ]
    return "\n".join(lines) + "\n"


def found(record: Mapping[str, Any] | None, expected: Expectation) -> Mapping[str, Any] | None:
    """Return the result of a record for an expectation, if there is one."""
    own = record["results"] if record else []
    return next((result for result in own if about(Expectation(**result["expected"])) == about(expected)), None)


def compared(result: Mapping[str, Any] | None, expected: Expectation) -> list[str]:
    """Return the cells of a result beside the expected one; its verdict is of the claim as it is now."""
    cells = [wanted(expected), expected.source, str(expected.reruns or "")]
    if result is None:
        return ["not run", *cells, ""]
    if replace(Expectation(**result["expected"]), source="", reruns=None) != replace(expected, source="", reruns=None):
        return [ours(result), *cells, "the claim has changed: run it again"]
    return [ours(result), *cells, "PASS" if result["passed"] else "FAIL"]


def wanted(expected: Expectation) -> str:
    """Return an expected value with its tolerance."""
    sign = "-" if metric_named(expected.metric).higher_is_better else "+"
    return f"{expected.value:g} ({sign}{expected.tolerance:g})"


def spent(record: Mapping[str, Any] | None, minutes: float) -> list[str]:
    """Return the cells on time and machine."""
    if record is None:
        return [f"- / {minutes:g}", ""]
    return [f"{record['minutes']['run']:.0f} / {minutes:g}", record["machine"]]


def measured(records: list[dict[str, Any]]) -> Iterator[list[str]]:
    """Yield a row for each result: experiment, what it is, ours, expected with its tolerance, source, verdict."""
    for record in records:
        for result in record["results"]:
            expected = Expectation(**result["expected"])
            name, passed = f"{record['experiment']}, {record['tier']}", "PASS" if result["passed"] else "FAIL"
            yield [name, about(expected), ours(result), wanted(expected), expected.source, passed]


def about(expected: Expectation) -> str:
    """Return what an expectation is about."""
    drawn = expected.drawn.replace("pooled", "")
    parts = (expected.learner, expected.normalisation.replace("none", ""), expected.metric, drawn)
    return " ".join(filter(None, parts))


def ours(result: Mapping[str, Any]) -> str:
    """Return a measured value with its intervals."""
    if result["value"] is None:
        return "nan"
    digits = 1 if result["expected"]["metric"] == "accuracy" else 3
    unit = next((unit for unit in ("groups", "classes", "tasks") if unit in result["over"]), "")
    widths = {unit: result["interval_classes"], "trainings": result["interval_trainings"]}
    told = [f"{over} {width:.{digits}f}" for over, width in widths.items() if width is not None]
    others = f" ({', '.join(told)})" if told else ""
    return f"{result['value']:.{digits}f} +- {result['interval']:.{digits}f}{others}"


def table(columns: list[str], rows: Iterable[list[str]]) -> list[str]:
    """Return the lines of a table."""
    return [f"| {' | '.join(cells)} |" for cells in (columns, ["---"] * len(columns), *rows)]


if __name__ == "__main__":
    main(sys.argv[1:])
