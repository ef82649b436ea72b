"""The ONNX graph gives what torch gives, for any number of items, and so does the program beside it."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from contract.components import specs
from encoders import TRANSFORMERS, WORDS, encoder_into, weights_into
from sources import images
from trainings import GRAY, meta_trained

from metalearn_cli.algorithms.protonet import ProtoNet
from metalearn_cli.core.build import build
from metalearn_cli.core.errors import UserError
from metalearn_cli.core.items import Facts
from metalearn_cli.core.network import network
from metalearn_cli.core.random import seeded
from metalearn_cli.data.common.pixels import drawing
from metalearn_cli.data.common.texts import encoded
from metalearn_cli.deploy import exporting
from metalearn_cli.deploy.artefact import write_artefact
from metalearn_cli.deploy.deployed import Support, deployed, named, predicted, reader_of
from metalearn_cli.deploy.enrolled import Enrolled, enrol
from metalearn_cli.deploy.exporting import SIZES, check_installed, graph_of, outputs_of, session_of
from metalearn_cli.deploy.inputs import Reader
from metalearn_cli.deploy.quantizing import quantized
from metalearn_cli.records.checkpoint import packed
from metalearn_cli.stages.learner import fresh_backbone, fresh_learner

needs_onnx = pytest.mark.skipif(
    any(exporting.find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="needs the extra export",
)
IMAGES = Facts("image", (1, 16, 16), "unit", 3)
BACKBONES: dict[str, tuple[dict[str, Any], Facts]] = {
    "conv4": ({"hidden": 4}, IMAGES),
    "resnet12": ({"hidden": 2, "norm": "batch"}, IMAGES),
    "mlp": ({"hidden": 4}, Facts("vector", (6,), "real", 3)),
    "transformer": ({"hidden": 8, "layers": 1}, Facts("text", (5,), "ids", 3, vocabulary=9)),
    "cnn1d": ({"hidden": 4}, Facts("audio", (80,), "real", 3)),
}
CASES = [
    ("conv4", name)
    for name in ("protonet", "maml", "r2d2", "feat", "matching_net", "nearest_centroid", "relation_net", "cnp")
]
CASES += [(name, "protonet") for name in BACKBONES if name != "conv4"]


def items(facts: Facts, count: int) -> torch.Tensor:
    with seeded(0, "items"):
        if facts.values == "ids":
            return torch.randint(1, 9, (count, *facts.shape))
        return torch.rand(count, *facts.shape)


def learnt(backbone: str, algorithm: str) -> Enrolled:
    settings, facts = BACKBONES[backbone]
    module = fresh_backbone(specs("backbone").get(backbone, {}) | settings, facts, seed=0)
    built = build(specs("algorithm")[algorithm], "algorithm")
    learner = fresh_learner(built, network(module, 3 if built.traits.head else None), 3, "inductive", seed=0).at(1.0)
    return enrol(learner, module, items(facts, 6), torch.arange(3).repeat(2), {})


@needs_onnx
@pytest.mark.slow  # the exporter takes seconds for each
@pytest.mark.parametrize(("backbone", "algorithm"), CASES)
def test_the_graph_gives_what_torch_gives(backbone, algorithm):
    """`graph_of` compares them itself, for 1, 7 and 75 items, and checks that their number is free."""
    import onnx

    found = onnx.load_from_string(graph_of(learnt(backbone, algorithm), items(BACKBONES[backbone][1], max(SIZES))))
    onnx.checker.check_model(found)
    assert found.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    if (backbone, algorithm) == ("conv4", "maml"):
        assert {node.op_type for node in found.graph.node} <= {
            "Conv",
            "Relu",
            "MaxPool",
            "Reshape",
            "Transpose",
            "Gemm",
        }


HF, TIMM = "metalearn_cli.backbones.hf.Hf", "metalearn_cli.backbones.timm.Timm"
FOREIGN = {
    "text": Facts("text", (7,), "ids", 3, vocabulary=1 + len(WORDS)),
    "image": Facts("image", (3, 16, 16), "unit", 3),
    "audio": Facts("audio", (1, 300), "real", 3),
    "test_vit": Facts("image", (3, 32, 32), "unit", 3),
    "test_resnet": Facts("image", (3, 32, 32), "unit", 3),
    "test_convnext": Facts("image", (3, 64, 64), "unit", 3),
    "speaker": Facts("audio", (1600,), "real", 3),
}


@needs_onnx
@pytest.mark.slow
@pytest.mark.parametrize("name", FOREIGN)
def test_encoders_of_others_are_exported(name, tmp_path, monkeypatch):
    facts, spec = FOREIGN[name], {"_target_": "metalearn_cli.backbones.speaker.Speaker"}
    if name in TRANSFORMERS:
        if find_spec("transformers") is None:  # imported only once a broken torchvision is hidden
            pytest.skip("transformers is not installed")
        spec = {"_target_": HF, "path": str(encoder_into(tmp_path / name, name))}
        if name == "text":
            own = hashlib.sha256((tmp_path / name / "tokenizer.json").read_bytes()).hexdigest()
            facts = facts._replace(tokenizer=own)
    elif name != "speaker":
        spec = {"_target_": TIMM, "name": name, "weights": str(weights_into(tmp_path, name))}
    monkeypatch.setitem(BACKBONES, name, (spec, facts))
    made = learnt(name, "protonet")
    assert graph_of(made, items(facts, max(SIZES)))


class OfThree(ProtoNet):
    """A learner whose answers fix the number of queries."""

    def predict(self, net, own, state, x):
        return super().predict(net, own, state, x) + torch.zeros(len(x), 1)


@needs_onnx
@pytest.mark.slow
def test_a_graph_of_a_fixed_number_of_items_is_refused():
    made = learnt("conv4", "protonet")
    made = made._replace(learner=made.learner._replace(algorithm=OfThree()))
    with pytest.raises(UserError, match="OfThree on this network takes only 3 items at a time"):
        graph_of(made, items(IMAGES, max(SIZES)))


@needs_onnx
def test_another_answer_is_refused(monkeypatch):
    import onnxruntime

    class Other:
        def __init__(self, *args: object, **kwargs: object) -> None:
            pass

        def run(self, names, given):
            return [torch.zeros(len(given["items"]), n).numpy() for n in (4, 3)]

    monkeypatch.setattr(onnxruntime, "InferenceSession", Other)
    whole = exporting._Whole(learnt("conv4", "protonet"))
    with pytest.raises(UserError, match="gives other numbers than torch for 1 item"):
        exporting._compare(b"", whole, items(IMAGES, 75))


@needs_onnx
@pytest.mark.parametrize(("off", "refused"), [(5e-6, False), (8e-4, False), (2e-3, True), (float("nan"), True)])
def test_what_is_due_to_rounding_is_not_refused(off, refused, monkeypatch):
    whole = exporting._Whole(learnt("mlp", "protonet"))

    def run(names, given):
        with torch.no_grad():
            return [(1 + off) * part.numpy() for part in whole(torch.from_numpy(given["items"]))]

    def rounded(whole, x):
        with torch.no_grad():
            return [(1 + 1e-4) * part.numpy() for part in whole(x)]

    monkeypatch.setattr(exporting, "session_of", lambda content: SimpleNamespace(run=run))
    monkeypatch.setattr(exporting, "_exact", rounded)
    x = items(BACKBONES["mlp"][1], 75)
    if not refused:
        return exporting._compare(b"", whole, x)
    with pytest.raises(UserError, match="gives other numbers than torch for 1 item"):
        exporting._compare(b"", whole, x)


@pytest.mark.parametrize("name", BACKBONES)
def test_rounding_is_that_of_32_bits(name):
    whole, x = exporting._Whole(learnt(name, "protonet")), items(BACKBONES[name][1], 7)
    for part, exact in zip(whole(x), exporting._exact(whole, x), strict=True):
        assert exact.dtype == np.float64 and 0 < exporting._apart(part.detach().numpy(), exact) < 1e-4


@needs_onnx
@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n != "mlp")) for n in BACKBONES])
def test_every_kind_of_network_can_be_in_integers(name):
    import onnx

    x = items(BACKBONES[name][1], 100)
    graph = graph_of(learnt(name, "protonet"), x)
    made = quantized(graph, x)
    z, integers = (outputs_of(session_of(content), x)[0] for content in (graph, made))
    assert 0 < (z - integers).abs().max() < (0.2 if name == "resnet12" else 0.05) * z.abs().max()
    tensors = [onnx.numpy_helper.to_array(tensor) for tensor in onnx.load_from_string(made).graph.initializer]
    weights = [tensor.astype(int) for tensor in tensors if tensor.dtype == np.int8 and tensor.ndim > 1]
    assert max(abs(weight).max() for weight in weights) == 64  # sums of products of 8 bits may overflow


@pytest.mark.parametrize(("cause", "raised"), [(KeyboardInterrupt(), KeyboardInterrupt), (ValueError("no"), UserError)])
def test_what_the_exporter_wraps_is_found(monkeypatch, cause, raised):
    def export(*args: object, **settings: object) -> None:
        try:
            raise cause
        except BaseException as error:
            raise RuntimeError("Failed to export the model. This is step 1/3") from error

    monkeypatch.setattr(exporting, "find_spec", lambda name: object())
    monkeypatch.setattr(torch.onnx, "export", export)
    with pytest.raises(raised, match="cannot be exported to ONNX: no$" if raised is UserError else None):
        graph_of(learnt("conv4", "protonet"), items(IMAGES, 75))


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setattr(exporting, "find_spec", lambda name: None if name == "onnxscript" else object())
    with pytest.raises(UserError, match=r"exporting needs onnxscript: pip install 'metalearn-cli\[export\]'"):
        check_installed()


@needs_onnx
@pytest.mark.slow
def test_the_program_of_an_artefact_gives_the_same_answers(tmp_path):
    trained = named(str(meta_trained("images", tmp_path / "data", GRAY)), "runs", "support")
    for k, name in enumerate(("crow", "jay")):
        (tmp_path / "files" / name).mkdir(parents=True)
        for i, mode in enumerate(("L", "RGB", "RGBA", "P", "1")):
            images.picture(10 * k + i, mode).save(tmp_path / "files" / name / f"{i}.png")
    found = reader_of(trained, {}).support(str(tmp_path / "files"))
    learner = deployed(trained, Support(found.names, found.labels, found.items))
    write_artefact(tmp_path / "birds", learner, {"result": None, "lineage": []})
    files = [str(tmp_path / "files" / name) for name in found.names]
    program = [sys.executable, "-I", str(tmp_path / "birds" / "predict.py")]
    out = subprocess.run([*program, *files], capture_output=True, text=True, check=True).stdout
    wanted = predicted(learner, reader_of(trained, {}).queries(files))
    for line, answer in zip(out.splitlines(), wanted, strict=True):
        file, name, p = line.split("\t")
        assert (file, name) == (answer["file"], answer["class"]) and float(p) == pytest.approx(
            answer["probability"], abs=2e-3
        )
    assert len(Path(program[-1]).read_text().splitlines()) < 90


SQUARED = {"size": [16, 16], "resampling": "bicubic", "bits": 16, "divide_by": 255}
KINDS = {"RGB": "jpg", "L": "png", "RGBA": "png", "P": "gif", "1": "png", "LA": "png"}


@pytest.mark.parametrize(
    "how", [*({**SQUARED, "channels": c, "fit": f} for c in (1, 3) for f in ("crop", "pad", "squash")), drawing(16)]
)
def test_the_program_reads_pictures_as_training_did(how, tmp_path):
    names = program("pictures", tmp_path, {"input": {"kind": "image"}, "preprocessing": how})
    reader = Reader(Facts("image", (how["channels"], 16, 16), "unit", 2), how)
    for i, (mode, ending) in enumerate(KINDS.items()):
        file = str(tmp_path / f"{i}.{ending}")
        images.picture(i, mode).resize((90, 60)).save(file)
        assert torch.equal(torch.from_numpy(names["items_in"](file)), reader.of_files([file])), mode


@pytest.mark.parametrize(
    "how",
    [
        {"tokenizer": "bytes", "length": 12},
        {"tokenizer": "words", "length": 12, "pieces": "a b ##a ##b ab ##ab ! caf ##\u00e9 the ##re"},
    ],
)
def test_the_program_reads_texts_as_training_did(how, tmp_path):
    names = program("texts", tmp_path, {"preprocessing": how})
    for text in ("Abba! ab", "the Caf\u00e9 there, \uff21b", "x" * 99, "", "\u4f60\u597d baba"):
        assert torch.equal(torch.from_numpy(names["ids_of"](text)), encoded([text], how).ids), text


@pytest.mark.parametrize(("kind", "given"), [("pictures", "items.npy"), ("texts", "items.txt")])
@pytest.mark.parametrize("threshold", [None, 1.5])
def test_the_program_marks_what_is_far_from_all_classes(kind, given, threshold, tmp_path, capsys):
    z = torch.tensor([[0.0, 0.0], [2.0, 0.0], [9.0, 9.0]])
    (tmp_path / "classes.safetensors").write_bytes(packed({"weights": torch.ones(3), "embeddings": z}))
    about: dict[str, Any] = {
        "classes": ["a", "b"],
        "examples": [{"class": c} for c in "aab"],
        "input": {"dtype": "float32"},
    }
    about |= {"preprocessing": {"tokenizer": "bytes", "length": 2}}
    about |= {"calibration": {"temperature": 2.0, "threshold": threshold}}
    names, near = program(kind, tmp_path, about), iter([2.4, 2.6])
    if kind == "pictures":
        np.save(tmp_path / given, np.array([[2.4], [2.6]]))
    else:
        (tmp_path / given).write_text("x\ny\n")

    def run(outputs: list[str], items: dict[str, Any]) -> list[Any]:
        x = [float(own[0]) if kind == "pictures" else next(near) for own in items["items"]]
        return [np.array([[own, 0.0] for own in x], np.float32), np.tile(np.float32([4, 0]), (len(x), 1))]

    names["onnxruntime"] = SimpleNamespace(InferenceSession=lambda *args, **settings: SimpleNamespace(run=run))
    names["main"]([str(tmp_path / given)])
    lines = [line.split("\t")[1:] for line in capsys.readouterr().out.splitlines()]
    assert lines == [["a", "0.881"], ["a", "0.881", *["unknown"] * (threshold is not None)]]


@pytest.mark.parametrize(("kind", "word"), [("pictures", "gone.png"), ("pictures", "."), ("texts", "gone.txt")])
def test_the_program_names_what_it_cannot_read(kind, word, tmp_path):
    about = {"input": {"kind": "image"}, "preprocessing": drawing(16), "classes": ["a", "b"]}
    names = program(kind, tmp_path, about)
    names["onnxruntime"] = SimpleNamespace(InferenceSession=lambda *args, **settings: None)
    with pytest.raises(SystemExit, match=rf"^{word} cannot be read: "):
        names["main"]([word])


def program(kind: str, folder: Path, about: dict[str, Any]) -> dict[str, Any]:
    """Return the names of a program beside an artefact, without onnxruntime, which need not be installed."""
    (folder / "artefact.json").write_text(json.dumps(about))
    text = Path(exporting.__file__).with_name(f"standalone_{kind}.py").read_text()
    names: dict[str, Any] = {"__name__": "predict", "__file__": str(folder / "predict.py")}
    exec(text.replace("import onnxruntime\n", ""), names)
    return names
