// Settings as the studio describes them in, fields out: one field of a command, and all those with which a model writes.
import { html, useId } from "./lib.js";

/** One setting of a command: `field` as in `settings.described`, `value` a text; `problem` the reason of a refusal. */
export function Field({ field, value, onInput, problem }) {
  const id = useId();
  const help = `${id}-help`;
  const named = { id, "aria-describedby": help, "aria-invalid": problem ? "true" : "false", name: field.name };
  const typed = (event) => onInput(event.currentTarget.value);
  let control;
  if (field.kind === "switch") {
    control = html`<input type="checkbox" ...${named} checked=${value === true || value === "true"}
      onChange=${(event) => onInput(event.currentTarget.checked)} />`;
  } else if (field.kind === "choice") {
    control = html`<select ...${named} value=${value} onChange=${typed}>
      ${field.choices.map((choice) => html`<option value=${choice}>${choice || "as usual"}</option>`)}
    </select>`;
  } else if (field.kind === "texts") {
    control = html`<textarea class="lines" rows="2" spellcheck=${false} ...${named} placeholder="one in each line"
      value=${value} onInput=${typed}></textarea>`;
  } else {
    const mode = field.kind === "whole" ? "numeric" : field.kind === "number" ? "decimal" : "text";
    control = html`<input type="text" inputmode=${mode} autocomplete="off" spellcheck=${false} ...${named}
      placeholder=${field.omitted ?? ""} value=${value} onInput=${typed} />`;
  }
  return html`<div class="field">
    <label for=${id}>${field.label}</label>
    ${control}
    <p class="help" id=${help}>${problem ? html`<strong class="refused">${problem}</strong>` : field.help}
      ${" "}<span class="bounds">${field.bounds}</span></p>
  </div>`;
}

/** The value of each setting: as it was typed, or else the default. */
export const settingValues = (settings, typed) => Object.fromEntries(settings.map((field) => [field.name, typed[field.name] ?? field.value]));

/** The values as a request states them: a stop string is a line. */
export const requested = (values) => ({ ...values, stop: values.stop ? String(values.stop).split("\n") : [] });

/** The fields of all settings, folded; open if `isOpen` or if one is refused. `onChange` gets what is typed then. */
export function Settings({ settings, typed, problem, isOpen, onChange }) {
  const values = settingValues(settings, typed);
  return html`<details open=${isOpen || problem?.field in values}>
    <summary>Settings</summary>
    ${settings.map((field) => html`<${Field} key=${field.name} field=${field} value=${values[field.name]}
      problem=${problem?.field === field.name ? problem.message : null}
      onInput=${(text) => onChange({ ...typed, [field.name]: text })} />`)}
    <button onClick=${() => onChange({})}>Defaults</button>
  </details>`;
}
