// One benchmark: a workload made, checked against the reference, then timed, pass by pass.

import type { Comparison } from '../src/compare.ts';
import { backendInfo, synchronize, trimMemory } from '../src/device.ts';
import { DTYPES, type FloatDType } from '../src/dtype.ts';
import type { MoeGradients } from '../src/ops/moe.ts';
import type { DeviceName } from '../src/tensor.ts';
import { floorMs, measureCeilings } from './ceilings.ts';
import { checkWorkload } from './check.ts';
import { type Measured, type MeasureOptions, measure } from './measure.ts';
import { checkMemory } from './memory.ts';
import { flops, type LayerShape, type Pass } from './shapes.ts';
import { disposeForward, disposeGradients, Workload, type WorkloadForward } from './workload.ts';

export interface BenchOptions extends MeasureOptions {
  /** What results call the shape. */
  readonly name: string;
  readonly shape: LayerShape;
  readonly dtype: FloatDType;
  readonly device: DeviceName;
  readonly passes: readonly Pass[];
}

export interface BenchResult extends LayerShape {
  readonly shape: string;
  readonly dtype: FloatDType;
  readonly device: DeviceName;
  readonly pass: Pass;
  readonly threads: number;
  readonly medianMs: number;
  readonly minMs: number;
  readonly tflops: number;
  /** The least time that this machine's ceilings allow, measured just before; of the CPU alone. */
  readonly floorMs?: number;
  readonly instructionSet: string;
  readonly runs: number;
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
  const touchedExperts = countTouchedExperts(workload);
  for (const pass of passes) {
    const { medianMs, minMs, runs } = measure(measuredPass(workload, pass), options);
    const { threads, instructionSet } = backendInfo();
    const tflops = flops(shape, pass) / (medianMs * 1e9);
    const floor = { shape, pass, elementBytes: DTYPES[dtype].bytes, touchedExperts };
    yield {
      ...{ shape: name, dtype, device, pass, threads, medianMs, minMs, tflops },
      ...(ceilings && { floorMs: floorMs(floor, ceilings) }),
      ...shape,
      ...{ instructionSet, runs },
    };
  }
}

function countTouchedExperts(workload: Workload): number {
  const forward = workload.forward('nothing');
  const touched = new Set(forward.routing.indices.dataSync() as Int32Array).size;
  disposeForward(forward);
  return touched;
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
