// One benchmark: a workload made, checked against the reference, then timed, pass by pass.

import type { Comparison } from '../src/compare.ts';
import { backendInfo, synchronize, trimMemory } from '../src/device.ts';
import { DTYPES, type FloatDType } from '../src/dtype.ts';
import type { MoeGradients } from '../src/ops/moe.ts';
import { packageVersion } from '../src/package.ts';
import type { DeviceName } from '../src/tensor.ts';
import { floorMs, measureCeilings } from './ceilings.ts';
import { checkWorkload } from './check.ts';
import { type Measured, type MeasureOptions, measure } from './measure.ts';
import { checkMemory } from './memory.ts';
import { processorName } from './processor.ts';
import type { BenchResult } from './result.ts';
import { bytes, flops, type LayerShape, type Pass } from './shapes.ts';
import { disposeForward, disposeGradients, Workload, type WorkloadForward } from './workload.ts';

export interface BenchOptions extends MeasureOptions {
  /** What results call the shape. */
  readonly name: string;
  readonly shape: LayerShape;
  readonly dtype: FloatDType;
  readonly device: DeviceName;
  readonly passes: readonly Pass[];
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

/**
 * Yields a result for each pass, once the workload's outputs have been found right.
 * @throws WrongResult if they are not; MoeError, ERR_OUT_OF_MEMORY among them if the layer would not fit
 */
export async function* runBench(options: BenchOptions): AsyncGenerator<BenchResult> {
  const { name, shape, dtype, device, passes } = options;
  const backward = passes.some(pass => pass !== 'forward');
  checkMemory(shape, backward);
  using workload = new Workload(shape, dtype, device);
  const comparisons = await checkWorkload(workload, backward);
  if (!comparisons.every(({ holds }) => holds)) throw new WrongResult(comparisons);
  trimMemory();
  const ceilings = device === 'cpu' ? measureCeilings(dtype) : undefined;
  trimMemory();
  const expertLoad = loadOfExperts(workload);
  const touchedExperts = expertLoad.filter(rows => rows > 0).length;
  for (const pass of passes) {
    const timing = measure(measuredPass(workload, pass), options);
    const { threads, instructionSet } = backendInfo();
    const elementBytes = DTYPES[dtype].bytes;
    const cost = { flops: flops(shape, pass), bytes: bytes(shape, pass, elementBytes, touchedExperts) };
    yield {
      ...{ shape: name, dtype, device, pass, threads },
      ...timing,
      ...{ ...cost, tflops: cost.flops / (timing.medianMs * 1e9) },
      ...(ceilings && { floorMs: floorMs(cost, ceilings), ...ceilings }),
      ...shape,
      ...{ expertLoad, instructionSet, processor: processorName(), version: packageVersion() },
      date: new Date().toISOString(),
    };
  }
}

function loadOfExperts(workload: Workload): number[] {
  const forward = workload.forward('nothing');
  const load = [...(forward.routing.counts.dataSync() as Int32Array)];
  disposeForward(forward);
  return load;
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
  const toTheEnd = (calls: readonly (() => void)[]) => () => {
    for (const call of calls) call();
    synchronize(workload.device);
  };
  return {
    prepare: toTheEnd(steps.untimed),
    run: toTheEnd(steps.timed),
    made: () => ({ forward: forward!, gradients }),
    clear: () => {
      disposeForward(forward!);
      if (gradients) disposeGradients(gradients);
    },
  };
}
