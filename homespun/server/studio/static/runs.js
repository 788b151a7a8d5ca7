// The runs of the studio's folder: their list, their curves in one picture, and the run that is chosen, with its buttons.
import { api } from "./api.js";
import { Chart, nthColour } from "./charts.js";
import { figuresOf, inOneLine, stateOf } from "./figures.js";
import { html, useEffect, useMemo, useRef, useState } from "./lib.js";
import { useLive } from "./live.js";
import { Busy, Empty, Problem, Spoken, useAnswer, useKept } from "./parts.js";
import { GoOn, StartRun } from "./startrun.js";
import { Tune } from "./tunes.js";

const ADVICE_SECONDS = 20;
const MOST_CHOSEN = 12;
const SHOWN_ROUNDS = 3;
/** Points of a curve that the server may have thinned; see `points` in its limits. */
const THINNED = 1500;

/** Names as one parameter of the page's address, and back. */
const joined = (names) => names.map(encodeURIComponent).join(",");
const parted = (text) => (text ? text.split(",").map(decodeURIComponent) : []);
export const addressOf = (parameters) => `#/runs?${new URLSearchParams(parameters)}`;
const go = (parameters) => { location.hash = addressOf(parameters); };

/** The curves of the pictures: title, unit, and the names of the columns with a style and a factor. */
const PICTURES = [
  { title: "Loss", unit: "nats per token; dots: validation", fall: true, curves: [["loss", "training", "line"], ["val_loss", "validation", "dots"]] },
  { title: "Validation loss", unit: "bits per byte", fall: true, curves: [["val_bits_per_byte", "validation", "dots"]] },
  { title: "Learning rate", unit: "dashed: AdamW beside Muon", zero: true, curves: [["muon_lr", "Muon", "line"], ["lr", "AdamW", "dashed"]] },
  { title: "Gradient norm", unit: "before clipping", zero: true, curves: [["grad_norm", "norm", "line"]] },
  { title: "Throughput", unit: "tokens per second", zero: true, curves: [["tokens_per_second", "throughput", "line"]] },
  { title: "Clipped steps", unit: "% of the steps since the last line", zero: true, factor: 100, curves: [["clipped", "clipped", "line"]], unlessZero: true },
  { title: "Peak memory", unit: "GB", zero: true, factor: 1e-9, curves: [["memory_bytes", "memory", "line"]] },
  { title: "Most and least used expert", unit: "1 is an even share; dashed: the least used", curves: [["largest_load", "most used", "line"], ["smallest_load", "least used", "dashed"]] },
  { title: "Entropy of the routers", unit: "1 is undecided", zero: true, curves: [["router_entropy", "entropy", "line"]] },
  { title: "Auxiliary losses", unit: "% of the minimised loss", zero: true, factor: 100, curves: [["auxiliary_share", "share", "line"]] },
];

function linesOf({ curves, factor = 1 }, names, runs, axis, details) {
  const several = names.length > 1, lines = [];
  names.forEach((name, n) => {
    curves.forEach(([column, label, style], m) => {
      const found = (details[name] ?? runs[name]?.curves)?.[column];
      if (!found) return;
      const [steps, tokens, values] = found;
      const alone = !runs[name]?.curves?.[curves[0][0]]; // AdamW without Muon is no second line
      lines.push({
        label: several ? `${name}, ${label}` : label,
        colour: nthColour(several ? n : m),
        style: style === "dashed" && alone ? "line" : style,
        xs: axis === "tokens" ? tokens : steps,
        ys: factor === 1 ? values : values.map((value) => value * factor),
      });
    });
  });
  return lines;
}

/** The steps of a run between two places on the axis. */
function stepsIn(curves, axis, [low, high]) {
  if (axis === "steps") return [low, high];
  const [steps, tokens] = curves.loss ?? curves.val_loss ?? [[], []];
  const inside = steps.filter((_, n) => tokens[n] >= low && tokens[n] <= high);
  return inside.length ? [inside[0], inside[inside.length - 1]] : [0, 0];
}

