"""What a task of Ray does; tests/faults/test_ray.py has a sweep on a cluster."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import types

import pytest
from unit.studies.worker import until

from metalearn_cli.core.config import Ray as Settings
from metalearn_cli.core.errors import UserError
from metalearn_cli.records.runs import is_held, locked
from metalearn_cli.studies.ray import Ray, run

SAVING = """
import signal, sys, time
def save(*_): print("saved", flush=True); sys.exit(143)
signal.signal(signal.SIGTERM, save)
print("began", file=sys.stderr, flush=True)
time.sleep(60)
"""


def task(folder, *words):
    """Start a process that does what a task does."""
    code = (
        "import signal, sys; from metalearn_cli.studies.ray import run; "
        "signal.signal(signal.SIGINT, signal.default_int_handler); "  # tests in the background of a shell ignore it
        f"sys.exit(run({words!r}, {str(folder)!r}, '.', {{}}))"
    )
    return subprocess.Popen([sys.executable, "-c", code])


def test_a_task_runs_a_job(tmp_path):
    code = "import os, sys; print(os.environ['MLX_JOB_ID'], os.getcwd()); print('log', file=sys.stderr); sys.exit(3)"
    (tmp_path / "job").mkdir()
    assert run([sys.executable, "-c", code], str(tmp_path / "job"), str(tmp_path), {"MLX_JOB_ID": "ab"}) == 3
    assert (tmp_path / "job" / "output.json").read_text() == f"ab {tmp_path}\n"
    assert (tmp_path / "job" / "log").read_text() == "log\n"
    with locked(tmp_path / "job"):
        assert run(["true"], str(tmp_path / "job"), str(tmp_path), {}) is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["cancelled", "killed"])
def test_a_job_saves_when_its_task_is_cancelled_or_killed(tmp_path, number):
    process = task(tmp_path, sys.executable, "-c", SAVING)
    until(lambda: (tmp_path / "log").exists() and "began" in (tmp_path / "log").read_text())
    os.kill(process.pid, number)
    assert process.wait(timeout=60) == (143 if number == signal.SIGINT else -number)
    until(lambda: not is_held(tmp_path))
    assert (tmp_path / "output.json").read_text() == "saved\n"


def test_without_ray(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"sweep=ray needs Ray; type: pip install 'metalearn-cli\[ray\]'"):
        Ray(Settings(None, 1, None), 1, 1, ())


def test_a_cluster_that_is_not_there_or_too_small(monkeypatch):
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "init", lambda **_: None)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0, "GPU": 1.0})
    with pytest.raises(UserError, match=r"sweep.cpus: must be <= 2, which is what the cluster has, got 4"):
        Ray(Settings(None, 4, None), 1, 1, ())
    with pytest.raises(UserError, match=r"sweep.gpus: must be <= 1, which is what the cluster has, got 2"):
        Ray(Settings(None, 1, 2), 1, 1, ())
    assert Ray(Settings(None, 1, None), 3, 4, ())._task._default_options["num_gpus"] == 0.25

    def unreachable(**_):
        raise ConnectionError("Could not find any running Ray instance")

    monkeypatch.setattr(ray, "init", unreachable)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    told = r"auto: no cluster of Ray there: Could not .*; if it wants a token, set RAY_AUTH_MODE=token"
    with pytest.raises(UserError, match=told):
        Ray(Settings("auto", 1, None), 1, 1, ())
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    with pytest.raises(UserError, match=r"sweep.address=auto: .*any running Ray instance$"):
        Ray(Settings("auto", 1, None), 1, 1, ())


def test_an_address_where_nothing_listens(monkeypatch):
    """Ray would try for ever, and Ctrl-C would not end it."""
    monkeypatch.setitem(sys.modules, "ray", types.SimpleNamespace(init=lambda **_: sys.exit("Ray was asked")))
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(SystemExit):
            Ray(Settings(f"127.0.0.1:{port}", 1, None), 1, 1, ())
    refused = rf"sweep.address=(ray://)?127.0.0.1:{port}: no cluster of Ray there: .*Connection refused"
    for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}"):
        with pytest.raises(UserError, match=refused):
            Ray(Settings(address, 1, None), 1, 1, ())
    with pytest.raises(UserError, match="no cluster of Ray there"):
        Ray(Settings("127.0.0.1:99999", 1, None), 1, 1, ())
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
    with pytest.raises(UserError, match=refused.replace("sweep.address", "RAY_ADDRESS")):
        Ray(Settings(None, 1, None), 1, 1, ())
