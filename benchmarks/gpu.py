"""What reading GPUs costs: CPU time as a ratio to a bare span of the SDK, and as a share of a core.

The driver is the stand-in that the tests compile (tests/nvml), loaded by the real nvidia-ml-py: eight H100s with every
reading. One pass over all of them is compared with the very same calls of nvidia-ml-py alone, recorded in a pass and
played again; what is left is this library's. The collection is the SDK's, with all points of all devices, less one
without them. The baseline is ``with tracer.start_as_current_span(name, attributes={six})``, flush included. Everything
is measured in one process, round by round, each part right after its baseline; medians of the rounds, and their
quartiles.

Run ``python benchmarks/gpu.py``.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import KeepingMetricExporter, SpanPipeline, set_up_our_metrics
from opentelemetry import trace

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
TARGET_SPANS, TARGET_SHARE, INTERVAL_S = 150, 0.001, 10.0
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


def row(name: str, values: Sequence[float], unit: str, target: str = "") -> None:
    """One line of the table."""
    low, middle, high = statistics.quantiles(values, n=4)
    print(f"{name:62} {middle:10.4g} {unit:7} [{low:.4g}, {high:.4g}]  {target}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    exporter = KeepingMetricExporter()
    collect = set_up_our_metrics(exporter)
    spans = SpanPipeline.create()
    tracer = spans.provider.get_tracer("bare")
    ours = SpanPipeline.create(ours=True)
    trace.set_tracer_provider(ours.provider)
    script = nvml_standin.Driver(Path(tempfile.mkdtemp()))
    for gpu in range(DEVICES):
        script.device(gpu, nvml_standin.H100)
    results: dict[str, list[float]] = {}

    def bare() -> None:
        for _ in range(SPANS):
            with tracer.start_as_current_span("bare", attributes=SIX):
                pass
        spans.flush()

    def note(name: str, value: float) -> None:
        results.setdefault(name, []).append(value)

    with nvml_standin.in_process(script):
        os.environ["NVML_STANDIN_LOG"] = os.devnull  # writing each call down is no driver's work
        driver = Driver()
        driver.open()
        for device in driver.devices:
            device.read()
        calls = recorded(driver)
        reporter = Reporter(3600.0, None, "otel", only_visible=True)
        hook = reporter._hook
        plain, followed = mlobs.prediction(model="plain"), mlobs.prediction(model="gpu", gpu=0)

        def passes() -> None:
            for _ in range(PASSES):
                time.sleep(SETTLE_S)
                for device in driver.devices:
                    device.read()

        def driver_alone() -> None:
            for _ in range(PASSES):
                time.sleep(SETTLE_S)
                played(calls)

        def operations(operation: Any) -> None:
            for _ in range(CALLS):
                with operation:
                    pass
            ours.flush()

        for _ in range(rounds):
            span = cpu(bare) / SPANS
            whole = cpu(passes) / PASSES
            alone = cpu(driver_alone) / PASSES
            without = cpu(lambda: [collect() for _ in range(COLLECTIONS)]) / COLLECTIONS
            reporting.use(reporter)
            reporter._runner = object()  # read by hand, so that no thread is measured with it
            reporter._readings = {device.identity.uuid: device.read() for device in driver.devices}
            collected = cpu(lambda: [collect() for _ in range(COLLECTIONS)]) / COLLECTIONS - without
            points = sum(1 for metric in semconv.GPU_METRICS for _ in reporter.points(metric))
            hooked = cpu(lambda: operations(plain)) / CALLS
            asked = cpu(lambda: operations(followed)) / CALLS
            hooks.remove_hook(hook)
            unhooked = cpu(lambda: operations(plain)) / CALLS
            reporting.stop()
            note("pass", (whole - alone) / span)
            note("collection", collected / span)
            note("driver", alone / span)
            note("share", 100 * (whole + collected) / INTERVAL_S)
            note("hook", (hooked - unhooked) / span)
            note("asked", (asked - unhooked) / span)
        driver.close()
    print(
        f"{DEVICES} devices, {len(calls)} calls of the driver a pass, {points} points a collection, {rounds} rounds\n"
    )
    row("a pass, beyond the driver's calls", results["pass"], "spans", f"target {TARGET_SPANS}")
    row("a collection of all points by the SDK", results["collection"], "spans")
    row("the driver's calls themselves (of the stand-in)", results["driver"], "spans")
    row(f"all of it, every {INTERVAL_S:g} s", results["share"], "% core", f"target {100 * TARGET_SHARE:g}")
    row("an operation without gpu= while the hook is there, more", results["hook"], "spans")
    row("an operation with gpu=0, more", results["asked"], "spans")


if __name__ == "__main__":
    main()
