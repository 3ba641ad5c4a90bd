/** The node's components: whether each works, what it costs, and what it does. */

import { bar, updateBar } from "./dom.js";
import { bytes, count, span } from "./format.js";
import { alarming, Table } from "./table.js";

const TONES = { ready: "good", failed: "bad", refused: "bad" };

export class Components {
  constructor(panel) {
    this.table = new Table(
      "Components of the node",
      [
        { label: "Component", cell: (row) => `${row.component} ${row.version || ""}`.trim() },
        { label: "State", wrap: true, cell: (row) => ({ text: row.reason ? `${row.state}: ${row.reason}` : row.state, tone: TONES[row.state] || "warn", title: row.health?.detail }) },
        { label: "Owner", cell: (row) => row.owner || "not said" },
        { label: "Purpose", wrap: true, cell: (row) => row.purpose || "not said" },
        { label: "Where", wrap: true, cell: (row) => [row.placement, row.endpoint, row.pid ? `pid\u00a0${row.pid}` : ""].filter(Boolean).join(", ") || "–" },
        { label: "Up", number: true, cell: (row) => (row.pid ? span(row.seconds) : "–") },
        { label: "Restarts", number: true, cell: (row) => alarming(count(row.restarts), row.restarts) },
        { label: "Memory", draw: drawMemory },
        { label: "CPU", number: true, cell: (row) => `${(row.cpu_percent || 0).toFixed(1)} %` },
        { label: "Serves", wrap: true, cell: (row) => ({ text: (row.serves || []).join(", "), title: (row.serves || []).join(", ") }) },
      ],
      (row) => row.component,
      { empty: "This node runs none." },
    );
    panel.append(this.table.element);
  }

  update(rows) {
    this.table.update(rows);
  }
}

function drawMemory(cell, row) {
  const limit = row.budget?.memory_bytes || 0;
  const text = !row.pid ? "–" : limit ? `${bytes(row.memory_bytes)} of ${bytes(limit)}` : bytes(row.memory_bytes);
  cell.className = "stacked";
  if (!cell.firstChild) cell.append(bar(`memory of ${row.component}`, 0, 1, ""), document.createElement("span"));
  cell.firstChild.hidden = !limit || !row.pid;
  updateBar(cell.firstChild, row.memory_bytes || 0, limit, text);
  if (cell.lastChild.textContent !== text) cell.lastChild.textContent = text;
}
