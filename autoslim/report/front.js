"use strict";
(() => {
  const tooltips = JSON.parse(document.getElementById("tooltips").textContent);
  const charts = [...document.querySelectorAll(".plot > svg")];
  const tip = document.getElementById("tip");
  const points = charts.flatMap((chart) => [...chart.querySelectorAll(".point")]);
  const table = document.querySelector("table.trials");
  const rows = new Map([...table.querySelectorAll("tbody tr")].map((row) => [row.dataset.trial, row]));
  const byTrial = new Map(points.map((point) => [point.dataset.trial, []]));
  for (const point of points) byTrial.get(point.dataset.trial).push(point);
  const hidden = new Set();
  let lit = null;

  // Everything a user may have written goes in as text, never as markup.
  const element = (name, text) => {
    const made = document.createElement(name);
    made.textContent = text;
    return made;
  };

  const light = (trial) => {
    for (const [number, on] of [[lit, false], [trial, true]]) {
      if (number === null) continue;
      for (const point of byTrial.get(number) ?? []) point.classList.toggle("lit", on);
      rows.get(number)?.classList.toggle("lit", on);
    }
    lit = trial;
  };

  const hide = () => {
    light(null);
    tip.hidden = true;
  };

  const show = (point) => {
    const { title, values } = tooltips[point.dataset.trial];
    const list = document.createElement("dl");
    for (const [name, value] of values) list.append(element("dt", name), element("dd", value));
    tip.replaceChildren(element("b", title), list);
    light(point.dataset.trial);
    tip.hidden = false;
    const at = point.getBoundingClientRect();
    const size = tip.getBoundingClientRect();
    const right = at.right + 10 + size.width > innerWidth ? at.left - 10 - size.width : at.right + 10;
    tip.style.left = `${Math.max(4, right)}px`;
    tip.style.top = `${Math.max(4, Math.min(at.top, innerHeight - size.height - 4))}px`;
  };

  const open = (point) => !point.classList.contains("off") && !point.ownerSVGElement.classList.contains("off");
  const visible = () => points.filter(open);

  const nearest = (event) => {
    let best = null;
    let least = 16 * 16;
    for (const point of visible()) {
      const box = point.getBoundingClientRect();
      const away = (box.left + box.width / 2 - event.clientX) ** 2 + (box.top + box.height / 2 - event.clientY) ** 2;
      if (away <= least) [best, least] = [point, away];
    }
    return best;
  };

  const hover = (event) => {
    const point = nearest(event);
    if (point) show(point);
    else hide();
  };
  for (const chart of charts) {
    chart.addEventListener("pointermove", hover);
    chart.addEventListener("pointerdown", hover);
    chart.addEventListener("pointerleave", hide);
  }
  addEventListener("scroll", hide, { passive: true });

  // One stop for the Tab key; arrows walk along the points, cheapest first.
  const walk = points.slice().sort((a, b) => a.dataset.x - b.dataset.x || a.dataset.trial - b.dataset.trial);
  const stop = (point) => {
    for (const other of points) other.setAttribute("tabindex", "-1");
    point?.setAttribute("tabindex", "0");
  };
  const first = () => stop(walk.find(open));
  first();
  const onKey = (event) => {
    if (event.key === "Escape") return hide();
    const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
    if (!step || !event.target.matches(".point")) return;
    const shown = walk.filter(open);
    const next = shown[(shown.indexOf(event.target) + step + shown.length) % shown.length];
    event.preventDefault();
    stop(next);
    next.focus({ preventScroll: true });
    show(next);
  };
  for (const chart of charts) {
    chart.addEventListener("focusin", (event) => event.target.matches(".point") && show(event.target));
    chart.addEventListener("focusout", hide);
    chart.addEventListener("keydown", onKey);
  }

  const costs = [...document.querySelectorAll(".costs button")];
  const draw = (cost) => {
    for (const button of costs) button.setAttribute("aria-pressed", String(button.dataset.cost === cost));
    for (const chart of charts) chart.classList.toggle("off", chart.dataset.cost !== cost);
    hide();
    first();
  };
  for (const button of costs) button.addEventListener("click", () => draw(button.dataset.cost));
  if (costs.length) draw(costs[0].dataset.cost);

  for (const button of document.querySelectorAll(".legend button")) {
    button.addEventListener("click", () => {
      const on = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(on));
      if (on) hidden.delete(button.dataset.method);
      else hidden.add(button.dataset.method);
      for (const owned of document.querySelectorAll(".plot [data-method], table.trials [data-method]"))
        owned.classList.toggle("off", hidden.has(owned.dataset.method));
      hide();
      first();
    });
  }

  const body = table.querySelector("tbody");
  table.querySelectorAll("thead th").forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
      const numeric = head.classList.contains("number");
      const keyed = [...body.rows].map((row) => {
        const text = row.cells[column].dataset.value ?? row.cells[column].textContent;
        return [numeric && text !== "" ? Number(text) : text, row];
      });
      // What has no value comes last, whichever way it is sorted.
      keyed.sort(([a], [b]) => (a === "") - (b === "") || sign * (numeric ? a - b : String(a).localeCompare(String(b))));
      body.append(...keyed.map(([, row]) => row));
    });
  });
  for (const [trial, row] of rows) {
    row.addEventListener("pointerenter", () => light(trial));
    row.addEventListener("pointerleave", () => light(null));
  }
})();
