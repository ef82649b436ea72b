"""The check of a GPU: its arithmetic, tables and parts, and (slow) a small run of it on the CPU."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
import torch

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))


@pytest.fixture
def check(scripts) -> ModuleType:
    import check_gpu

    return check_gpu


@pytest.fixture
def gradients(scripts) -> ModuleType:
    import gpu_gradients

    return gpu_gradients


@pytest.fixture
def speed(scripts) -> ModuleType:
    import gpu_speed

    return gpu_speed


def test_parts_are_chosen_by_name_and_run_in_their_order(check) -> None:
    assert check.listed("speed,tests") == ["tests", "speed"]
    with pytest.raises(argparse.ArgumentTypeError, match="no such part: sped; there are tests, gradients"):
        check.listed("sped")


def test_a_part_shares_what_is_left_with_those_after_it(check) -> None:
    chosen = ["gradients", "speed"]
    share = check.PARTS["gradients"][0] / (check.PARTS["gradients"][0] + check.PARTS["speed"][0])
    assert check.deadline("gradients", chosen, 100.0, 200.0) == pytest.approx(100 + 100 * share)
    assert check.deadline("speed", chosen, 110.0, 200.0) == 200.0
    assert sum(share for share, _ in check.PARTS.values()) == pytest.approx(1.0)


@pytest.mark.parametrize("device", ["gpu", "cuda", "cuda:x", "cuda:99"])
def test_a_device_that_is_none_is_refused(check, device: str, capsys, monkeypatch) -> None:
    monkeypatch.setenv(check.INSTALLED, "1")
    with pytest.raises(SystemExit) as stop:
        check.main(["--device", device])
    assert stop.value.code == 2
    assert "--device" in capsys.readouterr().err


def test_a_command_ends_with_its_time(check, tmp_path: Path) -> None:
    words = [sys.executable, "-c", "import time; print('begun', flush=True); time.sleep(60)"]
    answer = check.call(words, tmp_path, time.monotonic() + 0.5)
    assert answer.code is None and answer.seconds < 20
    answer = check.call([sys.executable, "-c", "print(1); exit(3)"], tmp_path, time.monotonic() + 60)
    assert (answer.code, answer.out) == (3, "1\n")


def test_outcomes_of_tests_are_read_from_what_pytest_says(check) -> None:
    text = (
        "[gw0] [ 33%] PASSED tests/unit/a.py::test_a[x y] \n[gw1] [ 66%] FAILED tests/unit/a.py::test_b \n"
        "[gw1] [100%] SKIPPED tests/unit/a.py::test_c \n"
        "FAILED tests/unit/a.py::test_b - assert 1 == 2\n"
    )
    assert check.outcomes(text) == {
        "tests/unit/a.py::test_a[x y]": ("PASSED", ""),
        "tests/unit/a.py::test_b": ("FAILED", "assert 1 == 2"),
        "tests/unit/a.py::test_c": ("SKIPPED", ""),
    }


def test_two_runs_are_equal_or_their_losses_apart(check, tmp_path: Path) -> None:
    def run(name: str, *losses: float) -> Path:
        (tmp_path / name).mkdir()
        lines = [{"step": step, "train/loss": loss} for step, loss in enumerate(losses)]
        (tmp_path / name / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return tmp_path / name

    one = run("one", 2.0, 1.0)
    assert check.apart(one, run("equal", 2.0, 1.0)) == 0
    assert check.apart(one, run("other", 2.0, 1.1)) == pytest.approx(0.1)
    assert check.apart(one, run("shorter", 2.0)) == float("inf")


def test_a_case_is_judged_by_its_bound_or_by_its_process(check) -> None:
    ended, late = check.Answer(1, "", "Traceback\nValueError: x\n", 1.0), check.Answer(None, "", "", 1.0)
    assert check.judged({"error": 1e-5}, 1e-4, ended) == ("ok", "1.0e-05")
    assert check.judged({"error": 1e-3}, 1e-4, ended) == ("off", "1.0e-03")
    assert check.judged({"error": float("inf")}, 1e-4, ended)[0] == "off"
    assert check.judged({"refused": "use loop"}, 1e-4, ended) == ("refused", "use loop")
    assert check.judged({"failure": "out of memory"}, 1e-4, ended) == ("failed", "out of memory")
    assert check.judged(None, 1e-4, ended) == ("failed", "ValueError: x")
    assert check.judged(None, 1e-4, check.Answer(-9, "", "", 1.0))[0] == "failed"
    assert check.judged(None, 1e-4, late)[0] == "left out"


def test_a_refusal_fails_where_nothing_may_refuse_and_a_process_that_died_fails(
    check, gradients, tmp_path: Path, monkeypatch
) -> None:
    cases = [gradients.Case("maml", "vmap", precision) for precision in ("bf16-mixed", "32-true", "64-true")]
    lines = [{"case": check.asdict(case), "refused": "use loop"} for case in cases[:2]]
    answer = check.Answer(1, "".join(json.dumps(line) + "\n" for line in lines), "OSError: gone", 1.0)
    monkeypatch.setattr(gradients, "eager", lambda device, quick: cases)
    monkeypatch.setattr(check, "call", lambda *args: answer)
    part = check.gradients(check.Setting("cpu", True, tmp_path, 0.0))
    assert part.failures == ["maml, vmap, 32-true: refused", "maml, vmap, 64-true: failed, OSError: gone"]
    assert part.text[-1] == "Refused: maml, vmap, bf16-mixed; maml, vmap, 32-true. use loop"


def test_a_section_says_whether_it_passed_and_what_is_missing(check) -> None:
    part = check.Part(["a table"], {})
    assert check.section("speed", part, 3.2) == "## speed: passed, 3 s\n\na table"
    part.left_out.append("W4")
    assert "passed in part" in check.section("speed", part, 3.2)
    part.failures.append("W1: off\nby far")
    text = check.section("speed", part, 3.2)
    assert text.startswith("## speed: FAILED") and "    W1: off\n    by far" in text and text.endswith("time: W4.")


def test_a_part_that_breaks_fails_alone(check, tmp_path: Path, monkeypatch, capsys) -> None:
    def broken(setting):
        raise ZeroDivisionError("in a part")

    def late(setting):
        return check.Part(left_out=["all of it"])

    def fine(setting):
        return check.Part(["42"], {"answer": 42})

    monkeypatch.setattr(check, "PARTS", {"a": (0.5, broken), "b": (0.2, late), "c": (0.3, fine)})
    monkeypatch.setenv(check.INSTALLED, "1")
    monkeypatch.setattr(check.os, "environ", dict(check.os.environ))  # which it changes
    words = ["--device", "cpu", "--minutes", "1", "--save", str(tmp_path)]
    assert check.main([*words, "--parts", "a,b,c"]) == 1
    text = (tmp_path / "gpu.md").read_text()
    assert "## a: FAILED" in text and "ZeroDivisionError: in a part" in text and "## c: passed" in text
    assert "nothing was ready in time" in text
    numbers = json.loads((tmp_path / "gpu.json").read_text())
    assert numbers["parts"]["c"]["numbers"] == {"answer": 42}
    assert {"device", "driver", "torch", "CUDA", "date", "command"} <= numbers.keys()
    assert check.main([*words, "--parts", "c"]) == 0


@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
def test_every_case_has_a_bound_below_what_a_wrong_derivative_is_off_by(gradients, device: str) -> None:
    cases = gradients.eager(device, False) + (gradients.compiled() if device != "cpu" else [])
    assert {case.format for case in cases} <= gradients.BOUNDS.keys()
    assert len(set(cases)) == len(cases)
    assert set(gradients.eager(device, True)) < set(cases)
    assert not any(case.learner != "protonet" for case in cases if case.precision == "16-mixed")
    assert all(case.batching in ("loop", "vmap") for case in cases if device != "cpu")


def test_a_case_says_its_settings(gradients) -> None:
    words = gradients.Case("maml", "vmap", "32-true", compiled=True, tf32=True).words("cuda:1")
    assert {"runtime.accelerator=gpu", "runtime.devices=[1]", "runtime.task_compile=true"} <= set(words)
    assert "runtime.accelerator=cpu" in gradients.Case("maml", "loop", "64-true").words("cpu")


def test_the_error_is_the_median_and_what_is_not_finite_is_far_off(gradients) -> None:
    exact = [torch.ones(4)] * 3
    assert gradients.error([torch.ones(4), 1.1 * torch.ones(4), 3 * torch.ones(4)], exact) == pytest.approx(0.1)
    assert gradients.error([torch.full((4,), float("nan"))] * 3, exact) == float("inf")


def test_a_workload_has_ours_and_those_peers_that_can_run_it(speed, monkeypatch) -> None:
    monkeypatch.setattr(speed.bench_rivals, "installed", lambda name: True)
    found = {workload.name: speed.contestants(workload) for workload in speed.workloads(False)}
    own = ["ours, loop", "ours, vmap"]
    assert found["W1"] == ["plain PyTorch", "higher", "torchopt", "torchopt, per task", *own]
    assert found["W2"] == ["plain PyTorch", "higher", *own]
    assert found["W3"] == ["plain PyTorch", *own]
    assert [(w.name, w.tasks) for w in speed.workloads(True)] == [("W1", 2), ("W3", 1)]


def test_the_table_of_a_workload_compares_with_the_plain_loop(speed) -> None:
    workload = speed.WORKLOADS["W1"]
    results = {
        speed.PLAIN: speed.Figures(1.0, [0.4, 0.2, 0.3], 10.0, 0.0),
        "higher": speed.Figures(failure="ValueError: no"),
        "ours, loop": speed.Figures(1.0, [0.1], 20.0, 1e-3),
        "ours, vmap": speed.Figures(failure=speed.LATE),
    }
    text = speed.shown(workload, results)
    assert [cell.strip() for cell in text.splitlines()[6].split("|")[1:5]] == ["ours, loop", "100", "320", "3"]
    assert "higher: ValueError: no" in text
    assert list(speed.failures(workload, results)) == ["W1, ours, loop: gradient off by 1e-03"]


def test_the_wheels_are_pure_python_but_for_one(scripts, tmp_path: Path) -> None:
    import gpu_wheels

    pure, compiled, source = gpu_wheels.commands(tmp_path, "3.12")
    assert pure[pure.index("--platform") + 1] == "any" and "hydra-core" in pure
    assert compiled[-1] == "optree" and source[-1] == "antlr4-python3-runtime"
    assert all("--no-deps" in words and "torch" not in words for words in (pure, compiled, source))
    assert gpu_wheels.installed("torch") and not gpu_wheels.installed("no-such-package")


@pytest.mark.slow
def test_a_tiny_check_on_the_cpu(check, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(check.os, "environ", dict(check.os.environ))
    monkeypatch.setattr(check, "TESTS", ("tests/unit/core/test_build.py",))
    assert check.main(["--device", "cpu", "--minutes", "8", "--save", str(tmp_path)]) == 0
    parts = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert not any(part["failures"] or part["left_out"] for part in parts.values())
    assert parts["tests"]["numbers"]["PASSED"] > 5
    exact = [case for case in parts["gradients"]["numbers"] if case["precision"] == "64-true"]
    assert len(exact) == 6 and all(case["off_by"] <= 1e-9 for case in exact)
    assert ["32-true", "whole and resumed", "-", "equal"] in parts["commands"]["numbers"]
    assert parts["speed"]["numbers"]["W1"]["ours, vmap"]["seconds"]
