"""The release to play with: what Python writes into the page is the package's, and what the script computes is Python's."""

from __future__ import annotations

import html
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

from rlcourse.release.boundaries import crossing_probability
from rlcourse.release.power import always_valid_information
from rlcourse.release.sequential import contrast_radius, normal_mixture, sub_gaussian_sequence

Floats = npt.NDArray[np.float64]
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "book" / "_ext"))

import release_widget  # noqa: E402

BROWSER, DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
BASE: dict[str, object] = {
    "effect": 0.0,
    "since": 0,
    "share": 0.5,
    "every": 1,
    "window": 0,
    "rule": "always",
    "level": 1,
    "limit": 0.05,
    "adjusted": True,
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pages, of which one has the widget."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "index.md").write_text("# Home\n\n```{toctree}\npage\n```\n", encoding="utf-8")
    (folder / "page.md").write_text("# Page\n\n```{release-widget}\n```\n", encoding="utf-8")
    (folder / "public").mkdir()
    for name in ("release.js", "release.css"):
        (folder / "public" / name).write_bytes((ROOT / "book" / "public" / name).read_bytes())
    (folder / "conf.py").write_text(
        "extensions = ['myst_parser', 'release_widget']\nexclude_patterns = ['public']\nhtml_extra_path = ['public']\n",
        encoding="utf-8",
    )
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "-q", "-b", "html", str(folder), str(folder / "out")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "book" / "_ext")},
    )
    assert done.returncode == 0, done.stderr
    return folder / "out"


def text_of(site: Path, page: str = "page") -> str:
    return (site / f"{page}.html").read_text(encoding="utf-8")


def written(site: Path) -> dict[str, Any]:
    """The constants as they stand in the page."""
    (attribute,) = re.findall(r'data-constants="([^"]*)"', text_of(site))
    found: dict[str, Any] = json.loads(html.unescape(attribute))
    return found


def test_what_stands_in_the_page_is_computed_by_the_package(site: Path) -> None:
    data = written(site)
    assert data == json.loads(json.dumps(release_widget.constants()))
    assert [level["alpha"] for level in data["levels"]] == list(release_widget.ALPHAS)
    for level in data["levels"]:
        # Tuned where a harm of 10 % is found: nowhere is the interval narrower, in standard errors.
        tuned_at = always_valid_information(0.1 * data["cost"], alpha=level["alpha"], power=0.95)
        narrowest, *others = (
            float(contrast_radius(v, alpha=level["alpha"], rho=level["rho"])) * v**0.5
            for v in (tuned_at, 0.8 * tuned_at, 1.25 * tuned_at)
        )
        assert narrowest < min(others)
    assert data["sdLeft"] < data["sdRaw"] / 4.0
    assert len(data["checks"]) == 3 * len(data["levels"])


def test_script_and_style_are_on_pages_with_the_widget_only(site: Path) -> None:
    for name in ("release.js", "release.css"):
        assert name in text_of(site)
        assert name not in text_of(site, "index")


def test_every_control_has_a_label_and_scripts_may_be_off(site: Path) -> None:
    text = text_of(site)
    for control in re.findall(r'<(?:select|input)[^>]* id="([^"]+)"', text):
        assert text.count(f'<label for="{control}">') == 1
    assert len(re.findall(r"<select ", text)) == 3 and text.count('type="range"') == 4
    assert 'role="status"' in text and "<noscript>" in text


def test_nobody_is_moved_who_does_not_want_to_be() -> None:
    script = (ROOT / "book" / "public" / "release.js").read_text(encoding="utf-8")
    assert "prefers-reduced-motion: reduce" in script
    assert "transition" not in (ROOT / "book" / "public" / "release.css").read_text(encoding="utf-8")


# In a browser


@pytest.fixture(scope="module")
def driver(site: Path) -> Iterator[webdriver.Chrome]:
    """Chromium on the small page."""
    missing = [str(path) for path in (BROWSER, DRIVER) if not path.is_file()]
    if missing:
        pytest.fail(f"{' and '.join(missing)} not found. Install them with: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = str(BROWSER)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        for flag in ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", f"--user-data-dir={profile}"):
            options.add_argument(flag)
        started = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
        started.get((site / "page.html").as_uri())
        yield started
        started.quit()


def ask(driver: webdriver.Chrome, expression: str, *values: object) -> Any:
    """The value of an expression in the page; ``arguments[0]`` are the constants, the others follow."""
    constants = driver.find_element(By.CSS_SELECTOR, ".rlc-release").get_attribute("data-constants")
    return driver.execute_script(f"return {expression}", json.loads(constants or ""), *values)


@pytest.mark.site
def test_the_scripts_radius_is_the_packages(driver: webdriver.Chrome) -> None:
    assert ask(driver, "rlcRelease.disagreement(arguments[0])") < 1e-12
    for alpha, rho, information in ((0.05, 1.0, 1.0), (0.01, 0.3, 7.0), (0.2, 5.0, 0.01)):
        found = ask(
            driver, "rlcRelease.contrastRadius(arguments[1], arguments[2], arguments[3])", information, alpha, rho
        )
        assert found == pytest.approx(float(normal_mixture(information, alpha=alpha, rho=rho)) / information, rel=1e-12)


