/** The census: who is attached. The node searches and sorts, since there may be ten thousand. */

import { el, setText } from "./dom.js";
import { bytes, count, percent, placeOf, span } from "./format.js";
import { ask } from "./stream.js";
import { alarming, Table } from "./table.js";

const PAGE = 50;
const AGAIN_MS = 3000;
const TYPING_MS = 200;

export class Census {
  /** @param {function(object): void} onPick called with the row of an endpoint that was chosen */
  constructor(panel, onPick) {
    this.query = { q: "", boundary: "", unowned: false, sort: "endpoint", descending: false, offset: 0, limit: PAGE };
    this.asked = -AGAIN_MS;
    this.table = new Table(
      "Endpoints that are attached",
      [
        { label: "Endpoint", sort: "endpoint", cell: (row) => row.endpoint },
        { label: "Unit", sort: "unit", cell: (row) => ({ text: placeOf(row), title: `${row.boundary}, tenant ${row.tenant}, unit ${row.unit}, generation ${row.generation}` }) },
        { label: "Component", sort: "component", cell: (row) => said(row.component, row.version && `${row.component} ${row.version}`) },
        { label: "Owner", sort: "owner", cell: (row) => said(row.owner) },
        { label: "Purpose", sort: "purpose", cell: (row) => said(row.purpose) },
        { label: "Age", sort: "age_seconds", number: true, cell: (row) => span(row.age_seconds) },
        { label: "Received", sort: "received_messages", number: true, hint: "messages that the bus received from it", cell: (row) => count(row.received_messages) },
        { label: "Delivered", sort: "delivered_messages", number: true, hint: "messages that it got", cell: (row) => count(row.delivered_messages) },
        { label: "Lost", sort: "dropped_messages", number: true, hint: "messages that it did not get", cell: (row) => alarming(count(row.dropped_messages), row.dropped_messages) },
        { label: "Denied", sort: "denied", number: true, hint: "what policy denied it", cell: (row) => alarming(count(row.denied), row.denied) },
        { label: "Queued", sort: "queued_bytes", number: true, cell: (row) => (row.queued_bytes ? bytes(row.queued_bytes) : "–") },
        { label: "Fullest", sort: "fullest", number: true, hint: "the quota of which most is used", cell: (row) => fullest(row.fullest) },
      ],
      (row) => row.endpoint,
      { onSort: (by) => this.sort(by), onPick, empty: "Nobody fits." },
    );
    this.search = el("input", { type: "search", id: "search", placeholder: "Name, unit, component, owner …", "aria-keyshortcuts": "/", maxlength: "128" });
    this.boundary = el(
      "select", { id: "boundary" },
      ...[["", "All"], ["guest", "Guests"], ["host", "Host"], ["soc", "Cards"]].map(([value, text]) => el("option", { value, text })),
    );
    this.unowned = el("input", { type: "checkbox", id: "unowned" });
    this.status = el("p", { class: "muted status" });
    this.before = el("button", { type: "button", text: "Previous", on: { click: () => this.turn(-PAGE) } });
    this.after = el("button", { type: "button", text: "Next", on: { click: () => this.turn(PAGE) } });
    const form = el(
      "form", { class: "bar-of-controls", role: "search" },
      el("label", { for: "search", text: "Search" }), this.search,
      el("label", { for: "boundary", text: "Boundary" }), this.boundary,
      el("label", { class: "check" }, this.unowned, "only those that do not say component, owner or purpose"),
    );
    form.addEventListener("submit", (event) => event.preventDefault());
    this.search.addEventListener("input", () => {
      clearTimeout(this.typing);
      this.typing = setTimeout(() => this.change({ q: this.search.value.trim() }), TYPING_MS);
    });
    this.boundary.addEventListener("change", () => this.change({ boundary: this.boundary.value }));
    this.unowned.addEventListener("change", () => this.change({ unowned: this.unowned.checked }));
    panel.append(form, this.table.element, el("div", { class: "bar-of-controls" }, this.before, this.after, this.status));
  }

  /** Search for `text` everywhere. */
  find(text) {
    this.search.value = text;
    this.boundary.value = "";
    this.unowned.checked = false;
    this.change({ q: text, boundary: "", unowned: false });
  }

  /** Show those only that do not say whose they are. */
  onlyUnowned() {
    this.search.value = this.boundary.value = "";
    this.unowned.checked = true;
    this.change({ q: "", boundary: "", unowned: true });
  }

  change(query) {
    Object.assign(this.query, { offset: 0 }, query);
    this.load();
  }

  sort(by) {
    const figures = this.table.columns.find((column) => column.sort === by).number;
    this.change({ sort: by, descending: this.query.sort === by ? !this.query.descending : Boolean(figures) });
  }

  turn(by) {
    Object.assign(this.query, { offset: Math.max(0, this.query.offset + by) });
    this.load();
  }

  /** Ask again if the last answer is some seconds old. */
  refresh() {
    if (performance.now() - this.asked > AGAIN_MS) this.load();
  }

  async load() {
    const number = (this.number = (this.number || 0) + 1);
    this.asked = performance.now();
    const { unowned, descending, ...query } = this.query;
    let answer;
    try {
      answer = await ask("/console/census", { ...query, ...(unowned && { unowned: "true" }), ...(descending && { descending: "true" }) });
    } catch (error) {
      if (number === this.number) setText(this.status, `The census cannot be shown: ${error.message}.`);
      return;
    }
    if (number !== this.number) return; // a later question overtook it
    if (answer.rows.length === 0 && this.query.offset > 0) {
      this.change({}); // those of this page left
      return;
    }
    this.table.update(answer.rows);
    this.table.sorted(this.query.sort, this.query.descending);
    const [from, to] = [this.query.offset + 1, this.query.offset + answer.rows.length];
    const among = answer.matching === answer.total ? "" : ` (of ${count(answer.total)} attached)`;
    setText(this.status, answer.rows.length ? `${count(from)} to ${count(to)} of ${count(answer.matching)}${among}` : `0 of ${count(answer.total)}`);
    this.before.disabled = this.query.offset === 0;
    this.after.disabled = to >= answer.matching;
  }
}

/** A claim, whole when it is pointed at; `more` is what is shown then. */
function said(claim, more = claim) {
  return claim ? { text: claim, title: more || claim } : { text: "not said", tone: "warn" };
}

function fullest(quota) {
  if (!quota?.used || !quota.limit) return "–";
  const share = quota.used / quota.limit;
  return { text: `${quota.resource.replaceAll("_", " ")} ${percent(share)}`, tone: share >= 0.9 ? "bad" : undefined, title: `${count(quota.used)} of ${count(quota.limit)}` };
}

