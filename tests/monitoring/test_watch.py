"""The embedded stack: scraping, changes told once, webhooks that come and go, and what the real stack is told."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlcourse.errors import ConfigError, ServerError
from rlcourse.monitoring import promtool
from rlcourse.monitoring.alert_cases import BASELINES
from rlcourse.monitoring.alerting import AlertingConfig, alertmanager_file
from rlcourse.monitoring.alerts import rule_groups
from rlcourse.monitoring.embedded import ActiveAlert, State
from rlcourse.monitoring.limits import Limits
from rlcourse.monitoring.rules import rule_file
from rlcourse.monitoring.scraping import Scraped, Target, get, scrape, target
from rlcourse.monitoring.stack import ALERTMANAGER, PROMETHEUS, RULES, Stack, StackConfig, free_port, prometheus_file
from rlcourse.monitoring.watch import UNSENT, Watch, WebhookSender, message
from rlcourse.recipes.command_line import main

GROUPS = rule_groups(Limits(hold_s=0.0), BASELINES)
SERVICE = Target("127.0.0.1:8080")
BREAKER = {"policy": "rl_policy", "version": "a1"}


@dataclass
class Web:
    """A server on loopback that answers every GET with a text, and keeps what is posted."""

    text: bytes = b""
    posted: list[dict[str, Any]] = field(default_factory=list)
    address: str = ""


@pytest.fixture
def web() -> Iterator[Web]:
    state = Web()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(state.text)

        def do_POST(self) -> None:
            state.posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.address = f"127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield state
    server.shutdown()
    thread.join()
    server.server_close()


def watch(*rounds: Sequence[Scraped] | ServerError) -> list[tuple[int, str, str]]:
    """What is told in each round, when a scrape brings that."""
    told: list[tuple[int, str, str]] = []
    coming = iter(rounds)

    def fetch(target: Target) -> Sequence[Scraped]:
        brought = next(coming)
        if isinstance(brought, ServerError):
            raise brought
        return brought

    step = 0

    def tell(alert: ActiveAlert) -> None:
        told.append((step, alert.name, alert.state.value))

    watching = Watch([SERVICE], GROUPS, tell=tell, fetch=fetch)
    for step in range(len(rounds)):
        watching.tick(step * 5.0)
    return told


def exposed(breaker: float) -> list[Scraped]:
    return [Scraped("rl_default_version", BREAKER, 1.0), Scraped("rl_breaker_state", BREAKER, breaker)]


def test_an_alert_is_told_once_when_it_fires_and_once_when_it_is_over() -> None:
    told = watch(exposed(0), exposed(2), exposed(1), exposed(0), exposed(0))
    assert told == [(1, "BreakerOpen", "firing"), (3, "BreakerOpen", "resolved")]


def test_a_target_that_is_down_takes_its_series_along() -> None:
    down = ServerError("It is down.", mend="Start it.")
    told = watch(exposed(2), down, exposed(0))
    assert (0, "BreakerOpen", "firing") in told
    assert {(1, "TargetDown", "firing"), (1, "MetricsAbsent", "firing"), (1, "BreakerOpen", "resolved")} <= set(told)
    assert {(2, "TargetDown", "resolved"), (2, "MetricsAbsent", "resolved")} <= set(told)


def test_a_series_that_is_no_longer_exposed_ends() -> None:
    told = watch(exposed(2), exposed(2)[:1])
    assert told == [(0, "BreakerOpen", "firing"), (1, "BreakerOpen", "resolved")]


def test_too_many_series_end_the_watch() -> None:
    told: list[ActiveAlert] = []
    many = [Scraped("rl_breaker_state", {"policy": str(number)}, 0.0) for number in range(500)]
    watching = Watch([SERVICE], GROUPS, tell=told.append, fetch=lambda target: many, max_series=200)
    with pytest.raises(ServerError, match="more than 200 series"):
        watching.tick(0.0)


def test_scraping_reads_the_text_format(web: Web) -> None:
    web.text = (
        b'# TYPE rl_refused counter\nrl_refused_total{status="429"} 3.0\nrl_request_seconds_bucket{le="+Inf"} 5\n'
    )
    assert scrape(Target(web.address), 5.0) == [
        Scraped("rl_refused_total", {"status": "429"}, 3.0),
        Scraped("rl_request_seconds_bucket", {"le": "+Inf"}, 5.0),
    ]
    web.text = b"<html>hello</html>"
    with pytest.raises(ServerError, match="exposes no metrics"):
        scrape(Target(web.address), 5.0)
    with pytest.raises(ServerError, match="more than 3 bytes"):
        get(f"http://{web.address}/", 5.0, max_bytes=3)
    with pytest.raises(ServerError, match="does not answer"):
        scrape(Target(f"127.0.0.1:{free_port()}"), 5.0)


FIRES = ActiveAlert("BreakerOpen", {**BREAKER, "severity": "page"}, {"summary": "s"}, 2.0, 60.0, State.FIRING)


def test_a_webhook_is_sent_what_alertmanager_would_send(web: Web) -> None:
    WebhookSender([f"http://{web.address}/"]).send(FIRES, 90.0)
    (came,) = web.posted
    assert came == message(FIRES, 90.0)
    assert came["version"] == "4" and came["status"] == "firing"
    (alert,) = came["alerts"]
    assert alert["labels"] == {"alertname": "BreakerOpen", **BREAKER, "severity": "page"}
    assert (alert["startsAt"], alert["endsAt"]) == ("1970-01-01T00:01:00Z", "0001-01-01T00:00:00Z")


def test_a_webhook_that_is_away_gets_its_alerts_later_and_in_order(web: Web) -> None:
    said: list[str] = []
    sender = WebhookSender([f"http://127.0.0.1:{free_port()}/"], say=said.append)
    for number in range(3):
        sender.send(FIRES, 90.0 + number)
    assert len(said) == 1 and "they wait" in said[0]
    waiting = sender._unsent.pop(sender.urls[0])
    assert waiting.maxlen == UNSENT
    sender._unsent[f"http://{web.address}/"] = waiting
    sender.flush()
    assert web.posted == [message(FIRES, 90.0 + number) for number in range(3)]


@pytest.mark.parametrize(
    ("words", "address", "job"),
    [
        ("127.0.0.1:8080", "127.0.0.1:8080", "rlcourse"),
        ("http://127.0.0.1:8080/metrics", "127.0.0.1:8080", "rlcourse"),
        ("monitor=localhost:9000", "localhost:9000", "monitor"),
    ],
)
def test_targets(words: str, address: str, job: str) -> None:
    assert target(words) == Target(address, job)
    assert target(words).labels == {"job": job, "instance": address}


def test_promtool_takes_the_configuration(tmp_path: Path) -> None:
    config = StackConfig(port=9390, alertmanager_port=9393, scrape_interval_s=0.5)
    text = prometheus_file(config, [SERVICE, Target("127.0.0.1:9000", "monitor"), Target("127.0.0.1:8082")])
    (tmp_path / PROMETHEUS).write_text(text)
    (tmp_path / RULES).write_text(rule_file(GROUPS))
    promtool.check_prometheus(tmp_path / PROMETHEUS)
    content = yaml.safe_load(text)
    assert [(job["job_name"], job["static_configs"][0]["targets"]) for job in content["scrape_configs"]] == [
        ("rlcourse", ["127.0.0.1:8080", "127.0.0.1:8082"]),
        ("monitor", ["127.0.0.1:9000"]),
    ]
    assert content["global"]["evaluation_interval"] == "500ms"
    assert all(job["sample_limit"] and job["body_size_limit"] for job in content["scrape_configs"])


def test_a_rule_file_that_prometheus_would_not_take_starts_nothing(tmp_path: Path) -> None:
    (tmp_path / RULES).write_text("groups: [{name: a, rules: [{record: x, expr: 'sum('}]}]")
    (tmp_path / ALERTMANAGER).write_text(alertmanager_file(AlertingConfig()))
    stack = Stack(tmp_path, [SERVICE], StackConfig(port=0, alertmanager_port=0))
    with pytest.raises(ConfigError, match="promtool check config refuses"):
        stack.__enter__()
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Target("8080"),
        lambda: Target("127.0.0.1:0"),
        lambda: target("https://a/b:1"),
        lambda: StackConfig(port=70000),
        lambda: StackConfig(port=9090, alertmanager_port=9090),
        lambda: StackConfig(scrape_interval_s=200.0),
        lambda: StackConfig(retention_days=0),
        lambda: Stack(Path("x"), []),
    ],
)
def test_what_cannot_run_is_refused(wrong: Callable[[], object]) -> None:
    with pytest.raises(ConfigError):
        wrong()


def test_render_writes_every_file_and_has_it_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    secret = tmp_path / "slack"
    secret.write_text("https://hooks.example/T000/secret")
    words = [
        "--directory",
        str(tmp_path / "out"),
        "--slack-url-file",
        str(secret),
        "--limits.hold-s",
        "60",
        "--json",
        "-",
    ]
    assert main(["monitor", "render", *words]) == 0
    out, err = capsys.readouterr()
    rows = {row["file"]: row["checked_by"] for row in json.loads(out)["results"]}
    assert rows == {
        "rules.yml": "promtool",
        "prometheus.yml": None,
        "alertmanager.yml": "amtool",
        "slo.md": None,
        "runbooks.md": None,
        "signals.md": None,
        "dashboard.json": None,
    }
    assert {file.name for file in (tmp_path / "out").iterdir()} == set(rows)
    assert not any("T000" in file.read_text() for file in (tmp_path / "out").iterdir())
    assert "checked: rules.yml by promtool, alertmanager.yml by amtool" in err


def test_render_says_how_many_episodes_a_verdict_needs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["monitor", "render", "--directory", str(tmp_path), "--limits.hold-s", "60"]
    assert main([*words, "--baseline", "rl_policy=-50", "--limits.episodes-window-s", "7200"]) == 0
    assert "once 20 of its episodes have ended within 2h, which is 10 an hour" in capsys.readouterr().err
    assert main(words) == 0
    assert "episodes" not in capsys.readouterr().err, "without a baseline nothing is judged"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--baseline", "rl_policy"], "no baseline"),
        (["--baseline", "rl_policy=nan"], "no baseline"),
        (["--limits.latency-s", "0.07"], "histogram"),
        (["nowhere"], "no address"),
        (["--webhook", "ftp://x"], "webhook"),
        (["--port", "70000"], "port"),
    ],
)
def test_wrong_words(words: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["monitor", "render", "--directory", str(tmp_path / "out"), *words]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_without_the_programs_render_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["monitor", "render", "--directory", str(tmp_path / "out")]) == 0
    err = capsys.readouterr().err
    assert "rules.yml. promtool is not installed" in err and "apt-get install" in err
    assert "checked: test-rules-1m.yml by embedded evaluator" in err


def test_prometheus_is_not_replaced_silently(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    words = ["--directory", str(tmp_path / "out"), "--engine", "prometheus"]
    assert main(["monitor", "up", *words]) == 1
    assert "prometheus is not installed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [(["--slack-url-file", "nowhere"], "nowhere is no file"), (["--webhook-token-file", "{file}"], "without a token")],
)
def test_secrets_that_nobody_could_use(
    words: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "token").write_text("t")
    words = [word.format(file=tmp_path / "token") for word in words]
    assert main(["monitor", "up", "--directory", str(tmp_path / "out"), "--engine", "embedded", *words]) == 2
    assert says in capsys.readouterr().err


def test_watching_goes_on_until_it_is_stopped() -> None:
    stop = threading.Event()
    rounds: list[int] = []

    def after() -> None:
        rounds.append(len(rounds))
        if len(rounds) == 3:
            stop.set()

    Watch([SERVICE], GROUPS, tell=lambda alert: None, fetch=lambda target: []).run(1e-3, stop, after)
    assert rounds == [0, 1, 2]
