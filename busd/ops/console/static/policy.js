/** Why policy allows or denies something to an endpoint: the question and the answer. Changes nothing. */

import { el, setText } from "./dom.js";
import { ask } from "./stream.js";

const VERBS = ["publish", "subscribe", "call", "serve"];

export class Policy {
  constructor(panel) {
    this.endpoint = el("input", { id: "policy-endpoint", required: true, placeholder: "guest-7", maxlength: "128", autocomplete: "off" });
    this.verb = el("select", { id: "policy-verb" }, ...VERBS.map((verb) => el("option", { value: verb, text: verb })));
    this.subject = el("input", { id: "policy-subject", required: true, placeholder: "telemetry.cpu", maxlength: "256", autocomplete: "off" });
    this.answer = el("div", { class: "answer", role: "status" });
    const form = el(
      "form", { class: "bar-of-controls" },
      el("label", { for: "policy-endpoint", text: "May" }), this.endpoint,
      el("label", { for: "policy-verb", class: "unseen", text: "Verb" }), this.verb,
      el("label", { for: "policy-subject", class: "unseen", text: "Subject" }), this.subject,
      el("button", { type: "submit", class: "primary", text: "Explain" }),
    );
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.explain();
    });
    panel.append(el("p", { class: "muted", text: "Asks the policy in effect and says which rule decides, which came near, and what would turn it round. Nothing is sent." }), form, this.answer);
  }

  /** Ask about this endpoint next. */
  about(name) {
    this.endpoint.value = name;
  }

  async explain() {
    const query = { verb: this.verb.value, subject: this.subject.value.trim(), endpoint: this.endpoint.value.trim() };
    let found;
    try {
      found = await ask("/console/explain", query);
    } catch (error) {
      this.answer.replaceChildren(el("p", { class: "bad", text: error.message }));
      return;
    }
    const verdict = el("p", { class: "verdict", "data-tone": found.allowed ? "good" : "bad" });
    setText(verdict, `${found.allowed ? "Allowed" : "Denied"}: ${found.verb} ${found.subject}`);
    const parts = [verdict];
    parts.push(
      found.rule
        ? el("p", {}, "Decided by ", el("code", { text: `${found.where}: ${found.rule}` }))
        : el("p", { text: found.reason || "No rule matches, and what no rule allows is denied." }),
    );
    if (found.rule && found.reason && !found.allowed) parts.push(el("p", { class: "muted", text: found.reason }));
    if (found.advice) parts.push(el("p", { text: found.advice }));
    if (found.exports?.length) parts.push(el("h3", { text: "Exports" }), el("ul", {}, ...found.exports.map((text) => el("li", { text }))));
    if (found.considered?.length) {
      const rules = found.considered.map((each) => el("li", {}, el("code", { text: `${each.where}: ${each.rule}` }), el("span", { class: "muted", text: ` ${each.why}` })));
      parts.push(el("h3", { text: "Rules that came near" }), el("ul", { class: "patterns" }, ...rules));
    }
    this.answer.replaceChildren(...parts);
  }
}
