"""A real GPU, against nvidia-smi's own readings and under load; ``nox -s gpu`` runs it where there is one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
import time
from typing import TYPE_CHECKING, Any

import pytest

from otel_mlobs.hardware.nvml import Driver, read_once
from otel_mlobs.tools import gpu_command

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from otel_mlobs.hardware.devices import Reading

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(shutil.which("nvidia-smi") is None, reason="there is no nvidia-smi, so no NVIDIA driver"),
]

LOAD_S = 3.0


@pytest.fixture
def driver() -> Iterator[Driver]:
    """The driver, closed again."""
    made = Driver()
    yield made
    made.close()


def smi(*names: str) -> dict[str, list[str]]:
    """What nvidia-smi says of each GPU, by UUID."""
    done = subprocess.run(
        ["nvidia-smi", f"--query-gpu={','.join(('uuid', *names))}", "--format=csv,noheader,nounits"],
        capture_output=True,
        text=True,
        check=True,
    )
    rows = [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines()]
    return {uuid: cells for uuid, *cells in rows}


def test_readings_are_nvidia_smis(driver: Driver) -> None:
    """Names and sizes are equal, what moves is near: each of them was read within a second of the other."""
    ours = {reading.identity.uuid: reading for reading in read_once(driver) if reading.identity.parent is None}
    theirs = smi("name", "driver_version", "memory.total", "memory.used", "temperature.gpu", "power.draw", "pstate")
    assert ours.keys() <= theirs.keys()
    assert ours
    print("\n" + "\n".join(gpu_command.table([*ours.values()])))
    for uuid, reading in ours.items():
        name, version, total, used, temperature, power, state = theirs[uuid]
        values = reading.values
        assert (reading.identity.model, reading.identity.driver) == (name, version)
        assert values["memory.total"] / 2**20 == pytest.approx(float(total), abs=1)
        assert values["memory.used"] / 2**20 == pytest.approx(float(used), abs=512)
        assert values["temperature.gpu"] == pytest.approx(float(temperature), abs=3)
        assert values["power"] == pytest.approx(float(power), rel=0.5, abs=25)
        assert values["performance_state"] == int(state.removeprefix("P"))
        assert reading.state in ("ok", "degraded")


def under(load: Callable[[Any], object], driver: Driver) -> tuple[Reading, Reading]:
    """A reading at rest and one taken while ``load`` runs again and again."""
    torch = pytest.importorskip("torch")
    torch.cuda.synchronize()
    rest = read_once(driver, settle=0.5)[0]
    until, busy = time.monotonic() + LOAD_S, None
    while time.monotonic() < until:
        load(torch)
        torch.cuda.synchronize()
        if time.monotonic() > until - LOAD_S / 2 and busy is None:
            driver.devices[0].read()  # GPM's first sample under load
            busy_from = time.monotonic()
            while time.monotonic() < busy_from + 0.5:
                load(torch)
                torch.cuda.synchronize()
            busy = driver.devices[0].read()
    assert busy is not None
    return rest, busy


def test_a_matmul_raises_sm_and_tensor_activity(driver: Driver) -> None:
    """GPM sees the tensor cores at work; where there is no GPM the utilisation rises, and the power always."""
    torch = pytest.importorskip("torch")
    one = torch.randn(8192, 8192, device="cuda", dtype=torch.float16)
    rest, busy = under(lambda _: one @ one, driver)
    print({key: (rest.values.get(key), value) for key, value in busy.values.items() if "activity" in key})
    assert busy.values["utilization.general"] > 0.5
    assert busy.values["power"] > rest.values["power"]
    if "activity.sm" in busy.values:
        assert busy.values["activity.sm"] > 0.3
        assert busy.values["activity.tensor"] > 0.2


def test_a_copy_raises_dram_activity(driver: Driver) -> None:
    """GPM sees the memory at work, and the tensor cores at rest."""
    torch = pytest.importorskip("torch")
    one = torch.empty(2**28, device="cuda", dtype=torch.float32)
    other = torch.empty_like(one)
    _, busy = under(lambda _: other.copy_(one), driver)
    print({key: value for key, value in busy.values.items() if "activity" in key})
    if "activity.dram" not in busy.values:
        pytest.skip("this GPU has no GPM")
    assert busy.values["activity.dram"] > 0.3
    assert busy.values["activity.tensor"] < 0.05


def test_an_operations_energy_is_power_times_time() -> None:
    """A second of matmuls in a decorated prediction uses about what the power's mean says; the trace carries it."""
    pytest.importorskip("torch")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(_ENERGY)], capture_output=True, text=True, check=False, timeout=120
    )
    print(done.stdout, done.stderr)
    assert done.returncode == 0
    energy, watts, seconds, took, peak = map(float, done.stdout.split())
    assert energy == pytest.approx(watts * seconds, rel=0.35)
    assert took == pytest.approx(seconds, rel=0.2)
    assert peak > 0


_ENERGY = """
    import time
    import torch
    import otel_mlobs as mlobs
    from otel_mlobs import testing
    from otel_mlobs.hardware.nvml import Driver
    driver = Driver(); driver.open(); device = driver.devices[0]
    with testing.capture() as telemetry:
        mlobs.instrument("nvml")
        telemetry.metrics  # the first collection
        one = torch.randn(8192, 8192, device="cuda", dtype=torch.float16)
        @mlobs.prediction(model="matmul", gpu=True)
        def work(seconds):
            until, watts = time.monotonic() + seconds, []
            while time.monotonic() < until:
                one @ one
                torch.cuda.synchronize()
                watts.append(device.energy()[1])
            return len(watts), sum(watts) / len(watts)
        work(0.5); time.sleep(0.2)
        began = time.monotonic()
        _, watts = work(2.0)
        seconds = time.monotonic() - began
        found = telemetry.spans[-1].attributes
        print(found["mlobs.gpu.energy"], watts, seconds, found["mlobs.gpu.time"], found["mlobs.gpu.memory_peak"])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_cuda_is_usable_in_a_child_of_a_process_that_reports() -> None:
    """Reading through NVML leaves CUDA alone: a child forked afterwards may begin to use it."""
    pytest.importorskip("torch")
    program = """
        import os, sys, time
        import otel_mlobs as mlobs
        from otel_mlobs import testing
        from otel_mlobs.hardware import reporter
        with testing.capture() as telemetry:
            mlobs.instrument("nvml")
            telemetry.metrics
            until = time.monotonic() + 20
            while not reporter.current().readings and time.monotonic() < until:
                time.sleep(0.05)
            assert reporter.current().readings
            child = os.fork()
            if child == 0:
                import torch
                ok = float(torch.ones(8, device="cuda").sum()) == 8.0
                os._exit(0 if ok else 1)
            _, status = os.waitpid(child, 0)
            sys.exit(os.waitstatus_to_exitcode(status))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
