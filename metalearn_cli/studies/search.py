"""A search: Optuna chooses the jobs of a sweep while it runs, and stops those that fall behind.

The state of a search is Optuna's journal in the folder of the sweep. A trial whose job has not ended stays open in it:
the same command resumes that trial and does not draw a new one. Optuna is imported where it is used.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from metalearn_cli.core import config
from metalearn_cli.core.errors import ConfigError, Problem, UserError
from metalearn_cli.core.metric import metric_named
from metalearn_cli.records.metrics import read_metrics
from metalearn_cli.records.sweeps import Outcome
from metalearn_cli.studies.sweep import Job

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.pruners import BasePruner
    from optuna.trial import FrozenTrial, Trial

JOURNAL = "journal.log"

LOOK = 0.5
"""Seconds between two looks at the metrics of the jobs."""


class Names(NamedTuple):
    """Words to choose from."""

    values: tuple[str, ...]


class Numbers(NamedTuple):
    """Numbers from `low` to `high`, both included: whole ones if both are, `step` apart if it is not None."""

    low: float
    high: float
    step: float | None = None
    log: bool = False


Space = Mapping[str, Names | Numbers]
"""What each setting is chosen from."""


def needs_optuna() -> None:
    """Check that Optuna is installed.

    Raises:
        UserError: if it is not.
    """
    try:
        import optuna  # noqa: F401  # only to see whether it is installed
    except ImportError as error:
        raise UserError("sweep=optuna needs Optuna; type: pip install 'metalearn-cli[optuna]'") from error


class Search:
    """The trials of a search, `studies.sweep.Trials`.

    Args:
        settings: those of the search.
        space: what it chooses from.
        steps: after how many steps a job has its first result, and its last.
        pin: returns words that all jobs have; called once, when the search begins.
        make: returns the job of a trial from what it has chosen and the words of `pin`.
    """

    def __init__(
        self,
        settings: config.Search,
        space: Space,
        steps: tuple[int, int],
        pin: Callable[[], list[str]],
        make: Callable[[dict[str, str], Sequence[str]], Job],
    ) -> None:
        self._settings, self._steps, self._pin, self._make = settings, steps, pin, make
        self._objectives = [settings.objective] if isinstance(settings.objective, str) else settings.objective
        self._space = space
        self._study: Study
        self._asked = 0
        self._open: dict[str, list[Trial]] = {}
        self._ended: dict[str, Outcome | None] = {}
        self._seen: dict[str, set[float]] = {}
        self._looked = -math.inf

    @property
    def repeated(self) -> int:
        """How many trials have drawn a point of another one, and so have no job."""
        return self._asked - len(self._ended)

    @property
    def number(self) -> int:
        """How many jobs there are, if no trial that is to come draws a point of another one."""
        return max(self._settings.trials, self._asked) - self.repeated

    def begin(self, folder: Path) -> list[tuple[Job, Outcome | None]]:
        """Open the journal in a folder; only one process at a time may do that.

        Returns:
            The jobs of the trials so far, those that have failed or were stopped early with their outcome.

        Raises:
            UserError: if the journal is damaged, or a checkpoint is not there.
        """
        from optuna.trial import Trial, TrialState

        pins = None if (folder / JOURNAL).exists() else self._pin()
        self._study = _opened(folder, self._objectives, self._pruner())
        if "pinned" not in self._study.user_attrs:  # else the checkpoints stay those of the first command
            self._study.set_user_attr("pinned", self._pin() if pins is None else pins)
        found = []
        for trial in self._study.trials:
            if trial.params.keys() != self._space.keys():  # the process was killed while it drew them
                if not trial.state.is_finished():
                    self._study.tell(trial.number, state=TrialState.FAIL)
                continue
            self._asked += 1
            job = self._job(trial)
            if trial.state == TrialState.RUNNING:
                # its id in the storage is its number, because the journal has no other study
                self._open.setdefault(job.id, []).append(Trial(self._study, trial.number))
                self._seen[job.id] = {0, *trial.intermediate_values}
            if job.id not in self._ended:
                told = trial.user_attrs.get("outcome")
                self._ended[job.id] = Outcome(job.settings, *told) if told else None
                found.append((job, self._ended[job.id]))
        return found

    def more(self) -> Job | None:
        """Return the job of one more trial; None if there are all."""
        from optuna.samplers import TPESampler

        while self._asked < self._settings.trials:
            # a sampler has a generator of its own, which no journal keeps: seeded by the number of trials, a search
            # that was killed draws what it would have drawn
            self._study.sampler = TPESampler(seed=self._asked, constant_liar=True)
            trial = self._study.ask({key: _distribution(domain) for key, domain in self._space.items()})
            self._asked += 1
            job = self._job(trial)
            again = job.id in self._ended
            if again and (outcome := self._ended[job.id]):
                self._tell(trial, outcome)
            else:
                self._open.setdefault(job.id, []).append(trial)
            if not again:
                self._ended[job.id] = None
                return job
        return None

    def hopeless(self, running: Sequence[Job]) -> list[tuple[Job, str]]:
        """Return the jobs that fall behind, each with how far it came.

        Raises:
            ConfigError: if a job does not measure the objective.
        """
        if time.monotonic() - self._looked < LOOK:
            return []
        self._looked = time.monotonic()
        found = [(job, self._behind(job)) for job in running if job.id in self._open]
        return [(job, told) for job, told in found if told]

    def ended(self, job: Job, outcome: Outcome) -> Outcome:
        """Tell Optuna what came of a job; return it with the objectives as its metrics."""
        if outcome.run:
            outcome = self._scored(outcome, outcome.run)
        self._ended[job.id] = outcome
        for trial in self._open.pop(job.id, []):
            self._tell(trial, outcome)
        return outcome

    def _job(self, trial: Trial | FrozenTrial) -> Job:
        return self._make({key: str(trial.params[key]) for key in self._space}, self._study.user_attrs["pinned"])

    def _behind(self, job: Job) -> str:
        """Report the new results of a job; return how far it came if it shall end, else ""."""
        info = next(iter(job.runs()), None)
        if info is None:
            return ""
        (trial, *_), seen = self._open[job.id], self._seen.setdefault(job.id, {0})  # a result of step 0 is the start's
        fresh = [line for line in read_metrics(Path(info["folder"])) if line["step"] not in seen and _validated(line)]
        for line in fresh:
            if missing := self._missing(line):
                raise ConfigError([Problem("sweep.objective", *missing)])
            seen.add(line["step"])
            if len(self._objectives) == 1:
                trial.report(line[self._objectives[0]], int(line["step"]))
        if not fresh or len(self._objectives) > 1 or info["steps"] in seen or not trial.should_prune():
            return ""
        name, last = self._objectives[0], fresh[-1]
        share = metric_named(name).unit == "share"
        value = f"{100 * last[name]:.1f} %" if share else f"{last[name]:.4g}"
        return f"at step {last['step']} of {info['steps']}, where its {name} was {value}"

    def _missing(self, measured: Mapping[str, Any]) -> tuple[str, str] | None:
        """Return what to say of results without the objectives, and what to type; None if they have them."""
        for name in self._objectives:
            if name not in measured:
                there = _validated(measured)
                return f"{name} is not measured by these jobs, but {' and '.join(there)}", there[0]
        return None

    def _scored(self, outcome: Outcome, run: dict[str, Any]) -> Outcome:
        """Return the outcome of a completed job with the objectives as its metrics, those of its best checkpoint."""
        metric = run["metric"]
        found = {metric["name"]: metric["value"], f"{metric['name']}_interval": metric.get("interval")}
        for line in read_metrics(Path(outcome.folder)):
            if line["step"] == metric.get("step"):
                found |= {name: line[name] for name in _validated(line)}
        if missing := self._missing(found):
            return outcome._replace(status="refused", error=f"sweep.objective: {missing[0]}", code=2, run=None)
        scores = [{"name": name, "value": found[name]} for name in self._objectives]
        first = metric if metric["name"] == self._objectives[0] else scores[0]
        return outcome._replace(run={**run, "metric": first, "scores": scores})

    def _tell(self, trial: Trial, outcome: Outcome) -> None:
        """Close a trial, unless the next command resumes its job."""
        from optuna.trial import TrialState

        states = {"pruned": TrialState.PRUNED, "diverged": TrialState.FAIL, "refused": TrialState.FAIL}
        if outcome.run:
            values = [math.nan if score["value"] is None else score["value"] for score in outcome.run["scores"]]
            known = all(map(math.isfinite, values))
            self._study.tell(trial, values if known else None, TrialState.COMPLETE if known else TrialState.FAIL)
        elif state := states.get(outcome.status):
            trial.set_user_attr("outcome", [outcome.status, outcome.error, outcome.code, outcome.folder])
            self._study.tell(trial, state=state)

    def _pruner(self) -> BasePruner:
        from optuna import pruners

        if self._settings.pruner == "median":
            return pruners.MedianPruner()
        if self._settings.pruner == "hyperband":
            first, last = self._steps
            return pruners.HyperbandPruner(min(first, last), last)
        return pruners.NopPruner()


def _opened(folder: Path, objectives: Sequence[str], pruner: BasePruner) -> Study:
    """Return the study of a journal.

    Raises:
        UserError: if it is damaged.
    """
    import optuna
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    path = folder / JOURNAL
    if path.is_file() and (text := path.read_bytes())[-1:] not in (b"", b"\n"):
        os.truncate(
            path, text.rfind(b"\n") + 1
        )  # the process was killed, or the disk was full, in the middle of a line
    best = {True: optuna.study.StudyDirection.MAXIMIZE, False: optuna.study.StudyDirection.MINIMIZE}
    directions = [best[metric_named(name).higher_is_better] for name in objectives]
    try:
        storage = optuna.storages.JournalStorage(JournalFileBackend(str(path)))
        return optuna.create_study(
            study_name=folder.name, storage=storage, directions=directions, pruner=pruner, load_if_exists=True
        )
    except (ValueError, LookupError, AssertionError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({error}); without it the search begins again") from error


def _distribution(domain: Names | Numbers) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(domain, Names):
        return CategoricalDistribution(domain.values)
    if isinstance(domain.low, int) and isinstance(domain.high, int):
        return IntDistribution(domain.low, domain.high, log=domain.log, step=int(domain.step or 1))
    return FloatDistribution(domain.low, domain.high, log=domain.log, step=domain.step)


def _validated(line: Mapping[str, Any]) -> list[str]:
    """Return the names of the validation metrics among some values."""
    return [name for name in line if name.startswith("val/") and not name.endswith("_interval")]
