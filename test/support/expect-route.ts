// Holds the routing of given logits against the float64 reference, forward and backward.

import { expect } from 'vitest';
import { type DeviceName, type RouterOptions, route, routeBackward } from '../../src/index.ts';
import { type LogitGradients, noiseOf, referenceScoredLogits } from '../reference/logits.ts';
import { referenceExpertScaleBackward, referenceRoute, referenceRouteBackward } from '../reference/route.ts';
import type { ReferenceRouter } from '../reference/router.ts';
import { expectClose } from './compare.ts';
import { seeded } from './random.ts';
import { type CallInputs, callInputs, optionsOf } from './router-call.ts';
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
  call: CallInputs;
  /** T, E' and K */
  tokens: number;
  width: number;
  slots: number;
  logits: Float32Array;
  noiseLogits?: Float32Array;
  selectionBias?: Float32Array;
  expertScale?: Float32Array;
  dWeights: Float32Array;
  /** Further gradients of the logits and noise logits. */
  extra: Float32Array;
  extraNoise?: Float32Array;
}

function routeInputs(
  variant: RouterVariant,
  { tokens, experts, topK, identityExperts = 0 }: RouteSize,
): RouteInputs {
  const { selectionBias, expertScale } = variant;
  const options = optionsOf(variant);
  const width = experts + identityExperts;
  const slots = options.expertChoice ? width : topK;
  const random = seeded(experts);
  const isNoisy = options.noise?.kind === 'noisyTopK';
  return {
    router: options.expertChoice ? options : { ...options, topK, identityExperts },
    call: callInputs(variant, { tokens, topK, width }),
    ...{ tokens, width, slots },
    logits: random.normals(tokens * width, 1.5),
    dWeights: random.normals(tokens * slots),
    extra: random.normals(tokens * width, 0.3),
    selectionBias: selectionBias ? random.normals(width, 0.3) : undefined,
    expertScale: expertScale ? random.normals(experts).map(value => 1 + value / 2) : undefined,
    noiseLogits: isNoisy ? random.normals(tokens * width) : undefined,
    extraNoise: isNoisy ? random.normals(tokens * width, 0.3) : undefined,
  };
}

function runRoute(inputs: RouteInputs, device: DeviceName) {
  const { router, call, tokens, width, slots, selectionBias, expertScale, extraNoise } = inputs;
  const floats = (values: Float32Array | undefined, ...shape: number[]) =>
    values && upload(values, shape, 'float32', device);
  const scale = floats(expertScale, expertScale?.length ?? 0);
  const logits = floats(inputs.logits, tokens, width)!;
  const routing = route({
    ...router,
    logits,
    noiseLogits: floats(inputs.noiseLogits, tokens, width),
    selectionBias: floats(selectionBias, width),
    expertScale: scale,
    ...{ step: call.step, sequenceLength: call.sequenceLength },
    mask: call.mask && upload(call.mask, [tokens], 'int32', device),
    indices: call.indices && upload(call.indices, [tokens, slots], 'int32', device),
  });
  const isUnchanged = routing.logits === logits;
  const dWeights = floats(inputs.dWeights, tokens, slots);
  const dLogits = floats(inputs.extra, tokens, width);
  const dNoiseLogits = routing.noiseLogits && floats(extraNoise, tokens, width);
  const args = { routing, expertScale: scale };
  const own = download(routeBackward({ ...args, dWeights }));
  const both = download(routeBackward({ ...args, dWeights, dLogits, dNoiseLogits }));
  const extraAlone = download(routeBackward({ ...args, dLogits, dNoiseLogits }));
  return { own, both, extraAlone, isUnchanged, ...download(routing) };
}

type RouteRun = ReturnType<typeof runRoute>;

