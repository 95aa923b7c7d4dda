// Reads the data and fills the sections of the page.

const report = readReport();

function readReport() {
  const data = JSON.parse(document.getElementById("data").textContent);
  const { columns, strings } = data;
  const text = (number) => (number === null ? null : strings[number]);
  const texts = ["id", "prompt", "reward", "path", "codec", "backend", "sampler", "encoder", "warning", "error_kind", "error", "url"];
  data.rows = columns.run.map((run, number) => {
    const row = { number, run };
    for (const name of Object.keys(columns)) row[name] = texts.includes(name) ? text(columns[name][number]) : columns[name][number];
    row.meta = row.meta.map(([name, value]) => [text(name), text(value)]);
    return row;
  });
  data.stripOfUrl = new Map(Object.entries(data.stripOf).filter(([number]) => data.rows[number].url !== null)
    .map(([number, place]) => [data.rows[number].url, place]));
  return data;
}

function showRuns() {
  const several = report.runs.length > 1;
  document.getElementById("runs").append(...report.runs.map((run, i) => element("div", { class: "run" },
    several ? element("h2", {}, element("span", { class: `swatch run-${i % 6}` }), run.name) : null,
    element("ul", { class: "tiles" }, [[run.paths, "clip"], [run.prompts, "prompt"], [run.rewards, "reward"], [run.rows, "row"], [run.errors, "error"]]
      .map(([number, noun]) => element("li", { class: noun === "error" && number ? "bad" : null },
        element("b", {}, number.toLocaleString("en")), element("span", {}, number === 1 ? noun : `${noun}s`)))),
    runFacts(run))));
}

function runFacts(run) {
  const clips = run.backends.reduce((sum, [, number]) => sum + number, 0);
  const mix = run.backends.map(([name, number]) => run.backends.length > 1 ? `${name} (${Math.round((100 * number) / clips)} %)` : name);
  const facts = [["Encoder", run.encoder.join(", ")], ["Sampler", run.sampler.join(", ")], ["Decoder", mix.join(", ")], ["Folder", run.folder]];
  return [
    element("dl", { class: "facts" }, facts.filter(([, value]) => value).flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)])),
    run.config ? element("details", {}, element("summary", {}, "How it was run (run.json)"), element("pre", {}, run.config)) : null,
  ];
}

function showDistributions(content) {
  const names = report.runs.map((run) => run.name);
  content.append(report.histograms.length
    ? element("div", { class: "charts" }, report.histograms.map((one) => histogramChart(one, names)))
    : element("p", { class: "notice" }, "No row has a score."));
}

function showComparison(section) {
  if (!report.comparisons.length) return;
  section.hidden = false;
  document.querySelector("nav a[href='#comparison']").hidden = false;
  const stage = element("div");
  const show = (index) => stage.replaceChildren(...comparison(report.comparisons[index]));
  section.querySelector(".content").append(tabs("Compared runs", report.comparisons.map(({ first, second }) => `${second} against ${first}`), show), stage);
  show(0);
}

function comparison({ first, second, results }) {
  if (!results.length) {
    return [element("p", { class: "notice" }, `No row of ${second} has the same id, prompt and reward as a row of ${first}, so nothing can be paired. `
      + "Videos at other paths are paired when both manifests give them the same id.")];
  }
  const pair = element("div", { class: "pairs" });
  const pick = (index) => pair.replaceChildren(scatterCard(results[index], [first, second]), changesCard(results[index], [first, second]));
  const names = results.map(({ reward, dimension }) => (dimension === "score" ? reward : `${reward}: ${dimension}`));
  pick(0);
  return [
    element("p", {}, element("b", {}, second), " against ", element("b", {}, first), ": a positive difference means that ", second, " scores higher. ",
      element("span", { class: "faint" }, intervalNote(results[0]))),
    element("div", { class: "scroll" }, comparisonTable(results, names, [first, second])), tabs("Reward and dimension", names, pick), pair];
}

function intervalNote({ clusters, clusteredBy }) {
  if (clusteredBy === "pair") return `Intervals: 95 %, bootstrap over ${count(clusters, "pair")} of one prompt; they say nothing about other prompts.`;
  const few = clusters < 10 ? "; with so few they are too narrow" : "";
  return `Intervals: 95 %, bootstrap over ${count(clusters, "prompt")}${few}.`;
}

