"""An exported graph in 8-bit integers, and what that costs.

The weights and the values between the layers of the encoder become 8-bit integers (static, a scale for each channel of
a weight), the weights with 7 of the bits, so that sums overflow on no processor; what training items give between the
layers says how large these values are. The learner's head stays in floats.

Legend: N items, E episodes.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterator, Mapping
from functools import cache
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from torch import Tensor

from metalearn_cli import stages
from metalearn_cli.core.check import counted
from metalearn_cli.core.config import EvaluateConfig, parse
from metalearn_cli.core.errors import UserError
from metalearn_cli.core.learning import score
from metalearn_cli.core.types import Sampler
from metalearn_cli.deploy.deployed import Deployed
from metalearn_cli.deploy.enrolled import answered, learnt
from metalearn_cli.deploy.exporting import INPUT, OUTPUTS, SIZES, outputs_of, quietly, session_of
from metalearn_cli.deploy.trained import data_of, dataset, learner_of
from metalearn_cli.records.checkpoint import open_checkpoint
from metalearn_cli.records.runs import find_run
from metalearn_cli.stages.evaluation_episodes import tested_episodes
from metalearn_cli.stages.scores import gain_of

ITEMS = 256
"""Training items that say how large values are."""

_AT_ONCE = 64
_SAME = 0.02  # of the largest number: a sum of other parts may be rounded to the next integer


class Quantized(NamedTuple):
    """A graph in 8-bit integers.

    Attributes:
        graph: its bytes.
        record: the entry of artefact.json: what it was made with, and the `change` of the accuracy.
    """

    graph: bytes
    record: dict[str, Any]


class Tested(NamedTuple):
    """The test episodes of an evaluation.

    Attributes:
        sampler: the episodes.
        number: E.
        facts: the entries of the record that say which they are.
    """

    sampler: Sampler
    number: int
    facts: dict[str, Any]


def check_quantizable(learner: Deployed) -> None:
    """Check that what 8-bit integers cost can be measured.

    Raises:
        UserError: if the learner has another network in each episode, which would each have to be made smaller.
    """
    algorithm = learner.enrolled.learner.algorithm
    if algorithm.traits.sees == "items":
        told = f"{type(algorithm).__name__} adapts its network to the examples, so that what integers cost on test"
        cure = "export it without quantize, or train protonet"
        raise UserError(f"quantize=int8: {told} episodes cannot be measured; {cure}")


def tested(run: str, result: Mapping[str, Any] | None, runs_dir: str) -> Tested:
    """Return the test episodes of the evaluation that an artefact's result is from.

    Args:
        run: the id of the run that is exported.
        result: see `record.record_of`.
        runs_dir: the folder of all runs.

    Raises:
        UserError: if there is none, or its data are gone or have changed.
    """
    if not result:
        elsewhere = [f"runs_dir={runs_dir}"] * (runs_dir != "runs")
        line = shlex.join(["mlx", "evaluate", f"ckpt={run}", *elsewhere])
        raise UserError(f"quantize=int8 tells what it costs on test episodes; type first: {line}")
    evaluation = find_run(runs_dir, result["run"])
    shape = {key: result[key] for key in ("way", "shot", "query") if result.get(key)}
    config = parse(EvaluateConfig, stages.recorded_settings(Path(evaluation["folder"]), "evaluate") | shape)
    sampler, count = tested_episodes(config, dataset(evaluation["data"]["spec"])), config.episodes
    if (found := sampler.hash(count)) != evaluation["episodes_hash"]:
        raise UserError(f"the data of {evaluation['id']} have changed since: its episodes are others; evaluate again")
    return Tested(sampler, count, {"evaluation": evaluation["id"], "episodes_hash": found, **shape})


def int8(learner: Deployed, episodes: Tested, graph: bytes) -> Quantized:
    """Return a graph in 8-bit integers, and what it costs.

    Args:
        learner: the learner with its support set.
        episodes: test episodes.
        graph: its graph, see `exporting.graph_of`.

    Raises:
        UserError: if it cannot be made smaller, or an item's answer then depends on the others.
    """
    x = _items(learner)
    made = quantized(graph, x)
    scores = [scores_of(learner, content, episodes) for content in (graph, made)]
    floats, integers = (values.mean().item() for values in scores)
    change = gain_of((scores[1] - scores[0])[None], episodes.sampler.classes(episodes.number))
    record = {
        "type": "int8",
        "items": {"split": "train", "count": len(x), "sha256": _sha256(x.numpy().tobytes())},
        "float_sha256": _sha256(graph),
        "change": {"float": floats, "int8": integers, **change, **episodes.facts},
    }
    return Quantized(made, record)


def again(learner: Deployed, graph: bytes, record: Mapping[str, Any]) -> Quantized:
    """Return the graph of a learner whose classes have changed in 8-bit integers, by the same training items as before.

    Args:
        learner: the learner.
        graph: its graph, see `exporting.graph_of`.
        record: the entry of artefact.json before; the `change` of the accuracy stays.

    Raises:
        UserError: if these items are gone or have changed, or the graph cannot be made smaller.
    """
    try:
        x = _items(learner)
    except UserError as error:
        told = f"an artefact in integers (quantize=int8) needs training items to change its classes, and {error}"
        raise UserError(f"{told}; change it where the run and the data are, or export it without quantize") from error
    if _sha256(x.numpy().tobytes()) != record["items"]["sha256"]:
        raise UserError("the training data of this artefact in integers (quantize=int8) have changed; export it anew")
    return Quantized(quantized(graph, x), {**record, "float_sha256": _sha256(graph)})


def _items(learner: Deployed) -> Tensor:
    """Return the training items [N, ...] that say how large values are.

    Raises:
        UserError: if they are gone.
    """
    data = data_of(open_checkpoint(Path(learner.trained.source["checkpoint"])))
    x, _ = data.batch("train", "all", ITEMS, seed=0, step=0)
    assert isinstance(x, Tensor)
    return x


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def quantized(graph: bytes, items: Tensor) -> bytes:
    """Return a graph whose encoder computes in 8-bit integers.

    Args:
        graph: see `exporting.graph_of`.
        items: training items [N, ...].

    Raises:
        UserError: if onnxruntime cannot do it, or an item's answer then depends on the others.
    """
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Batches(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = iter(items.split(_AT_ONCE))

        def get_next(self) -> dict[str, Any] | None:
            part = next(self.left, None)
            return None if part is None else {INPUT: part.numpy()}

    with TemporaryDirectory() as folder, quietly():
        given, shaped, made = (str(Path(folder) / name) for name in ("given.onnx", "shaped.onnx", "made.onnx"))
        Path(given).write_bytes(graph)
        try:
            quant_pre_process(given, shaped, skip_symbolic_shape=True)
            head = list(_head(onnx.load(shaped).graph))
            # weights of 7 bits: on processors without VNNI instructions, sums of products of 8 bits overflow
            settings = {"per_channel": True, "reduce_range": True, "nodes_to_exclude": head}
            quantization.quantize_static(shaped, made, Batches(), **settings)
            content = Path(made).read_bytes()
            _check_alone(content, items)
        except UserError:
            raise
        except Exception as error:  # the quantizer raises what its many parts raise
            reason = str(error).strip().partition("\n")[0]
            raise UserError(
                f"onnxruntime cannot put this graph into integers ({reason}); export it without quantize"
            ) from error
    return content


def _head(graph: Any) -> Iterator[str]:
    """Yield the names of the nodes that the embeddings do not need: those of the learner's head."""
    needed = {OUTPUTS[0]}
    for node in reversed(graph.node):  # in the order in which they run
        if needed & set(node.output):
            needed |= set(node.input)
        else:
            yield node.name


