"""The error of meta-gradients on a device against float64 on the CPU: the cases, and a process that runs some of them.

`check_gpu.py` calls this file with a device and cases in JSON; it prints a line of JSON for each case.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from statistics import median
from typing import Any

import torch
from bench_common import Ours, on_device
from torch import Tensor

SHAPE = ["data=glyphs", "tasks=4", "way=5", "shot=1", "train_query=15", "backbone.hidden=16"]
LEARNERS = {
    "maml": ["algorithm=maml", "algorithm.inner_lr=0.4", "algorithm.inner_steps=1"],
    "fomaml": ["algorithm=fomaml", "algorithm.inner_lr=0.4", "algorithm.inner_steps=1"],
    "protonet": ["algorithm=protonet"],
}
# The error of a wrong derivative is 1 or more (see `control`). On a CPU and in this shape, numbers of 53, 24 and 8 bits
# had errors of 2e-15, 2e-6 and 0.1 to 0.2, because the gradient jumps where a pooling chooses another value; 11 bits
# are in between. The bounds leave room for other orders of summation.
BOUNDS = {"64-true": 1e-9, "32-true": 1e-4, "TF32": 0.2, "16-mixed": 0.2, "bf16-mixed": 0.5, "bf16-true": 0.5}
BATCHES = 5  # the median counts: rounding decides between two nearly equal values of a pooling, and the gradient jumps
TRIES = 20  # with which 16-mixed finds a scale at which nothing overflows
CONTROL = "fomaml in place of maml"


@dataclass(frozen=True)
class Case:
    """One way to compute a meta-gradient.

    Attributes:
        learner: of `LEARNERS`.
        batching, precision, compiled: as runtime.task_batching, .precision and .task_compile.
        tf32: whether convolutions in 32-true may use TensorFloat-32, as torch lets them.
    """

    learner: str
    batching: str
    precision: str
    compiled: bool = False
    tf32: bool = False

    @property
    def format(self) -> str:
        """Return the number format, one of `BOUNDS`."""
        return "TF32" if self.tf32 else self.precision

    @property
    def everywhere(self) -> bool:
        """Return whether every machine must run it; not all have a compiler, or can batch and round to 16 bits."""
        return self.precision in ("64-true", "32-true") and not self.compiled

    def words(self, device: str) -> list[str]:
        """Return its settings, as on the command line."""
        own = [f"runtime.precision={self.precision}", f"runtime.task_batching={self.batching}"]
        own += [f"runtime.task_compile={str(self.compiled).lower()}"]
        return [*SHAPE, *LEARNERS[self.learner], *on_device(device), *own]


REFERENCE = {learner: Case(learner, "loop", "64-true") for learner in LEARNERS}


def eager(device: str, quick: bool) -> list[Case]:
    """Return all cases that need no compiling, or some of them, the most important first."""
    ways = ["loop", "vmap"] if quick or device != "cpu" else ["loop", "vmap", "threads", "groups"]
    formats = ["32-true", "bf16-mixed", "64-true", *([] if quick else ["bf16-true"])]
    cases = [Case(learner, way, f) for f in formats for way in ways for learner in LEARNERS]
    if device != "cpu":
        cases += [Case(learner, way, "32-true", tf32=True) for way in ways for learner in LEARNERS]
        cases += [Case("protonet", way, "16-mixed") for way in ways]  # MAML's inner gradients do not take it
    return cases


def compiled() -> list[Case]:
    """Return the cases to compile on a GPU, the most important first."""
    chosen = [("maml", "vmap", "32-true"), ("protonet", "vmap", "32-true"), ("fomaml", "vmap", "32-true")]
    chosen += [("maml", "vmap", "bf16-mixed"), ("maml", "loop", "32-true"), ("protonet", "vmap", "bf16-mixed")]
    return [Case(*one, compiled=True) for one in chosen]


def gradients(ours: Ours, batches: list[Any]) -> list[Tensor]:
    """Return the gradient [P] of each batch, in float64 on the CPU, always at the same weights."""
    draw = torch.Generator().manual_seed(0)
    start = {name: p.detach().cpu().double() for name, p in ours.params.items()}  # a head of zeros would hide much
    start = {n: p + 0.1 * torch.randn(p.shape, generator=draw, dtype=p.dtype) for n, p in start.items()}

    def gradient(batch: Any) -> Tensor:
        with torch.no_grad():
            for name, p in ours.params.items():
                p.copy_(start[name])
                p.grad = None
        ours.step(batch)
        return torch.cat([p.grad.flatten().double().cpu() for p in ours.params.values() if p.grad is not None])

    for _ in range(TRIES):
        if gradient(batches[0]).isfinite().all():
            break
    return [gradient(batch) for batch in batches]


@cache
def reference(learner: str) -> tuple[list[Any], list[Tensor]]:
    """Return the batches and their gradients in float64 on the CPU, task by task."""
    ours = Ours("meta-train", *REFERENCE[learner].words("cpu"))
    batches = [ours.prepared.job.batches(step) for step in range(BATCHES)]
    return batches, gradients(ours, batches)


def error(found: list[Tensor], exact: list[Tensor]) -> float:
    """Return the median of the relative errors; infinite where a gradient is not finite."""
    errors = [float((f - e).norm() / e.norm()) for f, e in zip(found, exact, strict=True)]
    return median(e if e == e else float("inf") for e in errors)


def measure(case: Case, device: str) -> dict[str, Any]:
    """Return the error of a case, or why it was refused, or how it failed."""
    from metalearn_cli.core.errors import UserError

    torch.backends.cudnn.allow_tf32 = case.tf32
    try:
        batches, exact = reference(case.learner)
        return {"error": error(gradients(Ours("meta-train", *case.words(device)), batches), exact)}
    except UserError as refusal:
        return {"refused": " ".join(str(refusal).split())}
    except Exception as failure:
        return {"failure": f"{type(failure).__name__}: {' '.join(str(failure).split())[:300]}"}


def answers(device: str, cases: list[Case]) -> Iterator[dict[str, Any]]:
    """Yield an answer to each case, as it comes."""
    for case in cases:
        yield {"case": asdict(case), **measure(case, device)}


def control() -> float:
    """Return the error of the first-order gradient against the second-order one: every bound must be smaller."""
    return error(reference("fomaml")[1], reference("maml")[1])


if __name__ == "__main__":
    for answer in answers(sys.argv[1], [Case(**words) for words in json.loads(sys.argv[2])]):
        print(json.dumps(answer), flush=True)
    if "--control" in sys.argv:
        print(json.dumps({"control": control()}))
