/** A table whose rows stay where they are when only their figures change. */

import { el, reconcile, setAttribute, setText } from "./dom.js";

/**
 * @typedef {object} Column
 * @property {string} label
 * @property {string} [sort] what to ask for when its heading is pressed
 * @property {boolean} [number] figures are set to the right
 * @property {boolean} [wrap] its text may take several lines
 * @property {string} [hint]
 * @property {function(object): (string|{text: string, tone: (string|undefined), title: (string|undefined)})} [cell]
 * @property {function(Element, object): void} [draw] fills the cell itself
 */

export class Table {
  /**
   * @param {string} caption
   * @param {Column[]} columns
   * @param {function(object): string} keyOf
   * @param {{onSort: function(string): void, onPick: function(object): void, empty: string}} options `onPick` makes a
   *     button of each row's first cell
   */
  constructor(caption, columns, keyOf, options = {}) {
    this.columns = columns;
    this.keyOf = keyOf;
    this.options = options;
    this.body = el("tbody");
    this.headings = columns.map((column) => this.heading(column));
    this.table = el(
      "table", {}, el("caption", { class: "unseen", text: caption }), el("thead", {}, el("tr", {}, ...this.headings)), this.body,
    );
    this.empty = el("p", { class: "muted empty", text: options.empty || "None.", hidden: true });
    // What scrolls must be reachable without a mouse.
    this.scroller = el("div", { class: "scroller", tabindex: "0", role: "region", "aria-label": caption }, this.table);
    this.element = el("div", {}, this.scroller, this.empty);
  }

  heading(column) {
    const heading = el("th", { scope: "col", class: column.number ? "number" : null, title: column.hint });
    if (column.sort) {
      heading.append(el("button", { type: "button", text: column.label, on: { click: () => this.options.onSort(column.sort) } }));
    } else {
      heading.textContent = column.label;
    }
    return heading;
  }

  /** Say by which column the rows are sorted. */
  sorted(by, descending) {
    this.columns.forEach((column, index) => {
      if (!column.sort) return;
      const order = column.sort === by ? (descending ? "descending" : "ascending") : "none";
      setAttribute(this.headings[index], "aria-sort", order);
    });
  }

  update(rows) {
    this.scroller.hidden = rows.length === 0;
    this.empty.hidden = rows.length > 0;
    reconcile(this.body, rows, this.keyOf, () => this.row(), (row, item) => this.fill(row, item));
  }

  row() {
    const row = el("tr");
    this.columns.forEach((column, index) => {
      const cell = el(index ? "td" : "th", { scope: index ? null : "row", class: column.number ? "number" : column.wrap ? "wrap" : null });
      if (index === 0 && this.options.onPick) {
        cell.append(el("button", { type: "button", class: "link", on: { click: () => this.options.onPick(row.__item) } }));
      }
      row.append(cell);
    });
    return row;
  }

  fill(row, item) {
    row.__item = item;
    this.columns.forEach((column, index) => {
      const cell = row.children[index];
      if (column.draw) {
        column.draw(cell, item);
        return;
      }
      const shown = column.cell(item);
      const { text, tone = null, title = null } = typeof shown === "object" ? shown : { text: shown };
      setText(cell.querySelector("button.link") || cell, String(text));
      setAttribute(cell, "data-tone", tone);
      setAttribute(cell, "title", title);
    });
  }
}

/** For a cell whose figure is bad news unless it is none. */
export function alarming(text, amount) {
  return { text, tone: amount > 0 ? "bad" : undefined };
}
