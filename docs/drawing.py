"""The picture of the architecture, from the boxes and arrows below: `python -m docs.generate` writes it.

It brings its own paper and the page's colours, light and dark, so that it can be read wherever it stands.
"""

from html import escape
from itertools import pairwise
from typing import NamedTuple

WIDTH, HEIGHT = 960, 486
TITLE = "Sequences are trained on and exported to one ONNX file, which serves requests and encodes files"
LINE = 17  # pixels from one line of text to the next

STYLE = """
  svg { --paper: #fbfaf7; --ink: #1d1c1a; --muted: #615c54; --rule: #b9b3a6; --accent: #0b5f5b; }
  @media (prefers-color-scheme: dark) {
    svg { --paper: #151614; --ink: #e8e5dd; --muted: #a8a399; --rule: #56574f; --accent: #74c9bd; }
  }
  text { font: 12.5px system-ui, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; fill: var(--muted); }
  .row { font-size: 13px; font-weight: 600; fill: var(--accent); }
  .title { font-size: 15px; font-weight: 600; fill: var(--ink); }
  .small { font-size: 12px; fill: var(--ink); }
  .paper { fill: var(--paper); }
  .thing, .part { fill: none; stroke: var(--rule); }
  .folder { fill: none; stroke: var(--accent); stroke-width: 1.5; }
  .arrow { fill: none; stroke: var(--ink); stroke-width: 1.3; }
  .tip { fill: var(--ink); }
"""


class Box(NamedTuple):
    """A rectangle with a title and lines of text.

    Attributes:
        x, y, width, height: its place and size, in pixels.
        kind: `folder` of the project, or a `thing` that goes in or comes out.
        title: what it is.
        lines: what it does or holds.
        parts: in a row at its foot: what happens, and in which folder.
    """

    x: int
    y: int
    width: int
    height: int
    kind: str
    title: str
    lines: tuple[str, ...] = ()
    parts: tuple[tuple[str, str], ...] = ()


class Arrow(NamedTuple):
    """A line with a tip at its end, which turns at each point between, and what stands beside it."""

    points: tuple[tuple[int, int], ...]
    label: str = ""
    label_at: tuple[int, int] = (0, 0)


# Four columns: what comes in, two for what is done, what comes out.
FIRST, SECOND, THIRD, FOURTH, ONE, TWO = 20, 263, 507, 750, 190, 434
LEARN, SERVE, BULK = 44, 200, 394  # where the rows begin

ROWS = {LEARN: "Train and export, once", SERVE: "Serve", BULK: "Encode files"}

BOXES = (
    Box(FIRST, LEARN, ONE, 76, "thing", "your sequences", ("Parquet, JSONL, NPZ, CSV",)),
    Box(SECOND, LEARN, ONE, 76, "folder", "model/", ("trains a torch encoder",)),
    Box(THIRD, LEARN, ONE, 76, "folder", "export/", ("writes the graph, proves", "that it equals torch")),
    Box(FOURTH, LEARN, ONE, 76, "thing", "one .onnx file", ("encoder, proof and", "golden vectors")),
    Box(
        FIRST,
        SERVE,
        ONE,
        134,
        "thing",
        "requests",
        ("by HTTP or gRPC, in the", "shapes of OpenAI, KServe,", "SageMaker and Vertex AI"),
    ),
    Box(
        SECOND,
        SERVE,
        TWO,
        134,
        "folder",
        "service/",
        ("FastAPI and ONNX Runtime, never torch; the golden vectors", "are replayed before it is ready"),
        (("admits", "api/"), ("reads", "codecs/"), ("cuts batches", "batching/"), ("runs", "encoder/")),
    ),
    Box(FOURTH, SERVE, ONE, 134, "thing", "embeddings", ("one for each sequence,", "in any batch the same")),
    Box(FIRST, BULK, ONE, 76, "thing", "files", ("Parquet, JSONL, CSV,", "texts or numpy arrays")),
    Box(SECOND, BULK, TWO, 76, "folder", "bulk/", ("encodes every row once, and goes on if it was stopped",)),
    Box(FOURTH, BULK, ONE, 76, "thing", "files of embeddings", ("Parquet, JSONL or npy",)),
)

ALONG = [
    Arrow(((box.x + box.width, box.y + box.height // 2), (after.x, after.y + after.height // 2)))
    for box, after in pairwise(BOXES)
    if box.y == after.y
]
ARROWS = (
    *ALONG,
    Arrow(((845, 120), (845, 146), (480, 146), (480, SERVE))),
    Arrow(((480, SERVE + 134), (480, BULK)), "the same encoder, costs and cutting", (492, 368)),
)


def draw_architecture() -> str:
    """Return the picture as SVG."""
    size = f'width="{WIDTH}" height="{HEIGHT}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        f"<title>{TITLE}</title>",
        f"<style>{STYLE}</style>",
        f'<rect class="paper" {size} rx="8"/>',
        *(write(FIRST, y - 14, label, "row") for y, label in ROWS.items()),
        *(line for box in BOXES for line in draw_box(box)),
        *(line for arrow in ARROWS for line in draw_arrow(arrow)),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def draw_box(box: Box) -> list[str]:
    """Return a box with its text, and its parts in a row at its foot."""
    lines = [frame(box.x, box.y, box.width, box.height, box.kind), write(box.x + 14, box.y + 26, box.title, "title")]
    lines += [write(box.x + 14, box.y + 46 + LINE * at, text) for at, text in enumerate(box.lines)]
    each = (box.width - 20) // max(1, len(box.parts))
    for at, (does, folder) in enumerate(box.parts):
        x, y = box.x + 14 + each * at, box.y + box.height - 54
        lines += [frame(x, y, each - 8, 44, "part"), write(x + 9, y + 18, does, "small"), write(x + 9, y + 35, folder)]
    return lines


def draw_arrow(arrow: Arrow) -> list[str]:
    """Return an arrow that goes right or down at its end, and what stands beside it."""
    *_, (before, _), (x, y) = arrow.points
    points = " ".join(f"{left},{top}" for left, top in arrow.points)
    tip = f"{x},{y} {x - 4},{y - 9} {x + 4},{y - 9}" if before == x else f"{x},{y} {x - 9},{y - 4} {x - 9},{y + 4}"
    lines = [f'<polyline class="arrow" points="{points}"/>', f'<polygon class="tip" points="{tip}"/>']
    return [*lines, write(*arrow.label_at, arrow.label)] if arrow.label else lines


def frame(x: int, y: int, width: int, height: int, kind: str) -> str:
    """Return a rectangle."""
    return f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="{height}" rx="4"/>'


def write(x: int, y: int, text: str, kind: str = "") -> str:
    """Return a line of text."""
    return f'<text{f" class={kind!r}" if kind else ""} x="{x}" y="{y}">{escape(text)}</text>'.replace("'", '"')
