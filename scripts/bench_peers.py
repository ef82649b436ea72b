"""Our speed compared with the peers', on the same batches, in turn, in one run: `make bench`.

Before timing, every contestant's gradient is compared in float64 with that of a plain loop. Then each runs whole
meta-steps (gradients and a step of Adam) in a process of its own. Medians, peak memory and the share of this machine's
limit, measured in the same turns, go into one table per workload. Needs the environment that scripts/bench_env.sh
makes; a peer that is not installed is named and left out.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import mmap
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import bench_rivals
import torch
from bench_common import (
    LIMITS,
    WORKLOADS,
    Maker,
    Ours,
    Result,
    Turn,
    Workload,
    arguments,
    command,
    machine,
    number,
    on_device,
    race,
    table,
)
from bench_rivals import PLAIN, Batch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

OURS = "metalearn-cli"
BATCHES = 3  # different ones, in rotation
TOLERANCE = 1e-9  # of our gradient in float64, relative to the plain loop's
MEMORY_GOAL = 1.5  # times the leanest peer's
REPORTED = {"W1": 4.25, "W3": 0.79}  # seconds of learn2learn with its own data path on 2 cores of a Zen 4 server
END_TO_END_GOAL = {"W1": 2.8, "W3": 4.2}
STREAMED = 1 << 20  # items of a file too large for the processor's caches, though not for memory
BATCH_SIZE, BLOCK, UNCOUNTED = 128, 25, 5  # pretraining: images per step, steps per turn, those before the clock starts


def draw(workload: Workload, folder: Path) -> tuple[Path, str]:
    """Draw the batches that all contestants get, from Omniglot or, without it, from glyphs.

    Returns:
        The file that has them, and the data's name.
    """
    data = images()
    sampler = data.episodes("train", workload.way, workload.shot, workload.query, seed=0)
    path = folder / f"{workload.name}.pt"
    torch.save([tuple(sampler.batch(step, workload.tasks)) for step in range(BATCHES)], path)
    return path, data.name


def images() -> Any:
    """Return Omniglot, or glyphs where it can neither be found nor downloaded."""
    from metalearn_cli.core.errors import UserError
    from metalearn_cli.data.glyphs import glyphs
    from metalearn_cli.data.omniglot import omniglot

    try:
        return omniglot()
    except UserError as error:
        print(f"glyphs instead of omniglot: {error}", file=sys.stderr)
        return glyphs()


def our_side(workload: Workload, *words: str) -> Ours:
    """Return our stage with the weights that the peers start from; glyphs are the smallest data of this shape."""
    ours = Ours("meta-train", "data=glyphs", *workload.settings, *words)
    pairs = zip(ours.params.values(), bench_rivals.shared(bench_rivals.network(workload)), strict=True)
    with torch.no_grad():
        for own, theirs in pairs:
            own.copy_(theirs)
    return ours


def contestant(name: str, workload: Workload, path: Path) -> Turn:
    """Set one up for timing; a turn is a whole meta-step."""
    batches = torch.load(path)
    if name == OURS:
        from metalearn_cli.core.types import Episode

        ours = our_side(workload)
        return lambda turn: ours.step(Episode(*batches[turn % BATCHES]))
    if workload.allocator:
        from metalearn_cli.engine.runtime import tune

        tune()
    step = bench_rivals.rivals(workload)[name](bench_rivals.network(workload), workload)
    return lambda turn: step(batches[turn % BATCHES]) and None


def gradient(name: str, workload: Workload, batch: Batch, device: str = "cpu", words: Sequence[str] = ()) -> Tensor:
    """Return the gradient [P] of a batch in float64, of the tensors that all networks have.

    Args:
        name: whose.
        workload: what the batch is of.
        batch: on the device.
        device: where.
        words: more settings of ours.
    """
    if name == OURS:
        from metalearn_cli.core.types import Episode

        exact = replace(workload, tasks=len(batch[0]))
        ours = our_side(exact, *on_device(device), *words, "runtime.precision=64-true")
        ours.step(Episode(*batch))
        found: Iterable[Tensor] = ours.params.values()
    else:
        net = bench_rivals.network(workload, device).double()
        found = bench_rivals.shared(net)
        bench_rivals.rivals(workload)[name](net, workload)(batch)
    return torch.cat([p.grad.flatten() for p in found if p.grad is not None])


def deviations(names: Iterable[str], workload: Workload, path: Path, tasks: int) -> dict[str, float]:
    """Return the relative error of each one's gradient against the plain loop's, on the first tasks of a batch."""
    files = {
        name: path.with_name(f"gradient{index}.pt") for index, name in enumerate({PLAIN: 0, **dict.fromkeys(names)})
    }
    race({name: partial(keep_gradient, name, workload, path, tasks, file) for name, file in files.items()}, 1, warm=0)
    found = {name: torch.load(file) for name, file in files.items() if file.is_file()}
    plain = found[PLAIN]
    return {name: float((g - plain).norm() / plain.norm()) for name, g in found.items()}


def keep_gradient(name: str, workload: Workload, path: Path, tasks: int, file: Path) -> Turn:
    """Set one up to write its gradient of the first tasks of a batch to a file."""
    batch: Any = tuple(t[:tasks].double() if t.is_floating_point() else t[:tasks] for t in torch.load(path)[0])
    return lambda turn: torch.save(gradient(name, workload, batch), file)


@dataclass
class Report:
    """The tables and numbers so far: printed at once, kept for the files."""

    text: list[str]
    numbers: dict[str, Any]
    goals: list[list[object]]

    def say(self, text: str) -> None:
        """Print a paragraph and keep it."""
        print(f"{text}\n", flush=True)
        self.text.append(text)

    def goal(self, what: str, measured: float, wanted: float, unit: str = "times", least: bool = True) -> None:
        """Note a goal of the summary: at least, or at most, `wanted`."""
        if measured != measured or measured == float("inf"):
            verdict = "not measured"
        else:
            verdict = "reached" if (measured >= wanted if least else measured <= wanted) else "missed"
        bound = f"{'>=' if least else '<='} {number(wanted)} {unit}"
        self.goals.append([what, f"{number(measured)} {unit}", bound, verdict])


def compare(workload: Workload, chosen: list[str], options: argparse.Namespace, report: Report) -> None:
    """Measure one workload and report it."""
    possible = bench_rivals.rivals(workload)
    peers = [name for name in possible if name in chosen and bench_rivals.installed(name)]
    names = [*peers, *([OURS] if OURS in chosen else [])]
    with tempfile.TemporaryDirectory() as folder:
        path, data = draw(workload, Path(folder))
        apart = deviations(names, workload, path, min(workload.tasks, 2 if workload.way > 5 else 4))
        makers: dict[str, Maker] = {name: partial(contestant, name, workload, path) for name in names}
        results = race({**makers, **LIMITS}, options.turns, options.budget, ours=[OURS])
    limits = {name: 1 / results.pop(name).median for name in LIMITS}
    limit = max(limits.values())
    libraries = {n: r for n, r in results.items() if n not in (PLAIN, OURS) and r.seconds}
    fastest = min((r.median for r in libraries.values()), default=float("nan"))
    leanest = min((r.peak_mb for r in libraries.values()), default=float("nan"))
    rows = [
        [
            name,
            number(result.median),
            f"{number(min(result.seconds))}-{number(max(result.seconds))}" if result.seconds else "-",
            number(workload.tasks / result.median),
            number(fastest / result.median),
            f"{workload.flops / 1e9 / result.median / limit:.0%}",
            number(result.peak_mb),
            f"{apart[name]:.0e}" if name in apart else "-",
        ]
        for name, result in results.items()
    ]
    header = ["", "s/step", "range", "tasks/s", "x fastest peer", "of limit", "peak MB", "gradient off by"]
    missing = [name for name in possible if name in chosen and name not in peers]
    notes = [
        f"Data: {data}. Limit: {limit:.0f} GFLOP/s ({', '.join(f'{n[7:]} {v:.0f}' for n, v in limits.items())}); "
        f"a step has {workload.flops / 1e9:.0f} GFLOP of convolutions.",
        *([f"Not installed: {', '.join(missing)}."] if missing else []),
        *(f"{name} failed: {result.failure}." for name, result in results.items() if result.failure),
    ]
    report.say(f"## {workload.name}: {workload.title}\n\n{table(header, rows)}\n\n{' '.join(notes)}")
    report.numbers[workload.name] = {
        "data": data,
        "limit_gflops": limits,
        "contestants": {n: asdict(r) | {"gradient_off_by": apart.get(n)} for n, r in results.items()},
    }
    if ours := results.get(OURS):
        report.goal(f"{workload.name} against the fastest peer", fastest / ours.median, workload.goal)
        share = workload.flops / 1e9 / ours.median / limit
        report.goal(f"{workload.name}, share of the machine's limit", 100 * share, 100 * workload.share, "%")
        report.goal(f"{workload.name}, gradient off by", apart.get(OURS, float("nan")), TOLERANCE, "", least=False)
        if workload.name == "W1":
            report.goal("W1, peak memory", ours.peak_mb / leanest, MEMORY_GOAL, "times the leanest peer", least=False)


def end_to_end(options: argparse.Namespace, report: Report) -> None:
    """Measure W1 and W3 with ours and with learn2learn, each with its own data path."""
    data = images().name
    rows, numbers = [], {}
    for workload in (WORKLOADS["W1"], WORKLOADS["W3"]):
        makers: dict[str, Maker] = {OURS: partial(own_data, workload, data)}
        learn2learn = bench_rivals.installed("learn2learn") and data == "omniglot"
        if learn2learn:
            makers["learn2learn"] = partial(learn2learn_data, workload)
        results = race(makers, options.turns, options.budget, ours=[OURS])
        sampling = race({OURS: partial(own_data, workload, data, sampling=True)}, 5, ours=[OURS])[OURS].median
        ours, theirs = results[OURS], results.get("learn2learn", Result()).median
        quoted = "" if theirs < float("inf") else " (reported)"
        theirs = REPORTED[workload.name] if quoted else theirs
        speed = [number(ours.median), number(theirs) + quoted, number(theirs / ours.median)]
        rows.append([workload.name, *speed, f"{sampling / ours.median:.1%}", number(ours.peak_mb)])
        what = f"{workload.name} end to end against learn2learn{quoted}"
        report.goal(what, theirs / ours.median, END_TO_END_GOAL[workload.name])
        report.goal(f"{workload.name}, share of data", 100 * sampling / ours.median, 1.0, "%", least=False)
        numbers[workload.name] = {n: asdict(r) for n, r in results.items()} | {"data_seconds": sampling}
    header = ["", f"{OURS}, s/step", "learn2learn, s/step", "times", "our data", "our peak MB"]
    report.say(f"## End to end, each with its own data path (ours: {data})\n\n{table(header, rows)}")
    report.numbers["end-to-end"] = numbers


def own_data(workload: Workload, data: str, sampling: bool = False) -> Turn:
    """Set our stage up with its own sampler; a turn is a step, or its data alone."""
    ours = Ours("meta-train", f"data={data}", *workload.settings)
    if sampling:
        return lambda turn: ours.prepared.job.batches(turn) and None
    return lambda turn: ours.step()


def learn2learn_data(workload: Workload) -> Turn:
    """Set learn2learn up with its Omniglot benchmark, which samples every task when it is used."""
    import learn2learn
    from torchvision.datasets import Omniglot

    root = unpacked()
    Omniglot._check_integrity = lambda self: True  # of the archives, which stay where they are
    items = workload.shot + workload.query
    sizes = {"train_ways": workload.way, "train_samples": items, "test_ways": workload.way, "test_samples": items}
    tasks = learn2learn.vision.benchmarks.get_tasksets("omniglot", num_tasks=20000, root=str(root), **sizes).train
    step = bench_rivals.rivals(workload)["learn2learn"](bench_rivals.network(workload), workload)

    def turn(index: int) -> None:
        parts = []
        for _ in range(workload.tasks):
            x, y = tasks.sample()
            order = y.sort(stable=True).indices.view(workload.way, items)
            support, query = order[:, : workload.shot].flatten(), order[:, workload.shot :].flatten()
            parts.append((x[support], y[support], x[query], y[query]))
        step(tuple(torch.stack(part) for part in zip(*parts, strict=True)))  # type: ignore[arg-type]

    return turn


def unpacked() -> Path:
    """Return a folder with Omniglot's images in torchvision's layout, next to this environment's packages."""
    from metalearn_cli.data.common.cache import cache_dir

    root = Path(sys.prefix) / "omniglot"
    mirror = os.environ.get("MLX_DATA_DIR")
    for name in ("images_background", "images_evaluation"):
        if not (root / "omniglot-py" / name).is_dir():
            folder = Path(mirror).expanduser() / "omniglot" if mirror else cache_dir() / "downloads"
            with tempfile.TemporaryDirectory(dir=sys.prefix) as fresh, zipfile.ZipFile(folder / f"{name}.zip") as file:
                file.extractall(fresh)
                (root / "omniglot-py").mkdir(parents=True, exist_ok=True)
                shutil.move(Path(fresh) / name, root / "omniglot-py" / name)
    return root


