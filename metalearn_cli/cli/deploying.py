"""The commands that use a trained learner: what they do, and what they print besides tables."""

from __future__ import annotations

import csv
import io
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

from metalearn_cli.cli import asking
from metalearn_cli.cli.phrases import cell, on_one_line
from metalearn_cli.cli.words import Words, meant
from metalearn_cli.core.check import counted
from metalearn_cli.core.errors import UserError
from metalearn_cli.core.importing import importing
from metalearn_cli.core.places import expanded

if TYPE_CHECKING:
    from metalearn_cli.core.types import Reporter

PREDICTED = ("file", "class", "probability", "distance", "nearest", "unknown")
STREAMED = ("item", "class", "answer", "right")
MAPPED = ("item", "class", "new", "x", "y")
"""The columns of answers and of maps as CSV."""

METHODS = ("gradients", "occlusion", "permutation", "pca", "tsne", "network")
"""Of `mlx explain`."""

_SAME = 0.5  # correlation from which an explanation shows the item and not what was learnt


def predict(words: Words, runs_dir: str, reporter: Reporter) -> dict[str, Any]:
    """Classify files, with a checkpoint and examples or with an artefact, see `deploy.deployed.predicted`.

    Args:
        words: the command line.
        runs_dir: the folder of all runs.
        reporter: gets a line on what is used.

    Returns:
        the checkpoint, the classes with their numbers of examples, and the answers.

    Raises:
        UserError: if something cannot be used.
    """
    settings, sources = asking.read(words)
    episodes, keep = asking.calibration(settings, 0)
    learner, queries = asking.asked(words, settings, sources, runs_dir, reporter)
    if "support" in settings:
        learner = _calibrated(learner, episodes, keep, reporter)
    elif learner.calibration:
        _tell(learner.calibration, reporter)
    from metalearn_cli.deploy import deployed

    unlike = _warned(learner, queries, reporter)
    audited = _audited(settings, learner, reporter)
    found = {"ckpt": learner.trained.source, "classes": dict(learner.support.sizes), "unlike": unlike, **audited}
    calibration = learner.calibration and learner.calibration._asdict()
    return {**found, "calibration": calibration, "answers": deployed.predicted(learner, queries)}


def _warned(learner: Any, items: Any, reporter: Reporter) -> list[str]:
    """Warn of items that are unlike the examples, and return in which ways they are."""
    from metalearn_cli.deploy import deployed

    unlike: list[str] = deployed.warnings_of(learner, items)
    for way in unlike:
        told = f"warning: unlike the examples, so that answers are less sure than they look: {way}"
        reporter.note(on_one_line(told))
    return unlike


def explain(words: Words, runs_dir: str, reporter: Reporter) -> dict[str, Any]:
    """Explain a learner, of a checkpoint or an artefact: its answers, its map, its network, or what columns are worth.

    Args:
        words: the command line.
        runs_dir: the folder of all runs.
        reporter: gets a line on what is used.

    Returns:
        what the function of the method returns.

    Raises:
        UserError: if something cannot be used.
    """
    settings, sources = asking.read(words)
    method = settings.get("method", "")
    if method and method not in METHODS:
        raise UserError(f"method must be one of {', '.join(METHODS)}, got {method!r}{meant(method, METHODS)}")
    if "episodes" in settings and method != "permutation":
        raise UserError("episodes is for method=permutation; leave it out")
    folder = Path(expanded(settings.get("out", "explained")))
    if settings.get("out") == "":
        raise UserError("out must be a folder, got nothing")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"out={folder} is no folder")
    if method == "permutation":
        episodes = asking.whole(settings, "episodes", "100", "a number of episodes, 2 or more", 2)
        return _columns_worth(asking.alone(settings, sources, runs_dir), folder, episodes)
    if method == "network":
        with importing():
            from metalearn_cli.deploy.blocks import blocks
        return blocks(asking.alone(settings, sources, runs_dir))
    few = method in ("pca", "tsne")  # the examples alone may do
    learner, queries = asking.asked(words, settings, sources, runs_dir, reporter, few)
    return _map(learner, queries, method, folder) if few else _reasons(learner, queries, method, folder, reporter)


def _columns_worth(trained: Any, folder: Path, episodes: int) -> dict[str, Any]:
    """Return what `deploy.importance` finds of the columns of a table, with its `picture` and its `numbers`."""
    from metalearn_cli.deploy import importance
    from metalearn_cli.records.plots import attribution_bars
    from metalearn_cli.records.runs import write_json

    found = importance.importance(trained, episodes)
    picture, numbers = folder / "columns.png", folder / "columns.json"
    own = found["columns"]
    shape = f"{found['way']}-way {found['shot']}-shot, {episodes} validation episodes"
    title = f"accuracy {100 * found['accuracy']:.1f} %, {shape}"
    told = "by how much it falls when the column is permuted, with its 95 % interval"
    attribution_bars([(c["column"], c["fall"]) for c in own], title, picture, told, [c["interval"] for c in own])
    write_json(numbers, found)
    return {"folder": str(folder), "picture": str(picture), "numbers": str(numbers), **found}


