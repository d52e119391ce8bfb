// Wires the tables of the page to DataTables, its plots to Vega-Lite, and its links to the dialog of runs.
"use strict";

const all = (selector, within = document) => [...within.querySelectorAll(selector)];
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const dark = matchMedia("(prefers-color-scheme: dark)");
const narrow = matchMedia("(max-width: 40rem)");
const filters = document.querySelector(".filters");
const dialog = document.querySelector("dialog");
const tables = [];

// --- plots ---

let vega; // Loaded when something is plotted for the first time.
function loadVega() {
  vega ??= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = "vega.js";
    script.onload = () => resolve(window.vegaEmbed);
    script.onerror = reject;
    document.head.append(script);
  });
  return vega;
}

async function draw(place, spec) {
  const text = colour("--text");
  const line = colour("--line");
  const config = {
    background: "transparent",
    axis: { labelColor: text, titleColor: text, gridColor: line, domainColor: line, tickColor: line, labelFontSize: 12, titleFontSize: 13 },
    legend: { symbolBaseFillColor: text, symbolBaseStrokeColor: text, labelColor: text, titleColor: text, labelLimit: 240, orient: "bottom", columns: 2 },
    view: { stroke: null },
    range: { category: { scheme: "tableau10" } },
  };
  const embed = await loadVega();
  place.view?.finalize();
  const sized = { width: "container", height: 340, autosize: { type: "fit", contains: "padding" }, ...spec };
  const made = await embed(place, sized, { actions: false, renderer: "svg", config });
  place.view = made.view;
}

// Points with their intervals. From the best across to the worst, a point is on the front if it is better up than all
// before it.
function measuresSpec(rows, x, y) {
  const better = { higher: -1, lower: 1 };
  const order = [{ field: "across" }, { field: "up" }];
  const axis = (one) => ({ type: "quantitative", title: one.title, scale: { zero: false } });
  const whisker = (a, b, from, to) => ({
    transform: [{ filter: `isValid(datum.${from})` }],
    mark: { type: "rule", opacity: 0.6, aria: false },
    encoding: { [a]: { field: from, ...axis(a === "x" ? x : y) }, [`${a}2`]: { field: to }, [b]: { field: b, ...axis(b === "x" ? x : y) } },
  });
  return {
    description: `${y.title} against ${x.title}. The table has the same numbers.`,
    data: { values: rows },
    transform: [
      { calculate: `${better[x.better]} * datum.x`, as: "across" },
      { calculate: `${better[y.better]} * datum.y`, as: "up" },
      { window: [{ op: "min", field: "up", as: "best" }], sort: order, frame: [null, 0], ignorePeers: true },
      { window: [{ op: "lag", field: "best", as: "before" }], sort: order },
      { calculate: "!isValid(datum.before) || datum.up < datum.before", as: "front" },
      { calculate: "datum.label + ': ' + datum.xText + '; ' + datum.yText + (datum.front ? '; on the Pareto front' : '')", as: "said" },
    ],
    encoding: { color: { field: "kind", title: "Method", type: "nominal" } },
    layer: [
      ...(rows.some((row) => row.xLow !== null) ? [whisker("x", "y", "xLow", "xHigh")] : []),
      ...(rows.some((row) => row.yLow !== null) ? [whisker("y", "x", "yLow", "yHigh")] : []),
      {
        transform: [{ filter: "datum.front" }],
        mark: { type: "line", aria: false, strokeDash: [4, 3], interpolate: y.better === "higher" === (x.better === "lower") ? "step-after" : "step-before" },
        encoding: { x: { field: "x", ...axis(x) }, y: { field: "y", ...axis(y) }, color: { value: colour("--quiet") } },
      },
      {
        mark: { type: "point", filled: true, size: 90, opacity: 1 },
        encoding: {
          x: { field: "x", ...axis(x) },
          y: { field: "y", ...axis(y) },
          shape: { field: "front", title: "Pareto front", scale: { domain: [true, false], range: ["diamond", "circle"] }, legend: { labelExpr: "datum.value ? 'on the front' : 'behind it'" } },
          href: { field: "link" },
          description: { field: "said" },
          tooltip: [{ field: "label", title: "Row" }, { field: "xText", title: x.title }, { field: "yText", title: y.title }],
        },
      },
      {
        transform: [{ filter: "datum.front" }],
        mark: { type: "text", aria: false, align: "left", dx: 8, dy: -7, limit: 180 },
        encoding: { x: { field: "x", ...axis(x) }, y: { field: "y", ...axis(y) }, text: { field: "label" }, color: { value: colour("--text") } },
      },
    ],
  };
}

