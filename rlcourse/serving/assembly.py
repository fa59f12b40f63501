"""The parts of a serving process, put together, and what it keeps on the disk.

::

    state/
    ├── decisions/*.jsonl       the decision log
    ├── sessions-NAME-VERSION.npz   what recurrent policies remember, saved now and then and at the end
    └── shelf.json              which versions were loaded and who answered whom, so that both outlive a crash

What a kill loses of each: no decision whose answer was sent (those of the last ``flush_interval_s``, 20 ms, where the log's
durability is ``batched``); memories of the last ``session_save_interval_s`` (a minute), so that a session goes on from what it
knew then, and one that began since begins anew; nothing of the versions, which are written down at every change.
"""

from __future__ import annotations

import json
import logging
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

from rlcourse.errors import ArtifactError, ConfigError, StorageError
from rlcourse.files import write_json
from rlcourse.randomness import Seeds
from rlcourse.release.routing import Routing
from rlcourse.serving import wire
from rlcourse.serving.decision_log import DecisionLog, DecisionLogConfig, ListRecorder
from rlcourse.serving.guarded import Guarded
from rlcourse.serving.hot import Application, HttpConfig
from rlcourse.serving.http import documented, management
from rlcourse.serving.metrics import CONTENT_TYPE, Counting, Registry, exposition
from rlcourse.serving.policies import read_artifact
from rlcourse.serving.refusals import Refused
from rlcourse.serving.server import ServerConfig, run
from rlcourse.serving.service import PolicyService, ServiceConfig
from rlcourse.serving.shelf import Entry, Loaded, Shelf, ShelfConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class AssemblyConfig:
    """Everything that can be set."""

    server: ServerConfig
    http: HttpConfig
    service: ServiceConfig
    shelf: ShelfConfig
    log: DecisionLogConfig


class Forgetful(ListRecorder):
    """Takes lines and keeps none: a service without a state folder."""

    def append(self, line: bytes) -> None:
        """Do nothing."""


