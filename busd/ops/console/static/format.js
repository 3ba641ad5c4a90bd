/** Figures and names as text: how the page writes them, in one place. */

const WHOLE = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const SHORT = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const NONE = "–";

/** A count: `12,345`. */
export function count(value) {
  return value === null || value === undefined ? NONE : WHOLE.format(value);
}

/** A count in little room: `12.3K`. */
export function short(value) {
  if (value === null || value === undefined) return NONE;
  return value > 0 && value < 0.05 ? "<0.1" : SHORT.format(value);
}

/** How many a second, without the unit: `1,234`, `2.5`, `<0.1`, and a dash for none or not known. */
export function rate(value) {
  if (!value || value <= 0) return NONE;
  if (value < 0.05) return "<0.1";
  return value < 10 ? value.toFixed(1) : WHOLE.format(value);
}

/** How many a second: `1,234/s`, and a dash for none or not known. */
export function perSecond(value) {
  return value > 0 ? `${rate(value)}/s` : NONE;
}

/** Bytes with a binary unit: `32.0 MiB`. */
export function bytes(value) {
  if (value === null || value === undefined) return NONE;
  let amount = value;
  for (const unit of ["B", "KiB", "MiB", "GiB", "TiB"]) {
    if (amount < 1024 || unit === "TiB") return `${unit === "B" ? WHOLE.format(amount) : amount.toFixed(1)} ${unit}`;
    amount /= 1024;
  }
  return NONE;
}

/** A span of seconds: `850 ms`, `12 s`, `3 min`, `2.1 h`, `3.4 d`. */
export function span(seconds) {
  if (seconds === null || seconds === undefined) return NONE;
  if (seconds < 1) return `${WHOLE.format(seconds * 1000)} ms`;
  if (seconds < 120) return `${WHOLE.format(seconds)} s`;
  if (seconds < 7200) return `${WHOLE.format(seconds / 60)} min`;
  return seconds < 172800 ? `${(seconds / 3600).toFixed(1)} h` : `${(seconds / 86400).toFixed(1)} d`;
}

/** A share: `93 %`. */
export function percent(share) {
  return share === null || share === undefined ? NONE : `${(share * 100).toFixed(share > 0.995 && share < 1 ? 2 : 0)} %`;
}

/** Time of day of seconds since 1970, as the reader's clock has it: `14:03:22`. */
export function clock(at) {
  return new Date(at * 1000).toTimeString().slice(0, 8);
}

/** What to call a group of endpoints, or an endpoint: what it says it is. */
export function nameOf(row) {
  return row.component || "says nothing";
}

/** What of component, owner and purpose it does not say. */
export function unsaid(row) {
  return ["component", "owner", "purpose"].filter((claim) => !row[claim]);
}

/** Where it is: `vm-7 of acme`, or the unit alone where the tenant is the node itself. */
export function placeOf(row) {
  const unit = row.unit || "no unit";
  return row.tenant === "node" ? unit : `${unit} of ${row.tenant}`;
}
