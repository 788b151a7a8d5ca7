// The form of a run: all settings with their descriptions and bounds, what is wrong with them, and what the run would take.
import { api } from "./api.js";
import { html, useEffect, useRef, useState } from "./lib.js";
import { Busy, Problem, useAnswer, useKept } from "./parts.js";
import { Field } from "./settings.js";

const CHECK_PAUSE = 300;

/** One setting, with the effect of leaving it empty beside its bounds. */
function Setting({ field, value, onInput, problem }) {
  const bounds = [field.bounds, field.omitted && `Left empty: ${field.omitted}`].filter(Boolean).join(". ");
  return html`<${Field} field=${{ ...field, bounds, omitted: null }} value=${value} onInput=${onInput} problem=${problem} />`;
}

/** Settings that are seldom needed. It opens when one of them is refused, and closes by the reader alone. */
function Group({ title, about, faulty, children }) {
  const here = useRef(null);
  useEffect(() => { if (faulty) here.current.open = true; }, [faulty]);
  return html`<details ref=${here}><summary>${title}${faulty > 0 && html`<strong class="refused">: ${faulty} to correct</strong>`}</summary>
    ${about && html`<p class="note">${about}</p>`}
    <div class="fields">${children}</div></details>`;
}

/** The settings that are not as they are at first. */
function typedOf(groups, values) {
  const typed = {};
  for (const field of groups.flatMap((group) => group.fields)) {
    const value = values[field.name];
    if (value !== undefined && value !== field.value) typed[field.name] = value;
  }
  return typed;
}

/** {errors, note, command} of the settings, asked again when they have changed for a moment. */
function useCheck(typed) {
  const [checked, setChecked] = useState({ errors: {} });
  const asked = JSON.stringify(typed);
  useEffect(() => {
    const leaving = new AbortController();
    const waiting = setTimeout(() => {
      api("api/runs/check", { settings: typed }, leaving.signal).then(setChecked, () => {});
    }, CHECK_PAUSE);
    return () => { clearTimeout(waiting); leaving.abort(); };
  }, [asked]);
  return checked;
}

