"""``rlcourse release``: begin a release, ask the gate, answer its questions, go back, read what happened.

All commands but ``simulate`` name the release's folder first. Nothing runs in between: a timer calls ``release step`` with the
newest evidence, every few minutes, and may be killed at any moment. ``release step --every`` is such a timer.
"""

from __future__ import annotations

import getpass
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from rlcourse.errors import ConfigError, DataError, RLCourseError
from rlcourse.evaluation.off_policy.verdict import OffPolicyVerdict
from rlcourse.files import write_json
from rlcourse.recipes.common import Common, plain, report, say, show_result, table, write_report
from rlcourse.release.adapters import prometheus
from rlcourse.release.adapters.haproxy import HAProxyRouter
from rlcourse.release.adapters.prometheus import EvidenceConfig, PrometheusEvidence
from rlcourse.release.adapters.returns import MonitorReturns, usual_returns
from rlcourse.release.adapters.service import ServiceRouter
from rlcourse.release.adjusting import Variates
from rlcourse.release.apprentice import ApprenticeConfig
from rlcourse.release.audit import read_audit
from rlcourse.release.controller import Controller, Override
from rlcourse.release.evidence import evidence_from_json, read_object, verdict_from_json
from rlcourse.release.gates import GateAnswer, LiveEvidence
from rlcourse.release.matching import Variation
from rlcourse.release.planning import Goal, plan_release
from rlcourse.release.proposals import ProposalQueue
from rlcourse.release.routing import FileRouter, Router
from rlcourse.release.stages import Release, blue_green, staged
from rlcourse.release.state import killed

SERVER_ROOM = (-45.0, 6.7)
"""What its incumbent earns a day, and by how much that varies."""


@dataclass(frozen=True)
class RouterConfig:
    """Who is told which version answers whom."""

    kind: Literal["service", "haproxy", "file"] = "service"
    """Our own service, rlcourse serve http; HAProxy; or a file routing.json in the release's folder, which moves no traffic by
    itself."""
    management: str = "http://127.0.0.1:8081"
    """service: its management address."""
    policy: str = "rl_policy"
    """service: name of the policy. haproxy: name of the backend."""
    socket: Path = Path("/run/haproxy/admin.sock")
    """haproxy: its runtime socket."""
    servers: tuple[str, ...] = ()
    """haproxy: which server runs a version, as VERSION=SERVER."""

    def router(self, folder: Path) -> Router:
        """The router itself.

        Raises:
            ConfigError: a server that is no VERSION=SERVER.
        """
        if self.kind == "file":
            return FileRouter(folder / "routing.json")
        if self.kind == "service":
            return ServiceRouter(self.management, self.policy)
        pairs = [one.partition("=") for one in self.servers]
        if not pairs or any(not (version and server) for version, _, server in pairs):
            raise ConfigError("HAProxy's servers are not named.", mend="Use --router.servers v1=blue v2=green.")
        return HAProxyRouter(self.socket, self.policy, {version: server for version, _, server in pairs})


@dataclass(frozen=True, kw_only=True)
class OfRelease(Common):
    """What every command on a release is told."""

    folder: Annotated[Path, tyro.conf.Positional]
    """Of the release."""


@dataclass(frozen=True, kw_only=True)
class ByPerson(OfRelease):
    """What a person says and why; both go into the audit log."""

    why: str
    """The reason, for those who read the log later."""
    who: str = field(default_factory=getpass.getuser)
    """Your name."""


