"use strict";
// What came out: headline, cells, baselines, time, health, facts.

const SUMMARY = DATA.summary;
const BASELINES = { null: "does nothing", random: "acts at random", no_tools: "answers without tools", demonstrator: "the imperfect teacher", oracle: "knows the answer", claim: "claims to be done", open_loop: "acts without looking" };
const PHASES = { tokenizer: "vocabulary", demo: "demonstrations", sft: "cold start (demonstrations, SFT)", before: "evaluation before RL", rl: "RL", after: "evaluation after RL", structural: "structural split", baselines: "baselines" };
const PARTS = { rollout: ["rollout", "after"], train: ["training", "third"], step: ["acting and learning at once", "after"], grade: ["grading", "before"], publish: ["publishing", "fourth"], other: ["other", "line"] };
const PART_COLOURS = ["fourth", "before", "dim"];

function headline() {
  const host = document.getElementById("headline"), done = isNumber(SUMMARY?.success_after);
  if (done) {
    host.append(h("h1", {}, "Held-out success went from ", h("span", { class: "b" }, percent(SUMMARY.success_before)), " to ", h("span", { class: "a" }, percent(SUMMARY.success_after)), "."));
    host.append(h("p", { class: "sub" }, `${whole(SUMMARY.num_eval_tasks)} tasks that training never saw, the same before and after RL. `,
      `95 % exact intervals: ${interval(SUMMARY.success_before_low, SUMMARY.success_before_high)} before, ${interval(SUMMARY.success_after_low, SUMMARY.success_after_high)} after.`,
      isNumber(SUMMARY.success_structural) ? ` On tasks of another structure: ${percent(SUMMARY.success_structural)}.` : ""));
    if (SUMMARY.void_attempts) host.append(h("p", { class: "note" }, `${whole(SUMMARY.void_attempts)} attempts ended void, without a verdict. Counted as failures, success went from ${percent(SUMMARY.success_before_all)} to ${percent(SUMMARY.success_after_all)}. `,
      Object.entries(SUMMARY.void_causes ?? {}).map(([cause, num]) => `${whole(num)} × ${cause}`).join("; ")));
    const panel = h("div", { class: "panel" });
    host.append(panel);
    outcomeScale(panel);
    panel.append(...baselines());
  } else {
    const at = DATA.curves.rl?.step.at(-1), start = DATA.before;
    host.append(h("h1", {}, "This run has not finished."));
    host.append(h("p", { class: "sub" }, start ? `Held-out success after the cold start: ${percent(start.rate)} (${interval(start.low, start.high)}, n ${start.num}). ` : "", isNumber(at) ? `It stands at RL step ${at}. ` : "", `Go on with --resume; this page shows what there is so far.`));
  }
  const started = String(DATA.run.started ?? "").replace("T", " ").replace("+00:00", "\u00a0UTC");
  const tiles = [
    ["run", DATA.name], ["environment", DATA.environment], ["seed", SUMMARY?.seed ?? DATA.run.seed], built(), ["isolation", SUMMARY?.isolation_tier ?? DATA.run.isolation_tier],
    ["wall time after set-up", SUMMARY && seconds(SUMMARY.wall_s)], ["CPU time", SUMMARY && `${whole(SUMMARY.cpu_s)} CPU-s`], ["load at the end", SUMMARY?.load?.toFixed(2)], ["taken by the host", SUMMARY?.stolen_ratio >= 0.01 ? percent(SUMMARY.stolen_ratio, 0) : undefined],
    ["tool calls", SUMMARY && whole(SUMMARY.tool_calls)], ["CPU of a tool call, median", SUMMARY && SUMMARY.tool_cpu_ms_p50 > 0 && `${SUMMARY.tool_cpu_ms_p50.toFixed(2)} ms`],
    ["sampled tokens", SUMMARY && whole(SUMMARY.sampled_tokens)], ["void attempts", SUMMARY && whole(SUMMARY.void_attempts)], ["success, void as failure", isNumber(SUMMARY?.success_after_all) ? percent(SUMMARY.success_after_all) : undefined], ["started", started],
  ];
  host.append(h("dl", { class: "tiles" }, tiles.filter(([, value]) => value !== undefined && value !== null && value !== false && value !== "").map(([name, value]) => h("div", { class: "tile" }, h("dt", {}, name), h("dd", {}, name === "started" ? value : String(value).replace(/[:\/_,=]/g, "$&\u200b"))))));
}

