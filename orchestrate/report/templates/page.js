"use strict";
// Tooltips for the pointer and for the keyboard, the light on one group of ranks, and the wires between
// switches and nodes, which depend on where the browser's lines break. All else works without.
(() => {
  const tip = document.getElementById("tip");
  const map = document.querySelector(".map");
  let here = null;

  const by = () => document.querySelector("input[name=by]:checked").value;

  function light(cell) {
    const group = cell && cell.dataset[by()];
    map.classList.toggle("focused", group !== undefined && group !== null);
    for (const other of map.querySelectorAll(".gpu")) {
      other.classList.toggle("alike", group !== undefined && group !== null && other.dataset[by()] === group);
    }
  }

  function show(mark) {
    if (here) here.classList.remove("here");
    here = mark;
    tip.hidden = !mark;
    light(mark && mark.closest(".map") ? mark : null);
    if (!mark) return;
    mark.classList.add("here");
    tip.textContent = mark.dataset.tip;
    place();
  }

  function place() {
    if (!here) return;
    const at = here.getBoundingClientRect(), size = tip.getBoundingClientRect();
    const left = Math.min(Math.max(8, at.left + at.width / 2 - size.width / 2), innerWidth - size.width - 8);
    const above = at.top - size.height - 8;
    tip.style.left = `${left}px`;
    tip.style.top = `${above > 4 ? above : at.bottom + 8}px`;
  }

  // The nearest mark in the arrow's direction: sideways counts thrice, so that rows and columns are kept to.
  function next(marks, from, key) {
    const middle = (mark) => {
      const box = mark.getBoundingClientRect();
      return [box.left + box.width / 2, box.top + box.height / 2];
    };
    const [x, y] = middle(from);
    const flat = key === "ArrowLeft" || key === "ArrowRight";
    const sign = key === "ArrowRight" || key === "ArrowDown" ? 1 : -1;
    let best = from, least = Infinity;
    for (const mark of marks) {
      const [toX, toY] = middle(mark);
      const along = sign * (flat ? toX - x : toY - y), aside = Math.abs(flat ? toY - y : toX - x);
      if (along > 1 && along + 3 * aside < least) [best, least] = [mark, along + 3 * aside];
    }
    return best;
  }

  for (const area of document.querySelectorAll(".marks")) {
    area.addEventListener("pointerover", (event) => show(event.target.closest("[data-tip]")));
    area.addEventListener("pointerleave", () => show(null));
    area.addEventListener("blur", () => show(null));
    area.addEventListener("keydown", (event) => {
      if (event.key === "Escape") return show(null);
      if (!event.key.startsWith("Arrow")) return;
      event.preventDefault();
      const marks = [...area.querySelectorAll("[data-tip]")];
      const mark = here && area.contains(here) ? next(marks, here, event.key) : marks[0];
      mark.scrollIntoView({ block: "nearest", inline: "nearest" });
      show(mark);
    });
  }
  document.querySelectorAll("input[name=by]").forEach((input) => input.addEventListener("change", () => show(null)));

  // From a switch down its left side, and along above each row of what hangs on it.
  function wire(below) {
    const origin = below.getBoundingClientRect();
    const trunk = 6, drop = 10;
    let paths = "";
    const line = (width, d) => { paths += `<path stroke-width="${width}" d="${d}"/>`; };
    const rows = new Map();
    for (const child of below.querySelectorAll(":scope > .child:not(.more)")) {
      const box = child.getBoundingClientRect(), y = box.top - origin.top + 6;
      const row = rows.get(y) || rows.set(y, []).get(y);
      row.push([box.left - origin.left + 20, Number(child.dataset.wire)]);
    }
    for (const [y, row] of rows) {
      line(2, `M${trunk} ${y}H${row[row.length - 1][0]}`);
      for (const [x, width] of row) line(width, `M${x} ${y}v${drop}`);
    }
    line(2, `M${trunk} 0V${Math.max(...rows.keys()) + 1}`);
    below.querySelector(":scope > .wires").innerHTML = paths;
  }

  const rewire = () => document.querySelectorAll(".wired").forEach(wire);
  rewire();
  new ResizeObserver(rewire).observe(map);
  addEventListener("scroll", place, { passive: true, capture: true });
})();
