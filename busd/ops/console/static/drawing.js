/** The node as a drawing: its three boundaries, the units and groups in them, and what flows between them. */

import { el, reconcile, setAttribute, setText, svg } from "./dom.js";
import { count, nameOf, perSecond, placeOf, short, unsaid } from "./format.js";
import { arrange, keyOf } from "./layout.js";

const BUS = "$bus";
const BOUNDARIES = { guest: "Guests", host: "Host", soc: "SoC" };

/** A group that is gone keeps its place for so long, so that one that comes and goes moves nobody. */
const KEEP_MS = 60_000;
/** Places that are kept beyond those that are there. */
const KEEP = 200;
/** Ticks for which a flow without messages stays, so that slow ones do not flicker. */
const LINGER = 6;
/** Pixels from which on a line would hide a small arrow at its end. */
const THICK = 4;

const measure = document.createElement("canvas").getContext("2d");
const fitted = new Map();

export class Drawing {
  /**
   * @param {Element} place
   * @param {{onPick: function(?object): void, onUnit: function(object): void}} options called with the group, or the
   *     unit, that was chosen; with null for a press beside all of them
   */
  constructor(place, { onPick, onUnit }) {
    this.onPick = onPick;
    this.onUnit = onUnit;
    this.slots = new Map();
    this.flows = new Map();
    this.nodes = new Map();
    this.keys = new Map();
    this.plan = null;
    this.planned = "";
    this.hovered = null;
    this.selected = null;
    this.current = null;
    this.layers = Object.fromEntries(
      ["panels", "bus", "flows", "troubles", "units", "groups"].map((name) => [name, svg("g", { class: name })]),
    );
    this.root = svg(
      "svg", { role: "group", "aria-label": "The node. Arrow keys move, Enter selects. The view Flows has the same as a table." },
      svg("defs", {}, ...["publish", "call", "lost"].flatMap((kind) => [arrow(kind, 1), arrow(kind, 2)]), cross()), ...Object.values(this.layers),
    );
    this.layers.units.setAttribute("aria-hidden", "true");
    for (const name of ["panels", "bus", "flows", "troubles"]) this.layers[name].setAttribute("aria-hidden", "true");
    this.busLine = svg("rect", { class: "bus-line", rx: "4", width: "8" });
    this.busName = svg("text", { class: "bus-name", "text-anchor": "middle" });
    this.layers.bus.append(this.busLine, this.busName);
    this.place = place;
    place.append(this.root);
    this.caption = el("p", { class: "caption", "aria-hidden": "true" });
    place.append(this.caption);
    this.listen();
    new ResizeObserver(() => this.resize()).observe(place);
    addEventListener("resize", () => this.resize());
  }

  /** Show `state`, or nothing anew if that is null. */
  update(state) {
    this.state = state;
    const now = performance.now();
    this.keys.clear();
    for (const group of state.groups) {
      const key = keyOf(group);
      this.keys.set(group.id, key);
      this.slots.delete(key); // so that those seen last come last
      this.slots.set(key, { group, seen: now, gone: false });
    }
    const present = new Set(this.keys.values());
    let spare = KEEP;
    // The oldest places are given up first.
    for (const [key, slot] of [...this.slots].reverse()) {
      if (present.has(key)) continue;
      slot.gone = true;
      if (now - slot.seen > KEEP_MS || --spare < 0) this.slots.delete(key);
    }
    this.draw();
  }

  /** Mark the group with this key, or none; its flows stay lit. */
  select(key) {
    this.selected = key;
    this.light();
  }

  /** The group now shown under `key`. */
  group(key) {
    return this.slots.get(key)?.group ?? null;
  }

  resize() {
    if (this.place.clientWidth && this.state) this.draw();
  }

