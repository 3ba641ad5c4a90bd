/** The cache, tenant by tenant. */

import { bar, updateBar } from "./dom.js";
import { bytes, count, percent, span } from "./format.js";
import { alarming, Table } from "./table.js";

export class Caches {
  constructor(panel) {
    this.table = new Table(
      "The cache, by tenant",
      [
        { label: "Tenant", cell: (row) => row.tenant },
        { label: "Entries", number: true, cell: (row) => count(row.entries) },
        { label: "Used", draw: drawUsed },
        { label: "Hits", number: true, cell: (row) => count(row.hits) },
        { label: "Misses", number: true, cell: (row) => count(row.misses) },
        { label: "Hit ratio", number: true, cell: (row) => percent(row.hit_ratio) },
        { label: "Evicted", number: true, hint: "taken out to make room", cell: (row) => count(row.evicted) },
        { label: "Unauthentic", number: true, hint: "entries that were not what was sealed", cell: (row) => alarming(count(row.unauthentic), row.unauthentic) },
        { label: "Epoch", number: true, hint: "how many data keys there have been", cell: (row) => count(row.epoch) },
        { label: "Age of key", number: true, cell: (row) => span(row.key_age) },
      ],
      (row) => row.tenant,
      { empty: "No tenant has a share, or the cache component is not running." },
    );
    panel.append(this.table.element);
  }

  update(rows) {
    this.table.update(rows);
  }
}

function drawUsed(cell, row) {
  const text = row.bytes_limit ? `${bytes(row.bytes)} of ${bytes(row.bytes_limit)}` : bytes(row.bytes);
  if (!cell.firstChild) cell.append(bar(`cache of ${row.tenant}`, 0, 1, ""), document.createElement("span"));
  cell.firstChild.hidden = !row.bytes_limit;
  updateBar(cell.firstChild, row.bytes || 0, row.bytes_limit || 0, text);
  if (cell.lastChild.textContent !== text) cell.lastChild.textContent = text;
}
