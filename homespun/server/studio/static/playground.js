// A prompt and settings in, continuations out: streamed, token by token, each with what the model could have said instead.
import { html, useCallback, useEffect, useRef, useState } from "./lib.js";
import { stream } from "./api.js";
import { Busy, Empty, ModelChoice, Problem, Spoken, count, percent, useAnswer, useKept, useRedraw } from "./parts.js";
import { Settings, requested, settingValues } from "./settings.js";
import { Tokens, Word, excerpt, named } from "./tokens.js";
import { Continuations, textOf } from "./tree.js";
import { Growth } from "./growth.js";

export const ENDS = { end: "the model ended the text", length: "max tokens was reached", stop: "a stop string came" };
const surprise = (p) => (p < 0.05 ? "s3" : p < 0.2 ? "s2" : p < 0.5 ? "s1" : "");

export default function Playground() {
  const { value, error, again } = useAnswer("api/studio");
  return html`<h1>Playground</h1>
    <p class="lead">Write with a model, and see what else it could have said.</p>
    <${Problem} error=${error} again=${again} />
    ${!value && !error && html`<${Busy}>Looking for models<//>`}
    ${value && (value.models.length ? html`<${Desk} studio=${value} />` : html`<${NoModel} />`)}`;
}

/** Shown by every page that needs a model where there is none. */
export function NoModel() {
  return html`<${Empty} title="There is no model here yet">
    <p>This page writes with the models below the folder that the studio was started in. Train one on a text of your own:</p>
    <pre class="command">homespun train --data-file book.txt --time-budget 10m</pre>
    <p>Without a text, these lines make one that tells stories:</p>
    <pre class="command">homespun download --dataset stories --num-samples 50000 --plain${"\n"}homespun train --time-budget 255s</pre>
  <//>`;
}

/** The model that a page begins with: the one that was chosen last, if it is still there. */
export const chosenModel = (models, kept) => (models.some((model) => model.path === kept) ? kept : models[0].path);

/** Chosen beside a model: the first checkpoint of its run, whichever model it is. */
const EARLY = "early";

/** The first checkpoint of the run of a model, if the run has a later one. */
function earliest(models, path) {
  const { run } = models.find((one) => one.path === path);
  const steps = models.filter((one) => one.run === run && one.kind === "step").sort((a, b) => a.step - b.step);
  return steps.length > 1 && steps[0].path !== path ? steps[0] : null;
}

