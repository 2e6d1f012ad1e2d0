"""``otel-mlobs``: the command line. Commands read arguments and print; what they do is in the modules beside this."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING, Any

from otel_mlobs._version import __version__
from otel_mlobs.errors import ConfigurationError, MissingExtraError
from otel_mlobs.settings import PROTOCOLS, SIGNALS, TAKES
from otel_mlobs.tools import dashboard_command, gpu_command, outcomes_command, profile_command, rules_command
from otel_mlobs.tools.terminal import printable, progress, shows_unicode

if TYPE_CHECKING:
    from collections.abc import Sequence

_OK, _FAILED, _USAGE = 0, 1, 2
_MARKS = {"ok": "✔", "warning": "!", "failed": "✘", "off": "–"}
_PLAIN_MARKS = {"ok": "ok", "warning": "! ", "failed": "XX", "off": "- "}
_COLORS = {"ok": "32", "warning": "33", "failed": "31", "off": "2"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 well, 1 something failed, 2 called wrongly."""
    options = _parser().parse_args(profile_command.with_action(sys.argv[1:] if arguments is None else arguments))
    try:
        code: int = options.run(options)
    except (ConfigurationError, MissingExtraError, ValueError) as error:
        print(f"otel-mlobs {options.command}: {error}", file=sys.stderr)
        return _USAGE
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        print(f"otel-mlobs {options.command}: {error.strerror or error}{where}", file=sys.stderr)
        return _FAILED
    except KeyboardInterrupt:
        return 130
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="otel-mlobs", description="OpenTelemetry for machine-learning serving: try it, check it, replay it."
    )
    parser.add_argument("--version", action="version", version=f"otel-mlobs {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")

    demo = commands.add_parser("demo", help="serve a model, send it real rows, draw the traces; no server to install")
    demo.add_argument("--requests", type=int, default=200, metavar="N", help="rows to send (default: 200)")
    demo.add_argument("--endpoint", metavar="URL", help="send the traces there too, as http://localhost:4318")
    demo.add_argument(
        "--backend", choices=("jaeger", "tempo", "collector"), help="what is at the endpoint (default: jaeger)"
    )
    demo.add_argument("--ui", metavar="URL", help="where the backend's pages are (default: port 16686 for jaeger)")
    demo.set_defaults(run=_demo)

    doctor = commands.add_parser(
        "doctor",
        help="send one span, one metric and one log; say what arrived, or what failed and what to change",
        description="Takes what configure() takes; what is left out comes from OTEL_* variables and MLOBS_CONFIG. "
        "Headers come from OTEL_EXPORTER_OTLP_HEADERS, never from the command line, where others could read them.",
    )
    doctor.add_argument("--service-name", metavar="NAME")
    doctor.add_argument("--backend", choices=tuple(TAKES))
    doctor.add_argument("--endpoint", metavar="URL")
    for signal in SIGNALS:
        doctor.add_argument(f"--{signal}-endpoint", metavar="URL")
    doctor.add_argument("--protocol", choices=PROTOCOLS)
    doctor.add_argument("--certificate", metavar="FILE")
    doctor.add_argument("--client-certificate", metavar="FILE")
    doctor.add_argument("--client-key", metavar="FILE")
    doctor.add_argument("--path", metavar="FILE", help='the file of backend "file"')
    doctor.add_argument("--timeout", type=float, metavar="SECONDS")
    doctor.add_argument("--logs", action="store_true", default=None, help="check logs too")
    doctor.set_defaults(run=_doctor)

    replay = commands.add_parser("replay", help="send a file of OTLP-JSON lines to a backend")
    replay.add_argument("file", metavar="FILE")
    replay.add_argument("--endpoint", required=True, metavar="URL", help="base URL, as http://localhost:4318")
    replay.add_argument("--signal", action="append", choices=SIGNALS, help="send only these; may be repeated")
    replay.add_argument("--timeout", type=float, default=10.0, metavar="SECONDS")
    replay.set_defaults(run=_replay)

    rules_command.add(commands)
    profile_command.add(commands)
    outcomes_command.add(commands)
    gpu_command.add(commands)
    dashboard_command.add(commands)
    return parser


