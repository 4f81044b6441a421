// The router's options in every combination: each score × divisor × factors × groups × selection bias × capacity.

import { describe, test } from 'vitest';
import { expectRoute, type RouteSize } from '../support/expect-route.ts';
import { ALL_ROUTERS, fits, type RouterVariant } from '../support/routers.ts';
import { DEVICES } from '../support/targets.ts';

/** Groups of the second hold some identity experts and some others. */
const SIZES: RouteSize[] = [
  { tokens: 15, experts: 12, topK: 2 },
  { tokens: 9, experts: 13, identityExperts: 5, topK: 3 },
  { tokens: 9, experts: 13, identityExperts: 5, topK: 2 },
];

const scoreTitle = ({ score = 'softmax', softmaxOver }: RouterVariant) =>
  softmaxOver ? `${score} over ${softmaxOver}` : score;

describe.each(DEVICES)('every router on %s', device => {
  const scores = new Map(ALL_ROUTERS.map(router => [scoreTitle(router), router.score]));

  test.each([...scores.keys()])('%s', title => {
    for (const router of ALL_ROUTERS.filter(router => scoreTitle(router) === title)) {
      for (const size of SIZES) {
        const width = size.experts + (size.identityExperts ?? 0);
        if (fits(router, width, size.topK)) expectRoute(router, size, device);
      }
    }
  });
});