  draw() {
    const width = this.place.clientWidth;
    if (!width) return; // another view is shown
    const height = Math.max(380, innerHeight - (this.place.getBoundingClientRect().top + scrollY) - 50);
    const wanted = `${width} ${height} ${[...this.slots.keys()].sort().join()}`;
    if (wanted !== this.planned) {
      this.planned = wanted;
      this.plan = arrange(new Map([...this.slots].map(([key, slot]) => [key, slot.group])), width, height);
      this.frame();
    }
    this.drawGroups();
    this.drawFlows();
    this.drawBus();
    this.light();
    this.describe();
  }

  frame() {
    const { plan, root, layers } = this;
    setAttribute(root, "width", plan.width);
    setAttribute(root, "height", plan.height);
    setAttribute(root, "viewBox", `0 0 ${plan.width} ${plan.height}`);
    root.classList.toggle("narrow", plan.narrow);
    const parts = [
      ...plan.panels.map((panel) => ({ id: `p${panel.boundary}`, panel })),
      ...plan.headings.map((heading) => ({ id: `h${heading.boundary}`, heading })),
      ...plan.tenants.map((tenant) => ({ id: `t${tenant.side}${tenant.name}`, tenant })),
    ];
    reconcile(layers.panels, parts, (part) => part.id, (part) => newPart(part), drawPart);
    reconcile(layers.units, plan.units, (unit) => unit.id, () => svg("text", { class: "unit" }, svg("title")), drawUnit);
  }

  drawGroups() {
    const shown = [...this.plan.chips].map(([key, chip]) => ({ key, chip, slot: this.slots.get(key) })).filter((each) => each.slot);
    reconcile(this.layers.groups, shown, (each) => each.key, (each) => this.newGroup(each.key), (node, each) => drawGroup(node, each));
    if (!this.nodes.has(this.current)) this.current = null;
    for (const key of this.nodes.keys()) if (!this.plan.chips.has(key)) this.nodes.delete(key);
    if (!this.current && shown.length) this.makeCurrent(shown[0].key);
  }

  newGroup(key) {
    const node = svg(
      "g", { class: "group", role: "button", tabindex: "-1" },
      svg("rect", { class: "box", rx: "3" }), svg("rect", { class: "mark" }), svg("text", { class: "name" }), svg("text", { class: "figure", "text-anchor": "end" }),
    );
    this.nodes.set(key, node);
    return node;
  }

  drawFlows() {
    const sums = new Map();
    for (const flow of this.state.flows) {
      const from = this.keys.get(flow.from);
      const to = flow.to === BUS ? BUS : this.keys.get(flow.to);
      if (!from || !to) continue;
      const id = `${from} ${to}`;
      const sum = sums.get(id);
      if (sum) {
        if (flow.per_second > sum.busiest.per_second) sum.busiest = flow;
        sum.per_second += flow.per_second;
        sum.lost += flow.lost_per_second;
        sum.parts += 1;
      } else {
        sums.set(id, { from, to, per_second: flow.per_second, lost: flow.lost_per_second, busiest: flow, parts: 1, denied: false });
      }
    }
    for (const group of this.state.groups) {
      if (group.denied_per_second > 0) {
        const from = this.keys.get(group.id);
        sums.set(`${from} denied`, { from, to: null, per_second: group.denied_per_second, lost: 0, busiest: null, parts: 0, denied: true });
      }
    }
    for (const [id, flow] of this.flows) {
      const sum = sums.get(id);
      if (sum) continue;
      flow.idle += 1;
      if (flow.idle > LINGER || !this.plan.chips.has(flow.from) || (flow.to && flow.to !== BUS && !this.plan.chips.has(flow.to))) {
        flow.path.remove();
        this.flows.delete(id);
      } else {
        flow.per_second = 0;
        flow.lost = 0;
        this.drawFlow(flow);
      }
    }
    for (const [id, sum] of sums) {
      let flow = this.flows.get(id);
      if (!flow) {
        flow = { path: svg("path", { "data-id": id }) };
        this.flows.set(id, flow);
      }
      Object.assign(flow, sum, { idle: sum.per_second > 0 ? 0 : 1 });
      this.drawFlow(flow);
    }
  }

