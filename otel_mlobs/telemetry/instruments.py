"""The tracer and the instruments, made from :mod:`otel_mlobs.semconv` when first needed.

Only OpenTelemetry's API is used here, so the providers may be ours, the user's, or none at all. Histogram bounds are
passed as the instrument's advice, because views belong to whoever built the provider.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from opentelemetry import metrics, trace
from opentelemetry.metrics import _internal as _metrics_internal

from otel_mlobs import semconv
from otel_mlobs._version import __version__
from otel_mlobs.telemetry import readings
from otel_mlobs.telemetry.durations import Both, Durations, LateSdkSeries, Recorder, SdkSeries

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from opentelemetry.metrics import Counter, Histogram, Meter
    from opentelemetry.trace import Span

SCOPE = "otel_mlobs"

DEFAULT_DURATION_BOUNDS = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.25, 0.5, 0.75, 1.5, 2.5, 7.5,
)  # fmt: skip
"""Seconds. None is a whole number: Prometheus writes ``le="1"`` or ``le="1.0"`` depending on how the point came."""

_MAX_SERIES = 2000
"""The SDK's own limit of attribute sets per instrument: beyond it no further series is announced."""

_lock = threading.RLock()
_bounds: Sequence[float] = DEFAULT_DURATION_BOUNDS
_cache: dict[str, Any] = {}
_live = False
_durations: Durations | None = None
_sdk_durations = True
_others: dict[str, tuple[semconv.Metric, Durations]] = {}
"""The histograms beside that of durations which our pipeline sends, by name."""

generation = 0
"""Grows when recorders change or counters start again from zero (in a forked child): definitions ask anew."""


def live() -> bool:
    """Whether anybody listens: false until a tracer or meter provider is set, true from then on.

    The question is put at every operation, and the public ``get_tracer_provider()`` costs as much as a span of the
    no-op tracer because it looks into the environment. The two globals behind it are read instead; should they go
    away, the answer is always yes and only the saving is lost.
    """
    global _live  # noqa: PLW0603 - providers are set once per process, so the answer is remembered
    if not _live:
        _live = (
            getattr(trace, "_TRACER_PROVIDER", trace) is not None
            or getattr(_metrics_internal, "_METER_PROVIDER", trace) is not None
        )
    return _live


def set_duration_bounds(bounds: Sequence[float]) -> None:
    """Use ``bounds`` (seconds, ascending) for the duration histogram; called before the first operation."""
    global _bounds  # noqa: PLW0603 - one histogram per process
    _bounds = tuple(bounds)


def _first_start_span(*args: Any) -> Span:
    """Get the tracer at the first operation, once settings are known; it follows a provider that is set later."""
    global start_span  # noqa: PLW0603 - looked up once: the look-up would be a visible part of a span's cost
    provider: Any = trace.get_tracer_provider()
    if getattr(provider, "starts_operation_spans", False):
        start_span = provider.start_operation_span
    else:
        start_span = trace.get_tracer(SCOPE, __version__, schema_url=semconv.SCHEMA_URL).start_span
    return start_span(*args)


start_span: Callable[..., Span] = _first_start_span
"""What starts a span: our own provider, or ``Tracer.start_span`` of another's."""


def count_durations(durations: Durations | None, *, sdk: bool) -> None:
    """Count operations in ``durations``, which our pipeline sends, or in the SDK's histogram, or in both.

    Every definition asks for its recorder once more after this.
    """
    global _durations, _sdk_durations, generation  # noqa: PLW0603 - one histogram per process
    _durations, _sdk_durations = durations, sdk or durations is None
    generation += 1


def own_durations() -> Durations | None:
    """What :func:`count_durations` was given."""
    return _durations


def own_histograms() -> list[tuple[semconv.Metric, Durations]]:
    """The histograms that our pipeline sends, counted by us: durations first."""
    if _durations is None:
        return []
    return [(semconv.OPERATION_DURATION, _durations), *_others.values()]


def duration_bounds() -> Sequence[float]:
    """The bounds of the duration histogram in seconds."""
    return _bounds


def duration_of(labels: dict[str, str]) -> Recorder:
    """What records ``mlobs.operation.duration`` for ``labels``."""
    if _durations is None:
        return SdkSeries(_duration_histogram(), labels)
    if _sdk_durations:
        return Both(_durations.series(labels), SdkSeries(_duration_histogram(), labels))
    return _durations.series(labels)


def histogram_of(
    metric: semconv.Metric, labels: dict[str, str], bounds: Sequence[float], late: list[LateSdkSeries] | None = None
) -> Recorder:
    """What records ``metric``, a histogram beside that of durations, for ``labels``.

    Each of our own series has ``bounds`` of its own; the SDK's all have those that were asked for first. With ``late``
    the SDK's is recorded when the caller says so: it is the one in that list, and is put there if there is none.
    """

    def of_the_sdk() -> Recorder:
        histogram = _histogram(metric, bounds)
        if late is None:
            return SdkSeries(histogram, labels)
        if not late:
            late.append(LateSdkSeries(histogram, labels))
        return late[0]

    if _durations is None:
        return of_the_sdk()
    with _lock:
        if metric.name not in _others:
            _others[metric.name] = (metric, Durations(bounds, _durations.exemplars))
    own = _others[metric.name][1].series(labels, bounds)
    return Both(own, of_the_sdk()) if _sdk_durations else own


