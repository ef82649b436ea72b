"""A trained learner in Python: it learns the classes of a few examples, and classifies others.

Legend: S support items, N items, W classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray

from metalearn_cli.core.check import counted
from metalearn_cli.core.errors import UserError
from metalearn_cli.core.items import Items, size
from metalearn_cli.core.places import expanded
from metalearn_cli.core.stages import TABLE
from metalearn_cli.deploy.artefact import read_artefact
from metalearn_cli.deploy.enrolled import Answers, Enrolled, answers, enrol, learnt
from metalearn_cli.deploy.folder import ABOUT, is_artefact
from metalearn_cli.deploy.folding import folded
from metalearn_cli.deploy.given import items_of
from metalearn_cli.deploy.inputs import Reader
from metalearn_cli.deploy.trained import Statistics, Trained, learner_of, of_checkpoint
from metalearn_cli.records.checkpoint import MANIFEST_FILE, open_checkpoint
from metalearn_cli.records.runs import find_checkpoint


def load(run: str, statistics: Statistics = "support", runs_dir: str = "runs") -> FewShotClassifier:
    """Return the learner that a run has trained, or an exported one with the classes that it knows.

    Args:
        run: as on the command line: latest, latest:STAGE, the id of a run, the folder of a run or a checkpoint, or that
            of an artefact.
        statistics: the items that give the batch statistics of networks that have them: "support", the examples, as in
            the inductive protocol of `mlx evaluate`; or "train", 512 training items, so that a further class changes no
            other answer.
        runs_dir: the folder of all runs.

    Raises:
        UserError: if there is no such run, or it cannot be used.
    """
    if is_artefact(Path(expanded(run))):
        return _exported(Path(expanded(run)).resolve())
    folder = find_checkpoint(expanded(run), expanded(runs_dir), TABLE["evaluate"].accepts, "run")
    made = FewShotClassifier(str(folder.resolve()), statistics)
    made._opened()
    return made


class FewShotClassifier:
    """A trained learner that learns classes from a few examples of each; scikit-learn can use it as a classifier.

    Args:
        source: the folder of a checkpoint or an artefact.
        statistics: see `load`.

    Attributes:
        classes_: the classes [W] that it has learnt, sorted.
    """

    _estimator_type = "classifier"
    _enrolled: Enrolled
    _learnt: _Learnt
    _trained: Trained
    classes_: NDArray[Any]

    def __init__(self, source: str, statistics: Statistics = "support") -> None:
        self.source, self.statistics = source, statistics

    def fit(self, x: Any, y: Sequence[Any]) -> FewShotClassifier:
        """Learn the classes of some examples; what was learnt before is forgotten.

        Args:
            x: the examples: paths of files, pictures of Pillow or arrays of bytes, texts, rows as dicts or a data
                frame, whichever the learner was trained on; or the network's own items [S, ...] as an array or tensor.
            y: their classes [S], of any kind that can be sorted.

        Returns:
            itself.

        Raises:
            UserError: if they cannot be used.
        """
        items, labels = items_of(x, self._reader), np.asarray(y)
        if labels.shape != (size(items),):
            got = f"got {counted(size(items), 'item')}, and labels of shape {list(labels.shape)}"
            raise UserError(f"{got}; give one each")
        try:
            classes, codes = np.unique(labels, return_inverse=True)
        except TypeError as error:  # they cannot be sorted
            raise UserError(f"labels must all be strings, numbers or truth values: {error}") from error
        if len(classes) < 2:
            raise UserError(f"all items are of the class {labels[0]}; give examples of two classes or more")
        self.classes_ = classes
        self._learn(_Learnt(items, torch.from_numpy(codes.astype(np.int64))))
        return self

    adapt = fit

    def predict(self, x: Any) -> NDArray[Any]:
        """Return the classes [N] of items, given as for `fit`."""
        codes = self._answers(x).probabilities.argmax(1)
        found: NDArray[Any] = self.classes_[codes.numpy()]
        return found

    def predict_proba(self, x: Any) -> NDArray[np.float32]:
        """Return the probabilities [N, W] of the classes, in the order of `classes_`."""
        found: NDArray[np.float32] = self._answers(x).probabilities.numpy()
        return found

    def score(self, x: Any, y: Sequence[Any]) -> float:
        """Return the share of items [N] whose class is the one in y."""
        return float((self.predict(x) == np.asarray(y)).mean())

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the arguments of the constructor, as scikit-learn asks for them."""
        return {"source": self.source, "statistics": self.statistics}

    def set_params(self, **params: Any) -> FewShotClassifier:
        """Set arguments of the constructor.

        Raises:
            UserError: if there is no such argument.
        """
        if unknown := params.keys() - self.get_params():
            raise UserError(f"FewShotClassifier has no {', '.join(sorted(unknown))}; it has source and statistics")
        self.__dict__ = {**self.get_params(), **params}
        return self

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import ClassifierTags, Tags, TargetTags

        target = TargetTags(required=True)
        return Tags(estimator_type="classifier", target_tags=target, classifier_tags=ClassifierTags())

    def __repr__(self) -> str:
        return f"FewShotClassifier({self.source!r}, statistics={self.statistics!r})"

    def __getstate__(self) -> dict[str, Any]:
        kept = {name: value for name, value in self.__dict__.items() if name != "_enrolled"}
        return {**kept, "_trained": self._opened()}  # so that it can be read where the checkpoint is not

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ = state
        if "_learnt" in state:
            self._learn(self._learnt)

    def _opened(self) -> Trained:
        if "_trained" not in self.__dict__:
            folder = Path(self.source)
            about = folder / (ABOUT if is_artefact(folder) else MANIFEST_FILE)
            told = about.read_bytes() if about.is_file() else b""
            self._trained = _trained(self.source, self.statistics, told)
        return self._trained

    @property
    def _reader(self) -> Reader:
        trained = self._opened()
        return Reader(trained.facts, trained.preprocessing, trained.tokenizer)

    def _learn(self, examples: _Learnt) -> None:
        trained = self._opened()
        learner, backbone = learner_of(trained, len(self.classes_))
        if examples.embedded:
            z = cast(torch.Tensor, examples.x)
            self._enrolled = learnt(learner, folded(backbone, trained.statistics), z, examples.y)
        else:
            self._enrolled = enrol(learner, backbone, examples.x, examples.y, trained.statistics)
        self._learnt = examples

    def _answers(self, x: Any) -> Answers:
        if "_enrolled" not in self.__dict__:
            raise UserError("no classes are learnt yet; call fit(x, y) with a few examples of each")
        return answers(self._enrolled, items_of(x, self._reader), self._learnt.temperature)


