"""Modules as pure functions of their tensors. The only place that calls `torch.func.functional_call`.

Legend: B items, D features, O outputs, C channels, H height, W width, ... the shape of one item.
"""

from __future__ import annotations

import copy
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import layer_norm, linear
from torch.nn.modules.batchnorm import _NormBase
from torch.overrides import TorchFunctionMode

from metalearn_cli.core.items import Items, joined, size

Params = dict[str, Tensor]
"""Tensors by name."""

Apply = Callable[..., Tensor]
"""`apply(params, x, reference=None)`: a function of a network with the given tensors, on items x [B, ...].

`reference` says how many of the first items give the batch statistics that all are normalised by; None means all."""

BACKBONE, HEAD = "backbone.", "head."
"""Prefixes of the names of a network's tensors, here and in every checkpoint."""

_reference: ContextVar[int | None] = ContextVar("reference", default=None)


def reference() -> int | None:
    """Return how many of the first items give the batch statistics, None for all; normalisation layers call this.

    It is set only while a network's function runs, or in a block of `normalised_by`. A backbone that checkpoints its
    own blocks (`torch.utils.checkpoint`) runs them again after that, when the module has its own tensors again. So it
    must pass on the context and the tensors: `copy_context().run(functional_call, block, tensors, x)` with
    `tensors = dict(block.named_parameters())`, both taken before.
    """
    return _reference.get()


@contextmanager
def normalised_by(count: int | None) -> Iterator[None]:
    """Within a block, have only the first `count` items give the batch statistics, None for all."""
    before = _reference.set(count)
    try:
        yield
    finally:
        _reference.reset(before)


_total: ContextVar[Callable[[Tensor], Tensor] | None] = ContextVar("total", default=None)


def total() -> Callable[[Tensor], Tensor] | None:
    """Return what sums a tensor over the ranks that a batch is dealt to; None if this process has the whole batch.

    A normalisation layer needs it for the statistics of the whole batch.
    """
    return _total.get()


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and variance of each channel of x [B, C, ...], as [1, C, ...], over the batch of all ranks."""
    summed = total() or (lambda tensor: tensor)
    others = (0, *range(2, x.ndim))
    count = summed(x.new_tensor(x.numel() / x.shape[1]))
    mean = summed(x.sum(others, keepdim=True)) / count
    return mean, summed((x - mean).square().sum(others, keepdim=True)) / count


@contextmanager
def dealt(total: Callable[[Tensor], Tensor] | None) -> Iterator[None]:
    """Within a block, `total` sums over the ranks that the batch is dealt to; None changes nothing."""
    before = _total.set(total)
    try:
        yield
    finally:
        _total.reset(before)


class Backbone(Protocol):
    """What a backbone has besides being an `nn.Module` from items [B, ...] to features [B, D].

    Attributes:
        out_dim: D.
        batch_statistics: whether, in eval mode, an item's features depend on the other items of its batch.
        blocks: its parts from input to output; each parameter belongs to exactly one of them.

    A backbone of images may have `maps(x)`, which returns its last feature maps [B, C, H, W], and their `maps_shape`.
    """

    out_dim: int
    batch_statistics: bool

    @property
    def blocks(self) -> Sequence[nn.Module] | nn.ModuleList:
        """Return the parts from input to output."""

    def __call__(self, x: Items) -> Tensor:
        """Return features [B, D]."""


class Network(NamedTuple):
    """A backbone and its head as pure functions, and the tensors to call them with.

    The functions take any dict that has the tensors they need, and ignore others.

    Attributes:
        features: (params, x) -> [B, D].
        head: (params, z [B, D]) -> [B, O]; raises if the network has none.
        output: (params, x) -> [B, O], features and head in one call; raises if there is no head.
        maps: (params, x) -> [B, C, H, W]; raises if the backbone has none.
        params: the tensors that may learn, "backbone.*" and "head.*".
        constants: parameters that require no gradient, and buffers, such as running statistics. They are bound into the
            functions; nothing writes them within an episode.
        blocks: the names of the backbone's `params`, block by block from input to output.
        out_dim: D.
        maps_shape: (C, H, W), or None if there are no maps.
        batch_statistics: whether features depend on the other items of the batch.
        bind: returns this network with other constants, with blocks in training mode if they have a tensor among the
            given names; None keeps the mode.
    """

    features: Apply
    head: Apply
    output: Apply
    maps: Apply
    params: Params
    constants: Params
    blocks: tuple[tuple[str, ...], ...]
    out_dim: int
    maps_shape: tuple[int, ...] | None
    batch_statistics: bool
    bind: Callable[[Params, frozenset[str] | None], Network]

    @property
    def head_names(self) -> tuple[str, ...]:
        """The names of the head's tensors."""
        return tuple(name for name in self.params if name.startswith(HEAD))

    def of(self, tensors: Params) -> Network:
        """Return this network with the tensors of the same names; other tensors are ignored."""
        net = self.bind({n: tensors[n] for n in self.constants}, None) if self.constants else self
        return net._replace(params={n: tensors[n] for n in self.params})

    def training(self, learning: Collection[str]) -> Network:
        """Return this network in training mode, except blocks without a tensor in `learning`.

        In training mode, batch statistics are those of the batch, and running statistics in the constants are updated.
        """
        return self.bind(self.constants, frozenset(learning))._replace(params=self.params)

    def under(self, reference_x: Items) -> Network:
        """Return this network with batch statistics of only `reference_x`: the inductive protocol."""
        if not self.batch_statistics:
            return self
        n = size(reference_x)

        def bound(apply: Apply) -> Apply:
            return lambda params, x: apply(params, joined([reference_x, x]), reference=n)[n:]

        return self._replace(
            features=bound(self.features),
            output=bound(self.output),
            maps=bound(self.maps),
            bind=lambda constants, learning: self.bind(constants, learning).under(reference_x),
        )

    def on_features(self) -> Network:
        """Return this network, with the same tensors, for items that are its features [B, D] already."""

        def features(params: Params, x: Items, reference: int | None = None) -> Tensor:
            return cast(Tensor, x)

        def output(params: Params, x: Items, reference: int | None = None) -> Tensor:
            return self.head(params, x)

        return self._replace(
            features=features,
            output=output,
            maps=_no_maps,
            bind=lambda constants, learning: self.bind(constants, learning).on_features(),
        )


