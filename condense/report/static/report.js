"use strict";

// ---- charts: Vega-Lite draws SVG, whose colours are the page's, so that themes and print agree

const CONFIG = {
  background: null,
  aria: false, // the figure has a label, and the data is beside it as a table
  font: getComputedStyle(document.body).fontFamily, // by name, since Vega measures text with it
  view: { stroke: null },
  axis: {
    labelColor: "var(--dim)", titleColor: "var(--ink)", gridColor: "var(--line)", domainColor: "var(--dim)",
    tickColor: "var(--line)", labelFontSize: 12, titleFontSize: 12, titleFontWeight: "normal", titlePadding: 10, labelLimit: 220,
  },
  legend: { labelColor: "var(--ink)", titleColor: "var(--ink)", labelFontSize: 12, orient: "top" },
  header: { labelColor: "var(--ink)", titleColor: "var(--ink)" },
  range: { category: Array.from({ length: 8 }, (_, n) => `var(--c${n + 1})`) },
  mark: { color: "var(--c1)" },
  rule: { color: "var(--dim)" },
  text: { color: "var(--ink)" },
};

async function draw(place, spec) {
  const inner = document.createElement("div");
  inner.setAttribute("aria-hidden", "true"); // the place has a label of its own
  place.replaceChildren(inner);
  const width = place.clientWidth;
  const axis = { ...CONFIG.axis, labelLimit: Math.min(260, width * 0.4) };
  const legend = { ...CONFIG.legend, labelLimit: width - 40, columns: width < 420 ? 1 : 0 };
  const options = { renderer: "svg", actions: false, logLevel: vega.Error, config: { ...CONFIG, axis, legend } };
  return (await vegaEmbed(inner, { width: "container", ...spec }, options)).view;
}

for (const figure of document.querySelectorAll(".chart")) {
  draw(figure.querySelector(".plot"), JSON.parse(figure.querySelector("script").textContent));
}

// ---- architectures: cells of NAS-Bench-201 as small graphs

const SVG = "http://www.w3.org/2000/svg";
const NODES = [[8, 28], [34, 10], [58, 46], [84, 28]];
const OPERATIONS = {
  nor_conv_3x3: ["var(--c1)", "3"], nor_conv_1x1: ["var(--c3)", "1"], avg_pool_3x3: ["var(--c2)", "p"], skip_connect: ["var(--c6)", ""],
};

// A cell of NAS-Bench-201: |op~0|+|op~0|op~1|+|op~0|op~1|op~2|, drawn as a small graph.
function drawing(name) {
  const edges = name.split("+").flatMap((node, to) =>
    [...node.matchAll(/([a-z0-9_]+)~(\d)/g)].map(([, operation, from]) => [operation, Number(from), to + 1]),
  );
  if (!name.startsWith("|") || !edges.length) return null;
  const svg = document.createElementNS(SVG, "svg");
  const add = (kind, attributes, text) => {
    const part = document.createElementNS(SVG, kind);
    for (const [attribute, value] of Object.entries(attributes)) part.setAttribute(attribute, value);
    if (text) part.textContent = text;
    svg.append(part);
  };
  svg.setAttribute("viewBox", "0 0 92 56");
  svg.setAttribute("class", "cell");
  svg.setAttribute("aria-hidden", "true");
  for (const [operation, from, to] of edges) {
    if (!(operation in OPERATIONS)) continue; // none: no edge
    const [color, letter] = OPERATIONS[operation];
    const [[x1, y1], [x2, y2]] = [NODES[from], NODES[to]];
    const bend = from === 0 && to === 3 ? 26 : 0;
    const middle = [(x1 + x2) / 2, (y1 + y2) / 2 + bend];
    const path = `M${x1} ${y1} Q${middle[0]} ${middle[1] + bend} ${x2} ${y2}`;
    const dash = operation === "skip_connect" ? "3 2" : "none";
    add("path", { d: path, fill: "none", stroke: color, "stroke-width": 2, "stroke-dasharray": dash });
    add("text", { x: middle[0] + 1, y: middle[1] - 2 }, letter);
  }
  for (const [cx, cy] of NODES) add("circle", { cx, cy, r: 3.5, fill: "var(--ink)" });
  return svg;
}

// The value of a cell below a header; architectures that can be drawn are.
function fill(box, header, value) {
  const graph = header === "arch" && drawing(value);
  if (!graph) {
    box.textContent = value;
    return;
  }
  const label = document.createElement("span");
  label.className = "unseen";
  label.textContent = box.title = value;
  box.replaceChildren(label, graph);
}

// ---- tables: a click on a header sorts by its column, numbers as numbers

function key(text) {
  const number = parseFloat(text.replace("\u2212", "-"));
  return Number.isNaN(number) ? text : number;
}

