/**
 * Where everything of the drawing is: guests to the left, host and cards to the right, the bus between them. Places
 * follow from names alone (tenant, unit, component), never from what is busy, so nothing moves from tick to tick.
 */

const NATURAL = new Intl.Collator("en", { numeric: true });

/** A line with text in it is at least so high; below that nobody reads it. */
const LINE = { least: 14, most: 26, dots: 14 };
const HEADING = 26;
const TENANT_GAP = 4;
const DOT = 11;

/**
 * @typedef {object} Chip a group of endpoints in the drawing
 * @property {number} x
 * @property {number} y
 * @property {number} width
 * @property {number} height
 * @property {boolean} dot too small for its name
 * @property {{x: number, out: number, in: number}} port where flows leave and arrive; heights are of the two
 * @property {1|-1} side 1: the bus is to its right
 */

/** What makes two groups of two ticks the same one. */
export function keyOf(group) {
  return JSON.stringify([group.boundary, group.tenant, group.unit, group.component]);
}

/**
 * @param {Map<string, object>} groups by {@link keyOf}
 * @param {number} width of the drawing
 * @param {number} height that is there without scrolling
 * @returns {{width: number, height: number, narrow: boolean, chips: Map<string, Chip>, units: Array, tenants: Array,
 *     headings: Array, panels: Array, bus: {x: number, top: number, bottom: number}}}
 */
export function arrange(groups, width, height) {
  const narrow = width < 640;
  const gutter = Math.round(Math.max(narrow ? 84 : 150, width * (narrow ? 0.24 : 0.25)));
  const left = Math.round((width - gutter) * (narrow ? 0.5 : 0.58));
  const plan = {
    width, height: 0, narrow, chips: new Map(), units: [], tenants: [], headings: [], panels: [],
    bus: { x: left + gutter / 2, top: 0, bottom: 0 },
  };
  const sides = { guest: [], host: [], soc: [] };
  for (const unit of unitsOf(groups)) sides[unit.boundary]?.push(unit);
  const room = height - HEADING;
  const guests = new Panel(plan, "guest", sides.guest, { from: 0, to: left, side: 1, narrow });
  const right = { from: left + gutter, to: width, side: -1, narrow };
  const host = new Panel(plan, "host", sides.host, right);
  const soc = new Panel(plan, "soc", sides.soc, right);
  guests.fit(room);
  const shared = Math.max(room, guests.height()) - HEADING - 10;
  const lines = host.lines(1) + soc.lines(1);
  const share = lines ? Math.min(0.85, Math.max(0.15, host.lines(1) / lines)) : 0.5;
  host.fit(shared * share);
  soc.fit(shared * (1 - share));
  const end = guests.place(0);
  const middle = host.place(0);
  const last = soc.place(middle + 10);
  plan.height = Math.max(end, last, Math.min(height, 240));
  plan.bus.top = HEADING;
  plan.bus.bottom = plan.height - 2;
  plan.panels.push({ boundary: "guest", x: 0, y: 0, width: left, height: plan.height });
  plan.panels.push({ boundary: "host", x: right.from, y: 0, width: width - right.from, height: middle });
  plan.panels.push({ boundary: "soc", x: right.from, y: middle + 10, width: width - right.from, height: plan.height - middle - 10 });
  return plan;
}

/** Units with their groups, in the order in which they are drawn. */
function unitsOf(groups) {
  const units = new Map();
  for (const [key, group] of groups) {
    const id = JSON.stringify([group.boundary, group.tenant, group.unit]);
    let unit = units.get(id);
    if (!unit) units.set(id, (unit = { id, boundary: group.boundary, tenant: group.tenant, unit: group.unit, members: [] }));
    unit.members.push({ key, group });
  }
  for (const unit of units.values()) unit.members.sort((a, b) => byName(a.group.component, b.group.component));
  return [...units.values()].sort((a, b) => byName(a.tenant, b.tenant) || byName(a.unit, b.unit));
}

/** Those without a name come last. */
function byName(a, b) {
  if (!a || !b) return Number(!a) - Number(!b);
  return NATURAL.compare(a, b);
}

/** One boundary: its units one below the other, each with its groups side by side. */
class Panel {
  constructor(plan, boundary, units, { from, to, side, narrow }) {
    Object.assign(this, { plan, boundary, units, from, to, side, narrow });
    const tenants = new Set(units.map((unit) => unit.tenant));
    this.tenantRoom = narrow || (tenants.size <= 1 && (tenants.has("node") || !units.length)) ? 0 : 74;
    this.unitRoom = narrow ? 46 : 56;
    this.room = to - from - this.tenantRoom - this.unitRoom - 8;
    this.dots = narrow && boundary === "guest";
    this.columns = 1;
    this.cells = 1;
    this.line = LINE.most;
  }

