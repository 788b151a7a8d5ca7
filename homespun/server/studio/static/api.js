// Questions to the studio's own server. A cookie, which the server set when this page was opened, goes with each of them.

/** An error that the server explains: `message` is one sentence for the reader, `field` the setting at fault, if any. */
export class Refused extends Error {
  constructor({ message, param = null }, status) {
    super(message);
    this.field = param;
    this.status = status;
  }
}

const UNREACHABLE = "The studio does not answer. If you have stopped it, start it again with: homespun studio";

// A model may write the character NUL, which the server refuses in a text: it is sent as the sign of a broken character.
async function ask(path, body, signal) {
  const options = { signal, headers: { Accept: "application/json, text/event-stream" } };
  if (body !== undefined) {
    options.method = "POST";
    options.headers["Content-Type"] = "application/json";
    options.body = JSON.stringify(body, (_, value) => (typeof value === "string" ? value.replaceAll("\0", "\uFFFD") : value));
  }
  let answer;
  try {
    answer = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused({ message: UNREACHABLE }, 0);
  }
  if (!answer.ok) {
    const told = await answer.json().catch(() => null);
    throw new Refused(told?.error ?? { message: `The studio answered with status ${answer.status}.` }, answer.status);
  }
  return answer;
}

/** The JSON at `path`; with a `body`, it is posted. Rejects with `Refused`, or with an AbortError after `signal`. */
export async function api(path, body, signal) {
  return (await ask(path, body, signal)).json();
}

/** Server-sent events: calls `onEvent` with the JSON of each. Ends with the stream; rejects as `api`. */
export async function stream(path, body, onEvent, signal) {
  const answer = await ask(path, body, signal);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let waiting = "";
  for (;;) {
    let part;
    try {
      part = await reader.read();
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Refused({ message: UNREACHABLE }, 0);
    }
    if (part.done) return;
    const events = (waiting + part.value).split("\n\n");
    waiting = events.pop();
    for (const event of events) {
      const data = event.split("\n").filter((line) => line.startsWith("data: ")).map((line) => line.slice(6)).join("\n");
      if (!data) continue;
      const told = JSON.parse(data);
      if (told.error) throw new Refused(told.error, 500);
      onEvent(told);
    }
  }
}
