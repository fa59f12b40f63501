"""What goes over the wire and into the log, and its encoding: the one file that imports msgspec.

Requests are decoded straight into these shapes; a field of another type is refused before anything else looks at it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import msgspec
import numpy as np

from rlcourse.release.routing import Routing
from rlcourse.serving.policies import Booleans, Floats
from rlcourse.serving.refusals import Refused

S = TypeVar("S")
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=128, pattern=r"^[\x21-\x7e]+\Z")]
Raw = msgspec.Raw
NULL = msgspec.Raw(b"null")
LARGEST = float(np.finfo(np.float32).max)
"""Beyond it a number is infinite to a network of 32-bit floats."""
DEAREST = 1e9
"""Euros that one decision may cost."""
NAMES_AT_ONCE = 16
"""By so many names may the costs or the violations of one decision be told apart."""
Euros = Annotated[float, msgspec.Meta(ge=0.0, le=DEAREST)]
Times = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]
Number = Annotated[float, msgspec.Meta(ge=-LARGEST, le=LARGEST)]
Costs = Euros | Annotated[dict[Name, Euros], msgspec.Meta(max_length=NAMES_AT_ONCE)]
Violations = Times | Annotated[dict[Name, Times], msgspec.Meta(max_length=NAMES_AT_ONCE)]


class ActionRequest(msgspec.Struct, forbid_unknown_fields=True):
    """What a client asks. ``null`` in an observation stands for a reading that is missing.

    A word that is not among these is refused: ``"determinstic": false`` would otherwise be answered greedily, for months.
    """

    observation: msgspec.Raw  # (D,) or (B, D) numbers
    deterministic: bool = True  # the likeliest action; false draws one
    mask: msgspec.Raw = NULL  # (A,) or (B, A) booleans: what is allowed; null allows all
    session: Name | None = None  # whose memory to go on with; also draws who is answered by a version on trial
    reset: bool = False  # an episode begins here: forget what the session remembered
    version: Name | None = None  # None: the default one, or the one on trial
    request_id: Name | None = None
    deadline_ms: Annotated[float, msgspec.Meta(gt=0.0, le=60_000.0)] | None = None


class ReplicaRequest(ActionRequest, forbid_unknown_fields=True):
    """The same to a replica that remembers nothing: its client brings the memory along."""

    memory: msgspec.Raw = NULL  # (H,) or (B, H) numbers; null: an episode begins
    greedy: bool | None = None  # an older word for deterministic


class ActionAnswer(msgspec.Struct):
    """One action each for one observation, lists of them for a batch.

    ``probability`` is the propensity: with which probability the service took the action, 1 if deterministic. Continuous
    actions have a density instead, in the units of the environment, of the action as it was drawn (see
    :mod:`rlcourse.serving.continuous`); ``None`` if it was not drawn: deterministic, or a fixed fallback.
    """

    action: int | list[Any]  # a continuous action is a list of K numbers
    probability: float | list[Any] | None
    confidence: float | list[float] | None  # the policy's own probability of it; None: not asked, or continuous
    policy: str
    version: str
    request_id: str
    deterministic: bool
    fallback: str | list[str | None] | None  # why the policy's answer was not used


class Executed(msgspec.Struct, forbid_unknown_fields=True):
    """The action that was carried out, where a person or a safety layer may have put another in the policy's place."""

    action: Times | Annotated[list[Number], msgspec.Meta(min_length=1, max_length=4096)]  # as in the answer
    reason: Name = "unspecified"  # or who; a few words that come again, for they become a label


class RewardRequest(msgspec.Struct, forbid_unknown_fields=True):
    """What an action led to, from whoever knows it."""

    request_id: Name
    reward: Number
    terminated: bool = False  # the task ended here
    truncated: bool = False  # the episode was cut off here
    next_observation: list[Number] | None = None  # what was seen then; wanted where an episode is cut off
    row: Times = 0  # which observation of a batch
    session: Name | None = None  # of the decision; its memory is dropped at the end of the episode
    executed: Executed | None = None  # null: what was answered, or nobody knows
    cost: Costs | None = None  # what it cost, all together or by what for; null: nobody knows, which is not 0
    violations: Violations | None = None  # steps outside a safety limit, all together or by limit; null: nobody looked


