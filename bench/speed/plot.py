"""Bars as SVG, the same bytes for the same figures."""

from collections.abc import Mapping
from html import escape

BAR, GAP, LABEL, WIDTH, VALUE = 18, 8, 230, 420, 90  # px
OURS_COLOUR, PEER_COLOUR = "#2563eb", "#94a3b8"
TEXT = 'font-family="system-ui, sans-serif" font-size="13" fill="#64748b"'


def draw_bars(title: str, unit: str, panels: Mapping[str, Mapping[str, float]], ours: str) -> str:
    """Draw one panel of horizontal bars a workload.

    Args:
        title: over all of it.
        unit: of every figure.
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


def _shorten(figure: float) -> str:
    return f"{figure:,.0f}" if figure >= 100 else f"{figure:.2f}"