@dataclass(frozen=True, kw_only=True)
class Start(ByPerson):
    """Begin a release; its stages are as long as the power calculation says.

    Example: rlcourse release start runs/r7 --candidate v2 --incumbent v1 --monitor http://127.0.0.1:9108 --why cheaper

    Example: rlcourse release start runs/r7 --candidate v2 --incumbent v1 --fleet 200 --usual -44.8 --sd 6.6 --why cheaper
    """

    candidate: str
    """Version that wants to be live."""
    incumbent: str
    """Version that is."""
    strategy: Literal["canary", "blue-green"] = "canary"
    """Growing shares that compare returns, or everybody at once and a way back."""
    fleet: int = 100
    """Rooms, each of which makes one episode a day."""
    monitor: str | None = None
    """Address of rlcourse monitor follow: what is usual and how much it varies is taken from its log, with what its
    --conditions explain taken out, until yesterday. The evidence of every step is then adjusted in the same way."""
    policy: str | None = None
    """Name of the policy in the service, for --monitor and for every step. By default the one that --router.policy names to the
    service, which is rl_policy."""
    usual: float | None = None
    """Mean return of the incumbent's episodes. By default as the monitor says; without one -45, the server room's."""
    sd: float | None = None
    """Their standard deviation, as they are earned; with --sessions room, that of the days of one room. By default as the
    monitor says; without one 6.7, the server room's."""
    sd_candidate: float | None = None
    """Guess for the candidate; by default twice the incumbent's."""
    sessions: Literal["day", "room"] | None = None
    """What a session is named after. day: the room and the day (room-7/2026-11-28), so that each day draws its rooms anew.
    room: the room alone; then the same few rooms come every day, and the evidence has to name them, which --monitor cannot."""
    sd_rooms: float | None = None
    """--sessions room: by how much rooms differ for good, once what each earned before is taken out; all of it where nothing
    is known of before."""
    shares: tuple[float, ...] = (0.02, 0.1, 0.5)
    """Of the traffic, stage by stage; the last is the A/B test."""
    harm: float = 0.1
    """Loss that the first stage has to find, relative to the usual return; later ones look for --gain."""
    gain: float = 0.05
    """Gain that the A/B test has to prove, relative to the usual return."""
    margin: float = 0.0
    """Accept a candidate that is surely not worse by more than this, relative to the usual return: 0.03 for 3 %; 0 asks for a
    gain."""
    alpha: float = 0.05
    """Chance of finding a difference where there is none."""
    shadow_requests: int = 0
    """Mirror so many requests first; HAProxy cannot."""
    apprentice: bool = False
    """Before the first canary, let the candidate earn autonomy: it imitates, then proposes, and people approve and veto with
    rlcourse release apprentice FOLDER/apprentice. release step --log brings what it would have done; HAProxy cannot."""
    apprenticeship: ApprenticeConfig = field(default_factory=ApprenticeConfig)
    """--apprentice: what has to be shown."""
    bake_days: int = 7
    """With nearly all traffic, before the incumbent goes."""
    least_hours: float = 1.0
    """blue-green: how long the incumbent stands by."""
    requests: int = 1_000
    """blue-green: answered without breaking a promise; as a shadow first, and then live. HAProxy leaves the shadow out."""
    blind_hours: float = 2.0
    """Go back after so many hours in which a part of the evidence was missing. Longer than the first part of it takes to come
    after a stage has begun: rewards, for release step --safety."""
    approve_from: float = 0.5
    """Stages with this share or more ask a person first."""
    verdict: Path | None = None
    """What rlcourse ope --verdict wrote; without it a person has to approve."""
    judged_as: str | None = None
    """Name of the candidate in the verdict; by default its version."""
    router: RouterConfig = field(default_factory=RouterConfig)
    """Who is told."""

    def __post_init__(self) -> None:
        if self.usual == 0.0 or not self.shares:
            raise ConfigError("Nothing to be relative to, or no stages.", mend="Name --usual and --shares.")
        for name, value in (("harm", self.harm), ("gain", self.gain)):
            if not 0.0 < value < 1.0:
                raise _no_share(f"--{name}", value, "above 0 and below 1")
        if not 0.0 <= self.margin < 1.0:
            raise _no_share("--margin", self.margin, "from 0 on and below 1")
        if not 0.0 <= self.approve_from <= 1.0:
            raise _no_share("--approve-from", self.approve_from, "from 0 to 1")
        self._check_sessions()
        if self.monitor is not None and not (self.usual is None and self.sd is None):
            raise ConfigError("What is usual was named twice.", mend="Use --monitor, or --usual and --sd.")
        if self.apprentice and self.strategy == "blue-green":
            raise ConfigError(
                "A blue-green release has no apprentice.", mend="Leave --apprentice out, or use a canary."
            )
        if self.router.kind == "haproxy" and (self.shadow_requests > 0 or self.apprentice):
            raise ConfigError(
                "HAProxy cannot mirror requests to a shadow or an apprentice.",
                mend="Leave --shadow-requests and --apprentice out, or release through the service: --router.kind service.",
            )
        if self.router.kind == "service" and self.policy_name != self.router.policy:
            raise ConfigError(
                f"The release is of {self.policy_name}, and the service is told about {self.router.policy}.",
                mend="Give --policy and --router.policy the same name, or name one of them alone.",
            )

    def _check_sessions(self) -> None:
        if self.strategy == "canary" and self.sessions is None:
            raise ConfigError(
                "Nobody has said whether the same rooms come to the canary every day.",
                mend="Name sessions after the room and the day, and use --sessions day; or use --sessions room.",
            )
        if self.sessions == "room" and self.monitor is not None:
            raise ConfigError(
                "--monitor gives sums by day, which tell no rooms apart.",
                mend="Name sessions after the room and the day, and use --sessions day; or use --usual, --sd and --sd-rooms, "
                "and a file of evidence that names its sessions.",
            )
        if (self.sessions == "room") != (self.sd_rooms is not None):
            raise ConfigError(
                "--sd-rooms is for --sessions room, and needed there.", mend="Name both, or use --sessions day."
            )

    @property
    def policy_name(self) -> str:
        """Whose returns and counts are the evidence."""
        return self.policy or (self.router.policy if self.router.kind == "service" else RouterConfig.policy)

    def release(self, variates: Variates | None = None) -> Release:
        """Stages and gate.

        Args:
            variates: what the monitor's log says.

        Raises:
            ConfigError: a setting out of range.
        """
        release = self._staged(self.folder.resolve().name, variates)
        return replace(release, gate=replace(release.gate, blind_s=3_600.0 * self.blind_hours))

    def _staged(self, name: str, variates: Variates | None) -> Release:
        if self.strategy == "blue-green":
            return blue_green(
                name,
                self.candidate,
                self.incumbent,
                requests=self.requests,
                least_s=3_600.0 * self.least_hours,
                shadow=self.router.kind != "haproxy",
            )
        if variates is not None:
            size, sd = abs(variates.mean), variates.sd
        else:
            size = abs(SERVER_ROOM[0] if self.usual is None else self.usual)
            sd = SERVER_ROOM[1] if self.sd is None else self.sd
        candidates_sd = 2.0 * sd if self.sd_candidate is None else self.sd_candidate
        variation = Variation(sd, candidates_sd, rooms=self.sd_rooms)
        last = len(self.shares) - 1
        goals = tuple(
            Goal(share, (self.margin or self.gain) * size, "gain", 0.9)
            if number == last
            else Goal(share, (self.gain if number else self.harm) * size)
            for number, share in enumerate(self.shares)
        )
        plan = plan_release(
            self.fleet, goals, variation, alpha=self.alpha, margin=self.margin * size, bake_days=self.bake_days
        )
        return staged(
            name,
            self.candidate,
            self.incumbent,
            plan,
            shadow_requests=self.shadow_requests,
            apprentice=self.apprentice,
            approve_from=self.approve_from,
        )