function compare(a, b) {
  if (typeof a === typeof b) return typeof a === "number" ? a - b : a.localeCompare(b);
  return typeof a === "number" ? -1 : 1; // empty cells and words come after numbers
}

// Buttons in the headers; `sort` gets the column and whether the largest come first.
function sortHeaders(headers, sort) {
  headers.forEach((header, column) => {
    if (!header.textContent.trim()) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    header.append(button);
    button.addEventListener("click", () => {
      const down = header.getAttribute("aria-sort") === "ascending";
      headers.forEach((one) => one.removeAttribute("aria-sort"));
      header.setAttribute("aria-sort", down ? "descending" : "ascending");
      sort(column, down);
    });
  });
}

function sorted(items, keyOf, down) {
  const keyed = items.map((item) => [keyOf(item), item]);
  keyed.sort(([a], [b]) => (down ? compare(b, a) : compare(a, b)));
  return keyed.map(([, item]) => item);
}

for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const arch = [...table.tHead.rows[0].cells].findIndex((header) => header.textContent === "arch");
  if (arch >= 0) [...body.rows].forEach(({ cells }) => fill(cells[arch], "arch", cells[arch].textContent));
  if (body.rows.length < 2) continue;
  sortHeaders([...table.tHead.rows[0].cells], (column, down) =>
    body.append(...sorted([...body.rows], (row) => key(row.cells[column].textContent.trim()), down)),
  );
}

// ---- commands: copied by a button

for (const command of document.querySelectorAll(".command")) {
  const button = command.querySelector("button");
  button.addEventListener("click", async () => {
    const code = command.querySelector("code");
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(code); // the browser forbids it for files
      button.textContent = "Selected";
    }
  });
}

// ---- images: tiles of one picture a step; a slider chooses the step, a click enlarges

const zoom = document.querySelector("dialog.zoom");

function blobOf(source) {
  const [head, data] = source.split(",");
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  return URL.createObjectURL(new Blob([bytes], { type: head.slice(5, head.indexOf(";")) }));
}

function viewer(pictures) {
  // A short URL of each frame: thousands of tiles with the data itself would be gigabytes.
  const frames = [...pictures.querySelectorAll(".frame")].map((image) => {
    const frame = { label: image.dataset.label, url: `url("${blobOf(image.src)}")` };
    image.remove();
    return frame;
  });
  const chosen = pictures.querySelectorAll(".tiles.chosen");
  const head = pictures.querySelector(".head p:last-child");
  let shown = frames.length - 1;
  const show = (number) => {
    shown = number;
    if (head) head.textContent = frames[number].label;
    chosen.forEach((tiles) => tiles.style.setProperty("--frame", frames[number].url));
  };
  pictures.querySelectorAll(".tiles.start").forEach((tiles) => tiles.style.setProperty("--frame", frames[0].url));
  show(shown);
  pictures.classList.add("ready");

  const slide = (name, change) => {
    const input = pictures.querySelector(`input.${name}`);
    if (!input) return;
    const output = input.parentElement.querySelector("output");
    const moved = () => {
      output.value = change(Number(input.value));
      input.setAttribute("aria-valuetext", output.value);
    };
    input.addEventListener("input", moved);
    moved();
  };
  slide("step", (number) => {
    show(number);
    return frames[number].label;
  });
  slide("size", (size) => {
    pictures.style.setProperty("--size", `${size}px`);
    return `${size} px`;
  });

  const enlarge = (tile) => {
    zoom.tile = tile;
    zoom.querySelector(".name").textContent = tile.ariaLabel;
    const views = frames.length > 1 ? [frames[0], frames[shown]] : [frames[0]];
    const holder = zoom.querySelector(".views");
    holder.style.cssText = pictures.style.cssText.replace(/--size:[^;]*;?/, "");
    holder.replaceChildren(
      ...views.map((frame) => {
        const figure = document.createElement("figure");
        const image = document.createElement("div");
        const caption = document.createElement("figcaption");
        image.className = "tile";
        image.role = "img";
        image.ariaLabel = `${tile.ariaLabel}, ${frame.label}`;
        image.style.cssText = tile.style.cssText;
        image.style.setProperty("--frame", frame.url);
        caption.textContent = frame.label;
        figure.append(image, caption);
        return figure;
      }),
    );
    if (!zoom.open) zoom.showModal();
  };
  const all = [...pictures.querySelectorAll("button.tile")];
  pictures.addEventListener("click", (event) => {
    const tile = event.target.closest("button.tile");
    if (tile) enlarge(tile);
  });
  const beside = (tile, event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    return step && all[all.indexOf(tile) + step];
  };
  pictures.addEventListener("keydown", (event) => {
    const next = event.target.matches("button.tile") && beside(event.target, event);
    if (next) next.focus();
  });
  zoom.addEventListener("keydown", (event) => {
    const next = all.includes(zoom.tile) && beside(zoom.tile, event);
    if (next) enlarge(next);
  });
  zoom.addEventListener("close", () => {
    if (all.includes(zoom.tile)) zoom.tile.focus();
  });
}

