"""Device, number format and threads; Lightning Fabric wraps optimizers and backward passes.

Fabric never wraps modules: it would apply precision in the wrapper's forward, which functional calls skip. Precision is
applied around `apply` instead, see `Runtime.under_precision`. Fabric is imported only for training, because it imports
torch's compiler, which takes a second.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from functools import cached_property
from operator import itemgetter
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, TypeVar, cast

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer
from torch.utils._pytree import tree_map_only

from metalearn_cli.core.config import Runtime as RuntimeConfig
from metalearn_cli.core.errors import ConfigError, NonFiniteError, Problem
from metalearn_cli.core.importing import importing
from metalearn_cli.core.machine import contents, cores, too_many_threads
from metalearn_cli.core.network import Apply, Params
from metalearn_cli.engine.launched import Launch, launched
from metalearn_cli.engine.ranks import Ranks

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_MIXED = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
_WEIGHTS = {"64-true": torch.float64, "bf16-true": torch.bfloat16}
Tensors = TypeVar("Tensors")

_RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")
"""The number of this process among those that a launcher started; the variables LT_* are those of Fabric's own."""

CGROUP, CONTROL = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
"""Where Linux lists the control groups of a process, and their limits."""

log = logging.getLogger("metalearn_cli")


def usual_threads() -> tuple[int, str]:
    """Return the default number of threads, and what limits it, in words."""
    limits = [(cores(), "one per core that this process may use")]
    wished = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if re.fullmatch("[1-9][0-9]{0,8}", wished):  # OpenMP ignores 0 and everything else
        limits.append((int(wished), "OMP_NUM_THREADS"))
    if (quota := _quota()) is not None:
        limits.append((int(quota), f"the container's quota of {quota:g} cores"))
    number, reason = min(limits, key=itemgetter(0))
    return max(1, number), reason


def _quota() -> float | None:
    """Return the number of cores that nested control groups allow this process; None without a limit.

    Their paths may be paths outside of the container, which are not visible here: then only visible parts count.
    """
    quotas = []
    for line in contents(CGROUP).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        tops = [CONTROL / controllers, CONTROL / "cpu"] if controllers else [CONTROL, CONTROL / "unified"]  # v1, v2
        inside = PurePosixPath(path.lstrip("/"))
        for folder in (top / part for top in tops for part in (inside, *inside.parents)):
            if controllers:
                given = f"{contents(folder / 'cpu.cfs_quota_us')} {contents(folder / 'cpu.cfs_period_us')}".split()
            else:
                given = contents(folder / "cpu.max").split()
            if len(given) == 2 and given[0].isdigit() and given[1].isdigit() and int(given[1]):  # not "max" nor -1
                quotas.append(int(given[0]) / int(given[1]))
    return min(quotas, default=None)


def available() -> dict[str, int]:
    """Return the kinds of device on this machine, best first, each with its number of devices."""
    counts = {"gpu": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available()), "cpu": 1}
    try:
        import torch_xla.core.xla_model as xla

        counts = {"tpu": len(xla.get_xla_supported_devices()), **counts}
    except ImportError:
        pass
    return {kind: n for kind, n in counts.items() if n}


def unsupported(kind: str, precision: str) -> str:
    """Return why a kind of device cannot compute in a precision, or "" if it can."""
    if precision == "16-mixed" and kind != "gpu":
        return "16-bit floats need a GPU; use bf16-mixed"
    if precision.startswith("bf16") and kind == "gpu" and not torch.cuda.is_bf16_supported():
        return "this GPU has no bfloat16; use 16-mixed or 32-true"
    if precision in _MIXED and kind == "tpu":
        return "a tpu has no mixed precision; use bf16-true"
    if precision == "64-true" and kind == "mps":
        return "mps has no 64-bit floats; use 32-true"
    return ""


def tune() -> None:
    """Set up this process for training; called by the program, not when this package is imported.

    glibc keeps freed memory for the next step instead of returning it to the system each time (no effect with other
    libraries), and denormal numbers, which are slow, count as zero.
    """
    torch.set_flush_denormal(True)
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    m_trim_threshold, m_top_pad, m_mmap_threshold = -1, -2, -3  # malloc.h
    mallopt(m_mmap_threshold, 1 << 30)
    mallopt(m_trim_threshold, (1 << 31) - 1)
    mallopt(m_top_pad, 64 << 20)


