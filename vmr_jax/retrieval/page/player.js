// Plays a moment below its row, one at a time.

import {button, element} from "./dom.js";

let open = null; // {row, film} of what is played
let missing = ""; // what to do where there is no file

/** Keeps what the server says of videos without a file. */
export function advise(text) {
  missing = text;
}

export function toggle(row) {
  const opened = open && open.row.item === row.item;
  close();
  if (!opened) {
    open = {row, film: null};
    row.button.setAttribute("aria-expanded", "true");
    row.player.hidden = false;
    if (row.moment.playable) film(row);
    else row.player.append(absent(row.moment.video), controls(row, []));
  }
  document.dispatchEvent(new CustomEvent("opened", {detail: opened ? null : row.moment}));
}

export function close() {
  if (!open) return;
  if (open.film) {
    open.film.removeAttribute("src"); // ends the download
    open.film.load();
  }
  open.row.track.querySelectorAll(".head").forEach((head) => head.remove());
  open.row.player.replaceChildren();
  open.row.player.hidden = true;
  open.row.button.setAttribute("aria-expanded", "false");
  open = null;
}

function absent(video) {
  const advice = missing.replace("{video}", () => video);
  return element("p", "absent", `There is no file of this video here, so it cannot be played. ${advice}`);
}

/** Plays a moment from its start to its end; who seeks out of it sees the rest of the video. */
function film(row) {
  const {moment, player, track} = row;
  const video = open.film = document.createElement("video");
  const head = element("span", "head");
  let within = false;
  const begin = () => {
    player.scrollIntoView({block: "nearest"});
    fromStart();
  };
  const fromStart = () => {
    video.currentTime = moment.start;
    within = true;
    video.play().catch(() => {}); // what cannot be played is told by the event "error"
  };
  const look = () => {
    if (within && !video.seeking && video.currentTime >= moment.end) {
      within = false;
      video.pause();
      video.currentTime = moment.end;
    }
    head.style.left = `${Math.min(100, 100 * video.currentTime / moment.duration)}%`;
  };
  const follow = () => {
    look();
    if (!video.paused && video.isConnected) requestAnimationFrame(follow);
  };
  video.controls = video.playsInline = true;
  video.setAttribute("aria-label", `Video ${moment.title}`);
  video.addEventListener("loadedmetadata", begin, {once: true});
  video.addEventListener("play", follow);
  video.addEventListener("timeupdate", look); // a page in the background gets no animation frames
  video.addEventListener("seeking", () => {
    if (video.currentTime < moment.start - 0.1 || video.currentTime > moment.end) within = false;
  });
  video.addEventListener("error", () => {
    if (!video.isConnected || !video.hasAttribute("src")) return;
    const text = "This browser cannot play the file of this video. An exact export of the moment is a file that it " +
      "can.";
    player.replaceChildren(element("p", "absent", text), controls(row, []));
  });
  track.append(head);
  player.append(video, controls(row, [button("again", "Play the moment again", fromStart)]));
  video.src = `video/${encodeURIComponent(moment.video)}`;
}

function controls(row, first) {
  const line = element("div", "controls", ...first);
  line.append(button("plain", "Previous", () => row.step(-1)), button("plain", "Next", () => row.step(1)));
  line.append(button("plain", "Copy the link", (event) => share(event.target)));
  return line;
}

/** The address leads to this moment; where the browser lends no clipboard, it is shown to be copied. */
async function share(pressed) {
  try {
    await navigator.clipboard.writeText(location.href);
    pressed.textContent = "Copied";
    setTimeout(() => { pressed.textContent = "Copy the link"; }, 2000);
  } catch (error) {
    const field = element("input", "link");
    field.readOnly = true;
    field.value = location.href;
    field.setAttribute("aria-label", "Link to this moment");
    pressed.replaceWith(field);
    field.select();
  }
}
