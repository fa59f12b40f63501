"""Prometheus' own checks, run for real: of rule files, of their unit tests, of Alertmanager's routing.

``promtool`` and ``amtool`` are programs, not libraries; Debian and Ubuntu have them in the packages ``prometheus`` and
``prometheus-alertmanager``.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from rlcourse.errors import ConfigError, MissingExtraError

PACKAGES = {
    "prometheus": "prometheus",
    "promtool": "prometheus",
    "prometheus-alertmanager": "prometheus-alertmanager",
    "amtool": "prometheus-alertmanager",
}
"""Which Debian package has which program."""
_ELSEWHERE = {"prometheus-alertmanager": "alertmanager"}  # its name outside of Debian


def program(name: str) -> Path:
    """Where a program is.

    Raises:
        MissingExtraError: it is not installed.
    """
    found = shutil.which(name) or shutil.which(_ELSEWHERE.get(name, name))
    if found is None:
        raise MissingExtraError(
            f"{name} is not installed.",
            mend=f"Install it: sudo apt-get install --no-install-recommends {PACKAGES[name]}",
        )
    return Path(found)


def check_rules(rule_file: Path) -> None:
    """Let promtool read a rule file.

    Raises:
        ConfigError: it finds a fault, or a rule twice.
        MissingExtraError: promtool is not installed.
    """
    _checked("promtool", "check", "rules", rule_file)


def run_cases(test_file: Path) -> None:
    """Let promtool run unit tests of rules.

    Raises:
        ConfigError: one fails; what was expected and what came is in the error.
        MissingExtraError: promtool is not installed.
    """
    _checked("promtool", "test", "rules", test_file)


def check_prometheus(config_file: Path) -> None:
    """Let promtool read Prometheus' own configuration.

    Raises:
        ConfigError: it finds a fault.
        MissingExtraError: promtool is not installed.
    """
    _checked("promtool", "check", "config", config_file)


def check_alertmanager(config_file: Path) -> None:
    """Let amtool read Alertmanager's configuration.

    Raises:
        ConfigError: it finds a fault.
        MissingExtraError: amtool is not installed.
    """
    _checked("amtool", "check-config", config_file)


def receivers_for(config_file: Path, labels: Mapping[str, str]) -> tuple[str, ...]:
    """Who would hear of an alert with these labels, as amtool routes it.

    Raises:
        ConfigError: it cannot tell.
        MissingExtraError: amtool is not installed.
    """
    words = [f"{label}={value}" for label, value in labels.items()]
    said = _checked("amtool", "config", "routes", "test", f"--config.file={config_file}", *words)
    return tuple(said.strip().split(","))


def _checked(name: str, *words: str | Path) -> str:
    command: Sequence[str | Path] = (program(name), *words)
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120.0)
    if done.returncode:
        raise ConfigError(
            f"{name} {words[0]} {words[1]} refuses: {(done.stdout + done.stderr).strip()[-4000:]}",
            mend="Mend what it names.",
        )
    return done.stdout
