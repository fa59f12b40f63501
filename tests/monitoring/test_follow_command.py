"""``rlcourse monitor follow`` as its users meet it."""

from __future__ import annotations

import json
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rlcourse.errors import ConfigError, ServerError
from rlcourse.experience.card import DatasetCard
from rlcourse.experience.minari_files import save_dataset
from rlcourse.monitoring.drift import DriftConfig
from rlcourse.monitoring.exposing import Exposed
from rlcourse.monitoring.scraping import Target, scrape
from rlcourse.recipes.command_line import main
from rlcourse.recipes.monitor_follow import Follow, drift_monitor
from rlcourse.serving.sidecar import alone
from tests.monitoring.logs import Written
from tests.monitoring.test_end_to_end import found
from tests.monitoring.test_follow_watch import play
from tests.monitoring.test_stack import command, until
from tests.monitoring.worlds import small_plant, steady_plant


def words(folder: Path, *more: object) -> list[str]:
    return list(map(str, ("monitor", "follow", folder, "--port", 0, "--position", folder / "p.json", *more)))


def test_what_is_wrong_is_said_with_its_mend(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log"
    assert main(words(log)) == 1
    assert "There is no folder" in capsys.readouterr().err
    Written(log).episode("a", 0.0, (1.0,))
    assert main(words(log, "--reference", log)) == 2
    assert "its own reference" in capsys.readouterr().err
    assert main(words(log, "--reference", "no/such-v0", "--root", tmp_path)) == 1
    assert "no/such-v0" in capsys.readouterr().err
    other = Written(tmp_path / "other")
    other.episode("a", 0.0, (1.0, 2.0), action=[0.5])
    assert main(words(log, "--reference", tmp_path / "other", "--num-actions", 2)) == 2
    assert "continuous" in capsys.readouterr().err
    few = Written(tmp_path / "few")
    few.episode("a", 0.0, (1.0, 2.0))
    assert main(words(log, "--reference", tmp_path / "few")) == 1
    assert "are no reference" in capsys.readouterr().err
    assert main(words(log, "--poll-s", 0)) == 2
    assert main(words(log, "--horizon-s", 0)) == 2


def test_a_reference_whose_actions_are_more_than_there_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log, other = Written(tmp_path / "log"), Written(tmp_path / "other")
    log.episode("a", 0.0, (1.0,))
    episodes = small_plant(6, np.random.default_rng(0))
    for n in range(6):
        other.episode(f"s{n}", float(n), (1.0, 2.0), observation=episodes.observations[n].tolist(), action=3)
    assert main(words(tmp_path / "log", "--reference", tmp_path / "other", "--num-actions", 2)) == 2
    assert "--num-actions 4" in capsys.readouterr().err


def test_one_process_goes_on_from_a_position(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Written(tmp_path).episode("a", 0.0, (1.0,))
    with alone(tmp_path / "p.json"):
        assert main(words(tmp_path)) == 2
    assert "in use by another process" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["data set", "log"])
def test_what_a_reference_may_be(tmp_path: Path, kind: str) -> None:
    healthy = small_plant(12, np.random.default_rng(0))
    if kind == "data set":
        card = DatasetCard(env_id="plant", num_actions=3, quality="healthy", behaviour="itself")
        save_dataset("plant/healthy-v0", healthy, card, root=tmp_path)
        name, num_actions = "plant/healthy-v0", 3
    else:
        play(Written(tmp_path / "reference"), healthy, 0.0)
        name, num_actions = str(tmp_path / "reference"), 2
    monitor = drift_monitor(Follow(log=tmp_path, reference=name, root=tmp_path))
    assert monitor is not None
    assert (len(monitor.reference), monitor.ruler.num_actions) == (6, num_actions)
    assert drift_monitor(Follow(log=tmp_path)) is None
    size = healthy.observations.shape[1]
    called = tuple(f"entry-{n}" for n in range(size))
    named = drift_monitor(Follow(log=tmp_path, reference=name, root=tmp_path, features=called))
    assert named is not None
    assert monitor.ruler.names == tuple(map(str, range(size)))
    assert [one.feature for one in named.compare(named.reference).findings if one.check == "ks"] == list(called)
    with pytest.raises(ConfigError, match=f"{size - 1} names for the {size} entries"):
        drift_monitor(Follow(log=tmp_path, reference=name, root=tmp_path, features=called[1:]))


def test_a_reference_of_continuous_actions_says_what_is_not_checked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    play(Written(tmp_path / "reference"), steady_plant(12, np.random.default_rng(0)), 0.0)
    monitor = drift_monitor(Follow(log=tmp_path, reference=str(tmp_path / "reference")))
    assert monitor is not None and monitor.ruler.action_names == ("0", "1")
    assert "concept drift is not" in capsys.readouterr().err


def test_a_reference_that_is_small_beside_its_windows_is_told_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card = DatasetCard(env_id="plant", num_actions=2, quality="healthy", behaviour="itself")
    save_dataset("plant/healthy-v0", small_plant(32, np.random.default_rng(0)), card, root=tmp_path)
    config = Follow(log=tmp_path, reference="plant/healthy-v0", root=tmp_path)
    drift_monitor(config)
    err = capsys.readouterr().err
    assert "has 16 episodes beside windows of 32" in err and "give 512 episodes" in err
    assert "at most 4 a day; each at a level of 0.0125, for 0.05 false alarms a day" in err
    drift_monitor(replace(config, drift=DriftConfig(window_episodes=2, stride_episodes=2)))
    assert "beside windows" not in capsys.readouterr().err


@pytest.mark.parametrize(("features", "reference"), [(("a", "a"), "plant/healthy-v0"), (("a", "b"), None)])
def test_names_that_name_nothing_are_refused(features: tuple[str, ...], reference: str | None, tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        Follow(log=tmp_path, reference=reference, features=features)


def test_what_is_exposed() -> None:
    with Exposed(lambda: b"rl_x 1\n", 0, documents={"/returns": lambda: b"{}"}) as exposed:
        assert [(one.name, one.value) for one in scrape(Target(exposed.address), 5.0)] == [("rl_x", 1.0)]
        for path, wanted in (("healthz", b"ok\n"), ("returns", b"{}")):
            with urllib.request.urlopen(f"http://{exposed.address}/{path}", timeout=5.0) as answer:
                assert answer.read() == wanted
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(f"http://{exposed.address}/else", timeout=5.0)
        error.value.close()
        assert error.value.code == 404
        with pytest.raises(ServerError, match="taken"):
            Exposed(lambda: b"", int(exposed.address.rpartition(":")[2]))


@pytest.mark.slow
@pytest.mark.xdist_group("one_at_a_time")
@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_process_that_ends_goes_on_where_it_was(
    tmp_path: Path, ending: signal.Signals, hear_ctrl_c: Callable[[], None]
) -> None:
    log = Written(tmp_path / "log")
    began = time.time() - 100.0
    for n in range(10):
        log.episode(f"s{n}", began + n, (1.0, 1.0))

    def episodes(address: str) -> float:
        values = [one.value for one in scrape(Target(address), 5.0) if one.name == "rl_episodes_total"]
        return sum(values)

    more = ("--horizon-s", 20, "--reward-deadline-s", 20, "--poll-s", 0.05, "--json", tmp_path / "report.json")
    with command(*words(log.folder, *more), ready="ready: ", preexec_fn=hear_ctrl_c) as (process, said):
        (address,) = found(r"ready: http://(\S+)/metrics", said)
        assert "anew; 40 lines" in said
        assert episodes(address) == 10.0
        log.episode("late", time.time() - 50.0, (2.0,))
        until(lambda: episodes(address) == 11.0, "an episode that came while it ran")
        process.send_signal(ending)
        assert process.wait(20) == (0 if ending != signal.SIGKILL else -signal.SIGKILL)
    if ending != signal.SIGKILL:
        assert json.loads((tmp_path / "report.json").read_text())["lines"] == 42
    log.episode("later", time.time() - 50.0, (2.0,))
    with command(*words(log.folder, *more), ready="ready: ") as (process, said):
        (address,) = found(r"ready: http://(\S+)/metrics", said)
        assert "from where it stopped; 2 lines" in said
        assert episodes(address) == 1.0
