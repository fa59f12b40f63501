"""The service's web applications, as FastAPI makes them: the rare and documented routes, and the management.

::

    POST /v1/policies/{name}/action   ┐ described here and answered before it comes to this:
    POST /predictions/{name}          ┘ :class:`~rlcourse.serving.hot.Application`
    POST /v1/rewards     GET /v1/policies    DELETE /v1/policies/{name}/sessions/{session}
    GET /healthz /readyz /metrics /openapi.json /docs

Versions are loaded and switched by another application (:func:`management`), which belongs on a port that only this
machine can reach.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from rlcourse.errors import ArtifactError, ConfigError, StorageError
from rlcourse.release.routing import Routing
from rlcourse.serving import wire
from rlcourse.serving.hot import Application, HttpConfig
from rlcourse.serving.policies import Artifact
from rlcourse.serving.refusals import Refused
from rlcourse.serving.schemas import (
    ACTION_SCHEMA,
    ANSWER_SCHEMA,
    NAME_SCHEMA,
    PATH_SCHEMA,
    REWARD_SCHEMA,
    ROUTING_SCHEMA,
    TRIAL_SCHEMA,
    errors,
)
from rlcourse.serving.service import PolicyService
from rlcourse.serving.shelf import Loaded

__all__ = ["Application", "HttpConfig", "documented", "listed", "management", "refusal_response"]


def documented(
    service: PolicyService,
    *,
    max_body_bytes: int,
    exposition: Callable[[], tuple[bytes, str]],
    refused: MutableMapping[int, int],
    ready: Callable[[], str | None] = lambda: None,
    flush: Callable[[], None] = lambda: None,
) -> FastAPI:
    """The application for everybody, hot route and all, and the pages that describe it.

    Args:
        service: who decides.
        max_body_bytes: a larger body is refused, and not read into memory.
        exposition: what a scrape of /metrics is answered.
        refused: counts refusals by status.
        ready: why the service is not ready, or ``None``.
        flush: called before anything is answered that may have been written down.
    """
    app = FastAPI(title="Policy service", version="1", description="What would the policy do?")

    async def whole(request: Request) -> bytes | Response:
        parts, size = [], 0
        async for part in request.stream():
            size += len(part)
            if size > max_body_bytes:
                refused[413] = refused.get(413, 0) + 1
                return JSONResponse(
                    {"error": "The body is too large.", "mend": "Send less at once."}, 413, {"connection": "close"}
                )
            parts.append(part)
        return b"".join(parts)

    def answered(produce: Callable[[], Any], status: int = 200) -> Response:
        try:
            content = produce()
            flush()
        except Refused as refusal:
            refused[refusal.status] = refused.get(refusal.status, 0) + 1
            return refusal_response(refusal)
        return Response(wire.encode(content), status, media_type="application/json")

    @app.get("/healthz", summary="The process is alive")
    async def healthz() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/readyz", summary="Policies are loaded and warm", responses={503: {"description": "Not ready"}})
    async def readyz() -> Response:
        why = ready()
        return JSONResponse({"status": why or "ready"}, 200 if why is None else 503)

    @app.get("/metrics", summary="For Prometheus", response_class=Response)
    async def metrics() -> Response:
        content, kind = exposition()
        return Response(content, media_type=kind)

    @app.get("/v1/policies", summary="What is loaded")
    async def policies() -> dict[str, Any]:
        return {"policies": [listed(service, name) for name in service.shelf.entries]}

    @app.get("/v1/policies/{name}", summary="The versions of a policy", responses=errors(404))
    async def policy(name: str) -> Response:
        return answered(lambda: listed(service, name))

    action = {
        "requestBody": {"required": True, "content": {"application/json": {"schema": ACTION_SCHEMA}}},
        "responses": {"200": {"description": "The action", "content": {"application/json": {"schema": ANSWER_SCHEMA}}}},
    }

    # Answered by the hot route, before routing; declared here for the documentation.
    @app.post(
        "/v1/policies/{name}/action",
        summary="Ask for an action",
        openapi_extra=action,
        responses=errors(400, 401, 404, 413, 422, 429),
    )
    @app.post(
        "/predictions/{name}",
        summary="The same, as TorchServe names it",
        openapi_extra=action,
        responses=errors(400, 401, 404, 413, 422, 429),
    )
    async def act(name: str, request: Request) -> Response:
        body = await whole(request)
        return body if isinstance(body, Response) else answered(lambda: service.act(name, wire.read_action(body)))

    reward = {"requestBody": {"required": True, "content": {"application/json": {"schema": REWARD_SCHEMA}}}}

    @app.post(
        "/v1/rewards",
        summary="Say what an action led to; one object, or a list of them",
        status_code=202,
        openapi_extra=reward,
        responses=errors(400, 413, 422),
    )
    async def rewards(request: Request) -> Response:
        body = await whole(request)
        if isinstance(body, Response):
            return body

        def take() -> dict[str, int]:
            given = wire.read_rewards(body) if body.lstrip()[:1] == b"[" else [wire.read_reward(body)]
            service.rewards(given)
            return {"accepted": len(given)}

        return answered(take, 202)

    @app.delete("/v1/policies/{name}/sessions/{session}", summary="Forget a session", responses=errors(404))
    async def forget(name: str, session: str) -> Response:
        return answered(lambda: {"forgotten": service.forget(session, name)})

    return app


def refusal_response(refusal: Refused) -> Response:
    """A refusal in FastAPI's words."""
    return JSONResponse({"error": refusal.problem, "mend": refusal.mend}, refusal.status)


