// Faults that shut readers out, one sentence each. The body of a function: the test runs it in an open page.
"use strict";

const faults = [];
const seen = (element) => element.checkVisibility({ visibilityProperty: true, opacityProperty: true });
const words = (text) => (text || "").replace(/\s+/g, " ").trim();
const report = (fault, element) => faults.push(`${fault}: ${element.outerHTML.slice(0, 160)}`);

// What is read out has to contain what is seen, or somebody who speaks to the page cannot press it.
for (const element of document.querySelectorAll("button[aria-label], a[aria-label], summary[aria-label]")) {
  if (!seen(element)) continue;
  const visible = words(element.innerText).toLowerCase();
  if (visible && !words(element.getAttribute("aria-label")).toLowerCase().includes(visible)) {
    report(`named otherwise than "${visible}"`, element);
  }
}

// Lists hold items.
for (const item of document.querySelectorAll("ul > :not(li), ol > :not(li), [role=list] > :not([role=listitem])")) {
  if (!item.matches("script, template")) report("not an item of its list", item);
}
for (const list of document.querySelectorAll("dl")) {
  if (!list.firstElementChild?.matches("dt, div")) report("a description of nothing", list);
}
for (const element of document.querySelectorAll("[role^=doc-biblioentry], [role=doc-endnote]")) {
  report("a withdrawn role", element);
}

// Two elements with one id: a label or a link reaches only the first. (Drawings name their parts alike; nothing links there.)
const ids = new Set();
for (const element of document.querySelectorAll("body [id]:not(svg *)")) {
  if (ids.has(element.id)) report(`the id ${element.id} again`, element);
  ids.add(element.id);
}

// Text stands in a landmark, so that it can be jumped to, and stands out from its ground (WCAG 2, level AA).
const LANDMARKS = "header, nav, main, footer, aside, dialog, [role=region], [role=search], [role=banner], [role=navigation]";
const canvas = document.createElement("canvas");
canvas.width = canvas.height = 1;
const brush = canvas.getContext("2d", { willReadFrequently: true });

// The colour, as [red, green, blue], of colours laid over each other on white, the lowest first.
const mixed = (colours) => {
  brush.fillStyle = "white";
  brush.fillRect(0, 0, 1, 1);
  for (const colour of colours) {
    brush.fillStyle = colour;
    brush.fillRect(0, 0, 1, 1);
  }
  return [...brush.getImageData(0, 0, 1, 1).data].slice(0, 3);
};
const luminance = (colour) => {
  const [red, green, blue] = colour.map((part) => {
    const share = part / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
};
const contrast = (one, other) => {
  const [dark, light] = [luminance(one), luminance(other)].sort((a, b) => a - b);
  return (light + 0.05) / (dark + 0.05);
};
const grounds = (element) => {
  const layers = [];
  for (let e = element; e; e = e.parentElement) layers.unshift(getComputedStyle(e).backgroundColor);
  return layers;
};

const judged = new Set();
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const element = walker.currentNode.parentElement;
  if (!words(walker.currentNode.data) || judged.has(element) || !seen(element)) continue;
  judged.add(element);
  if (element.closest("script, style, noscript, mjx-container, [aria-hidden=true], :disabled")) continue;
  if (!element.closest(`${LANDMARKS}, #pst-skip-link`)) report("outside every landmark", element);
  const style = getComputedStyle(element);
  const ground = grounds(element);
  const ink = element.closest("svg") ? style.fill : style.color;
  const size = parseFloat(style.fontSize);
  const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
  const ratio = contrast(mixed([...ground, ink]), mixed(ground));
  if (ratio < (large ? 3 : 4.5)) report(`contrast ${ratio.toFixed(2)}`, element);
}
return faults;