def overhead(options: argparse.Namespace, report: Report) -> None:
    """Measure the engine's overhead: the same network and mathematics with it and written by hand, in one process."""
    rows, numbers = [], {}
    for workload in (WORKLOADS["W3"], replace(WORKLOADS["W1"], tasks=2)):
        results = race(
            {"engine": partial(engine_and_hand, workload)}, 10 * options.turns, options.budget, ours=["engine"]
        )
        ratio = results["engine"].median
        rows.append([workload.title.split(",")[0], workload.tasks, f"{ratio - 1:+.1%}", len(results["engine"].seconds)])
        report.goal(f"{rows[-1][0]}, overhead of the engine", 100 * (ratio - 1), 3.0, "%", least=False)
        numbers[workload.name] = results["engine"].seconds
    report.say(
        "## One algorithm through the engine and written by hand\n\n"
        + table(["", "tasks", "overhead", "pairs of steps"], rows)
    )
    report.numbers["overhead"] = numbers


def engine_and_hand(workload: Workload) -> Turn:
    """Set up both; a turn runs one step of each and returns the ratio of their times, engine to hand."""
    from metalearn_cli.core.types import Episode

    # the hand-written loop has no threads of its own
    ours = Ours("meta-train", "data=glyphs", *workload.settings, "runtime.task_batching=loop")
    batch: Any = ours.prepared.job.batches(0)
    by_hand = written_by_hand(workload, ours.params)

    def turn(index: int) -> float:
        sides: list[Callable[[], None]] = [lambda: ours.step(Episode(*batch)), lambda: by_hand(batch)]
        times = [0.0, 0.0]
        for side in (0, 1) if index % 2 else (1, 0):
            began = time.perf_counter()
            sides[side]()
            times[side] = time.perf_counter() - began
        return times[0] / times[1]

    return turn


