// The table of a tune: its trials, the best ones first.
import { figure } from "./charts.js";
import { html, useEffect } from "./lib.js";
import { Busy, Problem, useAnswer } from "./parts.js";

const AGAIN_SECONDS = 5;

export function Tune({ name }) {
  const { value, error, again } = useAnswer(`api/runs/tune?tune=${encodeURIComponent(name)}`);
  useEffect(() => {
    if (!value || value.verdict) return undefined;
    const waiting = setTimeout(again, 1000 * AGAIN_SECONDS);
    return () => clearTimeout(waiting);
  }, [value]);
  if (error) return html`<${Problem} error=${error} again=${again} />`;
  if (!value) return html`<${Busy}>Reading the trials<//>`;
  const measured = (one) => (one === null ? "–" : one.toFixed(4));
  const cell = (one) => (typeof one === "number" ? figure(one) : one ?? "–");
  return html`<section aria-labelledby="tune-title">
    <h2 id="tune-title">${value.tune}</h2>
    <p class=${value.verdict ? "fine" : "note"}>${value.verdict ?? "This tune is not complete. The table is that of the trials so far."}</p>
    <div class="wide" tabindex="0" role="region" aria-label="Trials"><table>
      <thead><tr><th scope="col">trial</th>${value.columns.map((column) => html`<th scope="col" class="number">${column}</th>`)}
        <th scope="col" class="number">steps</th><th scope="col" class="number">${value.figure.title}</th><th scope="col">state</th></tr></thead>
      <tbody>${value.rows.map((row) => html`<tr key=${row.trial}><th scope="row">${row.trial}</th>
        ${value.columns.map((column) => html`<td class="number">${cell(row[column])}</td>`)}
        <td class="number">${row.steps.toLocaleString("en")}</td><td class="number">${measured(row[value.figure.entry])}</td><td>${row.state}</td></tr>`)}</tbody>
    </table></div>
    <dl class="facts">${Object.entries(value.facts).map(([topic, fact]) => html`<div><dt>${topic}</dt><dd>${fact}</dd></div>`)}</dl>
  </section>`;
}
