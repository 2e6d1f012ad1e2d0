"""A shop that does all that a dashboard shows, without a web server: `python shop.py SETTINGS`, until it is stopped.

SETTINGS is JSON: what `configure` takes, `rate` (requests a second) and `drift_after` (seconds until its customers are
other ones).
"""

from __future__ import annotations

import json
import random
import sys
import time

import numpy as np
import sqlalchemy

import otel_mlobs as mlobs

settings = json.loads(sys.argv[1])
mlobs.configure(**settings["configure"])
mlobs.instrument("sqlalchemy")

draw = random.Random(7)
rng = np.random.default_rng(7)
PLANS = ("basic", "plus", "family")


def customer(*, changed: bool = False) -> dict[str, object]:
    """One customer; later ones are older, spend less, and often have a plan that is new."""
    return {
        "age": round(min(90.0, max(18.0, draw.gauss(52 if changed else 41, 12)))),
        "spend": None if draw.random() < (0.08 if changed else 0.02) else draw.lognormvariate(2.6 if changed else 3, 1),
        "visits": float(int(draw.expovariate(0.2))),
        "plan": "trial" if changed and draw.random() < 0.05 else draw.choices(PLANS, (6, 3, 1))[0],
    }


def chance(row: dict[str, object]) -> float:
    """How probably a customer leaves, as the model has it."""
    return float(1 / (1 + np.exp(-((float(row["age"]) - 45) / 8 - float(row["visits"]) / 10))))


training = [customer() for _ in range(4_000)]
scores = np.array([chance(row) for row in training])
profile = mlobs.Profile.fit(
    {name: [row[name] for row in training] for name in training[0]},
    outputs=scores,
    labels=(rng.random(len(scores)) < scores).astype(int),
    positive_class=1,
    model="churn",
    version="3",
)
store = mlobs.OutcomeStore("memory:")
monitor = mlobs.Monitor(profile, window=60.0, pane=2.0, min_rows=50, outcomes=store, maturity=3.0, unlabelled="missing")
lists = mlobs.RankingMonitor(
    model="ltr", version="7", k=5, outcomes=store, maturity=3.0, events=("click", "purchase"), catalogue_size=200
)
agreement = mlobs.Agreement(model="churn", version="3", shadow="4", threshold=0.5)
engine = sqlalchemy.create_engine("sqlite://", poolclass=sqlalchemy.pool.QueuePool)


@mlobs.operation("recommend", model="churn", version="3")
def recommend(*, changed: bool) -> None:
    """All of a request, each step of it seen."""
    row = lookup(changed=changed)
    shown_as = mlobs.RankingMonitor.shown(lists, [item for item, _ in rank(candidates())])
    if draw.random() < 0.4:
        lists.outcome(draw.randrange(200), prediction_id=shown_as)
    place = draw.choices(range(5), (8, 5, 3, 2, 1))[0]
    if draw.random() < 0.5:
        lists.outcome(ranked[place], prediction_id=shown_as)
    if draw.random() < 0.1:
        lists.outcome(ranked[place], prediction_id=shown_as, event="purchase", value=20.0, currency="EUR")
    predict({name: row.get(name) for name in training[0]})


ranked: list[int] = []


@mlobs.feature_lookup(
    store="sqlite", view="customers", timestamp="updated_at", objective="15m", default=lambda row: row["stand_in"]
)
def lookup(*, changed: bool) -> dict[str, object]:
    """Mostly fresh, sometimes stale, seldom a stand-in."""
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text("select 1"))
    age = 4_000.0 if draw.random() < (0.2 if changed else 0.02) else draw.expovariate(1 / 120)
    return {**customer(changed=changed), "updated_at": time.time() - age, "stand_in": draw.random() < 0.03}


@mlobs.candidate_generation(source="two_tower", k=50)
def candidates() -> list[int]:
    """Some of two hundred items."""
    return draw.sample(range(200), draw.randint(20, 50))


@mlobs.ranking(model="ltr", version="7")
def rank(items: list[int]) -> list[tuple[int, float]]:
    """The best ten, with their scores."""
    time.sleep(draw.expovariate(1 / 0.004))
    ranked[:] = sorted(items, reverse=True)[:10]
    return [(item, item / 200) for item in ranked]


@mlobs.prediction(monitor=monitor, inputs="row", gpu=0 if settings["configure"].get("gpu") else False)
def predict(row: dict[str, object]) -> float:
    """A score; it takes some time, and now and then it fails."""
    time.sleep(0.12 if draw.random() < 0.02 else draw.expovariate(1 / 0.005))
    if draw.random() < 0.01:
        raise TimeoutError("the model did not answer")
    score = chance(row)
    agreement.record(score, min(1.0, max(0.0, score + draw.gauss(0, 0.1))))
    waiting.append((mlobs.current_operation().prediction_id, score, time.monotonic()))
    return score


waiting: list[tuple[str, float, float]] = []
begun = time.monotonic()
while True:
    started = time.monotonic()
    changed = started - begun > settings["drift_after"]
    if draw.random() < 0.02:
        lists.shown("no list")  # an error of the integration, which the library counts and survives
    try:
        recommend(changed=changed)
    except TimeoutError:
        pass
    while waiting and started - waiting[0][2] > 1.0:
        name, score, _ = waiting.pop(0)
        if draw.random() < 0.9:
            monitor.outcome(
                int(draw.random() < (score**2 if changed else score)),
                prediction_id=name,
                value=draw.expovariate(1 / 40),
                currency="EUR",
            )
    time.sleep(max(0.0, 1 / settings["rate"] - (time.monotonic() - started)))
