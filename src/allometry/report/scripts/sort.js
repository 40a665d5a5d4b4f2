"use strict";
// Tables that one can sort: a click on the head of a column, or Enter on it, sorts by that column, a second one the other way
// round, a third one restores the order of the page. Without this script the tables stay as they are.

const tableOrder = (() => {
  const NUMBER = /^\s*[[(]?\s*([+-]?(?:(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?|inf(?:inity)?))/i;

  /** The number with which a cell begins, "1,500,000" and "12.5 %" too; null where there is none. */
  function number(text) {
    const found = NUMBER.exec(text.replace(/(\d),(?=\d{3})/g, "$1").replace("−", "-"));
    if (!found) return null;
    return /inf/i.test(found[1]) ? (found[1][0] === "-" ? -Infinity : Infinity) : Number(found[1]);
  }

  /** What a cell is sorted by: its exact value as a number, or its words; null if it says nothing. */
  function key(text, exact, isWord) {
    if (isWord) return text.trim() === "–" ? null : text.trim() || null;
    return number(exact || text);
  }

  const compare = (a, b) => (typeof a === "number" ? (a < b ? -1 : a > b ? 1 : 0)
    : a.localeCompare(b, undefined, { numeric: true, sensitivity: "base" }));

  /** The places of keys in their order, 1 for rising and -1 for falling; equal ones stay as they stand, null comes last. */
  function order(keys, direction) {
    return keys.map((_, place) => place).sort((i, j) => {
      if (keys[i] === null || keys[j] === null) return (keys[i] === null) - (keys[j] === null) || i - j;
      return direction * compare(keys[i], keys[j]) || i - j;
    });
  }

  function prepare(table) {
    const body = table.tBodies[0], rows = [...body.rows], heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.title = "sort by this column";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const now = head.getAttribute("aria-sort"), next = { ascending: "descending", descending: null }[now];
        for (const one of heads) one.removeAttribute("aria-sort");
        if (next !== null) head.setAttribute("aria-sort", next ?? "ascending");
        const keys = rows.map(({ cells }) => key(cells[column].textContent, cells[column].title, head.classList.contains("word")));
        const places = next === null ? rows.keys() : order(keys, next === "descending" ? -1 : 1);
        body.append(...[...places].map((place) => rows[place]));
      });
    });
  }

  if (typeof document !== "undefined") document.querySelectorAll("table.sortable").forEach(prepare);
  return { key, order };
})();

if (typeof module !== "undefined") module.exports = tableOrder;
