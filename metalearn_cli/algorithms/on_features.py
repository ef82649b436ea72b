"""Frozen features and scikit-learn: Tian et al. 2020, https://arxiv.org/abs/2003.11539, section 3.2.

The backbone is frozen, and a classical learner is fitted to the features of the support set. The paper takes logistic
regression on features of length 1, and finds that it is as good as meta-learning where the representation is good.

Legend: S support items, Q query items, W ways, O outputs of a regression, D features.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from metalearn_cli.core.check import Above, Range
from metalearn_cli.core.errors import ConfigError, Problem, UserError
from metalearn_cli.core.network import Network, Params
from metalearn_cli.core.types import State, Targets, Traits

TINY = 1e-9  # of what is certain, the logarithm would be infinite


class OnFeatures:
    """Fit a learner of scikit-learn to the support set's features, scaled to length 1, without meta-training.

    Args:
        classifier: "logistic_regression"; or "knn" or "random_forest", which can also predict numbers.
        c: of logistic_regression: inverse strength of the penalty, > 0.
        neighbours: of knn: how many support items decide, >= 1.
        trees: of random_forest, >= 1.

    Raises:
        UserError: if scikit-learn is not installed.
    """

    def __init__(
        self,
        classifier: Literal["knn", "logistic_regression", "random_forest"] = "logistic_regression",
        c: Annotated[float, Above(0)] = 1.0,
        neighbours: Annotated[int, Range(1)] = 1,
        trees: Annotated[int, Range(1)] = 100,
    ) -> None:
        estimators = _estimators()[classifier]
        settings: dict[str, dict[str, Any]] = {
            "logistic_regression": {"C": c, "max_iter": 1000},
            "knn": {"n_neighbors": neighbours},
            "random_forest": {"n_estimators": trees, "random_state": 0},
        }
        self._make = {target: partial(estimator, **settings[classifier]) for target, estimator in estimators.items()}
        self._least = neighbours if classifier == "knn" else 1
        self.traits = Traits(sees="features", targets=frozenset(estimators), learns=False, batchable=False)

    def init(self, net: Network, way: int) -> Params:
        """Return no tensors."""
        return {}

    def adapt(self, net: Network, own: Params, x: Tensor, y: Tensor, way: int) -> State:
        """Return features x [S, D] and their targets: an estimator is no tensor, so it is fitted for each answer.

        Raises:
            ConfigError: if knn needs more items than there are.
        """
        if self._least > len(x):
            told = f"must be at most {len(x)}, the items of the support set, got {self._least}"
            raise ConfigError([Problem("algorithm.neighbours", told)])
        return {"x": normalize(x, dim=-1), "y": y}

    def predict(self, net: Network, own: Params, state: State, x: Tensor) -> Tensor:
        """Return the log-probabilities [Q, W], or numbers [Q, O], of features x [Q, D]."""
        target: Targets = "numbers" if state["y"].is_floating_point() else "classes"
        support_x, support_y, query_x = (_array(t) for t in (state["x"], state["y"], normalize(x, dim=-1)))
        fitted = self._make[target]().fit(support_x, support_y)
        if target == "numbers":
            return torch.as_tensor(fitted.predict(query_x)).to(x).reshape(len(x), -1)
        return torch.as_tensor(fitted.predict_proba(query_x)).to(x).clamp(min=TINY).log()


def _array(tensor: Tensor) -> Any:
    """Return a tensor as scikit-learn takes it: numbers [S, 1] as [S]."""
    x = tensor.detach().cpu()
    return (x.squeeze(1) if x.shape[1:] == (1,) else x).numpy()


def _estimators() -> dict[str, dict[Targets, Any]]:
    """Return the classes of scikit-learn for each classifier and target.

    Raises:
        UserError: if it is not installed.
    """
    try:
        from sklearn import ensemble, linear_model, neighbors
    except ImportError as error:
        message = f"algorithm=on_features needs scikit-learn ({error}); type: pip install 'metalearn-cli[table]'"
        raise UserError(message) from error
    return {
        "logistic_regression": {"classes": linear_model.LogisticRegression},
        "knn": {"classes": neighbors.KNeighborsClassifier, "numbers": neighbors.KNeighborsRegressor},
        "random_forest": {"classes": ensemble.RandomForestClassifier, "numbers": ensemble.RandomForestRegressor},
    }
