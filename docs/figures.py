"""How the gallery's pictures look: one style, light and dark, written as small SVG files."""

import re
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

INK = "#1f2933"  # what is written and ruled: becomes the colour that the reader's theme has
PAPER = "#fdfdfe"
DARK_INK, DARK_PAPER = "#d9dee5", "#1d2129"
# Told apart by people who confuse red and green, and on both papers.
COLOURS = ["#3b82c4", "#e08214", "#2a9d74", "#c8558f", "#8a6fd1", "#a08a2c", "#4fb3bf", "#d1584b", "#7f8c99", "#6b8e23"]
COLOURS += ["#b07aa1"]
PLACES = re.compile(r" (?:d|x|y|transform)=\"[^\"]*\"")
GROUP = re.compile(r"<g clip-path=\"(?P<clip>[^\"]*)\">(?P<marks>(?:\s*<use [^>]*/>)+\s*)</g>")
STYLE = (
    f"<style>svg{{color:{INK};background:{PAPER};border-radius:6px}}"
    f"@media(prefers-color-scheme:dark){{svg{{color:{DARK_INK};background:{DARK_PAPER}}}}}</style>"
)


def use_style() -> None:
    """Draw without a screen, with the gallery's colours, and the same file for the same picture."""
    matplotlib = import_module("matplotlib")
    matplotlib.use("Agg")
    matplotlib.rcParams.update(
        {
            "axes.edgecolor": INK,
            "axes.labelcolor": INK,
            "axes.prop_cycle": matplotlib.cycler(color=COLOURS),
            "axes.spines.right": False,
            "axes.spines.top": False,
            "axes.titlesize": 10,
            "figure.constrained_layout.use": True,
            "figure.facecolor": "none",
            "axes.facecolor": "none",
            "font.size": 9,
            "legend.frameon": False,
            "lines.linewidth": 1.2,
            "path.simplify_threshold": 0.5,
            "savefig.facecolor": "none",
            "svg.fonttype": "none",
            "svg.hashsalt": "lengthwise",
            "text.color": INK,
            "xtick.color": INK,
            "ytick.color": INK,
        }
    )


def save(paths: Sequence[Path]) -> int:
    """Write the open figures, the first to the first path and so on, and close them.

    Returns:
        How many were open.
    """
    pyplot: Any = import_module("matplotlib.pyplot")
    numbers = pyplot.get_fignums()
    for number, path in zip(numbers, paths, strict=False):
        pyplot.figure(number).savefig(path, format="svg", metadata={"Date": None, "Creator": None})
        path.write_text(theme(path.read_text(encoding="utf-8")), encoding="utf-8")
    pyplot.close("all")
    return len(numbers)


def theme(drawing: str) -> str:
    """Give a drawing of matplotlib's the reader's colours, light or dark, and make it small."""
    head, tag, body = drawing[drawing.index("<svg") :].partition(">")
    body = PLACES.sub(lambda places: re.sub(r"(\d+\.\d)\d+", r"\1", places[0]), body)
    body = GROUP.sub(share, body).replace(INK, "currentColor")
    body = re.sub(r"font-family: [^;\"]*", "font-family: system-ui, sans-serif", body)
    body = re.sub(r"\s*<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r" *\n *", "\n", body)
    return f"{head}{tag}\n{STYLE}{body}"


def share(group: re.Match[str]) -> str:
    """Give a group of marks the style that all of them have, in place of each."""
    styles = set(re.findall(r"style=\"[^\"]*\"", group["marks"]))
    if len(styles) != 1:
        return group[0]
    (style,) = styles
    return f'<g clip-path="{group["clip"]}" {style}>{group["marks"].replace(f" {style}", "")}</g>'
