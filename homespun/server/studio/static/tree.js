// Texts as trees: continuations, and conversations with their branches. Kept in this browser.

/** Nodes {id, parent: {id, ...} or null, ...} under a name in the storage of the browser. */
export class Tree {
  constructor(name) {
    this.name = name;
    this.nodes = new Map();
    this.known = new Set(); // the ids that were in the storage when it was read or written last
    this.last = 0;
    this.join();
    for (const id of this.nodes.keys()) this.last = Math.max(this.last, id);
  }

  /** Take what another tab has kept and forgotten meanwhile. */
  join() {
    let kept = [];
    try {
      kept = JSON.parse(localStorage.getItem(this.name)) ?? [];
    } catch { /* nothing that can be read is kept */ }
    if (!Array.isArray(kept)) kept = [];
    const there = new Set(kept.map((node) => node.id));
    for (const id of this.known) if (!there.has(id)) this.nodes.delete(id);
    for (const node of kept) if (!this.known.has(node.id)) this.nodes.set(node.id, node);
    this.known = there;
  }

  add(node) {
    this.last = Math.max(this.last + 1, Date.now()); // two tabs never give the same
    const whole = { id: this.last, finish: null, ...node };
    this.nodes.set(whole.id, whole);
    return whole;
  }

  get(id) {
    return this.nodes.get(id);
  }

  children(id) {
    return [...this.nodes.values()].filter((node) => (node.parent?.id ?? null) === id);
  }

  /** A node and all that it comes from, the root first; nothing if there is no such node. */
  path(id) {
    const found = [];
    for (let node = this.get(id); node; node = node.parent && this.get(node.parent.id)) found.unshift(node);
    return found;
  }

  /** Forget a node and all that go on from it. */
  remove(id) {
    for (const child of this.children(id)) this.remove(child.id);
    this.nodes.delete(id);
  }

  /** Keep the tree for the next visit. False if the browser has no room for it. */
  keep() {
    this.join();
    try {
      localStorage.setItem(this.name, JSON.stringify([...this.nodes.values()]));
      this.known = new Set(this.nodes.keys());
      return true;
    } catch {
      return false;
    }
  }
}

/** Continuations: each begins after a prompt, or after some tokens of another one.
 *  `parent` {id, at}: the first `at` tokens of that one come before; null: the prompt alone does.
 *  `model` its path, `prompt` the tokens of the prompt, `tokens` [{id, text, p, likeliest: [[id, text, p]]}], `finish`,
 *  `seed`, `sample`: its number among those that were written together. */
export class Continuations extends Tree {
  add(node) {
    return super.add({ tokens: [], prompt: [], ...node });
  }

  /** The tokens before those of `node`, from the prompt on. */
  before(node) {
    if (!node.parent) return node.prompt;
    const parent = this.get(node.parent.id);
    return [...this.before(parent), ...parent.tokens.slice(0, node.parent.at)];
  }

  /** The ids up to token number `at` of `node`. */
  ids(node, at) {
    return [...this.before(node), ...node.tokens.slice(0, at)].map((token) => token.id);
  }
}

/** The text of some tokens. */
export const textOf = (tokens) => tokens.map((token) => token.text).join("");
