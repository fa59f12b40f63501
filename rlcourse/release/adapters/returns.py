"""The returns of both arms from the monitor that follows the decision log (``rlcourse monitor follow``)."""

from __future__ import annotations

import json
import urllib.request

import numpy as np

from rlcourse.release.matching import Tally


class MonitorReturns:
    """Asks for the sums by day, and gives them the form in which the gate compares days.

    Args:
        url: of the monitor, as ``http://127.0.0.1:9108``.
        policy: name of the policy.
        incumbent: its version.
        candidate: its version.
        stale_after_s: sums that are older are not known: the monitor stands still.
        timeout_s: for the answer.
    """

    def __init__(
        self,
        url: str,
        policy: str,
        incumbent: str,
        candidate: str,
        *,
        stale_after_s: float = 900.0,
        timeout_s: float = 5.0,
    ) -> None:
        self.url, self.policy, self.arms = f"{url.rstrip('/')}/returns", policy, (incumbent, candidate)
        self.stale_after_s, self.timeout_s = stale_after_s, timeout_s

    def __call__(self, since_s: float, now_s: float) -> Tally | None:
        """Episodes counted on the day of ``since_s`` or later; ``None`` if the monitor does not say, or said it long ago."""
        # Without the proxies of the environment: the monitor is on this machine or close to it.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(self.url, timeout=self.timeout_s) as response:
                content = json.load(response)
            if now_s - float(content["counted_until_s"]) > self.stale_after_s:
                return None
            first = since_s // float(content["day_s"])
            days = [part for day, part in content["policies"].get(self.policy, {}).items() if int(day) >= first]
            sums = [[[float(one) for one in part.get(arm, (0, 0, 0))] for arm in self.arms] for part in days]
            array = np.array(sums, np.float64).reshape(-1, 2, 3)
        except (
            OSError,
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
        ):  # whatever it is, it is no knowledge of returns
            return None
        return Tally(array[..., 0], array[..., 1], array[..., 2])
