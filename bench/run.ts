// The cases of one layer: a workload made, then with each number of threads checked against the reference and timed, pass by pass.

import type { Comparison } from '../src/compare.ts';
import { backendInfo, setThreads, synchronize, trimMemory } from '../src/device.ts';
import { DTYPES } from '../src/dtype.ts';
import { native } from '../src/native.ts';
import type { MoeGradients } from '../src/ops/moe.ts';
import { packageVersion } from '../src/package.ts';
import type { BenchCase } from './campaign.ts';
import { type Ceilings, floorMs, measureCeilings } from './ceilings.ts';
import { checkWorkload } from './check.ts';
import { Copies, copiesFor } from './copies.ts';
import { groupBy } from './group-by.ts';
import { lastLevelCacheBytes } from './last-level-cache.ts';
import { letSignalsIn, type Measured, timeOnce } from './measure.ts';
import { checkMemory } from './memory.ts';
import { processorName } from './processor.ts';
import type { BenchResult } from './result.ts';
import { measureInRounds, type RoundOptions, type RoundTiming, withDefaults } from './rounds.ts';
import { bytes, flops, type Pass, weightCount } from './shapes.ts';
import { disposeForward, disposeGradients, Workload, type WorkloadForward } from './workload.ts';

export interface BenchOptions extends Partial<RoundOptions> {
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
  using workload = new Workload(cases[0]!, dtype, device);
  for (const group of groupBy(cases, ({ threads }) => threads)) {
    setThreads(group[0]!.threads);
    options.onCase?.(group[0]!);
    await letSignalsIn();
    await checkResult(workload, needsBackward(group));
    const ceilings = device === 'cpu' ? measureCeilings(dtype) : undefined;
    trimMemory();
    yield* timeGroup(workload, group, ceilings, options);
  }
}

/** Times cases that share a layer and a number of threads. */
async function* timeGroup(
  workload: Workload,
  group: readonly BenchCase[],
  ceilings: Ceilings | undefined,
  { onCase, ...options }: BenchOptions,
): AsyncGenerator<BenchResult> {
  const { shape, dtype, device } = workload;
  const asked = withDefaults(options);
  const expertLoad = loadOfExperts(workload);
  const peaks = device === 'cpu' ? group.map(({ pass }) => peakOf(workload, pass)) : [];
  const count = group.some(({ cache }) => cache === 'cold') ? countCopies(workload, expertLoad) : 1;
  using copies = new Copies(workload, count, () => new Workload(shape, dtype, device));
  const contestants = group.map((one, i) => {
    const cost = costOf(one, expertLoad);
    const layers = one.cache === 'cold' ? copies.layers : [workload];
    return {
      ...{ one, cost, copies: layers.length, peakBytes: peaks[i], pass: measuredPass(layers, one.pass) },
      ...(device === 'cpu' && { ruler: native.ruler }),
    };
  });
  for await (const [{ pass, ruler, one, ...known }, timing] of measureInRounds(
    contestants,
    asked,
    ({ one }) => onCase?.(one),
  ))
    yield resultOf(one, { ...timing, ...asked }, ceilings, { ...known, expertLoad });
}

/** Of one run, by itself. */
function peakOf(workload: Workload, pass: Pass): number {
  native.restartPeak();
  timeOnce(measuredPass([workload], pass));
  workload.dropForward();
  return native.restartPeak();
}

function countCopies({ shape, dtype }: Workload, expertLoad: readonly number[]): number {
  const all = weightCount(shape) * DTYPES[dtype].bytes;
  const read = (all / shape.experts) * touched(expertLoad);
  return copiesFor({ all, read }, lastLevelCacheBytes(), process.availableMemory());
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

interface Cost {
  readonly flops: number;
  readonly bytes: number;
}

function costOf(one: BenchCase, expertLoad: readonly number[]): Cost {
  const { pass, dtype } = one;
  return { flops: flops(one, pass), bytes: bytes(one, pass, DTYPES[dtype].bytes, touched(expertLoad)) };
}

function touched(expertLoad: readonly number[]): number {
  return expertLoad.filter(rows => rows > 0).length;
}

type Known = Pick<BenchResult, 'copies' | 'peakBytes' | 'expertLoad'> & { readonly cost: Cost };

function resultOf(
  one: BenchCase,
  timing: RoundTiming & RoundOptions,
  ceilings: Ceilings | undefined,
  { cost, ...known }: Known,
): BenchResult {
  const { shape, dtype, device, pass, threads, tf32, ...layer } = one;
  return {
    ...{ shape, dtype, device, pass, threads, ...(tf32 && { tf32 }) },
    ...timing,
    ...{ ...cost, tflops: cost.flops / (timing.medianMs * 1e9) },
    ...(ceilings && { floorMs: floorMs(cost, ceilings), ...ceilings }),
    ...layer,
    ...known,
    ...{ instructionSet: backendInfo().instructionSet },
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

/** What is timed in a pass, on each of equal layers in turn: `backward` runs after a forward pass that is not timed. */
export function measuredPass(layers: readonly Workload[], pass: Pass): MeasuredPass {
  let at = 0;
  let forward: WorkloadForward | undefined;
  let gradients: MoeGradients | undefined;
  const runForward = () => {
    forward = layers[at]!.forward(pass === 'forward' ? 'nothing' : 'activations');
  };
  const keepForward = () => {
    forward = layers[at]!.keptForward();
  };
  const runBackward = () => {
    gradients = layers[at]!.backward(forward!.saved!);
  };
  const steps = {
    forward: { untimed: [], timed: [runForward] },
    backward: { untimed: [keepForward], timed: [runBackward] },
    both: { untimed: [], timed: [runForward, runBackward] },
  }[pass];
  const toTheEnd = (calls: readonly (() => void)[]) => () => {
    for (const call of calls) call();
    synchronize(layers[at]!.device);
  };
  return {
    prepare: toTheEnd(steps.untimed),
    run: toTheEnd(steps.timed),
    made: () => ({ forward: forward!, gradients }),
    clear: () => {
      if (pass !== 'backward') disposeForward(forward!);
      if (gradients) disposeGradients(gradients);
      at = (at + 1) % layers.length;
    },
  };
}
