"use strict";
// Why the run does not learn: usual causes that its meters show, with attempts to read.

const EARLY = 5; // steps of RL before which nothing is said of its course

function diagnosis() {
  const found = DATA.diagnosis;
  const nav = document.querySelector('nav a[href="#diagnosis"]');
  if (!found || found.learns) return nav.remove(), drop("diagnosis");
  if (found.total < EARLY) {
    if (!found.causes.length) return nav.remove(), drop("diagnosis");
    document.querySelector("#diagnosis h2").textContent = nav.textContent = "What to look at";
    say("diagnosis", `${found.total === 1 ? "One step is" : `${whole(found.total)} steps are`} too few to say whether it learns. What their meters and attempts show:`);
    return place("diagnosis").append(...found.causes.map(cause));
  }
  const [first, now] = found.success;
  const steps = found.steps === 1 ? "step" : `${whole(found.steps)} steps`;
  const course = isNumber(first) && isNumber(now) ? `Success went from ${percent(first, 0)} in the first ${steps} to ${percent(now, 0)} in the last. ` : "";
  say("diagnosis", course + (found.causes.length ? `What the meters and attempts of the last ${steps} show:` : "None of the usual causes is in its meters: contrast within groups, entropy, cut-off turns, unreadable calls, limits, missing verdicts, mismatch, held-out success."));
  place("diagnosis").append(...found.causes.map(cause));
}

function cause(each) {
  return h("div", { class: "panel" },
    h("p", {}, h("b", {}, each.title), h("span", { class: "dim" }, ` ${each.seen}`)),
    h("p", {}, `Try: ${each.remedy}`),
    ...each.episodes.map(row => h("details", {},
      h("summary", {}, h("span", { class: "dim" }, [`step ${row.step}`, row.cell, `ended by ${row.end}`, isNumber(row.reward) ? `reward ${short(row.reward)}` : "", `attempt ${row.attempt}`].filter(Boolean).join(" · "))),
      h("p", {}, row.prompt), row.detail ? h("p", { class: "dim" }, row.detail) : null,
      h("div", { class: "term" }, row.events.flatMap(event => [h("div", { class: "say" }, event.said), event.read ? h("div", { class: "out" }, event.read) : null])))));
}
