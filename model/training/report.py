"""The report of a run: `report.html`, one file that needs no other, and the pictures in it as PNGs in `report/`.

`lengthwise report RUN_DIR` writes it anew. All of it comes from the run directory, and every sequence it judges
or shows was held out of training.
"""

import argparse
import base64
import csv
import dataclasses
import html
import json
import sys
from pathlib import Path
from textwrap import shorten

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from model.data.datasets import LabelledSequences
from model.data.texts import restore
from model.tasks.task import Judgement, run_batches
from model.threads import limit_threads
from model.training import figures
from model.training.baselines import describe_baselines
from model.training.run_directory import (
    BrokenRun,
    RunConfig,
    read_config,
    read_model,
    read_results,
    read_samples,
    read_tokenizer,
    read_training_lengths,
)

SHOWN_EMBEDDINGS = 2000
SHOWN_PREDICTIONS = 10
WORDS_WIDTH = 60  # characters shown of a text

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }}
table {{ border-collapse: collapse }} td, th {{ padding: .2rem .8rem; border-bottom: 1px solid #ddd; text-align: left }}
img {{ max-width: 100% }} pre {{ background: #f5f5f5; padding: 1rem; overflow: auto; font-size: 13px }}
</style></head><body>
<h1>{title}</h1>
<p>{summary}</p>
<h2>Metrics</h2>
{metrics}
<p>{verdict}</p>
{figures}
{predictions}
<h2>Config</h2>
<pre>{config}</pre>
</body></html>
"""


def write_report(run: Path) -> Path:
    """Write the report of a finished run.

    Args:
        run: the directory of a finished run.

    Returns:
        The HTML file.

    Raises:
        BrokenRun: the run is not finished.
    """
    config, samples = read_config(run), read_samples(run)
    limit_threads(config.encoder.hidden)
    task = read_model(run)
    judgement = task.judge(samples)
    shown = np.linspace(0, len(samples) - 1, min(SHOWN_EMBEDDINGS, len(samples))).astype(np.int64)
    some = samples.subset(shown)
    labels = None if some.given_labels is None or some.given_labels.ndim == 2 else some.labels  # vectors have no colour
    embeddings = run_batches(task, task.encoder, some).numpy()
    pictures = {
        "learning-curves": figures.draw_curves(read_metrics(run)),
        "lengths": figures.draw_lengths(read_training_lengths(run), samples.lengths),
        "embeddings": figures.draw_embeddings(embeddings, labels, config.data.classes),
        **_draw_judgement(samples, judgement, config),
    }
    folder = run / "report"
    folder.mkdir(exist_ok=True)
    for name, figure in pictures.items():
        figures.save(figure, folder / f"{name}.png")
    longest = config.data.longest_training_sequence
    results = read_results(run)
    verdict = describe_baselines(results, tokens=config.encoder.vocabulary is not None)
    page = PAGE.format(
        title=html.escape(f"{config.data.name}: {config.task}"),
        summary=f"Judged on {len(samples):,} held-out sequences of {min(samples.lengths)} to {max(samples.lengths)} "
        f"steps. The longest sequence trained on has {longest}. Source: {html.escape(config.data.source)}.",
        metrics=_format_table(["metric", "value"], [[name, f"{value:.4f}"] for name, value in results.items()]),
        verdict=f"{verdict[0].upper()}{verdict[1:]}." if verdict else "",
        figures="\n".join(_embed_picture(folder / f"{name}.png", name) for name in pictures),
        predictions=_format_predictions(list_predictions(samples, judgement, config, read_tokenizer(run))),
        config=html.escape(json.dumps(dataclasses.asdict(config), indent=2)),
    )
    (run / "report.html").write_text(page, encoding="utf-8")
    return run / "report.html"


def read_metrics(run: Path) -> dict[str, list[float]]:
    """Read `metrics.csv`, a list of numbers for each column.

    Raises:
        BrokenRun: it is missing.
    """
    try:
        with (run / "metrics.csv").open(encoding="utf-8", newline="") as lines:
            header, *rows = csv.reader(lines)
            return {name: [float(row[place]) for row in rows] for place, name in enumerate(header)}
    except (OSError, ValueError, IndexError) as error:
        raise BrokenRun(run, f"metrics.csv: {error}") from error


def list_predictions(
    samples: LabelledSequences, judgement: Judgement | None, config: RunConfig, tokenizer: str | None = None
) -> list[list[str]]:
    """Return steps, truth and prediction of some held-out sequences, from the first to the last, as text."""
    if judgement is None:
        return []
    rows = np.linspace(0, len(samples) - 1, min(SHOWN_PREDICTIONS, len(samples))).astype(np.int64)

    def name(label: npt.NDArray[np.generic]) -> str:
        return config.data.classes[int(label)] if config.data.classes else f"{float(label):.4g}"

    return [
        [describe_sequence(samples, row, tokenizer), name(samples.labels[row]), name(judgement.predicted[row])]
        for row in rows
    ]


def describe_sequence(samples: LabelledSequences, row: int, tokenizer: str | None = None) -> str:
    """Return the words of a text and its partner, a short sequence of token ids as it is, of any other its length."""
    steps = samples.sequences[row]
    if tokenizer is not None:
        texts = [steps] if samples.partners is None else [steps, samples.partners[row]]
        return " | ".join(shorten(restore(tokenizer, ids), WORDS_WIDTH, placeholder=" ...") for ids in texts)
    if steps.ndim == 1 and len(steps) <= 12:
        return "tokens " + " ".join(map(str, steps))
    return f"row {row}, {len(steps)} steps"


def print_predictions(run: Path) -> None:
    """Print truth beside prediction for some held-out sequences of a finished run, if its task predicts labels."""
    config, samples = read_config(run), read_samples(run)
    rows = list_predictions(samples, read_model(run).judge(samples), config, read_tokenizer(run))
    if rows:
        header = ["held-out sequence", "truth", "prediction"]
        widths = [max(len(row[place]) for row in [header, *rows]) for place in range(3)]
        for row in [header, *rows]:
            print("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


def _draw_judgement(samples: LabelledSequences, judgement: Judgement | None, config: RunConfig) -> dict[str, Figure]:
    if judgement is None:
        return {}
    by_length = figures.draw_buckets(samples.lengths, judgement.merit, judgement.merit_name)
    if config.data.classes:
        confusion = figures.draw_confusion(samples.labels, judgement.predicted, config.data.classes)
        return {"confusion": confusion, "by-length": by_length}
    return {"residuals": figures.draw_residuals(samples.labels, judgement.predicted), "by-length": by_length}


def _embed_picture(path: Path, name: str) -> str:
    content = base64.b64encode(path.read_bytes()).decode("ascii")
    title = name.replace("-", " ")
    return f'<h2>{title.capitalize()}</h2>\n<img alt="{title}" src="data:image/png;base64,{content}">'


def _format_predictions(rows: list[list[str]]) -> str:
    if not rows:
        return ""
    return "<h2>Some predictions</h2>\n" + _format_table(["held-out sequence", "truth", "prediction"], rows)


def _format_table(header: list[str], rows: list[list[str]]) -> str:
    def line(cells: list[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    return "<table>" + line(header, "th") + "".join(line(row, "td") for row in rows) + "</table>"


def main(arguments: list[str] | None = None) -> None:
    """Write the reports of finished runs."""
    parser = argparse.ArgumentParser(prog="lengthwise report", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN_DIR", help="the directory of a finished run")
    try:
        for run in parser.parse_args(arguments).runs:
            print(write_report(run))
    except BrokenRun as error:
        sys.exit(f"report: {error}")