document.querySelectorAll(".pictures").forEach(viewer);

// ---- candidates: a chart of two columns and a table, which show the same choice

const PAGE = 25;

function explorer(place) {
  const { headers, rows } = JSON.parse(place.querySelector("script").textContent);
  const find = (selector) => place.querySelector(selector);
  const [x, y, top, filter, more] = ["select.x", "select.y", ".top", ".filter", ".more"].map(find);
  const choice = { brush: {}, order: rows, length: PAGE };
  const best = () => {
    const column = headers.indexOf(y.value);
    const values = rows.map((row) => row[column]).filter((value) => value !== null);
    values.sort(y.value === "rank" ? (a, b) => a - b : (a, b) => b - a);
    const last = values[Math.max(0, Math.ceil(values.length / 5) - 1)];
    return (row) => row[column] !== null && (y.value === "rank" ? row[column] <= last : row[column] >= last);
  };
  const inside = (row) =>
    Object.entries(choice.brush).every(([axis, [low, high]]) => {
      const value = row[headers.indexOf(axis === "x" ? x.value : y.value)];
      return value !== null && value >= low && value <= high;
    });

  const table = () => {
    const isBest = top.checked ? best() : () => true;
    const text = filter.value.trim().toLowerCase();
    const named = (row) => !text || row.some((cell) => String(cell).toLowerCase().includes(text));
    const shown = choice.order.filter((row) => isBest(row) && inside(row) && named(row));
    find("tbody").replaceChildren(
      ...shown.slice(0, choice.length).map((row) => {
        const line = document.createElement("tr");
        row.forEach((cell, column) => {
          const box = line.insertCell();
          if (typeof cell === "number") box.className = "number";
          fill(box, headers[column], cell ?? "diverged");
        });
        return line;
      }),
    );
    find("output").value = `${shown.length} of ${rows.length}`;
    more.hidden = shown.length <= choice.length;
    find("caption").textContent = more.hidden ? "" : `The first ${choice.length} of ${shown.length}`;
  };

  const chart = async () => {
    choice.brush = {};
    const isBest = best();
    const [across, upward] = [headers.indexOf(x.value), headers.indexOf(y.value)];
    const points = rows
      .filter((row) => row[across] !== null && row[upward] !== null)
      .map((row) => ({ x: row[across], y: row[upward], best: isBest(row), name: row[headers.indexOf("arch")] ?? "", rank: row[0] }));
    const axis = (name, column, title) => {
      const values = points.map((point) => point[name]);
      const wide = Math.min(...values) > 0 && Math.max(...values) > 20 * Math.min(...values);
      return { field: name, type: "quantitative", title, scale: { type: wide ? "log" : "linear", zero: false, reverse: title === "rank" }, axis: { format: Math.max(...values.map(Math.abs)) < 1000 ? ".3~g" : "~s" } };
    };
    const number = { format: ".4~g" };
    const view = await draw(find(".plot"), {
      data: { values: points },
      height: 340,
      params: [
        { name: "only", value: top.checked },
        { name: "brush", select: { type: "interval", encodings: ["x", "y"] } },
      ],
      mark: { type: "circle", size: points.length > 500 ? 24 : 60 },
      encoding: {
        x: axis("x", across, x.value),
        y: axis("y", upward, y.value),
        color: {
          field: "best", type: "nominal", title: null, scale: { domain: [true, false] },
          legend: { labelExpr: "datum.value ? 'best 20 %' : 'the others'" },
        },
        opacity: { condition: { test: "(!only || datum.best) && (!length(data('brush_store')) || vlSelectionTest('brush_store', datum))", value: 0.85 }, value: 0.12 },
        tooltip: [
          { field: "x", title: x.value, ...number }, { field: "y", title: y.value, ...number }, { field: "rank", title: "rank" }, { field: "name", title: "name" },
        ],
      },
    });
    choice.view = view;
    view.addSignalListener("brush", (_, ranges) => {
      choice.brush = ranges;
      table();
    });
    table();
  };

  headers.forEach((header) => {
    const cell = document.createElement("th");
    cell.scope = "col";
    cell.textContent = header;
    find("thead tr").append(cell);
  });
  sortHeaders([...find("thead tr").cells], (column, down) => {
    choice.order = sorted([...rows], (row) => row[column] ?? "", down);
    table();
  });
  [x, y].forEach((select) => select.addEventListener("change", chart));
  top.addEventListener("change", () => {
    choice.view?.signal("only", top.checked).run();
    table();
  });
  filter.addEventListener("input", table);
  more.addEventListener("click", () => {
    choice.length += 100;
    table();
  });
  chart();
}

document.querySelectorAll(".explorer").forEach(explorer);
