// Wires the page: what the server says to what is shown, and what is clicked to what is asked.

import { camera } from "./camera.js";
import { Compare } from "./compare.js";
import { listen } from "./keys.js";
import { Lift } from "./lift.js";
import { MemoryMap } from "./map.js";
import { Peek } from "./peek.js";
import { middle, told, Tokens } from "./tokens.js";
import { Walk } from "./walk.js";

const $ = (id) => document.getElementById(id);
const walk = new Walk($("view"));
const map = new MemoryMap($("map"));
const peek = new Peek(walk, {
  buttons: { left: $("peek-left"), behind: $("peek-back"), right: $("peek-right") }, figure: $("peeked"), say: (text) => say(text),
});
const then = (token) => {
  if (middle(token) < 0) return say("That was before the saved walk was opened here: its frames are not kept.");
  const caption = `Shown then: frame ${middle(token)}. The token covers ${told(token)}.`;
  peek.show(`/api/sessions/${walk.session}/${walk.info.active}/frames/${middle(token)}.jpg`, caption);
};
const tokens = { list: $("tokens"), text: $("tokens-text"), legend: $("legend") };
new Tokens(walk, tokens, then, (token) => walk.memory && map.draw(walk.memory, walk.memory.tokens.find((t) => t.start === token?.start)));
const undo = () => walk.send({ type: "go_to", undo: 1 });
listen(walk, document.querySelector(".pad"), undo);
new Lift(walk, {
  select: $("select"), screen: document.querySelector(".screen"), picture: $("start-picture"), box: $("box"), status: $("lift-status"),
  viewer: $("viewer"), turntable: $("turntable"), files: $("lift-files"), told: $("status"),
});
new Compare(walk, {
  other: $("compare-with"), panel: $("compare"), figures: document.querySelector(".pair"),
  frame: $("compare-frame"), text: $("compare-text"), play: $("compare-play"),
});
const cameraParts = { open: $("camera"), viewfinder: $("viewfinder"), take: $("take"), cancel: $("camera-off") };
camera(cameraParts, (blob) => walkInto(blob), (text) => say(text));

// `veil`: [what is in the way of walking, a note], or null when nothing is.
function say(text, veil = null) {
  $("status").textContent = text;
  $("veil").hidden = !veil;
  if (veil) [$("veil-text").textContent, $("veil-note").textContent] = veil;
  for (const part of [document.querySelector(".side"), document.querySelector(".pad")]) part.inert = Boolean(veil);
  document.body.dataset.state = text;
}

walk.addEventListener("loading", () => say("The world is loading …", ["The world is loading …", "This takes a few seconds."]));
walk.addEventListener("busy", ({ detail }) => {
  const place = `You are number ${detail.place} in the queue.`;
  say(`Busy: others are walking. ${place}`, ["Others are walking just now.", `${place} It goes on here as soon as a place is free.`]);
});
walk.addEventListener("failed", ({ detail }) => {
  say(detail.why, ["This cannot be walked into.", detail.why]);
  $("spinner").hidden = true;
});
walk.addEventListener("lost", () => say("Connection lost. The walk is paused; reconnecting …", ["Connection lost.", "The walk is kept. Reconnecting …"]));
walk.addEventListener("elsewhere", () => {
  say("This walk goes on in another tab.", ["This walk goes on in another tab.", "Load the page again to go on here."]);
  $("spinner").hidden = true;
});
walk.addEventListener("error", ({ detail }) => say(detail.why));
walk.addEventListener("ready", ({ detail }) => {
  say(detail.frames > 1 ? `Ready: hold a key to walk on from frame ${detail.frames - 1}.` : "Ready: hold a key to walk.");
  for (const what of ["walk.mp4", "walk.loci", "actions.json"]) {
    const id = { "walk.mp4": "get-video", "walk.loci": "get-walk", "actions.json": "get-actions" }[what];
    $(id).href = `/api/sessions/${detail.session}/${what}`;
  }
  $("seed").value = detail.seed;
  $("speed").value = detail.speed;
  $("branch").replaceChildren(...detail.branches.map((name) => new Option(name, name, false, name === detail.active)));
  walk.info = detail;
});
walk.addEventListener("memory", ({ detail }) => {
  walk.memory = detail;
  map.draw(detail);
  $("moment").min = detail.earliest;
  $("moment").max = detail.moment;
  if (document.activeElement !== $("moment")) $("moment").value = detail.moment;
  momentText();
});
walk.addEventListener("held", () => say(walk.held.size ? "Walking." : "Paused: hold a key to walk on."));

const crisp = $("crisp");
crisp.addEventListener("change", () => $("view").classList.toggle("crisp", crisp.checked));
$("zoom").addEventListener("input", ({ target }) => {
  document.querySelector(".screen").classList.toggle("small", target.value === "1");
  document.querySelector(".screen").classList.toggle("large", target.value === "3");
});
$("undo").addEventListener("click", undo);
$("fork").addEventListener("click", () => walk.send({ type: "fork" }));
$("branch").addEventListener("change", ({ target }) => walk.send({ type: "branch", name: target.value }));
const momentText = () => ($("moment-text").textContent = `chunk ${$("moment").value} of ${$("moment").max}`);
$("moment").addEventListener("input", momentText);
$("moment").addEventListener("change", ({ target }) => walk.send({ type: "go_to", moment: Number(target.value) }));
$("restart").addEventListener("click", () => walk.send({ type: "restart", seed: Number($("seed").value), speed: $("speed").value }));

$("map").addEventListener("click", (event) => {
  const token = map.at(event);
  if (token) then(token);
});

// A picture to walk into, or a saved walk to go on with.
async function walkInto(file) {
  if (!file) return;
  const what = file.name?.endsWith(".loci") ? "walk.loci" : "picture";
  say(what === "picture" ? "Sending the picture …" : "Sending the saved walk …");
  const answer = await fetch(`/api/sessions/${walk.session}/${what}`, { method: "POST", body: file });
  const { error } = await answer.json();
  error ? say(error) : walk.send({ type: "picture" });
}
for (const chooser of [$("file"), $("walk-file")]) {
  chooser.addEventListener("change", async () => {
    await walkInto(chooser.files[0]);
    chooser.value = ""; // the same file may be chosen again
  });
}
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  walkInto(event.dataTransfer.files[0]);
});
addEventListener("paste", (event) => walkInto([...event.clipboardData.files][0]));

setInterval(() => {
  const [median, p95] = [walk.latency(0.5), walk.latency(0.95)];
  const delay = median === null ? "" : `key to picture ${median.toFixed(0)} ms (95 %: ${p95.toFixed(0)})`;
  const buffer = Math.max(0, walk.last - walk.painted);
  const { speed, seed } = walk.info || {};
  const rate = walk.rate ? `${walk.rate.toFixed(0)} frames/s` : "";
  const parts = [rate, delay, `buffer ${buffer}`, speed, `seed ${seed}`, `frame ${Math.max(0, walk.painted)}`];
  $("hud").textContent = walk.info ? parts.filter(Boolean).join(" · ") : "";
}, 500);

window.loci = walk; // for the console and the tests
