// Elements, numbers as text, and the charts: histogram, reward curve, interval, scatter plot.

function element(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function shape(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

// Children that are not nodes become text nodes: nothing in the data is ever read as HTML.
function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

function format(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  let text = value.toFixed(size >= 100 ? 1 : size >= 10 ? 2 : 3);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) text = value.toExponential(1);
  return text.replace("-", "−");
}

function signed(value) {
  return value > 0 ? `+${format(value)}` : format(value);
}

function percent(value) {
  return value === null ? "–" : `${(100 * value).toFixed(1)} %`;
}

function count(number, noun, plural = `${noun}s`) {
  return `${number.toLocaleString("en")} ${number === 1 ? noun : plural}`;
}

function seconds(value) {
  return `${value.toFixed(2)} s`;
}

function scale([low, high], [start, end]) {
  const span = high - low || 1;
  return (value) => start + ((value - low) / span) * (end - start);
}

// About `wanted` round numbers between low and high.
function ticks(low, high, wanted = 4) {
  if (!(high > low)) return [low];
  const raw = (high - low) / wanted;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 5, 10].find((factor, i) => raw / power < [1.5, 3.5, 7.5, Infinity][i]);
  const found = [];
  for (let index = Math.ceil(low / step - 1e-9); index * step <= high + step * 1e-9; index += 1) found.push(index * step);
  return found;
}

function tickText(value, all) {
  const step = all.length > 1 ? Math.abs(all[1] - all[0]) : Math.abs(value) || 1;
  if (step < 1e-4 || Math.abs(value) >= 1e6) return value.toExponential(1).replace("-", "−");
  return value.toFixed(Math.max(0, Math.ceil(-Math.log10(step) - 1e-9))).replace("-", "−");
}

function padded(values) {
  const low = Math.min(...values);
  const high = Math.max(...values);
  const margin = (high - low || Math.abs(high) || 1) * 0.06;
  return [low - margin, high + margin];
}