@dataclass(frozen=True, kw_only=True)
class Step(OfRelease):
    """Ask the gate and do what it says, once or every few minutes. Exit status 1 if the release went back.

    Example: rlcourse release step runs/r7 --evidence runs/r7/evidence.json

    Example: rlcourse release step runs/r7 --prometheus http://127.0.0.1:9090 --monitor http://127.0.0.1:9108

    Example: rlcourse release step runs/r7 --prometheus http://127.0.0.1:9090 --monitor http://127.0.0.1:9108 --every 300

    Returns that vary far more than the release was planned with, or cannot be adjusted as it was planned, still end a release
    that does harm; until that is mended they carry none on, and the gate says what is wrong.
    """

    evidence: Path | None = None
    """A file that monitoring wrote, and that has to be there. Without one and without --prometheus the gate is told that nobody
    answered."""
    prometheus: str | None = None
    """Address of Prometheus: its counts are the evidence, and an alert that pages about the candidate goes back at once."""
    monitor: str | None = None
    """Address of rlcourse monitor follow, which knows both versions' returns."""
    policy: str | None = None
    """Name of the policy in the service, for --prometheus. By default, and at most, the one that the release began with."""
    safety: bool = False
    """Wait for rl_safety_violations_total, too, and hold while nobody writes it. For --prometheus, where rewards say how many
    violations a decision led to, and rlcourse monitor follow counts them. Without it, and while nobody counts any, every answer
    that does not go back, and the audit log, say that safety is not watched."""
    log: Path | None = None
    """Folder of the service's decision log, for a stage in which an apprentice earns autonomy: what it would have done is
    compared with what was done, and later put before people."""
    every: float | None = None
    """Ask again after so many seconds, until the release has ended. Whatever goes wrong in one step is said and tried again in
    the next. Ctrl-C ends the asking and not the release; ask again, and it goes on where it is."""
    days: float = 90.0
    """--every: stop asking after so many, whatever the release does."""

    def __post_init__(self) -> None:
        if self.every is not None and not (self.every > 0.0 and self.days > 0.0):
            raise ConfigError(f"Asking every {self.every} s for {self.days} days.", mend="Use numbers above 0.")


