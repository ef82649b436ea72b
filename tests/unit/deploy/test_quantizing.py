"""A graph in 8-bit integers: what is made smaller, what it costs, and what cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Said, smallest
from contract.components import specs
from trainings import GRAY, meta_trained

from metalearn_cli import stages
from metalearn_cli.core.config import STAGES, parse
from metalearn_cli.core.errors import UserError
from metalearn_cli.deploy import deployed as deploying
from metalearn_cli.deploy import quantizing
from metalearn_cli.deploy.deployed import Deployed, Support, deployed, named, predicted
from metalearn_cli.deploy.enrolled import answered, embedded
from metalearn_cli.deploy.exporting import INPUT, OUTPUTS, latency, outputs_of, session_of
from metalearn_cli.deploy.inputs import Inputs
from metalearn_cli.deploy.quantizing import Quantized, check_quantizable, int8, quantized, scores_of
from metalearn_cli.deploy.record import record_of
from metalearn_cli.stages.scores import Scores

EPISODES = 4


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the evaluation of a learner of rows, whose network has no batch statistics."""
    folder = tmp_path_factory.mktemp("rows")
    checkpoint = meta_trained("table", folder)
    values = smallest("evaluate", folder / "runs", ckpt=str(checkpoint), episodes=EPISODES, way=3)
    config: Any = parse(STAGES["evaluate"], values)
    return {**stages.run("evaluate", config, Said()), "checkpoint": checkpoint, "runs": str(folder / "runs")}


def learner_of(checkpoint: Path) -> Deployed:
    """Return the learner of a checkpoint with random examples of three classes."""
    trained = named(str(checkpoint), "runs", "support")
    labels = ("crow", "crow", "jay", "jay", "wren", "wren")
    x = torch.rand(6, *trained.facts.shape, generator=torch.Generator().manual_seed(0))
    return deployed(trained, Support(tuple(map(str, range(6))), labels, x))


@pytest.fixture
def learner(evaluation: dict[str, Any]) -> Deployed:
    return learner_of(evaluation["checkpoint"])


def of_evaluation(learner: Deployed, evaluation: dict[str, Any]) -> quantizing.Tested:
    record = record_of(learner.trained.source, learner.trained.algorithm, evaluation["runs"])
    return quantizing.tested(learner.trained.source["run"], record["result"], evaluation["runs"])