def _map(learner: Any, queries: Any, method: Any, folder: Path) -> dict[str, Any]:
    """Return what `deploy.mapping` finds, with its `picture`, a page, and its `numbers`, a CSV."""
    from metalearn_cli.cli import page
    from metalearn_cli.deploy.mapping import mapped
    from metalearn_cli.records.runs import write_text

    found = mapped(learner, queries, method)
    points = [page.Point(_titled(own), own["class"], own["x"], own["y"], own["new"]) for own in found["points"]]
    axis = page.of_components(*found["variance"]) if found["variance"] else "t-SNE: near items are alike"
    told = (
        "Each mark is an item, each colour and shape a class; point at one to read what it is. Hollow marks are files, "
        "with the class of the answer. map.csv has all names and places."
    )
    picture, numbers = folder / "map.html", folder / "map.csv"
    folder.mkdir(parents=True, exist_ok=True)
    write_text(picture, page.map_page("Where the items of classes lie", told, points, axis))
    write_text(numbers, csv_of(found["points"], MAPPED))
    return {"folder": str(folder), "picture": str(picture), "numbers": str(numbers), **found}


def _titled(point: Mapping[str, Any]) -> str:
    """Return what is shown of an item of a map when it is pointed at."""
    role = "a file, answered with the class" if point["new"] else "an example of the class"
    return f"{on_one_line(point['item'])}, {role} {point['class']}"


def _reasons(learner: Any, queries: Any, method: Any, folder: Path, reporter: Reporter) -> dict[str, Any]:
    """Return why a learner gives its answers, see `deploy.explained`.

    Returns:
        `numbers`, the file of all numbers, and the `explanations`, each with its `picture`; without the values of
        pixels, which are in the file.
    """
    learner.check_floats("explain its checkpoint, or an artefact in floats")
    _warned(learner, queries, reporter)
    from metalearn_cli.deploy import explained

    found = explained.explained(learner, queries, method)
    if not found[0]["examples"]:
        why = "each is the only one of its class, or the learner adapts its network to all of them"
        reporter.note(f"the influence of examples is not known: {why}")
    if sure := [one["file"] for one in found if one["sum"] == 0 != one["difference"]]:
        why = "is 1 to the last digit, whatever is left out; an artefact has calibrated ones: mlx export"
        reporter.note(on_one_line(f"warning: the probability of the answer to {sure[0]} {why}"))
    sanity = [one["sanity"] for one in found if one["sanity"] is not None]
    if sanity and fmean(sanity) > _SAME:
        same = "networks with shuffled weights give nearly the same maps, so that these do not show what was learnt"
        reporter.note(f"warning: {same} (mean correlation {fmean(sanity):.2f})")
    pictures = explained.write(folder, learner, queries, found)
    rows = [{**one, "picture": path} for one, path in zip(found, pictures, strict=True)]
    told = [{key: value for key, value in row.items() if key != "values"} for row in rows]
    return {"folder": str(folder), "numbers": str(folder / explained.NUMBERS), "explanations": told}


