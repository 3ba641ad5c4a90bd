/** Who left lately, and why. */

import { el, setText } from "./dom.js";
import { count, placeOf, span } from "./format.js";
import { ask } from "./stream.js";
import { alarming, Table } from "./table.js";

const AGAIN_MS = 3000;

export class Departures {
  constructor(panel) {
    this.asked = -AGAIN_MS;
    this.table = new Table(
      "Endpoints that left, the latest first",
      [
        { label: "Endpoint", cell: (row) => row.endpoint || "never said hello" },
        { label: "Left", number: true, cell: (row) => `${span(row.ago)} ago` },
        { label: "Reason", cell: (row) => ({ text: row.error ? `${row.reason}: ${errorText(row.error)}` : row.reason, title: row.error ? errorText(row.error) : null }) },
        { label: "Boundary", cell: (row) => row.principal.boundary },
        { label: "Unit", cell: (row) => placeOf(row.principal) },
        { label: "Component", cell: (row) => row.claims?.component || { text: "not said", tone: "warn" } },
        { label: "Owner", cell: (row) => row.claims?.owner || { text: "not said", tone: "warn" } },
        { label: "Stayed", number: true, cell: (row) => span(row.seconds) },
        { label: "Received", number: true, cell: (row) => count(row.received_messages) },
        { label: "Delivered", number: true, cell: (row) => count(row.delivered_messages) },
        { label: "Lost", number: true, cell: (row) => alarming(count(row.lost_messages), row.lost_messages) },
      ],
      (row) => row.endpoint || JSON.stringify([row.principal, row.received_messages, Math.round(row.seconds * 1000)]),
      { empty: "Nobody has left." },
    );
    this.status = el("p", { class: "muted status" });
    panel.append(this.table.element, this.status);
  }

  refresh() {
    if (performance.now() - this.asked > AGAIN_MS) this.load();
  }

  async load() {
    this.asked = performance.now();
    try {
      this.table.update((await ask("/console/departures")).rows);
      setText(this.status, "");
    } catch (error) {
      setText(this.status, `Departures cannot be shown: ${error.message}.`);
    }
  }
}

/** An error as text, whether it is one already or a map of its fields. */
function errorText(error) {
  return typeof error === "string" ? error : error.text || error.name || JSON.stringify(error);
}