// The commit, or outside a checkout the version that is installed.
function built() {
  const commit = SUMMARY?.commit ?? DATA.run.commit, version = DATA.run.versions?.agito;
  return commit === "unknown" && version ? ["version", version] : ["commit", commit];
}

// One axis from 0 to 1 with everything on it that a success can be compared with.
function outcomeScale(panel) {
  const rows = [["before", SUMMARY.success_before, SUMMARY.success_before_low, SUMMARY.success_before_high, "before RL"], ["after", SUMMARY.success_after, SUMMARY.success_after_low, SUMMARY.success_after_high, "after RL"]];
  if (isNumber(SUMMARY.success_structural)) rows.push(["third", SUMMARY.success_structural, SUMMARY.success_structural_low, SUMMARY.success_structural_high, "other structure"]);
  const host = panel.appendChild(h("div", { class: "plot" }));
  remember(() => {
    const width = Math.max(260, host.clientWidth), left = 112, right = 64, x = value => left + value * (width - left - right);
    const picture = s("svg", { class: "scale", viewBox: `0 0 ${width} ${rows.length * 30 + 26}`, role: "img", "aria-label": "Success before and after with intervals" });
    const bottom = rows.length * 30 + 4;
    for (const tick of [0, 0.25, 0.5, 0.75, 1]) {
      picture.append(s("line", { x1: x(tick), x2: x(tick), y1: 0, y2: bottom, stroke: "var(--line)" }));
      picture.append(s("text", { x: x(tick), y: bottom + 16, "text-anchor": "middle" }, percent(tick, 0)));
    }
    for (const [name, base] of Object.entries(SUMMARY.baselines ?? {})) {
      if (isNumber(base.success)) picture.append(s("line", { x1: x(base.success), x2: x(base.success), y1: 0, y2: bottom, stroke: "var(--dim)", "stroke-dasharray": "3 4" }, s("title", {}, `${name}: ${percent(base.success)}`)));
    }
    rows.forEach(([tone, rate, low, high, name], row) => {
      const y = 16 + row * 30, ink = `var(--${tone})`;
      picture.append(s("text", { x: 0, y: y + 4, style: { fill: ink, "font-weight": 600 } }, name));
      picture.append(s("line", { x1: x(low), x2: x(high), y1: y, y2: y, stroke: ink, "stroke-width": 9, "stroke-linecap": "round", opacity: 0.3 }));
      picture.append(s("circle", { cx: x(rate), cy: y, r: 6, fill: ink }, s("title", {}, `${percent(rate)} (${interval(low, high)})`)));
      picture.append(s("text", { x: width, y: y + 4, "text-anchor": "end", style: { fill: ink, "font-weight": 600 } }, percent(rate)));
    });
    host.replaceChildren(picture);
  });
}

function baselines() {
  const rows = Object.entries(SUMMARY.baselines ?? {});
  if (!rows.length) return [];
  return [h("p", { class: "compare" }, key("dashed, to compare with:", "dim", "dash")), h("ul", { class: "baselines" }, rows.map(([name, base]) =>
    h("li", {}, h("b", {}, name.replaceAll("_", " ")), h("b", { class: "num" }, percent(base.success)), h("span", {}, BASELINES[name] ?? ""), h("span", { class: "num" }, `${interval(base.success_low, base.success_high)}, n ${base.num}`))))];
}

function learning() {
  const training = DATA.training;
  if (!training) return drop("learning");
  const end = training.step.at(-1), points = [];
  if (isNumber(SUMMARY?.success_before)) points.push({ x: Math.min(0, training.step[0] - 1), rate: SUMMARY.success_before, low: SUMMARY.success_before_low, high: SUMMARY.success_before_high, name: "before" });
  else if (DATA.before) points.push({ ...DATA.before, x: Math.min(0, training.step[0] - 1), name: "before" });
  for (const point of DATA.heldout) points.push({ x: point.step, rate: point.rate, low: point.low, high: point.high, name: "third" });
  if (isNumber(SUMMARY?.success_after)) points.push({ x: end, rate: SUMMARY.success_after, low: SUMMARY.success_after_low, high: SUMMARY.success_after_high, name: "after" });
  const teacher = SUMMARY?.baselines?.demonstrator, levels = isNumber(teacher?.success) ? [{ rate: teacher.success, name: "demonstrator" }] : [];
  say("learning", "Success on the tasks that each RL step trained on, with 95 % Wilson intervals. Attempts of one group share a task, so the true interval is somewhat wider. Dots are held-out evaluations with exact intervals.");
  const panel = h("div", { class: "panel" });
  place("learning").append(panel);
  learningChart(panel, training, points, levels);
  panel.append(h("div", {}, key("training tasks", "ink"), points.some(point => point.name === "before") && key("held out, after SFT and before RL", "before", "dot"), DATA.heldout.length ? key("held out, on the way", "third", "dot") : null, points.some(point => point.name === "after") && key("held out, after RL", "after", "dot"), levels.length ? key("what the teacher reaches", "dim", "dash") : null));
}

