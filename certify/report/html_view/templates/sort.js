"use strict";
// Turns the heads of sortable tables into buttons. Values are compared as numbers where both are, else as text;
// equal ones keep their order. Nothing is fetched and no text becomes markup.
for (const table of document.querySelectorAll("table[data-sortable]")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    head.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => sortBy(table, heads, column));
  });
}

function sortBy(table, heads, column) {
  const descending = heads[column].getAttribute("aria-sort") === "ascending";
  const numeric = heads[column].classList.contains("number");
  const body = table.tBodies[0];
  const keyed = [...body.rows].map((row) => ({ row, key: keyOf(row.cells[column], numeric) }));
  const compare = numeric ? (a, b) => a.key - b.key : (a, b) => (a.key < b.key ? -1 : a.key > b.key ? 1 : 0);
  keyed.sort(descending ? (a, b) => compare(b, a) : compare);
  body.replaceChildren(...pick(keyed));
  heads.forEach((head) => head.setAttribute("aria-sort", "none"));
  heads[column].setAttribute("aria-sort", descending ? "descending" : "ascending");
}

function keyOf(cell, numeric) {
  const text = cell.textContent;
  if (!numeric) return text;
  const value = Number.parseFloat(text.replaceAll(",", ""));
  return Number.isNaN(value) ? Number.NEGATIVE_INFINITY : value;
}

function pick(keyed) {
  const fragment = document.createDocumentFragment();
  for (const { row } of keyed) fragment.append(row);
  return [fragment];
}
