/** What is wrong, worst first, with the command that helps. New ones are announced to screen readers. */

import { byId, command, el, reconcile, setAttribute, setText } from "./dom.js";

const WORDS = { critical: "Critical", warning: "Warning" };

export class Problems {
  /**
   * @param {function(string): void} onEndpoint called with the name of an endpoint that a problem is about
   * @param {function(): void} onUnowned called to show those that do not say whose they are
   */
  constructor(onEndpoint, onUnowned) {
    this.onEndpoint = onEndpoint;
    this.onUnowned = onUnowned;
    this.known = new Set();
    this.first = true;
  }

  update(problems, notes) {
    setText(byId("problems-count"), problems.length ? String(problems.length) : "");
    setAttribute(byId("problems-count"), "data-tone", problems.some((each) => each.severity === "critical") ? "bad" : problems.length ? "warn" : null);
    byId("problems-none").hidden = problems.length > 0;
    setText(byId("problems-none"), "None: nobody floods, loses messages or is denied.");
    reconcile(byId("problems-list"), numbered(problems), (each) => each.key, (each) => this.item(each.problem), fill);
    reconcile(byId("notes"), notes, (note) => note, (note) => el("li", { text: note }), () => {});
    this.announce(problems);
  }

  item(problem) {
    const name = /\b(?:guest|host|soc)-\d+\b/.exec(`${problem.command} ${problem.text}`)?.[0];
    const link = (text, click) => el("button", { type: "button", class: "link", text, on: { click } });
    const unowned = problem.command?.includes("--unowned");
    const show = unowned ? link("Show them", this.onUnowned) : name ? link(`Show ${name}`, () => this.onEndpoint(name)) : null;
    const head = el("div", { class: "head" }, el("span", { class: "severity", text: WORDS[problem.severity] || problem.severity }), show);
    return el("li", { "data-severity": problem.severity }, head, el("p", { class: "text" }), problem.command ? command(problem.command) : null);
  }

  announce(problems) {
    const fresh = problems.filter((problem) => !this.known.has(essence(problem)));
    this.known = new Set(problems.map(essence));
    if (fresh.length && !this.first) setText(byId("announce"), fresh.map((each) => `${WORDS[each.severity] || ""}: ${each.text}`).join(". "));
    else if (this.first) setText(byId("announce"), `${problems.length} problems`);
    this.first = false;
  }
}

/** Each with a key that no other has, though two may differ in nothing but a figure. */
function numbered(problems) {
  const seen = new Map();
  return problems.map((problem) => {
    const words = essence(problem);
    seen.set(words, (seen.get(words) || 0) + 1);
    return { problem, key: `${seen.get(words)} ${words}` };
  });
}

function fill(node, { problem }) {
  setText(node.querySelector(".text"), problem.text);
}

/** What makes two problems the same one: its words and its command, whatever its figures are and whom it quotes. */
function essence(problem) {
  const words = problem.text.replace(/\b(guest|host|soc)-\d+\b/g, "#").replace(/(?<![\w-])[\d,.]+( ?([KMG]i)?B\b)?%?/g, "#");
  return `${problem.severity} ${problem.command} ${words}`;
}
