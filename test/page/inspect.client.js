// What a test asks of the page, from within it.

globalThis.inspect = {
  /** Series of charts of whose colour no pixel is drawn. */
  undrawn() {
    return [...document.querySelectorAll('.chart')].flatMap(chart => {
      const pixels = pixelsOf(chart.querySelector('canvas'));
      return JSON.parse(chart.querySelector('script').textContent)
        .series.filter(({ colour }) => !has(pixels, rgbOf(`--series-${colour % 6}`)))
        .map(({ label }) => `${nameOf(chart)}: ${label}`);
    });
  },

  /** Of each chart, by how many pixels it is narrower than its place. */
  chartGaps() {
    return [...document.querySelectorAll('.chart')].map(chart => {
      return chart.clientWidth - chart.querySelector('canvas').clientWidth;
    });
  },

  /** Of each bar, by how many pixels its parts together are narrower than it, and how many of them cannot be told from the page. */
  bars() {
    const page = getComputedStyle(document.body).backgroundColor;
    return [...document.querySelectorAll('.bar')].map(bar => {
      const parts = [...bar.querySelectorAll('.part')];
      const right = Math.max(...parts.map(part => part.getBoundingClientRect().right));
      const unseen = parts.filter(part => getComputedStyle(part).fill === page).length;
      return { gap: Math.round(bar.getBoundingClientRect().right - right), unseen };
    });
  },

  /** By how many pixels something on the page is wider than it, but for what scrolls by itself. */
  overflow() {
    const { scrollWidth } = document.documentElement;
    const figures = [...document.querySelectorAll('figure, p, h1, h2')];
    return Math.max(scrollWidth, ...figures.map(one => one.getBoundingClientRect().right)) - innerWidth;
  },

  /** What the keyboard has to reach. */
  stops() {
    const visible = [...document.querySelectorAll('[tabindex], summary')].filter(one =>
      one.checkVisibility(),
    );
    return visible.map(nameOf);
  },

  /** What it has reached, if that is to be seen. */
  focused() {
    const { activeElement } = document;
    if (activeElement === document.body) return undefined;
    return getComputedStyle(activeElement).outlineStyle === 'none' ? 'unseen' : nameOf(activeElement);
  },

  /** What is wrong by the Web Content Accessibility Guidelines, with every table open. */
  async violations() {
    for (const details of document.querySelectorAll('details')) details.open = true;
    // Labels and numbers are too short to be looked at, so here are words in their colours.
    const words = [0, 1, 2, 3, 4, 5].map(i => {
      return `<span style="color: var(--series-${i})">a word</span> <b style="--hue: var(--series-${i})">a word</b>`;
    });
    document
      .querySelector('main')
      .insertAdjacentHTML('beforeend', `<div class="key">${words.join(' ')}</div>`);
    const { violations } = await axe.run({ resultTypes: ['violations'] });
    return violations.flatMap(({ id, nodes }) =>
      nodes.map(({ html, failureSummary }) => `${id}: ${html}\n${failureSummary}`),
    );
  },
};

function nameOf(element) {
  const caption = element.closest('figure')?.querySelector('figcaption');
  return `${element.tagName} ${caption?.textContent ?? element.ariaLabel}`;
}

function pixelsOf(canvas) {
  return canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
}

function rgbOf(property) {
  const context = new OffscreenCanvas(1, 1).getContext('2d');
  context.fillStyle = getComputedStyle(document.documentElement).getPropertyValue(property);
  context.fillRect(0, 0, 1, 1);
  return context.getImageData(0, 0, 1, 1).data;
}

function has(pixels, colour) {
  for (let at = 0; at < pixels.length; at += 4)
    if ([0, 1, 2, 3].every(i => Math.abs(pixels[at + i] - colour[i]) < 8)) return true;
  return false;
}