  drawFlow(flow) {
    const { path } = flow;
    const from = this.plan.chips.get(flow.from);
    const to = flow.to && flow.to !== BUS ? this.plan.chips.get(flow.to) : null;
    if (!from) return;
    const bad = flow.denied || flow.lost > 0;
    const width = 0.8 + 1.3 * Math.log10(1 + flow.per_second);
    const thick = width > THICK && !flow.denied;
    setAttribute(path, "d", route(from, to, this.plan.bus, flow.denied, thick ? 9 : 0));
    setAttribute(path, "stroke-width", width.toFixed(1));
    const kind = flow.denied ? "denied" : flow.lost > 0 ? "lost" : flow.busiest.kind;
    const shown = `flow ${kind}${thick ? " thick" : ""}${flow.idle ? " idle" : ""}${path.classList.contains("on") ? " on" : ""}`;
    setAttribute(path, "class", shown);
    const layer = bad ? this.layers.troubles : this.layers.flows;
    if (path.parentNode !== layer) layer.append(path);
  }

  drawBus() {
    const { bus, narrow } = this.plan;
    const { received_per_second: received, delivered_per_second: delivered } = this.state.totals;
    setAttribute(this.busLine, "x", bus.x - 4);
    setAttribute(this.busLine, "y", bus.top);
    setAttribute(this.busLine, "height", Math.max(0, bus.bottom - bus.top));
    setAttribute(this.busName, "x", bus.x);
    setAttribute(this.busName, "y", 16);
    setText(this.busName, narrow ? "bus" : `bus: ${short(received || 0)}/s in, ${short(delivered || 0)}/s out`);
  }

  /** Light the flows of what is pointed at, or else of what is selected, and dim the rest. */
  light() {
    const centre = this.hovered ?? (this.selected && this.plan?.chips.has(this.selected) ? { keys: [this.selected] } : null);
    this.root.classList.toggle("focused", Boolean(centre));
    const lit = new Set(centre?.keys ?? []);
    const own = new Set(lit);
    for (const [id, flow] of this.flows) {
      const on = centre?.flow ? centre.flow === id : own.has(flow.from) || own.has(flow.to);
      flow.path.classList.toggle("on", Boolean(centre) && on);
      if (on && centre) {
        lit.add(flow.from);
        if (flow.to) lit.add(flow.to);
      }
    }
    for (const [key, node] of this.nodes) {
      node.classList.toggle("on", lit.has(key));
      const isSelected = key === this.selected;
      node.classList.toggle("selected", isSelected);
      setAttribute(node, "aria-pressed", String(isSelected));
    }
  }

  /** Say in the caption what is pointed at. */
  describe() {
    if (!this.caption) return;
    let text = this.state.left_out?.groups ? `The busiest ${count(this.state.groups.length)} groups; ${count(this.state.left_out.groups)} more are in the census.` : "";
    if (this.hovered?.flow && this.flows.has(this.hovered.flow)) text = this.flowText(this.flows.get(this.hovered.flow));
    else if (this.hovered?.keys.length === 1) text = groupText(this.slots.get(this.hovered.keys[0]));
    else if (this.hovered?.unit) text = `Unit ${this.hovered.unit}: ${this.hovered.keys.length} groups of endpoints.`;
    else if (this.state.groups.every((group) => group.owner === "node")) text = "Nobody but the node's own agents is attached. For a first look, in two shells: bus sub 'demo.>' and bus pub demo.hello 1";
    else if (!text) text = "Point at a group for its flows; select it for its detail.";
    setText(this.caption, text);
  }

  flowText(flow) {
    const end = (key) => (key === BUS ? "the bus itself" : this.slots.has(key) ? `${nameOf(this.slots.get(key).group)} (${placeOf(this.slots.get(key).group)})` : "gone");
    if (flow.denied) return `${end(flow.from)}: ${perSecond(flow.per_second)} denied.`;
    const lost = flow.lost > 0 ? `, ${perSecond(flow.lost)} lost` : "";
    const more = flow.parts > 1 ? `, and ${flow.parts - 1} more subjects` : "";
    return `${end(flow.from)} → ${end(flow.to)}: ${flow.busiest.kind} ${flow.busiest.subject}${more}, ${perSecond(flow.per_second)}${lost}.`;
  }

