"""What distinguishes the operations: their names, their targets and what is read from inputs and outputs.

Everything here happens at decoration or is a function of one value; nothing here starts a span.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, Protocol, Union

from otel_mlobs import semconv
from otel_mlobs.telemetry import distributions, readings
from otel_mlobs.telemetry.freshness import CandidateCounter, LookupCounter

if TYPE_CHECKING:
    from otel_mlobs.telemetry.durations import Recorder
    from otel_mlobs.telemetry.lookups import Looked
    from otel_mlobs.telemetry.lookups import Reading as LookupReading
    from otel_mlobs.telemetry.observers import Observer
    from otel_mlobs.telemetry.running import Operation

AttributeValue = Union[str, bool, int, float, Sequence[str], Sequence[bool], Sequence[int], Sequence[float]]  # noqa: UP007 - evaluated at run time, also on 3.10
Attributes = dict[str, AttributeValue]
Reading = Callable[["Definition", object, Attributes], None]
"""Reads a value and adds what it says of itself to the attributes."""


class OutputCounter(Protocol):
    """What counts an operation's outputs, whether the call is sampled or not, and says them on its span."""

    def prepare(self) -> None:
        """Look up what every call needs: at the first, and when recorders have changed."""

    def read(self, operation: Operation, attributes: Attributes, result: Any, value: Any) -> None:
        """Count ``value``, which was picked out of ``result``, and add what is known of it to ``attributes``."""

    def read_item(self, so_far: Looked | int | None, item: Any, value: Any) -> Looked | int:
        """What a generator has yielded, ``item`` included."""

    def close(self, operation: Operation, attributes: Attributes, total: Looked | int | None) -> None:
        """Count what a generator has yielded in all."""


class Definition:
    """One operation as it was written down: names, static attributes, what is an error. Shared by all its calls."""

    __slots__ = (
        "counter",
        "duration",
        "exception_messages",
        "expected",
        "generation",
        "gpu",
        "metric_attributes",
        "model",
        "monitor",
        "operation",
        "read_inputs",
        "read_outputs",
        "requested",
        "span_attributes",
        "span_name",
        "variant",
        "version",
    )

    def __init__(
        self,
        operation: str,
        target: str | None,
        labels: Mapping[str, str],
        *,
        attributes: Mapping[str, AttributeValue] | None = None,
        requested: int | None = None,
        expected: tuple[type[BaseException], ...] = (),
        exception_messages: bool | None = None,
        monitor: Observer | None = None,
        reading: LookupReading | None = None,
        gpu: int | Literal["current"] | None = None,
    ) -> None:
        self.operation = operation
        self.gpu = gpu
        self.monitor = monitor
        self.model = labels.get(semconv.MODEL_NAME)
        self.version = labels.get(semconv.MODEL_VERSION)
        self.variant = labels.get(semconv.VARIANT)
        self.span_name = f"{operation} {target}" if target else operation
        self.metric_attributes: dict[str, str] = {semconv.OPERATION_NAME: operation, **labels}
        self.span_attributes: Attributes = {**self.metric_attributes, **(attributes or {})}
        self.requested = requested
        if requested is not None and operation == semconv.CANDIDATE_GENERATION:
            self.span_attributes[semconv.CANDIDATE_REQUESTED] = requested
        self.expected = expected
        self.exception_messages = exception_messages
        self.read_inputs, self.read_outputs = _READINGS.get(operation, (None, None))
        self.counter: OutputCounter | None = None
        """What counts the outputs, sampled or not, and reads them: then nothing else does."""
        if operation == semconv.FEATURE_LOOKUP:
            self.counter = LookupCounter(self.metric_attributes, requested, reading)
        elif operation == semconv.CANDIDATE_GENERATION:
            self.counter = CandidateCounter(self.metric_attributes, requested)
        self.generation = -1
        self.duration: Recorder | None = None


@lru_cache(maxsize=1024)
def cached_definition(
    operation: str,
    target: str | None,
    labels: tuple[tuple[str, str], ...],
    requested: int | None,
    expected: tuple[type[BaseException], ...],
    exception_messages: bool | None,
    reading: LookupReading | None,
    gpu: int | Literal["current"] | None = None,
) -> Definition:
    """One definition for all context managers written with the same arguments: they are made anew at every call."""
    return Definition(
        operation,
        target,
        dict(labels),
        requested=requested,
        expected=expected,
        exception_messages=exception_messages,
        reading=reading,
        gpu=gpu,
    )


def _ranking_inputs(_definition: Definition, value: object, attributes: Attributes) -> None:
    counted = readings.count(value)
    if counted is not None:
        attributes[semconv.RANKING_INPUT_COUNT] = counted


def _ranking_outputs(_definition: Definition, value: object, attributes: Attributes) -> None:
    counted = readings.count(value)
    if counted is not None:
        attributes[semconv.RANKING_OUTPUT_COUNT] = counted
    summary = readings.scores_of_items(value)
    if summary is not None:
        attributes[semconv.RANKING_SCORE_MIN] = summary.minimum
        attributes[semconv.RANKING_SCORE_MEAN] = summary.mean
        attributes[semconv.RANKING_SCORE_MAX] = summary.maximum


def _prediction_inputs(_definition: Definition, value: object, attributes: Attributes) -> None:
    counted = readings.rows(value)
    if counted is not None:
        attributes[semconv.BATCH_SIZE] = counted


def _prediction_outputs(_definition: Definition, value: object, attributes: Attributes) -> None:
    said = readings.predictions(value)
    if isinstance(said, str):
        attributes[semconv.PREDICTION_CLASS] = said
    elif said is not None:
        attributes[semconv.PREDICTION_MIN] = said.minimum
        attributes[semconv.PREDICTION_MEAN] = said.mean
        attributes[semconv.PREDICTION_MAX] = said.maximum
        attributes[semconv.PREDICTION_STD] = said.std
    else:
        _distribution(value, attributes)


def _distribution(value: object, attributes: Attributes) -> None:
    counted = distributions.class_counts(value)
    if counted is not None:
        attributes[semconv.PREDICTION_CLASSES], attributes[semconv.PREDICTION_CLASS_COUNTS] = counted
        return
    summary = distributions.vectors(value)
    if summary is not None:
        attributes[semconv.PREDICTION_CONFIDENCE], attributes[semconv.PREDICTION_ENTROPY] = summary


_READINGS: dict[str, tuple[Reading | None, Reading | None]] = {
    semconv.RANKING: (_ranking_inputs, _ranking_outputs),
    semconv.PREDICTION: (_prediction_inputs, _prediction_outputs),
}
COUNT_OF_YIELDED = {semconv.RANKING: semconv.RANKING_OUTPUT_COUNT}
"""What the number of items that a generator yielded is called, where it has a name."""
