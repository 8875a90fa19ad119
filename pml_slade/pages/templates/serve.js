"use strict";
const byId = (id) => document.getElementById(id);
const status = byId("status"), matches = byId("matches"), drop = byId("drop");
let latest = 0;

// Ask for neighbours and show them, unless something else was asked for in the meantime.
async function ask(picture, address, options) {
  const mine = ++latest;
  byId("query").src = picture;
  byId("asked").hidden = false;
  byId("found").hidden = true;
  status.textContent = "Searching …";
  let answer;
  try {
    const response = await fetch(address, options);
    answer = await response.json();
  } catch { answer = { error: "The server gives no answer. Is it still running?" }; }
  if (mine !== latest) return;
  status.textContent = answer.error || `${answer.matches.length} images found.`;
  if (answer.error) return;
  byId("found").hidden = false;
  matches.replaceChildren(...answer.matches.map(shown));
}

function shown(match) {
  const item = document.createElement("li"), button = document.createElement("button");
  const image = document.createElement("img"), text = document.createElement("span");
  const name = match.name.split(/[\\/]/).pop(), address = `image/${match.position}`;
  image.src = address;
  image.alt = "";
  image.loading = "lazy";
  text.textContent = `${match.score.toFixed(3)} ${name}`;
  button.type = "button";
  button.title = match.name;
  button.append(image, text);
  button.addEventListener("click", () => { ask(address, `like/${match.position}`); scrollTo({ top: 0 }); });
  item.append(button);
  return item;
}

function search(file) {
  if (!file) return;
  if (file.size > Number(byId("main").dataset.largest)) {
    latest++;
    status.textContent = `The file is larger than ${byId("main").dataset.largest / 2 ** 20} MB.`;
    return;
  }
  ask(URL.createObjectURL(file), "search", { method: "POST", body: file });
}

byId("file").addEventListener("change", (event) => { search(event.target.files[0]); event.target.value = ""; });
addEventListener("paste", (event) => search(event.clipboardData.files[0]));
addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
addEventListener("dragleave", () => drop.classList.remove("over"));
addEventListener("drop", (event) => { event.preventDefault(); drop.classList.remove("over"); search(event.dataTransfer.files[0]); });
