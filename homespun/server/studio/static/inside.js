import { html } from "./lib.js";

export default function Inside() {
  return html`<h1>Inside</h1>`;
}
