"use strict";
// What a person calls a class, a photo or a folder becomes a text node here, never markup.
(() => {
const $ = id => document.getElementById(id);
const said = id => JSON.parse($(id).textContent);
const dark = matchMedia("(prefers-color-scheme: dark)"), narrow = matchMedia("(max-width: 34rem)");
let printing = false;
const lights = () => (dark.matches && !printing ? 1 : 0);
const pictures = $("pictures") ? said("pictures") : [];
const drawn = new Map();  // plot element -> view

function make(tag, style, text) {
  const made = document.createElement(tag);
  Object.assign(made.style, style);
  if (text !== undefined) made.textContent = text;
  return made;
}

const address = number => `data:image/jpeg;base64,${pictures[number]}`;

// A chart's colours stand in its models' tags: ["paint", property, whether it is of a glyph, light, dark].
function paint(view) {
  for (const model of view.model.references())
    for (const [what, name, glyph, ...inks] of model.tags ?? [])
      if (what === "paint") model[name] = glyph ? {value: inks[lights()]} : inks[lights()];
}

// A map's points are told once, whatever colours them: each chart has the codes and names of its own label set.
const grounds = new Map(), maps = new Map();  // number -> points; data source of a chart -> what it shows
const unpack = (text, kind) => new kind(Uint8Array.from(atob(text), letter => letter.charCodeAt(0)).buffer);
const NOT_LABELLED = 65535;

function ground(number) {
  if (!grounds.has(number)) {
    const told = said(`ground-${number}`), x = unpack(told.x, Float32Array), y = unpack(told.y, Float32Array);
    const picture = new Int32Array(x.length).fill(-1);
    for (const [row, place] of told.pictures) picture[row] = place;
    // Points with a picture last, so that they lie on top and are met first.
    const order = [...x.keys()].sort((one, other) => (picture[one] >= 0) - (picture[other] >= 0) || one - other);
    grounds.set(number, {...told, x, y, picture, order});
  }
  return grounds.get(number);
}

function place(number, view) {
  const told = said(`colours-${number}`), on = ground(told.ground);
  const map = {told, on, view, codes: unpack(told.codes, Uint16Array), hidden: new Set(), whole: [spanned(on.x), spanned(on.y)]};
  maps.set(view.model.renderers[0].data_source, map);
  return map;
}

function spanned(values) {
  let low = Infinity, high = -Infinity;
  for (const value of values) { if (value < low) low = value; if (value > high) high = value; }
  const margin = .04 * (high - low) || .5;
  return [low - margin, high + margin];
}

function fill(map) {
  const {told, on, codes, hidden, view} = map, lit = lights();
  const hues = told.ramp ? on.ramp : told.hues.map(hue => on.inks[hue]);
  const rows = on.order.filter(row => codes[row] !== NOT_LABELLED && !hidden.has(codes[row]));
  const size = rows.length < 600 ? 10 : rows.length < 4000 ? 7 : 5;
  view.model.renderers[0].data_source.data = {
    x: rows.map(row => on.x[row]),
    y: rows.map(row => on.y[row]),
    colour: rows.map(row => hues[codes[row]][lit]),
    mark: rows.map(row => told.ramp ? "circle" : told.marks[codes[row]]),
    size: rows.map(row => on.picture[row] < 0 ? size : size + 1),
    row: rows,
    picture: rows.map(row => on.picture[row]),
  };
}

function zoom(map, factor) {
  for (const [range, whole] of [[map.view.model.x_range, map.whole[0]], [map.view.model.y_range, map.whole[1]]]) {
    const middle = (range.start + range.end) / 2, half = factor * (range.end - range.start) / 2;
    const [start, end] = factor ? [middle - half, middle + half] : whole;
    range.setv({start, end});
  }
}

function words(source, index) {
  const map = maps.get(source);
  if (!map) return source.get_column("tip")[index];
  const row = source.get_column("row")[index];
  return `${map.told.names[map.told.ramp ? row : map.codes[row]]}\n${map.on.ids[row]}`;
}

// The first line of a tip is its title; `picture` is a place among the page's pictures, -1 for none.
function tip(source, {index}) {
  const whole = make("div", {display: "grid", gap: "2px", maxWidth: "240px", overflowWrap: "anywhere"});
  const number = source.get_column("picture")?.[index] ?? -1;
  if (number >= 0) {
    // All equally wide, since some sources have images of a few pixels.
    const picture = make("img", {display: "block", width: "128px", maxHeight: "160px", objectFit: "contain", objectPosition: "left", borderRadius: "8px", margin: "2px 0 4px"});
    picture.alt = "";
    picture.src = address(number);
    whole.append(picture);
  }
  String(words(source, index)).split("\n").forEach((line, place) =>
    whole.append(make("div", place ? {color: "var(--soft)", fontSize: "13px"} : {fontWeight: "650"}, line)));
  return whole;
}

// On a phone a chart is lower, what its axis is called has two lines, and its ticks' names, which would run into one
// another, are tilted. Many have none: each cell tells its own when it is met.
const whole = new Map();  // axis -> what it is called, how large and how tilted its ticks' names are where there is room
function fit(plot, view) {
  view.model.height = parseInt(getComputedStyle(plot).minHeight);
  for (const axis of view.model.below) {
    if (!whole.has(axis)) whole.set(axis, [axis.axis_label, axis.major_label_text_font_size, axis.major_label_orientation]);
    const [name, size, tilt] = whole.get(axis), many = axis.ticker.ticks?.length > 10;
    const longest = Math.max(0, ...[...axis.major_label_overrides.values()].map(one => String(one).length));
    axis.axis_label = narrow.matches ? name?.replace(", ", ",\n") ?? null : name;
    axis.major_label_text_font_size = narrow.matches && many ? "0px" : size;
    axis.major_label_orientation = narrow.matches && longest > 8 && tilt === "horizontal" ? .6 : tilt;
  }
}

async function draw(plot) {
  if (drawn.has(plot)) return;
  drawn.set(plot, null);
  const manager = await Bokeh.embed.embed_item(said(`item-${plot.dataset.chart}`), plot.id);
  const [view] = [...manager];
  for (const model of view.model.references()) if (model.type === "HoverTool") model.tooltips = tip;
  fit(plot, view);
  if (plot.dataset.map) {
    const map = place(plot.dataset.chart, view);
    fill(map);
    zoom(map, 0);
    plot.map = map;
    // A finger on the map scrolls the page; it has buttons to come closer.
    if (matchMedia("(pointer: coarse)").matches) view.model.toolbar.active_drag = null;
  }
  paint(view);
  drawn.set(plot, view);
  plot.view = view;
  plot.dataset.drawn = "yes";
}

const plots = [...document.querySelectorAll(".plot")];
const seen = new IntersectionObserver(entries => {
  for (const entry of entries) if (entry.isIntersecting) { seen.unobserve(entry.target); draw(entry.target); }
}, {rootMargin: "800px"});
for (const plot of plots) seen.observe(plot);
// Paper has all charts that are not folded, scrolled to or not, and printing does not wait: they are drawn in good time.
const spare = window.requestIdleCallback ?? (work => setTimeout(work, 200));
const ahead = () => {
  const plot = plots.find(one => !drawn.has(one) && one.checkVisibility());
  if (plot) draw(plot).then(() => spare(ahead));
};
addEventListener("load", () => spare(ahead));

function show(within) {
  for (const picture of within.querySelectorAll("img[data-picture]:not([src])"))
    if (!picture.closest("details:not([open])")) picture.src = address(Number(picture.dataset.picture));
}
show(document);
for (const folded of document.querySelectorAll("details"))
  folded.addEventListener("toggle", () => { show(folded); if (document.readyState === "complete") spare(ahead); });

for (const key of document.querySelectorAll("button.key"))
  key.onclick = () => {
    const shown = key.getAttribute("aria-pressed") === "false";
    key.setAttribute("aria-pressed", String(shown));
    const plot = $(key.closest("[data-of]").dataset.of), view = drawn.get(plot);
    if (plot.map) {
      plot.map.hidden[shown ? "delete" : "add"](Number(key.dataset.part));
      fill(plot.map);
    } else if (view) for (const part of view.model.renderers) if (part.name === key.dataset.part) part.visible = shown;
  };

for (const button of document.querySelectorAll("[data-zoom]"))
  button.onclick = () => {
    const {map} = $(button.closest("[data-of]").dataset.of);
    if (map) zoom(map, Number(button.dataset.zoom));
  };

// On paper a chart must be there at once, on a screen with the next frame. The data of glyphs are set in promises that
// wait for nothing: all are kept before the paper is laid out.
async function repaint() {
  for (const [plot, view] of drawn) if (view) {
    paint(view);
    if (plot.map) fill(plot.map);
  }
  if (printing) for (const view of drawn.values()) if (view) {
    for (const part of view.model.renderers) await view.views.get_one(part).set_data();
    view.repaint();
  }
}
dark.addEventListener("change", repaint);
narrow.addEventListener("change", () => {
  for (const [plot, view] of drawn) if (view) fit(plot, view);
});
addEventListener("beforeprint", () => {
  printing = true;
  repaint();
});
addEventListener("afterprint", () => { printing = false; repaint(); });

// A link into what is folded unfolds it.
function unfold() {
  const target = location.hash && $(decodeURIComponent(location.hash.slice(1)));
  if (!target) return;
  for (let e = target; e; e = e.parentElement) if (e.tagName === "DETAILS") e.open = true;
  target.scrollIntoView();
}
addEventListener("hashchange", unfold);
unfold();
})();
