/** What is selected: a group of endpoints with its flows now, and one of its endpoints with all there is about it. */

import { bar, byId, command, el, reconcile, setAttribute, setText } from "./dom.js";
import { bytes, count, nameOf, perSecond, placeOf, span, unsaid } from "./format.js";
import { keyOf } from "./layout.js";
import { ask } from "./stream.js";

const AGAIN_MS = 2000;
const FLOWS = 12;
const MEMBERS = 200;
const CLAIMS = [["component", "Component"], ["version", "Version"], ["owner", "Owner"], ["purpose", "Purpose"]];

export class Detail {
  /** @param {function(?string): void} onSelect called with the key of the group that is selected, or null */
  constructor(onSelect) {
    this.onSelect = onSelect;
    this.body = byId("detail-body");
    this.title = byId("detail-title");
    this.key = null;
    this.endpoint = null;
    this.asked = 0;
    this.clear();
  }

  clear() {
    this.key = this.endpoint = this.group = null;
    this.number = (this.number || 0) + 1;
    setText(this.title, "Selected");
    byId("detail").dataset.empty = "";
    this.body.replaceChildren(el("p", { class: "muted", text: "Nothing. Select a group in the map, or an endpoint in the census." }));
    this.onSelect(null);
  }

  /** Show a group, and its endpoint if it has one only. */
  showGroup(group) {
    this.clear();
    this.key = keyOf(group);
    this.onSelect(this.key);
    setText(this.title, nameOf(group));
    this.begin(new Members((name) => this.loadEndpoint(name)));
    this.drawGroup(group);
    this.loadMembers(group);
  }

  /** Show one endpoint by its name. */
  async showEndpoint(name) {
    this.clear();
    setText(this.title, name);
    this.begin(null);
    await this.loadEndpoint(name);
  }

  /** Make room for what is selected; `members` are a group's, and null where one endpoint was asked for by its name. */
  begin(members) {
    this.members = members;
    this.parts = { group: el("div"), flows: new FlowList(), endpoint: el("div") };
    delete byId("detail").dataset.empty;
    this.body.replaceChildren(...[this.parts.group, members?.element, this.parts.flows.element, this.parts.endpoint].filter(Boolean));
  }

  /** Take over what changed. */
  update(state) {
    this.state = state;
    if (this.key) {
      const group = state.groups.find((each) => keyOf(each) === this.key);
      if (group) this.drawGroup(group);
      else setText(this.parts.group, "It left, or is quiet while others are busier.");
    }
    if (performance.now() - this.asked <= AGAIN_MS) return;
    if (this.endpoint) this.loadEndpoint(this.endpoint);
    if (this.members && (!this.endpoint || this.group.endpoints > 1)) this.loadMembers(this.group);
  }

  drawGroup(group) {
    this.group = group;
    const missing = unsaid(group);
    const together = group.endpoints > 1 ? ` of ${count(group.endpoints)} endpoints` : "";
    this.parts.group.replaceChildren(
      facts([
        ["Where", `${group.boundary}, ${placeOf(group)}`],
        ["Owner", group.owner || "not said", missing.includes("owner") && "warn"],
        ["Purpose", group.purpose || "not said", missing.includes("purpose") && "warn"],
        ["Sends", `${perSecond(group.sends_per_second)}${together}${group.throttled ? ", throttled" : ""}`, group.throttled && "warn"],
        ["Receives", `${perSecond(group.receives_per_second)}${together}`],
        group.dropped_per_second > 0 && ["Loses", perSecond(group.dropped_per_second), "bad"],
        group.denied_per_second > 0 && ["Denied", perSecond(group.denied_per_second), "bad"],
        group.queued_bytes > 0 && ["Queued", bytes(group.queued_bytes)],
      ]),
    );
    if (!this.ofEndpoint()) this.drawGroupFlows(group);
  }

  /** Whether the flows that are shown are those of an endpoint, and not of all of its group. */
  ofEndpoint() {
    return Boolean(this.endpoint) && this.group?.endpoints !== 1;
  }

  drawGroupFlows(group) {
    if (!this.state) return;
    const names = new Map(this.state.groups.map((each) => [each.id, each]));
    const called = (id) => (id === "$bus" ? "the bus" : names.has(id) ? `${nameOf(names.get(id))}, ${placeOf(names.get(id))}` : "?");
    const rows = this.state.flows
      .filter((flow) => flow.from === group.id || flow.to === group.id)
      .map((flow) => ({ flow, out: flow.from === group.id, other: called(flow.from === group.id ? flow.to : flow.from) }));
    this.parts.flows.show("Flows now", rows);
  }