def written_by_hand(workload: Workload, start: Mapping[str, Tensor]) -> Callable[[Batch], None]:
    """Return a meta-step on our own network without the engine and the algorithms."""
    from metalearn_cli.backbones.common.network import Network
    from torch.func import functional_call, grad
    from torch.nn.functional import cross_entropy

    from metalearn_cli.backbones.conv4 import Conv4

    net = Network(Conv4((1, 28, 28)), workload.way if workload.inner_steps else None)
    params = {name: p.detach().clone().requires_grad_() for name, p in start.items()}
    optimizer = torch.optim.Adam(params.values(), 1e-3)

    def maml(support_x: Tensor, support_y: Tensor, query_x: Tensor, query_y: Tensor) -> Tensor:
        def support_loss(fast: dict[str, Tensor]) -> Tensor:
            return cross_entropy(functional_call(net, fast, support_x), support_y)

        fast = params
        for _ in range(workload.inner_steps):
            slopes = grad(support_loss)(fast)
            fast = {name: p - workload.inner_lr * slopes[name] for name, p in fast.items()}
        return cross_entropy(functional_call(net, fast, query_x), query_y)

    def protonet(support_x: Tensor, support_y: Tensor, query_x: Tensor, query_y: Tensor) -> Tensor:
        embedded = functional_call(net, params, torch.cat([support_x, query_x]))
        support, query = embedded.split([len(support_x), len(query_x)])
        prototypes = support.view(workload.way, workload.shot, -1).mean(1)
        return cross_entropy(-(query[:, None] - prototypes).square().sum(-1), query_y)

    loss = maml if workload.inner_steps else protonet

    def step(batch: Batch) -> None:
        optimizer.zero_grad()
        for task in zip(*batch, strict=True):
            (loss(*task) / len(batch[0])).backward()
        optimizer.step()

    return step