function curvesSpec(kind, values, heading, by, title) {
  const y = (field) => ({ field, type: "quantitative", title: `Validation: ${heading}`, scale: { zero: false } });
  const x = { field: kind === "learning" ? "epoch" : "trial", type: "quantitative", title: kind === "learning" ? "Epoch" : "Trials", axis: { tickMinStep: 1, format: "d" } };
  const series = { field: by, type: "nominal", title };
  const line = { mark: { type: "line", point: { size: 25 }, tooltip: true }, encoding: { x, y: y(kind === "learning" ? "value" : "expected"), color: series } };
  const trials = { transform: [{ filter: "isValid(datum.value)" }], mark: { type: "point", tooltip: true }, encoding: { x, y: y("value"), color: series } };
  return { description: `${kind} curves, ${heading}`, data: { values }, layer: kind === "tuning" && by === "name" ? [trials, line] : [line] };
}

const curvesOf = (run) => JSON.parse(document.getElementById(run).content.querySelector("script").textContent);

// The rows that a table shows, with the numbers of two of its columns.
function plottedRows(table, x, y) {
  const number = (cell, key) => (cell.dataset[key] === undefined || cell.dataset[key] === "" ? null : Number(cell.dataset[key]));
  const points = table.shown().flatMap((row) => {
    const [across, up] = [x, y].map((column) => table.api.cell(row, column).node());
    if (number(across, "order") === null || number(up, "order") === null) return [];
    const run = across.querySelector("a") ?? up.querySelector("a");
    return [{
      label: row.querySelector("th").textContent, kind: row.dataset.kind, link: run?.getAttribute("href") ?? "",
      x: number(across, "order"), xLow: number(across, "low"), xHigh: number(across, "high"), xText: across.textContent.trim(),
      y: number(up, "order"), yLow: number(up, "low"), yHigh: number(up, "high"), yText: up.textContent.trim(),
    }];
  });
  // A run that has several rows is one point.
  return [...new Map(points.toReversed().map((point) => [point.link || point.label, point])).values()].toReversed();
}

async function plot(table) {
  const { plots, form } = table;
  if (!plots.open) return;
  const place = plots.querySelector(".plot");
  const said = plots.querySelector(".said");
  const kind = form.elements.plot.value;
  for (const name of ["x", "y"]) form.elements[name].parentElement.hidden = kind !== "measures";
  form.elements.task.parentElement.hidden = kind === "measures" || form.elements.task.length < 2;
  let spec;
  let count;
  if (kind === "measures") {
    const [x, y] = ["x", "y"].map((name) => table.columns.find((column) => column.index === Number(form.elements[name].value)));
    if (!x || !y) return;
    const rows = plottedRows(table, x.index, y.index);
    count = rows.length;
    spec = measuresSpec(rows, x, y);
  } else {
    const runs = new Map(table.shown().map((row) => [JSON.parse(row.dataset.runs)[form.elements.task.value], row.querySelector("th").textContent]));
    const values = [...runs].flatMap(([run, label]) => (run ? (curvesOf(run)[kind] ?? []).map((point) => ({ ...point, label })) : []));
    // A learning curve is the mean over seeds.
    const spread = { transform: [{ aggregate: [{ op: "mean", field: "value", as: "value" }], groupby: ["label", "epoch"] }] };
    count = new Set(values.map((point) => point.label)).size;
    const heading = document.getElementById([...runs.keys()].find(Boolean))?.content.querySelector("[data-heading]")?.dataset.heading ?? "";
    spec = { ...curvesSpec(kind, values, heading, "label", "Row"), ...(kind === "learning" ? spread : {}) };
  }
  const what = { measures: "both numbers; bars are intervals, the dashed line is the Pareto front", learning: "learning curves (means over seeds)", tuning: "a search; lines are the expected best of as many trials" }[kind];
  said.textContent = `Plotted: the ${count} rows that the table shows and that have ${what}.`;
  place.hidden = count === 0;
  if (count) await draw(place, spec);
}

// --- tables ---