  /** How many lines there are with so many groups side by side. */
  lines(columns) {
    return this.units.reduce((sum, unit) => sum + Math.ceil(unit.members.length / columns), 0);
  }

  /** Choose how many groups are side by side, and how high lines are, so that it fits into `room` if it can. */
  fit(room) {
    if (!this.units.length) return;
    const gaps = new Set(this.units.map((unit) => unit.tenant)).size * TENANT_GAP + 8;
    const available = room - gaps;
    const largest = Math.max(...this.units.map((unit) => unit.members.length));
    if (!this.dots) {
      const most = Math.max(1, Math.floor(this.room / 70));
      const wanted = this.boundary === "guest" ? Math.min(most, largest) : 1;
      for (this.columns = wanted; this.columns < Math.min(most, largest); this.columns += 1) {
        if (this.lines(this.columns) * LINE.least <= available) break;
      }
      this.dots = this.lines(this.columns) * LINE.least > available * 1.7;
    }
    if (this.dots) {
      const perLine = Math.max(1, Math.floor(this.room / DOT));
      this.columns = Math.min(perLine, Math.max(largest, 1), this.narrow ? perLine : 8);
      // Several units on one line, where one below the other would take more than two screens.
      const cell = this.unitRoom + Math.min(this.columns, largest) * DOT + 6;
      const fitting = Math.max(1, Math.floor((this.to - this.from - this.tenantRoom) / cell));
      this.cells = this.narrow ? 1 : Math.min(fitting, Math.max(1, Math.ceil((this.lines(this.columns) * LINE.dots) / available)));
      this.line = LINE.dots;
      return;
    }
    this.line = Math.round(Math.max(LINE.least, Math.min(LINE.most, Math.floor(available / Math.max(1, this.lines(this.columns))))));
  }

  height() {
    return HEADING + (this.lines(this.columns) / this.cells) * this.line;
  }

  /** Put everything in its place from `top` downwards; where it ends. */
  place(top) {
    const { plan, side } = this;
    plan.headings.push({ boundary: this.boundary, x: side > 0 ? this.to : this.from, y: top + 16, side, units: this.units.length });
    let y = top + HEADING;
    let tenant = null;
    let index = 0;
    let rowHeight = 0;
    for (const unit of this.units) {
      if (tenant?.name !== unit.tenant || index === this.cells) {
        y += rowHeight;
        index = rowHeight = 0;
      }
      if (tenant?.name !== unit.tenant) {
        if (tenant) y += TENANT_GAP;
        tenant = { name: unit.tenant, side, from: y, to: y, x: side > 0 ? this.from + 4 : this.to - 4, room: this.tenantRoom };
        if (this.tenantRoom) plan.tenants.push(tenant);
      }
      rowHeight = Math.max(rowHeight, this.unit(unit, y, index));
      tenant.to = y + rowHeight;
      index += 1;
    }
    return Math.max(y + rowHeight + 6, top + HEADING + 20);
  }

  /** Place one unit at `y` as the `index`th of its line; how high it is. */
  unit(unit, y, index) {
    const { plan, side, columns, line } = this;
    const inner = side > 0 ? this.to - 6 : this.from + 6;
    const cell = (this.to - this.from - this.tenantRoom - 8) / this.cells;
    const size = this.dots ? DOT : this.room / columns;
    const rows = Math.ceil(unit.members.length / columns);
    const outer = side > 0 ? this.from + 4 + this.tenantRoom + index * cell : this.to - 4 - this.tenantRoom - index * cell;
    plan.units.push({
      id: unit.id, name: unit.unit, boundary: unit.boundary, tenant: unit.tenant, x: this.dots ? outer + side * (this.unitRoom - 5) : outer, y: y + Math.min(line, LINE.most) / 2,
      side, room: this.unitRoom - 6, inward: this.dots, keys: unit.members.map((member) => member.key),
    });
    unit.members.forEach((member, position) => {
      const row = Math.floor(position / columns);
      const column = position % columns;
      const inRow = Math.min(columns, unit.members.length - row * columns);
      // The unit's name is on the outer side; groups follow it towards the bus.
      const start = this.dots ? outer + side * this.unitRoom : inner - side * this.room;
      const x = side > 0 ? start + column * size : start - (column + 1) * size;
      const middle = y + row * line + line / 2;
      const nudge = (column - (inRow - 1) / 2) * Math.min(2, 8 / inRow);
      plan.chips.set(member.key, {
        x: x + 1, y: y + row * line + 1, width: size - (this.dots ? 2 : 3), height: line - 2, dot: this.dots, side,
        port: { x: inner + side * 6, out: middle - line / 7 + nudge, in: middle + line / 7 + nudge },
      });
    });
    return rows * line;
  }
}
