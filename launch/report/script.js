// What the page does beyond standing there: reads values off charts, steps through samples, sorts tables.
// Without it everything is still there: tables have the values, all samples are shown.
"use strict";

// A number in four significant digits, as the page's own.
function show(value) {
  const size = Math.abs(value);
  if (size && (size < 1e-4 || size >= 1e16)) return value.toExponential(2).replace("-", "−");
  const digits = size >= 1000 ? { maximumFractionDigits: 0 } : { maximumSignificantDigits: 4 };
  return value.toLocaleString("en-US", digits).replace("-", "−");
}

function compact(value) {
  for (const [size, unit] of [[1e12, " T"], [1e9, " B"], [1e6, " M"], [1e3, " k"]]) {
    if (value >= size) return show(value / size) + unit;
  }
  return show(value);
}

// Curves: the values at the place under the pointer, or where the arrow keys have gone. The drawn points are the data.
for (const figure of document.querySelectorAll("figure.lines")) {
  const [x0, x1] = figure.dataset.x.split(" ").map(Number);
  const [y0, y1] = figure.dataset.y.split(" ").map(Number);
  const height = Number(figure.dataset.height);
  const svg = figure.querySelector("svg");
  const cursor = figure.querySelector(".cursor");
  const reading = figure.querySelector(".reading");
  const { what = " tokens", unit = "" } = figure.dataset;
  const curves = new Map();
  for (const line of figure.querySelectorAll("polyline[data-label]")) {
    const points = line.getAttribute("points").split(" ").map((point) => point.split(",").map(Number));
    curves.set(line.dataset.label, (curves.get(line.dataset.label) || []).concat(points));
  }
  const places = [...new Set([...curves.values()].flat().map((point) => point[0]))].sort((a, b) => a - b);
  let at = places.length - 1;

  const read = (index) => {
    at = Math.max(0, Math.min(places.length - 1, index));
    const x = places[at];
    const values = [...curves].map(([label, points]) => {
      const nearest = points.reduce((best, p) => (Math.abs(p[0] - x) < Math.abs(best[0] - x) ? p : best));
      const value = y0 + ((height - nearest[1]) / height) * (y1 - y0);
      const elsewhere = Math.abs(nearest[0] - x) > 4 ? ` (at ${compact(x0 + (nearest[0] / 1000) * (x1 - x0))})` : "";
      const above = nearest[1] === 0 && svg.querySelector(".beyond") ? "at least " : "";
      return `${label} ${above}${show(value)}${unit}${elsewhere}`;
    });
    reading.textContent = `${compact(x0 + (x / 1000) * (x1 - x0))}${what}: ${values.join("; ")}`;
    cursor.setAttribute("x1", `${x / 10}%`);
    cursor.setAttribute("x2", `${x / 10}%`);
    cursor.style.visibility = "visible";
  };
  const point = (event) => {
    const box = svg.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * 1000;
    read(places.reduce((best, p, i) => (Math.abs(p - x) < Math.abs(places[best] - x) ? i : best), 0));
  };
  svg.addEventListener("pointermove", point);
  svg.addEventListener("pointerdown", point);
  figure.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -Infinity, End: Infinity }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    read(at + step);
  });
}

// Samples: one at a time.
for (const stepper of document.querySelectorAll(".stepper")) {
  const articles = [...stepper.querySelectorAll("article")];
  if (articles.length < 2) continue;
  const controls = document.createElement("div");
  controls.className = "controls";
  const button = (label) => Object.assign(document.createElement("button"), { type: "button", textContent: label });
  const [back, next] = [button("earlier"), button("later")];
  const slider = Object.assign(document.createElement("input"), { type: "range", min: 0, max: articles.length - 1 });
  slider.setAttribute("aria-label", stepper.dataset.label);
  controls.append(back, slider, next);
  stepper.prepend(controls);
  stepper.classList.add("stepping");
  const go = (index) => {
    articles.forEach((article, i) => article.classList.toggle("shown", i === index));
    slider.value = index;
    slider.setAttribute("aria-valuetext", articles[index].querySelector("h4").textContent);
    back.disabled = index === 0;
    next.disabled = index === articles.length - 1;
  };
  slider.addEventListener("input", () => go(Number(slider.value)));
  back.addEventListener("click", () => go(Number(slider.value) - 1));
  next.addEventListener("click", () => go(Number(slider.value) + 1));
  go(articles.length - 1);
}

// Samplers: the texts of the one nearest to the pointer, or where the arrow keys have gone, in the panel beside the chart.
for (const figure of document.querySelectorAll("figure.scatter")) {
  const panel = figure.parentElement.querySelector(".panel");
  const marks = [...figure.querySelectorAll("g[data-article]")];
  const middle = (mark) => {
    const box = mark.querySelector(".dot").getBoundingClientRect();
    return [box.left + box.width / 2, box.top + box.height / 2];
  };
  let at = -1;

  const choose = (index) => {
    at = (index + marks.length) % marks.length;
    marks.forEach((mark, i) => mark.classList.toggle("chosen", i === at));
    const article = document.getElementById(marks[at].dataset.article);
    panel.replaceChildren(...[...article.children].map((child) => child.cloneNode(true)));
  };
  const point = (event) => {
    const distances = marks.map((mark) => {
      const [x, y] = middle(mark);
      return Math.hypot(x - event.clientX, y - event.clientY);
    });
    const nearest = distances.indexOf(Math.min(...distances));
    if (distances[nearest] < 40 && nearest !== at) choose(nearest);
  };
  const svg = figure.querySelector("svg");
  svg.addEventListener("pointermove", point);
  svg.addEventListener("pointerdown", point);
  figure.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    choose(at + step);
  });
}

// Tables: a heading sorts by its column, once more the other way round. Human text stays on top, what has no value below.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const first = [...body.rows];
  const headings = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
  headings.forEach((heading, column) => {
    const button = Object.assign(document.createElement("button"), { type: "button", className: "sort" });
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const falls = heading.ariaSort === "ascending";
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", falls ? "descending" : "ascending");
      const value = (row) => (row.cells[column].dataset.value === undefined ? null : Number(row.cells[column].dataset.value));
      const compare = (one, other) => {
        const [a, b] = [value(one), value(other)];
        if (column === 0) return one.cells[0].textContent.localeCompare(other.cells[0].textContent) * (falls ? -1 : 1);
        if (a === null || b === null) return (a === null) - (b === null);
        return falls ? b - a : a - b;
      };
      const human = first.filter((row) => row.classList.contains("human-row"));
      body.append(...human, ...first.filter((row) => !human.includes(row)).sort(compare));
    });
  });
}
