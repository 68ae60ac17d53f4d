"use strict";
// The same task attempted before and after, side by side. Episodes arrive compressed inside the page.

const OUTCOMES = { fixed: ["fixed", "✓", "failed before, right after"], wrong: ["still wrong", "✗", "failed both times"], regressed: ["regressed", "↓", "right before, failed after"], right: ["right both times", "·", "right both times"], void: ["void", "∅", "no verdict on one side: the infrastructure failed"] };

async function readEpisodes() {
  const packed = Uint8Array.from(atob(document.getElementById("episode-data").textContent), letter => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

const view = { outcome: null, cell: "", text: "", shown: null, pairs: [], pieces: [] };

async function episodes() {
  const { num_shown: shown, num_total: total, outcomes } = DATA.episodes;
  if (!total) return drop("episodes");
  if (typeof DecompressionStream === "undefined") return say("episodes", "This browser is too old to unpack the episodes; they are also in trajectories/*.parquet.");
  const found = await readEpisodes();
  Object.assign(view, found);
  say("episodes", `${whole(total)} held-out tasks, one attempt each after SFT and one after RL. ` + (shown === total ? "All of them are on this page." : `${whole(shown)} are on this page: in turn one of every cell and outcome, as many as fit; the rest is in trajectories/*.parquet.`));
  const chips = Object.entries(OUTCOMES).filter(([name]) => view.pairs.some(pair => pair.outcome === name)).map(([name, [text, , about]]) => h("button", { type: "button", class: "chip", "data-outcome": name, "aria-pressed": "false", title: about, onclick: () => { view.outcome = view.outcome === name ? null : name; update(); } }, text, h("span", { class: "n" }, outcomes[name])));
  const names = [...new Set(view.pairs.map(pair => pair.cell))].sort();
  const cell = h("select", { "aria-label": "Cell", onchange: event => { view.cell = event.target.value; update(); } }, h("option", { value: "" }, "every cell"), names.map(name => h("option", { value: name }, name.replace("+", " "))));
  const search = h("input", { type: "search", placeholder: "prompt, command, output…", "aria-label": "Search in episodes", oninput: event => { view.text = event.target.value.toLowerCase(); update(); } });
  const shade = h("button", { type: "button", class: "chip last", "aria-pressed": "false", title: "Colour each sampled token by how unlikely it was", onclick: event => shadeTokens(event.currentTarget) }, "token probabilities");
  place("episodes").append(h("div", { class: "controls" }, chips, cell, search, shade), h("div", { class: "explorer" }, h("div", { class: "list", role: "group", "aria-label": "Tasks" }), h("div", { class: "detail" })));
  for (const pair of view.pairs) pair.haystack = haystack(pair);
  const wanted = decodeURIComponent(location.hash.slice(1));
  const linked = view.shown = view.pairs.find(pair => pair.task === wanted) ?? null;
  view.outcome = linked ? null : ["fixed", "wrong", "regressed"].find(name => view.pairs.some(pair => pair.outcome === name)) ?? null;
  update();
  if (linked) document.getElementById("episodes").scrollIntoView();
  addEventListener("keydown", event => {
    if (event.target.closest("input, select, textarea") || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "j" || event.key === "k") move(event.key === "j" ? 1 : -1);
  });
}

function haystack(pair) {
  const said = side => side.turns.flatMap(turn => [turn.ids.map(id => view.pieces[id]).join(""), ...turn.events.map(event => event.text)]);
  return [pair.task, pair.prompt, pair.tags.join(" "), ...said(pair.before), ...said(pair.after)].join("\n").toLowerCase();
}

const matching = () => view.pairs.filter(pair => (!view.outcome || pair.outcome === view.outcome) && (!view.cell || pair.cell === view.cell) && (!view.text || pair.haystack.includes(view.text)));

function update() {
  for (const chip of document.querySelectorAll("#episodes [data-outcome]")) chip.setAttribute("aria-pressed", String(chip.dataset.outcome === view.outcome));
  const found = matching();
  if (!found.includes(view.shown)) view.shown = found[0] ?? null;
  const rows = found.map(pair => h("button", { type: "button", "aria-current": String(pair === view.shown), onclick: () => open(pair) },
    h("span", { class: pair.outcome, title: OUTCOMES[pair.outcome][2] }, OUTCOMES[pair.outcome][1]), h("span", { class: "ask" }, pair.prompt.split("\n")[0], h("span", {}, ` ${pair.task.match(/[^-/:]*$/)[0]}`)), h("span", { class: "cell" }, pair.cell.replace("+fallback", " ⤷"))));
  place("episodes", ".list").replaceChildren(...(rows.length ? rows : [h("p", { class: "empty" }, "No task matches.")]));
  show();
}

function open(pair) {
  view.shown = pair;
  history.replaceState(null, "", `#${encodeURIComponent(pair.task)}`);
  update();
  document.querySelector('#episodes .list [aria-current="true"]')?.scrollIntoView({ block: "nearest" });
}

function move(by) {
  const found = matching(), next = found[found.indexOf(view.shown) + by];
  if (next) open(next);
}

function show() {
  const pair = view.shown, host = place("episodes", ".detail");
  if (!pair) return host.replaceChildren();
  const found = matching(), at = found.indexOf(pair);
  host.replaceChildren(
    h("header", {}, h("h3", {}, pair.prompt), h("span", { class: pair.outcome }, OUTCOMES[pair.outcome][0]), h("span", { class: "dim" }, [pair.cell.split("+")[0], ...pair.tags, pair.task].join(" · ")),
      h("span", { class: "steps" }, h("button", { type: "button", "aria-label": "Previous task", onclick: () => move(-1) }, "↑"), h("span", { class: "num dim" }, ` ${at + 1} / ${found.length} `), h("button", { type: "button", "aria-label": "Next task", onclick: () => move(1) }, "↓"))),
    h("div", { class: "sides" }, side("before", "Before RL", pair.before), side("after", "After RL", pair.after)));
}

function side(tone, title, episode) {
  const verdict = episode.success === null ? ["void", "none"] : episode.success ? ["✓ success", "pass"] : ["✗ failure", "fail"];
  return h("article", { class: "side", style: { "--c": `var(--${tone})` } },
    h("header", {}, h("b", {}, title), h("span", { class: "dim" }, `${episode.turns.length} ${episode.turns.length === 1 ? "turn" : "turns"} · ${episode.num_sampled} tokens · ${whole(episode.wall_ms)} ms`), h("span", { class: `verdict ${verdict[1]}` }, verdict[0])),
    episode.agents ? agentTree(episode.agents, 0) : null,
    h("div", { class: "term" }, episode.turns.flatMap(turnLines)),
    h("footer", {}, h("p", {}, "ended: ", h("b", {}, episode.end), episode.fault ? [" · fault: ", h("b", {}, episode.fault)] : null, episode.reward === null ? null : [" · reward ", h("b", {}, String(episode.reward))], ` · attempt ${episode.attempt}`),
      episode.detail ? h("p", {}, episode.detail) : null, episode.evidence ? h("p", {}, "verdict: ", episode.evidence) : null, episode.quarantine ? h("p", {}, "penalised: ", h("b", {}, episode.quarantine)) : null));
}

function turnLines(turn) {
  const lines = turn.agent ? [h("div", { class: "agent" }, turn.agent)] : [];
  if (turn.ids.length) lines.push(h("div", { class: "say" }, turn.ids.map((id, i) => token(view.pieces[id], turn.logprobs[i])), turn.cut ? h("span", { class: "special" }, " ⋯ cut off") : null));
  return [...lines, ...turn.events.flatMap(event => eventLines(event, turn.ids.length > 0))];
}

function token(piece, hundredths) {
  const p = hundredths === null ? null : Math.exp(hundredths / 100);
  const props = p === null ? { class: "t" } : { class: "t", style: { "--s": Math.round(85 * (1 - p)) }, "data-tip": `${JSON.stringify(piece)}  p ${p >= 0.9995 ? "≈ 1" : p.toPrecision(2)} · log p ${(hundredths / 100).toFixed(2)}` };
  if (/^<.+>$/s.test(piece)) props.class += " special";
  return h("span", props, piece);
}

function eventLines(event, isSaid) {
  const lines = [];
  if (!isSaid) lines.push(h("div", { class: "say" }, [event.tool, ...Object.values(event.arguments).map(value => typeof value === "string" ? value : JSON.stringify(value))].join(" ")));
  const faulty = Boolean(event.fault || event.problem);
  if (event.text) lines.push(h("div", { class: faulty ? "out faulty" : "out" }, event.text.replace(/\n$/, "")));
  const notes = [event.fault && h("span", { class: "fault" }, `${event.fault} fault`), event.problem, event.exit !== undefined && h("span", { class: "code" }, `exit ${event.exit}`), event.truncated && `${whole(event.truncated)} bytes not shown to the policy`, event.ended && !event.text && "episode ended"].filter(Boolean);
  if (notes.length) lines.push(h("div", { class: "meta" }, notes.flatMap((note, i) => i ? [" · ", note] : [note])));
  return lines;
}

function shadeTokens(button) {
  const on = document.getElementById("episodes").classList.toggle("shaded");
  button.setAttribute("aria-pressed", String(on));
}

document.addEventListener("pointerover", event => {
  const text = event.target.dataset?.tip;
  if (text) showTip(text, event.clientX, event.clientY);
  else if (event.target.closest?.(".term")) hideTip();
});
document.addEventListener("pointerout", event => { if (event.target.dataset?.tip) hideTip(); });