  async loadMembers(group) {
    const { number, members } = this;
    this.asked = performance.now();
    const { boundary, tenant, unit, component } = group;
    let answer;
    try {
      answer = await ask("/console/census", { boundary, tenant, unit, component, unowned: component ? null : "true", limit: MEMBERS });
    } catch (error) {
      if (number === this.number) members.fail(error);
      return;
    }
    if (number !== this.number) return;
    const rows = answer.rows.filter((row) => (row.component || null) === component);
    if (rows.length === 1 && !this.endpoint) this.loadEndpoint(rows[0].endpoint);
    members.show(rows, component ? answer.matching : group.endpoints);
  }

  async loadEndpoint(name) {
    const number = this.number;
    this.endpoint = name;
    this.asked = performance.now();
    let answer;
    try {
      answer = await ask("/console/endpoint", { name });
    } catch (error) {
      if (number !== this.number || this.endpoint !== name) return;
      if (error.status === 404) this.endpoint = null; // it left, and its name is never given again
      this.parts.endpoint.replaceChildren(el("p", { class: "muted", text: error.status === 404 ? `${name} is not attached any more; Departed may say why.` : `${name}: ${error.message}` }));
      return;
    }
    if (number !== this.number || this.endpoint !== name) return;
    this.drawEndpoint(answer);
    if (!this.key) this.drawGroupOf(answer);
    if (this.ofEndpoint()) this.parts.flows.show(`Flows of ${name}`, answer.flows.map((flow) => ownFlow(flow, name)));
  }

  /** Of an endpoint that was chosen by its name: its group too, when that is in the drawing. */
  drawGroupOf(endpoint) {
    const group = this.state?.groups.find((each) => keyOf(each) === keyOf(groupOf(endpoint)));
    if (!group) return;
    this.key = keyOf(group);
    this.onSelect(this.key);
    this.drawGroup(group);
  }

  drawEndpoint(endpoint) {
    const { principal, claims } = endpoint;
    const parts = this.frameOf(endpoint.endpoint);
    parts.principal.replaceChildren(facts([
      ["Boundary", principal.boundary], ["Tenant", principal.tenant],
      ["Unit", `${principal.unit}${principal.generation ? `, generation ${principal.generation}` : ""}`],
      known(principal.uid) && ["User", `uid ${principal.uid}${known(principal.gid) ? `, gid ${principal.gid}` : ""}`],
      known(principal.pid) && ["Process", `pid ${principal.pid}`],
      known(principal.cid) && ["CID", String(principal.cid)],
      principal.key && ["Key", principal.key],
      ["Account", `${endpoint.account}${endpoint.throttled.length ? `, throttled: ${endpoint.throttled.join(", ")}` : ""}`, endpoint.throttled.length > 0 && "warn"],
      ["Attached", `for ${span(endpoint.seconds)}`],
      endpoint.lost_messages > 0 && ["Lost", `${count(endpoint.lost_messages)} messages since it came`, "bad"],
    ]));
    parts.claims.replaceChildren(facts(CLAIMS.map(([claim, label]) => [label, claims[claim] || "not said", !claims[claim] && claim !== "version" && "warn"])));
    parts.quotas.replaceChildren(quotas(endpoint.quotas));
    parts.subscriptions.show(endpoint.subscriptions.map((row) => pattern(row, `${row.latest ? "latest only" : ""} ${row.lost_unreported ? `${count(row.lost_unreported)} lost` : ""}`)));
    parts.serves.show(endpoint.serves.map((row) => pattern(row, `group ${row.group}, ${count(row.outstanding)} under way`)));
    parts.calls.show(calls(endpoint));
  }

  /** The parts of an endpoint's detail, made once: what somebody has focused or opened stays so. */
  frameOf(name) {
    if (this.frame?.name === name && this.frame.element.parentNode === this.parts.endpoint) return this.frame;
    const parts = { name, principal: el("div"), claims: el("div"), quotas: el("div") };
    for (const [part, label] of [["subscriptions", "Subscriptions"], ["serves", "Serves"], ["calls", "Calls under way"]]) parts[part] = new Fold(label);
    parts.element = el(
      "div", {},
      el("h3", { text: `Endpoint ${name}` }), command(`bus inspect ${name}`),
      el("h4", { text: "Principal: proven to the bus" }), parts.principal,
      el("h4", { text: "Claims: said by itself" }), parts.claims,
      el("h4", { text: "Quotas: used of what it may have" }), parts.quotas,
      parts.subscriptions.element, parts.serves.element, parts.calls.element,
    );
    this.parts.endpoint.replaceChildren(parts.element);
    this.frame = parts;
    return parts;
  }
}

