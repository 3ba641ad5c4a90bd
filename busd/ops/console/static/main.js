/** The page: what comes in goes to the view that is shown. */

import { byId, el, setAttribute, setText } from "./dom.js";
import { clock, count, span } from "./format.js";
import { attach } from "./theme.js";
import { Caches } from "./caches.js";
import { Census } from "./census.js";
import { Components } from "./components.js";
import { Departures } from "./departures.js";
import { Detail } from "./detail.js";
import { Drawing } from "./drawing.js";
import { Flows } from "./flows.js";
import { Jobs } from "./jobs.js";
import { Policy } from "./policy.js";
import { Problems } from "./problems.js";
import { Stream } from "./stream.js";
import { Tabs } from "./tabs.js";
import { Totals } from "./totals.js";

const LIVE = { connecting: "Connecting", live: "Live", late: "Late", lost: "Reconnecting", paused: "Paused" };

let state = null;
let collecting = false;

const tabs = new Tabs(byId("tabs"), byId("panels"), () => show());
const totals = new Totals(byId("totals").querySelector("dl"));

const map = tabs.add("map", "Map");
map.append(legend());
const drawing = new Drawing(map, { onPick: (group) => (group ? select(() => detail.showGroup(group)) : detail.clear()), onUnit: (unit) => search(unit.name) });
const detail = new Detail((key) => drawing.select(key));
const census = new Census(tabs.add("census", "Census"), (row) => {
  policy.about(row.endpoint);
  select(() => detail.showEndpoint(row.endpoint));
});
const flows = new Flows(tabs.add("flows", "Flows"), (group) => select(() => detail.showGroup(group)));
const components = new Components(tabs.add("components", "Components"));
const jobs = new Jobs(tabs.add("deletion", "Deletion"));
const caches = new Caches(tabs.add("cache", "Cache"));
const departures = new Departures(tabs.add("departed", "Departed"));
const policy = new Policy(tabs.add("policy", "Policy"));
const problems = new Problems(
  (name) => {
    policy.about(name);
    select(() => detail.showEndpoint(name));
  },
  () => {
    tabs.show("census");
    census.onlyUnowned();
  },
);

const stream = new Stream((received) => {
  state = received;
  // One redraw for what came in since the last frame: a page that is slow shows the latest, and falls behind by nothing.
  if (collecting) return;
  collecting = true;
  requestAnimationFrame(() => {
    collecting = false;
    show();
  });
}, connection);

function show() {
  if (!state) {
    if (tabs.shown === "census") census.refresh();
    return;
  }
  const { node } = state;
  setText(byId("node-name"), node.name);
  document.title = `${problemSign()}${node.name} · busd`;
  byId("node-state").hidden = false;
  setText(byId("node-state"), node.state);
  setAttribute(byId("node-state"), "data-tone", node.state === "ready" ? "good" : "warn");
  setText(byId("node-facts"), `busd ${node.version}, protocol ${node.protocol}, pid ${node.pid}, ${node.loop}, up ${span(node.uptime_seconds)}`);
  totals.update(state.totals);
  problems.update(state.problems, state.notes || []);
  tabs.number("census", count(state.totals.endpoints));
  tabs.number("flows", count(state.flows.length));
  const failed = state.components.filter((each) => each.state === "failed").length;
  tabs.number("components", failed ? `${count(failed)} failed` : count(state.components.length), failed ? "bad" : null);
  tabs.number("deletion", state.jobs.length ? count(state.jobs.length) : "");
  tabs.number("cache", state.caches.length ? count(state.caches.length) : "");
  const views = {
    map: () => drawing.update(state),
    census: () => census.refresh(),
    flows: () => flows.update(state),
    components: () => components.update(state.components),
    deletion: () => jobs.update(state.jobs),
    cache: () => caches.update(state.caches),
    departed: () => departures.refresh(),
  };
  views[tabs.shown]?.();
  detail.update(state);
}

function problemSign() {
  return state.problems.some((each) => each.severity === "critical") ? "(!) " : "";
}

function select(showDetail) {
  showDetail();
  const section = byId("detail");
  // On a narrow screen the detail is below the drawing, where nobody would see it come.
  if (section.getBoundingClientRect().top > innerHeight - 80) section.scrollIntoView({ block: "start" });
}

function search(text) {
  tabs.show("census");
  census.find(text);
  byId("search").focus();
}

function connection(name, reason) {
  byId("live").dataset.state = name;
  setText(byId("live-text"), LIVE[name]);
  const old = name === "lost" || name === "late" || name === "paused";
  document.documentElement.classList.toggle("old", old);
  const banner = byId("banner");
  banner.hidden = !(name === "lost" || name === "late");
  if (banner.hidden) return;
  const when = state ? ` What is shown is of ${clock(state.at)}.` : "";
  const why = name === "late" ? `The node is silent (${reason}).` : `${reason}. Trying again.`;
  setText(banner, `${why}${when}`);
}

function legend() {
  const sign = (kind, text) => el("span", { class: `sign ${kind}` }, el("span", { class: "stroke" }), text);
  const only = el("input", { type: "checkbox", id: "only-trouble" });
  only.addEventListener("change", () => drawing.root.classList.toggle("only-trouble", only.checked));
  return el(
    "div", { class: "legend" },
    sign("publish", "publish"), sign("call", "call"), sign("bad", "lost or denied"), sign("warn", "throttled"), sign("unowned", "does not say whose"),
    el("span", { class: "muted", text: "thicker: more a second" }),
    el("label", { class: "check" }, only, "only trouble"),
  );
}

function pause() {
  const paused = byId("pause").getAttribute("aria-pressed") !== "true";
  setAttribute(byId("pause"), "aria-pressed", String(paused));
  setText(byId("pause"), paused ? "Go on" : "Pause");
  stream.setPaused(paused);
}

byId("pause").addEventListener("click", pause);
attach(byId("theme"));
byId("detail-close").addEventListener("click", () => detail.clear());
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target.closest?.("input, select, textarea");
  if (event.key === "Escape") {
    if (typing && typing.value) return; // the field is emptied first
    detail.clear();
  } else if (!typing && event.key === "/") {
    event.preventDefault();
    tabs.show("census");
    byId("search").focus();
  } else if (!typing && event.key === "p") {
    pause();
  }
});
tabs.fromAddress();
stream.resume();
