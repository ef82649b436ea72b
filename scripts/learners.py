"""Write docs/learners.md and docs/results.md, from the code, the experiments and the records of `mlx verify`.

    python scripts/learners.py                     # write both pages
    python scripts/learners.py RUN_FOLDER ...      # first add the records of these runs, each a verify.json

A record replaces an earlier one of the same experiment and tier; all are kept in docs/benchmarks/verify.json.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf

from metalearn_cli.core.build import locate
from metalearn_cli.core.claims import Expectation, Tier, parse_tiers
from metalearn_cli.core.metric import metric_named
from metalearn_cli.core.types import Traits
from metalearn_cli.records.names import choices, recorded_name
from metalearn_cli.records.selected import in_words
from metalearn_cli.studies.verify import FILE, meets

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
over episodes together; "PASS, by +-" would fail without the half-width. The interval over episodes is the narrowest:
another training, or other classes, may pass or fail otherwise. Minutes are those of our run, without those of an
experiment that runs before, on the machine that is named, some of them beside other work; and those that the
experiment's file claims on 2 cores.

Where data is not downloaded, a command needs `data.root=FOLDER`; `mlx ls experiment NAME` says which files. Experiments
on Omniglot take the Vinyals split, or Lake's if their name says so. Finn et al. 2017, whom others follow, drew their
training characters at random (as `data.split=maml` does); that is a difference, too."""


AGAIN = """\
These claims are figures that were measured here, so that a pass says that they are reached again, not that they are
good."""


CHOSEN = """\
## How settings were chosen

By accuracy on validation classes, or by the time that they take: `chosen:` in an experiment's file says how (`mlx cat
experiment/NAME`). Four experiments were changed after they had failed on test classes, and tested again on the same
episodes; the new values are from validation classes. Before, omniglot_5w1s_matching_net had 96.7 %,
omniglot_5w1s_reptile 93.0 (transductive) and 90.3 (inductive), omniglot_20w1s_maml_scratch 87.7 and omniglot_20w1s_anil
90.1. What the settings of clinc150_5w1s share comes from trials that looked at test intents of another split."""


MINUTES = """\
## How long they take

Six experiments claim 38 or 40 minutes on two cores; slow cores take longer. On 2 cores of an AMD EPYC, where a Python
loop of ten million steps takes 1.2 s, a twentieth or a fortieth of all steps and episodes was run, such as
`mlx run experiment=omniglot_20w1s_anil meta_train.steps=200 meta_train.val_episodes=5 meta_train.every.evaluate=20
evaluate.episodes=25`. Calculated from that, the whole takes 46 minutes for omniglot_20w1s_protonet, 62 for
omniglot_5w1s_maml_scratch, 63 for omniglot_5w1s_reptile, 64 for omniglot_5w1s_meta_sgd, 65 for omniglot_20w1s_anil and
84 for omniglot_20w1s_maml_scratch. With `runtime.task_batching=vmap` it takes 50 for omniglot_5w1s_maml_scratch and 51
for omniglot_5w1s_meta_sgd, but 106 for omniglot_20w1s_maml_scratch."""


BOUNDS = """\
## What bounds the results that fail

Figures of test classes here explain results; nothing was chosen by them."""


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
    every = list(measured(records))
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
            if own := [row for row in every if row[1].partition(" ")[0] in component.choices]:
                lines += ["", *table(["experiment", "result", "ours", "expected", "source", "verdict"], own)]
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


class Claim(NamedTuple):
    """A claim of an experiment beside our result.

    Attributes:
        experiment: its name.
        tier: its tier, with all its claims.
        tier_name: the tier's.
        expected: what is claimed.
        record: of the experiment's last run in this tier; None if there is none.
        result: that of the record; None if there is none.
    """

    experiment: str
    tier: Tier
    tier_name: str
    expected: Expectation
    record: Mapping[str, Any] | None
    result: Mapping[str, Any] | None

    @property
    def verdict(self) -> str:
        """Whether the result meets the claim as it is now, and whether it does so only by its half-width."""
        if self.result is None:
            return ""
        if not meets(self.result, self.expected):
            return "FAIL"
        return "PASS" if meets({**self.result, "interval": 0}, self.expected) else "PASS, by +-"


