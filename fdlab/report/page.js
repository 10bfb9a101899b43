"use strict";
// Sorting, downloads, copying and the theme: everything else works without a script.
(() => {
  const root = document.documentElement, $ = (selector, from = document) => [...from.querySelectorAll(selector)];
  root.classList.add("js");
  const theme = document.getElementById("theme");
  theme.onclick = () => {
    const next = { auto: "light", light: "dark", dark: "auto" }[root.dataset.theme || "auto"];
    root.dataset.theme = next; theme.textContent = `Theme: ${next}`;
  };
  const save = (name, blob) => {
    const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: name });
    link.click(); setTimeout(() => URL.revokeObjectURL(link.href), 5000);
  };
  // the figure as it is seen: colours of the theme, hidden models left out
  const drawing = (figure) => {
    const svg = figure.querySelector("svg").cloneNode(true), style = getComputedStyle(root), [, , w, h] = svg.getAttribute("viewBox").split(" ");
    svg.setAttribute("width", `${w}pt`); svg.setAttribute("height", `${h}pt`); svg.removeAttribute("style");
    let text = new XMLSerializer().serializeToString(svg);
    for (let turn = 0; turn < 3 && text.includes("var("); turn++) text = text.replace(/var\((--[\w-]+)\)/g, (_, name) => style.getPropertyValue(name).trim() || "none");
    return { text, w: +w, h: +h };
  };
  const quoted = (text) => /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  const actions = {
    svg: (figure, name) => save(`${name}.svg`, new Blob([drawing(figure).text], { type: "image/svg+xml" })),
    png: async (figure, name) => {
      const { text, w, h } = drawing(figure), scale = 3 * 96 / 72, image = new Image(), canvas = document.createElement("canvas");
      image.src = URL.createObjectURL(new Blob([text], { type: "image/svg+xml" }));
      await image.decode();
      canvas.width = Math.round(w * scale); canvas.height = Math.round(h * scale);
      const ctx = canvas.getContext("2d");
      ctx.fillStyle = getComputedStyle(document.body).backgroundColor; ctx.fillRect(0, 0, canvas.width, canvas.height);
      ctx.drawImage(image, 0, 0, canvas.width, canvas.height);
      canvas.toBlob((blob) => save(`${name}.png`, blob));
    },
    csv: (figure, name) => {
      const rows = $("tr", figure.closest("section").querySelector(".numbers")).map((row) => $("th, td", row).map((cell) => quoted(cell.textContent.trim())).join(","));
      save(`${name}.csv`, new Blob([rows.join("\n") + "\n"], { type: "text/csv" }));
    },
  };
  $("button[data-do]").forEach((button) => { button.onclick = () => actions[button.dataset.do](button.closest("section").querySelector("figure"), button.dataset.name); });
  $("button[data-copy]").forEach((button) => {
    const label = button.textContent;
    button.onclick = async () => {
      try { await navigator.clipboard.writeText(button.dataset.copy); button.textContent = "Copied"; } catch { button.textContent = "Not allowed here"; }
      setTimeout(() => { button.textContent = label; }, 1500);
    };
  });
  $("table.all thead button").forEach((button) => {
    button.onclick = () => {
      const head = button.closest("th"), place = [...head.parentNode.children].indexOf(head), body = head.closest("table").tBodies[0];
      const down = head.getAttribute("aria-sort") !== "descending", value = (row) => { const v = parseFloat(row.children[place].dataset.value); return Number.isNaN(v) ? -Infinity : v; };
      $("th", head.parentNode).forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      [...body.rows].sort((a, b) => (down ? 1 : -1) * (value(b) - value(a))).forEach((row) => body.append(row));
    };
  });
  // Older browsers do not print the closed parts by style alone.
  addEventListener("beforeprint", () => $("details").forEach((part) => { part.open = true; }));
})();
