// Wires the page: what the server says to what is shown, and what is clicked to what is asked.

import { camera } from "./camera.js";
import { Compare } from "./compare.js";
import { listen } from "./keys.js";
import { Lift } from "./lift.js";
import { MemoryMap } from "./map.js";
import { Walk } from "./walk.js";

const $ = (id) => document.getElementById(id);
const walk = new Walk($("view"));
const map = new MemoryMap($("map"));
const undo = () => walk.send({ type: "go_to", undo: 1 });
listen(walk, document.querySelector(".pad"), undo);
new Lift(walk, {
  select: $("select"), screen: document.querySelector(".screen"), picture: $("start-picture"), box: $("box"), status: $("lift-status"),
  viewer: $("viewer"), turntable: $("turntable"), files: $("lift-files"),
});
new Compare(walk, {
  other: $("compare-with"), panel: $("compare"), figures: document.querySelector(".pair"),
  frame: $("compare-frame"), text: $("compare-text"), play: $("compare-play"),
});
const cameraParts = { open: $("camera"), viewfinder: $("viewfinder"), take: $("take"), cancel: $("camera-off") };
camera(cameraParts, (blob) => walkInto(blob), (text) => say(text));

function say(text, veiled = false) {
  $("status").textContent = text;
  $("veil").hidden = !veiled;
  $("veil-text").textContent = text;
  document.body.dataset.state = text;
}

walk.addEventListener("loading", () => say("The world is loading …", true));
walk.addEventListener("busy", ({ detail }) => say(`Busy: others are walking. You are number ${detail.place} in the queue.`, true));
walk.addEventListener("failed", ({ detail }) => say(detail.why, true));
walk.addEventListener("lost", () => say("Connection lost. The walk is paused; reconnecting …", true));
walk.addEventListener("error", ({ detail }) => say(detail.why));
walk.addEventListener("ready", ({ detail }) => {
  say("Ready: hold a key to walk.");
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
  map.draw(detail);
  $("moment").max = detail.moment;
  if (document.activeElement !== $("moment")) $("moment").value = detail.moment;
  $("moment-text").textContent = `${detail.moment} chunks`;
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
$("moment").addEventListener("change", ({ target }) => walk.send({ type: "go_to", moment: Number(target.value) }));
$("restart").addEventListener("click", () => walk.send({ type: "restart", seed: Number($("seed").value), speed: $("speed").value }));

const degrees = () => walk.info?.turn_degrees || 7.5;
for (const [id, angle] of [["peek-left", 90], ["peek-back", 180], ["peek-right", -90]]) {
  $(id).addEventListener("click", () => walk.send({ type: "peek", turns: Math.round(angle / degrees()) }));
}
walk.addEventListener("peek", async ({ detail }) => {
  const caption = "Generated from memory on a fork that was thrown away: nothing of it is remembered.";
  for (const frame of detail.frames) {
    show(`data:image/jpeg;base64,${frame}`, caption);
    await new Promise((done) => setTimeout(done, 1000 / walk.fps));
  }
});
$("map").addEventListener("click", (event) => {
  const token = map.at(event);
  if (!token) return;
  const frame = Math.floor((token.start + token.end - 1) / 2);
  const caption = `Shown then: frame ${frame}. The token covers frames ${token.start} to ${token.end - 1}, merged ${token.level - 1} times.`;
  show(`/api/sessions/${walk.session}/${walk.info.active}/frames/${frame}.jpg`, caption);
});

async function show(url, caption) {
  const figure = $("peeked");
  const image = figure.querySelector("img");
  image.src = url.startsWith("data:") ? URL.createObjectURL(await (async () => {
    const text = atob(url.split(",")[1]);
    return new Blob([Uint8Array.from(text, (c) => c.charCodeAt(0))], { type: "image/jpeg" });
  })()) : url;
  image.onload = () => image.src.startsWith("blob:") && URL.revokeObjectURL(image.src);
  image.alt = caption;
  figure.querySelector("figcaption").textContent = caption;
  figure.hidden = false;
}

async function walkInto(file) {
  if (!file) return;
  say("Sending the picture …");
  const answer = await fetch(`/api/sessions/${walk.session}/picture`, { method: "POST", body: file });
  const { error } = await answer.json();
  error ? say(error) : walk.send({ type: "picture" });
}
$("file").addEventListener("change", ({ target }) => walkInto(target.files[0]));
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  walkInto(event.dataTransfer.files[0]);
});
addEventListener("paste", (event) => walkInto([...event.clipboardData.files][0]));

setInterval(() => {
  const [median, p95] = [walk.latency(0.5), walk.latency(0.95)];
  const delay = median === null ? "" : ` · key to picture ${median.toFixed(0)} ms (95 %: ${p95.toFixed(0)})`;
  const buffer = Math.max(0, walk.last - walk.painted);
  const { speed = "", seed = "" } = walk.info || {};
  $("hud").textContent = `${walk.rate.toFixed(0)} frames/s${delay} · buffer ${buffer} · ${speed} · seed ${seed} · frame ${walk.painted}`;
}, 500);

window.loci = walk; // for the console and the tests
