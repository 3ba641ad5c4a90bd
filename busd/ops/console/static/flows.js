/** The drawing as a table: who sends how much to whom, the busiest first. */

import { el, setText } from "./dom.js";
import { count, nameOf, placeOf, rate } from "./format.js";
import { alarming, Table } from "./table.js";

export class Flows {
  /** @param {function(object): void} onPick called with the group that sends */
  constructor(panel, onPick) {
    this.table = new Table(
      "Flows between groups of endpoints, the busiest first",
      [
        { label: "From", cell: (row) => called(row.from) },
        { label: "To", cell: (row) => (row.flow.to === "$bus" ? "the bus itself" : called(row.to)) },
        { label: "Kind", cell: (row) => row.flow.kind },
        { label: "Subject", cell: (row) => ({ text: row.flow.subject, title: row.flow.subject }) },
        { label: "Messages/s", number: true, cell: (row) => rate(row.flow.per_second) },
        { label: "Lost/s", number: true, cell: (row) => alarming(rate(row.flow.lost_per_second), row.flow.lost_per_second) },
      ],
      (row) => `${row.flow.from} ${row.flow.to} ${row.flow.kind} ${row.flow.subject}`,
      { onPick: (row) => row.from && onPick(row.from), empty: "Nothing flows." },
    );
    this.filter = el("input", { type: "search", id: "flow-filter", maxlength: "128" });
    this.filter.addEventListener("input", () => this.state && this.update(this.state));
    this.status = el("p", { class: "muted status" });
    panel.append(
      el("div", { class: "bar-of-controls" }, el("label", { for: "flow-filter", text: "Only with" }), this.filter, this.status), this.table.element,
    );
  }

  update(state) {
    this.state = state;
    const groups = new Map(state.groups.map((group) => [group.id, group]));
    const wanted = this.filter.value.trim().toLowerCase();
    const rows = state.flows
      .map((flow) => ({ flow, from: groups.get(flow.from), to: groups.get(flow.to) }))
      .filter((row) => !wanted || `${called(row.from)} ${row.to ? called(row.to) : row.flow.to} ${row.flow.kind} ${row.flow.subject}`.toLowerCase().includes(wanted));
    this.table.update(rows);
    const left = state.left_out?.flows ? `; ${count(state.left_out.flows)} quieter ones are left out` : "";
    setText(this.status, `${count(rows.length)} flows${left}`);
  }
}

function called(group) {
  return group ? `${nameOf(group)} (${placeOf(group)})` : "left";
}
