// A text as tokens that can be chosen: one stop for the Tab key, arrows from token to token.
import { html, useRef, useState } from "./lib.js";

/** Control characters as their pictures. */
export const visible = (text) => text.replace(/[\u0000-\u0008\u000b-\u001f]/g, (one) => String.fromCodePoint(0x2400 + one.codePointAt(0)));

/** The beginning of a text, on one line. */
export function excerpt(text) {
  const line = visible(text.trim().replaceAll("\n", " "));
  return line.length > 60 ? `${line.slice(0, 60)}…` : line || "nothing";
}

/** A token in words, also where it is nothing that can be seen. */
export function named(token) {
  if (token.name) return token.name;
  if (token.text === "") return "part of a character";
  const shown = visible(token.text).replaceAll("\n", "line break").replaceAll("\t", "tab");
  return shown.trim() === "" && shown !== "" ? `${shown.length === 1 ? "a blank" : `${shown.length} blanks`}` : shown;
}

/** A token for the eye: a blank at its beginning can be seen. */
export function Word({ token }) {
  const word = named(token);
  const isBlank = !token.name && word.startsWith(" ");
  return html`<span class="written">${isBlank && html`<span class="blank" aria-hidden="true">␣</span>`}${isBlank ? word.slice(1) : word}</span>`;
}

/** Tokens in a row.
 *  `tokens`: {text, name?}; `chosen`: the number of one, or null; `onChoose(n)`; `look(n)`: {class, title, style} of each;
 *  `onPoint(n)`, if given, is called for the token under the pointer or the focus, with null behind the last. */
export function Tokens({ label, tokens, chosen, onChoose, onPoint, look, describe }) {
  const box = useRef(null);
  const [stop, setStop] = useState(0);
  const at = Math.min(chosen ?? stop, tokens.length - 1);
  const go = (n) => {
    const to = Math.max(0, Math.min(tokens.length - 1, n));
    setStop(to);
    box.current.querySelectorAll("[data-n]")[to]?.focus();
  };
  const pressed = (event) => {
    const n = Number(event.target.dataset?.n);
    if (Number.isNaN(n)) return;
    const moves = { ArrowRight: n + 1, ArrowLeft: n - 1, Home: 0, End: tokens.length - 1 };
    if (event.key in moves) go(moves[event.key]);
    else if (event.key === "Enter" || event.key === " ") onChoose(n);
    else return;
    event.preventDefault();
  };
  const clicked = (event) => {
    const n = event.target.closest("[data-n]")?.dataset.n;
    if (n !== undefined) onChoose(Number(n));
  };
  const pointed = (event) => {
    const n = event.target.closest?.("[data-n]")?.dataset.n;
    if (onPoint && n !== undefined) onPoint(Number(n));
  };
  const left = () => onPoint?.(null);
  return html`<div class="tokens written" role="group" aria-label=${label} ref=${box} onKeyDown=${pressed}
      onClick=${clicked} onPointerOver=${pointed} onPointerLeave=${left} onFocusIn=${pointed} onFocusOut=${left}>
    ${tokens.map((token, n) => {
      const { title = null, style = null, class: kind = "" } = look?.(n) ?? {};
      const unseen = token.text === "" || token.name;
      return html`<span key=${n} class=${`token ${kind} ${unseen ? "unseen" : ""}`} role="button" data-n=${n} title=${title}
        style=${style} tabindex=${n === at ? 0 : -1} aria-pressed=${n === chosen ? "true" : "false"}
        aria-label=${describe?.(n) ?? named(token)}>${token.name ?? (token.text === "" ? "·" : visible(token.text))}</span>`;
    })}
  </div>`;
}
