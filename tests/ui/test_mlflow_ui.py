"""What the MLflow UI shows of two runs is what they recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from browser_page import CHROMIUM, DRIVER, Page
from selenium.webdriver.common.by import By

pytestmark = [
    pytest.mark.ui,
    pytest.mark.skipif(
        CHROMIUM is None or DRIVER is None,
        reason="needs Chromium: sudo apt-get install --yes chromium chromium-driver",
    ),
]

# The table of metrics is two grids beside each other, names and values, that hold only the rows in sight.
METRIC_ROWS = """
const grids = [...document.querySelectorAll('.ReactVirtualized__Grid')];
const [names, values] = grids.map(grid => [...grid.firstChild.children]);
const rowOf = name => values.filter(value => value.style.top === name.style.top);
return Object.fromEntries(names.map(name => [name.innerText, rowOf(name).map(value => value.innerText)]));
"""
SCROLL_ON = """
const grid = document.querySelectorAll('.ReactVirtualized__Grid')[1];
const end = grid.scrollTop + grid.clientHeight >= grid.scrollHeight;
grid.scrollTop = end ? 0 : grid.scrollTop + 150;
"""


def test_comparison_shows_parameters_metrics_and_pictures(
    page: Page, runs: list[Any], tmp_path: Path
) -> None:
    identifiers = ",".join(f'"{run.info.run_id}"' for run in runs)
    page.open(f'compare-runs?runs=[{identifiers}]&experiments=["{runs[0].info.experiment_id}"]', height=1500)
    page.wait_for_text("Comparing 2 Runs from 1 Experiment")
    assert parameter(page, "Run Name:") == ["demo_a", "demo_b"]
    assert parameter(page, "data.image_size") == ["96", "96"]
    page.click("//button[@aria-label='Parameters - Show diff only']")
    page.wait_until_gone("//th[text()='data.image_size']")
    rates = parameter(page, "optimizer.learning_rate")
    assert rates == ["0.001", "0.0003"] == [run.data.params["optimizer.learning_rate"] for run in runs]
    page.click("//*[text()='confusion_matrix.png']")
    wait_for_pictures(page, "confusion_matrix.png", count=2)
    page.click("//*[text()='Visualizations']")  # makes room
    page.photograph(tmp_path / "mlflow_comparison.png")
    for name in ("test/dice_lesion_image", "val/loss"):
        shown = [float(text) for text in metric(page, name)]
        assert shown == pytest.approx([run.data.metrics[name] for run in runs], abs=0.0006)  # three digits


def test_charts_show_the_course_of_both_runs(page: Page, runs: list[Any], tmp_path: Path) -> None:
    page.open(f"experiments/{runs[0].info.experiment_id}/runs?compareRunsMode=CHART", height=1140)
    chosen = "(val|test)/(loss|dice_lesion_image|balanced_accuracy)$"
    page.type("//input[@placeholder='Search metric charts']", chosen)
    for name in ("val/loss", "val/dice_lesion_image", "val/balanced_accuracy"):
        curves = f"{chart(name)}//*[contains(@class, 'scatterlayer')]"
        page.find(f"{curves}//*[@class='point']", count=2 * int(runs[0].data.params["epochs"]))
    for name in ("test/loss", "test/dice_lesion_image", "test/balanced_accuracy"):
        bars = page.find(f"{chart(name)}//*[contains(@class, 'barlayer')]//*[@class='point']", count=2)
        values = [run.data.metrics[name] for run in runs]
        assert [float(bar.text) for bar in bars] == pytest.approx(values, abs=0.006)  # two digits
    page.photograph(tmp_path / "mlflow_charts.png")


def test_overview_of_a_run_shows_all_metrics_and_parameters(page: Page, runs: list[Any]) -> None:
    page.open(run_route(runs[0]))
    expected = {**runs[0].data.params, **runs[0].data.metrics}
    rows = page.find("//*[@role='row'][*[@role='cell']]", count=len(expected))
    shown = dict([cell.text for cell in row.find_elements(By.XPATH, "*[@role='cell']")] for row in rows)
    assert {name: float(shown[name]) for name in runs[0].data.metrics} == runs[0].data.metrics
    assert {name: shown[name] for name in runs[0].data.params} == runs[0].data.params


def test_artifacts_of_a_run_show_pictures(page: Page, runs: list[Any]) -> None:
    page.open(f"{run_route(runs[1])}/artifacts/predictions")
    for name in ("sample_1_", "worst_mask_1_", "training_curves.png", "confusion_matrix.png"):
        page.click(f"//*[starts-with(text(), '{name}')]")
        wait_for_pictures(page, name, count=1)


def test_artifacts_of_a_run_show_its_report(page: Page, runs: list[Any]) -> None:
    page.open(f"{run_route(runs[1])}/artifacts/report.html")
    (frame,) = page.find("//iframe")
    page.driver.switch_to.frame(frame)
    try:
        page.wait_for_text("Test report".upper())
        assert page.find("//h1")[0].text == "demo_b"
        assert page.find("//select[@id='filter-class']")[0].is_displayed()  # its script runs
        pictures = page.find("//img")
        assert all(int(each.get_property("naturalWidth")) > 0 for each in pictures)
    finally:
        page.driver.switch_to.default_content()


def run_route(run: Any) -> str:
    return f"experiments/{run.info.experiment_id}/runs/{run.info.run_id}"


def chart(metric: str) -> str:
    return f"//*[@data-testid='experiment-view-compare-runs-card'][.//*[text()='{metric}']]"


def parameter(page: Page, name: str) -> list[str]:
    return [cell.text for cell in page.find(f"//tr[th[text()='{name}']]/td", count=2)]


def metric(page: Page, name: str) -> list[str]:
    """Scroll until the row of a metric is complete, and return its values."""

    def look() -> list[str] | None:
        values = page.driver.execute_script(METRIC_ROWS).get(name, [])
        if len(values) == 2:
            return values
        page.driver.execute_script(SCROLL_ON)
        return None

    return page.wait(look, name)


def wait_for_pictures(page: Page, name: str, *, count: int) -> None:
    """Wait until so many pictures are shown: `naturalWidth` is 0 for one that is not loaded or is broken."""

    def shown() -> bool:
        pictures = page.find(f"//img[contains(@alt, '{name}')]", count=count)
        return all(each.is_displayed() and int(each.get_property("naturalWidth")) > 0 for each in pictures)

    page.wait(shown, name)
