from __future__ import annotations

import csv
import errno
import io
import math
import os
import re
import resource
import struct
import subprocess
import sys
import textwrap
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from rlcourse.errors import ConfigError, MissingExtraError, ServerError, StorageError
from rlcourse.training.trackers import (
    ConsoleTracker,
    CsvTracker,
    MlflowTracker,
    MultiTracker,
    PrometheusTracker,
    TensorBoardTracker,
    WandbTracker,
    make_tracker,
    wandb_files,
)
from rlcourse.vocabulary import ListTracker, NullTracker, Tracker

# MLflow asks SQLAlchemy for a loading strategy that SQLAlchemy is about to drop.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning")

PACKAGE = Path(__file__).resolve().parents[2] / "rlcourse"
ROWS: list[tuple[int, dict[str, float]]] = [
    (100, {"eval/greedy_return": 9.25}),
    (300, {"eval/greedy_return": 1 / 3, "loss/td_loss": 1e-9}),
    (200, {"loss/td_loss": float("nan"), "eval/greedy_return": -2.0}),
]
"""A name that appears later, steps out of order, and a NaN."""


@dataclass(frozen=True)
class Inner:
    gamma: float = 0.99
    hidden: tuple[int, ...] = (64, 64)


@dataclass(frozen=True)
class Settings:
    seed: int = 3
    learner: Inner = field(default_factory=Inner)


FLAT = {"seed": 3, "learner.gamma": 0.99, "learner.hidden": "(64, 64)"}


def csv_rows(path: Path) -> list[tuple[int, dict[str, float]]]:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [(int(row.pop("step")), {name: float(text) for name, text in row.items() if text}) for row in rows]


