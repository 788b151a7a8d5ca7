// Curves of runs as pictures. Lines have their own x values; the picture can be read by pointer and by keyboard.
import { html, uPlot, useEffect, useMemo, useRef, useState } from "./lib.js";
import { colour } from "./parts.js";

const COLOURS = 6;
const HEIGHT = 220;
/** A line of fewer points has dots; one of a single point would be invisible without. */
const MOST_DOTS = 60;

/** Notes the time, in place of an earlier note, for benchmarks/drawing.py. */
export function mark(name) {
  performance.clearMarks(name);
  performance.mark(name);
}

/** The n-th colour of lines, from 0 on, as a name for styles. */
export const nthColour = (n) => `c${(n % COLOURS) + 1}`;

/** At most four digits: 0.0012, 3.25, 1,250, 41 M. */
export function figure(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  for (const [unit, name] of [[1e12, "T"], [1e9, "G"], [1e6, "M"]]) {
    if (size >= unit) return `${Number((value / unit).toPrecision(4))} ${name}`;
  }
  if (size >= 1000) return Math.round(value).toLocaleString("en");
  if (size === 0) return "0";
  return size >= 1e-4 ? String(Number(value.toPrecision(4))) : value.toExponential(1);
}

/** The least and the greatest value to show; the steep fall at the beginning would flatten the rest. */
function visible(lines, low, high, leavesOutFall) {
  let least = Infinity, most = -Infinity;
  for (const { xs, ys } of lines) {
    const late = leavesOutFall && xs.length >= 15 ? xs[0] + (xs[xs.length - 1] - xs[0]) / 20 : -Infinity;
    for (let i = 0; i < xs.length; i++) {
      if (xs[i] < low || xs[i] > high || (xs[i] < late && low <= late && high > late)) continue;
      if (ys[i] < least) least = ys[i];
      if (ys[i] > most) most = ys[i];
    }
  }
  return [least, most];
}

function options({ lines, current, width, colours, xUnit, fromZero, leavesOutFall, onZoom, onRead }) {
  const axis = { stroke: colours.soft, grid: { stroke: colours.rule, width: 1 }, ticks: { stroke: colours.rule, width: 1 }, font: "12px system-ui, sans-serif" };
  return {
    width,
    height: HEIGHT,
    legend: { show: false },
    padding: [null, 40, null, null], // for the unit behind the last place of the axis
    cursor: { y: false, points: { size: 6 }, drag: { x: true, y: false, setScale: false } },
    scales: {
      x: { time: false },
      y: {
        range: (u) => {
          const { min, max } = u.scales.x;
          const [least, most] = visible(current(), min ?? -Infinity, max ?? Infinity, leavesOutFall);
          if (least > most) return [0, 1];
          const margin = (most - least || Math.abs(most) || 1) * 0.06;
          return [fromZero && least >= 0 ? 0 : least - margin, most + margin];
        },
      },
    },
    axes: [
      { ...axis, size: 32, values: (u, ticks) => ticks.map((tick, n) => (n === ticks.length - 1 ? `${figure(tick)} ${xUnit}` : figure(tick))) },
      { ...axis, size: 58, values: (u, ticks) => ticks.map(figure) },
    ],
    series: [
      {},
      ...lines.map((line) => ({
        label: line.label,
        stroke: colours[line.colour],
        width: line.style === "dots" ? 1.5 : 1.75,
        dash: line.style === "dashed" ? [6, 4] : undefined,
        spanGaps: true,
        points: { show: line.style === "dots" || line.xs.length === 1 ? line.xs.length <= MOST_DOTS : false, size: 5, fill: colours[line.colour] },
      })),
    ],
    hooks: {
      draw: [() => mark("drawn")],
      setSelect: [(u) => {
        if (u.select.width > 4) onZoom([u.posToVal(u.select.left, "x"), u.posToVal(u.select.left + u.select.width, "x")]);
        u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
      }],
      setCursor: [(u) => onRead(u.cursor.left >= 0 && u.cursor.idx !== null ? u.posToVal(u.cursor.left, "x") : null)],
    },
  };
}

/** The value of a line at, or just before, an x. */
function valueAt({ xs, ys }, x) {
  let low = 0, high = xs.length - 1;
  if (high < 0 || x < xs[0]) return null;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (xs[middle] <= x) low = middle;
    else high = middle - 1;
  }
  return ys[low];
}

const summary = (lines, unit) => lines.map(({ label, xs, ys }) =>
  `${label}: from ${figure(ys[0])} to ${figure(ys[ys.length - 1])} ${unit}, ${xs.length} points`).join("; ");

