"""``rlcourse export``: a saved policy in the forms that other programs run, each checked against the policy."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from rlcourse.deployment.artifact import PolicyArtifact
from rlcourse.deployment.exports import FILES, Form, export
from rlcourse.errors import ConfigError
from rlcourse.files import sha256_of
from rlcourse.recipes.common import Common, report, show_result, table, write_report


@dataclass(frozen=True, kw_only=True)
class Export(Common):
    """Export a saved policy, and check every form against it.

    Example: rlcourse export runs/cql --forms onnx numpy --output exports/cql
    """

    artifact: Annotated[Path, tyro.conf.Positional]
    """The policy: a folder, or a .zip file."""
    forms: tuple[Form, ...] = ("numpy", "torch", "onnx")
    """numpy: the artifact as one file, for NumPy alone; torch: a torch.export program; onnx; torchscript: for TorchServe."""
    output: Path = Path("exports")
    """Folder for the files; older exports there are replaced."""
    questions: int = 4096
    """Inputs that each form is asked about; half of them lie far from the data."""

    def __post_init__(self) -> None:
        if self.questions < 1 or not self.forms:
            raise ConfigError("Nothing would be checked.", mend="Ask at least one question of at least one form.")


def run(config: Export) -> int:
    """Export, check, report."""
    started = time.perf_counter()
    artifact = PolicyArtifact.load(config.artifact)
    rows: list[dict[str, Any]] = []
    for form in dict.fromkeys(config.forms):
        target = config.output / FILES[form]
        parity = export(artifact, form, target, count=config.questions, seed=config.seed)
        rows.append(
            {
                "form": form,
                "file": str(target),
                "bytes": target.stat().st_size,
                "sha256": sha256_of(target),
                "questions": parity.questions,
                "ordinary_difference": parity.ordinary,
                "worst_difference": parity.worst,
                "share_of_tolerance": parity.worst_share,
                "ties": parity.ties,
                "other_actions": parity.other_actions,
            }
        )
    header = [
        "form",
        "file",
        "kB",
        "asked",
        "differs by",
        "far from the data",
        "of the tolerance",
        "ties",
        "other actions",
    ]
    text = table(
        header,
        [
            [
                str(row["form"]),
                str(row["file"]),
                f"{row['bytes'] / 1000:.1f}",
                str(row["questions"]),
                f"{row['ordinary_difference']:.1e}",
                f"{row['worst_difference']:.1e}",
                f"{row['share_of_tolerance']:.0%}",
                str(row["ties"]),
                str(row["other_actions"]),
            ]
            for row in rows
        ],
    )
    show_result(text, config.json)
    write_report(config.json, report("export", config, seconds=time.perf_counter() - started, results=rows))
    return 0
