// A story in, the judge's verdict out: each sentence that contradicts the story is marked, with the reason.
import { html, useEffect, useRef, useState } from "./lib.js";
import { api, stream } from "./api.js";
import { Busy, Empty, ModelChoice, Problem, Spoken, count, useAnswer, useKept } from "./parts.js";
import { chosenModel } from "./playground.js";

const LEAST_UNDERSTOOD = 0.5;
const LONGEST = "400";

export default function Stories() {
  const [text, setText] = useKept("story", "");
  const [model, setModel] = useKept("story-model", "");
  const [answer, setAnswer] = useState({});
  const studio = useAnswer("api/studio");
  const models = studio.value?.models ?? [];
  const asking = useRef(null);
  const [writing, setWriting] = useState(false);
  const stop = () => asking.current?.abort();
  useEffect(() => {
    if (text) judge(text);
    return stop;
  }, []);
  const begin = () => {
    stop();
    return (asking.current = new AbortController()).signal;
  };
  const judge = (story) => {
    const signal = begin();
    setAnswer({ busy: true });
    api("api/judge", { text: story }, signal).then(
      (verdict) => setAnswer({ verdict, story }),
      (error) => signal.aborted || setAnswer({ error }),
    );
  };
  const write = () => {
    const signal = begin();
    let story = "";
    setAnswer({});
    setText("");
    setWriting(true);
    const take = (event) => {
      if (event.text !== undefined) setText((story += event.text));
    };
    const body = { model: chosenModel(models, model), prompt: "", settings: { max_tokens: LONGEST } };
    stream("api/write", body, take, signal).then(() => judge(story), (error) => {
      if (error.name !== "AbortError") setAnswer({ error });
      else if (story) judge(story);
    }).finally(() => setWriting(false));
  };
  const pressed = (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) judge(text);
    else if (event.key === "Escape" && writing) stop();
    else return;
    event.preventDefault();
  };
  return html`<h1>Stories</h1>
    <p class="lead">A judge that knows the rules of the built-in stories reads a story and marks each sentence that contradicts it.</p>
    <div onKeyDown=${pressed}>
      <div class="asking">
        <div class="field">
          <label for="story">Story</label>
          <textarea id="story" class="long" value=${text} aria-invalid=${answer.error?.field === "text"} readonly=${writing}
            onInput=${(event) => setText(event.currentTarget.value)}></textarea>
        </div>
        <div class="row">
          <button class="main" onClick=${() => writing || judge(text)} aria-disabled=${writing}>Judge</button>
          ${models.length > 0 && html`<button onClick=${() => writing || write()} aria-disabled=${writing}>Let the model write one</button>
            <button onClick=${stop} aria-disabled=${!writing}>Stop</button>`}
        </div>
        ${models.length > 0 && html`<${ModelChoice} label="Model" models=${models} value=${chosenModel(models, model)} onChoose=${setModel} />`}
      </div>
      <${Problem} error=${answer.error} />
      ${answer.busy && html`<${Busy}>Judging<//>`}
      ${!answer.verdict && !answer.busy && !answer.error && !writing && html`<${Empty} title="No verdict yet">
        <p>Write or paste a story and press Judge, or let a model that learned the built-in stories write one.</p><//>`}
      ${answer.verdict && html`<${Verdict} verdict=${answer.verdict} />`}
    </div>`;
}

function Verdict({ verdict }) {
  const { consistent, sentences, understood, pieces } = verdict;
  const wrong = pieces.filter((piece) => piece.problems?.length);
  const strange = understood < LEAST_UNDERSTOOD * sentences;
  const reasons = wrong.reduce((n, piece) => n + piece.problems.length, 0);
  const summary = consistent ? "The story is consistent from start to end."
    : `${count(reasons)} ${reasons === 1 ? "problem" : "problems"} in ${count(wrong.length)} of ${count(sentences)} sentences.`;
  return html`<section aria-labelledby="verdict-title">
    <h2 id="verdict-title">Verdict</h2>
    <p class=${consistent ? "fine" : "problem"} role="status">${summary}</p>
    ${strange && html`<p class="note">The judge understands only ${count(understood)} of ${count(sentences)} sentences. It knows the built-in stories
      alone: a model learns them from <code>homespun download --dataset stories</code>.</p>`}
    <div class="card"><p class="written story">${pieces.map((piece, n) => {
      const number = wrong.indexOf(piece) + 1;
      return number ? html`<mark key=${n} class="wrong">${piece.text}<sup><a href=${`#reason-${number}`} onClick=${(event) => {
        event.preventDefault(); // the address names the page
        document.getElementById(`reason-${number}`).focus();
      }} aria-label=${`Reason ${number}`}>${number}</a></sup></mark>` : html`<span key=${n}>${piece.text}</span>`;
    })}</p></div>
    ${wrong.length > 0 && html`<h3>Reasons</h3>
      <ol class="reasons">${wrong.map((piece, n) => html`<li key=${n} id=${`reason-${n + 1}`} tabindex="-1">
        ${piece.problems.map((what) => html`<strong>${what}</strong>`)} <q class="written">${piece.text}</q></li>`)}</ol>`}
    <${Spoken} text=${summary} />
  </section>`;
}
