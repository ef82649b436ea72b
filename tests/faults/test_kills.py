"""Runs that are killed go on and come to what they would have come to, bit for bit; see kills.py."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FAULTS = os.environ.get("MLX_FAULTS", "200")


@pytest.mark.parametrize("count", ["4", pytest.param(FAULTS, marks=pytest.mark.slow)])
def test_nothing_is_lost(count):
    command = [sys.executable, str(Path(__file__).with_name("kills.py")), count]
    done = subprocess.run(command, capture_output=True, text=True)
    print(done.stdout)
    assert done.stdout.endswith(f"\n{count} faults injected, 0 runs lost something\n"), done.stdout + done.stderr
    assert done.returncode == 0
