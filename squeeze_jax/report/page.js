// Makes the report a place to look: tables sort and filter, figures name their points, and each
// trial has an entry. All content comes from the page's own data and is set as text, never as HTML.

/** Returns the page's data: JSON, compressed by gzip, in base64. */
function readData() {
  const text = atob(document.getElementById("data").textContent);
  const bytes = Uint8Array.from(text, (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).json();
}

const data = await readData();
const PAGE = 200; // rows that are added at a time
const REACH = 18; // pixels between the pointer and the point that it means

// ------------------------------------------------------------------ elements

/** Returns a new element with attributes, on… listeners and children (elements or text). */
function make(name, attributes = {}, ...children) {
  const isSvg = ["svg", "path", "circle", "text", "line"].includes(name);
  const element = isSvg
    ? document.createElementNS("http://www.w3.org/2000/svg", name)
    : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(key.slice(2), value);
    else if (value !== undefined && value !== false) element.setAttribute(key, value);
  }
  element.append(...children);
  return element;
}

// ------------------------------------------------------------------ tables

/** Returns the number that a cell begins with, an interval's mean; NaN for text. */
function numberOf(cell) {
  return parseFloat(cell.replace(/,/g, "").replace(/^\u2212/, "-"));
}

/** Returns the order of rows by a column; rows without a number come last either way. */
function sortRows(order, rows, column, isNumeric, sign) {
  const collator = new Intl.Collator(undefined, { numeric: true });
  const keys = rows.map((row) => (isNumeric ? numberOf(row[column]) : row[column]));
  const compare = isNumeric
    ? (a, b) =>
        isNaN(keys[a]) || isNaN(keys[b])
          ? isNaN(keys[a]) - isNaN(keys[b])
          : sign * (keys[a] - keys[b])
    : (a, b) => sign * collator.compare(keys[a], keys[b]);
  return order.sort((a, b) => compare(a, b) || a - b);
}

/** A table whose rows are made when they are scrolled to. */
class DataTable {
  /** link: from the index of a row to the hash that its first cell leads to. */
  constructor(table, { head, rows, numeric, statuses }, link) {
    Object.assign(this, { table, head, rows, numeric, statuses, link });
    this.hidden = new Set();
    this.filter = { text: "", status: "" };
    this.sorting = null;
    this.texts = null; // of the rows in lower case, made at the first search
    this.body = table.tBodies[0];
    [...table.tHead.rows[0].cells].forEach((cell, column) => {
      const sort = () => this.sort(column, cell);
      cell.replaceChildren(make("button", { type: "button", onclick: sort }, head[column]));
    });
    this.more = make("button", { type: "button", onclick: () => this.grow() }, "More rows");
    table.after(this.more);
    new IntersectionObserver((seen) => seen.some((each) => each.isIntersecting) && this.grow(), {
      rootMargin: "400px",
    }).observe(this.more);
    this.update();
  }

