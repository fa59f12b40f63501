"""The lines on the page are the lines that run."""

from __future__ import annotations

import inspect

import pytest

from rlcourse.course import show
from rlcourse.errors import ConfigError, ExerciseError
from rlcourse.networks.targets import polyak_update_
from rlcourse.objectives import returns, values


@pytest.mark.parametrize("thing", [values.expectile_loss, ConfigError, returns])
def test_the_source_is_printed(thing: object, capsys: pytest.CaptureFixture[str]) -> None:
    show(thing)  # type: ignore[arg-type]
    assert capsys.readouterr().out == inspect.getsource(thing).rstrip("\n") + "\n"  # type: ignore[arg-type]


def test_a_decorated_function_shows_its_own_lines(capsys: pytest.CaptureFixture[str]) -> None:
    show(polyak_update_)
    assert "def polyak_update_(" in capsys.readouterr().out


def test_what_has_no_source_is_refused() -> None:
    with pytest.raises(ExerciseError, match="no Python source"):
        show(len)
