"""Releases that undo themselves: a new policy takes over little by little, and goes back by itself when it does harm.

::

    off-policy verdict ─┐
    live returns ───────┼─▶ gate ──▶ promote | hold | roll back ──▶ controller ──▶ router
    SLO counts ─────────┘    │                                         │
                         reasons as data                     audit log, state on disk

What decides is pure: numbers in, a decision with its reasons out. What touches the world is at the edge: the state and the
audit log on the disk, and the routers in :mod:`rlcourse.release.adapters`.

========================================  =====================================================================
:mod:`~rlcourse.release.sequential`       confidence sequences: intervals that may be looked at every day
:mod:`~rlcourse.release.boundaries`       a few planned looks: Pocock, O'Brien and Fleming
:mod:`~rlcourse.release.power`            how many episodes a decision needs
:mod:`~rlcourse.release.matching`         two arms compared day by day, with what the weather explains taken out
:mod:`~rlcourse.release.rooms`            the same where the same rooms come every day: their differences are in the variance
:mod:`~rlcourse.release.conditions`       what an episode met and no policy could change, as sums by day
:mod:`~rlcourse.release.adjusting`        the log says what is usual; live returns are adjusted by it, and leaks looked for
:mod:`~rlcourse.release.gates`            evidence in, decision and reasons out
:mod:`~rlcourse.release.assignment`       who is in the canary, and stays there
:mod:`~rlcourse.release.stages`           shadow, canary, A/B, bake, blue-green: the way of one release
:mod:`~rlcourse.release.shadow`           what mirrored requests show; :mod:`~rlcourse.release.mirror` sends them
:mod:`~rlcourse.release.apprentice`       autonomy that is earned: imitate, approve, veto, autonomous
:mod:`~rlcourse.release.proposals`        the override queue: what an apprentice proposes waits there for a person
:mod:`~rlcourse.release.audit`            who did what, when and why, in a chain that cannot be edited unseen
:mod:`~rlcourse.release.controller`       the state machine that survives being killed at any step
:mod:`~rlcourse.release.straying`         whether the router still does what it was told
:mod:`~rlcourse.release.planning`         how long each stage has to be
:mod:`~rlcourse.release.simulate`         thousands of releases on the server room, to know the gate's error rates
:mod:`~rlcourse.release.study`            the study of the gates; :mod:`~rlcourse.release.study_rooms`: in rooms that differ
:mod:`~rlcourse.release.running`          the same on rooms that go on from day to day, as a check
:mod:`~rlcourse.release.evidence`         evidence and verdicts as files
========================================  =====================================================================
"""
