"""Whether a router still does what it was told, and what is to be done where it does not.

::

    the router says ──┐                        ┌─ nobody new comes to the candidate ──▶ it is told again
                      ├─ not the same? ────────┤
    it was told ──────┘                        └─ sessions would come to it ──────────▶ pause: a person looks first

A service without a state folder forgets its routing when it restarts; so does one whose folder is gone, and so does HAProxy,
whose weights begin again as its configuration has them. But somebody in a hurry may also have taken the candidate out by
hand. The two look alike, so only a person may bring it back.
"""

from __future__ import annotations

from rlcourse.release.gates import Reason
from rlcourse.release.routing import Coarse, Router, Routing, Telling

PUT_RIGHT, PAUSE = "router_put_right", "router_forgot"
"""Codes of the two reasons."""


def strayed(router: Router, wanted: Routing, candidate: str) -> Reason | None:
    """What is wrong with the router and what is to be done, as the code says; ``None`` if nothing is, or it cannot be asked.

    Args:
        router: that was told ``wanted``.
        wanted: of it.
        candidate: of the release.

    Raises:
        ServerError: it could not be reached.
    """
    if isinstance(router, Coarse):
        wanted = router.nearest(wanted)
    said = router.current() if isinstance(router, Telling) else wanted
    if said == wanted:
        return None
    harmless = (
        said is not None
        and said.live in (wanted.live, candidate)
        and said.share_of(candidate) >= wanted.share_of(candidate)
    )
    code, then = (PUT_RIGHT, "It is told again.") if harmless else (PAUSE, "Resume tells it again.")
    why = "it began anew without a memory, or somebody told it otherwise"
    return Reason(code, f"The router says {_words(said)}, not {_words(wanted)}: {why}. {then}")


def _words(routing: Routing | None) -> str:
    if routing is None:
        return "nothing"
    trial = "" if routing.trial is None else f", {routing.trial} for {routing.share:.1%} (salt {routing.salt!r})"
    return f"{routing.live} live{trial}{'' if routing.shadow is None else f', {routing.shadow} as a shadow'}"
