"""The names: consistent, documented, and in OpenTelemetry's own words where there are any."""

from __future__ import annotations

import json
import re
import typing
from pathlib import Path

from opentelemetry.semconv._incubating.attributes import feature_flag_attributes, hw_attributes, network_attributes
from opentelemetry.semconv._incubating.metrics import container_metrics, db_metrics, hw_metrics
from opentelemetry.semconv.attributes import error_attributes, exception_attributes

from otel_mlobs import semconv


def test_names_are_namespaced_and_unique() -> None:
    """Every attribute and metric is ours under ``mlobs.``, or one of OpenTelemetry's."""
    keys = {attribute.key for span in semconv.SPANS for attribute in span.attributes}
    keys |= {attribute.key for attribute in semconv.COMMON_ATTRIBUTES}
    assert error_attributes.ERROR_TYPE in keys
    assert feature_flag_attributes.FEATURE_FLAG_RESULT_VARIANT in keys
    for key in keys - {error_attributes.ERROR_TYPE, feature_flag_attributes.FEATURE_FLAG_RESULT_VARIANT}:
        assert re.fullmatch(r"mlobs(\.[a-z][a-z_]*)+", key), key
    names = [metric.name for metric in semconv.METRICS]
    assert len(set(names)) == len(names)
    for name in names:
        assert re.fullmatch(r"mlobs(\.[a-z][a-z_]*)+", name) or name in OPENTELEMETRYS, name


CONVENTIONS = (hw_metrics, container_metrics, db_metrics)
OPENTELEMETRYS = {value for module in CONVENTIONS for key, value in vars(module).items() if key.isupper()}


def test_metrics_of_the_conventions_are_as_these_have_them() -> None:
    """Unit and instrument of every ``hw.*`` are written in the package of OpenTelemetry's conventions."""
    text = "".join(Path(module.__file__).read_text() for module in CONVENTIONS)
    found = {
        name: (instrument, unit)
        for name, instrument, unit in re.findall(
            r'^[A-Z_]+: Final = "(.+?)"\n"""\n(?:(?!""").*\n)*?Instrument: (\w+)\nUnit: (\S+)\n', text, re.MULTILINE
        )
    }
    ours = {metric.name: (metric.instrument, metric.unit) for metric in semconv.METRICS if metric.name in found}
    assert len(ours) == 18
    assert ours == {name: found[name] for name in ours}
    keys = {attribute.key for metric in semconv.GPU_METRICS for attribute in metric.attributes}
    known = {value for key, value in vars(hw_attributes).items() if key.startswith("HW_")}
    assert {key for key in keys if key.startswith("hw.")} <= known
    assert network_attributes.NETWORK_IO_DIRECTION in keys


def test_no_name_is_the_beginning_of_another() -> None:
    """OpenTelemetry forbids a key that is also a namespace: ``a.b`` beside ``a.b.c``."""
    keys = {attribute.key for span in semconv.SPANS for attribute in span.attributes}
    for key in keys:
        assert not any(other.startswith(f"{key}.") for other in keys), key


def test_the_exceptions_names_are_opentelemetrys() -> None:
    """They are written out here and must not drift from the conventions."""
    assert semconv.EXCEPTION_TYPE == exception_attributes.EXCEPTION_TYPE
    assert semconv.EXCEPTION_MESSAGE == exception_attributes.EXCEPTION_MESSAGE
    assert semconv.EXCEPTION_STACKTRACE == exception_attributes.EXCEPTION_STACKTRACE


def test_everything_is_described_with_an_example_of_its_type() -> None:
    """The documentation is made from these tables."""
    types = {"string": str, "int": int, "double": float, "boolean": lambda text: {"true": True, "false": False}[text],
             "string[]": str, "int[]": json.loads}  # fmt: skip
    attributes = [attribute for span in semconv.SPANS for attribute in span.attributes]
    attributes += [attribute for span in semconv.SPANS for event in span.events for attribute in event.attributes]
    for attribute in (*attributes, *semconv.COMMON_ATTRIBUTES):
        assert attribute.type in typing.get_args(semconv.AttributeType)
        assert attribute.description.endswith(".")
        types[attribute.type](attribute.example)
    for metric in semconv.METRICS:
        assert metric.description.endswith(".")
        assert metric.unit


def test_labels_are_bounded() -> None:
    """No metric is labelled with anything that grows with traffic: no ids, no counts, no scores."""
    allowed = {
        "mlobs.operation.name", "mlobs.model.name", "mlobs.model.version", "mlobs.feature_view.name",
        "mlobs.feature_store.name", "mlobs.candidate.source", "error.type", "mlobs.internal.component",
        "mlobs.profile.id", "mlobs.feature.name", "mlobs.prediction.output", "mlobs.bin", "mlobs.score",
        "mlobs.drift.method", "feature_flag.result.variant", "mlobs.outcome.cell", "mlobs.outcome.class",
        "mlobs.outcome.label", "mlobs.outcome.labelled", "mlobs.outcome.result", "mlobs.outcome.direction",
        "mlobs.currency", "mlobs.performance.metric", "mlobs.performance.bound", "mlobs.outcome.store.kind",
        "mlobs.outcome.store.reason", "mlobs.ranking.event", "mlobs.ranking.position", "mlobs.agreement.result",
        "mlobs.shadow.version", "mlobs.feature.result", "mlobs.feature.value", "mlobs.input.violation",
        "hw.id", "hw.name", "hw.parent", "hw.type", "hw.model", "hw.vendor", "hw.driver_version", "hw.state",
        "hw.gpu.task", "hw.sensor_location", "hw.limit_type", "network.io.direction", "mlobs.gpu.link",
        "mlobs.pressure.resource", "mlobs.pressure.extent", "mlobs.pressure.scope", "db.client.connection.pool.name",
        "db.client.connection.state", "mlobs.gpu.unit", "mlobs.gpu.clock_domain",
        "mlobs.gpu.throttle_reason", "mlobs.gpu.page_state", "mlobs.sampling.decision", "mlobs.sampling.reason",
    }  # fmt: skip
    assert {attribute.key for metric in semconv.METRICS for attribute in metric.attributes} == allowed
    assert "error.type" not in {attribute.key for attribute in semconv.OPERATION_ERRORS.attributes}