function cells() {
  const rows = Object.entries(SUMMARY?.by_cell ?? {});
  if (!rows.length) return drop("cells");
  const hasFallback = rows.some(([name]) => name.includes("+fallback"));
  say("cells", `Family and level, the same held-out tasks before and after.${hasFallback ? " “Fallback” tasks lack the usual tool, so the short way does not work." : ""} Bars are 95 % exact intervals.`);
  const body = rows.map(([name, cell]) => {
    const [base, ...tags] = name.split("+");
    return h("tr", {},
      h("td", {}, base, tags.length ? h("span", { class: "dim" }, ` ${tags.join(" ")}`) : null),
      h("td", { class: "num wide dim" }, cell.num_before === cell.num_after ? cell.num_after : `${cell.num_before}, ${cell.num_after}`),
      h("td", { style: { width: "52%" } }, cellScale(cell)),
      h("td", { class: "num", style: { color: "var(--before)" } }, percent(cell.before, 0)),
      h("td", { class: "num", style: { color: "var(--after)", "font-weight": 600, "padding-right": 0 } }, percent(cell.after, 0)));
  });
  place("cells").append(h("div", { class: "panel" }, h("table", {}, h("thead", {}, h("tr", {}, h("th", {}, "cell"), h("th", { class: "num wide" }, "tasks"), h("th", {}, key("before", "before", "hollow"), key("after", "after", "dot")), h("th", { class: "num" }, "before"), h("th", { class: "num", style: { "padding-right": 0 } }, "after"))), h("tbody", {}, body))));
}

function cellScale(cell) {
  const x = value => 1 + 98 * value, picture = s("svg", { class: "scale", height: 20, role: "img", "aria-label": `before ${percent(cell.before)}, after ${percent(cell.after)}` });
  const at = value => `${x(value)}%`;
  for (const tick of [0, 0.5, 1]) picture.append(s("line", { x1: at(tick), x2: at(tick), y1: -7, y2: 27, stroke: "var(--line)" }));
  for (const [name, y, hollow] of [["before", 6.5, true], ["after", 13.5, false]]) {
    if (!isNumber(cell[name])) continue;
    const ink = `var(--${name})`;
    picture.append(s("line", { x1: at(cell[`${name}_low`]), x2: at(cell[`${name}_high`]), y1: y, y2: y, stroke: ink, "stroke-width": 5, "stroke-linecap": "round", opacity: 0.3 }));
    picture.append(s("circle", { cx: at(cell[name]), cy: y, r: 4, fill: hollow ? "var(--panel)" : ink, stroke: ink, "stroke-width": 2 }, s("title", {}, `${name}: ${percent(cell[name])} (${interval(cell[`${name}_low`], cell[`${name}_high`])})`)));
  }
  return picture;
}

function time() {
  const rows = DATA.time;
  if (!rows.length) return drop("time");
  const longest = Math.max(...rows.map(row => row.total)), all = rows.reduce((sum, row) => sum + row.total, 0);
  const names = [...new Set(rows.flatMap(row => Object.keys(row.parts)))].sort((a, b) => (a === "other") - (b === "other"));
  const tone = name => PARTS[name]?.[1] ?? PART_COLOURS[names.filter(other => !PARTS[other]).indexOf(name) % PART_COLOURS.length];
  say("time", `${seconds(all)} of wall time, phase by phase.`);
  const bars = rows.flatMap(row => [
    h("span", {}, PHASES[row.phase] ?? row.phase),
    h("div", { class: "bar", style: { width: `${100 * row.total / longest}%` } }, names.filter(name => row.parts[name] > 0.0005 * row.total).map(name => h("span", {
      style: { "--c": `var(--${tone(name)})`, flex: `${1000 * row.parts[name]} 0 0` },
      onpointermove: event => showTip(`${PHASES[row.phase] ?? row.phase}, ${PARTS[name]?.[0] ?? name}: ${seconds(row.parts[name])} (${percent(row.parts[name] / row.total, 0)})`, event.clientX, event.clientY), onpointerleave: hideTip }))),
    h("span", { class: "num dim" }, `${seconds(row.total)}`),
  ]);
  place("time").append(h("div", { class: "panel" }, h("div", { class: "bars" }, bars), h("div", { style: { "margin-top": "14px" } }, names.map(name => key(`${PARTS[name]?.[0] ?? name} ${seconds(rows.reduce((sum, row) => sum + (row.parts[name] ?? 0), 0))}`, tone(name))))));
}

