from __future__ import annotations

import os
import sys
from typing import Any

import pytest
import torch
from conftest import on_cpu

from metalearn_cli.core.errors import ConfigError, NonFiniteError
from metalearn_cli.core.types import Episode
from metalearn_cli.engine import runtime as module
from metalearn_cli.engine.runtime import Runtime, out_of_memory, unsupported, usual_threads


def problems(**changes: Any) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        on_cpu(**changes)
    return {problem.key: problem.message for problem in caught.value.problems}


@pytest.fixture
def processor_only(monkeypatch):
    monkeypatch.setattr(module, "available", lambda: {"cpu": 1})


@pytest.mark.parametrize("kind", ["gpu", "mps", "tpu"])
def test_device_that_is_not_there(processor_only, kind):
    assert problems(accelerator=kind) == {"runtime.accelerator": f"{kind} is not on this machine; it has cpu"}


@pytest.mark.parametrize("devices", [[3], [-1], [], [0, 1]])
def test_device_index_that_is_not_there(processor_only, devices):
    wanted = f"must be 1, auto or the index of one device, 0 to 0, in brackets; got {devices}"
    assert problems(devices=devices) == {"runtime.devices": wanted}


def test_all_problems_at_once(processor_only):
    assert problems(devices=[3], precision="16-mixed").keys() == {"runtime.devices", "runtime.precision"}


@pytest.mark.parametrize(("kind", "precision", "told"), [
    ("cpu", "16-mixed", "use bf16-mixed"),
    ("mps", "16-mixed", "use bf16-mixed"),
    ("mps", "64-true", "use 32-true"),
    ("tpu", "bf16-mixed", "use bf16-true"),
])  # fmt: skip
def test_precision_that_a_device_has_not(kind, precision, told):
    assert told in unsupported(kind, precision)


@pytest.mark.parametrize("precision", ["32-true", "64-true", "bf16-mixed", "bf16-true"])
def test_precisions_of_a_processor(precision):
    assert unsupported("cpu", precision) == ""


@pytest.mark.parametrize("devices", [1, "auto", [0]])
def test_devices_that_are_the_processor(processor_only, devices):
    found = on_cpu(accelerator="auto", devices=devices)
    assert found.device == torch.device("cpu")
    assert found.description == "cpu, 1 thread, 32-true"


@pytest.mark.usefixtures("two_cores")
def test_threads(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(module, "_quota", lambda: None)
    before = torch.get_num_threads()
    try:
        assert on_cpu(threads=2).description == "cpu, 2 threads, 32-true"
        assert torch.get_num_threads() == 2
        on_cpu(threads=None)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.fixture
def groups(monkeypatch, tmp_path):
    """Return a function that puts control groups in place: what a process belongs to, and files by their path."""
    monkeypatch.setattr(module, "cores", lambda: 8)
    monkeypatch.setattr(module, "CGROUP", tmp_path / "self")
    monkeypatch.setattr(module, "CONTROL", tmp_path / "fs")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)

    def put(belongs, **files):
        (tmp_path / "self").write_text(belongs)
        for name, text in files.items():
            path = tmp_path / "fs" / name.replace("__", "/").replace("cpu_", "cpu.")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    return put


BOTH = "4:memory:/x\n2:cpu,cpuacct:/docker/ab\n0::/\n"


@pytest.mark.parametrize(
    ("belongs", "files", "number"),
    [
        ("0::/\n", {}, 8),
        ("0::/\n", {"cpu_max": "max 100000\n"}, 8),
        ("0::/\n", {"cpu_max": "250000 100000\n"}, 2),
        ("0::/\n", {"cpu_max": "50000 100000\n"}, 1),
        ("0::/a/b\n", {"a__cpu_max": "300000 100000\n", "a__b__cpu_max": "max 100000\n"}, 3),
        (BOTH, {"cpu,cpuacct__cpu_cfs_quota_us": "400000\n", "cpu,cpuacct__cpu_cfs_period_us": "100000\n"}, 4),
        (BOTH, {"cpu__docker__ab__cpu_cfs_quota_us": "200000\n", "cpu__docker__ab__cpu_cfs_period_us": "100000\n"}, 2),
        (BOTH, {"cpu__cpu_cfs_quota_us": "-1\n", "cpu__cpu_cfs_period_us": "100000\n"}, 8),
    ],
)
def test_threads_of_a_container(groups, belongs, files, number):
    groups(belongs, **files)
    found, reason = usual_threads()
    assert found == number
    assert ("quota" in reason) == (number < 8)


