"""Archives for TorchServe: a policy as one ``.mar`` file, which is a zip, packed by torch-model-archiver.

::

    any-name.mar
    ├── MAR-INF/MANIFEST.json     name, version, which file is what
    ├── policy.pt                 TorchScript: network, normalisation, mask
    ├── served.json               what the policy takes and answers, and the SHA-256 of policy.pt
    └── torchserve_handler.py     what the server's worker runs
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rlcourse.errors import ArtifactError, ConfigError, MissingExtraError, ServerError
from rlcourse.files import storage_errors

if TYPE_CHECKING:
    from rlcourse.deployment.artifact import PolicyArtifact

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Model:
    """What an archive says that it holds."""

    name: str
    version: str

    @property
    def file(self) -> str:
        """What the archive is called in a server's store; neither name nor version may hold an @."""
        return f"{self.name}@{self.version}.mar"


def archive(artifact: PolicyArtifact, target: Path, *, name: str, version: str) -> Path:
    """Pack a policy for TorchServe, with torch-model-archiver.

    The policy inside is TorchScript that was checked against the policy itself.

    Args:
        artifact: the policy.
        target: the ``.mar`` file; an older one is replaced.
        name: what it is asked by.
        version: of this policy under that name.

    Raises:
        ArtifactError: the exported policy does not answer as the policy does.
        ConfigError: a name or version that TorchServe would not take.
        MissingExtraError: torch-model-archiver is not installed.
        StorageError: the file could not be written.
    """
    # Whoever starts a server reads archives and packs none, and is spared the seconds and the memory of torch.
    from rlcourse.deployment.exports import export
    from rlcourse.deployment.portable import inputs_of, outputs_of
    from rlcourse.serving import torchserve_handler

    for text in (name, version):
        if not _NAME.fullmatch(text):
            raise ConfigError(
                f"{text!r} is no name or version.", mend="Use letters, digits, dots, dashes, underscores."
            )
    demand_package("model_archiver")
    about = artifact.description
    with tempfile.TemporaryDirectory() as folder, storage_errors(target):
        policy = Path(folder) / "policy.pt"
        export(artifact, "torchscript", policy)
        served = {
            **asdict(about),
            "version": version,
            "inputs": inputs_of(about),
            "outputs": outputs_of(about),
            "sha256": hashlib.sha256(policy.read_bytes()).hexdigest(),
        }
        extra = Path(folder) / torchserve_handler.DESCRIPTION
        extra.write_text(json.dumps(served), encoding="utf-8")
        words = [
            "--model-name",
            name,
            "--version",
            version,
            "--serialized-file",
            str(policy),
            "--extra-files",
            str(extra),
        ]
        words += ["--handler", str(torchserve_handler.__file__), "--export-path", folder, "--force"]
        done = subprocess.run(
            [sys.executable, "-m", "model_archiver.model_packaging", *words],
            capture_output=True,
            text=True,
            check=False,
        )
        packed = Path(folder) / f"{name}.mar"
        if done.returncode or not packed.is_file():
            raise ServerError(f"torch-model-archiver failed: {done.stderr.strip()[-500:]}", mend="Read its message.")
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.part")
        shutil.copyfile(packed, part)
        part.replace(target)
    return target


def read_archive(file: Path) -> Model:
    """Name and version of a ``.mar`` file.

    Raises:
        ArtifactError: it is none.
    """
    try:
        with zipfile.ZipFile(file) as packed:
            model = json.loads(packed.read("MAR-INF/MANIFEST.json"))["model"]
            return Model(str(model["modelName"]), str(model["modelVersion"]))
    except (OSError, zipfile.BadZipFile, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(
            f"{file} is no archive for TorchServe: {error}.", mend="Make one: rlcourse serve archive."
        ) from error


def demand_package(module: str) -> None:
    """Say how to get a package of TorchServe's that is missing.

    Raises:
        MissingExtraError: it is.
    """
    if importlib.util.find_spec(module) is None:
        package = {"ts": "torchserve", "yaml": "pyyaml", "model_archiver": "torch-model-archiver"}[module]
        raise MissingExtraError(f"{package} is not installed.", mend="pip install 'rlcourse[torchserve]'")
