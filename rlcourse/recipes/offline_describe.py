"""``rlcourse offline describe``: what a data set holds and where it came from."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from matplotlib.figure import Figure

from rlcourse.experience.card import summarise
from rlcourse.experience.minari_files import load_dataset
from rlcourse.files import atomic_path
from rlcourse.recipes.common import Common, report, say, show_result, table, write_report
from rlcourse.recipes.pictures import check_format


@dataclass(frozen=True, kw_only=True)
class Describe(Common):
    """Check a data set byte by byte and show what it holds: returns, ends, actions, propensities, coverage, provenance.

    Nothing here is random and nothing runs on an accelerator; --seed and --device change nothing.

    Example: rlcourse offline describe cartpole/mixed-v0 --plot returns.png
    """

    dataset: tyro.conf.Positional[str]
    """Name under the Minari root, such as cartpole/mixed-v0, or a path."""
    plot: Path | None = None
    """Draw a histogram of the returns to this .png, .svg or .pdf file."""
    root: Path | None = None
    """Folder of the data sets; by default $MINARI_DATASETS_PATH or ~/.minari/datasets."""


def run(config: Describe) -> int:
    """Load, summarise, show."""
    started = time.perf_counter()
    check_format(config.plot)
    loaded = load_dataset(config.dataset, root=config.root)
    seconds = time.perf_counter() - started
    summary = summarise(loaded.episodes, loaded.card, size_bytes=loaded.size_bytes, checksum=loaded.checksum)
    show_result(readable(config.dataset, summary), config.json)
    if config.plot is not None:
        returns_picture(config.plot, summary, title=config.dataset)
        say(f"picture written to {config.plot}")
    row = {"dataset": config.dataset, "path": loaded.path, **summary}
    write_report(config.json, report("offline describe", config, seconds=seconds, results=[row]))
    return 0


def readable(name: str, summary: Mapping[str, Any]) -> str:
    """A summary as lines for a reader."""
    returns, lengths, ends, actions = (summary[key] for key in ("returns", "lengths", "ends", "actions"))
    propensities, card = summary["propensities"], summary["provenance"]
    episodes = summary["episodes"]
    spread = ("min", "first_quartile", "median", "third_quartile", "max", "mean")
    lines = [
        f"{name}: {summary['transitions']} transitions in {episodes} episodes of {card['env_id']}",
        "",
        table(
            ["per episode", "min", "25%", "median", "75%", "max", "mean"],
            [
                ["return", *(f"{returns[key]:.1f}" for key in spread)],
                ["length", *(f"{lengths[key]:.1f}" for key in spread)],
            ],
        ),
        "",
        histogram_lines(returns["histogram"]),
        "",
        f"episodes end   {ends['terminated']} terminated ({ends['terminated'] / episodes:.1%}), "
        f"{ends['time_limit']} cut off ({ends['time_limit'] / episodes:.1%})",
        *_actions(actions),
        f"propensities   {_propensities(propensities, len(actions.get('counts', ())))}",
        "",
        table(
            ["observation", "min", "mean", "max"],
            [
                [str(index), *(f"{column[key]:.3g}" for key in ("min", "mean", "max"))]
                for index, column in enumerate(summary["observations"])
            ],
        ),
        "",
        f"coverage       {_coverage(summary['coverage'])}",
        "",
        f"quality        {card['quality']}",
        f"behaviour      {card['behaviour']}",
        f"seed           {'unknown' if card['seed'] is None else card['seed']}",
        f"command        {card['command'] or 'unknown'}",
        *(f"{key.replace('_', ' '):<14} {value}" for key, value in card["details"].items()),
        "versions       " + ", ".join(f"{key} {value}" for key, value in card["versions"].items()),
        f"size           {summary['file_bytes'] / 1e6:.1f} MB of files, "
        f"{summary['memory_bytes'] / 1e6:.1f} MB in memory",
        f"checksum       {summary['checksum'] or 'none'}" + (" (every byte checked)" if summary["checksum"] else ""),
    ]
    return "\n".join(lines)


def histogram_lines(histogram: Mapping[str, Any], *, rows: int = 10, width: int = 40) -> str:
    """Returns from low to high, one bar each; neighbouring bins are added up until ``rows`` of them are left."""
    counts, edges = histogram["counts"], histogram["edges"]
    step = -(-len(counts) // rows)
    bars = [(edges[i], sum(counts[i : i + step])) for i in range(0, len(counts), step)]
    tallest = max(count for _, count in bars)
    lines = ["return from  episodes"]
    for low, count in bars:
        bar = "#" * max(round(width * count / tallest), 1 if count else 0)
        lines.append(f"{low:>11.1f}  {count:>8}  {bar}".rstrip())
    return "\n".join(lines)


def returns_picture(target: Path, summary: Mapping[str, Any], *, title: str) -> None:
    """A histogram of the returns, with the median marked.

    Raises:
        StorageError: the file could not be written.
    """
    histogram = summary["returns"]["histogram"]
    figure = Figure(figsize=(6, 3.6), layout="constrained")  # not pyplot: no global state, no window
    axes = figure.subplots()
    axes.stairs(histogram["counts"], histogram["edges"], fill=True, color="C0")
    axes.axvline(summary["returns"]["median"], color="C1", label=f"median {summary['returns']['median']:.1f}")
    axes.set(xlabel="undiscounted return of an episode", ylabel="episodes", title=title)
    axes.legend()
    with atomic_path(target) as part:
        figure.savefig(part, format=target.suffix[1:], dpi=150)


def _actions(found: Mapping[str, Any]) -> list[str]:
    if "frequencies" in found:
        shares = ", ".join(f"{index}: {share:.1%}" for index, share in enumerate(found["frequencies"]))
        return [f"actions        {shares}; entropy {found['entropy']:.3f} nats"]
    columns = ("low", "min", "mean", "max", "high", "spread")
    rows = [
        [str(index), *(f"{one[key]:.3g}" for key in columns), f"{one['at_bounds']:.1%}"]
        for index, one in enumerate(found["entries"])
    ]
    return ["", table(["action", *columns, "at a bound"], rows), ""]


def _coverage(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "observations have too many entries to count cells"
    return (
        f"{found['occupied']} of {found['cells']} cells occupied ({found['share']:.1%}; each entry's range in "
        f"{found['parts']} parts), as if {found['effective']:.0f} were filled evenly"
    )


def _propensities(found: Mapping[str, Any], num_actions: int) -> str:
    """``num_actions`` is 0 where they are continuous, and propensities densities."""
    if found["action_entropy"] is None:
        return "not logged"
    known = "" if found["known"] == 1.0 else f"; logged for {found['known']:.1%} of the steps"
    even = f"even choice among {num_actions}: {math.log(num_actions):.3f}" if num_actions else "differential"
    return f"{found['min']:.3g} to {found['max']:.3g}, behaviour entropy {found['action_entropy']:.3f} nats ({even}){known}"
