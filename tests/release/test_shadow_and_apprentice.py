from __future__ import annotations

import pytest

from rlcourse.errors import ConfigError
from rlcourse.randomness import Seeds
from rlcourse.release.apprentice import Apprentice, ApprenticeConfig
from rlcourse.release.shadow import Mirrored, judge_shadow, shadow_report


def test_the_counterfactual_worked_by_hand() -> None:
    report = shadow_report([Mirrored(1, 0.5, 1, 1.0, reward=1.0), Mirrored(0, 0.5, 1, 0.5, reward=3.0)])
    assert report.counterfactual_reward == pytest.approx(5 / 3)
    assert report.worth == pytest.approx(9 / 5)
    assert report.logged_reward == 2.0
    assert report.agreement == 0.5
    assert report.changes == {"0->1": 1}


def test_a_bandit_is_valued_rightly_without_acting() -> None:
    rng, rewards = Seeds(0).numpy("bandit"), (0.0, 1.0)
    actions = rng.integers(2, size=20_000)
    target = (0.2, 0.8)  # worth 0.8 a step; the logger's even chances are worth 0.5
    mirrored = [Mirrored(int(a), 0.5, 1, target[a], reward=rewards[a]) for a in actions]
    report = shadow_report(mirrored)
    assert report.counterfactual_reward == pytest.approx(0.8, abs=0.02)
    assert report.logged_reward == pytest.approx(0.5, abs=0.02)
    assert report.worth == pytest.approx(20_000 * 0.25 / 0.34, rel=0.02)  # E[w]^2 / E[w^2] = 1 / (2 * (0.04 + 0.64))


def test_a_shadow_that_never_does_the_same_tells_nothing() -> None:
    assert shadow_report([Mirrored(0, 1.0, 1, 0.0, reward=5.0)]).counterfactual_reward is None
    failed = shadow_report([Mirrored(0, 1.0, None, 0.0)])
    assert (failed.failed, failed.agreement, failed.worth) == (1, 0.0, 0.0)
    assert shadow_report([]).requests == 0
    with pytest.raises(ConfigError):
        shadow_report([Mirrored(0, 0.0, 0, 1.0)])


def test_judging_a_shadow() -> None:
    same = [Mirrored(1, 1.0, 1, 1.0)] * 98
    other = [Mirrored(1, 1.0, 0, 0.0)] * 2
    report = shadow_report(same + other)
    assert judge_shadow(report, requests=100, agreement=0.95).answer == "promote"
    assert judge_shadow(report, requests=101, agreement=0.95).answer == "hold"
    strict = judge_shadow(report, requests=100, agreement=0.99)
    assert (strict.answer, strict.reasons[0].code) == ("roll_back", "shadow_disagrees")
    slow = shadow_report([*same, *[Mirrored(1, 1.0, 1, 1.0, shadow_ms=80.0)] * 2])
    assert [one.code for one in judge_shadow(slow, requests=100, agreement=0.9).reasons] == ["shadow_late"]
    broken = shadow_report([*same, *[Mirrored(1, 1.0, None, 0.0)] * 2])
    assert [one.code for one in judge_shadow(broken, requests=100, agreement=0.9).reasons] == ["shadow_failed"]


CONFIG = ApprenticeConfig(deadline_s=60.0, safe_action=4)
# Without a refusal it takes log(100) / log(0.98/0.9) = 54.08, so 55 in a row.
FLAWLESS = 55


def after(level: str) -> Apprentice:
    apprentice = Apprentice(CONFIG)
    for _ in range(FLAWLESS):
        apprentice = apprentice.imitated(1, 1)
    while apprentice.level != level:
        for n in range(FLAWLESS):
            apprentice = apprentice.propose(f"p{n}", 1, 0.0)
            apprentice, _ = apprentice.answer(f"p{n}", who="mia", agrees=True)
    return apprentice


def test_autonomy_is_earned_step_by_step() -> None:
    apprentice = Apprentice(CONFIG)
    for _ in range(FLAWLESS - 1):
        apprentice = apprentice.imitated(2, 2)
    assert apprentice.level == "imitate"
    assert apprentice.imitated(2, 2).level == "approve"
    assert apprentice.imitated(2, 3).level == "imitate"
    for level in ("approve", "veto", "autonomous"):
        assert (after(level).level, after(level).accepted) == (level, 0)


def test_an_apprentice_of_whom_too_much_is_refused_is_rarely_promoted() -> None:
    rng, promoted = Seeds(0).numpy("refusals"), 0
    for _ in range(300):
        apprentice = Apprentice(CONFIG)
        for agrees in rng.random(400) < 0.9:
            apprentice = apprentice.imitated(1, int(agrees))
            if apprentice.level != "imitate":
                promoted += 1
                break
    assert promoted / 300 < 0.01 + 5 * (0.01 * 0.99 / 300) ** 0.5


def test_approval_vetoes_and_what_silence_means() -> None:
    apprentice = after("approve").propose("a", 1, 0.0).propose("b", 2, 0.0).propose("c", 3, 10.0)
    apprentice, settled = apprentice.answer("a", who="mia", agrees=True)
    assert (settled.action, settled.how) == (1, "approved")
    apprentice, late = apprentice.expire(60.0)
    assert [(one.id, one.action, one.how) for one in late] == [("b", 4, "expired")]  # nobody approved: the safe action
    assert set(apprentice.waiting) == {"c"}
    asking = after("veto").propose("a", 1, 0.0).propose("b", 2, 0.0).propose("c", 3, 0.0)
    asking, vetoed = asking.answer("b", who="mia", agrees=False, why="too cold")
    assert (vetoed.action, vetoed.how, vetoed.why) == (4, "vetoed", "too cold")
    asking, instead = asking.answer("c", who="mia", agrees=False, instead=0)
    assert (instead.action, instead.how) == (0, "overridden")
    assert asking.refused == 2
    asking, late = asking.expire(60.0)
    assert [(one.id, one.action) for one in late] == [("a", 1)]  # nobody objected
    free, acted = after("autonomous").propose("a", 1, 5.0).expire(5.0)
    assert [(one.id, one.action) for one in acted] == [("a", 1)]
    assert free.level == "autonomous"


def test_a_violation_costs_the_autonomy_and_takes_back_what_waits() -> None:
    fallen = after("veto").propose("a", 1, 0.0).violated()
    assert (fallen.level, fallen.accepted) == ("approve", 0)
    _, settled = fallen.expire(60.0)
    assert settled[0].action == 4
    assert after("autonomous").violated().level == "approve"
    assert Apprentice(CONFIG).violated().level == "imitate"


def test_what_does_not_belong_to_a_level() -> None:
    with pytest.raises(ConfigError):
        Apprentice(CONFIG).propose("a", 1, 0.0)
    with pytest.raises(ConfigError):
        after("approve").imitated(1, 1)
    with pytest.raises(ConfigError, match="waits already"):
        after("approve").propose("a", 1, 0.0).propose("a", 1, 0.0)
    with pytest.raises(ConfigError, match="No proposal"):
        after("approve").answer("a", who="mia", agrees=True)
    with pytest.raises(ConfigError):
        ApprenticeConfig(good=0.2)
