"use strict";
// The agents of an episode as a tree: what each was told and returned, what it cost, and what it earned.

function teams() {
  const { step, num, shown } = DATA.teams;
  const nav = document.querySelector('nav a[href="#teams"]');
  if (!shown.length) return nav.remove(), drop("teams");
  const most = Math.max(...shown.flatMap(each => each.agents.map(agent => Math.abs(agent.credit ?? 0))), 1e-9);
  say("teams", `RL step ${step}, the last in which agents were spawned: ${shown.length === num ? `all ${whole(num)} of its attempts` : `the ${whole(shown.length)} of ${whole(num)} attempts in which credit differs the most between agents`}. Credit is the mean advantage of an agent's tokens: above zero, what it did is made more probable.`);
  place("teams").append(...shown.map((each, at) => h("details", { class: "panel", open: at < 2 },
    h("summary", {}, h("span", { class: each.success ? "fixed" : each.success === null ? "void" : "regressed" }, each.success ? "✓ " : each.success === null ? "∅ " : "✗ "), h("b", { class: "mono" }, each.prompt.split("\n")[0]),
      h("span", { class: "dim" }, ` ${[each.cell, each.reward === null ? "" : `reward ${short(each.reward)}`, `${each.agents.length} agents`, `attempt ${each.attempt}`].filter(Boolean).join(" · ")}`)),
    agentTree(each.agents, most))));
}

// `most`: the largest credit, for the length of bars; without it no bars are drawn.
function agentTree(agents, most) {
  const below = parent => agents.filter(agent => agent.parent === parent);
  const branch = agent => {
    const children = below(agents.indexOf(agent));
    return h("li", {}, agentBox(agent, most), children.length ? h("ul", {}, children.map(branch)) : null);
  };
  return h("ul", { class: "tree" }, below(null).map(branch));
}

function agentBox(agent, most) {
  const cost = `${agent.turns} ${agent.turns === 1 ? "turn" : "turns"} · ${whole(agent.tokens)} tokens${agent.faults ? ` · ${agent.faults} at fault` : ""}${agent.policy === "main" ? "" : ` · ${agent.policy}`}`;
  return h("div", { class: "box" },
    h("header", {}, h("b", {}, agent.role), agent.name === agent.role ? null : h("span", { class: "dim" }, agent.name), h("span", { class: "dim" }, cost), most ? credit(agent.credit, most) : null),
    agent.told ? h("p", {}, h("span", { class: "dim" }, "told "), h("span", { class: "mono" }, agent.told)) : null,
    agent.parent === null ? null : h("p", {}, h("span", { class: "dim" }, agent.reported ? "returned " : "returned nothing: "), h("span", { class: agent.reported ? "mono" : "mono regressed" }, agent.returned || (agent.reported ? "an empty report" : "–"))));
}

function credit(value, most) {
  if (value === null) return h("span", { class: "credit dim" }, "not trained on");
  const share = Math.min(Math.abs(value) / most, 1) * 50;
  return h("span", { class: "credit", title: "credit" }, h("span", { class: "gauge" }, h("i", { style: { left: `${value < 0 ? 50 - share : 50}%`, width: `${share}%`, "--c": value < 0 ? "var(--bad)" : "var(--after)" } })), h("span", { class: "num" }, `${value > 0 ? "+" : value < 0 ? "−" : ""}${Math.abs(value).toFixed(3)}`));
}
