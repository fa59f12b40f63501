"""Reads what a target says of itself, as Prometheus would: ``GET /metrics``, bounded in time and size."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass

from rlcourse.errors import ConfigError, MissingExtraError, ServerError

try:
    from prometheus_client.parser import text_string_to_metric_families
except ModuleNotFoundError as error:
    raise MissingExtraError(
        "Scraping needs prometheus_client, which is not installed.", mend="pip install 'rlcourse[monitor]'"
    ) from error

MAX_BYTES = 10_000_000
"""A longer exposition counts as a failed scrape, here and in the Prometheus that this package configures."""


@dataclass(frozen=True)
class Target:
    """A program that exposes metrics at ``http://ADDRESS/metrics``."""

    address: str
    """host:port."""
    job: str = "rlcourse"
    """What it is; targets of one job do the same work."""

    def __post_init__(self) -> None:
        host, sign, port = self.address.rpartition(":")
        if not sign or not host or not port.isdecimal() or not 0 < int(port) < 65536 or "/" in host:
            raise ConfigError(f"{self.address!r} is no address.", mend="Use HOST:PORT, such as 127.0.0.1:8080.")

    @property
    def labels(self) -> dict[str, str]:
        """What every one of its series carries."""
        return {"job": self.job, "instance": self.address}


@dataclass(frozen=True)
class Scraped:
    """One series' present value."""

    name: str
    labels: Mapping[str, str]
    value: float


def target(words: str) -> Target:
    """A target from ``HOST:PORT``, ``JOB=HOST:PORT`` or the address of a service.

    Raises:
        ConfigError: it is none of them.
    """
    job, sign, address = words.rpartition("=")
    address = address.removeprefix("http://").removesuffix("/").removesuffix("/metrics")
    return Target(address, job) if sign else Target(address)


def get(url: str, timeout_s: float, max_bytes: int = MAX_BYTES) -> bytes:
    """The body of an answer with status 200.

    Raises:
        ServerError: nobody answers in time, or with another status, or with too much.
    """
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as answer:
            body: bytes = answer.read(max_bytes + 1)
    except (OSError, http.client.HTTPException, urllib.error.URLError) as error:
        raise ServerError(
            f"{url} does not answer: {error}.", mend="See whether it runs and whether it is busy."
        ) from error
    if len(body) > max_bytes:
        raise ServerError(f"{url} answers with more than {max_bytes} bytes.", mend="Use labels with fewer values.")
    return body


def scrape(target: Target, timeout_s: float) -> list[Scraped]:
    """Everything that a target exposes.

    Raises:
        ServerError: it does not answer, or not in Prometheus' text format.
    """
    text = get(f"http://{target.address}/metrics", timeout_s).decode("utf-8", errors="replace")
    try:
        families = list(text_string_to_metric_families(text))
    except ValueError as error:
        raise ServerError(f"{target.address} exposes no metrics: {error}.", mend="Check the address.") from error
    return [Scraped(sample.name, sample.labels, float(sample.value)) for one in families for sample in one.samples]
