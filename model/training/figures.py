"""The report's pictures: plain matplotlib, drawn without a display."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

Numbers: TypeAlias = npt.NDArray[np.floating] | npt.NDArray[np.integer]

FORMATS = (".png", ".svg")  # that `save` writes
BLUE, ORANGE = "#2b6cb0", "#dd6b20"
MOST_NAMED_CLASSES = 20  # as many colours can be told apart, and as many cells annotated


def draw_curves(columns: Mapping[str, Sequence[float]]) -> Figure:
    """Draw the losses of training and validation over epochs, and every other metric in a panel of its own.

    Args:
        columns: of `metrics.csv`, by name: `epoch`, `train_loss`, `val_loss` and the task's others.
    """
    others = [name for name in columns if name not in ("epoch", "train_loss", "val_loss")]
    figure = _start(3.6 * (1 + len(others)), 3.2)
    panels = figure.subplots(1, 1 + len(others), squeeze=False)[0]
    for name, label, colour in (("train_loss", "training", BLUE), ("val_loss", "validation", ORANGE)):
        panels[0].plot(columns["epoch"], columns[name], color=colour, label=label)
    panels[0].legend(frameon=False, loc="upper right")  # losses fall; the best place is slow to find
    losses = [*columns["train_loss"], *columns["val_loss"]]
    if min(losses) > 0 and max(losses) / min(losses) > 30:
        panels[0].set_yscale("log")
    _label(panels[0], "loss", "epoch", "")
    for panel, name in zip(panels[1:], others, strict=True):
        panel.plot(columns["epoch"], columns[name], color=ORANGE)
        _label(panel, f"validation {name.removeprefix('val_')}", "epoch", "")
    return figure


def draw_lengths(trained: Sequence[int], held_out: Sequence[int]) -> Figure:
    """Draw how long the sequences are: those trained on, and those held out."""
    figure = _start(6.4, 3.6)
    axes = figure.subplots()
    longest = max([*trained, *held_out])
    width = math.ceil(longest / 40)
    bins = [0.5 + width * count for count in range(math.ceil(longest / width) + 1)]
    for lengths, label, colour in ((trained, "trained on", BLUE), (held_out, "held out", ORANGE)):
        axes.hist(lengths, bins=bins, color=colour, alpha=0.55, label=f"{label} ({len(lengths):,})")
    axes.legend(frameon=False, loc="upper right")
    _label(axes, "lengths", "steps", "sequences")
    return figure


def draw_confusion(truth: npt.NDArray[Any], predicted: npt.NDArray[Any], classes: Sequence[str]) -> Figure:
    """Draw how many of each true class, by row, were given to each class, by column."""
    counts = np.zeros((len(classes), len(classes)), dtype=np.int64)
    np.add.at(counts, (truth, predicted), 1)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = 2.2 + 0.42 * min(len(classes), MOST_NAMED_CLASSES)
    figure = _start(side + 0.8, side)
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, fraction=0.046, label="share of the true class")
    if len(classes) <= MOST_NAMED_CLASSES:
        names = [name if len(name) <= 14 else f"{name[:13]}…" for name in classes]
        axes.set_xticks(range(len(classes)), names, rotation=90 if max(map(len, names)) > 2 else 0)
        axes.set_yticks(range(len(classes)), names)
        for (row, column), count in np.ndenumerate(counts):
            colour = "white" if shares[row, column] > 0.5 else "black"
            if count:
                axes.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=8)
    _label(axes, "confusion, held-out sequences", "predicted", "true")
    return figure


def draw_residuals(truth: Numbers, predicted: Numbers) -> Figure:
    """Draw predictions against the truth, and how the errors spread."""
    figure = _start(8.4, 3.8)
    left, right = figure.subplots(1, 2)
    ends = [min(truth.min(), predicted.min()), max(truth.max(), predicted.max())]
    left.plot(ends, ends, color="#999999", linewidth=1)
    left.scatter(truth, predicted, s=8, alpha=0.5, color=BLUE, linewidths=0)
    _label(left, "held-out sequences", "truth", "predicted")
    right.hist(predicted - truth, bins=40, color=BLUE)
    _label(right, "residuals", "predicted - truth", "sequences")
    return figure


def draw_buckets(lengths: Sequence[int], merit: Numbers, merit_name: str) -> Figure:
    """Draw the mean merit of held-out sequences alike in length, in up to six groups of about one size."""
    ordered = np.asarray(lengths)
    edges = np.unique(ordered)[1:]
    if len(edges) >= 6:
        edges = np.unique(np.quantile(ordered, np.arange(1, 6) / 6, method="higher"))
    groups = np.searchsorted(edges, ordered, side="right")
    figure = _start(6.4, 3.6)
    axes = figure.subplots()
    names = []
    for place, group in enumerate(np.unique(groups)):
        rows = groups == group
        shortest, longest = ordered[rows].min(), ordered[rows].max()
        names.append(f"{shortest}" if shortest == longest else f"{shortest}-{longest}")
        height = float(merit[rows].mean())
        axes.bar(place, height, color=BLUE, width=0.7)
        axes.annotate(f"{height:.3g}\nn={rows.sum()}", (place, height), (0, 2), textcoords="offset points", ha="center")
    axes.set_xticks(range(len(names)), names)
    axes.margins(y=0.2)
    if merit_name == "accuracy":
        axes.set_yticks(np.linspace(0, 1, 6))
    _label(axes, f"{merit_name} by length, held-out sequences", "steps", merit_name)
    return figure


def draw_embeddings(embeddings: Numbers, labels: Numbers | None, classes: Sequence[str]) -> Figure:
    """Draw embeddings `(n, D)` on their two main axes (PCA), coloured by label.

    Args:
        embeddings: of held-out sequences.
        labels: `(n,)` class indices or numbers; None if there are none.
        classes: their names; empty if labels are not classes.
    """
    centred = embeddings - embeddings.mean(axis=0)
    _, scales, axes_of_variance = np.linalg.svd(centred, full_matrices=False)
    places = np.zeros((len(embeddings), 2))
    shares = np.zeros(2)
    kept = min(2, len(scales))
    places[:, :kept] = centred @ axes_of_variance[:kept].T
    shares[:kept] = scales[:kept] ** 2 / max(float((scales**2).sum()), np.finfo(np.float64).tiny)
    figure = _start(6.8, 4.8)
    axes = figure.subplots()
    if classes and len(classes) <= MOST_NAMED_CLASSES:
        colours = mpl.colormaps["tab10" if len(classes) <= 10 else "tab20"]
        for index, name in enumerate(classes):
            rows = labels == index
            axes.scatter(
                places[rows, 0], places[rows, 1], s=14, color=colours(index), label=name, linewidths=0, alpha=0.8
            )
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, markerscale=1.6)
    else:
        colour = np.zeros(len(embeddings)) if labels is None else labels
        points = axes.scatter(places[:, 0], places[:, 1], s=14, c=colour, cmap="viridis", linewidths=0, alpha=0.8)
        if labels is not None:
            figure.colorbar(points, ax=axes, label="class index" if classes else "label")
    names = [f"axis {axis + 1}: {share:.0%} of the variance" for axis, share in enumerate(shares)]
    _label(axes, "embeddings of held-out sequences (PCA)", *names)
    return figure


def draw_few_labels(counts: Sequence[int | None], values: Mapping[str, Numbers]) -> Figure:
    """Draw how accuracy grows with labels, each method's mean and standard deviation.

    Args:
        counts: labels a class; None stands for all there are.
        values: by method `(counts, draws)`.
    """
    figure = _start(7.6, 4.4)
    axes = figure.subplots()
    for place, (name, drawn) in enumerate(values.items()):
        style = "--" if name.startswith("untrained") else "-"
        marks = {"yerr": drawn.std(axis=1, ddof=1), "marker": "o", "markersize": 4, "capsize": 2, "linewidth": 1.3}
        axes.errorbar(range(len(counts)), drawn.mean(axis=1), label=name, color=f"C{place}", linestyle=style, **marks)
    axes.set_xticks(range(len(counts)), ["all" if count is None else str(count) for count in counts])
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    _label(axes, "what few labels do", "labels a class", "accuracy, held-out sequences")
    return figure


def _start(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _label(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)


def save(figure: Figure, path: Any) -> None:
    """Write a PNG, or an SVG if the path says so, that depends on nothing but the picture."""
    if Path(path).suffix == ".svg":
        with mpl.rc_context({"svg.hashsalt": "lengthwise", "svg.fonttype": "none"}):
            figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
    else:
        figure.savefig(path, format="png", metadata={"Software": None})
