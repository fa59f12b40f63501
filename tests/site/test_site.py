"""The built site, opened in a real browser as a reader does: on a laptop and on a phone."""

from __future__ import annotations

import json
import re
import sys
import tempfile
import threading
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

pytestmark = pytest.mark.site

ROOT = Path(__file__).resolve().parents[2]
SITE = ROOT / "_build" / "html"
BROWSER, DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)
WIDE, NARROW = 1280, 390

sys.path.insert(0, str(ROOT / "tools"))
from build_book import pages_in_toc  # noqa: E402
from serve import server  # noqa: E402


def page_names() -> list[str]:
    """The pages of the table of contents."""
    return pages_in_toc(yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8")))


def repository() -> str:
    """``owner/name`` in the one address of the repository."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return str(project["urls"]["Repository"]).removeprefix("https://github.com/")


REPOSITORY = repository()
PAGES = page_names()
LABS = [page for page in PAGES if page.startswith("notebooks/")]
ILLUSTRATED = [page for page in PAGES if page == "book/intro" or page.startswith("book/ch")]
# Pages that the engine adds: the index of all names, and the source behind the reference, here of one module.
ADDED = ["genindex", "_modules/rlcourse/algorithms/cql"]
# A directive or role that the parser did not understand stays on the page as it was typed.
RAW_MARKUP = re.compile(
    r"```+\s*\{[\w:-]+\}|:::+\s*\{[\w:-]+\}|\{(?:cite|term|doc|py:\w+|eq|ref|numref|download)[:\w]*\}`"
    r"|^\s*\.\. \w+::|:(?:class|func|meth|mod|math|attr|exc|data):`",
    re.MULTILINE,
)
# Text a reader sees as prose: listings may hold such words.
TEXT = """
const copy = document.body.cloneNode(true);
copy.querySelectorAll('script, style').forEach(node => node.remove());
return copy.textContent;
"""
PROSE = """
const page = document.querySelector('article') || document.body;
const copy = page.cloneNode(true);
copy.querySelectorAll('pre, code, script, style, .highlight').forEach(node => node.remove());
return copy.textContent;
"""
BROKEN_PICTURES = """
return [...document.images].filter(i => i.loading !== 'lazy' || i.complete).filter(i => !i.naturalWidth)
    .map(i => i.currentSrc || i.src);
"""
EMPTY_DRAWINGS = """
return [...document.querySelectorAll('article .rlc-figure svg, article svg.rlc-picture')]
    .filter(s => { const r = s.getBoundingClientRect(); return r.width < 50 || r.height < 20; }).length;
"""
DRAWN = """
return [...document.querySelectorAll(arguments[0])]
    .filter(s => { const r = s.getBoundingClientRect(); return r.width >= 50 && r.height >= 20; }).length;
"""
OVERFLOW = """
const wide = document.documentElement.clientWidth + 1;
if (document.documentElement.scrollWidth <= wide) return [];
return [...document.querySelectorAll('article *')].filter(e => e.getBoundingClientRect().right > wide)
    .slice(-5).map(e => e.tagName + '.' + e.className + ': ' + (e.textContent || '').trim().slice(0, 60))
    .concat('page');
"""
ELSEWHERE = """
return performance.getEntriesByType('resource').map(e => e.name)
    .filter(n => !n.startsWith(location.origin) && !n.startsWith('data:') && !n.startsWith('blob:'));
"""
QUIZZES = [
    p for p in PAGES if (f := SITE / f"{p}.html").is_file() and 'class="rlc-quiz"' in f.read_text(encoding="utf-8")
]


@dataclass(frozen=True)
class Browser:
    """A driver and the address of the site it looks at."""

    driver: webdriver.Chrome
    address: str

    def open(self, page: str, *, width: int = WIDE) -> None:
        """Load a page at a width and wait until its load event is over."""
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width == NARROW},
        )
        self.driver.get(f"{self.address}/{page}")

    def errors(self) -> list[str]:
        """What the console has said at the level of errors since it was last asked."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    """The built site on a free port of 127.0.0.1."""
    if not (SITE / "index.html").is_file():
        pytest.fail("There is no built site. Build it with: make html")
    with server(0, SITE) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()
        thread.join()


@pytest.fixture(scope="session")
def browser(address: str) -> Iterator[Browser]:
    """Debian's Chromium with an empty profile."""
    missing = [str(path) for path in (BROWSER, DRIVER) if not path.is_file()]
    if missing:
        pytest.fail(f"{' and '.join(missing)} not found. Install them with: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = str(BROWSER)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
        driver.set_page_load_timeout(30)
        yield Browser(driver, address)
        driver.quit()


@pytest.mark.parametrize("width", [WIDE, NARROW])
@pytest.mark.parametrize("page", PAGES + ADDED)
def test_page(browser: Browser, page: str, width: int) -> None:
    browser.errors()
    browser.open(f"{page}.html", width=width)
    driver = browser.driver
    if driver.find_elements(By.CSS_SELECTOR, ".math"):
        WebDriverWait(driver, 15, 0.05).until(lambda d: d.find_elements(By.CSS_SELECTOR, "mjx-container"))
    assert driver.execute_script(OVERFLOW) == []
    assert driver.execute_script(BROKEN_PICTURES) == []
    assert driver.execute_script(EMPTY_DRAWINGS) == 0
    assert driver.execute_script(ELSEWHERE) == []
    assert "Traceback" not in driver.execute_script(TEXT)
    assert not RAW_MARKUP.findall(driver.execute_script(PROSE))
    assert not driver.find_elements(By.CSS_SELECTOR, "mjx-merror, .math-error")
    assert browser.errors() == []


@pytest.mark.parametrize("lab", LABS)
def test_every_figure_that_a_lab_draws_is_on_its_page(browser: Browser, lab: str) -> None:
    cells = json.loads((ROOT / f"{lab}.ipynb").read_text(encoding="utf-8"))["cells"]
    drawn = ["".join(cell["source"]).count("show_figure(") for cell in cells if cell["cell_type"] == "code"]
    browser.open(f"{lab}.html")
    # More of them where a lab's sliders have a picture for each state.
    assert browser.driver.execute_script(DRAWN, "article .rlc-figure svg") >= sum(drawn) > 0


@pytest.mark.parametrize("page", ILLUSTRATED)
def test_every_picture_of_a_chapter_is_on_its_page(browser: Browser, page: str) -> None:
    included = re.findall(
        r"^:file: pictures/\S+\.svg$", (ROOT / f"{page}.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    browser.open(f"{page}.html")
    assert browser.driver.execute_script(DRAWN, "article svg.rlc-picture") == len(included) > 0


def test_the_front_door_leads_to_the_front_page(browser: Browser) -> None:
    browser.open("index.html")
    WebDriverWait(browser.driver, 15).until(lambda d: d.current_url.endswith("/book/intro.html"))


def test_search_finds_expectile(browser: Browser) -> None:
    browser.errors()
    browser.open("search.html?q=expectile")
    found = WebDriverWait(browser.driver, 15).until(
        lambda d: d.find_elements(By.CSS_SELECTOR, "#search-results ul.search a")
    )
    assert any("expectile" in (link.get_attribute("href") or "") or "glossary" in link.text.lower() for link in found)
    assert browser.errors() == []


def test_the_search_box_on_a_page_leads_to_the_results(browser: Browser) -> None:
    browser.open("book/intro.html")
    field = WebDriverWait(browser.driver, 15).until(
        lambda d: d.find_element(By.CSS_SELECTOR, "input[type=search][name=q]")
    )
    browser.driver.execute_script(
        "const f = arguments[0]; f.value = 'expectile'; f.form.submit();",
        field,
    )
    WebDriverWait(browser.driver, 15).until(lambda d: "search.html?q=expectile" in d.current_url)


def luminance(colour: str) -> float:
    """Of a computed colour such as ``rgb(20, 24, 29)``; 0 is black."""
    red, green, blue = (int(part) / 255 for part in re.findall(r"\d+", colour)[:3])
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_the_mode_switch_turns_the_page_and_its_drawings_dark(browser: Browser) -> None:
    driver = browser.driver
    browser.open("book/intro.html")
    seen = {}
    for _ in range(4):
        mode = driver.execute_script("return document.documentElement.dataset.theme")
        ground = driver.execute_script("return getComputedStyle(document.body).backgroundColor")
        line = driver.execute_script("return getComputedStyle(document.querySelector('svg.rlc-picture g')).stroke")
        seen[mode] = (luminance(ground), luminance(line))
        driver.execute_script("document.querySelector('button.theme-switch-button').click()")
    assert set(seen) == {"light", "dark"}
    assert seen["light"][0] > 0.9 and seen["light"][1] < 0.3
    assert seen["dark"][0] < 0.1 and seen["dark"][1] > 0.7


@pytest.mark.parametrize("lab", LABS)
def test_a_lab_can_be_opened_in_colab_and_downloaded(browser: Browser, lab: str) -> None:
    browser.open(f"{lab}.html")
    links = [a.get_attribute("href") or "" for a in browser.driver.find_elements(By.CSS_SELECTOR, "header a, main a")]
    colab = [link for link in links if "colab.research.google.com" in link]
    assert colab
    for link in colab:
        place, inside = unquote(link).split("/blob/", 1)
        assert place == f"https://colab.research.google.com/github/{REPOSITORY}"
        assert (ROOT / inside.split("/", 1)[1]).is_file(), link
    assert any(link.endswith(f"{Path(lab).name}.ipynb") and link.startswith(browser.address) for link in links)
    assert (SITE / "_sources" / f"{lab}.ipynb").is_file()


def test_every_quiz_answers_at_once(browser: Browser) -> None:
    assert QUIZZES
    for page in QUIZZES:
        browser.open(f"{page}.html")
        answer_all(browser)


def answer_all(browser: Browser) -> None:
    """Pick every choice of every question of the page that is open; one explanation has to show each time."""
    driver = browser.driver
    for question in driver.find_elements(By.CSS_SELECTOR, ".rlc-quiz fieldset"):
        for button in question.find_elements(By.CSS_SELECTOR, "input"):
            driver.execute_script("arguments[0].click()", button)
            shown = question.find_elements(By.CSS_SELECTOR, ".rlc-feedback > p:not([hidden])")
            assert len(shown) == 1 and shown[0].text
    assert "right at the first try" in driver.find_element(By.CSS_SELECTOR, ".rlc-score").text


def test_a_slider_moves_its_picture_without_python(browser: Browser) -> None:
    browser.errors()
    browser.open("notebooks/ch05_iql.html")
    driver = browser.driver
    WebDriverWait(driver, 30).until(lambda d: len(shown_tables(d)) == 2)
    before = shown_tables(driver)
    sliders = driver.find_elements(By.CSS_SELECTOR, ".jupyter-widgets .noUi-handle, .jupyter-widgets [role=slider]")
    assert len(sliders) >= 2
    for number, name in enumerate(("alpha", "tau")):
        driver.execute_script("arguments[0].scrollIntoView({block: 'center'}); arguments[0].focus()", sliders[number])
        sliders[number].send_keys(Keys.ARROW_RIGHT)
        wait_for_another(driver, number, before[number])
        assert f"{name} = " in shown_tables(driver)[number]
    assert browser.errors() == []


def wait_for_another(driver: webdriver.Chrome, number: int, old: str) -> None:
    """Until the table of that number shows something else."""
    WebDriverWait(driver, 10).until(lambda d: shown_tables(d)[number] != old)


def shown_tables(driver: webdriver.Chrome) -> list[str]:
    """The text of the Q-tables that a reader sees now."""
    found = driver.find_elements(By.CSS_SELECTOR, ".rlc-q-table")
    return [table.text for table in found if table.is_displayed()]


# What is operated or looked at, in the words of Chromium's accessibility tree.
NEEDS_A_NAME = {"button", "link", "textbox", "searchbox", "radio", "checkbox", "combobox", "slider", "image", "img"}
NEEDS_A_NAME |= {"DisclosureTriangle", "DisclosureTriangleGrouped"}
ACCESSIBILITY = (Path(__file__).parent / "accessibility.js").read_text(encoding="utf-8")


@pytest.mark.parametrize(("width", "mode"), [(WIDE, "light"), (NARROW, "dark")])
@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_accessible(browser: Browser, page: str, width: int, mode: str) -> None:
    driver = browser.driver
    wanted = [{"name": "prefers-color-scheme", "value": mode}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": wanted})
    # The mode switch's test leaves its last choice there.
    stored = {"origin": browser.address, "storageTypes": "local_storage"}
    driver.execute_cdp_cmd("Storage.clearDataForOrigin", stored)
    browser.open(f"{page}.html", width=width)
    assert driver.execute_script("return document.documentElement.dataset.theme") == mode
    assert driver.execute_script(ACCESSIBILITY) == []
    assert nameless(driver) == []
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def nameless(driver: webdriver.Chrome) -> list[str]:
    """The roles of what a screen reader would announce without saying what it is."""
    nodes = driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    shown = [node for node in nodes if not node["ignored"] and node["role"]["value"] in NEEDS_A_NAME]
    assert shown
    return [node["role"]["value"] for node in shown if not node.get("name", {}).get("value", "").strip()]


FAULTY = """
document.querySelector('article').insertAdjacentHTML('beforeend', `
  <button aria-label="Close">Send</button> <ul><p>loose</p></ul> <dl><dd>of nothing</dd></dl>
  <p style="color: #999; background: #fff">pale</p> <i id="twin"></i><i id="twin"></i> <a href="#x"></a>`);
document.body.insertAdjacentHTML('beforeend', '<p>lost</p>');
"""


def test_faults_that_are_put_into_a_page_are_found(browser: Browser) -> None:
    browser.open("book/intro.html")
    browser.driver.execute_script(FAULTY)
    found = browser.driver.execute_script(ACCESSIBILITY)
    for fault in ("named otherwise", "not an item", "of nothing", "contrast 2.85", "id twin again", "outside every"):
        assert [line for line in found if fault in line], fault
    assert nameless(browser.driver) == ["link"]
