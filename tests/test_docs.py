"""What the documentation says is so: names, settings, commands, pictures. Its code runs by itself, see conftest.py."""

from __future__ import annotations

import argparse
import re
import runpy
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from opentelemetry import environment_variables as api_variables
from opentelemetry.sdk import environment_variables

from otel_mlobs import __all__ as public_names
from otel_mlobs import semconv, settings
from otel_mlobs.settings.objectives import Objectives
from otel_mlobs.tools import cli
from otel_mlobs.tools.alerts import Alerts
from otel_mlobs.tools.dashboards import dashboards
from otel_mlobs.tools.drift_rules import drift_rules
from otel_mlobs.tools.outcome_rules import outcome_rules
from otel_mlobs.tools.rules import prometheus_name

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")),
    *(page for page in sorted(ROOT.glob("docs/**/*.md")) if "_build" not in page.parts),
]
IDS = [str(page.relative_to(ROOT)) for page in PAGES]
SESSIONS = re.findall(r"@nox\.session.*\ndef (\w+)", (ROOT / "noxfile.py").read_text(encoding="utf-8"))

each_page = pytest.mark.parametrize("page", PAGES, ids=IDS)


def _read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def _names_of_signals() -> set[str]:
    attributes = [*semconv.COMMON_ATTRIBUTES, *(each for span in semconv.SPANS for each in span.attributes)]
    events = [event for span in semconv.SPANS for event in span.events]
    attributes += [each for event in events for each in event.attributes]
    attributes += [each for metric in semconv.METRICS for each in metric.attributes]
    return (
        {each.key for each in attributes}
        | {metric.name for metric in semconv.METRICS}
        | {event.name for event in events}
    )