def network(
    backbone: nn.Module, outputs: int | None = None, wrap: Callable[[Apply], Apply] = lambda apply: apply
) -> Network:
    """Return a backbone, and a linear head that starts at zero, as pure functions; they run in eval mode.

    Args:
        backbone: a `Backbone`. `num_batches_tracked` of batch normalisation is dropped.
        outputs: size O of the head; None for no head.
        wrap: is applied to each function (to set a number format, for example).

    Raises:
        ValueError: see `check_backbone`.
    """
    check_backbone(backbone)
    trunk = _Trunk(backbone)
    call = _caller(trunk, trunk.learn_only)
    facts: Any = backbone
    named = {n: p.detach().clone().requires_grad_(p.requires_grad) for n, p in trunk.named_parameters()}
    params = {n: p for n, p in named.items() if p.requires_grad}
    if outputs is not None:  # zeros: no class is preferred before its first item
        shapes = {f"{HEAD}weight": (outputs, facts.out_dim), f"{HEAD}bias": (outputs,)}
        like = next(iter(named.values()), torch.zeros(()))
        params |= {name: like.detach().new_zeros(shape).requires_grad_() for name, shape in shapes.items()}

    def bind(constants: Params, learning: frozenset[str] | None) -> Network:
        def part(name: str) -> Apply:
            def apply(params: Params, x: Items, reference: int | None = None) -> Tensor:
                own = {n: p for n, p in params.items() if n.startswith(BACKBONE)}
                return call(constants | own if constants else own, (x, name), learning, reference)

            return apply

        features = part("forward")

        def output(params: Params, x: Items, reference: int | None = None) -> Tensor:
            return _head(params, features(params, x, reference))

        return Network(
            features=wrap(features),
            head=_no_head if outputs is None else wrap(_head),
            output=_no_head if outputs is None else wrap(output),
            maps=wrap(part("maps")) if hasattr(backbone, "maps") else _no_maps,
            params=params,
            constants=constants,
            blocks=tuple(tuple(n for n in names if n in params) for names in trunk.names),
            out_dim=facts.out_dim,
            maps_shape=getattr(backbone, "maps_shape", None),
            batch_statistics=facts.batch_statistics,
            bind=lambda others, names: bind(others, learning if names is None else names),
        )

    return bind({n: p for n, p in named.items() if n not in params} | buffers_of(trunk), None)