@pytest.mark.parametrize(
    ("wished", "number"), [("3", 3), ("2,4", 2), ("16", 8), ("0", 8), ("²", 8), ("many", 8), ("", 8)]
)
def test_threads_that_are_wished_for(groups, monkeypatch, wished, number):
    groups("0::/\n", cpu_max="max 100000\n")
    monkeypatch.setenv("OMP_NUM_THREADS", wished)
    assert usual_threads()[0] == number


def test_threads_are_the_fewest_that_anything_allows(groups, monkeypatch):
    groups("0::/\n", cpu_max="200000 100000\n")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert usual_threads() == (2, "the container's quota of 2 cores")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert usual_threads() == (1, "OMP_NUM_THREADS")
    before = torch.get_num_threads()
    try:
        assert on_cpu(threads=None).description == "cpu, 1 thread, 32-true"
    finally:
        torch.set_num_threads(before)


SCHEDULERS = {
    "slurm": {"SLURM_NTASKS": "4", "SLURM_JOB_NAME": "train", "SLURM_JOB_ID": "77", "SLURM_PROCID": "1"},
    "torchrun": {"WORLD_SIZE": "4", "RANK": "1", "LOCAL_RANK": "1", "GROUP_RANK": "1", "TORCHELASTIC_RUN_ID": "x"},
    "mpi": {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_LOCAL_RANK": "1"},
}


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_one_process_whatever_a_scheduler_has_started(scheduler, monkeypatch, tmp_path):
    (tmp_path / "srun").write_text("#!/bin/sh\n")
    (tmp_path / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    for name, value in SCHEDULERS[scheduler].items():
        monkeypatch.setenv(name, value)
    weight = torch.ones(1, requires_grad=True)
    found = on_cpu()
    optimizer = found.setup(torch.optim.SGD([weight], lr=0.5))
    found.backward(weight.sum())
    optimizer.step()
    assert weight.tolist() == [0.5]


@pytest.mark.parametrize("variable", ["RANK=", "RANK=y", "LOCAL_RANK=y", "SLURM_PROCID=y", "JSM_NAMESPACE_RANK="])
def test_fabric_is_imported_whatever_number_a_launcher_gave(variable, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "lightning_fabric"]:
        monkeypatch.delitem(sys.modules, name)
    name, _, value = variable.partition("=")
    monkeypatch.setenv(name, value)
    on_cpu().setup(torch.optim.SGD([torch.ones(1)]))
    assert os.environ[name] == value


def test_variables_of_fabrics_own_launcher_change_no_setting(monkeypatch):
    for name in ("LT_CLI_USED", "LT_ACCELERATOR", "LT_STRATEGY", "LT_DEVICES", "LT_NUM_NODES", "LT_PRECISION"):
        monkeypatch.setenv(name, "7")
    on_cpu().setup(torch.optim.SGD([torch.ones(1)]))
    assert os.environ["LT_PRECISION"] == "7"


FORMATS = {
    "32-true": (torch.float32, torch.float32),
    "64-true": (torch.float64, torch.float64),
    "bf16-true": (torch.bfloat16, torch.bfloat16),
    "bf16-mixed": (torch.float32, torch.bfloat16),
}


@pytest.mark.parametrize("precision", FORMATS)
def test_number_formats(precision):
    weights, inside = FORMATS[precision]
    found = on_cpu(precision=precision)
    seen = []

    def apply(params, x):
        seen.append((x @ params["w"]).dtype)
        return x @ params["w"]

    own = torch.ones(2, 2, requires_grad=True)
    params = found.place({"w": own})
    episode = found.cast(Episode(torch.ones(3, 2), torch.tensor([0, 1, 1]), torch.ones(1, 2), torch.tensor([0])))
    assert params["w"].dtype == episode.support_x.dtype == weights
    assert episode.query_y.dtype == torch.int64
    assert params["w"].is_leaf and params["w"].requires_grad and params["w"].data_ptr() != own.data_ptr()
    output = found.under_precision(apply)(params, episode.support_x)
    assert seen == [inside]
    assert output.dtype == weights
    found.backward(output.float().sum())
    assert params["w"].grad.dtype == weights
    assert isinstance(found.cast((torch.ones(1), torch.ones(1, dtype=torch.int64))), tuple)


def test_precision_reaches_gradients_of_gradients():
    found = on_cpu(precision="bf16-mixed")
    params = found.place({"w": torch.tensor([[0.5]], requires_grad=True)})
    apply = found.under_precision(lambda p, x: torch.tanh(x @ p["w"]))

    def inner(p):
        return apply(p, torch.ones(1, 1)).square().sum()

    slope = torch.func.grad(inner)(params)["w"]
    slope.sum().backward()
    exact = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(torch.tanh(exact).square(), exact, create_graph=True)
    (second,) = torch.autograd.grad(first, exact)
    assert params["w"].grad.item() == pytest.approx(second.item(), abs=0.05)


def test_what_compiled_tasks_cannot_be():
    assert problems(task_compile=True, task_batching="threads") == {
        "runtime.task_compile": "is for loop and vmap, not for threads"
    }
    assert "needs single operations" in problems(task_compile=True, anomaly=True)["runtime.anomaly"]
    assert "use bf16-mixed" in problems(task_compile=True, precision="16-mixed")["runtime.task_compile"]


@pytest.mark.parametrize("changes", [{"task_batching": "vmap"}, {"task_batching": "groups"}, {"task_compile": True}])
def test_gradient_checkpointing_is_for_one_task_at_a_time(changes):
    assert problems(gradient_checkpointing=True, **changes) == {
        "runtime.gradient_checkpointing": "is for loop and threads, not compiled: they compute one task at a time"
    }


def test_gradient_that_is_not_finite_is_seen():
    found = on_cpu()
    params = found.place({"w": torch.ones(2), "unused": torch.ones(2)})
    assert found.gradient_norm(params) == 0
    params["w"].grad = torch.tensor([3.0, -4.0])
    assert found.gradient_norm(params) == 5
    params["w"].grad = torch.tensor([1.0, float("nan")])
    assert found.gradient_norm(params).isnan()
    assert found.overflow(params) == "the gradient of w is not finite"
    params["w"].grad = torch.full((2,), 3e38)
    assert found.gradient_norm(params).isinf()
    assert found.overflow(params) == "the gradient's norm overflows"
    params = found.place({name: torch.ones(1) for name in "abcde"})
    for p in params.values():
        p.grad = torch.tensor([float("inf")])
    assert found.overflow(params) == "the gradient of a, b, c and of 2 more tensors is not finite"


def test_anomaly_names_the_operation():
    def step(found: Runtime) -> None:
        with found.watched():
            x = torch.zeros(1, requires_grad=True)
            found.backward((x.sqrt() * 0).sum())

    step(on_cpu())
    with pytest.raises(NonFiniteError, match=r"Function 'SqrtBackward0' returned nan values"):
        step(on_cpu(anomaly=True))
    with pytest.raises(RuntimeError, match="something else"), on_cpu(anomaly=True).watched():
        raise RuntimeError("something else")
    assert not torch.is_anomaly_enabled()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (RuntimeError("shapes cannot be multiplied"), False),
        (OSError(12, "Cannot allocate memory"), False),
    ],
)
def test_out_of_memory(error, expected):
    assert out_of_memory(error) is expected