def export(words: Words, runs_dir: str, reporter: Reporter) -> dict[str, Any]:
    """Write an artefact into exports/NAME, see `deploy.artefact`.

    Returns:
        its `folder`, `files`, `result`, and `told`, a sentence on the result; `encoder`, the bytes of the graph and the
        seconds that it takes for one item, in floats and, if asked for, in integers; and `quantize`, which says what
        these have changed, see `deploy.quantizing`.

    Raises:
        UserError: if something cannot be used.
    """
    settings, others = asking.read(words)
    if others:
        raise UserError(f"mlx export takes no {others[0]!r}; see: mlx export --help")
    if "support" not in settings:
        raise UserError(f"support is missing: {asking.SUPPORT}")
    episodes, keep = asking.calibration(settings, 100)
    if (kind := settings.get("quantize")) not in (None, "int8"):
        raise UserError(f"quantize must be int8, got {kind!r}")
    name = settings.get("name") or Path(expanded(settings["support"])).resolve().stem
    folder = Path("exports") / name
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise UserError(f"name must be a name without folders, got {name!r}")
    _check_new(folder)
    asking.use_threads(settings)
    with importing():
        from metalearn_cli.deploy import artefact, card, exporting
        from metalearn_cli.deploy.folder import changing
        from metalearn_cli.deploy.record import record_of
    exporting.check_installed()
    learner, _ = asking.learnt(settings, runs_dir)
    record = record_of(learner.trained.source, learner.trained.algorithm, runs_dir)
    smaller = _quantizer(learner, record["result"], runs_dir) if kind else None
    try:
        learner = _calibrated(learner, episodes, keep, reporter)
    except UserError as error:
        if "calibration" in settings:
            raise
        reporter.note(f"not calibrated: {error}")
    tried = artefact.items_to_try(learner)
    graphs = {"float": exporting.graph_of(learner.enrolled, tried)}
    if smaller:
        reporter.note("quantize: answering the test episodes in floats and in integers")
        graphs["int8"], record["quantize"] = smaller(graphs["float"])
    with _made(folder.parent), changing(folder):
        _check_new(folder)  # another process may have written it meanwhile
        about = artefact.write_artefact(folder, learner, record, list(graphs.values())[-1])
    told = [card.result(about), *([card.change(about)] if smaller else [])]
    kept = {key: about[key] for key in ("files", "result", "quantize")}
    encoder = {kind: {"bytes": len(g), "seconds": exporting.latency(g, tried)} for kind, g in graphs.items()}
    return {"folder": str(folder), **kept, "encoder": encoder, "told": " ".join(told)}


def enrol(words: Words) -> dict[str, Any]:
    """Add a class to an artefact.

    Returns:
        what `classes` returns.

    Raises:
        UserError: if something cannot be used; the artefact is then unchanged.
    """
    settings, others = asking.read(words)
    if len(others) < 3:
        raise UserError("mlx enrol needs an artefact, the name of a class and its files: mlx enrol ARTEFACT NAME FILES")
    folder, name, *files = others
    with importing():
        from metalearn_cli.deploy import changes
    changes.enrol(Path(expanded(folder)), name, files, asking.columns(settings))
    return classes(folder)


def unenrol(words: Sequence[str]) -> dict[str, Any]:
    """Take a class out of an artefact.

    Args:
        words: the artefact and the class.

    Returns:
        what `classes` returns.

    Raises:
        UserError: if something cannot be used; the artefact is then unchanged.
    """
    if len(words) != 2:
        raise UserError("mlx unenrol needs an artefact and the name of a class: mlx unenrol ARTEFACT NAME")
    folder, name = words
    with importing():
        from metalearn_cli.deploy import changes
    changes.unenrol(Path(expanded(folder)), name)
    return classes(folder)


def classes(folder: str) -> dict[str, Any]:
    """Return the `classes` of an artefact, each with its number of examples.

    Raises:
        UserError: if it is none, or damaged.
    """
    from metalearn_cli.deploy.folder import read_about

    about = read_about(Path(expanded(folder)))
    return {"artefact": folder, "classes": dict(Counter(sorted(example["class"] for example in about["examples"])))}


def stream(words: Words, reporter: Reporter) -> dict[str, Any]:
    """Give labelled items to an artefact's learner one by one, see `deploy.streamed`.

    Returns:
        the `artefact`, what `deploy.streamed.streamed` returns, and whether the items were `saved`.

    Raises:
        UserError: if something cannot be used; the artefact is then unchanged.
    """
    settings, others = asking.read(words)
    if len(others) != 2:
        raise UserError("mlx stream needs an artefact and its labelled items: mlx stream ARTEFACT FOLDER|TABLE")
    name, source = others
    shuffled = asking.chosen(settings, "order", "given", "shuffled")
    saved = asking.chosen(settings, "save", "false", "true")
    share, seed = asking.share(settings, "held_out", "0.2"), asking.whole(settings, "seed", "0", "a whole number")
    replay = asking.whole(settings, "replay", "1", "a number of items, 1 or more", 1) if "replay" in settings else None
    asking.use_threads(settings)
    with importing():
        from metalearn_cli.deploy import artefact, changes, deployed, exporting, streamed
    if saved:
        exporting.check_installed()
    learner, _ = artefact.read_artefact(Path(expanded(name)))
    learner.check_floats("stream to an artefact in floats")
    learning = streamed.learning_of(learner, replay, seed)
    items = deployed.reader_of(learner.trained, asking.columns(settings)).labelled(source)
    parts = streamed.parts_of(items.labels, share, shuffled, seed)
    _warned(learner, items, reporter)
    found = streamed.streamed(learner, items, parts, learning)
    if again := found["again"]:
        are = "is an example" if len(again) == 1 else "are examples"
        told = f"{len(again)} of {counted(len(items.names), 'item')} {are} already, such as {again[0]}"
        reporter.note(on_one_line(f"warning: {told}: their answers are better than those of new items would be"))
    if saved:
        changes.change(Path(expanded(name)), lambda now: deployed.with_examples(now, items.of(parts.stream)))
    return {"artefact": name, "saved": saved, **found}