class _Learnt(NamedTuple):
    """Examples that were learnt.

    Attributes:
        x: items [S, ...], or their embeddings.
        y: their classes [S], by number.
        embedded: whether they are embeddings.
        temperature: what logits are divided by.
    """

    x: Items
    y: torch.Tensor
    embedded: bool = False
    temperature: float = 1.0


def _exported(folder: Path) -> FewShotClassifier:
    """Return the learner of an artefact, with the classes that it knows."""
    learner, about = read_artefact(folder)
    learner.check_floats("load its checkpoint, or classify with mlx predict or predict.py")
    made = FewShotClassifier(str(folder), about["statistics"])
    made._trained = learner.trained
    made.classes_, codes = np.unique(learner.support.labels, return_inverse=True)
    temperature = learner.calibration.temperature if learner.calibration else 1.0
    made._learn(_Learnt(learner.support.x, torch.from_numpy(codes), learner.support.embedded, temperature))
    return made


@lru_cache(maxsize=8)
def _trained(source: str, statistics: Statistics, about: bytes) -> Trained:
    """Read a checkpoint or an artefact, once for all copies of a classifier.

    Args:
        source: its folder.
        statistics: see `load`.
        about: the file that says what it is, with the sha256 of the others: it may be replaced.
    """
    if is_artefact(Path(source)):
        return read_artefact(Path(source))[0].trained
    return of_checkpoint(open_checkpoint(Path(source)), statistics)
