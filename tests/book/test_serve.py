"""The little server: this machine only, and errors that say what to do."""

from __future__ import annotations

import sys
import threading
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import serve  # noqa: E402


def test_it_serves_a_folder_on_this_machine_alone(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("hello", encoding="utf-8")
    with serve.server(0, tmp_path) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        host, port = running.server_address[:2]
        assert host == "127.0.0.1"
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/") as answer:
            assert answer.read() == b"hello"
        running.shutdown()
        thread.join()


def test_without_a_site_it_says_how_to_build_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(serve, "SITE", tmp_path)
    assert serve.main([]) == 1
    assert "make html" in capsys.readouterr().err


def test_a_taken_port_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "index.html").touch()
    monkeypatch.setattr(serve, "SITE", tmp_path)
    with serve.server(0, tmp_path) as running:
        port = str(running.server_address[1])
        assert serve.main([port]) == 1
    assert port in capsys.readouterr().err
