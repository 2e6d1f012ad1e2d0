"""The housing extract, and examples/database_features on SQLite; tests/integration has it on PostgreSQL."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import http.server
import json
import re
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pytest
from example_modules import modules_of

pytest.importorskip("pyarrow")

if TYPE_CHECKING:
    from collections.abc import Iterator


ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "database_features"
EXTRACT = EXAMPLE / "housing.parquet"
PATIENCE = 120.0


@pytest.fixture(scope="module")
def example() -> Iterator[Any]:
    """Imports a module of the example by its plain name, as a user's own script does."""
    with modules_of(EXAMPLE) as import_one:
        yield import_one


# -- the rows ----------------------------------------------------------------------------------------------------------


def test_the_extract_is_the_one_its_provenance_describes() -> None:
    """The sha256 in PROVENANCE.md is that of the file, its columns and types are the listed ones, and it is small."""
    pq = pytest.importorskip("pyarrow.parquet")
    page = (EXAMPLE / "PROVENANCE.md").read_text(encoding="utf-8")
    (stated,) = re.findall(r"\*\*sha256 of the file\*\*: `([0-9a-f]{64})`", page)
    assert hashlib.sha256(EXTRACT.read_bytes()).hexdigest() == stated
    assert EXTRACT.stat().st_size <= 250_000
    table = pq.read_table(EXTRACT)
    assert table.num_rows == 5_832 + 8_232
    assert all(column.null_count == 0 for column in table.columns)
    listed = re.findall(r"^\| `(\w+)` \| ([^|]+) \|", page, re.MULTILINE)
    assert listed == [(field.name, str(field.type)) for field in table.schema]


def test_the_rows_are_the_ones_of_the_source(example: Any) -> None:
    """The source's first reference row and first later row come out with its own averages, its time and its label."""
    data = example("data")
    columns = data.columns()
    features = {block_id: row for part in data.PARTS for block_id, row in zip(*both(data.load(part)), strict=True)}
    # As they stand in nannyml's california_housing_reference.csv and california_housing_analysis.csv.
    first = [9.8413, 32.0, 7.17004048582996, 1.0148448043184886, 4353.0, 2.937246963562753, 34.22, -118.19]
    later = [3.4583, 24.0, 5.207100591715976, 1.106508875739645, 507.0, 3.0, 33.81, -116.25]
    for block_id, expected, at, label in ((0, first, "2020-10-01T00", 1), (5_832, later, "2021-06-01T00", 0)):
        assert features[block_id][:8].tolist() == pytest.approx(expected, rel=1e-15)
        assert columns["at"][block_id] == np.datetime64(at)
        assert columns["above_median"][block_id] == label
    assert (np.diff(columns["at"]) == np.timedelta64(1, "h")).all()


def both(blocks: Any) -> tuple[list[int], list[Any]]:
    """Ids and rows of features."""
    return blocks.ids.tolist(), list(blocks.features)


def test_the_parts_are_disjoint_and_whole(example: Any) -> None:
    """Training, held-out and later rows are 3,888, 1,944 and 8,232, none twice; later rows keep the source's order."""
    data = example("data")
    ids = {part: data.load(part).ids.tolist() for part in data.PARTS}
    assert [len(ids[part]) for part in data.PARTS] == [3_888, 1_944, 8_232]
    assert sorted(ids["train"] + ids["held_out"]) == list(range(5_832))
    assert ids["later"] == list(range(5_832, 14_064))
    with pytest.raises(ValueError, match="part must be one of train, held_out, later, got 'test'"):
        data.load("test")


def test_held_out_rows_are_like_the_training_rows_and_later_ones_are_not(example: Any) -> None:
    """SciPy's two-sample KS test tells no held-out feature from training at 1%, and eight later ones at 1e-6."""
    stats = pytest.importorskip("scipy.stats")
    data = example("data")
    train, held_out, later = (data.load(part).features for part in data.PARTS)

    def p_values(rows: Any) -> dict[str, float]:
        return {
            name: stats.ks_2samp(*pair, method="asymp").pvalue
            for name, *pair in zip(data.FEATURES, train.T, rows.T, strict=True)
        }

    assert min(p_values(held_out).values()) > 0.01
    moved = {name for name, p in p_values(later).items() if p < 1e-6}
    assert moved == set(data.FEATURES) - {"ave_bedrms", "population"}


