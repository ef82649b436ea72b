"""Settings of optimizers are tried out as torch would use them, and what trains is what torch makes of them."""

import pytest
import torch

from metalearn_cli.core.errors import ConfigError
from metalearn_cli.engine.optimizer import make_optimizer, try_optimizer

ADAM = {"_target_": "torch.optim.Adam", "lr": 0.1}
CONSTANT = {"_target_": "torch.optim.lr_scheduler.ConstantLR", "factor": 1.0}
EVERY = sorted(
    name
    for name, found in vars(torch.optim).items()
    if isinstance(found, type) and issubclass(found, torch.optim.Optimizer) and found is not torch.optim.Optimizer
)
CLOSURE = {"LBFGS": "missing 1 required positional argument", "SparseAdam": "does not support dense gradients"}


@pytest.mark.parametrize("name", EVERY)
def test_every_optimizer_of_torchs_is_tried_out(name):
    spec = {"_target_": f"torch.optim.{name}", "lr": 0.1}
    if name in CLOSURE:
        with pytest.raises(ConfigError, match=CLOSURE[name]):
            try_optimizer(spec, CONSTANT)
    else:
        try_optimizer(spec, CONSTANT)


@pytest.mark.parametrize(
    ("optimizer", "scheduler", "key"),
    [
        ({**ADAM, "lr": -1.0}, CONSTANT, "optimizer.lr"),
        ({**ADAM, "lr": None}, CONSTANT, "optimizer.lr"),
        ({"_target_": "torch.optim.Adam"}, CONSTANT, "optimizer.lr"),
        ({**ADAM, "betas": [0.9, 2.0]}, CONSTANT, "optimizer.betas"),
        ({**ADAM, "differentiable": True}, CONSTANT, "optimizer"),
        (ADAM, {**CONSTANT, "factor": 2.0}, "scheduler.factor"),
        (ADAM, {"_target_": "torch.optim.lr_scheduler.StepLR", "step_size": 0}, "scheduler"),
        (ADAM, {"_target_": "torch.optim.lr_scheduler.ReduceLROnPlateau"}, "scheduler"),
    ],
)
def test_what_torch_refuses_sooner_or_later(optimizer, scheduler, key):
    with pytest.raises(ConfigError) as caught:
        try_optimizer(optimizer, scheduler)
    assert [problem.key for problem in caught.value.problems] == [key]


def test_what_is_tried_out_leaves_torchs_class_alone():
    step = torch.optim.ASGD.step
    try_optimizer({"_target_": "torch.optim.ASGD", "lr": 0.1}, CONSTANT)
    assert torch.optim.ASGD.step is step


def test_each_tensor_learns_at_its_rate():
    params = {name: torch.ones(1, requires_grad=True) for name in ("slow", "held", "usual")}
    optimizer, _ = make_optimizer(ADAM, CONSTANT, params, {"slow": 0.5, "usual": 1.0})
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert rates == {id(params["slow"]): 0.05, id(params["usual"]): 0.1}
    assert [p.requires_grad for p in params.values()] == [True, False, True]
    assert all(group["fused"] for group in optimizer.param_groups)
    optimizer, _ = make_optimizer({**ADAM, "foreach": True}, CONSTANT, params, {"usual": 1.0})
    assert not optimizer.param_groups[0]["fused"]