def counted(driver: webdriver.Chrome, **settings: object) -> dict[str, float]:
    found: dict[str, float] = ask(driver, "rlcRelease.many(arguments[0], arguments[1], 20000, 3)", {**BASE, **settings})
    return found


@pytest.mark.site
@pytest.mark.parametrize("every", [1, 5])
def test_peeking_is_wrong_as_often_as_armitage_says(driver: webdriver.Chrome, every: int) -> None:
    looks = release_widget.DAYS // every
    # Both sides together, of which the script has one; that both happen in one release is rare.
    wanted = crossing_probability(np.full(looks, 1.959964)) / 2.0
    assert counted(driver, rule="peeking", every=every)["back"] == pytest.approx(wanted, abs=0.01)


@pytest.mark.site
def test_the_always_valid_rule_is_wrong_as_often_as_in_python(driver: webdriver.Chrome) -> None:
    level, fleet, days = release_widget.constants()["levels"][3], release_widget.FLEET, release_widget.DAYS
    half = fleet / 2
    sd = release_widget.constants()["sdLeft"] * (2.0 / half) ** 0.5
    rng = np.random.default_rng(0)
    sums = rng.normal(0.0, 1.0 / sd, (40_000, days)).cumsum(-1)  # of estimates times their information
    boundary = normal_mixture(np.arange(1, days + 1) / sd**2, alpha=level["alpha"], rho=level["rho"])
    wanted = float((sums > boundary).any(-1).mean())
    found = counted(driver, level=3)["back"]
    assert found == pytest.approx(wanted, abs=0.006)
    assert 0.0 < found < level["alpha"] / 2.0


@pytest.mark.site
def test_a_release_goes_back_on_the_day_on_which_the_packages_sequence_leaves_zero_out(
    driver: webdriver.Chrome,
) -> None:
    settings = {**BASE, "effect": 0.1, "share": 0.05, "adjusted": False}
    one = ask(driver, "rlcRelease.release(arguments[0], arguments[1], rlcRelease.normals(5), true)", settings)
    constants = release_widget.constants()
    sd = constants["sdRaw"] * (1 / 10 + 1 / 190) ** 0.5  # of a day's difference
    differences = np.array([day["theirs"] - day["ours"] for day in one["days"]])
    estimates = [day["estimate"] for day in one["days"]]
    assert estimates == pytest.approx(differences.cumsum() / np.arange(1, len(differences) + 1))
    rho = constants["levels"][1]["rho"]
    radii = contrast_radius(np.arange(1, len(differences) + 1) / sd**2, alpha=0.05, rho=rho)
    assert [day["radius"] for day in one["days"]] == pytest.approx(radii)
    sure = np.array(estimates) > radii
    assert one["day"] == int(sure.argmax()) + 1 == len(estimates)
    # The radius of a mean of daily differences is that of the sub-Gaussian sequence with the same tuning.
    tuned = always_valid_information(0.1 * constants["cost"], alpha=0.05, power=0.95) * sd**2
    if round(tuned) >= 1:
        told = sub_gaussian_sequence(differences, sigma=sd, alpha=0.05, tuned_at=round(tuned))
        assert ((told.high - told.low) / 2.0)[-1] == pytest.approx(float(radii[-1]), rel=0.05)


def backs(sums: Floats, limits: Floats) -> float:
    """The share of releases that leave a limit on some day; ``sums`` and ``limits`` by day."""
    return float((sums > limits).any(-1).mean())


def last_days(daily: Floats, window: int) -> Floats:
    """Means of the last ``window`` days, of fewer where there are fewer: (N, T) to (N, T)."""
    days = daily.shape[-1]
    return np.stack([daily[:, max(0, day - window) : day].mean(-1) for day in range(1, days + 1)], -1)


@pytest.mark.site
@pytest.mark.parametrize(("window", "since"), [(1, 0), (7, 0), (3, 10), (30, 10)])
def test_a_fixed_limit_sends_as_many_back_as_in_python(driver: webdriver.Chrome, window: int, since: int) -> None:
    data, canary, effect = release_widget.constants(), 10, 0.05
    shift = data["cost"] * effect * (np.arange(1, data["days"] + 1) > since)
    daily = np.random.default_rng(1).normal(shift, data["sdRaw"] / canary**0.5, (20_000, data["days"]))
    means = last_days(daily, window)
    wanted = backs(means, np.full(data["days"], 0.05 * data["cost"]))
    shown = {"rule": "threshold", "share": 0.05, "effect": effect, "since": since}
    found = counted(driver, **shown, window=window if window < data["days"] else 0)
    assert found["back"] == pytest.approx(wanted, abs=0.012)
    first = (means > 0.05 * data["cost"]).argmax(-1) + 1
    caught = (means > 0.05 * data["cost"]).any(-1)
    assert found["day"] == pytest.approx(np.median(first[caught]), abs=1.0)


