// Words for the figures of a run: each with its unit.
import { figure } from "./charts.js";

export const count = (n) => (n === null || n === undefined ? "–" : Math.round(n).toLocaleString("en"));

/** 42 s, 12 min, 3 h 05 min, 2 d 4 h. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 59.5) return `${Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  if (minutes < 1440) return `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, "0")} min`;
  const hours = Math.round(minutes / 60);
  return `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

export const bytes = (n) => (n === null || n === undefined ? "–" : n < 0.9995e9 ? `${Math.round(n / 1e6)} MB` : `${(n / 1e9).toFixed(1)} GB`);
export const nats = (loss) => (loss === null || loss === undefined ? "–" : `${loss.toFixed(4)} nats/token`);
export const bits = (value) => (value === null || value === undefined ? "–" : `${value.toFixed(3)} bits/byte`);

const STATES = { starting: "starting", running: "running", stopping: "stopping: finishes its step and saves", stopped: "stopped", finished: "finished", failed: "failed" };
export const stateOf = (run) => STATES[run.state] ?? run.state;

/** A run in one line: how far it is, how good, and how long it takes. */
export function inOneLine(run) {
  if (!run.has_record) return run.state === "failed" ? "ended before its first step" : "preparing text and model";
  const total = run.limits?.max_steps;
  const parts = [`step ${count(run.step)}${total ? ` of ${count(total)}` : ""}`];
  if (run.best) parts.push(`best validation loss ${nats(run.best.val_loss)}`);
  else if (run.loss !== null && run.loss !== undefined) parts.push(`loss ${nats(run.loss)}`);
  if (run.seconds_left !== null && run.seconds_left !== undefined) parts.push(`about ${duration(run.seconds_left)} left`);
  return parts.join(", ");
}

/** Topics and figures of a run, for its details. */
export function figuresOf(run) {
  const limits = run.limits ?? {};
  const total = limits.max_steps ? ` of ${count(limits.max_steps)}` : "";
  return [
    ["state", stateOf(run)],
    ["steps", `${count(run.step)}${total}`],
    ["tokens seen", count(run.tokens)],
    ["passes over the text", run.epoch === null ? "–" : figure(run.epoch) + (limits.max_epochs ? ` of ${figure(limits.max_epochs)}` : "")],
    [`best validation loss${run.best ? `, step ${count(run.best.step)}` : ""}`, run.best ? nats(run.best.val_loss) : "not evaluated yet"],
    ["the same in bits", run.best ? bits(run.best.bits_per_byte) : "–"],
    ["training loss", nats(run.loss)],
    ["speed", run.tokens_per_second ? `${count(run.tokens_per_second)} tokens/s` : "–"],
    ["memory, peak", bytes(run.memory_bytes)],
    ["time taken", duration(run.seconds) + (limits.time_budget ? ` of ${duration(run.budget_seconds)}` : "")],
    ...(run.state === "running" ? [["time left", run.seconds_left === null ? "not known yet" : `about ${duration(run.seconds_left)}`]] : []),
    ["saved up to step", run.saved_step === null ? "not saved yet" : count(run.saved_step)],
  ];
}
