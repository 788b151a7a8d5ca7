// A conversation with a model that has learned to answer: branches from any message, kept in this browser, saved as a file.
import { html, useEffect, useRef, useState } from "./lib.js";
import { api, stream } from "./api.js";
import { Busy, Empty, ModelChoice, Problem, Spoken, count, remember, useAnswer, useKept, useRedraw } from "./parts.js";
import { ENDS, NoModel, chosenModel } from "./playground.js";
import { Settings, requested, settingValues } from "./settings.js";
import { excerpt } from "./tokens.js";
import { Tree } from "./tree.js";

export default function Chat() {
  const { value, error, again } = useAnswer("api/chat");
  return html`<h1>Chat</h1>
    <p class="lead">Talk with a model that has learned to answer.</p>
    <${Problem} error=${error} again=${again} />
    ${!value && !error && html`<${Busy}>Looking for models<//>`}
    ${value && (value.models.length ? html`<${Desk} studio=${value} />` : html`<${NoModel} />`)}`;
}

/** Conversations as a tree. A root is the message of the system, maybe empty; below it messages alternate.
 *  `role`, `content`; of an answer `model`, `seed`, `nTokens`, `speed`, `nLeftOut`, and `finish`: its end. */
class Conversations extends Tree {
  /** The end of the branch that was begun last below a message. */
  newest(node) {
    const below = this.children(node.id);
    return below.length ? this.newest(below.at(-1)) : node;
  }

  /** A conversation up to message `id`, as models read it. */
  messages(id) {
    return this.path(id).filter((one) => one.role !== "system" || one.content.trim())
      .map(({ role, content }) => ({ role, content }));
  }
}

function Desk({ studio }) {
  const { models, settings } = studio;
  const [form, setForm] = useKept("chat", { model: "", system: "", file: "chats.jsonl", settings: {} });
  const [draft, setDraft] = useKept("chat-draft", "");
  const [last, setLast] = useKept("chat-last", null);
  const [problem, setProblem] = useState(null);
  const [editing, setEditing] = useState(null);
  const [spoken, setSpoken] = useState("");
  const [saved, setSaved] = useState("");
  const [stop, setStop] = useState(null);
  const kept = useRef(null);
  const tree = (kept.current ??= new Conversations(`conversations: ${studio.folder}`));
  const isFollowed = useRef(true); // until the reader scrolls up
  const settle = useRef(null);
  const box = useRef(null);
  const change = (part) => setForm({ ...form, ...part });
  const model = models.find((one) => one.path === chosenModel(models, form.model));
  const names = Object.fromEntries(models.map((one) => [one.path, one.label]));
  const [root, ...shown] = tree.path(last);

  const draw = useRedraw(() => isFollowed.current && scrollBy(0, Math.max(0, outOfView())));
  useEffect(() => {
    // A fast answer grows between a scroll and its event: only a scroll upwards leaves the answer.
    let before = scrollY;
    const scrolled = () => {
      const isUp = scrollY < before;
      if (isUp) isFollowed.current = outOfView() < 60;
      else if (outOfView() < innerHeight / 2) isFollowed.current = true;
      before = scrollY;
    };
    addEventListener("scroll", scrolled, { passive: true });
    return () => removeEventListener("scroll", scrolled);
  }, []);
  const keep = () => (tree.keep() ? "" : " This browser has no room to keep it.");

  /** Let the model answer message `question` of the user. Without an answer, both are forgotten and `text` is given back. */
  const answer = (question, text) => {
    const leaving = new AbortController();
    const before = last;
    const node = tree.add({ parent: { id: question.id }, role: "assistant", content: "", model: model.path });
    const given = requested(settingValues(settings, form.settings));
    const take = (event) => {
      if ("seed" in event) Object.assign(node, { seed: event.seed, nLeftOut: event.n_left_out });
      else if ("seconds" in event) Object.assign(node, { nTokens: event.tokens, speed: event.tokens / event.seconds });
      else {
        node.content += event.text;
        node.finish = event.finish;
      }
      draw();
    };
    /** End the answer, also when the page is left: {shown: the message that is shown then, back: the text without an answer}. */
    settle.current = () => {
      settle.current = null;
      node.finish ??= "stopped";
      node.content = node.content.trimEnd();
      if (node.content) return { shown: node.id, back: "" };
      tree.remove(node.id);
      if (!tree.children(question.id).length) tree.remove(question.id);
      for (const one of tree.children(null)) if (!tree.children(one.id).length) tree.remove(one.id);
      return { shown: tree.get(before) ? before : null, back: text };
    };
    const ended = (error) => {
      setStop(null);
      if (!settle.current) return; // the page was left
      const { shown, back } = settle.current();
      const told = keep();
      if (error && error.name !== "AbortError") setProblem(error);
      setLast((now) => (now === node.id ? shown : now));
      setDraft((now) => now || back);
      setSpoken(shown === node.id ? `Answer: ${node.content}${told}` : error ? "" : "The model gave no answer.");
      draw();
    };
    tree.path(question.id)[0].content = form.system;
    const messages = tree.messages(question.id);
    setLast(node.id);
    setStop(leaving);
    isFollowed.current = true;
    setEditing(null);
    setProblem(null);
    setSaved("");
    setSpoken("Writing.");
    stream("api/chat/answer", { model: model.path, messages, settings: given }, take, leaving.signal).then(() => ended(null), ended);
  };

  /** Say something after a message, or after none: in a new conversation. */
  const say = (text, parent) => {
    if (stop || !text.trim() || !model.answers) return;
    const begin = parent ?? tree.add({ parent: null, role: "system", content: form.system });
    answer(tree.add({ parent: { id: begin.id }, role: "user", content: text.trim() }), text);
  };
  const send = () => {
    if (stop || !draft.trim()) return;
    say(draft, shown.at(-1) ?? root);
    setDraft("");
  };
  /** Another version of a message: of the user, with a new answer; of the model, as it was written now. */
  const replace = (node, text) => {
    if (stop || !text.trim()) return;
    if (node.role === "user") say(text, tree.get(node.parent.id));
    else {
      setLast(tree.add({ parent: node.parent, role: "assistant", content: text.trim(), finish: "edited" }).id);
      setEditing(null);
      setSpoken(`The answer is changed.${keep()}`);
    }
    box.current?.focus(); // the field that was edited is gone
  };
  const leave = () => stop?.abort();
  const now = useRef(null);
  now.current = { stop, draft };
  useEffect(() => {
    const left = () => {
      now.current.stop?.abort();
      if (!settle.current) return;
      const { shown, back } = settle.current();
      tree.keep();
      remember("chat-last", shown);
      remember("chat-draft", now.current.draft || back);
    };
    addEventListener("pagehide", left);
    return () => { removeEventListener("pagehide", left); left(); };
  }, []);

  const open = (node) => {
    leave();
    setLast(node ? tree.newest(node).id : null);
    setEditing(null);
    setProblem(null);
    setSaved("");
    if (node) change({ system: tree.path(node.id)[0].content });
  };
  const pressed = (event) => {
    if (event.key === "Escape" && stop) leave();
    else if (event.key === "Escape" && editing !== null) cancel();
    else return;
    event.preventDefault();
  };
  const cancel = () => {
    document.getElementById(`message-${editing}`)?.focus(); // the field that was edited is gone
    setEditing(null);
  };
  const save = (event) => {
    event.preventDefault();
    setProblem(null);
    setSaved("");
    root.content = form.system;
    api("api/chat/save", { file: form.file, messages: tree.messages(last) }).then(
      (told) => setSaved(`${count(told.n_messages)} messages added to ${form.file}.`), setProblem);
  };
  const forget = (node) => {
    document.getElementById("talks-title").focus(); // the button that was pressed is gone
    if (root === node) open(null);
    tree.remove(node.id);
    keep();
    draw();
  };

  return html`<div class="desk talking" onKeyDown=${pressed}>
    <div class="controls">
      <${ModelChoice} label="Model" value=${model.path} onChoose=${(path) => change({ model: path })}
        models=${models.map((one) => ({ ...one, label: one.answers ? one.label : `${one.label} (continues texts)` }))} />
      <div class="field">
        <label for="system">Message of the system</label>
        <textarea id="system" class="lines" rows="2" aria-describedby="system-help" value=${form.system}
          onInput=${(event) => change({ system: event.currentTarget.value })}></textarea>
        <p class="help" id="system-help">How the model should answer. It stands before the conversation; empty: there is none.</p>
      </div>
      <${Settings} settings=${settings} typed=${form.settings} problem=${problem}
        onChange=${(typed) => change({ settings: typed })} />
    </div>
    <div class="results">
      <${Problem} error=${problem} />
      <${Spoken} text=${spoken} />
      ${!model.answers && html`<${Teach} model=${model} />`}
      ${model.answers && !shown.length && html`<${Empty} title="No message yet">
        <p>Write one and press Send, or Ctrl + Enter. You can change any message later: the conversation then goes on from there,
          and both ways are kept.</p><//>`}
      ${shown.length > 0 && html`<ol class="talk" aria-label="Conversation">${shown.map((node, depth) => html`<${Message} key=${depth} node=${node}
        name=${node.role === "user" ? "You" : names[node.model] ?? node.model ?? "You, as the model"} versions=${tree.children(node.parent.id)}
        isWriting=${stop !== null && node.id === last} isEdited=${editing === node.id} isBusy=${stop !== null}
        canAnswer=${model.answers} onOpen=${open} onEdit=${() => setEditing(node.id)} onCancel=${cancel}
        onReplace=${(text) => replace(node, text)} onAgain=${() => answer(tree.get(node.parent.id), "")} />`)}</ol>`}
      ${model.answers && html`<div class="composer">
        <label for="message">Message</label>
        <textarea id="message" ref=${box} value=${draft} aria-invalid=${problem?.field === "messages"}
          onInput=${(event) => setDraft(event.currentTarget.value)} onKeyDown=${(event) => onSend(event, send)}></textarea>
        <div class="row">
          <button class="main" onClick=${send} aria-disabled=${stop !== null || !draft.trim()}>Send</button>
          <button onClick=${leave} aria-disabled=${stop === null}>Stop</button>
          ${shown.length > 0 && html`<button class="quiet" onClick=${() => { open(null); box.current.focus(); }}>New conversation</button>`}
        </div>
      </div>`}
    </div>
    <div class="kept-talks">
      ${shown.length > 0 && stop === null && html`<section aria-labelledby="save-title">
        <h2 id="save-title">Save</h2>
        <form onSubmit=${save}>
          <div class="field">
            <label for="file">File</label>
            <input id="file" type="text" autocomplete="off" spellcheck=${false} value=${form.file} aria-describedby="file-help"
              aria-invalid=${problem?.field === "file"} onInput=${(event) => change({ file: event.currentTarget.value })} />
            <p class="help" id="file-help">Adds the conversation, as it is shown, to a .jsonl file in the folder of the studio. Models learn
              from it with <code>--data-file</code>.</p>
          </div>
          <div class="row"><button>Save</button></div>
          <p class="note" role="status">${saved}</p>
        </form>
      </section>`}
      <${Talks} tree=${tree} root=${root} onOpen=${open} onForget=${forget} />
    </div>
  </div>`;
}

/** How much of the last message, in pixels, lies below the window or behind the field of the next one. */
function outOfView() {
  const last = document.querySelector(".talk > :last-child"), composer = document.querySelector(".composer");
  if (!last || !composer) return 0;
  return last.getBoundingClientRect().bottom - Math.min(innerHeight, composer.getBoundingClientRect().top);
}

/** Ctrl + Enter in a field of a message. */
function onSend(event, send) {
  if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
  event.preventDefault();
  send();
}

/** The way from a model that continues texts to one that answers. */
function Teach({ model }) {
  return html`<${Empty} title="This model continues texts">
    <p>It has not learned to answer. These commands teach it to answer questions about the built-in stories:</p>
    <pre class="command">${model.teach.join("\n")}</pre>
    <p>For answers of your own, write conversations into a .jsonl file, and name it in <code>--data-file</code>. The second command can also be
      started on the page <a href="#/runs">Runs</a>. Then choose the new model here.</p>
  <//>`;
}