class Server(NamedTuple):
    """A server that is ready.

    Attributes:
        told: its `artefact`, `classes` and `url`.
        run: answers requests until SIGTERM or Ctrl-C.
    """

    told: dict[str, Any]
    run: Callable[[], None]


def serve(words: Words) -> Server:
    """Prepare to serve an artefact, see `deploy.server`.

    Raises:
        UserError: if something cannot be used.
    """
    settings, others = asking.read(words)
    if len(others) != 1:
        raise UserError("mlx serve needs one artefact: mlx serve ARTEFACT")
    from metalearn_cli.deploy import server
    from metalearn_cli.deploy.bodies import Limits

    host, token = settings.get("host", "127.0.0.1"), settings.get("token", os.environ.get("MLX_TOKEN", ""))
    if token and not re.fullmatch(r"[\x21-\x7e]{16,}", token):
        raise UserError("the token must have 16 or more letters, digits or marks, without spaces")
    if not token and not server.is_loopback(host):
        told = f"host={host} may be reached from other machines, so that it needs a token"
        raise UserError(f"{told}: MLX_TOKEN=16-LETTERS-OR-MORE {asking.command_line(words)}")
    origins = tuple(filter(None, settings.get("origins", "").split(",")))
    if wrong := [origin for origin in origins if not re.fullmatch(r"https?://[^/\s*]+", origin)]:
        raise UserError(f"origins are as in https://a.example, without a path, got {wrong[0]}")
    port = asking.whole_in(settings, "port", 8000, range(1 << 16))
    usual = Limits()._asdict()
    limits = Limits(**{key: asking.whole_in(settings, f"limit.{key}", usual[key], range(1, 10**6)) for key in usual})
    state = server.State(server.Settings(Path(expanded(others[0])), token, origins, limits))
    listener, url = server.listening(host, port)
    ready = {"artefact": others[0], "classes": state.served().sizes, "url": url}
    return Server(ready, lambda: server.run(state, listener))


def _check_new(folder: Path) -> None:
    """Check that a folder does not exist.

    Raises:
        UserError: if it does.
    """
    if folder.exists():
        raise UserError(f"{folder} exists; remove it, or choose another name: name=NAME")


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    """Make a folder for a block; if it fails, the folder goes again, unless it was there or something is in it."""
    new = not folder.exists()
    folder.mkdir(exist_ok=True)
    try:
        yield
    except BaseException:
        with suppress(OSError):
            if new:
                folder.rmdir()
        raise


def _quantizer(learner: Any, result: Mapping[str, Any] | None, runs_dir: str) -> Callable[[bytes], Any]:
    """Return the function that returns a graph in integers.

    Raises:
        UserError: if what it costs cannot be measured.
    """
    from metalearn_cli.deploy import quantizing

    quantizing.check_quantizable(learner)
    return partial(quantizing.int8, learner, quantizing.tested(learner.trained.source["run"], result, runs_dir))


def csv_of(found: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Return facts of items as CSV, a row for each."""
    file = io.StringIO()
    rows = csv.writer(file, lineterminator="\n")
    rows.writerow(columns)
    rows.writerows([cell(answer[name]) for name in columns] for answer in found)
    return file.getvalue()


def _audited(settings: Mapping[str, str], learner: Any, reporter: Reporter) -> dict[str, Any]:
    """Return the examples that look mislabelled, if they are asked for, and tell of them.

    Raises:
        UserError: if they cannot be found, or the setting is neither true nor false.
    """
    if not asking.chosen(settings, "audit", "false", "true"):
        return {}
    from metalearn_cli.deploy.deployed import suspects

    found = suspects(learner)
    for one in found:
        told = f"learnt from all other examples, {one['example']} is taken for {one['answer']}, not {one['class']}"
        reporter.note(on_one_line(f"audit: {told} (margin {one['margin']:.3g})"))
    if not found:
        reporter.note("audit: each example is taken for its class, learnt from all others")
    return {"suspects": found}


def _calibrated(learner: Any, episodes: int, keep: float, reporter: Reporter) -> Any:
    """Return a learner that was calibrated on validation episodes, if there are to be any."""
    if not episodes:
        return learner
    from metalearn_cli.deploy.deployed import with_calibration

    learner = with_calibration(learner, episodes, keep)
    _tell(learner.calibration, reporter)
    return learner


def _tell(calibration: Any, reporter: Reporter) -> None:
    from metalearn_cli.deploy.calibrating import told

    reporter.note(told(calibration))
