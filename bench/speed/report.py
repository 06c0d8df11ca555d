"""What is printed: one table a model, ratios to the best peer and to the raw limit, open loops.

The last column is the share of the CPUs that programs outside the benchmark took meanwhile; where it is not near 0, the
row says little.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.load.servers import OURS, OURS_BINARY, PEERS, SPREAD, SPREAD_BINARY
from bench.load.workloads import WORKLOADS
from bench.speed.measure import Figures

JSON_PEERS = {server.name for server in PEERS if server.is_json}

COLUMNS = {
    "L p50 ms": ("L.p50_ms", ".2f"),
    "p99": ("L.p99_ms", ".2f"),
    "S seq/s": ("S.rate", ",.0f"),
    "p50 ms": ("S.p50_ms", ".1f"),
    "p99 ": ("S.p99_ms", ".1f"),
    "B seq/s": ("B.rate", ",.0f"),
    "p50 ms ": ("B.p50_ms", ".1f"),
    "p99  ": ("B.p99_ms", ".1f"),
    "mix seq/s": ("mix.rate", ",.0f"),
    "p50 ms  ": ("mix.p50_ms", ".1f"),
    "p99   ": ("mix.p99_ms", ".1f"),
    "MB": ("resident_mb", ".0f"),
    "ready s": ("ready_seconds", ".2f"),
    "others": ("others_share", ".0%"),
}


@dataclass(slots=True)
class Results:
    """What one model gave.

    Attributes:
        model: its name.
        rounds: for each server by name, the figures of each round.
        raw: the figures of the raw limit, of each round.
        arrangements: the best arrangement of the raw limit, by workload.
        missing: why a server has no figures.
    """

    model: str
    rounds: dict[str, list[Figures]] = field(default_factory=dict)
    raw: list[Figures] = field(default_factory=list)
    arrangements: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def medians(self) -> dict[str, Figures]:
        """Return the medians over rounds of every server, and of the raw limit as `raw`."""
        every = {"raw": self.raw, **self.rounds} if self.raw else self.rounds
        return {name: take_medians(rounds) for name, rounds in every.items() if rounds}


def take_medians(rounds: Sequence[Figures]) -> Figures:
    """Return the median of each figure over the rounds that have it; of failures, their sum."""
    medians: Figures = {}
    for name in dict.fromkeys(name for figures in rounds for name in figures):
        values = [figures[name] for figures in rounds if name in figures]
        medians[name] = sum(values) if name.endswith(".failed") else statistics.median(values)
    return medians


def compare(medians: dict[str, Figures]) -> Figures:
    """Return our throughput over the best JSON peer's and over the raw limit's, as `S.to_best_peer`, `B.to_raw`, ...

    Those of our service in several processes begin `spread.`.
    """
    ratios: Figures = {}
    for prefix, ours, binary in (("", OURS, OURS_BINARY), ("spread.", SPREAD, SPREAD_BINARY)):
        for workload in WORKLOADS if ours.name in medians else ():
            name = f"{workload}.rate"
            peers = [figures[name] for peer, figures in medians.items() if peer in JSON_PEERS]
            if peers and workload != "L":
                ratios[f"{prefix}{workload}.to_best_peer"] = medians[ours.name][name] / max(peers)
            if name in medians.get("raw", {}):
                ratios[f"{prefix}{workload}.to_raw"] = medians[ours.name][name] / medians["raw"][name]
                if binary.name in medians:
                    ratios[f"{prefix}{workload}.npz_to_raw"] = medians[binary.name][name] / medians["raw"][name]
    return ratios


def render(results: Results) -> str:
    """Write the table of one model, with what belongs under it."""
    medians = results.medians()
    rows = [
        [name, *(_format(figures, key, form) for key, form in COLUMNS.values())] for name, figures in medians.items()
    ]
    lines = [f"{results.model}:", *_align([["", *map(str.strip, COLUMNS)], *rows])]
    lines += [f"{name}: not measured: {reason}" for name, reason in results.missing.items()]
    lines += [f"{name}: {_name_failures(figures)}" for name, figures in medians.items() if _name_failures(figures)]
    if results.arrangements:
        lines.append("raw limit: " + "; ".join(f"{name} in {best}" for name, best in results.arrangements.items()))
    if ratios := compare(medians):
        lines.append(
            "ratio "
            + ", ".join(f"{name.replace('.', ' ').replace('_', ' ')} {value:.2f}" for name, value in ratios.items())
        )
    lines += _describe_ours(medians.get(OURS.name, {}))
    return "\n".join(lines)


def _describe_ours(ours: Figures) -> list[str]:
    paddings = [f"{name} {ours[f'{name}.padding']:.2f}" for name in WORKLOADS if f"{name}.padding" in ours]
    lines = [f"{OURS.name}: computed over valid steps: {', '.join(paddings)}"] if paddings else []
    for share in ("50", "80"):
        if f"open{share}.p50_ms" in ours:
            p50, p99 = ours[f"open{share}.p50_ms"], ours[f"open{share}.p99_ms"]
            lines.append(
                f"{OURS.name}: open loop at {share} % of its S: "
                f"p50 {p50:.2f} ms, p99 {p99:.2f} ms, {p99 / p50:.1f} times"
            )
    return lines


def _name_failures(figures: Figures) -> str:
    counts = {name.partition(".")[0]: count for name, count in figures.items() if name.endswith(".failed") and count}
    return ", ".join(f"{count:.0f} requests of {name} failed" for name, count in counts.items())


def _format(figures: Figures, key: str, form: str) -> str:
    return format(figures[key], form) if key in figures else "-"


def _align(rows: Sequence[Sequence[str]]) -> list[str]:
    """Pad columns to one width, the first to the left and the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if not column else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
