"""Requests signed for AWS: what a server receives is what botocore would have signed, compressed and retried too."""

from __future__ import annotations

import os
import ssl
import sys
from typing import TYPE_CHECKING

import pytest
import trustme
from receiver import Receiver, run

if TYPE_CHECKING:
    from pathlib import Path

botocore = pytest.importorskip("botocore", reason="needs the extra aws")
pytest.importorskip("opentelemetry.sdk.extension.aws", reason="needs the extra aws")

from aws_receiver import Aws, recomputed
from botocore.credentials import Credentials
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from otel_mlobs.errors import ConfigurationError
from otel_mlobs.integrations import aws
from otel_mlobs.tools import doctor

ACCESS, SECRET, TOKEN = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "session-token-of-a-role"
REGION = "eu-central-1"
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": ACCESS,
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "AWS_SESSION_TOKEN": TOKEN,
    "AWS_REGION": REGION,
}
OURS = Credentials(ACCESS, SECRET, TOKEN)
PROVIDER = "OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER"


SERVE = """
mlobs.configure("shop", backend="cloudwatch", endpoint=os.environ["TO"], compression=os.environ["COMPRESSION"],
                logs=os.environ.get("LOGS") == "1", metric_interval=3600,
                headers={"x-aws-log-group": "/shop", "x-aws-log-stream": "one"})
with mlobs.prediction(model="m") as op:
    op.span.set_attribute("filling", "x" * 500)
    logging.getLogger("app").warning("scored")
from otel_mlobs.telemetry import config
print(config._state.settings, [sending.get() for sending in config._state.sending])
session = __import__("otel_mlobs.integrations.aws").integrations.aws.session()
print(session.auth, vars(session.auth).keys(), repr(session))
"""


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_botocore_computes_the_same_signature_from_what_arrives(compression: str) -> None:
    """For each signal's own service, over the compressed body; no secret is sent, and none is in a repr or a log."""
    logs = "1" if _has_logs() else "0"
    with Aws([]) as server:
        ran = run(SERVE, env={**CREDENTIALS, PROVIDER: "otel_mlobs_aws", "TO": server.url, "COMPRESSION": compression,
                              "LOGS": logs})  # fmt: skip
        services = {"/v1/traces": "xray", "/v1/metrics": "monitoring"} | ({"/v1/logs": "logs"} if logs == "1" else {})
        assert {path for path, _, _ in server.requests} == set(services)
        for received in server.requests:
            path, headers, body = received
            assert headers["authorization"] == recomputed(server.url, received, services[path], REGION, OURS)
            assert f"/{REGION}/{services[path]}/aws4_request" in headers["authorization"]
            assert headers["x-amz-security-token"] == TOKEN
            assert "content-type" in headers["authorization"]
            assert "user-agent" not in headers["authorization"]  # a proxy may change it on the way
            assert ("content-encoding" in headers["authorization"]) is (compression == "gzip")
            assert (body[:2] == b"\x1f\x8b") is (compression == "gzip")
            assert SECRET not in str(headers)
        for secret in (SECRET, TOKEN, ACCESS):
            assert secret not in ran.out + ran.err


def _has_logs() -> bool:
    from importlib.util import find_spec

    return find_spec("opentelemetry.instrumentation.logging") is not None


def test_the_sdks_exporter_alone_takes_our_session() -> None:
    """OpenTelemetry's variable is enough: an exporter that this library has not made signs too."""
    script = """
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter()))
    provider.get_tracer("t").start_span("s").end()
    """
    with Aws([]) as server:
        run(script, env={**CREDENTIALS, PROVIDER: "otel_mlobs_aws", "OTEL_EXPORTER_OTLP_ENDPOINT": server.url})
        [received] = server.requests
        assert received[1]["authorization"] == recomputed(server.url, received, "xray", REGION, OURS)


