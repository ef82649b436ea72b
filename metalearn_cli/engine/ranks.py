"""Ranks: the processes of one training, each of which computes its share of every step.

Rank 0 is the command that the user typed. It alone reads settings, writes and prints; the others do the work that it
names. It starts them itself (`Crew`), unless a launcher, torchrun or srun, has started all ranks.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import Function
from torch.distributed import PrefixStore, TCPStore, rendezvous  # type: ignore[attr-defined]  # torch does not list them

from metalearn_cli.core.errors import LostRankError
from metalearn_cli.engine.launched import RESTARTS, launched

if TYPE_CHECKING:
    from metalearn_cli.engine.runtime import Runtime

_LONGEST = timedelta(days=1)  # that a rank waits; one that has died is noticed at once, by its closed connection
_DYING = 5.0  # seconds from a closed connection to the end of the process

Value = TypeVar("Value")
log = logging.getLogger("metalearn_cli")


@dataclass(frozen=True)
class Ranks:
    """The number of this process, and how many there are; with one rank, nothing is sent and nothing changes.

    What is dealt, tasks or items, is dealt by index: number i belongs to rank i modulo `world`.
    """

    rank: int = 0
    world: int = 1

    @property
    def share(self) -> slice:
        """The indices of what is dealt to this rank."""
        return slice(self.rank, None, self.world)

    def own(self, number: int) -> range:
        """Return which of so many are dealt to this rank."""
        return range(number)[self.share]

    def weight(self, number: int) -> float:
        """Return the weight of this rank's mean in the mean over all ranks, where so many are dealt."""
        return len(self.own(number)) / number if self.world > 1 else 1.0

    def add(self, tensors: Sequence[Tensor], weight: float = 1.0) -> list[Tensor]:
        """Return the sum over ranks of each tensor, multiplied by the rank's weight; all in one message."""
        if self.world == 1:
            return list(tensors)
        flat = torch.cat([t.detach().reshape(-1) for t in tensors]).mul_(weight)
        with _connected():
            dist.all_reduce(flat)
        parts = flat.split([t.numel() for t in tensors])
        return [part.view(t.shape) for t, part in zip(tensors, parts, strict=True)]

    def total(self, number: int) -> Callable[[Tensor], Tensor]:
        """Return a function that sums a tensor over ranks and can be differentiated.

        Args:
            number: how many items are dealt: the loss that is differentiated is a mean over them.
        """
        weight = self.weight(number)
        return lambda tensor: _Total.apply(tensor, self, weight)

    def largest(self, value: int) -> int:
        """Return the largest of all ranks' numbers, so that all take the same decision."""
        if self.world == 1:
            return value
        found = torch.tensor(value, dtype=torch.int64)
        with _connected():
            dist.all_reduce(found, dist.ReduceOp.MAX)
        return int(found)

    def same(self, value: Value) -> Value:
        """Return the value of rank 0."""
        if self.world == 1:
            return value
        box = [value]
        with _connected():
            dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        return box[0]

    def sent(self, tensors: Sequence[Tensor], by: int) -> list[Tensor]:
        """Return the tensors of the rank `by`, on each rank; all in one message."""
        if self.world == 1 or not tensors:
            return list(tensors)
        flat = torch.cat([t.detach().reshape(-1) for t in tensors])
        with _connected():
            dist.broadcast(flat, src=by)
        parts = flat.split([t.numel() for t in tensors])
        return [part.view(t.shape) for t, part in zip(tensors, parts, strict=True)]

    def collected(self, own: Value) -> list[Value]:
        """Return the values of all ranks, in their order, on rank 0; nothing on the others."""
        if self.world == 1:
            return [own]
        found: Any = [None] * self.world if self.rank == 0 else None
        with _connected():
            dist.gather_object(own, found)
        return found or []

    def gathered(self, own: Sequence[Value]) -> list[Value]:
        """Return what all ranks have computed of what was dealt to them, in the order before it was dealt."""
        if self.world == 1:
            return list(own)
        parts: list[Any] = [None] * self.world
        with _connected():
            dist.all_gather_object(parts, list(own))
        found: list[Any] = [None] * sum(map(len, parts))
        for rank, part in enumerate(parts):
            found[rank :: self.world] = part
        return found


