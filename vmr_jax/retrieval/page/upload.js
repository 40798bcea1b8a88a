// Takes video files, where the server does: chosen, or dropped anywhere on the page.

import {$, button, element, fetched} from "./dom.js";

let most = 0; // bytes of a file
let line = Promise.resolve(); // one file is sent after the other

export function receive(about) {
  most = about.max_upload;
  $("upload").hidden = false;
  $("files").addEventListener("change", () => {
    take($("files").files);
    $("files").value = "";
  });
  let inside = 0; // elements of the page that the files are dragged over
  const mark = (by) => document.body.classList.toggle("dropping", (inside += by) > 0);
  const hasFiles = (event) => event.dataTransfer && event.dataTransfer.types.includes("Files");
  addEventListener("dragenter", (event) => hasFiles(event) && mark(1));
  addEventListener("dragleave", (event) => hasFiles(event) && mark(-1));
  addEventListener("dragover", (event) => hasFiles(event) && event.preventDefault());
  addEventListener("drop", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    mark(-inside);
    take(event.dataTransfer.files);
  });
}

function take(files) {
  for (const file of files) {
    const item = element("li"), state = element("span", "state", "waits"), bar = element("progress");
    bar.max = 1;
    bar.value = 0;
    bar.setAttribute("aria-label", `Upload of ${file.name}`);
    item.append(element("span", "name", file.name), bar, state);
    item.setAttribute("role", "status");
    $("uploads").append(item);
    line = line.then(() => one(file, bar, state)).catch((error) => {
      bar.remove();
      state.className = "state failed";
      state.textContent = error.message;
      item.append(button("plain", "Dismiss", () => item.remove()));
    });
  }
}

async function one(file, bar, state) {
  if (file.size > most) throw new Error(`It has more than ${Math.round(most / 2 ** 20)} MiB.`);
  state.textContent = "is sent";
  let upload = await sent(file, bar);
  bar.removeAttribute("value"); // how long it takes now is not known
  while (upload.state === "waiting" || upload.state === "taking") {
    state.textContent = "is read";
    await new Promise((resolve) => setTimeout(resolve, 500));
    upload = await (await fetched(`uploads/${upload.upload}`)).json();
  }
  if (upload.state === "failed") throw new Error(upload.reason);
  bar.remove();
  state.textContent = `can be searched, as ${upload.video}`;
  document.dispatchEvent(new Event("taken"));
}

/** fetch() does not tell how much is sent. */
function sent(file, bar) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", `videos?name=${encodeURIComponent(file.name)}`);
    request.setRequestHeader("Content-Type", "application/octet-stream");
    request.responseType = "json";
    request.upload.addEventListener("progress", (event) => { bar.value = event.loaded / event.total; });
    request.addEventListener("load", () => {
      if (request.status === 202) resolve(request.response);
      else reject(new Error((request.response || {}).message || `The server answered ${request.status}.`));
    });
    request.addEventListener("error", () => reject(new Error("It was not sent to its end.")));
    request.send(file);
  });
}