  sort(column, cell) {
    const sign = cell.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    for (const other of this.table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    cell.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
    this.sorting = [column, this.numeric[column], sign];
    this.update();
  }

  matches(index) {
    const { text, status } = this.filter;
    if (status && this.statuses[index] !== status) return false;
    if (!text) return true;
    this.texts ??= this.rows.map((row) => row.join("\n").toLowerCase());
    return text.split(/\s+/).every((word) => this.texts[index].includes(word));
  }

  update() {
    this.order = this.rows.map((_, i) => i).filter((i) => this.matches(i));
    if (this.sorting) sortRows(this.order, this.rows, ...this.sorting);
    this.body.replaceChildren();
    this.grow();
    this.told?.(this.order.length, this.rows.length);
  }

  grow() {
    const shown = this.body.rows.length;
    this.body.append(...this.order.slice(shown, shown + PAGE).map((i) => this.row(i)));
    this.more.hidden = this.body.rows.length >= this.order.length;
  }

  row(index) {
    const cells = this.rows[index].map((text, column) => {
      const target = column === 0 && this.link?.(index);
      return make(
        "td",
        { class: this.numeric[column] ? "number" : false, hidden: this.hidden.has(column) && "" },
        target ? make("a", { href: target }, text || "–") : text,
      );
    });
    return make("tr", { class: this.statuses[index] || false }, ...cells);
  }

  hide(column, isHidden) {
    this.hidden[isHidden ? "add" : "delete"](column);
    for (const row of this.table.rows) row.cells[column].hidden = isHidden;
  }

  /** Puts a search box, a choice of status and a choice of columns above the table. */
  addTools() {
    const count = make("span", { class: "muted", role: "status" });
    this.told = (shown, all) =>
      (count.textContent = `${shown.toLocaleString("en")} of ${all.toLocaleString("en")} rows`);
    const search = (event) => {
      this.filter.text = event.target.value.trim().toLowerCase();
      this.update();
    };
    const tools = make(
      "div",
      { class: "tools" },
      make("input", { type: "search", placeholder: "Filter", "aria-label": "Filter", oninput: search }),
    );
    const found = [...new Set(this.statuses)].filter(Boolean).sort();
    if (found.length > 1) tools.append(this.statusChoice(found));
    tools.append(this.columnChoice(), count);
    this.table.parentElement.before(tools);
    this.told(this.order.length, this.rows.length);
  }

  statusChoice(found) {
    const choose = (event) => {
      this.filter.status = event.target.value;
      this.update();
    };
    const options = found.map((status) => make("option", { value: status }, status));
    return make(
      "select",
      { "aria-label": "Status", onchange: choose },
      make("option", { value: "" }, "every status"),
      ...options,
    );
  }

  columnChoice() {
    const boxes = this.head.map((heading, column) =>
      make(
        "label",
        {},
        make("input", {
          type: "checkbox",
          checked: "",
          onchange: (event) => this.hide(column, !event.target.checked),
        }),
        ` ${heading}`,
      ),
    );
    return make("details", {}, make("summary", {}, "Columns"), make("div", {}, ...boxes));
  }
}

/** Returns a table's content as the page's data would give it, from its HTML. */
function readTable(table) {
  const texts = (row) => [...row.cells].map((cell) => cell.textContent);
  const rows = [...table.tBodies[0].rows];
  return {
    head: texts(table.tHead.rows[0]),
    numeric: [...table.tHead.rows[0].cells].map((cell) => cell.className === "number"),
    rows: rows.map(texts),
    statuses: rows.map((row) => row.className),
  };
}

// ------------------------------------------------------------------ what a point is

const firstTrial = []; // of each design point
data.entries.point.forEach((point, trial) => (firstTrial[point] ??= trial));

/** Returns the index of the trial that a mark leads to. */
const trialOf = (which) => (which < 0 ? -1 - which : firstTrial[which]);

const hashOf = (trial) => `#trial/${encodeURIComponent(data.tables.trials.rows[trial][0])}`;

/** Returns [heading, value] pairs of a row, without empty ones. */
function describeRow({ head, rows }, index, columns) {
  return columns
    .map((column) => [head[column], rows[index][column]])
    .filter(([, value]) => value && value !== "–");
}

// A trial's tooltip: how it ended, and what its design point's tooltip shows.
const trialTip = [...data.tables.trials.head.keys()].filter((column) => {
  const heading = data.tables.trials.head[column];
  return heading === "Status" || data.tip.some((i) => data.tables.points.head[i] === heading);
});

/** Returns the tooltip of a mark: a design point, or a trial. */
function tipOf(which) {
  const { points, trials } = data.tables;
  const pairs = describeRow(points, which < 0 ? data.entries.point[-1 - which] : which, data.tip);
  const title = which < 0 ? trials.rows[-1 - which][0] : "";
  const own = which < 0 ? describeRow(trials, -1 - which, trialTip) : [];
  return [
    ...(title ? [make("b", {}, title)] : []),
    pairTable(title ? own : pairs),
    make("span", { class: "muted" }, "Click or Enter: its entry"),
  ];
}

function pairTable(pairs) {
  const rows = pairs.map((pair) => make("tr", {}, ...pair.map((text) => make("td", {}, text))));
  return make("table", {}, make("tbody", {}, ...rows));
}

// ------------------------------------------------------------------ figures

const tip = make("div", { id: "tip", hidden: "" });
tip.setAttribute("role", "status");
document.body.append(tip);

/** Names a figure's points under the pointer, under a finger, and by the arrow keys. */
class Marks {
  constructor(figure, flat) {
    this.svg = figure.querySelector("svg");
    this.flat = flat;
    this.current = -1;
    const { width, height } = this.svg.viewBox.baseVal;
    this.size = [width, height];
    this.ring = make("circle", { class: "ring", r: 6, visibility: "hidden" });
    this.svg.append(this.ring);
    figure.tabIndex = 0;
    figure.addEventListener("pointermove", (event) => this.show(this.nearest(event)));
    // A finger leaves when it is lifted, and the tooltip stays.
    figure.addEventListener("pointerleave", (event) => event.pointerType === "touch" || this.show(-1));
    figure.addEventListener("pointerdown", (event) => this.press(event));
    figure.addEventListener("click", (event) => this.click(event));
    figure.addEventListener("keydown", (event) => this.pressKey(event));
    figure.addEventListener("focus", () => figure.matches(":focus-visible") && this.show(0));
    figure.addEventListener("blur", () => this.show(-1));
  }

