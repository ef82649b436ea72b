"""stdout and stderr that are closed, or whose reader is gone."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest

RUN = {
    "id": "x",
    "stage": "pretrain",
    "seconds": 1.0,
    "steps": 2,
    "metric": {"name": "val/accuracy", "value": 0.5, "interval": 0.01, "step": 2},
}
MLX = [sys.executable, "-m", "metalearn_cli.cli.main"]


class Gone:
    """A stream that nobody reads."""

    encoding = "utf-8"

    def __init__(self, number: int) -> None:
        self.error = OSError(number, os.strerror(number))

    def write(self, text: str) -> int:
        raise self.error

    def flush(self) -> None:
        raise self.error

    def fileno(self) -> int:
        raise OSError("it has no number")

    def isatty(self) -> bool:
        return False


@pytest.mark.parametrize("number", [errno.EPIPE, errno.ENOSPC, errno.EIO])
def test_progress_that_nobody_reads_ends_no_run(mlx, stage, monkeypatch, number):
    monkeypatch.setattr(sys, "stderr", Gone(number))
    answer = mlx("-m", "pretrain", "seed=1,2")
    assert answer.code == 0 and len(stage) == 2
    assert "2 jobs, 2 completed" in answer.out


def test_a_result_that_nobody_reads_keeps_its_exit_code(mlx, stage, monkeypatch):
    monkeypatch.setattr(sys, "stdout", Gone(errno.EPIPE))
    assert mlx("pretrain").code == 0
    assert mlx("pretrain", "--json").code == 0
    monkeypatch.setattr("metalearn_cli.stages.run", lambda *args, **facts: 1 / 0)
    assert mlx("-m", "pretrain", "seed=1").code == 1


def test_a_result_that_cannot_be_written_is_an_error(mlx, stage, monkeypatch):
    monkeypatch.setattr(sys, "stdout", Gone(errno.ENOSPC))
    answer = mlx("pretrain")
    assert answer.code == 2 and "no space left on device" in answer.err


@pytest.mark.parametrize("words", [(), ("--json",)])
def test_a_full_stdout_is_told_apart_from_a_full_disk(mlx, monkeypatch, words):
    monkeypatch.setattr("metalearn_cli.stages.run", lambda *args, **facts: {**RUN, "folder": "runs/pretrain/x"})
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        answer = mlx("pretrain", *words)
        assert answer.code == 2
        told = "error: cannot write to stdout: no space left on device; the run is complete in runs/pretrain/x\n"
        assert answer.err == told


def test_an_error_that_a_full_stdout_cannot_take_keeps_its_exit_code(mlx, monkeypatch):
    monkeypatch.setattr("metalearn_cli.stages.run", lambda *args, **facts: 1 / 0)
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert mlx("pretrain", "--json").code == 1


@pytest.mark.parametrize(
    "closed",
    [
        *(pytest.param(how, marks=pytest.mark.slow) for how in (">&-", "2>&-", ">&- 2>&-", "| true")),
        "<&- >&- 2>&-",
        "2>&1 | true",
    ],
)
def test_of_a_real_shell(closed, tmp_path):
    line = f"set -o pipefail; {' '.join(MLX)} runs {closed}"
    answer = subprocess.run(["bash", "-c", line], capture_output=True, text=True, cwd=tmp_path, env=os.environ)
    assert (answer.returncode, answer.stderr) == (0, "")


def test_help_fits_the_terminal() -> None:
    """Long lines are broken below their last column; a pipe gets each entry as one line."""
    master, slave = os.openpty()
    with subprocess.Popen([*MLX, "run", "--help"], stdout=slave, env=os.environ | {"COLUMNS": "70"}) as process:
        os.close(slave)
        shown = b"".join(iter(lambda: _chunk(master), b"")).decode().replace("\r", "")
    os.close(master)
    assert process.returncode == 0
    assert max(map(len, shown.splitlines())) <= 70
    assert "  backbone=conv4  (cnn1d | " in shown and f"\n{' ' * 18}" in shown
    piped = subprocess.run([*MLX, "run", "--help"], capture_output=True, text=True, check=True).stdout
    assert shown.split() == piped.split()


def _chunk(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # the other side is closed
        return b""
