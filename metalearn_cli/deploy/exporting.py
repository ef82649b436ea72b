"""A learner with its support set as one ONNX graph, checked against torch.

Legend: N items, D features, W classes, ... the shape of one item.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from metalearn_cli.core.check import counted
from metalearn_cli.core.errors import UserError
from metalearn_cli.core.items import Items
from metalearn_cli.core.machine import median_seconds
from metalearn_cli.core.network import Params
from metalearn_cli.deploy.enrolled import Enrolled, embedding, logits_of

INPUT, OUTPUTS = "items", ["embeddings", "logits"]
SIZES = (1, 7, 75)
"""Numbers of items for which the graph is compared with torch."""

CLOSE = 1e-5
"""The largest difference allowed, as a share of the largest value."""

ROUNDINGS = 10
"""How many times torch's own error it may be instead, where rounding is more than that: in deep networks, say."""


class _Whole(nn.Module):
    """From items [N, ...] to their embeddings [N, D] and logits [N, W]."""

    def __init__(self, enrolled: Enrolled) -> None:
        super().__init__()
        self.encoder = enrolled.encoder
        self.enrolled = enrolled

    def forward(self, items: Tensor) -> tuple[Tensor, Tensor]:
        z = embedding(self.enrolled.learner, self.encoder)(items)
        return z.flatten(1), logits_of(self.enrolled, z)


def check_installed(what: str = "exporting", packages: Sequence[str] = ("onnx", "onnxscript", "onnxruntime")) -> None:
    """Check that packages of the extra are there.

    Args:
        what: what needs them.
        packages: their names.

    Raises:
        UserError: with those that are not.
    """
    if missing := [name for name in packages if find_spec(name) is None]:
        raise UserError(f"{what} needs {', '.join(missing)}: pip install 'metalearn-cli[export]'")


def graph_of(enrolled: Enrolled, tried: Tensor) -> bytes:
    """Return a learner as an ONNX graph; the same learner gives the same bytes.

    Args:
        enrolled: the learner with its support set.
        tried: items [N, ...] to compare the graph with torch on, as many as the largest of `SIZES`.

    Raises:
        UserError: if it cannot be exported, or only for a fixed number of items, or gives other answers.
    """
    check_installed()
    whole, name = _Whole(enrolled), type(enrolled.learner.algorithm).__name__
    whole.eval()
    try:
        with torch.no_grad(), quietly():
            whole(tried[:3])  # what is made on first use must not be traced
            made: Any = torch.onnx.export(
                whole,
                (tried[:3],),
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim("items")},),
                input_names=[INPUT],
                output_names=OUTPUTS,
                verbose=False,
            )
    except Exception as error:  # the exporter raises what its many parts raise
        cause = _cause(error)
        if isinstance(cause, KeyboardInterrupt):
            raise cause from error
        reason = str(cause).strip().partition("\n")[0]
        raise UserError(f"{name} on this network cannot be exported to ONNX: {reason}") from error
    graph = made.model_proto
    first = graph.graph.input[0].type.tensor_type.shape.dim[0]
    if not first.dim_param:
        told = f"the graph of {name} on this network takes only {counted(first.dim_value, 'item')} at a time"
        raise UserError(f"{told}, so that it cannot be exported; train another learner, such as protonet")
    _without_traces(graph)
    content: bytes = graph.SerializeToString(deterministic=True)
    _compare(content, whole, tried)
    return content


def _cause(error: BaseException) -> BaseException:
    """Return what an error comes from: the exporter has wrapped it, also if it was Ctrl-C."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _compare(content: bytes, whole: _Whole, tried: Tensor) -> None:
    """Compare the graph with torch.

    Raises:
        UserError: if they differ by too much, or an answer is another.
    """
    session = session_of(content)
    for number in SIZES:
        x = tried[:number]
        with torch.no_grad():
            wanted = [part.numpy() for part in whole(x)]
        given = session.run(OUTPUTS, {INPUT: x.numpy()})
        differ = [_apart(g, w) for g, w in zip(given, wanted, strict=True)]
        if max(differ) <= CLOSE:
            continue
        rounding = [_apart(w, exact) for w, exact in zip(wanted, _exact(whole, x), strict=True)]
        if not all(own <= ROUNDINGS * torchs for own, torchs in zip(differ, rounding, strict=True)):
            items = counted(number, "item")
            told = f"the graph gives other numbers than torch for {items} (by {max(differ):.1g} of the largest)"
            raise UserError(f"{told}; please report it with the settings of the learner")


def _apart(one: Any, other: Any) -> float:
    """Return the largest difference of two arrays, as a share of the largest number of the second."""
    return float(np.abs(one - other).max() / max(np.abs(other).max(), 1e-9))


def _exact(whole: _Whole, x: Tensor) -> list[Any]:
    """Return what torch gives for items in numbers of 64 bits, from the same tensors."""

    def wide(tensors: Params) -> Params:
        return {name: t.double() if t.is_floating_point() else t for name, t in tensors.items()}

    enrolled, learner = whole.enrolled, whole.enrolled.learner
    exact = _Whole(
        enrolled._replace(
            learner=learner.of(wide(learner.tensors)),
            encoder=copy.deepcopy(enrolled.encoder).double(),
            state=wide(enrolled.state),
        )
    )
    with torch.no_grad():
        return [part.numpy() for part in exact(x.double() if x.is_floating_point() else x)]


def session_of(content: bytes) -> Any:
    """Return what runs a graph on the processor.

    Raises:
        UserError: if onnxruntime is not installed.
    """
    check_installed("an exported graph", ["onnxruntime"])
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def outputs_of(session: Any, items: Items) -> tuple[Tensor, Tensor]:
    """Return the embeddings [N, D] and logits [N, W] that a graph gives for items [N, ...]."""
    assert isinstance(items, Tensor)  # those of several parts are not exported
    z, logits = map(torch.from_numpy, session.run(OUTPUTS, {INPUT: items.numpy()}))
    return z, logits


def latency(content: bytes, items: Tensor) -> float:
    """Return the seconds that a graph takes for one item: the median of many."""
    session = session_of(content)
    return median_seconds(lambda: session.run(OUTPUTS, {INPUT: items[:1].numpy()}))


def _without_traces(model: Any) -> None:
    """Remove what the exporter notes of its own files, which differs from place to place."""
    graph = model.graph
    parts = (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer)
    for part in parts:
        part.ClearField("doc_string")
        part.ClearField("metadata_props")


@contextmanager
def quietly() -> Iterator[None]:
    """Within a block, hear nothing of the exporter's own parts and their deprecations."""
    logs = [logging.getLogger("torch.onnx"), logging.getLogger()]  # onnxruntime writes to the latter
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)
