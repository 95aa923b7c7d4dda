// The page: shows what the server says is next, sends keys as answers, and never goes on before they are on disk.
import { Player } from "./player.js";

const $ = (id) => document.getElementById(id);
const KEYS = { ArrowLeft: "left", ArrowRight: "right", ArrowDown: "tie", " ": "skip", s: "skip" };
const SAID = { left: "left", right: "right", tie: "no difference", skip: "skipped" };
const POLL = 1000; // milliseconds between looks for new questions

const player = new Player($("left"), $("right"), (share) => { $("time").firstElementChild.style.width = `${100 * share}%`; });
let annotator = (new URLSearchParams(location.search).get("annotator") || "").trim();
let state = null;
let busy = false; // an answer is on its way
let playable = false;

function say(text, bad = false) {
  $("said").textContent = text;
  $("said").className = bad ? "bad" : "";
}

async function call(path, body) {
  const query = new URLSearchParams({ annotator });
  const options = body && { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ annotator, ...body }) };
  let response;
  try {
    response = await fetch(body ? path : `${path}?${query}`, options);
  } catch {
    throw new Error("The server does not answer; start it again and reload.");
  }
  const found = await response.json().catch(() => ({ error: `The server failed (${response.status}).` }));
  if (!response.ok) throw new Error(found.error);
  return found;
}

function address(question, side) {
  return `clip/${question.id}/${question[side]}`;
}

async function show(found) {
  const before = state && state.question && state.question.id;
  state = found;
  const question = found.question;
  $("progress").max = Math.max(found.total, 1);
  $("progress").value = found.answered;
  $("count").textContent = `${found.answered} of ${found.total}${found.skipped ? `, ${found.skipped} skipped` : ""}`;
  $("agreement").textContent = found.agreement.map(agreement).join(" · ");
  $("me").textContent = annotator;
  $("undo").disabled = !found.answered;
  for (const id of ["skip", "pause", "restart"]) $(id).disabled = !question;
  $("ask").hidden = !question;
  $("done").hidden = Boolean(question);
  if (!question) return finish(found);
  if (question.id === before) {
    document.documentElement.dataset.ready = before;
    return undefined;
  }
  $("goal").textContent = question.goal || $("eyebrow").textContent;
  $("eyebrow").hidden = !question.goal;
  playable = false;
  for (const side of ["left", "right"]) {
    $(side).hidden = false;
    $(side).parentElement.className = "";
    $(side).parentElement.querySelector("p")?.remove();
  }
  try {
    await player.load([address(question, "left"), address(question, "right")]);
    playable = true;
    pauseLabel();
    document.documentElement.dataset.ready = question.id;
    if (found.next) for (const side of ["left", "right"]) fetch(address(found.next, side)).catch(() => {});
  } catch (video) {
    await broken(video);
  }
  return undefined;
}

function agreement({ annotators, shared, same, kappa }) {
  const chance = kappa === null ? "" : `, κ ${kappa.toFixed(2)}`;
  return `${annotators.join(" and ")} agree on ${same} of ${shared}${chance}`;
}

async function broken(video) {
  const why = document.createElement("p");
  why.textContent = "This clip cannot be played.";
  video.hidden = true;
  video.parentElement.className = "broken";
  video.parentElement.append(why);
  document.documentElement.dataset.ready = state.question.id;
  const response = await fetch(video.src).catch(() => null);
  if (response && !response.ok) why.textContent = (await response.json()).error;
  say("Skip this question; it can be answered when the clip is mended.", true);
}

function finish(found) {
  const [title, text] = $("done").children;
  player.unload();
  title.textContent = found.live ? "Waiting for questions" : "All done";
  text.textContent = found.live
    ? "New ones are shown as they arrive."
    : `${found.answered} pairs answered${found.skipped ? `, ${found.skipped} of them skipped` : ""}. Thank you.`;
  document.documentElement.dataset.ready = "done";
}

async function send(path, body, text) {
  if (busy) return;
  busy = true;
  try {
    const found = await call(path, body);
    say(text);
    delete document.documentElement.dataset.ready;
    busy = false;
    await show(found);
  } catch (error) {
    say(`Not saved. ${error.message}`, true);
  } finally {
    busy = false;
    for (const figure of document.querySelectorAll("figure")) figure.classList.remove("chosen");
  }
}

function choose(choice) {
  if (!state || !state.question || busy) return;
  if (choice !== "skip" && !playable) return say("Both clips must be seen first.", true);
  if (choice === "left" || choice === "right") $(choice).parentElement.classList.add("chosen");
  return send("answer", { question: state.question.id, choice }, `Saved: ${SAID[choice]}.`);
}

function undo() {
  if (state && state.answered) send("undo", {}, "Taken back.");
}

function pauseLabel() {
  $("pause").lastElementChild.textContent = player.wanted ? "Pause" : "Play";
}

async function pause() {
  if (!playable) return;
  const toggled = player.toggle();
  pauseLabel();
  await toggled;
}

document.addEventListener("keydown", (event) => {
  if (event.repeat || event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input")) return;
  if (event.key === " " && event.target.matches("button")) return; // presses the button that has the focus
  const act = KEYS[event.key] ? () => choose(KEYS[event.key]) : { u: undo, p: pause, r: () => player.restart() }[event.key];
  if (!act || !state) return;
  event.preventDefault();
  act();
});

document.addEventListener("click", (event) => {
  const button = event.target.closest("button[type=button]");
  if (!button) return;
  if (event.detail) button.blur(); // the mouse was used: space is to skip, not to press the button again
  if (button.dataset.choice) choose(button.dataset.choice);
  else ({ undo, pause, restart: () => player.restart(), me: ask }[button.id])();
});

function ask() {
  state = null;
  player.unload();
  for (const id of ["ask", "done"]) $(id).hidden = true;
  for (const button of document.querySelectorAll("footer button")) button.disabled = true;
  $("enter").hidden = false;
  $("name").value = annotator;
  $("name").focus();
  $("name").select();
  document.documentElement.dataset.ready = "name";
}

$("enter").addEventListener("submit", (event) => {
  event.preventDefault();
  annotator = $("name").value.trim();
  if (annotator) begin();
});

async function begin() {
  try {
    const found = await call("state");
    history.replaceState(null, "", `?${new URLSearchParams({ annotator })}`);
    $("enter").hidden = true;
    say("");
    await show(found);
  } catch (error) {
    ask();
    say(error.message, true);
  }
}

setInterval(async () => {
  if (!state || !state.live || state.question || busy) return;
  const asked = state;
  const found = await call("state").catch(() => null);
  if (found && state === asked) show(found);
}, POLL);

if (annotator) begin();
else ask();
