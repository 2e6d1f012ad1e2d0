"""Builds the real servers that the integration tests talk to, and says where they are.

    python scripts/servers.py build jaeger prometheus collector alertmanager datadog-agent moto
    python scripts/servers.py path jaeger
    python scripts/servers.py list

Each server is built from its released Go module, as a tool dependency of a module made for it, into a folder of its own
under ``$MLOBS_SERVERS`` (unless set: ``otel-mlobs/servers`` in the user's cache folder). The folder's name holds the
version and a hash of the recipe, so a changed recipe is built anew and an unchanged one is found again. OpenTelemetry's
own builder puts the Collector together, of the components that are listed here. Where Alertmanager and amtool are both
installed, they need not be built.

Any Go from 1.16 on will do: one that is older than a server needs fetches the compiler it lacks from the module proxy.

Datadog's test agent, and moto, which stands in for AWS, are Python: each gets a virtual environment of its own, since
they hold dependencies down that this project wants newer.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

TOOLCHAIN = "1.26.0"
NO_GO = (
    "Go was not found; it builds the servers. Install it from https://go.dev/dl/, or on Debian and Ubuntu with "
    "`apt-get install golang-go`, then run this command again."
)


@dataclass(frozen=True)
class Server:
    """How one server is built: its module and version, its programs, and what the module itself needs to build."""

    module: str
    version: str
    go: str
    programs: dict[str, str]
    replace: str = ""
    tags: str = ""


@dataclass(frozen=True)
class Collector(Server):
    """How a Collector is put together: its builder (the module), and the components, all of the builder's version."""

    components: dict[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class PythonServer:
    """How a server that is Python is installed: the requirement's name, its version, and each program's entry point."""

    package: str
    version: str
    programs: dict[str, str]


CORE = "go.opentelemetry.io/collector"
CONTRIB = "github.com/open-telemetry/opentelemetry-collector-contrib"

SERVERS: dict[str, Server | PythonServer] = {
    "jaeger": Server(
        module="github.com/jaegertracing/jaeger",
        version="v1.76.0",
        go="1.25.4",
        programs={"jaeger": "cmd/jaeger"},
        replace="github.com/Shopify/sarama => github.com/Shopify/sarama v1.33.0",
    ),
    "prometheus": Server(
        module="github.com/prometheus/prometheus",
        version="v0.313.5",
        go="1.26.0",
        programs={"prometheus": "cmd/prometheus", "promtool": "cmd/promtool"},
        replace="cloud.google.com/go => cloud.google.com/go v0.123.0",
        tags="remove_all_sd",  # the service discoveries are half of the program, and unused here
    ),
    "collector": Collector(
        module=f"{CORE}/cmd/builder",
        version="v0.152.0",
        go="1.25.0",
        programs={"collector": ""},
        components={
            "receivers": (f"{CORE}/receiver/otlpreceiver",),
            "processors": (
                f"{CORE}/processor/batchprocessor",
                f"{CORE}/processor/memorylimiterprocessor",
                f"{CONTRIB}/processor/cumulativetodeltaprocessor",
                f"{CONTRIB}/processor/deltatocumulativeprocessor",
                f"{CONTRIB}/processor/filterprocessor",
                f"{CONTRIB}/processor/intervalprocessor",
                f"{CONTRIB}/processor/metricstransformprocessor",
                f"{CONTRIB}/processor/tailsamplingprocessor",
                f"{CONTRIB}/processor/transformprocessor",
            ),
            "connectors": (f"{CONTRIB}/connector/spanmetricsconnector",),
            "exporters": (
                f"{CORE}/exporter/debugexporter",
                f"{CORE}/exporter/otlpexporter",
                f"{CORE}/exporter/otlphttpexporter",
                f"{CONTRIB}/exporter/awsemfexporter",
                f"{CONTRIB}/exporter/awsxrayexporter",
                f"{CONTRIB}/exporter/fileexporter",
                f"{CONTRIB}/exporter/prometheusremotewriteexporter",
            ),
            "extensions": (
                f"{CONTRIB}/extension/healthcheckextension",
                f"{CONTRIB}/extension/sigv4authextension",
                f"{CONTRIB}/extension/storage/filestorage",
            ),
        },
    ),
    "alertmanager": Server(
        module="github.com/prometheus/alertmanager",
        version="v0.28.1",  # the last whose module has its web pages in it, without which it does not compile
        go="1.24.0",  # the first that knows the word `tool` in go.mod
        programs={"alertmanager": "cmd/alertmanager", "amtool": "cmd/amtool"},
    ),
    "datadog-agent": PythonServer(
        package="ddapm-test-agent",
        version="1.69.1",
        programs={"ddapm-test-agent": "ddapm_test_agent.agent:main"},
    ),
    "moto": PythonServer(
        package="moto[server]",
        version="5.2.5",
        programs={"moto_server": "moto.server:main"},
    ),
}
PROGRAMS = {program: server for server, recipe in SERVERS.items() for program in recipe.programs}

INSTALLED = {"alertmanager": ("alertmanager", "prometheus-alertmanager"), "amtool": ("amtool",)}
"""The names, on the PATH, of programs that need not be built: the second is Debian's."""


class BuildError(RuntimeError):
    """A server could not be built; the message says what to do."""


def folder(server: str) -> Path:
    """The folder that holds, or will hold, the server's programs."""
    recipe = SERVERS[server]
    digest = hashlib.sha256(json.dumps(asdict(recipe), sort_keys=True).encode()).hexdigest()[:12]
    given = os.environ.get("MLOBS_SERVERS")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    root = Path(given) if given else cache / "otel-mlobs" / "servers"
    return root.absolute() / f"{server}-{recipe.version}-{digest}"


def find(program: str) -> Path | None:
    """The path of the program that was built, or else of the one that is installed; None where there is neither."""
    path = folder(PROGRAMS[program]) / program
    if path.exists():
        return path
    installed = filter(None, map(shutil.which, INSTALLED.get(program, ())))
    return next(map(Path, installed), None)


def build(server: str) -> None:
    """Builds a server unless all its programs are there already; its folder is complete or does not exist."""
    target = folder(server)
    recipe = SERVERS[server]
    there = [find(program) for program in recipe.programs]
    if None not in there:
        print(f"{server}: already there, {', '.join(map(str, there))}", file=sys.stderr)
        return
    go = "" if isinstance(recipe, PythonServer) else _go(recipe.go)
    target.parent.mkdir(parents=True, exist_ok=True)
    builder = f"building with {go}; this takes some minutes" if go else "installing"
    print(f"{server} {recipe.version}: {builder}", file=sys.stderr)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{server}-") as scratch:
        work, made = Path(scratch, "module"), Path(scratch, "made")
        work.mkdir()
        if isinstance(recipe, PythonServer):
            _install(recipe, made)
        elif isinstance(recipe, Collector):
            _build_collector(recipe, go, work, made)
        else:
            _build_tools(recipe, go, work, made)
        try:
            made.rename(target)
        except OSError:
            if not target.exists():  # otherwise another process has built the same in the meantime
                raise
    print(f"{server}: built, {target}", file=sys.stderr)


def _install(recipe: PythonServer, made: Path) -> None:
    """A virtual environment, and beside it a script for each program: those that pip writes name the folder of now."""
    _run([sys.executable, "-m", "venv", str(made / "venv")])
    python = made / "venv" / "bin" / "python"
    _run([str(python), "-m", "pip", "install", "--quiet", f"{recipe.package}=={recipe.version}"])
    for program, entry_point in recipe.programs.items():
        module, _, function = entry_point.partition(":")
        script = made / program
        script.write_text(
            "#!/bin/sh\n"
            f'exec "$(dirname "$0")/venv/bin/python" -c "import sys; from {module} import {function}; '
            f'sys.exit({function}())" "$@"\n'
        )
        script.chmod(0o755)


def _build_tools(recipe: Server, go: str, work: Path, made: Path) -> None:
    packages = {program: f"{recipe.module}/{package}" for program, package in recipe.programs.items()}
    (work / "go.mod").write_text(
        f"module otel-mlobs-servers/{Path(recipe.module).name}\n\ngo {recipe.go}\n\n"
        + "".join(f"tool {package}\n" for package in packages.values())
        + f"\nrequire {recipe.module} {recipe.version}\n"
        + (f"\nreplace {recipe.replace}\n" if recipe.replace else "")
    )
    # The checksum database does not answer for every module of such a tree, the server's own go.sum does.
    shutil.copyfile(_download(go, f"{recipe.module}@{recipe.version}") / "go.sum", work / "go.sum")
    (work / "go.sum").chmod(0o644)
    for program, package in packages.items():
        _run([go, *_BUILD, f"-tags={recipe.tags}", "-o", str(made / program), package], cwd=work)


def _build_collector(recipe: Collector, go: str, work: Path, made: Path) -> None:
    (program,) = recipe.programs
    description = {
        "dist": {
            "name": program,
            "module": f"otel-mlobs-servers/{program}",
            "version": recipe.version.removeprefix("v"),
            "output_path": str(work / "source"),
            "go": go,
        },
        **{
            kind: [{"gomod": f"{module} {recipe.version}"} for module in modules]
            for kind, modules in recipe.components.items()
        },
    }
    (work / "builder.json").write_text(json.dumps(description))  # JSON is YAML
    _run([go, "install", f"{recipe.module}@{recipe.version}"], cwd=work, GOBIN=str(work))
    # Its own way to compile begins with `go mod tidy`, which wants modules that only the components' tests need.
    _run(
        [str(work / "builder"), "--skip-get-modules", "--skip-compilation", f"--config={work / 'builder.json'}"],
        cwd=work,
    )
    _run([go, *_BUILD, "-o", str(made / program), "."], cwd=work / "source", GONOSUMDB=_UNLISTED)


def _go(needed: str) -> str:
    """A Go command of at least the version ``needed``: the installed one, or the compiler that it fetches."""
    go = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin:/usr/lib/go/bin")
    if go is None:
        raise BuildError(NO_GO)
    said = _run([go, "version"], capture=True)
    found = re.search(r"go(\d+)\.(\d+)(?:\.(\d+))?", said)
    if found is None:
        raise BuildError(f"{go} says {said.strip()!r}, not a Go version; put another Go first on the PATH.")
    if tuple(int(part or 0) for part in found.groups()) >= tuple(map(int, needed.split("."))):
        return go
    # Go 1.21 and later could switch by themselves (GOTOOLCHAIN); Debian 12 has 1.19, which cannot.
    print(f"{found.group()} is older than {needed}: fetching the Go {TOOLCHAIN} compiler", file=sys.stderr)
    goos, goarch = _run([go, "env", "GOOS", "GOARCH"], capture=True).split()
    root = _download(go, f"golang.org/toolchain@v0.0.1-go{TOOLCHAIN}.{goos}-{goarch}")
    for tool in (*root.glob("bin/*"), *root.glob("pkg/tool/*/*")):
        tool.chmod(0o755)  # modules carry no execute bits
    return str(root / "bin" / "go")


def _download(go: str, module: str) -> Path:
    """The folder of a module in Go's module cache, fetched where it is not there."""
    with tempfile.TemporaryDirectory() as outside:  # of any module, whose go.mod would have a say
        answer: dict[str, Any] = json.loads(_run([go, "mod", "download", "-json", module], cwd=outside, capture=True))
    return Path(answer["Dir"])


_BUILD = ("build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w")
_UNLISTED = "go.opentelemetry.io/*,github.com/open-telemetry/*"
"""Modules some of which the checksum database does not know; no module has a go.sum with all that a Collector needs."""


def _run(command: list[str], cwd: str | Path | None = None, *, capture: bool = False, **variables: str) -> str:
    environment = {**os.environ, "GOFLAGS": "-mod=mod", "GOTOOLCHAIN": "local", "GOWORK": "off", **variables}
    environment.pop("GOROOT", None)  # the installed compiler's, which the fetched one must not take for its own
    done = subprocess.run(
        command, cwd=cwd, env=environment, stdout=subprocess.PIPE if capture else sys.stderr, text=True, check=False
    )
    if done.returncode != 0:
        said = f": {done.stdout.strip()}" if done.stdout else "; see what it printed above"
        raise BuildError(f"`{' '.join(command)}` failed with exit status {done.returncode}{said}")
    return done.stdout or ""


def main() -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description="Builds the servers that the integration tests talk to.")
    commands = parser.add_subparsers(dest="command", required=True)
    builder = commands.add_parser("build", help="build servers that are not there yet")
    builder.add_argument("servers", nargs="+", choices=sorted(SERVERS))
    pather = commands.add_parser("path", help="print the path of a built program")
    pather.add_argument("program", choices=sorted(PROGRAMS))
    commands.add_parser("list", help="print every program, its version and its path")
    arguments = parser.parse_args()
    if arguments.command == "build":
        try:
            for server in arguments.servers:
                build(server)
        except BuildError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    elif arguments.command == "path":
        path = find(arguments.program)
        if path is None:
            server = PROGRAMS[arguments.program]
            print(f"error: not built yet; run `python scripts/servers.py build {server}`", file=sys.stderr)
            return 1
        print(path)
    else:
        for program, server in PROGRAMS.items():
            path = find(program)
            version = SERVERS[server].version if path in (None, folder(server) / program) else "installed"
            print(f"{program}\t{version}\t{path or 'not built'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