@pytest.mark.site
@pytest.mark.parametrize("window", [1, 5])
def test_the_ordinary_test_on_the_last_days_alone_is_wrong_as_often_as_in_python(
    driver: webdriver.Chrome, window: int
) -> None:
    days = release_widget.DAYS
    daily = np.random.default_rng(2).normal(0.0, 1.0, (20_000, days))
    taken = np.minimum(np.arange(1, days + 1), window)
    wanted = backs(last_days(daily, window) * np.sqrt(taken), np.full(days, 1.959964))
    assert counted(driver, rule="peeking", window=window)["back"] == pytest.approx(wanted, abs=0.012)


@pytest.mark.site
def test_the_window_moves_over_the_days_and_harm_begins_when_it_is_said_to(driver: webdriver.Chrome) -> None:
    settings = {**BASE, "effect": 0.1, "since": 10, "share": 0.05, "window": 3, "rule": "threshold", "limit": 9.0}
    one = ask(driver, "rlcRelease.release(arguments[0], arguments[1], rlcRelease.normals(5), true)", settings)
    constants = release_widget.constants()
    above = np.array([day["theirs"] for day in one["days"]]) - constants["cost"]
    assert [day["estimate"] for day in one["days"]] == pytest.approx(last_days(above[None], 3)[0].tolist())
    assert above[10:].mean() - above[:10].mean() == pytest.approx(0.1 * constants["cost"], abs=4.0)
    assert one["harm"] == pytest.approx(10 * 0.1 * constants["cost"] * (constants["days"] - 10))
    same = [
        ask(driver, "rlcRelease.many(arguments[0], arguments[1], 500, 3)", {**BASE, "effect": 0.1, "window": window})
        for window in (0, 1)
    ]
    assert same[0] == same[1]  # the confidence sequence takes all days, whatever the window


@pytest.mark.site
def test_a_reader_plays_with_it_by_keyboard(driver: webdriver.Chrome) -> None:
    def said() -> str:
        return driver.find_element(By.CSS_SELECTOR, ".rlc-release-said").text

    assert re.match(r"Rolled back on day \d+, after \d+ room-days", said())
    rows = driver.find_elements(By.CSS_SELECTOR, ".rlc-release tbody tr")
    assert [row.find_element(By.CSS_SELECTOR, "th").text for row in rows] == ["10 % dearer", "the same"]
    share = driver.find_element(By.NAME, "share")
    before = share.get_attribute("aria-valuetext")
    share.send_keys(Keys.ARROW_RIGHT)
    assert (before, share.get_attribute("aria-valuetext")) == ("2 %, 4 of 200", "5 %, 10 of 200")
    rule = Select(driver.find_element(By.NAME, "rule"))
    shown = [driver.find_element(By.NAME, name).is_displayed() for name in ("limit", "window", "alpha", "adjusted")]
    rule.select_by_value("threshold")
    hidden = [driver.find_element(By.NAME, name).is_displayed() for name in ("limit", "window", "alpha", "adjusted")]
    assert (shown, hidden) == ([False, False, True, True], [True, True, False, False])
    window = driver.find_element(By.NAME, "window")
    before = window.get_attribute("aria-valuetext")
    window.send_keys(Keys.HOME)
    assert (before, window.get_attribute("aria-valuetext")) == ("all days so far", "the last day")
    drawn = driver.find_element(By.CSS_SELECTOR, ".rlc-release-picture svg").get_attribute("textContent")
    assert "canary above usual, the last day" in (drawn or "")
    window.send_keys(Keys.END)
    rule.select_by_value("always")
    another = driver.find_element(By.NAME, "another")
    texts = set()
    for _ in range(6):
        another.send_keys(Keys.ENTER)
        texts.add(said())
    assert len(texts) > 1
    driver.find_element(By.NAME, "play").send_keys(Keys.ENTER)
    WebDriverWait(driver, 10).until(lambda _: said() != "")
    assert driver.find_element(By.CSS_SELECTOR, ".rlc-release-picture svg").get_attribute("aria-label")
    assert [
        entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE" and "favicon" not in entry["message"]
    ] == []


@pytest.mark.site
def test_with_reduced_motion_the_whole_release_is_there_at_once(driver: webdriver.Chrome) -> None:
    driver.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-reduced-motion", "value": "reduce"}]}
    )
    driver.refresh()
    place = driver.find_element(By.CSS_SELECTOR, ".rlc-release")
    whole = place.get_attribute("data-shown")
    driver.find_element(By.NAME, "play").send_keys(Keys.ENTER)
    assert place.get_attribute("data-shown") == whole
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


@pytest.mark.site
def test_it_fits_on_a_phone(driver: webdriver.Chrome) -> None:
    driver.set_window_size(500, 900)
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    )
    driver.refresh()
    wide = driver.execute_script(
        "const place = document.querySelector('.rlc-release').getBoundingClientRect();"
        "return [...document.querySelectorAll('.rlc-release *')].filter(one => !one.closest('.rlc-release-table') && "
        "!one.closest('svg') && one.getBoundingClientRect().right > place.right + 1).map(one => one.outerHTML.slice(0, 80))"
    )
    driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert wide == []
