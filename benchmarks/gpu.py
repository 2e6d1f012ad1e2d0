"""What reading GPUs costs: CPU time as a ratio to a bare span of the SDK, and as a share of a core.

The driver is the stand-in that the tests compile (tests/nvml), loaded by the real nvidia-ml-py: eight H100s with every
reading. One pass over all of them is compared with the very same calls of nvidia-ml-py alone, recorded in a pass and
played again; what is left is this library's, and so are the points that it hands to the SDK at a collection. What the
SDK makes of them then, and its exporter for OTLP, is what so many points cost whoever hands them over: that has rows
of its own. The share of a core is that of a reporter at work, with its thread, the driver's calls and the collections.

The baseline is ``with tracer.start_as_current_span(name, attributes={six})``, flush included. All is measured in one
process, round by round, beside the baseline; medians of the rounds, and their quartiles.

Run ``python benchmarks/gpu.py``.
"""

from __future__ import annotations

import argparse
import gzip
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import KeepingMetricExporter, SpanPipeline, set_up_our_metrics, verdict
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.metrics import Observation

import otel_mlobs as mlobs
from otel_mlobs import semconv
from otel_mlobs.hardware import reporter as reporting
from otel_mlobs.hardware.nvml import Driver
from otel_mlobs.hardware.reporter import Reporter
from otel_mlobs.telemetry import hooks

sys.path.append(str(Path(__file__).parent.parent / "tests"))
import nvml_standin

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

DEVICES = 8
PASSES, COLLECTIONS, SPANS, CALLS = 5, 10, 4_000, 2_000
SETTLE_S = 0.11
"""Between two passes, so that each asks for what GPM measured between its samples."""
WATCHED_S = 1.0
TARGET_SPANS, TARGET_PERCENT, INTERVAL_S = 150.0, 0.1, 10.0
SIX = {f"attribute.{index}": index for index in range(6)}


class Recording:
    """The module pynvml, with the calls that go through it noted."""

    def __init__(self, module: Any) -> None:
        self._module = module
        self.calls: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._module, name)
        if not name.startswith("nvml") or not callable(found):
            return found

        def call(*args: Any, **kwargs: Any) -> Any:
            if name == "nvmlGpmMetricsGet":  # the next pass exchanges the samples in it
                args = (type(args[0]).from_buffer_copy(args[0]),)
            self.calls.append((found, args, kwargs))
            return found(*args, **kwargs)

        return call


def cpu(work: Callable[[], object]) -> float:
    """CPU seconds of the process."""
    began = time.process_time()
    work()
    return time.process_time() - began


def recorded(driver: Driver) -> list[Any]:
    """The calls of one pass."""
    for device in driver.devices:
        device._nvml, recording = Recording(device._nvml), None
    time.sleep(SETTLE_S)
    calls = []
    for device in driver.devices:
        device.read()
        recording = device._nvml
        calls += recording.calls
        device._nvml = recording._module
    return calls


def played(calls: Sequence[Any]) -> None:
    """The same calls, and nothing else."""
    for call, args, kwargs in calls:
        call(*args, **kwargs)


def row(name: str, values: Sequence[float], unit: str, target: float | None = None) -> None:
    """One line of the table."""
    low, middle, high = statistics.quantiles(values, n=4)
    told = "" if target is None else f"target {target:g}: {verdict(middle <= target)}"
    print(f"{name:64} {middle:9.3g} {unit:6} [{low:.3g}, {high:.3g}]  {told}".rstrip())


