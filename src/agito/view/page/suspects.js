"use strict";
// Attempts whose reward is not believed, and what the held-out validator denies: see docs/monitor.md.

function suspects() {
  const { num, shown } = DATA.suspects, watched = SUMMARY?.monitor ?? {};
  const nav = document.querySelector('nav a[href="#suspects"]');
  if (!num && !SUMMARY?.paused && !watched.num_gold) return nav.remove(), drop("suspects");
  const counts = [[watched.num_quarantined, "penalised"], [watched.num_reported, "reported a flaw"], [watched.num_suspect, "looked at twice"], [watched.num_gold, "judged by gold"]];
  const rate = isNumber(watched.hack_ratio) ? ` Estimated hack rate over the run: ${percent(watched.hack_ratio, 2)}.` : "";
  const alarm = isNumber(watched.alarm_step) ? ` The alarm came at RL step ${watched.alarm_step}${watched.why ? ` (${watched.why})` : ""}${isNumber(watched.rolled_back_to) ? `; the weights went back to those of step ${watched.rolled_back_to}` : ""}.` : "";
  say("suspects", `${counts.filter(([count]) => isNumber(count)).map(([count, what]) => `${whole(count)} ${what}`).join(", ")}.${rate}${alarm}`);
  const host = place("suspects");
  if (SUMMARY?.paused) host.append(h("p", { class: "note" }, SUMMARY.paused));
  if (num) host.append(h("p", { class: "dim" }, num > shown.length ? `The last ${whole(shown.length)} of ${whole(num)}; all of them are in trajectories/rl-*.parquet, where quarantine is not empty or gold is below the reward.` : ""));
  host.append(...shown.map(suspect));
}

function suspect(found) {
  const paid = found.reward === null ? "" : `reward ${short(found.reward)}${found.gold === null ? "" : `, gold ${short(found.gold)}`}`;
  return h("details", { class: "panel" },
    h("summary", {}, h("b", {}, found.quarantine || "gold denies the reward"), h("span", { class: "dim" }, ` ${[`step ${found.step}`, found.cell, paid, `attempt ${found.attempt}`].filter(Boolean).join(" · ")}`)),
    h("p", {}, found.prompt), found.flags.length ? h("p", { class: "dim" }, found.flags.join("; ")) : null,
    h("div", { class: "term" }, found.events.flatMap(event => [h("div", { class: "say" }, event.said), event.read ? h("div", { class: "out" }, event.read) : null])));
}
