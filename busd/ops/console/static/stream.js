/**
 * The node's state as it comes in. What can be seen of it is one of: connecting, live, late (connected, but nothing
 * comes), lost (connecting again), paused.
 */

const LATE_MS = 5000;
const RETRY_MS = [1000, 2000, 4000, 8000];
const ANSWER_MS = 3000;

export class Stream {
  /**
   * @param {function(object): void} onState called with each document
   * @param {function(string, string): void} onChange called with the state of the connection and a reason
   */
  constructor(onState, onChange) {
    this.onState = onState;
    this.onChange = onChange;
    this.source = null;
    this.timer = 0;
    this.attempts = 0;
    /** Of which connection the last news is: what an older one still says does not count. */
    this.attempt = 0;
    this.paused = false;
    // Nobody looks at a page in the background, and the node collects only for those who look.
    document.addEventListener("visibilitychange", () => (document.hidden ? this.close() : this.resume()));
  }

  /** Connect, unless it is paused or connected. */
  resume() {
    if (this.paused || this.source || document.hidden) return;
    this.close();
    const source = new EventSource("/console/events");
    this.source = source;
    if (!this.attempts) this.onChange("connecting", "");
    this.watch();
    source.addEventListener("state", (event) => {
      let state;
      try {
        state = JSON.parse(event.data);
      } catch {
        this.onChange("late", "the node sent something that is not JSON");
        return;
      }
      this.attempts = 0;
      this.watch();
      this.onChange("live", "");
      this.onState(state);
    });
    source.addEventListener("error", () => this.retry());
  }

  /** Stop the display, or go on. */
  setPaused(paused) {
    this.paused = paused;
    if (paused) {
      this.close();
      this.onChange("paused", "");
    } else {
      this.attempts = 0;
      this.resume();
    }
  }

  close() {
    this.attempt += 1;
    clearTimeout(this.timer);
    this.source?.close();
    this.source = null;
  }

  watch() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.onChange("late", "no figures for 5 s"), LATE_MS);
  }

  /** Say why there is no stream, and try again: the browser's own attempts end for ever at a 503. */
  async retry() {
    this.close();
    const { attempt } = this;
    this.onChange("lost", "The connection to the node was lost");
    const reason = await refusal();
    if (attempt !== this.attempt) return; // paused, or in the background, or connected, since then
    if (reason) this.onChange("lost", reason);
    this.timer = setTimeout(() => this.resume(), RETRY_MS[Math.min(this.attempts, RETRY_MS.length - 1)]);
    this.attempts += 1;
  }
}

/**
 * Why the node gives no stream, which a browser does not tell of an EventSource; empty if it would give one.
 * @returns {Promise<string>}
 */
async function refusal() {
  const abort = new AbortController();
  const timer = setTimeout(() => abort.abort(), ANSWER_MS);
  try {
    const answer = await fetch("/console/events", { signal: abort.signal });
    return answer.ok ? "" : `The node refuses: ${(await answer.json()).error}`;
  } catch {
    return "The node does not answer: it has stopped, or the way to it, such as a tunnel, is closed";
  } finally {
    clearTimeout(timer);
    abort.abort(); // what was asked for is the status only
  }
}

/**
 * Ask the node for a document.
 * @param {string} path
 * @param {Object<string, *>} query empty values are left out
 * @returns {Promise<object>}
 * @throws {Error} with the node's reason, or why there is none; `status` is the node's, if it answered
 */
export async function ask(path, query = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== "" && value !== null && value !== false && value !== undefined);
  const parameters = new URLSearchParams(given.map(([key, value]) => [key, String(value)]));
  let answer;
  try {
    answer = await fetch(parameters.size ? `${path}?${parameters}` : path, { headers: { Accept: "application/json" } });
  } catch {
    throw new Error("the node does not answer");
  }
  let body = null;
  try {
    body = await answer.json();
  } catch { /* said below */ }
  if (!answer.ok) throw Object.assign(new Error(body?.error || `the node answered ${answer.status}`), { status: answer.status });
  if (body === null) throw new Error("the node's answer is not JSON");
  return body;
}