function Curves({ names, runs }) {
  const [axis, setAxis] = useKept("runs-axis", "steps");
  const [leavesOut, setLeavesOut] = useKept("runs-fall", true);
  const [range, setRange] = useState(null);
  const [details, setDetails] = useState({});
  const chosen = joined(names);
  useEffect(() => { setRange(null); }, [chosen, axis]);
  useEffect(() => { // a part of long curves has more detail than the whole
    setDetails({});
    if (!range) return undefined;
    const leaving = new AbortController();
    for (const name of names) {
      if ((runs[name]?.curves.loss?.[0].length ?? 0) < THINNED) continue;
      const [from, to] = stepsIn(runs[name].curves, axis, range);
      const path = `api/runs/curves?run=${encodeURIComponent(name)}&from=${from}&to=${to}`;
      api(path, undefined, leaving.signal).then((curves) => setDetails((before) => ({ ...before, [name]: curves })), () => {});
    }
    return () => leaving.abort();
  }, [range, chosen]);
  const pictures = useMemo(
    () => PICTURES.map((picture) => ({ ...picture, lines: linesOf(picture, names, runs, axis, range ? details : {}) }))
      .filter(({ lines, unlessZero }) => lines.length && !(unlessZero && lines.every(({ ys }) => ys.every((y) => y === 0)))),
    [chosen, runs, axis, range, details],
  );
  const whole = names.flatMap((name) => Object.values(runs[name]?.curves ?? {}).flatMap((columns) => {
    const xs = columns[axis === "tokens" ? 1 : 0];
    return [xs[0], xs[xs.length - 1]];
  }));
  const extent = [Math.min(...whole), Math.max(...whole)];
  const damaged = names.filter((name) => runs[name]?.damaged);
  return html`<section aria-labelledby="curves-title">
    <h2 id="curves-title">Curves</h2>
    <div class="row">
      <label class="inline">Over <select value=${axis} onChange=${(event) => setAxis(event.currentTarget.value)}>
        <option value="steps">steps</option><option value="tokens">tokens</option></select></label>
      <label class="inline"><input type="checkbox" checked=${leavesOut} onChange=${(event) => setLeavesOut(event.currentTarget.checked)} /> leave out the first fall</label>
      ${range && html`<button onClick=${() => setRange(null)}>Show the whole run</button>`}
    </div>
    ${damaged.map((name) => html`<p class="note">${name}: ${runs[name].damaged} damaged lines of the record are left out. homespun verify tells more.</p>`)}
    ${pictures.length
      ? html`<div class="charts">${pictures.map((picture) => html`<${Chart} key=${picture.title} title=${picture.title} unit=${picture.unit} lines=${picture.lines}
          xUnit=${axis} fromZero=${picture.zero} leavesOutFall=${leavesOut && picture.fall} extent=${extent} range=${range} onZoom=${setRange} />`)}</div>`
      : html`<p class="note">Nothing was logged yet. The curves begin with the first line of the record.</p>`}
  </section>`;
}

function Listed({ run, n, shown, onShow }) {
  const busy = run.state === "running" || run.state === "starting" || run.state === "stopping";
  return html`<li class=${n === -1 ? "run" : "run shown"}>
    <label class="pick" title="Show in the picture"><input type="checkbox" checked=${n !== -1} disabled=${n === -1 && shown.length >= MOST_CHOSEN}
      onChange=${(event) => onShow(run.run, event.currentTarget.checked)} /><span class="hidden">Show ${run.run} in the picture</span></label>
    <div>
      <p class="title"><a href=${addressOf({ show: joined([run.run]) })} aria-current=${n !== -1 ? "true" : null}>${run.run}</a>
        ${n !== -1 && shown.length > 1 && html`<i class=${`line ${nthColour(n)}`} aria-hidden="true"></i>`}
        <span class=${`state ${run.state}`}>${stateOf(run)}</span></p>
      <p class="note">${inOneLine(run)}</p>
      ${busy && run.progress !== null && run.progress !== undefined && html`<progress value=${run.progress} max="1" aria-label=${`${run.run}: ${Math.round(100 * run.progress)}% done`}></progress>`}
    </div>
  </li>`;
}

function RunList({ list, shown }) {
  const show = (name, wanted) => go({ show: joined(wanted ? [...shown, name] : shown.filter((one) => one !== name)) });
  const item = (run) => html`<${Listed} key=${run.run} run=${run} n=${shown.indexOf(run.run)} shown=${shown} onShow=${show} />`;
  return html`<section class="list" aria-labelledby="list-title">
    <h2 id="list-title" class="hidden">All runs</h2>
    <ul class="runs">${list.runs.filter((run) => !run.tune).map(item)}</ul>
    ${list.tunes.map((tune) => {
      const trials = list.runs.filter((run) => run.tune === tune);
      return html`<div key=${tune} class="tune"><p class="title"><a href=${addressOf({ tune })}>${tune}</a> <span class="state">tune</span></p>
        <details><summary>${trials.length} ${trials.length === 1 ? "trial" : "trials"}</summary><ul class="runs">${trials.map(item)}</ul></details></div>`;
    })}
    ${list.more > 0 && html`<p class="note">${list.more} older runs are not listed. Start the studio in a folder below to see them.</p>`}
    ${!list.is_whole && html`<p class="note">The folder has too many folders below it to search all of them.</p>`}
  </section>`;
}

