"""Imports of large libraries: faster, and with errors in words."""

from __future__ import annotations

import gc
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from metalearn_cli.core.errors import UserError


@contextmanager
def importing() -> Iterator[None]:
    """Within a block, do not collect garbage: imports create many objects and no garbage, and this saves a quarter.

    Later collections skip what was imported, too.

    Raises:
        UserError: if an import fails with an error that names a variable of the environment, such as torch's
            TORCH_DISTRIBUTED_DEBUG.
    """
    before, enabled = len(sys.modules), gc.isenabled()
    gc.disable()
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        for name in re.findall(r"[A-Z]+(?:_[A-Z0-9]+)+", str(error)):
            if name in os.environ:
                raise UserError(f"{name}={os.environ[name]} in the environment: {error}") from error
        raise
    finally:
        if len(sys.modules) > before:
            gc.freeze()
        if enabled:
            gc.enable()
