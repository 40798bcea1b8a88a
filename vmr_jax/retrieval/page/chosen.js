// Moments that are chosen, and their export.

import {$, element, many, posted} from "./dom.js";

const chosen = new Map(); // box -> moment
const NAMES = {
  mp4: "clips (mp4)", csv: "table (csv)", json: "JSON", srt: "subtitles (srt)", vtt: "subtitles (WebVTT)",
  edl: "list of cuts (EDL)", fcpxml: "list of cuts (FCPXML)",
};

export function offer(formats) {
  $("format").replaceChildren(...formats.map((name) => {
    const option = element("option", "", NAMES[name] || name);
    option.value = name;
    return option;
  }));
}

/** The box that chooses a moment. */
export function choice(moment, i) {
  const label = element("label", "choice"), box = element("input");
  box.type = "checkbox";
  box.setAttribute("aria-label", `Choose moment ${i + 1} for an export`);
  box.addEventListener("change", () => {
    if (box.checked) chosen.set(box, moment);
    else chosen.delete(box);
    show();
  });
  label.append(box);
  return label;
}

export function forget() {
  for (const box of chosen.keys()) box.checked = false;
  chosen.clear();
  show();
}

function show() {
  $("chosen").hidden = !chosen.size;
  $("count").textContent = `${many(chosen.size, "moment")} chosen`;
  $("exported").textContent = "";
  $("exactly").hidden = $("format").value !== "mp4";
}

$("none").addEventListener("click", forget);
$("format").addEventListener("change", show);
$("export").addEventListener("click", async () => {
  const moments = [...chosen.values()].sort((one, other) => one.rank - other.rank);
  const fields = ({video, start, end, score, confidence, rank}) =>
    ({video, start, end, score, confidence: confidence ?? null, rank});
  const order = {
    moments: moments.map(fields), format: $("format").value, exact: $("exact").checked, query: moments[0].query,
  };
  $("export").disabled = true;
  $("exported").className = "";
  $("exported").textContent = "Writing …";
  try {
    const response = await posted("export", order);
    const name = /filename\*=UTF-8''(.+)/.exec(response.headers.get("Content-Disposition") || "");
    save(await response.blob(), name ? decodeURIComponent(name[1]) : `moments.${order.format}`);
    $("exported").textContent = "Saved.";
  } catch (error) {
    $("exported").className = "failed";
    $("exported").textContent = error.message;
  }
  $("export").disabled = false;
});

function save(content, name) {
  const link = element("a");
  link.href = URL.createObjectURL(content);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
