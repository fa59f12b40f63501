"""What chapter 18 says of the study is what the study says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

BOOK = Path(__file__).parents[2] / "book"


def test_the_prose_and_the_tables_agree() -> None:
    study = json.loads((BOOK / "results" / "releases.json").read_text(encoding="utf-8"))
    found: Any = study.get("data", study)
    prose = (BOOK / "ch18_release.md").read_text(encoding="utf-8")
    row = {(one["gate"], one["candidate"]): one for one in found["rows"]}
    room = {(one["spread"], one["remedy"], one["row"]["candidate"]): one for one in found["rooms"]}

    def percent(share: dict[str, float]) -> str:
        return f"{100 * share['estimate']:.1f} %"

    peeking, gate = row["5 % test, looked at daily", "equal, another rule"], row["always valid", "equal, another rule"]
    assert f"in {percent(peeking['rolled_back'])} of cases instead of {percent(gate['rolled_back'])}" in prose
    dear = [row[name, "10 % worse, too warm"]["days"] for name in ("always valid", "5 % test, looked at daily")]
    assert dear == [3, 3]
    assert "found on the third day by both" in prose
    warm = row["always valid, no control variates", "10 % worse, too warm"]["within_budget"]
    assert f"{percent(warm)} are taken back within the budget" in prose
    worst = [
        max(
            (
                room[spread, "none", name]["row"]["rolled_back"]
                for name in ("equal, the same rule", "equal, another rule")
            ),
            key=lambda share: float(share["estimate"]),
        )
        for spread in (0.05, 0.1)
    ]
    assert f"equal releases go back in {percent(worst[0])} and {percent(worst[1])} of cases" in prose
    new = [room[0.1, "more rooms", f"10 % worse, too {how}"] for how in ("cold", "warm")]
    share = min((one["row"]["within_budget"] for one in new), key=lambda share: float(share["estimate"]))
    assert f"{percent(share)} of the bad releases are back within the budget" in prose
    first = [room[spread, "drawn daily", "5 % better"]["plan"]["stages"][0]["days"] for spread in (0.05, 0.1)]
    assert f"after {first[0]} and {first[1]} days in the first stage instead of 3" in prose
