"""Train for many steps and print the peak memory of the process at given ones, in KiB.

Usage: memory.py FOLDER STEP ...
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from conftest import Said, smallest

from metalearn_cli import stages
from metalearn_cli.core.config import STAGES, parse


class Peak(Said):
    """Forgets what it is told, but for the peak memory at some steps."""

    def __init__(self, steps: list[int]) -> None:
        super().__init__()
        self.wanted = steps

    def advance(self, step: int) -> None:
        if step in self.wanted:
            (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
            print(step, line.split()[1], flush=True)  # not of getrusage: that counts the parent before exec, too

    def metrics(self, step: int, values: object) -> None: ...


if __name__ == "__main__":
    steps = [int(word) for word in sys.argv[2:]]
    work = {"steps": steps[-1], "every": {"log": 1, "evaluate": 50, "save": 50}, "runtime__tuned": True}
    values = smallest("meta-train", Path(sys.argv[1]), **work)
    stages.run("meta-train", parse(STAGES["meta-train"], values), Peak(steps))