def pretraining(options: argparse.Namespace, report: Report) -> None:
    """Measure autoencoder pretraining against a plain loop and Lightning's Trainer, both with a DataLoader."""
    data = images().name
    makers: dict[str, Maker] = {}
    for source in ["files", "memory"] if data == "omniglot" else ["memory"]:
        makers[f"{PLAIN}, {source}"] = partial(plain_pretraining, data, source)
        if bench_rivals.installed("lightning"):
            makers[f"Lightning, {source}"] = partial(lightning_pretraining, data, source)
    makers[OURS] = partial(our_pretraining, data)
    results = race({**makers, **LIMITS}, options.turns, options.budget, ours=[OURS])
    limit = max(1 / results.pop(name).median for name in LIMITS)
    gflop = convolutions_of_pretraining(data) / 1e9
    bound = 1e3 * gflop / limit
    ours = results[OURS]
    rows = [
        [
            name,
            number(1e3 * r.median),
            number(BATCH_SIZE / r.median),
            number(r.median / ours.median),
            f"{gflop / r.median / limit:.0%}",
            number(r.peak_mb),
        ]
        for name, r in results.items()
    ]
    report.say(
        f"## Autoencoder pretraining on {data}, batches of {BATCH_SIZE}\n\n"
        + table(["", "ms/step", "images/s", "times ours", "of limit", "peak MB"], rows)
        + "\n\nfiles: a DataLoader with 2 workers decodes each drawing when it is needed; memory: one over decoded "
        + f"tensors. Our step has {gflop:.1f} GFLOP of convolutions: {bound:.0f} ms at {limit:.0f} GFLOP/s, the limit."
    )
    for name, result in results.items():
        if name != OURS:
            report.goal(f"pretraining against {name}", result.median / ours.median, 3.0)
    report.numbers["pretrain"] = {name: asdict(result) for name, result in results.items()}


