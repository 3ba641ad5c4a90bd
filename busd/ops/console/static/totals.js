/** The node's figures in one line, with the last minutes of those that are rates. */

import { el, reconcile, setAttribute, setText, svg } from "./dom.js";
import { bytes, count, short, span } from "./format.js";

const POINTS = 90;
const [WIDTH, HEIGHT] = [64, 18];

/** Each: label, value, a second line, whether it is bad news, and what its line shows. */
const TILES = [
  { label: "Endpoints", value: (t) => count(t.endpoints), more: (t) => `of ${count(t.endpoints_limit)}` },
  { label: "Units", value: (t) => count(t.units), more: (t) => `${count(t.tenants)} tenant${t.tenants === 1 ? "" : "s"}` },
  { label: "Components", value: (t) => count(t.components), more: () => "known to the node" },
  { label: "Received", value: (t) => perSecond(t.received_per_second), line: (t) => t.received_per_second },
  { label: "Delivered", value: (t) => perSecond(t.delivered_per_second), line: (t) => t.delivered_per_second },
  { label: "Calls", value: (t) => perSecond(t.calls_per_second), line: (t) => t.calls_per_second },
  { label: "Lost", value: (t) => perSecond(t.dropped_per_second), line: (t) => t.dropped_per_second, bad: (t) => t.dropped_per_second > 0 },
  {
    label: "Denied", value: (t) => perSecond(t.denied_per_second), line: (t) => t.denied_per_second, bad: (t) => t.denied_per_second > 0,
    hint: (t) => `denied by policy; refused for any reason: ${perSecond(t.refused_per_second)}`,
  },
  { label: "Queued", value: (t) => bytes(t.queued_bytes), more: (t) => `${short(t.queued_messages)} messages` },
  { label: "Loop lag", value: (t) => span(t.loop_lag_seconds), line: (t) => t.loop_lag_seconds * 1000, bad: (t) => t.loop_lag_seconds > 0.05 },
];

export class Totals {
  constructor(list) {
    this.list = list;
    this.history = TILES.map(() => []);
  }

  update(totals) {
    TILES.forEach((tile, index) => {
      if (!tile.line) return;
      const past = this.history[index];
      past.push(tile.line(totals) || 0);
      if (past.length > POINTS) past.shift();
    });
    const items = TILES.map((tile, index) => ({ tile, index, totals }));
    reconcile(this.list, items, (item) => item.tile.label, newTile, (node, item) => this.draw(node, item));
  }

  draw(node, { tile, index, totals }) {
    const [, value, more] = node.children;
    setText(value, tile.value(totals));
    setAttribute(node, "title", tile.hint ? tile.hint(totals) : null);
    setAttribute(node, "data-tone", tile.bad?.(totals) ? "bad" : null);
    if (tile.line) setAttribute(more.querySelector("polyline"), "points", pointsOf(this.history[index]));
    else setText(more, tile.more(totals));
  }
}

function newTile({ tile }) {
  const line = tile.line
    ? svg("svg", { width: WIDTH, height: HEIGHT, viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" }, svg("polyline"))
    : null;
  return el("div", { class: "tile" }, el("dt", { text: tile.label }), el("dd", { class: "value" }), el("dd", { class: "more" }, line));
}

function pointsOf(past) {
  const most = Math.max(...past, 1e-9);
  const step = WIDTH / (POINTS - 1);
  const start = WIDTH - (past.length - 1) * step;
  return past.map((value, i) => `${(start + i * step).toFixed(1)},${(HEIGHT - 1.5 - (value / most) * (HEIGHT - 3)).toFixed(1)}`).join(" ");
}

function perSecond(value) {
  return value ? `${short(value)}/s` : value === 0 ? "0" : "–";
}
