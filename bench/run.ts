// The cases of one layer: a workload made, then with each number of threads checked against the reference and timed by turns.

import type { Comparison } from '../src/compare.ts';
import { setThreads, synchronize, trimMemory } from '../src/device.ts';
import { DTYPES } from '../src/dtype.ts';
import { native } from '../src/native.ts';
import { deviceId } from '../src/tensor.ts';
import type { BenchCase } from './campaign.ts';
import { type Ceilings, ceilingsOf, floorMs } from './ceilings.ts';
import { checkWorkload } from './check.ts';
import { checkStage } from './check-stage.ts';
import { clockOf } from './clock.ts';
import { Copies, copiesFor } from './copies.ts';
import { memoryOf } from './device-memory.ts';
import { groupBy } from './group-by.ts';
import { machineOf } from './machine.ts';
import { letSignalsIn, timeOnce } from './measure.ts';
import { type MeasuredCase, measuredCase } from './measured-case.ts';
import { checkMemory } from './memory.ts';
import { type RaceOptions, Races } from './peers/race.ts';
import type { BenchResult } from './result.ts';
import { measureInRounds, type RoundOptions, type RoundTiming, withDefaults } from './rounds.ts';
import { routedShape, workloadOptions } from './routed-shapes.ts';
import { bytes, flops, weightCount } from './shapes.ts';
import type { StageCost } from './stage-costs.ts';
import { costOfStage, StageInputs } from './stages.ts';
import { loadOfExperts, Workload } from './workload.ts';

export interface BenchOptions extends Partial<RoundOptions> {
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
  using workload = makeLayer(cases[0]!);
  const asked = withDefaults(options);
  using races = options.vs && new Races(workload, { ...options.vs, minTimeMs: asked.minTimeMs });
  for (const group of groupBy(cases, ({ threads }) => threads)) {
    setThreads(group[0]!.threads);
    options.onCase?.(group[0]!);
    await letSignalsIn();
    // Twice, at two times, for the higher.
    ceilingsFor(group, asked);
    await checkCases(workload, group);
    const ceilings = ceilingsFor(group, asked);
    yield* timeCases(workload, group, asked, { ...options, races, ceilings });
  }
}

function makeLayer(one: BenchCase): Workload {
  return new Workload(one, one.dtype, one.device, workloadOptions(one));
}

/** Of the layer's own products, and of the router's, which are in float32 whatever the layer's dtype. */
interface GroupCeilings {
  readonly layer: Ceilings;
  readonly router: Ceilings;
}

function ceilingsFor(group: readonly BenchCase[], { minTimeMs }: RoundOptions): GroupCeilings {
  const { device, dtype } = group[0]!;
  const layer = ceilingsOf(device, dtype, minTimeMs);
  return { layer, router: group.some(isRouter) ? ceilingsOf(device, 'float32', minTimeMs) : layer };
}

const isRouter = ({ stage }: BenchCase) => stage === 'route';

