"""Optimizers and schedules that cannot work are refused before anything is written."""

import pytest

from metalearn_cli import stages
from metalearn_cli.core.errors import ConfigError
from metalearn_cli.stages.preparing import essence


@pytest.mark.parametrize(
    ("key", "spec", "told"),
    [
        ("optimizer", {"_target_": "torch.optim.LBFGS", "lr": 0.1}, "LBFGS cannot be used with these settings"),
        ("optimizer", {"_target_": "torch.optim.SparseAdam", "lr": 0.1}, "SparseAdam does not support dense gradients"),
        ("optimizer", {"_target_": "torch.optim.Adam", "lr": 0.1, "differentiable": True}, "Adam cannot be used"),
        (
            "optimizer.nesterov",
            {"_target_": "torch.optim.SGD", "lr": 0.1, "nesterov": True},
            "Nesterov momentum requires",
        ),
        ("scheduler", {"_target_": "torch.optim.lr_scheduler.ReduceLROnPlateau"}, "ReduceLROnPlateau cannot be used"),
        ("scheduler", {"_target_": "torch.optim.lr_scheduler.CosineAnnealingLR", "T_max": 0}, "ZeroDivisionError"),
        ("scheduler", {"_target_": "torch.optim.lr_scheduler.StepLR", "step_size": 0}, "cannot be used"),
    ],
)
def test_what_torch_cannot_compute_with_is_refused(config, said, tmp_path, key, spec, told):
    with pytest.raises(ConfigError) as caught:
        stages.run("pretrain", config("pretrain", **{key.split(".")[0]: spec}), said)
    (problem,) = caught.value.problems
    assert problem.key == key
    assert told in problem.message
    assert not list(tmp_path.iterdir())


def test_an_encoders_files_are_known_by_their_contents_and_not_by_their_place(config, tmp_path):
    def known(name, weights):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "model.safetensors").write_text(weights)
        (folder / "README.md").write_text(name)
        hf = {"_target_": "metalearn_cli.backbones.hf.Hf", "path": str(folder)}
        return essence(config("meta-train", backbone=hf))

    one, same, other = known("one", "a"), known("same", "a"), known("other", "b")
    assert one == same != other
    assert str(tmp_path) not in str(one)
    assert one["backbone"]["_target_"] == "metalearn_cli.backbones.hf.Hf"


def test_a_name_that_is_no_file_stands_for_itself(config):
    one, other = (
        essence(config("meta-train", backbone={"_target_": "metalearn_cli.backbones.hf.Hf", "path": name}))
        for name in ("hub/one", "hub/other")
    )
    assert one != other


def test_another_split_of_texts_has_another_vocabulary_and_the_cure_is_told(go, ready, tmp_path, monkeypatch):
    monkeypatch.setenv("MLX_CACHE_DIR", str(tmp_path / "cache"))
    lines = [f"{'abcdefghijkl'[k] * (k + 2)} word{i},topic{k}" for k in range(12) for i in range(4)]
    (tmp_path / "q.csv").write_text("text,label\n" + "\n".join(lines))
    data = {"_target_": "metalearn_cli.data.text.text", "root": str(tmp_path / "q.csv"), "length": 4}
    spec = {"_target_": "metalearn_cli.backbones.transformer.Transformer", "hidden": 4, "layers": 0}
    first = go("transfer", data={**data, "seed": 0}, backbone=spec, steps=1)["folder"]
    with pytest.raises(ConfigError, match=r"init_from: the vocabulary .* type data.seed=0, or data.tokenizer=bytes"):
        ready("transfer", init_from=first, data={**data, "seed": 1}, backbone=spec)
    with pytest.raises(ConfigError, match="has another architecture"):
        ready("transfer", init_from=first, data={**data, "seed": 0}, backbone={**spec, "hidden": 8})
