"""``rlcourse serve http``: a policy behind an HTTP port, with its decisions on record."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from rlcourse.errors import ConfigError, MissingExtraError
from rlcourse.recipes.common import NO_PREFIX, Common, report, say, write_report

try:
    from rlcourse.serving.assembly import Assembly, AssemblyConfig
    from rlcourse.serving.decision_log import DecisionLogConfig
    from rlcourse.serving.http import HttpConfig
    from rlcourse.serving.server import ServerConfig
    from rlcourse.serving.service import ServiceConfig
    from rlcourse.serving.shelf import ShelfConfig
except ModuleNotFoundError as error:
    raise MissingExtraError(
        f"Serving needs {error.name}, which is not installed.", mend="pip install 'rlcourse[serve]'"
    ) from error

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, kw_only=True)
class Serve(Common):
    """Answer over HTTP what a saved policy would do.

    Stops on SIGTERM or Ctrl-C when what has begun is answered. Send {"observation": [...]} to /predictions/rl_policy; see
    /docs for the rest.

    Example: rlcourse serve http runs/compare/policy --port 8080 --state runs/served
    """

    artifact: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Folders of saved policies, as FOLDER, NAME=FOLDER or NAME@VERSION=FOLDER. The name is rl_policy and the version the
    first digits of the weights' checksum where none is given; the first version of a name is its default, unless the state
    folder says which one was."""
    state: Path | None = None
    """Folder for the decision log, sessions and the chosen versions; without it nothing outlives the process."""
    api_keys: Path | None = None
    """A file with one API key a line; whoever sends none of them is answered 401."""
    replay: bool = False
    """Draw the same random numbers at every start. For demonstrations: a service that explores must not repeat itself."""
    server: Annotated[ServerConfig, NO_PREFIX] = field(default_factory=ServerConfig)
    """Where to listen."""
    http: Annotated[HttpConfig, NO_PREFIX] = field(default_factory=HttpConfig)
    """Bounds of the web layer."""
    service: Annotated[ServiceConfig, NO_PREFIX] = field(default_factory=ServiceConfig)
    """How requests are answered."""
    shelf: Annotated[ShelfConfig, NO_PREFIX] = field(default_factory=ShelfConfig)
    """Bounds of what is loaded."""
    log: DecisionLogConfig = field(default_factory=DecisionLogConfig)
    """The decision log."""

    def __post_init__(self) -> None:
        if not self.artifact:
            raise ConfigError("No policy was named.", mend="Name the folder of a saved policy.")
        if self.device not in ("auto", "cpu"):
            raise ConfigError(
                f"Policies are served on the CPU, not on {self.device}.",
                mend="Leave --device out; small networks gain nothing.",
            )


def run(config: Serve) -> int:
    """Serve until told to stop."""
    started = time.perf_counter()
    keys: Sequence[str] = ()
    if config.api_keys is not None:
        try:
            keys = [line.strip() for line in config.api_keys.read_text(encoding="utf-8").splitlines() if line.strip()]
        except OSError as error:
            raise ConfigError(f"{config.api_keys} cannot be read.", mend="Name a file with one key a line.") from error
        if not keys:
            raise ConfigError(f"{config.api_keys} holds no key.", mend="Write one key a line, or leave --api-keys out.")
    assembly = Assembly(
        AssemblyConfig(config.server, config.http, config.service, config.shelf, config.log),
        state=config.state,
        keys=keys,
        seed=config.seed,
        replay=config.replay,
    )
    try:
        for name, version, folder in map(_named, config.artifact):
            assembly.load(name, folder, version=version)
        assembly.restore()

        def listening(public: str, private: str) -> None:
            for line in assembly.defaults():
                say(line)
            say(f"serving {', '.join(assembly.shelf.entries)} on {public} (management on {private})")
            say(f"ready after {time.perf_counter() - started:.2f} s")

        assembly.run(listening)
    finally:
        assembly.close()
    say("drained")
    rows = [
        {"policy": loaded.name, "version": loaded.version, "decisions": sum(loaded.counts.values())}
        for entry in assembly.shelf.entries.values()
        for loaded in entry.versions.values()
    ]
    content = report(
        "serve http",
        config,
        seconds=time.perf_counter() - started,
        results=rows,
        packages=("fastapi", "uvicorn", "msgspec"),
    )
    write_report(config.json, content)
    return 0


def _named(words: str) -> tuple[str, str | None, Path]:
    name, sign, folder = words.partition("=")
    if not sign:
        return "rl_policy", None, Path(words)
    name, sign, version = name.partition("@")
    if not name or not folder or (sign and not version):
        raise ConfigError(f"{words!r} names no policy.", mend="Use FOLDER, NAME=FOLDER or NAME@VERSION=FOLDER.")
    return name, version or None, Path(folder)
