"""The commands that use a trained learner: their words, and what they print besides tables."""

from __future__ import annotations

import csv
import io
import os
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

from metalearn_cli.cli.phrases import cell, on_one_line
from metalearn_cli.cli.words import ANSWERING, DEPLOYING, NAMING, Words, behind, meant
from metalearn_cli.core.check import counted
from metalearn_cli.core.errors import UserError, gathered, raise_all
from metalearn_cli.core.importing import importing
from metalearn_cli.core.machine import too_many_threads
from metalearn_cli.core.places import expanded

if TYPE_CHECKING:
    from metalearn_cli.core.types import Reporter

PREDICTED = ("file", "class", "probability", "distance", "nearest", "unknown")
STREAMED = ("item", "class", "answer", "right")
MAPPED = ("item", "class", "new", "x", "y")
"""The columns of answers and of maps as CSV."""

METHODS = ("gradients", "occlusion", "permutation", "pca", "tsne", "network")
"""Of `mlx explain`."""

_COLUMN = "column."
_EPISODES = "a whole number of validation episodes, 2 or more, or 0 for none"
_SUPPORT = "support=FOLDER, a folder with a folder of examples for each class"
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
    settings, sources = _read(words)
    episodes, keep = _calibration(settings, 0)
    learner, queries = _asked(words, settings, sources, runs_dir, reporter)
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
    settings, sources = _read(words)
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
        episodes = _whole(settings, "episodes", "100", "a number of episodes, 2 or more", 2)
        return _columns_worth(_alone(settings, sources, runs_dir), folder, episodes)
    if method == "network":
        with importing():
            from metalearn_cli.deploy.blocks import blocks
        return blocks(_alone(settings, sources, runs_dir))
    few = method in ("pca", "tsne")  # the examples alone may do
    learner, queries = _asked(words, settings, sources, runs_dir, reporter, few)
    return _map(learner, queries, method, folder) if few else _reasons(learner, queries, method, folder, reporter)


def _alone(settings: Mapping[str, str], sources: Sequence[str], runs_dir: str) -> Any:
    """Return what was trained, for what needs neither examples nor files.

    Raises:
        UserError: if something else is named.
    """
    exported = bool(sources) and _is_artefact(sources[0])
    if others := [*sources[exported:], *(f"{key}=" for key in ("support", "statistics") if key in settings)]:
        told = f"method={settings['method']} takes no {others[0]}"
        raise UserError(f"{told}; type: mlx explain ckpt=latest method={settings['method']}")
    if exported and "ckpt" in settings:
        raise UserError(f"ckpt is not for an artefact, which has its own: {sources[0]}")
    _use_threads(settings)
    with importing():
        from metalearn_cli.deploy import artefact, deployed
    if exported:
        return artefact.read_artefact(Path(expanded(sources[0])))[0].trained
    return deployed.named(settings.get("ckpt", "latest"), runs_dir, "support")


