from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator

import pytest
import report_fixtures as study

from secateur.report.html import render

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver"),
]
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
MARKS = {
    "accuracy-0": {"line mark": 6, "point": 12, "rule mark": 1},
    "layers": {"bar": 30},
    "front-0": {"line mark": 2, "point": 3},
    "kurtosis-0": {"point": 10},
    "train": {"line mark": 2, "point": 20},
    "retrain": {"line mark": 12, "point": 36},
}


class Browser:
    """The report in Chromium, with what its tests need to do to it."""

    def __init__(self, driver, address: str) -> None:
        self.driver = driver
        self.address = address
        self.run = driver.execute_script

    def command(self, name: str, **arguments):
        return self.driver.execute_cdp_cmd(name, arguments)

    def media(self, media: str = "", scheme: str = "light") -> None:
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.command("Emulation.setEmulatedMedia", media=media, features=features)

    def resize(self, width: int) -> None:
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
        self.command("Emulation.setDeviceMetricsOverride", **size)
        self.settle()

    def settle(self) -> None:
        """Wait until every chart is drawn at the present width of its place."""
        drawn = (
            "return [...document.querySelectorAll('[data-chart]')]"
            ".every(place => place.dataset.drawn == place.clientWidth)"
        )
        limit = time.monotonic() + 10
        while not self.run(drawn):
            assert time.monotonic() < limit, "the charts were not drawn in time"
            time.sleep(0.05)

    def colour(self, selector: str, name: str = "fill") -> str:
        style = "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]"
        return self.run(style, selector, name)


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Browser]:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    folder = tmp_path_factory.mktemp("report")
    (folder / "report.html").write_text(render(study.content()), encoding="utf-8")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={folder / 'profile'}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    try:
        opened = Browser(driver, (folder / "report.html").as_uri())
        opened.media()
        driver.get("about:blank")
        driver.get_log("performance")
        driver.get(opened.address)
        opened.resize(1200)
        yield opened
    finally:
        driver.quit()


def test_the_page_is_quiet_and_asks_for_nothing(browser):
    assert browser.driver.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.driver.get_log("performance")]
    asked = [
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    ]
    assert browser.address in asked
    assert {url for url in asked if not url.startswith("data:")} == {browser.address}


@pytest.mark.parametrize("chart", MARKS)
def test_every_chart_is_drawn_with_its_marks(browser, chart):
    kinds = browser.run(
        "return [...document.querySelectorAll(`[data-chart='${arguments[0]}'] [aria-roledescription]`)]"
        ".map(mark => mark.getAttribute('aria-roledescription'))",
        chart,
    )
    assert {kind: kinds.count(kind) for kind in MARKS[chart]} == MARKS[chart]


@pytest.mark.parametrize("width", [360, 800, 1600])
def test_everything_fits_the_screen(browser, width):
    browser.resize(width)
    assert browser.run("return document.documentElement.scrollWidth <= innerWidth")
    cut = browser.run(
        "return [...document.querySelectorAll('[data-chart] text')].filter(text => {"
        "  const place = text.closest('[data-chart]').getBoundingClientRect();"
        "  const box = text.getBoundingClientRect();"
        "  return box.left < place.left - 2 || box.right > place.right + 2;"
        "}).map(text => text.textContent)"
    )
    assert cut == []
    filled = browser.run(
        "return [...document.querySelectorAll('[data-chart]')].map(place =>"
        " place.querySelector('svg').width.baseVal.value / place.clientWidth)"
    )
    assert min(filled) > 0.9


def test_the_front_keeps_one_scale_on_both_axes(browser):
    browser.resize(1200)
    box = browser.run(
        "const box = document.querySelector(\"[data-chart='front-0'] .mark-group.role-frame .background\")"
        ".getBBox(); return [box.width, box.height]"
    )
    assert box[0] == pytest.approx(box[1], abs=1)


def test_charts_follow_dark_mode_and_print_on_white(browser):
    label, paper = "[data-chart='accuracy-0'] .role-axis-label text", "html"
    light = browser.colour(label), browser.colour(paper, "backgroundColor")
    browser.media(scheme="dark")
    dark = browser.colour(label), browser.colour(paper, "backgroundColor")
    browser.media(media="print", scheme="dark")
    printed = browser.colour(label), browser.colour(paper, "backgroundColor")
    browser.media()
    assert light[0] != dark[0]
    assert light[1] == "rgb(255, 255, 255)" != dark[1]
    assert printed == light


def test_the_keyboard_reaches_every_control(browser):
    from selenium.webdriver.common.keys import Keys

    reached = []
    browser.run("document.activeElement.blur(); scrollTo(0, 0)")
    for _ in range(60):
        browser.driver.switch_to.active_element.send_keys(Keys.TAB)
        tag, style = browser.run(
            "const now = document.activeElement;"
            "return [now.className || now.tagName, getComputedStyle(now).outlineStyle]"
        )
        if tag == "BODY":
            break
        assert style != "none", f"{tag} shows no focus"
        reached.append(tag)
    assert reached[0] == "skip"
    assert reached.count("SUMMARY") == len(MARKS)
    assert reached.count("BUTTON") == 2
    assert reached.count("scroll") == 4


def test_enter_opens_the_numbers_and_copies_the_recipe(browser):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    summary = browser.driver.find_element(By.CSS_SELECTOR, "details summary")
    summary.send_keys(Keys.ENTER)
    assert browser.run("return document.querySelector('details').open")
    summary.send_keys(Keys.ENTER)
    browser.command("Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])
    button = browser.driver.find_element(By.CSS_SELECTOR, "[data-copy='recipe']")
    button.send_keys(Keys.ENTER)
    limit = time.monotonic() + 5
    while button.text == "Copy" and time.monotonic() < limit:
        time.sleep(0.05)
    assert button.text == "Copied"
    copied = browser.driver.execute_async_script("navigator.clipboard.readText().then(arguments[0])")
    assert copied == study.RECIPE


def test_without_javascript_the_charts_are_there(browser):
    browser.command("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.driver.refresh()
        found = browser.command("DOM.getDocument", depth=0)
        charts = browser.command(
            "DOM.querySelectorAll", nodeId=found["root"]["nodeId"], selector="[data-chart] > svg"
        )
        assert len(charts["nodeIds"]) == len(MARKS)
    finally:
        browser.command("Emulation.setScriptExecutionDisabled", value=False)