@dataclass(frozen=True, kw_only=True)
class Status(OfRelease):
    """Show where a release is. Example: rlcourse release status runs/r7"""


@dataclass(frozen=True, kw_only=True)
class Approve(ByPerson):
    """Answer yes to what the release asks. Example: rlcourse release approve runs/r7 --why "the simulator agrees" """


@dataclass(frozen=True, kw_only=True)
class Overrule(ByPerson):
    """Pause, resume, or go on to the next stage against the gate's patience. Harm still goes back. To resume also
    tells the router again what the release wants.

    Example: rlcourse release override runs/r7 --what pause --why "maintenance until noon"
    """

    what: Override
    """What to do."""


@dataclass(frozen=True, kw_only=True)
class Rollback(ByPerson):
    """Go back to the incumbent at once. Example: rlcourse release rollback runs/r7 --why "a complaint" """


@dataclass(frozen=True, kw_only=True)
class Kill(ByPerson):
    """Go back at once and keep everything from moving until the file KILL is removed by hand.

    Example: rlcourse release kill runs/r7 --why smoke
    """


@dataclass(frozen=True, kw_only=True)
class Audit(OfRelease):
    """Show who did what, when and why; fails if the log was tampered with. Example: rlcourse release audit runs/r7"""


def run(config: OfRelease) -> int:
    """Do what was asked, show where the release is then."""
    started = time.perf_counter()
    more: dict[str, Any] = {}
    status = 0
    if isinstance(config, Start):
        start(config)
    elif isinstance(config, Step):
        answer = _step(config) if config.every is None else _steps(config, config.every)
        more["gate"] = answer.to_json()
        gone = config.every is not None and _controller(config.folder).state().status in ("rolled_back", "killed")
        status = 1 if gone or answer.answer == "roll_back" else 0
    elif isinstance(config, Approve):
        _controller(config.folder).approve(config.who, config.why)
    elif isinstance(config, Overrule):
        _controller(config.folder).override(config.what, config.who, config.why)
    elif isinstance(config, Rollback):
        _controller(config.folder).roll_back(config.who, config.why)
    elif isinstance(config, Kill):
        _controller(config.folder).kill(config.who, config.why)
    controller = _controller(config.folder)
    if isinstance(config, Audit):
        entries = read_audit(config.folder / "audit.jsonl").entries
        rows = [[_date(one.at_s), one.who, one.what, one.why] for one in entries]
        show_result(table(["when", "who", "what", "why"], rows), config.json)
        more["results"] = [asdict(one) for one in entries]
    else:
        show_result(readable(controller, more.get("gate")), config.json)
    name = f"release {'override' if isinstance(config, Overrule) else type(config).__name__.lower()}"
    content = report(name, config, seconds=time.perf_counter() - started, state=controller.state(), **more)
    write_report(config.json, content)
    return status


