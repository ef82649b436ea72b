"""`mlx report`: the record of runs as a page, a table or JSON."""

from __future__ import annotations

import csv
import io
import shlex
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from typing import Any

from metalearn_cli import __version__
from metalearn_cli.cli.composing import Composer, typed_settings
from metalearn_cli.cli.page import page
from metalearn_cli.cli.phrases import calibrations, cell, over, verdict, with_intervals, with_unit
from metalearn_cli.core.check import written
from metalearn_cli.core.errors import UserError
from metalearn_cli.core.stages import TABLE
from metalearn_cli.records import runs
from metalearn_cli.records.selected import chosen, in_words
from metalearn_cli.studies.report import gathered

Record = Mapping[str, Any]

_RESULT = ("name", "learner", "normalisation", "drawn", "value", "interval", "interval_classes", "interval_trainings")


def read(named: Sequence[Record]) -> dict[str, Any]:
    """Return the record of runs, see `studies.report.gathered`."""
    composer = cache(Composer)

    def command(run: Record) -> list[str] | None:
        words = typed_settings(run, composer(run["stage"])) if run["stage"] in TABLE else run.get("typed")
        return None if words is None else ["mlx", run["stage"], *words]

    return gathered(named, command)


def html(record: Record) -> str:
    """Return the record as a page."""
    return page(record, f"Made on {datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC by mlx {__version__}.")


def json(record: Record) -> str:
    """Return the record as JSON."""
    return runs.as_json(record, indent=2) + "\n"


def table(record: Record) -> str:
    """Return the results of the runs as CSV: a row for each score, or one for a run without."""
    file = io.StringIO()
    rows = csv.writer(file, lineterminator="\n")
    settings = record["varying"]
    fixed = ("run", "stage", "status", "data", *_RESULT, "selected")
    columns = [f"settings.{key}" if key in fixed else key for key in settings]  # so that no two have the same name
    rows.writerow([*fixed[:4], *columns, *_RESULT, "selected"])
    for run in record["runs"]:
        facts = [run["id"], run["stage"], run["status"], run["data"]["name"]]
        own = [run["settings"].get(key) for key in settings]
        selected = in_words((run["table"] or [{}])[-1].get("selected") or [chosen(run)])
        for result in run["results"] or [{}]:
            rows.writerow([cell(v) for v in [*facts, *own, *(result.get(key) for key in _RESULT), selected]])
    return file.getvalue()


def markdown(record: Record) -> str:
    """Return the results, the choices of settings, the gains of stages and the commands as Markdown."""
    settings = record["varying"]
    rows = [
        [
            *(run["id"], run["stage"], run["status"]),
            *(run["settings"].get(key) for key in settings),
            *(result.get("learner"), _protocol(result), result.get("name"), _score(result)),
        ]
        for run in record["runs"]
        for result in run["results"] or [{}]
    ]
    parts = [_table(["run", "stage", "status", *settings, "learner", "normalisation", "metric", "result"], rows)]
    parts += dict.fromkeys(over(r) for run in record["runs"] for r in run["results"] if r.get("over"))
    parts += [f"{run['id']}: {told}" for run in record["runs"] for told in calibrations(run["results"])]
    for run in record["runs"]:
        if found := run["selected"]:
            parts += [f"Settings chosen on validation episodes, run {run['id']}:"]
            rows = [[*map(written, row["values"].values()), _score(row), "chosen" * row["chosen"]] for row in found]
            parts += [_table([*found[0]["values"], found[0]["name"], ""], rows), over(found[0])]
    for run in record["runs"]:
        of_chain = run["table"] or ()
        selected = ["selected"] * any("selected" in row for row in of_chain)
        rows = [
            [
                *(row["after"], row.get("learner"), _protocol(row), _score(row)),
                *(in_words(row.get(key, ())) for key in selected),
                *_gain(row),
            ]
            for row in of_chain
        ]
        if rows:
            parts += [f"Gains of the stages, run {run['id']}:"]
            parts += [_table(["after", "learner", "normalisation", "result", *selected, "gain", "the stage"], rows)]
    parts += [f"- {_escaped(problem)}" for problem in record["problems"]]
    parts += [f"    {run['command']}" for run in record["runs"] if run["command"]]
    return "\n\n".join(parts) + "\n"


def _protocol(result: Record) -> str | None:
    """Return under which protocol a result is, and from which classes its episodes are, where there are several."""
    return ", ".join(result[key] for key in ("normalisation", "drawn") if result.get(key)) or None


def _score(result: Record) -> str:
    return with_unit(result) if result else "-"


def _gain(row: Record) -> list[str]:
    known = row.get("gain") is not None and "gain_interval" in row
    return [with_intervals(row, "gain_"), verdict(row)] if known else ["", ""]


def _table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(_escaped('-' if v is None else str(v)) for v in line)} |" for line in lines)


def _escaped(text: str) -> str:
    for special in "\\|<`*_[":
        text = text.replace(special, f"\\{special}")
    return " ".join(text.split())


FORMATS: dict[str, Callable[[Record], str]] = {"html": html, "md": markdown, "json": json, "csv": table}


def write(text: str, out: str) -> None:
    """Write a report to a file.

    Raises:
        UserError: if it cannot be written.
    """
    path = Path(out)
    if path.is_dir():
        raise UserError(f"--out {out}: is a folder; type: --out {shlex.quote(str(path / 'report.html'))}")
    content = text.encode("utf-8", "replace")
    try:
        if path.exists() and not path.is_file():  # a device or a pipe, which a renamed file would replace
            path.write_bytes(content)
        else:
            runs.write_bytes(path, content)
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written: {error.strerror}") from error
