"""The embedded stack at work: scrapes targets, evaluates rules, and tells of alerts, all in this process.

::

    every interval:   targets ──scrape──▶ samples ──rules──▶ alerts ──what changed──▶ tell, webhooks

What a webhook is sent has the form in which Alertmanager sends it, so that a receiver need not know which of them runs.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from rlcourse.errors import ServerError
from rlcourse.monitoring.embedded import ActiveAlert, Evaluator, State
from rlcourse.monitoring.rules import RuleGroup
from rlcourse.monitoring.samples import LOOKBACK_S, NAME, Labels, labels_of
from rlcourse.monitoring.scraping import Scraped, Target, scrape

Fetch = Callable[[Target], Sequence[Scraped]]
Tell = Callable[[ActiveAlert], None]
UNSENT = 1000
"""Changes that wait for a webhook that does not answer; beyond, the oldest are lost."""


class Watch:
    """One round of scraping and evaluating at a time; :meth:`run` goes on until it is stopped.

    Args:
        targets: what is scraped.
        groups: the rules.
        fetch: how; raises :class:`~rlcourse.errors.ServerError` when it fails.
        tell: is given each alert once when it fires and once when it resolves.
        also: metrics to keep beside those that the rules read.
        retention_s: how long at least.
        max_series: of all targets together; more end the watch with a :class:`~rlcourse.errors.ServerError`, so that memory is
            bounded and nobody takes half a picture for the whole.
    """

    def __init__(
        self,
        targets: Sequence[Target],
        groups: Sequence[RuleGroup],
        *,
        tell: Tell,
        fetch: Fetch | None = None,
        timeout_s: float = 2.0,
        also: Iterable[str] = (),
        retention_s: float = LOOKBACK_S,
        max_series: int = 2000,
    ) -> None:
        self.targets = tuple(targets)
        self.evaluator = Evaluator(groups, also=also, retention_s=retention_s, max_series=max_series)
        self.lock = threading.Lock()
        """Held while samples and alerts change; whoever reads them from another thread takes it."""
        self._fetch = fetch or (lambda target: scrape(target, timeout_s))
        self._tell = tell
        self._shown: dict[Target, set[Labels]] = {}
        self._firing: set[tuple[str, Labels]] = set()

    def tick(self, now_s: float) -> None:
        """Scrape every target once, then evaluate every rule."""
        for target in self.targets:
            self._scrape(target, now_s)
        with self.lock:
            alerts = self.evaluator.evaluate(now_s)
        for alert in alerts:
            key = (alert.name, labels_of(alert.labels))
            if alert.state is State.FIRING and key not in self._firing:
                self._firing.add(key)
                self._tell(alert)
            elif alert.state is State.RESOLVED:
                self._firing.discard(key)
                self._tell(alert)

    def run(self, interval_s: float, stop: threading.Event, after: Callable[[], None] = lambda: None) -> None:
        """Tick every ``interval_s`` seconds until ``stop`` is set; a round that takes longer is not made up for.

        ``after`` is called after each.
        """
        following = time.monotonic()
        while not stop.is_set():
            self.tick(time.time())
            after()
            following = max(following + interval_s, time.monotonic())
            stop.wait(following - time.monotonic())

    def _scrape(self, target: Target, now_s: float) -> None:
        try:
            found, alive = self._fetch(target), 1.0
        except ServerError:
            found, alive = (), 0.0
        with self.lock:
            self._keep(target, found, alive, now_s)

    def _keep(self, target: Target, found: Sequence[Scraped], alive: float, now_s: float) -> None:
        samples, shown = self.evaluator.samples, set()
        for one in found:
            if one.name in self.evaluator.names:
                labels = labels_of({**one.labels, **target.labels, NAME: one.name})
                samples.add(labels, now_s, one.value)
                shown.add(labels)
        for labels in self._shown.get(target, set()) - shown:
            samples.end(labels, now_s)
        samples.add(labels_of({NAME: "up", **target.labels}), now_s, alive)
        self._shown[target] = shown


class WebhookSender:
    """Posts alerts to addresses; what cannot be sent is tried again at the next :meth:`flush`.

    Args:
        urls: where to.
        timeout_s: for each post.
        say: is told when an address does not answer, once until it does again.
    """

    def __init__(
        self, urls: Sequence[str], timeout_s: float = 2.0, say: Callable[[str], None] = lambda text: None
    ) -> None:
        self.urls, self.timeout_s, self.say = tuple(urls), timeout_s, say
        self._unsent: dict[str, deque[bytes]] = {url: deque(maxlen=UNSENT) for url in self.urls}
        self._silent: set[str] = set()

    def send(self, alert: ActiveAlert, now_s: float) -> None:
        """Queue one alert for every address, and try to send."""
        body = json.dumps(message(alert, now_s)).encode()
        for waiting in self._unsent.values():
            waiting.append(body)
        self.flush()

    def flush(self) -> None:
        """Send what waits, in order."""
        for url, waiting in self._unsent.items():
            while waiting and self._posted(url, waiting[0]):
                waiting.popleft()

    def _posted(self, url: str, body: bytes) -> bool:
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=self.timeout_s):
                self._silent.discard(url)
                return True
        except (OSError, urllib.error.URLError) as error:
            if url not in self._silent:
                self.say(f"{url} does not take alerts: {error}; they wait")
            self._silent.add(url)
            return False


def message(alert: ActiveAlert, now_s: float) -> dict[str, Any]:
    """One alert as Alertmanager's webhook would bring it (version 4 of its form)."""
    resolved = alert.state is State.RESOLVED
    labels = {"alertname": alert.name, **alert.labels}
    identity = json.dumps(sorted(labels.items()))
    one = {
        "status": "resolved" if resolved else "firing",
        "labels": labels,
        "annotations": dict(alert.annotations),
        "startsAt": _timestamp(alert.since_s),
        "endsAt": _timestamp(now_s) if resolved else "0001-01-01T00:00:00Z",
        "generatorURL": "",
        "fingerprint": hashlib.sha256(identity.encode()).hexdigest()[:16],
    }
    return {
        "version": "4",
        "groupKey": identity,
        "truncatedAlerts": 0,
        "status": one["status"],
        "receiver": "embedded",
        "groupLabels": {"alertname": alert.name},
        "commonLabels": labels,
        "commonAnnotations": one["annotations"],
        "externalURL": "",
        "alerts": [one],
    }


def _timestamp(time_s: float) -> str:
    return datetime.fromtimestamp(time_s, UTC).isoformat().replace("+00:00", "Z")
