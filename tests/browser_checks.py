"""Checks of a page in a browser: parts that stick out, text that cannot be read, and the tip of a point.

Bokeh draws its charts in shadow roots; every check looks into those, too.
"""

from __future__ import annotations

import time
from typing import Any

WAIT = 30  # seconds; no measure of speed

_ALL = """
const deep = (root, found = []) => { for (const e of root.querySelectorAll("*")) {
  found.push(e); if (e.shadowRoot) deep(e.shadowRoot, found); } return found; };
const above = e => e.parentElement ?? e.getRootNode().host ?? null;
const named = e => `${e.tagName.toLowerCase()}.${e.getAttribute("class") ?? ""} ${e.textContent.trim().slice(0, 40)}`;
"""

# The contrast of every piece of text with what lies behind it, as WCAG 2.2 defines it. What is not opaque is laid over
# what lies behind it in turn; a text that is faint as a whole is faint in this measure, too.
_CONTRASTS = """
const pen = Object.assign(document.createElement("canvas"), {width: 1, height: 1})
  .getContext("2d", {willReadFrequently: true});
const numbers = colour => { pen.clearRect(0, 0, 1, 1); pen.fillStyle = colour; pen.fillRect(0, 0, 1, 1);
  const [r, g, b, a] = pen.getImageData(0, 0, 1, 1).data; return [r, g, b, a / 255]; };
const over = (top, below) => [0, 1, 2].map(i => top[i] * top[3] + below[i] * (1 - top[3]));
const linear = v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
const light = colour => { const [r, g, b] = colour.map(linear); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
const behind = e => { if (!e) return [255, 255, 255]; const c = numbers(getComputedStyle(e).backgroundColor);
  return c[3] === 1 ? c.slice(0, 3) : over(c, behind(above(e))); };
const faint = e => e ? Number(getComputedStyle(e).opacity) * faint(above(e)) : 1;
const says = e => !["SCRIPT", "STYLE", "NOSCRIPT"].includes(e.tagName) && e.checkVisibility({checkOpacity: false})
  && [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim());
return deep(document.body).filter(says).map(e => { const ground = behind(e);
  const ink = numbers(getComputedStyle(e).color); ink[3] *= faint(e);
  const a = light(over(ink, ground)), b = light(ground);
  return [named(e), (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)]; });
"""

# What lies outside the window, or has more in it than it shows, and neither it nor anything around it can be scrolled.
_STICKING_OUT = """
const boxed = e => { for (e = above(e); e && e !== document.body; e = above(e))
  if (getComputedStyle(e).overflowX !== "visible") return true; return false; };
const scrolls = e => ["auto", "scroll"].includes(getComputedStyle(e).overflowX);
const hidden = e => e.closest(".away, svg") || ["SCRIPT", "STYLE"].includes(e.tagName) || !e.checkVisibility();
return deep(document.body).filter(e => !hidden(e)).filter(e => {
  const box = e.getBoundingClientRect();
  if (!box.width || !box.height) return false;
  const out = (box.right > document.documentElement.clientWidth + .5 || box.left < -.5) && !boxed(e);
  const cut = e.getRootNode() === document && e.scrollWidth > e.clientWidth + 1 && e.clientWidth
    && !scrolls(e) && !boxed(e) && getComputedStyle(e).display !== "inline";
  return out || cut;
}).map(named);
"""

# What axes are called is painted on a canvas, which cuts it off and says nothing.
_CUT_LABELS = """
const pen = document.createElement("canvas").getContext("2d"), cut = [];
for (const plot of document.querySelectorAll(".plot")) {
  const view = plot.view;
  if (!view || !plot.checkVisibility()) continue;
  for (const [axes, side] of [[view.model.below, "width"], [view.model.left, "height"]])
    for (const axis of axes) if (axis.axis_label) {
      pen.font = `${axis.axis_label_text_font_size} ${axis.axis_label_text_font}`;
      const lines = String(axis.axis_label).split("\\n"), room = plot.getBoundingClientRect()[side];
      const middle = {width: view.frame.bbox.left + view.frame.bbox.width / 2,
        height: view.frame.bbox.top + view.frame.bbox.height / 2}[side];
      for (const line of lines) { const half = pen.measureText(line).width / 2;
        if (middle - half < -.5 || middle + half > room + .5) cut.push(`${plot.id}: ${line}`); }
    }
}
return cut;
"""

# Names of ticks are painted on a canvas, too, where they may run into one another. Tilted ones do not.
_CROWDED_TICKS = """
const pen = document.createElement("canvas").getContext("2d"), crowded = [];
for (const {view, id} of document.querySelectorAll(".plot")) {
  if (!view) continue;
  for (const axis of view.model.below) {
    const {ticks} = axis.ticker;
    if (!ticks || axis.major_label_orientation !== "horizontal" || axis.major_label_text_font_size === "0px") continue;
    pen.font = `${axis.major_label_text_font_size} ${axis.major_label_text_font}`;
    let edge = -Infinity;
    for (const tick of [...ticks].sort((one, other) => one - other)) {
      const name = String(axis.major_label_overrides.get(tick) ?? tick), half = pen.measureText(name).width / 2;
      const middle = view.frame.x_scale.compute(tick);
      if (middle - half < edge) crowded.push(`${id}: ${name}`);
      edge = middle + half;
    }
  }
}
return crowded;
"""