function Desk({ studio }) {
  const { models, settings } = studio;
  const [form, setForm] = useKept("playground", { model: "", other: "", prompt: "Once upon a time", settings: {} });
  const [problem, setProblem] = useState(null);
  const [writing, setWriting] = useState(0);
  const [spoken, setSpoken] = useState("");
  const [question, setQuestion] = useState(null);
  const [shown, setShown] = useKept("playground-shown", []);
  const tree = useRef(null);
  tree.current ??= new Continuations(`continuations: ${studio.folder}`);
  const stopping = useRef(new Set());
  const focused = useRef(null);
  const change = (part) => setForm({ ...form, ...part });
  const model = chosenModel(models, form.model);
  const early = earliest(models, model);
  const other = form.other === EARLY ? early?.path ?? "" : models.some((one) => one.path === form.other) ? form.other : "";
  const values = settingValues(settings, form.settings);

  const draw = useRedraw();

  /** Write with one model; `start` {parent, token} goes on from another continuation. Gives the ids of the new ones. */
  const write = useCallback((path, samples, start) => {
    const stop = new AbortController();
    const given = { ...requested(values), num_samples: String(samples) };
    const nodes = Array.from({ length: samples }, (_, sample) =>
      tree.current.add({ model: path, sample, parent: start?.parent ?? null, tokens: start ? [start.token] : [] }));
    const body = { model: path, prompt: form.prompt, settings: given };
    if (start) body.ids = [...tree.current.ids(tree.current.get(start.parent.id), start.parent.at), start.token.id];
    const take = (event) => {
      if (event.prompt) {
        for (const node of nodes) Object.assign(node, { seed: event.seed, prompt: start ? [] : event.prompt });
      } else if (event.seconds !== undefined) {
        for (const node of nodes) node.speed = event.tokens / event.seconds;
      } else {
        const node = nodes[event.sample];
        const { token: id, text, probability: p, likeliest } = event;
        if (id !== undefined) node.tokens.push({ id, text, p, likeliest });
        else if (text && node.tokens.length) node.tokens.at(-1).text += text; // the end of a text gives what was held back
        node.finish = event.finish;
      }
      draw();
    };
    const ended = () => {
      stopping.current.delete(stop);
      setWriting((n) => n - 1);
      for (const node of nodes) node.finish ??= "stopped";
      const kept = tree.current.keep();
      const words = nodes.map((node) => `${count(node.tokens.length)} tokens`).join(", ");
      setSpoken(`Written: ${words}.${kept ? "" : " This browser has no room to keep them."}`);
      draw();
    };
    stopping.current.add(stop);
    setWriting((n) => n + 1);
    setProblem(null);
    setSpoken("Writing.");
    stream("api/write", body, take, stop.signal).then(ended, (error) => {
      if (error.name !== "AbortError") {
        setProblem(error);
        for (const node of nodes) if (node.tokens.length <= (start ? 1 : 0)) tree.current.remove(node.id);
      }
      ended();
    });
    return nodes.map((node) => node.id);
  }, [form, values]);

  const writeAll = () => {
    if (writing) return;
    const samples = Math.max(1, Math.min(16, Math.trunc(Number(values.num_samples)) || 1));
    const pair = form.other === EARLY ? [other, model] : [model, other];
    setShown(pair.filter(Boolean).flatMap((path) => write(path, samples, null)));
  };
  const stopAll = () => stopping.current.forEach((stop) => stop.abort());
  useEffect(() => stopAll, []);
  const goOn = (node, at, [id, text, p]) => {
    const likeliest = node.tokens[at].likeliest;
    const [branch] = write(node.model, 1, { parent: { id: node.id, at }, token: { id, text, p, likeliest } });
    setShown(shown.map((one) => (one === node.id ? branch : one)));
    focused.current = branch; // the alternative that was pressed is gone
  };
  const pressed = (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) writeAll();
    else if (event.key === "Escape" && writing) stopAll();
    else return;
    event.preventDefault();
  };
  const grow = (node, at) => setQuestion({
    model: node.model, ids: tree.current.ids(node, at), token: node.tokens[at].id,
    before: textOf([...tree.current.before(node), ...node.tokens.slice(0, at)]),
  });
  const visible = shown.map((id) => tree.current.get(id)).filter(Boolean);
  const forget = (id) => {
    document.getElementById("kept-title").focus(); // the button that was pressed is gone
    tree.current.remove(id);
    tree.current.keep();
    setShown(shown.filter((one) => tree.current.get(one)));
  };
  const names = Object.fromEntries(models.map((one) => [one.path, one.label]));
  return html`<div class="desk" onKeyDown=${pressed}>
    <div class="controls">
      <${ModelChoice} label="Model" models=${models} value=${model} onChoose=${(path) => change({ model: path })} />
      <${ModelChoice} label="Beside it" value=${form.other === EARLY && early ? EARLY : other}
        models=${[{ path: "", label: "no other model" }, ...(early ? [{ path: EARLY, label: `early in its run: step ${count(early.step)}` }] : []), ...models]}
        onChoose=${(path) => change({ other: path })} />
      <div class="field">
        <label for="prompt">Prompt</label>
        <textarea id="prompt" value=${form.prompt} aria-describedby="prompt-help" aria-invalid=${problem?.field === "prompt"}
          onInput=${(event) => change({ prompt: event.currentTarget.value })}></textarea>
        <p class="help" id="prompt-help">The text to continue. Empty: the model begins by itself.</p>
      </div>
      <div class="row">
        <button class="main" onClick=${writeAll} aria-disabled=${writing > 0}>Write</button>
        <button onClick=${stopAll} aria-disabled=${!writing}>Stop</button>
      </div>
      <${Settings} settings=${settings} typed=${form.settings} problem=${problem}
        isOpen=${matchMedia("(min-width: 60rem)").matches} onChange=${(typed) => change({ settings: typed })} />
    </div>
    <div class="results">
      <${Problem} error=${problem} />
      <${Spoken} text=${spoken} />
      ${!visible.length && html`<${Empty} title="Nothing is written yet">
        <p>Press Write, or Ctrl + Enter. Then choose any token to see its alternatives, and one of them to go on from there.</p><//>`}
      ${visible.length > 0 && html`<p class="note">The more surprising a token was for the model, the stronger its shade:${" "}
        <span class="token s1">below 50%</span> <span class="token s2">below 20%</span> <span class="token s3">below 5%</span></p>`}
      <div class="columns">${visible.map((node, place) => html`<${Continuation} key=${node.id} number=${place + 1} node=${node} tree=${tree.current}
        model=${names[node.model] ?? node.model} onGoOn=${goOn} onGrow=${grow} writing=${writing > 0}
        focused=${focused.current === node.id} />`)}</div>
      <section aria-labelledby="growth-title">
        <h2 id="growth-title">Over the run</h2>
        <${Next} form=${form} model=${model} onAsk=${setQuestion} />
        ${question && html`<${Growth} question=${question} />`}
      </section>
      <${Kept} tree=${tree.current} shown=${shown} names=${names} onShow=${(id) => setShown([id])} onForget=${forget} />
    </div>
  </div>`;
}

/** Asks for the probability of a text after the prompt. */
function Next({ form, model, onAsk }) {
  const [next, setNext] = useKept("playground-next", " a");
  const ask = (event) => {
    event.preventDefault();
    onAsk({ model, prompt: form.prompt, next, before: form.prompt });
  };
  return html`<form onSubmit=${ask}>
    <p class="note">How likely is a next token after the prompt, at each checkpoint of the model's run? Most tokens begin with a blank.</p>
    <div class="row">
      <label for="next">Next token</label>
      <input id="next" class="short" type="text" autocomplete="off" spellcheck=${false} value=${next}
        onInput=${(event) => setNext(event.currentTarget.value)} />
      <button>Show its growth</button>
    </div>
  </form>`;
}

function Continuation({ node, number, tree, model, onGoOn, onGrow, writing, focused }) {
  const [chosen, setChosen] = useState(null);
  const box = useRef(null);
  useEffect(() => {
    if (focused) box.current.focus();
  }, []);
  const before = textOf(tree.before(node));
  const token = chosen === null ? null : node.tokens[chosen];
  const facts = [
    `seed ${node.seed ?? "…"}`, node.sample ? `sample ${node.sample + 1}` : null, `${count(node.tokens.length)} tokens`,
    node.speed ? `${count(Math.round(node.speed))} tokens/s` : null,
  ].filter(Boolean).join(" · ");
  const look = (n) => ({ class: surprise(node.tokens[n].p), title: percent(node.tokens[n].p) });
  return html`<article class="card" ref=${box} tabindex="-1" aria-label=${`Continuation ${number} by ${model}`}>
    <h2>${model}</h2>
    <p class="note">${facts}</p>
    <div class="continued"><span class="written before">${before}</span><${Tokens} label="Text, token by token" tokens=${node.tokens} chosen=${chosen} look=${look}
      onChoose=${(n) => setChosen(n === chosen ? null : n)}
      describe=${(n) => `${named(node.tokens[n])}, ${percent(node.tokens[n].p)}`} /></div>
    <p class="note">${node.finish ? ENDS[node.finish] ?? "stopped" : html`<span class="dot" aria-hidden="true"></span>writing`}</p>
    ${token && html`<div class="alternatives">
      <h3>In the place of <q><${Word} token=${token} /></q></h3>
      <ul>${token.likeliest.map((one) => html`<li key=${one[0]}>
        <button disabled=${writing || one[0] === token.id} onClick=${() => { setChosen(null); onGoOn(node, chosen, one); }}>
          <span class="word"><${Word} token=${{ text: one[1], name: one[1] === "" ? "end of text" : null }} /></span>
          <span class="share"><span class="bar" style=${{ width: `${100 * one[2]}%` }}></span></span>
          <span class="figure">${percent(one[2])}</span>
        </button></li>`)}</ul>
      <p class="note">By the model itself, at temperature 1. Choose one to go on from there.
        ${token.likeliest.some((one) => one[0] === token.id) ? "" : ` The token that was drawn had ${percent(token.p)}.`}</p>
      <p class="row ends"><button class="quiet" onClick=${() => onGrow(node, chosen)}>How this token grew over the run</button>
        <a href="#/inside" onClick=${() => sessionStorage.setItem("inside", JSON.stringify({
          model: node.model, text: before + textOf(node.tokens.slice(0, chosen + 1)) }))}>Look inside</a></p>
    </div>`}
    <p class="row ends"><a href="#/stories" onClick=${() => sessionStorage.setItem("story", JSON.stringify(before + textOf(node.tokens)))}>Judge this story</a></p>
  </article>`;
}

/** The tree of all continuations that are kept. */
function Kept({ tree, shown, names, onShow, onForget }) {
  const roots = tree.children(null);
  if (!roots.length) return null;
  const begin = (node) => excerpt(textOf(node.tokens));
  const item = (node) => html`<li key=${node.id}>
    <span class="kept">
      <button class="quiet written" aria-current=${shown.includes(node.id) ? "true" : null} onClick=${() => onShow(node.id)}>${begin(node)}</button>
      <span class="note">${names[node.model] ?? node.model}${node.parent ? `, after ${count(node.parent.at)} tokens` : ""}</span>
      <button class="quiet" aria-label=${`Forget ${begin(node)}`} onClick=${() => onForget(node.id)}>Forget</button>
    </span>
    ${tree.children(node.id).length > 0 && html`<ul>${tree.children(node.id).map(item)}</ul>`}
  </li>`;
  return html`<section aria-labelledby="kept-title">
    <h2 id="kept-title" tabindex="-1">All continuations</h2>
    <p class="note">Each begins after its prompt, or where you went on from another one. They stay in this browser.</p>
    <ul class="tree">${roots.map(item)}</ul>
  </section>`;
}