def _demo(options: argparse.Namespace) -> int:
    from otel_mlobs.telemetry.console import ConsoleTreeExporter, summary_table
    from otel_mlobs.tools import demo

    result = demo.run(
        requests=options.requests, backend=options.backend, endpoint=options.endpoint, ui=options.ui, say=print
    )
    print()
    drawing = ConsoleTreeExporter()
    for spans in result.shown:
        drawing.export(spans)
    print(summary_table(result.metrics, encoding=sys.stdout.encoding), end="")
    print(f"\n{printable(str(result.drift))}")
    for name, one in result.drift.features.items():
        if one.drifted and one.alarm:
            print(f"{name} moved away from the training data: a PSI of {one.psi:.2f}, which is not chance.")
    statuses = ", ".join(f"{count} answered {status}" for status, count in sorted(result.statuses.items()))
    print(f"\n{statuses}; the model was right on {result.correct:.0%} of the rows.")
    for trace_id, link in result.links if result.delivered else []:
        print(f"trace {trace_id}" + (f"  {link}" if link else ""))
    if result.delivered is False:
        print("The backend did not take the traces: `otel-mlobs doctor` with the same --endpoint says why.")
        return _FAILED
    return _OK


def _doctor(options: argparse.Namespace) -> int:
    from otel_mlobs.tools import doctor

    names = ("service_name", "backend", "endpoint", "traces_endpoint", "metrics_endpoint", "logs_endpoint", "protocol",
             "certificate", "client_certificate", "client_key", "path", "timeout", "logs")  # fmt: skip
    report = doctor.examine({name: getattr(options, name) for name in names})
    print(f"Python {report.python}")
    for name, version in report.packages.items():
        print(f"  {name:38} {version or 'not installed'}")
    for name, installed in report.integrations.items():
        state = "installed: instrument() will instrument it" if installed else "library not installed"
        print(f"  integration {name:26} {state}")
    print()
    width = max(len(finding.subject) for finding in report.findings)
    for finding in report.findings:
        print(f"{_mark(finding.verdict)} {finding.subject:{width}}  {finding.message}")
        if finding.advice:
            print(f"{'':{width + 4}}→ {finding.advice}" if shows_unicode() else f"{'':{width + 5}}> {finding.advice}")
    return _OK if report.healthy else _FAILED


def _replay(options: argparse.Namespace) -> int:
    from otel_mlobs.tools.replay import replay

    result = replay(
        options.file,
        options.endpoint,
        headers=_headers_from_environment(),
        timeout=options.timeout,
        signals=options.signal,
        progress=progress if sys.stderr.isatty() else None,
    )
    if sys.stderr.isatty():
        print(file=sys.stderr)
    units = {"traces": "spans", "metrics": "metric points", "logs": "log records"}
    sent = ", ".join(f"{count} {units[signal]}" for signal, count in result.sent.items()) or "nothing"
    print(f"{result.lines} lines read, sent: {sent}")
    for signal, reason in result.skipped.items():
        print(f"{signal} skipped: {reason}")
    for kind, count, problems in (
        ("damaged", result.damaged_count, result.damaged),
        ("refused", result.refused_count, result.refused),
    ):
        for problem in problems[:10]:
            print(f"line {problem.line} {kind}: {problem.reason}", file=sys.stderr)
        if count > 10:
            print(f"… {count} lines {kind} in all", file=sys.stderr)
    if result.stopped is not None:
        print(f"stopped at line {result.stopped_line}: {result.stopped}", file=sys.stderr)
    # A signal that the backend does not take is a fact about the backend, said above, not a failure of the replay.
    return _FAILED if result.stopped or result.damaged_count or result.refused_count else _OK


def _headers_from_environment() -> dict[str, str]:
    from otel_mlobs.settings import resolve

    named = {key: value for key, value in os.environ.items() if key == "OTEL_EXPORTER_OTLP_HEADERS"}
    pipeline: Any = resolve({"backend": "collector"}, named).pipeline("traces")
    return dict(pipeline.headers)


def _mark(verdict: str) -> str:
    mark = (_MARKS if shows_unicode() else _PLAIN_MARKS)[verdict]
    colored = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    return f"\x1b[{_COLORS[verdict]}m{mark}\x1b[0m" if colored else mark


if __name__ == "__main__":
    sys.exit(main())
