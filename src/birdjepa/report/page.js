"use strict";
(() => {
  const read = (id) => {
    const block = document.getElementById(id);
    return block ? JSON.parse(block.textContent) : null;
  };

  // ---- sound: one player for the whole page; a button plays one clip, or [data-from, data-to) seconds of it
  const sounds = read("sounds") || [];
  const player = new Audio();
  let current = null;

  const range = (button) => {
    const from = Number(button.dataset.from || 0);
    const to = button.dataset.to ? Number(button.dataset.to) : player.duration || 0;
    return [from, to];
  };
  const playheadOf = (button) => {
    const picture = button.closest(".picture");
    return picture && picture.querySelector(".playhead");
  };
  const stop = () => {
    player.pause();
    if (!current) return;
    current.classList.remove("playing");
    const head = playheadOf(current);
    if (head) head.hidden = true;
    current = null;
  };
  const follow = () => {
    if (!current) return;
    const [from, to] = range(current);
    if (player.ended || (current.dataset.to && player.currentTime >= to)) return stop();
    const head = playheadOf(current);
    if (head && to > from) {
      head.hidden = false;
      head.style.left = `${(100 * (player.currentTime - from)) / (to - from)}%`;
    }
    requestAnimationFrame(follow);
  };
  const play = (button, share = 0) => {
    stop();
    const source = sounds[Number(button.dataset.sound)];
    if (!source) return;
    current = button;
    button.classList.add("playing");
    const start = () => {
      const [from, to] = range(button);
      player.currentTime = from + share * Math.max(0, to - from);
      player.play().then(follow, () => { if (current === button) stop(); });
    };
    if (player.src === source && player.readyState >= 1) return start();
    player.addEventListener("loadedmetadata", () => { if (current === button) start(); }, { once: true });
    player.src = source;
    player.load();
  };
  player.addEventListener("ended", stop);
  player.addEventListener("error", stop);
  document.addEventListener("click", (event) => {
    const button = event.target.closest(".play");
    if (button) return button === current ? stop() : play(button);
    const picture = event.target.closest(".picture");
    if (!picture) return;
    const box = picture.getBoundingClientRect();
    play(picture.querySelector(".play"), (event.clientX - box.left) / box.width);
  });

  // ---- tooltip: text only, whatever it holds
  const tip = document.getElementById("tip");
  const showTip = (text, x, y) => {
    tip.textContent = text;
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(4, Math.min(x + 14, window.innerWidth - box.width - 8))}px`;
    tip.style.top = `${y + box.height + 24 > window.innerHeight ? y - box.height - 10 : y + 16}px`;
  };
  const hideTip = () => { tip.hidden = true; };
  const inside = (svg, event) => new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());

  // ---- curves: pointing at one chart reads the same step in all
  const lines = read("curves-data") || [];
  const drawn = [...document.querySelectorAll(".chart")].filter((figure) => figure.querySelector("path.curve"));
  const charts = drawn.slice(0, lines.length).map((figure, i) => {
    const svg = figure.querySelector("svg");
    const path = [...svg.querySelectorAll("path.curve")][0];
    const points = path.getAttribute("d").slice(1).split("L").map((pair) => pair.split(",").map(Number));
    return { figure, svg, points, line: lines[i], out: figure.querySelector("output"), rule: svg.querySelector("line.cursor"), dot: svg.querySelector("circle.cursor") };
  });
  const nearestIndex = (sorted, value) => {
    let low = 0, high = sorted.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (sorted[middle] <= value) low = middle; else high = middle;
    }
    return Math.abs(sorted[high] - value) < Math.abs(sorted[low] - value) ? high : low;
  };
  const written = (chart, value) => chart.figure.dataset.share ? `${(100 * value).toFixed(1)}%` : String(Number(value.toPrecision(4)));
  const readStep = (step) => charts.forEach((chart) => {
    const k = nearestIndex(chart.line.steps, step);
    const [x, y] = chart.points[k];
    chart.rule.setAttribute("x1", x);
    chart.rule.setAttribute("x2", x);
    chart.dot.setAttribute("cx", x);
    chart.dot.setAttribute("cy", y);
    chart.out.textContent = `${written(chart, chart.line.values[k])} at ${chart.line.steps[k]}`;
    chart.figure.classList.add("reading");
  });
  charts.forEach((chart) => {
    chart.svg.addEventListener("pointermove", (event) => {
      const x = inside(chart.svg, event).x;
      readStep(chart.line.steps[nearestIndex(chart.points.map((point) => point[0]), x)]);
    });
    chart.svg.addEventListener("pointerleave", () => charts.forEach((each) => {
      each.figure.classList.remove("reading");
      each.out.textContent = each.out.dataset.last;
    }));
  });

  // ---- tables of classes: a click on a heading sorts by it, another one turns the order round
  const key = (row, column) => {
    const text = row.cells[column].textContent;
    const value = Number(text.replace(/,/g, ""));
    return text !== "" && !Number.isNaN(value) ? value : text;
  };
  const compare = (a, b) => {
    const words = [typeof a === "string", typeof b === "string"];
    if (words[0] !== words[1]) return words[0] ? 1 : -1;
    return words[0] ? a.localeCompare(b) : a - b;
  };
  document.querySelectorAll(".sortable thead th").forEach((heading) => heading.addEventListener("click", () => {
    const rows = heading.closest("table").tBodies[0];
    const up = heading.dataset.sorted !== "up";
    heading.parentNode.querySelectorAll("th").forEach((each) => delete each.dataset.sorted);
    heading.dataset.sorted = up ? "up" : "down";
    const column = heading.cellIndex;
    const sorted = [...rows.rows].sort((a, b) => compare(key(a, column), key(b, column)) * (up ? 1 : -1));
    rows.append(...sorted);
  }));

  // ---- map: the nearest point within reach is read, and played on a click if its sound is here
  const data = read("map-data");
  const map = document.querySelector(".map > svg");
  if (data && map) {
    const ring = map.querySelector(".ring");
    let single = null;
    const nearest = (event) => {
      const at = inside(map, event);
      let best = -1, least = 14 * 14;
      for (let k = 0; k < data.x.length; k += 1) {
        const distance = (data.x[k] - at.x) ** 2 + (data.y[k] - at.y) ** 2;
        if (distance < least && (single === null || single.has(data.label[k]))) { least = distance; best = k; }
      }
      return best;
    };
    map.addEventListener("pointermove", (event) => {
      const k = nearest(event);
      ring.setAttribute("visibility", k < 0 ? "hidden" : "visible");
      map.style.cursor = k >= 0 && data.sound[k] !== null ? "pointer" : "default";
      if (k < 0) return hideTip();
      ring.setAttribute("cx", data.x[k]);
      ring.setAttribute("cy", data.y[k]);
      const heard = data.sound[k] !== null ? "\nclick to play" : "";
      showTip(`${data.label[k] || "no label"}\n${data.recording[k]}${heard}`, event.clientX, event.clientY);
    });
    map.addEventListener("pointerleave", () => { ring.setAttribute("visibility", "hidden"); hideTip(); });
    map.addEventListener("click", (event) => {
      const k = nearest(event);
      const button = k >= 0 && data.sound[k] !== null && document.querySelector(`.play[data-sound="${data.sound[k]}"]`);
      if (button) play(button);
    });
    const buttons = [...document.querySelectorAll(".legend button")];
    const named = new Set(buttons.filter((each) => each.dataset.class !== "other").map((each) => each.querySelector("span").textContent));
    buttons.forEach((button) => button.addEventListener("click", () => {
      const on = button.getAttribute("aria-pressed") !== "true";
      buttons.forEach((each) => each.setAttribute("aria-pressed", String(on && each === button)));
      map.querySelectorAll(".points").forEach((group) => group.classList.toggle("dim", on && group.dataset.class !== button.dataset.class));
      const other = button.dataset.class === "other";
      single = !on ? null : other ? { has: (label) => !named.has(label) } : new Set([button.querySelector("span").textContent]);
    }));
  }
})();
