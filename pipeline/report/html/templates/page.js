"use strict";
// Names of classes, photos and folders become text nodes here, never markup.
(() => {
const $ = id => document.getElementById(id);
const read = id => JSON.parse($(id).textContent);
const dark = matchMedia("(prefers-color-scheme: dark)"), narrow = matchMedia("(max-width: 34rem)");
let printing = false;
const lights = () => (dark.matches && !printing ? 1 : 0);
const pictures = $("pictures") ? read("pictures") : [];
const drawn = new Map();  // plot element -> view

function make(tag, style, text) {
  const made = document.createElement(tag);
  Object.assign(made.style, style);
  if (text !== undefined) made.textContent = text;
  return made;
}

const address = number => `data:image/jpeg;base64,${pictures[number]}`;

// The colors of a chart are in the tags of its models: ["paint", property, whether it is of a glyph, light, dark].
function paint(view) {
  for (const model of view.model.references())
    for (const [what, name, glyph, ...inks] of model.tags ?? [])
      if (what === "paint") model[name] = glyph ? {value: inks[lights()]} : inks[lights()];
}

// The points of a map are stored once; each chart has the codes and names of its own label set.
const layers = new Map(), maps = new Map();  // number -> points; data source of a chart -> its map
const unpack = (text, kind) => new kind(Uint8Array.from(atob(text), letter => letter.charCodeAt(0)).buffer);
const NOT_LABELLED = 65535;

function mapLayer(number) {
  if (!layers.has(number)) {
    const colors = read(`map-layer-${number}`), x = unpack(colors.x, Float32Array), y = unpack(colors.y, Float32Array);
    const picture = new Int32Array(x.length).fill(-1);
    for (const [row, place] of colors.pictures) picture[row] = place;
    // Points with a thumbnail last, so that they lie on top.
    const order = [...x.keys()].sort((one, other) => (picture[one] >= 0) - (picture[other] >= 0) || one - other);
    layers.set(number, {...colors, x, y, picture, order});
  }
  return layers.get(number);
}

function place(number, view) {
  const colors = read(`colours-${number}`), on = mapLayer(colors.map_layer);
  const map = {colors, on, view, codes: unpack(colors.codes, Uint16Array), hidden: new Set(), whole: [spanned(on.x), spanned(on.y)]};
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
  const {colors, on, codes, hidden, view} = map, lit = lights();
  const hues = colors.ramp ? on.ramp : colors.hues.map(hue => on.inks[hue]);
  const rows = on.order.filter(row => codes[row] !== NOT_LABELLED && !hidden.has(codes[row]));
  const size = rows.length < 600 ? 10 : rows.length < 4000 ? 7 : 5;
  view.model.renderers[0].data_source.data = {
    x: rows.map(row => on.x[row]),
    y: rows.map(row => on.y[row]),
    colour: rows.map(row => hues[codes[row]][lit]),
    mark: rows.map(row => colors.ramp ? "circle" : colors.marks[codes[row]]),
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
  return `${map.colors.names[map.colors.ramp ? row : map.codes[row]]}\n${map.on.ids[row]}`;
}

// The first line of a tip is its title; `picture` is a place among the thumbnails of the page, -1 for none.
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

// On a phone a chart is lower, the name of its axis has two lines, and the names of its ticks are tilted so that they do
// not overlap. Many ticks have no names: the tip of each cell shows them.
const whole = new Map();  // axis -> its label, and the size and tilt of its tick labels on a wide screen
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

// Select a cell of a confusion matrix: its photos are listed below the matrix.
const cells = new Map();  // number of a matrix -> its photos
function showCell(number, cell) {
  const place = $(`cell-photos-${number}`);
  if (!cells.has(number)) cells.set(number, read(`cells-${number}`));
  const {names, of} = cells.get(number);
  place.replaceChildren();
  for (const button of document.querySelectorAll(`[data-cells="${number}"] button[data-cell]`))
    button.setAttribute("aria-expanded", String(button.dataset.cell === cell));
  if (!of[cell]) return;
  const [count, photos] = of[cell], [label, prediction] = cell.split(",").map(Number);
  const title = make("h3", {}, `${names[label]} predicted as ${names[prediction]}: ${count.toLocaleString("en")} photo${count > 1 ? "s" : ""}`);
  const close = make("button", {}, "Close");
  close.type = "button";
  close.onclick = () => showCell(number, "");
  const list = make("ul", {});
  list.className = "thumbnails";
  for (const [id, picture, text] of photos) {
    const item = make("li", {});
    let image;
    if (picture >= 0) {
      image = make("img", {});
      image.alt = id;
      image.src = address(picture);
    } else {
      image = make("span", {});
      image.className = "blank";
      image.setAttribute("role", "img");
      image.ariaLabel = `${id}: no picture`;
    }
    const name = make("span", {}, id), sure = make("b", {}, text);
    name.className = "id";
    item.append(image, ...(text ? [sure] : []), name);
    list.append(item);
  }
  place.append(title, list);
  if (count > photos.length) place.append(make("p", {}, `The first ${photos.length} of ${count.toLocaleString("en")} photos.`));
  place.append(close);
  place.scrollIntoView({block: "nearest"});
}
for (const button of document.querySelectorAll("button[data-cell]"))
  button.onclick = () => {
    const open = button.getAttribute("aria-expanded") === "true";
    showCell(button.closest("[data-cells]").dataset.cells, open ? "" : button.dataset.cell);
  };

async function draw(plot) {
  if (drawn.has(plot)) return;
  drawn.set(plot, null);
  const manager = await Bokeh.embed.embed_item(read(`item-${plot.dataset.chart}`), plot.id);
  const [view] = [...manager];
  for (const model of view.model.references()) if (model.type === "HoverTool") model.tooltips = tip;
  fit(plot, view);
  if (plot.dataset.map) {
    const map = place(plot.dataset.chart, view);
    fill(map);
    zoom(map, 0);
    plot.map = map;
    // A finger on the map scrolls the page; buttons zoom.
    if (matchMedia("(pointer: coarse)").matches) view.model.toolbar.active_drag = null;
  }
  const matrix = plot.closest("[data-cells]");
  if (matrix) {
    const {data_source: source} = view.model.renderers[0];
    source.selected.properties.indices.change.connect(() => {
      const [index] = source.selected.indices;
      if (index !== undefined)
        showCell(matrix.dataset.cells, `${source.get_column("y")[index]},${source.get_column("x")[index]}`);
    });
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
// Printing does not wait, so all charts that are not folded are drawn ahead of it.
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

// On a screen a chart is drawn with the next frame, on paper it must be drawn at once. The data of glyphs are set in
// promises, which are awaited before the paper is laid out.
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

// A link into a folded part unfolds it.
function unfold() {
  const target = location.hash && $(decodeURIComponent(location.hash.slice(1)));
  if (!target) return;
  for (let e = target; e; e = e.parentElement) if (e.tagName === "DETAILS") e.open = true;
  target.scrollIntoView();
}
addEventListener("hashchange", unfold);
unfold();
})();
