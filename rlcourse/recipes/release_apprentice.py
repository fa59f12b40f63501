"""``rlcourse release apprentice``: what people said to a policy's proposals, and the autonomy that it has earned so far."""

from __future__ import annotations

import getpass
import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from rlcourse.errors import ConfigError, DatasetCorruptError
from rlcourse.files import storage_errors, write_json
from rlcourse.recipes.common import NO_PREFIX, Common, plain, report, show_result, table, write_report
from rlcourse.release.apprentice import Apprentice, ApprenticeConfig, Said, replay
from rlcourse.release.evidence import read_object


@dataclass(frozen=True, kw_only=True)
class Tell(Common):
    """Show how far a policy has come from imitating to acting alone; with --what, write down what a person said first.

    The folder keeps what was demanded (demands.json, from the first call on) and every answer (answers.jsonl); where the
    apprentice stands follows from the two.

    Example: rlcourse release apprentice runs/a1 --what vetoed --why "the door was open"
    """

    folder: Annotated[Path, tyro.conf.Positional]
    """Of the apprenticeship; made by the first answer."""
    what: Said | None = None
    """approved, vetoed or overridden by a person; expired without an answer; violated: something unsafe happened."""
    who: str = field(default_factory=getpass.getuser)
    """Who said so."""
    why: str = ""
    """The reason; a veto, an override and a violation need one."""
    demands: Annotated[ApprenticeConfig, NO_PREFIX] = field(default_factory=ApprenticeConfig)
    """What has to be shown. Later calls go by those of the first."""

    def __post_init__(self) -> None:
        if self.what in ("vetoed", "overridden", "violated") and not self.why:
            raise ConfigError(f"{self.what}, and no reason.", mend="Name it with --why: somebody will want to learn.")


def run(config: Tell) -> int:
    """Write down, replay, show."""
    started = time.perf_counter()
    demands = _demands(config)
    if config.what is not None:
        _append(config.folder, {"at_s": time.time(), "what": config.what, "who": config.who, "why": config.why})
    answers = _answers(config.folder)
    steps = replay(demands, [one["what"] for one in answers])
    state = steps[-1] if steps else Apprentice(demands)
    before = ["imitate", *(step.level for step in steps)]
    rows = [
        [str(number), one["what"], one["who"], one["why"], step.level]
        for number, (one, step) in enumerate(zip(answers, steps, strict=True), 1)
        if step.level != before[number - 1] or number > len(answers) - 5
    ]
    lines = [
        f"{state.level}: {state.accepted} accepted and {state.refused} refused at this level, {len(answers)} answers in all",
        "",
        table(["answer", "what", "who", "why", "then"], rows),
    ]
    show_result("\n".join(lines), config.json)
    content = report(
        "release apprentice",
        config,
        seconds=time.perf_counter() - started,
        results=answers,
        level=state.level,
        accepted=state.accepted,
        refused=state.refused,
    )
    write_report(config.json, content)
    return 0


def _demands(config: Tell) -> ApprenticeConfig:
    path = config.folder / "demands.json"
    if path.exists():
        try:
            return ApprenticeConfig(**read_object(path))
        except TypeError as error:
            raise DatasetCorruptError(f"{path} holds no demands: {error}.", mend="Begin in another folder.") from error
    if config.what is None:
        raise ConfigError(f"{config.folder} holds no apprentice.", mend="Write down a first answer with --what.")
    write_json(path, plain(asdict(config.demands)))
    return config.demands


def _append(folder: Path, line: dict[str, Any]) -> None:
    path = folder / "answers.jsonl"
    with storage_errors(path), path.open("ab") as file:
        file.write(json.dumps(line).encode() + b"\n")


def _answers(folder: Path) -> list[dict[str, Any]]:
    path, found = folder / "answers.jsonl", []
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    for number, line in enumerate(lines, 1):
        try:
            one = json.loads(line)
            found.append({"at_s": float(one["at_s"]), **{name: str(one[name]) for name in ("what", "who", "why")}})
        except (ValueError, KeyError, TypeError) as error:
            raise DatasetCorruptError(
                f"{path}, line {number} is no answer: {error}.", mend="Take that line out, or bring the file back."
            ) from error
    return found