def test_the_configuration_page_lists_every_setting_once() -> None:
    """A setting that is added, renamed or dropped shows on the page, in the order of `configure`."""
    table = _read(ROOT / "docs" / "configuration.md").partition("## Every setting")[2].partition("\n## ")[0]
    assert tuple(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == settings.ARGUMENTS


def test_the_configuration_page_lists_every_backend_with_its_signals() -> None:
    """Which backend takes what is what the settings say."""
    table = _read(ROOT / "docs" / "configuration.md").partition("## Backends")[2]
    rows = re.findall(r'^\| `"(\w+)"` \|(.*?)\|(.*?)\|(.*?)\|', table, re.MULTILINE)
    stated = {
        name: tuple(s for s, cell in zip(settings.SIGNALS, cells, strict=True) if "✔" in cell) for name, *cells in rows
    }
    assert stated == settings.TAKES


@each_page
def test_names_of_signals_exist(page: Path) -> None:
    """Every `mlobs.*` name that a page mentions is in semconv, also as Prometheus writes it, or in the rules."""
    known = _names_of_signals()
    text = _read(page)
    own = {
        name for name in re.findall(r"\bmlobs\.[a-z_]+(?:\.[a-z_]+)+\b", text) if not name.startswith("mlobs.testing.")
    }
    assert own <= known
    in_promql = {
        name
        for name in re.findall(r"\bmlobs_[a-z_]+\b", text)
        if not re.fullmatch(r"mlobs_telemetry|mlobs_?_.*__.*", name)
    }
    underscored = {name.replace(".", "_") for name in known}
    written = {prometheus_name(metric) for metric in semconv.METRICS}
    endings = ("", "_total", "_bucket", "_seconds", "_seconds_bucket", "_seconds_count", "_seconds_sum", "_ratio")
    recorded = set(re.findall(r"\bmlobs_[a-z_]+\b", drift_rules() + outcome_rules() + Alerts().rules()))
    assert in_promql <= recorded | written | {name + ending for name in underscored for ending in endings}


@each_page
def test_variables_exist(page: Path) -> None:
    """Every `OTEL_*` and `MLOBS_*` variable that a page mentions is one that is read."""
    known = {name for name in vars(environment_variables) if name.startswith("OTEL_")}
    known |= {name for name in vars(api_variables) if name.startswith("OTEL_")}
    known |= {
        "MLOBS_CONFIG",
        "MLOBS_REQUIRE_SERVERS",
        "MLOBS_STORE_PASSWORD",
        "MLOBS_STORE_URL",
        "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS",
        "OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER",
        "OTEL_PYTHON_SYSTEM_METRICS_EXCLUDED_METRICS",
        *(f"OTEL_{signal.upper()}_EXPORTER" for signal in settings.SIGNALS),
    }
    assert set(re.findall(r"\b(?:OTEL|MLOBS)_[A-Z_]+[A-Z]\b", _read(page))) <= known


@each_page
def test_names_of_the_package_exist(page: Path) -> None:
    """Every `mlobs.name` in a page's code is public."""
    used = {
        name
        for block in re.findall(r"```python\n(.*?)```", _read(page), re.DOTALL)
        for name in re.findall(r"(?<![\"\w])mlobs\.(\w+)", block)
    }
    assert used <= set(public_names)


@each_page
def test_sessions_and_commands_exist(page: Path) -> None:
    """Every `nox -s` session and `otel-mlobs` command that a page mentions is there."""
    text = _read(page)
    assert {name.partition("-")[0] for name in re.findall(r"nox -s ([\w.-]*\w)", text)} <= set(SESSIONS)
    commands = next(action for action in cli._parser()._actions if isinstance(action, argparse._SubParsersAction))
    assert set(re.findall(r"(?:^|[`/ ])otel-mlobs ([a-z]+)(?= --|`| [A-Z]|\n)", text, re.MULTILINE)) <= set(
        commands.choices
    )


@each_page
def test_links_within_the_repository_lead_somewhere(page: Path) -> None:
    """No page links to a file that is not there."""
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", _read(page))
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_the_page_of_signals_is_fresh() -> None:
    """docs/signals.md is what semconv says today; the docs build writes it anew."""
    made = runpy.run_path(str(ROOT / "scripts" / "signals_page.py"))["render"]()
    assert _read(ROOT / "docs" / "signals.md") == made


def test_the_test_command_is_one_line_that_ci_finds() -> None:
    """`.ci/run` takes the first fenced line after the marker; it goes through nox, so that the tests are counted."""
    found = re.search(r"<!-- test-command -->\s*```\w*\n(.+?)\n```", _read(ROOT / "README.md"), re.DOTALL)
    assert found is not None
    assert "\n" not in found.group(1)
    assert found.group(1).endswith("nox -s tests")


@pytest.mark.parametrize("name", ["trace.svg", "console.svg"])
def test_pictures_are_there_and_say_what_they_show(name: str) -> None:
    """A picture is well-formed SVG with the operations' names in it, and quotes no exception message."""
    picture = ET.parse(ROOT / "docs" / "pictures" / name).getroot()
    text = " ".join(picture.itertext())
    assert picture.get("aria-label")
    assert "feature_lookup customer_features" in text
    assert "prediction employment" in text
    assert "ValueError" in text
    assert "NaN" not in text


@pytest.mark.parametrize("name", ["overview", "model", "operation", "feature", "gpu"])
def test_pictures_of_dashboards_are_of_the_dashboards_that_are_made(name: str) -> None:
    """Each is well-formed SVG with the title of every panel that the dashboard has, or its repeated panel's values."""
    picture = ET.parse(ROOT / "docs" / "pictures" / f"dashboard-{name}.svg").getroot()
    text = " ".join(picture.itertext())
    assert picture.get("aria-label")
    assert "Our own drawing, not Grafana's" in text
    made = dashboards(Objectives())[f"mlobs-{name}"]
    titles = [panel["title"].replace("$metric", "roc_auc") for panel in made["panels"]]
    assert [title for title in titles if title not in text] == []
    assert "nan" not in re.findall(r'[dxy]="[^"]*(nan)', ET.tostring(picture, encoding="unicode"))


def test_every_page_is_in_a_table_of_contents() -> None:
    """A page that no table of contents names would be a warning of the build, and found by nobody."""
    listed = set()
    for index in (ROOT / "docs" / folder / "index.md" for folder in ("", "decisions", "runbooks")):
        for block in re.findall(r"```\{toctree\}\n(.*?)```", _read(index), re.DOTALL):
            listed |= {(index.parent / line).with_suffix(".md") for line in block.split() if not line.startswith(":")}
    pages = {page for page in PAGES if ROOT / "docs" in page.parents} - {ROOT / "docs" / "index.md"}
    assert pages <= listed
