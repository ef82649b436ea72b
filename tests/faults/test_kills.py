"""Runs that are killed go on and come to what they would have come to, bit for bit; see kills.py."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FAULTS = os.environ.get("MLX_FAULTS", "200")


def killed(*words):
    """Return what kills.py says, if it is content."""
    command = [sys.executable, str(Path(__file__).with_name("kills.py")), *words]
    done = subprocess.run(command, capture_output=True, text=True)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_at_random_instants():
    assert killed(FAULTS).endswith(f"\n{FAULTS} faults injected, 0 runs lost something\n")


@pytest.mark.slow
def test_before_every_file_system_operation():
    said = killed("all", "0", "meta-train").splitlines()[-1]
    assert said.endswith(" faults injected, 0 runs lost something") and int(said.split()[0]) > 200