def written(nodes: list[Any], weights: dict[str, torch.Tensor], sizes: tuple[int, int, int]) -> bytes:
    """Return an ONNX graph from items [N, i] to embeddings [N, d] and logits [N, w]."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    made = [onnx.numpy_helper.from_array(tensor.numpy(), name) for name, tensor in weights.items()]
    names = [INPUT, *OUTPUTS]
    ends = [
        onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["n", s])
        for n, s in zip(names, sizes, strict=True)
    ]
    graph = onnx.helper.make_graph(nodes, "graph", ends[:1], ends[1:], made)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    content: bytes = model.SerializeToString()
    return content


def two_layers(between: bool = False) -> bytes:
    """Return a graph of a layer with ReLU and a head; with `between`, what the largest of all items has less."""
    onnx = pytest.importorskip("onnx")
    node = onnx.helper.make_node
    with_others = [node("ReduceMax", ["a"], ["m"], name="m"), node("Sub", ["m", "a"], ["b"], name="b")]
    nodes = [
        node("Gemm", [INPUT, "w", "c"], ["a"], name="first"),
        *(with_others if between else []),
        node("Relu", ["b" if between else "a"], ["embeddings"], name="relu"),
        node("Gemm", ["embeddings", "v", "d"], ["logits"], name="head"),
    ]
    generator = torch.Generator().manual_seed(0)
    sizes = {"w": (6, 8), "c": (8,), "v": (8, 3), "d": (3,)}
    weights = {name: torch.randn(size, generator=generator) for name, size in sizes.items()}
    return written(nodes, weights, (6, 8, 3))


def test_the_encoder_is_in_integers_and_the_head_in_floats():
    onnx = pytest.importorskip("onnx")
    x = torch.rand(100, 6, generator=torch.Generator().manual_seed(1))
    graph = two_layers()
    made = quantized(graph, x)
    assert made == quantized(graph, x)
    found = onnx.load_from_string(made).graph
    (head,) = (node for node in found.node if node.name == "head")
    assert list(head.input) == ["embeddings", "v", "d"]  # nothing is scaled before it
    types = {tensor.name: tensor.data_type for tensor in found.initializer}
    assert types["w_quantized"] == onnx.TensorProto.INT8 and types["v"] == onnx.TensorProto.FLOAT
    (scale,) = (tensor for tensor in found.initializer if tensor.name == "w_scale")
    assert list(scale.dims) == [8]  # of each channel
    assert found.input[0].type.tensor_type.shape.dim[0].dim_param
    assert 0 < latency(made, x) < 1
    assert session_of(made).get_session_options().intra_op_num_threads == torch.get_num_threads()
    for floats, integers in zip(outputs_of(session_of(graph), x), outputs_of(session_of(made), x), strict=True):
        assert 0 < (floats - integers).abs().max() < 0.05 * floats.abs().max()


def test_answers_that_depend_on_other_items_are_refused():
    with pytest.raises(UserError, match="in integers, 1 item alone would get other answers than among others"):
        quantized(two_layers(between=True), torch.rand(100, 6))


def test_what_onnxruntime_cannot_do_is_told_in_a_sentence():
    pytest.importorskip("onnxruntime")
    with pytest.raises(UserError, match=r"onnxruntime cannot put this graph into integers .*; export it without"):
        quantized(b"no graph", torch.rand(8, 6))


@pytest.fixture
def in_torch(monkeypatch: pytest.MonkeyPatch, learner: Deployed) -> None:
    """Have torch answer in place of a graph; where this is b"coarse", numbers are rounded."""

    def outputs(session: bytes, items: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        z = embedded(learner.enrolled.learner, learner.enrolled.encoder, items).flatten(1)
        z = z.round() if session == b"coarse" else z
        return z, z[:, :3]

    for module in (quantizing, deploying):
        monkeypatch.setattr(module, "session_of", lambda graph: graph)
        monkeypatch.setattr(module, "outputs_of", outputs)


def test_scores_are_those_of_the_evaluation(learner, evaluation, in_torch):
    wanted = Scores.read(Path(evaluation["folder"]), EPISODES).protocols["none"]
    found = scores_of(learner, b"a graph", of_evaluation(learner, evaluation))
    assert found.tolist() == pytest.approx(wanted.tolist(), abs=1e-6)


def test_the_change_is_that_of_each_episode(learner, evaluation, in_torch, monkeypatch):
    monkeypatch.setattr(quantizing, "quantized", lambda graph, items: b"coarse")
    episodes = of_evaluation(learner, evaluation)
    made = int8(learner, episodes, b"a graph")
    gains = scores_of(learner, b"coarse", episodes) - scores_of(learner, b"a graph", episodes)
    change = made.record["change"]
    assert made.graph == b"coarse" and change["gain"] == pytest.approx(gains.mean().item(), abs=1e-9)
    assert change["gain"] == pytest.approx(change["int8"] - change["float"], abs=1e-9)
    assert change["evaluation"] == evaluation["id"] and change["episodes_hash"] == evaluation["episodes_hash"]
    assert change["over"]["episodes"] == EPISODES
    assert made.record["items"]["split"] == "train" and isinstance(made, Quantized)


def test_episodes_must_be_those_of_an_evaluation(learner, evaluation, monkeypatch):
    for runs, told in (("runs", ""), ("my runs", " 'runs_dir=my runs'")):
        with pytest.raises(UserError, match=f"costs on test episodes; type first: mlx evaluate ckpt=r1{told}$"):
            quantizing.tested("r1", None, runs)
    monkeypatch.setattr(quantizing, "find_run", lambda *args: {**evaluation, "episodes_hash": "0" * 64})
    with pytest.raises(UserError, match="have changed since: its episodes are others; evaluate again"):
        of_evaluation(learner, evaluation)


@pytest.mark.medium
def test_a_learner_that_adapts_its_network_is_refused(tmp_path):
    checkpoint = meta_trained("images", tmp_path, GRAY, algorithm=specs("algorithm")["maml"])
    with pytest.raises(UserError, match=r"quantize=int8: Maml adapts .* cannot be measured; export it without q"):
        check_quantizable(learner_of(checkpoint))


def test_what_is_in_integers_answers_by_its_graph(learner, in_torch):
    check_quantizable(learner)
    learner = learner._replace(integers=b"coarse")
    x = torch.rand(3, *learner.trained.facts.shape)
    z = embedded(learner.enrolled.learner, learner.enrolled.encoder, x).round()
    for answer, own in zip(predicted(learner, Inputs(("a", "b", "c"), x)), z, strict=True):
        assert answer["class"] == learner.classes[int(own[:3].argmax())]
        assert answer["distance"] == pytest.approx(float(torch.cdist(own[None], learner.enrolled.centres).min()))


def test_an_evaluation_of_another_version_is_named(learner, evaluation, monkeypatch):
    read = stages.runs.read_config

    def older(folder: Path) -> dict[str, Any]:
        return {key: value for key, value in read(folder).items() if key != "varying"}

    monkeypatch.setattr(stages.runs, "read_config", older)
    with pytest.raises(UserError, match=r"config\.json is damaged, or of another version: .*varying"):
        of_evaluation(learner, evaluation)


@pytest.mark.medium
def test_maps_that_a_graph_flattens_are_maps_again(tmp_path, monkeypatch):
    checkpoint = meta_trained("images", tmp_path, GRAY, algorithm=specs("algorithm")["relation_net"], way=2)
    own = {"ckpt": str(checkpoint), "episodes": EPISODES, "way": 2, "shot": 2, "normalisation": ["inductive"]}
    config: Any = parse(STAGES["evaluate"], smallest("evaluate", tmp_path / "runs", **own))
    stages.run("evaluate", config, Said())
    learner = learner_of(checkpoint)
    episodes, seen = of_evaluation(learner, {"runs": str(tmp_path / "runs")}), list[torch.Size]()

    def outputs(session: bytes, items: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        z = embedded(learner.enrolled.learner, learner.enrolled.encoder, items)
        seen.append(z.shape[1:])
        return z.flatten(1), z.flatten(1)

    def answers(enrolled: Any, z: torch.Tensor) -> torch.Tensor:
        seen.append(z.shape[1:])
        return answered(enrolled, z)

    monkeypatch.setattr(quantizing, "session_of", lambda graph: graph)
    monkeypatch.setattr(quantizing, "outputs_of", outputs)
    monkeypatch.setattr(quantizing, "answered", answers)
    assert len(scores_of(learner, b"a graph", episodes)) == EPISODES
    assert len(set(seen)) == 1 and len(seen[0]) == 3
