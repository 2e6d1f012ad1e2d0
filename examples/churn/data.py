"""The rows of the example: real ones (`census`) and generated ones (`churn`).

`census` is real: persons in Massachusetts, is this one employed? The model is trained on 2015 and serves 2016 to 2018.
`churn` is made up by `generate`, which says how; it is for stories in which one has to know what changed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

DATA_SETS = ("census", "churn")


@dataclass(frozen=True)
class Table:
    """Customers: `ids` int64 (n,), `features` float64 (n, len(names)), `labels` int64 (n,), 1 is the positive class."""

    names: tuple[str, ...]
    ids: NDArray[np.int64]
    features: NDArray[np.float64]
    labels: NDArray[np.int64]


def load(data: str, *, drift: Mapping[str, float] | None = None) -> tuple[Table, Table]:
    """The rows to train on, and those that come later; `drift` shifts later generated rows (see `generate`).

    Raises:
        ValueError: `data` is neither "census" nor "churn", or drift is asked of real rows.
    """
    if data == "churn":
        return generate(20_000, seed=0), generate(10_000, seed=1, first_id=20_001, drift=drift)
    if data != "census":
        raise ValueError(f"data must be one of {', '.join(DATA_SETS)}, got {data!r}")
    if drift:
        raise ValueError(f"drift is for data='churn': the census rows are real, got drift={dict(drift)!r}")

    from otel_mlobs.tools import churn as package

    reference, later = package.load_rows()
    return (
        Table(package.FEATURES, reference.ids, reference.features, reference.labels),
        Table(package.FEATURES, later.ids, later.features, later.labels),
    )


@dataclass(frozen=True)
class Law:
    """How a generated feature is drawn, Normal(mean, deviation), and what one deviation of it adds to the log-odds."""

    mean: float
    deviation: float
    weight: float


CHURN_LAWS = {
    "tenure_months": Law(36.0, 9.0, -0.9),
    "monthly_charge": Law(70.0, 15.0, 0.7),
    "data_used_gb": Law(24.0, 6.0, -0.2),
    "call_minutes": Law(310.0, 80.0, 0.0),
    "support_call_hours": Law(2.0, 0.5, 0.8),
    "late_payment_days": Law(6.0, 1.5, 0.5),
    "discount_percent": Law(12.0, 3.0, -0.4),
    "app_visits": Law(40.0, 10.0, -0.6),
    "outage_minutes": Law(55.0, 12.0, 0.3),
    "contract_months_left": Law(11.0, 2.5, -0.5),
}
"""Ten features: nine that matter and one, call_minutes, that does not."""

CHURN_INTERCEPT = -1.2


def generate(n: int, *, seed: int, first_id: int = 1, drift: Mapping[str, float] | None = None) -> Table:
    """`n` made-up customers of a phone company, and whether each of them leaves (label 1).

    This is not real data. Each of the ten features of `CHURN_LAWS` is drawn independently of the others from a normal
    distribution, z standard deviations from its mean. A customer leaves with probability

        1 / (1 + exp(-(CHURN_INTERCEPT + sum of weight * z)))

    `drift={"monthly_charge": 0.5}` moves the mean of that feature up by 0.5 of its standard deviations and changes
    nothing else: neither the other features nor how features lead to leaving (covariate shift, no concept drift). The
    same seed gives the same customers, with and without drift but for that shift and whom it makes leave.

    Raises:
        ValueError: `n` is not positive, or `drift` names a feature that does not exist.
    """
    if n <= 0:
        raise ValueError(f"n must be positive, got {n}")
    shift = dict(drift or {})
    unknown = sorted(set(shift) - set(CHURN_LAWS))
    if unknown:
        raise ValueError(f"drift must name features out of {', '.join(CHURN_LAWS)}, got {', '.join(unknown)}")

    laws = CHURN_LAWS.values()
    random = np.random.default_rng(seed)
    z = random.standard_normal((n, len(CHURN_LAWS))) + [shift.get(name, 0.0) for name in CHURN_LAWS]
    log_odds = CHURN_INTERCEPT + z @ np.array([law.weight for law in laws])
    labels = random.random(n) < 1.0 / (1.0 + np.exp(-log_odds))
    return Table(
        names=tuple(CHURN_LAWS),
        ids=np.arange(first_id, first_id + n, dtype=np.int64),
        features=z * [law.deviation for law in laws] + [law.mean for law in laws],
        labels=labels.astype(np.int64),
    )
