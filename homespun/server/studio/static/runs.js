// The runs of the studio's folder.
import { html } from "./lib.js";
import { Empty } from "./parts.js";

export default function Runs() {
  return html`<h1>Runs</h1><${Empty} title="No run here yet" />`;
}