def convolutions_of_pretraining(data: str) -> float:
    """Return the floating-point operations of the convolutions of our step."""
    ours = Ours("pretrain", f"data={data}", "model=autoencoder", f"batch_size={BATCH_SIZE}")
    with FlopCounterMode(display=False) as counter:
        ours.step()
    return float(sum(n for op, n in counter.get_flop_counts()["Global"].items() if "convolution" in str(op)))


def per_step(stamps: list[float]) -> float:
    """Return the seconds per step of a turn, from the times at which its steps ended."""
    return (stamps[-1] - stamps[UNCOUNTED - 1]) / (len(stamps) - UNCOUNTED)


def our_pretraining(data: str) -> Turn:
    """Set our stage up; a turn is a block of steps."""
    ours = Ours("pretrain", f"data={data}", "model=autoencoder", f"batch_size={BATCH_SIZE}")

    def turn(index: int) -> float:
        stamps = []
        for _ in range(BLOCK):
            ours.step()
            stamps.append(time.perf_counter())
        return per_step(stamps)

    return turn


class Drawings(torch.utils.data.Dataset):
    """Image files, decoded when they are used."""

    def __init__(self, folder: Path) -> None:
        self.files = sorted(folder.rglob("*.png"))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        """Return a drawing [1, 28, 28], ink 1 on 0."""
        import numpy as np
        from PIL import Image

        with Image.open(self.files[index]) as drawing:
            small = drawing.convert("L").resize((28, 28))
        return 1 - torch.from_numpy(np.asarray(small, dtype=np.float32))[None] / 255


class Encoder(nn.Sequential):
    """conv4 in plain PyTorch, as a backbone for the autoencoder."""

    out_dim = 64