function Message({ node, name, versions, isWriting, isEdited, isBusy, canAnswer, onOpen, onEdit, onCancel, onReplace, onAgain }) {
  const isAnswer = node.role === "assistant";
  const at = versions.indexOf(node);
  const go = (to) => !isBusy && versions[to] && onOpen(versions[to]);
  const facts = !isAnswer || isWriting || node.seed === undefined ? "" : [
    `seed ${node.seed}`, node.nTokens === undefined ? null : `${count(node.nTokens)} tokens`,
    node.speed ? `${count(Math.round(node.speed))} tokens/s` : null, ENDS[node.finish] ?? "stopped",
  ].filter(Boolean).join(" · ");
  return html`<li class=${isAnswer ? "message answer" : "message"}>
    <article id=${`message-${node.id}`} tabindex="-1" aria-label=${`${name}, version ${at + 1} of ${versions.length}`}>
      <h2>${name}</h2>
      ${node.nLeftOut > 0 && html`<p class="note">The first ${count(node.nLeftOut)} messages no longer fit into the context, and were left out.</p>`}
      ${isEdited ? html`<${Editor} node=${node} isAnswer=${isAnswer} onReplace=${onReplace} onCancel=${onCancel} />`
        : html`<p class="written">${node.content}</p>`}
      ${isWriting && html`<p class="note"><span class="dot" aria-hidden="true"></span>writing</p>`}
      ${facts && html`<p class="note">${facts}</p>`}
      ${node.finish === "edited" && html`<p class="note">written by you</p>`}
      ${!isEdited && !isWriting && html`<p class="row ends">
        ${(canAnswer || isAnswer) && html`<button class="quiet" aria-disabled=${isBusy} onClick=${() => isBusy || onEdit()}>Edit</button>`}
        ${isAnswer && canAnswer && html`<button class="quiet" aria-disabled=${isBusy} onClick=${() => isBusy || onAgain()}>Another answer</button>`}
        ${versions.length > 1 && html`<span class="pair">
          <button class="quiet" aria-label="Earlier version" aria-disabled=${isBusy || at === 0} onClick=${() => go(at - 1)}>‹</button>
          <span class="note">${at + 1} of ${versions.length}</span>
          <button class="quiet" aria-label="Later version" aria-disabled=${isBusy || at === versions.length - 1} onClick=${() => go(at + 1)}>›</button>
        </span>`}
      </p>`}
    </article>
  </li>`;
}

