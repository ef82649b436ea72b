"""How the tasks of a meta-batch run: one after the other, over threads, or several as one batch.

Algorithms are pure functions of one episode and do not depend on this. All ways give the same gradients, up to
rounding. Each way gives the same numbers every time, because the work of each thread and the order of sums are fixed.

Legend: T tasks of a meta-batch, E episodes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from metalearn_cli.core.errors import ConfigError, Problem, UserError
from metalearn_cli.core.functional import checkpointing
from metalearn_cli.core.items import joined, size
from metalearn_cli.core.network import Params
from metalearn_cli.core.types import Episode
from metalearn_cli.engine.runtime import Runtime, one_core, out_of_memory

Task = Callable[[Params, Episode], Any]
"""A pure function of one episode that returns tensors by name; to be trained, tensors [] whose "loss" is minimised."""


class Tasks:
    """Computes tasks in the way of `runtime.task_batching`.

    loop and vmap use the calling thread, whose operations may use several cores; threads and groups use one thread per
    core with one core each. vmap and groups compute `chunk` tasks as one batch, loop and threads one task at a time. So
    memory is that of `chunk` tasks per thread, for any number of tasks.

    Args:
        runtime: the device and its settings.
        tasks: T, the number of tasks in a meta-batch.
        batchable: whether `vmap` can run the learner, see `core.types.Traits`.

    Raises:
        ConfigError: if the settings need `vmap` and it cannot.

    Attributes:
        batching: the way of computing, chosen if the setting is `auto`.
        description: how many tasks run at once, and how.
    """

    def __init__(self, runtime: Runtime, tasks: int, batchable: bool = True) -> None:
        self._runtime = runtime
        config = runtime.config
        cores = torch.get_num_threads()
        self.batching: str = config.task_batching
        if self.batching == "auto":
            on_cpu = "threads" if min(tasks, cores) > 1 and not config.task_compile else "loop"
            elsewhere = "loop" if config.gradient_checkpointing or not batchable or tasks == 1 else "vmap"
            self.batching = on_cpu if runtime.device.type == "cpu" else elsewhere
        self._batched = self.batching in ("vmap", "groups")
        if self._batched and not batchable:
            message = f"{self.batching} cannot run this learner; use loop or threads"
            raise ConfigError([Problem("runtime.task_batching", message)])
        self._chunk = (config.task_chunk or min(tasks, DEFAULT_CHUNK[self.batching])) if self._batched else 1
        self._threads = min(cores, -(-tasks // self._chunk)) if self.batching in ("threads", "groups") else 1
        at_once = self._chunk * self._threads
        how = f"{self.batching}, compiled" if config.task_compile else self.batching
        self.description = f"{at_once} task{'s' * (at_once > 1)} at once ({how})"
        self._learn = _Compiled(self._apply) if config.task_compile else self._eager
        self._pool = ThreadPoolExecutor(self._threads, "mlx-task", one_core) if self._threads > 1 else None

    def refused(self, task: Task, params: Params, episodes: Episode) -> str:
        """Return why `task` cannot be computed in this way, or "" if it can; it is tested on `episodes`.

        An error that also occurs with a single task is the learner's own and is raised.
        """
        if not self._batched:
            return ""
        try:
            with torch.no_grad():
                self._apply(task, params, episodes)
        except RuntimeError as error:
            if out_of_memory(error):
                raise
            with torch.no_grad():
                task(params, episodes.map(itemgetter(0)))
            reason = str(error).splitlines()[0]
            return f"{self.batching} cannot batch this learner on this network over tasks ({reason}); use loop"
        return ""

    def gradients(self, task: Task, params: Params, episodes: Episode) -> dict[str, Tensor]:
        """Add the gradient of the mean loss over T tasks to the leaves `params`.

        Args:
            task: returns tensors [], among them "loss".
            params: leaves; those that require gradients get them.
            episodes: T of them, stacked.

        Returns:
            The mean of each of the tensors, detached.
        """
        tasks = size(episodes.support_x)
        parts = [episodes.map(itemgetter(slice(i, i + self._chunk))) for i in range(0, tasks, self._chunk)]

        def share(worker: int) -> tuple[Params, list[dict[str, Tensor]]]:
            # separate leaves, so that threads do not add to the same gradient
            own = {n: p.detach().requires_grad_(p.requires_grad) for n, p in params.items()} if self._pool else params
            done = []
            for part in parts[worker :: self._threads]:
                done.append(self._learn(task, own, part, tasks))
            return own, done

        shares = list(self._over_threads(share, range(self._threads)))
        for name, p in params.items():
            for own, _ in shares if self._pool else ():
                if (gradient := own[name].grad) is not None:
                    p.grad = gradient if p.grad is None else p.grad.add_(gradient)
        values = [value for _, done in shares for value in done]
        return {name: torch.cat([value[name] for value in values]).mean() for name in values[0]}

    def each(
        self, task: Task, params: Params, episodes: Callable[[int], Episode], count: int
    ) -> Iterator[dict[str, Tensor]]:
        """Yield what `task` returns for each of `count` episodes, in order, without gradients.

        Args:
            task: returns tensors by name.
            params: its tensors.
            episodes: returns the episode with an index, as a meta-batch of one.
            count: number of episodes.
        """

        def part(start: int) -> list[dict[str, Tensor]]:
            with torch.no_grad():  # gradients inside a task still work: core.functional.gradient turns them on
                drawn = [episodes(index) for index in range(start, min(start + self._chunk, count))]
                values = self._apply(task, params, Episode(*map(joined, zip(*drawn, strict=True))))  # type: ignore[arg-type]  # no dicts in y
                return [{name: v[index] for name, v in values.items()} for index in range(len(drawn))]

        for values in self._over_threads(part, range(0, count, self._chunk)):
            yield from values

    def _eager(self, task: Task, params: Params, part: Episode, tasks: int) -> dict[str, Tensor]:
        """Add the gradient of a part's share of the mean loss to the leaves, and return the outputs of `task`."""
        before = checkpointing.set(self._runtime.config.gradient_checkpointing)
        try:
            values = self._apply(task, params, part)
        finally:
            checkpointing.reset(before)
        self._runtime.backward(values["loss"].sum() / tasks)
        return {name: value.detach() for name, value in values.items()}

    def _apply(self, task: Task, params: Params, part: Episode) -> Any:
        """Return the outputs of `task` for a part of a meta-batch, with a leading dimension of tasks."""
        if self._batched:
            return torch.func.vmap(task, in_dims=(None, 0))(params, part)
        value = task(params, part.map(itemgetter(0)))
        return {name: v[None] for name, v in value.items()}

    def _over_threads(self, function: Callable[[int], Any], arguments: Sequence[int]) -> Iterator[Any]:
        return self._pool.map(function, arguments) if self._pool else map(function, arguments)


