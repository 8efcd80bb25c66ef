"""Synthetic studies that the report tests share, each written and built once for all workers.

``plain_study``: the main comparison alone. ``variant_study``: SGPO's variants, the runs past the
paper, analyses and stored answers besides. Neither has figures, and neither is ever written to;
``study`` and ``variant_copy`` are copies of the runs that a test may damage.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from synthetic_analyses import write_analyses
from synthetic_study import change, write_study

from benchmarks.report.build import ReportSummary, build

MADE = shutil.ignore_patterns("tables", "figures", "*.md", "report.html")


@pytest.fixture(scope="session")
def plain_study(once) -> tuple[Path, ReportSummary]:
    def make(directory: Path) -> tuple[Path, ReportSummary]:
        root = write_study(directory / "mini")
        return root, build(root, figures=False)

    return once("plain", make)


@pytest.fixture(scope="session")
def variant_study(once) -> tuple[Path, ReportSummary]:
    def make(directory: Path) -> tuple[Path, ReportSummary]:
        root = write_study(directory / "mini", variants=True)
        for path in sorted(root.glob("runs/*/scores.json")):
            change(path, _answer)
        write_analyses(root)
        return root, build(root, figures=False)

    return once("variants", make)


def _answer(scores: dict) -> None:
    """Answers that fit the verdict letters: right ones agree, and wrong ones do."""
    for table in scores["benchmarks"].values():
        words = " ".join(table["verdicts"])
        table["answers"] = words.translate(str.maketrans("cwnt", "ab.."))


@pytest.fixture
def study(plain_study, tmp_path) -> Path:
    return Path(shutil.copytree(plain_study[0], tmp_path / "mini", ignore=MADE))


@pytest.fixture
def variant_copy(variant_study, tmp_path) -> Path:
    return Path(shutil.copytree(variant_study[0], tmp_path / "mini", ignore=MADE))


@pytest.fixture
def browser(chromium):
    """A headless Chromium of the size and scheme that it has by itself, or a skip."""
    yield chromium
    chromium.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


@pytest.fixture(scope="session")
def chromium(tmp_path_factory):
    """The one that all tests share; the skip says what is absent."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    programs = [shutil.which("chromium") or shutil.which("google-chrome"),
                shutil.which("chromedriver")]  # fmt: skip
    if None in programs:
        pytest.skip("no chromium and chromedriver here (Debian: chromium, chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = programs[0]
    for flag in ("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run",
                 "disable-background-networking", "disable-component-update", "disable-sync",
                 f"user-data-dir={tmp_path_factory.mktemp('chromium')}"):  # fmt: skip
        options.add_argument(f"--{flag}")
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(programs[1]))
    yield driver
    driver.quit()