// What each process did, step after step: a strip a role, a piece a step, a colour a state.
const ROLES = { rollout: "rollout process", engine: "engines", trainer: "trainer" };
const STATES = { acts: ["runs episodes and tools", "before"], samples: ["samples", "after"], learns: ["learns", "third"], gated: ["waits for a group that is due", "fourth"], paused: ["takes new weights", "dim"] };

function roles() {
  const steps = DATA.roles;
  if (!steps?.length) return;
  const used = new Set(steps.flatMap(step => Object.keys(ROLES).flatMap(role => Object.keys(step[role]).filter(state => step[role][state] > 0.002))));
  const all = steps.reduce((sum, step) => sum + step.total, 0);
  const mean = (role, state) => steps.reduce((sum, step) => sum + step.total * (step[role][state] ?? 0), 0) / all;
  const measured = Object.entries(ROLES).filter(([role]) => steps.some(step => Object.values(step[role]).some(part => part > 0)));
  const strips = measured.flatMap(([role, name]) => [
    h("span", {}, name),
    h("div", { class: "bar strip" }, steps.map(step => {
      const parts = Object.entries(step[role]).filter(([, part]) => part > 0), rest = Math.max(0, 1 - parts.reduce((sum, [, part]) => sum + part, 0));
      const text = [...parts.map(([state, part]) => `${STATES[state][0]} ${percent(part, 0)}`), `waits ${percent(rest, 0)}`].join(", ");
      return h("span", { class: "step", style: { flex: `${1000 * step.total} 0 0` }, onpointermove: event => showTip(`step ${step.step}, ${seconds(step.total)}: ${name}: ${text}`, event.clientX, event.clientY), onpointerleave: hideTip },
        parts.map(([state, part]) => h("i", { style: { "--c": `var(--${STATES[state][1]})`, height: `${100 * Math.min(part, 1)}%` } })));
    })),
    h("span", { class: "num dim" }, percent(Object.keys(STATES).reduce((sum, state) => sum + (state === "gated" ? 0 : mean(role, state)), 0), 0)),
  ]);
  place("time").append(h("h3", { style: { "margin-top": "1.6rem" } }, "The three roles during RL"), h("p", { class: "dim" }, "A piece is a step, as wide as it was long; the height of a colour is its share of the step. On the right: busy, over all steps."),
    h("div", { class: "panel" }, h("div", { class: "bars" }, strips), h("div", { style: { "margin-top": "14px" } }, Object.entries(STATES).filter(([state]) => used.has(state)).map(([, [name, tone]]) => key(name, tone)))));
}

