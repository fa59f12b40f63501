"""The whole way: a real service, a real Prometheus, a real Alertmanager, a fault, and a webhook that hears of it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import torch

from rlcourse.deployment.artifact import PolicyArtifact
from rlcourse.errors import ServerError
from rlcourse.monitoring.alerting import AlertingConfig, PagerDuty, Slack, alertmanager_file
from rlcourse.monitoring.alerts import rule_groups
from rlcourse.monitoring.limits import Limits
from rlcourse.monitoring.rules import rule_file
from rlcourse.monitoring.scraping import Target, scrape
from rlcourse.monitoring.stack import ALERTMANAGER, RULES, Stack, StackConfig, free_port
from rlcourse.networks import CategoricalPolicy, LogitsNetwork
from rlcourse.randomness import Seeds
from rlcourse.release.adapters.prometheus import EvidenceConfig, PrometheusEvidence

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("one_at_a_time")]
PATIENCE_S = 60.0


def until(holds: Callable[[], Any], what: str) -> Any:
    """Wait for it; the answer."""
    began = time.monotonic()
    while time.monotonic() - began < PATIENCE_S:
        answer = holds()
        if answer:
            return answer
        time.sleep(0.02)
    raise AssertionError(f"waited in vain for {what}")


@dataclass
class Inbox:
    """Alerts that a webhook was sent, with what ``note`` said at that moment."""

    url: str = ""
    came: list[tuple[str, str, Any]] = field(default_factory=list)
    note: Callable[[], Any] = lambda: None

    def first(self, name: str, status: str = "firing") -> Any:
        return until(
            lambda: [(note,) for alert, state, note in list(self.came) if (alert, state) == (name, status)],
            f"{name} {status}; came: {self.came}",
        )[0][0]


@contextmanager
def receiving(take: Callable[[str, dict[str, Any]], None]) -> Iterator[str]:
    """A receiver of JSON on this machine; its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            take(self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(202 if "pagerduty" in self.path else 200)
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    box = Inbox()

    def take(path: str, content: dict[str, Any]) -> None:
        note = box.note()
        box.came += [(alert["labels"]["alertname"], alert["status"], note) for alert in content["alerts"]]

    with receiving(take) as address:
        box.url = f"{address}/alerts"
        yield box


@contextmanager
def command(*words: object, ready: str, **more: Any) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """``rlcourse`` in a process of its own, once it has said that it is ready; killed at the end if need be."""
    process = subprocess.Popen(
        [sys.executable, "-m", "rlcourse.recipes.command_line", *map(str, words)],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        **more,
    )
    assert process.stderr is not None
    said: list[str] = []
    reading = threading.Thread(target=lambda: said.extend(iter(process.stderr.readline, "")))  # type: ignore[union-attr]
    reading.start()
    try:
        until(lambda: any(ready in line for line in list(said)) or process.poll() is not None, f"{ready}: {said}")
        assert process.poll() is None, said
        yield process, "".join(said)
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(30)
        reading.join()
        process.stderr.close()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A policy service, and its address."""
    with Seeds(0).initialising("network"):
        policy = CategoricalPolicy(LogitsNetwork(torch.zeros(4), torch.ones(4), (16,), 3))
    PolicyArtifact.from_policy(policy, algorithm="ppo", env_id="CartPole-v1").save(tmp_path / "policy")
    words = ("serve", "http", tmp_path / "policy", "--port", 0, "--management-port", 0)
    with command(*words, ready="ready after") as (process, said):
        found = re.search(r" on http://(\S+) ", said)
        assert found is not None
        yield process, found[1]


class Load:
    """About 40 requests a second; while ``broken``, each second one has no time to be decided in."""

    def __init__(self, address: str) -> None:
        self.url = f"http://{address}/v1/policies/rl_policy/action"
        self.broken = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def ask(self, deadline_ms: float | None = None) -> dict[str, Any]:
        body = json.dumps({"observation": [0.1, 0.2, 0.3, 0.4], "deadline_ms": deadline_ms}).encode()
        request = urllib.request.Request(self.url, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=10.0) as answer:
            content: dict[str, Any] = json.loads(answer.read())
            return content

    def _run(self) -> None:
        while not self._stop.wait(0.05):
            try:
                self.ask()
                self.ask(1e-6 if self.broken else 1000.0)
            except OSError:  # the service has been killed
                return

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()


def asked(url: str, query: str) -> list[dict[str, Any]]:
    with urllib.request.urlopen(f"{url}/api/v1/query?query={quote(query)}", timeout=10.0) as answer:
        found: list[dict[str, Any]] = json.loads(answer.read())["data"]["result"]
        return found


def children(process: subprocess.Popen[str]) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def gone(pid: int) -> bool:
    """Whether a process has ended, even if nobody has asked after it yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


QUICK = (
    "--scrape-interval-s",
    1,
    "--limits.window-s",
    10,
    "--limits.hold-s",
    0,
    "--group-wait-s",
    0,
    "--group-interval-s",
    1,
)


def test_a_fault_reaches_the_webhook_within_three_evaluations(
    service: tuple[subprocess.Popen[str], str], inbox: Inbox, tmp_path: Path
) -> None:
    served, address = service
    words = ("monitor", "up", address, "--directory", tmp_path / "m", "--port", 0, "--alertmanager-port", 0)
    with (
        Load(address) as load,
        command(*words, *QUICK, "--webhook", inbox.url, ready="ready: ") as (process, said),
    ):
        assert "rules are evaluated by Prometheus" in said
        found = re.search(r"ready: (http://\S+) ", said)
        assert found is not None
        prometheus = found[1]

        def evaluations() -> int:
            (one,) = [
                sample
                for sample in scrape(Target(prometheus.removeprefix("http://")), 10.0)
                if sample.name == "prometheus_rule_group_iterations_total"
                and sample.labels["rule_group"].endswith("rlcourse-service")
            ]
            return int(one.value)

        # A first fallback, so that the series exists; then quiet for as long as the window.
        load.ask(1e-6)
        until(lambda: asked(prometheus, 'increase(rl_decisions_total{fallback="timeout"}[10s]) == 0'), "the series")
        until(lambda: asked(prometheus, "policy:rl_decisions:fallback_share == 0"), "a quiet window")
        assert not inbox.came
        inbox.note = evaluations
        with urllib.request.urlopen(f"{prometheus}/api/v1/rules", timeout=10.0) as answer:
            groups = json.loads(answer.read())["data"]["groups"]
        assert {rule["health"] for group in groups for rule in group["rules"]} == {"ok"}

        before = evaluations()
        load.broken = True
        assert inbox.first("FallbackRateHigh") - before <= 3
        load.broken = False
        inbox.first("FallbackRateHigh", "resolved")

        before = evaluations()
        served.kill()
        assert inbox.first("TargetDown") - before <= 3

        running = children(process)
        assert len(running) == 2
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert all(map(gone, running))


def test_without_prometheus_the_same_alerts_arrive(
    service: tuple[subprocess.Popen[str], str],
    inbox: Inbox,
    tmp_path: Path,
    hear_ctrl_c: Callable[[], None],
) -> None:
    served, address = service
    (version,) = {one.labels["version"] for one in scrape(Target(address), 10.0) if one.name == "rl_default_version"}
    words = ("monitor", "up", address, "--directory", tmp_path / "m", "--engine", "embedded", "--webhook", inbox.url)
    with (
        Load(address) as load,
        command(*words, *QUICK, ready="ready: ", preexec_fn=hear_ctrl_c) as (process, said),
    ):
        assert "embedded evaluator" in said
        ready = re.search(r"ready: (http://\S+) ", said)
        assert ready is not None
        release = PrometheusEvidence(EvidenceConfig(url=ready[1], safety=False), version)
        time.sleep(3.0)  # three scrapes: what was before the first of them nobody knows
        began = time.time()
        load.broken = True
        inbox.first("FallbackRateHigh")
        evidence = release.evidence(began, time.time())
        assert evidence is not None and evidence.counts["fallbacks"].bad > 0
        load.broken = False
        inbox.first("FallbackRateHigh", "resolved")
        served.kill()
        inbox.first("TargetDown")
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0


def test_slack_and_pagerduty_are_told_the_name_the_summary_and_the_runbook(tmp_path: Path) -> None:
    came: dict[str, dict[str, Any]] = {}
    with receiving(lambda path, content: came.update({path: content})) as address:
        url, key = tmp_path / "slack", tmp_path / "pagerduty"
        url.write_text(f"{address}/slack")
        key.write_text("0123456789abcdef0123456789abcdef")
        config = AlertingConfig(
            slack=Slack(api_url_file=url, channel="#plant"),
            pagerduty=PagerDuty(routing_key_file=key, url=f"{address}/pagerduty"),
            runbooks="https://handbook.example/runbooks.html",
            group_wait_s=0.0,
        )
        (tmp_path / RULES).write_text(rule_file(rule_groups(Limits(hold_s=0.0))))
        (tmp_path / ALERTMANAGER).write_text(alertmanager_file(config))
        quick = StackConfig(port=0, alertmanager_port=0, scrape_interval_s=1.0)
        with Stack(tmp_path, [Target("127.0.0.1:1", "plant")], quick):
            until(lambda: came.keys() >= {"/slack", "/pagerduty"}, f"both; came: {came}")
    summary, first = "plant at 127.0.0.1:1 does not answer.", "Ask its /healthz"
    link = "https://handbook.example/runbooks.html#no-data"
    message = came["/slack"]
    (shown,) = message["attachments"]
    assert message["channel"] == "#plant"
    assert shown["title"] == "FIRING: TargetDown"
    assert all(part in shown["text"] for part in (summary, first, link))
    event = came["/pagerduty"]
    assert (event["routing_key"], event["event_action"]) == (key.read_text(), "trigger")
    assert event["payload"]["summary"].startswith(f"TargetDown: {summary}")
    assert event["payload"]["severity"] == "critical"
    assert first in event["payload"]["custom_details"]["first_step"]
    assert link in event["payload"]["custom_details"]["runbook"]


def test_a_monitor_that_is_killed_takes_both_along(tmp_path: Path) -> None:
    words = ("monitor", "up", "127.0.0.1:1", "--directory", tmp_path, "--port", 0, "--alertmanager-port", 0)
    with command(*words, ready="ready: ") as (process, _):
        running = children(process)
        assert len(running) == 2
        process.kill()
        until(lambda: all(map(gone, running)), f"the end of {running}")


def test_a_port_that_is_taken_stops_both(tmp_path: Path) -> None:
    (tmp_path / RULES).write_text(rule_file(rule_groups()))
    (tmp_path / ALERTMANAGER).write_text(alertmanager_file(AlertingConfig()))
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    stack = Stack(
        tmp_path, [Target("127.0.0.1:1")], StackConfig(port=server.server_port, alertmanager_port=free_port())
    )
    try:
        with pytest.raises(ServerError, match="prometheus ended with status 1"):
            stack.__enter__()
    finally:
        server.server_close()
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(stack.alertmanager_url, timeout=2.0)
