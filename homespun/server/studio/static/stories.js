import { html } from "./lib.js";

export default function Stories() {
  return html`<h1>Stories</h1>`;
}