/** The field in which a message is changed. */
function Editor({ node, isAnswer, onReplace, onCancel }) {
  const [text, setText] = useState(node.content);
  const box = useRef(null);
  useEffect(() => box.current.focus(), []);
  return html`<div>
    <label for="edited">${isAnswer ? "The answer as it should be" : "Your message"}</label>
    <textarea id="edited" ref=${box} value=${text} onInput=${(event) => setText(event.currentTarget.value)}
      onKeyDown=${(event) => onSend(event, () => onReplace(text))}></textarea>
    <div class="row">
      <button class="main" onClick=${() => onReplace(text)} aria-disabled=${!text.trim()}>${isAnswer ? "Keep" : "Send again"}</button>
      <button onClick=${onCancel}>Cancel</button>
    </div>
  </div>`;
}

/** All conversations that are kept, the newest first. */
function Talks({ tree, root, onOpen, onForget }) {
  const roots = tree.children(null).reverse();
  if (!roots.length) return null;
  const begin = (node) => excerpt(tree.children(node.id)[0]?.content ?? "");
  return html`<section aria-labelledby="talks-title">
    <h2 id="talks-title" tabindex="-1">Conversations</h2>
    <p class="note">They stay in this browser.</p>
    <ul class="tree">${roots.map((node) => html`<li key=${node.id}><span class="kept">
      <button class="quiet written" aria-current=${node === root ? "true" : null} onClick=${() => onOpen(node)}>${begin(node)}</button>
      <button class="quiet" aria-label=${`Forget ${begin(node)}`} onClick=${() => onForget(node)}>Forget</button>
    </span></li>`)}</ul>
  </section>`;
}
