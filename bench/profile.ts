// Where the time of one layer goes: a workload made, checked against the reference, then run again and again with its stages
// recorded.

import { getThreads, trimMemory } from '../src/device.ts';
import { DTYPES, type FloatDType } from '../src/dtype.ts';
import type { NativeOp } from '../src/native.ts';
import type { DeviceName } from '../src/tensor.ts';
import type { NamedShape } from './campaign.ts';
import { type Ceilings, ceilingsOf, floorMs } from './ceilings.ts';
import { type Clock, clockOf } from './clock.ts';
import { type Machine, machineOf } from './machine.ts';
import { type MeasureOptions, measure, type Timing, timingOf } from './measure.ts';
import { type MeasuredPass, measuredPass } from './measured-case.ts';
import { checkMemory } from './memory.ts';
import { routedShape, workloadOptions } from './routed-shapes.ts';
import { checkResult } from './run.ts';
import type { Pass } from './shapes.ts';
import { type RecordedCall, recordCall, spanMs, withoutWholes } from './spans.ts';
import { type StageCost, type StageCosts, stageCosts } from './stage-costs.ts';
import { median } from './statistics.ts';
import { loadOfExperts, Workload } from './workload.ts';

export interface ProfileOptions extends MeasureOptions {
  readonly shape: NamedShape;
  readonly dtype: FloatDType;
  readonly device: DeviceName;
  readonly passes: readonly Pass[];
}

/** A stage of an op; what is not known of a stage's cost is absent. */
export interface StageResult extends Partial<StageCost> {
  readonly op: NativeOp;
  /** Absent where the op has none. */
  readonly stage?: string;
  /** Of the stage's time in each run. */
  readonly medianMs: number;
  /** The least time that this machine's ceilings allow. */
  readonly floorMs?: number;
}

export interface ProfileResult extends NamedShape, Timing, Ceilings, Machine {
  readonly dtype: FloatDType;
  readonly device: DeviceName;
  readonly pass: Pass;
  readonly threads: number;
  /** In the order in which they run. */
  readonly stages: readonly StageResult[];
  /** Median of what no stage covers: checks, workspaces, the queue, the call. */
  readonly betweenMs: number;
  /** The sum of the medians of all stages and of what is between them; the median of the whole, `medianMs`, is another number. */
  readonly totalMs: number;
  /** What took the times. */
  readonly clock: Clock;
  /** When it was measured, as ISO 8601. */
  readonly date: string;
}

export interface Profile {
  readonly result: ProfileResult;
  readonly runs: readonly RecordedCall[];
}

/**
 * Yields a profile for each pass, once the workload's outputs have been found right.
 * @throws WrongResult if they are not; MoeError, ERR_OUT_OF_MEMORY among them if the layer would not fit
 */
export async function* runProfile(options: ProfileOptions): AsyncGenerator<Profile> {
  const { shape, dtype, device, passes, minTimeMs = 2000 } = options;
  const backward = passes.some(pass => pass !== 'forward');
  const elementBytes = DTYPES[dtype].bytes;
  checkMemory(shape.shape, routedShape(shape), { backward, elementBytes });
  using workload = new Workload(shape, dtype, device, workloadOptions(shape));
  const productCeilings = (): ProductCeilings => {
    const layer = ceilingsOf(device, dtype, minTimeMs);
    return { layer, float32: dtype === 'float32' ? layer : ceilingsOf(device, 'float32', minTimeMs) };
  };
  // Here and after the times, for the higher.
  productCeilings();
  await checkResult(workload, backward);
  trimMemory();
  const load = loadOfExperts(workload);
  for (const pass of passes) {
    const runs = await record(device, measuredPass(workload, pass), options);
    const ceilings = productCeilings();
    const costs = stageCosts({
      ...{ shape: routedShape(shape), elementBytes, saves: pass !== 'forward' },
      touchedExperts: load.filter(rows => rows > 0).length,
      rows: load.reduce((a, b) => a + b),
    });
    const result: ProfileResult = {
      ...{ dtype, device, pass, threads: getThreads() },
      ...timingOf(runs.map(({ elapsedMs }) => elapsedMs)),
      ...summarise(runs, costs, ceilings),
      ...ceilings.layer,
      ...{ ...shape, clock: clockOf(device), ...machineOf(device) },
      date: new Date().toISOString(),
    };
    yield { result, runs };
  }
}

/** The runs that count, after those to warm up. */
async function record(
  device: DeviceName,
  pass: MeasuredPass,
  options: MeasureOptions,
): Promise<RecordedCall[]> {
  const runs: RecordedCall[] = [];
  const { prepare, clear } = pass;
  const run = () => {
    runs.push(recordCall(device, pass.run));
  };
  const { runs: counted } = await measure({ prepare, run, clear }, options);
  return runs.slice(-counted);
}

/** Of the layer's own products, and of those that are in float32 whatever its dtype is. */
interface ProductCeilings {
  readonly layer: Ceilings;
  readonly float32: Ceilings;
}

/** The median of each stage and of the rest over runs, which all have the same stages. */
export function summarise(
  runs: readonly RecordedCall[],
  costs: StageCosts,
  ceilings: ProductCeilings,
): Pick<ProfileResult, 'stages' | 'betweenMs' | 'totalMs'> {
  const times = new Map<string, { op: NativeOp; stage?: string; perRun: number[] }>();
  const between: number[] = [];
  for (const [index, { elapsedMs, spans }] of runs.entries()) {
    let rest = elapsedMs;
    for (const span of withoutWholes(spans)) {
      const { op, stage } = span;
      const key = `${op} ${stage}`;
      if (!times.has(key)) times.set(key, { op, ...(stage && { stage }), perRun: runs.map(() => 0) });
      times.get(key)!.perRun[index]! += spanMs(span);
      rest -= spanMs(span);
    }
    between.push(rest);
  }
  const stages = [...times.values()].map(({ op, stage, perRun }): StageResult => {
    const cost = stage === undefined ? undefined : costs[op]?.[stage];
    const floor = cost && floorMs(cost, cost.inFloat32 ? ceilings.float32 : ceilings.layer);
    return {
      ...{ op, ...(stage && { stage }), medianMs: median(perRun) },
      ...(cost && { ...cost, floorMs: floor }),
    };
  });
  const betweenMs = median(between);
  return { stages, betweenMs, totalMs: stages.reduce((sum, { medianMs }) => sum + medianMs, betweenMs) };
}