/** The endpoints of a group. */
class Members {
  /** @param {function(string): void} onPick called with the name of the one that was chosen */
  constructor(onPick) {
    this.onPick = onPick;
    this.title = el("h3");
    this.list = el("ul", { class: "members" });
    this.element = el("div", { hidden: true }, this.title, this.list);
  }

  show(rows, total) {
    this.element.hidden = total < 2;
    setText(this.title, `${count(total)} endpoints${rows.length < total ? `, the first ${count(rows.length)}` : ""}`);
    reconcile(this.list, rows, (row) => row.endpoint, (row) => this.item(row), (item, row) => {
      setText(item.lastChild, ` ${span(row.age_seconds)}, ${count(row.received_messages)} received`);
    });
  }

  item({ endpoint }) {
    const button = el("button", { type: "button", class: "link", text: endpoint, on: { click: () => this.onPick(endpoint) } });
    return el("li", {}, button, el("span", { class: "muted" }));
  }

  fail(error) {
    this.element.hidden = false;
    setText(this.title, `Its endpoints cannot be shown: ${error.message}.`);
  }
}

/** What flows from and to what is selected, the busiest first. */
class FlowList {
  constructor() {
    this.title = el("h3");
    this.list = el("ul", { class: "flow-list" });
    this.element = el("div", { hidden: true }, this.title, this.list);
  }

  show(title, rows) {
    this.element.hidden = rows.length === 0;
    setText(this.title, title);
    reconcile(this.list, rows.slice(0, FLOWS), (row) => `${row.flow.from} ${row.flow.to} ${row.flow.kind} ${row.flow.subject}`, flowItem, fillFlow);
  }
}

/** A flow of endpoint `name`, with who is at its other end. */
function ownFlow(flow, name) {
  const out = flow.from === name;
  const end = out ? flow.to : flow.from;
  const other = end === "$bus" ? "the bus" : flow.other ? `${nameOf(flow.other)}, ${placeOf(flow.other)} (${end})` : `${end}, which left`;
  return { flow, out, other };
}

/** A list that can be folded away, with how many are in it. */
class Fold {
  constructor(label) {
    this.number = el("span", { class: "count" });
    this.list = el("ul", { class: "patterns" });
    this.element = el("details", {}, el("summary", {}, label, this.number), this.list);
  }

  show(items) {
    setText(this.number, count(items.length));
    this.list.replaceChildren(...items);
  }
}

function known(value) {
  return value !== null && value !== undefined;
}

function pattern(row, more) {
  return el("li", {}, el("code", { text: row.pattern }), el("span", { class: "muted", text: ` ${more}` }));
}

function groupOf(endpoint) {
  return { ...endpoint.principal, component: endpoint.claims.component || null };
}

/** Names with values; rows that are false are left out. */
function facts(rows) {
  return el("dl", { class: "facts" }, ...rows.filter(Boolean).flatMap(([name, value, tone]) => [el("dt", { text: name }), el("dd", { text: value, "data-tone": tone || null })]));
}

/** Bars of its own quotas, and of what its account has of the node's. */
function quotas(charges) {
  const rows = Object.entries(charges).map(([key, { used, limit }]) => {
    const name = key.replace(/^node_/, "account: ").replaceAll("_", " ");
    const said = name.endsWith("bytes") ? `${bytes(used)} of ${bytes(limit)}` : `${count(used)} of ${count(limit)}`;
    return el("li", {}, el("span", { text: name }), bar(name, used, limit, said), el("span", { class: "muted", text: said }));
  });
  return el("ul", { class: "quotas" }, ...rows);
}

function calls(endpoint) {
  const made = endpoint.calls.map((call) => `calls ${call.subject}, held by ${call.responder ?? "nobody yet"} for ${span(call.seconds)}`);
  const held = endpoint.held_calls.map((call) => `holds ${call.subject} of ${call.caller ?? "a caller that left"}`);
  return [...made, ...held].map((text) => el("li", { text }));
}

function flowItem() {
  return el("li", {}, el("span", { class: "way" }), el("span", { class: "other" }), el("code"), el("span", { class: "amount" }));
}

function fillFlow(node, { flow, out, other }) {
  const [way, name, subject, amount] = node.children;
  setText(way, out ? "to " : "from ");
  setText(name, other);
  setAttribute(name, "title", other);
  setText(subject, `${flow.kind} ${flow.subject}`);
  const rate = flow.per_second > 0 || !flow.messages ? perSecond(flow.per_second) : `${count(flow.messages)} so far`;
  setText(amount, `${rate}${flow.lost_per_second > 0 ? `, ${perSecond(flow.lost_per_second)} lost` : ""}`);
  node.dataset.tone = flow.lost_per_second > 0 ? "bad" : "";
}
