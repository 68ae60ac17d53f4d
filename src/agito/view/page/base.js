"use strict";
// Small parts that every section uses. Text from the run is only ever set as text, never as markup.

const DATA = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";

function h(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  fill(node, props, children);
  return node;
}

function s(tag, props = {}, ...children) {
  const node = document.createElementNS(SVG, tag);
  fill(node, props, children);
  return node;
}

function fill(node, props, children) {
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [key, item] of Object.entries(value)) node.style.setProperty(key, item);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(2).filter(child => child !== null && child !== undefined && child !== false));
}

const place = (id, part = ".body") => document.querySelector(`#${id} ${part}`);
const say = (id, text) => { place(id, ".lead").textContent = text; };
const drop = id => document.getElementById(id).remove();

const isNumber = value => typeof value === "number" && Number.isFinite(value);
const last = values => { for (let i = values.length - 1; i >= 0; i--) if (isNumber(values[i])) return values[i]; return null; };

// ".953" reads badly on a page for people; "95.3 %" does not.
const percent = (value, digits = 1) => isNumber(value) ? `${(100 * value).toFixed(digits)} %` : "–";
const interval = (low, high) => isNumber(low) && isNumber(high) ? `${(100 * low).toFixed(1)}–${(100 * high).toFixed(1)} %` : "–";
const whole = value => isNumber(value) ? Math.round(value).toLocaleString("en-US") : "–";

function seconds(value) {
  if (!isNumber(value)) return "–";
  if (value < 10) return `${value.toFixed(1)} s`;
  if (value < 120) return `${Math.round(value)} s`;
  if (value < 7200) return `${Math.floor(value / 60)} min ${Math.round(value % 60)} s`;
  return `${(value / 3600).toFixed(1)} h`;
}

function short(value) {
  if (!isNumber(value)) return "–";
  const size = Math.abs(value);
  if (size >= 10000) return `${(value / 1000).toFixed(1)}k`;
  if (size >= 100 || value === 0) return value.toFixed(0);
  if (size >= 10) return value.toFixed(1);
  if (size >= 0.001) return value.toPrecision(3);
  return value.toExponential(1);
}

const tidy = value => value !== 0 && Math.abs(value) < 1e-4 ? value.toExponential(0) : Math.abs(value) >= 10000 ? `${value / 1000}k` : String(Number(value.toPrecision(3)));

// A custom property as the canvas needs it: resolved for the theme that is on.
const probe = document.body.appendChild(h("i", { hidden: true }));
function colour(name, alpha = 1) {
  probe.style.color = `var(--${name})`;
  const found = getComputedStyle(probe).color;
  return alpha === 1 ? found : found.replace(/rgba?\(([^,]+),([^,]+),([^,)]+).*/, `rgba($1,$2,$3,${alpha})`);
}

const tip = document.getElementById("tip");
function showTip(text, x, y) {
  tip.textContent = text;
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(x + 12, innerWidth - box.width - 4))}px`;
  tip.style.top = `${y - box.height - 12 < 4 ? y + 18 : y - box.height - 12}px`;
}
const hideTip = () => { tip.hidden = true; };

const key = (text, colourName, shape = "") => h("span", { class: "key" }, h("i", { class: shape, style: { "--c": `var(--${colourName})` } }), text);
