// The libraries of the page under one name: `html` makes elements, the rest keeps their state.
// Text is only ever given to `html` as a value, which makes it text: nothing here writes markup.
import { h, render, Fragment } from "./vendor/preact.js";
import htm from "./vendor/htm.js";

export const html = htm.bind(h);
export { render, Fragment };
export { useCallback, useEffect, useId, useLayoutEffect, useMemo, useReducer, useRef, useState } from "./vendor/hooks.js";
export { default as uPlot } from "./vendor/uplot.js";
