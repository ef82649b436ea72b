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
