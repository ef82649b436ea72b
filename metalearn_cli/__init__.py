"""Few-shot and meta-learning from the command line: pretrain, transfer, meta-train, evaluate; and what uses the result.

In Python, `load` returns the learner that a run has trained; docs/python.md has a session. Nothing is imported before
it is used, so that `import metalearn_cli` takes no time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metalearn_cli.core.errors import UserError
    from metalearn_cli.deploy.classifier import FewShotClassifier, load

__version__ = "0.1.0"
__all__ = ["FewShotClassifier", "UserError", "__version__", "load"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "UserError":
        from metalearn_cli.core import errors

        return errors.UserError
    from metalearn_cli.deploy import classifier

    return getattr(classifier, name)


def __dir__() -> list[str]:
    return __all__