def release() -> None:
    """Free the memory of a run that is over: cycles of objects, compiled graphs, a GPU's cache, what glibc keeps."""
    if dynamo := sys.modules.get("torch._dynamo"):
        dynamo.reset()
    gc.unfreeze()  # `core.importing` freezes all objects that there are then, those of the run, too
    gc.collect()
    gc.freeze()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _problems_of_ranks(
    config: RuntimeConfig, wanted: int, kind: str, kinds: Mapping[str, int], launch: Launch | None
) -> list[Problem]:
    """Return what is wrong with settings for several ranks.

    Args:
        config: the settings.
        wanted: the number of ranks.
        kind: the kind of device.
        kinds: see `available`.
        launch: what a launcher says of this process.
    """
    problems = list[Problem]()
    if kind in kinds and kind not in ("cpu", "gpu"):
        problems.append(Problem("runtime.devices", f"must be 1 on {kind}: several ranks are for cpu and gpu"))
    elif launch and launch.world != wanted:
        told = f"must be {launch.world}, the number of processes that {launch.by} has started, or 1; got {wanted}"
        problems.append(Problem("runtime.devices", told))
    elif kind == "gpu" and not launch and kinds.get(kind, wanted) < wanted:
        told = f"must be at most {kinds[kind]}, the GPUs of this machine, got {wanted}"
        problems.append(Problem("runtime.devices", told))
    if config.anomaly:
        told = "finds the operation within one process; set it to false, or runtime.devices to 1"
        problems.append(Problem("runtime.anomaly", told))
    if config.shard and config.precision == "16-mixed":
        told = "does not work with 16-mixed, which scales all gradients at once; use bf16-mixed or 32-true"
        problems.append(Problem("runtime.shard", told))
    return problems


