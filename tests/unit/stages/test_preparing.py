"""Optimizers and schedules that cannot work are refused before anything is written."""

import pytest

from metalearn_cli import stages
from metalearn_cli.core.errors import ConfigError


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