  hover(hovered) {
    if (JSON.stringify(hovered) === JSON.stringify(this.hovered)) return;
    this.hovered = hovered;
    if (!this.plan) return;
    this.light();
    this.describe();
  }

  /** What of the drawing an event is about. */
  under(target) {
    const group = target.closest?.(".group");
    if (group) return { keys: [group.__key] };
    const unit = target.closest?.(".unit");
    if (unit) return { keys: unit.__unit.keys, unit: unit.__unit.name };
    const flow = target.closest?.(".flow");
    return flow ? { keys: [], flow: flow.dataset.id } : null;
  }

  listen() {
    const { root } = this;
    root.addEventListener("pointerover", (event) => this.hover(this.under(event.target)));
    root.addEventListener("pointerleave", () => this.hover(null));
    root.addEventListener("focusin", (event) => {
      const group = event.target.closest?.(".group");
      if (!group) return;
      this.makeCurrent(group.__key);
      this.hover({ keys: [group.__key] });
    });
    root.addEventListener("focusout", () => this.hover(null));
    root.addEventListener("click", (event) => {
      const unit = event.target.closest?.(".unit");
      if (unit) this.onUnit(unit.__unit);
      else if (event.target.closest?.(".group")) this.pick(event.target.closest(".group").__key);
      else this.onPick(null);
    });
    root.addEventListener("keydown", (event) => this.key(event));
  }

  pick(key) {
    const group = key && this.group(key);
    if (group) this.onPick(group);
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || !this.current) return;
    if (event.key === "Enter" || event.key === " ") this.pick(this.current);
    else if (event.key === "Home") this.go([...this.plan.chips.keys()][0]);
    else if (event.key === "End") this.go([...this.plan.chips.keys()].at(-1));
    else if (STEPS[event.key]) this.go(nearest(this.plan.chips, this.current, STEPS[event.key]));
    else return;
    event.preventDefault();
  }

  go(key) {
    if (!key) return;
    this.makeCurrent(key);
    this.nodes.get(key)?.focus();
  }

  /** Only one group can be reached by Tab; arrow keys reach the others. */
  makeCurrent(key) {
    if (this.current === key) return;
    this.nodes.get(this.current)?.setAttribute("tabindex", "-1");
    this.current = key;
    this.nodes.get(key)?.setAttribute("tabindex", "0");
  }
}

const STEPS = { ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] };

/** The group that is next in a direction: near in it, and not far aside. */
function nearest(chips, from, [dx, dy]) {
  const start = middleOf(chips.get(from));
  let best = null;
  let least = Infinity;
  for (const [key, chip] of chips) {
    if (key === from) continue;
    const middle = middleOf(chip);
    const [x, y] = [middle.x - start.x, middle.y - start.y];
    const along = x * dx + y * dy;
    const aside = Math.abs(x * dy) + Math.abs(y * dx);
    if (along < 4) continue;
    const distance = along + (dx ? 10 : 2) * aside;
    if (distance < least) [best, least] = [key, distance];
  }
  return best;
}

function middleOf(chip) {
  return { x: chip.x + chip.width / 2, y: chip.y + chip.height / 2 };
}

/**
 * The line of a flow: to another group by way of the bus, to the bus itself, or as far as it got. It ends `room` pixels
 * before its end, for the arrow.
 */
function route(from, to, bus, denied, room) {
  const { x, out: y } = from.port;
  if (!to) return `M${r(x)} ${r(y)}L${r(bus.x - from.side * ((denied ? 14 : 5) + room))} ${r(y)}`;
  const end = to.port.x + to.side * (1.5 + room);
  const arrive = to.port.in;
  if (from.side !== to.side) return `M${r(x)} ${r(y)}C${r(bus.x)} ${r(y)} ${r(bus.x)} ${r(arrive)} ${r(end)} ${r(arrive)}`;
  // A curve reaches three quarters of the way to its handles: so this one turns at the bus.
  const handle = x + (bus.x - x) / 0.75;
  // A thick one within one line of the drawing would cover itself: so it is a loop.
  const apart = room ? Math.max(0, 24 - Math.abs(arrive - y)) : 0;
  return `M${r(x)} ${r(y)}C${r(handle)} ${r(y - apart)} ${r(handle)} ${r(arrive + apart)} ${r(end)} ${r(arrive)}`;
}