def _check_alone(content: bytes, items: Tensor) -> None:
    """Check that a graph takes any number of items, and that an answer is the same among any others.

    Raises:
        UserError: if not.
    """
    session = session_of(content)
    together = outputs_of(session, items[: max(SIZES)])
    for number in SIZES:
        for some, all_of_them in zip(outputs_of(session, items[:number]), together, strict=True):
            if not torch.allclose(some, all_of_them[:number], rtol=0, atol=_SAME * float(all_of_them.abs().max())):
                alone = f"in integers, {counted(number, 'item')} alone would get other answers than among others"
                raise UserError(f"{alone}; export floats")


def scores_of(learner: Deployed, graph: bytes, episodes: Tested) -> Tensor:
    """Return the accuracy [E] in test episodes, with the embeddings of a graph."""
    session, shape, scores = session_of(graph), learner.enrolled.embedded.shape[1:], []
    of_way = cache(lambda way: learner_of(learner.trained, way)[0])
    for step in range(episodes.number):
        one = episodes.sampler.batch(step, 1).map(itemgetter(0))
        support, query = (outputs_of(session, x)[0].unflatten(1, shape) for x in (one.support_x, one.query_x))
        own = of_way(int(one.support_y.max()) + 1)
        enrolled = learnt(own, learner.enrolled.encoder, support, one.support_y)
        scores.append(score(answered(enrolled, query), one.query_y))
    return torch.stack(scores).double().cpu()