def claims(records: list[dict[str, Any]]) -> Iterator[Claim]:
    """Yield every claim of every experiment."""
    by_name = {(record["experiment"], record["tier"]): record for record in records}
    for path in sorted((ROOT / "configs" / "experiment").glob("*.yaml")):
        for name, tier in parse_tiers(OmegaConf.to_container(OmegaConf.load(path))["tiers"]).items():
            record = by_name.get((path.stem, name))
            for expected in tier.expect:
                yield Claim(path.stem, tier, name, expected, record, found(record, expected))


def results(records: list[dict[str, Any]]) -> str:
    """Return the page that sets our results beside the expected ones."""
    columns = ["command", "result", "ours", "expected", "source", "re-runs", "verdict", "minutes / claimed", "machine"]
    papers, again, bounds = list[Claim](), list[Claim](), dict[str, None]()
    for claim in claims(records):
        (papers if re.search(r"\b(19|20)\d\d\b", claim.expected.source) else again).append(claim)
        if claim.tier.bound:
            bounds[f"- {named(claim, ', tier ')}: {claim.tier.bound}"] = None
    lines = ["# Results", WRITTEN, "", RULE]
    lines += ["", "## Against published figures", "", *table(columns, rows(papers))]
    lines += ["", "## Against what was measured here", "", AGAIN, "", *table(columns, rows(again))]
    lines += ["", CHOSEN, "", MINUTES, "", BOUNDS, *(line for bound in bounds for line in ("", bound))]
    return "\n".join([*lines, "", "## Published figures", "", PUBLISHED.read_text().rstrip()]) + "\n"


def named(claim: Claim, tier: str) -> str:
    """Return an experiment and, where it is not the usual one, its tier."""
    return claim.experiment + f"{tier}{claim.tier_name}" * (claim.tier_name != "short")


def rows(found: Iterable[Claim]) -> Iterator[list[str]]:
    """Yield the cells of claims; the command stands in the first row of each."""
    before = ""
    for claim in found:
        command = f"`mlx verify experiment={named(claim, ' tier=')}`"
        expected, value = claim.expected, ours(claim.result) if claim.result else "not run"
        beside = [wanted(expected), expected.source, str(expected.reruns or ""), claim.verdict]
        yield [command * (command != before), about(expected), value, *beside, *spent(claim.record, claim.tier.minutes)]
        before = command


def found(record: Mapping[str, Any] | None, expected: Expectation) -> Mapping[str, Any] | None:
    """Return the result of a record for an expectation, if there is one."""
    own = record["results"] if record else []
    return next((result for result in own if about(Expectation(**result["expected"])) == about(expected)), None)


def wanted(expected: Expectation) -> str:
    """Return an expected value with its tolerance."""
    sign = "-" if metric_named(expected.metric).higher_is_better else "+"
    return f"{expected.value:g} ({sign}{expected.tolerance:g})"


def spent(record: Mapping[str, Any] | None, minutes: float) -> list[str]:
    """Return the cells on time and machine."""
    if record is None:
        return [f"- / {minutes:g}", ""]
    took = record["minutes"]["run"]
    return [f"{took:.{int(took < 1)}f} / {minutes:g}", record["machine"]]


def measured(records: list[dict[str, Any]]) -> Iterator[list[str]]:
    """Yield a row for each result: experiment, what it is, ours, expected with its tolerance, source, verdict."""
    for claim in claims(records):
        if claim.result:
            name, expected = f"{claim.experiment}, {claim.tier_name}", claim.expected
            yield [name, about(expected), ours(claim.result), wanted(expected), expected.source, claim.verdict]


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
    others += f", with {choices} selected" if (choices := in_words(result.get("selected", ()))) else ""
    return f"{result['value']:.{digits}f} +- {result['interval']:.{digits}f}{others}"


def table(columns: list[str], rows: Iterable[list[str]]) -> list[str]:
    """Return the lines of a table."""
    return [f"| {' | '.join(cells)} |" for cells in (columns, ["---"] * len(columns), *rows)]


if __name__ == "__main__":
    main(sys.argv[1:])
