/**
 * Elements. Everything that is shown comes from whoever is on the bus, so text is set as text and nothing is ever
 * parsed as markup.
 */

const SVG = "http://www.w3.org/2000/svg";

/**
 * A new HTML element.
 * @param {string} name
 * @param {Object<string, *>} [attributes] `class`, `text`, `on` (a map of listeners), or attributes; false and null
 *     are left out
 * @param {...(Node|string|null)} children
 * @returns {HTMLElement}
 */
export function el(name, attributes = {}, ...children) {
  return furnish(document.createElement(name), attributes, children);
}

/**
 * A new SVG element; as {@link el}.
 * @returns {SVGElement}
 */
export function svg(name, attributes = {}, ...children) {
  return furnish(document.createElementNS(SVG, name), attributes, children);
}

function furnish(element, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key === "text") element.textContent = value;
    else if (key === "on") for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** The element with this id, which the page has. */
export function byId(id) {
  return document.getElementById(id);
}

/** Show `text` in `element`; nothing is touched when it is there already. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Set an attribute, or remove it when `value` is null; nothing is touched when it is so already. */
export function setAttribute(element, name, value) {
  if (value === null) {
    if (element.hasAttribute(name)) element.removeAttribute(name);
  } else if (element.getAttribute(name) !== String(value)) {
    element.setAttribute(name, value);
  }
}

/**
 * Make `parent` hold one child for each item, in that order, and keep the children of items that stay: whoever reads
 * or points at one does not lose it.
 * @param {Element} parent
 * @param {Array} items
 * @param {function(*): string} keyOf tells items apart
 * @param {function(*): Element} make a child for an item that is new
 * @param {function(Element, *): void} update called for each, new ones too
 */
export function reconcile(parent, items, keyOf, make, update) {
  const present = new Map();
  for (const child of parent.children) present.set(child.__key, child);
  const wanted = new Set();
  let place = parent.firstElementChild;
  for (const item of items) {
    const key = keyOf(item);
    if (wanted.has(key)) continue;
    wanted.add(key);
    let child = present.get(key);
    if (!child) {
      child = make(item);
      child.__key = key;
    }
    if (child === place) place = place.nextElementSibling;
    else parent.insertBefore(child, place);
    update(child, item);
  }
  for (const [key, child] of present) if (!wanted.has(key)) child.remove();
}

/** A command with a button that copies it. */
export function command(text) {
  const code = el("code", { text });
  const button = el("button", { type: "button", class: "small", text: "Copy", "aria-label": `Copy: ${text}` });
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      // No right to the clipboard: select it, so that the usual key copies it.
      getSelection().selectAllChildren(code);
      button.textContent = "Selected";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
  return el("span", { class: "command" }, code, button);
}

/** Used of limit as a bar; red when it is nearly full. `text` says it in words. */
export function bar(label, used, limit, text) {
  const fill = el("span", { class: "fill" });
  const element = el("span", { class: "bar", role: "meter", "aria-label": label, "aria-valuemin": "0" }, fill);
  updateBar(element, used, limit, text);
  return element;
}

/** Set what {@link bar} shows. */
export function updateBar(element, used, limit, text) {
  const share = limit > 0 ? Math.min(1, Math.max(0, used / limit)) : 0;
  element.firstElementChild.style.width = `${(share * 100).toFixed(1)}%`;
  setAttribute(element, "data-level", share >= 0.9 ? "full" : share >= 0.7 ? "high" : "low");
  setAttribute(element, "aria-valuemax", String(limit));
  setAttribute(element, "aria-valuenow", String(Math.min(used, limit)));
  setAttribute(element, "aria-valuetext", text);
}
