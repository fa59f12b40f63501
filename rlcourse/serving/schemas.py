"""What requests and answers look like, for ``/openapi.json``."""

from __future__ import annotations

from typing import Any

from rlcourse.serving import wire

PATH_SCHEMA = {"type": "string", "minLength": 1, "maxLength": 4096, "pattern": "^[^\\x00]+$"}
NAME_SCHEMA = {"type": "string", "minLength": 1, "maxLength": 128, "pattern": "^[\\x21-\\x7e]+$"}
_NUMBERS = {"type": "array", "items": {"type": ["number", "null"]}}
_BOOLEANS = {"type": "array", "items": {"type": "boolean"}}
ACTION_SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["observation"],
    "properties": {
        "observation": {"anyOf": [_NUMBERS, {"type": "array", "items": _NUMBERS}]},
        "deterministic": {"type": "boolean", "default": True},
        "mask": {
            "anyOf": [_BOOLEANS, {"type": "array", "items": _BOOLEANS}, {"type": "null"}],
            "description": "What is allowed, one for each action. Refused (422) by a policy over continuous actions.",
        },
        "session": {
            **NAME_SCHEMA,
            "description": "Whose memory to go on with. It also draws who is answered by a version on trial; a request "
            "without a session is answered by the default.",
        },
        "reset": {"type": "boolean", "default": False},
        "version": NAME_SCHEMA,
        "request_id": NAME_SCHEMA,
        "deadline_ms": {"type": "number", "exclusiveMinimum": 0, "maximum": 60000},
    },
}


def _or_list(kind: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [kind, {"type": "array", "items": kind}]}


_CONTINUOUS = {"type": "array", "items": {"type": "number"}, "minItems": 1}
ANSWER_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["action", "probability", "policy", "version", "request_id", "fallback"],
    "properties": {
        "action": {
            "anyOf": [
                {"type": "integer", "minimum": 0},
                {"type": "array", "items": {"type": "integer", "minimum": 0}},
                _CONTINUOUS,
                {"type": "array", "items": _CONTINUOUS},
            ],
            "description": "The number of an action; or, of a policy over continuous actions, a list of numbers within "
            "their bounds. A batch of observations gets a list of either.",
        },
        "probability": {
            **_or_list({"type": ["number", "null"], "minimum": 0}),
            "description": "With which the service took the action: 1 if deterministic. Of a continuous action its density, "
            "in the units of the environment, as it was drawn, before a bound cut it off; null if it was not drawn: "
            "deterministic, or a fixed fallback.",
        },
        "confidence": {
            **_or_list({"type": ["number", "null"]}),
            "description": "The policy's own probability of the action; null where it was not asked, and for continuous ones.",
        },
        "policy": {"type": "string"},
        "version": {"type": "string"},
        "request_id": {"type": "string"},
        "deterministic": {"type": "boolean"},
        "fallback": {
            **_or_list({"type": ["string", "null"]}),
            "description": "Why the policy's own answer was not used; null where it was.",
        },
    },
}


def _by_name(amount: dict[str, Any], description: str) -> dict[str, Any]:
    named = {
        "type": "object",
        "additionalProperties": amount,
        "propertyNames": NAME_SCHEMA,
        "maxProperties": wire.NAMES_AT_ONCE,
    }
    return {"anyOf": [amount, named, {"type": "null"}], "description": description}


_NUMBER = {"type": "number", "minimum": -wire.LARGEST, "maximum": wire.LARGEST}
_TIMES = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}
_EXECUTED: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["action"],
    "properties": {
        "action": {"anyOf": [_TIMES, {"type": "array", "items": _NUMBER, "minItems": 1, "maxItems": 4096}]},
        "reason": {**NAME_SCHEMA, "default": "unspecified"},
    },
}
_REWARD: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["request_id", "reward"],
    "properties": {
        "request_id": NAME_SCHEMA,
        "reward": _NUMBER,
        "terminated": {"type": "boolean"},
        "truncated": {"type": "boolean"},
        "next_observation": {
            "anyOf": [{"type": "array", "items": _NUMBER}, {"type": "null"}],
            "description": "As long as an observation of a policy here; another length is refused.",
        },
        "row": _TIMES,
        "session": {**NAME_SCHEMA, "description": "Of the decision, if it had one. Tells decisions of one id apart."},
        "executed": {
            "anyOf": [_EXECUTED, {"type": "null"}],
            "description": "The action that was carried out, where a person or a safety layer may have replaced the "
            "answer's; where it differs it is counted as an override, by its reason. What is no action is refused.",
        },
        "cost": _by_name(
            {"type": "number", "minimum": 0, "maximum": wire.DEAREST},
            "Euros that the decision led to, all together or by what for. Left out: nobody knows, which is not 0.",
        ),
        "violations": _by_name(
            _TIMES,
            "Steps that ended outside a safety limit, all together or by limit. 0 says that somebody looked.",
        ),
    },
}
REWARD_SCHEMA = _or_list(_REWARD)

_SHARE = {"type": "number", "minimum": 0, "exclusiveMaximum": 1}
_SALT = {"type": "string", "maxLength": 1024}
TRIAL_SCHEMA: dict[str, Any] = {"version": NAME_SCHEMA, "share": _SHARE, "salt": _SALT}
_NAME_OR_NULL = {"anyOf": [NAME_SCHEMA, {"type": "null"}]}
ROUTING_SCHEMA: dict[str, Any] = {
    "live": NAME_SCHEMA,
    "trial": _NAME_OR_NULL,
    "share": _SHARE,
    "salt": _SALT,
    "shadow": _NAME_OR_NULL,
}


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What FastAPI is told of refusals with these statuses."""
    words = {
        400: "No JSON",
        401: "No valid API key",
        404: "No such policy or version",
        409: "It cannot be done as things stand",
        413: "The body is too large",
        422: "JSON of another shape",
        429: "Too many requests; see Retry-After",
    }
    return {status: {"description": words[status]} for status in statuses}
