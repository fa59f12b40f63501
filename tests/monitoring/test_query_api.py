"""The embedded evaluator's answers to a release: worked ones, refusals, and the same evidence as from Prometheus."""

from __future__ import annotations

import json
import math
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from rlcourse.errors import ConfigError
from rlcourse.monitoring.alert_cases import BASELINES
from rlcourse.monitoring.alerting import AlertingConfig, alertmanager_file
from rlcourse.monitoring.alerts import rule_groups
from rlcourse.monitoring.exposing import Exposed, Page, Pages
from rlcourse.monitoring.limits import Limits
from rlcourse.monitoring.promql import Selector
from rlcourse.monitoring.query_api import QueryApi
from rlcourse.monitoring.rules import rule_file
from rlcourse.monitoring.samples import MAX_SAMPLES, labels_of
from rlcourse.monitoring.scraping import Scraped, Target
from rlcourse.monitoring.stack import ALERTMANAGER, RULES, Stack, StackConfig
from rlcourse.monitoring.watch import Watch
from rlcourse.release.adapters.prometheus import POINTS, SERIES, EvidenceConfig, PrometheusEvidence, growth
from rlcourse.release.gates import Demand, GateConfig, decide
from rlcourse.release.matching import Variation

GROUPS = rule_groups(Limits(hold_s=0.0), BASELINES)
V2 = {"policy": "rl_policy", "version": "v2"}


def watching(*rounds: list[Scraped]) -> Watch:
    """A watch after these scrapes, a second apart, from second 100 on."""
    coming = iter(rounds)
    watch = Watch([Target("a:1")], GROUPS, tell=lambda alert: None, fetch=lambda target: next(coming), also=SERIES)
    for step in range(len(rounds)):
        watch.tick(100.0 + step)
    return watch


def requests(count: float) -> list[Scraped]:
    return [Scraped("rl_request_seconds_count", V2, count), Scraped("rl_breaker_state", V2, 2.0)]


@pytest.fixture
def url() -> Iterator[str]:
    """Of an evaluator that has seen 5, 7 and 12 requests at seconds 100 to 102."""
    watch = watching(requests(5.0), requests(7.0), requests(12.0))
    with Pages(QueryApi(watch.evaluator, watch.lock, clock=lambda: 102.5).pages(), 0) as pages:
        yield f"http://{pages.address}"


def got(url: str, what: str, **words: object) -> Any:
    with urllib.request.urlopen(f"{url}/api/v1/{what}?{urlencode(words)}", timeout=5.0) as answer:
        content = json.load(answer)
    assert content["status"] == "success"
    return content["data"]


METRIC = {"__name__": "rl_request_seconds_count", **V2, "job": "rlcourse", "instance": "a:1"}


def test_the_answers_have_prometheus_form(url: str) -> None:
    name, without_name = "rl_request_seconds_count", {key: METRIC[key] for key in METRIC if key != "__name__"}
    assert got(url, "query", query=f'{name}{{version="v2"}}') == {
        "resultType": "vector",
        "result": [{"metric": METRIC, "value": [102.5, "12"]}],
    }
    assert got(url, "query", query=f"{name}[2s]", time=101.5) == {
        "resultType": "matrix",
        "result": [{"metric": METRIC, "values": [[100.0, "5"], [101.0, "7"]]}],
    }
    assert got(url, "query", query="1 / 0") == {"resultType": "scalar", "result": [102.5, "+Inf"]}
    assert got(url, "query", query=f'{name}{{version="v3"}}') == {"resultType": "vector", "result": []}
    assert got(url, "query_range", query=f"{name} - 5", start=100.0, end=102.4, step="1s") == {
        "resultType": "matrix",
        "result": [{"metric": without_name, "values": [[100.0, "0"], [101.0, "2"], [102.0, "7"]]}],
    }
    (alert,) = [one for one in got(url, "alerts")["alerts"] if one["labels"]["alertname"] == "BreakerOpen"]
    assert alert["labels"] == {"alertname": "BreakerOpen", **V2, "severity": "page"}
    assert (alert["state"], alert["activeAt"], alert["value"]) == ("firing", "1970-01-01T00:01:40Z", "2")
    assert "v2" in alert["annotations"]["summary"]