def check_backbone(backbone: nn.Module) -> None:
    """Check that a module is a `Backbone`.

    Torch's layers that normalise with the statistics of the current batch and without running statistics are refused:
    in a batch of tasks torch computes their second derivative wrongly and without warning (seen in 2.13). MAML's
    gradients of the convolution before them have an error of several percent.

    Raises:
        ValueError: with what is missing, or with the layer or tensor that is wrong.
    """
    kind = type(backbone).__name__
    for attribute in ("out_dim", "batch_statistics", "blocks"):
        if not hasattr(backbone, attribute):
            raise ValueError(f"{kind} has no attribute {attribute}, which a backbone needs")
    owners = Counter(id(p) for block in cast(Backbone, backbone).blocks for p in block.parameters())
    for name, p in backbone.named_parameters():
        if owners[id(p)] != 1:
            raise ValueError(f"{kind}.blocks must have each parameter once; {name} is in {owners[id(p)]} of them")
    for name, layer in backbone.named_modules():
        if isinstance(layer, _NormBase) and layer.running_mean is None:
            kind = f"{type(layer).__name__} without running statistics"
            reason = "torch computes its second derivative wrongly in a batch of tasks"
            raise ValueError(f"{name} is {kind}: {reason}; use GroupNorm, or BatchNormReluPool as conv4 does")


def pure(module: nn.Module, training: bool = False) -> tuple[Callable[..., Any], Params]:
    """Split any module into a pure function and its tensors.

    Args:
        module: the module, which is not changed.
        training: whether the function runs in training mode, which may write buffers among the tensors it is given;
            blocks of its `backbone` in which nothing learns run in eval mode.

    Returns:
        `apply(tensors, *args)`, which runs `module` with exactly these tensors, and copies of the module's own tensors
        by name. Copies of parameters require gradients where the originals do; copies of buffers do not.
    """

    def set_mode(copied: nn.Module, _: object) -> None:
        copied.train(training)
        for block in getattr(getattr(copied, "backbone", None), "blocks", ()):
            own = list(block.parameters())
            block.train(training and (not own or any(p.requires_grad for p in own)))

    call = _caller(module, set_mode)
    tensors = {n: p.detach().clone().requires_grad_(p.requires_grad) for n, p in module.named_parameters()}

    def apply(tensors: Params, *args: Any) -> Any:
        return call(tensors, args, None, None)

    return apply, tensors | buffers_of(module)


def buffers_of(module: nn.Module) -> Params:
    """Return copies of a module's buffers by name, without the counters that batch normalisation does not need."""
    for part in module.modules():
        if getattr(part, "num_batches_tracked", None) is not None and getattr(part, "momentum", None) is not None:
            part.num_batches_tracked = None  # type: ignore[assignment]  # torch counts where there is a counter
    return {name: buffer.detach().clone() for name, buffer in module.named_buffers()}


@contextmanager
def unwritten(constants: Params) -> Iterator[None]:
    """Check that a block does not write to constants.

    Raises:
        ValueError: at the end of the block, with the names of constants that were written.
    """
    before = {name: (tensor._version, tensor.clone()) for name, tensor in constants.items()}
    yield
    # the version shows most writes, but not those of torch's own batch normalisation
    if written := [n for n, t in constants.items() if t._version != before[n][0] or not _same(t, before[n][1])]:
        what = ", ".join(written[:3]) + (f" and {len(written) - 3} more" if len(written) > 3 else "")
        raise ValueError(f"the network writes its buffers {what} within an episode; in eval mode it must not")


def _same(one: Tensor, two: Tensor) -> bool:
    return bool(((one == two) | ((one != one) & (two != two))).all())  # NaN equals NaN here


