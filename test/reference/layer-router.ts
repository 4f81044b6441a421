// The router of a layer, whole: matrices, averaging and noise, choice and weights, and back to x and its parameters.

import { referenceScoredLogits } from './logits.ts';
import type { ReferenceConfig, ReferenceOptions } from './moe.ts';
import { FLOAT64, type Values } from './precision.ts';
import { referenceExpertScaleBackward, referenceRoute, referenceRouteBackward } from './route.ts';
import type { ReferenceRouter } from './router.ts';
import { projectRouter } from './router-projection.ts';

type Wide = { [name: string]: Float64Array };

export interface RoutedLayer {
  /** [T, K] */
  indices: Int32Array;
  weights: Float64Array;
  /** [T, K]; absent with given weights */
  dropped?: Int32Array;
  /** [T, E'], as they were scored; absent with given weights */
  logits?: Float64Array;
  noiseLogits?: Float64Array;
  /** Absent with given weights. `dx` is not rounded: it is part of a sum. */
  backward?(dWeights: Float64Array, extra: { dLogits?: Values; dNoiseLogits?: Values }): RouterGradients;
}

export interface RouterGradients {
  /** [T, E'], of x · weightᵀ */
  dLogits: Float64Array;
  /** [T, E'], of x · noiseWeightᵀ */
  dNoiseLogits?: Float64Array;
  dx: Float64Array;
  /** By published name. */
  gradients: Wide;
}

/** The name of a router's parameter as models publish it, from that of the op's argument. */
const publishedName = (argument: string) =>
  `router.${argument.replace(/[A-Z]/g, letter => `_${letter.toLowerCase()}`)}`;

export function routeLayer(
  config: ReferenceConfig,
  parameters: Wide,
  x: Float64Array,
  options: ReferenceOptions,
): RoutedLayer {
  const { topK, hidden, loraScale, identityExperts = 0 } = config;
  const { routing, precision = FLOAT64, mask, sequenceLength, step } = options;
  if (routing?.weights) {
    return { indices: Int32Array.from(routing.indices), weights: Float64Array.from(routing.weights) };
  }
  const named = (argument: string) => parameters[publishedName(argument)];
  const router: ReferenceRouter = {
    ...config.router,
    ...{ topK, identityExperts, mask, sequenceLength, step },
    ...{ selectionBias: named('selectionBias'), expertScale: named('expertScale') },
  };
  const matrices = {
    ...{ weight: named('weight')!, bias: named('bias'), noiseWeight: named('noiseWeight') },
    ...{ loraA: named('loraA'), loraB: named('loraB'), loraScale },
  };
  const projected = projectRouter(router, matrices, x, hidden, precision);
  const width = config.experts + identityExperts;
  const scored = referenceScoredLogits(router, projected.logits, projected.noiseLogits, width, precision);
  const { logits, noiseLogits } = scored;
  const { indices, weights, dropped } = referenceRoute(router, logits, width, routing, precision);
  return {
    ...{ indices, weights, dropped, logits, noiseLogits },
    backward: (dWeights, extra) => {
      const routed = [router, logits, width, { indices, dropped }, dWeights, precision] as const;
      const own = referenceRouteBackward(...routed).map((d, i) => d + (extra.dLogits?.[i] ?? 0));
      const raw = scored.toRaw({
        dLogits: own,
        dNoiseLogits: extra.dNoiseLogits && Float64Array.from(extra.dNoiseLogits),
      });
      const { dx, gradients } = projected.backward(raw);
      const byName = Object.entries(gradients).map(([name, gradient]) => [publishedName(name), gradient]);
      if (router.expertScale) byName.push(['router.expert_scale', referenceExpertScaleBackward(...routed)]);
      return { ...raw, dx, gradients: Object.fromEntries(byName) };
    },
  };
}
