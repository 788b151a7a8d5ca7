// The stream of the runs: it is opened again whenever it ends, and begins with everything, so nothing is lost in between.
import { stream } from "./api.js";
import { mark } from "./charts.js";
import { useEffect, useReducer } from "./lib.js";

const FIRST_PAUSE = 500, LONGEST_PAUSE = 5000;
const MOST_TEXTS = 60;

function taken(runs, told) {
  if (told.begins) mark("told");
  const before = told.begins ? null : runs[told.run];
  const curves = { ...before?.curves };
  for (const [name, columns] of Object.entries(told.curves)) {
    curves[name] = curves[name] ? curves[name].map((column, n) => column.concat(columns[n])) : columns;
  }
  const samples = [...(before?.samples ?? []), ...told.samples].slice(-MOST_TEXTS);
  const notes = [...(before?.notes ?? []), ...told.notes].slice(-MOST_TEXTS);
  return { ...runs, [told.run]: { curves, samples, notes, nSamples: told.n_samples, damaged: told.damaged } };
}

function changed(state, told) {
  switch (told.kind) {
    case "list": return { ...state, list: told, error: null };
    case "run": return { ...state, runs: taken(state.runs, told), error: null };
    case "gone": {
      const { [told.run]: gone, ...runs } = state.runs;
      return { ...state, runs };
    }
    case "error": return { ...state, error: told.error };
    default: return state;
  }
}

/** {list, runs, error}: all runs as they are now, and the curves and texts of the chosen ones, by name. */
export function useLive(names) {
  const [state, tell] = useReducer(changed, { list: null, runs: {}, error: null });
  const query = names.map((name) => `run=${encodeURIComponent(name)}`).join("&");
  useEffect(() => {
    const leaving = new AbortController();
    let waiting = null, pause = FIRST_PAUSE;
    const open = () => {
      stream(`api/runs/live?${query}`, undefined, (told) => { pause = FIRST_PAUSE; tell(told); }, leaving.signal)
        .then(() => null, (error) => error)
        .then((error) => {
          if (leaving.signal.aborted) return;
          if (error) tell({ kind: "error", error });
          waiting = setTimeout(open, pause);
          pause = Math.min(2 * pause, LONGEST_PAUSE);
        });
    };
    open();
    return () => { leaving.abort(); clearTimeout(waiting); };
  }, [query]);
  return state;
}
