// The list of moments: a row each, on the timeline of its video, and the keys that go through them.

import {choice, forget} from "./chosen.js";
import {$, clock, element, fetched, tell} from "./dom.js";
import {close, toggle} from "./player.js";

let rows = []; // {moment, item, button, player, track}, from the best down

export function draw(moments, query = "") {
  close();
  forget();
  $("heads").hidden = $("keys").hidden = !moments.length;
  $("points").textContent = moments.length && isKnown(moments[0].confidence) ? "confidence" : "score";
  rows = moments.map((moment, i) => row({...moment, query}, i, moments));
  $("moments").replaceChildren(...rows.map(({item}) => item));
}

function row(moment, i, moments) {
  const item = element("li"), button = element("button", "moment"), player = element("div", "player");
  const same = moments.map((other, j) => [other, j + 1]).filter(([other]) => other.video === moment.video);
  button.type = "button";
  button.setAttribute("aria-expanded", "false");
  button.setAttribute("aria-controls", player.id = `player-${i + 1}`);
  button.setAttribute("aria-label",
    `Moment ${i + 1}: video ${moment.title}, ${moment.start.toFixed(1)} to ${moment.end.toFixed(1)} of ` +
    `${moment.duration.toFixed(1)} seconds, ${spoken(moment)}`);
  const name = element("span", "video", element("span", "name", ...breakable(moment.title)));
  const time = element("span", "time", element("span", "clock", `${clock(moment.start)} – ${clock(moment.end)}`));
  time.append(element("span", "seconds", `${moment.start.toFixed(1)} – ${moment.end.toFixed(1)} s`));
  if (same.length > 1 && same.length < moments.length) name.append(element("span", "also", also(same, i + 1)));
  const track = element("span", "track");
  track.append(...same.filter(([, rank]) => rank !== i + 1).map(([other]) => bar("other", other)));
  track.append(bar("bar", moment));
  const line = element("span", "timeline", track, element("span", "length", clock(moment.duration)));
  button.append(element("span", "rank", `${i + 1}`), picture(moment), name, time, line, points(moment, moments));
  const made = {moment, item, button, player, track, step: (by) => step(made, by)};
  button.addEventListener("click", () => toggle(made));
  player.hidden = true;
  item.dataset.video = moment.video;
  item.append(choice(moment, i), button, player);
  if (same.length < moments.length) relate(item);
  return made;
}

/** A name that may be broken behind its signs, rather than anywhere. */
function breakable(name) {
  return name.split(/(?<=[_.,-])/).flatMap((part, i) => (i ? [element("wbr"), part] : [part]));
}

/** The frame in the middle of the moment. */
function picture({video, start, end, playable}) {
  const frame = element("span", "picture");
  if (!playable) return frame;
  const image = new Image(128, 72);
  image.loading = "lazy";
  image.alt = ""; // the label of the button says what it is of
  image.addEventListener("error", () => image.remove());
  image.src = `thumbnail/${encodeURIComponent(video)}?t=${((start + end) / 2).toFixed(1)}`;
  frame.append(image);
  return frame;
}

function points({score, confidence, gap, rank}, moments) {
  const sure = isKnown(confidence);
  const number = score.toFixed(4).replace("-", "−");
  const found = element("span", "points", element("span", "score", sure ? percent(confidence) : number));
  if (sure) found.append(element("span", "gap", number));
  else if (rank < moments.length) found.append(element("span", "gap", `leads by ${gap.toFixed(4)}`));
  found.title = sure ? "Probability that the moment is right; below it the score" :
    "Score, and by how much it is above the next one";
  return found;
}

function spoken({score, confidence}) {
  const sure = isKnown(confidence);
  return sure ? `${percent(confidence)} sure` : `score ${score.toFixed(4)}`;
}

const isKnown = (confidence) => confidence !== null && confidence !== undefined;

const percent = (part) => `${Math.round(100 * part)}%`;

function also(same, rank) {
  const ranks = same.map(([, other]) => other).filter((other) => other !== rank);
  return `also rank${ranks.length > 1 ? "s" : ""} ${ranks.slice(0, 4).join(", ")}${ranks.length > 4 ? ", …" : ""}`;
}

function relate(item) {
  const mark = (on) => {
    for (const other of $("moments").children) {
      other.classList.toggle("related", on && other.dataset.video === item.dataset.video);
    }
  };
  for (const event of ["mouseenter", "focusin"]) item.addEventListener(event, () => mark(true));
  for (const event of ["mouseleave", "focusout"]) item.addEventListener(event, () => mark(false));
}

function bar(kind, moment) {
  const found = element("span", kind);
  found.style.left = `${100 * moment.start / moment.duration}%`;
  found.style.width = `${100 * (moment.end - moment.start) / moment.duration}%`;
  return found;
}

// --- keys: they count only in the list, so that they take none from who types or has a screen reader

$("moments").addEventListener("keydown", (event) => {
  const at = rows.findIndex(({item}) => item.contains(event.target));
  if (at < 0 || event.altKey || event.ctrlKey || event.metaKey) return;
  const onRow = event.target === rows[at].button;
  const by = {n: 1, p: -1}[event.key], to = onRow && {ArrowDown: at + 1, ArrowUp: at - 1}[event.key];
  if (by && !["INPUT", "SELECT"].includes(event.target.tagName)) step(rows[at], by);
  else if (to !== false && rows[to]) rows[to].button.focus();
  else return;
  event.preventDefault();
});

/** Plays the row that is so many after this one. */
function step(from, by) {
  const next = rows[rows.indexOf(from) + by];
  if (!next) return;
  next.button.focus();
  if (next.player.hidden) toggle(next);
}

// --- a moment of a link

export async function openShared(moments, shared) {
  const near = ({video, start, end}) =>
    video === shared.video && Math.abs(start - shared.start) < 0.05 && Math.abs(end - shared.end) < 0.05;
  let found = rows.find(({moment}) => near(moment));
  if (!found && shared.end > shared.start && shared.start >= 0) found = await alone(shared);
  if (found) toggle(found);
}

/** A row of its own, above the others, for a moment that is not among those that were found. */
async function alone(shared) {
  let video;
  try {
    video = (await (await fetched("videos?id=" + encodeURIComponent(shared.video))).json()).videos[0];
  } catch (error) {
    tell($("status").textContent, `The moment of the link cannot be shown. ${error.message}`, true);
    return null;
  }
  const duration = Math.max(video.duration, shared.end);
  const moment = {...shared, ...video, video: video.id, duration, score: 0, rank: 1, gap: 0, query: ""};
  const made = row(moment, rows.length, [moment]);
  made.item.classList.add("shared");
  made.item.querySelector(".rank").textContent = "";
  made.item.querySelector(".points").replaceChildren(element("span", "gap", "of the link"));
  made.button.setAttribute("aria-label", `Moment of the link: video ${moment.title}`);
  rows.unshift(made);
  $("moments").prepend(made.item);
  return made;
}