function r(value) {
  return Math.round(value * 10) / 10;
}

/** The end of a flow; of double the size it begins where the line ends. */
function arrow(kind, size) {
  return svg(
    "marker", { id: `arrow-${kind}${size > 1 ? "-thick" : ""}`, class: `arrow ${kind}`, viewBox: "0 0 7 8", markerUnits: "userSpaceOnUse", markerWidth: 7 * size, markerHeight: 8 * size, refX: size > 1 ? "1" : "6", refY: "4", orient: "auto" },
    svg("path", { d: "M0 0.5L6.5 4L0 7.5Z" }),
  );
}

function cross() {
  return svg(
    "marker", { id: "cross", markerUnits: "userSpaceOnUse", markerWidth: "10", markerHeight: "10", refX: "5", refY: "5", orient: "auto" },
    svg("path", { d: "M1.5 1.5L8.5 8.5M8.5 1.5L1.5 8.5" }),
  );
}

function newPart({ panel, heading }) {
  if (panel) return svg("rect", { class: `panel ${panel.boundary}`, rx: "6" });
  if (heading) return svg("text", { class: "heading" });
  return svg("g", { class: "tenant" }, svg("text", {}), svg("path"), svg("title"));
}

function drawPart(node, { panel, heading, tenant }) {
  if (panel) {
    for (const side of ["x", "y", "width", "height"]) setAttribute(node, side, Math.max(0, panel[side]));
  } else if (heading) {
    setAttribute(node, "x", heading.x - heading.side * 8);
    setAttribute(node, "y", heading.y);
    setAttribute(node, "text-anchor", heading.side > 0 ? "end" : "start");
    const units = heading.boundary === "host" ? "" : `: ${heading.units} unit${heading.units === 1 ? "" : "s"}`;
    setText(node, heading.units ? `${BOUNDARIES[heading.boundary]}${units}` : `${BOUNDARIES[heading.boundary]}: nobody`);
  } else {
    const [text, line, title] = node.children;
    const anchor = tenant.side > 0 ? "start" : "end";
    setAttribute(text, "x", tenant.x + tenant.side * 4);
    setAttribute(text, "y", tenant.from + 11);
    setAttribute(text, "text-anchor", anchor);
    setText(text, fit(tenant.name, tenant.room - 8, 11, true));
    setAttribute(line, "d", `M${tenant.x - tenant.side} ${tenant.from + 1}V${tenant.to - 3}`);
    setText(title, `tenant ${tenant.name}`);
  }
}

function drawUnit(node, unit) {
  node.__unit = unit;
  setAttribute(node, "x", unit.x);
  setAttribute(node, "y", r(unit.y + 4));
  // Beside dots a name ends where they begin: several units share a line, and each must be seen to be whose.
  setAttribute(node, "text-anchor", (unit.side > 0) !== unit.inward ? "start" : "end");
  // The title is a child of the text: only the text's own node is set.
  if (node.lastChild.nodeType !== Node.TEXT_NODE) node.append("");
  const shown = fit(unit.name, unit.room, 11, false);
  if (node.lastChild.data !== shown) node.lastChild.data = shown;
  setText(node.firstChild, `unit ${unit.name} of ${unit.tenant}`);
}