class Assembly:
    """A shelf, a service, its log, its counts and its web application.

    Raises:
        StorageError: the state folder cannot be written to.
    """

    def __init__(
        self,
        config: AssemblyConfig,
        *,
        state: Path | None,
        keys: Sequence[str] = (),
        seed: int = 0,
        replay: bool = False,
        registry: Registry | None = None,
    ) -> None:
        self.config, self.state = config, state
        self.registry = Registry() if registry is None else registry
        self.shelf = Shelf(config.shelf, clock=time.perf_counter, wall=time.time)
        self.log = None if state is None else DecisionLog(state / "decisions", config.log)
        self.counting = Counting(self.shelf, self.log)
        self.registry.register(self.counting)
        self.service = PolicyService(
            self.shelf,
            config.service,
            # The same draws after every restart would make of exploration a habit.
            rng=Seeds(seed).numpy("serving", 0 if replay else time.time_ns()),
            clock=time.perf_counter,
            wall=time.time,
            recorder=self.log or Forgetful(),
            watcher=self.counting,
            prefix=f"{secrets.token_hex(6)}-",
        )
        flush = None if self.log is None or config.log.durability == "batched" else self.log.flush
        self.application = Application(
            self.service,
            config.http,
            rest=documented(
                self.service,
                max_body_bytes=config.http.max_body_bytes,
                exposition=lambda: (exposition(self.registry), CONTENT_TYPE),
                refused=self.counting.refused,
                ready=self._unready,
                flush=flush or (lambda: None),
            ),
            refused=self.counting.refused,
            keys=keys,
            flush=flush,
        )
        self.counting.in_flight = lambda: self.application.in_flight
        self.counting.shadows_dropped = lambda: self.service.shadows.dropped
        self._saved = time.monotonic()
        self._saving: threading.Thread | None = None
        self._named: dict[str, str] = {}  # the first version of each name that was loaded before the state was read
        self._restored: set[str] = set()  # names whose default the state says
        self._problem: str | None = None
        self._warned = False

    def load(self, name: str, folder: Path, *, version: str | None = None) -> None:
        """Read, warm, and put on the shelf.

        Raises:
            ArtifactError: there is no policy there that can be served.
            ConfigError: the fallback is no action of this policy.
            Refused: it is loaded already.
        """
        self.shelf.add(self.shelf.warm(name, read_artifact(folder), version=version, path=folder))

    def restore(self) -> None:
        """Go on where the state folder says an earlier process stopped: its versions, who answers whom, its sessions.

        Raises:
            ArtifactError: the state is damaged.
        """
        if self.state is None:
            return
        path = self.state / "shelf.json"
        self._named = {name: next(iter(entry.versions)) for name, entry in self.shelf.entries.items()}
        if path.exists():
            try:
                known = json.loads(path.read_text(encoding="utf-8"))
                for name, entry in known.items():
                    self._restore_entry(name, entry)
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                raise ArtifactError(
                    f"{path} does not say which versions were live: {error}.",
                    mend="Move the file away; the policies named on the command line then answer.",
                ) from error
        for loaded in self._loaded():
            saved = self._sessions_path(loaded)
            if loaded.sessions is not None and saved.exists():
                foreign = loaded.sessions.restore(saved)
                if foreign:
                    logger.warning(
                        "%s holds %d memories that other weights made. %s %s means nothing by them: these sessions begin anew.",
                        saved,
                        foreign,
                        loaded.name,
                        loaded.version,
                    )
        self.note_shelf()

    def defaults(self) -> list[str]:
        """Which version answers by default, policy by policy, and why it and no other."""
        return [self._default(name, entry) for name, entry in self.shelf.entries.items()]

    def _default(self, name: str, entry: Entry) -> str:
        version, named = entry.default.version, self._named.get(name)
        if name not in self._restored or self.state is None:
            why = "the first that was named" if len(entry.versions) > 1 else "the only one"
        else:
            why = f"as {self.state / 'shelf.json'} says"
            if named not in (None, version):
                why += (
                    f", and not {named}, which was named first: make it the default, or begin with another state folder"
                )
        return f"{name}: version {version} answers by default, {why}"

    def _restore_entry(self, name: str, known: dict[str, object]) -> None:
        here = self.shelf.entries.get(name)
        paths = known["versions"]
        assert isinstance(paths, dict)
        for version, folder in paths.items():
            if (here is None or version not in here.versions) and folder is not None and Path(folder).is_dir():
                self.load(name, Path(folder), version=version)
                here = self.shelf.entries[name]
        try:  # until there were trials, the default alone was written down
            routing = wire.read_routing(wire.encode(known.get("routing") or {"live": known["default"]}))
        except (Refused, ConfigError) as error:
            raise ValueError(str(error)) from error
        if here is not None and routing.live in here.versions:
            # A version whose folder is gone is no longer on trial.
            if routing.trial not in here.versions:
                routing = replace(routing, trial=None, share=0.0, salt="")
            if routing.shadow not in here.versions:
                routing = replace(routing, shadow=None)
            try:
                self.shelf.route(name, routing)
            except Refused as refusal:  # a folder holds another policy by now; the default has to answer all the same
                logger.warning("%s alone answers: %s", routing.live, refusal)
                self.shelf.route(name, Routing(routing.live))
            self._restored.add(name)
            history = known["history"]
            assert isinstance(history, list)
            here.history = [version for version in history if version in here.versions]

    def note_shelf(self) -> None:
        """Write down what is loaded and who answers whom; without a state folder say once that nobody does."""
        if self.state is None:
            if not self._warned:
                logger.warning(
                    "Changed while serving, and kept in memory alone: a restart forgets the versions loaded since the start, "
                    "the default, the trial and the shadow. Start with --state FOLDER to keep them."
                )
            self._warned = True
        else:
            write_json(
                self.state / "shelf.json",
                {
                    name: {
                        "routing": entry.split.routing.to_json(),
                        "history": entry.history,
                        "versions": {
                            version: None if loaded.path is None else str(loaded.path.absolute())
                            for version, loaded in entry.versions.items()
                        },
                    }
                    for name, entry in self.shelf.entries.items()
                },
            )

    def run(self, listening: Callable[[str, str], None]) -> None:
        """Serve until told to stop."""
        app = management(self.service, read=read_artifact, unloading=self.counting.unloading, changed=self.note_shelf)
        run(self.application, Guarded(app), self.config.server, listening=listening, every_second=self._now_and_then)

    def close(self) -> None:
        """Write everything out."""
        if self._saving is not None:
            self._saving.join()
        self.service.shadows.close()
        try:
            self.save_sessions()
        finally:
            self._close_log()

    def _close_log(self) -> None:
        if self.log is not None:
            self.log.close()

    def save_sessions(self) -> None:
        """Write what recurrent policies remember.

        Raises:
            StorageError: the disk is full or not writable.
        """
        for write, path in self._snapshots():
            write(path)

    def _snapshots(self) -> list[tuple[Callable[[Path], None], Path]]:
        if self.state is None:
            return []
        return [
            (loaded.sessions.snapshot(), self._sessions_path(loaded))
            for loaded in self._loaded()
            if loaded.sessions is not None
        ]

    def _now_and_then(self) -> None:
        interval_s = self.config.shelf.session_save_interval_s
        if time.monotonic() - self._saved <= interval_s or (self._saving is not None and self._saving.is_alive()):
            return
        self._saved = time.monotonic()
        snapshots = self._snapshots()

        def save() -> None:
            try:
                for write, path in snapshots:
                    write(path)
                self._problem = None
            except StorageError as error:  # nobody to raise it to: /readyz says so, and it is tried again
                self._problem = str(error)

        if snapshots:
            self._saving = threading.Thread(target=save, name="sessions", daemon=True)
            self._saving.start()

    def _unready(self) -> str | None:
        if self.application.draining:
            return "draining"
        if not self.shelf.entries:
            return "no policy is loaded"
        if self.log is not None and self.log.problem is not None:
            return f"the decision log cannot be written: {self.log.problem}"
        return self._problem

    def _loaded(self) -> list[Loaded]:
        return [loaded for entry in self.shelf.entries.values() for loaded in entry.versions.values()]

    def _sessions_path(self, loaded: Loaded) -> Path:
        assert self.state is not None
        return self.state / f"sessions-{quote(loaded.name, safe='')}-{quote(loaded.version, safe='')}.npz"