@pytest.mark.parametrize(
    ("what", "words", "why"),
    [
        ("query", {}, "no query"),
        ("query", {"query": "sum("}, "not understood"),
        ("query", {"query": "go_goroutines"}, "not kept"),
        ("query", {"query": "rl_decisions_total[900d]"}, "are not kept"),
        ("query", {"query": "up", "time": "yesterday"}, "no time"),
        ("query_range", {"query": "up", "start": 2, "end": 1, "step": "1s"}, "End after the start"),
        ("query_range", {"query": "up", "start": 0, "end": 11_000, "step": 1}, "fewer than 11,000"),
        ("query_range", {"query": "up", "start": 0, "end": 1, "step": "0s"}, "above 0"),
        ("query_range", {"query": "up", "start": 0, "end": 1, "step": "often"}, "no duration"),
        ("query_range", {"query": "up[5m]", "start": 100, "end": 101, "step": 1}, "stands alone"),
        ("query_range", {"query": "up", "start": 99, "end": 102, "step": 1}, "begins 1 s later"),
        ("query", {"query": "up", "time": 99}, "begins 1 s later"),
    ],
)
def test_what_is_not_understood_is_refused_and_not_answered_with_nothing(
    url: str, what: str, words: dict[str, object], why: str
) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        got(url, what, **words)
    assert refused.value.code == 400
    content = json.load(refused.value)
    assert (content["status"], content["errorType"]) == ("error", "bad_data")
    assert why in content["error"]


def test_a_release_that_is_older_than_what_is_kept_holds_and_says_why(url: str) -> None:
    """Series that begin late would be read as counters that began at 0: 12 requests, where 7 have been seen."""
    found = PrometheusEvidence(EvidenceConfig(url=url), "v2").evidence(99.0, 102.0)
    assert found is None  # nobody wrote rl_default_version
    named = [Scraped("rl_default_version", {"policy": "rl_policy", "version": "v1"}, 1.0)]
    watch = watching(*([*requests(count), *named] for count in (5.0, 7.0, 12.0)))
    with Pages(QueryApi(watch.evaluator, watch.lock).pages(), 0) as pages:
        source = PrometheusEvidence(EvidenceConfig(url=f"http://{pages.address}"), "v2")
        late, known = source.evidence(99.0, 102.0), source.evidence(100.0, 102.0)
        watch.evaluator.samples.add(labels_of({"__name__": "up"}), 102.0 + watch.evaluator.samples.retention_s, 1.0)
        with pytest.raises(urllib.error.HTTPError) as forgotten:
            got(f"http://{pages.address}", "query_range", query="up", start=100.0, end=102.0, step=1)
        forgotten.value.close()
    assert late is not None
    assert known is not None
    assert (late.counts, late.violations, known.unknown) == ({}, None, None)
    assert late.unknown is not None
    assert "begins 1 s later" in late.unknown.text
    assert late.measured_at_s == 102.0
    answer = decide(
        late, now_s=102.0, since_s=99.0, demand=Demand("service"), variation=Variation(1.0, 1.0), config=GateConfig()
    )
    assert (answer.answer, answer.reasons[-1].code) == ("hold", "monitoring_refused")


WEEK_S = 7 * 86_400.0


@pytest.mark.parametrize("asked_early", [True, False])
def test_a_release_of_a_week_counts_what_it_counted_on_its_first_day(asked_early: bool) -> None:
    """Two candidates: v2 had answered 100 requests before its release began, v3 has its first answers in it.

    A scrape every 15 s makes 40,000 samples, ten times what is kept.
    """
    watch = watching()
    samples, api = watch.evaluator.samples, QueryApi(watch.evaluator, watch.lock, clock=lambda: WEEK_S)
    samples.retention_s = 2 * WEEK_S
    name, began_s = "rl_request_seconds_count", 10_007.0
    answered: dict[str, list[float]] = {"v2": [], "v3": []}

    def right(version: str, now_s: float) -> bool:
        """Whether the release is told what it asks for: how many were answered up to its last step."""
        step_s = max(1, math.ceil((now_s - began_s) / POINTS))
        words = {"query": f'{name}{{version="{version}"}}', "start": f"{began_s}", "end": f"{now_s}"}
        (series,) = api.over_time({**words, "step": f"{step_s}s"})["result"]
        points = [(float(at), float(value)) for at, value in series["values"]]
        return growth(points, began_s + step_s) == sum(began_s < at <= points[-1][0] for at in answered[version])

    for step in range(int(WEEK_S / 15.0)):
        now_s = 15.0 * step
        samples.add(labels_of({"__name__": "up"}), now_s, 1.0)
        if step % 7 == 0:
            answered["v2"].append(now_s)
        if now_s > began_s + 1_000.0:
            answered["v3"] += [now_s] * (1 + step % 2)
            samples.add(labels_of({"__name__": name, "version": "v3"}), now_s, float(len(answered["v3"])))
        samples.add(labels_of({"__name__": name, "version": "v2"}), now_s, 100.0 + len(answered["v2"]))
        if asked_early and step == 700:  # the gate looks soon after a release has begun
            assert right("v2", now_s)
    kept = samples.window(Selector(name, (), 2 * WEEK_S), WEEK_S)
    assert all(len(window) <= MAX_SAMPLES for window in kept.values())
    assert right("v3", now_s), "not there before, so it began at 0"
    if asked_early:
        assert right("v2", now_s)
    else:
        with pytest.raises(ConfigError, match="not known any more"):
            right("v2", now_s)


