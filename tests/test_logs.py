"""``configure(logs=True)``: Python's logging beside the traces."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
from receiver import Receiver, attributes_of, run

needs_logs = pytest.mark.skipif(
    find_spec("opentelemetry.instrumentation.logging") is None, reason="logs=True needs the extra logs"
)

SCRIPT = """
logging.basicConfig(format="%(levelname)s %(message)s trace=%(otelTraceID)s span=%(otelSpanID)s", level=logging.INFO)
mlobs.configure("svc", logs=True, endpoint=os.environ["TO"], backend=os.environ.get("BACKEND"))
with mlobs.prediction(model="m") as op:
    logging.getLogger("app").info("scored %s", 3)
    context = op.span.get_span_context()
    print(f"{context.trace_id:032x} {context.span_id:016x}")
logging.getLogger("app").debug("below the level")
"""


@needs_logs
def test_records_carry_the_ids_and_go_out_as_otlp() -> None:
    """A record inside an operation has its trace and span id, in the text that is printed and as an OTLP log."""
    with Receiver() as receiver:
        ran = run(SCRIPT, env={"TO": receiver.url})
        trace_id, span_id = ran.out.split()
        assert f"INFO scored 3 trace={trace_id} span={span_id}" in ran.err
        [record] = receiver.records()
        assert record.body.string_value == "scored 3"
        assert (record.trace_id.hex(), record.span_id.hex(), record.severity_text) == (trace_id, span_id, "INFO")
        [span] = receiver.spans()
        assert span.span_id == record.span_id
        resource = attributes_of(receiver.of("logs")[0].message.resource_logs[0].resource)
        assert resource["service.name"] == "svc"


@needs_logs
def test_jaeger_gets_no_logs_and_the_ids_stay() -> None:
    """With a backend that takes no logs the ids are on the records, none is sent, and that is said once."""
    with Receiver() as receiver:
        ran = run(SCRIPT, env={"TO": receiver.url, "BACKEND": "jaeger"})
        assert f"trace={ran.out.split()[0]}" in ran.err
        assert receiver.signals() == {"traces"}
        assert len(ran.lines("jaeger takes no logs")) == 1
        assert len(ran.lines("jaeger takes no metrics")) == 1


@needs_logs
def test_sending_logs_does_not_log_itself_for_ever() -> None:
    """At level DEBUG the HTTP client's own records do not become logs whose sending makes records."""
    script = """
    import time
    logging.basicConfig(level=logging.DEBUG, filename=os.devnull)
    mlobs.configure("svc", logs=True, backend="collector", endpoint=os.environ["TO"])
    logging.getLogger("app").debug("once")
    for _ in range(5):
        mlobs.force_flush()
    """
    with Receiver() as receiver:
        run(script, env={"TO": receiver.url})
        bodies = [record.body.string_value for record in receiver.records()]
        assert "once" in bodies
        assert not [body for body in bodies if "v1/logs" in body]


def test_without_the_extra_the_message_has_the_command() -> None:
    """``logs=True`` without the extra raises MissingExtraError with the install command, before anything is built."""
    script = """
    import importlib.abc

    class Blocker(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path=None, target=None):
            if name.startswith("opentelemetry.instrumentation.logging"):
                raise ModuleNotFoundError(name, name=name)

    sys.meta_path.insert(0, Blocker())
    for arguments in ({"logs": True}, {"logs_endpoint": os.environ["TO"]}):
        try:
            mlobs.configure("svc", **arguments)
        except mlobs.MissingExtraError as error:
            print(error, error.extra)
    mlobs.configure("svc", endpoint=os.environ["TO"])
    with mlobs.prediction(model="m"):
        pass
    """
    with Receiver() as receiver:
        ran = run(script, env={"TO": receiver.url})
        assert ran.out.count("pip install 'otel-mlobs[logs]'") == 2
        assert ran.err == "", "the failed calls changed nothing"
        assert receiver.span_names() == ["prediction m"]


@needs_logs
def test_our_warnings_stay_visible_without_a_logging_setup() -> None:
    """In a script that never set logging up, our warnings still reach stderr when logs go out as OTLP."""
    script = """
    mlobs.configure("svc", logs=True, endpoint=os.environ["TO"])
    mlobs.configure("svc")
    """
    with Receiver() as receiver:
        assert len(run(script, env={"TO": receiver.url}).lines("configure() was called before")) == 1
