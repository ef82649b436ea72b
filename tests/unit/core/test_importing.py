import gc
import sys

import pytest

from metalearn_cli.core.errors import UserError
from metalearn_cli.core.importing import importing


def test_no_garbage_is_looked_for_while_much_is_imported(monkeypatch):
    frozen = []
    monkeypatch.setattr(gc, "freeze", lambda: frozen.append(gc.isenabled()))
    with importing():
        assert not gc.isenabled()
        with importing():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()
    assert not frozen  # nothing was imported
    with importing():
        monkeypatch.setitem(sys.modules, "much", gc)
    assert frozen == [False]


def test_a_variable_of_the_environment_that_stops_an_import_is_named(monkeypatch):
    error = ValueError("The value of TORCH_DISTRIBUTED_DEBUG must be OFF, INFO, or DETAIL.")
    with pytest.raises(ValueError, match="must be OFF"), importing():
        raise error
    monkeypatch.setenv("TORCH_DISTRIBUTED_DEBUG", "zz")
    with pytest.raises(UserError, match=r"^TORCH_DISTRIBUTED_DEBUG=zz in the environment: The value"), importing():
        with importing():
            raise error