def start(config: Start) -> Controller:
    """Write the router's settings and the verdict into the folder, then begin.

    Raises:
        ConfigError: a setting out of range, or a release in that folder already.
        DatasetCorruptError: the verdict is none.
    """
    router = config.router.router(config.folder)
    variates = None
    if config.monitor is not None and config.strategy == "canary":
        variates = usual_returns(config.monitor, config.policy_name, config.incumbent, time.time())
        say(usual_text(variates, config.incumbent))
    release = config.release(variates)
    verdict = None if config.verdict is None else read_object(config.verdict)
    judged_as = config.judged_as or config.candidate
    if verdict is not None:
        verdict_from_json(verdict, judged_as=judged_as, candidate=config.candidate)
    if (config.folder / "state.json").exists():
        raise ConfigError(f"{config.folder} holds a release already.", mend="Use another folder.")
    # Before anything is written: begun is begun.
    if isinstance(router, ServiceRouter):
        router.check(config.incumbent, config.candidate, shares=config.strategy == "canary")
    elif isinstance(router, HAProxyRouter):
        router.check(config.incumbent, config.candidate)
    settings = {"router": plain(config.router), "verdict": verdict, "judged_as": judged_as}
    settings["policy"] = config.policy_name
    settings["variates"] = None if variates is None else plain(variates)
    write_json(config.folder / "settings.json", settings)
    if any(stage.kind == "apprentice" for stage in release.stages):
        ProposalQueue(config.folder / "apprentice").begin(config.apprenticeship)
    return Controller.start(config.folder, release, router, who=config.who, why=config.why)


def readable(controller: Controller, gate: Mapping[str, Any] | None) -> str:
    """Where a release is, for people."""
    release, state = controller.release, controller.state()
    routing = state.routing
    rows = []
    for number, stage in enumerate(release.stages):
        here = "<-" if number == state.stage and not state.ended else "done" if number < state.stage else ""
        asks = stage.demand.prove.replace("_", " ")
        planned = [str(stage.days or "-"), f"{stage.episodes:,}" if stage.episodes else "-"]
        rows.append([stage.kind, f"{stage.share:.1%}", asks, *planned, f"{stage.demand.information:.2f}", here])
    trial = f", {routing.trial} for {routing.share:.1%}" if routing.trial is not None else ""
    trial += f", {routing.shadow} as a shadow" if routing.shadow is not None else ""
    lines = [
        f"{release.name}: {release.candidate} for {release.incumbent}, {state.status.replace('_', ' ')}",
        f"live: {routing.live}{trial}{'' if state.applied else ' (wanted; the router has not taken it yet)'}",
        "",
        table(["stage", "share", "has to show", "planned days", "episodes", "information", ""], rows),
    ]
    if killed(controller.folder):
        lines.append("\nThe kill switch is on.")
    if state.question:
        asked = {"stage": "to begin the next stage", "doubt": "whether to go on without the log's consent"}
        lines.append(f"\nA person is asked {asked.get(state.question, 'whether to promote without a proven gain')}.")
    if gate is not None:
        lines += ["", f"gate: {gate['answer'].replace('_', ' ')}", *(f"  {one['text']}" for one in gate["reasons"])]
    return "\n".join(lines)


def _no_share(name: str, value: float, wanted: str) -> ConfigError:
    return ConfigError(f"{name} {value:g} is no share of 1.", mend=f"Use a number {wanted}: 0.03 for 3 %.")


def _controller(folder: Path) -> Controller:
    if not any((folder / name).exists() for name in ("settings.json", "release.json", "state.json")):
        raise ConfigError(
            f"{folder} holds no release.",
            mend="Name the folder that rlcourse release start was given; it holds a release.json: find . -name release.json",
        )
    settings = read_object(folder / "settings.json")["router"]
    config = RouterConfig(
        **{**settings, "socket": Path(settings["socket"]), "servers": tuple(settings["servers"])},
    )
    return Controller(folder, config.router(folder))


