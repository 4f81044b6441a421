// Single ops of a layer, as the layer has them one after the other: their inputs made, ready to be run by themselves.

import { checkOneOf } from '../src/check.ts';
import { badArgument } from '../src/errors.ts';
import { groupedMatmul, groupedMatmulDgrad, groupedMatmulWgrad } from '../src/ops/grouped-matmul.ts';
import { dispatch, permute, unpermute } from '../src/ops/permute.ts';
import { type Routing, route, routingTensors } from '../src/ops/route.ts';
import type { Tensor } from '../src/tensor.ts';
import { PASSES, type Pass, slotCount } from './shapes.ts';
import { type LayerRun, type StageCost, stageCosts } from './stage-costs.ts';
import type { Workload } from './workload.ts';

/** By what they do; `dgrad` and `wgrad` are those of the up projection. */
export const STAGES = ['route', 'dispatch', 'up', 'down', 'combine', 'dgrad', 'wgrad'] as const;
export type Stage = (typeof STAGES)[number];

/** The pass that a stage is part of. */
export function passOf(stage: Stage): Pass {
  return stage === 'dgrad' || stage === 'wgrad' ? 'backward' : 'forward';
}

/**
 * What is measured of a layer: passes, both unless said, or stages.
 * @param names what the sentence of an error begins with
 * @throws MoeError ERR_INVALID_ARGUMENT for a name that is unknown, or passes beside stages
 */
export function partsOf(
  names: { readonly pass: string; readonly stage: string },
  passes: readonly string[] | undefined,
  stages: readonly string[] | undefined,
): { passes: Pass[]; stages?: Stage[] } {
  if (stages === undefined)
    return { passes: (passes ?? ['both']).map(pass => checkOneOf(names.pass, pass, PASSES)) };
  if (passes === undefined)
    return { passes: [], stages: stages.map(stage => checkOneOf(names.stage, stage, STAGES)) };
  const expected = 'nothing beside stages, each of which is part of one pass';
  throw badArgument('ERR_INVALID_ARGUMENT', names.pass, expected, passes.join());
}

/** What stages take in, each what the one before made; as its own gradient dgrad and wgrad take the pre-activation. */
export class StageInputs implements Disposable {
  readonly workload: Workload;
  readonly routing: Routing;
  /** [R, H], sorted by expert */
  readonly rows: Tensor;
  readonly dispatch: ReturnType<typeof dispatch>;
  /** [R, I] */
  readonly activated: Tensor;
  /** [R, 2I] gated, or [R, I] */
  readonly preActivation: Tensor;
  /** [R, H] */
  readonly outputs: Tensor;

  constructor(workload: Workload) {
    const { x, router } = workload;
    this.workload = workload;
    this.routing = route({ x, ...router });
    const permuted = permute({ x, ...this.#choice() });
    this.rows = permuted.rows;
    this.dispatch = permuted.dispatch;
    const up = groupedMatmul({ ...this.#up(), savePreActivation: true });
    this.activated = up.out;
    this.preActivation = up.preActivation!;
    this.outputs = groupedMatmul(this.#down()).out;
  }

  /** Enqueues a stage and returns what it makes. */
  run(stage: Stage): Tensor[] {
    const { rows, preActivation, workload, routing } = this;
    const { offsets } = this.dispatch;
    const { x, router } = workload;
    switch (stage) {
      case 'route':
        return routingTensors(route({ x, ...router }));
      case 'dispatch':
        return Object.values(dispatch(this.#choice()));
      case 'up':
        return [groupedMatmul(this.#up()).out];
      case 'down':
        return [groupedMatmul(this.#down()).out];
      case 'combine':
        return [unpermute({ rows: this.outputs, dispatch: this.dispatch, weights: routing.weights, x })];
      case 'dgrad':
        return [groupedMatmulDgrad({ dOut: preActivation, weight: this.#up().weight, offsets })];
      case 'wgrad':
        return [groupedMatmulWgrad({ dOut: preActivation, rows, offsets }).dWeight];
    }
  }

  dispose(): void {
    const { routing, rows, activated, preActivation, outputs } = this;
    const tensors = [...routingTensors(routing), ...Object.values(this.dispatch)];
    for (const tensor of [...tensors, rows, activated, preActivation, outputs]) tensor.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  #choice() {
    const { indices, dropped, run } = this.routing;
    const { shape, design } = this.workload;
    const { identityExperts } = design;
    return { indices, dropped, rows: run.rows, experts: shape.experts, identityExperts };
  }

  #up() {
    const { shape, design, experts } = this.workload;
    const { activationLimit, activationAlpha, activationUpShift } = design;
    return {
      ...{ rows: this.rows, offsets: this.dispatch.offsets, activation: shape.activation },
      ...{ weight: (experts.gateUp ?? experts.up)!, bias: experts.gateUpBias ?? experts.upBias },
      ...{ activationLimit, activationAlpha, activationUpShift },
    };
  }

  #down() {
    const { down, downBias } = this.workload.experts;
    return { rows: this.activated, offsets: this.dispatch.offsets, weight: down, bias: downBias };
  }
}

/** Of what a stage does in a layer, but for `up` and `wgrad`, which read rows that are gathered already. */
export function costOfStage(stage: Stage, run: Omit<LayerRun, 'saves'>): StageCost {
  const { route, dispatch, expertsForward, expertsBackward } = stageCosts({ ...run, saves: false });
  const { tokens, hidden } = run.shape;
  const { rows = slotCount(run.shape) } = run;
  const gathered = (cost: StageCost) => ({
    ...cost,
    bytes: cost.bytes + run.elementBytes * (rows - tokens) * hidden,
  });
  switch (stage) {
    case 'route':
      return { ...route!.logits!, bytes: sumOfBytes(route!) };
    case 'dispatch':
      return { flops: 0, bytes: sumOfBytes(dispatch!) };
    case 'up':
      return gathered(expertsForward!.up!);
    case 'down':
    case 'combine':
      return expertsForward![stage]!;
    case 'dgrad':
      return expertsBackward!.dRows!;
    case 'wgrad':
      return gathered(expertsBackward!.dUp!);
  }
}

function sumOfBytes(stages: Readonly<Record<string, StageCost>>): number {
  return Object.values(stages).reduce((total, { bytes }) => total + bytes, 0);
}