def _columns_worth(trained: Any, folder: Path, episodes: int) -> dict[str, Any]:
    """Return what `deploy.importance` finds of the columns of a table, with its `picture` and its `numbers`."""
    from metalearn_cli.deploy import importance
    from metalearn_cli.records.plots import attribution_bars
    from metalearn_cli.records.runs import write_json

    found = importance.importance(trained, episodes)
    picture, numbers = folder / "columns.png", folder / "columns.json"
    own = found["columns"]
    title = f"accuracy {found['accuracy']:.1%}, {found['way']}-way {found['shot']}-shot, {episodes} validation episodes"
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
    settings, others = _read(words)
    if others:
        raise UserError(f"mlx export takes no {others[0]!r}; see: mlx export --help")
    if "support" not in settings:
        raise UserError(f"support is missing: {_SUPPORT}")
    episodes, keep = _calibration(settings, 100)
    if (kind := settings.get("quantize")) not in (None, "int8"):
        raise UserError(f"quantize must be int8, got {kind!r}")
    name = settings.get("name") or Path(expanded(settings["support"])).resolve().stem
    folder = Path("exports") / name
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise UserError(f"name must be a name without folders, got {name!r}")
    _check_new(folder)
    _use_threads(settings)
    with importing():
        from metalearn_cli.deploy import artefact, card, exporting
        from metalearn_cli.deploy.folder import changing
        from metalearn_cli.deploy.record import record_of
    exporting.check_installed()
    learner, _ = _learnt(settings, runs_dir)
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
    settings, others = _read(words)
    if len(others) < 3:
        raise UserError("mlx enrol needs an artefact, the name of a class and its files: mlx enrol ARTEFACT NAME FILES")
    folder, name, *files = others
    with importing():
        from metalearn_cli.deploy import changes
    changes.enrol(Path(expanded(folder)), name, files, _columns(settings))
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
    settings, others = _read(words)
    if len(others) != 2:
        raise UserError("mlx stream needs an artefact and its labelled items: mlx stream ARTEFACT FOLDER|TABLE")
    name, source = others
    shuffled, saved = _chosen(settings, "order", "given", "shuffled"), _chosen(settings, "save", "false", "true")
    share, seed = _share(settings, "held_out", "0.2"), _whole(settings, "seed", "0", "a whole number")
    replay = _whole(settings, "replay", "1", "a number of items, 1 or more", 1) if "replay" in settings else None
    _use_threads(settings)
    with importing():
        from metalearn_cli.deploy import artefact, changes, deployed, exporting, streamed
    if saved:
        exporting.check_installed()
    learner, _ = artefact.read_artefact(Path(expanded(name)))
    learner.check_floats("stream to an artefact in floats")
    learning = streamed.learning_of(learner, replay, seed)
    items = deployed.reader_of(learner.trained, _columns(settings)).labelled(source)
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
    settings, others = _read(words)
    if len(others) != 1:
        raise UserError("mlx serve needs one artefact: mlx serve ARTEFACT")
    from metalearn_cli.deploy import server
    from metalearn_cli.deploy.bodies import Limits

    host, token = settings.get("host", "127.0.0.1"), settings.get("token", os.environ.get("MLX_TOKEN", ""))
    if token and not re.fullmatch(r"[\x21-\x7e]{16,}", token):
        raise UserError("the token must have 16 or more letters, digits or marks, without spaces")
    if not token and not server.is_loopback(host):
        told = f"host={host} may be reached from other machines, so that it needs a token"
        raise UserError(f"{told}: MLX_TOKEN=SECRET {_typed(words)}")
    origins = tuple(filter(None, settings.get("origins", "").split(",")))
    if wrong := [origin for origin in origins if not re.fullmatch(r"https?://[^/\s*]+", origin)]:
        raise UserError(f"origins are as in https://a.example, without a path, got {wrong[0]}")
    port = _count(settings, "port", 8000, range(1 << 16))
    usual = Limits()._asdict()
    limits = Limits(**{key: _count(settings, f"limit.{key}", usual[key], range(1, 10**6)) for key in usual})
    state = server.State(server.Settings(Path(expanded(others[0])), token, origins, limits))
    listener, url = server.listening(host, port)
    ready = {"artefact": others[0], "classes": state.served().sizes, "url": url}
    return Server(ready, lambda: server.run(state, listener))


def _count(settings: Mapping[str, str], key: str, usual: int, allowed: range) -> int:
    """Return a setting that is a whole number.

    Raises:
        UserError: if it is none, or too small or too large.
    """
    value = settings.get(key, str(usual))
    if not re.fullmatch("[0-9]{1,9}", value) or int(value) not in allowed:
        raise UserError(f"{key} must be a whole number from {allowed[0]} to {allowed[-1]}, got {value!r}")
    return int(value)


def _is_artefact(name: str) -> bool:
    """Whether a name is that of the folder of an artefact."""
    from metalearn_cli.deploy.folder import is_artefact

    return bool(name) and is_artefact(Path(expanded(name)))


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


def _asked(
    words: Words,
    settings: Mapping[str, str],
    sources: Sequence[str],
    runs_dir: str,
    reporter: Reporter,
    few: bool = False,
) -> tuple[Any, Any]:
    """Return the learner that a command line names, a checkpoint's or an artefact's, and the items of its files.

    Args:
        words: the command line.
        settings: those of it.
        sources: its other words.
        runs_dir: the folder of all runs.
        reporter: gets a line on what is used.
        few: whether there may be no files; the items are then None.

    Raises:
        UserError: if something cannot be used.
    """
    exported = bool(sources) and _is_artefact(sources[0])
    if not exported and "support" not in settings:
        absent = f"{sources[0]} is no artefact, and " if sources else ""
        raise UserError(f"{absent}support is missing: {_SUPPORT}")
    if not exported and _is_artefact(support := settings["support"]):
        raise UserError(f"{support} is an artefact, which has its own examples: mlx {words.command} {support} FILE")
    if len(sources) == exported and not few:
        raise UserError(f"there is nothing to {words.command}: {_typed(words)} FILE|FOLDER|TABLE")
    if exported and (extra := sorted(settings.keys() & ANSWERING)):
        raise UserError(f"{', '.join(extra)} is not for an artefact, which has its own: {sources[0]}")
    _use_threads(settings)
    with importing():
        from metalearn_cli.deploy import artefact, deployed
    if exported:
        name, *sources = sources
        learner, _ = artefact.read_artefact(Path(expanded(name)))
        reader = deployed.reader_of(learner.trained, _columns(settings))
        queries = reader.queries(sources) if sources else None
    else:
        learner, queries = _learnt(settings, runs_dir, sources)
        name = f"{settings.get('ckpt', 'latest')} -> {learner.trained.source['checkpoint']}"
    sizes = learner.support.sizes
    told = ", ".join(f"{own} {count}" for own, count in sizes.items())
    reporter.note(f"{words.command}: {name}; {counted(len(sizes), 'class')}: {told}")
    return learner, queries


