r"""Check in minutes that everything runs on a GPU and computes the right gradients, and measure its speed.

    python scripts/check_gpu.py --save docs/benchmarks                    # where everything is installed
    python scripts/check_gpu.py --wheels wheels --save docs/benchmarks    # where there is no network

Four parts: `tests` (the fast ones), `gradients` (every way to compute them against float64 on the CPU), `commands` (the
stages through the command line, and a resumed run) and `speed` (ours, the plain loop, higher and torchopt). Each has
its share of `--minutes` and names what it left out. The exit code is 1 if a part failed.

It needs Python 3.10 or newer with torch 2.6 or newer, numpy, matplotlib, fonttools, pillow, pyyaml, safetensors, rich,
tqdm; pytest, pytest-xdist and hypothesis for the tests. The other packages can come as a folder of wheels, 3 MB;
missing ones are installed from it into a temporary folder. To make it, on a machine with network:

    python scripts/check_gpu.py --make-wheels wheels --python 3.12

or by hand (optree, for torchopt, needs a wheel for exactly this version of Python; all others are pure Python):

    pip download --no-deps --constraint constraints.txt --only-binary :all: --python-version 3.12 --dest wheels \
      --platform any hydra-core omegaconf lightning-fabric lightning-utilities fsspec tensorboardX protobuf pooch \
      platformdirs requests urllib3 idna certifi charset-normalizer packaging higher==0.2.1 torchopt==0.7.3 graphviz
    pip download --no-deps --constraint constraints.txt --only-binary :all: --python-version 3.12 --dest wheels \
      --platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64 optree
    pip wheel --no-deps --constraint constraints.txt --wheel-dir wheels antlr4-python3-runtime
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import gpu_wheels

SCRIPTS = Path(__file__).resolve().parent
ROOT = SCRIPTS.parent
INSTALLED = "MLX_CHECK_WHEELS"  # set once the wheels are there
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
TESTS = ("tests/unit/algorithms", "tests/unit/backbones", "tests/unit/engine", "tests/unit/core", "tests/contract")
PRECISIONS = {
    "32-true": 1e-3,
    "bf16-mixed": 2e-2,
}  # allowed error of a resumed run's loss, in addition to 10 times that of a repeated run
SHOWN = 15  # lines of what failed


@dataclass(frozen=True)
class Setting:
    """What all parts need: the device, whether to be quick, a folder to work in, and when to be ready."""

    device: str
    quick: bool
    folder: Path
    until: float


@dataclass
class Part:
    """The result of a part: paragraphs, numbers, failures, and what it left out for lack of time."""

    text: list[str] = field(default_factory=list)
    numbers: Any = None
    failures: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Answer:
    """The result of a command; the code is None if it ran out of time."""

    code: int | None
    out: str
    err: str
    seconds: float


def call(words: Sequence[str], folder: Path, until: float) -> Answer:
    """Run a command; when its time is over, end it with all processes that it started."""
    began = time.monotonic()
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "COLUMNS": "200"}
    process = subprocess.Popen(
        words, cwd=folder, env=environment, text=True, errors="replace", start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    code: int | None = None
    try:
        out, err = process.communicate(timeout=max(0.0, until - began))
        code = process.returncode
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
    return Answer(code, out, err, time.monotonic() - began)


def last_lines(text: str) -> str:
    """Return the last lines of a command's output."""
    return "\n".join(text.rstrip().splitlines()[-SHOWN:])


def outcomes(text: str) -> dict[str, tuple[str, str]]:
    """Return (outcome, reason) of each test by name, from the output of pytest-xdist -v, complete or not."""
    found = {}
    for outcome, rest in re.findall(r"(?m)(?:^|\] )(PASSED|FAILED|ERROR|SKIPPED|XFAIL) (tests/.*?)\s*$", text):
        name, _, reason = rest.partition(" - ")
        found[name] = (outcome, reason)
    return found