function comparisonTable(results, names, [first, second]) {
  const limits = new Map();
  for (const { reward, difference } of results) limits.set(reward, Math.max(limits.get(reward) ?? 1e-12, ...difference.map(Math.abs)));
  const range = ([, low, high], text) => element("span", { class: "faint" }, low === null ? "" : ` [${text(low)}, ${text(high)}]`);
  const line = (result, i) => {
    const [, low, high] = result.difference;
    const verdict = low === null || (low <= 0 && high >= 0) ? "" : low > 0 ? "up" : "down";
    return element("tr", { class: verdict }, element("th", { scope: "row" }, names[i]), element("td", { class: "number" }, result.pairs.toLocaleString("en"), element("span", { class: "faint" }, unpaired(result, [first, second]))),
      element("td", { class: "number" }, format(result.means[0])), element("td", { class: "number" }, format(result.means[1])),
      element("td", { class: "number" }, element("b", {}, signed(result.difference[0])), range(result.difference, signed)),
      element("td", {}, intervalChart(result.difference, limits.get(result.reward))),
      element("td", { class: "number" }, element("b", {}, percent(result.winRate[0])), range(result.winRate, percent)),
      element("td", { class: "number" }, result.counts.join(" / ")));
  };
  const heads = ["", "Pairs", first, second, "Mean difference", "", "Win rate", "Won / tied / lost"];
  return element("table", { class: "compare" },
    element("thead", {}, element("tr", {}, heads.map((head, i) => element("th", { scope: "col", class: i && i !== 5 ? "number" : null }, head)))),
    element("tbody", {}, results.map(line)));
}

// How many rows of the larger run there are, where some of them found no partner with a score.
function unpaired({ reward, pairs }, names) {
  const rows = names.map((name) => report.rows.filter((row) => row.reward === reward && report.runs[row.run].name === name).length);
  return Math.max(...rows) > pairs ? ` of ${Math.max(...rows).toLocaleString("en")}` : "";
}

function scatterCard(result, names) {
  const note = result.points.length < result.pairs ? ` ${count(result.points.length, "pair")} of ${result.pairs.toLocaleString("en")} are drawn.` : "";
  return element("figure", { class: "card scatter" },
    element("figcaption", {}, element("b", {}, "Pair by pair"), element("span", { class: "faint" }, ` A click opens both clips.${note}`)),
    scatterChart(result.points, names, openDetail));
}

function changesCard({ points }, names) {
  const sorted = points.map(([a, b, ...rows]) => ({ a, b, rows, change: b - a })).sort((x, y) => y.change - x.change);
  const list = (title, changes) => [element("h4", {}, title), changes.length
    ? element("ol", { class: "changes" }, changes.map(({ a, b, rows, change }) => element("li", {},
      element("button", { type: "button", class: "link", onclick: () => openDetail(rows) }, report.rows[rows[0]].id),
      element("b", { class: change > 0 ? "up" : "down" }, signed(change)),
      element("span", { class: "faint" }, `${format(a)} → ${format(b)}`),
      element("p", { dir: "auto" }, report.rows[rows[0]].prompt))))
    : element("p", { class: "notice" }, "None.")];
  return element("div", { class: "card" },
    list(`Gains of ${names[1]}`, sorted.filter(({ change }) => change > 0).slice(0, 5)),
    list(`Losses of ${names[1]}`, sorted.filter(({ change }) => change < 0).slice(-5).reverse()));
}

function showProblems(content) {
  const groups = new Map();
  const add = (kind, row, sentence, minor = false) => {
    if (!groups.has(kind)) groups.set(kind, Object.assign(new Map(), { minor }));
    const run = report.runs.length > 1 ? `${report.runs[row.run].name}: ` : "";
    groups.get(kind).set(`${run}${row.path ?? row.id}\n${sentence}`, [`${run}${row.path ?? row.id}`, sentence]);
  };
  report.rows.filter((row) => row.error !== null).forEach((row) => add(row.error_kind ?? "error", row, row.error));
  report.rows.filter((row) => row.warning !== null).forEach((row) => add("warning", row, row.warning, true));
  report.rows.filter((row) => row.cut).forEach((row) => add("prompt cut", row, `The text tower did not read all of “${row.prompt}”.`, true));
  if (!groups.size) content.append(element("p", { class: "notice" }, "None: every row has a score, and nothing looked odd."));
  content.append(...[...groups].map(([kind, found]) => element("details", { class: `card problem ${found.minor ? "warning" : ""}`, open: found.size <= 20, "data-kind": kind },
    element("summary", {}, element("b", {}, kind.replaceAll("_", " ")), element("span", { class: "count" }, found.size.toLocaleString("en"))),
    element("ul", {}, [...found.values()].slice(0, 200).map(([path, sentence]) => element("li", {}, element("code", {}, path), element("span", {}, sentence)))),
    found.size > 200 ? element("p", { class: "faint" }, `${(found.size - 200).toLocaleString("en")} more stand in the table of rows.`) : null)));
}

showRuns();
showDistributions(document.querySelector("#distributions .content"));
showComparison(document.getElementById("comparison"));
showGallery(document.querySelector("#clips .content"));
showTable(document.querySelector("#rows .content"));
showProblems(document.querySelector("#problems .content"));
document.getElementById("detail").addEventListener("click", (event) => event.target === event.currentTarget && event.target.close());
document.getElementById("detail").addEventListener("close", (event) => event.target.replaceChildren());
document.documentElement.dataset.ready = "true";
