/** Views of which one is shown: tabs as the ARIA practices have them. The address names the view. */

import { el, setAttribute, setText } from "./dom.js";

export class Tabs {
  /** @param {function(string): void} onShow called with the name of the view that is shown now */
  constructor(list, panels, onShow) {
    this.list = list;
    this.panels = panels;
    this.onShow = onShow;
    this.views = new Map();
    this.shown = null;
    list.addEventListener("keydown", (event) => this.key(event));
    addEventListener("hashchange", () => this.fromAddress());
  }

  /** Add a view; the element that it has to itself. */
  add(name, label) {
    const count = el("span", { class: "count" });
    const tab = el(
      "button", { type: "button", role: "tab", id: `tab-${name}`, "aria-controls": `panel-${name}`, on: { click: () => this.show(name) } },
      label, count,
    );
    const panel = el("div", { role: "tabpanel", id: `panel-${name}`, "aria-labelledby": `tab-${name}`, hidden: true });
    this.list.append(tab);
    this.panels.append(panel);
    this.views.set(name, { tab, panel, count });
    return panel;
  }

  /** Show a number beside the label of a view; `tone` colours it. */
  number(name, text, tone = null) {
    const { count } = this.views.get(name);
    setText(count, text);
    setAttribute(count, "data-tone", tone);
  }

  show(name) {
    if (!this.views.has(name) || this.shown === name) return;
    this.shown = name;
    for (const [each, { tab, panel }] of this.views) {
      setAttribute(tab, "aria-selected", String(each === name));
      setAttribute(tab, "tabindex", each === name ? "0" : "-1");
      panel.hidden = each !== name;
    }
    history.replaceState(null, "", `#${name}`);
    this.onShow(name);
  }

  /** Show the view that the address names, or the first. */
  fromAddress() {
    const name = location.hash.slice(1);
    if (name === "views" && this.shown) return; // the link that skips to the views
    this.show(this.views.has(name) ? name : [...this.views.keys()][0]);
  }

  key(event) {
    const names = [...this.views.keys()];
    const at = names.indexOf(this.shown);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: names.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    const name = names[(to + names.length) % names.length];
    this.show(name);
    this.views.get(name).tab.focus();
  }
}
