"""What is printed: one table a model, ratios to the best peer and to the raw limit, open loops.

After each throughput comes the load generator's share of the CPU time that it and the server took. Over a fifth, it is
the generator that is measured, and no ratio is printed. The last column is the share of the CPUs that programs outside
the benchmark took meanwhile; if it is not near 0, the row says little.
"""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from bench.load.servers import OURS, OURS_BINARY, PEERS
from bench.load.workloads import WORKLOADS
from bench.speed.measure import Figures

JSON_PEERS = tuple(server.name for server in PEERS if server.is_json)  # what their rows begin with

MOST_GENERATOR = 0.2  # of the CPU time that it and the server took
MOST_BUSY = 0.8  # of the generator's own time: a server could be faster than it asks

COLUMNS = {
    "L p50 ms": ("L.p50_ms", ".2f"),
    "p99": ("L.p99_ms", ".2f"),
    "S seq/s": ("S.rate", ",.0f"),
    "gen": ("S.generator", ".0%"),
    "p50 ms": ("S.p50_ms", ".1f"),
    "p99 ": ("S.p99_ms", ".1f"),
    "B seq/s": ("B.rate", ",.0f"),
    "gen ": ("B.generator", ".0%"),
    "p50 ms ": ("B.p50_ms", ".1f"),
    "p99  ": ("B.p99_ms", ".1f"),
    "mix seq/s": ("mix.rate", ",.0f"),
    "gen  ": ("mix.generator", ".0%"),
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
        generator: the load generator's name.
    """

    model: str
    rounds: dict[str, list[Figures]] = field(default_factory=dict)
    raw: list[Figures] = field(default_factory=list)
    arrangements: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    generator: str = ""

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


def distrust(name: str, figures: Figures, workload: str) -> str:
    """Return why a server's throughput may be the load generator's, or an empty sentence if it is the server's."""
    share, busy = figures.get(f"{workload}.generator", 0.0), figures.get(f"{workload}.generator_busy", 0.0)
    if share > MOST_GENERATOR:
        return f"the load generator took {share:.0%} of the CPU time with {name}, and a fifth is the most"
    if busy > MOST_BUSY:
        return f"the load generator worked {busy:.0%} of its time with {name}, and {MOST_BUSY:.0%} is the most"
    return ""


def list_pairs(medians: dict[str, Figures]) -> Iterator[tuple[str, str, str, str]]:
    """Return what is compared: the ratio's name, the two servers' names, and the workload's name."""
    for workload in WORKLOADS:
        key = f"{workload}.rate"
        able = [name for name, figures in medians.items() if key in figures]
        peers = [name for name in able if name.startswith(JSON_PEERS)]
        if OURS.name in able and peers and workload != "L":
            yield f"{workload}.to_best_peer", OURS.name, max(peers, key=lambda name: medians[name][key]), workload
        for ratio, ours in ((f"{workload}.to_raw", OURS.name), (f"{workload}.npz_to_raw", OURS_BINARY.name)):
            if ours in able and "raw" in able:
                yield ratio, ours, "raw", workload


def compare(medians: dict[str, Figures]) -> tuple[Figures, dict[str, str]]:
    """Compare our throughput with the best JSON peer's and with the raw limit's.

    Returns:
        Ratios, as `S.to_best_peer`, `B.to_raw`, ..., and for each ratio that cannot be believed the reason.
    """
    ratios: Figures = {}
    refused: dict[str, str] = {}
    for ratio, ours, other, workload in list_pairs(medians):
        reasons = [distrust(name, medians[name], workload) for name in (ours, other)]
        if any(reasons):
            refused[ratio] = next(filter(None, reasons))
        else:
            ratios[ratio] = medians[ours][f"{workload}.rate"] / medians[other][f"{workload}.rate"]
    return ratios, refused


def render(results: Results) -> str:
    """Write the table of one model, with what belongs under it."""
    medians = results.medians()
    rows = [
        [name, *(_format(figures, key, form) for key, form in COLUMNS.values())] for name, figures in medians.items()
    ]
    lines = [f"{results.model}:", *align([["", *map(str.strip, COLUMNS)], *rows])]
    lines += [f"{name}: not measured: {reason}" for name, reason in results.missing.items()]
    lines += [f"{name}: {_name_failures(figures)}" for name, figures in medians.items() if _name_failures(figures)]
    if results.arrangements:
        lines.append("raw limit: " + "; ".join(f"{name} in {best}" for name, best in results.arrangements.items()))
    if results.generator:
        lines.append(f"load by {results.generator}")
    ratios, refused = compare(medians)
    if ratios:
        lines.append("ratio " + ", ".join(f"{spell(name)} {value:.2f}" for name, value in ratios.items()))
    lines += [f"ratio {spell(name)}: refused: {reason}" for name, reason in refused.items()]
    lines += _describe_ours(medians.get(OURS.name, {}))
    return "\n".join(lines)


def spell(ratio: str) -> str:
    """Write a ratio's name in words."""
    return ratio.replace(".", " ").replace("_", " ")


def _describe_ours(ours: Figures) -> list[str]:
    paddings = [f"{name} {ours[f'{name}.padding']:.2f}" for name in WORKLOADS if f"{name}.padding" in ours]
    lines = [f"{OURS.name}: computed over valid steps: {', '.join(paddings)}"] if paddings else []
    for share in ("50", "80"):
        if f"open{share}.p50_ms" in ours:
            p50, p99 = ours[f"open{share}.p50_ms"], ours[f"open{share}.p99_ms"]
            generator = ours.get(f"open{share}.generator", 0.0)
            lines.append(
                f"{OURS.name}: open loop at {share} % of its S: "
                f"p50 {p50:.2f} ms, p99 {p99:.2f} ms, {p99 / p50:.1f} times; generator {generator:.0%} of the CPU time"
            )
    return lines


def _name_failures(figures: Figures) -> str:
    counts = {name.partition(".")[0]: count for name, count in figures.items() if name.endswith(".failed") and count}
    return ", ".join(f"{count:.0f} requests of {name} failed" for name, count in counts.items())


def _format(figures: Figures, key: str, form: str) -> str:
    return format(figures[key], form) if key in figures else "-"


def align(rows: Sequence[Sequence[str]]) -> list[str]:
    """Pad columns to one width, the first to the left and the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if not column else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