/**
 * A picture of at least one line {label, colour, style, xs, ys}, `style` being "line", "dots" or "dashed".
 * `extent` is the first and the last x of all pictures, `range` the part that is shown, or null for all; `onZoom` is
 * called with a new one.
 */
export function Chart({ title, unit, lines, xUnit, fromZero = false, leavesOutFall = false, extent, range, onZoom }) {
  const box = useRef(null), plot = useRef(null), zoom = useRef(onZoom);
  const [x, setX] = useState(null);
  const [spoken, setSpoken] = useState("");
  const [theme, setTheme] = useState(0);
  const [width, setWidth] = useState(0);
  zoom.current = onZoom;
  const shape = JSON.stringify([lines.map(({ label, colour: c, style }) => [label, c, style]), xUnit, fromZero, leavesOutFall, theme]);
  const data = useMemo(() => uPlot.join(lines.map(({ xs, ys }) => [xs, ys])), [lines]);

  useEffect(() => {
    const changed = () => setTheme((n) => n + 1);
    const dark = matchMedia("(prefers-color-scheme: dark)");
    addEventListener("themechange", changed);
    dark.addEventListener("change", changed);
    const sized = new ResizeObserver(([entry]) => setWidth(Math.floor(entry.contentRect.width)));
    sized.observe(box.current);
    return () => {
      removeEventListener("themechange", changed);
      dark.removeEventListener("change", changed);
      sized.disconnect();
    };
  }, []);

  const now = useRef(null);
  now.current = lines;
  useEffect(() => {
    if (!width) return undefined;
    const names = ["soft", "rule", ...lines.map((line) => line.colour)];
    const colours = Object.fromEntries(names.map((name) => [name, colour(`--${name}`)]));
    // The picture is made once for its lines; later points only change its data.
    const made = new uPlot(options({
      lines, current: () => now.current, width, colours, xUnit, fromZero, leavesOutFall, onZoom: (to) => zoom.current(to), onRead: setX,
    }), data, box.current);
    plot.current = made;
    return () => { made.destroy(); plot.current = null; };
  }, [shape, width > 0]);
  useEffect(() => {
    if (plot.current && width) plot.current.setSize({ width, height: HEIGHT });
  }, [width]);
  useEffect(() => {
    const u = plot.current;
    if (!u) return;
    u.setData(data, false);
    const [low, high] = range ?? extent;
    u.setScale("x", { min: low, max: high > low ? high : low + 1 });
  }, [data, range, extent[0], extent[1], shape, width > 0]);

  const keyed = (event) => {
    const u = plot.current;
    if (!u || event.ctrlKey || event.altKey || event.metaKey) return;
    const across = u.over.clientWidth;
    const at = u.cursor.left >= 0 ? u.cursor.left : across;
    const moves = { ArrowLeft: at - across / 50, ArrowRight: at + across / 50, Home: 0, End: across - 1 };
    if (event.key in moves) {
      const left = Math.min(across - 1, Math.max(0, moves[event.key]));
      u.setCursor({ left, top: 1 });
      const here = u.posToVal(left, "x");
      setSpoken(`${figure(here)} ${xUnit}: ${lines.map((line) => `${line.label} ${figure(valueAt(line, here))}`).join(", ")}`);
    } else if (event.key === "+" || event.key === "-") {
      const { min, max } = u.scales.x, here = u.posToVal(at, "x");
      const factor = event.key === "+" ? 0.5 : 2, [first, last] = extent;
      const low = Math.max(first, here - (here - min) * factor), high = Math.min(last, here + (max - here) * factor);
      onZoom(low <= first && high >= last ? null : [low, high]);
    } else if (event.key === "0") {
      onZoom(null);
    } else {
      return;
    }
    event.preventDefault();
  };
  return html`<figure class="chart">
    <figcaption><h3>${title}</h3> <span class="unit">${unit}</span></figcaption>
    <div class="plot" ref=${box} tabindex="0" role="img" aria-label=${`${title}. ${summary(lines, unit)}. Arrow keys read values, plus and minus zoom.`}
      onKeyDown=${keyed} onDblClick=${() => onZoom(null)} onBlur=${() => setSpoken("")}></div>
    <p class="readout">${x === null
      ? lines.map((line) => html`<span><i class=${`${line.colour} ${line.style}`}></i>${line.label}</span>`)
      : [html`<span>${figure(x)} ${xUnit}</span>`, ...lines.map((line) => html`<span><i class=${`${line.colour} ${line.style}`}></i>${line.label} ${figure(valueAt(line, x))}</span>`)]}</p>
    <p class="hidden" role="status">${spoken}</p>
  </figure>`;
}
