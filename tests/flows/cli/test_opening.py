"""The report of a run in a browser: a page from a store that cannot run, load or lead anywhere."""

import re
import shutil
import webbrowser
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from typer.testing import CliRunner

from engine.reports.page import as_html
from engine.reports.sections import Page
from flows.cli.app import app
from tests.bench import bench_show

RUN = "bench-0badcafe"
runner = CliRunner()


@pytest.fixture
def opened(tmp_path, monkeypatch):
    """A store with a run, and the addresses that the browser was asked for."""
    bench_show.add_run(tmp_path, RUN, 2, is_finished=True)
    found = []
    monkeypatch.setattr(webbrowser, "open", lambda url: found.append(url) or True)
    return found


def ask(tmp_path):
    return runner.invoke(app, ["open", RUN[:6], "--store", str(tmp_path)])


def test_the_report_is_opened_with_a_rule_before_all_else(opened, tmp_path):
    """A page that somebody has put in its place has no rule of its own."""
    report = tmp_path / "runs" / RUN / "report.html"
    report.write_text("<!doctype html><title>x</title><script>alert(1)</script>")

    result = ask(tmp_path)

    assert result.exit_code == 0, result.stderr
    assert str(report) in result.stdout
    (url,) = opened
    page = Path(urlsplit(url).path).read_text()
    assert page.endswith(report.read_text())
    before = page.removesuffix(report.read_text())
    rule = r"<!doctype html><meta charset=\"utf-8\"><meta [^>]*default-src 'none'[^>]*>"
    assert re.fullmatch(rule, before)
    assert "script-src" not in before


@pytest.mark.parametrize(
    "page",
    [
        '<meta http-equiv="refresh" content="0; url=https://example.org">',
        "<META HTTP-EQUIV = refresh content=0>",
        '<meta http-equiv="&#114;efresh" content="0">',
        "<base href='https://example.org'>",
        "<link rel=preconnect href=https://example.org>",
        "<LINK REL='dns-prefetch' HREF='//example.org'>",
        '<meta http-equiv="refresh" content="5;url=https://example.org">',
        '<meta http-equiv="refresh" content="5"><meta http-equiv="refresh" content="6">',
    ],
)
def test_a_page_that_leads_away_is_not_opened(opened, tmp_path, page):
    """No rule of a page forbids that."""
    (tmp_path / "runs" / RUN / "report.html").write_text(page)

    result = ask(tmp_path)

    assert result.exit_code == 2
    assert "mgd resume" in result.stderr
    assert opened == []


def test_a_report_that_grows_is_opened_as_it_is_now(opened, tmp_path):
    """A browser would load the copy again and again, in which nothing changes."""
    grown = as_html(Page(title="x", run=RUN, headline="After outer step 1 of 5", refresh=20))
    assert "refresh" in grown
    (tmp_path / "runs" / RUN / "report.html").write_text(grown)

    result = ask(tmp_path)

    assert result.exit_code == 0, result.stderr
    assert "open it again" in result.stdout
    (url,) = opened
    page = Path(urlsplit(url).path).read_text()
    assert "After outer step 1 of 5" in page
    assert "refresh" not in page


def test_a_run_without_a_report_says_how_it_gets_one(opened, tmp_path):
    """It has not finished."""
    (tmp_path / "runs" / RUN / "report.html").unlink(missing_ok=True)

    result = ask(tmp_path)

    assert result.exit_code == 2
    assert f"mgd resume {RUN}" in result.stderr


def test_where_there_is_no_browser_the_place_is_said(opened, tmp_path, monkeypatch):
    """On a server, say."""
    (tmp_path / "runs" / RUN / "report.html").write_text("<p>")
    monkeypatch.setattr(webbrowser, "open", lambda _: False)

    result = ask(tmp_path)

    assert result.exit_code == 0
    assert "No browser" in result.stdout


@pytest.mark.parametrize("words", [["open", "copy"], ["show", "copy"], ["show"]])
def test_a_folder_that_was_copied_is_said_to_be_another_run(words, opened, tmp_path):
    """Two runs of one result would be taken for the same finding twice."""
    shutil.copytree(tmp_path / "runs" / RUN, tmp_path / "runs" / "copy-1badcafe")
    record = tmp_path / "runs" / "copy-1badcafe" / "run.json"

    result = runner.invoke(app, [*words, "--store", str(tmp_path)], env={"COLUMNS": "200"})

    assert result.exit_code == 0, result.stderr
    told = " ".join(result.output.split())
    assert f"The folder copy-1badcafe holds the result of run {RUN}" in told.replace("│ ", "")
    record.write_text(record.read_text().replace(RUN, "copy-1badcafe"))
    again = runner.invoke(app, [*words, "--store", str(tmp_path)], env={"COLUMNS": "200"})
    assert "holds the result of" not in again.output