@pytest.mark.parametrize("precision", FORMATS)
def test_whole_numbers_are_in_no_number_format(precision):
    found = on_cpu(precision=precision)
    tensors = {"ids": torch.tensor([2**53 + 1]), "mask": torch.tensor([True, False])}
    for given in (found.place(tensors), found.cast(tensors)):
        assert all(torch.equal(given[name], t) and given[name].dtype == t.dtype for name, t in tensors.items())


@pytest.mark.parametrize(("channels", "kernel", "last"), [(8, 1, True), (7, 3, True), (7, 1, False)])
def test_kernels_are_channels_last_unless_their_gradient_is_written_beyond_its_end(channels, kernel, last) -> None:
    """With a 1x1 kernel and a stride on fewer than 8 channels, oneDNN ends the process."""
    kernels = {"a": torch.ones(8, channels, kernel, kernel), "b": torch.ones(4, 8, 3, 3)}
    placed = on_cpu().place(kernels)
    assert placed["b"].is_contiguous(memory_format=torch.channels_last) == last


def test_what_requires_gradients_goes_on_to_do_so():
    placed = on_cpu().place({"w": torch.ones(1, requires_grad=True), "buffer": torch.ones(1)})
    assert placed["w"].requires_grad and not placed["buffer"].requires_grad


@pytest.mark.usefixtures("two_cores")
def test_threads_are_those_of_the_runtime_that_is_used(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS")
    before = torch.get_num_threads()
    try:
        one, two = on_cpu(threads=1), on_cpu(threads=None)
        assert torch.get_num_threads() == 2
        one.use()
        assert torch.get_num_threads() == 1
        two.use()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
