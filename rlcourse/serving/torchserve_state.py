"""What a TorchServe is told to remember: the archives it had, and the version that answered by default.

::

    state/
    ├── store/NAME@VERSION.mar      the archives
    └── config/TIME-KIND.cfg        TorchServe's snapshots: one at every change, whoever asked for it

TorchServe can start from a snapshot, and would then take from it the ports, the batch size and the workers of the last
time as well, whatever it is told now. So a start here reads from the newest snapshot only which versions there were and
which was the default, and everything else comes from the settings.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlcourse.errors import ArtifactError
from rlcourse.serving.torchserve_archive import Model

_LINE = re.compile(r"^model_snapshot=(.*)$", re.MULTILINE)
_ESCAPED = re.compile(r"\\(.)")
_MEANT = {"n": "\n", "t": "\t", "r": "\r", "f": "\f"}


def snapshots(state: Path) -> list[Path]:
    """TorchServe's snapshots, the oldest first: their names begin with the time, to the millisecond."""
    return sorted((state / "config").glob("*.cfg"))


def remembered(state: Path) -> dict[str, dict[str, bool]]:
    """What the newest snapshot says: for every model its versions, and whether a version is the default one.

    A snapshot that was cut off while it was written is passed over for the one before it. Nothing is remembered where
    no TorchServe has run.

    Raises:
        ArtifactError: there are snapshots, and not one of them can be read.
    """
    files = snapshots(state)
    for file in reversed(files):
        found = _read(file)
        if found is not None:
            return found
    if files:
        raise ArtifactError(
            f"No snapshot in {state / 'config'} says which versions were live.",
            mend="Move that folder away; the archives named on the command line then answer, the first by default.",
        )
    return {}


def in_order(named: Sequence[Model], before: Mapping[str, Mapping[str, bool]], store: Path) -> list[Model]:
    """What a start with a state folder serves: the remembered default versions first, then the others.

    Args:
        named: what it was told to serve; all of it is.
        before: what the last server had, from :func:`remembered`; what of it is still in the store is served, too.
        store: the folder with the archives.

    Raises:
        ArtifactError: a version that answered by default is neither named nor in the store.
    """
    known = [Model(name, version) for name, versions in before.items() for version in versions]
    kept = [model for model in known if model not in named and (store / model.file).is_file()]
    defaults = [model for model in known if before[model.name][model.version]]
    for model in defaults:
        if model not in (*named, *kept):
            raise ArtifactError(
                f"Version {model.version} of {model.name} was the default one, and {model.file} is gone.",
                mend=f"Name its archive, too; or move {store.parent / 'config'} away, to begin anew.",
            )
    return sorted([*named, *kept], key=lambda model: model not in defaults)


def forget_old(state: Path, keep: int = 20) -> None:
    """Delete all snapshots but the newest ones; TorchServe itself never does."""
    for file in snapshots(state)[:-keep]:
        file.unlink(missing_ok=True)


def _read(file: Path) -> dict[str, dict[str, bool]] | None:
    line = _LINE.search(file.read_text(encoding="utf-8", errors="replace"))
    if line is None:
        return None
    # Java puts a backslash before signs that mean something in a file of properties, and writes line ends as \\n.
    text = _ESCAPED.sub(lambda escaped: _MEANT.get(escaped[1], escaped[1]), line[1])
    try:
        models: dict[str, dict[str, Any]] = json.loads(text)["models"]
        return {
            name: {version: bool(about["defaultVersion"]) for version, about in versions.items()}
            for name, versions in models.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
