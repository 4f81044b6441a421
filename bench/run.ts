// The cases of one layer: a workload made, then with each number of threads checked against the reference and timed, pass by pass.

import type { Comparison } from '../src/compare.ts';
import { backendInfo, setThreads, synchronize, trimMemory } from '../src/device.ts';
import { DTYPES } from '../src/dtype.ts';
import type { MoeGradients } from '../src/ops/moe.ts';
import { packageVersion } from '../src/package.ts';
import type { BenchCase } from './campaign.ts';
import { type Ceilings, floorMs, measureCeilings } from './ceilings.ts';
import { checkWorkload } from './check.ts';
import { groupBy } from './group-by.ts';
import { letSignalsIn, type Measured, type MeasureOptions, measure, type Timing } from './measure.ts';
import { checkMemory } from './memory.ts';
import { type RaceOptions, Races } from './peers/race.ts';
import { processorName } from './processor.ts';
import type { BenchResult } from './result.ts';
import { bytes, flops, type Pass } from './shapes.ts';
import { disposeForward, disposeGradients, Workload, type WorkloadForward } from './workload.ts';

export interface BenchOptions extends MeasureOptions {
  /** Called before each case is checked or measured. */
  readonly onCase?: (next: BenchCase) => void;
  /** The peers that are here, and how to run beside them. */
  readonly vs?: Omit<RaceOptions, 'minTimeMs'>;
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
  checkMemory(cases[0]!, needsBackward(cases));
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
  const { minTimeMs = 2000, vs } = options;
  using workload = new Workload(cases[0]!, dtype, device);
  using races = vs && new Races(workload, { ...vs, minTimeMs });
  for (const group of groupBy(cases, ({ threads }) => threads)) {
    setThreads(group[0]!.threads);
    options.onCase?.(group[0]!);
    await letSignalsIn();
    await checkResult(workload, needsBackward(group));
    const ceilings = device === 'cpu' ? measureCeilings(dtype) : undefined;
    trimMemory();
    const expertLoad = loadOfExperts(workload);
    for (const one of group) {
      options.onCase?.(one);
      const pass = measuredPass(workload, one.pass);
      const raced = await races?.run(one, pass);
      const timing = raced?.timing ?? (await measure(pass, options));
      yield { ...resultOf(one, timing, ceilings, expertLoad), ...(raced && { vs: raced.vs }) };
    }
  }
}

function needsBackward(cases: readonly BenchCase[]): boolean {
  return cases.some(({ pass }) => pass !== 'forward');
}

/** @throws WrongResult if the layer's outputs, or with `backward` its gradients, are not right */
export async function checkResult(workload: Workload, backward: boolean): Promise<void> {
  const comparisons = await checkWorkload(workload, backward);
  if (!comparisons.every(({ holds }) => holds)) throw new WrongResult(comparisons);
  trimMemory();
}

function resultOf(
  one: BenchCase,
  timing: Timing,
  ceilings: Ceilings | undefined,
  expertLoad: readonly number[],
): BenchResult {
  const { shape, dtype, device, pass, threads, tf32, ...layer } = one;
  const touchedExperts = expertLoad.filter(rows => rows > 0).length;
  const cost = { flops: flops(one, pass), bytes: bytes(one, pass, DTYPES[dtype].bytes, touchedExperts) };
  return {
    ...{ shape, dtype, device, pass, threads, ...(tf32 && { tf32 }) },
    ...timing,
    ...{ ...cost, tflops: cost.flops / (timing.medianMs * 1e9) },
    ...(ceilings && { floorMs: floorMs(cost, ceilings), ...ceilings }),
    ...layer,
    ...{ expertLoad, instructionSet: backendInfo().instructionSet },
    ...{ processor: processorName(), version: packageVersion() },
    date: new Date().toISOString(),
  };
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
