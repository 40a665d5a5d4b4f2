"use strict";
// What a point of a picture says, beside the pointer or the finger. Without this script the browser shows it by itself.

(() => {
  const NEAR = 18; // pixels
  const hint = document.createElement("div");
  hint.id = "hint";
  hint.hidden = true;
  document.body.appendChild(hint);
  for (const title of document.querySelectorAll("svg.plot use > title")) {
    title.parentNode.dataset.says = title.textContent;
    title.remove(); // or the browser shows it too
  }

  function nearest(svg, x, y) {
    let best = null, least = NEAR;
    for (const point of svg.querySelectorAll("[data-says]")) {
      const box = point.getBoundingClientRect();
      const far = Math.hypot(box.x + box.width / 2 - x, box.y + box.height / 2 - y);
      if (far < least) [best, least] = [point, far];
    }
    return best;
  }

  function show(event) {
    const svg = event.target.closest?.("svg.plot, svg.curve"), point = svg && nearest(svg, event.clientX, event.clientY);
    hint.hidden = !point;
    if (!point) return;
    hint.textContent = point.dataset.says;
    const width = document.documentElement.clientWidth, box = hint.getBoundingClientRect();
    const left = Math.min(Math.max(event.clientX - box.width / 2, 4), width - box.width - 4);
    const above = event.clientY - box.height - 14;
    hint.style.left = `${left + window.scrollX}px`;
    hint.style.top = `${(above > 4 ? above : event.clientY + 18) + window.scrollY}px`;
  }
  document.addEventListener("pointermove", show);
  document.addEventListener("pointerdown", show);
})();