  /** Returns the index of the mark that is nearest to the pointer, within reach; -1 for none. */
  nearest({ clientX, clientY }) {
    const box = this.svg.getBoundingClientRect();
    const [x, y] = [(clientX - box.left) / box.width, (clientY - box.top) / box.height];
    let [best, least] = [-1, REACH ** 2];
    for (let i = 0; i < this.flat.length; i += 3) {
      const dx = (this.flat[i] / 1e4 - x) * box.width;
      const dy = (this.flat[i + 1] / 1e4 - y) * box.height;
      if (dx * dx + dy * dy < least) [best, least] = [i / 3, dx * dx + dy * dy];
    }
    return best;
  }

  show(mark) {
    if (mark === this.current) return;
    this.current = mark;
    this.ring.setAttribute("visibility", mark < 0 ? "hidden" : "visible");
    tip.hidden = mark < 0;
    if (mark < 0) return;
    const [x, y] = [this.flat[3 * mark] / 1e4, this.flat[3 * mark + 1] / 1e4];
    this.ring.setAttribute("cx", x * this.size[0]);
    this.ring.setAttribute("cy", y * this.size[1]);
    tip.replaceChildren(...tipOf(this.flat[3 * mark + 2]));
    const box = this.svg.getBoundingClientRect();
    placeTip(box.left + x * box.width, box.top + y * box.height);
  }

  press(event) {
    const mark = this.nearest(event);
    // A finger has no hover: its first touch shows the values, its second one opens the entry.
    this.opens = event.pointerType !== "touch" || mark === this.current;
    this.show(mark);
  }

  click(event) {
    const mark = this.nearest(event);
    if (mark >= 0 && this.opens) this.open(mark);
  }

  pressKey(event) {
    const last = this.flat.length / 3 - 1;
    const moves = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
    if (event.key in moves) this.show(Math.min(last, Math.max(0, this.current + moves[event.key])));
    else if (event.key === "Home") this.show(0);
    else if (event.key === "End") this.show(last);
    else if (event.key === "Escape") this.show(-1);
    else if (event.key === "Enter" && this.current >= 0) this.open(this.current);
    else return;
    event.preventDefault();
  }