def test_every_retry_is_signed_anew() -> None:
    """A request that is tried again a second later carries that second's date, and its own valid signature."""
    script = """
    mlobs.configure("shop", traces_endpoint=os.environ["TO"])
    with mlobs.prediction(model="m"):
        pass
    """
    with Aws([503]) as server:
        run(script, env={**CREDENTIALS, PROVIDER: "otel_mlobs_aws", "TO": server.url})
        (_, first, body), (_, second, again) = server.requests
        assert body == again
        assert first["x-amz-date"] != second["x-amz-date"]
        assert first["authorization"] != second["authorization"]
        for received in server.requests:
            assert received[1]["authorization"] == recomputed(server.url, received, "xray", REGION, OURS)


ROLE = """
import json, sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

count = Path(sys.argv[1])
number = int(count.read_text()) + 1
count.write_text(str(number))
expires = datetime.now(timezone.utc) + timedelta(minutes=1)
print(json.dumps({"Version": 1, "AccessKeyId": f"KEY{number}", "SecretAccessKey": "s", "SessionToken": f"TOKEN{number}",
                  "Expiration": expires.isoformat()}))
"""


def test_credentials_that_expire_are_refreshed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where a role's credentials are about to expire, the next request is signed with new ones."""
    (tmp_path / "role.py").write_text(ROLE)
    (tmp_path / "count").write_text("0")
    (tmp_path / "config").write_text(
        f"[default]\nregion = {REGION}\n"
        f"credential_process = {sys.executable} {tmp_path / 'role.py'} {tmp_path / 'count'}\n"
    )
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    session = aws.session()
    with Aws([]) as server:
        for _ in range(2):
            session.post(f"{server.url}/v1/traces", data=b"body", timeout=10)
        (first, token), (second, other) = [
            (headers["authorization"].partition("=")[2].partition("/")[0], headers["x-amz-security-token"])
            for _, headers, _ in server.requests
        ]
        assert first != second
        assert (token, other) == (first.replace("KEY", "TOKEN"), second.replace("KEY", "TOKEN"))
        assert f"/{REGION}/" in server.requests[0][1]["authorization"]


def test_a_region_comes_from_the_host_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """AWS's hosts name their region and every URL its service; what names neither raises."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    signature = aws.Signature()
    for url, scope in {
        "https://xray.us-west-2.amazonaws.com/v1/traces": "us-west-2/xray",
        "https://logs.cn-north-1.amazonaws.com.cn/v1/logs": "cn-north-1/logs",
        "https://vpce-1.example.org/v1/metrics": f"{REGION}/monitoring",
    }.items():
        request = aws.requests.Request("POST", url, data=b"x").prepare()
        assert f"/{scope}/aws4_request" in signature(request).headers["Authorization"]
    with pytest.raises(ConfigurationError, match=r"/v1/traces, /v1/metrics or /v1/logs, got '/other'"):
        signature.check("https://vpce-1.example.org/other")


def test_what_botocore_cannot_read_is_said_without_secrets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Half a pair of credentials, or a profile that is not there, is a ConfigurationError with botocore's reason."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    url = "https://xray.us-west-2.amazonaws.com/v1/traces"
    with pytest.raises(ConfigurationError, match="no AWS credentials were found"):
        aws.Signature().check(url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS)
    with pytest.raises(ConfigurationError, match="credentials cannot be had: Partial credentials") as raised:
        aws.Signature().check(url)
    assert ACCESS not in str(raised.value)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(ConfigurationError, match="nobody"):
        aws.Signature().check(url)


@pytest.mark.parametrize(
    ("config", "variables", "reason"),
    [
        ("[default]\ncredential_process = /nowhere/at/all\n", {}, "No such file"),
        ("[default]\ncredential_process = /bin/echo hunter2\n", {}, "Expecting value"),
        (
            "",
            {"AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/a", "AWS_WEB_IDENTITY_TOKEN_FILE": "/nowhere"},
            "No such",
        ),
        ("", {"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://credentials.example/"}, "Unsupported host"),
    ],
)
def test_whatever_is_wrong_with_a_source_of_credentials_is_a_configuration_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, config: str, variables: dict[str, str], reason: str
) -> None:
    """A program, a file or a URL: botocore raises what it comes upon."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    (tmp_path / "config").write_text(config)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_REGION", "us-west-2")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=f"AWS credentials cannot be had: .*{reason}") as raised:
        aws.Signature().check("https://xray.us-west-2.amazonaws.com/v1/traces")
    assert "hunter2" not in str(raised.value)


