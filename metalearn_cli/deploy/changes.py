"""Changes of the classes of an artefact; nothing is trained.

As a program it makes one change for a server, which has no torch of its own:

    python -m metalearn_cli.deploy.changes ARTEFACT enrol NAME FOLDER
    python -m metalearn_cli.deploy.changes ARTEFACT unenrol NAME

It prints a JSON object with the `status` of HTTP that answers the server's client, and the `error` if there is one.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from metalearn_cli.core.errors import InUseError, UserError
from metalearn_cli.deploy.artefact import items_to_try, read_artefact, write_artefact
from metalearn_cli.deploy.deployed import Deployed, reader_of, with_class, without_class
from metalearn_cli.deploy.exporting import check_installed, graph_of
from metalearn_cli.deploy.folder import changing
from metalearn_cli.deploy.quantizing import again
from metalearn_cli.records.runs import as_json


def enrol(folder: Path, name: str, files: Sequence[str], column: Mapping[str, str]) -> None:
    """Add a class.

    Args:
        folder: the artefact.
        name: of the class.
        files: its examples.
        column: see `deployed.reader_of`.

    Raises:
        UserError: if something cannot be used; the artefact is then unchanged.
        OSError: if it cannot be written, in the same way.
    """
    change(folder, lambda learner: with_class(learner, name, reader_of(learner.trained, column).of_class(name, files)))


def unenrol(folder: Path, name: str) -> None:
    """Take a class out, see `enrol`."""
    change(folder, lambda learner: without_class(learner, name))


def main(words: Sequence[str]) -> None:
    """Make one change, and print what came of it."""
    folder, what, name, *files = words
    error = ""
    try:
        if what == "enrol":
            enrol(Path(folder), name, files, {})
        else:
            unenrol(Path(folder), name)
        status = 200
    except InUseError as problem:
        status, error = 503, str(problem)
    except UserError as problem:
        status, error = 422, str(problem)
    except OSError as problem:
        status, error = 507, f"the artefact cannot be written: {os.strerror(problem.errno or 0).lower()}"
    print(as_json({"status": status, "error": error}))


def change(folder: Path, made: Callable[[Deployed], Deployed]) -> None:
    """Replace an artefact by a changed one, see `enrol`.

    Args:
        folder: the artefact.
        made: returns the changed learner.
    """
    check_installed()
    folder = folder.resolve()  # the folder itself, not a link to it
    with changing(folder):
        learner, about = read_artefact(folder)
        changed, record, graph = made(learner), {key: about.get(key) for key in ("result", "lineage")}, None
        if before := about.get("quantize"):
            floats = graph_of(changed.enrolled, items_to_try(changed))
            graph, record["quantize"] = again(changed, floats, before)
        write_artefact(folder, changed, record, graph)


if __name__ == "__main__":
    main(sys.argv[1:])
