"""ONNX: written by torch, checked by onnx, run by onnxruntime. The only file that imports them."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch

from rlcourse.deployment.artifact import PolicyArtifact
from rlcourse.deployment.parity import Arrays
from rlcourse.deployment.portable import example, inputs_of, outputs_of, portable
from rlcourse.errors import ArtifactError, MissingExtraError

try:
    import onnx
    import onnxruntime
    import onnxscript  # noqa: F401  # torch's exporter needs it
except ImportError as error:
    raise MissingExtraError(f"{error.name} is not installed.", mend="pip install 'rlcourse[onnx]'") from error

DESCRIPTION = "rlcourse.description"
"""Under this name the file carries the policy's description, as JSON."""
_REFUSALS: tuple[type[Exception], ...] = (
    OSError,
    KeyError,
    ValueError,
    RuntimeError,
    *(
        getattr(onnxruntime.capi.onnxruntime_pybind11_state, name)
        for name in ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoModel", "NotImplemented")
    ),
)
"""What reading a file may raise; those of onnxruntime have no common base."""


def write_onnx(artifact: PolicyArtifact, target: Path) -> None:
    """One ``.onnx`` file for any batch size, with the policy's description in it."""
    about = artifact.description
    inputs, batch = example(about), torch.export.Dim("batch", min=1)
    with _quiet():
        program = torch.onnx.export(
            portable(artifact),
            inputs,
            dynamo=True,
            verbose=False,
            input_names=list(inputs_of(about)),
            output_names=[f"next_{name}" if name in inputs_of(about) else name for name in outputs_of(about)],
            dynamic_shapes=tuple({0: batch} for _ in inputs),
        )
    assert program is not None  # it is, with dynamo
    model = program.model_proto
    onnx.helper.set_model_props(model, {DESCRIPTION: json.dumps(asdict(about))})
    onnx.checker.check_model(model, full_check=True)
    onnx.save_model(model, str(target))


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns of torchvision, which is not needed, and of what torch itself calls deprecated."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logger.setLevel(before)


class OnnxPolicy:
    """An ``.onnx`` file in onnxruntime, on one thread, asked by names."""

    def __init__(self, source: Path) -> None:
        """Raises :class:`ArtifactError` if the file is not one that :func:`write_onnx` wrote."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        try:
            self._session = onnxruntime.InferenceSession(
                source.read_bytes(), options, providers=["CPUExecutionProvider"]
            )
            self.description: Mapping[str, Any] = json.loads(
                self._session.get_modelmeta().custom_metadata_map[DESCRIPTION]
            )
        except _REFUSALS as error:
            raise ArtifactError(f"{source} is no exported policy: {error}.", mend="Export it again.") from error
        self._outputs = [output.name for output in self._session.get_outputs()]

    def __call__(self, questions: Arrays) -> Mapping[str, npt.NDArray[Any]]:
        """``observation``, ``mask`` and ``memory`` to ``action``, ``probabilities`` and the like."""
        values = self._session.run(None, questions)
        return {name.removeprefix("next_"): value for name, value in zip(self._outputs, values, strict=True)}
