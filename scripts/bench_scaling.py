"""What a meta-step costs: seconds and peak memory over tasks, way, shot, inner steps, width, image size and threads.

One setting changes at a time, from MAML of second order on 5-way 1-shot episodes of glyphs with 15 queries per class,
4 tasks, 1 inner step, conv4-64, 28x28. Every point is our stage with its own data path, in a separate process:
`make bench-scaling`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench_common import Ours, Turn, arguments, command, machine, number, race, table

BASE = ["data=glyphs", "algorithm=maml", "tasks=4", "way=5", "shot=1", "train_query=15"]
CORES = os.cpu_count() or 1


@dataclass(frozen=True)
class Sweep:
    """One setting, its values (`quick`: those of a quick run), and the words that set one.

    With `once`, only the first step of a point is measured: for slow points of which only the memory matters.
    """

    title: str
    values: Sequence[int]
    quick: Sequence[int]
    words: Callable[[int], list[str]]
    once: bool = False


def _groups(tasks: int) -> list[str]:
    return [f"tasks={tasks}", "runtime.task_batching=groups", f"runtime.task_chunk={min(tasks, 4)}"]


SWEEPS = {
    "tasks": Sweep("tasks per step", [1, 2, 4, 8, 16, 32, 64, 128, 256], [1, 4], lambda n: [f"tasks={n}"]),
    "way": Sweep("way", [2, 5, 10, 20, 40, 60], [2, 10], lambda n: [f"way={n}"]),
    "shot": Sweep("shot", [1, 2, 3, 5], [1, 5], lambda n: [f"shot={n}"]),
    "inner-steps": Sweep("inner steps", [1, 2, 5, 10, 20, 50], [1, 5], lambda n: [f"algorithm.inner_steps={n}"]),
    "checkpointed": Sweep(
        "inner steps, with gradient checkpointing",
        [1, 5, 20, 50],
        [1, 5],
        lambda n: [f"algorithm.inner_steps={n}", "runtime.gradient_checkpointing=true"],
    ),
    "width": Sweep("width (channels)", [8, 16, 32, 64, 128], [8, 32], lambda n: [f"backbone.hidden={n}"]),
    "size": Sweep("image size (pixels a side)", [16, 28, 42, 56, 84], [16, 28], lambda n: [f"data.size={n}"]),
    "threads": Sweep(
        "threads",
        sorted({1, CORES, *(2**k for k in range(1, 8) if 2**k < CORES)}),
        sorted({1, CORES}),
        lambda n: [f"runtime.threads={n}"],
    ),
    "chunk": Sweep("tasks per step, computed in groups of 4", [1, 8, 32, 128], [1, 8], _groups, once=True),
    "deep": Sweep(
        "tasks per step, 50 inner steps",
        [1, 8, 32, 128],
        [1],
        lambda n: [f"tasks={n}", "algorithm.inner_steps=50", "algorithm.inner_lr=0.01"],
        once=True,
    ),
}


def point(words: list[str]) -> Turn:
    """Set our stage up; a turn is a step."""
    ours = Ours("meta-train", *words)
    return lambda turn: ours.step()


def measure(sweep: Sweep, quick: bool, budget: float) -> list[tuple[int, float, float, str]]:
    """Return (value, seconds, peak MB, why it failed or "") of each point."""
    rows = []
    for value in sweep.quick if quick else sweep.values:
        maker = partial(point, [*BASE, *sweep.words(value)])
        turns, warm = (1, 0) if sweep.once else (1 if quick else 5, 1)
        name = f"{sweep.title} {value}"
        result = race({name: maker}, turns, budget, warm, ours=[name])[name]
        rows.append((value, result.median, result.peak_mb, result.failure))
    return rows


def plot(results: dict[str, list[tuple[int, float, float, str]]], path: Path) -> None:
    """Draw seconds and memory of every sweep, one panel each."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    columns = min(3, len(results))
    rows = -(-len(results) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.1 * rows), layout="constrained")
    for index, (name, points) in enumerate(results.items()):
        left = figure.add_subplot(rows, columns, index + 1)
        right = left.twinx()
        measured = [point[:3] for point in points if not point[3]]
        if not measured:
            continue
        values, seconds, megabytes = zip(*measured, strict=True)
        for axis, numbers, colour, marker, label in (
            (left, seconds, "#0072B2", "o", "s per step"),
            (right, megabytes, "#D55E00", "s", "peak MB"),
        ):
            axis.plot(values, numbers, color=colour, marker=marker, markersize=4)
            axis.set_ylabel(label, color=colour)
            axis.tick_params(axis="y", labelcolor=colour)
        left.set_xscale("log")
        left.set_yscale("log")
        left.set_xticks(values, [str(value) for value in values])
        left.xaxis.set_minor_locator(NullLocator())
        left.set_ylim(min(seconds) / 2, 2 * max(seconds))  # wide enough for a few ticks in any range
        left.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        left.yaxis.set_minor_locator(NullLocator())
        left.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
        left.set_xlabel(SWEEPS[name].title)
        right.set_ylim(0, 1.15 * max((m for m in megabytes if m == m), default=1.0))
        left.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def main(words: list[str] | None = None) -> int:
    """Measure the chosen sweeps, print them as Markdown and, with --save, write scaling.md and scaling.png."""
    parser = arguments(__doc__.splitlines()[0], "docs/benchmarks")
    parser.add_argument("sweeps", nargs="*", metavar="SWEEP", help=f"any of {' '.join(SWEEPS)}; all")
    parser.add_argument("--budget", type=float, default=3.0, help="seconds after which a point takes no further turn")
    options = parser.parse_args(words)
    if wrong := set(options.sweeps) - set(SWEEPS):
        parser.error(f"no such sweep: {', '.join(sorted(wrong))}; there are {', '.join(SWEEPS)}")
    text = ["# Scaling", machine(), f"    {command('bench-scaling', words)}", f"Base: `{' '.join(BASE)}`."]
    print("\n\n".join(text), flush=True)
    results = {}
    for name in options.sweeps or SWEEPS:
        results[name] = measure(SWEEPS[name], options.quick, options.budget)
        rows = [[value, failure or number(seconds), number(mb)] for value, seconds, mb, failure in results[name]]
        text.append(table([SWEEPS[name].title, "s/step", "peak MB"], rows))
        print(f"\n{text[-1]}", flush=True)
    if options.save:
        options.save.mkdir(parents=True, exist_ok=True)
        (options.save / "scaling.md").write_text("\n\n".join(text) + "\n")
        plot(results, options.save / "scaling.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