def test_nothing_is_said_before_the_first_scrape() -> None:
    watch = watching()
    with Pages(QueryApi(watch.evaluator, watch.lock).pages(), 0) as pages:
        with pytest.raises(urllib.error.HTTPError) as refused:
            got(f"http://{pages.address}", "query_range", query="up", start=1, end=2, step=1)
        assert "Nothing has been scraped" in json.load(refused.value)["error"]


def test_other_pages_are_not_found(url: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{url}/api/v1/admin", timeout=5.0)
    assert refused.value.code == 404
    refused.value.close()


def test_words_of_a_question_reach_the_page() -> None:
    with (
        Pages({"/say": lambda words: Page(words["what"].encode(), "text/plain")}, 0) as pages,
        urllib.request.urlopen(f"http://{pages.address}/say?what=a%2Bb&what=c%20d", timeout=5.0) as answer,
    ):
        assert (answer.read(), answer.headers["Content-Type"]) == (b"c d", "text/plain")


EXPOSED = """\
rl_default_version{{policy="rl_policy",version="v1"}} 1
rl_request_seconds_count{{policy="rl_policy",version="v2"}} {requests}
rl_request_seconds_bucket{{policy="rl_policy",version="v2",le="0.1"}} {fast}
rl_request_seconds_bucket{{policy="rl_policy",version="v2",le="+Inf"}} {requests}
rl_decisions_total{{policy="rl_policy",version="v2",fallback="none"}} {own}
rl_decisions_total{{policy="rl_policy",version="v2",fallback="timeout"}} {failed}
rl_safety_violations_total{{policy="rl_policy",version="v2",constraint="inlet"}} {violations}
rl_breaker_state{{policy="rl_policy",version="v2"}} {breaker}
"""


@pytest.mark.slow
@pytest.mark.xdist_group("one_at_a_time")
def test_a_release_gets_the_same_evidence_as_from_prometheus(tmp_path: Path) -> None:
    """Both scrape one service that restarts; the release begins in the middle of it."""
    shown = {"text": b""}

    def show(requests: int, fast: int, failed: int, violations: int, breaker: int) -> None:
        told = {"own": requests - failed, "requests": requests, "fast": fast, "failed": failed}
        shown["text"] = EXPOSED.format(**told, violations=violations, breaker=breaker).encode()

    def evidence(url: str) -> PrometheusEvidence:
        return PrometheusEvidence(EvidenceConfig(url=url), "v2")

    (tmp_path / RULES).write_text(rule_file(GROUPS))
    (tmp_path / ALERTMANAGER).write_text(alertmanager_file(AlertingConfig()))
    show(100, 90, 2, 0, 0)
    with ExitStack() as stack:
        address = stack.enter_context(Exposed(lambda: shown["text"], 0)).address
        config = StackConfig(port=0, alertmanager_port=0, scrape_interval_s=0.5)
        prometheus = stack.enter_context(Stack(tmp_path, [Target(address)], config)).url
        watch = Watch([Target(address)], GROUPS, tell=lambda alert: None, also=SERIES)
        pages = stack.enter_context(Pages(QueryApi(watch.evaluator, watch.lock).pages(), 0))
        stop = threading.Event()
        running = threading.Thread(target=watch.run, args=(0.5, stop))
        running.start()
        stack.callback(running.join)
        stack.callback(stop.set)
        both = {"prometheus": evidence(prometheus), "embedded": evidence(f"http://{pages.address}")}

        def wait_for(name: str, count: float) -> None:
            """Until both have seen that many requests of the service that runs now."""
            query = 'rl_request_seconds_count{version="v2"}'
            for url in (prometheus, f"http://{pages.address}"):
                for _ in range(600):
                    found = got(url, "query", query=query)["result"]
                    if found and float(found[0]["value"][1]) == count:
                        break
                    time.sleep(0.05)
                else:
                    raise AssertionError(f"{url} never saw {name}")

        wait_for("the incumbent's time", 100)
        time.sleep(1.1)  # the question is asked in steps of a second
        began_s = time.time()
        time.sleep(1.1)
        show(160, 140, 5, 1, 0)
        wait_for("the release", 160)
        time.sleep(1.1)
        show(40, 30, 1, 2, 2)  # restarted since
        wait_for("the restart", 40)
        time.sleep(1.1)
        now_s = time.time()
        found = {name: source.evidence(began_s, now_s) for name, source in both.items()}
        alarms = {name: source.alarms() for name, source in both.items()}
    for name, one in found.items():
        assert one is not None, name
        counts = {what: (counts.bad, counts.total) for what, counts in one.counts.items()}
        assert counts == {"latency": (20, 100), "errors": (4, 100), "fallbacks": (4, 100)}, name
        assert one.violations == 2, name
        assert now_s - one.measured_at_s < 2.0, name
    assert alarms["embedded"] == alarms["prometheus"]
    assert [alarm.name for alarm in alarms["embedded"]] == ["BreakerOpen"]