def listed(service: PolicyService, name: str) -> dict[str, Any]:
    """A policy's versions, for people and programs; bounds of actions where they are continuous."""
    entry = service.shelf.entry(name)
    routing = entry.split.routing
    return {
        "name": name,
        "default": entry.default.version,
        "trial": routing.trial and {"version": routing.trial, "share": routing.share, "salt": routing.salt},
        "shadow": routing.shadow,
        "previous": entry.history[-1] if entry.history else None,
        "versions": [
            {
                "version": loaded.version,
                "obs_size": loaded.policy.obs_size,
                "num_actions": loaded.policy.num_actions,
                "action_low": None if loaded.actions is None else loaded.actions.low.tolist(),
                "action_high": None if loaded.actions is None else loaded.actions.high.tolist(),
                "memory_size": loaded.policy.memory_size,
                "breaker": loaded.breaker.state.name.lower(),
                "decisions": sum(loaded.counts.values()),
            }
            for loaded in entry.versions.values()
        ],
    }


def _tried(body: bytes, now: Routing) -> Routing:
    wanted = wire.read_trial(body)
    return replace(now, trial=wanted.version, share=wanted.share, salt=wanted.salt)


def _shadowed(body: bytes, now: Routing) -> Routing:
    return replace(now, shadow=wire.read_default(body).version)


