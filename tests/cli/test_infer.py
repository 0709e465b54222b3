"""`mlbridge infer` where somebody types."""

import io
from types import SimpleNamespace

import pytest

from bridge.cli import infer


@pytest.mark.parametrize("terminal", [True, False])
def test_on_a_terminal_it_says_what_it_waits_for(monkeypatch, capsys, terminal):
    stdin = SimpleNamespace(isatty=lambda: terminal, buffer=io.BytesIO(b'{"x": [[1]]}'))
    monkeypatch.setattr(infer, "sys", SimpleNamespace(stdin=stdin))
    assert infer._read(None) == {"x": [[1]]}
    said = capsys.readouterr()
    told = 'reading JSON from standard input, {"NAME": [[...]]}, until Ctrl-D\n'
    assert (said.out, said.err) == ("", told if terminal else "")
