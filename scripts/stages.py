"""Write docs/stages.md: what each stage is worth after each model of pretraining, from a sweep of chains.

    python scripts/stages.py                  # write the page
    python scripts/stages.py runs/sweeps/ID   # first take the results of this sweep of `mlx run`

The results are kept in docs/benchmarks/stages.json.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from learners import table

from metalearn_cli.core.machine import description

DOCS = Path(__file__).resolve().parents[1] / "docs"
RECORDS = "benchmarks/stages.json"
COLUMNS = ("nothing", "pretrain", "transfer", "meta-train")
KEPT = ("after", "value", "interval_trainings", "gain", "gain_interval_trainings", "way", "shot", "over")

PAGE = """\
# What each stage is worth
<!-- written by scripts/stages.py; do not edit -->

A chain trains a network in stages. Here it is evaluated after each of them, with every model of pretraining, on
Omniglot: Lake's split, of which five background alphabets are for training, and a network of 32 channels.

```bash
{command}
python scripts/stages.py runs/sweeps/ID   # writes this page from the results
```

A cell is the transductive test accuracy ([protocols.md](protocols.md)) in percent, {way}-way {shot}-shot, of the
nearest class centroid on the features of the backbone, on the same {episodes:,} episodes for all. In brackets is what
the stage adds to the one before it. After +- is the half-width of the 95 % interval over {trainings} trainings, each
with its own seed, and over the episodes. The column "nothing" is the network as it was initialised. The model with the
highest accuracy at the end is first; where intervals overlap, other seeds may give another order, and other test
classes, too. A row took {minutes:.0f} minutes on {machine}.

{table}
"""


def main(folders: Iterable[str]) -> None:
    """Take the results of a sweep, if one is given, and write the page."""
    for folder in folders:
        (DOCS / RECORDS).write_text(json.dumps(taken(Path(folder)), indent=1) + "\n")
    (DOCS / "stages.md").write_text(page(json.loads((DOCS / RECORDS).read_text())))


def taken(sweep: Path) -> dict[str, Any]:
    """Return what the page needs of a sweep's results; its command without the folders of this machine."""
    results = json.loads((sweep / "results.json").read_text())
    runs = {
        job["settings"]["model"]: json.loads((Path(job["folder"]) / "run.json").read_text()) for job in results["jobs"]
    }
    return {
        "command": re.sub(r" runs_dir=\S+", "", re.sub(r"root=\S+", "root=FOLDER", results["command"])),
        "machine": description(),
        "minutes": sum(run["seconds"] for run in runs.values()) / 60 / len(runs),
        "models": {model: rows(run["table"]) for model, run in runs.items()},
    }


def rows(of_run: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of a chain's table that the page shows, one for each stage."""
    shown = [row for row in of_run if (row["learner"], row["normalisation"]) == ("nearest_centroid", "transductive")]
    return [{key: row[key] for key in KEPT} for row in shown]


def page(record: Mapping[str, Any]) -> str:
    """Return the text of the page."""
    models = sorted(record["models"].items(), key=lambda item: -item[1][-1]["value"])
    one = models[0][1][0]
    lines = table(["model", *COLUMNS], [[f"`{name}`", *map(cell, stages)] for name, stages in models])
    return PAGE.format(
        command=record["command"],
        machine=record["machine"],
        minutes=record["minutes"],
        way=one["way"],
        shot=one["shot"],
        episodes=one["over"]["episodes"],
        trainings=one["over"]["trainings"],
        table="\n".join(lines),
    )


def cell(row: Mapping[str, Any]) -> str:
    """Return an accuracy and its gain in percent, each with its interval over trainings."""
    value = f"{100 * row['value']:.1f} +- {100 * row['interval_trainings']:.1f}"
    if row["gain"] is None:
        return value
    return f"{value} ({100 * row['gain']:+.1f} +- {100 * row['gain_interval_trainings']:.1f})"


if __name__ == "__main__":
    main(sys.argv[1:])
