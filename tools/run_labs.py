"""Run labs side by side, each in a kernel of its own, and lay what they print where the site's engine looks for it.

The engine would run them one after the other, on one core.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import nbformat
from jupyter_cache import get_cache  # type: ignore[import-untyped]
from jupyter_cache.base import CacheBundleIn  # type: ignore[import-untyped]
from nbclient import NotebookClient
from nbclient.exceptions import CellControlSignal
from traitlets.config import Config


def without_results(labs: Sequence[Path], cache: Path) -> list[Path]:
    """The labs that are not in the cache as they are now."""
    known = get_cache(cache)
    missing = []
    for lab in labs:
        try:
            known.match_cache_notebook(nbformat.read(lab, as_version=4))
        except KeyError:
            missing.append(lab)
    return missing


def run_lab(lab: Path, cache: Path, timeout_s: int, environment: Mapping[str, str]) -> float | None:
    """Run one lab in its own folder and put it into the cache; the seconds it took, or None if it failed."""
    notebook = nbformat.read(lab, as_version=4)
    began = time.monotonic()
    # Sockets in a folder of its own. Of ports a kernel is told the numbers before it takes them: where another program is
    # quicker, it hangs for a minute and dies.
    with tempfile.TemporaryDirectory() as folder:
        sockets = {"transport": "ipc", "connection_file": f"{folder}/kernel.json"}
        client = NotebookClient(
            notebook,
            timeout=timeout_s,
            record_timing=False,
            resources={"metadata": {"path": str(lab.parent)}},
            config=Config(KernelManager=sockets),
        )
        try:
            client.execute(env=dict(environment))
        except (CellControlSignal, RuntimeError):  # a cell that failed or took too long; a kernel that died
            return None
    seconds = time.monotonic() - began
    executed = CacheBundleIn(notebook, str(lab), data={"execution_seconds": seconds})
    get_cache(cache).cache_notebook_bundle(executed, check_validity=False, overwrite=True)
    return seconds


def run_labs(labs: Sequence[Path], cache: Path, *, timeout_s: int, environment: Mapping[str, str]) -> None:
    """Run those that are not in the cache, as many at a time as there are cores.

    A lab that fails is left to the engine: it runs the lab again and shows where.
    """
    missing = without_results(labs, cache)
    if not missing:
        return
    with ProcessPoolExecutor(min(os.cpu_count() or 1, len(missing))) as pool:
        running = {pool.submit(run_lab, lab, cache, timeout_s, environment): lab for lab in missing}
        for done in as_completed(running):
            seconds = done.result()
            said = "failed" if seconds is None else f"{seconds:.0f} s"
            print(f"{running[done].name}: {said}", flush=True)
