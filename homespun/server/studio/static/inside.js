// A text in, the inside of the model out: its tokens, what each attends to, what each layer would say next, its experts.
import { html, useEffect, useMemo, useRef, useState } from "./lib.js";
import { api } from "./api.js";
import { Busy, ModelChoice, Problem, Spoken, colour, count, keptDrawn, percent, useAnswer, useKept } from "./parts.js";
import { Tokens, Word, named } from "./tokens.js";
import { NoModel, chosenModel } from "./playground.js";

const N_NAMED = 5;

export default function Inside() {
  const { value, error, again } = useAnswer("api/studio");
  return html`<h1>Inside</h1>
    <p class="lead">See a text as the model sees it: its tokens, what each of them attends to, and what each layer would say next.</p>
    <${Problem} error=${error} again=${again} />
    ${!value && !error && html`<${Busy}>Looking for models<//>`}
    ${value && (value.models.length ? html`<${Bench} models=${value.models} />` : html`<${NoModel} />`)}`;
}

function Bench({ models }) {
  const [form, setForm] = useKept("inside", { model: "", text: "Once upon a time, there was a small girl named Anna. Anna had a green robot." });
  const [look, setLook] = useState({});
  const model = chosenModel(models, form.model);
  const asking = useRef(null);
  const open = () => {
    asking.current?.abort();
    const leaving = (asking.current = new AbortController());
    const question = { model, text: form.text };
    setLook({ busy: true });
    api("api/inside", question, leaving.signal).then(
      (seen) => setLook({ seen, question }),
      (error) => leaving.signal.aborted || setLook({ error }),
    );
  };
  useEffect(() => {
    open();
    return () => asking.current?.abort();
  }, []);
  const pressed = (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      open();
      event.preventDefault();
    }
  };
  return html`<div onKeyDown=${pressed}>
    <div class="asking">
      <${ModelChoice} label="Model" models=${models} value=${model} onChoose=${(path) => setForm({ ...form, model: path })} />
      <div class="field">
        <label for="text">Text</label>
        <textarea id="text" value=${form.text} aria-invalid=${look.error?.field === "text" || look.error?.field === "prompt"}
          onInput=${(event) => setForm({ ...form, text: event.currentTarget.value })}></textarea>
      </div>
      <div class="row"><button class="main" onClick=${open} aria-disabled=${Boolean(look.busy)}>Look inside</button></div>
    </div>
    <${Problem} error=${look.error} />
    ${look.busy && html`<${Busy}>Reading the text<//>`}
    ${look.seen && html`<${Seen} key=${JSON.stringify(look.question)} question=${look.question} seen=${look.seen} />`}
  </div>`;
}

/** The answer to a question about the look, null until it is there; `body` goes with it. */
function useDetail(path, question, body) {
  const [detail, setDetail] = useState({});
  const key = JSON.stringify([question, body]);
  useEffect(() => {
    const leaving = new AbortController();
    api(path, { ...question, ...body }, leaving.signal).then(
      (value) => setDetail({ value }),
      (error) => leaving.signal.aborted || setDetail({ error }),
    );
    return () => leaving.abort();
  }, [key]);
  return detail;
}

function Seen({ question, seen }) {
  const { tokens, layers, heads, experts } = seen;
  const [chosen, setChosen] = useState(tokens.length - 1);
  const [pointed, setPointed] = useState(null);
  const [layer, setLayer] = useState(layers - 1);
  const [head, setHead] = useState("mean");
  const attention = useDetail("api/attention", question, { layer, head });
  const at = pointed ?? chosen;
  const row = attention.value?.weights[at] ?? [];
  const ranked = useMemo(() => row.map((share, n) => [share, n]).sort((a, b) => b[0] - a[0]).slice(0, N_NAMED), [row]);
  const mixed = experts.find((one) => one.layer === layer);
  const look = (n) => ({
    title: `${percent(row[n] ?? 0)} of the attention of ${named(tokens[at])}`,
    class: n > at ? "later" : "",
    style: n <= at ? { background: `color-mix(in srgb, var(--c2) ${Math.round((45 * (row[n] ?? 0)) / Math.max(...row))}%, transparent)` } : {},
  });
  const told = ranked.length && ranked.map(([share, n]) => `${named(tokens[n])} ${percent(share)}`).join(", ");
  return html`
    <section aria-labelledby="attention-title">
      <h2 id="attention-title">Attention</h2>
      <p class="note">Point at a token, or go to it with the arrow keys: the shade of the others shows how much it takes from each,
        the strongest for the largest share.
        A token sees itself and those before it.</p>
      <div class="row pickers">
        <span class="pair"><label for="layer">Layer</label>
        <select id="layer" value=${layer} onChange=${(event) => setLayer(Number(event.currentTarget.value))}>
          ${Array.from({ length: layers }, (_, n) => html`<option value=${n}>${n + 1} of ${layers}</option>`)}
        </select></span>
        <span class="pair"><label for="head">Head</label>
        <select id="head" value=${head} onChange=${(event) => setHead(event.currentTarget.value === "mean" ? "mean" : Number(event.currentTarget.value))}>
          <option value="mean">mean of ${heads}</option>
          ${Array.from({ length: heads }, (_, n) => html`<option value=${n}>${n + 1} of ${heads}</option>`)}
        </select></span>
      </div>
      <${Problem} error=${attention.error} />
      <div class="card"><${Tokens} label="Tokens of the text" tokens=${tokens} chosen=${chosen} onChoose=${setChosen} onPoint=${setPointed} look=${look}
        describe=${(n) => `${named(tokens[n])}, token ${n + 1} of ${tokens.length}`} /></div>
      <div class="columns looks">
        <div>
          <h3><q><${Word} token=${tokens[at]} /></q> attends to</h3>
          <ul class="bars">${ranked.map(([share, n]) => html`<li key=${n}>
            <span class="word"><${Word} token=${tokens[n]} /></span>
            <span class="share"><span class="bar" style=${{ width: `${100 * share}%` }}></span></span>
            <span class="figure">${percent(share)}</span></li>`)}</ul>
          <${Spoken} text=${told ? `${named(tokens[at])} attends to ${told}` : ""} />
        </div>
        ${attention.value && html`<${Matrix} weights=${attention.value.weights} tokens=${tokens} onChoose=${setChosen} at=${at} />`}
      </div>
    </section>
    <section aria-labelledby="lens-title">
      <h2 id="lens-title">The next token after each layer</h2>
      <${Lens} question=${question} tokens=${tokens} at=${chosen} />
    </section>
    ${experts.length > 0 && html`<section aria-labelledby="experts-title">
      <h2 id="experts-title">Experts</h2>
      <${Experts} tokens=${tokens} experts=${experts} mixed=${mixed} at=${at} layer=${layer} n=${seen.n_experts} onChoose=${setChosen} />
    </section>`}
    <section aria-labelledby="tokens-title">
      <h2 id="tokens-title">Tokens</h2>
      <p>${count(tokens.length)} tokens for ${count(question.text.length)} characters, with the mark at the start of every text.</p>
      <details><summary>All tokens with their ids and bytes</summary>
        <div class="wide" tabindex="0" role="group" aria-label="Table of the tokens"><table>
          <thead><tr><th scope="col" class="number">token</th><th scope="col">text</th><th scope="col" class="number">id</th><th scope="col">bytes</th></tr></thead>
          <tbody>${tokens.map((token, n) => html`<tr key=${n}><td class="number">${n + 1}</td><th scope="row"><${Word} token=${token} /></th>
            <td class="number">${token.id}</td><td><code>${token.bytes || "none"}</code></td></tr>`)}</tbody>
        </table></div>
      </details>
    </section>`;
}

/** All attention of a head as a picture: rows are tokens, columns what they attend to. */
function Matrix({ weights, tokens, onChoose, at }) {
  const place = useRef(null);
  const [told, setTold] = useState("");
  const n = tokens.length;
  useEffect(() => {
    const canvas = place.current;
    const draw = () => {
      const side = canvas.clientWidth * (devicePixelRatio || 1);
      canvas.width = canvas.height = side;
      const pen = canvas.getContext("2d"), cell = side / n;
      pen.fillStyle = colour("--mark");
      weights.forEach((row, y) => pen.fillRect(0, y * cell, row.length * cell, cell));
      pen.fillStyle = colour("--c2");
      weights.forEach((row, y) => row.forEach((share, x) => {
        pen.globalAlpha = Math.sqrt(share); // small shares are seen, too
        pen.fillRect(x * cell, y * cell, Math.ceil(cell), Math.ceil(cell));
      }));
      pen.globalAlpha = 1;
      pen.strokeStyle = colour("--ink");
      pen.strokeRect(0.5, at * cell + 0.5, (at + 1) * cell - 1, cell - 1);
    };
    return keptDrawn(canvas, draw);
  }, [weights, at]);
  const cellAt = (event) => {
    const box = place.current.getBoundingClientRect();
    const part = (from, size) => Math.max(0, Math.min(n - 1, Math.floor((n * from) / size)));
    return [part(event.clientY - box.top, box.height), part(event.clientX - box.left, box.width)];
  };
  const pointed = (event) => {
    const [y, x] = cellAt(event);
    setTold(x <= y ? `${named(tokens[y])} → ${named(tokens[x])}: ${percent(weights[y][x])}` : "");
  };
  return html`<figure class="matrix">
    <canvas ref=${place} role="img" aria-label=${`Attention of ${n} tokens: a row for each token, a column for each that it attends to`}
      onPointerMove=${pointed} onPointerLeave=${() => setTold("")} onClick=${(event) => onChoose(cellAt(event)[0])}></canvas>
    <figcaption class="note written">${told || "Rows: each token. Columns: what it attends to."}</figcaption>
  </figure>`;
}

function Lens({ question, tokens, at }) {
  const { value, error } = useDetail("api/lens", question, { position: at });
  const next = tokens[at + 1];
  return html`<p class="note">The state after each layer at <q><${Word} token=${tokens[at]} /></q>, sent through the last norm and the head.
      The last row is the model's answer.${next ? html` In this text <q><${Word} token=${next} /></q> follows.` : ""} Choose another token above.</p>
    <${Problem} error=${error} />
    ${value && html`<div class="wide" tabindex="0" role="group" aria-label="Table of the layers"><table class="lens">
      <thead><tr><th scope="col">after</th><th scope="col">likeliest next tokens</th>
        ${next && html`<th scope="col" class="number">probability of <q><${Word} token=${next} /></q></th><th scope="col" class="number">its rank</th>`}</tr></thead>
      <tbody>${value.layers.map((layer, n) => html`<tr key=${n}>
        <th scope="row">${n ? `layer ${n}` : "embeddings"}</th>
        <td>${layer.likeliest.map((one) => html`<span class="guess" key=${one.id}><${Word} token=${one} /> ${percent(one.probability)}</span> `)}</td>
        ${next && html`<td class="number">${percent(layer.following.probability)}</td><td class="number">${count(layer.following.rank)}</td>`}
      </tr>`)}</tbody></table></div>`}`;
}

function Experts({ tokens, experts, mixed, at, layer, n, onChoose }) {
  const shares = (one) => one.tokens[at].map(([expert, share]) => `expert ${expert + 1} ${percent(share)}`).join(", ");
  return html`<p class="note">Each layer with a mixture has ${n} experts and chooses some of them for each token.</p>
    ${mixed ? html`<h3>First expert of each token in layer ${layer + 1}</h3>
      <div class="card"><${Tokens} label="Tokens with their experts" tokens=${tokens} chosen=${at} onChoose=${onChoose}
        look=${(i) => ({ class: `expert e${mixed.tokens[i][0][0] % 6}`, title: `expert ${mixed.tokens[i][0][0] + 1}` })}
        describe=${(i) => `${named(tokens[i])}, expert ${mixed.tokens[i][0][0] + 1}`} /></div>`
      : html`<p class="note">Layer ${layer + 1} has no mixture.</p>`}
    <h3>All layers at <q><${Word} token=${tokens[at]} /></q></h3>
    <table><thead><tr><th scope="col">layer</th><th scope="col">experts</th></tr></thead>
      <tbody>${experts.map((one) => html`<tr key=${one.layer}><th scope="row">${one.layer + 1}</th><td>${shares(one)}</td></tr>`)}</tbody></table>`;
}
