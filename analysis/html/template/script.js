"use strict";
(() => {
  const form = document.getElementById("filters");
  const main = document.getElementById("main");
  const boxes = (name) => [...document.querySelectorAll(`input[name="${name}"]`)];
  const chosen = (name) => new Set(boxes(name).filter((box) => box.checked).map((box) => box.value));

  // A task is shown if it and its suite are chosen; an element, if its task and its method are.
  const tagged = [...main.querySelectorAll("[data-task], [data-method]")];

  function filter() {
    const suites = chosen("suite");
    const tasks = chosen("task");
    const methods = chosen("method");
    for (const box of boxes("task")) {
      const inSuite = suites.has(box.parentElement.dataset.suite);
      box.parentElement.hidden = !inSuite;
      if (!inSuite) tasks.delete(box.value);
    }
    for (const element of tagged) {
      const { task, method } = element.dataset;
      const shown = (task === undefined || tasks.has(task)) && (method === undefined || methods.has(method));
      element.toggleAttribute("hidden", !shown);
    }
    document.querySelectorAll("svg.chart").forEach(closeUp);
    const count = (name, set) => `${set.size} of ${boxes(name).length} ${name}s`;
    const shown = document.getElementById("shown");
    shown.textContent = `Shown: ${count("task", tasks)}, ${count("method", methods)}.`;
    // Paper says it only where something is left out.
    const all = tasks.size === boxes("task").length && methods.size === boxes("method").length;
    shown.classList.toggle("all", all);
  }

  // The rows of a bar chart move up where others are hidden.
  function closeUp(chart) {
    const rows = [...chart.querySelectorAll(":scope > g[transform]")];
    if (!rows.length) return;
    const places = (closeUp.places ??= new Map());
    if (!places.has(chart)) places.set(chart, rows.map((row) => row.getAttribute("transform")));
    rows.filter((row) => !row.hasAttribute("hidden"))
      .forEach((row, i) => row.setAttribute("transform", places.get(chart)[i]));
  }

  function sortable(table) {
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => sort(table, head, column));
    });
  }

  function sort(table, head, column) {
    const direction = head.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", direction);
    const sign = direction === "ascending" ? 1 : -1;
    const rows = [...table.tBodies[0].rows];
    const numeric = rows.some((row) => "value" in row.cells[column].dataset);
    const key = (row) => {
      const cell = row.cells[column];
      return numeric ? Number(cell.dataset.value ?? NaN) : cell.textContent;
    };
    rows.sort((a, b) => {
      const [x, y] = [key(a), key(b)];
      if (!numeric) return sign * x.localeCompare(y, "en", { numeric: true });
      // Cells without a value stand at the end, whatever the direction.
      if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
      return sign * (x - y);
    });
    table.tBodies[0].append(...rows);
  }

  function openForPrint() {
    const folded = [...document.querySelectorAll("details:not([open])")];
    for (const details of folded) details.open = true;
    addEventListener("afterprint", () => folded.forEach((details) => (details.open = false)), { once: true });
  }

  document.addEventListener("change", (event) => {
    if (event.target.name === "lines") {
      document.body.classList.toggle(`without-${event.target.value}`, !event.target.checked);
    } else {
      filter();
    }
  });
  form.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    for (const box of boxes(button.dataset.group)) box.checked = button.dataset.choice === "all";
    filter();
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  addEventListener("beforeprint", openForPrint);
  // A browser restores ticks when it reloads a page, but not what they hide.
  addEventListener("pageshow", () => boxes("lines").forEach((box) => box.dispatchEvent(new Event("change", { bubbles: true }))));

  document.querySelectorAll("table.sortable").forEach(sortable);
  // Controls do nothing without the script, so they show up with it.
  document.querySelectorAll("[data-script]").forEach((control) => (control.hidden = false));
  // On a small window the filters would fill the first screen.
  document.querySelector(".filters").open = matchMedia("(min-width: 64rem)").matches;
  filter();
})();
