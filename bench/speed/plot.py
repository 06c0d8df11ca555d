"""Bars and lines as SVG, the same bytes for the same figures."""

from collections.abc import Callable, Mapping
from html import escape
from itertools import cycle
from math import log

BAR, GAP, LABEL, WIDTH, VALUE = 18, 8, 230, 420, 90  # px
OURS_COLOUR, PEER_COLOUR = "#2563eb", "#94a3b8"
HEIGHT, AXIS, PEN = 220, 70, 2  # px
PEER_COLOURS = ("#94a3b8", "#d97706", "#16a34a", "#9333ea", "#dc2626", "#0891b2")
TEXT = 'font-family="system-ui, sans-serif" font-size="13" fill="#64748b"'


def draw_bars(title: str, unit: str, panels: Mapping[str, Mapping[str, float]], ours: str) -> str:
    """Draw one panel of horizontal bars a workload.

    Args:
        title: the text over all of it.
        unit: the unit of every figure.
        panels: for each heading, a figure for each name; bars of one panel share a scale.
        ours: what the names begin with that are set off.

    Returns:
        The SVG document; its text is legible on light and on dark.
    """
    parts, top = [f'<text x="0" y="16" {TEXT} font-weight="bold">{escape(title)}</text>'], 28
    for heading, figures in panels.items():
        parts.append(f'<text x="0" y="{top + 16}" {TEXT} font-weight="bold">{escape(heading)}, {escape(unit)}</text>')
        top += 28
        longest = max(figures.values(), default=1.0) or 1.0
        for name, figure in figures.items():
            colour = OURS_COLOUR if name.startswith(ours) else PEER_COLOUR
            length = figure / longest * WIDTH
            parts += [
                f'<text x="0" y="{top + 14}" {TEXT}>{escape(name)}</text>',
                f'<rect x="{LABEL}" y="{top}" width="{length:.1f}" height="{BAR}" rx="2" fill="{colour}"/>',
                f'<text x="{LABEL + length + 6:.1f}" y="{top + 14}" {TEXT}>{_shorten(figure)}</text>',
            ]
            top += BAR + GAP
        top += GAP
    size = f'width="{LABEL + WIDTH + VALUE}" height="{top}" viewBox="0 0 {LABEL + WIDTH + VALUE} {top}"'
    body = "\n".join(parts)
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>\n<title>{escape(title)}</title>\n{body}\n</svg>\n'


def draw_lines(
    title: str,
    unit: str,
    panels: Mapping[str, Mapping[str, Mapping[int, float]]],
    ours: str,
    *,
    is_logarithmic: bool = False,
) -> str:
    """Draw one panel of lines a workload, both axes from zero, so that what scales is a straight line.

    Args:
        title: the text over all of it.
        unit: the unit of every figure.
        panels: for each heading, the lines by name, each of them figures by place.
        ours: what the names begin with that are set off.
        is_logarithmic: whether places are laid out by their logarithms, from 1.

    Returns:
        The SVG document; its text is legible on light and on dark.
    """
    parts, top = [f'<text x="0" y="16" {TEXT} font-weight="bold">{escape(title)}</text>'], 28
    names = dict.fromkeys(name for lines in panels.values() for name in lines)
    peers = [name for name in names if not name.startswith(ours)]
    colours = dict.fromkeys(names, OURS_COLOUR) | dict(zip(peers, cycle(PEER_COLOURS), strict=False))
    for heading, lines in panels.items():
        parts.append(f'<text x="0" y="{top + 16}" {TEXT} font-weight="bold">{escape(heading)}, {escape(unit)}</text>')
        top += 28
        parts += _draw_panel(lines, colours, top, log if is_logarithmic else float)
        top += HEIGHT + 40
    size = f'width="{AXIS + WIDTH + LABEL}" height="{top}" viewBox="0 0 {AXIS + WIDTH + LABEL} {top}"'
    body = "\n".join(parts)
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>\n<title>{escape(title)}</title>\n{body}\n</svg>\n'


def _draw_panel(
    lines: Mapping[str, Mapping[int, float]], colours: Mapping[str, str], top: int, lay_out: Callable[[int], float]
) -> list[str]:
    places = sorted({place for line in lines.values() for place in line})
    across = {place: f"{AXIS + lay_out(place) / lay_out(places[-1]) * WIDTH:.1f}" for place in places}
    highest = max((figure for line in lines.values() for figure in line.values()), default=1.0) or 1.0
    bottom = top + HEIGHT
    parts = [
        f'<path d="M{AXIS} {top}V{bottom}H{AXIS + WIDTH}" fill="none" stroke="#64748b"/>',
        f'<text x="0" y="{top + 10}" {TEXT}>{_shorten(highest)}</text>',
        *(f'<text x="{x}" y="{bottom + 18}" {TEXT}>{place}</text>' for place, x in across.items()),
    ]
    # Names stand beside the ends of their lines, the highest first, and none on another.
    last = -1e9
    for name, line in sorted(lines.items(), key=lambda item: -item[1][max(item[1])]):
        colour, end = colours[name], max(line)
        heights = {place: bottom - line[place] / highest * HEIGHT for place in sorted(line)}
        drawn = " ".join(f"{across[place]},{height:.1f}" for place, height in heights.items())
        last = max(last + 15, heights[end] + 4)
        parts += [
            f'<polyline points="{drawn}" fill="none" stroke="{colour}" stroke-width="{PEN}"/>',
            f'<text x="{across[end]}" dx="6" y="{last:.1f}" {TEXT.replace("#64748b", colour)}>{escape(name)}</text>',
        ]
    return parts


def _shorten(figure: float) -> str:
    return f"{figure:,.0f}" if figure >= 100 else f"{figure:.2f}"
