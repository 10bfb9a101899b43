"use strict";
(() => {
  const D = JSON.parse(document.getElementById("facts").textContent);
  const $ = (id) => document.getElementById(id);
  const make = (tag, values = {}, ...inside) => { const it = Object.assign(document.createElement(tag), values); it.append(...inside); return it; };
  const LONG = Math.max(...D.models.map((m) => m.blocks.length));
  const S = { i: 0, b: D.start, x: .45, y: .4, t: 1, who: "patch", scale: "uniform", pin: null, first: 0, second: Math.min(1, D.models.length - 1), seen: false, over: null };
  const heat = (step) => Math.pow(10, (step - 20) / 20), stepOf = (t) => Math.round(20 + 20 * Math.log10(t));
  const fault = (text) => { $("fault").hidden = false; $("fault").textContent = text; };
  const colour = (m) => D.models[m].control ? "var(--control)" : `var(--m${D.models[m].slot})`;
  const key = (m, i, b) => `c-${m}-${i}-${D.models[m].blocks[b].number - 1}`;
  const place = (m) => { const n = D.models[m].blocks.length; return LONG < 2 ? 0 : Math.round(S.b / (LONG - 1) * (n - 1)); };
  const photo = (i) => document.querySelector(`[data-image="${i}"] img`).src;
  const signed = (value, digits) => value.toFixed(digits).replace("-", "\u2212");

  // --- from bytes to rows -------------------------------------------------------------------------------------
  const cache = new Map();
  async function inflated(id) {
    const raw = Uint8Array.from(atob($(id).textContent.trim()), (c) => c.charCodeAt(0));
    const stream = new Blob([raw]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }
  function integers(bytes, at, count, wide) {
    const out = new Float32Array(count);
    for (let n = 0; n < count; n++) out[n] = wide ? ((bytes[at + n] | bytes[at + count + n] << 8) << 16 >> 16) : bytes[at + n] << 24 >> 24;
    return out;
  }
  function biasOf(m, b) {
    const id = `b-${m}-${D.models[m].blocks[b].bias}`;
    if (!cache.has(id)) cache.set(id, inflated(id).then((bytes) => integers(bytes, 0, bytes.length / 2, true)));
    return cache.get(id);
  }
  function block(m, i, b) {
    const id = key(m, i, b);
    if (cache.has(id)) { const kept = cache.get(id); cache.delete(id); cache.set(id, kept); return kept; }
    const made = (async () => {
      const bytes = await inflated(id), facts = D.chunks[id], own = D.models[m].blocks[b];
      const P = own.prefix, N = own.grid[0] * own.grid[1], T = P + N;
      const it = { m, i, b, P, N, T, own, numbers: facts.numbers, kind: facts.kind };
      if (facts.kind === "logs") it.logs = bytes;
      else {
        let at = 0;
        it.heads = facts.heads.map(([rank, wide, step]) => {
          const size = T * rank, both = integers(bytes, at, 2 * size, wide);
          at += 2 * size * (wide ? 2 : 1);
          for (let n = 0; n < both.length; n++) both[n] *= step;
          return { rank, A: both.subarray(0, size), B: both.subarray(size) };
        });
        if (own.bias !== null) { it.bias = await biasOf(m, b); it.steps = own.steps; }
      }
      return it;
    })();
    cache.set(id, made);
    if (cache.size > 60) for (const old of cache.keys()) if (old.startsWith("c-")) { cache.delete(old); break; }
    return made;
  }
  // logits of one query token (prefix tokens first; in windows a place of window w) over its patch keys
  function logits(it, h, q, w = 0) {
    const out = new Float32Array(it.N), { P, N, T } = it;
    if (it.kind === "logs") {
      const at = ((w * it.own.heads + h) * T + q) * N;
      for (let j = 0; j < N; j++) { const code = it.logs[at + j]; out[j] = code === 255 ? -Infinity : -code * D.nats / 254; }
      return out;
    }
    const { rank, A, B } = it.heads[h];
    for (let c = 0; c < rank; c++) { const a = A[c * T + q], from = c * T + P; if (a) for (let j = 0; j < N; j++) out[j] += a * B[from + j]; }
    if (it.bias) {
      const [gh, gw] = it.own.grid, size = (2 * gh - 1) * (2 * gw - 1), H = it.own.heads, step = it.steps[h];
      if (q < P) { const from = H * size + (h * P + q) * T + P; for (let j = 0; j < N; j++) out[j] += it.bias[from + j] * step; }
      else {
        const r = Math.floor((q - P) / gw), c = (q - P) % gw;
        for (let y = 0, j = 0; y < gh; y++) { const from = h * size + (y - r + gh - 1) * (2 * gw - 1) + gw - 1 - c; for (let x = 0; x < gw; x++, j++) out[j] += it.bias[from + x] * step; }
      }
    }
    return out;
  }
  function softened(row, t) {
    let most = -Infinity, total = 0;
    for (const v of row) if (v > most) most = v;
    for (let j = 0; j < row.length; j++) { row[j] = Math.exp((row[j] - most) / t); total += row[j]; }
    for (let j = 0; j < row.length; j++) row[j] /= total;
    return row;
  }
  // of a place in the image: window and place in it, and where that window's tokens lie in the image
  function windowAt(own, r, c) {
    const [gh, gw] = own.grid, { image: [H, W], shift: [sy, sx] } = own.windows;
    const y = (r - sy + H) % H, x = (c - sx + W) % W, across = W / gw;
    const wy = Math.floor(y / gh), wx = Math.floor(x / gw);
    const cells = [];
    for (let n = 0; n < gh * gw; n++) cells.push(((wy * gh + Math.floor(n / gw) + sy) % H) * W + (wx * gw + n % gw + sx) % W);
    return { w: wy * across + wx, q: (y % gh) * gw + x % gw, cells };
  }
  const imageGrid = (own) => own.windows ? own.windows.image : own.grid;
  // multiples of uniform attention over the patches of the image, of one head or of the mean over heads; null: no such token
  function asked(it, h, t = S.t) {
    const own = it.own, [H, W] = imageGrid(own);
    let q, w = 0, cells = null;
    if (S.who === "patch") {
      const r = Math.min(H - 1, Math.floor(S.y * H)), c = Math.min(W - 1, Math.floor(S.x * W));
      if (own.windows) ({ w, q, cells } = windowAt(own, r, c)); else q = it.P + r * W + c;
    } else {
      q = D.models[it.m].prefix.indexOf(S.who);
      if (q < 0 || q >= it.P) return null;
    }
    const heads = h === null ? [...Array(own.heads).keys()] : [h], sum = new Float32Array(it.N);
    for (const one of heads) { const row = softened(logits(it, one, q, w), t); for (let j = 0; j < it.N; j++) sum[j] += row[j] * it.N / heads.length; }
    if (!cells) return sum;
    const whole = new Float32Array(H * W).fill(NaN);
    cells.forEach((cell, n) => { whole[cell] = sum[n]; });
    return whole;
  }
  // --- numbers over all queries, in slices that leave the page alive ----------------------------------------------
  function* tally(it, h, t) {
    const { own, N, P } = it, [gh, gw] = own.grid, [ph, pw] = own.patch, windows = own.windows ? own.windows.image[0] * own.windows.image[1] / N : 1;
    let far = 0, spread = 0, nmi = 0;
    for (let w = 0; w < windows; w++) {
      const column = new Float64Array(N);
      let rows = 0, px = 0;
      for (let q = 0; q < N; q++) {
        const row = softened(logits(it, h, P + q, w), t), r = Math.floor(q / gw), c = q % gw;
        for (let j = 0; j < N; j++) {
          const p = row[j];
          if (p > 0) { rows -= p * Math.log(p); px += p * Math.hypot((Math.floor(j / gw) - r) * ph, (j % gw - c) * pw); column[j] += p; }
        }
        if (q % 8 === 7) yield null;
      }
      let marginal = 0;
      for (const value of column) { const p = value / N; if (p > 0) marginal -= p * Math.log(p); }
      far += px / N; spread += rows / N / Math.log(N); nmi += (marginal - rows / N) / Math.sqrt(marginal * Math.log(N));
    }
    return [far / windows, spread / windows, nmi / windows];
  }
  let turn = 0;
  async function counted(it, heads, t, mine) {
    const sum = [0, 0, 0];
    for (const h of heads) {
      const work = tally(it, h, t);
      for (let end = performance.now() + 12, step = work.next(); ; step = work.next()) {
        if (step.done) { step.value.forEach((value, n) => { sum[n] += value / heads.length; }); break; }
        if (performance.now() > end) { await new Promise((go) => setTimeout(go)); if (mine !== turn) return null; end = performance.now() + 12; }
      }
    }
    return sum;
  }

  // --- drawing maps ------------------------------------------------------------------------------------------------
  const SIDE = 128, greys = new Map();
  async function grey(i) {
    if (greys.has(i)) return greys.get(i);
    const image = new Image();
    image.src = photo(i);
    await image.decode();
    const canvas = make("canvas", { width: SIDE, height: SIDE }), ctx = canvas.getContext("2d", { willReadFrequently: true });
    ctx.drawImage(image, 0, 0, SIDE, SIDE);
    const rgb = ctx.getImageData(0, 0, SIDE, SIDE).data, out = new Uint8ClampedArray(SIDE * SIDE);
    for (let n = 0; n < out.length; n++) out[n] = .3 * rgb[4 * n] + .59 * rgb[4 * n + 1] + .11 * rgb[4 * n + 2];
    greys.set(i, out);
    return out;
  }
  const STOPS = [[0, 176, 58, 0], [.5, 255, 146, 30], [1, 255, 246, 208]];
  function glow(a) {
    const n = a < .5 ? 0 : 1, [from, to] = [STOPS[n], STOPS[n + 1]], f = Math.min(1, (a - from[0]) / (to[0] - from[0]));
    return [1, 2, 3].map((k) => from[k] + f * (to[k] - from[k]));
  }
  // a pixel of grey g where attention is so many times uniform: below 1 darker, above 1 glowing up to 16 times
  function tinted(g, times) {
    if (times <= 1) { const f = Math.pow(times, .8); return [g * f, g * f, g * f]; }
    const a = Math.min(1, Math.log2(times) / 4), mix = Math.min(1, 1.6 * Math.pow(a, .75)), to = glow(a);
    return to.map((v) => g * (1 - mix) + v * mix);
  }
  function signedTint(g, d) {
    const mix = Math.min(1, Math.pow(Math.abs(d) / 4, .7)), to = d > 0 ? [255, 146, 30] : [60, 130, 255];
    return to.map((v) => .8 * g * (1 - mix) + v * mix);
  }
  function paint(canvas, base, times, [H, W], tint = tinted) {
    canvas.width = canvas.height = SIDE;
    const ctx = canvas.getContext("2d"), data = ctx.createImageData(SIDE, SIDE), px = data.data;
    const tones = new Map();
    for (let y = 0; y < SIDE; y++) {
      const row = Math.floor(y * H / SIDE) * W;
      for (let x = 0; x < SIDE; x++) {
        const n = y * SIDE + x, cell = row + Math.floor(x * W / SIDE), value = times[cell], g = base[n];
        let rgb;
        if (value !== value) rgb = (x + y) % 8 < 2 ? [g * .55, g * .55, g * .55] : [g * .25, g * .25, g * .25];
        else { const key = cell * 256 + g; rgb = tones.get(key); if (!rgb) tones.set(key, rgb = tint(g, value)); }
        px[4 * n] = rgb[0]; px[4 * n + 1] = rgb[1]; px[4 * n + 2] = rgb[2]; px[4 * n + 3] = 255;
      }
    }
    ctx.putImageData(data, 0, 0);
    if (S.who === "patch") {
      const r = Math.min(H - 1, Math.floor(S.y * H)), c = Math.min(W - 1, Math.floor(S.x * W)), w = SIDE / W, h = SIDE / H;
      ctx.lineWidth = 3; ctx.strokeStyle = "#000"; ctx.strokeRect(c * w, r * h, w, h);
      ctx.lineWidth = 1.5; ctx.strokeStyle = "#7df9ff"; ctx.strokeRect(c * w, r * h, w, h);
    }
  }

  // --- the parts of the page ---------------------------------------------------------------------------------------
  const shownHead = (m) => {
    const it = S.over || S.pin;
    return it && it.m === m ? it : null;
  };
  const blockOf = (m) => { const it = shownHead(m); return it ? it.b : place(m); };
  function sections() {
    $("models").replaceChildren(...D.models.map((model, m) => {
      const part = make("section", { className: `model${Math.max(...model.blocks.map((b) => b.heads)) <= 4 && D.models.length > 1 ? " half" : ""}${model.control ? " control" : ""}` });
      part.style.setProperty("--c", colour(m));
      part.append(make("h3", { textContent: model.label }), make("p", { className: "soft" }), make("div", { className: "tiles" }));
      return part;
    }));
    $("numbers").tBodies[0].replaceChildren(...D.models.map((model, m) => {
      const row = make("tr", { className: model.control ? "control" : "" });
      row.style.setProperty("--c", colour(m));
      row.append(make("th", { scope: "row" }), make("td"), make("td"), make("td"));
      return row;
    }));
    for (const id of ["first", "second"]) $(id).replaceChildren(...D.models.map((model, m) => make("option", { value: m, textContent: model.label })));
    const kinds = [...new Set(D.models.flatMap((model) => model.prefix))];
    $("who").replaceChildren(...["patch", ...kinds].map((kind) => make("button", { type: "button", textContent: kind === "patch" ? "A patch asks" : `The ${NAMES(kind)} asks`, onclick: () => set({ who: kind }) })));
    [...$("who").children].forEach((button, n) => { button.dataset.who = ["patch", ...kinds][n]; });
    $("who").hidden = !kinds.length;
  }
  const NAMES = (kind) => ({ cls: "class token", dist: "distillation token" })[kind] || kind.replace(/^register(\d*)$/, (_, n) => `register ${n}`.trim());
  let drawing = 0;
  async function maps() {
    const mine = ++drawing, base = await grey(S.i);
    const parts = await Promise.all(D.models.map((_, m) => block(m, S.i, blockOf(m))));
    if (mine !== drawing) return;
    if (S.scale === "diff") return difference(parts, base);
    parts.forEach((it, m) => {
      const part = $("models").children[m], own = it.own, [line, tiles] = [part.children[1], part.children[2]], [H, W] = imageGrid(own);
      part.hidden = false;
      const uniform = own.uniform.toFixed(1);
      line.textContent = `block ${own.number}, ${H} \u00d7 ${W} patches${own.windows ? ` in windows of ${own.grid.join(" \u00d7 ")}` : ""}; uniform = ${uniform} px`;
      const token = D.models[m].prefix.indexOf(S.who), without = S.who !== "patch" && (token < 0 || token >= own.prefix);
      part.classList.toggle("without", without);
      if (without) { line.textContent += `; it has no ${NAMES(S.who)} here`; tiles.replaceChildren(); return; }
      const order = it.numbers.distance.map((far, h) => [far, h]).sort((a, b) => a[0] - b[0]).map(([, h]) => h);
      const heads = own.heads > 1 ? [null, ...order] : order, built = `${it.i}-${it.b}`;
      if (tiles.dataset.key !== built || tiles.children.length !== heads.length) {
        tiles.replaceChildren(...heads.map((h) => {
          const tile = make("button", { type: "button", className: "tile", disabled: h === null }, make("canvas"), make("b", { textContent: h === null ? "mean" : `head ${h + 1}` }), make("span"), make("span"));
          tile.children[0].setAttribute("aria-hidden", "true");
          if (h !== null) tile.onclick = () => keep({ m, b: it.b, h });
          return tile;
        }));
        tiles.dataset.key = built;
      }
      heads.forEach((h, n) => {
        const tile = tiles.children[n], times = asked(it, h);
        let most = 0;
        for (const v of times) if (v > most) most = v;
        const drawn = S.scale === "own" ? times.map((v) => v / most * 16) : times;
        paint(tile.children[0], base, drawn, [H, W]);
        tile.children[2].textContent = h === null ? "all heads" : `${it.numbers.distance[h].toFixed(1)} px`;
        tile.children[3].textContent = `up to ${most < 10 ? most.toFixed(1) : Math.round(most)}\u00d7`;
        const kept = shownHead(m);
        if (h !== null) tile.setAttribute("aria-pressed", String(Boolean(kept) && kept.h === h && kept.b === it.b));
      });
    });
    tops(parts);
  }
  function difference(parts, base) {
    const [a, b] = [parts[S.first], parts[S.second]], [one, two] = [asked(a, null), asked(b, null)];
    D.models.forEach((_, m) => { $("models").children[m].hidden = m !== S.first; });
    const part = $("models").children[S.first], tiles = part.children[2];
    part.classList.remove("without");
    if (!one || !two) { part.children[1].textContent = "One of the two has no such token."; tiles.replaceChildren(); return; }
    const [ga, gb] = [imageGrid(a.own), imageGrid(b.own)], [H, W] = ga[0] >= gb[0] ? ga : gb;
    const at = (values, [h, w], r, c) => values[Math.floor((r + .5) * h / H) * w + Math.floor((c + .5) * w / W)];
    const d = Float32Array.from({ length: H * W }, (_, n) => at(one, ga, Math.floor(n / W), n % W) - at(two, gb, Math.floor(n / W), n % W));
    part.children[1].textContent = `block ${a.own.number} minus block ${b.own.number} of ${D.models[S.second].label}; means over heads, in multiples of uniform`;
    const canvas = make("canvas");
    canvas.style.maxWidth = "340px";
    tiles.dataset.key = "";
    tiles.replaceChildren(make("div", { className: "tile" }, canvas));
    paint(canvas, base, d, [H, W], signedTint);
    tops(parts);
  }
  function tops(parts) {
    if (!$("listed").open) return;
    $("tops").replaceChildren(...parts.map((it, m) => {
      const kept = shownHead(m), times = asked(it, kept ? kept.h : null), [, W] = imageGrid(it.own), table = make("table");
      table.append(make("caption", { textContent: `${D.models[m].label}, ${kept ? `head ${kept.h + 1}` : "mean over heads"}` }), make("tr", {}, ...["row", "column", "\u00d7 uniform"].map((text) => make("th", { scope: "col", textContent: text }))));
      if (times) [...times.keys()].filter((n) => times[n] === times[n]).sort((a, b) => times[b] - times[a]).slice(0, 10).forEach((n) => table.append(make("tr", {}, ...[Math.floor(n / W) + 1, n % W + 1, times[n].toFixed(1)].map((text) => make("td", { textContent: text })))));
      return table;
    }));
  }
  const NS = "http://www.w3.org/2000/svg";
  const svg = (tag, values, text) => { const it = document.createElementNS(NS, tag); for (const [name, value] of Object.entries(values)) it.setAttribute(name, value); if (text !== undefined) it.textContent = text; return it; };
  function plots() {
    const all = D.models.flatMap((model, m) => model.blocks.flatMap((own, b) => D.chunks[key(m, S.i, b)].numbers.distance.map((far) => far / own.uniform))).filter(Number.isFinite);
    const low = Math.max(0, Math.floor(5 * Math.min(1, ...all) - .2) / 5), high = Math.ceil(5 * Math.max(1.05, ...all)) / 5, y = (v) => 150 - 130 * (v - low) / (high - low);
    $("plots").replaceChildren(...D.models.map((model, m) => {
      const depth = model.depth, x = (n) => 34 + (n - .5) * 256 / depth;
      const it = svg("svg", { viewBox: "0 0 300 186", role: "group", tabindex: 0, "aria-label": `${model.label}: distance of every head over uniform attention, by block` });
      it.append(svg("text", { x: 34, y: 12, style: "fill: var(--ink); font-weight: 600" }, model.label.length > 34 ? `${model.label.slice(0, 33)}\u2026` : model.label));
      for (let v = low; v <= high + 1e-9; v += (high - low) > 1 ? .4 : .2) it.append(svg("text", { x: 28, y: y(v) + 4, "text-anchor": "end" }, v.toFixed(1)));
      it.append(svg("line", { class: "axis", x1: 34, x2: 290, y1: 150, y2: 150 }), svg("line", { class: "even", x1: 34, x2: 290, y1: y(1), y2: y(1) }));
      const now = svg("rect", { class: "now", y: 20, width: Math.max(10, 256 / depth), height: 130 });
      now.dataset.depth = depth;
      it.append(now);
      [...new Set([1, Math.round(depth / 2), depth])].forEach((n) => it.append(svg("text", { x: x(n), y: 166, "text-anchor": "middle" }, n)));
      it.append(svg("text", { x: 290, y: 182, "text-anchor": "end" }, "block"));
      model.blocks.forEach((own, b) => {
        const far = D.chunks[key(m, S.i, b)].numbers.distance, gap = Math.min(5, 200 / depth / far.length);
        far.forEach((value, h) => {
          if (!Number.isFinite(value)) return;
          const dot = svg("circle", { class: "dot", cx: x(own.number) + (h - (far.length - 1) / 2) * gap, cy: y(value / own.uniform), r: 4.5, style: model.control ? `fill: var(--page); stroke: ${colour(m)}; stroke-width: 2` : `fill: ${colour(m)}` });
          dot.append(svg("title", {}, `block ${own.number}, head ${h + 1}: ${value.toFixed(1)} px, ${(value / own.uniform).toFixed(2)} of uniform`));
          Object.assign(dot.dataset, { m, b, h });
          dot.onpointerenter = () => { S.over = { m, b, h }; show(); };
          dot.onpointerleave = () => { S.over = null; show(); };
          dot.onclick = () => keep({ m, b, h });
          it.append(dot);
        });
      });
      it.onkeydown = (event) => walk(event, m);
      const box = make("div");
      box.append(it);
      return box;
    }));
    rings();
  }
  function rings() {
    const it = S.over || S.pin;
    document.querySelectorAll(".dot").forEach((dot) => {
      const on = it && +dot.dataset.m === it.m && +dot.dataset.b === it.b && +dot.dataset.h === it.h;
      dot.classList.toggle("kept", Boolean(on));
      if (D.models[dot.dataset.m].control) dot.style.stroke = on ? "var(--ink)" : colour(dot.dataset.m);
    });
    document.querySelectorAll("rect.now").forEach((rect, m) => {
      const number = D.models[m].blocks[blockOf(m)].number, step = 256 / rect.dataset.depth;
      rect.setAttribute("x", 34 + (number - .5) * step - Math.max(10, step) / 2);
    });
  }
  async function numbers() {
    const mine = ++turn, parts = await Promise.all(D.models.map((_, m) => block(m, S.i, blockOf(m))));
    if (mine !== turn) return;
    $("numbers-of").textContent = S.t === 1 ? "the kept head, or the means over heads" : `at temperature ${S.t.toFixed(2)}; the tick, and "was", is as trained`;
    const average = (values) => { const known = values.filter(Number.isFinite); return known.reduce((a, b) => a + b, 0) / known.length; };
    for (const [m, it] of parts.entries()) {
      const kept = shownHead(m), own = it.own, heads = kept ? [kept.h] : [...Array(own.heads).keys()], row = $("numbers").tBodies[0].rows[m];
      const was = ["distance", "entropy", "nmi"].map((name) => average(heads.map((h) => it.numbers[name][h] ?? NaN)));
      row.cells[0].replaceChildren(make("span", { className: "mark" }), `${D.models[m].label}${kept ? `, head ${kept.h + 1}` : ""}`);
      const put = (now, grey) => [own.uniform * 1.2, 1, 1].forEach((top, n) => {
        const cell = row.cells[n + 1], digits = n ? 2 : 1, wide = (v) => `${Math.max(0, Math.min(100, 100 * v / top))}%`, bar = make("span", { className: "bar" });
        bar.setAttribute("aria-hidden", "true");
        const [fill, tick] = [make("i"), make("u")];
        fill.style.width = wide(now[n]); tick.style.left = wide(was[n]); bar.append(fill, tick);
        cell.replaceChildren(make("b", { textContent: Number.isFinite(now[n]) ? signed(now[n], digits) : "undefined" }), ...(S.t === 1 ? [] : [make("span", { className: "soft", textContent: ` was ${signed(was[n], digits)}` })]), bar);
        cell.style.opacity = grey ? .5 : 1;
      });
      if (S.t === 1) put(was, false);
      else {
        put(was, true);
        const now = await counted(it, heads, S.t, mine);
        if (!now) return;
        put(now, false);
      }
    }
    document.documentElement.dataset.counted = S.t;
  }
  function controls() {
    const image = D.images[S.i], own = D.models[0].blocks[blockOf(0)], [H, W] = imageGrid(own);
    $("picture").src = S.seen && image.seen ? image.seen : photo(S.i);
    $("picture").alt = image.name;
    $("picture").classList.toggle("pixels", S.seen);
    $("seen").hidden = !image.seen;
    $("seen").setAttribute("aria-pressed", String(S.seen));
    const r = Math.min(H - 1, Math.floor(S.y * H)), c = Math.min(W - 1, Math.floor(S.x * W));
    $("box").hidden = S.who !== "patch";
    Object.assign($("box").style, { left: `${100 * c / W}%`, top: `${100 * r / H}%`, width: `${100 / W}%`, height: `${100 / H}%` });
    const asking = S.who === "patch" ? `Asking: row ${r + 1}, column ${c + 1} of ${D.models[0].label}'s ${H} \u00d7 ${W} patches.` : `Asking: the ${NAMES(S.who)}.`;
    $("asking").textContent = `${asking} Move over the photo, or click it and use the arrow keys.`;
    $("block").max = LONG - 1; $("block").value = S.b;
    const most = D.models.find((model) => model.blocks.length === LONG);
    $("block-at").textContent = `${most.blocks[S.b].number} / ${most.depth}`;
    $("heat").value = stepOf(S.t); $("heat-at").textContent = S.t.toFixed(2);
    document.querySelectorAll("[data-image]").forEach((b) => b.setAttribute("aria-pressed", String(+b.dataset.image === S.i)));
    document.querySelectorAll("[data-who]").forEach((b) => b.setAttribute("aria-pressed", String(b.dataset.who === S.who)));
    document.querySelectorAll("[data-scale]").forEach((b) => b.setAttribute("aria-pressed", String(b.dataset.scale === S.scale)));
    $("pair").hidden = S.scale !== "diff"; $("first").value = S.first; $("second").value = S.second;
    const ctx = $("ramp").getContext("2d");
    for (let x = 0; x < 120; x++) {
      const [R, G, B] = S.scale === "diff" ? signedTint(128, (x - 60) / 15) : tinted(150, x < 30 ? x / 30 : Math.pow(16, (x - 30) / 90));
      ctx.fillStyle = `rgb(${R} ${G} ${B})`; ctx.fillRect(x, 0, 1, 12);
    }
    ctx.fillStyle = "#000"; ctx.fillRect(S.scale === "diff" ? 59 : 29, 0, 2, 12);
    $("legend").children[0].textContent = S.scale === "diff" ? "\u22124" : "0";
    $("legend-end").textContent = { uniform: "16 \u00d7 uniform and more", own: "the map's own maximum", diff: "+4 \u00d7 uniform" }[S.scale];
    $("legend-text").textContent = { uniform: "Tick: uniform attention, the photo as it is. Black: looked away from. Glowing: looked at.", own: "Every map has its own scale: an untrained head glows as brightly as a trained one.", diff: "Orange: the first looks there more. Blue: the second does." }[S.scale];
  }
  let waiting = 0, speaking = 0;
  function show(after = {}) {
    controls(); rings();
    const done = Promise.all([maps(), numbers()]).then(() => { document.documentElement.dataset.ready = "1"; }).catch((error) => fault(`A map could not be drawn: ${error.message || error}`));
    clearTimeout(waiting);
    waiting = setTimeout(() => history.replaceState(null, "", `#${address()}`), 250);
    if (after.speak) { clearTimeout(speaking); speaking = setTimeout(speak, 400); }
    return done;
  }
  async function speak() {
    const texts = await Promise.all(D.models.map(async (model, m) => {
      const it = await block(m, S.i, blockOf(m)), far = it.numbers.distance, known = far.map((v, h) => [v, h]).filter(([v]) => Number.isFinite(v)).sort((a, b) => a[0] - b[0]);
      return known.length ? `${model.label}: nearest head ${known[0][1] + 1}, ${known[0][0].toFixed(0)} pixels; farthest head ${known.at(-1)[1] + 1}, ${known.at(-1)[0].toFixed(0)}` : model.label;
    }));
    $("spoken").textContent = `${$("asking").textContent.split(".")[0]}. ${texts.join(". ")}.`;
  }
  function set(changes, after) {
    const image = changes.i !== undefined && changes.i !== S.i;
    if ("b" in changes || image) S.over = null;
    if ("b" in changes) S.pin = null;
    Object.assign(S, changes);
    if (image) plots();
    return show(after);
  }
  function keep(it) {
    const same = S.pin && S.pin.m === it.m && S.pin.b === it.b && S.pin.h === it.h;
    S.over = null;
    if (same) return set({ pin: null });
    const length = D.models[it.m].blocks.length;
    S.b = length < 2 ? S.b : Math.round(it.b / (length - 1) * (LONG - 1));
    return set({ pin: it });
  }
  function walk(event, m) {
    const now = S.pin && S.pin.m === m ? S.pin : { m, b: place(m), h: 0 }, blocks = D.models[m].blocks;
    const step = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowUp: [1, 0], ArrowDown: [-1, 0], Enter: [0, 0] }[event.key];
    if (event.key === "Escape") return set({ pin: null });
    if (!step) return;
    event.preventDefault();
    const b = Math.min(blocks.length - 1, Math.max(0, now.b + step[0])), heads = blocks[b].heads;
    S.pin = null;
    keep({ m, b, h: (now.h + step[1] + heads) % heads });
  }

  // --- links, downloads, keys ----------------------------------------------------------------------------------------
  const address = () => {
    const said = { i: S.i, b: S.b, x: S.x.toFixed(3), y: S.y.toFixed(3), t: S.t.toFixed(3), who: S.who, scale: S.scale };
    if (S.pin) said.pin = [S.pin.m, S.pin.b, S.pin.h].join(".");
    return new URLSearchParams(said).toString();
  };
  function restore() {
    const said = new URLSearchParams(location.hash.slice(1)), number = (name, low, high) => { const v = parseFloat(said.get(name)); return Number.isFinite(v) && v >= low && v <= high ? v : null; };
    const i = number("i", 0, D.images.length - 1), b = number("b", 0, LONG - 1);
    if (i !== null) S.i = Math.round(i);
    if (b !== null) S.b = Math.round(b);
    S.x = number("x", 0, 1) ?? S.x; S.y = number("y", 0, 1) ?? S.y; S.t = number("t", .1, 10) ?? S.t;
    if (said.get("who") === "patch" || D.models.some((m) => m.prefix.includes(said.get("who")))) S.who = said.get("who");
    if (["uniform", "own", "diff"].includes(said.get("scale")) && !(said.get("scale") === "diff" && D.models.length < 2)) S.scale = said.get("scale");
    const [m, pb, h] = (said.get("pin") || "").split(".").map(Number);
    if (D.models[m] && D.models[m].blocks[pb] && h < D.models[m].blocks[pb].heads) S.pin = { m, b: pb, h };
  }
  function save(name, blob) { const link = make("a", { href: URL.createObjectURL(blob), download: name }); link.click(); setTimeout(() => URL.revokeObjectURL(link.href), 5000); }
  function picture() {
    const tiles = [...document.querySelectorAll(".model:not([hidden]) .tile")], across = Math.min(8, tiles.length), side = 200, down = Math.ceil(tiles.length / across);
    const canvas = make("canvas", { width: across * side, height: down * (side + 40) }), ctx = canvas.getContext("2d");
    ctx.fillStyle = "#fff"; ctx.fillRect(0, 0, canvas.width, canvas.height); ctx.fillStyle = "#000"; ctx.font = "14px sans-serif"; ctx.imageSmoothingEnabled = false;
    tiles.forEach((tile, n) => {
      const [x, y] = [n % across * side, Math.floor(n / across) * (side + 40)], label = tile.closest(".model").children[0].textContent;
      ctx.drawImage(tile.querySelector("canvas"), x + 4, y + 4, side - 8, side - 8);
      ctx.fillText(label.slice(0, 26), x + 6, y + side + 10); ctx.fillText((tile.querySelector("b") || {}).textContent || "", x + 6, y + side + 28);
    });
    canvas.toBlob((blob) => save("explorer.png", blob));
  }
  function table() {
    const quoted = (text) => `"${String(text).replaceAll('"', '""')}"`, lines = ["image,model,block,head,distance_px,uniform_px,entropy,nmi,prefix_mass"];
    D.images.forEach((image, i) => D.models.forEach((model, m) => model.blocks.forEach((own, b) => {
      const n = D.chunks[key(m, i, b)].numbers;
      n.distance.forEach((_, h) => lines.push([quoted(image.name), quoted(model.label), own.number, h + 1, n.distance[h], own.uniform, n.entropy[h], n.nmi[h], n.prefix_mass ? n.prefix_mass[h] : ""].join(",")));
    })));
    save("explorer.csv", new Blob([lines.join("\n") + "\n"], { type: "text/csv" }));
  }
  function pointed(event) {
    const box = $("photo").getBoundingClientRect();
    const x = (event.clientX - box.left) / box.width, y = (event.clientY - box.top) / box.height;
    if (x >= 0 && x < 1 && y >= 0 && y < 1) set({ x, y, who: "patch" });
  }
  function pressed(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const own = D.models[0].blocks[blockOf(0)], [H, W] = imageGrid(own), far = event.shiftKey ? 4 : 1;
    const moved = (dx, dy) => ({ who: "patch", x: Math.min(1 - .5 / W, Math.max(.5 / W, (Math.floor(S.x * W) + .5 + dx * far) / W)), y: Math.min(1 - .5 / H, Math.max(.5 / H, (Math.floor(S.y * H) + .5 + dy * far) / H)) });
    const kinds = ["patch", ...new Set(D.models.flatMap((model) => model.prefix))], heads = own.heads;
    const did = {
      ArrowLeft: () => moved(-1, 0), ArrowRight: () => moved(1, 0), ArrowUp: () => moved(0, -1), ArrowDown: () => moved(0, 1),
      "[": () => ({ b: Math.max(0, S.b - 1) }), "]": () => ({ b: Math.min(LONG - 1, S.b + 1) }), c: () => ({ who: kinds[(kinds.indexOf(S.who) + 1) % kinds.length] }),
      h: () => ({ pin: { m: 0, b: blockOf(0), h: S.pin && S.pin.m === 0 ? (S.pin.h + 1) % heads : 0 } }), Escape: () => ({ pin: null }),
      "-": () => ({ t: heat(Math.max(0, stepOf(S.t) - 1)) }), "+": () => ({ t: heat(Math.min(40, stepOf(S.t) + 1)) }), "=": () => ({ t: heat(Math.min(40, stepOf(S.t) + 1)) }), 0: () => ({ t: 1 }),
      n: () => ({ i: (S.i + 1) % D.images.length }), "?": () => { $("keys").showPopover(); return {}; },
    }[event.key];
    if (!did) return;
    event.preventDefault();
    set(did(), { speak: true });
  }
  function begin() {
    $("photo").addEventListener("pointermove", (event) => { if (event.pointerType !== "touch" || event.buttons) pointed(event); });
    $("photo").addEventListener("pointerdown", pointed);
    $("photo").addEventListener("keydown", pressed);
    $("block").oninput = (event) => set({ b: +event.target.value });
    $("heat").oninput = (event) => set({ t: heat(+event.target.value) });
    $("thumbs").onclick = (event) => { const button = event.target.closest("button"); if (button) set({ i: +button.dataset.image }); };
    $("scale").onclick = (event) => { if (event.target.dataset.scale) set({ scale: event.target.dataset.scale }); };
    $("first").onchange = (event) => set({ first: +event.target.value });
    $("second").onchange = (event) => set({ second: +event.target.value });
    $("seen").onclick = () => set({ seen: !S.seen });
    $("listed").ontoggle = () => show();
    $("png").onclick = picture; $("csv").onclick = table;
    $("copy").onclick = async () => { try { await navigator.clipboard.writeText(`${location.href.split("#")[0]}#${address()}`); $("copy").textContent = "Copied"; } catch { $("copy").textContent = "Copy the address bar"; } setTimeout(() => { $("copy").textContent = "Copy link"; }, 1500); };
    $("theme").onclick = () => { const next = { auto: "light", light: "dark", dark: "auto" }[document.documentElement.dataset.theme || "auto"]; document.documentElement.dataset.theme = next; $("theme").textContent = `Theme: ${next}`; };
    window.addEventListener("hashchange", () => { restore(); plots(); show(); });
    window.addEventListener("error", (event) => fault(`An error: ${event.message}`));
  }
  restore();
  sections(); plots(); begin(); controls();
  if (typeof DecompressionStream === "undefined") fault("This browser cannot unpack the maps (it has no DecompressionStream: Chrome 103, Firefox 113 or Safari 16.4 and newer have it). The numbers below are all here.");
  else show();
  // for tests: the numbers of one head at a temperature, and one row of a map
  window.explorer = {
    facts: D, state: S,
    numbers: async (m, i, b, h, t) => { const work = tally(await block(m, i, b), h, t); for (;;) { const step = work.next(); if (step.done) return step.value; } },
    row: async (m, i, b, h, q, w = 0) => [...softened(logits(await block(m, i, b), h, q, w), 1)],
  };
})();