def _duration_histogram() -> Histogram:
    return _histogram(semconv.OPERATION_DURATION, _bounds)


def _histogram(metric: semconv.Metric, bounds: Sequence[float]) -> Histogram:
    found: Histogram = _cached(
        metric.name,
        lambda: _meter().create_histogram(
            metric.name, metric.unit, metric.description, explicit_bucket_boundaries_advisory=bounds
        ),
    )
    return found


def internal_errors() -> Counter:
    """``mlobs.internal.errors``."""
    return _counter(semconv.INTERNAL_ERRORS)


_DELAY_BOUNDS = (
    1.5, 10.5, 60.5, 600.5, 3600.5, 21_600.5, 86_400.5, 259_200.5, 604_800.5, 1_209_600.5, 2_592_000.5, 7_776_000.5,
)  # fmt: skip
"""Seconds: a second, ten, a minute, ten, an hour, six, a day, three, a week, two, 30 days, 90; none a whole number."""


def outcome_delay() -> Histogram:
    """``mlobs.outcome.delay``."""
    return _histogram(semconv.OUTCOME_DELAY, _DELAY_BOUNDS)


_WAIT_BOUNDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.5, 5.5, 30.5)
"""Seconds; none a whole number."""


def pool_wait() -> Histogram:
    """``db.client.connection.wait_time``."""
    return _histogram(semconv.POOL_WAIT, _WAIT_BOUNDS)


def pool_timeouts() -> Counter:
    """``db.client.connection.timeouts``."""
    return _counter(semconv.POOL_TIMEOUTS)


def model_labels(model: str, version: str | None, profile_id: str) -> dict[str, str]:
    """The labels of all that belongs to one profile."""
    labels = {semconv.MODEL_NAME: readings.encodable(model), semconv.PROFILE_ID: profile_id}
    if version is not None:
        labels[semconv.MODEL_VERSION] = readings.encodable(version)
    return labels


def _counter(metric: semconv.Metric) -> Counter:
    found: Counter = _cached(metric.name, lambda: _meter().create_counter(metric.name, metric.unit, metric.description))
    return found


def _meter() -> Meter:
    return metrics.get_meter(SCOPE, __version__, schema_url=semconv.SCHEMA_URL)


def _cached(name: str, make: Any) -> Any:
    found = _cache.get(name)
    if found is None:
        made = make()
        with _lock:
            found = _cache.setdefault(name, made)
    return found


class ErrorCounter:
    """``mlobs.operation.errors``, whose every series is collected at 0 before it is collected at 1.

    Prometheus computes no rate from a counter that it first sees at 1, so the first error after a start would page
    nobody. While we own the metric pipeline, errors of a series that was not collected yet are held back until its
    zero has gone out (:meth:`settle`, called after each collection).
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._held: dict[tuple[tuple[str, Any], ...], int] = {}
        self._announced: set[tuple[tuple[str, Any], ...]] = set()
        self._holding = False

    def hold_until_collected(self, holding: bool) -> None:
        """Hold errors back until their series was collected, or (false) publish them at once."""
        self._holding = holding
        if not holding:
            self.settle()

    def announce(self, attributes: Mapping[str, str]) -> None:
        """Bring the series into being at zero, once."""
        key = tuple(attributes.items())
        with self._lock:
            if key in self._announced or len(self._announced) >= _MAX_SERIES:
                return
            self._announced.add(key)
            if self._holding:
                self._held.setdefault(key, 0)
        _counter(semconv.OPERATION_ERRORS).add(0, attributes)

    def add(self, attributes: Mapping[str, str]) -> None:
        """Count one failed operation."""
        key = tuple(attributes.items())
        with self._lock:
            if key in self._held:
                self._held[key] += 1
                return
        _counter(semconv.OPERATION_ERRORS).add(1, attributes)

    def repeat_zeros(self) -> None:
        """Have every series collected although nothing failed, as with deltas only what was added to is."""
        with self._lock:
            announced = list(self._announced)
        for key in announced:
            _counter(semconv.OPERATION_ERRORS).add(0, dict(key))

    def holding_back(self) -> bool:
        """Whether errors wait for their zero."""
        return any(self._held.values())

    def settle(self) -> None:
        """Publish what was held back: the zeros have been collected."""
        with self._lock:
            held, self._held = self._held, {}
        for key, count in held.items():
            if count:
                _counter(semconv.OPERATION_ERRORS).add(count, dict(key))

    def forget_announced(self) -> None:
        """Announce every series once more when it is next used."""
        with self._lock:
            self._announced = set()

    def after_fork_in_child(self) -> None:
        """Start again from nothing: what the parent held back is the parent's to publish."""
        self._lock = threading.RLock()
        self._held = {}
        self._announced = set()


operation_errors = ErrorCounter()


def after_fork_in_child() -> None:
    """Make every series announce its zero again in this process, and take locks that nobody holds."""
    global _lock, generation  # noqa: PLW0603 - see generation
    _lock = threading.RLock()
    generation += 1
    for _, histogram in own_histograms():
        histogram.start_afresh()
    operation_errors.after_fork_in_child()


def announce_again() -> None:
    """Let every series announce its zero to a reader that has just joined."""
    global generation  # noqa: PLW0603 - see generation
    generation += 1
    operation_errors.forget_announced()
