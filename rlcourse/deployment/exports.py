"""A saved policy in the forms that other programs run.

=========== ================= ==============================================================
form        file              who runs it
=========== ================= ==============================================================
numpy       policy.zip        the artifact as one file, for :class:`NumpyPolicy`: no torch
torch       policy.pt2        ``torch.export``: ahead-of-time compilers, other devices
onnx        policy.onnx       onnxruntime and everything that reads ONNX
torchscript policy.pt         TorchServe, and nothing else
=========== ================= ==============================================================

Each is checked against the policy itself before it is in its place (:mod:`rlcourse.deployment.parity`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from rlcourse.deployment.artifact import PolicyArtifact
from rlcourse.deployment.numpy_policy import NumpyPolicy
from rlcourse.deployment.parity import Answerer, Arrays, Parity, compare, numpy_answerer
from rlcourse.deployment.portable import example, inputs_of, outputs_of, portable
from rlcourse.files import atomic_path

Form = Literal["numpy", "torch", "onnx", "torchscript"]
FILES: dict[str, str] = {
    "numpy": "policy.zip",
    "torch": "policy.pt2",
    "onnx": "policy.onnx",
    "torchscript": "policy.pt",
}


def export(artifact: PolicyArtifact, form: Form, target: Path, *, count: int = 4096, seed: int = 0) -> Parity:
    """Write one form, read it back, and check it; a form that fails the check is not left behind.

    Args:
        artifact: what to export.
        form: which form.
        target: the file.
        count: how many questions the check asks.
        seed: of those questions.

    Raises:
        ArtifactError: the form does not answer as the policy does.
        MissingExtraError: ONNX is asked for and its packages are not installed.
        StorageError: the file could not be written.
    """
    write, read = _FORMS[form]
    with atomic_path(target) as part:
        # Some writers look at the suffix of a name.
        beside = part.with_name(part.name + target.suffix)
        try:
            write(artifact, beside)
            parity = compare(form, artifact, read(artifact, beside), count=count, seed=seed).demand()
            beside.replace(part)
        finally:
            beside.unlink(missing_ok=True)
    return parity


def write_program(artifact: PolicyArtifact, target: Path) -> None:
    """``torch.export``: the graph for any batch size, without Python."""
    torch.export.save(exported(artifact), target)


def exported(artifact: PolicyArtifact) -> torch.export.ExportedProgram:
    """The artifact's module as a graph for any batch size."""
    batch = torch.export.Dim("batch", min=1)
    inputs = example(artifact.description)
    return torch.export.export(portable(artifact), inputs, dynamic_shapes=tuple({0: batch} for _ in inputs))


def write_torchscript(artifact: PolicyArtifact, target: Path) -> None:
    """TorchScript, which torch 2.13 calls deprecated: TorchServe's worker reads it without this package.

    It is traced, and no branch in the module looks at a value or a batch size, so the trace is the whole program.
    """
    with _without_deprecation():
        traced = torch.jit.trace(portable(artifact), example(artifact.description))
        torch.jit.save(traced, str(target))


def read_program(artifact: PolicyArtifact, source: Path) -> Answerer:
    """A program written by :func:`write_program`, asked by names."""
    return module_answerer(artifact, torch.export.load(source).module())


def read_torchscript(artifact: PolicyArtifact, source: Path) -> Answerer:
    """A file written by :func:`write_torchscript`, asked by names."""
    with _without_deprecation():
        return module_answerer(artifact, torch.jit.load(str(source)))


def module_answerer(artifact: PolicyArtifact, module: nn.Module) -> Answerer:
    """A torch module with the portable inputs and outputs, asked by names."""
    inputs, outputs = inputs_of(artifact.description), outputs_of(artifact.description)

    @torch.no_grad()
    def answer(asked: Arrays) -> Arrays:
        values: Sequence[Tensor] = module(*(torch.from_numpy(asked[name]) for name in inputs))
        return {name: value.numpy() for name, value in zip(outputs, values, strict=True)}

    return answer


def _without_deprecation() -> warnings.catch_warnings:
    context = warnings.catch_warnings(action="ignore", category=DeprecationWarning)
    return context


def _write_file(artifact: PolicyArtifact, target: Path) -> None:
    artifact.save(target)


def _read_file(artifact: PolicyArtifact, source: Path) -> Answerer:
    return numpy_answerer(NumpyPolicy.load(source))


def _write_onnx(artifact: PolicyArtifact, target: Path) -> None:
    from rlcourse.deployment.onnx_file import write_onnx

    write_onnx(artifact, target)


def _read_onnx(artifact: PolicyArtifact, source: Path) -> Answerer:
    from rlcourse.deployment.onnx_file import OnnxPolicy

    return OnnxPolicy(source)


_FORMS: dict[str, tuple[Callable[[PolicyArtifact, Path], None], Callable[[PolicyArtifact, Path], Answerer]]] = {
    "numpy": (_write_file, _read_file),
    "torch": (write_program, read_program),
    "onnx": (_write_onnx, _read_onnx),
    "torchscript": (write_torchscript, read_torchscript),
}
