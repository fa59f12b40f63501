"""What can be said of one answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

Status = Literal[
    "passed",
    "failed",
    "not_attempted",
    "missing",
    "wrong_type",
    "time_limit",
    "memory_limit",
    "process_refused",
    "network_refused",
    "file_refused",
    "imports_answer",
    "tampered",
    "crashed_loading",
    "process_died",
    "bad_reply",
    "unreadable",
    "not_graded",
]

WORDS: dict[Status, str] = {
    "passed": "passed",
    "failed": "failed",
    "not_attempted": "not attempted",
    "missing": "missing",
    "wrong_type": "wrong type",
    "time_limit": "time limit",
    "memory_limit": "memory limit",
    "process_refused": "starts a process",
    "network_refused": "tries the network",
    "file_refused": "touches files",
    "imports_answer": "imports the answer",
    "tampered": "patches the tools",
    "crashed_loading": "crashes while loading",
    "process_died": "ends the process",
    "bad_reply": "garbage reply",
    "unreadable": "unreadable",
    "not_graded": "not graded",
}
assert set(WORDS) == set(get_args(Status))


@dataclass(frozen=True)
class FailingCase:
    """One input on which an answer is wrong, ready to be read."""

    label: str
    arguments: Mapping[str, str]
    got: str
    expected: str


@dataclass(frozen=True)
class Verdict:
    """What can be said of one answer to one exercise. ``str()`` is what the student reads."""

    exercise: str
    status: Status
    message: str
    hint: str = ""
    case: FailingCase | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def passed(self) -> bool:
        """Whether it earns its points."""
        return self.status == "passed"

    def __str__(self) -> str:
        lines = [f"{self.exercise}: {WORDS[self.status]}. {self.message}"]
        if self.case:
            lines.append(f"  {self.case.label}:")
            lines += [f"    {name} = {value}" for name, value in self.case.arguments.items()]
            lines += [f"    got      {self.case.got}", f"    expected {self.case.expected}"]
        if self.hint:
            lines.append(f"  Hint: {self.hint}")
        lines += [f"  Note: {note}" for note in self.notes]
        return "\n".join(lines)

    def _repr_pretty_(self, printer: object, cycle: bool) -> None:
        """Show nothing as a cell's value: ``check`` has already printed the verdict."""
