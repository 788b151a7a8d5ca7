import { html } from "./lib.js";

export default function Playground() {
  return html`<h1>Playground</h1>`;
}
