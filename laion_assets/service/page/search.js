// The search page: reads the form, asks /knn-service, shows the answers. All text of the table is set as text, never HTML.
"use strict";

const form = document.getElementById("search");
const fields = form.elements;
const grid = document.getElementById("grid");
const statusLine = document.getElementById("status");
const note = document.getElementById("note");
const drop = document.getElementById("drop");
const FLAGGED = ["NSFW", "UNSURE"];
const KEPT = ["text", "by", "index", "nsfw", "similarity", "size", "shard", "limit", "where"];
const SWITCHES = ["exact", "deduplicate"];
const state = { picture: null, pictureName: "", like: null, indices: [], asking: null };

function say(text, { failed = false, told = "" } = {}) {
  statusLine.textContent = text;
  note.textContent = told;
  note.hidden = !told;
  statusLine.classList.toggle("failed", failed);
}

// Sends one request, with the token if there is one. The relative path also works below a proxy's prefix.
function ask(path, options = {}) {
  const headers = { ...(options.headers || {}) };
  const token = fields.token.value || sessionStorage.getItem("token") || "";
  if (token) { headers.Authorization = "Bearer " + token; }
  return fetch(path, { ...options, headers });
}

// The content of an answer. A proxy answers with HTML if the service does not run.
async function content(answer) {
  const found = await answer.json().catch(() => ({}));
  if (!answer.ok) { throw new Error(found.error || "The service answered " + answer.status + "."); }
  return found;
}

function whatFailed(error) {
  return error instanceof TypeError ? "The service does not answer. Is it running, and are you online?" : error.message;
}

async function configure() {
  const config = await content(await fetch("config.json"));
  state.indices = config.indices || [];
  document.getElementById("token-row").hidden = !config.tokenNeeded;
  fields.index.replaceChildren(...state.indices.map((index) => new Option(index.name, index.name)));
  document.getElementById("index-choice").hidden = state.indices.length < 2;
  suitIndex();
}

// Shows the filters that the chosen index has columns for.
function suitIndex() {
  const chosen = state.indices.find((index) => index.name === fields.index.value) || state.indices[0];
  if (!chosen) { return; }
  document.getElementById("title").textContent = "Search " + chosen.name;
  document.title = "Search " + chosen.name;
  document.getElementById("by-text").hidden = !chosen.hasText;
  for (const label of document.querySelectorAll("[data-columns]")) {
    label.hidden = !label.dataset.columns.split(" ").every((name) => chosen.columns.includes(name));
  }
}

function condition() {
  const parts = [];
  if (fields.nsfw.value) { parts.push("NSFW = '" + fields.nsfw.value + "'"); }
  if (fields.similarity.value) { parts.push("similarity >= " + Number(fields.similarity.value)); }
  if (fields.size.value && !fields.size.closest("label").hidden) {
    parts.push("width >= " + Number(fields.size.value), "height >= " + Number(fields.size.value));
  }
  if (fields.shard.value) { parts.push("shard = " + Number(fields.shard.value)); }
  if (fields.where.value.trim()) { parts.push("(" + fields.where.value.trim() + ")"); }
  return parts.join(" AND ");
}

function request() {
  const limit = Math.min(1000, Math.max(1, Number(fields.limit.value) || 40));
  const body = {
    modality: fields.by.value, num_images: limit, num_result_ids: limit, indice_name: fields.index.value || null,
    deduplicate: fields.deduplicate.checked, exact: fields.exact.checked,
    use_safety_model: false, use_violence_detector: false,
  };
  const where = condition();
  if (where) { body.where = where; }
  if (state.like !== null) { body.like = state.like; }
  else if (state.picture !== null) { body.image = state.picture; }
  else { body.text = fields.text.value.trim(); }
  return body;
}

function subject() {
  if (state.like !== null) { return "rows like row " + state.like; }
  if (state.picture !== null) { return "rows like " + state.pictureName; }
  return "“" + fields.text.value.trim() + "”";
}

async function search({ keep = true } = {}) {
  if (state.like === null && state.picture === null && !fields.text.value.trim()) {
    say("Type some words, or choose a picture.");
    return;
  }
  if (state.asking) { state.asking.abort(); }
  const asking = new AbortController();
  state.asking = asking;
  if (keep) { history.pushState(null, "", link()); }
  showFilters();
  grid.classList.add("busy");
  say("Searching for " + subject() + " …");
  try {
    const answer = await ask("knn-service", { method: "POST", body: JSON.stringify(request()), signal: asking.signal });
    const found = await content(answer);
    if (fields.token.value) { sessionStorage.setItem("token", fields.token.value); }
    show(found);
    say(rows(found.length) + " for " + subject() + ", " + answer.headers.get("X-Search-Method") + ", " +
      answer.headers.get("X-Search-Milliseconds") + " ms", { told: answer.headers.get("X-Search-Note") || "" });
  } catch (error) {
    if (error.name === "AbortError") { return; }
    grid.replaceChildren();
    say(whatFailed(error), { failed: true });
  } finally {
    if (state.asking === asking) { grid.classList.remove("busy"); state.asking = null; }
  }
}