function Advice({ run }) {
  const [turn, setTurn] = useState(0);
  const [advice, setAdvice] = useState(null);
  const running = run.state === "running";
  useEffect(() => {
    const waiting = running ? setInterval(() => setTurn((n) => n + 1), 1000 * ADVICE_SECONDS) : null;
    return () => clearInterval(waiting);
  }, [running]);
  const first = run.best !== null;
  useEffect(() => {
    const leaving = new AbortController();
    api(`api/runs/advice?run=${encodeURIComponent(run.run)}`, undefined, leaving.signal).then((value) => setAdvice({ value }), (error) => leaving.signal.aborted || setAdvice({ error }));
    return () => leaving.abort();
  }, [run.run, run.state, turn, first]);
  if (advice === null) return html`<${Busy}>Examining the record and the text<//>`;
  if (advice.error) return html`<${Problem} error=${advice.error} again=${() => setTurn(turn + 1)} />`;
  const { problems, notes, comparison, is_too_early: early } = advice.value;
  return html`
    ${problems.map((one) => html`<div class="problem"><h3>${one.title}</h3><p>${one.text}</p>
      <ul class="evidence">${one.evidence.map((line) => html`<li>${line}</li>`)}</ul></div>`)}
    ${!problems.length && (early
      ? html`<p class="note">Nothing was logged yet, so nothing can be told.</p>`
      : html`<p class="fine">No problem found in the record.</p>`)}
    <p class="note">${comparison}</p>
    ${notes.map((note) => html`<p class="note">Noted at step ${note.step.toLocaleString("en")}: ${note.text}</p>`)}`;
}

function Samples({ samples, total }) {
  const rounds = [];
  for (const sample of samples) {
    if (rounds[0]?.step !== sample.step) rounds.unshift({ step: sample.step, texts: [] });
    rounds[0].texts.push(sample);
  }
  const round = ({ step, texts }) => html`<li key=${step}><h3>Step ${step.toLocaleString("en")}</h3>
    ${texts.map(({ prompt, text }) => html`<blockquote class="written"><b>${prompt}</b>${text}</blockquote>`)}</li>`;
  if (!rounds.length) return html`<p class="note">No sample yet. The model writes some as it learns.</p>`;
  const earlier = rounds.slice(SHOWN_ROUNDS), left = total - samples.length;
  return html`<ol class="samples">${rounds.slice(0, SHOWN_ROUNDS).map(round)}</ol>
    ${earlier.length > 0 && html`<details><summary>${earlier.length} earlier ${earlier.length === 1 ? "round" : "rounds"}</summary><ol class="samples">${earlier.map(round)}</ol></details>`}
    ${left > 0 && html`<p class="note">${left.toLocaleString("en")} earlier texts are in the record, metrics.jsonl.</p>`}`;
}

function Messages({ run }) {
  const [open, setOpen] = useState(false);
  const messages = useAnswer(open ? `api/runs/messages?run=${encodeURIComponent(run.run)}&at=${run.state}-${run.step}` : null);
  const kept = useRef("");
  if (messages.value) kept.current = messages.value.text;
  return html`<details onToggle=${(event) => setOpen(event.currentTarget.open)}><summary>Messages of the process</summary>
    <${Problem} error=${messages.error} again=${messages.again} />
    <pre class="messages" tabindex="0" aria-label="Messages of the process">${kept.current || "None."}</pre></details>`;
}