def one_core() -> None:
    """Make the operations of the calling thread use only this thread."""
    torch.set_num_threads(1)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error means that there was not enough memory, on the CPU or on a GPU."""
    told = ("DefaultCPUAllocator: ", "bad_alloc", "out of memory", "Cannot allocate memory")
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and any(t in str(error) for t in told))


@contextmanager
def _without_launchers() -> Iterator[None]:
    """Within a block, remove the environment variables in which launchers number processes and choose devices.

    Fabric reads them when it is imported and built; but each process computes on one device, and `engine.ranks`
    connects several of them.
    """
    names = [name for name in os.environ if name in _RANKS or name.startswith("LT_")]
    removed = {name: os.environ.pop(name) for name in names}
    try:
        yield
    finally:
        os.environ |= removed


class Runtime:
    """The device of this process, and everything that depends on it.

    Args:
        config: the `runtime` settings.

    Raises:
        ConfigError: with every setting that this machine does not support.
    """

    def __init__(self, config: RuntimeConfig) -> None:
        kinds = available()
        kind = next(iter(kinds)) if config.accelerator == "auto" else config.accelerator
        index = config.devices[0] if isinstance(config.devices, list) and config.devices else 0
        world = config.devices if isinstance(config.devices, int) else 1
        launch = launched() if world > 1 else None
        self.ranks = Ranks(launch.rank if launch else 0, world)
        problems = _problems_of_ranks(config, world, kind, kinds, launch) if world > 1 else []
        if kind not in kinds:
            problems.append(Problem("runtime.accelerator", f"{kind} is not on this machine; it has {', '.join(kinds)}"))
        elif isinstance(config.devices, list) and (len(config.devices) != 1 or not 0 <= index < kinds[kind]):
            wanted = f"1, auto or the index of one device, 0 to {kinds[kind] - 1}"
            problems.append(Problem("runtime.devices", f"must be {wanted}, in brackets; got {config.devices}"))
        problems += too_many_threads(config.threads)
        if config.task_chunk is not None and config.task_batching in ("loop", "threads"):
            message = f"is for vmap and groups; {config.task_batching} computes one task at a time"
            problems.append(Problem("runtime.task_chunk", message))
        if config.task_batching in ("threads", "groups") and kind in kinds and kind != "cpu":
            message = f"{config.task_batching} is for the cpu; on {kind} use vmap or loop"
            problems.append(Problem("runtime.task_batching", message))
        if config.task_compile and config.task_batching in ("threads", "groups"):
            problems.append(Problem("runtime.task_compile", f"is for loop and vmap, not for {config.task_batching}"))
        if config.task_compile and config.anomaly:
            message = "needs single operations, which compiled tasks lack; set it or runtime.task_compile to false"
            problems.append(Problem("runtime.anomaly", message))
        if config.gradient_checkpointing and (config.task_compile or config.task_batching in ("vmap", "groups")):
            message = "is for loop and threads, not compiled: they compute one task at a time"
            problems.append(Problem("runtime.gradient_checkpointing", message))
        if config.task_compile and config.precision == "16-mixed":
            problems.append(
                Problem("runtime.task_compile", "does not scale losses, which 16-mixed needs; use bf16-mixed")
            )
        if kind in kinds and (reason := unsupported(kind, config.precision)):
            problems.append(Problem("runtime.precision", f"{config.precision} on {kind}: {reason}"))
        if problems:
            raise ConfigError(problems)
        self.config = config
        if launch:  # a scheduler may show each of its processes only the one GPU that it may use
            index = launch.local % kinds[kind]
        self._kind, self._index = kind, index
        if kind == "gpu":
            self.device = torch.device("cuda", index)
            torch.cuda.set_device(self.device)
        else:
            self.device = self._fabric.device if kind == "tpu" else torch.device(kind)
        self.use()
        self._scales = config.precision == "16-mixed"
        self._anomaly = config.anomaly
        self.stop_on = config.stop_on
        self.dtype = _WEIGHTS.get(config.precision, torch.float32)
        number = torch.get_num_threads()
        threads = f", {number} thread{'s' * (number != 1)}" if kind == "cpu" else ""
        shared = f"{world} ranks, each " if world > 1 else ""
        self.description = f"{shared}{self.device.type}{threads}, {config.precision}"

    def use(self) -> None:
        """Set the number of threads of this process to that of the settings."""
        # a launcher gives each of its processes cores of its own; ranks of this command share those of this process
        here = 1 if launched() else self.ranks.world
        torch.set_num_threads(self.config.threads or max(1, usual_threads()[0] // here))

    @cached_property
    def _fabric(self) -> Fabric:
        with _without_launchers():
            with importing():
                from lightning_fabric import Fabric
                from lightning_fabric.plugins.environments.lightning import LightningEnvironment

            # Fabric logs the precision, which our own notes contain already
            logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
            # the index form is for accelerators only: on a CPU `devices` counts processes
            devices = 1 if self._kind in ("cpu", "mps") else [self._index]
            # one process on one device: Fabric would detect a scheduler, and treat its other tasks as ours
            alone = LightningEnvironment()
            return Fabric(accelerator=self._kind, devices=devices, precision=self.config.precision, plugins=[alone])

    def place(self, params: Params) -> Params:
        """Return copies of tensors as leaves on the device, floats in the precision's number format.

        Tensors that require gradients still do.

        Convolution kernels, and so the convolutions' outputs, are channels-last: about twice as fast on a CPU, and what
        tensor cores need. Not with a 1x1 kernel on fewer than 8 channels: on processors without AVX-512, oneDNN 3
        writes the gradient of such a kernel with a stride beyond its end, which ends the process.
        """
        overrun = any(p.ndim == 4 and p.shape[1] < 8 and p.shape[2:] == (1, 1) for p in params.values())
        placed = {}
        for name, p in params.items():
            layout = torch.channels_last if p.ndim == 4 and not overrun else torch.contiguous_format
            dtype = self.dtype if p.is_floating_point() else p.dtype  # counters and tables of indices stay integers
            copied = p.detach().to(self.device, dtype, copy=True, memory_format=layout)
            placed[name] = copied.requires_grad_(p.requires_grad)
        return placed

    def cast(self, tensors: Tensors) -> Tensors:
        """Return a batch, or any nested tensors, with floats in the precision's number format."""
        converted: Tensors = tree_map_only(Tensor, lambda t: t.to(self.dtype) if t.is_floating_point() else t, tensors)
        return converted

    def under_precision(self, apply: Apply) -> Apply:
        """Return `apply` under a mixed precision's autocast; its output is in full precision, for losses."""
        mixed = _MIXED.get(self.config.precision)  # the others are the tensors' own number format

        def applied(params: Params, *args: object, **kwargs: object) -> Tensor:
            with torch.autocast(self.device.type, mixed) if mixed else nullcontext():
                output = apply(params, *args, **kwargs)
            # a model returns its loss with metrics: autocast itself keeps losses in full precision
            return output.to(self.dtype) if isinstance(output, Tensor) else output

        return applied

    def setup(self, optimizer: Optimizer) -> Optimizer:
        """Return the optimizer, wrapped so that its step undoes the loss scaling of 16-mixed."""
        return cast(Optimizer, self._fabric.setup_optimizers(optimizer))

    def backward(self, loss: Tensor) -> None:
        """Add the loss's gradient to the leaves, scaled if the precision requires it."""
        self._fabric.backward(loss)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Within a block, with `runtime.anomaly`, find the operation that made a gradient NaN.

        Raises:
            NonFiniteError: naming the operation.
        """
        if not self._anomaly:
            yield
            return
        with warnings.catch_warnings(record=True) as told, torch.autograd.set_detect_anomaly(True):
            warnings.simplefilter("always")
            try:
                yield
            except RuntimeError as error:
                if "returned nan" not in str(error):
                    raise
                traces = [str(w.message) for w in told if "Traceback of forward call" in str(w.message)]
                log.info("\n".join(traces))  # where in the code; long
                raise NonFiniteError(f"a gradient became nan ({str(error).rstrip('.')})") from error

    def gradient_norm(self, params: Params) -> Tensor:
        """Return the norm [] of all gradients; 0 with 16-mixed, which itself handles gradients that are not finite."""
        gradients = [p.grad for p in params.values() if p.grad is not None]
        return torch.zeros((), device=self.device) if self._scales else get_total_norm(gradients)

    def overflow(self, params: Params) -> str:
        """Return a message that names the gradients that make the norm not finite."""
        gradients = {name: p.grad for name, p in params.items() if p.grad is not None}
        bad = [name for name, gradient in gradients.items() if not torch.isfinite(gradient).all()]
        more = f" and of {len(bad) - 3} more tensors" if len(bad) > 3 else ""
        return f"the gradient of {', '.join(bad[:3])}{more} is not finite" if bad else "the gradient's norm overflows"