# Where points of a chart lie in the window: of a map, those that have a picture.
_POINTS = """
const plot = arguments[0], {view} = plot, many = arguments[1];
const sources = view.model.renderers.map(one => one.data_source);
const {data} = sources.filter(one => one.data.tip || one.data.row).at(-1);
const box = view.el.getBoundingClientRect(), n = data.x.length, found = [];
for (let i = 0; i < n && found.length < many; i += Math.max(1, Math.floor(n / (4 * many)))) {
  if (data.picture && data.picture[i] < 0) continue;
  const x = box.x + view.frame.x_scale.compute(data.x[i]), y = box.y + view.frame.y_scale.compute(data.y[i]);
  const inside = x > box.x + view.frame.bbox.left && x < box.x + view.frame.bbox.right && y > 0 && y < innerHeight;
  if (inside) found.push([x, y]);
}
return found;
"""

_TIP = """
const found = deep(document.body).filter(e => e.classList.contains("bk-Tooltip") && e.checkVisibility()
  && e.getBoundingClientRect().width > 0 && e.shadowRoot);
if (!found.length) return null;
const tip = found.at(-1), within = deep(tip.shadowRoot), box = tip.getBoundingClientRect();
const pictures = within.filter(e => e.tagName === "IMG");
if (pictures.some(e => !e.complete)) return null;
return {tips: found.length,
  lines: within.filter(e => e.tagName === "DIV" && !e.children.length && e.textContent).map(e => e.textContent),
  pictures: pictures.map(e => [e.naturalWidth, e.naturalHeight, e.getBoundingClientRect().width]),
  box: [box.left, box.top, box.right, box.bottom]};
"""


def contrasts(opened: Any) -> list[tuple[float, str]]:
    """Return the contrast of every piece of text that is shown, the lowest first."""
    return sorted((ratio, name) for name, ratio in opened.execute_script(_ALL + _CONTRASTS))


def sticking_out(opened: Any) -> list[str]:
    """Return what is wider than the window, and in no box that scrolls."""
    wide = opened.execute_script("return document.documentElement.scrollWidth - innerWidth")
    return [*(["the page"] if wide > 0 else []), *opened.execute_script(_ALL + _STICKING_OUT)]


def cut_labels(opened: Any) -> list[str]:
    """Return the names of axes that have no room in their charts."""
    return opened.execute_script(_CUT_LABELS)


def crowded_ticks(opened: Any) -> list[str]:
    """Return the names of ticks that run into the ones before them."""
    return opened.execute_script(_CROWDED_TICKS)


def scrolled(opened: Any) -> list[str]:
    """Return tables that are wider than their boxes."""
    return opened.execute_script(
        """return [...document.querySelectorAll(".scroll")].filter(e => e.checkVisibility()
          && e.scrollWidth > e.clientWidth).map(e => e.ariaLabel)"""
    )


def walled_in(opened: Any) -> list[str]:
    """Return tables whose first column, which stays in sight, leaves less than a third of the width to the others."""
    return opened.execute_script(
        """const first = e => e.querySelector("tbody th")?.getBoundingClientRect().width ?? 0;
        return [...document.querySelectorAll(".scroll")].filter(e => e.checkVisibility()
          && e.scrollWidth > e.clientWidth && first(e) > 2 / 3 * e.clientWidth).map(e => e.ariaLabel)"""
    )


def without_words(opened: Any) -> list[str]:
    """Return pictures that a person who cannot see them would not know of."""
    return opened.execute_script(
        _ALL
        + """const silent = e => e.tagName === "IMG" ? !e.hasAttribute("alt") || e.dataset.picture && !e.alt
          : e.getAttribute("role") === "img" && !e.getAttribute("aria-label");
        return deep(document.body).filter(silent).map(e => e.outerHTML.slice(0, 80));"""
    )


def unfold(opened: Any) -> None:
    """Open all that is folded."""
    opened.execute_script("for (const folded of document.querySelectorAll('details')) folded.open = true")


def draw(opened: Any, plot: Any) -> None:
    """Bring a chart to the middle of the window, and wait until it is drawn."""
    opened.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", plot)
    drawn = "return arguments[0].dataset.drawn === 'yes' && arguments[0].view.frame.bbox.width > 0"
    wait_for(lambda: opened.execute_script(drawn, plot), "the chart to be drawn")


def wait_for(asked: Any, what: str, seconds: float = WAIT) -> Any:
    """Return an answer as soon as there is one."""
    end = time.monotonic() + seconds
    while not (answer := asked()):
        assert time.monotonic() < end, f"waited {seconds:g} seconds for {what}"
        time.sleep(0.05)
    return answer


def mouse(opened: Any, x: float, y: float, kind: str = "mouseMoved", **more: Any) -> None:
    """Move the mouse, or turn its wheel, as a hand does."""
    opened.execute_cdp_cmd("Input.dispatchMouseEvent", {"type": kind, "x": x, "y": y, **more})


def met(opened: Any, plot: Any, *, tries: int = 8, pictured: bool = False) -> dict[str, Any]:
    """Return the only tip of a chart with the mouse on one of its points: its `lines`, `pictures` and `box`.

    With `pictured` the first of `tries` points whose tip has a picture.
    """
    draw(opened, plot)
    for x, y in opened.execute_script(_POINTS, plot, tries):
        mouse(opened, x + 2, y + 2)
        mouse(opened, x, y)
        end = time.monotonic() + WAIT / tries
        while time.monotonic() < end:
            if tip := opened.execute_script(_ALL + _TIP):
                assert tip["tips"] == 1, tip
                if pictured and not tip["pictures"]:  # another point lies nearer to the mouse
                    break
                return tip
            time.sleep(0.05)
    raise AssertionError("no point told anything")


def leave(opened: Any) -> None:
    """Take the mouse away, so that no tip is left."""
    mouse(opened, 1, 1)
    wait_for(lambda: opened.execute_script(_ALL + _TIP) is None, "the tip to go")