def test_a_proxy_with_an_own_authority_gets_signed_requests(tmp_path: Path) -> None:
    """With ``certificate=`` the session trusts it, and signs as it does without."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    script = """
    mlobs.configure("shop", backend="xray", endpoint=os.environ["TO"], certificate=os.environ["CA"])
    with mlobs.prediction(model="m"):
        pass
    """
    with Receiver(context=context) as receiver:
        env = {**CREDENTIALS, PROVIDER: "otel_mlobs_aws", "TO": receiver.url, "CA": str(tmp_path / "ca.pem")}
        run(script, env=env)
        [received] = receiver.received
        assert received.headers["authorization"].startswith("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_forked_child_signs_with_credentials_of_its_own() -> None:
    """Parent and child both send, after a fork in the midst of it, and both signatures hold."""
    script = """
    mlobs.configure("shop", backend="xray", endpoint=os.environ["TO"])
    def serve(name):
        with mlobs.operation(name):
            pass
        return mlobs.force_flush()
    assert serve("before")
    pid = os.fork()
    sent = serve("child" if pid == 0 else "parent")
    if pid == 0:
        os._exit(0 if sent else 9)
    assert sent and os.waitpid(pid, 0)[1] == 0
    """
    with Aws([]) as server:
        run(script, env={**CREDENTIALS, PROVIDER: "otel_mlobs_aws", "TO": server.url})
        assert len(server.requests) == 3
        for received in server.requests:
            assert received[1]["authorization"] == recomputed(server.url, received, "xray", REGION, OURS)


def test_the_doctor_signs_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """`otel-mlobs doctor` sends what an exporter would, and says what is missing where it cannot be signed."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    environ = {PROVIDER: "otel_mlobs_aws"}
    with Aws([]) as server:
        report = doctor.examine({"service_name": "s", "traces_endpoint": server.url}, environ)
        assert report.healthy
        [received] = server.requests
        assert received[1]["authorization"] == recomputed(server.url, received, "xray", REGION, OURS)
    for name in CREDENTIALS:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    [finding] = doctor.examine({"traces_endpoint": "http://localhost:9"}, environ).findings
    assert (finding.verdict, "no AWS region" in finding.message) == ("failed", True)


def test_metrics_are_sent_in_parts_that_cloudwatch_takes() -> None:
    """Of 2,500 series no request has more than a thousand points, and together they have all."""
    script = """
    mlobs.configure("shop", metrics_endpoint=os.environ["TO"], metric_interval=3600)
    from opentelemetry import metrics
    counters = [metrics.get_meter("m").create_counter(f"c{number}") for number in range(5)]
    for counter in counters:
        for number in range(500):
            counter.add(1, {"n": number})
    """
    with Aws([]) as server:
        run(script, env={**CREDENTIALS, PROVIDER: "otel_mlobs_aws", "TO": server.url})
        counts = []
        for received in server.requests:
            message = ExportMetricsServiceRequest.FromString(received[2])
            counts.append(
                sum(
                    len(metric.sum.data_points) + len(metric.histogram.data_points)
                    for group in message.resource_metrics
                    for scope in group.scope_metrics
                    for metric in scope.metrics
                )
            )
            assert received[1]["authorization"] == recomputed(server.url, received, "monitoring", REGION, OURS)
        assert sum(counts) >= 2500
        assert max(counts) <= 1000
