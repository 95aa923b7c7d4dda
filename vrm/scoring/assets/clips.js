// A clip as a card: its frames, its reward curve and its video in step with each other.

function clipCard(row, { rank = null, range = null, facts = false, runs = false } = {}) {
  const curve = report.curves[row.number];
  const strip = report.strips[report.stripOf[row.number] ?? report.stripOfUrl.get(row.url)];
  const player = row.url === null ? null : element("video", {
    src: row.url, controls: true, muted: true, playsinline: true, preload: "metadata", poster: strip?.images?.[0],
  });
  const pictures = (strip?.images ?? []).map((uri, i) => element("button", {
    type: "button", tabindex: -1, "aria-label": strip.times ? `Go to ${seconds(strip.times[i])}` : `Frame ${i + 1}`,
    onclick: () => strip.times && go(strip.times[i]),
  }, element("img", { src: uri, alt: "" })));
  const note = element("p", { class: "notice", hidden: true });
  const chart = curve ? curveChart(curve, row.duration, range ?? curveRange([row]), go) : null;

  function show(time) {
    chart?.show(time);
    const now = strip?.times ? sampleAt(strip.times, time) : -1;
    pictures.forEach((picture, i) => picture.classList.toggle("now", i === now));
  }

  function go(time) {
    show(time);
    if (!player) return;
    if (player.readyState > 0) player.currentTime = time;
    else player.addEventListener("loadedmetadata", () => { player.currentTime = time; }, { once: true });
  }

  function follow() {
    show(player.currentTime);
    if (!player.paused && player.isConnected) requestAnimationFrame(follow);
  }

  if (player) {
    player.addEventListener("timeupdate", () => show(player.currentTime));
    player.addEventListener("play", follow);
    player.addEventListener("error", () => {
      note.textContent = "This browser cannot play the file, or it has moved.";
      note.hidden = false;
      player.remove();
    });
  }
  return element("article", { class: "card clip", "data-row": row.number },
    element("header", {},
      rank ? element("span", { class: "rank" }, `${rank}`) : null,
      element("h4", { dir: "auto" }, row.prompt || element("i", {}, "no prompt")),
      element("span", { class: "score" }, format(row.score))),
    element("p", { class: "path" }, runs ? `${report.runs[row.run].name}: ` : null, row.path ?? row.id),
    pictures.length ? element("div", { class: "strip" }, pictures) : null,
    strip?.note ? element("p", { class: "notice" }, strip.note) : null,
    row.url === null && !strip?.note ? element("p", { class: "notice" }, "The video file is not where it was scored, so it cannot be shown.") : null,
    note,
    element("div", { class: "media" }, player, chart ? chart.node : element("p", { class: "notice" }, noCurve(row))),
    problemLines(row),
    facts ? factList(row) : null);
}

function noCurve(row) {
  if (row.error !== null) return "There is no reward curve, because there is no score.";
  return "The reward curve of this row is not in the page; the scores themselves hold it if the reward has one.";
}

function problemLines(row) {
  const warnings = [row.warning, row.cut ? "the text tower did not read all of the prompt" : null].filter(Boolean);
  return [row.error === null ? null : element("p", { class: "notice bad" }, row.error),
    ...warnings.map((text) => element("p", { class: "notice warning" }, `Warning: ${text}`))];
}

function factList(row) {
  const size = row.width ? `${row.width} × ${row.height}` : null;
  const known = [["Id", row.id], ["Reward", row.reward], ["Score", row.score === null ? null : String(row.score)],
    ...Object.entries(row.dimensions).map(([name, value]) => [name, String(value)]),
    ["Duration", row.duration === null ? null : seconds(row.duration)], ["Frames", row.frames], ["Frames per second", row.fps],
    ["Size", size], ["Codec", row.codec], ["Decoder", row.backend], ["Sampler", row.sampler], ["Encoder", row.encoder], ...row.meta];
  return element("dl", { class: "facts" }, known.filter(([, value]) => value !== null && value !== undefined)
    .flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, String(value))]));
}

function curveRange(rows) {
  const values = rows.flatMap((row) => report.curves[row.number]?.[0] ?? []).filter((value) => value !== null);
  return values.length ? padded([values.reduce((a, b) => Math.min(a, b)), values.reduce((a, b) => Math.max(a, b))]) : [0, 1];
}

function showGallery(content) {
  const entries = report.gallery.filter((entry) => entry.best.length);
  if (!entries.length) return content.append(element("p", { class: "notice" }, "No row has a score."));
  const stage = element("div", { class: "gallery" });
  const names = entries.map((entry) => report.runs.length > 1 ? `${entry.reward} · ${report.runs[entry.run].name}` : entry.reward);
  const show = (index) => {
    const sides = ["best", "worst"].map((side) => entries[index][side].map((number) => report.rows[number]));
    const range = curveRange(sides.flat());  // one scale for all curves that are shown together
    stage.replaceChildren(...sides.map((rows, i) => element("div", {}, element("h3", {}, i ? "Lowest scores" : "Highest scores"),
      rows.map((row, place) => clipCard(row, { rank: place + 1, range })),
      rows.length ? null : element("p", { class: "notice" }, "One clip alone is both."))));
  };
  content.append(tabs("Reward", names, show), stage);
  return show(0);
}

function tabs(label, names, onPick) {
  const buttons = names.map((name, index) => element("button", { type: "button", "aria-pressed": String(index === 0), onclick: () => {
    buttons.forEach((button, other) => button.setAttribute("aria-pressed", String(other === index)));
    onPick(index);
  } }, name));
  return element("div", { class: "tabs", role: "group", "aria-label": label, hidden: names.length < 2 }, buttons);
}

function openDetail(numbers) {
  const dialog = document.getElementById("detail");
  const close = element("button", { type: "button", class: "close", onclick: () => dialog.close() }, "Close");
  const rows = numbers.map((number) => report.rows[number]);
  const range = rows.length > 1 ? curveRange(rows) : null;
  const cards = rows.map((row) => clipCard(row, { facts: true, range, runs: report.runs.length > 1 }));
  dialog.replaceChildren(close, element("div", { class: "details" }, cards));
  dialog.showModal();
}
