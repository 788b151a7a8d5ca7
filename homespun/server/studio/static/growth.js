// How the probability of one next token grew over the checkpoints of a run: a curve, and the same as a table.
import { html, uPlot, useEffect, useRef, useState } from "./lib.js";
import { stream } from "./api.js";
import { Busy, Problem, Spoken, colour, count, keptDrawn, percent } from "./parts.js";
import { Word } from "./tokens.js";

function Curve({ points, label }) {
  const place = useRef(null);
  useEffect(() => {
    let plot = null;
    const draw = () => {
      plot?.destroy();
      const soft = colour("--soft");
      const axis = { stroke: soft, grid: { stroke: colour("--rule"), width: 1 }, ticks: { show: false }, font: "12px system-ui" };
      plot = new uPlot({
        width: place.current.clientWidth, height: 220, legend: { show: false }, cursor: { show: false },
        scales: { x: { time: false }, y: { range: (_, low, high) => [0, Math.max(1, high * 1.1)] } },
        axes: [
          { ...axis, label: "step", labelFont: axis.font, values: (_, all) => all.map((step) => step.toLocaleString("en")) },
          { ...axis, values: (_, all) => all.map((share) => `${share}%`), size: 56 },
        ],
        series: [{}, { stroke: colour("--c1"), width: 2, points: { show: true, size: 7, fill: colour("--c1") } }],
      }, [points.map((point) => point.step), points.map((point) => 100 * point.probability)], place.current);
    };
    const end = keptDrawn(place.current, draw);
    return () => { end(); plot?.destroy(); };
  }, [points]);
  return html`<div class="curve" role="img" aria-label=${label} ref=${place}></div>`;
}

/** `question`: {model, prompt or ids, before: the text so far, next: a text, token: an id instead}; asked when it changes. */
export function Growth({ question }) {
  const [told, setTold] = useState({ points: [] });
  useEffect(() => {
    const leaving = new AbortController();
    const { model, prompt = "", ids = null, next = "", token = null } = question;
    let now = { points: [] };
    const take = (event) => {
      now = event.token ? { ...now, token: event.token, n: event.n_tokens } : { ...now, points: [...now.points, event] };
      setTold(now);
    };
    setTold(now);
    stream("api/growth", { model, prompt, ids, next, token }, take, leaving.signal).then(
      () => setTold({ ...now, done: true }),
      (error) => leaving.signal.aborted || setTold({ ...now, error }),
    );
    return () => leaving.abort();
  }, [question]);
  const { points, token, n, done, error } = told;
  const steps = points.filter((point, i) => points.findIndex((one) => one.step === point.step) === i)
    .sort((a, b) => a.step - b.step);
  const ends = steps.length > 1 ? [steps[0], steps.at(-1)] : null;
  const summary = ends && `From ${percent(ends[0].probability)} at step ${count(ends[0].step)} to ` +
    `${percent(ends[1].probability)} at step ${count(ends[1].step)}.`;
  return html`<div class="card growth">
    <h3>Probability of <q>${token ? html`<${Word} token=${token} />` : "…"}</q></h3>
    <p class="note">After <q class="written">${question.before.length > 80 ? `…${question.before.slice(-80)}` : question.before || "the start of a text"}</q>
      ${n > 1 ? ` The text has ${n} tokens; this is the first of them.` : ""}</p>
    <${Problem} error=${error} />
    ${!done && !error && html`<${Busy}>Reading the checkpoints<//>`}
    ${steps.length > 1 && html`<${Curve} points=${steps} label=${`Probability in percent by training step. ${summary}`} />`}
    ${done && steps.length < 2 && html`<p class="note">The run has checkpoints of one step alone. A run that is started with${" "}
      <code>--save-interval 50 --keep 20</code> keeps one of every 50 steps.</p>`}
    ${done && summary && html`<p>${summary}</p>`}
    <${Spoken} text=${done && summary ? summary : ""} />
    ${points.length > 0 && html`<div class="wide" tabindex="0" role="group" aria-label="Table of the checkpoints"><table>
      <thead><tr><th scope="col">checkpoint</th><th scope="col" class="number">step</th>
        <th scope="col" class="number">probability</th><th scope="col" class="number">rank</th><th scope="col">likeliest instead</th></tr></thead>
      <tbody>${points.map((point) => html`<tr key=${point.path}><th scope="row">${point.label}</th><td class="number">${count(point.step)}</td>
        <td class="number">${percent(point.probability)}</td><td class="number">${count(point.rank)}</td>
        <td>${point.rank === 1 ? "" : html`<${Word} token=${point.likeliest} />`}</td></tr>`)}</tbody>
    </table></div>`}
  </div>`;
}
