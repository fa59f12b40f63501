"""Who is in the canary: decided by a hash, so that nobody has to remember it.

A session's place on the line from 0 to 1 follows from its name and the release's salt alone::

    0 ──────── share ──────────────────────── 1
    │  canary  │        incumbent             │
       a  b         c       d          e           share 0.2: {a, b}
       a  b         c                              share 0.5: {a, b, c}; whoever was in stays in

Three promises follow: *sticky* (a session meets one version as long as the share stays), *monotone* (a growing share takes
nobody out), and both survive any restart, on any machine. Another salt draws another canary, so that the same few rooms do
not try every release.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache

from rlcourse.errors import ConfigError


def place(session: str, salt: str) -> float:
    """Where a session stands, in [0, 1); uniform over sessions."""
    digest = hashlib.blake2b(session.encode(), key=_key(salt), digest_size=7).digest()
    return int.from_bytes(digest, "big") / 2**56  # 56 bits: more than a float holds apart would round up to 1


def in_canary(session: str, salt: str, share: float) -> bool:
    """Whether the candidate answers this session, for sessions that come and go.

    Raises:
        ConfigError: a share outside 0 to 1.
    """
    _check(share)
    return place(session, salt) < share


def canary_of(sessions: Sequence[str], salt: str, count: int) -> frozenset[str]:
    """The ``count`` sessions of a fixed fleet that stand first: exactly so many, where :func:`in_canary` gives about so many.

    Raises:
        ConfigError: more than there are, or a name that appears twice.
    """
    if len(set(sessions)) != len(sessions) or not 0 <= count <= len(sessions):
        raise ConfigError(
            f"{count} of {len(sessions)} sessions.", mend="Name each once, and ask for no more than there are."
        )
    return frozenset(sorted(sessions, key=lambda session: (place(session, salt), session))[:count])


@lru_cache(maxsize=64)  # a service asks for the same one with every request
def _key(salt: str) -> bytes:
    return hashlib.sha256(salt.encode()).digest()


def _check(share: float) -> None:
    if not 0.0 <= share <= 1.0:
        raise ConfigError(f"A share of {share}.", mend="Use 0 to 1, 0.05 for 5 %.")