class DecisionLine(msgspec.Struct, tag="decision", tag_field="kind", omit_defaults=True):
    """A line of the decision log."""

    request_id: str
    time: float
    policy: str
    version: str
    observation: msgspec.Raw
    action: int | list[int | float | list[float]]  # a continuous one is a list of numbers, its batch a list of lists
    propensity: float | list[float | None] | None  # a density of continuous actions, as in the answer
    latency_ms: float
    greedy: bool = False
    mask: msgspec.Raw = NULL
    fallback: str | list[str | None] | None = None
    session: str | None = None
    started: bool = False  # a memory began here
    sampled: list[float | list[float]] | None = None  # as drawn, where a bound cut some off; propensity is of this
    explored: bool | list[bool] | None = None  # another action was likelier; null: nothing drawn, or continuous


class RewardLine(msgspec.Struct, tag="reward", tag_field="kind", omit_defaults=True):
    """A line of the decision log: what came of an earlier line."""

    request_id: str
    time: float
    reward: float
    terminated: bool = False
    truncated: bool = False
    next_observation: list[float] | None = None
    row: int = 0
    executed: Executed | None = None
    cost: Costs | None = None
    violations: Violations | None = None
    session: str | None = None  # tells decisions of one id apart


class ShadowLine(msgspec.Struct, tag="shadow", tag_field="kind", omit_defaults=True):
    """A line of the decision log: what a shadow would have answered to the request of an earlier line."""

    request_id: str  # of that line
    time: float
    policy: str
    version: str  # of the shadow
    action: int | list[Any] | None  # as in a decision; None: it failed
    probability: float | list[float] | None  # with which it would have taken the action that was taken
    latency_ms: float  # of the shadow alone


class LoadRequest(msgspec.Struct, forbid_unknown_fields=True):
    """A version to load, from a folder on the server's own disk."""

    path: Annotated[str, msgspec.Meta(min_length=1, max_length=4096, pattern=r"^[^\x00]+\Z")]
    version: Name | None = None
    default: bool = False


class DefaultRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The version that answers from now on, or is a shadow."""

    version: Name


Share = Annotated[float, msgspec.Meta(ge=0.0, lt=1.0)]
Salt = Annotated[str, msgspec.Meta(max_length=1024)]


class TrialRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The version that answers a share of the sessions."""

    version: Name
    share: Share
    salt: Salt = ""


class RoutingRequest(msgspec.Struct, forbid_unknown_fields=True):
    """All of it: :class:`rlcourse.release.routing.Routing`."""

    live: Name
    trial: Name | None = None
    share: Share = 0.0
    salt: Salt = ""
    shadow: Name | None = None


encode: Callable[[Any], bytes] = msgspec.json.Encoder().encode
_LINES = msgspec.json.Decoder(DecisionLine | RewardLine)
_ALL_LINES = msgspec.json.Decoder(DecisionLine | RewardLine | ShadowLine)
_ONE = msgspec.json.Decoder(list[float | None])
_MANY = msgspec.json.Decoder(list[list[float | None]])
_ONE_MASK = msgspec.json.Decoder(list[bool])
_MANY_MASKS = msgspec.json.Decoder(list[list[bool]])


def decoder(kind: type[S]) -> Callable[[bytes], S]:
    """A function from a body's bytes to ``kind``.

    Raises (the function):
        Refused: 400 for what is no JSON, 422 for JSON of another shape.
    """
    decode = msgspec.json.Decoder(kind).decode

    def read(body: bytes) -> S:
        try:
            return decode(body)
        except msgspec.ValidationError as error:
            raise Refused(422, f"{error}.", mend="Send the fields that /openapi.json describes.") from error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Refused(400, f"{error}.", mend="Send one JSON object.") from error

    return read


def read_action(body: bytes) -> ActionRequest:
    """See :func:`decoder`."""
    return _read_action(body)


_read_action = decoder(ActionRequest)
read_replica = decoder(ReplicaRequest)
read_reward = decoder(RewardRequest)
read_rewards = decoder(list[RewardRequest])
read_load = decoder(LoadRequest)
read_default = decoder(DefaultRequest)
read_trial = decoder(TrialRequest)
_read_routing = decoder(RoutingRequest)


