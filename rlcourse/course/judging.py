"""From outcomes to a verdict. Pure: plain data in, a verdict out; both the student's check and the grader use it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from rlcourse.course.exercise_set import Exercise
from rlcourse.course.inside.calling import Plain, call, encode
from rlcourse.course.plain import difference, show_value
from rlcourse.course.verdicts import FailingCase, Verdict
from rlcourse.devices import torch_threads
from rlcourse.randomness import Seeds

RANDOM_CASES = 10


@dataclass(frozen=True)
class Case:
    """One input and what the reference makes of it, as plain data."""

    label: str
    arguments: Mapping[str, Plain]
    expected: Plain


class PreparedExercise:
    """An exercise with its inputs drawn and its expected outcomes computed: ready to judge any number of answers."""

    def __init__(self, exercise: Exercise, seed: int, *, random_cases: int = RANDOM_CASES) -> None:
        self.exercise = exercise
        rng = Seeds(seed).numpy(exercise.name)
        inputs = [(f"worked number {i + 1}", worked.arguments) for i, worked in enumerate(exercise.worked)]
        inputs += [(f"random input {i + 1}", exercise.draw(rng)) for i in range(random_cases)]
        plain = [(label, {name: encode(value) for name, value in given.items()}) for label, given in inputs]
        with torch_threads(1):  # a thousand tiny calls: two threads take forty times as long
            self.cases = [Case(label, given, self._outcome(exercise.reference, given)) for label, given in plain]

    def _outcome(self, function: Any, arguments: Mapping[str, Plain]) -> Plain:
        return call(function, arguments, list(self.exercise.gradient_of), self.exercise.observe)

    @property
    def request(self) -> Plain:
        """What the process that runs the answer needs to know; no expected value is in it."""
        return {
            "calls": [case.arguments for case in self.cases],
            "gradient_of": list(self.exercise.gradient_of),
            "observe": self.exercise.observe,
        }

    @cached_property
    def mistaken(self) -> list[list[Plain]]:
        """What each mistake makes of each case."""
        with torch_threads(1):
            return [
                [self._outcome(mistake.implementation, case.arguments) for case in self.cases]
                for mistake in self.exercise.mistakes
            ]

    def judge(self, outcomes: Sequence[Plain]) -> Verdict:
        """Compare outcomes with the expected ones, case by case."""
        pairs = list(zip(self.cases, outcomes, strict=True))
        raised = [outcome["raised"] for outcome in outcomes if "raised" in outcome]
        if raised and all(r["type"] == "NotImplementedError" for r in raised) and len(raised) == len(outcomes):
            return Verdict(self.exercise.name, "not_attempted", "The body still raises NotImplementedError.")
        failing = [i for i, (case, outcome) in enumerate(pairs) if self._differs(outcome, case.expected)]
        if not failing:
            return Verdict(self.exercise.name, "passed", f"All {len(pairs)} cases agree.")
        case, outcome = pairs[failing[0]]
        kind = self._differs(outcome, case.expected)
        return Verdict(
            self.exercise.name,
            "memory_limit" if kind == "memory" else "wrong_type" if _is_foreign(outcome) else "failed",
            f"{len(failing)} of {len(pairs)} cases differ; {_REASONS[kind]}",
            hint=self._hint(outcomes, failing),
            case=FailingCase(
                case.label,
                {name: show_value(value) for name, value in case.arguments.items()},
                _show_outcome(outcome, kind),
                _show_outcome(case.expected, kind),
            ),
        )

    def _differs(self, got: Plain, wanted: Plain) -> str:
        """The first difference between two outcomes; empty when they agree."""
        if "raised" in got or "raised" in wanted:
            if "raised" in got and _is_memory(got["raised"]):
                return "memory"
            same = "raised" in got and "raised" in wanted and got["raised"]["type"] == wanted["raised"]["type"]
            return "" if same else "raised"
        found = difference(got["value"], wanted["value"], self.exercise.rtol, self.exercise.atol)
        if found:
            return found
        if got["gradients"].keys() != wanted["gradients"].keys():
            return "gradient"
        for name, gradient in wanted["gradients"].items():
            if self._gradient_differs(got["gradients"][name], gradient):
                return "gradient"
        return "" if sorted(got["changed"]) == sorted(wanted["changed"]) else "changed"

    def _gradient_differs(self, got: Plain, wanted: Plain) -> bool:
        # No gradient and a gradient of zeros teach the same.
        if wanted["kind"] == "none" or got["kind"] == "none":
            present = got if wanted["kind"] == "none" else wanted
            return present["kind"] != "none" and any(number != 0 for number in present.get("data", [1]))
        return bool(difference(got, wanted, self.exercise.rtol, self.exercise.atol))

    def _hint(self, outcomes: Sequence[Plain], failing: Sequence[int]) -> str:
        """The hint of the mistake that does what this answer does wherever the answer is wrong."""
        for mistake, mistaken in zip(self.exercise.mistakes, self.mistaken, strict=True):
            if all(self._same_mistake(outcomes[i], mistaken[i], self.cases[i].expected) for i in failing):
                return mistake.hint
        kind = self._differs(outcomes[failing[0]], self.cases[failing[0]].expected)
        return _GENERAL.get(kind, "") or self.exercise.hint

    def _same_mistake(self, got: Plain, mistaken: Plain, expected: Plain) -> bool:
        return not self._differs(got, mistaken) and bool(self._differs(mistaken, expected))


_REASONS = {
    "raised": "the function raises an error.",
    "memory": "the memory limit was reached.",
    "type": "the type of what comes back is wrong.",
    "dtype": "the dtype is wrong.",
    "shape": "the shape is wrong.",
    "value": "the numbers are wrong.",
    "gradient": "the numbers are right, the gradient is wrong.",
    "changed": "the numbers are right, but an input was changed.",
}
_GENERAL = {
    "memory": "The inputs hold a few dozen numbers; nothing about them needs this much memory.",
    "dtype": "Stay in the dtype of the inputs: float32 in, float32 out.",
    "gradient": "The numbers agree, the gradient does not: look for a detach() too many or too few.",
    "changed": "The batch belongs to the caller: work on a clone, not in place.",
}


def _is_memory(raised: Plain) -> bool:
    return raised["type"] == "MemoryError" or "not enough memory" in raised["message"]


def _is_foreign(outcome: Plain) -> bool:
    return "value" in outcome and outcome["value"]["kind"] == "other"


def _show_outcome(outcome: Plain, kind: str) -> str:
    if "raised" in outcome:
        raised = outcome["raised"]
        where = f" (line {raised['line']})" if raised["line"] else ""
        return f"{raised['type']}: {raised['message']}{where}"
    if kind == "gradient":
        shown = ", ".join(f"{name}: {show_value(value)}" for name, value in outcome["gradients"].items())
        return f"gradient of {shown}"
    if kind == "changed":
        return f"changed inputs: {', '.join(outcome['changed']) or 'none'}"
    text = show_value(outcome["value"])
    if kind == "shape" and outcome["value"]["kind"] == "tensor":
        return f"shape {tuple(outcome['value']['shape'])}: {text}"
    return f"dtype {outcome['value'].get('dtype')}: {text}" if kind == "dtype" else text