  open(mark) {
    const hash = hashOf(trialOf(this.flat[3 * mark + 2]));
    this.show(-1);
    if (location.hash === hash) openEntry();
    else location.hash = hash;
  }
}

/** Puts the tooltip beside a place of the window, inside it. */
function placeTip(x, y) {
  const { offsetWidth: width, offsetHeight: height } = tip;
  const left = x + 14 + width > innerWidth ? x - 14 - width : x + 14;
  const top = y + 14 + height > innerHeight ? y - 14 - height : y + 14;
  tip.style.left = `${scrollX + Math.max(4, Math.min(left, innerWidth - width - 4))}px`;
  tip.style.top = `${scrollY + Math.max(4, top)}px`;
}

// ------------------------------------------------------------------ a trial's entry

/** Returns the path of a trial's folder as a shell takes it. */
function quote(path) {
  return /[^\w@%+=:,./-]/.test(path) ? `'${path.replace(/'/g, "'\"'\"'")}'` : path;
}

function showValue(value) {
  if (value === null) return "–";
  return typeof value === "string" ? value : JSON.stringify(value);
}

function commandsOf(name) {
  const folder = quote(`${data.workdir}/trials/${name}`);
  return {
    Evaluate: `squeeze-jax evaluate ${folder}`,
    Export: `squeeze-jax export ${folder} --format onnx -o net.onnx`,
    Predict: `squeeze-jax predict ${folder} photo.jpg`,
  };
}

async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    getSelection().selectAllChildren(button.previousElementSibling);
    document.execCommand("copy");
  }
  button.textContent = "Copied";
}

function commandLine(text) {
  const button = make("button", { type: "button", onclick: () => copy(text, button) }, "Copy");
  return make("div", { class: "command" }, make("code", {}, text), button);
}

/** Returns a small figure of a curve: a flat list of epoch, value, epoch, value, ... */
function curveFigure(title, flat) {
  const [width, height, left, bottom] = [320, 150, 52, 20];
  const xs = flat.filter((_, i) => i % 2 === 0);
  const ys = flat.filter((_, i) => i % 2 === 1);
  const scale = (values, from, to) => {
    const [low, high] = [Math.min(...values), Math.max(...values)];
    return (value) => from + ((value - low) / (high - low || 1)) * (to - from);
  };
  const [x, y] = [scale(xs, left, width - 6), scale(ys, height - bottom - 6, 6)];
  const at = xs.map((value, i) => `${x(value).toFixed(1)} ${y(ys[i]).toFixed(1)}`);
  const label = (text, place, anchor) => make("text", { ...place, "text-anchor": anchor }, text);
  const [low, high] = [Math.min(...ys), Math.max(...ys)];
  const short = (value) => String(Number(value.toPrecision(3)));
  const svg = make(
    "svg",
    { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": title },
    make("path", {
      d: `M ${left} 4 V ${height - bottom} H ${width - 4}`,
      style: "fill: none; stroke: var(--line)",
    }),
    make("path", {
      d: at.length > 1 ? `M ${at.join(" L ")}` : `M ${at[0]} h 3`,
      style: "fill: none; stroke: var(--accent); stroke-width: 1.6",
    }),
    label(short(high), { x: left - 4, y: 12 }, "end"),
    low === high ? "" : label(short(low), { x: left - 4, y: height - bottom - 2 }, "end"),
    label(String(xs[0]), { x: left, y: height - 6 }, "middle"),
    xs.length > 1 ? label(String(xs.at(-1)), { x: width - 6, y: height - 6 }, "end") : "",
    label("epoch", { x: width / 2, y: height - 6 }, "middle"),
  );
  return make("figure", { class: "curve" }, make("figcaption", { class: "muted" }, title), svg);
}

/** Returns the list of the trials of the same design point. */
function siblings(trial) {
  const { point, seed } = data.entries;
  const same = point.flatMap((each, i) => (each === point[trial] ? [i] : []));
  const links = same.map((i) => {
    const text = seed[i] === null ? data.tables.trials.rows[i][0] : String(seed[i]);
    return i === trial ? make("b", {}, text) : make("a", { href: hashOf(i) }, text);
  });
  return make("p", {}, "Seeds of this design: ", ...links.flatMap((link) => [link, " "]));
}

function changesOf(trial) {
  const { keys, values, shared } = data.entries;
  const rows = keys.flatMap((key, i) =>
    values[trial][i].map((value) =>
      make("tr", {}, ...[key, showValue(value), showValue(shared[i])].map((x) => make("td", {}, x))),
    ),
  );
  const head = make("tr", {}, ...["Key", "This trial", "The study"].map((x) => make("th", {}, x)));
  const table = make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows));
  return rows.length ? make("div", { class: "wide" }, table) : make("p", {}, "As the study's.");
}