function setUp(DataTable, element) {
  const section = element.closest("section");
  const heads = all("thead th", element);
  const columns = heads.flatMap((head, index) => ("plotted" in head.dataset ? [{ index, title: head.textContent, better: head.dataset.plotted, task: head.dataset.task }] : []));
  // A phone has no room for the section, which is the second column.
  const initially = heads.map((head, index) => !("hidden" in head.dataset) && !(index === 1 && narrow.matches));
  const taskOf = heads.map((head) => head.dataset.task);
  const api = new DataTable(element, {
    paging: false,
    order: [],
    autoWidth: false,
    columnDefs: [
      { targets: heads.flatMap((_, index) => (initially[index] ? [] : [index])), visible: false },
      // The best comes first at the first click.
      { targets: columns.filter((column) => column.better === "higher").map((column) => column.index), orderSequence: ["desc", "asc", ""] },
    ],
    layout: { topStart: { buttons: [{ extend: "colvis", text: "Columns" }] }, topEnd: "search", bottomStart: "info", bottomEnd: null },
    language: { search: "Search", info: "_TOTAL_ rows", infoFiltered: "of _MAX_", infoEmpty: "No rows", zeroRecords: "No row matches" },
  });
  const frame = document.createElement("div");
  Object.assign(frame, { className: "scroll", tabIndex: 0, role: "region", ariaLabel: `${element.caption.textContent}, scrolls sideways` });
  element.before(frame);
  frame.append(element);
  const plots = section.querySelector(".plots");
  const form = plots.querySelector("form");
  const table = { api, section, columns, initially, taskOf, plots, form, shown: () => api.rows({ search: "applied" }).nodes().toArray() };
  for (const name of ["x", "y"]) form.elements[name].append(...columns.map((column) => new Option(column.title, column.index)));
  const shown = columns.filter((column) => initially[column.index]);
  form.elements.y.value = (shown[0] ?? columns[0])?.index;
  form.elements.x.value = (shown.at(-1) ?? columns.at(-1))?.index;
  form.addEventListener("change", () => plot(table));
  form.addEventListener("submit", (event) => event.preventDefault());
  plots.addEventListener("toggle", () => plot(table));
  api.on("draw", () => plot(table));
  return table;
}

// The task hides the columns of the others; all filters hide rows.
function filter() {
  const chosen = Object.fromEntries(all("select", filters).map((select) => [select.name, select.value]));
  let rows = 0;
  for (const { api, section, initially, taskOf } of tables) {
    api.columns().every((index) => {
      const visible = initially[index] && (!chosen.task || !taskOf[index] || taskOf[index] === chosen.task);
      if (api.column(index).visible() !== visible) api.column(index).visible(visible, false);
    });
    api.search.fixed("filters", (_, __, index) => {
      const data = api.row(index).node().dataset;
      return Object.entries(chosen).every(([name, value]) => !value || (name === "task" ? data.task.split(" ").includes(value) : data[name] === value));
    });
    api.draw();
    const count = api.rows({ search: "applied" }).count();
    section.hidden = Object.values(chosen).some(Boolean) && count === 0;
    rows += count;
  }
  filters.querySelector("output").textContent = `${rows} rows`;
}

// --- runs ---

async function openRun() {
  const template = location.hash.startsWith("#run-") && document.getElementById(decodeURIComponent(location.hash.slice(5)));
  if (!template) return dialog.open && dialog.close();
  const content = dialog.querySelector(".content");
  content.replaceChildren(template.content.cloneNode(true));
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
  const curves = curvesOf(template.id);
  for (const place of all("[data-curve]", content)) {
    const kind = place.dataset.curve;
    const values = kind === "learning" ? curves.learning : curves.tuning.map((point) => ({ ...point, name: "expected best" }));
    await draw(place, { ...curvesSpec(kind, values, place.dataset.heading, kind === "learning" ? "seed" : "name", kind === "learning" ? "Seed" : ""), height: 200 });
  }
}

dialog.addEventListener("close", () => history.replaceState(null, "", location.pathname + location.search));
dialog.addEventListener("click", async (event) => {
  if (event.target === dialog) dialog.close();
  if (!event.target.matches("[data-copy]")) return;
  await navigator.clipboard.writeText(event.target.previousElementSibling.textContent);
  event.target.textContent = "Copied";
});

async function start() {
  document.documentElement.classList.toggle("dark", dark.matches);
  const address = URL.createObjectURL(new Blob([window.dataTablesModule], { type: "text/javascript" }));
  const { default: DataTable } = await import(address);
  URL.revokeObjectURL(address);
  tables.push(...all("table.results").map((element) => setUp(DataTable, element)));
  filters.addEventListener("change", filter);
  filters.addEventListener("reset", () => setTimeout(filter));
  filter();
  addEventListener("hashchange", openRun);
  dark.addEventListener("change", () => {
    document.documentElement.classList.toggle("dark", dark.matches);
    tables.forEach(plot);
  });
  await openRun();
  document.documentElement.dataset.ready = "";
}

start();
