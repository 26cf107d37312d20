"""One HTML page in one file: no script, no request, light or dark as the reader's screen is, and fit for a phone."""

from __future__ import annotations

from collections.abc import Sequence

from dreambooth_resume.insight.svg import text

MARKER = "<!-- made by dbr: it may be written over -->"
"""In the first lines of every page, so that no file of somebody else's is written over."""

_STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1a202c; --pale: #5b6675; --rule: #dfe4ea; --card: #f6f8fa;
  --main: #2456a6; --raw: #a9c1e6; --other: #c05621; --held: #2f855a; --bad: #c53030; --good: #276749;
  --warn: #b7791f; }
@media (prefers-color-scheme: dark) { :root { --paper: #14181f; --ink: #e6e9ee; --pale: #9aa5b4; --rule: #2c3440;
  --card: #1c222c; --main: #7fb0ff; --raw: #3b5580; --other: #f6ad55; --held: #68d391; --bad: #fc8181; --good: #68d391;
  --warn: #ecc94b; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 60rem; padding: 1.2rem 1rem 4rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; }
p { margin: .4rem 0; } .pale { color: var(--pale); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .6rem; margin: 1rem 0; }
.tile { background: var(--card); border: 1px solid var(--rule); border-radius: .5rem; padding: .55rem .75rem; }
.tile b { display: block; font-size: 1.15rem; } .tile span { color: var(--pale); font-size: .85rem; }
.scroll { overflow-x: auto; } svg { display: block; width: 100%; min-width: 34rem; }
svg text { fill: var(--pale); font-size: 13px; } text.x { text-anchor: middle; } text.y { text-anchor: end; }
polyline { fill: none; stroke-width: 2; stroke-linejoin: round; }
.grid { stroke: var(--rule); } line.cut { stroke: var(--bad); stroke-dasharray: 4 3; stroke-width: 1.5; }
polyline.raw { stroke: var(--raw); stroke-width: 1; } polyline.main { stroke: var(--main); }
polyline.other { stroke: var(--other); stroke-dasharray: 7 4; } polyline.held { stroke: var(--held); }
polyline.lost { stroke: var(--bad); stroke-width: 1.2; }
polyline.rawother { stroke: var(--other); stroke-width: 1; opacity: .35; }
circle.main, rect.main { fill: var(--main); } circle.other { fill: var(--other); } circle.held { fill: var(--held); }
circle.raw { fill: var(--raw); } circle.lost, rect.bad { fill: var(--bad); } rect.good { fill: var(--good); }
rect.warn { fill: var(--warn); }
.legend { color: var(--pale); font-size: .85rem; } .legend span { margin-right: 1rem; white-space: nowrap; }
.legend i { display: inline-block; width: 1.2em; height: .25em; margin-right: .35em; vertical-align: middle; }
i.main { background: var(--main); } i.raw { background: var(--raw); } i.other { background: var(--other); }
line.mark { stroke: var(--good); stroke-width: 1.5; }
i.rawother { background: var(--other); opacity: .35; }
i.held { background: var(--held); } i.lost { background: var(--bad); }
table { border-collapse: collapse; width: 100%; font-size: .9rem; } th { text-align: left; color: var(--pale); }
th { white-space: nowrap; }
.scroll table { min-width: 34rem; }
td, th { border-bottom: 1px solid var(--rule); padding: .3rem .6rem .3rem 0; vertical-align: top; }
code { font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-size: .9em; }
.good { color: var(--good); } .bad { color: var(--bad); }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(8.5rem, 1fr)); gap: .6rem; }
figure { margin: 0; } figure img { width: 100%; border-radius: .35rem; display: block; image-rendering: auto; }
figcaption { font-size: .8rem; color: var(--pale); }
details summary { cursor: pointer; color: var(--pale); margin: .5rem 0; }
"""


def page(title: str, body: Sequence[str]) -> str:
    """The whole file. `body` is HTML already; `title` is text.

    The policy in it forbids the browser every request, should something ever get past the escaping.
    """
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return "\n".join(
        [
            "<!DOCTYPE html>",
            MARKER,
            '<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{text(title)}</title><style>{_STYLE}</style></head><body>",
            *[part for part in body if part],
            "</body></html>\n",
        ]
    )


def section(heading: str, *parts: str) -> str:
    """A heading with what stands below it; nothing where nothing does."""
    filled = [part for part in parts if part]
    return f"<section><h2>{text(heading)}</h2>{''.join(filled)}</section>" if filled else ""


def tiles(facts: Sequence[tuple[str, object]]) -> str:
    """A few numbers that are read first: (what, value)."""
    cells = "".join(f'<div class="tile"><b>{text(value)}</b><span>{text(what)}</span></div>' for what, value in facts)
    return f'<div class="tiles">{cells}</div>'


def table(rows: Sequence[Sequence[object]], *, head: Sequence[str] = ()) -> str:
    """Cells are text. Nothing without rows."""
    if not rows:
        return ""
    top = f"<tr>{''.join(f'<th>{text(cell)}</th>' for cell in head)}</tr>" if head else ""
    body = "".join(f"<tr>{''.join(f'<td>{text(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="scroll"><table>{top}{body}</table></div>'


def folded(summary: str, inner: str) -> str:
    """Shown when somebody asks for it."""
    return f"<details><summary>{text(summary)}</summary>{inner}</details>" if inner else ""


def scrolled(chart: str, caption: str = "") -> str:
    """A chart that a narrow screen scrolls, with a line above it."""
    if not chart:
        return ""
    return f'{f"<p>{text(caption)}</p>" if caption else ""}<div class="scroll">{chart}</div>'


def paragraph(words: str, *, style: str = "") -> str:
    return f'<p class="{text(style)}">{text(words)}</p>' if style else f"<p>{text(words)}</p>"
