"""Decision logs that tests write line by line."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from rlcourse.serving import wire


@dataclass
class Written:
    """The files of one run, as a service would write them."""

    folder: Path
    run: int = 1
    number: int = 0
    count: int = 0
    ids: dict[str, int] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        return self.folder / f"{self.run:020}-{self.number:05}.jsonl"

    def add(self, data: bytes) -> None:
        with self.path.open("ab") as file:
            file.write(data)

    def decide(self, session: str | None, time: float, **more: Any) -> str:
        """A decision line; its request id."""
        self.count += 1
        given: dict[str, Any] = {
            "request_id": f"r{self.run}-{self.count}",
            "policy": "p",
            "version": "v1",
            "observation": [0.0, 1.0],
            "action": 0,
            "propensity": 0.5,
            **more,
        }
        given["observation"] = msgspec.Raw(msgspec.json.encode(given["observation"]))
        line = wire.DecisionLine(time=time, session=session, latency_ms=1.0, **given)
        self.add(wire.encode(line) + b"\n")
        return line.request_id

    def reward(self, request_id: str, time: float, reward: float, **more: Any) -> None:
        self.add(wire.encode(wire.RewardLine(request_id, time, reward, **more)) + b"\n")

    def episode(
        self, session: str, began: float, rewards: tuple[float, ...], *, step_s: float = 1.0, **more: Any
    ) -> None:
        """A whole one, that terminates with its last reward."""
        for place, reward in enumerate(rewards):
            now = began + place * step_s
            name = self.decide(session, now, **more)
            self.reward(name, now + step_s / 2, reward, terminated=place == len(rewards) - 1)