def _step(config: Step) -> GateAnswer:
    if config.monitor is not None and config.prometheus is None:
        raise ConfigError("--monitor brings returns alone.", mend="Name --prometheus too: it brings counts and alerts.")
    if config.prometheus is not None and config.evidence is not None:
        raise ConfigError("There are two sources of evidence.", mend="Use either --evidence or --prometheus.")
    controller, verdict = _controller(config.folder), _verdict(config.folder)
    policy = _policy(config)
    if config.log is not None:
        from rlcourse.recipes.release_hearing import listen

        listen(controller, config.log, policy)
    if config.prometheus is None:
        try:
            evidence = _evidence(config, controller.release.variation)
        except (ConfigError, DataError):
            # What cannot be read is not seen, and the patience for that is not endless.
            answer = controller.tick(None, verdict)
            if answer.answer == "roll_back":
                return answer
            raise
        return controller.tick(evidence, verdict)
    release = controller.release
    asked = EvidenceConfig(url=config.prometheus, policy=policy, safety=config.safety)
    if config.monitor is None:
        return prometheus.step(controller, PrometheusEvidence(asked, release.candidate), verdict)
    returns = MonitorReturns(
        config.monitor,
        policy,
        release.incumbent,
        release.candidate,
        promised=release.variation,
        variates=_variates(config.folder),
    )
    return prometheus.step(controller, PrometheusEvidence(asked, release.candidate, returns=returns), verdict)


def _steps(config: Step, every_s: float) -> GateAnswer:
    """Step after step, until the release has ended.

    Raises:
        ConfigError: wrong words; no later step would go better.
        RLCourseError: what went wrong in the last step, where the days are over.
    """
    if config.evidence is not None and not config.evidence.exists():
        raise _absent(config.evidence)
    until_s = time.monotonic() + 86_400.0 * config.days
    while True:
        answer, error = None, None
        try:
            answer = _step(config)
            why = " ".join(reason.text for reason in answer.reasons)
            say(f"{_date(time.time())} {answer.answer.replace('_', ' ')}: {why}")
            if answer.answer == "roll_back" or _controller(config.folder).state().ended:
                return answer
        except ConfigError:
            raise
        except RLCourseError as found:
            error = found
            say(f"{_date(time.time())} {error}")
        if time.monotonic() + every_s > until_s:
            if answer is None:
                assert error is not None
                raise error
            return answer
        time.sleep(every_s)


def _policy(config: Step) -> str:
    # A release that began before names were written down has none.
    begun = read_object(config.folder / "settings.json").get("policy")
    if begun is not None and config.policy not in (None, begun):
        raise ConfigError(
            f"This release is of {begun}, not of {config.policy}.", mend="Leave --policy out: the release remembers it."
        )
    return str(begun or config.policy or RouterConfig.policy)


def usual_text(variates: Variates, incumbent: str) -> str:
    """What the log says, for people."""
    found = (
        f"{incumbent} earned {variates.mean:.4g} an episode, give or take {variates.raw_sd:.3g} "
        f"({variates.episodes:,} episodes on {variates.days} days)"
    )
    if not variates.columns:
        return f"{found}; the monitor keeps no --conditions that could explain any of it"
    return f"{found}; the conditions explain {variates.explained:.0%} of that, and {variates.sd:.3g} is left"


def _variates(folder: Path) -> Variates | None:
    found = read_object(folder / "settings.json").get("variates")
    return None if found is None else Variates.from_json(found)


def _absent(path: Path) -> ConfigError:
    return ConfigError(
        f"There is no {path}.", mend="Name the file that monitoring writes, and see that it has written it."
    )


def _evidence(config: Step, promised: Variation) -> LiveEvidence | None:
    if config.evidence is None:
        return None
    if config.every is None and not config.evidence.exists():
        raise _absent(config.evidence)
    return evidence_from_json(read_object(config.evidence), promised=promised, variates=_variates(config.folder))


def _verdict(folder: Path) -> OffPolicyVerdict | None:
    settings = read_object(folder / "settings.json")
    if settings["verdict"] is None:
        return None
    candidate = Controller(folder, FileRouter(folder / "routing.json")).release.candidate
    return verdict_from_json(settings["verdict"], judged_as=settings["judged_as"], candidate=candidate)


def _date(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d %H:%M:%S")