const share = digits => value => percent(value, digits);
// `a|b` is one figure under two names: the first one that was measured is drawn.
const HEALTH = {
  rl: [
    { title: "Entropy", about: "nats a token; a collapse to 0 ends exploration", names: ["policy/entropy_nats"], floor: 0 },
    { title: "Groups that teach", about: "share whose attempts did not all earn the same", names: ["group/mixed_ratio"], format: share(0), floor: 0 },
    { title: "Gradient norm", about: "before clipping", names: ["optim/grad_norm|train/grad_norm"], floor: 0 },
    { title: "Clipped tokens", about: "share of tokens outside the trust region", names: ["policy/clip_ratio|policy/clip_fraction"], format: share(2), floor: 0 },
    { title: "Sampler against trainer", about: "mean |log w|; above 1e-4 at age 0 is a bug", names: ["policy/log_w_abs_mean|policy/log_w_abs_mean_nats"], floor: 0 },
    { title: "Paid and confirmed", about: "reward, and the held-out validator's", names: ["reward/mean", "monitor/gold_mean"], labels: ["reward", "gold"], floor: 0, only: "monitor/gold_mean" },
    { title: "Hack rate", about: "estimated, last 500 attempts", names: ["monitor/hack_ratio"], format: share(1), floor: 0 },
    { title: "Ways out", about: "attempts with proof of cheating, which cost, and reports of a flaw, which earn nothing", names: ["monitor/quarantined_num", "monitor/reported_num"], labels: ["penalised", "reported a flaw"], floor: 0 },
    { title: "Tokens an attempt", about: "sampled, mean", names: ["length/sampled_tokens_mean"], floor: 0 },
    { title: "Turns an attempt", about: "mean", names: ["length/turns_mean"], floor: 0 },
    { title: "Void attempts", about: "no verdict: something outside the attempt failed", names: ["attempt/void_num"], floor: 0 },
    { title: "Tokens a second", about: "sampled, over the whole step", names: ["tokens/per_s"], floor: 0 },
    { title: "Engine busy", about: "share of the rollout", names: ["engine/busy_ratio"], format: share(0), floor: 0 },
    { title: "A tool call, ms", about: "median", names: ["tool/wall_ms_p50", "tool/cpu_ms_p50"], labels: ["wall", "CPU"], floor: 0 },
    { title: "A step, s", names: ["time/rollout_s", "time/train_s", "time/other_s"], labels: ["rollout", "training", "other"], floor: 0 },
    { title: "Reward", about: "mean over scored attempts", names: ["reward/mean"], floor: 0 },
    { title: "Loss", about: "of the policy; its level means little", names: ["optim/loss|policy/loss"] },
  ],
  sft: [
    { title: "Loss", about: "nats a trained token", names: ["optim/loss|sft/loss_nats"], floor: 0 },
    { title: "Gradient norm", about: "before clipping", names: ["optim/grad_norm|train/grad_norm"], floor: 0 },
    { title: "Learning rate", about: "", names: ["optim/lr|train/lr_factor"], floor: 0 },
    { title: "Tokens a second", about: "trained on", names: ["tokens/per_s"], floor: 0 },
  ],
};
const DRAWN_ABOVE = ["success/num", "success/successes", "success/train_ratio"];

function health() {
  const drawn = Object.entries({ rl: "RL", sft: "Cold start" }).filter(([phase, name]) => DATA.curves[phase] && healthOf(phase, name));
  if (!drawn.length) return drop("health");
  say("health", "Move over a chart to read all of them at the same step.");
}

function healthOf(phase, name) {
  const { step, values } = DATA.curves[phase], used = new Set(DRAWN_ABOVE);
  const measured = metric => values[metric]?.some(isNumber);
  const lines = chart => chart.names.map((names, i) => ({ metric: names.split("|").find(measured), name: chart.labels?.[i] ?? "", colour: ["after", "third", "before"][i] })).filter(line => line.metric);
  const parts = Object.keys(values).filter(metric => metric.startsWith("score/")).map(metric => ({ title: metric.slice(6).replace(/_mean$/, ""), about: "component of the verdict, mean", names: [metric], floor: 0 }));
  const wanted = [...HEALTH[phase], ...parts].filter(chart => !chart.only || measured(chart.only)).map(chart => ({ ...chart, lines: lines(chart) })).filter(chart => chart.lines.length);
  for (const line of wanted.flatMap(chart => chart.lines)) used.add(line.metric);
  const others = Object.keys(values).filter(metric => measured(metric) && !used.has(metric)).map(metric => ({ title: metric, about: "", lines: [{ metric, name: "", colour: "dim" }] }));
  const draw = (grid, all) => all.forEach(chart => smallChart(grid, { ...chart, step, lines: chart.lines.map(line => ({ ...line, values: values[line.metric] })), sync: phase }));
  const grid = h("div", { class: "grid" }), rest = h("div", { class: "grid" });
  const more = others.length ? h("details", { class: "more" }, h("summary", {}, `${others.length} more measured`), rest) : null;
  more?.addEventListener("toggle", () => draw(rest, others), { once: true });
  place("health").append(h("h3", {}, name), grid, ...(more ? [more] : []));
  draw(grid, wanted);
  return wanted.length + others.length > 0;
}

function facts() {
  const machine = DATA.run.machine ?? {}, versions = DATA.run.versions ?? {};
  const happened = DATA.happened.map(({ at, text }) => `${new Date(1000 * at).toISOString().slice(0, 19)}Z ${text}`);
  const lines = [machine.cpu && `${machine.cpu}, ${machine.cores} cores, ${whole(machine.memory_mb / 1024)} GiB, ${machine.system}`, Object.entries(versions).map(([name, value]) => `${name} ${value}`).join(" · "), ...(happened.length ? happened : ["never interrupted"])];
  place("facts").append(h("div", { class: "panel" }, lines.filter(Boolean).map(line => h("p", { style: { margin: "0 0 .35rem" } }, line)), DATA.config ? h("details", {}, h("summary", {}, "config.toml, as resolved"), h("pre", {}, DATA.config)) : null));
}
