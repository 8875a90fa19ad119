"use strict";
// Search boxes: hide what does not hold the words.
for (const box of document.querySelectorAll("[data-filter]")) {
  const items = document.getElementById(box.dataset.filter).querySelectorAll("[data-text]");
  const none = document.getElementById(box.dataset.filter + "-none");
  box.addEventListener("input", () => {
    const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const item of items) {
      const text = item.dataset.text.toLowerCase();
      item.hidden = !words.every((word) => text.includes(word));
      shown += !item.hidden;
    }
    if (none) none.hidden = shown > 0;
  });
}

// Lists of what can be opened: a button opens all, and closes them again.
for (const button of document.querySelectorAll("[data-open]")) {
  button.addEventListener("click", () => {
    const items = [...document.getElementById(button.dataset.open).querySelectorAll("details")];
    const open = items.some((item) => !item.open);
    for (const item of items) item.open = open;
    button.textContent = open ? "Close all" : "Open all";
  });
}

// Tables: a heading sorts by its column, numbers by value.
const value = (row, column) => {
  const cell = row.cells[column];
  return cell.dataset.value === undefined ? cell.textContent.trim() : cell.dataset.value;
};
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const heading = button.parentElement, body = heading.closest("table").tBodies[0];
    const down = heading.getAttribute("aria-sort") === "none" ? heading.dataset.first !== "up"
      : heading.getAttribute("aria-sort") === "ascending";
    for (const other of heading.parentElement.cells) if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", "none");
    heading.setAttribute("aria-sort", down ? "descending" : "ascending");
    const rows = [...body.rows].sort((a, b) => {
      const x = value(a, heading.cellIndex), y = value(b, heading.cellIndex);
      const order = x === "" || y === "" || isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y;
      return down ? -order : order;
    });
    body.append(...rows);
  });
}

// Lists that a choice sorts.
for (const choice of document.querySelectorAll("[data-sort]")) {
  const list = document.getElementById(choice.dataset.sort);
  choice.addEventListener("change", () => {
    const [key, direction] = choice.value.split(" ");
    const items = [...list.children].sort((a, b) => {
      const x = a.dataset[key], y = b.dataset[key];
      return (isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y) * (direction === "down" ? -1 : 1);
    });
    list.append(...items);
  });
}

// The map: a point under the mouse, or chosen by the arrow keys, shows its image.
const map = document.getElementById("map");
if (map) {
  const svg = map.querySelector("svg"), shown = document.getElementById("shown");
  const points = [...svg.querySelectorAll("circle")];
  let chosen = -1;
  const show = (number) => {
    if (chosen >= 0) points[chosen].classList.remove("on");
    chosen = number;
    shown.hidden = number < 0;
    if (number < 0) return;
    const point = points[number], box = point.getBoundingClientRect(), frame = map.getBoundingClientRect();
    point.classList.add("on");
    shown.firstElementChild.style.cssText = `--x:${point.dataset.x};--y:${point.dataset.y}`;
    shown.lastElementChild.textContent = point.dataset.text;
    const left = Math.min(Math.max(box.left - frame.left + 12, 0), frame.width - shown.offsetWidth);
    shown.style.left = `${left}px`;
    const below = box.bottom - frame.top + 8;
    shown.style.top = `${below + shown.offsetHeight < frame.height ? below : box.top - frame.top - shown.offsetHeight - 8}px`;
  };
  svg.addEventListener("pointermove", (event) => {
    let best = -1, least = 400;
    points.forEach((point, number) => {
      if (point.classList.contains("dim")) return;
      const box = point.getBoundingClientRect();
      const far = (box.left + box.width / 2 - event.clientX) ** 2 + (box.top + box.height / 2 - event.clientY) ** 2;
      if (far < least) { least = far; best = number; }
    });
    if (best !== chosen) show(best);
  });
  svg.addEventListener("pointerleave", () => show(-1));
  svg.addEventListener("blur", () => show(-1));
  svg.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") show(-1);
    if (!step || !points.length) return;
    event.preventDefault();
    let next = chosen;
    do next = (next + step + points.length) % points.length;
    while (points[next].classList.contains("dim") && next !== chosen);
    show(next);
  });
  document.getElementById("map-find").addEventListener("input", (event) => {
    const word = event.target.value.toLowerCase();
    for (const point of points) point.classList.toggle("dim", !point.dataset.text.toLowerCase().includes(word));
  });
}
