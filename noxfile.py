"""Everything the project checks: `nox -l` lists it, `nox -s tests` runs the tests, arguments after `--` go through."""

from __future__ import annotations

import os
from itertools import chain
from pathlib import Path

import nox
from packaging.requirements import Requirement

PYTHONS = ["3.10", "3.11", "3.12", "3.13"]
PROJECT = nox.project.load_toml("pyproject.toml")

nox.needs_version = ">=2024.10.9"
# Not venv: it brings the pip of the interpreter's release, and pip 23 finds no solution where OpenTelemetry's packages
# are at different patch releases; virtualenv brings a recent one.
nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_venv = "yes"
nox.options.error_on_missing_interpreters = False
nox.options.download_python = "never"
nox.options.sessions = ["tests", "lint", "types", "layers"]


def group(name: str) -> list[str]:
    """The requirements of a dependency group of pyproject.toml."""
    return list(nox.project.dependency_groups(PROJECT, name))


def pytest(session: nox.Session, *arguments: str) -> None:
    """Runs pytest; where MLOBS_JUNIT names a folder, the session's report goes there for `.ci/run` to count."""
    reports = os.environ.get("MLOBS_JUNIT")
    report = [f"--junitxml={Path(reports, session.name + '.xml')}"] if reports else []
    # Half of the time is waiting. Whole files: a page's examples share their names.
    parallel = ["-n", "4", "--dist", "loadfile"]
    session.run("pytest", *parallel, *report, *arguments, *session.posargs)


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """The tests with every extra, on each Python that is installed."""
    session.install(".[all]", *group("test"))
    pytest(session)


@nox.session
def tests_bare(session: nox.Session) -> None:
    """The tests without extras and without the libraries whose values are understood but never imported."""
    session.install(".", *group("test-core"))
    pytest(session)


@nox.session(python=PYTHONS[0])
def tests_lowest(session: nox.Session) -> None:
    """The tests with the oldest version of everything that pyproject.toml allows."""
    project = PROJECT["project"]
    wanted = [*project["dependencies"], *chain(*project["optional-dependencies"].values()), *group("test")]
    pins = set()
    for requirement in map(Requirement, wanted):
        lowest = [each.version for each in requirement.specifier if each.operator == ">="]
        if lowest:
            marker = f"; {requirement.marker}" if requirement.marker else ""
            pins.add(f"{requirement.name}=={lowest[0]}{marker}")
    constraints = Path(session.create_tmp(), "lowest.txt")
    constraints.write_text("\n".join(sorted(pins)) + "\n")
    session.install("--constraint", str(constraints), ".[all]", *group("test"))
    pytest(session)


@nox.session
def slow(session: nox.Session) -> None:
    """The tests that take longer than a second or two."""
    session.install(".[all]", *group("test"))
    pytest(session, "-m", "slow and not integration")


@nox.session
def simulations(session: nox.Session) -> None:
    """What alarm and verdict promise, on hundreds of random streams: ten minutes or more."""
    session.install(".[all]", *group("test"))
    pytest(session, "-m", "simulation")


@nox.session
def integration(session: nox.Session) -> None:
    """The tests against real servers; scripts/servers.py builds those."""
    session.install(".[all]", *group("test"), *group("databases"))
    # Two: half of the time is waiting, and each process has servers of its own
    pytest(session, "-n", "2", "-m", "integration", "tests/integration")


@nox.session
def spark(session: nox.Session) -> None:
    """A profile that Spark counts is the one that DuckDB counts; needs Java 17 or newer."""
    session.install(".[all]", *group("test"), *group("spark"))
    pytest(session, "-n", "0", "-m", "slow", "-k", "spark", "tests/test_sql.py")


@nox.session
def gpu(session: nox.Session) -> None:
    """The readings of a real GPU, against nvidia-smi's own and under load; needs one, and PyTorch for the load."""
    session.install(".[all]", *group("test"), *group("gpu"))
    pytest(session, "-n", "0", "-m", "gpu", "tests/test_gpu_real.py")


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff's rules and its formatting."""
    session.install(*group("lint"))
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


@nox.session
def types(session: nox.Session) -> None:
    """Strict mypy on the package and on a use of every public signature."""
    session.install(".[all]", *group("types"))
    session.run("mypy", *session.posargs)


@nox.session
def layers(session: nox.Session) -> None:
    """The rooms import only what they may."""
    session.install(".", *group("layers"))
    session.run("lint-imports")


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation, without one warning."""
    session.install(".[all]", *group("docs"))
    session.run("sphinx-build", "-W", "-n", "--keep-going", "-b", "html", "docs", "docs/_build/html", *session.posargs)


@nox.session
def benchmarks(session: nox.Session) -> None:
    """What an operation costs; without arguments, the overhead of one operation."""
    session.install(".[all]", *group("bench"))
    session.run("python", *(session.posargs or ["benchmarks/overhead.py"]))


@nox.session
def demo(session: nox.Session) -> None:
    """The demonstration that the README begins with."""
    session.install(".[demo]")
    session.run("otel-mlobs", "demo", *session.posargs)
