// The router's options in every combination: each score × divisor × factors × groups × selection bias × capacity, and samples of
// those beside masks, sequences, noise, top-p, given experts and experts that choose.

import { describe, test } from 'vitest';
import { expectRoute, type RouteSize } from '../support/expect-route.ts';
import { ALL_ROUTERS, FURTHER_ROUTERS, fits, type RouterVariant, routerTitle } from '../support/routers.ts';
import { DEVICES } from '../support/targets.ts';

/** By turns. Groups of the second hold some identity experts and some others. */
const SIZES: RouteSize[] = [
  { tokens: 15, experts: 12, topK: 2 },
  { tokens: 9, experts: 13, identityExperts: 5, topK: 3 },
  { tokens: 9, experts: 13, identityExperts: 5, topK: 2 },
];

const scoreTitle = ({ score = 'softmax', softmaxOver }: RouterVariant) =>
  softmaxOver ? `${score} over ${softmaxOver}` : score;

describe.each(DEVICES)('every router on %s', device => {
  const check = (routers: readonly RouterVariant[], title: string) => {
    for (const [i, router] of routers.filter(router => scoreTitle(router) === title).entries()) {
      const fitting = SIZES.filter(size => fits(router, size));
      if (fitting.length === 0) continue;
      try {
        expectRoute(router, fitting[i % fitting.length]!, device);
      } catch (error) {
        throw new Error(`${routerTitle(router)}: ${(error as Error).message}`, { cause: error });
      }
    }
  };
  const titles = [...new Set(ALL_ROUTERS.map(scoreTitle))];

  test.each(titles)('%s', title => check(ALL_ROUTERS, title));
  test.each(titles)('%s beside what calls and capacities add', title => check(FURTHER_ROUTERS, title));
});