def test_the_drift_by_month_is_what_nannyml_publishes(example: Any) -> None:
    """SciPy's KS statistic of each month against the reference has the means that nannyml's documentation prints."""
    stats = pytest.importorskip("scipy.stats")
    data = example("data")
    # https://nannyml.readthedocs.io/en/stable/examples/california_housing.html, "Drift detection"
    published = {
        "longitude": 0.836534,
        "latitude": 0.799592,
        "house_age": 0.173479,
        "med_inc": 0.158278,
        "ave_occup": 0.133803,
        "ave_rooms": 0.110907,
        "ave_bedrms": 0.0786656,
        "population": 0.0713122,
    }
    reference = np.vstack([data.load("train").features, data.load("held_out").features])
    later = data.load("later")
    months = data.columns()["at"][later.ids].astype("datetime64[M]")
    for name, mean in published.items():
        column = data.FEATURES.index(name)
        values = [later.features[months == month, column] for month in np.unique(months)]
        found = [stats.ks_2samp(reference[:, column], each, method="asymp").statistic for each in values]
        assert np.mean(found) == pytest.approx(mean, abs=6e-7)


# -- the database ------------------------------------------------------------------------------------------------------


@pytest.fixture
def database(example: Any, url: str) -> Iterator[Any]:
    """That database."""
    with contextlib.closing(example("database").Database(url)) as database:
        yield database


