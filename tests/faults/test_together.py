"""Ten processes that start in one second in one folder: each has a run of its own, and the data is made once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from faults.folders import metrics

# the command line, noting each time that the glyphs are rendered
MLX = """
import sys
from metalearn_cli.cli.main import main
from metalearn_cli.data import glyphs
render = glyphs._render

def noting(*args):
    with open("rendered", "a") as file:
        file.write("once\\n")
    return render(*args)

noting.__module__ = render.__module__
glyphs._render = noting
sys.exit(main(sys.argv[1:]))
"""
WORDS = ("meta-train", "steps=2", "tasks=1", "query=5", "val_episodes=2", "backbone.hidden=4", "runtime.threads=1")


@pytest.mark.slow
def test_ten_at_once(tmp_path):
    env = {**os.environ, "OMP_NUM_THREADS": "1", "MLX_CACHE_DIR": str(tmp_path / "cache")}
    env["PYTHONPATH"] = os.pathsep.join(sys.path)
    command = [sys.executable, "-c", MLX, *WORDS, "--json"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": tmp_path, "env": env}
    processes = [subprocess.Popen([*command, f"seed={seed % 2}"], **pipes) for seed in range(10)]
    answers = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0] * 10, answers
    done = [json.loads(out) for out, _ in answers]
    assert len({run["folder"] for run in done}) == 10
    assert len(list(tmp_path.glob("runs/meta-train/*"))) == 10
    for same in (done[::2], done[1::2]):  # five with each seed
        first, *others = (metrics(Path(tmp_path, run["folder"])) for run in same)
        assert all(lines == first for lines in others)
    assert (tmp_path / "rendered").read_text() == "once\n"
    assert len(list((tmp_path / "cache").iterdir())) == 1
