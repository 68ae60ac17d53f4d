"use strict";
// Line charts over training steps. Every chart is made anew when the theme or the width changes.

const charts = [];
const shared = {}; // charts over the same steps share a cursor

function redraw() {
  for (const chart of charts) chart();
}

function remember(draw) {
  charts.push(draw);
  draw();
}

function axis(extra) {
  return {
    stroke: colour("dim"), font: "12px system-ui, sans-serif", size: 44, gap: 4,
    grid: { stroke: colour("line"), width: 1 }, ticks: { show: false }, ...extra,
  };
}

function steps(extra) {
  return axis({ size: 26, grid: { show: false }, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000], values: (_, ticks) => ticks.map(tick => tick < 0 ? "" : tick), ...extra });
}

// Measured points with an error bar, drawn over the lines: [{x, rate, low, high, color}].
function drawPoints(plot, points) {
  const { ctx } = plot, ratio = devicePixelRatio;
  ctx.save();
  for (const point of points) {
    const x = plot.valToPos(point.x, "x", true), y = value => plot.valToPos(value, "y", true);
    ctx.strokeStyle = ctx.fillStyle = point.color;
    ctx.lineWidth = 2 * ratio;
    ctx.beginPath();
    ctx.moveTo(x, y(point.low));
    ctx.lineTo(x, y(point.high));
    ctx.stroke();
    ctx.beginPath();
    ctx.arc(x, y(point.rate), 5 * ratio, 0, 2 * Math.PI);
    ctx.fill();
    ctx.strokeStyle = colour("panel");
    ctx.stroke();
  }
  ctx.restore();
}

function drawLevels(plot, levels) {
  const { ctx } = plot, ratio = devicePixelRatio;
  ctx.save();
  ctx.font = `${11 * ratio}px system-ui, sans-serif`;
  for (const level of levels) {
    const y = plot.valToPos(level.rate, "y", true);
    ctx.strokeStyle = ctx.fillStyle = level.color;
    ctx.lineWidth = ratio;
    ctx.setLineDash([5 * ratio, 5 * ratio]);
    ctx.beginPath();
    ctx.moveTo(plot.bbox.left, y);
    ctx.lineTo(plot.bbox.left + plot.bbox.width, y);
    ctx.stroke();
    ctx.textAlign = "right";
    ctx.fillText(level.name, plot.bbox.left + plot.bbox.width - 4 * ratio, y - 5 * ratio);
  }
  ctx.restore();
}

// The learning curve: training success with its band, held-out points, levels to compare with.
function learningChart(host, training, points, levels) {
  const reading = h("span", { class: "value" });
  const plotted = h("div", { class: "plot" });
  host.append(h("div", { class: "chart" }, h("header", {}, h("b", {}, "Success"), reading), plotted));
  const first = Math.min(...training.step, ...points.map(point => point.x)), end = Math.max(...training.step, ...points.map(point => point.x));
  const pad = Math.max(0.5, (end - first) * 0.02);
  let plot = null;
  remember(() => {
    plot?.destroy();
    const line = colour("ink"), none = { points: { show: false } };
    plot = new uPlot({
      width: plotted.clientWidth, height: innerWidth < 640 ? 260 : 340, legend: { show: false },
      cursor: { y: false, points: { show: true, size: 7 }, sync: { key: "rl" } },
      scales: { x: { time: false, range: [first - pad, end + pad] }, y: { range: [0, 1] } },
      axes: [steps({ values: (_, ticks) => ticks.map(tick => tick < 0 || tick > end ? "" : tick), label: "RL step", labelSize: 20, labelFont: "12px system-ui, sans-serif", size: 30 }), axis({ values: (_, ticks) => ticks.map(tick => percent(tick, 0)), size: 52 })],
      series: [{}, { ...none, stroke: "transparent" }, { ...none, stroke: "transparent" }, { points: { show: training.step.length < 2, size: 14, fill: line }, stroke: line, width: 2 }],
      bands: [{ series: [1, 2], fill: colour("ink", 0.12) }],
      hooks: {
        draw: [self => drawLevels(self, levels.map(level => ({ ...level, color: colour("dim") }))), self => drawPoints(self, points.map(point => ({ ...point, color: colour(point.name) })))],
        setCursor: [self => {
          const i = self.cursor.idx;
          reading.textContent = i === null || i === undefined || training.rate[i] === undefined ? "" :
            `step ${training.step[i]}: ${percent(training.rate[i])} (${interval(training.low[i], training.high[i])}) of ${whole(training.num[i])} attempts`;
        }],
      },
    }, [training.step, training.high, training.low, training.rate], plotted);
  });
}

// A small chart: one to three lines over steps, with the last value, or the one under the cursor, in its head.
function smallChart(host, { title, about, step, lines, sync, format = short, floor = null, log = false }) {
  const reading = h("span", { class: "value" });
  const plotted = h("div", { class: "plot" });
  const names = lines.length > 1 ? lines.map(line => key(line.name, line.colour)) : [about];
  host.append(h("div", { class: "chart panel" }, h("header", {}, h("b", {}, title), reading), h("p", {}, names), plotted));
  const read = i => {
    const texts = lines.map(line => format(i === null ? last(line.values) : line.values[i]));
    reading.textContent = (i === null ? "" : `step ${step[i]}: `) + texts.join(" · ");
  };
  let plot = null;
  remember(() => {
    plot?.destroy();
    plot = new uPlot({
      width: plotted.clientWidth, height: 130, legend: { show: false }, padding: [8, 16, 0, 0],
      cursor: { y: false, points: { size: 6 }, sync: sync ? { key: sync } : undefined },
      scales: { x: { time: false, range: (_, low, high) => low === high ? [low - 0.5, high + 0.5] : [low, high] }, y: log ? { distr: 3 } : { range: (_, low, high) => spread(low, high, floor) } },
      axes: [steps({ space: 60 }), axis({ space: 34, values: (_, ticks) => ticks.map(tick => tick === null ? "" : format === short ? tidy(tick) : format(tick)), size: 50 })],
      series: [{}, ...lines.map(line => ({ stroke: colour(line.colour), width: 1.6, points: { show: step.length < 2, size: 6 }, spanGaps: true }))],
      hooks: { setCursor: [self => read(self.cursor.idx ?? null)] },
    }, [step, ...lines.map(line => line.values)], plotted);
    read(null);
  });
}

function spread(low, high, floor) {
  if (!isNumber(low) || !isNumber(high)) return [0, 1];
  const bottom = floor === null ? low : Math.min(floor, low), room = (high - bottom || Math.abs(high) || 1) * 0.08;
  return [floor !== null && low >= floor ? floor : bottom - room, high + room];
}
