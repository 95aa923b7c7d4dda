// The rows: filtered, sorted, and shown a page at a time so that ten thousand stay quick.

const PAGE = 50;
const collator = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });

function showTable(content) {
  const several = report.runs.length > 1;
  const rewards = [...new Set(report.rows.map((row) => row.reward))];
  const state = { text: [], run: "", reward: "", errors: false, key: "number", descending: false, page: 0 };
  const body = element("tbody");
  const head = element("thead");
  const total = element("p", { class: "total", role: "status" });
  const pager = element("div", { class: "pager" });
  let shown = [];

  function columns() {
    const only = state.reward || (rewards.length === 1 ? rewards[0] : null);
    const names = only === null ? [] : [...new Set(report.rows.filter((row) => row.reward === only).flatMap((row) => Object.keys(row.dimensions)))];
    return [
      ["number", "#", (row) => row.number + 1, true], ["run", "Run", (row) => report.runs[row.run].name, false, several],
      ["id", "Id", (row) => row.id, false], ["prompt", "Prompt", (row) => row.prompt, false], ["reward", "Reward", (row) => row.reward, false],
      ["score", "Score", (row) => row.score, true],
      ...names.map((name) => [`dimension ${name}`, name, (row) => row.dimensions[name] ?? null, true]),
      ["duration", "Seconds", (row) => row.duration, true], ["frames", "Frames", (row) => row.frames, true],
      ["status", "Status", (row) => row.error_kind ?? (row.warning || row.cut ? "warning" : "ok"), false],
    ].filter(([, , , , wanted]) => wanted !== false);
  }

  function select() {
    shown = report.rows.filter((row) => (state.run === "" || row.run === Number(state.run)) && (state.reward === "" || row.reward === state.reward)
      && (!state.errors || row.error !== null) && state.text.every((word) => searchText(row).includes(word)));
    const found = columns().find(([key]) => key === state.key);
    const value = found ? found[2] : (row) => row.number;
    const keyed = shown.map((row) => [value(row), row]);
    keyed.sort(([a, first], [b, second]) => order(a, b, state.descending) || first.number - second.number);
    shown = keyed.map(([, row]) => row);
    state.page = 0;
    draw();
  }

  function draw() {
    const all = columns();
    head.replaceChildren(element("tr", {}, all.map(([key, label, , numeric]) => element("th", {
      scope: "col", class: numeric ? "number" : null, "aria-sort": key === state.key ? (state.descending ? "descending" : "ascending") : "none",
    }, element("button", { type: "button", onclick: () => sortBy(key, numeric) }, label)))));
    const start = state.page * PAGE;
    body.replaceChildren(...shown.slice(start, start + PAGE).map((row) => element("tr", { class: row.error === null ? null : "bad", onclick: () => getSelection().isCollapsed && openDetail([row.number]) },
      all.map(([key, , value, numeric]) => element("td", { class: numeric ? "number" : key, title: key === "status" ? row.error ?? row.warning : null, dir: key === "prompt" ? "auto" : null },
        key === "id" ? element("button", { type: "button", class: "link" }, row.id ?? "–") : cellText(key, value(row)))))));
    if (!shown.length) body.replaceChildren(element("tr", {}, element("td", { colspan: all.length, class: "empty" }, "No row matches the filter.")));
    total.textContent = `${count(shown.length, "row")} of ${report.rows.length.toLocaleString("en")}`;
    const last = Math.max(Math.ceil(shown.length / PAGE) - 1, 0);
    const turn = (label, page, off) => element("button", { type: "button", disabled: off, onclick: () => { state.page = page; draw(); } }, label);
    pager.replaceChildren(turn("First", 0, state.page === 0), turn("Previous", state.page - 1, state.page === 0),
      element("span", {}, `Page ${state.page + 1} of ${last + 1}`), turn("Next", state.page + 1, state.page === last), turn("Last", last, state.page === last));
    pager.hidden = last === 0;
  }

  function sortBy(key, numeric) {
    // The first click on a number asks for the highest first, except for the row's own number.
    state.descending = key === state.key ? !state.descending : numeric && key !== "number";
    state.key = key;
    select();
    [...head.querySelectorAll("th")].find((th) => th.getAttribute("aria-sort") !== "none")?.firstChild.focus();
  }

  function choice(label, key, options) {
    return element("label", {}, `${label} `, element("select", { onchange: (event) => { state[key] = event.target.value; select(); } },
      options.map(([value, text]) => element("option", { value }, text))));
  }

  content.append(
    element("div", { class: "filters" },
      element("input", { type: "search", placeholder: "Filter by id, path, prompt, error …", "aria-label": "Filter rows",
        oninput: (event) => { state.text = event.target.value.toLowerCase().split(/\s+/).filter(Boolean); select(); } }),
      rewards.length > 1 ? choice("Reward", "reward", [["", "all"], ...rewards.map((name) => [name, name])]) : null,
      several ? choice("Run", "run", [["", "all"], ...report.runs.map((run, i) => [i, run.name])]) : null,
      element("label", {}, element("input", { type: "checkbox", onchange: (event) => { state.errors = event.target.checked; select(); } }), " Only errors"),
      total),
    element("div", { class: "scroll" }, element("table", { class: "rows" }, head, body)), pager);
  select();
}

function cellText(key, value) {
  if (value === null || value === undefined) return "–";
  if (key === "number" || key === "frames") return String(value);
  if (key === "duration") return value.toFixed(2);
  return typeof value === "number" ? format(value) : value;
}

function searchText(row) {
  row.search ??= [row.id, row.path, row.prompt, row.reward, row.error_kind, row.error, row.warning, ...row.meta.flat()]
    .filter(Boolean).join("\n").toLowerCase();
  return row.search;
}

// Rows without a value come last in both directions.
function order(a, b, descending) {
  const missing = (a === null || a === undefined) - (b === null || b === undefined);
  if (missing || a === null || a === undefined) return missing;
  const rising = typeof a === "number" ? a - b : collator.compare(a, b);
  return descending ? -rising : rising;
}