@pytest.fixture(scope="module")
def url(example: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A SQLite database that load.py has filled."""
    url = f"sqlite:///{tmp_path_factory.mktemp('database') / 'housing.sqlite'}"
    assert example("load").load(example("database").Database(url)) == 14_064
    return url


def test_the_view_computes_the_features_of_the_rows(example: Any, database: Any) -> None:
    """What SQL divides is bit for bit what the rows have, in the order asked, and ids may come twice."""
    data = example("data")
    later = data.load("later")
    asked = [*later.ids[:300].tolist()[::-1], int(later.ids[7])]
    found = np.array([list(row.values()) for row in database.features(asked)])
    assert list(database.features([0])[0]) == list(data.FEATURES)
    assert np.array_equal(found, later.features[[i - later.ids[0] for i in asked]])


def test_the_database_has_every_part_with_its_labels(example: Any, database: Any) -> None:
    """The rows of a part come by id, ten features and the label each."""
    data = example("data")
    for part in data.PARTS:
        blocks = data.load(part)
        order = np.argsort(blocks.ids)
        rows = np.array(database.rows(part))
        assert np.array_equal(rows[:, :-1], blocks.features[order])
        assert np.array_equal(rows[:, -1], blocks.labels[order])


def test_an_unknown_block_group_is_named(example: Any, database: Any) -> None:
    """An id that the database does not have raises with that id, even beside one that it has."""
    with pytest.raises(example("database").UnknownBlockError, match="no block group 14064"):
        database.features([3, 14_064])


def test_filling_fails_as_a_whole(database: Any) -> None:
    """Rows that the database refuses leave the ones in place that were there."""
    with pytest.raises(Exception, match="UNIQUE"):
        database.fill([[1, "train", "2020-10-01", *[1] * 9]] * 2)
    assert len(database.rows("later")) == 8_232


def test_a_lookup_after_a_failed_one_opens_a_new_connection(example: Any, tmp_path: Path) -> None:
    """A database that was not there is found once it is, without a restart."""
    with contextlib.closing(example("database").Database(f"sqlite:///{tmp_path / 'late.sqlite'}")) as database:
        with pytest.raises(Exception, match="no such table"):
            database.features([1])
        example("load").load(database)
        assert database.features([1])[0]["house_age"] == 37


@pytest.mark.parametrize("wrong", ["mysql://u:secret@host/db", "sqlite://", "housing.sqlite", ""])
def test_a_database_that_is_none_is_refused(example: Any, wrong: str) -> None:
    """The URL is in the message, its password is not."""
    with pytest.raises(ValueError, match=r"must be postgresql://… or sqlite:///path, got ") as raised:
        example("database").Database(wrong)
    assert "secret" not in str(raised.value)


# -- traffic -----------------------------------------------------------------------------------------------------------


def test_changes_do_what_the_command_line_says(example: Any) -> None:
    """Shift, scale and unit give the stated values in units of the training rows; missing sends nulls."""
    data, traffic = example("data"), example("traffic")
    rows, training = data.load("held_out"), data.load("train").features
    values, income = rows.features[:100, 0], training[:, 0]
    for kind, text, expected in (
        ("shift", "med_inc=0.5", values + 0.5 * income.std()),
        ("scale", "med_inc=1.3", income.mean() + 1.3 * (values - income.mean())),
        ("unit", "med_inc=10000:1", values * 10_000),
    ):
        made = traffic.requests(rows, [traffic.parse(kind, text)])[:100]
        assert [request["block_id"] for request in made] == rows.ids[:100].tolist()
        assert [request["features"]["med_inc"] for request in made] == pytest.approx(expected.tolist(), rel=1e-12)
    made = traffic.requests(rows, [traffic.parse("missing", "med_inc=1")])
    assert all(request["features"] == {"med_inc": None} for request in made)


def test_a_share_of_the_requests_is_hit_evenly_from_the_given_one_on(example: Any) -> None:
    """After 944 of 1,944 requests 5% are every twentieth; a unit is that of one client in five unless it is said."""
    data, traffic = example("data"), example("traffic")
    changes = [traffic.parse("missing", "med_inc=0.05"), traffic.parse("unit", "house_age=12")]
    made = traffic.requests(data.load("held_out"), changes, after=944)
    hit = [i for i, request in enumerate(made) if request.get("features", {}).get("med_inc", 0) is None]
    assert hit == list(range(963, 1_944, 20))
    assert sum("house_age" in request.get("features", {}) for request in made) == 200
    assert not any("features" in request for request in made[:944])


def test_two_changes_of_one_feature_follow_each_other(example: Any) -> None:
    """The second change is made to what the first has left, and a null stays one."""
    data, traffic = example("data"), example("traffic")
    rows = data.load("held_out")
    twice = [traffic.parse("unit", "population=2:1"), traffic.parse("unit", "population=5:1")]
    made = traffic.requests(rows, twice)
    assert made[0]["features"]["population"] == rows.features[0, 4] * 10
    gone = [traffic.parse("missing", "population=1"), *twice]
    assert traffic.requests(rows, gone)[0]["features"] == {"population": None}


@pytest.mark.parametrize(
    ("option", "text", "message"),
    [
        ("--shift", "income=1", "--shift must name one of med_inc, "),
        ("--shift", "med_inc", "--shift must be FEATURE=SD, got 'med_inc'"),
        ("--scale", "med_inc=wide", "--scale must be FEATURE=FACTOR, got 'med_inc=wide'"),
        ("--unit", "med_inc=10:0.1:2", "--unit must be FEATURE=FACTOR[:SHARE], got 'med_inc=10:0.1:2'"),
        ("--missing", "med_inc=5", "--missing med_inc must befall a share from 0 to 1, got 5.0"),
        ("--missing", "med_inc=0.1:0.5", "--missing must be FEATURE=SHARE, got 'med_inc=0.1:0.5'"),
        ("--after", "-1", "--after must not be negative, got -1"),
    ],
)
def test_a_change_that_makes_no_sense_ends_the_program(
    example: Any, capsys: pytest.CaptureFixture[str], option: str, text: str, message: str
) -> None:
    """The message says what was expected, and nothing is sent."""
    traffic, parser = example("traffic"), argparse.ArgumentParser()
    traffic.add_arguments(parser)
    with pytest.raises(SystemExit):
        traffic.read_arguments(parser, parser.parse_args([option, text]))
    assert message in capsys.readouterr().err


# -- the service -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def artifacts(example: Any, url: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What train.py saves."""
    for extra in ("sklearn", "flask"):
        pytest.importorskip(extra)
    folder = tmp_path_factory.mktemp("artifacts")
    with contextlib.closing(example("database").Database(url)) as database:
        example("train").train(database, folder)
    return folder


@pytest.fixture
def client(example: Any, database: Any, artifacts: Path) -> Iterator[Any]:
    """A client of the service without a network between."""
    import otel_mlobs as mlobs

    profile = mlobs.Profile.load(artifacts / "housing.profile.json")
    with contextlib.closing(mlobs.Monitor(profile, window=600.0)) as monitor:
        yield example("service").create_app(database, artifacts, monitor).test_client()


def test_the_profile_is_that_of_the_training_rows(example: Any, artifacts: Path) -> None:
    """Ten features and the score, of 3,888 rows each, in at most 10 kB, and the scores are of unseen rows."""
    import otel_mlobs as mlobs

    data = example("data")
    path = artifacts / "housing.profile.json"
    profile = mlobs.Profile.load(path)
    assert (profile.model, profile.version, profile.rows) == ("housing", "1", 3_888)
    assert profile.names == data.FEATURES
    assert profile.outputs is not None
    assert [column.name for column in profile.outputs.columns] == ["score"]
    # The scores are right as often as they say: by heart, the model would be nearer to 0 and 1 than this.
    calibration = profile.outputs.calibration
    assert calibration is not None
    gaps = [
        abs(mean * rows - positives)
        for mean, positives, rows in zip(calibration.mean_scores, calibration.positives, calibration.rows, strict=True)
    ]
    assert sum(gaps) / sum(calibration.rows) < 0.1
    assert path.stat().st_size <= 10_000


def test_a_request_is_a_trace_of_three_with_the_profile_on_it(client: Any, example: Any) -> None:
    """The lookup in the database and the prediction hang under the server span, the prediction names the profile."""
    import otel_mlobs as mlobs

    with mlobs.testing.capture() as telemetry:
        answer = client.post("/predict", json={"block_id": 0})
    assert answer.status_code == 200
    assert answer.json["block_id"] == 0
    assert answer.json["probability"] > 0.9  # hardly any block group has a higher income
    spans = {span.name: span for span in telemetry.spans}
    assert set(spans) == {"POST /predict", "feature_lookup block_features", "prediction housing"}
    server = spans["POST /predict"]
    for name in ("feature_lookup block_features", "prediction housing"):
        assert spans[name].parent.span_id == server.context.span_id
    lookup, prediction = (spans[name].attributes for name in sorted(spans)[1:])
    assert lookup["mlobs.feature_store.name"] == "sqlite"
    assert lookup["mlobs.feature.found"] == 10
    assert prediction["mlobs.model.version"] == "1"
    assert re.fullmatch("[0-9a-f]{12}", prediction["mlobs.profile.id"])
    assert prediction["mlobs.drift.status"] == "insufficient_data"


def test_given_features_replace_the_stored_ones(client: Any) -> None:
    """A null is a missing value that the model takes, another value changes its mind; a list is one batch."""
    import otel_mlobs as mlobs

    with mlobs.testing.capture() as telemetry:
        rows = [
            {"block_id": 0},
            {"block_id": 0, "features": {"med_inc": 0.5}},
            {"block_id": 0, "features": {"med_inc": None}},
        ]
        answer = client.post("/predict", json=rows)
    assert answer.status_code == 200
    stored, poor, unknown = (row["probability"] for row in answer.json)
    assert len({stored, poor, unknown}) == 3
    assert poor < unknown < stored
    (prediction,) = (span.attributes for span in telemetry.spans if span.name == "prediction housing")
    assert prediction["mlobs.batch.size"] == 3
    assert prediction["mlobs.input.missing"] == 1


def test_what_makes_no_sense_is_the_callers_mistake(client: Any) -> None:
    """Unknown ids are 404, bodies of another form are 400 and say why; neither is an error of the service."""
    import otel_mlobs as mlobs

    with mlobs.testing.capture() as telemetry:
        unknown = client.post("/predict", json={"block_id": 14_064})
        assert (unknown.status_code, unknown.json) == (404, {"error": "no block group 14064"})
        wrong: list[Any] = [[], {}, [1], {"block_id": "0"}, {"block_id": True}, {"block_id": -1}, {"block_id": 2**31}]
        wrong += [
            {"block_id": 0, "features": given} for given in (1, {"income": 1}, {"med_inc": "1"}, {"med_inc": 1e10})
        ]
        wrong += [{"block_id": 0, "id": 0}, [{"block_id": 0}] * 501]
        for body in wrong:
            answer = client.post("/predict", json=body)
            assert (answer.status_code, list(answer.json)) == (400, ["error"])
    assert not any(span.status.status_code.name == "ERROR" for span in telemetry.spans)


# -- the report --------------------------------------------------------------------------------------------------------

AFTER = 960
HOUR = 3600.0


@pytest.fixture
def report(example: Any, url: str, artifacts: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Plays the rows of a part, changed as told, on a clock that makes an hour of each."""
    monkeypatch.setenv("DATABASE_URL", url)
    monkeypatch.setenv("HOUSING_ARTIFACTS", str(artifacts))

    def run(part: str, *changes: str, after: int = 0, shuffle: bool = False) -> Any:
        traffic = example("traffic")
        made = [traffic.parse(*change.removeprefix("--").split(" ")) for change in changes]
        bodies = traffic.requests(example("data").load(part, shuffle=shuffle), made, after=after)
        return example("report").play(bodies, window=32 * 24 * HOUR)

    return run


def test_held_out_rows_are_no_drift(report: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing drifts in rows like the training rows, at no time, and the last window has the rows of its panes."""
    status = report("held_out")
    assert {result.status for result in [*status.features.values(), status.prediction]} == {"ok"}
    assert "drift" not in capsys.readouterr().out
    assert status.rows == 8 * 96 + 1_944 % 96  # the window's eight panes, and the running one


@pytest.mark.parametrize(
    "change",
    [
        "--unit med_inc=10000:0.2",
        pytest.param("--shift med_inc=0.5", marks=pytest.mark.slow),
        pytest.param("--shift med_inc=0.25", marks=pytest.mark.slow),
        pytest.param("--scale med_inc=1.3", marks=pytest.mark.slow),
        pytest.param("--missing med_inc=0.05", marks=pytest.mark.slow),
    ],
)
def test_an_injected_change_is_found_in_its_feature(
    report: Any, example: Any, capsys: pytest.CaptureFixture[str], change: str
) -> None:
    """Within 500 rows the changed feature drifts, no other ever; `since` is the change's hour to within two panes."""
    status = report("held_out", change, after=AFTER)
    said = re.findall(r"after +([\d,]+) rows +(\w+) +(\w+) -> drift", capsys.readouterr().out)
    found = int(next(rows for rows, name, _ in said if name == "med_inc").replace(",", "")) - AFTER
    assert 0 < found <= 500
    assert {name for _, name, _ in said} <= {"med_inc", "score"}
    moved = {name: result for name, result in status.features.items() if result.status == "drift"}
    assert list(moved) == ["med_inc"]
    began = example("report").FIRST + AFTER * HOUR
    assert abs(moved["med_inc"].since - began) <= 2 * 96 * HOUR
    if "missing" in change:
        assert moved["med_inc"].missing == pytest.approx(0.05, abs=0.005)


def moved_by_scipy(train: Any, live: Any, names: tuple[str, ...], least: float) -> set[str]:
    """The features whose KS statistic is above ``least`` and certain at a millionth."""
    stats = pytest.importorskip("scipy.stats")
    found = {name: stats.ks_2samp(*pair, method="asymp") for name, *pair in zip(names, train.T, live.T, strict=True)}
    return {name for name, result in found.items() if result.statistic > least and result.pvalue < 1e-6}


@pytest.mark.slow
def test_the_later_rows_in_random_order_drift_where_scipy_says(report: Any, example: Any) -> None:
    """The alarm is on for the seven features whose KS statistic SciPy puts above 0.06, and not for the other three."""
    data = example("data")
    status = report("later", shuffle=True)
    train, live = data.load("train").features, data.load("later").features
    expected = moved_by_scipy(train, live, data.FEATURES, 0.06)
    assert len(expected) == 7
    assert {name for name, result in status.features.items() if result.status == "drift"} == expected
    assert {name for name, result in status.features.items() if result.drifted} == {"latitude", "longitude"}
    for name in ("latitude", "longitude"):
        assert status.features[name].since - example("report").FIRST <= 96 * HOUR
        assert status.features[name].design_effect < 1.5


@pytest.mark.slow
def test_the_later_rows_as_they_came_are_alike_and_elsewhere(report: Any, example: Any) -> None:
    """Neighbours are worth few rows, latitude and longitude drift all the same; distances are those of the raw rows."""
    stats = pytest.importorskip("scipy.stats")
    data = example("data")
    status = report("later")
    assert status.rows == 840
    assert status.features["latitude"].status == status.features["longitude"].status == "drift"
    assert all(status.features[name].design_effect > 10 for name in ("latitude", "longitude", "house_age"))
    train, live = data.load("train").features, data.load("later").features[-status.rows :]
    for column, name in enumerate(data.FEATURES):
        found, pair = status.features[name].distances, (train[:, column], live[:, column])
        raw = stats.ks_2samp(*pair, method="asymp").statistic
        assert raw - 0.11 < found["kolmogorov_smirnov"] <= raw + 1e-12  # a bin has a tenth of the rows
        if name in ("med_inc", "house_age"):  # for the others a bin's mean in the reference stands for a far tail
            assert found["wasserstein"] == pytest.approx(stats.wasserstein_distance(*pair), rel=0.1)


def test_the_table_says_which_how_far_since_when_and_how_sure(report: Any, example: Any) -> None:
    """What moved comes first, with its PSI, the hour since when, and its share of missing values."""
    status = report("held_out", "--missing med_inc=0.05", after=AFTER)
    lines = example("table").table(status).splitlines()
    assert len(lines) == 1 + 10 + 1
    assert lines[1].split()[:2] == ["med_inc", "drift"]
    assert lines[1].split()[2] == f"{status.features['med_inc'].psi:.3f}"
    assert "2021-07-11" in lines[1]
    assert f"{status.features['med_inc'].missing:.1%}" in lines[1]
    assert status.features["med_inc"].missing == pytest.approx(0.05, abs=0.005)
    assert lines[-1].startswith("the prediction")


# -- the client --------------------------------------------------------------------------------------------------------


class _Answers(http.server.BaseHTTPRequestHandler):
    """Answers 200, closes every connection after two answers without saying so, and keeps what came."""

    protocol_version = "HTTP/1.1"
    came: ClassVar[list[Any]] = []
    answered = 0

    def do_POST(self) -> None:
        self.came.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()
        self.answered += 1
        self.close_connection = self.answered == 2

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


def test_the_client_sends_every_row_once(example: Any) -> None:
    """Every request arrives exactly once although the server closes kept-alive connections."""
    client = example("client")
    bodies = [{"block_id": i} for i in range(21)]
    _Answers.came.clear()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Answers) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        assert client.play(url, bodies, rate=0.0, connections=3) == {200: 21}
        server.shutdown()
        thread.join()
    assert sorted(body["block_id"] for body in _Answers.came) == list(range(21))


def test_the_client_counts_what_nobody_answers(example: Any) -> None:
    """Without a server every request is counted as not answered, and a URL that is none raises."""
    client = example("client")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    assert client.play(f"http://127.0.0.1:{port}", [{}] * 3, rate=0.0, connections=2) == {0: 3}
    with pytest.raises(ValueError, match="got 'localhost:8000'"):
        client.play("localhost:8000", [{}], rate=0.0, connections=1)


# -- the other data set: categories ------------------------------------------------------------------------------------


def test_the_census_of_later_years_drifts_in_ancestry_as_scipy_says() -> None:
    """Fifteen categorical columns by year: p is about that of SciPy's chi-square test, and tiny for ancestry alone."""
    stats = pytest.importorskip("scipy.stats")
    import otel_mlobs as mlobs
    from otel_mlobs.tools import churn

    reference, later = churn.load_rows()
    codes = [name for name in churn.FEATURES if name != "AGEP"]

    def table(features: Any) -> dict[str, Any]:
        return dict(zip(churn.FEATURES, features.astype(int).T, strict=True))

    profile = mlobs.Profile.fit(table(reference.features), categorical=codes, model="employment", version="1")
    certain, compared = {}, set()
    for year in (2016, 2017, 2018):
        live = later.features[later.years == year]
        with contextlib.closing(mlobs.Monitor(profile, window=3600.0, clock=lambda: 0.0)) as monitor:
            monitor.observe([dict(zip(churn.FEATURES, row, strict=True)) for row in live.astype(int).tolist()])
            status = monitor.status()
        assert status.rows == len(live)
        assert not any(result.drifted or result.invalid for result in status.features.values())
        certain[year] = {name for name, result in status.features.items() if result.p_value < 1e-3}
        for column in profile.features:
            live_counts, _ = column.bins.count(table(live)[column.name].tolist())
            both = np.array([live_counts, column.counts])[:, np.add(live_counts, column.counts) > 0]
            if column.name in codes and both.min() >= 8:  # else cells are pooled, which SciPy does not
                expected = stats.chi2_contingency(both, correction=False).pvalue
                # Ours is PSI's, and a tenth of it is spent on categories that the census never had.
                assert abs(np.log10(status.features[column.name].p_value / expected)) < 0.1 - 0.05 * np.log10(expected)
                compared.add(column.name)
    assert certain == {2016: set(), 2017: {"ANC"}, 2018: {"ANC"}}
    assert {"ANC", "SEX", "MAR", "RAC1P"} <= compared