def _learnt(settings: Mapping[str, str], runs_dir: str, sources: Sequence[str] = ()) -> tuple[Any, Any]:
    """Return the learner of a checkpoint with the examples that settings name, and the items of other files.

    Raises:
        UserError: with what is wrong with the examples and with the files.
    """
    from metalearn_cli.deploy.deployed import Support, deployed, named, reader_of

    statistics: Any = settings.get("statistics", "support")
    trained = named(settings.get("ckpt", "latest"), runs_dir, statistics)
    reader, found, problems = reader_of(trained, _columns(settings)), list[Any](), list[UserError]()
    with gathered(problems):
        found.append(reader.support(settings["support"]))
    with gathered(problems):
        found.append(reader.queries(sources) if sources else None)
    raise_all(problems)
    support, queries = found
    return deployed(trained, Support(support.names, support.labels, support.items, looks=support.looks)), queries


def _quantizer(learner: Any, result: Mapping[str, Any] | None, runs_dir: str) -> Callable[[bytes], Any]:
    """Return the function that returns a graph in integers.

    Raises:
        UserError: if what it costs cannot be measured.
    """
    from metalearn_cli.deploy import quantizing

    quantizing.check_quantizable(learner)
    return partial(quantizing.int8, learner, quantizing.tested(result, runs_dir))


def csv_of(found: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Return facts of items as CSV, a row for each."""
    file = io.StringIO()
    rows = csv.writer(file, lineterminator="\n")
    rows.writerow(columns)
    rows.writerows([cell(answer[name]) for name in columns] for answer in found)
    return file.getvalue()


def _calibration(settings: Mapping[str, str], usual: int) -> tuple[int, float]:
    """Return the settings of the calibration: how many episodes, and the share of items that stay known.

    Raises:
        UserError: if they are no such numbers.
    """
    episodes = _whole(settings, "calibration", str(usual), _EPISODES)
    if episodes == 1:
        raise UserError(f"calibration must be {_EPISODES}, got '1'")
    return episodes, _share(settings, "unknown.keep", "0.95")


def _use_threads(settings: Mapping[str, str]) -> None:
    """Compute with as many threads as the settings name, or as many as a training has.

    Raises:
        UserError: if they name no such number.
    """
    named = settings.get("runtime.threads", "null") != "null"
    number = _whole(settings, "runtime.threads", "", "a number of threads, 1 or more, or null", 1) if named else None
    for problem in too_many_threads(number):
        raise UserError(f"{problem.key}: {problem.message}")
    with importing():
        import torch

        from metalearn_cli.engine.runtime import usual_threads
    torch.set_num_threads(number or usual_threads()[0])


def _whole(settings: Mapping[str, str], key: str, usual: str, what: str, least: int = 0) -> int:
    typed = settings.get(key, usual)
    if not typed.isdecimal() or int(typed) < least:
        raise UserError(f"{key} must be {what}, got {typed!r}")
    return int(typed)


def _share(settings: Mapping[str, str], key: str, usual: str) -> float:
    typed = settings.get(key, usual)
    if not re.fullmatch(r"0?\.\d*[1-9]\d*", typed):
        raise UserError(f"{key} must be a number between 0 and 1, got {typed!r}")
    return float(typed)


def _chosen(settings: Mapping[str, str], key: str, usual: str, other: str) -> bool:
    """Return whether the second of two values was chosen."""
    typed = settings.get(key, usual)
    if typed not in (usual, other):
        raise UserError(f"{key} must be {other} or {usual}, got {typed!r}")
    return typed == other


def _audited(settings: Mapping[str, str], learner: Any, reporter: Reporter) -> dict[str, Any]:
    """Return the examples that look mislabelled, if they are asked for, and tell of them.

    Raises:
        UserError: if they cannot be found, or the setting is neither true nor false.
    """
    if not _chosen(settings, "audit", "false", "true"):
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


def _columns(settings: Mapping[str, str]) -> dict[str, str]:
    """Return the columns that settings name, by role."""
    return {key.removeprefix(_COLUMN): value for key, value in settings.items() if key.startswith(_COLUMN)}


def _read(words: Words) -> tuple[dict[str, str], list[str]]:
    """Return the settings of a command line and its other words: names of files, and what is behind --.

    Raises:
        UserError: for a setting that the command does not have.
    """
    listed = DEPLOYING[words.command]
    known = dict.fromkeys([*listed, *(f"{_COLUMN}{role}" for role in ("path", "text"))])
    settings, others = dict[str, str](), list[str]()
    for word in words.rest[: len(words.rest) - len(words.names)]:
        key, equals, value = word.partition("=")
        if equals and key in known:
            settings[key] = value
        elif equals and key.replace(".", "").replace("_", "").isalnum() and not Path(word).exists():
            told = f"mlx {words.command} has no setting {key}{meant(key, known)}; it has {', '.join(known)}"
            raise UserError(f"{told}; {behind(words.command, word)}" if words.command in NAMING else told)
        else:
            others.append(word)
    return settings, [*others, *words.names]


def _typed(words: Words) -> str:
    return shlex.join(["mlx", words.command, *words.rest])
