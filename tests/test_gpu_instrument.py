"""How GPU readings are asked for: by name, with all that is there, by ``opentelemetry-instrument``."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nvml_standin
import pytest
from gpu_threads import all_have_ended
from receiver import run

from otel_mlobs import instrument, uninstrument
from otel_mlobs.hardware import gpu, reporter
from otel_mlobs.integrations import nvml, registry
from otel_mlobs.settings import resolve

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Locks in a folder of the test's own; whatever was started is stopped."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    tmp_path.chmod(0o700)
    yield
    uninstrument()
    gpu.stop()
    assert all_have_ended()


def test_by_name_wherever_it_is() -> None:
    """Whoever names it gets a reporter, and is told in the log where there is no driver."""
    assert reporter.current() is None
    assert instrument("nvml") == ("nvml",)
    assert reporter.current() is not None
    uninstrument("nvml")
    assert reporter.current() is None


@pytest.mark.parametrize("there", [True, False])
def test_with_everything_else_only_where_there_are_signs(
    there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``instrument()`` on a machine without a GPU starts nothing that would complain."""
    monkeypatch.setattr(nvml, "_SIGNS", (str(tmp_path if there else tmp_path / "none"),))
    assert ("nvml" in instrument()) is there
    assert (reporter.current() is not None) is there


def test_opentelemetrys_own_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The entry point is an instrumentor, which starts and stops the reporter."""
    (point,) = entry_points(group="opentelemetry_instrumentor", name="otel_mlobs_nvml")
    instrumentor = point.load()()
    monkeypatch.setattr(nvml, "_SIGNS", (str(tmp_path / "none"),))
    instrumentor.instrument()
    assert reporter.current() is None
    instrumentor.uninstrument()
    monkeypatch.setattr(nvml, "_SIGNS", (str(tmp_path),))
    instrumentor.instrument()
    assert reporter.current() is not None
    instrumentor.uninstrument()
    assert reporter.current() is None


def test_settings_that_come_later_hold() -> None:
    """Begun without settings, as by ``opentelemetry-instrument``, it goes on with those of ``configure``."""
    gpu.start(None)
    first: Any = reporter.current()
    gpu.start(None)
    assert reporter.current() is first
    settings = resolve({"backend": "none", "gpu_names": "dcgm", "gpu_reporter": "each", "metric_interval": 5}, {})
    gpu.start(settings)
    second: Any = reporter.current()
    assert second is not first
    assert (second._interval, second._election, first._stopped) == (5, None, True)
    gpu.start(settings)
    gpu.start(None)
    assert reporter.current() is second


def test_who_elects_depends_on_service_and_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers with a GPU each all report theirs; two services do not silence each other."""
    names = set()
    for service in ("a", "b"):
        for devices in (None, "0", "1"):
            if devices is None:
                monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
            else:
                monkeypatch.setenv("CUDA_VISIBLE_DEVICES", devices)
            names.add(gpu._name(resolve({"service_name": service, "backend": "none"}, {})))
    assert len(names) == 6


def test_a_library_that_is_missing_is_told_apart_by_its_module() -> None:
    """The integration is called nvml, what it imports pynvml."""
    assert registry._LIBRARIES["nvml"] == "pynvml"


@pytest.mark.parametrize("by_name", [False, True])
def test_shutdown_ends_it_however_it_was_started(tmp_path: Path, by_name: bool) -> None:
    """A whole process: readings at the second collection, the lock given back at the end."""
    driver = nvml_standin.Driver(tmp_path).device(0, nvml_standin.H100)
    ran = run(
        """
        import time
        from otel_mlobs.hardware import reporter
        by_name = os.environ["BY_NAME"] == "True"
        mlobs.configure("gpu", backend="file", path=os.environ["TO"], gpu=not by_name, metric_interval=60)
        if by_name:
            mlobs.instrument("nvml")
        made = reporter.current()
        assert mlobs.force_flush()
        until = time.monotonic() + 20
        while not made.readings and time.monotonic() < until:
            time.sleep(0.01)
        assert mlobs.force_flush()
        assert made._election.won
        assert mlobs.shutdown()
        while made._election.won and time.monotonic() < until:
            time.sleep(0.01)
        print(made._election.won, reporter.current())
        """,
        env={
            **nvml_standin.env(driver),
            "TO": str(tmp_path / "out.jsonl"),
            "XDG_RUNTIME_DIR": str(tmp_path),
            "BY_NAME": str(by_name),
        },
    )
    assert ran.out == "False None\n"
    assert ran.err == ""
    text = (tmp_path / "out.jsonl").read_text()
    assert '"hw.power"' in text
    assert nvml_standin.uuid(0) in text


COLLECT = """
        from otel_mlobs.hardware import reporter
        import time
        def read(collect):
            collect()
            until = time.monotonic() + 20
            while not reporter.current().readings and time.monotonic() < until:
                time.sleep(0.01)
            return collect()
"""


def test_dcgms_names_with_somebody_elses_provider(tmp_path: Path) -> None:
    """In small letters, which is said once: capitals need a view of the provider's."""
    driver = nvml_standin.Driver(tmp_path).device(0, nvml_standin.H100)
    ran = run(
        COLLECT
        + """
        from opentelemetry import metrics
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader
        reader = InMemoryMetricReader()
        metrics.set_meter_provider(MeterProvider([reader]))
        mlobs.configure("gpu", backend="none", gpu=True, gpu_names="dcgm")
        found = read(reader.get_metrics_data)
        names = {m.name for r in found.resource_metrics for s in r.scope_metrics for m in s.metrics}
        print("dcgm_fi_dev_gpu_temp" in names, "DCGM_FI_DEV_GPU_TEMP" in names)
        """,
        env={**nvml_standin.env(driver), "XDG_RUNTIME_DIR": str(tmp_path)},
    )
    assert ran.out == "True False\n"
    assert len(ran.lines("small letters")) == 1