def read_routing(body: bytes) -> Routing:
    """See :func:`decoder`.

    Raises:
        ConfigError: each part is sound, and they contradict each other.
    """
    found = _read_routing(body)
    return Routing(found.live, found.trial, found.share, found.salt, found.shadow)


def read_line(line: bytes) -> DecisionLine | RewardLine:
    """A decision or a reward of the log.

    Raises:
        ValueError: it is neither.
    """
    found: DecisionLine | RewardLine = _LINES.decode(line)
    return found


def read_any_line(line: bytes) -> DecisionLine | RewardLine | ShadowLine:
    """A line of the log, be it what a shadow would have done.

    Raises:
        ValueError: it is none.
    """
    found: DecisionLine | RewardLine | ShadowLine = _ALL_LINES.decode(line)
    return found


def _nested(raw: bytes) -> bool:
    return raw[1:2] == b"[" or (raw[1:2].isspace() and raw[1:].lstrip()[:1] == b"[")


def read_observations(raw: bytes) -> tuple[list[float | None] | list[list[float | None]], bool]:
    """The numbers, and whether they are a batch's.

    Raises:
        ValueError: something else.
    """
    many = _nested(raw)
    return (_MANY if many else _ONE).decode(raw), many


def observation(raw: bytes, size: int) -> tuple[Floats, bool, list[bool] | None]:
    """``(B, D)`` observations, whether there were several, and which rows cannot be used (``None``: all can).

    Rows with missing readings, or numbers too large for 32 bits, come back as zeros.

    Raises:
        Refused: 422, something else than numbers or another number of them.
    """
    try:
        values, many = read_observations(raw)
        if not many:
            if len(values) != size:
                raise ValueError(f"there are {len(values)} numbers")
            try:
                if min(values) >= -LARGEST and max(values) <= LARGEST:  # type: ignore[type-var, operator]
                    return np.array([values], np.float32), False, None
            except TypeError:  # None does not compare with numbers
                pass
            return np.zeros((1, size), np.float32), False, [True]
        if not values:
            raise ValueError("the batch is empty")
        array = np.array(values, np.float64)  # None becomes NaN; rows of unlike lengths raise
        if array.shape[-1] != size:
            raise ValueError(f"there are {array.shape[-1]} numbers in a row")
    except ValueError as error:  # msgspec's and NumPy's errors are ValueErrors too
        raise Refused(
            422,
            f"The observation does not fit: {error}.",
            mend=f"Send {size} numbers, or a list of such lists; null for a missing one.",
        ) from error
    usable = np.atleast_1d((np.abs(array) <= LARGEST).all(-1))
    if usable.all():
        return array.astype(np.float32), True, None
    array[~usable] = 0.0
    return array.astype(np.float32), True, (~usable).tolist()


def action_mask(raw: bytes, rows: int, size: int) -> Booleans:
    """``(B, A)`` true where allowed; one row serves a whole batch.

    Raises:
        Refused: 422, something else, or nothing allowed.
    """
    try:
        array = np.array((_MANY_MASKS if _nested(raw) else _ONE_MASK).decode(raw), np.bool_)
        mask = np.broadcast_to(array, (rows, size)) if array.shape[-1:] == (size,) else None
    except ValueError as error:
        raise Refused(422, f"The mask does not fit: {error}.", mend=f"Send {size} booleans for each row.") from error
    if mask is None or not bool(mask.any(-1).all()):
        raise Refused(
            422,
            "The mask allows nothing." if mask is not None else f"The mask has shape {array.shape}.",
            mend=f"Send {size} booleans for each row, at least one of them true.",
        )
    return mask


def mask_size(raw: bytes) -> int:
    """``A`` of a mask in the log, ``(A,)`` or ``(B, A)``.

    Raises:
        ValueError: it is no mask.
    """
    return len(_MANY_MASKS.decode(raw)[0]) if _nested(raw) else len(_ONE_MASK.decode(raw))


def one_line(raw: msgspec.Raw) -> msgspec.Raw:
    """The same JSON without line breaks, fit for a file of JSON lines."""
    data = bytes(raw)
    return msgspec.Raw(data.replace(b"\n", b" ").replace(b"\r", b" ")) if b"\n" in data or b"\r" in data else raw