function frame(width, height, label, children) {
  return shape("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label }, ...children);
}

function axes(x, y, [left, top, right, bottom], xTicks, yTicks) {
  return [
    ...yTicks.map((v) => shape("line", { class: "grid", x1: left, x2: right, y1: y(v), y2: y(v) })),
    ...yTicks.map((v) => shape("text", { class: "tick end", x: left - 6, y: y(v) + 3.5 }, tickText(v, yTicks))),
    ...xTicks.map((v) => shape("text", { class: "tick middle", x: x(v), y: bottom + 14 }, tickText(v, xTicks))),
    shape("line", { class: "axis", x1: left, x2: right, y1: bottom, y2: bottom }),
  ];
}

function histogramChart({ reward, dimension, edges, runs }, names) {
  const box = [42, 8, 372, 132];
  const several = names.length > 1;
  const totals = runs.map((run) => (run ? run.counts.reduce((sum, n) => sum + n, 0) : 0));
  // Runs of different sizes are compared by shares; one run shows its counts.
  const heights = runs.map((run, i) => (run ? run.counts.map((n) => (several ? (100 * n) / totals[i] : n)) : []));
  const top = Math.max(...heights.flat());
  const x = scale([edges[0], edges.at(-1)], [box[0], box[2]]);
  const y = scale([0, top], [box[3], box[1]]);
  const yTicks = ticks(0, top, 3).filter((v) => several || Number.isInteger(v));
  const marks = axes(x, y, box, ticks(edges[0], edges.at(-1), 5), yTicks);
  runs.forEach((run, i) => run && run.counts.forEach((n, bin) => n && marks.push(shape("rect", {
    class: `bar run-${i % 6}`, x: x(edges[bin]), width: Math.max(x(edges[bin + 1]) - x(edges[bin]) - 0.8, 0.8),
    y: y(heights[i][bin]), height: box[3] - y(heights[i][bin]),
  }, shape("title", {}, `${several ? `${names[i]}: ` : ""}${count(n, "clip")} from ${format(edges[bin])} to ${format(edges[bin + 1])}`)))));
  runs.forEach((run, i) => run && ["mean", "median"].forEach((which) => marks.push(shape("line", {
    class: `mark ${which} run-${i % 6}`, x1: x(run[which]), x2: x(run[which]), y1: box[1], y2: box[3],
  }, shape("title", {}, `${which} ${format(run[which])}`)))));
  const summary = runs.map((run, i) => run && `${names[i]}: ${totals[i]} clips, mean ${format(run.mean)}, median ${format(run.median)}`);
  const label = `Histogram of ${reward}, ${dimension}. ${summary.filter(Boolean).join(". ")}`;
  const legend = runs.map((run, i) => run && element("li", { class: `run-${i % 6}` },
    several ? element("span", { class: "name", title: names[i] }, element("span", { class: "swatch" }), names[i]) : null,
    element("span", {}, element("span", { class: "line mean" }), `mean ${format(run.mean)}`),
    element("span", {}, element("span", { class: "line median" }), `median ${format(run.median)}`),
    element("span", { class: "faint" }, several ? `n = ${totals[i]}` : count(totals[i], "clip"))));
  return element("figure", { class: "card chart" },
    element("figcaption", {}, element("b", {}, dimension === "score" ? reward : dimension),
      element("span", { class: "faint" }, dimension === "score" ? " score" : ` of ${reward}`),
      several ? element("span", { class: "unit" }, "% of clips") : element("span", { class: "unit" }, "clips")),
    frame(380, 152, label, marks), element("ul", { class: "legend" }, legend));
}

// The last sample at or before a time.
function sampleAt(times, time) {
  let index = 0;
  while (index + 1 < times.length && times[index + 1] <= time + 1e-6) index += 1;
  return index;
}

// A reward curve whose cursor is a slider over time; onSeek(time) is called when the user moves it.
function curveChart([values, times], duration, range, onSeek) {
  const box = [44, 8, 352, 116];
  const end = Math.max(duration || 0, times.at(-1)) || 1;
  const x = scale([0, end], [box[0], box[2]]);
  const y = scale(range, [box[3], box[1]]);
  const known = values.map((value, i) => [times[i], value]).filter(([, value]) => value !== null);
  const path = values.map((value, i) => value === null ? "" :
    `${i && values[i - 1] !== null ? "L" : "M"}${x(times[i]).toFixed(2)},${y(value).toFixed(2)}`).join("");
  const cursor = shape("line", { class: "cursor", y1: box[1], y2: box[3] });
  const dot = shape("circle", { class: "cursor-dot", r: 4 });
  const readout = element("p", { class: "readout" });
  const dots = known.length <= 40 ? known.map(([t, v]) => shape("circle", { class: "sample", cx: x(t), cy: y(v), r: 2.4 })) : [];
  const picture = frame(360, 136, "", [...axes(x, y, box, ticks(0, end, 5), ticks(...range, 3)),
    shape("path", { class: "curve", d: path }), ...dots, cursor, dot]);
  fill(picture, { class: "seekable", tabindex: 0, role: "slider", "aria-label": "Reward over time; position in the video",
    "aria-valuemin": 0, "aria-valuemax": end.toFixed(3) }, []);

  function show(time) {
    const at = Math.min(Math.max(time, 0), end);
    const index = sampleAt(times, at);
    fill(cursor, { x1: x(at), x2: x(at) }, []);
    fill(dot, { cx: x(times[index]), cy: y(values[index] ?? range[0]) }, []);
    readout.textContent = `${seconds(at)} · reward ${format(values[index])}`;
    fill(picture, { "aria-valuenow": at.toFixed(3), "aria-valuetext": readout.textContent }, []);
  }

  function seekTo(event) {
    const bounds = picture.getBoundingClientRect();
    const inside = ((event.clientX - bounds.left) / bounds.width) * 360;
    onSeek(Math.min(Math.max(((inside - box[0]) / (box[2] - box[0])) * end, 0), end));
  }

  picture.addEventListener("pointerdown", (event) => { picture.setPointerCapture(event.pointerId); seekTo(event); });
  picture.addEventListener("pointermove", (event) => event.buttons && seekTo(event));
  picture.addEventListener("keydown", (event) => {
    const now = sampleAt(times, Number(picture.getAttribute("aria-valuenow")));
    const target = { ArrowLeft: now - 1, ArrowDown: now - 1, ArrowRight: now + 1, ArrowUp: now + 1, Home: 0, End: times.length - 1 }[event.key];
    if (target === undefined) return;
    event.preventDefault();
    onSeek(times[Math.min(Math.max(target, 0), times.length - 1)]);
  });
  show(0);
  return { node: element("div", { class: "curve-box" }, picture, readout), show };
}

// An interval around its value, with zero marked; all charts of one `limit` share a scale.
function intervalChart([value, low, high], limit) {
  const x = scale([-limit, limit], [4, 116]);
  const whisker = low === null ? [] : [shape("line", { class: "whisker", x1: x(low), x2: x(high), y1: 9, y2: 9 })];
  return shape("svg", { viewBox: "0 0 120 18", class: "interval", "aria-hidden": "true" },
    shape("line", { class: "axis", x1: x(0), x2: x(0), y1: 1, y2: 17 }), ...whisker,
    shape("circle", { class: "estimate", cx: x(value), cy: 9, r: 3.4 }));
}

function scatterChart(points, names, onPick) {
  const box = [46, 8, 352, 314];
  const range = padded(points.flatMap(([a, b]) => [a, b]));
  const x = scale(range, [box[0], box[2]]);
  const y = scale(range, [box[3], box[1]]);
  const marks = ticks(...range, 5);
  const dots = points.map(([a, b, ...rows]) => shape("circle", {
    class: `pair ${b > a ? "up" : b < a ? "down" : ""}`, cx: x(a).toFixed(1), cy: y(b).toFixed(1), r: 3.2, onclick: () => onPick(rows),
  }, shape("title", {}, `${names[0]} ${format(a)}, ${names[1]} ${format(b)} (${signed(b - a)})`)));
  return frame(360, 350, `Paired scores: ${names[0]} across, ${names[1]} up; above the diagonal ${names[1]} is higher.`, [
    ...axes(x, y, box, marks, marks),
    shape("line", { class: "diagonal", x1: x(range[0]), y1: y(range[0]), x2: x(range[1]), y2: y(range[1]) }), ...dots,
    shape("text", { class: "tick end", x: box[2], y: 346 }, `${names[0]} →`),
    shape("text", { class: "tick", x: box[0] + 4, y: box[1] + 8 }, `↑ ${names[1]}`),
  ]);
}
