// The cases of one layer: a workload made, then with each number of threads checked against the reference and timed, pass by pass.

import type { Comparison } from '../src/compare.ts';
import { setThreads, trimMemory } from '../src/device.ts';
import { DTYPES } from '../src/dtype.ts';
import type { MoeGradients } from '../src/ops/moe.ts';
import type { BenchCase } from './campaign.ts';
import { capturedCall } from './captured-call.ts';
import { type Ceilings, ceilingsOf, floorMs } from './ceilings.ts';
import { checkWorkload } from './check.ts';
import { checkStage } from './check-stage.ts';
import { clockOf, timeOn } from './clock.ts';
import { groupBy } from './group-by.ts';
import { machineOf } from './machine.ts';
import { letSignalsIn, type Measured, type MeasureOptions, measure, type Timing } from './measure.ts';
import { checkMemory } from './memory.ts';
import type { BenchResult } from './result.ts';
import { routedShape, workloadOptions } from './routed-shapes.ts';
import { bytes, flops, type Pass } from './shapes.ts';
import type { StageCost } from './stage-costs.ts';
import { costOfStage, StageInputs } from './stages.ts';
import {
  disposeForward,
  disposeGradients,
  loadOfExperts,
  Workload,
  type WorkloadForward,
} from './workload.ts';

export interface BenchOptions extends MeasureOptions {
  /** Called before each case is checked or measured. */
  readonly onCase?: (next: BenchCase) => void;
}

/** A result that is not right is not worth timing. */
export class WrongResult extends Error {
  override readonly name = 'WrongResult';
  readonly comparisons: readonly Comparison[];

  constructor(comparisons: readonly Comparison[]) {
    const wrong = comparisons.filter(({ holds }) => !holds);
    const list = wrong.map(
      ({ name, error, bound }) => `${name} ${error.toExponential(1)} > ${bound.toExponential(1)}`,
    );
    super(`the result differs from the reference, so it is not timed: ${list.join(', ')}`);
    this.comparisons = comparisons;
  }
}

/** @throws MoeError ERR_OUT_OF_MEMORY if the layer that the cases share would not fit */
export function checkLayerFits(cases: readonly BenchCase[]): void {
  const [layer] = cases as readonly [BenchCase];
  checkMemory(layer.shape, routedShape(layer), {
    backward: needsBackward(cases),
    elementBytes: DTYPES[layer.dtype].bytes,
  });
}

/**
 * Yields the results of cases that share a layer, each once the layer's outputs have been found right.
 * @throws WrongResult if they are not; MoeError, ERR_OUT_OF_MEMORY among them if the layer would not fit
 */
export async function* runBench(
  cases: readonly BenchCase[],
  options: BenchOptions = {},
): AsyncGenerator<BenchResult> {
  checkLayerFits(cases);
  const { dtype, device } = cases[0]!;
  using workload = new Workload(cases[0]!, dtype, device, workloadOptions(cases[0]!));
  for (const group of groupBy(cases, ({ threads }) => threads)) {
    setThreads(group[0]!.threads);
    options.onCase?.(group[0]!);
    await letSignalsIn();
    const passes = group.filter(({ stage }) => stage === undefined);
    if (passes.length > 0) await checkResult(workload, needsBackward(passes));
    using stages = passes.length < group.length ? new StageInputs(workload) : undefined;
    for (const { stage } of group) if (stage) refuseWrong(await checkStage(stages!, stage));
    const ceilings = ceilingsOf(device, dtype);
    const ofRouter = group.some(inFloat32) ? ceilingsOf(device, 'float32') : ceilings;
    trimMemory();
    const expertLoad = loadOfExperts(workload);
    for (const one of group) {
      options.onCase?.(one);
      const measured = one.stage ? stages!.measured(one.stage) : measuredPass(workload, one.pass);
      const timing = await timeCase(one, measured, options);
      yield resultOf(one, timing, inFloat32(one) ? ofRouter : ceilings, expertLoad);
    }
  }
}

/** The router's products are, whatever the layer's dtype. */
const inFloat32 = ({ stage }: BenchCase) => stage === 'route';

async function timeCase(
  { device, graph }: BenchCase,
  measured: Measured,
  options: MeasureOptions,
): Promise<Timing> {
  if (!graph) return measure(measured, options);
  using captured = capturedCall(device, measured);
  return await measure(captured, options);
}

function needsBackward(cases: readonly BenchCase[]): boolean {
  return cases.some(({ pass }) => pass !== 'forward');
}

/** @throws WrongResult if the layer's outputs, or with `backward` its gradients, are not right */
export async function checkResult(workload: Workload, backward: boolean): Promise<void> {
  refuseWrong(await checkWorkload(workload, backward));
  trimMemory();
}

function refuseWrong(comparisons: readonly Comparison[]): void {
  if (!comparisons.every(({ holds }) => holds)) throw new WrongResult(comparisons);
}

function resultOf(
  one: BenchCase,
  timing: Timing,
  ceilings: Ceilings,
  expertLoad: readonly number[],
): BenchResult {
  const { shape, dtype, device, pass, stage, threads, tf32, graph, ...layer } = one;
  const cost = costOf(one, expertLoad);
  return {
    ...{ shape, dtype, device, pass, ...(stage && { stage }), threads },
    ...{ ...(tf32 && { tf32 }), ...(graph && { graph }) },
    ...{ ...timing, clock: clockOf(device) },
    ...{ flops: cost.flops, bytes: cost.bytes, tflops: cost.flops / (timing.medianMs * 1e9) },
    ...{ floorMs: floorMs(cost, ceilings), ...ceilings },
    ...layer,
    ...{ expertLoad, ...machineOf(device) },
    date: new Date().toISOString(),
  };
}

function costOf(one: BenchCase, expertLoad: readonly number[]): Pick<StageCost, 'flops' | 'bytes'> {
  const touchedExperts = expertLoad.filter(rows => rows > 0).length;
  const rows = expertLoad.reduce((a, b) => a + b);
  const elementBytes = DTYPES[one.dtype].bytes;
  if (one.stage)
    return costOfStage(one.stage, { shape: routedShape(one), elementBytes, touchedExperts, rows });
  return {
    flops: flops(one, one.pass, rows),
    bytes: bytes(one, one.pass, elementBytes, touchedExperts, rows),
  };
}

/** A pass as it is timed, and what it made last. */
export interface MeasuredPass extends Measured {
  made(): { readonly forward: WorkloadForward; readonly gradients?: MoeGradients };
}

/** What is timed in a pass: `backward` runs after a forward pass that is not timed. */
export function measuredPass(workload: Workload, pass: Pass): MeasuredPass {
  let forward: WorkloadForward | undefined;
  let gradients: MoeGradients | undefined;
  const runForward = () => {
    forward = workload.forward(pass === 'forward' ? 'nothing' : 'activations');
  };
  const runBackward = () => {
    gradients = workload.backward(forward!.saved!);
  };
  const steps = {
    forward: { untimed: [], timed: [runForward] },
    backward: { untimed: [runForward], timed: [runBackward] },
    both: { untimed: [], timed: [runForward, runBackward] },
  }[pass];
  const inOrder = (calls: readonly (() => void)[]) => () => {
    for (const call of calls) call();
  };
  return {
    prepare: inOrder(steps.untimed),
    run: inOrder(steps.timed),
    time: call => timeOn(workload.device, call),
    made: () => ({ forward: forward!, gradients }),
    clear: () => {
      disposeForward(forward!);
      if (gradients) disposeGradients(gradients);
    },
  };
}