DEFAULT_CHUNK = {"vmap": 32, "groups": 4}
"""Tasks in one batch if the setting is null."""


class _Compiled:
    """The same as `Tasks._eager`, compiled: all operations of a part, derivatives included, become one graph.

    A GPU starts it as a whole (a CUDA graph) and does not wait for Python between one operation and the next.

    Args:
        values: returns the outputs of a task for a part of a meta-batch, with a leading dimension of tasks.
    """

    def __init__(self, values: Callable[[Task, Params, Episode], dict[str, Tensor]]) -> None:
        self._values = values
        self._graphs: dict[tuple[Any, ...], Callable[..., Any]] = {}

    def __call__(self, task: Task, params: Params, part: Episode, tasks: int) -> dict[str, Tensor]:
        """Add the gradient of a part's share of the mean loss to the leaves, and return the outputs of `task`.

        Raises:
            UserError: if torch cannot compile here.
        """
        from torch._inductor.exc import InductorError  # here, because this imports the compiler

        learning = {name: p for name, p in params.items() if p.requires_grad}
        key = (task, tasks, *learning, *(t.shape for t in tree_leaves(part)))
        try:
            if key not in self._graphs:
                self._graphs[key] = self._graph(task, params, part, tasks)
            values, gradients = self._graphs[key](params, part)
        except InductorError as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"runtime.task_compile: torch cannot compile here ({reason}); set it to false") from error
        for p, gradient in zip(learning.values(), gradients, strict=True):
            if gradient is not None:
                # a copy, because the graph reuses the memory; in the tensor's layout, as optimizers require
                p.grad = torch.empty_like(p).copy_(gradient) if p.grad is None else p.grad.add_(gradient)
        return {name: value.clone() for name, value in values.items()}

    def _graph(self, task: Task, params: Params, part: Episode, tasks: int) -> Callable[[Params, Episode], Any]:
        from torch.fx.experimental.proxy_tensor import make_fx

        def step(params: Params, part: Episode) -> tuple[dict[str, Tensor], Sequence[Tensor | None]]:
            leaves = {name: p.detach().requires_grad_(p.requires_grad) for name, p in params.items()}
            values = self._values(task, leaves, part)
            learning = [p for p in leaves.values() if p.requires_grad]
            gradients = torch.autograd.grad(values["loss"].sum() / tasks, learning, allow_unused=True)
            return {name: value.detach() for name, value in values.items()}, gradients

        compiled = torch.compile(make_fx(step)(params, part), mode="reduce-overhead", dynamic=False)
        return torch.no_grad()(compiled)
