"""Writes the documentation's page of signals from `otel_mlobs.semconv`, where every name is written once.

    python scripts/signals_page.py > docs/signals.md

Sphinx does it by itself before each build.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from otel_mlobs import semconv
from otel_mlobs.tools.rules import prometheus_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

INTRODUCTION = """\
# Signals

Every span, attribute and metric of the library. This page is made from `otel_mlobs/semconv/`, from which the library
makes its instruments, so it cannot be out of date. Names that OpenTelemetry's semantic conventions have already are
used as they are.
"""

SPANS = """\
## Spans

A span is called `{operation} {target}`, as `ranking ltr`. Its kind is INTERNAL; its parent is the span that was
current, so operations nest beneath Flask's server span and beneath each other.

Every operation has these attributes, as far as they are known:
"""

AROUND = f"""\
### Flask's server span

Made by opentelemetry-instrumentation-flask, with its `http.*` attributes. `MLObs(app)` adds `{semconv.MODEL_NAME}` and
`{semconv.MODEL_VERSION}` of the last operation that had a model and, on failure, `{semconv.ERROR_TYPE}`.

### The exception event

A failed operation's span has status ERROR and, on the innermost span that the exception passed through, an event
`{semconv.EXCEPTION_EVENT}` with `{semconv.EXCEPTION_TYPE}` and `{semconv.EXCEPTION_STACKTRACE}`;
`{semconv.EXCEPTION_MESSAGE}` only with `configure(exception_messages=True)`. See
[errors and privacy](errors-and-privacy.md).
"""

METRICS = """\
## Metrics

The labels listed are all that a metric can have; user ids, item ids and feature values are never among them.
"""


def render() -> str:
    """The page, in Markdown."""
    return "\n".join(
        [
            INTRODUCTION,
            SPANS,
            _attributes(semconv.COMMON_ATTRIBUTES),
            *_spans(),
            AROUND,
            METRICS,
            *_metrics(),
        ]
    )


def _spans() -> Iterable[str]:
    for span in semconv.SPANS:
        yield f"### `{span.operation}`\n\n{span.description} Its target is {span.target}.\n"
        yield _attributes(span.attributes)
        for event in span.events:
            yield f"Event `{event.name}`: {event.description[0].lower()}{event.description[1:]}\n"
            yield _attributes(event.attributes)


def _metrics() -> Iterable[str]:
    for metric in semconv.METRICS:
        yield f"### `{metric.name}`\n\n{metric.description}\n"
        facts = [
            ("Kind", metric.instrument),
            ("Unit", f"`{metric.unit}`"),
            ("In PromQL", f"`{prometheus_name(metric)}`"),
            ("Labels", ", ".join(f"`{attribute.key}`" for attribute in metric.attributes)),
        ]
        yield _table(("", ""), facts)


def _attributes(attributes: Sequence[semconv.Attribute]) -> str:
    rows = [(f"`{each.key}`", each.type, each.description, f"`{each.example}`") for each in attributes]
    return _table(("Attribute", "Type", "Meaning", "Example"), rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    sys.stdout.write(render())
