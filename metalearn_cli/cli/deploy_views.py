"""The tables that the commands after training print: of answers, explanations and artefacts."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from metalearn_cli.cli import telling
from metalearn_cli.cli.data_views import listing
from metalearn_cli.cli.phrases import on_one_line, spread
from metalearn_cli.cli.views import heading_of
from metalearn_cli.core.check import counted


def answers(found: Mapping[str, Any]) -> None:
    """Show the answers of `mlx predict`, a row for each item."""
    rows = [
        [
            on_one_line(a["file"]),
            a["class"],
            f"{100 * a['probability']:.1f}",
            f"{a['distance']:.3g}",
            on_one_line(a["nearest"]),
        ]
        for a in found["answers"]
    ]
    columns = ["file", "class", "probability %", "distance", "nearest example"]
    if any(a["unknown"] is not None for a in found["answers"]):
        columns.append("unknown")
        for row, answer in zip(rows, found["answers"], strict=True):
            row.append("yes" if answer["unknown"] else "")
    telling.table("", columns, rows, right=("probability %", "distance"))


def explained(found: Mapping[str, Any]) -> None:
    """Show what `mlx explain` has found, by its method."""
    shown = {"explanations": _explanations, "columns": _columns_worth, "points": _map, "blocks": _network}
    next(show for key, show in shown.items() if key in found)(found)


def _columns_worth(found: Mapping[str, Any]) -> None:
    """Show by how much accuracy falls without each column of a table."""
    rows = [[own["column"], spread("accuracy", own["fall"], own["interval"])] for own in found["columns"]]
    accuracy = spread("accuracy", found["accuracy"], found["interval"])
    title = f"{found['way']}-way {found['shot']}-shot, accuracy {accuracy} on {found['episodes']} validation episodes"
    telling.table(title, ["column", "!falls by, when it is permuted"], rows)
    if found["sanity"] is not None:
        telling.say(f"sanity: rank correlation with networks of shuffled weights {found['sanity']:.2f}")
    telling.say(f"picture: {found['picture']}\nnumbers: {found['numbers']}")


def _map(found: Mapping[str, Any]) -> None:
    """Show where the map of items is."""
    new = sum(point["new"] for point in found["points"])
    telling.say(f"{counted(len(found['points']) - new, 'example')} and {counted(new, 'file')} by {found['method']}")
    telling.say(f"picture: {found['picture']}\nnumbers: {found['numbers']}")


def _network(found: Mapping[str, Any]) -> None:
    """Show the blocks of a network."""
    rows = [["", "input", listing(found["input"]), "", ""]]
    for number, block in enumerate(found["blocks"], start=1):
        output = "-" if block["output"] is None else listing(block["output"])
        learns = " and ".join(block["learn"]) or "never"
        rows.append([str(number), block["layers"], output, f"{block['parameters']:,}", learns])
    columns = ["!", "layers", "!output", "!parameters", "learns"]
    telling.table(f"{found['backbone']} with {found['learner']}", columns, rows, right=("parameters",))
    telling.say(f"{found['parameters']:,} parameters")


def _explanations(found: Mapping[str, Any]) -> None:
    """Show why files get their answers, a row for each."""
    rows = [
        [
            on_one_line(one["file"]),
            one["class"],
            f"{100 * one['probability']:.1f}",
            "-" if one["sanity"] is None else f"{one['sanity']:.2f}",
            next((f"{on_one_line(own['example'])} ({own['influence']:+.3g})" for own in one["examples"]), "-"),
            one["picture"],
        ]
        for one in found["explanations"]
    ]
    columns = ("file", "class", "probability %", "sanity", "strongest example", "picture")
    telling.table("", columns, rows, right=("probability %", "sanity"))
    telling.say(f"numbers: {found['numbers']}")


def streamed(found: Mapping[str, Any]) -> None:
    """Show how well a learner of `mlx stream` has answered and learnt."""
    labels = {
        "prequential": "right before it is learnt (prequential accuracy)",
        "repeated": "right if the answer is the class of the item before",
        "held_out": "right at the end, of items held out",
        "forgetting": "forgotten: lower at the end than after the last item of the class",
    }
    rows = []
    for key, label in labels.items():
        ((unit, number),) = found[key]["over"].items()
        over = counted(number, {"items": "item", "classes": "class"}[unit])
        rows.append([label, spread("accuracy", found[key]["value"], found[key]["interval"]), over])
    telling.table(f"stream {found['artefact']}", ["", "!share", "!over"], rows)
    classes = f"{counted(found['known'], 'class')} known before, {found['new']} new"
    telling.say(f"{counted(found['items'], 'item')} in the stream, {classes}; it learns {found['learning']}.")
    telling.say("+- is the half-width of a 95 % interval. A stream that comes class by class flatters the first share;")
    telling.say("compare it with the second. The third is of items that were taken out before the stream began.")
    if found["saved"]:
        telling.say(f"{found['artefact']} has the items of the stream as examples now.")


def exported(found: Mapping[str, Any]) -> None:
    """Show what `mlx export` has written."""
    telling.table("", ("!file", "bytes"), [[n, str(f["bytes"])] for n, f in found["files"].items()], right=("bytes",))
    telling.say(found["told"])
    rows = [[kind, str(e["bytes"]), f"{1000 * e['seconds']:.3f}"] for kind, e in found["encoder"].items()]
    columns = ("encoder.onnx", "bytes", "ms an item")
    telling.table("", columns, rows, right=columns[1:])
    if found["quantize"]:
        before, after = (found["encoder"][kind]["seconds"] for kind in ("float", "int8"))
        slower = "slower" if after > before else "faster"
        telling.say(f"Here int8 is {slower} than float, {after / before:.2f} times as long for one item.")
    folder = shlex.quote(found["folder"])
    telling.say(f"next: mlx predict {folder} FILE")
    telling.say(f"      mlx enrol {folder} NAME FILES")


def compressed(found: Mapping[str, Any], runs_dir: str) -> None:
    """Show what `mlx compress` has made, beside what it was made from."""
    protocols, rows = [change["normalisation"] for change in found["changes"]], []
    for kind, network in zip(("trained", found["method"]), found["networks"], strict=True):
        results = {result["normalisation"]: result for result in reversed(network["results"])}  # from all classes first
        own = [results.get(name) or results["none"] for name in protocols]
        named = {"trained": "trained", "prune": "pruned", "distill": "distilled"}[kind]
        size = [str(network["parameters"]), f"{network['bytes'] / 1000:.0f}", f"{1000 * network['seconds']:.3f}"]
        rows.append([named, *size, *(spread(result["name"], result["value"], result["interval"]) for result in own)])
    sizes = ("parameters", "kB", "ms an item")
    scores = [f"!accuracy, {name}" if name != "none" else "!accuracy" for name in protocols]
    telling.table(
        heading_of(found["networks"][0]["results"][0], found), ["network", *sizes, *scores], rows, right=sizes
    )
    for change in found["changes"]:
        under = "" if change["normalisation"] == "none" else f", {change['normalisation']}"
        points = f"{100 * change['gain']:+.2f} +- {100 * change['half_width']:.2f} percentage points"
        pairs = counted(change["over"]["episodes"], "episode")
        telling.say(f"change of the accuracy{under}: {points} (95 %, in pairs over {pairs})")
    telling.say("ms an item: of the backbone in torch, statistics fixed, the median of 200 calls with one item")
    typed = ["mlx", "export", f"ckpt={found['run']}", "support=EXAMPLES"]
    telling.say(f"next: {shlex.join([*typed, *['--runs-dir', runs_dir] * (runs_dir != 'runs')])}")


def enrolled(found: Mapping[str, Any]) -> None:
    """Show the classes of an artefact."""
    rows = [[name, str(count)] for name, count in found["classes"].items()]
    telling.table(found["artefact"], ("class", "examples"), rows, right=("examples",))


def served(found: Mapping[str, Any]) -> None:
    """Show where an artefact is served."""
    telling.say(f"{found['artefact']} is at {found['url']} (Ctrl-C ends it)")
