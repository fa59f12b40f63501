"""Every error this package raises on purpose, in one tree.

::

    RLCourseError
    ├── DataError                  a data set cannot be used
    │   ├── DatasetNotFoundError   nothing of that name or at that path
    │   ├── DatasetCorruptError    the bytes are not the bytes that were written
    │   ├── DatasetInvalidError    the bytes are intact, what they say is impossible
    │   ├── DatasetUntrustedError  reading it could run code that somebody else wrote
    │   └── DatasetExistsError     writing would replace a data set that is already there
    ├── ArtifactError              a saved policy or checkpoint cannot be used
    ├── ConfigError                a setting is outside the range in which it means anything
    │   ├── UnknownEnvironmentError
    │   ├── UnknownAlgorithmError
    │   └── DeviceUnavailableError
    ├── ShapeError                 tensors at a seam do not fit together
    ├── TrainingDivergedError      a loss or a weight stopped being a finite number
    ├── EnvironmentFailedError     an environment raised, or returned something that is no number
    ├── WorkerLostError            a process that did a part of the work was killed
    ├── ServerError                a server did not start, or refused what was asked of it
    ├── StorageError               a file could not be written; what was there before is untouched
    ├── ExerciseError              an exercise or a submission cannot be read
    └── MissingExtraError          an optional package is needed and is not installed

Each carries a second sentence, the *mend*: what the reader can do about it.  ``str(error)`` prints both.
"""

from __future__ import annotations


class RLCourseError(Exception):
    """Base of the tree. ``problem`` says what is wrong, ``mend`` what to do about it."""

    def __init__(self, problem: str, *, mend: str) -> None:
        self.problem = problem
        self.mend = mend
        super().__init__(problem, mend)

    def __str__(self) -> str:
        return f"{self.problem} {self.mend}"

    def __reduce__(self) -> tuple[object, ...]:
        # The mend is keyword-only, which the default recipe for copying an exception between processes cannot know.
        return _rebuild, (type(self), self.problem, self.mend)


def _rebuild(kind: type[RLCourseError], problem: str, mend: str) -> RLCourseError:
    return kind(problem, mend=mend)


class DataError(RLCourseError):
    """A data set cannot be used."""


class DatasetNotFoundError(DataError):
    """Nothing of that name under the Minari root, nor at that path."""


class DatasetCorruptError(DataError):
    """The bytes on the disk are not the bytes that were written."""


class DatasetInvalidError(DataError):
    """The file is intact, but what it says is impossible: wrong shapes, NaN rewards, no episodes."""


class DatasetUntrustedError(DataError):
    """A pickle, which is a program: reading it could run what somebody else wrote."""


class DatasetExistsError(DataError):
    """Writing would replace a data set that is already there."""


class ArtifactError(RLCourseError):
    """A saved policy or checkpoint is missing, damaged, or does not fit."""


class ConfigError(RLCourseError):
    """A setting is outside the range in which it means anything."""


class UnknownEnvironmentError(ConfigError):
    """No environment of that name is registered."""


class UnknownAlgorithmError(ConfigError):
    """No algorithm of that name is known here."""


class DeviceUnavailableError(ConfigError):
    """The device asked for is not on this machine."""


class ShapeError(RLCourseError):
    """Tensors that meet at a seam do not fit together."""


class TrainingDivergedError(RLCourseError):
    """A loss or a weight stopped being a finite number."""


class EnvironmentFailedError(RLCourseError):
    """An environment raised in mid-run, or returned an observation or a reward that is not finite."""


class WorkerLostError(RLCourseError):
    """A process that did a part of the work was killed from outside; what others had finished is kept."""


class ServerError(RLCourseError):
    """A server that this package started or asked did not start, or refused."""


class StorageError(RLCourseError):
    """A file could not be written; what stood there before is untouched."""


class ExerciseError(RLCourseError):
    """An exercise or a submission cannot be read."""


class MissingExtraError(RLCourseError):
    """An optional package is needed and is not installed."""