class Bench:
    """What is measured, and where it goes."""

    def __init__(self, rounds: int) -> None:
        self.rounds = rounds
        self.results: dict[str, list[float]] = {}
        self.exporter = KeepingMetricExporter()
        self.collect = set_up_our_metrics(self.exporter)
        self._bare = SpanPipeline.create()
        self._tracer = self._bare.provider.get_tracer("bare")
        self._ours = SpanPipeline.create(ours=True)
        trace.set_tracer_provider(self._ours.provider)

    def note(self, **values: float) -> None:
        """Keep what a round gave."""
        for name, value in values.items():
            self.results.setdefault(name, []).append(value)

    def span(self) -> float:
        """CPU seconds of a bare span."""

        def work() -> None:
            for _ in range(SPANS):
                with self._tracer.start_as_current_span("bare", attributes=SIX):
                    pass
            self._bare.flush()

        return cpu(work) / SPANS

    def _collections(self) -> None:
        for _ in range(COLLECTIONS):
            self.collect()

    def _messages(self) -> None:
        data = self.exporter.last
        if data is not None:
            for _ in range(COLLECTIONS):
                gzip.compress(encode_metrics(data).SerializeToString())

    def _at_work(self) -> None:
        for _ in range(PASSES):
            self.collect()
            time.sleep(SETTLE_S)

    def passes(self, driver: Driver, calls: Sequence[Any]) -> None:
        """Passes, beside the driver's calls alone."""

        def passes() -> None:
            for _ in range(PASSES):
                time.sleep(SETTLE_S)
                for device in driver.devices:
                    device.read()

        def driver_alone() -> None:
            for _ in range(PASSES):
                time.sleep(SETTLE_S)
                played(calls)

        for _ in range(self.rounds):
            span, whole, alone = self.span(), cpu(passes) / PASSES, cpu(driver_alone) / PASSES
            self.note(reading=(whole - alone) / span, driver=alone / span)

    def collections(self, driver: Driver) -> int:
        """Collections of one reading, beside those without it; how many points it has."""
        reporter = Reporter(3600.0, None, "otel", only_visible=True)

        def handed() -> None:
            for _ in range(COLLECTIONS):
                for metric in semconv.GPU_METRICS:
                    [Observation(value, labels) for value, labels in reporter.points(metric)]

        found: list[str] = []
        for _ in range(self.rounds):
            self.exporter.last = None
            span, collection, message = self.span(), -cpu(self._collections), -cpu(self._messages)
            reporting.use(reporter)
            reporter._runner = object()  # no thread: it is read here
            reporter._readings = {device.identity.uuid: device.read() for device in driver.devices}
            points = cpu(handed)
            collection += cpu(self._collections) - points
            message += cpu(self._messages)
            per = COLLECTIONS * span
            self.note(points=points / per, collection=collection / per, message=message / per)
            self.note(message_cpu=message / COLLECTIONS)
            found = [metric.name for metric in semconv.GPU_METRICS for _ in reporter.points(metric)]
            reporting.stop()
        return len(found)

    def share(self) -> None:
        """A reporter at work, with its thread and its own driver, beside the same collections without it."""
        for _ in range(self.rounds):
            idle = cpu(self._at_work)
            reporting.use(Reporter(SETTLE_S, None, "otel", only_visible=True))
            self._at_work()  # it opens the driver
            self.note(working=(cpu(self._at_work) - idle) / PASSES)
            reporting.stop()
            time.sleep(SETTLE_S)

    def operations(self) -> None:
        """Operations while GPUs are read, beside those while they are not."""
        plain, followed = mlobs.prediction(model="plain"), mlobs.prediction(model="gpu", gpu=0)
        reporter = Reporter(3600.0, None, "otel", only_visible=True)
        reporter._runner = object()
        hook = reporter._hook

        def calls(operation: Any) -> float:
            def work() -> None:
                for _ in range(CALLS):
                    with operation:
                        pass
                self._ours.flush()

            return cpu(work) / CALLS

        def watched(operation: Any) -> float:
            def work() -> None:
                end = time.monotonic() + WATCHED_S
                while time.monotonic() < end:
                    with operation:
                        time.sleep(0.05)

            return cpu(work) / WATCHED_S

        def hooked(operation: Any) -> float:
            hooks.add_hook(hook)
            cost = calls(operation)
            hooks.remove_hook(hook)
            return cost

        unwatched = []
        for number in range(self.rounds):  # before any is followed: then a thread samples
            span = self.span()
            first = calls(plain) if number % 2 else 0.0
            there = hooked(plain)
            self.note(hook=(there - (first or calls(plain))) / span)
            unwatched.append(watched(plain))
        for _ in range(self.rounds):
            span, without = self.span(), calls(plain)
            self.note(asked=(hooked(followed) - without) / span)
            hooks.add_hook(hook)
            self.note(watched=100 * (watched(followed) - statistics.median(unwatched)))
            hooks.remove_hook(hook)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    bench = Bench(parser.parse_args().rounds)
    script = nvml_standin.Driver(Path(tempfile.mkdtemp()))
    for gpu in range(DEVICES):
        script.device(gpu, nvml_standin.H100)
    with nvml_standin.in_process(script):
        os.environ["NVML_STANDIN_LOG"] = os.devnull  # writing each call down is no driver's work
        driver = Driver()
        driver.open()
        for device in driver.devices:
            device.read()
        calls = recorded(driver)
        bench.passes(driver, calls)
        points = bench.collections(driver)
        driver.close()
        bench.share()
        bench.operations()
    found = bench.results
    message = statistics.median(found["message_cpu"])
    print(f"{DEVICES} devices, {len(calls)} calls of the driver a pass, {points} points, {bench.rounds} rounds\n")
    row("a pass, beyond the driver's calls", found["reading"], "spans")
    row("its points, handed to the SDK", found["points"], "spans")
    both = [sum(pair) for pair in zip(found["reading"], found["points"], strict=True)]
    row("a pass and its points", both, "spans", TARGET_SPANS)
    all_three = [sum(pair) for pair in zip(both, found["collection"], strict=True)]
    row("a pass, its points and the SDK's collection of them", all_three, "spans", TARGET_SPANS)
    print()
    row("the driver's calls themselves (of the stand-in)", found["driver"], "spans")
    row("the SDK's collection, beyond the points handed to it", found["collection"], "spans")
    row("the SDK's OTLP message of them, compressed", found["message"], "spans")
    print()
    share = [100 * each / INTERVAL_S for each in found["working"]]
    row(f"pass, driver, thread and collection, every {INTERVAL_S:g} s", share, "% core", TARGET_PERCENT)
    row("the same and the OTLP message", [each + 100 * message / INTERVAL_S for each in share], "% core")
    print()
    row("an operation without gpu= while GPUs are read, more", found["hook"], "spans")
    row("an operation with gpu=0, more", found["asked"], "spans")
    row("sampling the energy while there are such operations", found["watched"], "% core")


if __name__ == "__main__":
    main()