class _Total(Function):
    """The sum over ranks, within a loss that is the mean over ranks by their weights."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, ranks: Ranks, weight: float) -> Tensor:
        ctx.ranks, ctx.weight = ranks, weight
        return ranks.add([tensor])[0]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Sum the derivatives of all ranks' losses; what is returned will be weighted as this rank's loss is."""
        return ctx.ranks.add([grad], ctx.weight)[0] / ctx.weight, None, None


@contextmanager
def _connected() -> Iterator[None]:
    """Within a block that sends, say that a rank is gone.

    Raises:
        LostRankError: in place of torch's own error.
    """
    try:
        yield
    except RuntimeError as error:
        raise LostRankError("another rank has ended; its own message says why") from error


def connect(runtime: Runtime, meeting: str) -> None:
    """Meet the other ranks.

    Args:
        runtime: the device of this rank.
        meeting: see `Launch`.

    Raises:
        LostRankError: if they cannot be reached.
    """
    backend = "cpu:gloo,cuda:nccl" if runtime.device.type == "cuda" else "gloo"
    ranks = runtime.ranks
    try:
        store, *_ = next(rendezvous(meeting, ranks.rank, ranks.world, timeout=_LONGEST))
        # torchrun keeps its store when it starts ranks again, with the addresses of those that have ended
        store = PrefixStore(f"start {os.environ.get(RESTARTS, 0)}", store)
        dist.init_process_group(backend, timeout=_LONGEST, world_size=ranks.world, rank=ranks.rank, store=store)
    except (RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise LostRankError(f"rank {ranks.rank} of {ranks.world} cannot reach the others: {reason}") from error


def disconnect() -> None:
    """Leave the other ranks."""
    if dist.is_initialized():
        dist.destroy_process_group()


Follow = Callable[[Any, Callable[[], None]], None]
"""What a rank other than 0 runs, given the settings `runtime` and what to call before it meets the others."""


class Crew:
    """The other ranks of a command, started with the first work for them; a context manager that ends them.

    Args:
        follow: what each of them runs, a function of a module; None if there is no work for them.
    """

    def __init__(self, follow: Follow | None = None) -> None:
        self._follow = follow
        self._ranks = Ranks()  # those that are connected
        self._processes: list[SpawnProcess] = []
        self._words: list[Any] = []  # what each of them said last
        self._ending = threading.Event()

    def __enter__(self) -> Crew:
        """Return itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """End the other ranks; those of a launcher are told that there is no more work, unless something failed."""
        if kind is None and not self._processes:
            self._ranks.same(None)
        self._end()

    @contextmanager
    def working(self, runtime: Runtime, work: Any) -> Iterator[None]:
        """Within a block, have the other ranks do the work that this one does.

        Args:
            runtime: says how many ranks there are; with one, this does nothing.
            work: what `follow` gets from `Ranks.same`.

        Raises:
            LostRankError: if one of them ends; then all do.
        """
        if runtime.ranks.world == 1:
            yield
            return
        try:
            self._start(runtime)
            runtime.ranks.same(work)
            yield
        except BaseException as error:
            why = self._last_words() if isinstance(error, LostRankError) else ""
            self._end()  # they wait for a message that will not come
            if why:
                raise LostRankError(why) from error
            raise

    def _start(self, runtime: Runtime) -> None:
        """Start the other ranks, if they are not there, and meet them."""
        ranks = runtime.ranks
        if self._ranks == ranks:
            return
        self._end()
        if launch := launched():
            connect(runtime, launch.meeting)
        else:
            # port 0 is any free one; `connect` finds this store again, as it is of the same process
            store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, multi_tenant=True)
            context = multiprocessing.get_context("spawn")
            for rank in range(1, ranks.world):
                numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks.world, "MASTER_PORT": store.port}
                told = {"MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": torch.get_num_threads(), **numbers}
                words, said = context.Pipe(duplex=False)
                process = context.Process(
                    target=_live, args=(self._follow, runtime.config, told, said), daemon=True, name=f"rank {rank}"
                )
                process.start()
                said.close()
                self._processes.append(process)
                self._words.append(words)
            waited: list[Any] = list(self._words)
            while waited:
                for found in wait(waited):
                    _expect_ready(found)
                    waited.remove(found)
            connect(runtime, f"tcp://127.0.0.1:{store.port}")
            if runtime.device.type == "cuda":
                threading.Thread(target=watch, args=(self._processes, self._ending), daemon=True).start()
        self._ranks = ranks

    def _last_words(self) -> str:
        """Return why another rank ended, in words; "" where a launcher started it, which says it itself."""
        if not self._processes:
            return ""
        ended = wait([process.sentinel for process in self._processes], _DYING)
        reasons = []
        for process, words in zip(self._processes, self._words, strict=True):
            with suppress(EOFError, OSError):
                while words.poll():
                    if said := words.recv():
                        log.info("%s of %d: %s", process.name, len(self._words) + 1, said[1])
                        reasons.append((0, f"{process.name} failed: {said[0]}"))
            process.join(_DYING * (process.sentinel in ended))  # its exit code comes a moment after its end
            if process.exitcode is not None and process.exitcode < 0:
                reasons.append((1, f"{process.name} was killed ({signal.Signals(-process.exitcode).name})"))
            elif process.exitcode:
                reasons.append((2, f"{process.name} ended with exit code {process.exitcode}"))
        return min(reasons)[1] if reasons else "the connection to another rank broke"

    def _end(self) -> None:
        self._ending.set()
        for process in self._processes:
            process.kill()
        for process, words in zip(self._processes, self._words, strict=True):
            process.join()
            words.close()
        self._processes, self._words, self._ranks, self._ending = [], [], Ranks(), threading.Event()
        disconnect()


def watch(processes: Sequence[SpawnProcess], ending: threading.Event) -> None:
    """End this process soon after another rank has ended, unless it notices that itself; NCCL would wait for a day.

    Args:
        processes: the other ranks.
        ending: set when they are to end.
    """
    wait([process.sentinel for process in processes])
    if not ending.wait(_DYING):
        print("error: another rank has ended; resume the run with: mlx resume latest", file=sys.stderr, flush=True)
        os._exit(1)


def _expect_ready(words: Any) -> None:
    try:
        said = words.recv()
    except EOFError:
        raise LostRankError("a rank has ended before it met the others") from None
    if said is not None:
        raise LostRankError(f"a rank failed before it met the others: {said[0]}")


def _live(follow: Follow, config: Any, told: Mapping[str, Any], said: Connection) -> None:
    """Be a rank that rank 0 has started.

    Args:
        follow: see `Crew`.
        config: the settings `runtime`.
        told: environment variables, as a launcher sets them.
        said: gets None when this rank is ready, and the text and the traceback of an error that ends it.
    """
    os.environ |= {name: str(value) for name, value in told.items()}
    threading.Thread(target=_end_with, args=(multiprocessing.parent_process(),), daemon=True).start()
    try:
        follow(config, lambda: said.send(None))
    except (KeyboardInterrupt, LostRankError):
        os._exit(1)  # rank 0 says it
    except BaseException as error:
        said.send((f"{type(error).__name__}: {error}", traceback.format_exc()))
        os._exit(1)


def _end_with(parent: Any) -> None:
    """End this process when rank 0 does, however that ends."""
    wait([parent.sentinel])
    os._exit(1)
