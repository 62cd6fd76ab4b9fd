"use strict";
// Hints at the pointer or finger, in place of the browser's own, which are slow and unknown to phones.
const tip = document.createElement("div");
tip.id = "tip";
tip.hidden = true;
document.body.append(tip);
for (const title of document.querySelectorAll("svg svg title, svg * > title")) {
  const owner = title.parentElement;
  if (owner.tagName === "svg") continue;
  owner.setAttribute("aria-label", title.textContent);
  owner.dataset.tip = title.textContent;
  title.remove();
}
document.addEventListener("pointerover", (event) => {
  const owner = event.target.closest("[data-tip]");
  tip.hidden = !owner;
  if (owner) tip.textContent = owner.dataset.tip;
});
document.addEventListener("pointermove", (event) => {
  if (tip.hidden) return;
  const beside = event.clientX + 14 + tip.offsetWidth < innerWidth;
  const below = event.clientY + 16 + tip.offsetHeight < innerHeight;
  tip.style.left = Math.max(beside ? event.clientX + 14 : event.clientX - 14 - tip.offsetWidth, 4) + "px";
  tip.style.top = Math.max(below ? event.clientY + 16 : event.clientY - 12 - tip.offsetHeight, 4) + "px";
});
// Tables that sort by the column whose head is pressed: numbers downwards first, words upwards.
function valueOf(row, column) {
  const text = row.cells[column].textContent.trim();
  const number = parseFloat(text.replace(/,/g, ""));
  return text === "" ? -Infinity : /^[-+\d.]/.test(text) && !Number.isNaN(number) ? number : text;
}
function sort(table, column, head) {
  const words = head.classList.contains("text");
  const before = head.getAttribute("aria-sort");
  const down = before ? before === "ascending" : !words;
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const rows = [...table.tBodies[0].rows].map((row) => [valueOf(row, column), row]);
  rows.sort(([a], [b]) => {
    const order = typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0) : typeof a === "number" ? -1 : 1;
    return down ? -order : order;
  });
  table.tBodies[0].append(...rows.map(([, row]) => row));
}
for (const table of document.querySelectorAll("table.sortable")) {
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    if (head.classList.contains("plot")) return;
    head.tabIndex = 0;
    head.addEventListener("click", () => sort(table, column, head));
    head.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") { event.preventDefault(); sort(table, column, head); }
    });
  });
}
// What a group moves and where its buffers lie, shown when its name is pressed.
for (const button of document.querySelectorAll("button[aria-controls]")) {
  const more = document.getElementById(button.getAttribute("aria-controls"));
  const show = (open) => { more.hidden = !open; button.setAttribute("aria-expanded", open); };
  show(false);
  button.addEventListener("click", () => show(more.hidden));
}