async function checkCases(workload: Workload, group: readonly BenchCase[]): Promise<void> {
  const passes = group.filter(({ stage }) => stage === undefined);
  if (passes.length > 0) await checkResult(workload, needsBackward(passes));
  if (passes.length === group.length) return;
  using stages = new StageInputs(workload);
  for (const { stage } of group) if (stage) refuseWrong(await checkStage(stages, stage));
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

interface TimeOptions extends Pick<BenchOptions, 'onCase'> {
  readonly races?: Races | undefined;
  readonly ceilings: GroupCeilings;
}

/** Of cases that share a layer and a number of threads. */
async function* timeCases(
  workload: Workload,
  group: readonly BenchCase[],
  asked: RoundOptions,
  { onCase, races, ceilings }: TimeOptions,
): AsyncGenerator<BenchResult> {
  const { device } = workload;
  trimMemory();
  const expertLoad = loadOfExperts(workload);
  const peaks = new Map(group.map(one => [one, peakOf(workload, one)]));
  const knownOf = (one: BenchCase, copies: number) => ({
    ...{ copies, peakBytes: peaks.get(one)!, expertLoad },
    ceilings: isRouter(one) ? ceilings.router : ceilings.layer,
  });
  const alone: BenchCase[] = [];
  for (const one of group) {
    onCase?.(one);
    const raced = await races?.run(one);
    if (raced === undefined) alone.push(one);
    else
      yield { ...resultOf(one, { ...raced.timing, ...asked }, knownOf(one, 1)), clock: 'wall', vs: raced.vs };
  }
  const count = alone.some(({ cache }) => cache === 'cold') ? countCopies(workload, expertLoad) : 1;
  using copies = new Copies(workload, count, () => makeLayer(group[0]!));
  const contestants: Contestant[] = [];
  try {
    for (const one of alone) {
      const layers = one.cache === 'cold' ? copies.layers : [workload];
      const ruler = device === 'cpu' ? { ruler: native.ruler } : {};
      contestants.push({
        one,
        known: knownOf(one, layers.length),
        pass: measuredCase(layers, one),
        ...ruler,
      });
    }
    const onNext = ({ one }: Contestant) => onCase?.(one);
    for await (const [{ one, known }, timing] of measureInRounds(contestants, asked, onNext))
      yield resultOf(one, { ...timing, ...asked }, known);
  } finally {
    for (const { pass } of contestants) pass[Symbol.dispose]();
  }
}

/** What is known of a case before it is timed. */
interface Known extends Pick<BenchResult, 'copies' | 'peakBytes' | 'expertLoad'> {
  readonly ceilings: Ceilings;
}

interface Contestant {
  readonly one: BenchCase;
  readonly known: Known;
  readonly pass: MeasuredCase;
  readonly ruler?: () => number;
}

/** Of one run, by itself. */
function peakOf(workload: Workload, one: BenchCase): number {
  using measured = measuredCase([workload], one);
  const restart = () => {
    // What was freed before is given back in the device's order.
    synchronize(one.device);
    return native.restartPeak(deviceId(one.device));
  };
  restart();
  timeOnce(measured);
  workload.dropForward();
  return restart();
}

function countCopies({ shape, dtype, device }: Workload, expertLoad: readonly number[]): number {
  const all = weightCount(shape) * DTYPES[dtype].bytes;
  const read = (all / shape.experts) * touched(expertLoad);
  const { cacheBytes, availableBytes } = memoryOf(device);
  return copiesFor({ all, read }, cacheBytes, availableBytes);
}

function touched(expertLoad: readonly number[]): number {
  return expertLoad.filter(rows => rows > 0).length;
}

function resultOf(
  one: BenchCase,
  timing: RoundTiming & RoundOptions,
  { ceilings, ...known }: Known,
): BenchResult {
  const { shape, dtype, device, pass, stage, threads, tf32, graph, ...layer } = one;
  const cost = costOf(one, known.expertLoad);
  return {
    ...{ shape, dtype, device, pass, ...(stage && { stage }), threads },
    ...{ ...(tf32 && { tf32 }), ...(graph && { graph }) },
    ...{ ...timing, clock: clockOf(device) },
    ...{ flops: cost.flops, bytes: cost.bytes, tflops: cost.flops / (timing.medianMs * 1e9) },
    ...{ floorMs: floorMs(cost, ceilings), ...ceilings },
    ...layer,
    ...known,
    ...machineOf(device),
    date: new Date().toISOString(),
  };
}

function costOf(one: BenchCase, expertLoad: readonly number[]): Pick<StageCost, 'flops' | 'bytes'> {
  const touchedExperts = touched(expertLoad);
  const rows = expertLoad.reduce((a, b) => a + b);
  const elementBytes = DTYPES[one.dtype].bytes;
  if (one.stage)
    return costOfStage(one.stage, { shape: routedShape(one), elementBytes, touchedExperts, rows });
  return {
    flops: flops(one, one.pass, rows),
    bytes: bytes(one, one.pass, elementBytes, touchedExperts, rows),
  };
}