def plain_autoencoder(data: str, source: str) -> tuple[nn.Module, Iterable[Any]]:
    """Return the model that our stage trains, with a plain backbone, and a DataLoader of shuffled batches."""
    from torch.utils.data import DataLoader, TensorDataset

    from metalearn_cli.models.autoencoder import Autoencoder

    encoder = Encoder(*bench_rivals.network(WORKLOADS["W3"]))
    model = Autoencoder(encoder, (1, 28, 28), "unit")
    if source == "files":
        return model, DataLoader(Drawings(unpacked()), BATCH_SIZE, shuffle=True, num_workers=2)
    return model, DataLoader(TensorDataset(next(images().all("train", "all", 10**6))[0]), BATCH_SIZE, shuffle=True)


def plain_pretraining(data: str, source: str) -> Turn:
    """Set a plain loop up; a turn is a block of steps."""
    model, loader = plain_autoencoder(data, source)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)

    def turn(index: int) -> float:
        stamps = []
        for batch, _ in zip(loader, range(BLOCK)):  # noqa: B905 - the epoch is longer
            x = batch if source == "files" else batch[0]
            optimizer.zero_grad()
            loss, _ = model(x, x)
            loss.backward()
            optimizer.step()
            stamps.append(time.perf_counter())
        return per_step(stamps)

    return turn


def lightning_pretraining(data: str, source: str) -> Turn:
    """Set Lightning's Trainer up, without logger, progress bar and checkpoints; a turn is a block of steps."""
    import lightning

    model, loader = plain_autoencoder(data, source)
    stamps: list[float] = []

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def training_step(self, batch: Any, index: int) -> Tensor:
            x = batch if source == "files" else batch[0]
            return self.model(x, x)[0]

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), 1e-3)

        def on_train_batch_end(self, *args: Any) -> None:
            stamps.append(time.perf_counter())

    module = Module()
    off = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False, "enable_model_summary": False}

    def turn(index: int) -> float:
        stamps.clear()
        lightning.Trainer(accelerator="cpu", max_steps=BLOCK, **off).fit(module, loader)
        return per_step(stamps)

    return turn


def streaming(options: argparse.Namespace, report: Report) -> None:
    """Measure autoencoder pretraining on items in memory and on items from the disk, in turn."""
    makers = {name: partial(streamed, name == "disk") for name in ("memory", "disk")}
    results = race(makers, options.turns, options.budget, ours=makers)
    rows = [[name, number(1e3 * r.median), number(BATCH_SIZE / r.median)] for name, r in results.items()]
    report.say(
        f"## Data from memory and from a mapped file of {STREAMED >> 20} million items, batches of {BATCH_SIZE}\n\n"
        + table(["", "ms/step", "images/s"], rows)
        + "\n\ndisk: before each step the system drops the file's pages from its cache, as if the file were larger "
        + "than memory."
    )
    share = 100 * results["memory"].median / results["disk"].median
    report.goal("pretraining from the disk, of the speed from memory", share, 90.0, "%")
    report.numbers["streaming"] = {name: asdict(result) for name, result in results.items()}


def streamed(cold: bool) -> Turn:
    """Set our stage up with items in memory or in a memory-mapped file, as in the data's cache.

    A turn is a block of steps. If the file shall be cold, its pages are dropped from the system's cache before each
    step.
    """
    from metalearn_cli.data.common.cache import cached, large
    from metalearn_cli.data.common.dataset import Dataset, facts_of
    from metalearn_cli.data.common.splits import Split, fingerprint_of
    from metalearn_cli.engine.loop import Ahead

    drawings = images().splits["train"].items
    ours = Ours("pretrain", "data=glyphs", "model=autoencoder", f"batch_size={BATCH_SIZE}")

    def build() -> Dataset:
        items = torch.from_numpy(large(STREAMED, 1, 28, 28))
        for part in items.split(len(drawings)):
            part.copy_(drawings[: len(part)])
        splits = {"train": Split(items, torch.tensor([STREAMED]), ("all",))}
        return Dataset("streamed", "", splits, facts_of("image", splits), {}, fingerprint_of(splits), ())

    with tempfile.TemporaryDirectory(dir=sys.prefix) as folder:  # opened, the file can do without its name
        os.environ["MLX_CACHE_DIR"] = folder
        cached("streamed", {}, build)
        data = cached("streamed", {}, build)
        file = os.open(next(Path(folder).iterdir()), os.O_RDONLY)
    os.fsync(file)
    split = data.splits["train"]
    items = split.items if cold else split.items.clone()
    data = replace(data, splits={"train": replace(split, items=items)})

    first = items.data_ptr() // mmap.PAGESIZE * mmap.PAGESIZE
    length = items.data_ptr() + items.nbytes - first

    def forget() -> None:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(length), mmap.MADV_DONTNEED)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)

    def turn(index: int) -> float:
        batches = Ahead(lambda step: data.batch("train", "all", BATCH_SIZE, index, step), BLOCK)
        seconds = []
        for step in range(BLOCK):
            if cold:
                forget()
            began = time.perf_counter()
            ours.step(batches(step))
            seconds.append(time.perf_counter() - began)
        batches.close()
        return statistics.mean(seconds[UNCOUNTED:])

    return turn


