"""A page of the MLflow UI in headless Chromium."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
PICTURES = Path(__file__).parents[2] / "docs" / "images"
WIDTH = 1400  # pixels, of the page and so of the pictures
FLAGS = (
    "--headless=new",
    "--no-sandbox",  # the sandbox does not work for root, so not in most containers
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
# What the UI writes whatever it shows: it asks for the user of a login, and lays out its charts twice.
NOT_OURS = ("/mlflow/users/current", "ResizeObserver loop")
# A picture shows the page from its top, and curves without the tool bars that lie over them.
TIDY_UP = """
document.querySelector('h1, h2').scrollIntoView({block: 'center'});
document.styleSheets[0].insertRule('.modebar { display: none }');
"""


class Page:
    """One Chromium window. Everything that looks for something waits until it is there.

    Args:
        address: Of the MLflow server.
        profile: Folder for Chromium's own files.
    """

    def __init__(self, address: str, profile: Path) -> None:
        options = ChromeOptions()
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.binary_location = str(CHROMIUM)
        options.set_capability("goog:loggingPrefs", {"browser": "SEVERE"})
        self.address = address
        self.driver = Chrome(options=options, service=ChromeService(DRIVER))

    def open(self, route: str, *, height: int = 1200) -> None:
        """Go to a route of the UI and make the page so many pixels high."""
        size = {"width": WIDTH, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        # Anew: from one route of a page to another the UI may keep what it showed.
        self.driver.get("about:blank")
        self.driver.get(f"{self.address}/#/{route}")

    def wait(self, condition: Callable[[], Any], what: str) -> Any:
        """Return what `condition` gives as soon as that is true."""
        waiting = WebDriverWait(
            self.driver, 60, poll_frequency=0.2, ignored_exceptions=[StaleElementReferenceException]
        )
        return waiting.until(lambda _: condition(), f"not on the page: {what}")

    def wait_for_text(self, text: str) -> None:
        self.wait(lambda: text in self.driver.find_element(By.TAG_NAME, "body").text, text)

    def find(self, xpath: str, *, count: int = 1) -> list[WebElement]:
        """Return the elements as soon as there are `count` or more."""

        def enough() -> list[WebElement] | None:
            found = self.driver.find_elements(By.XPATH, xpath)
            return found if len(found) >= count else None

        return self.wait(enough, xpath)

    def wait_until_gone(self, xpath: str) -> None:
        self.wait(lambda: not self.driver.find_elements(By.XPATH, xpath), f"without {xpath}")

    def click(self, xpath: str) -> None:
        self.find(xpath)[0].click()

    def type(self, xpath: str, text: str) -> None:
        self.find(xpath)[0].send_keys(text)

    def errors(self) -> list[str]:
        """Return what went wrong in the browser since the last time."""
        messages = [entry["message"] for entry in self.driver.get_log("browser")]
        return [message for message in messages if not any(known in message for known in NOT_OURS)]

    def photograph(self, path: Path) -> None:
        """Save a picture of the page; with POLYMASK_UPDATE_DOCS=1 it becomes that of the docs."""
        self.driver.execute_script(TIDY_UP)
        assert self.driver.save_screenshot(str(path))
        if os.environ.get("POLYMASK_UPDATE_DOCS") == "1":
            PICTURES.mkdir(exist_ok=True)
            shutil.copy(path, PICTURES / path.name)
