"use strict";
// A section that fails says so and leaves the others alone.

function section(id, draw) {
  const failed = error => document.getElementById(id)?.append(h("p", { class: "note" }, `This section could not be drawn: ${error.message}`));
  try {
    Promise.resolve(draw()).catch(failed);
  } catch (error) {
    failed(error);
  }
}

function chooseTheme() {
  let saved = null;
  try { saved = localStorage.getItem("agito-theme"); } catch { /* a page from a file may have no storage */ }
  const root = document.documentElement;
  if (saved) root.dataset.theme = saved;
  document.getElementById("theme").addEventListener("click", () => {
    const isDark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = isDark ? "light" : "dark";
    try { localStorage.setItem("agito-theme", root.dataset.theme); } catch { /* as above */ }
    redraw();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
}

chooseTheme();
section("headline", headline);
section("learning", learning);
section("diagnosis", diagnosis);
section("cells", cells);
section("time", time);
section("time", roles);
section("teams", teams);
section("suspects", suspects);
section("health", health);
section("facts", facts);
section("episodes", episodes);

let width = innerWidth, waiting = 0;
addEventListener("resize", () => {
  if (innerWidth === width) return;
  width = innerWidth;
  cancelAnimationFrame(waiting);
  waiting = requestAnimationFrame(redraw);
});
