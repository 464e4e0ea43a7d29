"""The page of a test in Chromium: on a telephone and a desk, by day and by night."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser_page import CHROMIUM, DRIVER, Page
from report_files import CLASSES, facts, samples, write_report_files
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.select import Select

from polymask.reporting.page.run_page import write_run_page

pytestmark = [
    pytest.mark.ui,
    pytest.mark.skipif(
        CHROMIUM is None or DRIVER is None,
        reason="needs Chromium: sudo apt-get install --yes chromium chromium-driver",
    ),
]
PHONE, DESK = 390, 1280  # pixels
NIGHT = "rgb(18, 23, 27)"
CONTRAST = """
const channel = value => (value /= 255) <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
const luminance = colour => {
  const [red, green, blue] = colour.match(/[\\d.]+/g).map(Number);
  return 0.2126 * channel(red) + 0.7152 * channel(green) + 0.0722 * channel(blue);
};
const ground = element => {
  for (; element; element = element.parentElement) {
    const colour = getComputedStyle(element).backgroundColor;
    if (!/, 0(\\.\\d+)?\\)$/.test(colour)) return colour;
  }
};
const texts = 'h1, h2, p, th, td, dt, dd, a, summary, figcaption, .interval, .key';
return [...document.querySelectorAll(texts)].map(each => {
  const lights = [getComputedStyle(each).color, ground(each)].map(luminance).sort((a, b) => b - a);
  return (lights[0] + 0.05) / (lights[1] + 0.05);
});
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    write_report_files(folder)
    write_run_page(folder, facts(), samples(40, size=(220, 960)), ["accuracy", "auroc_macro", "hd95"])
    return folder / "report.html"


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    page = Page("", tmp_path_factory.mktemp("chromium"))
    try:
        yield page
    finally:
        page.driver.quit()


def show(window: Page, report: Path, *, width: int, scheme: str = "light") -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width == PHONE}
    window.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    window.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    window.driver.get(report.as_uri())


def shown_cases(window: Page) -> list[WebElement]:
    return [case for case in window.driver.find_elements(By.CLASS_NAME, "case") if case.is_displayed()]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [PHONE, DESK])
def test_it_fits_and_can_be_read(window: Page, report: Path, width: int, scheme: str, tmp_path: Path) -> None:
    show(window, report, width=width, scheme=scheme)
    run = window.driver.execute_script
    assert run("return document.documentElement.scrollWidth <= innerWidth")
    outside = "return [...document.querySelectorAll('.card, .paper, .case, dl, h1, p')].filter(each => {"
    outside += (
        " const box = each.getBoundingClientRect(); return box.left < 0 || box.right > innerWidth; }).length"
    )
    assert run(outside) == 0
    assert (run("return getComputedStyle(document.body).backgroundColor") == NIGHT) == (scheme == "dark")
    contrasts = run(CONTRAST)
    assert len(contrasts) > 100
    assert min(contrasts) >= 4.5  # WCAG 2, level AA
    pictures = window.driver.find_elements(By.TAG_NAME, "img")
    assert all(int(each.get_property("naturalWidth")) > 0 for each in pictures)
    assert window.driver.save_screenshot(str(tmp_path / f"{width}_{scheme}.png"))
    assert window.errors() == []


def test_the_gallery_is_filtered_from_the_keyboard(window: Page, report: Path) -> None:
    show(window, report, width=DESK)
    assert len(shown_cases(window)) == 12
    body = window.driver.find_element(By.TAG_NAME, "body")
    body.send_keys(Keys.TAB)
    assert window.driver.switch_to.active_element.text == "Skip to the content"
    for _ in range(40):
        if window.driver.switch_to.active_element.get_attribute("id") == "filter-class":
            break
        window.driver.switch_to.active_element.send_keys(Keys.TAB)
    chosen = window.driver.switch_to.active_element
    assert chosen.get_attribute("id") == "filter-class"
    chosen.send_keys(CLASSES[0])  # letters choose an entry of a list
    cases = shown_cases(window)
    assert len(cases) == 6
    assert all(f"Truth {CLASSES[0]}" in case.text for case in cases)
    assert window.driver.find_element(By.ID, "filter-count").text == "6 cases"
    Select(window.driver.find_element(By.ID, "filter-kind")).select_by_value("worst")
    assert [case.find_element(By.CLASS_NAME, "badge").text for case in shown_cases(window)] == ["worst"] * 2
    assert window.errors() == []


def test_a_printed_page_shows_what_is_folded(window: Page, report: Path) -> None:
    show(window, report, width=DESK)
    run = window.driver.execute_script
    assert run("return document.querySelectorAll('details[open]').length") == 0
    run("dispatchEvent(new Event('beforeprint'))")
    assert run("return document.querySelectorAll('details:not([open])').length") == 0
    window.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert run("return getComputedStyle(document.querySelector('nav')).display") == "none"
    window.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
