// Shows the values of a chart at the place of the pointer.
for (const plot of document.querySelectorAll(".plot")) {
  const data = JSON.parse(plot.dataset.points);
  const area = plot.querySelector(".area"), readout = plot.parentElement.querySelector(".readout");
  const cursor = document.createElement("div");
  cursor.className = "cursor";
  cursor.hidden = true;
  area.append(cursor);
  const short = (value) => {
    const size = Math.abs(value);
    if (size >= 1e6) return (value / 1e6).toPrecision(4) + " M";
    return size >= 1000 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(4)));
  };
  const nearest = (points, x) =>
    points.reduce((best, point) => (Math.abs(point[0] - x) < Math.abs(best[0] - x) ? point : best));
  plot.addEventListener("pointermove", (event) => {
    const box = area.getBoundingClientRect();
    const share = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
    const x = share * data.most;
    const near = data.lines.map((line) => [line.label, nearest(line.points, x)]);
    const at = nearest(near.map(([, point]) => point), x)[0];
    cursor.style.left = (100 * at) / data.most + "%";
    cursor.hidden = false;
    const told = near.map(([label, point]) => `${label} ${short(point[1])}`);
    readout.classList.add("reading");
    readout.textContent = `${short(at)} ${data.unit}: ${told.join(" · ")}`;
  });
  plot.addEventListener("pointerleave", () => {
    cursor.hidden = true;
    readout.classList.remove("reading");
    readout.textContent = data.unit;
  });
}
