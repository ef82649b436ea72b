"""Run a chain in a process of its own and kill it, as `kill -9` would, when a stage has done a given step.

Usage: run_and_die.py SETTINGS.json STAGE STEP [WHERE]; WHERE is `step` (default), or `save`: inside the checkpoint that
follows.
"""

import json
import os
import signal
import sys
from pathlib import Path

from metalearn_cli import stages
from metalearn_cli.core.config import parse_chain
from metalearn_cli.engine import checkpoint
from metalearn_cli.stages import _training


def die(*args: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Reporter:
    def __init__(self, stage: str, step: int, where: str) -> None:
        self.wanted, self.where, self.stage = (stage, step), where, ""

    def start(self, stage: str, folder: str, start: int, steps: int) -> None:
        self.stage = stage

    def advance(self, step: int) -> None:
        if (self.stage, step) == self.wanted:
            if self.where == "step":
                die()
            checkpoint.write_json = die  # type: ignore[assignment]

    def metrics(self, step: int, values: object) -> None: ...

    def note(self, text: str) -> None: ...

    def finish(self, summary: object) -> None: ...


if __name__ == "__main__":
    _training.learning_curves = lambda *args: None  # which take longer than the training
    file, stage, step, *where = sys.argv[1:]
    reporter = Reporter(stage, int(step), *(where or ["step"]))
    stages.run("run", parse_chain(json.loads(Path(file).read_text())), reporter)