/** The logits that were scored, and the noise logits: of the reference, for the way back. */
function expectScored(inputs: RouteInputs, router: ReferenceRouter, actual: RouteRun) {
  const raw = Float64Array.from(inputs.logits);
  const rawNoise = inputs.noiseLogits && Float64Array.from(inputs.noiseLogits);
  const scored = referenceScoredLogits(router, raw, rawNoise, inputs.width);
  expectClose('logits', actual.logits, scored.logits, ROUTING_BOUND);
  const isUnchanged = !noiseOf(router) && router.level !== 'sequence';
  expect(actual.isUnchanged, 'the given logits are scored').toBe(isUnchanged);
  if (scored.noiseLogits) expectClose('noise logits', actual.noiseLogits!, scored.noiseLogits, ROUTING_BOUND);
  return scored;
}

/** Everything that `route` and `routeBackward` return for random logits of this size. */
export function expectRoute(variant: RouterVariant, size: RouteSize, device: DeviceName): void {
  const inputs = routeInputs(variant, size);
  const { width, call, selectionBias, expertScale } = inputs;
  const actual = runRoute(inputs, device);

  const router: ReferenceRouter = { ...inputs.router, ...call, selectionBias, expertScale };
  const scored = expectScored(inputs, router, actual);
  // From the logits that were found on, every choice is exact.
  const exact = referenceRoute(router, actual.logits, width, call.indices);
  expect(actual.indices, 'indices').toEqual(Float64Array.from(exact.indices));
  expectClose('weights', actual.weights, exact.weights, ROUTING_BOUND);
  expect(actual.counts, 'counts').toEqual(Float64Array.from(exact.counts));
  const mayDrop = router.capacity || router.topP || router.expertChoice || router.mask;
  expect(actual.dropped, 'dropped').toEqual(mayDrop && Float64Array.from(exact.dropped));

  const dWeights = Float64Array.from(inputs.dWeights);
  const backward = [router, actual.logits, width, exact, dWeights] as const;
  const own = referenceRouteBackward(...backward);
  const scale = Math.hypot(...dWeights);
  const extra = Float64Array.from(inputs.extra);
  const dNoiseLogits = inputs.extraNoise && Float64Array.from(inputs.extraNoise);
  expectLogitGradients('own', actual.own, scored.toRaw({ dLogits: own }), scale);
  const both = { dLogits: own.map((d, i) => d + extra[i]!), dNoiseLogits };
  expectLogitGradients('with extra gradients', actual.both, scored.toRaw(both), scale);
  expectLogitGradients('extra alone', actual.extraAlone, scored.toRaw({ dLogits: extra, dNoiseLogits }), 0);
  if (actual.isUnchanged) expect(actual.extraAlone.dLogits).toEqual(extra);
  if (!expertScale) {
    expect(actual.own.dExpertScale).toBeUndefined();
    return;
  }
  const dScale = referenceExpertScaleBackward(...backward);
  expectGradient('dExpertScale', actual.own.dExpertScale!, dScale, scale);
  expectGradient('dExpertScale with an extra gradient', actual.both.dExpertScale!, dScale, scale);
  expect(actual.extraAlone.dExpertScale).toEqual(new Float64Array(dScale.length));
}

function expectLogitGradients(
  name: string,
  found: Pick<RouteRun['own'], 'dLogits' | 'dNoiseLogits'>,
  wanted: LogitGradients,
  scale: number,
): void {
  expectGradient(`${name}: dLogits`, found.dLogits, wanted.dLogits, scale);
  expect(found.dNoiseLogits === undefined, `${name}: no dNoiseLogits`).toBe(
    wanted.dNoiseLogits === undefined,
  );
  if (wanted.dNoiseLogits)
    expectGradient(`${name}: dNoiseLogits`, found.dNoiseLogits!, wanted.dNoiseLogits, scale);
}

/** Softmax of one expert is constant: its gradient is zero up to the roundings of what cancels, of size `scale`. */
function expectGradient(name: string, found: Float64Array, wanted: Float64Array, scale: number): void {
  expect(found.length, name).toBe(wanted.length);
  const error = Math.hypot(...found.map((value, i) => value - wanted[i]!));
  const size = Math.hypot(...wanted) + scale;
  if (!(error <= ROUTING_BOUND * size)) expect.fail(`${name}: error ${error} against ${size}`);
}
