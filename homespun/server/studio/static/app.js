// The shell of the page: which page is shown, light or dark, the keys, and the place where a broken page says so.
import { html, render, useEffect, useRef, useState } from "./lib.js";
import Runs from "./runs.js";
import Playground from "./playground.js";
import Chat from "./chat.js";
import Inside from "./inside.js";
import Stories from "./stories.js";

const PAGES = {
  runs: ["Runs", Runs],
  playground: ["Playground", Playground],
  chat: ["Chat", Chat],
  inside: ["Inside", Inside],
  stories: ["Stories", Stories],
};
const FIRST = "playground";
const THEMES = { auto: "like the system", light: "light", dark: "dark" };
const KEYS = [
  ["Tab, Shift + Tab", "go to the next or the last control"],
  ["Ctrl + Enter", "write, send, look or judge: what the page's main button does"],
  ["Escape", "stop writing; close what is open"],
  ["← →, Home, End", "within a text: from token to token"],
  ["Enter", "on a token: show its alternatives, or look at it"],
  ["← →, +, −, 0", "on a chart: read its values, zoom, show the whole run"],
  ["?", "with Ctrl: this list"],
];

/** The name of the page and its parameters, from `#/name?key=value`. */
function place() {
  const [, name = "", query = ""] = location.hash.match(/^#\/([a-z]*)\??(.*)$/) ?? [];
  return { name: name in PAGES ? name : FIRST, parameters: Object.fromEntries(new URLSearchParams(query)) };
}

function usePlace() {
  const [now, setNow] = useState(place);
  useEffect(() => {
    const moved = () => setNow(place());
    addEventListener("hashchange", moved);
    return () => removeEventListener("hashchange", moved);
  }, []);
  return now;
}

function useTheme() {
  const [theme, setTheme] = useState(() => {
    const kept = localStorage.getItem("theme");
    return kept in THEMES ? kept : "auto";
  });
  useEffect(() => {
    localStorage.setItem("theme", theme);
    document.documentElement.dataset.theme = theme;
    dispatchEvent(new Event("themechange")); // charts draw their own colours
  }, [theme]);
  return [theme, setTheme];
}

function Keys({ shown, onClose }) {
  const dialog = useRef(null);
  useEffect(() => {
    if (shown) dialog.current.showModal();
    else dialog.current.close();
  }, [shown]);
  return html`<dialog ref=${dialog} onClose=${onClose} aria-labelledby="keys-title">
    <h2 id="keys-title">Keys</h2>
    <dl class="keys">${KEYS.map(([keys, does]) => html`<dt>${keys}</dt><dd>${does}</dd>`)}</dl>
    <button autofocus onClick=${() => dialog.current.close()}>Close</button>
  </dialog>`;
}

function Shell() {
  const { name, parameters } = usePlace();
  const [theme, setTheme] = useTheme();
  const [keys, setKeys] = useState(false);
  const main = useRef(null);
  const first = useRef(true);
  const [title, Page] = PAGES[name];
  useEffect(() => {
    document.title = `${title} · homespun studio`;
    if (!first.current) main.current.focus();
    first.current = false;
  }, [name]);
  useEffect(() => {
    const pressed = (event) => {
      if (event.ctrlKey && event.key === "?") setKeys(true);
    };
    addEventListener("keydown", pressed);
    return () => removeEventListener("keydown", pressed);
  }, []);
  const skip = (event) => {
    event.preventDefault(); // the address names the page, not a place on it
    main.current.focus();
  };
  return html`
    <a class="skip" href="#main" onClick=${skip}>To the content</a>
    <header>
      <p class="name">homespun <span>studio</span></p>
      <nav aria-label="Pages">
        ${Object.entries(PAGES).map(([path, [label]]) =>
          html`<a href="#/${path}" aria-current=${path === name ? "page" : null}>${label}</a>`)}
      </nav>
      <div class="tools">
        <label class="theme"><span>Colours</span>
          <select value=${theme} onChange=${(event) => setTheme(event.currentTarget.value)}>
            ${Object.entries(THEMES).map(([value, label]) => html`<option value=${value}>${label}</option>`)}
          </select>
        </label>
        <button class="quiet" onClick=${() => setKeys(true)}>Keys</button>
      </div>
    </header>
    <main id="main" ref=${main} tabindex="-1"><${Page} key=${name} parameters=${parameters} /></main>
    <${Keys} shown=${keys} onClose=${() => setKeys(false)} />`;
}

function broken(error) {
  const box = document.createElement("p");
  box.className = "problem";
  box.setAttribute("role", "alert");
  box.textContent = `This page has a fault: ${error?.message ?? error}. Reload it; what you wrote is kept.`;
  document.querySelector("main")?.prepend(box);
}
addEventListener("error", (event) => broken(event.error ?? event.message));
addEventListener("unhandledrejection", (event) => broken(event.reason));

// The token has done its work: a cookie has taken its place. Without it, the address can be shown to others.
if (location.search) history.replaceState(null, "", `${location.pathname}${location.hash}`);

render(html`<${Shell} />`, document.getElementById("app"));