/** The state and the figures of the run that is chosen, and its buttons. */
function Chosen({ run }) {
  const [error, setError] = useState(null);
  const [waits, setWaits] = useState(false);
  useEffect(() => { setError(null); }, [run.state]);
  const order = async (path) => {
    setError(null);
    setWaits(true);
    try {
      await api(path, { run: run.run });
      if (path.endsWith("forget")) go({});
    } catch (refused) {
      setError(refused);
    }
    setWaits(false);
  };
  const still = ["stopped", "finished", "failed"].includes(run.state);
  return html`<section aria-labelledby="run-title">
    <h2 id="run-title">${run.run}</h2>
    ${run.failure && html`<div class="problem"><p>The run has failed: ${run.failure}</p></div>`}
    ${run.host && html`<p class="note">It trains on ${run.host}: stop it there.</p>`}
    <div class="row">
      ${run.can_stop && html`<button onClick=${() => order("api/runs/stop")} disabled=${waits}>Stop and save</button>`}
      ${run.state === "stopping" && html`<${Busy}>Finishing its step and saving<//>`}
      ${run.state === "failed" && !run.has_record && html`<button onClick=${() => order("api/runs/forget")} disabled=${waits}>Remove from the list</button>`}
    </div>
    <${Problem} error=${error} />
    ${run.has_record && html`
      <dl class="figures">${figuresOf(run).map(([topic, value]) => html`<div><dt>${topic}</dt><dd>${value}</dd></div>`)}</dl>
      <dl class="facts">${["model", "text", "machine"].filter((topic) => run[topic]).map((topic) => html`<div><dt>${topic}</dt><dd>${run[topic]}</dd></div>`)}</dl>`}
    ${still && run.can_resume && !run.tune && html`<${GoOn} key=${run.state} run=${run} />`}
    ${run.is_ours || run.failure ? html`<${Messages} run=${run} />` : null}
  </section>`;
}

/** What is told about the run that is chosen, and by it. */
function Told({ run, live }) {
  return html`<div class="columns">
    <section aria-labelledby="advice-title"><h2 id="advice-title">Advice</h2><${Advice} run=${run} />
      ${live?.notes.slice(-3).reverse().map((note) => html`<p class="note">Step ${note.step.toLocaleString("en")}, ${note.cause}: ${note.text}</p>`)}</section>
    <section aria-labelledby="samples-title"><h2 id="samples-title">Samples</h2><${Samples} samples=${live?.samples ?? []} total=${live?.nSamples ?? 0} /></section>
  </div>`;
}

/** Changes of state in words, for screen readers; figures change too often to be spoken. */
function useSpoken(list) {
  const before = useRef(null);
  const [text, setText] = useState("");
  useEffect(() => {
    if (!list) return;
    const now = Object.fromEntries(list.runs.map((run) => [run.run, run.state]));
    if (before.current) {
      const told = list.runs.filter((run) => run.state !== before.current[run.run]).map((run) => `${run.run}: ${stateOf(run)}`);
      if (told.length) setText(told.join(". "));
    }
    before.current = now;
  }, [list]);
  return text;
}

export default function Runs({ parameters }) {
  const wanted = parted(parameters.show);
  const [first, setFirst] = useState(null);
  const shown = wanted.length || first === null ? wanted : [first];
  const { list, runs, error } = useLive(shown);
  const spoken = useSpoken(list);
  useEffect(() => { // without a choice: the run that trains, or the newest one
    if (list && first === null && list.runs.length) setFirst((list.runs.find((run) => run.state === "running") ?? list.runs[0]).run);
  }, [list]);
  const starts = parameters.start !== undefined;
  const close = () => go(wanted.length ? { show: parameters.show } : {});
  const alone = shown.length === 1 ? list?.runs.find((run) => run.run === shown[0]) : undefined;
  const none = list && !list.runs.length && !list.tunes.length;
  return html`
    <div class="row heading"><h1>Runs</h1>
      ${list && !none && !starts && html`<button class="main" onClick=${() => go({ start: "", ...(wanted.length ? { show: parameters.show } : {}) })}>Start a run</button>`}</div>
    <${Spoken} text=${spoken} />
    <${Problem} error=${error} />
    ${!list && !error && html`<${Busy}>Looking for runs<//>`}
    ${starts && html`<${StartRun} onStarted=${(run) => go({ show: joined([run]) })} onClose=${close} />`}
    ${none && !starts && html`<${Empty} title="No run here yet: start one">
      <p>A run trains a model on a text. It appears here with its curves, the texts that the model writes as it learns, and advice.</p>
      <p><button class="main" onClick=${() => go({ start: "" })}>Start a run</button></p><//>`}
    ${list && !none && !starts && html`<${RunList} list=${list} shown=${shown} />
      ${parameters.tune !== undefined ? html`<${Tune} key=${parameters.tune} name=${parameters.tune} />` : html`
        ${alone && html`<${Chosen} key=${`chosen ${alone.run}`} run=${alone} />`}
        ${shown.length === 1 && !alone && first !== null && html`<p class="problem">${shown[0]} is not here any more.</p>`}
        ${shown.some((name) => runs[name]) && html`<${Curves} names=${shown.filter((name) => runs[name])} runs=${runs} />`}
        ${alone?.has_record && html`<${Told} key=${`told ${alone.run}`} run=${alone} live=${runs[alone.run]} />`}`}`}`;
}
