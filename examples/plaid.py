"""Write PLAID to two Parquet files, as anyone would prepare data of their own: `python examples/plaid.py FOLDER`.

PLAID holds the current that 11 kinds of household appliance draw as they are switched on, 100 to 1,344 readings
each, 537 to train on and 537 to test on (Gao et al., 2014), in the files that the sktime package carries. Readings
span five decades, from standby to a heater, so that a step holds two numbers: the reading, and its logarithm.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

try:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
except ModuleNotFoundError as error:
    sys.exit(f"plaid: {error.name} is not installed: run `make install` and then .venv/bin/python examples/plaid.py")


def export(source: Path, target: Path) -> None:
    """Turn one of sktime's `.ts` files, a sequence a line with its class last, into Parquet."""
    _, _, body = source.read_text(encoding="utf-8").partition("@data")
    cases = [line.rpartition(":") for line in body.split()]
    readings = [np.array(case.split(","), dtype=np.float64) for case, _, _ in cases]
    sequences = [np.stack([reading, np.log10(np.abs(reading) + 1e-4)], axis=1).tolist() for reading in readings]
    kind = pa.list_(pa.list_(pa.float32()))
    pq.write_table(pa.table({"sequence": pa.array(sequences, kind), "label": [label for _, _, label in cases]}), target)
    print(f"{target}: {len(cases)} sequences of {min(map(len, readings))} to {max(map(len, readings))} steps")


def main() -> None:
    """Write `plaid-train.parquet` and `plaid-test.parquet` into a folder."""
    spec = find_spec("sktime")
    if spec is None or spec.origin is None:
        sys.exit("plaid: the data is in the package sktime, which is not installed: run `make install`")
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs")
    folder.mkdir(parents=True, exist_ok=True)
    for part in ("train", "test"):
        file = Path(spec.origin).parent / "datasets" / "data" / "PLAID" / f"PLAID_{part.upper()}.ts"
        export(file, folder / f"plaid-{part}.parquet")


if __name__ == "__main__":
    main()