def tensorboard_rows(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

    events = EventAccumulator(str(folder)).Reload()
    return {name: [(event.step, event.value) for event in events.Scalars(name)] for name in events.Tags()["scalars"]}


def wandb_records(folder: Path) -> list[object]:
    """The records in a run's file: LevelDB's log format (blocks of 32 KiB, seven bytes before each piece)."""
    from wandb.proto import wandb_internal_pb2

    (file,) = folder.glob("run-*.wandb")
    content, position, piece, records = file.read_bytes(), 7, b"", []
    assert content[:4] == b":W&B"
    while position + 7 <= len(content):
        left = 32_768 - position % 32_768
        if left < 7:
            position += left
            continue
        _, length, kind = struct.unpack("<IHB", content[position : position + 7])
        piece += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a whole record, or its last piece
            records.append(wandb_internal_pb2.Record.FromString(piece))  # type: ignore[attr-defined]
            piece = b""
    return records


def wandb_rows(folder: Path) -> list[tuple[int, dict[str, float]]]:
    rows = []
    for record in wandb_records(folder):
        items = record.history.item  # type: ignore[attr-defined]
        row = {"/".join(item.nested_key) or item.key: float(item.value_json.strip('"')) for item in items}
        if row:
            rows.append((int(row["step"]), {name: value for name, value in row.items() if name in ROWS[1][1]}))
    return rows


@pytest.fixture
def wandb_quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """W&B's logs go to the test's folder, and its process ends with the test."""
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    yield
    import wandb

    wandb.teardown()
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    names = [Path(f"/proc/{child}/comm").read_text() for child in children.read_text().split()]
    assert not [name for name in names if "wandb" in name]


def log_all(tracker: Tracker) -> None:
    for step, metrics in ROWS:
        tracker.log(metrics, step=step)


def makers(folder: Path) -> dict[str, Callable[[], Tracker]]:
    return {
        "csv": lambda: CsvTracker(folder / "a" / "x.csv"),
        "tensorboard": lambda: TensorBoardTracker(folder / "a" / "tb"),
        "mlflow": lambda: MlflowTracker(folder / "a" / "x.db"),
        "wandb": lambda: WandbTracker(folder / "a"),
        "prometheus": lambda: PrometheusTracker(folder / "a" / "x.prom"),
    }


def same(found: object, expected: object) -> bool:
    """Equal, with NaN equal to NaN; ``repr`` of a float is exact."""
    return repr(found) == repr(expected)


# CSV


def test_csv_reads_back_exactly(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "x.csv"
    with closing(CsvTracker(path)) as tracker:
        assert path.read_text() == "step\n", "a place to write is found before the work, not after it"
        for count, (step, metrics) in enumerate(ROWS, start=1):
            tracker.log(metrics, step=step)
            assert [step for step, _ in csv_rows(path)] == [step for step, _ in ROWS[:count]], "readable at any moment"
    expected = [(step, {name: row[name] for name in sorted(row)}) for step, row in ROWS]
    assert same(csv_rows(path), expected)
    assert path.read_text().splitlines()[:2] == ["step,eval/greedy_return,loss/td_loss", "100,9.25,"]
    assert [file.name for file in path.parent.iterdir()] == ["x.csv"]


def test_csv_goes_on_where_it_stopped(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    for step, metrics in ROWS:
        with closing(CsvTracker(path)) as tracker:
            tracker.log(metrics, step=step)
    assert [step for step, _ in csv_rows(path)] == [100, 300, 200]
    path.write_text(path.read_text() + "400,1.")  # power failed here
    with closing(CsvTracker(path)) as tracker:
        tracker.log({'a "name", quoted': 5.0}, step=500)
    assert [step for step, _ in csv_rows(path)] == [100, 300, 200, 500]
    assert csv_rows(path)[-1][1] == {'a "name", quoted': 5.0}


@pytest.mark.parametrize("content", [b"time,loss\n1,2\n", b"step", b"\x93NUMPY\n", b"{}\n"])
def test_csv_leaves_a_strangers_file_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="not a table of metrics"):
        CsvTracker(path)
    assert path.read_bytes() == content


def test_csv_on_a_disk_that_fills_up_keeps_whole_rows(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    tracker = CsvTracker(path)
    tracker.log({"a": 1.0}, step=1)
    before = path.read_bytes()
    with limited_files(len(before) + 3), pytest.raises(StorageError, match="untouched"):
        tracker.log({"a": 2.0}, step=22_222)
    assert path.read_bytes() == before
    tracker.log({"a": 3.0}, step=3)
    assert csv_rows(path) == [(1, {"a": 1.0}), (3, {"a": 3.0})]
    path.unlink()
    with pytest.raises(StorageError):
        tracker.log({"a": 4.0}, step=4)
    assert not path.exists(), "rows without a header are not begun"


@contextmanager
def limited_files(size: int) -> Iterator[None]:
    """No file of this process may grow beyond ``size`` bytes: a full disk, without a disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# Console


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_console_prints_one_line_a_call() -> None:
    stream = Terminal()
    with closing(ConsoleTracker(stream=stream)) as tracker:
        tracker.log({"eval/greedy_return": 199.98, "loss/td_loss": float("nan")}, step=12_000)
    assert stream.getvalue() == "step    12,000  eval/greedy_return 200  loss/td_loss nan\n"


def test_the_console_is_silent_where_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    log_all(ConsoleTracker())
    assert capsys.readouterr() == ("", "")
    log_all(ConsoleTracker(always=True))
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == len(ROWS)


# TensorBoard


def test_tensorboard_reads_back(tmp_path: Path) -> None:
    with closing(TensorBoardTracker(tmp_path / "tb", config=Settings())) as tracker:
        log_all(tracker)
        while_open = tensorboard_rows(tmp_path / "tb")
    found = tensorboard_rows(tmp_path / "tb")
    assert same(found, while_open)
    assert found["eval/greedy_return"] == [(100, 9.25), (300, pytest.approx(1 / 3)), (200, -2.0)]
    steps, losses = zip(*found["loss/td_loss"], strict=True)
    assert steps == (300, 200) and losses == pytest.approx((1e-9, math.nan), nan_ok=True, abs=1e-12)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # tensorboard's thread meets it too
def test_tensorboard_on_a_disk_that_fills_up(tmp_path: Path) -> None:
    tracker = TensorBoardTracker(tmp_path / "tb")
    with limited_files(200), pytest.raises(StorageError, match=os.strerror(errno.EFBIG)):
        for step in range(100):
            tracker.log({"a": 1.0}, step=step)
    with pytest.raises(StorageError):
        tracker.log({"a": 1.0}, step=1)
    for thread in threading.enumerate():
        if "_AsyncWriterThread" in type(thread).__name__:
            thread.join(timeout=5)  # so that what it has to say belongs to this test


def test_tensorboard_is_reached_through_one_file() -> None:
    # The import contracts see only the first name of a package from outside, and here that is torch.
    found = [path.name for path in PACKAGE.rglob("*.py") if "torch.utils.tensorboard" in path.read_text()]
    assert found == ["tensorboard_files.py"]


# MLflow


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """An MLflow file without runs of a test; making its tables takes seconds, so they are made once."""
    path = tmp_path_factory.mktemp("mlflow") / "x.db"
    MlflowTracker(path, experiment="other").close()
    return path.read_bytes()


def test_mlflow_reads_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database: bytes) -> None:
    import mlflow
    from mlflow import MlflowClient

    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "x.db").write_bytes(database)
    before = mlflow.get_tracking_uri()
    with closing(MlflowTracker(Path("runs/x.db"), experiment="chapter", run="seed 3", config=Settings())) as tracker:
        log_all(tracker)
    assert mlflow.get_tracking_uri() == before and mlflow.active_run() is None, "global state is not touched"
    client = MlflowClient(f"sqlite:///{tmp_path}/runs/x.db")
    experiment = client.get_experiment_by_name("chapter")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_id, run.info.run_name, run.info.status) == (tracker.run_id, "seed 3", "FINISHED")
    assert run.data.params == {name: str(value) for name, value in FLAT.items()}
    found = {name: [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, name)] for name in ROWS[1][1]}
    assert sorted(found["eval/greedy_return"]) == [(100, 9.25), (200, -2.0), (300, 1 / 3)]
    assert same(sorted(found["loss/td_loss"]), [(200, math.nan), (300, 1e-9)])
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["runs", "x.db"], "nothing beside the file"


def test_mlflow_keeps_many_runs_and_says_which_failed(tmp_path: Path, database: bytes) -> None:
    from mlflow import MlflowClient

    (tmp_path / "x.db").write_bytes(database)
    names = {f"setting{n}": n for n in range(230)}
    first = MlflowTracker(tmp_path / "x.db", config=names)
    with pytest.raises(ZeroDivisionError), closing(MlflowTracker(tmp_path / "x.db")) as second:
        raise ZeroDivisionError
    first.close()
    client = MlflowClient(f"sqlite:///{tmp_path / 'x.db'}")
    assert len(client.get_run(first.run_id).data.params) == 230, "MLflow takes a hundred at once"
    assert client.get_run(first.run_id).info.status == "FINISHED"
    assert client.get_run(second.run_id).info.status == "FAILED"


def test_mlflow_refuses_what_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_text("a letter, not a database\n" * 100)
    with pytest.raises(StorageError, match="not a database"):
        MlflowTracker(tmp_path / "x.db")
    assert (tmp_path / "x.db").read_text().startswith("a letter")


def test_mlflow_on_a_disk_that_fills_up(tmp_path: Path, database: bytes) -> None:
    (tmp_path / "x.db").write_bytes(database)
    tracker = MlflowTracker(tmp_path / "x.db")
    with limited_files(100), pytest.raises(StorageError):
        tracker.log({"a": 1.0}, step=1)
    tracker.log({"a": 2.0}, step=2)
    tracker.close()


# Weights & Biases


@pytest.mark.usefixtures("wandb_quiet")
def test_wandb_writes_offline_and_nothing_is_dropped(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with closing(WandbTracker(tmp_path, project="chapter", run="seed 3", config=Settings())) as tracker:
        log_all(tracker)
    assert tracker.folder.parent == tmp_path / "wandb" and tracker.folder.name.startswith("offline-run-")
    expected = [(step, {name: row[name] for name in sorted(row)}) for step, row in ROWS]
    found = [(step, {name: row[name] for name in sorted(row)}) for step, row in wandb_rows(tracker.folder)]
    assert same(found, expected)
    (run,) = [r.run for r in wandb_records(tracker.folder) if r.HasField("run")]  # type: ignore[attr-defined]
    assert (run.project, run.display_name) == ("chapter", "seed 3")
    assert {item.key: item.value_json for item in run.config.update}.items() >= {"seed": "3"}.items()
    assert capfd.readouterr() == ("", ""), "silent"


@pytest.mark.usefixtures("wandb_quiet")
def test_closing_wandb_waits_for_its_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """W&B's own finish only asks for the rest to be written; here it asks when the tracker has already begun to wait."""
    tracker = WandbTracker(tmp_path)
    log_all(tracker)
    run = tracker._run
    assert run is not None
    finish, late = run.finish, threading.Event()

    def finish_later() -> None:
        late.wait()
        finish(exit_code=0)

    def asked(**_: object) -> None:
        thread.start()

    def looked(path: Path) -> bool:
        found = real(path)
        late.set()
        return found

    thread, real = threading.Thread(target=finish_later), wandb_files._ended
    monkeypatch.setattr(run, "finish", asked)
    monkeypatch.setattr(wandb_files, "_ended", looked)
    try:
        tracker.close()
        assert len(wandb_rows(tracker.folder)) == len(ROWS)
    finally:
        late.set()
        thread.join()


@pytest.mark.usefixtures("wandb_quiet")
def test_wandb_that_never_writes_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = WandbTracker(tmp_path)
    log_all(tracker)
    run = tracker._run
    assert run is not None
    finish = run.finish
    monkeypatch.setattr(run, "finish", lambda **_: None)
    monkeypatch.setattr(wandb_files, "WRITTEN_WITHIN_S", 0.05)
    with pytest.raises(StorageError, match="end of the run is not in"):
        tracker.close()
    finish(exit_code=0)


@pytest.mark.usefixtures("wandb_quiet")
def test_the_end_of_a_long_wandb_run_is_found_in_its_last_blocks(tmp_path: Path) -> None:
    tracker = WandbTracker(tmp_path)
    names = {f"loss/number_{n}": float(n) for n in range(200)}
    for step in range(40):
        tracker.log(names, step=step)
    tracker.close()
    (file,) = tracker.folder.glob("run-*.wandb")
    content = file.read_bytes()
    assert len(content) > 4 * wandb_files.BLOCK
    assert wandb_files._ended(file)
    for length in range(0, len(content) - 2 * wandb_files.BLOCK, wandb_files.BLOCK // 3):
        file.write_bytes(content[:length])
        assert not wandb_files._ended(file), length
    file.unlink()
    assert not wandb_files._ended(file)


# All of them


@pytest.mark.usefixtures("wandb_quiet")
def test_closing_twice_is_fine_and_logging_afterwards_is_not(tmp_path: Path, database: bytes) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.db").write_bytes(database)
    for make in makers(tmp_path).values():
        tracker = make()
        tracker.log({"a": 1.0}, step=1)
        tracker.close()
        tracker.close()
        with pytest.raises(StorageError, match="is closed"):
            tracker.log({"a": 2.0}, step=2)
    for harmless in (NullTracker(), ListTracker(), ConsoleTracker(), MultiTracker([])):
        harmless.close()
        harmless.close()


@pytest.mark.parametrize("kind", ["csv", "tensorboard", "mlflow", "wandb", "prometheus"])
def test_a_place_that_cannot_be_written_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    (tmp_path / "a").write_text("a file where a folder should be")
    with pytest.raises(StorageError):
        makers(tmp_path)[kind]()


@pytest.mark.parametrize("kind", ["csv", "tensorboard", "mlflow", "wandb", "prometheus"])
def test_a_disk_that_is_full_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    with limited_files(0), pytest.raises(StorageError):
        makers(tmp_path)[kind]()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("kind", "module"),
    [
        ("tensorboard", "torch.utils.tensorboard"),
        ("mlflow", "mlflow"),
        ("mlflow", "sqlalchemy"),
        ("mlflow", "alembic"),
        ("wandb", "wandb"),
    ],
)
def test_a_missing_package_is_named_with_the_command_that_brings_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=module) as caught:
        makers(tmp_path)[kind]()
    assert caught.value.mend == "pip install 'rlcourse[trackers]'"


@pytest.mark.slow
def test_importing_loads_no_library_and_nothing_uses_the_network(tmp_path: Path) -> None:
    program = """
        import socket, sys, threading, warnings
        from rlcourse.training.trackers import make_tracker
        assert not {"mlflow", "wandb", "tensorboard", "sqlalchemy", "prometheus_client"} & set(sys.modules)

        def refuse(*_):
            raise SystemExit("the network was asked for")

        socket.getaddrinfo = socket.create_connection = refuse
        warnings.simplefilter("ignore")
        tracker = make_tracker("mlflow:x.db,tensorboard:tb,wandb,csv:x.csv")
        tracker.log({"a": 1.0}, step=1)
        tracker.close()
        from mlflow.telemetry import get_telemetry_client
        assert get_telemetry_client() is None
        assert not [thread for thread in threading.enumerate() if "Telemetry" in thread.name]
    """
    # Variables by which MLflow knows a test would switch its reports off for the wrong reason.
    known = re.compile("PYTEST_CURRENT_TEST|CI|GITHUB_ACTIONS|.*TELEMETRY.*|DO_NOT_TRACK")
    environment = {name: value for name, value in os.environ.items() if not known.fullmatch(name)}
    environment["WANDB_CACHE_DIR"] = str(tmp_path / "cache")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert {path.name for path in tmp_path.iterdir()} - {"cache"} == {"x.db", "tb", "wandb", "x.csv"}


# Prometheus


def prometheus_samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Through Prometheus' own parser."""
    from prometheus_client.parser import text_string_to_metric_families

    families = text_string_to_metric_families(text)
    return {(one.name, tuple(sorted(one.labels.items()))): one.value for family in families for one in family.samples}


def test_prometheus_names_what_training_logs(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "x.prom"
    who = (("policy", "seed 3"),)
    with closing(PrometheusTracker(path, run="seed 3", threshold=10.0)) as tracker:
        log_all(tracker)
        found = prometheus_samples(path.read_text())
        assert found["rl_training_steps_total", who] == 300.0, "the farthest step, in whatever order they come"
        assert found["rl_training_return", who] == -2.0
        assert found["rl_steps_to_threshold", who] == math.inf
        td_loss = (("loss", "td_loss"), *who)
        assert found["rl_loss_count", td_loss] == 1.0, "NaN is no observation"
        assert found["rl_loss_bucket", (("le", "0.01"), *td_loss)] == 1.0
        assert found["rl_loss_bucket", (("le", "0.0"), *td_loss)] == 0.0
        assert not {"rl_q_value_count", "rl_training_exploration_ratio"} & {name for name, _ in found}, "never logged"
        more = {"loss/gradient_norm": 0.5, "explore/epsilon": 0.1, "loss/kl": 1.0}
        more |= {"loss/q_mean": 500.0, "loss/q_p10": -3.0, "loss/q_p50": -2.0, "loss/q_p90": 7.0}
        tracker.log({"eval/greedy_return": 12.0, **more}, step=500)
        tracker.log({"eval/greedy_return": 11.0}, step=400)
        tracker.log({"eval/greedy_return": 9.0}, step=600)
    found = prometheus_samples(path.read_text())
    assert found["rl_steps_to_threshold", who] == 400.0, "the first of them, not the last to be told"
    assert found["rl_gradient_norm_sum", who] == 0.5
    assert [found["rl_q_value_bucket", (("le", bound), *who)] for bound in ("-10.0", "-3.0", "0.0", "+Inf")] == [
        0,
        1,
        2,
        3,
    ]
    assert found["rl_training_exploration_ratio", who] == 0.1
    assert {dict(labels)["loss"] for name, labels in found if name == "rl_loss_count"} == {"td_loss"}, "kl is no loss"
    assert [file.name for file in path.parent.iterdir()] == ["x.prom"]


def test_prometheus_without_its_library_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(MissingExtraError, match="prometheus_client") as caught:
        PrometheusTracker(tmp_path / "x.prom")
    assert caught.value.mend == "pip install 'rlcourse[monitor]'"


def test_prometheus_bounds_its_series(tmp_path: Path) -> None:
    path = tmp_path / "x.prom"
    with closing(PrometheusTracker(path)) as tracker:
        for number in range(70):
            tracker.log({f"loss/n{number}_loss": 1.0}, step=number)
    counts = {
        dict(labels)["loss"]: n
        for (name, labels), n in prometheus_samples(path.read_text()).items()
        if name == "rl_loss_count"
    }
    assert len(counts) == 65
    assert counts["other"] == 6.0


def test_prometheus_is_asked_at_a_port_while_the_run_lasts() -> None:
    with closing(PrometheusTracker(0, run="one")) as tracker:
        assert tracker.address is not None and tracker.address.startswith("127.0.0.1:")
        tracker.log({"loss/td_loss": 1.0}, step=7)
        with urllib.request.urlopen(f"http://{tracker.address}/metrics", timeout=5.0) as answer:
            found = prometheus_samples(answer.read().decode())
        assert found["rl_training_steps_total", (("policy", "one"),)] == 7.0
        with pytest.raises(ServerError, match="taken"):
            PrometheusTracker(int(tracker.address.rpartition(":")[2]))
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"http://{tracker.address}/metrics", timeout=5.0)
    with pytest.raises(ConfigError, match="threshold"):
        PrometheusTracker(0, threshold=math.nan)


# Choosing


def test_words_become_trackers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database: bytes) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mlflow.db").write_bytes(database)
    assert isinstance(make_tracker("null"), NullTracker)
    assert isinstance(make_tracker("console"), ConsoleTracker)
    assert isinstance(make_tracker("tensorboard:runs/tb"), TensorBoardTracker)
    both = make_tracker("console:always, csv:runs/x.csv")
    assert isinstance(both, MultiTracker)
    assert [type(tracker) for tracker in both.trackers] == [ConsoleTracker, CsvTracker]
    odd = make_tracker(("null", "csv:a,b:c.csv"))
    assert isinstance(odd, MultiTracker) and (tmp_path / "a,b:c.csv").exists()
    with closing(make_tracker("mlflow", run="one", config=Settings())) as tracker:
        assert isinstance(tracker, MlflowTracker) and tracker.path == tmp_path / "mlflow.db"
    with closing(make_tracker("prometheus:runs/x.prom", run="one", threshold=475.0)) as tracker:
        assert isinstance(tracker, PrometheusTracker) and (tracker.run, tracker.threshold) == ("one", 475.0)


@pytest.mark.parametrize(
    ("words", "mend"),
    [
        ("tensorbord:x", "Did you mean tensorboard?"),
        ("", "Use one of null, console, csv, tensorboard, mlflow, wandb, prometheus."),
        ("null,", "Use one of"),
        ("csv", "csv:PATH"),
        ("tensorboard:", "tensorboard:PATH"),
        ("prometheus", "prometheus:PATH or prometheus:PORT"),
        ("prometheus:runs/x.txt", "Name it x.prom."),
        ("prometheus:99999", "Use 1 to 65535."),
        ("null:x", "Write null alone"),
        ("console:x", "Write console alone"),
        ("mlflow:http://tracking.example", "mlflow:PATH"),
    ],
)
def test_words_that_mean_nothing_say_what_was_meant(words: str, mend: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_tracker(words)
    assert mend in caught.value.mend


class Failing(ListTracker):
    def __init__(self) -> None:
        super().__init__()
        self.closed = 0

    def close(self) -> None:
        self.closed += 1
        raise StorageError("No.", mend="Try again.")


def test_several_trackers_get_everything_and_are_all_closed() -> None:
    one, two, three = Failing(), ListTracker(), Failing()
    tracker = MultiTracker([one, two, three])
    log_all(tracker)
    assert one.rows == two.rows == three.rows == ROWS
    with pytest.raises(StorageError):
        tracker.close()
    assert one.closed == three.closed == 1


def test_a_tracker_that_cannot_be_made_closes_those_before_it(tmp_path: Path, database: bytes) -> None:
    from mlflow import MlflowClient

    (tmp_path / "x.db").write_bytes(database)
    with pytest.raises(ConfigError):
        make_tracker(f"mlflow:{tmp_path / 'x.db'},nothing")
    client = MlflowClient(f"sqlite:///{tmp_path / 'x.db'}")
    (experiment,) = [e for e in client.search_experiments() if e.name == "rlcourse"]
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FAILED"
