// Draws the charts that stand as JSON in their places, again whenever colours or widths change.

(() => {
  const HEIGHT = 320;
  const FONT = '12px system-ui, sans-serif';
  const number = new Intl.NumberFormat('en', { maximumSignificantDigits: 3 });

  const colourOf = name => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const seriesColour = index => colourOf(`series-${index % 6}`);

  /** A column of x and one per series. The library wants every x once; where a series has one again, it moves by a hair. */
  function columns(series) {
    const rows = new Map();
    series.forEach(({ points }, of) => {
      for (const [x, y] of points) {
        let at = x;
        while (rows.get(at)?.[of] !== undefined) at = at * (1 + 1e-9);
        if (!rows.has(at))
          rows.set(
            at,
            series.map(() => undefined),
          );
        rows.get(at)[of] = y;
      }
    });
    const sorted = [...rows].sort(([a], [b]) => a - b);
    return [sorted.map(([x]) => x), ...series.map((_, of) => sorted.map(([, values]) => values[of]))];
  }

  /** `reach`: values that must be in sight, besides those of the points. */
  function scale({ scale: kind }, range, reach = []) {
    if (kind === 'linear') return { time: false, range };
    const log = kind === 'log2' ? 2 : 10;
    const widened = (_, least, most) =>
      uPlot.rangeLog(Math.min(least, ...reach), Math.max(most, ...reach), log, false);
    return { time: false, distr: 3, log, ...(reach.length > 0 && { range: widened }) };
  }

  /** Experts and their rows are whole numbers. */
  const WHOLE = Array.from({ length: 9 }, (_, i) => [1, 2, 5].map(digit => digit * 10 ** i)).flat();

  /** Between them are too many for lines. */
  const powersOfTen = (_, splits) =>
    splits.map(value => (Number.isInteger(Number(Math.log10(value).toFixed(9))) ? value : null));

  const axis = ({ label, scale: kind }, size) => ({
    ...(kind === 'linear' && { incrs: WHOLE }),
    label,
    size,
    labelSize: 20,
    font: FONT,
    labelFont: FONT,
    stroke: colourOf('muted'),
    grid: { stroke: colourOf('line'), width: 1, ...(kind === 'log10' && { filter: powersOfTen }) },
    ticks: { stroke: colourOf('line'), width: 1 },
    values: (_, splits) => splits.map(value => (value === null ? '' : number.format(value))),
  });

  function drawing({ label, colour, draws }) {
    const stroke = seriesColour(colour);
    const shared = { label, stroke, width: 2, spanGaps: true };
    const points = { show: true, size: 8, stroke, fill: stroke };
    if (draws === 'bars')
      return {
        ...shared,
        width: 0,
        fill: stroke,
        paths: uPlot.paths.bars({ size: [0.8, 60] }),
        points: { show: false },
      };
    if (draws === 'points') return { ...shared, paths: () => null, points };
    if (draws === 'dashes') return { ...shared, dash: [6, 5], points: { show: false } };
    return { ...shared, points: { ...points, show: draws === 'marked', size: 6 } };
  }

  /** A stroke through each point from where to where it may lie. */
  function drawIntervals(plot, series) {
    const { ctx } = plot;
    ctx.save();
    ctx.lineWidth = 2 * devicePixelRatio;
    for (const { points, intervals = [], colour } of series) {
      ctx.strokeStyle = seriesColour(colour);
      ctx.beginPath();
      intervals.forEach((ends, i) => {
        const x = plot.valToPos(points[i][0], 'x', true);
        const [from, to] = ends.map(y => plot.valToPos(y, 'y', true));
        ctx.moveTo(x, from);
        ctx.lineTo(x, to);
      });
      ctx.stroke();
    }
    ctx.restore();
  }

  const overlap = (a, b) => a.x < b.x + b.w && b.x < a.x + a.w && a.y < b.y + b.h && b.y < a.y + a.h;

  /** Beside its point, on the first side where no other label is. */
  function writeLabels(plot, series) {
    const { ctx } = plot;
    const ratio = devicePixelRatio;
    const reach = 5 * ratio;
    const taken = series
      .filter(({ labels }) => labels)
      .flatMap(({ points }) =>
        points.map(([x, y]) => ({
          x: plot.valToPos(x, 'x', true) - reach,
          y: plot.valToPos(y, 'y', true) - reach,
          w: 2 * reach,
          h: 2 * reach,
        })),
      );
    ctx.save();
    ctx.font = `${12 * ratio}px system-ui, sans-serif`;
    ctx.textAlign = 'left';
    ctx.textBaseline = 'top';
    for (const { points, labels = [], colour } of series) {
      ctx.fillStyle = seriesColour(colour);
      labels.forEach((text, i) => {
        const x = plot.valToPos(points[i][0], 'x', true);
        const y = plot.valToPos(points[i][1], 'y', true);
        const [w, h, gap] = [ctx.measureText(text).width, 12 * ratio, 7 * ratio];
        const sides = [
          { x: x + gap, y: y - h / 2, w, h },
          { x: x - gap - w, y: y - h / 2, w, h },
          { x: x - w / 2, y: y - gap - h, w, h },
          { x: x - w / 2, y: y + gap, w, h },
        ];
        const place = sides.find(side => !taken.some(other => overlap(side, other))) ?? sides[0];
        taken.push(place);
        ctx.fillText(text, place.x, place.y);
      });
    }
    ctx.restore();
  }

  function draw(place, { x, y, series }) {
    const bars = series.find(({ draws }) => draws === 'bars');
    const beside = bars && [-0.5, bars.points.length - 0.5];
    const markers = series.map(({ draws, colour }) => ({
      dash: draws === 'dashes' ? 'dashed' : 'solid',
      fill: draws === 'bars' || draws === 'points' ? seriesColour(colour) : undefined,
    }));
    const options = {
      width: place.clientWidth,
      height: HEIGHT,
      legend: {
        live: false,
        markers: { dash: (_, i) => markers[i - 1].dash, fill: (_, i) => markers[i - 1].fill },
      },
      cursor: { show: false },
      scales: {
        x: scale(x, beside),
        y: scale(
          y,
          (_, __, most) => [0, 1.05 * most],
          series.flatMap(({ intervals = [] }) => intervals.flat()),
        ),
      },
      axes: [axis(x, 40), axis(y, 56)],
      series: [{}, ...series.map(drawing)],
      hooks: { draw: [plot => drawIntervals(plot, series), plot => writeLabels(plot, series)] },
    };
    return new uPlot(options, columns(series), place);
  }

  for (const place of document.querySelectorAll('.chart')) {
    const chart = JSON.parse(place.querySelector('script').textContent);
    let plot = draw(place, chart);
    new ResizeObserver(() => plot.setSize({ width: place.clientWidth, height: HEIGHT })).observe(place);
    matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => {
      plot.destroy();
      plot = draw(place, chart);
    });
  }
})();
