"""The recipes of examples/backends, without starting one: what they name exists, and what they say is in them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from otel_mlobs import semconv
from otel_mlobs.tools.alerts import Alerts
from otel_mlobs.tools.drift_rules import drift_rules
from otel_mlobs.tools.outcome_rules import outcome_rules
from otel_mlobs.tools.rules import prometheus_name

RECIPES = Path(__file__).resolve().parent.parent / "examples" / "backends"
COMPOSE = RECIPES / "compose"
PAGES = sorted(RECIPES.glob("**/README.md"))


def _services() -> dict[str, dict[str, Any]]:
    content: dict[str, dict[str, dict[str, Any]]] = yaml.safe_load((COMPOSE / "docker-compose.yaml").read_text())
    return content["services"]


@pytest.mark.parametrize("file", sorted(RECIPES.glob("**/*.y*ml")), ids=lambda file: f"{file.parent.name}/{file.name}")
def test_every_configuration_is_yaml(file: Path) -> None:
    """Each file is one YAML document with something in it, and names no key twice."""
    text = file.read_text(encoding="utf-8")

    class Strict(yaml.SafeLoader):
        pass

    def once(loader: Any, node: Any) -> dict[Any, Any]:
        keys = [loader.construct_object(key) for key, _ in node.value]
        assert len(keys) == len(set(keys)), keys
        return {
            key: loader.construct_object(value, deep=True) for key, (_, value) in zip(keys, node.value, strict=True)
        }

    Strict.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, once)
    assert yaml.load(text, Strict)


def test_every_file_that_is_mounted_exists() -> None:
    """What a container reads lies where the file says, seen from its own folder; other volumes are declared."""
    declared = yaml.safe_load((COMPOSE / "docker-compose.yaml").read_text())["volumes"]
    for name, service in _services().items():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (COMPOSE / source).exists(), f"{name}: {source}"
            else:
                assert source in declared, f"{name}: {source}"
        build = service.get("build")
        if build:
            assert (COMPOSE / build["context"] / build["dockerfile"]).is_file()


def test_every_image_has_a_version() -> None:
    """No `latest`, no tag left out: what worked once is what starts the next time. The application is built."""
    images = {name: service.get("image", "") for name, service in _services().items() if "build" not in service}
    assert images.keys() == {"collector", "jaeger", "prometheus", "alertmanager", "grafana"}
    for name, image in images.items():
        assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+\.\d+", image), f"{name}: {image!r}"


def test_services_in_containers_reach_each_other() -> None:
    """Every address that the environment of a container names is a service of the file."""
    services = _services()
    text = (COMPOSE / "grafana" / "datasources.yaml").read_text() + (
        COMPOSE / "alertmanagers" / "compose.yml"
    ).read_text()
    values = [str(value) for service in services.values() for value in service.get("environment", {}).values()]
    hosts = re.findall(r"\b([a-z]+):\d{4,5}\b", " ".join([*values, text]))
    assert {"collector", "jaeger", "prometheus", "alertmanager"} <= set(hosts) <= services.keys()
    assert all(name in services for service in services.values() for name in service.get("depends_on", ()))


def test_the_image_copies_what_there_is() -> None:
    """Each path that the Dockerfile copies is in the repository, from where it is built."""
    copied = re.findall(r"^COPY (.+) \S+$", (COMPOSE / "Dockerfile").read_text(), re.MULTILINE)
    assert copied
    assert all((RECIPES.parent.parent / path).exists() for paths in copied for path in paths.split())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name)
def test_pages_of_recipes_lead_somewhere(page: Path) -> None:
    """No link of a page within the repository is broken."""
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8"))
    assert [target for target in targets if not (page.parent / target).exists()] == []


@pytest.mark.parametrize(
    ("recipe", "file"), [("jaeger", "jaeger.yaml"), ("tempo", "tempo.yaml"), ("collector-gateway", "collector.yaml")]
)
def test_pages_list_every_variable_and_its_default(recipe: str, file: str) -> None:
    """A variable that a configuration reads is in its page's table, with the default that it has."""
    text = (RECIPES / recipe / file).read_text(encoding="utf-8")
    read = dict(re.findall(r"\$\{(?:env:)?([A-Z_]+):-([^}]*)\}", text))
    assert len(read) == len(set(re.findall(r"\$\{(?:env:)?([A-Z_]+)", text)))
    page = (RECIPES / recipe / "README.md").read_text(encoding="utf-8")
    listed: dict[str, str] = {}
    table = page.partition("| Variable |")[2].partition("\n\n")[0]
    for names, defaults in re.findall(r"^\| (`[A-Z].*?) \| (.*?) \|", table, re.MULTILINE):
        variables = re.findall(r"`([A-Z_]+)`", names)
        values = [value.strip(" `") for value in defaults.split(", ")]
        assert len(variables) == len(values)
        listed.update(zip(variables, values, strict=True))
    assert listed == read


def test_the_gateway_knows_which_gauges_all_workers_share() -> None:
    """Each gauge is shared by all workers, dropped as one worker's own, or keeps its worker; none is left to chance."""
    text = (RECIPES / "collector-gateway" / "collector.yaml").read_text(encoding="utf-8").replace("\\\\.", "\\.")
    (dropped,) = re.findall(r'IsMatch\(name, "(.+?)"\)', text)
    (shared,) = re.findall(r'METRIC_DATA_TYPE_GAUGE and not IsMatch\(metric\.name, "(.+?)"\)', text)
    (apart,) = re.findall(r'where IsMatch\(metric\.name, "(.+?)"\)', text)
    gauges = {metric.name for metric in semconv.METRICS if metric.instrument == "gauge"}
    fates = {name: (bool(re.search(dropped, name)), bool(re.search(shared, name))) for name in gauges}
    assert {name for name, fate in fates.items() if fate == (True, True)} == set()
    assert {name for name, (_, is_shared) in fates.items() if is_shared} == {
        "mlobs.feature.reference",
        "mlobs.feature.reference_score",
        "mlobs.prediction.reference",
        "mlobs.profile.rows",
        "mlobs.monitor.series.omitted",
        "mlobs.feature_view.objective",
    }
    left = {name for name, fate in fates.items() if fate == (False, False) and not re.search(apart, name)}
    assert left == {
        "mlobs.outcome.store.pending",
        "mlobs.feature_view.last_update",
        "mlobs.performance.reliable",
    }, "keep their worker; is that right for a new one?"


def test_the_gateway_drops_nothing_that_a_rule_reads() -> None:
    """Else its alerts would be silent for ever, and estimates that are not to be relied on be shown."""
    text = (RECIPES / "collector-gateway" / "collector.yaml").read_text(encoding="utf-8").replace("\\\\.", "\\.")
    (dropped,) = re.findall(r'IsMatch\(name, "(.+?)"\)', text)
    rules = Alerts().rules() + drift_rules() + outcome_rules()
    read = {metric.name for metric in semconv.METRICS if re.search(rf"\b{prometheus_name(metric)}\b", rules)}
    assert read
    assert not {name for name in read if re.search(dropped, name)}