class _Trunk(nn.Module):
    """A backbone as a submodule, so that its tensors have the same names as in checkpoints."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        named = {id(p): name for name, p in self.named_parameters()}
        blocks = cast(Backbone, backbone).blocks
        self.names = tuple(tuple(named[id(p)] for p in block.parameters() if id(p) in named) for block in blocks)

    def forward(self, x: Items, part: str) -> Tensor:
        """Return the features [B, D], or the maps [B, C, H, W], of items x."""
        result: Tensor = self.backbone(x) if part == "forward" else self.backbone.maps(x)  # type: ignore[operator]  # a method
        return result

    def learn_only(self, copied: nn.Module, learning: frozenset[str] | None) -> None:
        """Set blocks of a copy of this module with a tensor in `learning` to training mode, all else to eval mode."""
        copied.eval()
        for names, block in zip(self.names, copied.backbone.blocks, strict=True):  # type: ignore[arg-type, union-attr]
            block.train(not (learning or frozenset()).isdisjoint(names))


def _head(params: Params, z: Tensor) -> Tensor:
    return linear(z, params[f"{HEAD}weight"], params[f"{HEAD}bias"])


def _no_head(*_: object, **__: object) -> Tensor:
    raise ValueError("the network has no head: a learner that uses one has traits.head = True")


def _no_maps(*_: object, **__: object) -> Tensor:
    raise ValueError("the backbone has no feature maps; choose one for images")


Call = Callable[[Params, Sequence[Any], "frozenset[str] | None", "int | None"], Any]


def _caller(module: nn.Module, set_mode: Callable[[nn.Module, frozenset[str] | None], object]) -> Call:
    """Return a function that runs a module with given tensors, arguments, learning names and reference."""
    copies = threading.local()  # the call swaps tensors inside the module, so each thread has its own copy
    ties = len(list(module.parameters())) < len(list(module.named_parameters(remove_duplicate=False)))

    def call(tensors: Params, args: Sequence[Any], learning: frozenset[str] | None, reference: int | None) -> Any:
        if not hasattr(copies, "module"):
            copies.module, copies.learning = _corrected(copy.deepcopy(module)), ()
        if learning != copies.learning:
            set_mode(copies.module, learning)
            copies.learning = learning
        with normalised_by(reference):
            # strict: a misspelt name would otherwise set a new attribute and train nothing
            return functional_call(copies.module, tensors, tuple(args), tie_weights=ties, strict=True)

    return call


def _corrected(module: nn.Module) -> nn.Module:
    """Replace the forward function of each layer normalisation in a module, in place; see `_LayerNorm`."""
    for part in module.modules():
        if isinstance(part, nn.LayerNorm):
            kind = type(part)
            part.__class__ = _LayerNorm if kind is nn.LayerNorm else type(kind.__name__, (_OtherLayerNorm, kind), {})
    return module


def _layer_norm(
    x: Tensor, shape: Sequence[int], weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """Return torch's layer normalisation, with weights applied outside of the function; see `_LayerNorm`."""
    y = layer_norm(x, shape, eps=eps)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


class _LayerNorm(nn.LayerNorm):
    """Layer normalisation whose second derivative is right in a batch of tasks too.

    There torch computes it wrongly and without warning where the function itself has weights (seen in 2.13): as wrong
    as the gradient is large. Without weights it is right.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return x normalised over its last dimensions."""
        if not torch._C._are_functorch_transforms_active():
            return super().forward(x)
        return _layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)


class _OtherLayerNorm(nn.LayerNorm):
    """The same for another library's layer, which permutes dimensions, say, and calls torch's layer or its function."""

    def forward(self, x: Tensor) -> Tensor:
        """Return what the other library's layer does."""
        if not torch._C._are_functorch_transforms_active():
            return super().forward(x)
        with _Corrected():
            return super().forward(x)


class _Corrected(TorchFunctionMode):
    """Within a block, torch's `layer_norm` is `_layer_norm`."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call a function of torch."""
        return (_layer_norm if func is layer_norm else func)(*args, **(kwargs or {}))
