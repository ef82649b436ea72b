import gc
import sys

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
