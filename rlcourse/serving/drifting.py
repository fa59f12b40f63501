"""Windows of mature episodes, taken from a decision log and compared with a reference: drift as a by-product of serving."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from pathlib import Path

from rlcourse.errors import ConfigError, DataError, DatasetInvalidError, ShapeError
from rlcourse.experience.episodes import Episodes
from rlcourse.experience.minari_files import load_dataset
from rlcourse.monitoring.drift import DriftMonitor, DriftReport
from rlcourse.monitoring.streams import EpisodeRecord
from rlcourse.serving.decisions import join, read_episodes
from rlcourse.serving.following import Line


class DriftWindows:
    """The last mature episodes of one policy; asked ``monitor`` about whenever enough new ones have come.

    Args:
        monitor: holds the reference; its window and its stride count mature episodes, usable or not, and its budget the looks
            of a day.
    """

    def __init__(self, monitor: DriftMonitor) -> None:
        self._monitor, self.looks = monitor, monitor.config.looks()
        self._window: deque[tuple[Episodes, EpisodeRecord] | None] = deque(maxlen=monitor.config.window_episodes)
        self.problem = ""
        """Why the last window could not be checked."""

    def take(self, lines: Sequence[Line] | None, record: EpisodeRecord) -> bool:
        """An episode is mature; says whether it is time to look.

        Args:
            lines: its decisions and rewards; ``None`` where they were not kept.
            record: what was counted of it.
        """
        self._window.append(_usable(lines, record, self._monitor.ruler.num_actions))
        return self.looks.episode(record.mature_s)

    def look(self) -> DriftReport | None:
        """Compare the window with the reference; ``None`` if it could not be, and :attr:`problem` says why."""
        usable = [one for one in self._window if one is not None]
        try:
            if 2 * len(usable) < len(self._window):
                raise DatasetInvalidError(
                    f"{len(usable)} of {len(self._window)} episodes of a window can be used.",
                    mend="See that rewards come in time, and that readings are not missing.",
                )
            units = self._monitor.ruler.measure(
                Episodes.concatenate([episodes for episodes, _ in usable]), [record for _, record in usable]
            )
            report = self._monitor.compare(units)
        except (DataError, ShapeError, ValueError) as error:  # NumPy's, where observations changed their length
            self.problem = str(error)
            return None
        self.problem = ""
        return report


def _usable(
    lines: Sequence[Line] | None, record: EpisodeRecord, num_actions: int
) -> tuple[Episodes, EpisodeRecord] | None:
    """The longest stretch of an episode in which every decision has its reward."""
    if not lines:
        return None
    try:
        parts = join(lines, num_actions=num_actions).episodes
    except (DataError, ValueError):  # what wrote these lines is counted as a window that is too thin, if it goes on
        return None
    longest = parts.lengths.argmax(0, keepdims=True)
    return parts.select(longest), record


def read_reference(name: str, policy: str | None, root: Path | None, followed: Path) -> tuple[Episodes, int | None]:
    """The reference's episodes, and how many actions there are if it says so.

    Args:
        name: of a data set, or the folder of a decision log.
        policy: whose decisions, of a log.
        root: of the data sets.
        followed: the log that is compared with it.

    Raises:
        DataError: there is nothing of that name, it is damaged, or no episode can be used.
        ConfigError: the log that is followed is its own reference.
    """
    folder = Path(name)
    if folder.is_dir() and any(folder.glob("*.jsonl")):
        if folder.resolve() == followed.resolve():
            raise ConfigError(
                "A log that is its own reference never drifts.", mend="Copy a stretch of good days, or make a data set."
            )
        return read_episodes(folder, policy).episodes, None
    found = load_dataset(name, root=root)
    return found.episodes, found.card.num_actions