function drawGroup(node, { key, chip, slot }) {
  const { group, gone } = slot;
  const [box, mark, name, figure] = node.children;
  const trouble = troubleOf(group);
  const missing = unsaid(group);
  const busy = group.sends_per_second + group.receives_per_second;
  const kept = ["on", "selected"].filter((each) => node.classList.contains(each));
  const classes = ["group", ...kept, gone && "gone", missing.length && "unowned", !busy && "idle", trouble && (trouble === "throttled" ? "warn" : "bad"), chip.dot && "dot"];
  setAttribute(node, "class", classes.filter(Boolean).join(" "));
  setAttribute(node, "aria-label", labelOf(group, gone, trouble, missing));
  const high = Math.min(chip.height, 22);
  const top = chip.y + (chip.height - high) / 2;
  place(box, chip.x, chip.dot ? chip.y + 1 : top, chip.width, chip.dot ? chip.width : high);
  place(mark, chip.x, chip.dot ? chip.y + 1 : top, chip.dot ? chip.width : 3, chip.dot ? chip.width : high);
  const wide = !chip.dot && chip.width > 150;
  const total = wide ? perSecond(busy) : "";
  const number = group.endpoints > 1 ? ` ×${group.endpoints}` : "";
  const reserve = wide ? 62 : 0;
  setText(name, chip.dot ? "" : fit(nameOf(group), chip.width - 9 - reserve - number.length * 6, 11, false) + number);
  setText(figure, total);
  const baseline = r(chip.y + chip.height / 2 + 4);
  setAttribute(name, "x", r(chip.x + 6));
  setAttribute(name, "y", baseline);
  setAttribute(figure, "x", r(chip.x + chip.width - 5));
  setAttribute(figure, "y", baseline);
}

function place(rect, x, y, width, height) {
  setAttribute(rect, "x", r(x));
  setAttribute(rect, "y", r(y));
  setAttribute(rect, "width", r(Math.max(0, width)));
  setAttribute(rect, "height", r(Math.max(0, height)));
}

/** The worst that is going on with a group, or nothing. */
function troubleOf(group) {
  if (group.denied_per_second > 0) return "denied";
  if (group.dropped_per_second > 0) return "losing messages";
  return group.throttled ? "throttled" : null;
}

function labelOf(group, gone, trouble, missing) {
  const parts = [nameOf(group), `unit ${placeOf(group)}`, group.boundary];
  if (group.endpoints > 1) parts.push(`${group.endpoints} endpoints`);
  if (missing.length) parts.push(`does not say its ${missing.join(", ")}`);
  if (trouble) parts.push(trouble);
  if (gone) parts.push("left");
  return parts.join(", ");
}

function groupText(slot) {
  if (!slot) return "";
  const { group, gone } = slot;
  if (gone) return `${nameOf(group)} (${placeOf(group)}): left, or is quiet while others are busier.`;
  const missing = unsaid(group);
  const parts = [
    missing.length ? `does not say its ${missing.join(", ")}` : `${group.owner}: ${group.purpose}`,
    `sends ${perSecond(group.sends_per_second)}`, `receives ${perSecond(group.receives_per_second)}`,
  ];
  if (group.dropped_per_second > 0) parts.push(`loses ${perSecond(group.dropped_per_second)}`);
  if (group.denied_per_second > 0) parts.push(`${perSecond(group.denied_per_second)} denied`);
  if (group.throttled) parts.push("throttled");
  return `${nameOf(group)} (${placeOf(group)}) · ${parts.join(" · ")}`;
}

/** As much of `text` as `width` pixels hold. */
function fit(text, width, size, bold) {
  const key = `${Math.round(width)} ${size} ${bold} ${text}`;
  let shown = fitted.get(key);
  if (shown !== undefined) return shown;
  measure.font = `${bold ? "600 " : ""}${size}px ${getComputedStyle(document.body).fontFamily}`;
  shown = text;
  if (measure.measureText(text).width > width) {
    let [least, most] = [0, text.length];
    while (least < most) {
      const middle = (least + most + 1) >> 1;
      if (measure.measureText(`${text.slice(0, middle)}…`).width <= width) least = middle;
      else most = middle - 1;
    }
    shown = least ? `${text.slice(0, least)}…` : "";
  }
  if (fitted.size > 5000) fitted.clear(); // names come from guests: they must not add up
  fitted.set(key, shown);
  return shown;
}
