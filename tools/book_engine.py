"""``jupyter-book``, with Sphinx on as many processes as there are cores; its own command line has no word for that."""

from __future__ import annotations

import functools
import os
import sys

from jupyter_book import sphinx  # type: ignore[import-untyped]
from jupyter_book.cli.main import main  # type: ignore[import-untyped]

# Sphinx forks its workers, and only Linux takes that well once a process has loaded torch.
JOBS = os.cpu_count() or 1 if sys.platform == "linux" else 1

if __name__ == "__main__":
    sphinx.build_sphinx = functools.partial(sphinx.build_sphinx, jobs=JOBS)
    main(prog_name="jupyter-book")