function filesOf(trial, name) {
  const encode = (path) => path.split("/").map(encodeURIComponent).join("/");
  const folder = `trials/${name}/`;
  const links = data.entries.files[data.entries.files_of[trial]].map((file) =>
    make("a", { href: `${encode(folder)}${encode(file)}` }, file),
  );
  return make("p", {}, make("code", {}, folder), " ", ...links.flatMap((link) => [link, " "]));
}

/** Returns everything that the page knows of a trial. */
function entryOf(trial) {
  const table = data.tables.trials;
  const name = table.rows[trial][0];
  const [loss, top1] = data.entries.curves[trial];
  const pairs = describeRow(table, trial, [...table.head.keys()].slice(1));
  const heading = (text) => make("h3", {}, text);
  const hasWeights = data.entries.files[data.entries.files_of[trial]].includes("checkpoints");
  return [
    make("h2", { tabindex: -1 }, name),
    siblings(trial),
    pairTable(pairs),
    heading("Config"),
    changesOf(trial),
    ...(loss.length || top1.length ? [heading("Training")] : []),
    ...(loss.length ? [curveFigure("Training loss", loss)] : []),
    ...(top1.length ? [curveFigure("Held-out top-1 (%)", top1)] : []),
    heading("Files"),
    filesOf(trial, name),
    ...(hasWeights
      ? Object.entries(commandsOf(name)).flatMap(([title, text]) => [heading(title), commandLine(text)])
      : []),
  ];
}

/** Shows the entry that the address names. */
function openEntry(scrolls = true) {
  const section = document.getElementById("entry");
  const [, name] = location.hash.match(/^#trial\/(.*)$/) ?? [];
  let trial = -1;
  try {
    if (name !== undefined) trial = trialNamed.get(decodeURIComponent(name)) ?? -1;
  } catch {
    // A malformed address names no trial.
  }
  section.hidden = trial < 0;
  if (trial < 0) return;
  section.replaceChildren(...entryOf(trial));
  if (!scrolls) return;
  section.scrollIntoView();
  section.firstElementChild.focus({ preventScroll: true });
}

// ------------------------------------------------------------------ start

const trialNamed = new Map(data.tables.trials.rows.map(([name], i) => [name, i]));
for (const table of document.querySelectorAll("table.data")) {
  const { name } = table.dataset;
  const link = { points: (i) => hashOf(firstTrial[i]), trials: hashOf }[name];
  const made = new DataTable(table, name ? data.tables[name] : readTable(table), link);
  if (name) made.addTools();
}
for (const figure of document.querySelectorAll("figure[data-name]")) {
  const flat = data.marks[figure.dataset.name];
  if (flat?.length) new Marks(figure, flat);
}
addEventListener("hashchange", () => openEntry());
// While the page is watched it comes back at the place where it was.
const isWatched = document.querySelector("meta[http-equiv=refresh]") !== null;
const kept = isWatched ? sessionStorage.getItem(location.pathname) : null;
openEntry(kept === null);
if (kept !== null) scrollTo(0, Number(kept));
addEventListener("pagehide", () => {
  if (isWatched) sessionStorage.setItem(location.pathname, String(scrollY));
});
