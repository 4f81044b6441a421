// The page of `moe-kernels report` in a real browser: drawn, readable and reachable, in light and dark, wide and narrow.

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { type Browser, chromium, type Page } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { renderReport } from '../../bench/report/page.ts';
import type { ReportedProfile, ReportedResult } from '../../bench/report/read.ts';
import { PASSES } from '../../bench/shapes.ts';
import { RESULT } from '../support/bench-result.ts';
import { PROFILE } from '../support/profile-result.ts';
import { findBrowser } from './browser.ts';

const VERDICTS = [
  ['slower', 2],
  ['faster', 0.5],
  ['same', 1],
] as const;
const RESULTS = [1, 16, 512].flatMap((tokens, i) =>
  [1, 2].flatMap(threads =>
    PASSES.map((pass, j): ReportedResult => {
      // No line upon another.
      const medianMs = tokens * (2 + j + threads / 4);
      const [verdict, ratio] = VERDICTS[i]!;
      return {
        ...{ ...RESULT, tokens, threads, pass, file: 'run.jsonl' },
        ...{
          medianMs,
          floorMs: medianMs / 2,
          tflops: 2 / (i + j + 1),
          bytes: RESULT.bytes * (1 + 3 * i),
        },
        baseline: { medianMs: medianMs / ratio, ratio, verdict },
      };
    }),
  ),
);
const PROFILES = [1, 16].map((tokens): ReportedProfile => ({ ...PROFILE, tokens, file: 'run.jsonl' }));
const CHARTS = 8;

const folder = mkdtempSync(join(tmpdir(), 'moe-kernels-page-'));
const file = join(folder, 'page.html');
const url = pathToFileURL(file).href;
let browser: Browser;

beforeAll(async () => {
  writeFileSync(file, renderReport(RESULTS, PROFILES));
  // Its sandbox needs another user than root.
  const args = process.getuid?.() === 0 ? ['--no-sandbox'] : [];
  browser = await chromium.launch({ executablePath: findBrowser()!, args });
});
afterAll(async () => {
  await browser.close();
  rmSync(folder, { recursive: true });
});

describe.each([
  ['light', 1280],
  ['light', 360],
  ['dark', 1280],
  ['dark', 360],
] as const)('%s, %i pixels wide', (colorScheme, width) => {
  let page: Page;
  const complaints: string[] = [];
  const requests: string[] = [];

  beforeAll(async () => {
    // What it shows at last it has to come to from the other scheme and another width.
    const before = colorScheme === 'light' ? 'dark' : 'light';
    page = await browser.newPage({ colorScheme: before, viewport: { width: 800, height: 900 } });
    await page.addInitScript({ path: createRequire(import.meta.url).resolve('axe-core/axe.min.js') });
    await page.addInitScript({ path: join(import.meta.dirname, 'inspect.client.js') });
    page.on('console', message => complaints.push(message.text()));
    page.on('pageerror', error => complaints.push(error.message));
    page.on('request', request => requests.push(request.url()));
    await page.goto(url);
    await page.emulateMedia({ colorScheme });
    await page.setViewportSize({ width, height: 900 });
    // A turn in which it measures itself, and one in which it has drawn.
    await page.evaluate('new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))');
  });
  afterAll(() => page.close());

  test('draws every chart, as wide as there is place', async () => {
    expect(await page.evaluate('inspect.undrawn()')).toEqual([]);
    expect(await page.evaluate('inspect.chartGaps()')).toEqual(Array(CHARTS).fill(0));
    expect(await page.evaluate('inspect.bars()')).toEqual(PROFILES.map(() => ({ gap: 0, unseen: 0 })));
    expect(await page.evaluate('inspect.overflow()')).toBeLessThanOrEqual(0);
  });

  test('the keyboard reaches tables and what opens them', async () => {
    const stops = await page.evaluate<string[]>('inspect.stops()');
    const reached: unknown[] = [];
    for (const _ of stops) {
      await page.keyboard.press('Tab');
      reached.push(await page.evaluate('inspect.focused()'));
    }
    expect(reached).toEqual(stops);
    expect(stops).toHaveLength(2 + CHARTS + 1);
    await page.keyboard.press('Enter');
    await page.keyboard.press('Tab');
    const name = stops.at(-1)!.replace('SUMMARY', 'DIV');
    expect(await page.evaluate('inspect.focused()')).toBe(name);
  });

  test('text stands out, and what else the guidelines for accessibility ask', async () => {
    expect(await page.evaluate('inspect.violations()')).toEqual([]);
  });

  test('fetches nothing and complains of nothing', () => {
    expect(requests).toEqual([url]);
    expect(complaints).toEqual([]);
  });
});
