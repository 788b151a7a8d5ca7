// Parts that several pages share: errors, empty states, states that are kept, and the words for figures.
import { html, useEffect, useId, useRef, useState } from "./lib.js";
import { api } from "./api.js";

/** An error as a reader needs it; `error` is what `api` rejected with, or null. */
export function Problem({ error, again }) {
  if (!error) return null;
  return html`<div class="problem" role="alert">
    <p>${error.message}</p>
    ${again && html`<button onClick=${again}>Try again</button>`}
  </div>`;
}

/** A place that has nothing to show yet: what will be here, and the step that fills it. */
export function Empty({ title, children }) {
  return html`<div class="empty"><h2>${title}</h2>${children}</div>`;
}

/** A quiet note that something is on its way. Screen readers hear it once. */
export function Busy({ children }) {
  return html`<p class="busy" role="status"><span class="dot" aria-hidden="true"></span>${children}</p>`;
}

/** Text for screen readers alone, spoken when it changes. */
export function Spoken({ text }) {
  return html`<p class="hidden" role="status" aria-live="polite">${text}</p>`;
}

/** The JSON at a path: {value, error, again}. Asked again when `path` changes; null asks for nothing. */
export function useAnswer(path) {
  const [answer, setAnswer] = useState({ path: null });
  const [turn, setTurn] = useState(0);
  useEffect(() => {
    if (path === null) return undefined;
    const leaving = new AbortController();
    api(path, undefined, leaving.signal).then(
      (value) => setAnswer({ path, value }),
      (error) => leaving.signal.aborted || setAnswer({ path, error }),
    );
    return () => leaving.abort();
  }, [path, turn]);
  const now = answer.path === path ? answer : {};
  return { value: now.value, error: now.error, again: () => { setAnswer({ path: null }); setTurn(turn + 1); } };
}

/** A state that survives a reload of the page in this tab. */
export function useKept(name, first) {
  const [value, setValue] = useState(() => {
    try {
      const kept = sessionStorage.getItem(name);
      return kept === null ? first : JSON.parse(kept);
    } catch {
      return first;
    }
  });
  useEffect(() => remember(name, value), [value]);
  return [value, setValue];
}

/** Write the state that `useKept` begins with. */
export function remember(name, value) {
  try {
    sessionStorage.setItem(name, JSON.stringify(value));
  } catch { /* the storage is full or switched off: the state is then lost with the page */ }
}

/** A function that draws the component again, at most once a frame; then `drawn` runs in the next frame. */
export function useRedraw(drawn) {
  const [, redraw] = useState(0);
  const isWaiting = useRef(false);
  return () => {
    if (isWaiting.current) return;
    isWaiting.current = true;
    requestAnimationFrame(() => {
      isWaiting.current = false;
      redraw((turn) => turn + 1);
      if (drawn) requestAnimationFrame(drawn);
    });
  };
}

/** A list of models, for a choice. */
export function ModelChoice({ label, models, value, onChoose }) {
  const id = useId();
  return html`<div class="field">
    <label for=${id}>${label}</label>
    <select id=${id} value=${value} onChange=${(event) => onChoose(event.currentTarget.value)}>
      ${models.map((model) => html`<option value=${model.path}>${model.label}</option>`)}
    </select>
  </div>`;
}

export const percent = (share) => (share >= 0.1 ? `${(100 * share).toFixed(0)}%` : share >= 0.001 ? `${(100 * share).toFixed(1)}%` : "under 0.1%");
export const count = (n) => n.toLocaleString("en");

/** A colour of the style sheet, such as "--c1", as it is now: a canvas needs it in plain words. */
export function colour(name) {
  const probe = document.createElement("span");
  probe.style.color = `var(${name})`;
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

/** Draw now, and again when an element has another size or the page other colours. Gives a function that ends it. */
export function keptDrawn(element, draw) {
  const resized = new ResizeObserver(draw), system = matchMedia("(prefers-color-scheme: dark)");
  draw();
  resized.observe(element);
  addEventListener("themechange", draw);
  system.addEventListener("change", draw);
  return () => {
    resized.disconnect();
    removeEventListener("themechange", draw);
    system.removeEventListener("change", draw);
  };
}
