"""Requests that are not answered with an action, and why."""

from __future__ import annotations

from rlcourse.errors import RLCourseError


class Refused(RLCourseError):
    """A request cannot be answered; ``status`` is HTTP's number for the reason."""

    def __init__(self, status: int, problem: str, *, mend: str, retry_after_s: float | None = None) -> None:
        super().__init__(problem, mend=mend)
        self.status = status
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[object, ...]:
        return _again, (self.status, self.problem, self.mend, self.retry_after_s)


def _again(status: int, problem: str, mend: str, retry_after_s: float | None) -> Refused:
    return Refused(status, problem, mend=mend, retry_after_s=retry_after_s)