def management(
    service: PolicyService,
    *,
    read: Callable[[Path], Artifact],
    unloading: Callable[[Loaded], None] = lambda loaded: None,
    changed: Callable[[], None] = lambda: None,
) -> FastAPI:
    """The application that loads, switches and unloads versions, and says who answers whom.

    Args:
        read: an artifact from its folder.
        unloading: told of a version before it goes.
        changed: told after every change, to write it down.
    """
    app = FastAPI(title="Policy service: management", version="1")
    shelf = service.shelf

    async def respond(produce: Callable[[], Awaitable[Any]], status: int = 200) -> Response:
        try:
            content = await produce()
        except Refused as refusal:
            return refusal_response(refusal)
        except (ArtifactError, ConfigError) as error:
            return refusal_response(Refused(422, error.problem, mend=error.mend))
        except StorageError as error:
            # Done, but a restart would not know of it.
            return refusal_response(Refused(507, error.problem, mend=error.mend))
        return JSONResponse(content, status)

    def schema(properties: dict[str, Any], *required: str) -> dict[str, Any]:
        content = {"type": "object", "properties": properties, "required": list(required)}
        return {"requestBody": {"required": True, "content": {"application/json": {"schema": content}}}}

    @app.get("/v1/policies", summary="What is loaded")
    async def policies() -> dict[str, Any]:
        return {"policies": [listed(service, name) for name in shelf.entries]}

    @app.post(
        "/v1/policies/{name}/versions",
        summary="Load a version, warm it, and put it on the shelf",
        status_code=201,
        responses=errors(400, 409, 422),
        openapi_extra=schema({"path": PATH_SCHEMA, "version": NAME_SCHEMA, "default": {"type": "boolean"}}, "path"),
    )
    async def load(name: str, request: Request) -> Response:
        body = await request.body()

        async def produce() -> Any:
            wanted = wire.read_load(body)
            folder = Path(wanted.path)
            # In a thread: reading and warming take longer than a request may wait.
            artifact = await asyncio.to_thread(read, folder)
            loaded = await asyncio.to_thread(shelf.warm, name, artifact, version=wanted.version, path=folder)
            shelf.add(loaded, default=wanted.default)
            changed()
            return listed(service, name)

        return await respond(produce, 201)

    def routes(part: str, summary: str, read: Callable[[bytes, Routing], Routing], body: dict[str, Any]) -> None:
        """PUT replaces a part of the routing, in one step and with one write."""

        @app.put(
            f"/v1/policies/{{name}}/{part}",
            summary=summary,
            responses=errors(400, 404, 409, 422),
            openapi_extra=body,
            operation_id=f"put_{part}",
        )
        async def put(name: str, request: Request) -> Response:
            return await rerouted(name, read, await request.body())

    def ends(part: str, summary: str, without: Callable[[Routing], Routing]) -> None:
        """DELETE takes a part of it out; where there is none it does nothing."""

        @app.delete(
            f"/v1/policies/{{name}}/{part}", summary=summary, responses=errors(404), operation_id=f"delete_{part}"
        )
        async def delete(name: str) -> Response:
            return await rerouted(name, lambda _, now: without(now), b"")

    async def rerouted(name: str, read: Callable[[bytes, Routing], Routing], body: bytes) -> Response:
        async def produce() -> Any:
            shelf.route(name, read(body, shelf.entry(name).split.routing))
            changed()
            return listed(service, name)

        return await respond(produce)

    a_version = schema({"version": NAME_SCHEMA}, "version")
    routes(
        "default",
        "Let another version answer",
        lambda body, now: now.led_by(wire.read_default(body).version),
        a_version,
    )
    routes("trial", "Let a version answer a share of the sessions", _tried, schema(TRIAL_SCHEMA, "version", "share"))
    routes("shadow", "Ask a version too, and answer nobody with it", _shadowed, a_version)
    routes(
        "routing",
        "Say who answers whom, all at once",
        lambda body, _: wire.read_routing(body),
        schema(ROUTING_SCHEMA, "live"),
    )
    ends("trial", "The default answers everybody", lambda now: replace(now, trial=None, share=0.0, salt=""))
    ends("shadow", "The shadow is asked no more", lambda now: replace(now, shadow=None))

    @app.post("/v1/policies/{name}/rollback", summary="Back to the default before", responses=errors(404, 409))
    async def rollback(name: str) -> Response:
        async def produce() -> Any:
            shelf.rollback(name)
            changed()
            return listed(service, name)

        return await respond(produce)

    @app.delete("/v1/policies/{name}/versions/{version}", summary="Unload", responses=errors(404, 409))
    async def unload(name: str, version: str) -> Response:
        async def produce() -> Any:
            loaded = shelf.find(name, version)
            shelf.unload(name, version)
            unloading(loaded)
            changed()
            return listed(service, name)

        return await respond(produce)

    return app