def tests(setting: Setting) -> Part:
    """Run the fast tests; a warning from another version of a library is not a failure here."""
    options = ["-v", "-rfE", "--tb=short", "-p", "no:cacheprovider", "-o", "filterwarnings=default"]
    parallel = ["-n", str(min(CORES, 8)), "--dist", "loadfile"]
    answer = call([sys.executable, "-m", "pytest", *options, *parallel, *TESTS], ROOT, setting.until)
    found = outcomes(answer.out)
    count = {o: sum(outcome == o for outcome, _ in found.values()) for o in ("PASSED", "FAILED", "ERROR", "SKIPPED")}
    part = Part(numbers=count if found else {})
    counts = ", ".join(f"{n} {outcome.lower()}" for outcome, n in count.items() if n)
    part.text.append(f"{counts or 'none ran'} in {answer.seconds:.0f} s: `pytest {' '.join(TESTS)}`")
    part.failures += [f"{name}: {reason}" for name, (o, reason) in found.items() if o in ("FAILED", "ERROR")]
    if answer.code is None:
        part.left_out.append("the tests after these")
    elif answer.code and not part.failures:
        part.failures.append(last_lines(answer.out + answer.err))
    return part


def gradients(setting: Setting) -> Part:
    """Compare every way of computing a meta-gradient with float64 on the CPU."""
    from gpu_gradients import BATCHES, BOUNDS, CONTROL, Case, compiled, eager

    shares = [eager(setting.device, setting.quick)]
    if setting.device != "cpu" and not setting.quick:
        shares += [[case] for case in compiled()]  # each in a process of its own, as each takes a minute

    def ask(share: list[Case]) -> Answer:
        cases = json.dumps([asdict(case) for case in share])
        words = [sys.executable, str(SCRIPTS / "gpu_gradients.py"), setting.device, cases]
        return call([*words, *(["--control"] if share is shares[0] else [])], setting.folder, setting.until)

    with ThreadPoolExecutor(max(1, CORES // 2)) as pool:
        answers = list(pool.map(ask, shares))
    part, rows, numbers = Part(), [], []
    refusals: dict[str, list[str]] = {}
    for share, answer in zip(shares, answers, strict=True):
        lines = [json.loads(line) for line in answer.out.splitlines() if line.startswith("{")]
        found = {Case(**line["case"]): line for line in lines if "case" in line}
        for case in share:
            bound = BOUNDS[case.format]
            verdict, error = judged(found.get(case), bound, answer)
            how = f"{case.batching}, compiled" if case.compiled else case.batching
            told = f"{case.learner}, {how}, {case.format}"
            if verdict == "left out":
                part.left_out.append(told)
                continue
            if verdict == "refused":
                refusals.setdefault(error, []).append(told)
                part.failures += [f"{told}: refused"] if case.everywhere else []
                error = "-"
            rows.append([case.learner, how, case.format, error, f"{bound:.0e}", verdict])
            numbers.append(
                {**asdict(case), "bound": bound, "verdict": verdict, "off_by": found.get(case, {}).get("error")}
            )
            part.failures += [f"{told}: {verdict}, {error}"] if verdict in ("off", "failed") else []
        for line in lines:
            if "control" in line:
                part.text.append(f"{CONTROL} gives an error of {line['control']:.2f}, so every bound must be smaller.")
                part.failures += ["the bounds are too loose"] if line["control"] <= max(BOUNDS.values()) else []
    explained = (
        "The relative error of the meta-gradient: conv4 with batch norm and 16 channels, 4 tasks of 5-way 1-shot; the "
        f"median of {BATCHES} batches, because rounding decides between two nearly equal values of a pooling. "
        "Convolutions in 32-true run without TensorFloat-32; in the rows TF32 with it, torch's default."
    )
    header = ["", "tasks", "numbers", "off by", "bound", ""]
    part.text[:0] = [explained, bench_common().table(header, rows)] if rows else []
    part.text += [f"Refused: {'; '.join(cases)}. {reason}" for reason, cases in refusals.items()]
    part.numbers = numbers
    return part


def judged(line: dict[str, Any] | None, bound: float, answer: Answer) -> tuple[str, str]:
    """Return (verdict, text) of a case's answer, or of its process if it gave none."""
    if line is None:
        told = answer.err.split("\n") if answer.err.strip() else [f"exit code {answer.code}"]
        return ("left out", "") if answer.code is None else ("failed", [line for line in told if line.strip()][-1])
    if "error" in line:
        return ("ok" if line["error"] <= bound else "off"), f"{line['error']:.1e}"
    return ("refused", line["refused"]) if "refused" in line else ("failed", line["failure"])


def commands(setting: Setting) -> Part:
    """Run the stages through the command line in two precisions, in parallel, and resume a run."""
    with ThreadPoolExecutor(len(PRECISIONS)) as pool:
        parts = list(pool.map(lambda precision: _chain(setting, precision), PRECISIONS))
    rows = [row for part in parts for row in part.numbers]
    note = "Both precisions ran in parallel; seconds are those of the whole command."
    return Part(
        [bench_common().table(["", "command", "s", "result"], rows), note],
        rows,
        [failure for part in parts for failure in part.failures],
        [left for part in parts for left in part.left_out],
    )


def _chain(setting: Setting, precision: str) -> Part:
    """Run the commands of one precision, each on the result of the one before."""
    part = Part(numbers=[])
    folder = setting.folder / precision
    folder.mkdir()
    steps, half = (8, 4) if setting.quick else (60, 30)
    device = bench_common().on_device(setting.device)
    runtime = [f"runtime.precision={precision}", *device, *(["runtime.threads=1"] if setting.device == "cpu" else [])]
    width = ["backbone.hidden=8", "val_episodes=5"] if setting.quick else ["val_episodes=100"]
    every = f"every={{log: 1, evaluate: {half}, save: {half}}}"
    learning = ["algorithm=maml", "tasks=4", "scheduler=constant", every, *width]

    class Ended(Exception):
        pass

    def mlx(name: str, *words: str, stage: str = "") -> dict[str, Any]:
        line = [sys.executable, "-m", "metalearn_cli.cli.main", *words, "--json"]
        answer = call(line, folder, setting.until)
        told = f"{precision}, {name}"
        if answer.code is None:
            part.left_out.append(f"{told} and what follows it")
            raise Ended
        if answer.code:
            part.numbers.append([precision, name, f"{answer.seconds:.1f}", f"exit code {answer.code}"])
            part.failures.append(f"{told}: mlx {shlex.join(words)}\n{last_lines(answer.err)}")
            raise Ended
        where = f"{stage or words[0]}: {setting.device.split(':')[0]}"
        if where not in answer.err:
            part.failures.append(f"{told}: it does not say '{where}'")
        run: dict[str, Any] = json.loads(answer.out)
        metric = run["metric"]
        result = f"{metric['name']} {metric['value']:.4f} +- {metric.get('interval', 0):.4f}"
        part.numbers.append([precision, name, f"{answer.seconds:.1f}", result])
        return run

    def compared(name: str, one: dict[str, Any], other: dict[str, Any]) -> float:
        distance = apart(folder / one["folder"], folder / other["folder"])
        part.numbers.append([precision, name, "-", f"loss apart by {distance:.1e}" if distance else "equal"])
        return distance

    try:
        first = mlx("pretrain", "pretrain", "model=autoencoder", f"steps={2 * steps}", *width, *runtime)
        start = f"init_from={first['id']}"
        second = mlx("transfer", "transfer", start, f"steps={2 * steps}", *width, *runtime)
        learning = [f"init_from={second['id']}", *learning, *runtime]
        whole = mlx("meta-train", "meta-train", f"steps={steps}", *learning)
        episodes = f"episodes={20 if setting.quick else 200}"
        mlx("evaluate", "evaluate", f"ckpt={whole['id']}", episodes, *runtime)
        cut = mlx("meta-train, half", "meta-train", f"steps={half}", *learning)
        mlx("resume to the end", "resume", cut["folder"], f"steps={steps}", stage="meta-train")
        resumed = compared("whole and resumed", whole, cut)
        allowed = 0.0  # on a CPU, every bit is the same
        if setting.device != "cpu":
            again = mlx("meta-train again", "meta-train", f"steps={steps}", *learning)
            allowed = 10 * compared("whole and again", whole, again) + PRECISIONS[precision]
        if not resumed <= allowed:
            part.failures.append(f"{precision}: a resumed run's loss is {resumed:.1e} apart, allowed is {allowed:.1e}")
    except Ended:
        pass
    return part


def apart(one: Path, other: Path) -> float:
    """Return the largest relative difference of two runs' losses, 0 if all their metrics are equal."""
    from metalearn_cli.records.metrics import TIMES, read_metrics

    a, b = ([{n: v for n, v in line.items() if n not in TIMES} for line in read_metrics(run)] for run in (one, other))
    if a == b:
        return 0.0
    losses = [{line["step"]: line["train/loss"] for line in run if "train/loss" in line} for run in (a, b)]
    if losses[0].keys() != losses[1].keys():
        return float("inf")
    return max(abs(loss - losses[1][step]) / max(abs(loss), 1e-12) for step, loss in losses[0].items())


def speed(setting: Setting) -> Part:
    """Measure seconds and memory of meta-steps of ours, the plain loop, higher and torchopt."""
    import bench_rivals
    import gpu_speed

    part = Part(numbers={})
    missing = [name for name in ("higher", "torchopt") if not bench_rivals.installed(name)]
    part.text += [f"Not installed: {', '.join(missing)}."] if missing else []
    for workload, results in gpu_speed.compare(setting.device, setting.quick, setting.until, setting.folder):
        part.left_out += [f"{workload.name}, {n}" for n, f in results.items() if f.failure == gpu_speed.LATE]
        measured = {name: figures for name, figures in results.items() if figures.failure != gpu_speed.LATE}
        if measured:
            part.text.append(gpu_speed.shown(workload, measured))
            part.numbers[workload.name] = {name: asdict(figures) for name, figures in measured.items()}
            part.failures += gpu_speed.failures(workload, measured)
    part.text.append(
        "Medians of whole steps with Adam, the device idle before and after, contestants in turn on the same batches "
        "in 32-true with torch's defaults (TensorFloat-32 in convolutions). Peak MB: the most device memory that torch "
        "used, from a contestant's set-up to its third step. First step: with compiling, while others set up in "
        "parallel."
    )
    return part


PARTS: dict[str, tuple[float, Callable[[Setting], Part]]] = {  # with the share of the time
    "tests": (0.13, tests),
    "gradients": (0.21, gradients),
    "commands": (0.24, commands),
    "speed": (0.42, speed),
}


def deadline(name: str, chosen: Sequence[str], now: float, until: float) -> float:
    """Return when a part must end: it shares the time that earlier parts left over with the parts after it."""
    ahead = chosen[chosen.index(name) :]
    return now + (until - now) * PARTS[name][0] / sum(PARTS[other][0] for other in ahead)


def bench_common() -> Any:
    """Return the module, which imports torch: too much for a start that only installs wheels."""
    import bench_common

    return bench_common


def machine(device: str) -> dict[str, str]:
    """Return device, driver and versions of the measurement."""
    import torch

    found = {
        "device": f"cpu: {bench_common().machine()}",
        "driver": "-",
        "torch": torch.__version__,
        "CUDA": str(torch.version.cuda or "-"),
        "Python": platform.python_version(),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    }
    if device != "cpu":
        card = torch.cuda.get_device_properties(device)
        found["device"] = f"{card.name}, {card.total_memory / 2**30:.0f} GiB, {device}; {CORES} CPU cores"
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        try:
            found["driver"] = subprocess.run(query, capture_output=True, text=True).stdout.splitlines()[0]
        except (OSError, IndexError):
            found["driver"] = "unknown"
    return found


def section(name: str, part: Part, seconds: float) -> str:
    """Return a part's Markdown."""
    verdict = "FAILED" if part.failures else "passed in part" if part.left_out else "passed"
    failures = "\n".join(f"    {line}" for failure in part.failures for line in failure.splitlines())
    told = [f"## {name}: {verdict}, {seconds:.0f} s", *part.text]
    told += [f"Failed:\n\n{failures}"] if failures else []
    told += [f"Left out for lack of time: {'; '.join(part.left_out)}."] if part.left_out else []
    return "\n\n".join(told)


def check(options: argparse.Namespace) -> int:
    """Run the parts; after each, print it and save all results so far."""
    until = time.monotonic() + 60 * options.minutes
    command = f"python scripts/check_gpu.py {shlex.join(options.words)}".rstrip()
    facts = {**machine(options.device), "command": command}
    told = ["# On a GPU" if options.device != "cpu" else "# The check of a GPU, on a CPU"]
    told.append("\n".join(f"- {name}: {value}" for name, value in facts.items()))
    print("\n\n".join(told), flush=True)
    numbers: dict[str, Any] = {**facts, "parts": {}}
    os.environ.update(bench_common().WAITING)  # as `mlx` does it, for all processes
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", str(max(1, CORES // 4)))  # of each, as several compile
    quick = options.quick or options.device == "cpu"
    with tempfile.TemporaryDirectory() as folder:
        for name in options.parts:
            began = time.monotonic()
            share = Path(folder) / name
            share.mkdir()
            try:
                part = PARTS[name][1](
                    Setting(options.device, quick, share, deadline(name, options.parts, began, until))
                )
            except Exception:
                part = Part(failures=[last_lines(traceback.format_exc())])
            if part.left_out and not part.numbers:
                part.failures.append("nothing was ready in time")
            seconds = time.monotonic() - began
            told.append(section(name, part, seconds))
            print(f"\n{told[-1]}", flush=True)
            numbers["parts"][name] = {**asdict(part), "seconds": seconds}
            if options.save:
                options.save.mkdir(parents=True, exist_ok=True)
                (options.save / "gpu.md").write_text("\n\n".join(told) + "\n")
                (options.save / "gpu.json").write_text(json.dumps(numbers, indent=1) + "\n")
    return int(any(part["failures"] for part in numbers["parts"].values()))


def listed(text: str) -> list[str]:
    """Return the parts named in a comma-separated list, in the order in which they run."""
    wanted = text.split(",")
    if wrong := set(wanted) - set(PARTS):
        raise argparse.ArgumentTypeError(f"no such part: {', '.join(sorted(wrong))}; there are {', '.join(PARTS)}")
    return [name for name in PARTS if name in wanted]


def main(words: list[str] | None = None) -> int:
    """Make wheels, or run the check, with the wheels of a folder if one is given."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda:0", help="cuda:0, another index, or cpu, which is always --quick")
    parser.add_argument("--minutes", type=float, default=8.0, help="how long it may take (8)")
    parser.add_argument("--parts", type=listed, default=list(PARTS), help=f"some of {','.join(PARTS)}; all")
    parser.add_argument("--quick", action="store_true", help="small sizes and fewer cases, nothing compiled")
    parser.add_argument("--save", metavar="FOLDER", type=Path, help="write gpu.md and gpu.json there")
    parser.add_argument(
        "--wheels", metavar="FOLDER", type=Path, help="folder of wheels for packages that are not installed"
    )
    parser.add_argument("--make-wheels", metavar="FOLDER", type=Path, help="fill the folder, and nothing else")
    parser.add_argument("--python", default="3.12", help="for --make-wheels: the Python that will use them (3.12)")
    options = parser.parse_args(words)
    options.words = sys.argv[1:] if words is None else words
    if not re.fullmatch(r"cpu|cuda:\d+", options.device):
        parser.error(f"--device must be cpu, or cuda: and an index, got {options.device}")
    if options.make_wheels:
        return gpu_wheels.make(options.make_wheels, options.python)
    sys.path.insert(0, str(ROOT))  # for whoever has not installed the package
    if (options.wheels or not gpu_wheels.installed("metalearn-cli")) and INSTALLED not in os.environ:
        with tempfile.TemporaryDirectory() as target:
            gpu_wheels.install(options.wheels, Path(target))
            path = os.pathsep.join([target, str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
            again = [sys.executable, __file__, *options.words]
            return subprocess.run(again, env={**os.environ, "PYTHONPATH": path, INSTALLED: "1"}).returncode
    if options.device != "cpu":
        import torch

        if int(options.device[5:]) >= torch.cuda.device_count():
            parser.error(f"--device {options.device} is not on this machine, which has {torch.cuda.device_count()}")
    return check(options)


if __name__ == "__main__":
    sys.exit(main())
