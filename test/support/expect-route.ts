// Holds the routing of given logits against the float64 reference, forward and backward.

import { expect } from 'vitest';
import { type DeviceName, type RouterOptions, route, routeBackward } from '../../src/index.ts';
import { referenceExpertScaleBackward, referenceRoute, referenceRouteBackward } from '../reference/route.ts';
import type { ReferenceRouter } from '../reference/score.ts';
import { expectClose } from './compare.ts';
import { seeded } from './random.ts';
import type { RouterVariant } from './routers.ts';
import { download, upload } from './tensors.ts';

/** What float32 routing of given logits may be off: a few roundings and an exponential. */
export const ROUTING_BOUND = 1e-6;

export interface RouteSize {
  tokens: number;
  experts: number;
  topK: number;
  /** Beside `experts`. Default 0. */
  identityExperts?: number;
}

interface RouteInputs {
  router: RouterOptions;
  /** E' */
  width: number;
  logits: Float32Array;
  selectionBias?: Float32Array;
  expertScale?: Float32Array;
  dWeights: Float32Array;
  /** A further gradient of the logits. */
  extra: Float32Array;
}

function routeInputs(
  variant: RouterVariant,
  { tokens, experts, topK, identityExperts = 0 }: RouteSize,
): RouteInputs {
  const { selectionBias, expertScale, ...options } = variant;
  const width = experts + identityExperts;
  const random = seeded(experts);
  return {
    router: { ...options, topK, identityExperts },
    width,
    logits: random.normals(tokens * width, 1.5),
    dWeights: random.normals(tokens * topK),
    extra: random.normals(tokens * width, 0.3),
    selectionBias: selectionBias ? random.normals(width, 0.3) : undefined,
    expertScale: expertScale ? random.normals(experts).map(value => 1 + value / 2) : undefined,
  };
}

function runRoute(inputs: RouteInputs, { tokens, topK }: RouteSize, device: DeviceName) {
  const { router, width, selectionBias, expertScale } = inputs;
  const scale = expertScale && upload(expertScale, [expertScale.length], 'float32', device);
  const routing = route({
    ...router,
    logits: upload(inputs.logits, [tokens, width], 'float32', device),
    selectionBias: selectionBias && upload(selectionBias, [width], 'float32', device),
    expertScale: scale,
  });
  const dWeights = upload(inputs.dWeights, [tokens, topK], 'float32', device);
  const dLogits = upload(inputs.extra, [tokens, width], 'float32', device);
  const args = { routing, expertScale: scale };
  const own = download(routeBackward({ ...args, dWeights }));
  const both = download(routeBackward({ ...args, dWeights, dLogits }));
  const extraAlone = download(routeBackward({ ...args, dLogits }));
  return { own, both, extraAlone, ...download(routing) };
}

function countsOf(indices: Int32Array, width: number): Float64Array {
  const counts = new Float64Array(width);
  for (const expert of indices) counts[expert]!++;
  return counts;
}

/** Everything that `route` and `routeBackward` return for random logits of this size. */
export function expectRoute(variant: RouterVariant, size: RouteSize, device: DeviceName): void {
  const inputs = routeInputs(variant, size);
  const { width, extra } = inputs;
  const actual = runRoute(inputs, size, device);

  const { selectionBias, expertScale } = inputs;
  const router: ReferenceRouter = { ...inputs.router, selectionBias, expertScale };
  const logits = Float64Array.from(inputs.logits);
  const exact = referenceRoute(router, logits, width);
  expect(actual.indices).toEqual(Float64Array.from(exact.indices));
  expectClose('weights', actual.weights, exact.weights, ROUTING_BOUND);
  expect(actual.counts).toEqual(countsOf(exact.indices, width));
  expect(actual.dropped).toEqual(router.capacity && Float64Array.from(exact.dropped));

  const dWeights = Float64Array.from(inputs.dWeights);
  const backward = [router, logits, width, exact.indices, dWeights] as const;
  const expected = referenceRouteBackward(...backward);
  const expectGradient = (name: string, found: Float64Array, wanted: Float64Array) => {
    expect(found.length, name).toBe(wanted.length);
    const error = Math.hypot(...found.map((value, i) => value - wanted[i]!));
    // Softmax of one expert is constant: its gradient is zero up to the roundings of what cancels.
    const scale = Math.hypot(...wanted) + Math.hypot(...dWeights);
    if (!(error <= ROUTING_BOUND * scale)) expect.fail(`${name}: error ${error} against ${scale}`);
  };
  const withExtra = expected.map((value, i) => value + extra[i]!);
  expectGradient('dLogits', actual.own.dLogits, expected);
  expectGradient('dLogits with an extra gradient', actual.both.dLogits, withExtra);
  expect(actual.extraAlone.dLogits).toEqual(Float64Array.from(extra));
  if (!expertScale) {
    expect(actual.own.dExpertScale).toBeUndefined();
    return;
  }
  const dScale = referenceExpertScaleBackward(...backward);
  expectGradient('dExpertScale', actual.own.dExpertScale!, dScale);
  expectGradient('dExpertScale with an extra gradient', actual.both.dExpertScale!, dScale);
  expect(actual.extraAlone.dExpertScale).toEqual(new Float64Array(dScale.length));
}