def start_up(options: argparse.Namespace, report: Report) -> None:
    """Measure how long a run of one step takes, compared with importing torch."""
    mlx = Path(sys.executable).parent / "mlx"
    with tempfile.TemporaryDirectory() as folder:
        ours = [str(mlx), "pretrain", "steps=1", f"runs_dir={folder}"]
        libraries = "import torch, lightning_fabric, hydra, matplotlib.figure"
        imports = {"import torch": [sys.executable, "-c", "import torch"]}
        imports[libraries] = [sys.executable, "-c", f"import gc; gc.disable(); {libraries}"]  # as `mlx` does it
        commands = {**imports, "mlx pretrain steps=1": ours}
        times: dict[str, list[float]] = {name: [] for name in commands}
        for turn in range(options.turns + 1):
            for name, command in commands.items():
                began = time.perf_counter()
                subprocess.run(command, check=True, capture_output=True)
                if turn:
                    times[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(seconds) for name, seconds in times.items()}
    report.say("## Start-up\n\n" + table(["", "s"], [[name, number(seconds)] for name, seconds in medians.items()]))
    more = medians["mlx pretrain steps=1"] - medians["import torch"]
    report.goal("mlx pretrain steps=1, more than import torch", more, 1.5, "s", least=False)
    report.numbers["start-up"] = times


PARTS = {
    "end-to-end": end_to_end,
    "overhead": overhead,
    "pretrain": pretraining,
    "streaming": streaming,
    "start-up": start_up,
}


def main(words: list[str] | None = None) -> int:
    """Run the chosen parts, print them as Markdown and, with --save, write peers.md and peers.json."""
    everyone = [*dict.fromkeys([*bench_rivals.MAML, *bench_rivals.PROTONET]), OURS]
    parser = arguments(__doc__.splitlines()[0], "docs/benchmarks")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"any of {' '.join([*WORKLOADS, *PARTS])}; all")
    parser.add_argument("--only", action="append", metavar="NAME", help=f"contestants: {'; '.join(everyone)}; all")
    parser.add_argument("--turns", type=int, help="turns that count, of each contestant (5; quick: 1)")
    parser.add_argument("--budget", type=float, help="seconds after which a workload takes no further turn (120)")
    options = parser.parse_args(words)
    options.turns = options.turns or (1 if options.quick else 5)
    options.budget = options.budget or 120.0
    if wrong := set(options.parts) - {*WORKLOADS, *PARTS}:
        parser.error(f"no such part: {', '.join(sorted(wrong))}; there are {', '.join([*WORKLOADS, *PARTS])}")
    if wrong := set(options.only or ()) - set(everyone):
        parser.error(f"no such contestant: {', '.join(sorted(wrong))}; there are {'; '.join(everyone)}")
    report = Report([], {"machine": machine()}, [])
    report.say(f"# Comparison with the peers\n\n{machine()}\n\n    {command('bench', words)}")
    for part in options.parts or [*WORKLOADS, *PARTS]:
        if part in WORKLOADS:
            compare(WORKLOADS[part], options.only or everyone, options, report)
        else:
            PARTS[part](options, report)
    report.say("## Goals\n\n" + table(["", "measured", "goal", ""], report.goals))
    if options.save:
        options.save.mkdir(parents=True, exist_ok=True)
        (options.save / "peers.md").write_text("\n\n".join(report.text) + "\n")
        (options.save / "peers.json").write_text(json.dumps(report.numbers, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
