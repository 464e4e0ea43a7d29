"""The page of a tested run, as programs read it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from html_page import Element, read_page
from report_files import HOSTILE, METRICS, facts, samples, write_report_files

from polymask.reporting.page.facts import RunFacts
from polymask.reporting.page.run_page import write_run_page


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    write_report_files(folder)
    write_run_page(folder, facts(), samples(), ["accuracy", "absent", "hd95"])
    return folder


@pytest.fixture(scope="module")
def page(folder: Path) -> Element:
    return read_page(folder / "report.html")


def cells(element: Element) -> list[list[str]]:
    return [[cell.text for cell in row.all("th", "td")] for row in element.all("tr")]


def table(page: Element, caption: str) -> Element:
    (found,) = (each for each in page.all("table") if each.one("caption").text == caption)
    return found


def test_it_asks_for_nothing_from_elsewhere(page: Element, folder: Path) -> None:
    for element in page.all():
        for name in ("src", "href", "srcset", "action", "poster", "data"):
            assert element.attributes.get(name, "#").startswith(("#", "data:")), element.attributes
    text = re.sub(r'"data:[^"]*"', "", (folder / "report.html").read_text(encoding="utf-8"))
    assert "url(" not in text
    assert "@import" not in text
    assert "fetch(" not in text


def test_every_picture_is_inside_and_described(page: Element) -> None:
    pictures = page.all("img")
    assert len(pictures) == 3 + len([each for each in page.all("figure") if "data-kinds" in each.attributes])
    for picture in pictures:
        assert picture.attributes["src"].startswith(("data:image/png;base64,", "data:image/jpeg;base64,"))
        assert len(picture.attributes["alt"]) > 5
        assert int(picture.attributes["width"]) > 0
    assert (pictures[0].attributes["width"], pictures[0].attributes["height"]) == ("40", "30")


def test_headings_come_in_order_and_can_be_jumped_to(page: Element) -> None:
    headings = [heading.tag for heading in page.all("h1", "h2", "h3", "h4")]
    assert headings[0] == "h1"
    assert set(headings[1:]) == {"h2"}
    targets = {element.attributes.get("id") for element in page.all()}
    for link in page.all("a"):
        assert link.attributes["href"][1:] in targets
    titles = [link.text for link in page.one("nav").all("a")]
    assert titles == [
        "Headline", "Metrics", "Curves", "Calibration", "Subgroups", "Gallery", "Data", "Run", "More",
    ]  # fmt: skip
    assert page.one("html").attributes["lang"] == "en"


def test_tables_have_captions_and_headings_of_rows_and_columns(page: Element) -> None:
    assert len(page.all("table")) >= 6
    for each in page.all("table"):
        assert each.one("caption").text
        head, *rows = each.all("tr")
        assert all(cell.attributes["scope"] == "col" for cell in head.all("th", "td"))
        for row in rows:
            first, *others = row.all("th", "td")
            assert first.attributes["scope"] == "row"
            assert all(cell.tag == "td" for cell in others)
            assert len(others) + 1 == len(head.all("th"))


def test_numbers_are_those_of_the_metrics_file(page: Element) -> None:
    exact = {row.one("code").text: row for row in table(page, "All samples").all("tr") if row.all("code")}
    for name in ("accuracy", "hd95"):
        values = [float(value.attributes["value"]) for value in exact[name].all("data")]
        assert values == [METRICS[name][end] for end in ("value", "low", "high")]
    assert exact["auroc_macro"].one("td").text == "–"  # noqa: RUF001

    of_class = table(page, "Each class").all("tr")
    assert [float(value.attributes["value"]) for value in of_class[1].all("data")] == [0.5, 0.25, 0.75]
    assert of_class[2].one("th").text == HOSTILE
    (first, second) = page.one("section").all("li")
    assert first.attributes["data-metric"] == "accuracy"
    assert first.one("data").attributes["value"] == "0.8125"
    assert second.one("p").text == "HD95"
    losses = table(page, "Losses")
    assert [value.attributes["value"] for value in losses.all("data")] == ["0.625"]


def test_bars_lie_where_the_numbers_are(page: Element) -> None:
    bars = [element.attributes["style"] for element in page.one("section").all("i")]
    assert bars == ["left: 70.0%; width: 23.75%", "left: 81.25%"]  # of accuracy; HD95 is no share


def test_hostile_names_stay_text(page: Element, folder: Path) -> None:
    assert page.one("h1").text == HOSTILE
    assert page.one("title").text.startswith(HOSTILE)
    assert not [each for each in page.all("b") if not each.text]
    assert '<b>&"' not in (folder / "report.html").read_text(encoding="utf-8")
    (option,) = (each for each in page.all("option") if each.text == HOSTILE)
    assert option.attributes["value"] == "1"


def test_tables_of_others_are_shown_with_their_intervals(page: Element) -> None:
    _, first, second = table(page, "Metrics of each subgroup").all("tr")
    assert [value.attributes["value"] for value in first.all("data")] == ["12", "0.75", "0.5", "0.875"]
    assert second.one("th").text == HOSTILE
    assert cells(table(page, "Metrics of each subgroup"))[0] == ["Subgroup", "Number of samples", "Accuracy"]
    (more,) = (each for each in page.all("section") if each.attributes["id"] == "more")
    assert len(table(more, "Unheard of").all("tr")) == 21
    assert "The first 20 of 50 rows" in more.text


def test_the_gallery_can_be_chosen_from_by_class(page: Element) -> None:
    cases = [each for each in page.all("figure") if "data-kinds" in each.attributes]
    kinds = {each.all("span")[1].text: each.attributes["data-kinds"].split() for each in cases}
    assert kinds["s0"] == ["all:worst", "0:worst"]
    assert kinds["s1"] == ["all:worst", "1:worst"]
    assert kinds["s15"] == ["all:best", "1:best"]
    assert list(kinds) == sorted(kinds, key=lambda name: int(name[1:]))
    assert "Truth MEL" in cases[0].text
    assert [label.attributes["for"] for label in page.all("label")] == ["filter-class", "filter-kind"]


def test_what_is_not_known_is_called_unknown_and_secrets_stay_out(page: Element, folder: Path) -> None:
    known = {
        entry.one("dt").text: entry.one("dd").text for entry in page.all("dl") for entry in entry.all("div")
    }
    assert known["Licence of the data"] == known["Code (commit) of the test"] == "unknown"
    assert known["Training time"] == "0:02:05"
    assert known["Epochs"] == "2, tested weights of epoch 2"
    assert "secret" not in (folder / "report.html").read_text(encoding="utf-8")


def test_a_page_of_large_pictures_stays_within_a_few_megabytes(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text(json.dumps({"metrics": {}}))
    large = samples(120, size=(600, 900))
    write_run_page(tmp_path, facts(), large, [])
    assert 1_000_000 < (tmp_path / "report.html").stat().st_size < 4_000_000


def test_a_folder_with_nothing_but_plain_numbers_has_a_page(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text(json.dumps({"metrics": {"loss": 3}}))
    nothing = replace(samples(), scores={})
    write_run_page(tmp_path, RunFacts(name="bare"), nothing, ["absent"])
    page = read_page(tmp_path / "report.html")
    assert [link.text for link in page.one("nav").all("a")] == ["Headline", "Metrics", "Data", "Run"]
    assert page.one("section").one("data").attributes["value"] == "3"
