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

// The first line of a tip is its title; `picture` is a place among the page's pictures, -1 for none.
function tip(source, {index}) {
  const whole = make("div", {display: "grid", gap: "2px", maxWidth: "240px", overflowWrap: "anywhere"});
  const number = source.get_column("picture")?.[index] ?? -1;
  if (number >= 0) {
    const picture = make("img", {display: "block", maxWidth: "160px", maxHeight: "160px", borderRadius: "8px", margin: "2px 0 4px", justifySelf: "start"});
    picture.alt = "";
    picture.src = address(number);
    whole.append(picture);
  }
  String(source.get_column("tip")[index]).split("\n").forEach((line, place) =>
    whole.append(make("div", place ? {color: "var(--soft)", fontSize: "13px"} : {fontWeight: "650"}, line)));
  return whole;
}

async function draw(plot) {
  if (drawn.has(plot)) return;
  drawn.set(plot, null);
  const manager = await Bokeh.embed.embed_item(said(`item-${plot.dataset.chart}`), plot.id);
  const [view] = [...manager];
  for (const model of view.model.references()) if (model.type === "HoverTool") model.tooltips = tip;
  if (narrow.matches) view.model.height = parseInt(getComputedStyle(plot).minHeight);
  paint(view);
  drawn.set(plot, view);
  plot.dataset.drawn = "yes";
}

const plots = [...document.querySelectorAll(".plot")];
const seen = new IntersectionObserver(entries => {
  for (const entry of entries) if (entry.isIntersecting) { seen.unobserve(entry.target); draw(entry.target); }
}, {rootMargin: "800px"});
for (const plot of plots) seen.observe(plot);

function show(within) {
  for (const picture of within.querySelectorAll("img[data-picture]:not([src])"))
    if (!picture.closest("details:not([open])")) picture.src = address(Number(picture.dataset.picture));
}
show(document);
for (const folded of document.querySelectorAll("details")) folded.addEventListener("toggle", () => show(folded));

for (const key of document.querySelectorAll("button.key"))
  key.onclick = () => {
    const shown = key.getAttribute("aria-pressed") === "false";
    key.setAttribute("aria-pressed", String(shown));
    const view = drawn.get($(key.closest("[data-of]").dataset.of));
    if (view) for (const part of view.model.renderers) if (part.name === key.dataset.part) part.visible = shown;
  };

const repaint = () => { for (const view of drawn.values()) if (view) paint(view); };
dark.addEventListener("change", repaint);
addEventListener("beforeprint", () => {
  printing = true;
  for (const plot of plots) if (plot.checkVisibility()) draw(plot);
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