// How many filters are set, also while they are hidden.
function showFilters() {
  const names = ["nsfw", "similarity", "size", "shard", "where"];
  const set = names.filter((name) => fields[name].value.trim()).length + SWITCHES.filter((name) => fields[name].checked).length;
  document.getElementById("filters-set").textContent = set ? " (" + set + " set)" : "";
}

function rows(count) { return count === 1 ? "1 row" : count.toLocaleString("en") + " rows"; }

function show(found) { grid.replaceChildren(...found.map(card)); }

function card(row) {
  const made = document.getElementById("card").content.firstElementChild.cloneNode(true);
  const caption = String(row.caption ?? "");
  const picture = made.querySelector(".picture");
  const image = picture.querySelector("img");
  made.querySelector("bdi").textContent = caption || "no caption";
  made.querySelector(".facts").textContent =
    "similarity " + Number(row.similarity).toFixed(3) + " · row " + row.id + " · " + (row.NSFW || "no flag");
  made.querySelector(".like").setAttribute("aria-label", "More like this: " + (caption || "row " + row.id));
  made.querySelector(".like").addEventListener("click", () => likeRow(row.id));
  image.alt = caption || "picture of row " + row.id;
  picture.setAttribute("aria-label", "Open the picture in a new tab: " + image.alt);
  image.addEventListener("error", () => withoutPicture(made));
  const address = webAddress(row.url);
  if (address === null) { withoutPicture(made); return made; }
  picture.href = address;
  const flag = String(row.NSFW ?? "").trim().toUpperCase();
  if (FLAGGED.includes(flag)) { closeUntilAsked(made, picture, image, address, flag); } else { image.src = address; }
  return made;
}

function withoutPicture(made) {
  made.querySelector(".picture").hidden = true;
  made.querySelector(".facts").append(" · the picture is gone");
}

function closeUntilAsked(made, picture, image, address, flag) {
  const reveal = made.querySelector(".reveal");
  picture.hidden = true;
  reveal.hidden = false;
  reveal.textContent = "Flagged " + flag + ": show the picture";
  reveal.addEventListener("click", () => { reveal.hidden = true; picture.hidden = false; image.src = address; });
}

// The address of a picture on the web, or null: other schemes (javascript:, data:) are never linked.
function webAddress(text) {
  try {
    const parsed = new URL(String(text));
    return parsed.protocol === "http:" || parsed.protocol === "https:" ? parsed.href : null;
  } catch { return null; }
}

function likeRow(id) {
  forgetPicture();
  state.like = id;
  fields.text.value = "";
  search();
  document.getElementById("results").focus();
}

function forgetPicture() {
  state.picture = null;
  fields.picture.value = "";
  document.getElementById("drop-text").textContent = "Drop a picture here, or choose one";
}

async function takePicture(file) {
  if (!file) { return; }
  const bytes = new Uint8Array(await file.arrayBuffer());
  let text = "";
  for (let begin = 0; begin < bytes.length; begin += 32768) {
    text += String.fromCharCode(...bytes.subarray(begin, begin + 32768));
  }
  state.picture = btoa(text);
  state.pictureName = file.name || "the picture";
  state.like = null;
  fields.text.value = "";
  document.getElementById("drop-text").textContent = state.pictureName;
  search();
}

// The link of a search: all values of the form. A dropped picture is only on this machine, so a link cannot contain it.
function link() {
  const kept = new URLSearchParams();
  for (const name of KEPT) { if (fields[name].value) { kept.set(name, fields[name].value); } }
  for (const name of SWITCHES) { if (fields[name].checked) { kept.set(name, "1"); } }
  if (state.like !== null) { kept.set("like", state.like); }
  return "?" + kept;
}

function fromLink() {
  const kept = new URLSearchParams(location.search);
  form.reset();
  forgetPicture();
  for (const name of KEPT) { if (kept.has(name)) { fields[name].value = kept.get(name); } }
  for (const name of SWITCHES) { fields[name].checked = kept.has(name); }
  state.like = /^-?\d{1,15}$/.test(kept.get("like") || "") ? Number(kept.get("like")) : null;
  const filtered = ["nsfw", "similarity", "size", "shard", "where", ...SWITCHES].some((name) => kept.has(name));
  document.getElementById("filters").open = filtered;
  if (state.like !== null || kept.get("text")) { search({ keep: false }); } else { grid.replaceChildren(); }
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (fields.text.value.trim()) { state.like = null; forgetPicture(); }
  search();
});
fields.picture.addEventListener("change", () => takePicture(fields.picture.files[0]));
fields.index.addEventListener("change", suitIndex);
// Otherwise a browser that finds an invalid value in a hidden field cannot show it, and the search does not begin.
form.addEventListener("invalid", () => { document.getElementById("filters").open = true; }, true);
for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    if (!event.dataTransfer.types.includes("Files")) { return; } // text that is dragged into the search box
    event.preventDefault();
    drop.classList.toggle("over", kind === "dragenter" || kind === "dragover");
    if (kind === "drop") { takePicture(event.dataTransfer.files[0]); }
  });
}
window.addEventListener("popstate", fromLink);
configure().then(fromLink, (error) => say(whatFailed(error), { failed: true }));