/** What the run would take: asked for by a button, since it measures some steps. */
function Plan({ typed, children }) {
  const [plan, setPlan] = useState({});
  const leaving = useRef(null);
  const settings = JSON.stringify(typed);
  useEffect(() => () => leaving.current?.abort(), []);
  const ask = () => {
    leaving.current?.abort();
    const mine = leaving.current = new AbortController();
    setPlan({ settings, waits: true });
    api("api/runs/plan", { settings: typed }, mine.signal).then(
      (answer) => setPlan({ settings, answer }),
      (error) => mine.signal.aborted || setPlan({ settings, error }),
    );
  };
  const stale = plan.answer && plan.settings !== settings;
  return html`<div class="card plan">
    ${children}
    <h3>What it would take</h3>
    <p class="note">A plan estimates memory, time, disk space and loss, and measures some real steps on this machine, at most a minute. Nothing is written.</p>
    <div class="row"><button type="button" onClick=${ask} disabled=${plan.waits}>${plan.answer ? "Plan again" : "Plan"}</button></div>
    ${plan.waits && html`<${Busy}>Planning, and measuring some steps<//>`}
    <${Problem} error=${plan.error} />
    ${stale && html`<p class="note">The settings have changed since this plan.</p>`}
    ${plan.answer?.is_busy && html`<p class="note">A run trains now: the speed is that of what it leaves.</p>`}
    ${plan.answer && html`<dl class=${stale ? "facts stale" : "facts"}>
      ${Object.entries(plan.answer.facts).map(([topic, fact]) => html`<div><dt>${topic}</dt><dd>${fact}</dd></div>`)}</dl>`}
  </div>`;
}

/** The form; `onStarted` is called with the name of the run, `onClose` without one. */
export function StartRun({ onStarted, onClose }) {
  const form = useAnswer("api/runs/form");
  const [values, setValues] = useKept("start-run", {});
  const [refused, setRefused] = useState({});
  const [problem, setProblem] = useState(null);
  const [starts, setStarts] = useState(false);
  const here = useRef(null), heading = useRef(null);
  const groups = form.value?.groups ?? [];
  const typed = typedOf(groups, values);
  const checked = useCheck(typed);
  const errors = { ...checked.errors, ...refused };
  const faulty = Object.keys(errors).length > 0;
  useEffect(() => heading.current?.focus(), []);
  useEffect(() => { // the first field at fault, after an order that was refused
    if (problem || Object.keys(refused).length) here.current?.querySelector('[aria-invalid="true"]')?.focus();
  }, [problem, refused]);
  if (form.error) return html`<${Problem} error=${form.error} again=${form.again} />`;
  if (!form.value) return html`<${Busy}>Loading the settings<//>`;

  const typedIn = (name) => (value) => {
    setValues((before) => ({ ...before, [name]: value }));
    setRefused(({ [name]: gone, ...others }) => others);
  };
  const start = async (event) => {
    event.preventDefault();
    setProblem(null);
    setStarts(true);
    try {
      const { run } = await api("api/runs/start", { settings: typed });
      setValues({});
      onStarted(run);
    } catch (error) {
      if (error.field) {
        setRefused({ [error.field]: error.message });
        here.current?.querySelector(`[name="${CSS.escape(error.field)}"]`)?.closest("details")?.setAttribute("open", "");
      } else {
        setProblem(error);
      }
      setStarts(false);
    }
  };
  const setting = (field) => html`<${Setting} key=${field.name} field=${field} value=${values[field.name] ?? field.value}
    problem=${errors[field.name]} onInput=${typedIn(field.name)} />`;
  return html`<div class="starting" ref=${here}>
    <h2 tabindex="-1" ref=${heading}>Start a run</h2>
    <p class="note">Files and folders are named from the folder of the studio, ${form.value.folder}, and lie below it. Everything that you leave empty is chosen for your text, machine and time.</p>
    <form class="sided" onSubmit=${start}>
      <div class="main">
        <div class="fields">${groups[0].fields.map(setting)}</div>
        ${groups.slice(1).map(({ title, about, fields }) => html`<${Group} key=${title} title=${title} about=${about}
          faulty=${fields.filter((field) => errors[field.name]).length}>${fields.map(setting)}<//>`)}
      </div>
      <${Plan} typed=${typed}>
        <div class="row">
          <button class="main" disabled=${starts}>${starts ? "Starting" : "Start the run"}</button>
          <button type="button" onClick=${onClose}>Close</button>
        </div>
        ${faulty && html`<p class="note">Some settings are to be corrected first.</p>`}
        ${errors[""] && html`<p class="problem" role="alert">${errors[""]}</p>`}
        <${Problem} error=${problem} />
        ${checked.note && !faulty && html`<p class="note">${checked.note}</p>`}
        ${checked.command && !faulty && html`<p class="note">The same on the command line:</p><pre class="command">${checked.command}</pre>`}
      <//>
    </form>
  </div>`;
}

/** Go on with a run that stands still: as it was, or for longer. */
export function GoOn({ run }) {
  const form = useAnswer("api/runs/form");
  const [values, setValues] = useState({});
  const [error, setError] = useState(null);
  const [waits, setWaits] = useState(false);
  if (!form.value) return html`<${Problem} error=${form.error} again=${form.again} />`;
  const all = form.value.groups.flatMap((group) => group.fields);
  const fields = form.value.lengths.map((name) => all.find((field) => field.name === name));
  const order = async (event) => {
    event.preventDefault();
    setError(null);
    setWaits(true);
    try {
      await api("api/runs/resume", { run: run.run, settings: values });
    } catch (refused) {
      setError(refused);
    }
    setWaits(false);
  };
  const lead = run.state === "finished"
    ? "This run has come to its end. Give it a longer one to go on."
    : `Goes on from step ${(run.saved_step ?? 0).toLocaleString("en")}, exactly as if it had not stopped. A field that you leave empty stays as it is.`;
  return html`<details class="card" open=${run.state !== "finished"}><summary>Go on with this run</summary>
    <form onSubmit=${order}>
    <p class="note">${lead}</p>
    <div class="fields">${fields.map((field) => html`<${Field} key=${field.name}
      field=${{ ...field, omitted: run.limits?.[field.name] ? `now ${run.limits[field.name]}` : "no limit" }}
      value=${values[field.name] ?? ""} problem=${error?.field === field.name ? error.message : null}
      onInput=${(value) => setValues({ ...values, [field.name]: value })} />`)}</div>
    ${error && !fields.some((field) => field.name === error.field) && html`<${Problem} error=${error} />`}
    <button class="main" disabled=${waits}>Go on</button>
  </form></details>`;
}
