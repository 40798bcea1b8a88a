// Asks the server, and keeps in the address what was asked, so that a link leads to the same answer.

import {offer} from "./chosen.js";
import {$, fetched, many, posted, tell} from "./dom.js";
import {draw, openShared} from "./hits.js";
import {advise, close} from "./player.js";
import {receive} from "./upload.js";

let asking = null; // AbortController of the question that is being asked
const FIELDS = {q: "query", k: "k", video: "video", length: "length", from: "from", to: "to"}; // address -> form
const FIRST = $("status").textContent;

// --- the address

function state() {
  const found = new URLSearchParams();
  for (const [name, id] of Object.entries(FIELDS)) {
    const value = $(id).value.trim();
    if (value && !(name === "k" && value === "10")) found.set(name, value);
  }
  return found;
}

function restore() {
  const given = new URLSearchParams(location.search);
  for (const [name, id] of Object.entries(FIELDS)) $(id).value = given.get(name) || (name === "k" ? "10" : "");
  showFilters();
  const shared = given.has("hit_video") && {
    video: given.get("hit_video"), start: Number(given.get("hit_start")), end: Number(given.get("hit_end")),
  };
  return {query: given.get("q"), shared};
}

/** A narrow page folds them, unless they count. */
function showFilters() {
  const wide = matchMedia("(min-width: 761px)").matches;
  $("more").open = wide || isNarrowed() || $("k").value !== "10";
}

const isNarrowed = () => ["video", "length", "from", "to"].some((id) => $(id).value.trim());

function remember(hit, replace) {
  const found = state();
  if (hit) {
    found.set("hit_video", hit.video);
    found.set("hit_start", hit.start.toFixed(2));
    found.set("hit_end", hit.end.toFixed(2));
  }
  const address = `${location.pathname}${found.size ? `?${found}` : ""}`;
  if (replace) history.replaceState(null, "", address);
  else if (address !== location.pathname + location.search) history.pushState(null, "", address);
}

async function follow() {
  const {query, shared} = restore();
  close(); // it would say in the address that nothing is open
  if (query) await search(shared);
  else {
    draw([]);
    $("doubt").hidden = true;
    tell(FIRST);
    if (shared) await openShared([], shared);
  }
}

// --- asking

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  remember(null, false);
  search(null);
});

function question() {
  const [least, most] = $("length").value.split("-").map((text) => (text ? Number(text) : null));
  const day = (id, after) => {
    const [year, month, date] = $(id).value.split("-").map(Number);
    return year ? new Date(year, month - 1, date + after).getTime() / 1000 : null; // of this time zone
  };
  return {
    query: $("query").value, k: Number($("k").value), video: $("video").value.trim() || null,
    min_duration: least ?? null, max_duration: most ?? null, added_from: day("from", 0), added_to: day("to", 1),
  };
}

async function search(shared) {
  if (asking) asking.abort();
  const mine = asking = new AbortController();
  tell("Searching …");
  $("doubt").hidden = true;
  $("moments").setAttribute("aria-busy", "true");
  $("loading").hidden = $("moments").childElementCount > 0;
  try {
    const begun = performance.now(), fields = question();
    const answer = await (await posted("search", fields, mine.signal)).json();
    draw(answer.moments, fields.query);
    tell(summary(answer.moments, Math.round(performance.now() - begun)));
    $("doubt").hidden = answer.confident !== false;
    $("doubt").textContent = "No confident match: none of these is likely to be the moment. They come nearest.";
    if (shared) await openShared(answer.moments, shared);
  } catch (error) {
    if (mine.signal.aborted) return;
    draw([]);
    tell("", error.message);
  }
  $("loading").hidden = true;
  $("moments").removeAttribute("aria-busy");
}

function summary(moments, milliseconds) {
  if (!moments.length) return isNarrowed() ? "No moment was found in the videos that are left." : "No moment was found.";
  const videos = new Set(moments.map((moment) => moment.video)).size;
  return `${many(moments.length, "moment")} in ${many(videos, "video")}, ${milliseconds} ms`;
}

// --- suggestions of video ids

let typing = 0;
for (const event of ["input", "focus"]) {
  $("video").addEventListener(event, () => {
    clearTimeout(typing);
    typing = setTimeout(suggest, 120);
  });
}

async function suggest() {
  const prefix = $("video").value.trim();
  const response = await fetch("videos?prefix=" + encodeURIComponent(prefix)).catch(() => null);
  if (!response || !response.ok || prefix !== $("video").value.trim()) return;
  const {videos} = await response.json();
  $("ids").replaceChildren(
    ...videos.map(({id}) => Object.assign(document.createElement("option"), {value: id})));
}

// --- the start

async function begin() {
  const about = await (await fetched("about")).json();
  advise(about.missing);
  for (const dated of document.querySelectorAll(".dated")) dated.hidden = !about.dates;
  $("k").max = about.max_moments;
  offer(about.formats);
  if (about.upload) receive(about);
  if (!about.videos && !$("query").value) {
    tell(about.upload ? "There is no video yet. Drop some video files on this page." :
      "There is no video yet. Add some with: vmr_jax --mode=ingest --videos=FOLDER --library=DIR");
  }
}

/** A video has come: the head counts it, and an empty library is none any more. */
async function count() {
  const about = await (await fetched("about")).json();
  $("title").textContent = about.title;
  if ($("status").textContent.startsWith("There is no video yet")) tell(FIRST);
}

document.addEventListener("taken", () => count().catch(() => {})); // it can be searched all the same
document.addEventListener("opened", (event) => remember(event.detail, true));
addEventListener("popstate", follow);
addEventListener("resize", () => { $("more").open ||= matchMedia("(min-width: 761px)").matches; });
begin().catch((error) => tell("", error.message));
follow();
