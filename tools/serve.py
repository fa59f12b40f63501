"""Serve the built site on this machine alone, until Ctrl-C.

python tools/serve.py [PORT]        8000 unless said otherwise; 0 takes any free port
"""

from __future__ import annotations

import argparse
import functools
import sys
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

SITE = Path(__file__).resolve().parent.parent / "_build" / "html"


class QuietHandler(SimpleHTTPRequestHandler):
    """Files without a line of log for each."""

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: a page asks for dozens of files."""


def server(port: int, site: Path = SITE) -> ThreadingHTTPServer:
    """A server of a folder on 127.0.0.1, bound but not started. Port 0 takes a free one.

    Raises:
        OSError: the port is taken.
    """
    return ThreadingHTTPServer(("127.0.0.1", port), functools.partial(QuietHandler, directory=str(site)))


def main(argv: list[str] | None = None) -> int:
    """Serve until interrupted; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("port", type=int, nargs="?", default=8000)
    port = parser.parse_args(argv).port
    if not (SITE / "index.html").is_file():
        print("There is no built site. Build it with: make html", file=sys.stderr)
        return 1
    try:
        running = server(port)
    except OSError as error:
        print(f"Port {port}: {error.strerror}. Give another, as in: python tools/serve.py 0", file=sys.stderr)
        return 1
    with running:
        print(f"The book is at http://127.0.0.1:{running.server_address[1]}/  (Ctrl-C stops it)", flush=True)
        try:
            running.serve_forever()
        except KeyboardInterrupt:
            print(file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
