"""`python -m bench cost`: how far predicted run times are from measured ones, over shapes the model has not seen.

The encoder is calibrated as at a first start, without a cache file. Then random shapes are measured in the same way,
and compared with the prediction. Prints a table and ends with one JSON line.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np

from service.costs.calibrate import load
from service.settings import SHIPPED_MODEL, Settings

MAX_PREDICTED_SECONDS = 0.15  # shapes beyond it are drawn anew, to keep the measurement short


def measure_errors(model: Path, shapes: int) -> dict[str, float]:
    """Compare predictions with measurements.

    Args:
        model: the artifact.
        shapes: how many to draw: B of 1 to 32 and T of 2 to 400, evenly in their logarithms.

    Returns:
        `median_error` and `p90_error`, both relative; `calibration_seconds`, and the `measured` shapes it took.
    """
    with tempfile.TemporaryDirectory() as empty:
        began = time.perf_counter()
        calibrator = load(Settings(model=model, cache_dir=Path(empty)))
        seconds = time.perf_counter() - began
    costs = calibrator.costs
    draw = np.random.default_rng(1)
    errors: list[float] = []
    while len(errors) < shapes:
        rows, steps = (int(np.exp(draw.uniform(np.log(low), np.log(high)))) for low, high in ((1, 33), (2, 400)))
        if (rows, steps) in costs.measured or costs.predict(rows, steps) > MAX_PREDICTED_SECONDS:
            continue
        actual = calibrator.measure((rows, steps))
        errors.append(abs(costs.predict(rows, steps) - actual) / actual)
    return {
        "median_error": float(np.median(errors)),
        "p90_error": float(np.quantile(errors, 0.9)),
        "calibration_seconds": seconds,
        "measured": len(costs.measured),
    }


def main(arguments: list[str] | None = None) -> None:
    """Measure each model and print its errors."""
    parser = argparse.ArgumentParser(prog="python -m bench cost", description=__doc__)
    parser.add_argument("--model", type=Path, action="append", help="an artifact; may be given more than once")
    parser.add_argument("--shapes", type=int, default=100)
    options = parser.parse_args(arguments)
    models = options.model or [SHIPPED_MODEL]
    found = {str(model): measure_errors(model, options.shapes) for model in models}
    print(f"{'':40} {'median':>8} {'p90':>8} {'start s':>8} {'shapes':>7}")
    for name, errors in found.items():
        median, p90, seconds, measured = errors.values()
        print(f"{name[-40:]:40} {median:8.1%} {p90:8.1%} {seconds:8.3f} {measured:7.0f}")
    rounded = {name: {key: round(value, 4) for key, value in errors.items()} for name, errors in found.items()}
    print(json.dumps({"bench": "cost", "shapes": options.shapes, "models": rounded}))
