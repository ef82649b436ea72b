"""What the ranks other than 0 do: the work that rank 0 names, without reading a run or writing anything."""

from __future__ import annotations

import logging
import multiprocessing
import signal
import warnings
from collections.abc import Callable
from typing import Any

from metalearn_cli.core.config import STAGES, EvaluateConfig, Runtime, parse
from metalearn_cli.engine.launched import launched
from metalearn_cli.engine.ranks import connect, disconnect
from metalearn_cli.engine.runtime import tune
from metalearn_cli.engine.signals import ALWAYS
from metalearn_cli.stages.evaluate import score_along
from metalearn_cli.stages.evaluation import prepare_evaluation
from metalearn_cli.stages.meta_train import meta_train
from metalearn_cli.stages.preparing import MakeJob, prepare
from metalearn_cli.stages.pretrain import pretrain
from metalearn_cli.stages.session import Session
from metalearn_cli.stages.training import train_along
from metalearn_cli.stages.transfer import transfer

JOBS: dict[str, MakeJob] = {"pretrain": pretrain, "transfer": transfer, "meta-train": meta_train}


def follow(config: Runtime, ready: Callable[[], None] = lambda: None) -> None:
    """Work until rank 0 has no more work.

    Args:
        config: the settings `runtime`.
        ready: called before this rank meets the others.

    Raises:
        LostRankError: if another rank ends.
        Stopped: if any rank gets a signal to stop while it trains.
    """
    logging.disable()  # rank 0 says it all
    warnings.simplefilter("ignore")
    for name in (*ALWAYS, *config.stop_on):  # a terminal and a scheduler send them to all ranks; rank 0 decides
        signal.signal(signal.Signals[name], signal.SIG_IGN)
    if config.tuned:
        tune()
    session = Session()
    runtime = session.runtime(config)
    launch = launched()
    assert launch is not None
    ready()
    if multiprocessing.parent_process() is None:  # if rank 0 fails before it is met, only the launcher can end this one
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    connect(runtime, launch.meeting)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    nothing: Any = None
    while work := runtime.ranks.same(nothing):
        stage, values, recorded = work
        if stage == "evaluate":
            score_along(prepare_evaluation(parse(EvaluateConfig, values), session))
        else:
            settings: Any = parse(STAGES[stage], values)
            train_along(prepare(stage, settings, JOBS[stage], session, recorded))
    disconnect()
