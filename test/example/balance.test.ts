// What balancing is for: without it few experts take nearly all of a text; with the loss or the bias, every one has its part.

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import type { RouterName } from '../../examples/train-bytes/routers.ts';
import { REPOSITORY } from '../support/child.ts';
import { train } from './support/train.ts';

const EXPERTS = 8;
const SEEDS = [1, 2, 3];
const bytes = readFileSync(join(REPOSITORY, 'node_modules/typescript/lib/lib.dom.d.ts'));

/** The shares of all experts, after short runs from each seed. */
async function sharesOf(router: RouterName): Promise<number[][]> {
  const shares: number[][] = [];
  for (const seed of SEEDS) {
    const sizes = { context: 8, embedding: 8, hidden: 32, intermediate: 32, sequence: 8 };
    const config = { ...sizes, experts: EXPERTS, seed };
    const { usage } = await train(router, { bytes, config, steps: 300, tokens: 128, validationBytes: 4096 });
    shares.push(usage.shares);
  }
  return shares;
}

/** Experts with less than a quarter of an even share, over all runs. */
const starved = (shares: number[][]) => shares.flat().filter(share => share < 1 / EXPERTS / 4).length;
/** How far the most used expert is above the mean, averaged over the runs. */
const violation = (shares: number[][]) =>
  shares.reduce((sum, run) => sum + Math.max(...run) * EXPERTS - 1, 0) / shares.length;

it('without balancing, experts starve beside others that have several times their share', async () => {
  const shares = await sharesOf('top-k');
  expect(starved(shares), JSON.stringify(shares)).toBeGreaterThanOrEqual(3);
  expect(violation(shares), JSON.stringify(shares)).toBeGreaterThan(1.2);
});

it.each([
  { router: 'aux-loss', bound: 1 },
  { router: 'selection-bias', bound: 0.5 },
] as const)('with $router, none does', async ({ router, bound }) => {
  const shares = await sharesOf(router);
  expect(starved(shares), JSON.stringify(shares)).toBeLessThanOrEqual(1);
  expect(violation(shares), JSON.stringify(shares)).toBeLessThan(bound);
});
