from __future__ import annotations

import copy
import pickle
import re

import pytest

from rlcourse import errors
from rlcourse.errors import ConfigError, DataError, RLCourseError


def family(kind: type[RLCourseError]) -> list[type[RLCourseError]]:
    # Other tests and the tools have errors of their own: the tree is the package's.
    children = [child for child in kind.__subclasses__() if child.__module__ == errors.__name__]
    return [kind, *(k for child in children for k in family(child))]


def test_the_tree_drawn_in_the_module_is_the_tree() -> None:
    drawn = re.findall(r"── (\w+)", errors.__doc__ or "")
    assert sorted(drawn) == sorted(kind.__name__ for kind in family(RLCourseError)[1:])


@pytest.mark.parametrize("kind", family(RLCourseError))
def test_both_sentences_are_said_and_survive_a_pickle(kind: type[RLCourseError]) -> None:
    error = kind("The disk is full.", mend="Free some space.")
    assert str(error) == "The disk is full. Free some space."
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(again) is kind
        assert (again.problem, again.mend) == ("The disk is full.", "Free some space.")
        assert str(again) == str(error)


def test_a_mend_cannot_be_forgotten() -> None:
    with pytest.raises(TypeError):
        RLCourseError("The disk is full.")  # type: ignore[call-arg]


def test_whole_branches_can_be_caught() -> None:
    assert issubclass(errors.DatasetCorruptError, DataError)
    assert issubclass(errors.UnknownEnvironmentError, ConfigError)
    assert not issubclass(errors.StorageError, DataError)
