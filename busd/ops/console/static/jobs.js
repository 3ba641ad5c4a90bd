/** Deletion jobs and how far they are. */

import { el, setAttribute, setText } from "./dom.js";
import { count, percent, rate, span } from "./format.js";
import { alarming, Table } from "./table.js";

export class Jobs {
  constructor(panel) {
    this.table = new Table(
      "Deletion jobs",
      [
        { label: "Job", cell: (row) => row.id },
        { label: "State", cell: (row) => ({ text: row.reason ? `${row.state}: ${row.reason}` : row.state, tone: row.state === "failed" ? "bad" : row.state === "parked" ? "warn" : undefined }) },
        { label: "Tenant", cell: (row) => row.tenant },
        { label: "What goes", cell: (row) => ({ text: `${row.root}: ${row.path}`, title: row.path }) },
        { label: "Progress", draw: drawProgress },
        { label: "Removed", number: true, cell: (row) => count(row.removed) },
        { label: "Of", number: true, cell: (row) => count(row.total) },
        { label: "Entries/s", number: true, cell: (row) => rate(row.per_second) },
        { label: "Done in", number: true, cell: (row) => span(row.eta_seconds) },
        { label: "Failed", number: true, cell: (row) => alarming(count(row.failed), row.failed) },
      ],
      (row) => row.id,
      { empty: "There are none, or the deletion component is not running." },
    );
    panel.append(this.table.element);
  }

  update(rows) {
    this.table.update(rows);
  }
}

function drawProgress(cell, row) {
  if (!cell.firstChild) cell.append(el("progress", { max: "1", "aria-label": `progress of ${row.id}` }), el("span"));
  const [progress, text] = cell.children;
  const share = row.total > 0 ? Math.min(1, row.removed / row.total) : null;
  // Without a value it shows that work goes on and nobody knows how much there is.
  setAttribute(progress, "value", share === null ? (row.state === "running" ? null : "0") : share.toFixed(4));
  setText(text, share === null ? "not counted" : percent(share));
}
