"""matplotlib's SVG made fit for a page: own ids, colours as CSS variables, a title and a description.

A model's colour becomes the variable ``--mN``, its panels carry ``data-model="N"``: the page hides a model by making
the variable transparent, without a script.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from markupsafe import Markup, escape

from fdlab.report.style import DARK, Look


def inline_svg(svg: str, figure: str, title: str, description: str, looks: Sequence[Look] = ()) -> Markup:
    """The SVG of one figure for a page.

    Every SVG of matplotlib has the ids ``figure_1``, ``axes_1``, ...: without a prefix they clash.
    """
    prefix = f"{figure.replace('_', '-')}-"
    body = svg[svg.index("<svg") :]
    body = re.sub(r"\s*<metadata>.*?</metadata>", "", body, flags=re.S)
    body = re.sub(r'\sid="panel-(\d+)-\d+"', r' data-model="\1"', body)
    body = re.sub(r'(<image [^>]*?)\sid="[^"]*"', r"\1", body)  # named by content: two alike would clash
    body = re.sub(r'(\sid=")', rf"\g<1>{prefix}", body)
    body = re.sub(r'(href="#|url\(#)', rf"\g<1>{prefix}", body)
    body = re.sub(r'\sxmlns(:xlink)?="[^"]*"', "", body)
    own = {look.color: f"var(--m{place})" for place, look in enumerate(looks)}
    body = re.sub(r"#[0-9a-f]{6}\b", lambda found: own.get(found.group()) or variable(found.group()), body)
    # The figures were measured in DejaVu Sans; Verdana has nearly its widths.
    body = body.replace("'DejaVu Sans'", "'DejaVu Sans', Verdana, sans-serif")
    width, height = _size(body)
    named = f'role="img" aria-labelledby="{prefix}title {prefix}description"'
    inches = float(width) / 72
    size = f'style="max-width: {inches * 10.2:.1f}rem; --least: {inches * 5.6:.1f}rem" viewBox="0 0 {width} {height}"'
    words = f'<title id="{prefix}title">{escape(title)}</title>'
    words += f'<desc id="{prefix}description">{escape(description)}</desc>'
    return Markup(re.sub(r"<svg[^>]*>", lambda _: f"<svg {named} {size}>{words}", body, count=1))


def inches_wide(svg: str) -> float:
    """The width of matplotlib's SVG in inches."""
    return float(_size(svg)[0]) / 72


def _size(svg: str) -> tuple[str, str]:
    """Width and height in points."""
    width, height = re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)[0]
    return width, height


def variable(color: str) -> str:
    """The CSS variable that stands for a colour on light and dark pages."""
    return f"var(--c{color[1:]})" if color in DARK else color
